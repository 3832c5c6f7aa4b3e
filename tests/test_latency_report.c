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
  cr_assert_not_null(strstr(text, "   100.00        100\n"));
  free(text);
  file = open_memstream(&text, &size);
  bus_latency_report_json(file, stages, 2);
  fclose(file);
  cr_assert_not_null(strstr(text, "\"max_ns\": 100000"));
  cr_assert_not_null(strstr(text, "\"stage\": \"nothing\", \"count\": 0"));
  free(text);
}
