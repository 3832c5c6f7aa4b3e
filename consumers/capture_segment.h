/* capture_segment.h: the writer's segments: created, gone on with, closed. The writer's business
 * alone; all of it in the writer's thread. Errors are BUS_ERROR_IO with the reason in errno. */
#ifndef SIGNALBUS_CAPTURE_SEGMENT_H
#define SIGNALBUS_CAPTURE_SEGMENT_H

#include "consumers/capture_writer.h"

BUS_BEGIN_DECLARATIONS

#define BUS_SEGMENT_SCRATCH UINT64_MAX /* tag of a write from writer->scratch */

/* "member.ring" into BUS_CAPTURE_STREAM_BYTES. */
void bus_segment_stream_name(const struct bus_staging_stream *stream, char *name);

/* Shape of a segment of this stream with that many blocks. */
struct bus_capture_shape bus_segment_shape(const struct bus_writer *writer, uint32_t stream,
                                           uint64_t blocks);

/* Goes on with the segment that a predecessor left open, if there is one. Returns 1 when a segment
 * is open now, else 0. */
int bus_segment_resume(struct bus_writer *writer, uint32_t stream, uint64_t now_ns);

/* Makes sure that a segment is open, has room for one more block, and says what it holds: closes a
 * full or old one, creates, allocates, writes META. Returns BUS_OK;
 * BUS_ERROR_AGAIN while writes into the segment to close are under way; BUS_ERROR_IO. */
int bus_segment_make_ready(struct bus_writer *writer, uint32_t stream, uint64_t now_ns);

/* Cuts the segment behind its last block and writes its final header. One that holds no records is
 * removed. */
int bus_segment_close(struct bus_writer *writer, uint32_t stream);

/* Writes the first `bytes` of writer->scratch, and waits for it. */
int bus_segment_write_scratch(struct bus_writer *writer, uint32_t stream, uint32_t bytes,
                              uint64_t offset);

/* Takes completions off the disk, waiting up to `wait_ns` for the first. */
uint32_t bus_writer_reap(struct bus_writer *writer, uint64_t wait_ns);

BUS_END_DECLARATIONS

#endif
