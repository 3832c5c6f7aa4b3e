/* ini_line.h: the lines of a configuration that lies in memory, for those who hand them to libinih
 * and want to know more of a line than it passes on. */
#ifndef SIGNALBUS_INI_LINE_H
#define SIGNALBUS_INI_LINE_H

#include "shm/error.h"

#include <string.h>

BUS_BEGIN_DECLARATIONS

/* Takes the next line, "\n" or "\r\n" at its end or not, off the text from *at to `end`, which is
 * not empty, into `buffer` of `size` bytes, as fgets would: with "\n" and a NUL. *at moves behind
 * it in any case. Returns BUS_OK; BUS_ERROR_NO_SPACE when it is longer than `bytes_max` or the
 * buffer; BUS_ERROR_FORMAT when it holds a control character other than a tab. */
static inline int bus_ini_line_take(const char **at, const char *end, char *buffer, size_t size,
                                    size_t bytes_max)
{
  const char *start = *at;
  const char *newline = (const char *)memchr(start, '\n', (size_t)(end - start));
  *at = newline ? newline + 1 : end;
  size_t length = (size_t)((newline ? newline : end) - start);
  if (length > 0 && start[length - 1] == '\r')
    length--;
  if (length > bytes_max || length + 2 > size)
    return BUS_ERROR_NO_SPACE;
  for (size_t i = 0; i < length; i++)
    if (((unsigned char)start[i] < ' ' && start[i] != '\t') || start[i] == 0x7f)
      return BUS_ERROR_FORMAT;
  memcpy(buffer, start, length);
  memcpy(buffer + length, "\n", 2);
  return BUS_OK;
}

BUS_END_DECLARATIONS

#endif
