/* capture_cursor.h: the blocks of one stream of a capture, in order, read ahead. */
#ifndef SIGNALBUS_CAPTURE_CURSOR_H
#define SIGNALBUS_CAPTURE_CURSOR_H

#include "consumers/capture_reader.h"

BUS_BEGIN_DECLARATIONS

/* A block of a stream. */
struct bus_capture_view {
  struct bus_capture_segment *segment;
  uint64_t number;                       /* of the block in it */
  const struct bus_capture_block *block; /* wholly checked, payload behind it; NULL: damaged */
};

struct bus_capture_cursor;

/* At the stream's first block. BUS_OK, BUS_ERROR_INVALID (no such stream), BUS_ERROR_NO_SPACE. */
int bus_capture_cursor_open(struct bus_capture *capture, uint32_t stream,
                            struct bus_capture_cursor **out);
void bus_capture_cursor_close(struct bus_capture_cursor *cursor); /* NULL is ignored */

/* Goes to block `number` of segment `segment` (an index): the next one that is read. Past the end
 * of either: the end. */
void bus_capture_cursor_seek(struct bus_capture_cursor *cursor, size_t segment, uint64_t number);

/* The next block, META or DATA or damaged. Returns 1, 0 at the end, or a negative error with a
 * message. *view is good until the next call. */
int bus_capture_cursor_next(struct bus_capture_cursor *cursor, struct bus_capture_view *view);

BUS_END_DECLARATIONS

#endif
