#include "consumers/latency_report.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(latency_report, writes_text_and_json)
{
  static struct bus_histogram full, empty;
  for (uint64_t i = 1; i <= 100; i++)
    bus_histogram_record(&full, i * 1000);
  const struct bus_latency_stage stages[] = {{"first", &full}, {"nothing", &empty}};
  char *text = NULL;
  size_t size = 0;
  FILE *file = open_memstream(&text, &size);
  bus_latency_report_text(file, stages, 2);
  fclose(file);
  cr_assert_not_null(strstr(text, "first"));
  cr_assert_null(strstr(text, "nothing"));
  cr_assert_not_null(strstr(text, " 100.00       100\n"));
  for (const char *line = text; *line; line = strchr(line, '\n') + 1)
    cr_assert_lt(strcspn(line, "\n"), 80, "wraps: %s", line);
  free(text);
  static struct bus_histogram slow; /* up to a second, and the longest name */
  bus_histogram_record(&slow, 9999000);
  bus_histogram_record(&slow, 999000000);
  slow.count = 999999999;
  const struct bus_latency_stage wide = {"tick received -> feature published", &slow};
  file = open_memstream(&text, &size);
  bus_latency_report_text(file, &wide, 1);
  fclose(file);
  for (const char *line = text; *line; line = strchr(line, '\n') + 1)
    cr_assert_lt(strcspn(line, "\n"), 80, "wraps: %s", line);
  free(text);
  file = open_memstream(&text, &size);
  bus_latency_report_json(file, stages, 2);
  fclose(file);
  cr_assert_not_null(strstr(text, "\"max_ns\": 100000"));
  cr_assert_not_null(strstr(text, "\"stage\": \"nothing\", \"count\": 0"));
  free(text);
}
