#include "tools/bench/bench_report.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static void write_string(FILE *file, const char *text, size_t length)
{
  fputc('"', file);
  for (size_t i = 0; i < length; i++) {
    unsigned char character = (unsigned char)text[i];
    if (character == '"' || character == '\\')
      fprintf(file, "\\%c", character);
    else if (character < 0x20)
      fprintf(file, "\\u%04x", character);
    else
      fputc(character, file);
  }
  fputc('"', file);
}

static void write_text(FILE *file, const char *text)
{
  write_string(file, text, strlen(text));
}

/* JSON has no word for what is not finite. */
static void write_number(FILE *file, double number)
{
  if (isfinite(number))
    fprintf(file, "%.3f", number);
  else
    fputs("null", file);
}

static void write_notes(FILE *file, const struct bench_report *report)
{
  fputs("  \"about\": {", file);
  for (uint32_t i = 0; i < report->note_count; i++) {
    const char *name, *text;
    size_t name_length;
    bench_report_note_split(report, i, &name, &name_length, &text);
    fputs(i ? ",\n    " : "\n    ", file);
    write_string(file, name, name_length);
    fputs(": ", file);
    write_text(file, text);
  }
  fputs("\n  },\n", file);
}

static void write_groups(FILE *file, const struct bench_report *report)
{
  fputs("  \"groups\": [", file);
  for (uint32_t i = 0; i < report->group_count; i++) {
    const struct bench_group *group = &report->groups[i];
    fputs(i ? ",\n    {\"name\": " : "\n    {\"name\": ", file);
    write_text(file, group->name);
    fputs(", \"trials\": [", file);
    for (uint32_t j = 0; j < group->trial_count; j++)
      fprintf(file, "%s{\"canary_before_ns\": %.1f, \"canary_after_ns\": %.1f, \"rejected\": %s}",
              j ? ", " : "", group->trials[j].canary_before_ns, group->trials[j].canary_after_ns,
              group->trials[j].rejected ? "true" : "false");
    fputs("]}", file);
  }
  fputs("\n  ],\n", file);
}

/* A quantile of each trial, rejected ones included: their flags are in "groups". */
static void write_trial_quantiles(FILE *file, const struct bench_group *group,
                                  const struct bench_measure *measure, const char *name,
                                  double quantile)
{
  fprintf(file, ", \"%s\": [", name);
  for (uint32_t i = 0; i < group->trial_count; i++)
    fprintf(file, "%s%" PRIu64, i ? ", " : "",
            bus_histogram_quantile(&measure->histograms[i], quantile));
  fputc(']', file);
}

static void write_histogram(FILE *file, const struct bench_report *report,
                            const struct bench_measure *measure,
                            const struct bench_summary *summary)
{
  static const double quantiles[] = {0,    0.1,   0.25,  0.5,    0.75,    0.9,      0.95,
                                     0.99, 0.995, 0.999, 0.9999, 0.99999, 0.999999, 1};
  const struct bench_group *group = &report->groups[measure->group];
  struct bus_histogram merged;
  bench_report_merge(report, measure, &merged);
  fprintf(file,
          ", \"count\": %" PRIu64 ",\n     \"p50_ns\": %.0f, \"p90_ns\": %.0f, \"p99_ns\": %.0f, "
          "\"p999_ns\": %.0f, \"max_ns\": %.0f,\n     \"quantiles_ns\": [",
          summary->count, summary->p50, summary->p90, summary->p99, summary->p999,
          summary->maximum);
  for (size_t i = 0; i < BUS_COUNT_OF(quantiles); i++)
    fprintf(file, "%s[%g, %" PRIu64 "]", i ? ", " : "", quantiles[i],
            bus_histogram_quantile(&merged, quantiles[i]));
  fputc(']', file);
  write_trial_quantiles(file, group, measure, "trial_p50_ns", 0.5);
  write_trial_quantiles(file, group, measure, "trial_p99_ns", 0.99);
}

static void write_measure(FILE *file, const struct bench_report *report,
                          const struct bench_measure *measure)
{
  struct bench_summary summary;
  bench_report_summarize(report, measure, &summary);
  fputs("{\"group\": ", file);
  write_text(file, report->groups[measure->group].name);
  fputs(", \"name\": ", file);
  write_text(file, measure->name);
  fputs(", \"unit\": ", file);
  write_text(file, measure->unit);
  fputs(measure->histograms ? ", \"mean\": " : ", \"median\": ", file);
  write_number(file, summary.median);
  fputs(", \"lowest\": ", file);
  write_number(file, summary.lowest);
  fputs(", \"highest\": ", file);
  write_number(file, summary.highest);
  fputs(", \"trials\": [", file);
  uint32_t trials = report->groups[measure->group].trial_count;
  for (uint32_t i = 0; i < trials; i++) {
    fputs(i ? ", " : "", file);
    write_number(file, measure->values[i]);
  }
  fputc(']', file);
  if (measure->histograms)
    write_histogram(file, report, measure, &summary);
  fputc('}', file);
}

int bench_report_write_json(const struct bench_report *report, const char *path)
{
  FILE *file = fopen(path, "we");
  if (!file)
    return bus_error_set_errno("%s: creating", path);
  fputs("{\n  \"benchmark\": ", file);
  write_text(file, report->title);
  fputs(",\n  \"version\": \"" BUS_VERSION "\",\n", file);
  write_notes(file, report);
  fputs("  \"canary\": ", file);
  write_text(file, report->canary);
  fprintf(file, ",\n  \"canary_median_ns\": %.1f, \"canary_usual_range_ns\": [%.1f, %.1f],\n",
          report->canary_median_ns, report->canary_low_ns, report->canary_high_ns);
  write_groups(file, report);
  fputs("  \"measures\": [", file);
  for (uint32_t i = 0; i < report->measure_count; i++) {
    fputs(i ? ",\n    " : "\n    ", file);
    write_measure(file, report, &report->measures[i]);
  }
  fputs("\n  ]\n}\n", file);
  bool failed = ferror(file) != 0;
  if (fclose(file) != 0 || failed)
    return bus_error_set_errno("%s: writing", path);
  return BUS_OK;
}
