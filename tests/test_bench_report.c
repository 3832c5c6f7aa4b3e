#include "tools/bench/bench_report.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct bench_report *report;
static char path[64];

static void set_up(void)
{
  report = bench_report_new("test");
  snprintf(path, sizeof path, "/tmp/signalbus-report-%d", (int)getpid());
}

static void tear_down(void)
{
  unlink(path);
  bench_report_delete(report);
}

TestSuite(bench_report, .init = set_up, .fini = tear_down);

/* A group of which each trial has one canary reading before and one after it. */
static uint32_t add_group(const char *name, const double (*canaries)[2], uint32_t count)
{
  uint32_t group = bench_report_group(report, name);
  for (uint32_t i = 0; i < count; i++) {
    report->groups[group].trials[i].canary_before_ns = canaries ? canaries[i][0] : 0;
    report->groups[group].trials[i].canary_after_ns = canaries ? canaries[i][1] : 0;
  }
  report->groups[group].trial_count = count;
  return group;
}

static struct bench_measure *add_values(uint32_t group, const double *values, uint32_t count)
{
  struct bench_measure *measure =
      bench_report_measure(report, group, "value", "ns/message", false, false);
  cr_assert(measure);
  memcpy(measure->values, values, count * sizeof *values);
  return measure;
}

Test(bench_report, median_of_an_odd_count_is_the_one_in_the_middle)
{
  uint32_t group = add_group("g", NULL, 5);
  struct bench_measure *measure = add_values(group, (double[]){9, 1, 5, 100, 3}, 5);
  struct bench_summary summary;
  bench_report_summarize(report, measure, &summary);
  cr_assert_eq(summary.trials, 5);
  cr_assert_eq(summary.median, 5);
  cr_assert_eq(summary.lowest, 1);
  cr_assert_eq(summary.highest, 100);
  cr_assert_eq(measure->values[0], 9, "summarizing must not reorder the trials");
}

Test(bench_report, median_of_an_even_count_is_the_mean_of_two)
{
  uint32_t group = add_group("g", NULL, 4);
  struct bench_summary summary;
  bench_report_summarize(report, add_values(group, (double[]){8, 1, 2, 4}, 4), &summary);
  cr_assert_eq(summary.median, 3);
}

Test(bench_report, a_group_without_trials_has_zeros)
{
  uint32_t group = add_group("g", NULL, 0);
  struct bench_summary summary;
  bench_report_summarize(report, bench_report_measure(report, group, "h", "ns", true, true),
                         &summary);
  cr_assert_eq(summary.trials, 0);
  cr_assert_eq(summary.median, 0);
  cr_assert_eq(summary.count, 0);
  cr_assert_eq(summary.p50, 0);
}

Test(bench_report, unusual_canaries_reject_their_trials_in_every_group)
{
  const double a[][2] = {{100, 101}, {99, 300}, {40, 100}, {124, 76}};
  const double b[][2] = {{102, 98}, {126, 100}};
  uint32_t first = add_group("a", a, 4), second = add_group("b", b, 2);
  struct bench_measure *measure = add_values(first, (double[]){10, 1000, 1000, 20}, 4);
  cr_assert_eq(bench_report_judge(report, first), 2);
  cr_assert_eq(bench_report_judge(report, second), 1);
  cr_assert_float_eq(report->canary_median_ns, 100, 1e-9);
  cr_assert_float_eq(report->canary_low_ns, 75, 1e-9);
  cr_assert_float_eq(report->canary_high_ns, 125, 1e-9);
  cr_assert(!report->groups[first].trials[0].rejected);
  cr_assert(report->groups[first].trials[1].rejected);
  cr_assert(report->groups[first].trials[2].rejected);
  cr_assert(!report->groups[first].trials[3].rejected);
  struct bench_summary summary;
  bench_report_summarize(report, measure, &summary);
  cr_assert_eq(summary.trials, 2);
  cr_assert_eq(summary.median, 15);
  cr_assert_eq(summary.highest, 20, "a rejected trial is in the summary");
}

Test(bench_report, a_later_judgement_takes_a_rejection_back)
{
  uint32_t group = add_group("g", (const double[][2]){{50, 50}, {100, 100}, {101, 99}}, 3);
  cr_assert_eq(bench_report_judge(report, group), 2);
  cr_assert(report->groups[group].trials[0].rejected);
  for (uint32_t i = 3; i < 9; i++)
    report->groups[group].trials[i] = (struct bench_trial){50, 50, false};
  report->groups[group].trial_count = 9;
  cr_assert_eq(bench_report_judge(report, group), 7);
  cr_assert(!report->groups[group].trials[0].rejected);
  cr_assert(report->groups[group].trials[1].rejected);
}

Test(bench_report, a_canary_that_failed_rejects_and_no_canary_counts)
{
  uint32_t group = add_group("g", (const double[][2]){{100, 0}, {100, 100}, {100, -10}}, 3);
  uint32_t without = add_group("without", NULL, 3);
  cr_assert_eq(bench_report_judge(report, group), 1);
  cr_assert_float_eq(report->canary_median_ns, 100, 1e-9, "a failed canary is in the median");
  cr_assert_eq(bench_report_judge(report, without), 3);
}

static struct bench_measure *add_histogram(uint32_t group, const char *name)
{
  struct bench_measure *measure = bench_report_measure(report, group, name, "ns", true, true);
  cr_assert(measure);
  return measure;
}

Test(bench_report, quantiles_are_medians_of_the_trials_and_the_maximum_is_of_all)
{
  uint32_t group = add_group("g", NULL, 4);
  struct bench_measure *measure = add_histogram(group, "h");
  const uint64_t middles[] = {10, 20, 90};
  for (uint32_t trial = 0; trial < 3; trial++) {
    for (int i = 0; i < 99; i++)
      bus_histogram_record(&measure->histograms[trial], middles[trial]);
    bus_histogram_record(&measure->histograms[trial], 100 + trial);
    bench_report_close_trial(report, group, trial);
  }
  bench_report_close_trial(report, group, 3); /* nothing of this kind came in trial 3 */
  struct bench_summary summary;
  bench_report_summarize(report, measure, &summary);
  cr_assert_eq(summary.p50, 20);
  cr_assert_eq(summary.p99, 20);
  cr_assert_eq(summary.p999, 101);
  cr_assert_eq(summary.maximum, 102);
  cr_assert_eq(summary.count, 300);
  cr_assert_eq(summary.trials, 3, "a trial without values is in the summary");
  cr_assert_float_eq(summary.median, (99 * 20 + 101) / 100.0, 1e-9);
  report->groups[group].trials[2].rejected = true;
  bench_report_summarize(report, measure, &summary);
  cr_assert_eq(summary.p50, 15);
  cr_assert_eq(summary.maximum, 101);
  cr_assert_eq(summary.count, 200);
}

Test(bench_report, too_many_groups_or_measures_are_refused)
{
  for (uint32_t i = 0; i < BENCH_GROUPS_MAX; i++)
    cr_assert_eq(bench_report_group(report, "g"), i);
  cr_assert_eq(bench_report_group(report, "g"), BENCH_GROUPS_MAX);
  cr_assert_null(bench_report_measure(report, BENCH_GROUPS_MAX, "orphan", "ns", false, false));
  cr_assert(strstr(bus_error_message(), "orphan"));
  for (uint32_t i = 0; i < BENCH_MEASURES_MAX; i++)
    cr_assert(bench_report_measure(report, 0, "m", "ns", false, false));
  cr_assert_null(bench_report_measure(report, 0, "m", "ns", false, false));
  for (uint32_t i = 0; i < BENCH_NOTES_MAX + 3; i++)
    bench_report_note(report, "note %u: text", i);
  cr_assert_eq(report->note_count, BENCH_NOTES_MAX);
}

static json_t *write_and_load(void)
{
  cr_assert_eq(bench_report_write_json(report, path), BUS_OK, "%s", bus_error_message());
  json_error_t error;
  json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
  cr_assert(root, "%s:%d: %s", path, error.line, error.text);
  return root;
}

static const char *text_of(const json_t *object, const char *key)
{
  const char *text = json_string_value(json_object_get(object, key));
  cr_assert(text, "no string '%s'", key);
  return text;
}

Test(bench_report, json_has_every_trial)
{
  uint32_t group = add_group("g", (const double[][2]){{100, 100}, {100, 500}, {100, 102}}, 3);
  add_values(group, (double[]){1.5, 2.5, 3.5}, 3);
  struct bench_measure *measure = add_histogram(group, "h");
  for (uint32_t trial = 0; trial < 3; trial++)
    for (uint64_t value = 1; value <= 100; value++)
      bus_histogram_record(&measure->histograms[trial], value * (trial + 1));
  bench_report_judge(report, group);
  bench_report_note(report, "machine: of a test");
  json_t *root = write_and_load();
  cr_assert_str_eq(text_of(root, "benchmark"), "test");
  cr_assert_str_eq(text_of(json_object_get(root, "about"), "machine"), "of a test");
  cr_assert_float_eq(json_number_value(json_object_get(root, "canary_median_ns")), 100, 1e-9);
  json_t *trials = json_object_get(json_array_get(json_object_get(root, "groups"), 0), "trials");
  cr_assert_eq(json_array_size(trials), 3);
  cr_assert(json_is_false(json_object_get(json_array_get(trials, 0), "rejected")));
  cr_assert(json_is_true(json_object_get(json_array_get(trials, 1), "rejected")));
  const json_t *values = json_array_get(json_object_get(root, "measures"), 0);
  cr_assert_float_eq(json_number_value(json_object_get(values, "median")), 2.5, 1e-9);
  cr_assert_eq(json_array_size(json_object_get(values, "trials")), 3);
  cr_assert_str_eq(text_of(values, "unit"), "ns/message");
  const json_t *histogram = json_array_get(json_object_get(root, "measures"), 1);
  cr_assert_eq(json_integer_value(json_object_get(histogram, "count")), 200);
  cr_assert_eq(json_array_size(json_object_get(histogram, "trial_p50_ns")), 3);
  cr_assert_eq(json_number_value(json_object_get(histogram, "max_ns")), 300);
  cr_assert_eq(json_number_value(json_object_get(histogram, "p50_ns")), (50 + 151) / 2.0 - 0.5);
  json_decref(root);
}

Test(bench_report, json_takes_any_name_and_number)
{
  uint32_t group =
      add_group("\"quo\\ted\"\n\x01 \xc3\xa9 \xe2\x82\xac \xff\xc0\x80 \xed\xa0\x80 \xc2", NULL, 2);
  struct bench_measure *measure = add_values(group, (double[]){NAN, INFINITY}, 2);
  bench_report_note(report, "no colon in this one");
  bench_report_note(report, "path: /tmp/\"\\\t\xfe");
  json_t *root = write_and_load();
  const char *name = text_of(json_array_get(json_object_get(root, "groups"), 0), "name");
  cr_assert_str_eq(name, "\"quo\\ted\"?? \xc3\xa9 \xe2\x82\xac ??? ??? ?");
  const json_t *trials =
      json_object_get(json_array_get(json_object_get(root, "measures"), 0), "trials");
  cr_assert(json_is_null(json_array_get(trials, 0)));
  cr_assert(json_is_null(json_array_get(trials, 1)));
  cr_assert_str_eq(text_of(json_object_get(root, "about"), "path"), "/tmp/\"\\??");
  cr_assert_str_eq(text_of(json_object_get(root, "about"), "note"), "no colon in this one");
  cr_assert_eq(measure->group, group);
  json_decref(root);
}

Test(bench_report, an_empty_report_is_valid_json)
{
  json_t *root = write_and_load();
  cr_assert_eq(json_array_size(json_object_get(root, "groups")), 0);
  cr_assert_eq(json_array_size(json_object_get(root, "measures")), 0);
  json_decref(root);
}

Test(bench_report, outputs_that_cannot_be_written_are_named)
{
  const char *absent = "/tmp/signalbus-no-such-directory/out";
  struct bench_options options = {.json_path = absent};
  cr_assert_eq(bench_report_check_outputs(&options), BUS_ERROR_ABSENT);
  cr_assert(strstr(bus_error_message(), absent));
  options = (struct bench_options){.svg_path = absent};
  cr_assert_eq(bench_report_check_outputs(&options), BUS_ERROR_ABSENT);
  options = (struct bench_options){.svg_path = path};
  cr_assert_eq(bench_report_check_outputs(&options), BUS_OK);
  cr_assert_eq(bench_report_write_json(report, absent), BUS_ERROR_ABSENT);
  cr_assert_eq(bench_report_write_json(report, "/dev/full"), BUS_ERROR_NO_SPACE);
  cr_assert(strstr(bus_error_message(), "/dev/full"));
}

Test(bench_report, a_group_of_which_no_trial_counts_is_an_error_after_all_is_written)
{
  cr_assert(freopen("/dev/null", "w", stdout));
  uint32_t good = add_group("good", (const double[][2]){{100, 100}, {100, 100}, {100, 100}}, 3);
  add_group("unlucky", (const double[][2]){{900, 100}}, 1);
  struct bench_options options = {.json_path = path};
  bench_report_judge(report, good);
  cr_assert_eq(bench_report_write(report, &options), BUS_ERROR_AGAIN);
  cr_assert(strstr(bus_error_message(), "unlucky"));
  json_t *root = json_load_file(path, 0, NULL);
  cr_assert(root, "no JSON was written");
  json_decref(root);
  report->groups[1].trials[0].canary_before_ns = 100;
  bench_report_judge(report, good);
  cr_assert_eq(bench_report_write(report, &options), BUS_OK);
}
