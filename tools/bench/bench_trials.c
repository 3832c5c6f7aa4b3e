#include "tools/bench/bench_trials.h"

#include "tools/bench/bench_canary.h"
#include "tools/bench/bench_process.h"

static double canary_ns(const struct bench_trials *trials)
{
  if (!trials->options->canary)
    return 0;
  return trials->core_count == 2 ? bench_canary_ns(trials->options->cores) : bench_canary_core_ns();
}

static int run_trial(const struct bench_trials *trials, uint32_t group)
{
  struct bench_group *own = &trials->report->groups[group];
  struct bench_trial *trial = &own->trials[own->trial_count];
  bench_trial_begin();
  trial->canary_before_ns = canary_ns(trials);
  int error = trial->canary_before_ns < 0 ? (int)trial->canary_before_ns : BUS_OK;
  if (!error)
    error = trials->run(trials->context, group, own->trial_count);
  if (!error)
    error = bench_stop_error();
  if (error)
    return error;
  trial->canary_after_ns = canary_ns(trials);
  if (trial->canary_after_ns < 0)
    return (int)trial->canary_after_ns;
  bench_report_close_trial(trials->report, group, own->trial_count++);
  if (trials->options->fifo) /* else nobody starved */
    bench_breathe();
  return BUS_OK;
}

/* One trial of each group that still needs one; sets *needed to how many that were. */
static int run_round(const struct bench_trials *trials, uint32_t round, uint32_t *needed)
{
  struct bench_report *report = trials->report;
  *needed = 0;
  for (uint32_t i = 0; i < report->group_count; i++) {
    uint32_t group = (i + round) % report->group_count;
    if (bench_report_judge(report, group) >= trials->options->repeat)
      continue;
    ++*needed;
    int error = run_trial(trials, group);
    if (error)
      return error;
  }
  return BUS_OK;
}

int bench_trials_run(const struct bench_trials *trials)
{
  const uint32_t repeat = trials->options->repeat;
  uint32_t needed = 1;
  for (uint32_t round = 0; round < 2 * repeat && needed > 0; round++) {
    bench_progress(trials->report->title, round < repeat ? round : repeat - 1, repeat);
    int error = run_round(trials, round, &needed);
    if (error)
      return error;
  }
  for (uint32_t group = 0; group < trials->report->group_count; group++)
    bench_report_judge(trials->report, group);
  bench_progress(trials->report->title, repeat, repeat);
  return BUS_OK;
}
