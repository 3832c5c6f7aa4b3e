#include "consumers/latency_report.h"

static const double quantiles[] = {0.5, 0.9, 0.99, 0.999, 1.0};

void bus_latency_report_text(FILE *file, const struct bus_latency_stage *stages, size_t count)
{
  fprintf(file, "%-40s %9s %9s %9s %9s %9s %10s\n", "stage (us)", "p50", "p90", "p99", "p99.9",
          "max", "count");
  for (size_t i = 0; i < count; i++) {
    const struct bus_histogram *histogram = stages[i].histogram;
    if (histogram->count == 0)
      continue;
    fprintf(file, "%-40s", stages[i].name);
    for (size_t q = 0; q < BUS_COUNT_OF(quantiles); q++)
      fprintf(file, " %9.2f", (double)bus_histogram_quantile(histogram, quantiles[q]) / 1000.0);
    fprintf(file, " %10llu\n", (unsigned long long)histogram->count);
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
