#include "consumers/bridge_map.h"

#include "consumers/bridge_heap.h"
#include "consumers/bridge_random.h"

#include <stdlib.h>
#include <string.h>

int bus_bridge_map_init(struct bus_bridge_map *map, uint32_t count)
{
  uint32_t size = 4;
  while (size < 2 * (uint64_t)count)
    size *= 2;
  map->mask = size - 1;
  map->items = calloc(size, sizeof *map->items);
  return map->items ? BUS_OK : bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a map of %u", size);
}

static uint32_t home(const struct bus_bridge_map *map, uint64_t key)
{
  return (uint32_t)bus_bridge_mix(key) & map->mask;
}

void bus_bridge_map_add(struct bus_bridge_map *map, uint64_t key, uint32_t value)
{
  uint32_t place = home(map, key);
  while (map->items[place].value_plus_1)
    place = (place + 1) & map->mask;
  map->items[place] = (struct bus_bridge_map_item){.key = key, .value_plus_1 = value + 1};
}

void bus_bridge_map_remove(struct bus_bridge_map *map, uint64_t key, uint32_t value)
{
  uint32_t hole = home(map, key);
  while (map->items[hole].key != key || map->items[hole].value_plus_1 != value + 1) {
    if (!map->items[hole].value_plus_1)
      return;
    hole = (hole + 1) & map->mask;
  }
  /* What follows without a gap is moved up when it may stand at the hole: no tombstones. */
  for (uint32_t i = (hole + 1) & map->mask; map->items[i].value_plus_1; i = (i + 1) & map->mask) {
    const uint32_t from_home = (i - home(map, map->items[i].key)) & map->mask;
    if (from_home < ((i - hole) & map->mask))
      continue;
    map->items[hole] = map->items[i];
    hole = i;
  }
  map->items[hole] = (struct bus_bridge_map_item){0};
}

uint32_t bus_bridge_map_next(const struct bus_bridge_map *map, uint64_t key, uint32_t *cursor)
{
  for (uint32_t place = (home(map, key) + *cursor) & map->mask; map->items[place].value_plus_1;
       place = (place + 1) & map->mask) {
    ++*cursor;
    if (map->items[place].key == key)
      return map->items[place].value_plus_1 - 1;
  }
  return BUS_BRIDGE_NONE;
}

void bus_bridge_map_free(struct bus_bridge_map *map)
{
  free(map->items);
  memset(map, 0, sizeof *map);
}
