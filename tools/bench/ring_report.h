/* ring_report.h: the ring benchmark's entries and their table. */
#ifndef TOOLS_RING_REPORT_H
#define TOOLS_RING_REPORT_H

#include "tools/bench/bench_report.h"
#include "tools/bench/ring_trial.h"

#define RING_ENTRIES_MAX (BENCH_GROUPS_MAX - 1) /* one group is for the comparison */

/* One thing measured: a contestant in one workload at one size, in one way. */
struct ring_entry {
  const struct ring_contestant *contestant;
  enum ring_workload workload;
  enum ring_size size;
  uint32_t rings;
  bool between_threads;
  bool with_observer;
  char label[64]; /* of the row: everything but workload and size */
  uint32_t group;
  struct bench_measure *measure;
};

/* "8 B", "16 KiB"; "saturated". */
const char *ring_size_name(enum ring_size size);
const char *ring_workload_name(enum ring_workload workload);

/* Adds the ratios to the best peer and to the limit, of every size and workload, as measures of a
 * group of their own. BUS_OK or an error with a message. */
int ring_report_compare(struct bench_report *report, const struct ring_entry *entries,
                        uint32_t count);

/* A table for each size: a row for each label, a column for each workload. */
void ring_report_print(const struct bench_report *report, const struct ring_entry *entries,
                       uint32_t count);

#endif
