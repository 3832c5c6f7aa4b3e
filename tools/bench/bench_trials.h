/* bench_trials.h: repeats what is compared, in turn, and watches the machine meanwhile. */
#ifndef TOOLS_BENCH_TRIALS_H
#define TOOLS_BENCH_TRIALS_H

#include "tools/bench/bench_report.h"

struct bench_trials {
  struct bench_report *report;
  const struct bench_options *options; /* repeat, cores, canary */
  int core_count; /* 1 or 2: how many cores the benchmark, so its canary, uses */
  /* Measures trial `trial` of `group` and fills its measures; BUS_OK or a negative error. */
  int (*run)(void *context, uint32_t group, uint32_t trial);
  void *context;
};

/* Runs every group of the report options->repeat times: all of them in turn, another one first in
 * each round, with a canary before and after each trial. Then again, up to as many times, the
 * groups of which trials were rejected. BUS_OK or a negative error. */
int bench_trials_run(const struct bench_trials *trials);

#endif
