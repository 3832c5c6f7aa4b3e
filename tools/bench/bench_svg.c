/* A plot of percentiles: x is 1/(1-p) and y the latency, both on log scales, so that each decade of
 * rarity has the same width and a tail is seen as a tail. */
#include "tools/bench/bench_report.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define WIDTH            1200.0
#define HEIGHT           560.0
#define LEFT             80.0
#define RIGHT            340.0 /* the legend stands there, where no curve can hide it */
#define TOP              70.0
#define BOTTOM           60.0
#define STEPS_PER_DECADE 40
#define LEGEND_LINE      18.0
#define DECADES_MAX      9

/* Colours that stay apart for colour-blind readers (Okabe and Ito). */
static const char *const colours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                      "#e69f00", "#56b4e9", "#000000", "#999999"};

/* Groups differ by colour, the measures of one group by these. */
static const char *const dashes[] = {"none", "6 4", "2 3", "10 3 2 3", "14 4", "1 5"};

struct style {
  const char *colour;
  const char *dash;
};

struct plot {
  FILE *file;
  double decades; /* of x */
  double low_ns;
  double high_ns;
};

static void write_escaped(FILE *file, const char *text)
{
  for (; *text; text++) {
    if (*text == '&')
      fputs("&amp;", file);
    else if (*text == '<')
      fputs("&lt;", file);
    else if (*text == '>')
      fputs("&gt;", file);
    else if ((unsigned char)*text >= 0x20)
      fputc(*text, file);
  }
}

static double x_of(const struct plot *plot, double decade)
{
  return LEFT + decade / plot->decades * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct plot *plot, double ns)
{
  double span = log10(plot->high_ns / plot->low_ns);
  return HEIGHT - BOTTOM - log10(ns / plot->low_ns) / span * (HEIGHT - TOP - BOTTOM);
}

static void write_text(const struct plot *plot, double x, double y, const char *anchor, int size,
                       const char *text)
{
  fprintf(plot->file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\">", x, y,
          anchor, size);
  write_escaped(plot->file, text);
  fputs("</text>\n", plot->file);
}

static void write_line(const struct plot *plot, double x1, double y1, double x2, double y2)
{
  fprintf(plot->file,
          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", x1, y1,
          x2, y2);
}

static void write_x_axis(const struct plot *plot)
{
  write_text(plot, x_of(plot, 0), HEIGHT - BOTTOM + 20, "middle", 12, "0 %");
  write_line(plot, LEFT, TOP, LEFT, HEIGHT - BOTTOM);
  for (int decade = 1; decade <= (int)plot->decades; decade++) {
    char label[32];
    double percent = 100 - pow(10, 2 - decade);
    snprintf(label, sizeof label, "%.*f %%", decade > 2 ? decade - 2 : 0, percent);
    double x = x_of(plot, decade);
    write_line(plot, x, TOP, x, HEIGHT - BOTTOM);
    write_text(plot, x, HEIGHT - BOTTOM + 20, "middle", 12, label);
  }
  if (plot->decades < 7) { /* else the labels would run into each other */
    double x = x_of(plot, log10(2));
    write_line(plot, x, TOP, x, HEIGHT - BOTTOM);
    write_text(plot, x, HEIGHT - BOTTOM + 20, "middle", 12, "50 %");
  }
  write_text(plot, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 44, "middle", 13,
             "percentile p, on the scale 1/(1-p)");
}

static void write_y_axis(const struct plot *plot)
{
  static const double steps[] = {1, 2, 5};
  for (int decade = 0; decade <= (int)log10(plot->high_ns); decade++) {
    for (size_t i = 0; i < BUS_COUNT_OF(steps); i++) {
      double ns = pow(10, decade) * steps[i];
      if (ns < plot->low_ns * 0.999 || ns > plot->high_ns * 1.001)
        continue;
      char label[32];
      if (ns < 1e3)
        snprintf(label, sizeof label, "%.0f ns", ns);
      else if (ns < 1e6)
        snprintf(label, sizeof label, "%.0f \u00b5s", ns / 1e3);
      else if (ns < 1e9)
        snprintf(label, sizeof label, "%.0f ms", ns / 1e6);
      else
        snprintf(label, sizeof label, "%.0f s", ns / 1e9);
      write_line(plot, LEFT, y_of(plot, ns), WIDTH - RIGHT, y_of(plot, ns));
      write_text(plot, LEFT - 8, y_of(plot, ns) + 4, "end", 12, label);
    }
  }
  fprintf(plot->file,
          "<text transform=\"translate(20 %.1f) rotate(-90)\" text-anchor=\"middle\" "
          "font-size=\"13\">latency</text>\n",
          (TOP + HEIGHT - BOTTOM) / 2);
}

static void write_curve(const struct plot *plot, const struct bus_histogram *histogram,
                        const struct style *style)
{
  fprintf(plot->file,
          "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\" "
          "points=\"",
          style->colour, style->dash);
  double last = fmin(log10((double)histogram->count), plot->decades); /* no value beyond */
  for (int step = 0; step <= (int)(last * STEPS_PER_DECADE); step++) {
    double decade = (double)step / STEPS_PER_DECADE;
    double ns = (double)bus_histogram_quantile(histogram, 1 - pow(10, -decade));
    fprintf(plot->file, "%.1f,%.1f ", x_of(plot, decade), y_of(plot, ns < 1 ? 1 : ns));
  }
  double maximum = histogram->maximum ? (double)histogram->maximum : 1;
  fprintf(plot->file, "%.1f,%.1f\"/>\n", x_of(plot, last), y_of(plot, maximum));
}

static void write_legend(const struct plot *plot, const struct bench_report *report,
                         const struct bench_measure *measure, uint32_t row,
                         const struct style *style)
{
  char label[160];
  const char *name = measure->name + strspn(measure->name, " ");
  snprintf(label, sizeof label, "%s: %s", report->groups[measure->group].name, name);
  double left = WIDTH - RIGHT + 20, y = TOP + 14 + row * LEGEND_LINE;
  fprintf(plot->file,
          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
          "stroke-width=\"2\" stroke-dasharray=\"%s\"/>\n",
          left, y - 4, left + 40, y - 4, style->colour, style->dash);
  write_text(plot, left + 48, y, "start", 12, label);
}

/* More groups than colours: the dashes go on. */
static struct style style_of(const struct bench_report *report, uint32_t index)
{
  const uint32_t group = report->measures[index].group;
  uint32_t before = 0;
  for (uint32_t i = 0; i < index; i++)
    before += report->measures[i].group == group && report->measures[i].plotted;
  uint32_t dash = before + group / (uint32_t)BUS_COUNT_OF(colours);
  return (struct style){colours[group % BUS_COUNT_OF(colours)],
                        dashes[dash % BUS_COUNT_OF(dashes)]};
}

/* The smallest 1-2-5 step that is not below `ns` (up), or the largest not above it. */
static double round_to_step(double ns, bool up)
{
  static const double steps[] = {1, 2, 5, 10};
  double decade = pow(10, floor(log10(ns)));
  double result = decade;
  for (size_t i = 0; i < BUS_COUNT_OF(steps); i++) {
    if (up && decade * steps[i] >= ns)
      return decade * steps[i];
    if (!up && decade * steps[i] <= ns)
      result = decade * steps[i];
  }
  return result;
}

/* Sets the ranges of both axes; false when there is nothing to plot. */
static bool choose_ranges(struct plot *plot, const struct bench_report *report)
{
  double lowest = INFINITY, highest = 1, count = 0;
  for (uint32_t i = 0; i < report->measure_count; i++) {
    struct bus_histogram merged;
    if (!report->measures[i].plotted || !report->measures[i].histograms)
      continue;
    bench_report_merge(report, &report->measures[i], &merged);
    if (merged.count == 0)
      continue;
    lowest = fmin(lowest, fmax(1, (double)merged.minimum));
    highest = fmax(highest, (double)merged.maximum);
    count = fmax(count, (double)merged.count);
  }
  plot->decades = fmin(DECADES_MAX, fmax(1, ceil(log10(fmax(2, count)) - 1e-9)));
  plot->low_ns = count > 0 ? round_to_step(lowest, false) : 1;
  plot->high_ns = fmax(plot->low_ns * 10, round_to_step(highest, true));
  return count > 0;
}

static void write_frame(const struct plot *plot, const struct bench_report *report)
{
  char title[96];
  snprintf(title, sizeof title, "bus-bench %s", report->title);
  fprintf(plot->file,
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
          "height=\"%.0f\" font-family=\"sans-serif\" fill=\"#222222\">\n"
          "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
          WIDTH, HEIGHT, WIDTH, HEIGHT);
  write_text(plot, LEFT, 28, "start", 18, title);
  if (report->note_count)
    write_text(plot, LEFT, 50, "start", 12, report->notes[0]);
}

int bench_svg_write(const struct bench_report *report, const char *path)
{
  struct plot plot = {.file = fopen(path, "we")};
  if (!plot.file)
    return bus_error_set_errno("%s: creating", path);
  bool any = choose_ranges(&plot, report);
  write_frame(&plot, report);
  write_x_axis(&plot);
  write_y_axis(&plot);
  uint32_t row = 0;
  for (uint32_t i = 0; any && i < report->measure_count; i++) {
    const struct bench_measure *measure = &report->measures[i];
    struct bus_histogram merged;
    if (!measure->plotted || !measure->histograms)
      continue;
    bench_report_merge(report, measure, &merged);
    if (merged.count == 0)
      continue;
    struct style style = style_of(report, i);
    write_curve(&plot, &merged, &style);
    write_legend(&plot, report, measure, row++, &style);
  }
  fputs("</svg>\n", plot.file);
  bool failed = ferror(plot.file) != 0;
  if (fclose(plot.file) != 0 || failed)
    return bus_error_set_errno("%s: writing", path);
  return BUS_OK;
}
