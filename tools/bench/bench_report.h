/* bench_report.h: what a benchmark found: as a table, as JSON, as a plot.
 *
 * A report has groups (contestants, inputs), each with trials (repetitions, with the canary before
 * and after), and measures: of each group and trial one value or a whole histogram. A trial whose
 * canary was out of its usual range is kept in the JSON and left out of everything else. */
#ifndef TOOLS_BENCH_REPORT_H
#define TOOLS_BENCH_REPORT_H

#include "shm/histogram.h"
#include "tools/bench/bench.h"

#define BENCH_GROUPS_MAX   256
#define BENCH_MEASURES_MAX 320
#define BENCH_NOTES_MAX    32
/* Rejected trials are repeated, up to as many again. */
#define BENCH_TRIALS_MAX (2 * BENCH_REPEAT_MAX)

struct bench_trial {
  double canary_before_ns; /* 0: none was run */
  double canary_after_ns;
  bool rejected;
};

struct bench_group {
  char name[64];
  struct bench_trial trials[BENCH_TRIALS_MAX];
  uint32_t trial_count;
};

struct bench_measure {
  uint32_t group;
  char name[64];
  char unit[16];
  bool plotted;
  double values[BENCH_TRIALS_MAX];  /* of a histogram: its mean */
  struct bus_histogram *histograms; /* [BENCH_TRIALS_MAX]; NULL: values only */
};

struct bench_report {
  const char *title;
  struct bench_group groups[BENCH_GROUPS_MAX];
  uint32_t group_count;
  struct bench_measure measures[BENCH_MEASURES_MAX];
  uint32_t measure_count;
  char notes[BENCH_NOTES_MAX][256];
  uint32_t note_count;
  const char *canary;      /* what the canary does, for people */
  double canary_median_ns; /* 0: none was run */
  double canary_low_ns;    /* usual range, once judged */
  double canary_high_ns;
};

/* Summaries of a measure over the trials that count; of a histogram, over those with values. */
struct bench_summary {
  uint32_t trials;
  double median; /* of the values; 0 when there is none */
  double lowest;
  double highest;
  uint64_t count; /* of a histogram's values, all trials together */
  double p50, p90, p99, p999;
  double maximum; /* of all trials */
};

/* Control plane; the report is one big object, made once. NULL with a message without memory. */
struct bench_report *bench_report_new(const char *title);
void bench_report_delete(struct bench_report *report);

/* Returns the group's index; BENCH_GROUPS_MAX when there are too many, which bench_report_measure
 * refuses. Names and notes are cut to their fields, and bytes that are not UTF-8 or not printable
 * become '?': they come from file names too. */
uint32_t bench_report_group(struct bench_report *report, const char *name);

/* Adds a measure of `group`; NULL with a message when there is no such group, or when out of memory
 * or places. Histograms are of ns. */
struct bench_measure *bench_report_measure(struct bench_report *report, uint32_t group,
                                           const char *name, const char *unit, bool histogram,
                                           bool plotted);

/* A line for people, "name: text"; each name once. Beyond BENCH_NOTES_MAX they are dropped. */
void bench_report_note(struct bench_report *report, const char *format, ...) BUS_PRINTF(2, 3);

/* Fills the values of `trial` from its histograms: their means. Call it at each trial's end. */
void bench_report_close_trial(struct bench_report *report, uint32_t group, uint32_t trial);

/* Judges every trial by the median of all canaries: rejected when one of its two failed (is not
 * above 0) or is more than a quarter away from it. Returns the trials of `group` that count. Trials
 * without canary count. */
uint32_t bench_report_judge(struct bench_report *report, uint32_t group);

void bench_report_summarize(const struct bench_report *report, const struct bench_measure *measure,
                            struct bench_summary *summary);

/* Adds up the histograms of the trials that count. */
void bench_report_merge(const struct bench_report *report, const struct bench_measure *measure,
                        struct bus_histogram *merged);

/* BUS_OK when the files that the options ask for can be written: told before all is measured.
 * Creates them. */
int bench_report_check_outputs(const struct bench_options *options);

/* What bench_report_write does, in parts, for a benchmark with tables of its own: title, notes and
 * trials on stdout; */
void bench_report_print_head(const struct bench_report *report);
/* the files that the options ask for. */
int bench_report_write_files(const struct bench_report *report,
                             const struct bench_options *options);

/* The table on stdout, then the files that the options ask for. BUS_ERROR_AGAIN, after all that,
 * when there is a group of which no trial counts. */
int bench_report_write(const struct bench_report *report, const struct bench_options *options);

/* Splits note `index` into its name (not NUL-terminated) and its text. */
void bench_report_note_split(const struct bench_report *report, uint32_t index, const char **name,
                             size_t *name_length, const char **text);

/* bench_report_json.c */
int bench_report_write_json(const struct bench_report *report, const char *path);

/* bench_svg.c: percentile plot of the plotted histograms. */
int bench_svg_write(const struct bench_report *report, const char *path);

#endif
