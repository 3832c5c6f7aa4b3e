#include "shm/error.h"
#include "shm/histogram.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(histogram, every_bucket_is_where_its_limits_say)
{
  uint64_t expected_low = 0;
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++) {
    uint64_t low = bus_histogram_bucket_low(i), high = bus_histogram_bucket_high(i);
    cr_assert_eq(low, expected_low, "bucket %u", i);
    cr_assert_eq(bus_histogram_bucket(low), i);
    cr_assert_eq(bus_histogram_bucket(high), i);
    cr_assert_leq((double)(high - low), (double)low / 64.0);
    expected_low = high + 1;
  }
  cr_assert_eq(expected_low, (uint64_t)1 << BUS_HISTOGRAM_TOP_BITS);
  cr_assert_eq(bus_histogram_bucket(UINT64_MAX), BUS_HISTOGRAM_BUCKETS - 1);
}

static int compare_values(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

Test(histogram, quantiles_agree_with_a_sorted_array)
{
  enum { COUNT = 20001 };
  static uint64_t values[COUNT];
  static struct bus_histogram histogram;
  uint64_t random = 42;
  for (int i = 0; i < COUNT; i++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    values[i] = (random >> 33) >> (random >> 20) % 30;
    bus_histogram_record(&histogram, values[i]);
  }
  qsort(values, COUNT, sizeof values[0], compare_values);
  const double quantiles[] = {0.0, 0.001, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0};
  for (size_t i = 0; i < BUS_COUNT_OF(quantiles); i++) {
    size_t rank = (size_t)(quantiles[i] * COUNT + 0.9999999);
    uint64_t exact = values[rank ? rank - 1 : 0];
    uint64_t got = bus_histogram_quantile(&histogram, quantiles[i]);
    cr_assert_geq(got, exact);
    cr_assert_leq((double)got, (double)exact * (1 + 1.0 / 64) + 1);
  }
  cr_assert_eq(histogram.minimum, values[0]);
  cr_assert_eq(bus_histogram_quantile(&histogram, 1.0), values[COUNT - 1]);
}

Test(histogram, copies_adds_and_survives_extremes)
{
  static struct bus_histogram a, b, copy;
  cr_assert_eq(bus_histogram_quantile(&a, 0.5), 0);
  bus_histogram_record(&a, 0);
  bus_histogram_record(&a, UINT64_MAX);
  cr_assert_eq(bus_histogram_quantile(&a, 1.0), UINT64_MAX);
  bus_histogram_record(&b, 7);
  bus_histogram_add(&b, &a);
  cr_assert_eq(b.count, 3);
  cr_assert_eq(b.minimum, 0);
  a.count = 99; /* a torn read of the count must not matter */
  bus_histogram_copy(&copy, &a);
  cr_assert_eq(copy.count, 2);
}

Test(histogram, writes_hgrm)
{
  static struct bus_histogram histogram;
  for (uint64_t i = 1; i <= 100; i++)
    bus_histogram_record(&histogram, i);
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  cr_assert_eq(bus_histogram_write_hgrm(&histogram, file, 1.0), BUS_OK);
  fclose(file);
  cr_assert_not_null(strstr(text, "      50.000 0.500000000000         50           2.00\n"));
  cr_assert_not_null(strstr(text, "#[Max     =      100.000"));
  free(text);
}

/* What a hostile neighbour may show. */
Test(histogram, any_counts_have_quantiles)
{
  static struct bus_histogram histogram;
  histogram.buckets[5] = UINT64_MAX;
  histogram.count = UINT64_MAX;
  histogram.maximum = 5;
  cr_assert_eq(bus_histogram_quantile(&histogram, 1.0), 5);
  cr_assert_eq(bus_histogram_quantile(&histogram, 0.5), 5);
  cr_assert_eq(bus_histogram_quantile(&histogram, 0.0), 5);
  static struct bus_histogram shared, copy;
  shared.buckets[7] = shared.buckets[9] = UINT64_MAX; /* the sum wraps */
  shared.maximum = 9;
  bus_histogram_copy(&copy, &shared);
  cr_assert_leq(bus_histogram_quantile(&copy, 1.0), 9);
}
