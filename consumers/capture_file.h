/* capture_file.h: one file of a capture: its header, the index of its blocks, and reading them.
 * Internal to the reader. */
#ifndef SIGNALBUS_CAPTURE_FILE_H
#define SIGNALBUS_CAPTURE_FILE_H

#include "consumers/capture_reader.h"

BUS_BEGIN_DECLARATIONS

/* Opens segment->path (number and compressed are set) of stream `name` and makes its index. Where
 * the file's header is damaged the shape comes from its first block, or from `hint`, a segment of
 * the same stream (NULL: none). Returns BUS_OK, also when there is damage (it is noted; a file that
 * says nothing any more has no record_size); else a negative error with a message. */
int bus_capture_file_open(struct bus_capture *capture, const char *name,
                          const struct bus_capture_segment *hint,
                          struct bus_capture_segment *segment);

/* Frees what it holds, the path too. */
void bus_capture_file_close(struct bus_capture_segment *segment);

/* Reads block `number` (below segment->blocks) as it is stored, uncompressed, into shape.block_size
 * bytes. BUS_OK; BUS_ERROR_CORRUPT (does not decompress, cut short) or BUS_ERROR_IO (the disk
 * cannot read it) with a message that lacks the path; BUS_ERROR_NO_SPACE. */
int bus_capture_file_load(struct bus_capture_segment *segment, uint64_t number, void *to);

/* Asks the kernel to have `count` blocks from `number` on in memory soon; those that are there cost
 * little. A hint: past the end is allowed. */
void bus_capture_file_prefetch(const struct bus_capture_segment *segment, uint64_t number,
                               uint64_t count);

/* Byte offset of block `number` in the uncompressed file. */
static inline uint64_t bus_capture_block_offset(const struct bus_capture_segment *segment,
                                                uint64_t number)
{
  return BUS_CAPTURE_FILE_HEADER_BYTES + number * segment->shape.block_size;
}

BUS_END_DECLARATIONS

#endif
