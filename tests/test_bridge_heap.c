#include "consumers/bridge_heap.h"
#include "consumers/bridge_random.h"

#include <criterion/criterion.h>

Test(bridge_heap, is_empty_at_first)
{
  struct bus_bridge_heap heap;
  cr_assert_eq(bus_bridge_heap_init(&heap, 3), BUS_OK);
  cr_assert_eq(bus_bridge_heap_key(&heap), UINT64_MAX);
  cr_assert_eq(bus_bridge_heap_first(&heap), BUS_BRIDGE_NONE);
  bus_bridge_heap_remove(&heap, 1); /* not in: nothing happens */
  bus_bridge_heap_free(&heap);
  bus_bridge_heap_free(&heap);
}

Test(bridge_heap, gives_equal_keys_in_the_order_of_their_ids)
{
  struct bus_bridge_heap heap;
  bus_bridge_heap_init(&heap, 8);
  for (uint32_t id = 8; id-- > 0;)
    bus_bridge_heap_set(&heap, id, 5);
  for (uint32_t id = 0; id < 8; id++) {
    cr_assert_eq(bus_bridge_heap_first(&heap), id);
    bus_bridge_heap_remove(&heap, id);
  }
  bus_bridge_heap_free(&heap);
}

/* Against a list that is searched: what is added, moved and taken out at random. */
Test(bridge_heap, always_knows_the_smallest)
{
  enum { IDS = 40 };
  struct bus_bridge_heap heap;
  bus_bridge_heap_init(&heap, IDS);
  uint64_t keys[IDS];
  for (uint32_t id = 0; id < IDS; id++)
    keys[id] = UINT64_MAX; /* not in */
  uint64_t random = 1;
  for (uint32_t i = 0; i < 100000; i++) {
    const uint32_t id = (uint32_t)(bus_bridge_random(&random) % IDS);
    if (bus_bridge_random(&random) % 3) {
      keys[id] = bus_bridge_random(&random) % 50;
      bus_bridge_heap_set(&heap, id, keys[id]);
    } else {
      keys[id] = UINT64_MAX;
      bus_bridge_heap_remove(&heap, id);
    }
    uint32_t first = BUS_BRIDGE_NONE, count = 0;
    for (uint32_t other = 0; other < IDS; other++) {
      count += keys[other] != UINT64_MAX;
      if (keys[other] != UINT64_MAX && (first == BUS_BRIDGE_NONE || keys[other] < keys[first]))
        first = other;
    }
    cr_assert_eq(heap.count, count);
    cr_assert_eq(bus_bridge_heap_first(&heap), first);
    cr_assert_eq(bus_bridge_heap_key(&heap), first == BUS_BRIDGE_NONE ? UINT64_MAX : keys[first]);
  }
  bus_bridge_heap_free(&heap);
}
