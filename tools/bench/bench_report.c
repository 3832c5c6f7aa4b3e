#include "tools/bench/bench_report.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How far from the median a canary may be. Wide enough for what a shared machine does all the time,
 * narrow enough for a core that was moved or shared. */
#define CANARY_TOLERANCE 0.25

/* Length of the UTF-8 sequence that starts at `text` and is no control character, else 0. */
static size_t utf8_length(const unsigned char *text)
{
  size_t length = text[0] < 0x80 ? 1 : text[0] < 0xe0 ? 2 : text[0] < 0xf0 ? 3 : 4;
  uint32_t code = length == 1 ? text[0] : text[0] & (0x7fu >> length);
  if (text[0] < 0x20 || text[0] == 0x7f || (text[0] >= 0x80 && text[0] < 0xc0) || text[0] >= 0xf8)
    return 0;
  for (size_t i = 1; i < length; i++) {
    if ((text[i] & 0xc0) != 0x80)
      return 0;
    code = code << 6 | (text[i] & 0x3f);
  }
  static const uint32_t smallest[] = {0, 0, 0xa0, 0x800, 0x10000};
  bool allowed = code >= smallest[length] && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) &&
                 code != 0xfffe && code != 0xffff;
  return allowed ? length : 0;
}

/* Puts '?' for every byte that JSON or XML would not take. */
static void clean(char *text)
{
  for (unsigned char *at = (unsigned char *)text; *at;) {
    size_t length = utf8_length(at);
    if (length == 0)
      *at = '?';
    at += length ? length : 1;
  }
}

struct bench_report *bench_report_new(const char *title)
{
  struct bench_report *report = calloc(1, sizeof *report);
  if (!report) {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    return NULL;
  }
  report->title = title;
  report->canary = "cache-line round trip";
  return report;
}

void bench_report_delete(struct bench_report *report)
{
  if (!report)
    return;
  for (uint32_t i = 0; i < report->measure_count; i++)
    free(report->measures[i].histograms);
  free(report);
}

uint32_t bench_report_group(struct bench_report *report, const char *name)
{
  if (report->group_count == BENCH_GROUPS_MAX)
    return BENCH_GROUPS_MAX;
  uint32_t index = report->group_count++;
  snprintf(report->groups[index].name, sizeof report->groups[index].name, "%s", name);
  clean(report->groups[index].name);
  return index;
}

struct bench_measure *bench_report_measure(struct bench_report *report, uint32_t group,
                                           const char *name, const char *unit, bool histogram,
                                           bool plotted)
{
  if (group >= report->group_count) {
    bus_error_set(BUS_ERROR_NO_SPACE, "'%s' is of no group: there are %d at most", name,
                  BENCH_GROUPS_MAX);
    return NULL;
  }
  if (report->measure_count == BENCH_MEASURES_MAX) {
    bus_error_set(BUS_ERROR_NO_SPACE, "more than %d measures", BENCH_MEASURES_MAX);
    return NULL;
  }
  struct bench_measure *measure = &report->measures[report->measure_count];
  measure->group = group;
  measure->plotted = plotted;
  snprintf(measure->name, sizeof measure->name, "%s", name);
  snprintf(measure->unit, sizeof measure->unit, "%s", unit);
  if (histogram) {
    measure->histograms = calloc(BENCH_TRIALS_MAX, sizeof *measure->histograms);
    if (!measure->histograms) {
      bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
      return NULL;
    }
  }
  report->measure_count++;
  return measure;
}

void bench_report_note(struct bench_report *report, const char *format, ...)
{
  if (report->note_count == BENCH_NOTES_MAX)
    return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(report->notes[report->note_count], sizeof report->notes[0], format, arguments);
  va_end(arguments);
  clean(report->notes[report->note_count++]);
}

void bench_report_note_split(const struct bench_report *report, uint32_t index, const char **name,
                             size_t *name_length, const char **text)
{
  const char *note = report->notes[index];
  const char *colon = strstr(note, ": ");
  *name = colon ? note : "note";
  *name_length = colon ? (size_t)(colon - note) : strlen(*name);
  *text = colon ? colon + 2 : note;
}

void bench_report_close_trial(struct bench_report *report, uint32_t group, uint32_t trial)
{
  for (uint32_t i = 0; i < report->measure_count; i++) {
    struct bench_measure *measure = &report->measures[i];
    if (measure->group != group || !measure->histograms)
      continue;
    const struct bus_histogram *histogram = &measure->histograms[trial];
    if (histogram->count)
      measure->values[trial] = (double)histogram->sum / (double)histogram->count;
  }
}

static int compare_doubles(const void *left, const void *right)
{
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

/* Sorts `values`; the mean of the two in the middle for an even count, 0 for none. */
static double median_of(double *values, uint32_t count)
{
  if (count == 0)
    return 0;
  qsort(values, count, sizeof *values, compare_doubles);
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* The canary measures the machine, not the contestant: all groups share one usual range. */
static double canary_median_ns(const struct bench_report *report)
{
  static double canaries[2 * BENCH_TRIALS_MAX * BENCH_GROUPS_MAX];
  uint32_t count = 0;
  for (uint32_t i = 0; i < report->group_count; i++) {
    const struct bench_group *group = &report->groups[i];
    for (uint32_t trial = 0; trial < group->trial_count; trial++) {
      if (group->trials[trial].canary_before_ns <= 0)
        continue;
      canaries[count++] = group->trials[trial].canary_before_ns;
      if (group->trials[trial].canary_after_ns > 0)
        canaries[count++] = group->trials[trial].canary_after_ns;
    }
  }
  return median_of(canaries, count);
}

uint32_t bench_report_judge(struct bench_report *report, uint32_t group)
{
  report->canary_median_ns = canary_median_ns(report);
  report->canary_low_ns = report->canary_median_ns * (1 - CANARY_TOLERANCE);
  report->canary_high_ns = report->canary_median_ns * (1 + CANARY_TOLERANCE);
  uint32_t accepted = 0;
  for (uint32_t i = 0; i < report->group_count; i++) {
    for (uint32_t j = 0; j < report->groups[i].trial_count; j++) {
      struct bench_trial *trial = &report->groups[i].trials[j];
      trial->rejected =
          trial->canary_before_ns > 0 && (trial->canary_before_ns < report->canary_low_ns ||
                                          trial->canary_before_ns > report->canary_high_ns ||
                                          trial->canary_after_ns < report->canary_low_ns ||
                                          trial->canary_after_ns > report->canary_high_ns);
      if (i == group && !trial->rejected)
        accepted++;
    }
  }
  return accepted;
}

static double median_quantile(const struct bench_group *group, const struct bench_measure *measure,
                              double quantile)
{
  double values[BENCH_TRIALS_MAX];
  uint32_t count = 0;
  for (uint32_t i = 0; i < group->trial_count; i++)
    if (!group->trials[i].rejected && measure->histograms[i].count)
      values[count++] = (double)bus_histogram_quantile(&measure->histograms[i], quantile);
  return median_of(values, count);
}

void bench_report_merge(const struct bench_report *report, const struct bench_measure *measure,
                        struct bus_histogram *merged)
{
  const struct bench_group *group = &report->groups[measure->group];
  memset(merged, 0, sizeof *merged);
  for (uint32_t i = 0; i < group->trial_count; i++)
    if (!group->trials[i].rejected && measure->histograms[i].count)
      bus_histogram_add(merged, &measure->histograms[i]);
}

void bench_report_summarize(const struct bench_report *report, const struct bench_measure *measure,
                            struct bench_summary *summary)
{
  const struct bench_group *group = &report->groups[measure->group];
  double values[BENCH_TRIALS_MAX];
  uint32_t count = 0;
  memset(summary, 0, sizeof *summary);
  for (uint32_t i = 0; i < group->trial_count; i++)
    if (!group->trials[i].rejected && (!measure->histograms || measure->histograms[i].count))
      values[count++] = measure->values[i];
  summary->trials = count;
  summary->median = median_of(values, count);
  if (count) {
    summary->lowest = values[0]; /* sorted by now */
    summary->highest = values[count - 1];
  }
  if (!measure->histograms)
    return;
  struct bus_histogram merged;
  bench_report_merge(report, measure, &merged);
  summary->count = merged.count;
  summary->maximum = (double)merged.maximum;
  summary->p50 = median_quantile(group, measure, 0.5);
  summary->p90 = median_quantile(group, measure, 0.9);
  summary->p99 = median_quantile(group, measure, 0.99);
  summary->p999 = median_quantile(group, measure, 0.999);
}

static void print_values(const struct bench_report *report)
{
  bool headed = false;
  for (uint32_t i = 0; i < report->measure_count; i++) {
    const struct bench_measure *measure = &report->measures[i];
    struct bench_summary summary;
    bench_report_summarize(report, measure, &summary);
    if (measure->histograms || summary.trials == 0)
      continue;
    if (!headed)
      printf("\n%-28s %-24s %12s %12s %12s  %s\n", "", "median of repetitions:", "median", "lowest",
             "highest", "unit");
    headed = true;
    printf("%-28s %-24s %12.2f %12.2f %12.2f  %s\n", report->groups[measure->group].name,
           measure->name, summary.median, summary.lowest, summary.highest, measure->unit);
  }
}

static void print_histograms(const struct bench_report *report)
{
  bool headed = false;
  for (uint32_t i = 0; i < report->measure_count; i++) {
    const struct bench_measure *measure = &report->measures[i];
    if (!measure->histograms)
      continue;
    struct bench_summary summary;
    bench_report_summarize(report, measure, &summary);
    if (summary.count == 0)
      continue;
    if (!headed)
      printf("\n%-28s %-24s %8s %8s %8s %8s %9s %8s %9s\n", "", "medians, max of all, ns", "p50",
             "p90", "p99", "p99.9", "max", "mean", "count");
    headed = true;
    printf("%-28s %-24s %8.0f %8.0f %8.0f %8.0f %9.0f %8.1f %9" PRIu64 "\n",
           report->groups[measure->group].name, measure->name, summary.p50, summary.p90,
           summary.p99, summary.p999, summary.maximum, summary.median, summary.count);
  }
}

static void print_trials(const struct bench_report *report)
{
  uint32_t trials = 0, rejected = 0;
  for (uint32_t i = 0; i < report->group_count; i++) {
    for (uint32_t j = 0; j < report->groups[i].trial_count; j++) {
      trials++;
      rejected += report->groups[i].trials[j].rejected;
    }
  }
  printf("%-12s %u, of which %u rejected", "trials", trials, rejected);
  if (report->canary_median_ns > 0)
    printf("; canary: %s, median %.0f ns, %.0f to %.0f count", report->canary,
           report->canary_median_ns, report->canary_low_ns, report->canary_high_ns);
  putchar('\n');
}

int bench_report_check_outputs(const struct bench_options *options)
{
  const char *const paths[] = {options->json_path, options->svg_path};
  for (size_t i = 0; i < BUS_COUNT_OF(paths); i++) {
    FILE *file = paths[i] ? fopen(paths[i], "ae") : NULL;
    if (paths[i] && !file)
      return bus_error_set_errno("%s: creating", paths[i]);
    if (file)
      fclose(file);
  }
  return BUS_OK;
}

static int check_groups(const struct bench_report *report)
{
  for (uint32_t i = 0; i < report->group_count; i++) {
    const struct bench_group *group = &report->groups[i];
    uint32_t counting = 0;
    for (uint32_t j = 0; j < group->trial_count; j++)
      counting += !group->trials[j].rejected;
    if (counting == 0)
      return bus_error_set(BUS_ERROR_AGAIN,
                           "no repetition of '%s' counts: the machine was too unsteady; try again "
                           "when it is idle, or with --no-canary",
                           group->name);
  }
  return BUS_OK;
}

void bench_report_print_head(const struct bench_report *report)
{
  printf("bus-bench %s\n", report->title);
  for (uint32_t i = 0; i < report->note_count; i++) {
    const char *name, *text;
    size_t name_length;
    bench_report_note_split(report, i, &name, &name_length, &text);
    printf("%-12.*s %s\n", (int)name_length, name, text);
  }
  print_trials(report);
}

int bench_report_write_files(const struct bench_report *report, const struct bench_options *options)
{
  int error = options->json_path ? bench_report_write_json(report, options->json_path) : BUS_OK;
  if (!error && options->svg_path)
    error = bench_svg_write(report, options->svg_path);
  return error ? error : check_groups(report);
}

int bench_report_write(const struct bench_report *report, const struct bench_options *options)
{
  bench_report_print_head(report);
  print_values(report);
  print_histograms(report);
  return bench_report_write_files(report, options);
}
