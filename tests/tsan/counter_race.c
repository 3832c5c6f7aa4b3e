/* The owner of two counters and two readers.
 *
 * Mutants: 1 the reader loads plainly; 2 the owner adds plainly. */
#include "race.h"

#define ADDITIONS 200000u
#define READERS   2

static _Alignas(128) uint64_t counters[2];

static void *count(void *context)
{
  (void)context;
  for (uint64_t i = 0; i < ADDITIONS; i++) {
#if MUTANT == 2
    ++*(volatile uint64_t *)&counters[0];
#else
    bus_counter_add(&counters[0], 1);
#endif
    bus_counter_set(&counters[1], i * 3);
    if (i % 1024 == 0)
      sched_yield();
  }
  return NULL;
}

static void *read_all(void *context)
{
  uint64_t before = 0;
  (void)context;
  while (before < ADDITIONS) {
#if MUTANT == 1
    uint64_t now = *(volatile uint64_t *)&counters[0];
#else
    uint64_t now = BUS_LOAD_RELAXED(&counters[0]);
#endif
    RACE_CHECK(now >= before && now <= ADDITIONS);
    RACE_CHECK(BUS_LOAD_RELAXED(&counters[1]) % 3 == 0);
    before = now;
    sched_yield();
  }
  return NULL;
}

int main(void)
{
  pthread_t threads[1 + READERS];
  for (int i = 0; i < READERS; i++)
    race_start(&threads[i], read_all, NULL);
  race_start(&threads[READERS], count, NULL);
  race_join(threads, 1 + READERS);
  printf("%u additions\n", ADDITIONS);
  return 0;
}
