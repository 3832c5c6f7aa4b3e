/* replay_retained.h: what a reader of the bus would have known when a replay begins in the middle.
 */
#ifndef TOOLS_REPLAY_RETAINED_H
#define TOOLS_REPLAY_RETAINED_H

#include "consumers/capture_merge.h"
#include "tools/replay_bus.h"

/* How far back the latest signals are looked for: a symbol that has been silent for longer than
 * this many blocks is left out. */
#define REPLAY_RETAINED_BLOCKS_MAX 1024u

/* Shows on the boards of `channel` the latest signal of each symbol of `stream` before the range
 * (its from_ns and from_position). Returns how many were shown, or a negative error with a message;
 * damaged blocks are passed over. Reads backwards from the range's begin and stops when every
 * symbol that the tables list has been seen. */
int64_t replay_retained_show(struct bus_capture *capture, uint32_t stream,
                             const struct bus_capture_range *range, struct replay_bus *bus,
                             uint32_t channel);

#endif
