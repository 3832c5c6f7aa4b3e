#include "tools/ops/system_files.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];
static char path[OPS_PATH_BYTES];

static void setup(void)
{
  strcpy(root, "/dev/shm/signal-bus-test-XXXXXX");
  cr_assert(mkdtemp(root) != NULL);
  cr_assert_eq(ops_path_join(path, root, "file"), BUS_OK);
}

static void teardown(void)
{
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", root);
  cr_assert_eq(system(command), 0);
}

static void put(const char *text, size_t size)
{
  FILE *file = fopen(path, "w");
  fwrite(text, 1, size, file);
  fclose(file);
}

TestSuite(system_files, .init = setup, .fini = teardown);

Test(system_files, the_roots_follow_the_prefix)
{
  struct ops_system system;
  unsetenv(OPS_SYSTEM_ROOT_VARIABLE);
  cr_assert_eq(ops_system_init(&system, NULL), BUS_OK);
  cr_expect_str_eq(system.proc_root, "/proc");
  cr_expect_str_eq(system.sys_root, "/sys");
  cr_expect_str_eq(system.cgroup_root, "/sys/fs/cgroup");
  cr_expect_str_eq(system.dev_root, "/dev");
  cr_expect_str_eq(system.run_root, "/run/signal-bus");
  cr_expect_not(system.injected);
  setenv(OPS_SYSTEM_ROOT_VARIABLE, "/fake", 1);
  cr_assert_eq(ops_system_init(&system, NULL), BUS_OK);
  cr_expect_str_eq(system.cgroup_root, "/fake/sys/fs/cgroup");
  cr_expect(system.injected);
  cr_expect_eq(ops_system_init(&system, "relative"), BUS_ERROR_INVALID);
}

Test(system_files, text_is_read_bounded_and_trimmed)
{
  char text[8];
  put("ab c \n\n", 7);
  cr_expect_eq(ops_file_read(path, text, sizeof text), 4);
  cr_expect_str_eq(text, "ab c");
  put("", 0);
  cr_expect_eq(ops_file_read(path, text, sizeof text), 0);
  put("12345678", 8);
  cr_expect_eq(ops_file_read(path, text, sizeof text), BUS_ERROR_NO_SPACE);
  cr_expect_str_eq(text, "");
  put("a\0b", 3);
  cr_expect_eq(ops_file_read(path, text, sizeof text), BUS_ERROR_FORMAT);
  unlink(path);
  cr_expect_eq(ops_file_read(path, text, sizeof text), BUS_ERROR_ABSENT);
  cr_expect(strstr(bus_error_message(), path) != NULL);
  cr_expect_lt(ops_file_read(root, text, sizeof text), 0); /* a directory */
}

Test(system_files, integers_stand_alone_in_their_file)
{
  int64_t value;
  put("-1\n", 3);
  cr_expect_eq(ops_file_read_integer(path, &value), BUS_OK);
  cr_expect_eq(value, -1);
  static const char *const bad[] = {"", "x", "1 2", "99999999999999999999", "1x"};
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    put(bad[i], strlen(bad[i]));
    cr_expect_eq(ops_file_read_integer(path, &value), BUS_ERROR_FORMAT, "'%s'", bad[i]);
  }
}

Test(system_files, a_write_replaces_the_text_and_makes_no_file)
{
  struct ops_system system;
  char text[32];
  cr_assert_eq(ops_system_init(&system, root), BUS_OK);
  cr_expect_eq(ops_system_write(&system, path, "1"), BUS_ERROR_ABSENT);
  cr_expect_not(ops_file_exists(path));
  put("something longer\n", 17);
  cr_expect_eq(ops_system_write(&system, path, "1"), BUS_OK);
  cr_expect_eq(ops_file_read(path, text, sizeof text), 1);
  cr_expect_str_eq(text, "1");
}

struct seen {
  int calls, error;
  char value[32];
};

static int before(void *user, const char *changed, const char *value)
{
  struct seen *seen = user;
  cr_expect_str_eq(changed, path);
  snprintf(seen->value, sizeof seen->value, "%s", value ? value : "(directory)");
  seen->calls++;
  return seen->error;
}

Test(system_files, a_hook_sees_each_change_and_can_refuse_it)
{
  struct ops_system system;
  struct seen seen = {.error = EBUSY};
  char text[32];
  cr_assert_eq(ops_system_init(&system, root), BUS_OK);
  system.before_change = before;
  system.user = &seen;
  put("0\n", 2);
  cr_expect_eq(ops_system_write(&system, path, "1"), BUS_ERROR_IO);
  cr_expect_str_eq(seen.value, "1");
  cr_expect(strstr(bus_error_message(), "'1'") && strstr(bus_error_message(), path) &&
            strstr(bus_error_message(), strerror(EBUSY)));
  cr_assert_eq(ops_file_read(path, text, sizeof text), 1);
  cr_expect_str_eq(text, "0");
  unlink(path);
  cr_expect_lt(ops_system_make_directory(&system, path), 0);
  seen.error = 0;
  cr_expect_eq(ops_system_make_directory(&system, path), BUS_OK);
  cr_expect_eq(ops_system_remove_directory(&system, path), BUS_OK);
  cr_expect_eq(seen.calls, 4);
  cr_expect_not(ops_file_exists(path));
}

Test(system_files, a_directory_is_listed_in_the_order_of_its_numbers)
{
  struct ops_names names;
  static const char *const made[] = {"cpu10", "cpu2", "cpu1"};
  for (size_t i = 0; i < BUS_COUNT_OF(made); i++) {
    ops_path_join(path, root, "%s", made[i]);
    put("", 0);
  }
  cr_assert_eq(ops_directory_list(root, &names), BUS_OK);
  cr_assert_eq(names.count, 3);
  cr_expect_str_eq(names.names[0], "cpu1");
  cr_expect_str_eq(names.names[1], "cpu2");
  cr_expect_str_eq(names.names[2], "cpu10");
  ops_names_free(&names);
  ops_path_join(path, root, "no such directory");
  cr_expect_eq(ops_directory_list(path, &names), BUS_ERROR_ABSENT);
  cr_expect_eq(names.count, 0);
}

Test(system_files, a_path_that_does_not_fit_is_refused)
{
  char name[OPS_PATH_BYTES];
  memset(name, 'a', sizeof name - 1);
  name[sizeof name - 1] = '\0';
  cr_expect_eq(ops_path_join(path, root, "%s", name), BUS_ERROR_INVALID);
  cr_expect_str_eq(path, "");
}
