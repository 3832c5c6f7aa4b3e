#include "consumers/sse.h"

#include "shm/error.h"

#include <string.h>

#define KEPT_BYTES_MAX ((size_t)64 << 10)
#define PAST_MARK      4u

static const char byte_order_mark[] = "\xef\xbb\xbf";

static int give_out(struct bus_sse *sse)
{
  const bool error = sse->error;
  sse->error = false;
  if (sse->data.size == 0)
    return BUS_OK;
  /* The newline behind the last line belongs to no line. */
  const size_t size = sse->data.size - 1;
  sse->data.size = 0; /* the bytes stay where they are */
  sse->events++;
  return sse->event(sse->context, sse->data.bytes, size, error) ? BUS_OK : BUS_ERROR_AGAIN;
}

static bool is(const char *bytes, size_t size, const char *text)
{
  return size == strlen(text) && !memcmp(bytes, text, size);
}

/* A line without its end. */
static int take_line(struct bus_sse *sse, const char *line, size_t size)
{
  if (size == 0)
    return give_out(sse);
  if (line[0] == ':') {
    sse->comments++;
    return BUS_OK;
  }
  const char *colon = memchr(line, ':', size);
  const size_t name_bytes = colon ? (size_t)(colon - line) : size;
  const char *value = colon ? colon + 1 : line + size;
  if (value < line + size && *value == ' ')
    value++;
  const size_t value_bytes = (size_t)(line + size - value);
  if (is(line, name_bytes, "event")) {
    sse->error = is(value, value_bytes, "error");
    return BUS_OK;
  }
  const bool error = is(line, name_bytes, "error");
  if (!error && !is(line, name_bytes, "data"))
    return BUS_OK;
  sse->error |= error;
  int result = bus_byte_buffer_append(&sse->data, value, value_bytes, BUS_SSE_BYTES_MAX);
  return result ? result : bus_byte_buffer_append(&sse->data, "\n", 1, BUS_SSE_BYTES_MAX);
}

/* A line whose end has come; its beginning may lie in sse->line. */
static int end_line(struct bus_sse *sse, const char *rest, size_t size)
{
  if (size > BUS_SSE_BYTES_MAX)
    return BUS_ERROR_NO_SPACE;
  if (sse->line.size == 0)
    return take_line(sse, rest, size);
  int error = bus_byte_buffer_append(&sse->line, rest, size, BUS_SSE_BYTES_MAX);
  if (error)
    return error;
  const size_t line_bytes = sse->line.size;
  sse->line.size = 0; /* the bytes stay where they are */
  return take_line(sse, sse->line.bytes, line_bytes);
}

/* Skips a byte order mark at the beginning of the stream, also when it comes in pieces. Returns how
 * many bytes it took. */
static size_t skip_mark(struct bus_sse *sse, const char *bytes, size_t size, int *error)
{
  size_t at = 0;
  while (at < size && sse->mark_bytes < 3 && bytes[at] == byte_order_mark[sse->mark_bytes]) {
    sse->mark_bytes++;
    at++;
  }
  if (at < size || sse->mark_bytes == 3) {
    if (sse->mark_bytes < 3) /* it was none: the bytes are the line's */
      *error = bus_byte_buffer_append(&sse->line, byte_order_mark, sse->mark_bytes, SIZE_MAX);
    sse->mark_bytes = PAST_MARK;
  }
  return at;
}

/* The next `byte` at `at` or behind it, `end` when there is none; `known` is what an earlier call
 * said. So each byte is looked at once, however many lines end in the other way. */
static const char *next(const char *known, const char *at, const char *end, char byte)
{
  if (known >= at)
    return known;
  const char *found = memchr(at, byte, (size_t)(end - at));
  return found ? found : end;
}

int bus_sse_take(struct bus_sse *sse, const char *bytes, size_t size)
{
  int error = BUS_OK;
  const char *at = bytes, *const end = bytes + size;
  const char *newline = NULL, *carriage_return = NULL;
  if (size == 0)
    return BUS_OK;
  if (sse->mark_bytes != PAST_MARK)
    at += skip_mark(sse, bytes, size, &error);
  if (!error && sse->skip_newline && at < end) {
    at += *at == '\n';
    sse->skip_newline = false;
  }
  while (!error && at < end) {
    newline = next(newline, at, end, '\n');
    carriage_return = next(carriage_return, at, end, '\r');
    const char *line_end = newline < carriage_return ? newline : carriage_return;
    if (line_end == end)
      return bus_byte_buffer_append(&sse->line, at, (size_t)(end - at), BUS_SSE_BYTES_MAX);
    error = end_line(sse, at, (size_t)(line_end - at));
    at = line_end + 1;
    if (*line_end == '\r') {
      if (at < end)
        at += *at == '\n';
      else
        sse->skip_newline = true;
    }
  }
  return error;
}

int bus_sse_end(struct bus_sse *sse, const char *text)
{
  int error = sse->line.size ? end_line(sse, "", 0) : BUS_OK;
  if (!error && sse->data.size && is(sse->data.bytes, sse->data.size - 1, text))
    error = give_out(sse);
  return error;
}

static void clear_buffer(struct bus_byte_buffer *buffer)
{
  if (buffer->capacity > KEPT_BYTES_MAX)
    bus_byte_buffer_free(buffer);
  else
    bus_byte_buffer_clear(buffer);
}

void bus_sse_clear(struct bus_sse *sse)
{
  clear_buffer(&sse->line);
  clear_buffer(&sse->data);
  sse->comments = sse->events = 0;
  sse->mark_bytes = 0;
  sse->skip_newline = sse->error = false;
}

void bus_sse_free(struct bus_sse *sse)
{
  bus_byte_buffer_free(&sse->line);
  bus_byte_buffer_free(&sse->data);
}
