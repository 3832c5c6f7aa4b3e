/* capture_meta.h: the JSON text that says what a recorded ring is. */
#ifndef SIGNALBUS_CAPTURE_META_H
#define SIGNALBUS_CAPTURE_META_H

#include "consumers/capture_format.h"
#include "shm/neighbour.h"

BUS_BEGIN_DECLARATIONS

/* When a stream's recording began, so that the text changes only when the member does. */
struct bus_meta_times {
  uint64_t created_realtime_ns;
  int64_t realtime_offset_ns;
};

/* The text for ring `entry` of `neighbour`, at most `most` bytes (256 or more): texts and symbols
 * that do not fit are left out, and said to be ("omitted"). NUL-terminated, for the caller to free;
 * NULL without memory. Allocates; housekeeping. */
char *bus_meta_compose(const struct bus_neighbour *neighbour, const struct bus_entry *entry,
                       const struct bus_meta_times *times, uint32_t block_size, size_t most);

BUS_END_DECLARATIONS

#endif
