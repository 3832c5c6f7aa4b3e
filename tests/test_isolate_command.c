#include "tools/ops/isolate_command.h"

#include <criterion/criterion.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>

static struct ops_command command;

static int start(const char *program, const char *user)
{
  static char *argv[2];
  argv[0] = (char *)program;
  return ops_command_init(&command, argv, user);
}

static void setup(void)
{
  unsetenv("SUDO_UID");
  unsetenv("SUDO_GID");
  setenv("PATH", "/no/such/directory::/bin:/usr/bin", 1);
}

TestSuite(isolate_command, .init = setup);

Test(isolate_command, a_program_is_found_before_anything_is_changed)
{
  cr_assert_eq(start("sh", NULL), BUS_OK, "%s", bus_error_message());
  cr_expect_str_eq(command.path, "/bin/sh");
  cr_expect_not(command.drops);
  cr_expect_eq(start("/bin/sh", NULL), BUS_OK);
  cr_expect_eq(start("no-such-program", NULL), BUS_ERROR_ABSENT);
  cr_expect_eq(start("/etc/passwd", NULL), BUS_ERROR_ABSENT); /* not executable */
  cr_expect_eq(start("/bin", NULL), BUS_ERROR_ABSENT);        /* a directory */
  cr_expect_eq(start("", NULL), BUS_ERROR_ABSENT);
}

Test(isolate_command, root_is_given_to_who_called_sudo_or_to_the_user_named)
{
  cr_assert_eq(start("sh", "nobody"), BUS_OK);
  cr_expect(command.drops && command.uid == getpwnam("nobody")->pw_uid);
  cr_expect_eq(start("sh", "no such user"), BUS_ERROR_ABSENT);
  setenv("SUDO_UID", "12345", 1);
  setenv("SUDO_GID", "12346", 1);
  cr_assert_eq(start("sh", NULL), BUS_OK);
  cr_expect(command.drops && command.uid == 12345 && command.gid == 12346);
  cr_expect_str_eq(command.user, "");
  setenv("SUDO_UID", "0", 1);
  cr_assert_eq(start("sh", NULL), BUS_OK);
  cr_expect_not(command.drops);
  static const char *const bad[] = {"", "-1", "x", "4294967295"};
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    setenv("SUDO_UID", bad[i], 1);
    cr_expect_lt(start("sh", NULL), 0, "'%s'", bad[i]);
  }
}
