#include "tools/bench/bench_process.h"
#include "tools/bench/bench_trials.h"

#include <criterion/criterion.h>
#include <signal.h>

struct calls {
  uint32_t groups[64];
  uint32_t trials[64];
  uint32_t count;
  uint32_t fail_at; /* this call fails; 0: none */
  struct bench_measure *measure;
};

static int note_call(void *context, uint32_t group, uint32_t trial)
{
  struct calls *calls = context;
  calls->groups[calls->count] = group;
  calls->trials[calls->count++] = trial;
  if (calls->measure)
    bus_histogram_record(&calls->measure->histograms[trial], 10 * (trial + 1));
  if (calls->count == calls->fail_at)
    return bus_error_set(BUS_ERROR_FORMAT, "as asked");
  return BUS_OK;
}

static int run(struct bench_report *report, struct calls *calls, uint32_t repeat, bool canary)
{
  struct bench_options options = {.repeat = repeat, .canary = canary, .cores = {-1, -1}};
  struct bench_trials trials = {
      .report = report, .options = &options, .core_count = 1, .run = note_call, .context = calls};
  cr_assert_eq(bench_clock_init(), BUS_OK);
  return bench_trials_run(&trials);
}

Test(bench_trials, every_group_is_first_in_turn)
{
  struct bench_report *report = bench_report_new("test");
  for (int i = 0; i < 3; i++)
    bench_report_group(report, "g");
  struct calls calls = {0};
  cr_assert_eq(run(report, &calls, 3, false), BUS_OK);
  const uint32_t groups[] = {0, 1, 2, 1, 2, 0, 2, 0, 1}, trials[] = {0, 0, 0, 1, 1, 1, 2, 2, 2};
  cr_assert_eq(calls.count, 9);
  cr_assert_arr_eq(calls.groups, groups, sizeof groups);
  cr_assert_arr_eq(calls.trials, trials, sizeof trials);
  for (uint32_t i = 0; i < 3; i++)
    cr_assert_eq(report->groups[i].trial_count, 3);
  bench_report_delete(report);
}

Test(bench_trials, each_trial_has_its_canaries_and_its_means)
{
  struct bench_report *report = bench_report_new("test");
  uint32_t group = bench_report_group(report, "g");
  struct calls calls = {.measure = bench_report_measure(report, group, "h", "ns", true, false)};
  cr_assert_eq(run(report, &calls, 2, true), BUS_OK);
  uint32_t count = report->groups[group].trial_count;
  cr_assert(count >= 2 && count <= 4, "%u trials", count);
  for (uint32_t i = 0; i < count; i++) {
    cr_assert_gt(report->groups[group].trials[i].canary_before_ns, 0);
    cr_assert_gt(report->groups[group].trials[i].canary_after_ns, 0);
    cr_assert_eq(calls.measure->values[i], 10 * (i + 1));
  }
  bench_report_delete(report);
}

Test(bench_trials, an_error_ends_it_at_once)
{
  struct bench_report *report = bench_report_new("test");
  bench_report_group(report, "a");
  bench_report_group(report, "b");
  struct calls calls = {.fail_at = 3};
  cr_assert_eq(run(report, &calls, 5, false), BUS_ERROR_FORMAT);
  cr_assert_eq(calls.count, 3);
  cr_assert_str_eq(bus_error_message(), "as asked");
  cr_assert_eq(report->groups[1].trial_count, 1, "a trial that failed counts");
  bench_report_delete(report);
}

Test(bench_trials, a_stop_ends_it)
{
  struct bench_report *report = bench_report_new("test");
  bench_report_group(report, "a");
  struct calls calls = {0};
  bench_process_init();
  raise(SIGTERM);
  cr_assert_eq(run(report, &calls, 5, false), BUS_ERROR_AGAIN);
  cr_assert_eq(calls.count, 1);
  bench_report_delete(report);
}
