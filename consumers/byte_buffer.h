/* byte_buffer.h: bytes that grow at their end, up to a limit. Private memory, one thread. */
#ifndef SIGNALBUS_BYTE_BUFFER_H
#define SIGNALBUS_BYTE_BUFFER_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

/* All zero: empty. */
struct bus_byte_buffer {
  char *bytes; /* NULL while nothing was ever put in; no NUL at the end */
  size_t size;
  size_t capacity;
};

/* Appends `size` bytes. Returns BUS_OK, or BUS_ERROR_NO_SPACE when the whole would exceed `limit`
 * bytes or memory is out: then nothing was appended. */
BUS_EXPORT int bus_byte_buffer_append(struct bus_byte_buffer *buffer, const void *bytes,
                                      size_t size, size_t limit);

/* As append, of a formatted text without its NUL. */
BUS_EXPORT int bus_byte_buffer_print(struct bus_byte_buffer *buffer, size_t limit,
                                     const char *format, ...) BUS_PRINTF(3, 4);

/* Takes the first `size` bytes (at most buffer->size) out. O(rest). */
BUS_EXPORT void bus_byte_buffer_consume(struct bus_byte_buffer *buffer, size_t size);

/* Empties it and keeps the memory, or gives the memory back too. */
BUS_EXPORT void bus_byte_buffer_clear(struct bus_byte_buffer *buffer);
BUS_EXPORT void bus_byte_buffer_free(struct bus_byte_buffer *buffer);

BUS_END_DECLARATIONS

#endif
