#include "shm/error.h"
#include "shm/options.h"

#include <criterion/criterion.h>

Test(options, takes_good_values_and_names_bad_ones)
{
  struct bus_member_options options;
  bus_member_options_init(&options, "feed");
  cr_assert_eq(options.core, -1);
  cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_CORE, "3"), 1);
  cr_assert_eq(options.core, 3);
  cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_IDLE, "spin"), 1);
  cr_assert_eq(options.idle, BUS_IDLE_SPIN);
  cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_MODE, "0644"), 1);
  cr_assert_eq(options.mode, 0644);
  cr_assert_eq(bus_member_options_take(&options, 'x', "3"), 0);
  const char *bad_numbers[] = {"", "x", "3x", "-2", "99999999999999999999", "3.5"};
  for (size_t i = 0; i < BUS_COUNT_OF(bad_numbers); i++)
    cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_CORE, bad_numbers[i]),
                 BUS_ERROR_INVALID);
  cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_MODE, "0666"), BUS_ERROR_INVALID);
  cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_MODE, "rw"), BUS_ERROR_INVALID);
  cr_assert_eq(bus_member_options_take(&options, BUS_OPTION_IDLE, "doze"), BUS_ERROR_INVALID);
}
