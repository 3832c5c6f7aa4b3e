/* The owner of a histogram and two readers that copy it.
 *
 * Mutants: 1 the reader copies the struct; 2 the owner counts plainly. */
#include "race.h"

#define VALUES  100000u
#define READERS 2

static _Alignas(128) struct bus_histogram histogram;

static void *record(void *context)
{
  (void)context;
  for (uint64_t value = 1; value <= VALUES; value++) {
#if MUTANT == 2
    histogram.buckets[bus_histogram_bucket(value)]++;
    BUS_STORE_RELAXED(&histogram.maximum, value);
    BUS_STORE_RELAXED(&histogram.minimum, (uint64_t)1);
    BUS_STORE_RELAXED(&histogram.count, value);
#else
    bus_histogram_record(&histogram, value);
#endif
    if (value % 256 == 0)
      sched_yield();
  }
  return NULL;
}

static void *read_all(void *context)
{
  struct bus_histogram *copy = context;
  uint64_t before = 0;
  while (before < VALUES) {
#if MUTANT == 1
    memcpy(copy, &histogram, sizeof histogram);
#else
    bus_histogram_copy(copy, &histogram);
#endif
    RACE_CHECK(copy->count >= before && copy->count <= VALUES);
    RACE_CHECK(bus_histogram_quantile(copy, 0.5) <= VALUES && copy->maximum <= VALUES);
    before = copy->count;
    sched_yield();
  }
  return NULL;
}

int main(void)
{
  static struct bus_histogram copies[READERS];
  pthread_t threads[1 + READERS];
  for (int i = 0; i < READERS; i++)
    race_start(&threads[i], read_all, &copies[i]);
  race_start(&threads[READERS], record, NULL);
  race_join(threads, 1 + READERS);
  RACE_CHECK(copies[0].count == VALUES && histogram.count == VALUES);
  printf("%u values\n", VALUES);
  return 0;
}
