#include "consumers/bridge_heap.h"

#include <stdlib.h>
#include <string.h>

int bus_bridge_heap_init(struct bus_bridge_heap *heap, uint32_t ids)
{
  memset(heap, 0, sizeof *heap);
  heap->items = calloc(ids, sizeof *heap->items);
  heap->places = malloc((size_t)ids * sizeof *heap->places);
  if (!heap->items || !heap->places) {
    bus_bridge_heap_free(heap);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for %u timers", ids);
  }
  heap->ids = ids;
  for (uint32_t id = 0; id < ids; id++)
    heap->places[id] = BUS_BRIDGE_NONE;
  return BUS_OK;
}

static bool before(const struct bus_bridge_heap_item *a, const struct bus_bridge_heap_item *b)
{
  return a->key != b->key ? a->key < b->key : a->id < b->id;
}

static void put(struct bus_bridge_heap *heap, uint32_t place, struct bus_bridge_heap_item item)
{
  heap->items[place] = item;
  heap->places[item.id] = place;
}

static void rise(struct bus_bridge_heap *heap, uint32_t place, struct bus_bridge_heap_item item)
{
  while (place > 0 && before(&item, &heap->items[(place - 1) / 2])) {
    put(heap, place, heap->items[(place - 1) / 2]);
    place = (place - 1) / 2;
  }
  put(heap, place, item);
}

static void sink(struct bus_bridge_heap *heap, uint32_t place, struct bus_bridge_heap_item item)
{
  for (uint32_t child = 2 * place + 1; child < heap->count; child = 2 * place + 1) {
    if (child + 1 < heap->count && before(&heap->items[child + 1], &heap->items[child]))
      child++;
    if (!before(&heap->items[child], &item))
      break;
    put(heap, place, heap->items[child]);
    place = child;
  }
  put(heap, place, item);
}

/* Puts `item` at a free place inside the heap and moves it to where it belongs. */
static void settle(struct bus_bridge_heap *heap, uint32_t place, struct bus_bridge_heap_item item)
{
  if (place > 0 && before(&item, &heap->items[(place - 1) / 2]))
    rise(heap, place, item);
  else
    sink(heap, place, item);
}

void bus_bridge_heap_set(struct bus_bridge_heap *heap, uint32_t id, uint64_t key)
{
  const struct bus_bridge_heap_item item = {.key = key, .id = id};
  if (heap->places[id] == BUS_BRIDGE_NONE)
    rise(heap, heap->count++, item);
  else
    settle(heap, heap->places[id], item);
}

void bus_bridge_heap_remove(struct bus_bridge_heap *heap, uint32_t id)
{
  const uint32_t place = heap->places[id];
  if (place == BUS_BRIDGE_NONE)
    return;
  heap->places[id] = BUS_BRIDGE_NONE;
  const struct bus_bridge_heap_item last = heap->items[--heap->count];
  if (last.id != id)
    settle(heap, place, last);
}

void bus_bridge_heap_free(struct bus_bridge_heap *heap)
{
  free(heap->items);
  free(heap->places);
  memset(heap, 0, sizeof *heap);
}
