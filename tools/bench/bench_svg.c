#include "tools/bench/bench_report.h"

#include "tools/svg_plot.h"

#include <stdlib.h>
#include <string.h>

/* The curves of a report, with what they point to. */
struct picture {
  struct svg_curve curves[BENCH_MEASURES_MAX];
  char labels[BENCH_MEASURES_MAX][160];
  struct bus_histogram histograms[BENCH_MEASURES_MAX];
  uint32_t count;
};

/* Groups differ by colour, the measures of one group by dashes; where there are more groups than
 * colours the dashes go on. */
static uint32_t dash_of(const struct bench_report *report, uint32_t index)
{
  const uint32_t group = report->measures[index].group;
  uint32_t before = 0;
  for (uint32_t i = 0; i < index; i++)
    before += report->measures[i].group == group && report->measures[i].plotted;
  return before + group / SVG_PLOT_COLOURS;
}

static void collect(struct picture *picture, const struct bench_report *report)
{
  for (uint32_t i = 0; i < report->measure_count; i++) {
    const struct bench_measure *measure = &report->measures[i];
    const uint32_t at = picture->count;
    if (!measure->plotted || !measure->histograms)
      continue;
    bench_report_merge(report, measure, &picture->histograms[at]);
    if (picture->histograms[at].count == 0)
      continue;
    snprintf(picture->labels[at], sizeof picture->labels[at], "%s: %s",
             report->groups[measure->group].name, measure->name + strspn(measure->name, " "));
    picture->curves[at] = (struct svg_curve){.label = picture->labels[at],
                                             .colour = measure->group,
                                             .dash = dash_of(report, i),
                                             .histogram = &picture->histograms[at]};
    picture->count++;
  }
}

int bench_svg_write(const struct bench_report *report, const char *path)
{
  struct picture *picture = calloc(1, sizeof *picture);
  if (!picture)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  collect(picture, report);
  char title[96];
  snprintf(title, sizeof title, "bus-bench %s", report->title);
  struct svg_plot plot;
  int error = svg_plot_open(&plot, path, 1, title, report->note_count ? report->notes[0] : NULL);
  if (!error) {
    svg_plot_percentiles(&plot, picture->curves, picture->count);
    error = svg_plot_close(&plot);
  }
  free(picture);
  return error;
}
