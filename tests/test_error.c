#include "shm/error.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

Test(error, names_every_code_and_survives_others)
{
  for (int code = BUS_ERROR_UNSUPPORTED; code <= BUS_OK; code++)
    cr_assert_str_neq(bus_error_name(code), "unknown");
  cr_assert_str_eq(bus_error_name(BUS_ERROR_UNSUPPORTED), "unsupported");
  cr_assert_str_eq(bus_error_name(BUS_ERROR_UNSUPPORTED - 1), "unknown");
  cr_assert_str_eq(bus_error_name(1), "unknown");
  cr_assert_str_eq(bus_error_name(-2147483647 - 1), "unknown");
}

Test(error, keeps_the_message_and_adds_context)
{
  cr_assert_eq(bus_error_set(BUS_ERROR_DENIED, "file %s", "a"), BUS_ERROR_DENIED);
  cr_assert_eq(bus_error_context(BUS_ERROR_DENIED, "attach %d", 7), BUS_ERROR_DENIED);
  cr_assert_str_eq(bus_error_message(), "attach 7: file a");
  bus_error_clear();
  cr_assert_str_eq(bus_error_message(), "");
}

Test(error, maps_errno)
{
  errno = ENOSPC;
  cr_assert_eq(bus_error_set_errno("fallocate"), BUS_ERROR_NO_SPACE);
  cr_assert_not_null(strstr(bus_error_message(), "fallocate: "));
  errno = EACCES;
  cr_assert_eq(bus_error_set_errno("open"), BUS_ERROR_DENIED);
  errno = EISDIR;
  cr_assert_eq(bus_error_set_errno("open"), BUS_ERROR_IO);
}

Test(error, cuts_long_messages)
{
  char big[5000];
  memset(big, 'x', sizeof big - 1);
  big[sizeof big - 1] = '\0';
  bus_error_set(BUS_ERROR_IO, "%s", big);
  cr_assert_eq(strlen(bus_error_message()), 1023);
  bus_error_context(BUS_ERROR_IO, "%s", big);
  cr_assert_eq(strlen(bus_error_message()), 1023);
}
