#include "consumers/retry_after.h"

#include <criterion/criterion.h>

/* Wed, 21 Oct 2015 07:28:00 GMT */
#define NOW_NS (1445412480u * UINT64_C(1000000000))

static uint32_t of(const char *value)
{
  return bus_retry_after_ms(value, NOW_NS);
}

Test(retry_after, seconds)
{
  cr_assert_eq(of("0"), 0);
  cr_assert_eq(of("1"), 1000);
  cr_assert_eq(of("30"), 30000);
  cr_assert_eq(of("30  "), 30000);
  cr_assert_eq(of("0.25"), 250);
  cr_assert_eq(of("1.0009"), 1000);
}

Test(retry_after, a_day_is_the_longest)
{
  cr_assert_eq(of("86399"), 86399000);
  cr_assert_eq(of("86401"), BUS_RETRY_AFTER_MS_MAX);
  cr_assert_eq(of("99999999999999999999999999999999"), BUS_RETRY_AFTER_MS_MAX);
  cr_assert_eq(of("Wed, 21 Oct 2099 07:28:00 GMT"), BUS_RETRY_AFTER_MS_MAX);
}

Test(retry_after, all_three_forms_of_date)
{
  cr_assert_eq(of("Wed, 21 Oct 2015 07:28:30 GMT"), 30000);
  cr_assert_eq(of("Wednesday, 21-Oct-15 07:29:00 GMT"), 60000);
  cr_assert_eq(of("Wed Oct 21 07:28:01 2015"), 1000);
  cr_assert_eq(
      bus_retry_after_ms("Fri, 01 Mar 2024 00:00:00 GMT", 1709164800u * UINT64_C(1000000000)),
      86400000, "29 February 2024 is a day");
  /* 1999, not 2099. */
  cr_assert_eq(of("Friday, 01-Jan-99 00:00:00 GMT"), 0);
}

Test(retry_after, what_is_past_or_cannot_be_read_is_zero)
{
  static const char *const values[] = {"",
                                       "-5",
                                       "soon",
                                       "30 seconds",
                                       "1.5.5",
                                       "Wed, 21 Oct 2015 07:27:59 GMT",
                                       "Wed, 21 Oct 1015 07:28:00 GMT",
                                       "Wed, 21 Foo 2015 07:28:30 GMT",
                                       "Wed, 32 Oct 2015 07:28:30 GMT",
                                       "Wed, 21 Oct 2015 24:28:30 GMT",
                                       "Wed, 21 Oct 2015 07:28:30 CET",
                                       "Wed, 21 Oct 2015 07:28:30 GMT and more",
                                       "Wed, 21 Oct 2015"};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++)
    cr_assert_eq(of(values[i]), 0, "%s", values[i]);
}
