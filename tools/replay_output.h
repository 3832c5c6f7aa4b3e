/* replay_output.h: writes a new capture, for the verbs that make one of another. A segment has the
 * suffix .partial until it is complete, so that nothing half-written looks like a capture. */
#ifndef SIGNALBUS_REPLAY_OUTPUT_H
#define SIGNALBUS_REPLAY_OUTPUT_H

#include "consumers/capture_format.h"

#include <jansson.h>

#define REPLAY_OUTPUT_SEGMENT_BYTES ((uint64_t)1 << 30)

struct replay_output;

/* Makes `directory`, or takes an empty one. `segment_bytes` is when the next segment begins.
 * BUS_OK, or a negative error with a message (BUS_ERROR_BUSY: something is in it). */
int replay_output_open(const char *directory, uint64_t segment_bytes, struct replay_output **out);

/* The stream "member.ring", made at the first call; an index, or a negative error. `shape.blocks`
 * does not matter. Another shape than before begins a segment. */
int replay_output_stream(struct replay_output *output, const char *name,
                         const struct bus_capture_shape *shape);

/* Below, `index` is what replay_output_stream returned.
 *
 * Describes the stream from here on; must come before its first record. The text of `meta` must fit
 * a block. BUS_OK or a negative error with a message. */
int replay_output_meta(struct replay_output *output, int index, const json_t *meta);

/* Ends the present segment; the positions that follow belong to another instance when
 * `new_instance`. What describes the stream stays. */
int replay_output_rotate(struct replay_output *output, int index, bool new_instance);

/* Appends a record; its position is its stamp - 1. `time_ns` is for types that carry no time. */
int replay_output_record(struct replay_output *output, int index, const void *record,
                         uint64_t time_ns);

/* Appends a whole DATA block; number, lost and CRC are made anew. */
int replay_output_block(struct replay_output *output, int index, const void *block);

/* Completes all segments and frees `output`, also after errors. */
int replay_output_close(struct replay_output *output);

/* Frees `output` and leaves what is not complete as .partial. NULL is ignored. */
void replay_output_abandon(struct replay_output *output);

/* So far. */
uint64_t replay_output_records(const struct replay_output *output);
uint64_t replay_output_blocks(const struct replay_output *output);

#endif
