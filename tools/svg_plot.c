#include "tools/svg_plot.h"

#include "shm/error.h"

#include <math.h>
#include <string.h>

#define WIDTH            ((double)SVG_PLOT_WIDTH)
#define HEIGHT           ((double)SVG_PLOT_HEIGHT)
#define LEFT             80.0
#define RIGHT            340.0 /* the legend stands there, where no curve can hide it */
#define TOP              70.0
#define BOTTOM           60.0
#define STEPS_PER_DECADE 40
#define LEGEND_LINE      18.0
#define DECADES_MAX      9
#define GRID_LINES       5

/* By Okabe and Ito. */
static const char *const colours[SVG_PLOT_COLOURS] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7",
                                                      "#e69f00", "#56b4e9", "#000000", "#999999"};
static const char *const dashes[] = {"none", "6 4", "2 3", "10 3 2 3", "14 4", "1 5"};

struct axes {
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

static double x_of(const struct axes *axes, double decade)
{
  return LEFT + decade / axes->decades * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct axes *axes, double ns)
{
  double span = log10(axes->high_ns / axes->low_ns);
  return HEIGHT - BOTTOM - log10(ns / axes->low_ns) / span * (HEIGHT - TOP - BOTTOM);
}

static void write_text(FILE *file, double x, double y, const char *anchor, int size,
                       const char *text)
{
  fprintf(file, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%d\">", x, y, anchor,
          size);
  write_escaped(file, text);
  fputs("</text>\n", file);
}

static void write_y_title(FILE *file, const char *text)
{
  fprintf(file,
          "<text transform=\"translate(20 %.1f) rotate(-90)\" text-anchor=\"middle\" "
          "font-size=\"13\">",
          (TOP + HEIGHT - BOTTOM) / 2);
  write_escaped(file, text);
  fputs("</text>\n", file);
}

static void write_line(FILE *file, double x1, double y1, double x2, double y2)
{
  fprintf(file, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#dddddd\"/>\n", x1,
          y1, x2, y2);
}

static void write_x_axis(FILE *file, const struct axes *axes)
{
  write_text(file, x_of(axes, 0), HEIGHT - BOTTOM + 20, "middle", 12, "0 %");
  write_line(file, LEFT, TOP, LEFT, HEIGHT - BOTTOM);
  for (int decade = 1; decade <= (int)axes->decades; decade++) {
    char label[32];
    double percent = 100 - pow(10, 2 - decade);
    snprintf(label, sizeof label, "%.*f %%", decade > 2 ? decade - 2 : 0, percent);
    double x = x_of(axes, decade);
    write_line(file, x, TOP, x, HEIGHT - BOTTOM);
    write_text(file, x, HEIGHT - BOTTOM + 20, "middle", 12, label);
  }
  if (axes->decades < 7) { /* else the labels would run into each other */
    double x = x_of(axes, log10(2));
    write_line(file, x, TOP, x, HEIGHT - BOTTOM);
    write_text(file, x, HEIGHT - BOTTOM + 20, "middle", 12, "50 %");
  }
  write_text(file, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 44, "middle", 13,
             "percentile p, on the scale 1/(1-p)");
}

static void write_y_axis(FILE *file, const struct axes *axes)
{
  static const double steps[] = {1, 2, 5};
  for (int decade = 0; decade <= (int)log10(axes->high_ns); decade++) {
    for (size_t i = 0; i < BUS_COUNT_OF(steps); i++) {
      double ns = pow(10, decade) * steps[i];
      if (ns < axes->low_ns * 0.999 || ns > axes->high_ns * 1.001)
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
      write_line(file, LEFT, y_of(axes, ns), WIDTH - RIGHT, y_of(axes, ns));
      write_text(file, LEFT - 8, y_of(axes, ns) + 4, "end", 12, label);
    }
  }
  write_y_title(file, "latency");
}

static void begin_polyline(FILE *file, uint32_t colour, uint32_t dash)
{
  fprintf(file,
          "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\" "
          "points=\"",
          colours[colour % SVG_PLOT_COLOURS], dashes[dash % BUS_COUNT_OF(dashes)]);
}

static void write_curve(FILE *file, const struct axes *axes, const struct svg_curve *curve)
{
  const struct bus_histogram *histogram = curve->histogram;
  begin_polyline(file, curve->colour, curve->dash);
  double last = fmin(log10((double)histogram->count), axes->decades); /* no value beyond */
  for (int step = 0; step <= (int)(last * STEPS_PER_DECADE); step++) {
    double decade = (double)step / STEPS_PER_DECADE;
    double ns = (double)bus_histogram_quantile(histogram, 1 - pow(10, -decade));
    fprintf(file, "%.1f,%.1f ", x_of(axes, decade), y_of(axes, ns < 1 ? 1 : ns));
  }
  double maximum = histogram->maximum ? (double)histogram->maximum : 1;
  fprintf(file, "%.1f,%.1f\"/>\n", x_of(axes, last), y_of(axes, maximum));
}

static void write_legend(FILE *file, uint32_t row, uint32_t colour, uint32_t dash,
                         const char *label)
{
  double left = WIDTH - RIGHT + 20, y = TOP + 14 + row * LEGEND_LINE;
  fprintf(file,
          "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" "
          "stroke-width=\"2\" stroke-dasharray=\"%s\"/>\n",
          left, y - 4, left + 40, y - 4, colours[colour % SVG_PLOT_COLOURS],
          dashes[dash % BUS_COUNT_OF(dashes)]);
  write_text(file, left + 48, y, "start", 12, label);
}

/* The smallest 1-2-5 step that is not below `value` (up), or the largest not above it. */
static double round_to_step(double value, bool up)
{
  static const double steps[] = {1, 2, 5, 10};
  double decade = pow(10, floor(log10(value)));
  double result = decade;
  for (size_t i = 0; i < BUS_COUNT_OF(steps); i++) {
    if (up && decade * steps[i] >= value)
      return decade * steps[i];
    if (!up && decade * steps[i] <= value)
      result = decade * steps[i];
  }
  return result;
}

static struct axes choose_axes(const struct svg_curve *curves, uint32_t curve_count)
{
  double lowest = INFINITY, highest = 1, count = 0;
  for (uint32_t i = 0; i < curve_count; i++) {
    const struct bus_histogram *histogram = curves[i].histogram;
    lowest = fmin(lowest, fmax(1, (double)histogram->minimum));
    highest = fmax(highest, (double)histogram->maximum);
    count = fmax(count, (double)histogram->count);
  }
  struct axes axes = {.decades = fmin(DECADES_MAX, fmax(1, ceil(log10(fmax(2, count)) - 1e-9))),
                      .low_ns = count > 0 ? round_to_step(lowest, false) : 1};
  axes.high_ns = fmax(axes.low_ns * 10, round_to_step(highest, true));
  return axes;
}

int svg_plot_open(struct svg_plot *plot, const char *path, uint32_t panels, const char *title,
                  const char *note)
{
  *plot = (struct svg_plot){.file = fopen(path, "we"), .path = path};
  if (!plot->file)
    return bus_error_set_errno("%s: creating", path);
  fprintf(plot->file,
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
          "height=\"%.0f\" font-family=\"sans-serif\" fill=\"#222222\">\n"
          "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n",
          WIDTH, HEIGHT * panels, WIDTH, HEIGHT * panels);
  write_text(plot->file, LEFT, 28, "start", 18, title);
  if (note)
    write_text(plot->file, LEFT, 50, "start", 12, note);
  return BUS_OK;
}

static void begin_panel(struct svg_plot *plot)
{
  fprintf(plot->file, "<g transform=\"translate(0 %.0f)\">\n", HEIGHT * plot->panels++);
}

void svg_plot_percentiles(struct svg_plot *plot, const struct svg_curve *curves, uint32_t count)
{
  const struct axes axes = choose_axes(curves, count);
  begin_panel(plot);
  write_x_axis(plot->file, &axes);
  write_y_axis(plot->file, &axes);
  for (uint32_t i = 0; i < count; i++) {
    write_curve(plot->file, &axes, &curves[i]);
    write_legend(plot->file, i, curves[i].colour, curves[i].dash, curves[i].label);
  }
  fputs("</g>\n", plot->file);
}

/* Both axes from 0 up, with a few lines at round values. */
static void write_linear_axes(FILE *file, const char *y_title, double seconds, double top)
{
  const double y_step = round_to_step(top / GRID_LINES, true);
  const double x_step = round_to_step(seconds / GRID_LINES, true);
  char label[32];
  for (int i = 0; i <= (int)(top / y_step + 0.001); i++) {
    double value = i * y_step;
    double y = HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);
    snprintf(label, sizeof label, "%g", value);
    write_line(file, LEFT, y, WIDTH - RIGHT, y);
    write_text(file, LEFT - 8, y + 4, "end", 12, label);
  }
  for (int i = 0; i <= (int)(seconds / x_step + 0.001); i++) {
    double value = i * x_step;
    double x = LEFT + value / seconds * (WIDTH - LEFT - RIGHT);
    snprintf(label, sizeof label, "%g s", value);
    write_line(file, x, TOP, x, HEIGHT - BOTTOM);
    write_text(file, x, HEIGHT - BOTTOM + 20, "middle", 12, label);
  }
  write_text(file, (LEFT + WIDTH - RIGHT) / 2, HEIGHT - BOTTOM + 44, "middle", 13,
             "time since the first record");
  write_y_title(file, y_title);
}

void svg_plot_series(struct svg_plot *plot, const char *y_title, double seconds, uint32_t parts,
                     const struct svg_series *series, uint32_t count)
{
  double highest = 0;
  for (uint32_t i = 0; i < count; i++)
    for (uint32_t j = 0; j < parts; j++)
      highest = fmax(highest, series[i].values[j]);
  const double top = highest > 0 ? round_to_step(highest, true) : 1;
  begin_panel(plot);
  write_linear_axes(plot->file, y_title, seconds, top);
  for (uint32_t i = 0; i < count; i++) {
    begin_polyline(plot->file, series[i].colour, series[i].dash);
    for (uint32_t j = 0; j < parts; j++)
      fprintf(plot->file, "%.1f,%.1f ", LEFT + (j + 0.5) / parts * (WIDTH - LEFT - RIGHT),
              HEIGHT - BOTTOM - series[i].values[j] / top * (HEIGHT - TOP - BOTTOM));
    fputs("\"/>\n", plot->file);
    write_legend(plot->file, i, series[i].colour, series[i].dash, series[i].label);
  }
  fputs("</g>\n", plot->file);
}

int svg_plot_close(struct svg_plot *plot)
{
  fputs("</svg>\n", plot->file);
  bool failed = ferror(plot->file) != 0;
  if (fclose(plot->file) != 0 || failed)
    return bus_error_set_errno("%s: writing", plot->path);
  return BUS_OK;
}
