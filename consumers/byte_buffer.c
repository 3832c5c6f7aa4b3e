#include "consumers/byte_buffer.h"

#include "shm/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int make_room(struct bus_byte_buffer *buffer, size_t size, size_t limit)
{
  if (size > limit || buffer->size > limit - size)
    return BUS_ERROR_NO_SPACE;
  const size_t wanted = buffer->size + size;
  if (wanted <= buffer->capacity)
    return BUS_OK;
  size_t capacity = buffer->capacity ? buffer->capacity : 256;
  while (capacity < wanted)
    capacity *= 2;
  char *bytes = realloc(buffer->bytes, capacity);
  if (!bytes)
    return BUS_ERROR_NO_SPACE;
  buffer->bytes = bytes;
  buffer->capacity = capacity;
  return BUS_OK;
}

int bus_byte_buffer_append(struct bus_byte_buffer *buffer, const void *bytes, size_t size,
                           size_t limit)
{
  if (size == 0)
    return BUS_OK;
  int error = make_room(buffer, size, limit);
  if (error)
    return error;
  memcpy(buffer->bytes + buffer->size, bytes, size);
  buffer->size += size;
  return BUS_OK;
}

int bus_byte_buffer_print(struct bus_byte_buffer *buffer, size_t limit, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  va_list again;
  va_copy(again, arguments);
  int length = vsnprintf(NULL, 0, format, arguments);
  va_end(arguments);
  int error = length < 0 ? BUS_ERROR_INVALID : make_room(buffer, (size_t)length + 1, limit);
  if (!error) { /* the NUL is written and not counted */
    vsnprintf(buffer->bytes + buffer->size, (size_t)length + 1, format, again);
    buffer->size += (size_t)length;
  }
  va_end(again);
  return error;
}

void bus_byte_buffer_consume(struct bus_byte_buffer *buffer, size_t size)
{
  buffer->size -= size;
  if (buffer->size)
    memmove(buffer->bytes, buffer->bytes + size, buffer->size);
}

void bus_byte_buffer_clear(struct bus_byte_buffer *buffer)
{
  buffer->size = 0;
}

void bus_byte_buffer_free(struct bus_byte_buffer *buffer)
{
  free(buffer->bytes);
  memset(buffer, 0, sizeof *buffer);
}
