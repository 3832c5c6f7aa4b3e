#include "tools/ops/cpu_list.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static struct ops_cpu_list parsed(const char *text)
{
  struct ops_cpu_list list;
  cr_assert_eq(ops_cpu_list_parse(&list, text, "--cpus"), BUS_OK, "%s", bus_error_message());
  return list;
}

Test(cpu_list, a_list_comes_back_in_its_shortest_form)
{
  static const struct {
    const char *text, *shortest;
  } cases[] = {{"", ""},         {"\n", ""},          {"0", "0"},
               {"3,1,2", "1-3"}, {"0-3,8", "0-3,8"},  {" 0-1,63-64 \n", "0-1,63-64"},
               {"1023", "1023"}, {"5-5,0001", "1,5"}, {"0-1023", "0-1023"}};
  char text[OPS_CPU_LIST_BYTES];
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    struct ops_cpu_list list = parsed(cases[i].text);
    cr_expect_str_eq(ops_cpu_list_format(&list, text, sizeof text), cases[i].shortest);
  }
}

Test(cpu_list, malformed_lists_are_refused_by_name_and_leave_nothing)
{
  static const struct {
    const char *text;
    int error;
  } cases[] = {
      {"a", BUS_ERROR_FORMAT},       {"1,", BUS_ERROR_FORMAT},         {",1", BUS_ERROR_FORMAT},
      {"1,,2", BUS_ERROR_FORMAT},    {"-1", BUS_ERROR_FORMAT},         {"1-", BUS_ERROR_FORMAT},
      {"1 2", BUS_ERROR_FORMAT},     {"1, 2", BUS_ERROR_FORMAT},       {"0x1", BUS_ERROR_FORMAT},
      {"1-2-3", BUS_ERROR_FORMAT},   {"3-2", BUS_ERROR_INVALID},       {"1024", BUS_ERROR_INVALID},
      {"0-1024", BUS_ERROR_INVALID}, {"99999999999", BUS_ERROR_FORMAT}};
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    struct ops_cpu_list list;
    memset(&list, 0xff, sizeof list);
    cr_expect_eq(ops_cpu_list_parse(&list, cases[i].text, "--cpus"), cases[i].error, "%s",
                 cases[i].text);
    cr_expect_eq(ops_cpu_list_count(&list), 0);
    cr_expect(strstr(bus_error_message(), "--cpus") != NULL);
  }
}

Test(cpu_list, masks_are_read_and_written_as_the_kernel_does)
{
  static const struct {
    const char *mask, *list, *written;
  } cases[] = {{"3", "0-1", "00000003"},
               {"00000000", "", "00000000"},
               {"ff,00000003\n", "0-1,32-39", "000000ff,00000003"},
               {"1,00000000,80000000", "31,64", "00000001,00000000,80000000"}};
  char text[OPS_CPU_LIST_BYTES];
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    struct ops_cpu_list list, want = parsed(cases[i].list);
    cr_assert_eq(ops_cpu_list_parse_mask(&list, cases[i].mask, "mask"), BUS_OK);
    cr_expect(ops_cpu_list_equal(&list, &want), "%s", cases[i].mask);
    cr_expect_str_eq(ops_cpu_list_format_mask(&list, text, sizeof text), cases[i].written);
  }
}

Test(cpu_list, malformed_masks_are_refused)
{
  static const char *const cases[] = {"", "g", "1,", ",1", "123456789", "1 1", "0x3"};
  struct ops_cpu_list list;
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++)
    cr_expect_eq(ops_cpu_list_parse_mask(&list, cases[i], "mask"), BUS_ERROR_FORMAT, "%s",
                 cases[i]);
  char wide[33 * 9 + 1] = "1"; /* bit 0 of a 33rd word: CPU 1024 */
  for (int i = 0; i < 32; i++)
    strcat(wide, ",00000000");
  cr_expect_eq(ops_cpu_list_parse_mask(&list, wide, "mask"), BUS_ERROR_INVALID);
  wide[0] = '0'; /* 33 words of nothing are nothing */
  cr_expect_eq(ops_cpu_list_parse_mask(&list, wide, "mask"), BUS_OK);
}

Test(cpu_list, the_longest_list_and_mask_fit_and_return)
{
  struct ops_cpu_list list = {0}, again;
  char text[OPS_CPU_LIST_BYTES];
  for (int cpu = 1; cpu < OPS_CPUS_MAX; cpu += 2)
    ops_cpu_list_add(&list, cpu);
  ops_cpu_list_format(&list, text, sizeof text);
  cr_assert_eq(ops_cpu_list_parse(&again, text, "list"), BUS_OK);
  cr_expect(ops_cpu_list_equal(&list, &again));
  ops_cpu_list_format_mask(&list, text, sizeof text);
  cr_assert_eq(ops_cpu_list_parse_mask(&again, text, "mask"), BUS_OK);
  cr_expect(ops_cpu_list_equal(&list, &again));
}

Test(cpu_list, sets_combine)
{
  struct ops_cpu_list a = parsed("0-3,100"), b = parsed("2-5"), c;
  char text[OPS_CPU_LIST_BYTES];
  c = ops_cpu_list_or(&a, &b);
  cr_expect_str_eq(ops_cpu_list_format(&c, text, sizeof text), "0-5,100");
  c = ops_cpu_list_and(&a, &b);
  cr_expect_str_eq(ops_cpu_list_format(&c, text, sizeof text), "2-3");
  c = ops_cpu_list_minus(&a, &b);
  cr_expect_str_eq(ops_cpu_list_format(&c, text, sizeof text), "0-1,100");
  cr_expect(ops_cpu_list_intersects(&a, &b) && !ops_cpu_list_intersects(&b, &c));
  cr_expect_eq(ops_cpu_list_count(&a), 5);
  cr_expect_eq(ops_cpu_list_next(&a, 4), 100);
  cr_expect_eq(ops_cpu_list_next(&a, 101), -1);
  cr_expect_not(ops_cpu_list_has(&a, -1));
  cr_expect_not(ops_cpu_list_has(&a, OPS_CPUS_MAX));
  ops_cpu_list_add(&a, OPS_CPUS_MAX);
  cr_expect_eq(ops_cpu_list_count(&a), 5);
}
