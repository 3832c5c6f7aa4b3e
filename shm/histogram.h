/* histogram.h: a log-linear histogram of durations, in shared memory, in fixed space.
 *
 * Buckets: 0..127 one apart; from 2^k to 2^(k+1), k = 7..40, 64 buckets of 2^(k-6). So a value is
 * kept to 1/64 (1.6 %) up to 2^41-1 (36 minutes in ns); larger ones are counted in the last bucket
 * and in the exact maximum. The same bucketing as an HdrHistogram with 64 sub-buckets in a half. */
#ifndef SIGNALBUS_HISTOGRAM_H
#define SIGNALBUS_HISTOGRAM_H

#include "base.h"

#include <stdio.h>

BUS_BEGIN_DECLARATIONS

#define BUS_HISTOGRAM_SUB_BITS 6u
#define BUS_HISTOGRAM_TOP_BITS 41u
#define BUS_HISTOGRAM_BUCKETS  ((BUS_HISTOGRAM_TOP_BITS - BUS_HISTOGRAM_SUB_BITS + 1u) * 64u)

struct bus_histogram {
  uint64_t count;
  uint64_t sum;     /* of the recorded values; wraps after 2^64 */
  uint64_t minimum; /* valid when count > 0 */
  uint64_t maximum;
  uint64_t reserved0[4];
  uint64_t buckets[BUS_HISTOGRAM_BUCKETS];
};

BUS_STATIC_ASSERT(offsetof(struct bus_histogram, buckets) == 64, "buckets start on a line");

/* Bucket that counts `value`, any u64: 0..BUS_HISTOGRAM_BUCKETS-1. With m the place of the highest
 * set bit and s = max(m, 6) - 6 it is 64 s + (value >> s). Pure. */
static BUS_ALWAYS_INLINE uint32_t bus_histogram_bucket(uint64_t value)
{
  const uint64_t top = ((uint64_t)1 << BUS_HISTOGRAM_TOP_BITS) - 1;
  if (BUS_UNLIKELY(value > top))
    value = top;
  uint32_t magnitude = 63u - (uint32_t)__builtin_clzll(value | 1);
  uint32_t shift = magnitude > BUS_HISTOGRAM_SUB_BITS ? magnitude - BUS_HISTOGRAM_SUB_BITS : 0;
  return shift * 64u + (uint32_t)(value >> shift);
}

/* Counts `value`. The owner only, one thread; about 3 ns. Readers see each word whole and the words
 * slightly apart in time: bucket first, count last. */
static BUS_ALWAYS_INLINE void bus_histogram_record(struct bus_histogram *histogram, uint64_t value)
{
  uint64_t *bucket = &histogram->buckets[bus_histogram_bucket(value)];
  BUS_STORE_RELAXED(bucket, *bucket + 1);
  if (value > histogram->maximum)
    BUS_STORE_RELAXED(&histogram->maximum, value);
  if (histogram->count == 0 || value < histogram->minimum)
    BUS_STORE_RELAXED(&histogram->minimum, value);
  BUS_STORE_RELAXED(&histogram->sum, histogram->sum + value);
  BUS_STORE_RELAXED(&histogram->count, histogram->count + 1);
}

/* Smallest and largest value that bucket `index` (0..BUS_HISTOGRAM_BUCKETS-1) counts. Pure. */
BUS_EXPORT uint64_t bus_histogram_bucket_low(uint32_t index);
BUS_EXPORT uint64_t bus_histogram_bucket_high(uint32_t index);

/* Copies a histogram that somebody else is writing, word by word with relaxed loads, and makes the
 * copy consistent: its count is the sum of its buckets. Its sum, minimum and maximum may be ahead
 * of or behind it by the values recorded meanwhile. `copy` is private. Any thread. */
BUS_EXPORT void bus_histogram_copy(struct bus_histogram *copy, const struct bus_histogram *shared);

/* Adds `from` to `to`; both private to the caller. */
BUS_EXPORT void bus_histogram_add(struct bus_histogram *to, const struct bus_histogram *from);

/* The value that `quantile` (0..1, no NaN) of the values do not exceed: the upper end of the bucket
 * in which the value of rank ceil(quantile * count) is (nearest rank), never above the maximum; in
 * the entry's unit. 0 when empty. On a private or copied histogram. Pure. */
BUS_EXPORT uint64_t bus_histogram_quantile(const struct bus_histogram *histogram, double quantile);

/* Writes the percentile table that HdrHistogram's plotting tools read (.hgrm), values divided by
 * `unit` > 0 (1000 writes µs from ns). On a private or copied histogram. Returns BUS_OK or
 * BUS_ERROR_IO with a message. */
BUS_EXPORT int bus_histogram_write_hgrm(const struct bus_histogram *histogram, FILE *file,
                                        double unit);

BUS_END_DECLARATIONS

#endif
