#include "ops_machine.h"

static struct machine machine;
static char value[OPS_VALUE_BYTES];

static void setup(void)
{
  machine_make(&machine, OPS_MODE_CPUSET);
}

static void teardown(void)
{
  machine_remove(&machine);
}

static struct ops_change change_of(const char *file, enum ops_value_format format,
                                   const char *wanted)
{
  struct ops_change change = {.format = format};
  snprintf(change.wanted, sizeof change.wanted, "%s", wanted);
  ops_path_join(change.path, machine.root, "%s", file);
  return change;
}

TestSuite(isolate_change, .init = setup, .fini = teardown);

Test(isolate_change, one_word_of_several_is_there_or_not)
{
  static const struct {
    const char *text, *value;
  } cases[] = {{"cpuset", "cpuset"},     {"cpu cpuset io", "cpuset"},  {"cpu io", ""}, {"", ""},
               {"cpuset2 mycpuset", ""}, {"mycpuset cpuset", "cpuset"}};
  struct ops_change change = change_of("tokens", OPS_VALUE_TOKEN, "cpuset");
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    put(&machine, cases[i].text, "tokens");
    cr_assert_eq(ops_change_read(&machine.system, &change, value), BUS_OK);
    cr_expect_str_eq(value, cases[i].value, "'%s'", cases[i].text);
  }
  cr_assert_eq(ops_change_set(&machine.system, &change, "cpuset"), BUS_OK);
  cr_expect_str_eq(get(&machine, "tokens"), "+cpuset");
  cr_assert_eq(ops_change_set(&machine.system, &change, ""), BUS_OK);
  cr_expect_str_eq(get(&machine, "tokens"), "-cpuset");
}

Test(isolate_change, the_word_in_brackets_is_the_choice)
{
  static const struct {
    const char *text, *value;
  } cases[] = {{"always [madvise] never", "madvise"},
               {"[x]", "x"},
               {"plain", "plain"},
               {"a ]b[ c", "a ]b[ c"},
               {"[]", ""}};
  struct ops_change change = change_of("choice", OPS_VALUE_CHOICE, "never");
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    put(&machine, cases[i].text, "choice");
    cr_assert_eq(ops_change_read(&machine.system, &change, value), BUS_OK);
    cr_expect_str_eq(value, cases[i].value, "'%s'", cases[i].text);
  }
}

Test(isolate_change, values_are_the_same_when_they_mean_the_same)
{
  struct ops_change list = {.format = OPS_VALUE_LIST}, mask = {.format = OPS_VALUE_MASK},
                    text = {.format = OPS_VALUE_TEXT};
  cr_expect(ops_change_same(&list, "0-2", "2,0,1"));
  cr_expect_not(ops_change_same(&list, "0-2", "0-3"));
  cr_expect_not(ops_change_same(&list, "0-2", "nonsense"));
  cr_expect(ops_change_same(&mask, "f", "00000000,0000000f"));
  cr_expect_not(ops_change_same(&mask, "f", "e"));
  cr_expect_not(ops_change_same(&text, "0-2", "2,0,1"));
}

Test(isolate_change, a_cgroup_is_counted_and_moved_without_the_kernels_threads)
{
  struct ops_thread first;
  char house[OPS_PATH_BYTES], root[OPS_PATH_BYTES];
  ops_path_join(root, machine.system.cgroup_root, "cpuset");
  ops_path_join(house, root, "house");
  cr_expect_eq(ops_cgroup_count(&machine.system, root, &first), 4);
  cr_expect_eq(first.pid, 1);
  cr_expect_lt(ops_cgroup_count(&machine.system, house, NULL), 0);
  cr_assert_eq(ops_system_make_directory(&machine.system, house), BUS_OK);
  struct ops_change move = {.kind = OPS_CHANGE_MOVE};
  strcpy(move.path, house);
  strcpy(move.found, root);
  strcpy(move.wanted, house);
  cr_assert_eq(ops_change_set(&machine.system, &move, move.wanted), BUS_OK);
  cr_expect_eq(ops_cgroup_count(&machine.system, root, NULL), 0);
  cr_expect_eq(ops_cgroup_count(&machine.system, house, NULL), 4);
  cr_assert_eq(ops_change_set(&machine.system, &move, move.found), BUS_OK);
  cr_expect_eq(ops_cgroup_count(&machine.system, root, NULL), 4);
  machine.fail_path = "cgroup.procs";
  machine.fail_errno = EINVAL;
  cr_expect_eq(ops_change_set(&machine.system, &move, move.wanted), BUS_ERROR_BUSY);
  cr_expect_not_null(strstr(bus_error_message(), "4 processes stay"));
  cr_expect_not_null(strstr(bus_error_message(), "init, pid 1"));
}

Test(isolate_change, names_are_parsed_back)
{
  for (int i = OPS_CHANGE_WRITE; i <= OPS_CHANGE_MOVE; i++)
    cr_expect_eq(ops_change_kind_parse(ops_change_kind_name((enum ops_change_kind)i)), i);
  for (int i = OPS_VALUE_TEXT; i <= OPS_VALUE_TOKEN; i++)
    cr_expect_eq(ops_value_format_parse(ops_value_format_name((enum ops_value_format)i)), i);
  cr_expect_eq(ops_change_kind_parse("x"), -1);
  cr_expect_eq(ops_value_format_parse(""), -1);
}
