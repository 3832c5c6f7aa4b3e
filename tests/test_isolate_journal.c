#include "ops_machine.h"

static struct machine machine;
static struct ops_journal journal;

static void setup(void)
{
  machine_make(&machine, OPS_MODE_CPUSET);
  int fd = ops_journal_lock(&machine.system); /* which makes the directory */
  cr_assert_geq(fd, 0);
  close(fd);
  journal = (struct ops_journal){.fd = -1, .name = "bus", .boot_id = "boot", .cgroup = "/c/bus"};
  ops_cpu_list_add(&journal.cpus, 5);
  journal.made_ns = 1234567890123456789;
}

static void teardown(void)
{
  ops_journal_close(&journal);
  machine_remove(&machine);
}

static struct ops_change sample(const char *path)
{
  struct ops_change change = {.kind = OPS_CHANGE_AFFINITY,
                              .format = OPS_VALUE_LIST,
                              .stage = "threads",
                              .label = "a \"name\" \\ x",
                              .pid = 7,
                              .tid = 8,
                              .start_ticks = 99,
                              .found = "0-3",
                              .wanted = "0,1"};
  snprintf(change.path, sizeof change.path, "%s", path);
  return change;
}

static void write_two(void)
{
  struct ops_change first = sample("/proc/1"), second = sample("/proc/2");
  cr_assert_eq(ops_journal_create(&machine.system, &journal), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(ops_journal_append(&journal, &first), BUS_OK);
  cr_assert_eq(ops_journal_append(&journal, &second), BUS_OK);
}

TestSuite(isolate_journal, .init = setup, .fini = teardown);

Test(isolate_journal, what_is_appended_is_read)
{
  struct ops_journal copy;
  write_two();
  cr_assert_eq(ops_journal_complete(&journal), BUS_OK);
  cr_assert_eq(ops_journal_read(&machine.system, "bus", &copy), BUS_OK, "%s", bus_error_message());
  cr_expect_str_eq(copy.boot_id, "boot");
  cr_expect_str_eq(copy.cgroup, "/c/bus");
  cr_expect_eq(copy.made_ns, journal.made_ns);
  cr_expect(ops_cpu_list_equal(&copy.cpus, &journal.cpus));
  cr_expect(copy.complete);
  cr_assert_eq(copy.count, 2);
  struct ops_change want = sample("/proc/2");
  const struct ops_change *got = &copy.changes[1];
  cr_expect(got->kind == want.kind && got->format == want.format && got->pid == want.pid &&
            got->tid == want.tid && got->start_ticks == want.start_ticks);
  cr_expect_str_eq(got->stage, want.stage);
  cr_expect_str_eq(got->path, want.path);
  cr_expect_str_eq(got->label, want.label);
  cr_expect_str_eq(got->found, want.found);
  cr_expect_str_eq(got->wanted, want.wanted);
  ops_journal_close(&copy);
  cr_expect_eq(ops_journal_read(&machine.system, "other", &copy), BUS_ERROR_ABSENT);
}

Test(isolate_journal, a_line_cut_short_at_any_byte_is_of_a_change_that_was_not_made)
{
  struct ops_journal copy;
  write_two();
  int64_t end = journal.size;
  size_t last = 0;
  for (int64_t size = 0; size <= end; size++) {
    cr_assert_eq(truncate(journal.path, 0), 0);
    journal.size = 0;
    journal.count = 0;
    ops_journal_close(&journal);
    journal.changes = NULL;
    write_two();
    cr_assert_eq(truncate(journal.path, size), 0);
    int error = ops_journal_read(&machine.system, "bus", &copy);
    cr_assert(error == BUS_OK || (error == BUS_ERROR_ABSENT && last == 0), "at %d: %s", (int)size,
              bus_error_message());
    cr_assert_geq(copy.count, last);
    last = copy.count;
    if (error == BUS_OK) { /* and it can be continued */
      struct ops_change third = sample("/proc/3");
      size_t count = copy.count;
      cr_assert_eq(ops_journal_open(&copy), BUS_OK);
      cr_assert_eq(ops_journal_append(&copy, &third), BUS_OK);
      ops_journal_close(&copy);
      cr_assert_eq(ops_journal_read(&machine.system, "bus", &copy), BUS_OK);
      cr_assert_eq(copy.count, count + 1);
      cr_assert_str_eq(copy.changes[count].path, "/proc/3");
    }
    ops_journal_close(&copy);
  }
  cr_expect_eq(last, 2);
}

Test(isolate_journal, a_damaged_line_is_named)
{
  static const char without_a_thread[] =
      "{\"stage\":\"x\",\"kind\":\"affinity\",\"format\":\"list\",\"path\":\"/p\",\"label\":\"\","
      "\"found\":\"0\",\"wanted\":\"1\",\"pid\":0,\"tid\":0}\n";
  static const char *const lines[] = {"{}\n", "nonsense\n",    "[]\n", "{\"kind\":\"write\"}\n",
                                      "\n",   without_a_thread};
  for (size_t i = 0; i < BUS_COUNT_OF(lines); i++) {
    struct ops_journal copy;
    write_two();
    FILE *file = fopen(journal.path, "a");
    fputs(lines[i], file);
    fclose(file);
    cr_expect_eq(ops_journal_read(&machine.system, "bus", &copy), BUS_ERROR_FORMAT, "%s", lines[i]);
    cr_expect_not_null(strstr(bus_error_message(), "isolate-bus.journal:4: "));
    ops_journal_close(&journal);
  }
}

Test(isolate_journal, a_journal_that_others_can_write_is_not_trusted)
{
  struct ops_journal copy;
  write_two();
  cr_assert_eq(chmod(journal.path, 0620), 0);
  cr_expect_eq(ops_journal_read(&machine.system, "bus", &copy), BUS_ERROR_DENIED);
  cr_assert_eq(chmod(journal.path, 0600), 0);
  char path[OPS_PATH_BYTES];
  ops_path_join(path, machine.system.run_root, "isolate-link.journal");
  cr_assert_eq(symlink(journal.path, path), 0);
  cr_expect_lt(ops_journal_read(&machine.system, "link", &copy), 0);
}

Test(isolate_journal, a_directory_that_others_can_write_is_refused_with_the_remedy)
{
  cr_assert_eq(chmod(machine.system.run_root, 0775), 0);
  cr_expect_eq(ops_journal_lock(&machine.system), BUS_ERROR_DENIED);
  cr_expect_not_null(strstr(bus_error_message(), "chmod 755"));
  cr_assert_eq(chmod(machine.system.run_root, 0755), 0);
  int fd = ops_journal_lock(&machine.system);
  cr_expect_geq(fd, 0);
  close(fd);
}

Test(isolate_journal, names_stay_inside_the_directory)
{
  static const char *const bad[] = {
      "", ".", "..", "a/b", ".x", "house", "a b", "ä", "123456789012345678901234567890123"};
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++)
    cr_expect_not(ops_isolation_name_valid(bad[i]), "'%s'", bad[i]);
  cr_expect(ops_isolation_name_valid("bus"));
  cr_expect(ops_isolation_name_valid("12345678901234567890123456789012"));
  cr_expect(ops_isolation_name_valid("a.B_c-9"));
}

Test(isolate_journal, cutting_forgets_the_last_changes)
{
  struct ops_journal copy;
  cr_assert_eq(ops_journal_create(&machine.system, &journal), BUS_OK);
  struct ops_change change = sample("/proc/1");
  cr_assert_eq(ops_journal_append(&journal, &change), BUS_OK);
  int64_t size = journal.size;
  for (int i = 0; i < 5; i++)
    cr_assert_eq(ops_journal_append(&journal, &change), BUS_OK);
  cr_assert_eq(ops_journal_truncate(&journal, 1, size), BUS_OK);
  cr_assert_eq(ops_journal_append(&journal, &change), BUS_OK);
  cr_assert_eq(ops_journal_read(&machine.system, "bus", &copy), BUS_OK);
  cr_expect_eq(copy.count, 2);
  ops_journal_close(&copy);
}
