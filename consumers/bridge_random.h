/* bridge_random.h: chance that is the same for the same seed (splitmix64). Pure but for `state`. */
#ifndef SIGNALBUS_BRIDGE_RANDOM_H
#define SIGNALBUS_BRIDGE_RANDOM_H

#include "shm/base.h"

/* Spreads every bit of `value` over all of the result; different values stay different. */
static BUS_ALWAYS_INLINE uint64_t bus_bridge_mix(uint64_t value)
{
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
  return value ^ (value >> 31);
}

/* The next of the sequence that `*state` stands in. */
static BUS_ALWAYS_INLINE uint64_t bus_bridge_random(uint64_t *state)
{
  return bus_bridge_mix(*state += 0x9e3779b97f4a7c15u);
}

#endif
