#include "consumers/surrogates.h"

#include "consumers/utf8.h"
#include "shm/error.h"

#include <stdio.h>
#include <string.h>

#define MASK_FIRST   0x10f800u /* stands for U+D800 */
#define HALF_FIRST   0xd800u
#define LOW_FIRST    0xdc00u
#define HALF_LAST    0xdfffu
#define REPLACEMENT  "\xef\xbf\xbd"
#define ESCAPE_BYTES 6u

static int hex_digit(char digit)
{
  if (digit >= '0' && digit <= '9')
    return digit - '0';
  digit |= 0x20;
  return digit >= 'a' && digit <= 'f' ? digit - 'a' + 10 : -1;
}

/* The half that the escape at `at` writes, 0 when it is none. */
static uint32_t half_at(const char *at, const char *end)
{
  uint32_t unit = 0;
  if (end - at < (ptrdiff_t)ESCAPE_BYTES || at[0] != '\\' || at[1] != 'u')
    return 0;
  for (int i = 2; i < (int)ESCAPE_BYTES; i++) {
    int digit = hex_digit(at[i]);
    if (digit < 0)
      return 0;
    unit = unit << 4 | (uint32_t)digit;
  }
  return unit >= HALF_FIRST && unit <= HALF_LAST ? unit : 0;
}

/* Bytes of the escape sequence at `at`, a whole pair counted as one; *half: what it is alone. */
static size_t escape_bytes(const char *at, const char *end, uint32_t *half)
{
  *half = half_at(at, end);
  if (!*half)
    return end - at < 2 ? 1 : 2;
  const uint32_t other = *half < LOW_FIRST ? half_at(at + ESCAPE_BYTES, end) : 0;
  if (other < LOW_FIRST)
    return ESCAPE_BYTES;
  *half = 0;
  return 2 * (size_t)ESCAPE_BYTES;
}

int bus_surrogates_mask(struct bus_byte_buffer *masked, const char *json, size_t size)
{
  int count = 0, error = BUS_OK;
  const char *at = json, *const end = json + size;
  while (!error && at < end) {
    uint32_t half = 0;
    const char *escape = memchr(at, '\\', (size_t)(end - at));
    const char *copied = escape ? escape : end;
    const char *behind = copied;
    if (escape) {
      behind += escape_bytes(escape, end, &half);
      if (!half)
        copied = behind;
    }
    error = bus_byte_buffer_append(masked, at, (size_t)(copied - at), SIZE_MAX);
    if (!error && half) {
      char mask[5] = {0};
      bus_utf8_put(mask, MASK_FIRST + (half - HALF_FIRST));
      error = bus_byte_buffer_append(masked, mask, 4, SIZE_MAX);
      count++;
    }
    at = behind;
  }
  return error ? error : count;
}

/* The half that the character at `at` masks, 0 when it is none. */
static uint32_t masked_half(const char *at, const char *end)
{
  const unsigned char *byte = (const unsigned char *)at;
  if (end - at < 4 || byte[0] != 0xf4 || byte[1] != 0x8f || byte[2] < 0xa0)
    return 0;
  return HALF_FIRST + ((uint32_t)(byte[2] & 0x1f) << 6 | (byte[3] & 0x3f));
}

static int append_whole(struct bus_byte_buffer *buffer, const char *text, size_t size, size_t limit)
{
  const size_t room = limit > buffer->size ? limit - buffer->size : 0;
  const size_t fits = bus_utf8_cut_bytes(text, size, room);
  int error = bus_byte_buffer_append(buffer, text, fits, limit);
  return !error && fits < size ? BUS_ERROR_NO_SPACE : error;
}

/* A half that has come: the second of a character, or one that waits in *half. */
static int append_half(struct bus_byte_buffer *buffer, uint32_t unit, size_t limit, uint32_t *half)
{
  char character[4];
  int error = BUS_OK;
  if (*half && unit >= LOW_FIRST) {
    const uint32_t high = *half;
    *half = 0;
    return append_whole(
        buffer, character,
        bus_utf8_put(character, 0x10000 + ((high - HALF_FIRST) << 10) + (unit - LOW_FIRST)), limit);
  }
  if (*half || unit >= LOW_FIRST)
    error = append_whole(buffer, REPLACEMENT, strlen(REPLACEMENT), limit);
  *half = unit < LOW_FIRST ? unit : 0;
  return error;
}

int bus_surrogates_append(struct bus_byte_buffer *buffer, const char *text, size_t size,
                          size_t limit, bool masked, uint32_t *half)
{
  int error = BUS_OK;
  if (size == 0) /* `text` may be NULL */
    return BUS_OK;
  const char *at = text, *const end = text + size;
  while (!error && at < end) {
    const char *plain = at;
    uint32_t unit = 0;
    while (at < end && !(masked && (unit = masked_half(at, end)) != 0))
      at = masked ? at + 1 : end;
    if (at > plain && *half) {
      *half = 0;
      error = append_whole(buffer, REPLACEMENT, strlen(REPLACEMENT), limit);
    }
    if (!error)
      error = append_whole(buffer, plain, (size_t)(at - plain), limit);
    if (!error && unit) {
      error = append_half(buffer, unit, limit, half);
      at += 4;
    }
  }
  return error;
}
