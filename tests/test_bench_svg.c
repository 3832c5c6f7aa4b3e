#include "tools/bench/bench_report.h"

#include <criterion/criterion.h>
#include <expat.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bench_report *report;
static char path[64];

static void set_up(void)
{
  report = bench_report_new("test");
  snprintf(path, sizeof path, "/tmp/signalbus-svg-%d", (int)getpid());
}

static void tear_down(void)
{
  unlink(path);
  bench_report_delete(report);
}

TestSuite(bench_svg, .init = set_up, .fini = tear_down);

/* What a reader of the picture finds in it. */
struct picture {
  int curves;
  int points;
  bool outside; /* a point of a curve that is not on the canvas, or no number */
  char text[8192];
};

static void check_points(struct picture *picture, const char *points)
{
  double x, y;
  int length;
  for (; sscanf(points, "%lf,%lf%n", &x, &y, &length) == 2; points += length) {
    picture->points++;
    if (!isfinite(x) || !isfinite(y) || x < 0 || y < 0 || x > 1200 || y > 560)
      picture->outside = true;
  }
  if (strspn(points, " ") != strlen(points))
    picture->outside = true;
}

static void on_start(void *context, const XML_Char *name, const XML_Char **attributes)
{
  struct picture *picture = context;
  if (strcmp(name, "polyline") != 0)
    return;
  picture->curves++;
  for (int i = 0; attributes[i]; i += 2)
    if (!strcmp(attributes[i], "points"))
      check_points(picture, attributes[i + 1]);
}

static void on_text(void *context, const XML_Char *text, int length)
{
  struct picture *picture = context;
  strncat(picture->text, text,
          BUS_COUNT_OF(picture->text) - strlen(picture->text) - 1 > (size_t)length ? (size_t)length
                                                                                   : 0);
}

/* Writes the plot and reads it as XML: the test fails when it is not well-formed. */
static struct picture write_and_parse(void)
{
  static char image[1 << 20];
  struct picture picture = {0};
  cr_assert_eq(bench_svg_write(report, path), BUS_OK, "%s", bus_error_message());
  FILE *file = fopen(path, "r");
  cr_assert(file);
  size_t size = fread(image, 1, sizeof image, file);
  fclose(file);
  XML_Parser parser = XML_ParserCreate(NULL);
  XML_SetUserData(parser, &picture);
  XML_SetStartElementHandler(parser, on_start);
  XML_SetCharacterDataHandler(parser, on_text);
  enum XML_Status status = XML_Parse(parser, image, (int)size, 1);
  cr_assert_eq(status, XML_STATUS_OK, "line %lu: %s", XML_GetCurrentLineNumber(parser),
               XML_ErrorString(XML_GetErrorCode(parser)));
  XML_ParserFree(parser);
  return picture;
}

static struct bench_measure *add(const char *group, const char *name, bool plotted)
{
  uint32_t index = bench_report_group(report, group);
  report->groups[index].trial_count = 1;
  return bench_report_measure(report, index, name, "ns", true, plotted);
}

Test(bench_svg, an_empty_report_is_a_well_formed_plot)
{
  struct picture picture = write_and_parse();
  cr_assert_eq(picture.curves, 0);
}

Test(bench_svg, one_curve_for_each_plotted_histogram_with_values)
{
  struct bench_measure *first = add("first", "  stage", true);
  struct bench_measure *hidden = add("hidden", "h", false);
  struct bench_measure *rejected = add("rejected", "h", true);
  add("empty", "h", true);
  for (uint64_t i = 1; i <= 5000; i++) {
    bus_histogram_record(&first->histograms[0], 100 + i);
    bus_histogram_record(&hidden->histograms[0], i);
    bus_histogram_record(&rejected->histograms[0], i);
  }
  report->groups[2].trials[0].rejected = true;
  struct picture picture = write_and_parse();
  cr_assert_eq(picture.curves, 1);
  cr_assert_gt(picture.points, 100);
  cr_assert(!picture.outside);
  cr_assert(strstr(picture.text, "first: stage"), "no legend: %s", picture.text);
  cr_assert(!strstr(picture.text, "hidden"));
  cr_assert(strstr(picture.text, "percentile") && strstr(picture.text, "latency"));
  cr_assert(strstr(picture.text, "99.9 %"));
}

Test(bench_svg, every_range_of_values_stays_on_the_canvas)
{
  static const uint64_t values[][2] = {
      {0, 0}, {0, 1}, {1, 1}, {7, 7}, {1, (uint64_t)1 << 45}, {999, 1001}, {123456789, 123456789}};
  struct bench_measure *measure = add("g", "h", true);
  for (size_t i = 0; i < BUS_COUNT_OF(values); i++) {
    memset(measure->histograms, 0, sizeof *measure->histograms);
    for (int j = 0; j < 20; j++)
      bus_histogram_record(measure->histograms, values[i][j % 2]);
    struct picture picture = write_and_parse();
    cr_assert_eq(picture.curves, 1);
    cr_assert(!picture.outside, "values %zu", i);
  }
  memset(measure->histograms, 0, sizeof *measure->histograms);
  bus_histogram_record(measure->histograms, 5);
  cr_assert(!write_and_parse().outside, "a single value");
  measure->histograms->count = 50000000000u; /* more than the axis has decades for */
  measure->histograms->buckets[5] = measure->histograms->count;
  cr_assert(!write_and_parse().outside, "very many values");
}

Test(bench_svg, any_name_is_well_formed)
{
  bench_report_note(report, "machine: <&>\"'\x02\xff]]>");
  struct bench_measure *measure = add("<g>&amp;\xc0", "h]]>\x1b", true);
  bus_histogram_record(measure->histograms, 5);
  struct picture picture = write_and_parse();
  cr_assert(strstr(picture.text, "<g>&amp;?"), "%s", picture.text);
}

Test(bench_svg, a_path_that_cannot_be_written_is_named)
{
  const char *absent = "/tmp/signalbus-no-such-directory/out.svg";
  cr_assert_eq(bench_svg_write(report, absent), BUS_ERROR_ABSENT);
  cr_assert(strstr(bus_error_message(), absent));
  cr_assert_eq(bench_svg_write(report, "/dev/full"), BUS_ERROR_NO_SPACE);
}
