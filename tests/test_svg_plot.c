#include "tools/svg_plot.h"

#include "shm/error.h"

#include <criterion/criterion.h>
#include <expat.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64];

static void set_up(void)
{
  snprintf(path, sizeof path, "/tmp/signalbus-plot-%d", (int)getpid());
}

static void tear_down(void)
{
  unlink(path);
}

TestSuite(svg_plot, .init = set_up, .fini = tear_down);

struct picture {
  int curves;
  int points;
  int groups;
  bool outside; /* of its panel, or no number */
  char text[8192];
};

static void on_start(void *context, const XML_Char *name, const XML_Char **attributes)
{
  struct picture *picture = context;
  picture->groups += !strcmp(name, "g");
  if (strcmp(name, "polyline") != 0)
    return;
  picture->curves++;
  for (int i = 0; attributes[i]; i += 2) {
    const char *points = attributes[i + 1];
    double x, y;
    int length;
    if (strcmp(attributes[i], "points") != 0)
      continue;
    for (; sscanf(points, "%lf,%lf%n", &x, &y, &length) == 2; points += length) {
      picture->points++;
      if (!isfinite(x) || !isfinite(y) || x < 0 || y < 0 || x > SVG_PLOT_WIDTH ||
          y > SVG_PLOT_HEIGHT)
        picture->outside = true;
    }
    if (strspn(points, " ") != strlen(points))
      picture->outside = true;
  }
}

static void on_text(void *context, const XML_Char *text, int length)
{
  struct picture *picture = context;
  size_t used = strlen(picture->text);
  if (used + (size_t)length < sizeof picture->text)
    memcpy(picture->text + used, text, (size_t)length);
}

static struct picture parse(void)
{
  static char image[1 << 20];
  struct picture picture = {0};
  FILE *file = fopen(path, "r");
  cr_assert(file);
  size_t size = fread(image, 1, sizeof image, file);
  fclose(file);
  XML_Parser parser = XML_ParserCreate(NULL);
  XML_SetUserData(parser, &picture);
  XML_SetStartElementHandler(parser, on_start);
  XML_SetCharacterDataHandler(parser, on_text);
  cr_assert_eq(XML_Parse(parser, image, (int)size, 1), XML_STATUS_OK, "line %lu: %s",
               XML_GetCurrentLineNumber(parser), XML_ErrorString(XML_GetErrorCode(parser)));
  XML_ParserFree(parser);
  return picture;
}

Test(svg_plot, panels_of_both_kinds_make_one_picture)
{
  static struct bus_histogram histogram;
  for (uint64_t i = 1; i <= 1000; i++)
    bus_histogram_record(&histogram, i * 1000);
  const double rates[] = {0, 100, 37.5, 12345};
  const struct svg_curve curve = {"queue & <more>", 3, 1, &histogram};
  const struct svg_series series[] = {{"feed.features", 0, 0, rates}, {"b", 100, 100, rates}};
  struct svg_plot plot;
  cr_assert_eq(svg_plot_open(&plot, path, 2, "a <title>", "a note"), BUS_OK);
  svg_plot_percentiles(&plot, &curve, 1);
  svg_plot_series(&plot, "records / s", 12.5, 4, series, 2);
  cr_assert_eq(svg_plot_close(&plot), BUS_OK);
  struct picture picture = parse();
  cr_assert_eq(picture.curves, 3);
  cr_assert_eq(picture.groups, 2);
  cr_assert(!picture.outside);
  static const char *const texts[] = {"a <title>",     "a note",      "queue & <more>",
                                      "feed.features", "records / s", "99.9 %"};
  for (size_t i = 0; i < BUS_COUNT_OF(texts); i++)
    cr_assert(strstr(picture.text, texts[i]), "no '%s' in %s", texts[i], picture.text);
}

Test(svg_plot, series_of_any_size_stay_in_their_panel)
{
  static const double values[][3] = {{0, 0, 0}, {1e-9, 0, 0}, {1e15, 3, 1}, {7, 7, 7}};
  static const double seconds[] = {1e-9, 1, 86400 * 365.0};
  for (size_t i = 0; i < BUS_COUNT_OF(values); i++)
    for (size_t j = 0; j < BUS_COUNT_OF(seconds); j++) {
      const struct svg_series series = {"s", 0, 0, values[i]};
      struct svg_plot plot;
      cr_assert_eq(svg_plot_open(&plot, path, 1, "t", NULL), BUS_OK);
      svg_plot_series(&plot, "y", seconds[j], 3, &series, 1);
      cr_assert_eq(svg_plot_close(&plot), BUS_OK);
      struct picture picture = parse();
      cr_assert_eq(picture.points, 3);
      cr_assert(!picture.outside, "values %zu over %g s", i, seconds[j]);
    }
}

Test(svg_plot, no_curves_are_a_well_formed_picture)
{
  struct svg_plot plot;
  cr_assert_eq(svg_plot_open(&plot, path, 1, "t", NULL), BUS_OK);
  svg_plot_percentiles(&plot, NULL, 0);
  cr_assert_eq(svg_plot_close(&plot), BUS_OK);
  cr_assert_eq(parse().curves, 0);
}

Test(svg_plot, failures_name_the_path)
{
  struct svg_plot plot;
  cr_assert_eq(svg_plot_open(&plot, "/nowhere/x.svg", 1, "t", NULL), BUS_ERROR_ABSENT);
  cr_assert(strstr(bus_error_message(), "/nowhere/x.svg"));
  cr_assert_eq(svg_plot_open(&plot, "/dev/full", 1, "t", NULL), BUS_OK);
  svg_plot_percentiles(&plot, NULL, 0);
  cr_assert_eq(svg_plot_close(&plot), BUS_ERROR_NO_SPACE);
}
