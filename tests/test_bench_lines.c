#include "tools/bench/bench_lines.h"
#include "tools/bench/bench_process.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64];

static void set_up(void)
{
  snprintf(path, sizeof path, "/tmp/signalbus-lines-%d", (int)getpid());
  cr_assert_eq(bench_clock_init(), BUS_OK);
}

static void tear_down(void)
{
  unlink(path);
}

TestSuite(bench_lines, .init = set_up, .fini = tear_down);

static void write_file(const char *text)
{
  FILE *file = fopen(path, "w");
  cr_assert(file);
  fputs(text, file);
  cr_assert_eq(fclose(file), 0);
}

Test(bench_lines, lines_of_a_file_are_what_it_holds)
{
  write_file("1 one\n2 the second\n\n3 third without newline");
  struct bench_capture capture = {.path = path, .usdm = true};
  struct bench_lines lines;
  cr_assert_eq(bench_lines_load(&lines, &capture, 0), BUS_OK, "%s", bus_error_message());
  static const char *const wanted[] = {"1 one", "2 the second", "3 third without newline"};
  cr_assert_eq(lines.count, 3);
  cr_assert(lines.usdm);
  cr_assert_str_eq(lines.name, strrchr(path, '/') + 1);
  for (uint64_t i = 0; i < 3; i++) {
    size_t length;
    const char *line = bench_lines_at(&lines, i, &length);
    cr_assert_eq(length, strlen(wanted[i]));
    cr_assert_arr_eq(line, wanted[i], length);
  }
  bench_lines_free(&lines);
  cr_assert_eq(bench_lines_load(&lines, &capture, 2), BUS_OK);
  cr_assert_eq(lines.count, 2, "the limit was not kept");
  bench_lines_free(&lines);
}

Test(bench_lines, files_that_give_nothing_are_named)
{
  struct bench_capture capture = {.path = path};
  struct bench_lines lines;
  cr_assert_lt(bench_lines_load(&lines, &capture, 0), 0);
  cr_assert(strstr(bus_error_message(), path), "%s", bus_error_message());
  bench_lines_free(&lines);
  write_file("\n\n");
  cr_assert_eq(bench_lines_load(&lines, &capture, 0), BUS_ERROR_FORMAT);
  bench_lines_free(&lines);
}

Test(bench_lines, synthetic_lines_make_valid_features)
{
  struct bench_lines lines;
  struct bus_feature *features;
  cr_assert_eq(bench_lines_load(&lines, NULL, 3000), BUS_OK);
  cr_assert_eq(lines.count, 3000);
  int64_t count = bench_lines_features(&lines, 100, &features);
  cr_assert_eq(count, 100);
  for (int64_t i = 0; i < count; i++) {
    cr_assert(features[i].flags & BUS_FEATURE_VALID);
    cr_assert(features[i].bid_price > 0 && features[i].ask_price > 0);
  }
  free(features);
  bench_lines_free(&lines);
}

Test(bench_lines, lines_that_make_no_feature_are_an_error)
{
  write_file("1 {}\n2 no message\n");
  struct bench_capture capture = {.path = path};
  struct bench_lines lines;
  struct bus_feature *features;
  cr_assert_eq(bench_lines_load(&lines, &capture, 0), BUS_OK);
  cr_assert_eq(bench_lines_features(&lines, 10, &features), BUS_ERROR_FORMAT);
  cr_assert(strstr(bus_error_message(), "--market"));
  free(features);
  bench_lines_free(&lines);
}
