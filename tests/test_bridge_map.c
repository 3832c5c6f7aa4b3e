#include "consumers/bridge_heap.h"
#include "consumers/bridge_map.h"
#include "consumers/bridge_random.h"

#include <criterion/criterion.h>

Test(bridge_map, finds_every_value_of_a_key)
{
  struct bus_bridge_map map;
  cr_assert_eq(bus_bridge_map_init(&map, 4), BUS_OK);
  uint32_t cursor = 0;
  cr_assert_eq(bus_bridge_map_next(&map, 7, &cursor), BUS_BRIDGE_NONE);
  bus_bridge_map_add(&map, 7, 0);
  bus_bridge_map_add(&map, 8, 1);
  bus_bridge_map_add(&map, 7, 2);
  uint32_t found = 0, value;
  for (cursor = 0; (value = bus_bridge_map_next(&map, 7, &cursor)) != BUS_BRIDGE_NONE;)
    found |= 1u << value;
  cr_assert_eq(found, 5);
  bus_bridge_map_remove(&map, 7, 0);
  bus_bridge_map_remove(&map, 7, 3); /* not in: nothing happens */
  cursor = 0;
  cr_assert_eq(bus_bridge_map_next(&map, 7, &cursor), 2);
  cr_assert_eq(bus_bridge_map_next(&map, 7, &cursor), BUS_BRIDGE_NONE);
  bus_bridge_map_free(&map);
  bus_bridge_map_free(&map);
}

/* Full, with keys that repeat: what is in is found, what is out is not. */
Test(bridge_map, loses_and_invents_nothing)
{
  enum { VALUES = 64, KEYS = 20 };
  struct bus_bridge_map map;
  bus_bridge_map_init(&map, VALUES);
  uint64_t keys[VALUES];
  bool in[VALUES] = {false};
  uint64_t random = 3;
  for (uint32_t i = 0; i < 50000; i++) {
    const uint32_t value = (uint32_t)(bus_bridge_random(&random) % VALUES);
    if (in[value])
      bus_bridge_map_remove(&map, keys[value], value);
    else
      bus_bridge_map_add(&map, keys[value] = bus_bridge_random(&random) % KEYS, value);
    in[value] = !in[value];
    const uint64_t key = bus_bridge_random(&random) % KEYS;
    uint64_t found = 0, expected = 0;
    for (uint32_t cursor = 0, one;
         (one = bus_bridge_map_next(&map, key, &cursor)) != BUS_BRIDGE_NONE;) {
      cr_assert(!(found >> one & 1), "twice");
      found |= (uint64_t)1 << one;
    }
    for (uint32_t other = 0; other < VALUES; other++)
      expected |= (uint64_t)(in[other] && keys[other] == key) << other;
    cr_assert_eq(found, expected);
  }
  bus_bridge_map_free(&map);
}
