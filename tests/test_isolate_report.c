#include "ops_machine.h"
#include "tools/ops/isolate_report.h"

#include <jansson.h>

static struct ops_isolation run;
static struct ops_system roots;

static char *printed(bool json, int code)
{
  char *text = NULL;
  size_t size;
  FILE *out = open_memstream(&text, &size);
  if (json)
    cr_assert_eq(ops_report_json(&run, "isolate", code, out), BUS_OK);
  else
    ops_report_text(&run, "isolate", code, out);
  fclose(out);
  return text;
}

static void setup(void)
{
  struct ops_change change = {.stage = "irqs",
                              .state = OPS_CHANGE_PENDING,
                              .path = "/p\x1b[2J",
                              .label = "eth0",
                              .found = "0-3\n!\xff",
                              .wanted = "0",
                              .remark = "pending: until it fires"};
  ops_isolation_init(&run, &roots);
  strcpy(run.options.name, "bus");
  strcpy(run.cpus_text, "1-3");
  strcpy(run.house_text, "0");
  strcpy(run.kernel_command_line, "nohz_full=1-3");
  cr_assert_eq(ops_plan_add(&run, &change), BUS_OK);
  ops_plan_warn(&run, "odd \x9b%s", "thing");
}

static void teardown(void)
{
  ops_isolation_free(&run);
}

TestSuite(isolate_report, .init = setup, .fini = teardown);

Test(isolate_report, the_text_has_every_change_and_no_control_characters)
{
  char *text = printed(false, OPS_EXIT_WARNINGS);
  cr_expect_not_null(strstr(text, "isolate 'bus': CPUs 1-3 by cgroup v2 partition"));
  cr_expect_not_null(strstr(text, "/p?[2J (eth0): '0-3?!?' -> '0'\n"), "%s", text);
  cr_expect_not_null(strstr(text, "pending: until it fires"));
  cr_expect_not_null(strstr(text, "warning: odd ?thing"));
  cr_expect_not_null(strstr(text, "nohz_full=1-3"));
  for (const char *at = text; *at; at++)
    cr_assert(*at == '\n' || (*at >= 0x20 && *at <= 0x7e));
  free(text);
}

Test(isolate_report, the_json_says_the_same)
{
  bus_error_set(BUS_ERROR_BUSY, "because \x01");
  char *text = printed(true, OPS_EXIT_CONFLICT);
  json_t *report = json_loads(text, 0, NULL);
  cr_assert_not_null(report, "%s", text);
  cr_expect_eq(json_integer_value(json_object_get(report, "exit")), 5);
  cr_expect_str_eq(json_string_value(json_object_get(report, "error")), "because ?");
  cr_expect_str_eq(json_string_value(json_object_get(report, "cpus")), "1-3");
  const json_t *change = json_array_get(json_object_get(report, "changes"), 0);
  cr_expect_str_eq(json_string_value(json_object_get(change, "state")), "pending");
  cr_expect_str_eq(json_string_value(json_object_get(change, "path")), "/p?[2J");
  cr_expect_str_eq(json_string_value(json_object_get(change, "found")), "0-3?!?");
  const json_t *remark = json_array_get(json_object_get(report, "remarks"), 0);
  cr_expect_str_eq(json_string_value(json_object_get(remark, "level")), "warning");
  json_decref(report);
  free(text);
}
