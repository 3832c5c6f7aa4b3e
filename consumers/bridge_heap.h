/* bridge_heap.h: things that fall due: a binary heap of 64-bit keys with an index, so that what is
 * in it can be moved and taken out. Private memory, one thread; allocates at init only. */
#ifndef SIGNALBUS_BRIDGE_HEAP_H
#define SIGNALBUS_BRIDGE_HEAP_H

#include "shm/error.h"

BUS_BEGIN_DECLARATIONS

#define BUS_BRIDGE_NONE UINT32_MAX /* no id, no index */

struct bus_bridge_heap_item {
  uint64_t key;
  uint32_t id;
};

struct bus_bridge_heap {
  struct bus_bridge_heap_item *items; /* items[0] has the smallest key; equal ones: smallest id */
  uint32_t *places;                   /* of each id in `items`; BUS_BRIDGE_NONE: not in it */
  uint32_t count;
  uint32_t ids;
};

/* For the ids 0..ids-1. Returns BUS_OK, or BUS_ERROR_NO_SPACE with a message. */
BUS_EXPORT int bus_bridge_heap_init(struct bus_bridge_heap *heap, uint32_t ids);

/* Puts `id` in with `key`, or moves it there. O(log n). */
BUS_EXPORT void bus_bridge_heap_set(struct bus_bridge_heap *heap, uint32_t id, uint64_t key);

/* Takes `id` out, if it is in. O(log n). */
BUS_EXPORT void bus_bridge_heap_remove(struct bus_bridge_heap *heap, uint32_t id);

/* The smallest key, UINT64_MAX when empty; and whose it is, BUS_BRIDGE_NONE when empty. */
static BUS_ALWAYS_INLINE uint64_t bus_bridge_heap_key(const struct bus_bridge_heap *heap)
{
  return heap->count ? heap->items[0].key : UINT64_MAX;
}

static BUS_ALWAYS_INLINE uint32_t bus_bridge_heap_first(const struct bus_bridge_heap *heap)
{
  return heap->count ? heap->items[0].id : BUS_BRIDGE_NONE;
}

/* All zero: allowed. */
BUS_EXPORT void bus_bridge_heap_free(struct bus_bridge_heap *heap);

BUS_END_DECLARATIONS

#endif
