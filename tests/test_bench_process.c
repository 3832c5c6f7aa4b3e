#include "tools/bench/bench_canary.h"
#include "tools/bench/bench_process.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int allowed_cores(void)
{
  cpu_set_t set;
  cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
  return CPU_COUNT(&set);
}

struct shared {
  int core;
  pid_t pid;
};

static int tell_core(void *context)
{
  struct shared *shared = context;
  shared->core = sched_getcpu();
  shared->pid = getpid();
  return BUS_OK;
}

static int spin(void *context)
{
  (void)context;
  while (!bench_stopped())
    bus_cpu_relax();
  return BUS_OK;
}

static int spin_for_ever(void *context)
{
  (void)context;
  for (;;)
    __asm__ volatile("");
  return BUS_OK;
}

Test(bench_process, children_run_on_their_core)
{
  int cores[2] = {-1, -1};
  const int count = allowed_cores() < 2 ? 1 : 2;
  cr_assert_eq(bench_choose_cores(cores, count), BUS_OK, "%s", bus_error_message());
  const int child_core = cores[count - 1];
  struct shared *shared =
      mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  cr_assert_neq(shared, MAP_FAILED);
  pid_t child = bench_fork(child_core, cores[0], tell_core, shared), pid = child;
  cr_assert_gt(child, 0, "%s", bus_error_message());
  bench_reap(&child, false);
  cr_assert_eq(child, 0);
  cr_assert_eq(shared->core, child_core);
  cr_assert_eq(shared->pid, pid);
  cr_assert_eq(sched_getcpu(), cores[0]);
}

Test(bench_process, a_child_ends_when_told_and_is_killed_when_deaf)
{
  int cores[2] = {-1, -1};
  bench_process_init();
  cr_assert_eq(bench_choose_cores(cores, 1), BUS_OK);
  pid_t child = bench_fork(cores[0], cores[0], spin, NULL), pid = child;
  cr_assert(bench_child_is_running(&child));
  bench_reap(&child, true);
  cr_assert_eq(child, 0);
  cr_assert_neq(kill(pid, 0), 0, "the child is still there");
  child = pid = bench_fork(cores[0], cores[0], spin_for_ever, NULL);
  bench_reap(&child, false);
  cr_assert_neq(kill(pid, 0), 0, "a deaf child is still there");
}

Test(bench_process, cores_that_cannot_be_had_are_refused)
{
  int same[2] = {0, 0}, many[2] = {CPU_SETSIZE + 1, -1};
  int first[2] = {-1, -1};
  cr_assert_eq(bench_choose_cores(first, 1), BUS_OK);
  same[0] = same[1] = first[0];
  cr_assert_eq(bench_choose_cores(same, 2), BUS_ERROR_INVALID);
  cr_assert_eq(bench_choose_cores(many, 1), BUS_ERROR_INVALID);
  cr_assert(strstr(bus_error_message(), "may not use"));
}

Test(bench_process, its_directory_goes_when_it_ends)
{
  char path[256];
  pid_t child = fork();
  if (child == 0) {
    static const char *const members[] = {"a", "b"};
    const char *made = bench_directory_make("/dev/shm", members, 2);
    bool good = made != NULL;
    for (int i = 0; good && i < 2; i++) {
      snprintf(path, sizeof path, "%s/%s", made, members[i]);
      FILE *file = fopen(path, "w");
      good = file && fclose(file) == 0;
    }
    exit(good ? 0 : 1);
  }
  int status;
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert_eq(status, 0);
  struct stat found;
  snprintf(path, sizeof path, "/dev/shm/bus-bench.%d", (int)child);
  cr_assert_neq(stat(path, &found), 0, "%s was left behind", path);
}

Test(bench_process, directories_that_cannot_be_made_are_named)
{
  static const char *const members[] = {"a", "b", "c", "d", "e"};
  cr_assert_null(bench_directory_make("/nowhere/at/all", members, 1));
  cr_assert(strstr(bus_error_message(), "/nowhere/at/all"));
  cr_assert_null(bench_directory_make("/dev/shm", members, 5));
}

Test(bench_process, one_measures_and_others_wait)
{
  int order[2];
  char byte = 0;
  cr_assert_eq(pipe(order), 0);
  pid_t holder = fork();
  if (holder == 0) {
    bool mine = bench_wait_turn() == BUS_OK;
    mine = write(order[1], mine ? "1" : "?", 1) == 1 && mine;
    struct timespec pause = {0, 200000000};
    nanosleep(&pause, NULL);
    mine = write(order[1], "2", 1) == 1 && mine;
    _exit(mine ? 0 : 1);
  }
  cr_assert_eq(read(order[0], &byte, 1), 1);
  cr_assert_eq(byte, '1');
  pid_t waiter = fork();
  if (waiter == 0)
    _exit(bench_wait_turn() == BUS_OK && write(order[1], "3", 1) == 1 ? 0 : 1);
  int status;
  cr_assert_eq(waitpid(holder, &status, 0), holder);
  cr_assert_eq(status, 0);
  cr_assert_eq(waitpid(waiter, &status, 0), waiter);
  cr_assert_eq(status, 0);
  cr_assert(read(order[0], &byte, 1) == 1 && byte == '2', "the second did not wait");
  cr_assert(read(order[0], &byte, 1) == 1 && byte == '3');
}

Test(bench_process, canaries_bring_a_time)
{
  int cores[2] = {-1, -1};
  cr_assert_eq(bench_clock_init(), BUS_OK);
  cr_assert_gt(bench_canary_core_ns(), 0);
  if (allowed_cores() < 2)
    cr_skip("one core only");
  cr_assert_eq(bench_choose_cores(cores, 2), BUS_OK);
  double round_trip_ns = bench_canary_ns(cores);
  cr_assert_gt(round_trip_ns, 0, "%s", bus_error_message());
}
