/* sse.h: a stream of server-sent events, taken apart as its bytes come, in whatever pieces.
 *
 * As the standard has it: lines end in CR, LF or CRLF, a byte order mark is skipped, several `data`
 * lines are one event with newlines between, lines that begin with a colon are comments, an empty
 * line ends the event. And as servers have it: llama-server says errors in a field of its own,
 * `error: {..}`, which is taken as data of an event that is an error. */
#ifndef SIGNALBUS_SSE_H
#define SIGNALBUS_SSE_H

#include "consumers/byte_buffer.h"

BUS_BEGIN_DECLARATIONS

/* One line, or the data of one event. */
#define BUS_SSE_BYTES_MAX ((size_t)1 << 20)

/* All zero but for what says "set": before the first byte. */
struct bus_sse {
  /* Set. Called with each event that has data, until it returns false; `error`: the event's name or
   * field is "error". */
  bool (*event)(void *context, const char *data, size_t size, bool error);
  void *context;
  uint64_t comments;
  uint64_t events; /* given out */

  struct bus_byte_buffer line; /* the beginning of a line that has not ended yet */
  struct bus_byte_buffer data; /* of the event under way, each line with a newline behind it */
  uint8_t mark_bytes;          /* of the byte order mark seen; 4: past the place for one */
  bool skip_newline;           /* a CR has just ended a line */
  bool error;
};

/* Takes `size` bytes. Returns BUS_OK; BUS_ERROR_AGAIN when `event` returned false: the rest was not
 * looked at; BUS_ERROR_NO_SPACE when a line or an event exceeds BUS_SSE_BYTES_MAX, or memory is
 * out. After an error only clear and free may follow. */
BUS_EXPORT int bus_sse_take(struct bus_sse *sse, const char *bytes, size_t size);

/* The stream has ended. By the standard an event without its empty line is none; this one gives it
 * out where it is exactly `text`, because some servers end the stream right behind it. Returns as
 * take. */
BUS_EXPORT int bus_sse_end(struct bus_sse *sse, const char *text);

/* For another stream; keeps `event`, `context` and moderate buffers. */
BUS_EXPORT void bus_sse_clear(struct bus_sse *sse);

BUS_EXPORT void bus_sse_free(struct bus_sse *sse);

BUS_END_DECLARATIONS

#endif
