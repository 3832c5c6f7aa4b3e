/* capture_shape.h: what the shape of a segment was, when its header does not say so any more.
 * Internal to the reader. */
#ifndef SIGNALBUS_CAPTURE_SHAPE_H
#define SIGNALBUS_CAPTURE_SHAPE_H

#include "consumers/capture_reader.h"

#include <sys/types.h>

BUS_BEGIN_DECLARATIONS

/* Reads `size` bytes at `offset`. Returns how many, fewer at the end of the file, or -1 with errno.
 */
ssize_t bus_capture_read_at(int file, void *to, size_t size, uint64_t offset);

/* Finds the shape of a plain file, open, without its header: from its first block's text and from
 * where the others stand, or from `hint`, a segment of the same stream (NULL: none). Leaves a
 * record_size of 0 when nothing says it. */
void bus_capture_find_shape(struct bus_capture_segment *segment, uint32_t stream,
                            const struct bus_capture_segment *hint);

BUS_END_DECLARATIONS

#endif
