/* latency_report.h: the stages of a tick's way, each with its percentiles. */
#ifndef SIGNALBUS_LATENCY_REPORT_H
#define SIGNALBUS_LATENCY_REPORT_H

#include "shm/histogram.h"

#include <stdio.h>

BUS_BEGIN_DECLARATIONS

struct bus_latency_stage {
  const char *name;
  const struct bus_histogram *histogram; /* ns */
};

/* Writes a table, one line for a stage: p50, p90, p99, p99.9, max in microseconds, and the count.
 * Stages without values are left out. The histograms are private or copied; errors stay in `file`.
 */
void bus_latency_report_text(FILE *file, const struct bus_latency_stage *stages, size_t count);

/* Writes a JSON array of objects: stage, count, p50_ns, p90_ns, p99_ns, p999_ns, max_ns, mean_ns.
 */
void bus_latency_report_json(FILE *file, const struct bus_latency_stage *stages, size_t count);

BUS_END_DECLARATIONS

#endif
