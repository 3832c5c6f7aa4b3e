#include "consumers/utf8.h"

#include <string.h>

/* Length of the character at `byte`, 0 when none begins there or it is not whole and valid. */
static size_t character_bytes(const unsigned char *byte, size_t size)
{
  /* The second byte's range tells overlong forms, surrogates and what is above U+10FFFF. */
  unsigned char low = 0x80, high = 0xbf;
  size_t bytes;
  if (byte[0] < 0x80)
    return 1;
  if (byte[0] < 0xc2)
    return 0;
  if (byte[0] < 0xe0) {
    bytes = 2;
  } else if (byte[0] < 0xf0) {
    bytes = 3;
    low = byte[0] == 0xe0 ? 0xa0 : 0x80;
    high = byte[0] == 0xed ? 0x9f : 0xbf;
  } else if (byte[0] < 0xf5) {
    bytes = 4;
    low = byte[0] == 0xf0 ? 0x90 : 0x80;
    high = byte[0] == 0xf4 ? 0x8f : 0xbf;
  } else {
    return 0;
  }
  if (bytes > size || byte[1] < low || byte[1] > high)
    return 0;
  for (size_t i = 2; i < bytes; i++)
    if ((byte[i] & 0xc0) != 0x80)
      return 0;
  return bytes;
}

size_t bus_utf8_valid_bytes(const char *text, size_t size)
{
  const unsigned char *bytes = (const unsigned char *)text;
  size_t at = 0;
  while (at < size) {
    uint64_t eight; /* most text is ASCII */
    if (size - at >= sizeof eight) {
      memcpy(&eight, bytes + at, sizeof eight);
      if (!(eight & 0x8080808080808080u)) {
        at += sizeof eight;
        continue;
      }
    }
    size_t character = character_bytes(bytes + at, size - at);
    if (!character)
      break;
    at += character;
  }
  return at;
}

size_t bus_utf8_cut_bytes(const char *text, size_t size, size_t limit)
{
  if (size <= limit)
    return size;
  while (limit > 0 && ((unsigned char)text[limit] & 0xc0) == 0x80)
    limit--;
  return limit;
}

size_t bus_utf8_put(char bytes[4], uint32_t character)
{
  if (character < 0x80) {
    bytes[0] = (char)character;
    return 1;
  }
  if (character < 0x800) {
    bytes[0] = (char)(0xc0 | character >> 6);
    bytes[1] = (char)(0x80 | (character & 0x3f));
    return 2;
  }
  if (character < 0x10000) {
    bytes[0] = (char)(0xe0 | character >> 12);
    bytes[1] = (char)(0x80 | (character >> 6 & 0x3f));
    bytes[2] = (char)(0x80 | (character & 0x3f));
    return 3;
  }
  bytes[0] = (char)(0xf0 | character >> 18);
  bytes[1] = (char)(0x80 | (character >> 12 & 0x3f));
  bytes[2] = (char)(0x80 | (character >> 6 & 0x3f));
  bytes[3] = (char)(0x80 | (character & 0x3f));
  return 4;
}
