#include "ops_machine.h"

static struct machine machine;
static struct ops_thread thread;

static void setup(void)
{
  machine_make(&machine, OPS_MODE_CPUSET);
}

static void teardown(void)
{
  machine_remove(&machine);
}

TestSuite(thread_info, .init = setup, .fini = teardown);

Test(thread_info, a_name_may_hold_anything)
{
  put_thread(&machine, 50, 51, ") R 9 (\x1b[2J", KERNEL_THREAD | FIXED_THREAD, "0-1,3");
  cr_assert_eq(ops_thread_read(&machine.system, 50, 51, &thread), BUS_OK, "%s",
               bus_error_message());
  cr_expect_str_eq(thread.name, ") R 9 (?[2J");
  cr_expect(thread.kernel && thread.fixed);
  cr_expect_eq(thread.start_ticks, 1051);
  cr_expect(ops_cpu_list_has(&thread.cpus, 3) && !ops_cpu_list_has(&thread.cpus, 2));
}

Test(thread_info, what_no_kernel_writes_is_refused)
{
  static const char *const stats[] = {"",      "5",           "5 (x",
                                      "5 )x(", "5 (x) S 1 2", "5 (x) S a b c d e f"};
  for (size_t i = 0; i < BUS_COUNT_OF(stats); i++) {
    put(&machine, stats[i], "proc/4/task/4/stat");
    cr_expect_eq(ops_thread_read(&machine.system, 4, 4, &thread), BUS_ERROR_FORMAT, "'%s'",
                 stats[i]);
  }
  static const char *const statuses[] = {"", "Cpus_allowed_list:\t0\n",
                                         "\nCpus_allowed_list:\tx\n"};
  for (size_t i = 0; i < BUS_COUNT_OF(statuses); i++) {
    put(&machine, statuses[i], "proc/2/task/2/status");
    cr_expect_eq(ops_thread_read(&machine.system, 2, 2, &thread), BUS_ERROR_FORMAT, "'%s'",
                 statuses[i]);
  }
  cr_expect_eq(ops_thread_read(&machine.system, 77, 77, &thread), BUS_ERROR_ABSENT);
}

Test(thread_info, under_an_injected_root_only_the_file_changes)
{
  struct ops_cpu_list cpus = {0};
  ops_cpu_list_add(&cpus, 1);
  ops_cpu_list_add(&cpus, 3);
  cr_assert_eq(ops_thread_read(&machine.system, 101, 111, &thread), BUS_OK);
  cr_assert_eq(ops_thread_set_cpus(&machine.system, &thread, &cpus), BUS_OK);
  cr_expect_str_eq(get(&machine, "proc/101/task/111/status"),
                   "Name:\tworker\nCpus_allowed:\tf\nCpus_allowed_list:\t1,3\nMems:\t1");
  machine.fail_path = "111/status";
  machine.fail_errno = EPERM;
  cr_expect_eq(ops_thread_set_cpus(&machine.system, &thread, &cpus), BUS_ERROR_DENIED);
  cr_expect_not_null(strstr(bus_error_message(), "worker (thread 111 of process 101)"));
}

static int count(void *user, const struct ops_thread *seen)
{
  int *threads = user;
  return ++*threads == 5 && seen->tid > 0 ? 9 : 0;
}

Test(thread_info, every_thread_is_visited_until_told_otherwise)
{
  int threads = 10;
  cr_expect_eq(ops_thread_visit(&machine.system, count, &threads), 0);
  cr_expect_eq(threads, 18);
  threads = 0;
  cr_expect_eq(ops_thread_visit(&machine.system, count, &threads), 9);
}

Test(thread_info, this_process_is_what_it_is)
{
  struct ops_system real;
  cr_assert_eq(ops_system_init(&real, ""), BUS_OK);
  cr_assert_eq(ops_thread_read(&real, getpid(), getpid(), &thread), BUS_OK, "%s",
               bus_error_message());
  cr_expect_not(thread.kernel);
  struct ops_cpu_list cpus = thread.cpus, one = {0};
  ops_cpu_list_add(&one, ops_cpu_list_next(&cpus, 0));
  cr_assert_eq(ops_thread_set_cpus(&real, &thread, &one), BUS_OK);
  cr_assert_eq(ops_thread_read(&real, getpid(), getpid(), &thread), BUS_OK);
  cr_expect(ops_cpu_list_equal(&thread.cpus, &one));
  cr_assert_eq(ops_thread_set_cpus(&real, &thread, &cpus), BUS_OK);
}
