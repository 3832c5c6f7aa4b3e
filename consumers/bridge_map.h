/* bridge_map.h: from a 64-bit key to the indices that were put in for it: which connection is this
 * handle, which request has this id. Keys may repeat. Private memory, one thread; allocates at init
 * only. */
#ifndef SIGNALBUS_BRIDGE_MAP_H
#define SIGNALBUS_BRIDGE_MAP_H

#include "shm/error.h"

BUS_BEGIN_DECLARATIONS

struct bus_bridge_map_item {
  uint64_t key;
  uint32_t value_plus_1; /* 0: free */
};

struct bus_bridge_map {
  struct bus_bridge_map_item *items; /* open addressing, never more than half full */
  uint32_t mask;
};

/* For `count` (1..2^30) pairs at a time. Returns BUS_OK, or BUS_ERROR_NO_SPACE with a message. */
BUS_EXPORT int bus_bridge_map_init(struct bus_bridge_map *map, uint32_t count);

/* Adds the pair; there is room, and it is not in yet. */
BUS_EXPORT void bus_bridge_map_add(struct bus_bridge_map *map, uint64_t key, uint32_t value);

/* Takes the pair out, if it is in. */
BUS_EXPORT void bus_bridge_map_remove(struct bus_bridge_map *map, uint64_t key, uint32_t value);

/* The next value of `key`: *cursor is 0 before the first call, and belongs to the map from then on.
 * BUS_BRIDGE_NONE: no more. Nothing may be added or removed between the calls. */
BUS_EXPORT uint32_t bus_bridge_map_next(const struct bus_bridge_map *map, uint64_t key,
                                        uint32_t *cursor);

/* All zero: allowed. */
BUS_EXPORT void bus_bridge_map_free(struct bus_bridge_map *map);

BUS_END_DECLARATIONS

#endif
