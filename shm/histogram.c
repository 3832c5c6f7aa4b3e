#include "histogram.h"

#include "error.h"

#include <math.h>
#include <string.h>

uint64_t bus_histogram_bucket_low(uint32_t index)
{
  if (index < 128)
    return index;
  uint32_t shift = index / 64 - 1;
  return (uint64_t)(index - shift * 64) << shift;
}

uint64_t bus_histogram_bucket_high(uint32_t index)
{
  if (index < 128)
    return index;
  uint32_t shift = index / 64 - 1;
  return bus_histogram_bucket_low(index) + ((uint64_t)1 << shift) - 1;
}

void bus_histogram_copy(struct bus_histogram *copy, const struct bus_histogram *shared)
{
  memset(copy, 0, sizeof *copy);
  copy->sum = BUS_LOAD_RELAXED(&shared->sum);
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++) {
    copy->buckets[i] = BUS_LOAD_RELAXED(&shared->buckets[i]);
    copy->count += copy->buckets[i];
  }
  copy->minimum = BUS_LOAD_RELAXED(&shared->minimum);
  copy->maximum = BUS_LOAD_RELAXED(&shared->maximum);
}

void bus_histogram_add(struct bus_histogram *to, const struct bus_histogram *from)
{
  if (from->count == 0)
    return;
  if (to->count == 0 || from->minimum < to->minimum)
    to->minimum = from->minimum;
  if (from->maximum > to->maximum)
    to->maximum = from->maximum;
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++)
    to->buckets[i] += from->buckets[i];
  to->count += from->count;
  to->sum += from->sum;
}

uint64_t bus_histogram_quantile(const struct bus_histogram *histogram, double quantile)
{
  if (histogram->count == 0)
    return 0;
  double wanted = ceil(quantile * (double)histogram->count);
  /* A neighbour's count may be anything up to 2^64, which as a double does not fit any more. */
  uint64_t rank = 1;
  if (wanted >= (double)histogram->count)
    rank = histogram->count;
  else if (wanted >= 1)
    rank = (uint64_t)wanted;
  uint64_t seen = 0;
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++) {
    seen += histogram->buckets[i];
    if (seen >= rank) {
      uint64_t high = bus_histogram_bucket_high(i);
      bool last = i == BUS_HISTOGRAM_BUCKETS - 1;
      return last || high > histogram->maximum ? histogram->maximum : high;
    }
  }
  return histogram->maximum;
}

int bus_histogram_write_hgrm(const struct bus_histogram *histogram, FILE *file, double unit)
{
  fprintf(file, "%12s %14s %10s %14s\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
  uint64_t seen = 0;
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++) {
    if (histogram->buckets[i] == 0)
      continue;
    seen += histogram->buckets[i];
    double fraction = (double)seen / (double)histogram->count;
    uint64_t high = bus_histogram_bucket_high(i);
    double value = (double)(high < histogram->maximum ? high : histogram->maximum) / unit;
    fprintf(file, "%12.3f %2.12f %10llu", value, fraction, (unsigned long long)seen);
    if (seen < histogram->count)
      fprintf(file, " %14.2f\n", 1.0 / (1.0 - fraction));
    else
      fputc('\n', file);
  }
  double mean = histogram->count ? (double)histogram->sum / (double)histogram->count / unit : 0;
  fprintf(file, "#[Mean    = %12.3f, Count = %12llu]\n#[Max     = %12.3f, Buckets = %10u]\n", mean,
          (unsigned long long)histogram->count, (double)histogram->maximum / unit,
          (unsigned)BUS_HISTOGRAM_BUCKETS);
  return ferror(file) ? bus_error_set_errno("writing a histogram") : BUS_OK;
}
