#include "consumers/latency_report.h"

static const double quantiles[] = {0.5, 0.9, 0.99, 0.999, 1.0};

/* With the decimals that six characters have room for: a whole line stays below 80. */
static void put_us(FILE *file, uint64_t ns)
{
  double us = (double)ns / 1000.0;
  fprintf(file, " %6.*f", us < 999.995 ? 2 : us < 9999.95 ? 1 : 0, us);
}

void bus_latency_report_text(FILE *file, const struct bus_latency_stage *stages, size_t count)
{
  fprintf(file, "%-34s %6s %6s %6s %6s %6s %9s\n", "stage (us)", "p50", "p90", "p99", "p99.9",
          "max", "count");
  for (size_t i = 0; i < count; i++) {
    const struct bus_histogram *histogram = stages[i].histogram;
    if (histogram->count == 0)
      continue;
    fprintf(file, "%-34s", stages[i].name);
    for (size_t q = 0; q < BUS_COUNT_OF(quantiles); q++)
      put_us(file, bus_histogram_quantile(histogram, quantiles[q]));
    fprintf(file, " %9llu\n", (unsigned long long)histogram->count);
  }
}

void bus_latency_report_json(FILE *file, const struct bus_latency_stage *stages, size_t count)
{
  static const char *const names[] = {"p50_ns", "p90_ns", "p99_ns", "p999_ns", "max_ns"};
  fputc('[', file);
  for (size_t i = 0; i < count; i++) {
    const struct bus_histogram *histogram = stages[i].histogram;
    fprintf(file, "%s\n  {\"stage\": \"%s\", \"count\": %llu", i ? "," : "", stages[i].name,
            (unsigned long long)histogram->count);
    for (size_t q = 0; q < BUS_COUNT_OF(quantiles); q++)
      fprintf(file, ", \"%s\": %llu", names[q],
              (unsigned long long)bus_histogram_quantile(histogram, quantiles[q]));
    fprintf(file, ", \"mean_ns\": %.1f}",
            histogram->count ? (double)histogram->sum / (double)histogram->count : 0.0);
  }
  fputs("\n]\n", file);
}
