#include "ops_machine.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>

static struct machine machine;
static struct ops_isolation run;
static char *before;

static const enum ops_isolate_mode modes[] = {OPS_MODE_PARTITION, OPS_MODE_CPUSET,
                                              OPS_MODE_AFFINITY};

static void begin(enum ops_isolate_mode mode)
{
  machine_make(&machine, mode);
  before = machine_snapshot(&machine);
}

static void end(void)
{
  free(before);
  machine_remove(&machine);
}

/* Everything that can be asked, of CPU 2. */
static struct ops_isolate_options everything(void)
{
  struct ops_isolate_options options = {.name = "bus",
                                        .irqs_move = true,
                                        .kthreads_move = true,
                                        .workqueues = true,
                                        .settings = true,
                                        .cpu_dma_latency = true};
  ops_cpu_list_add(&options.cpus, 2);
  return options;
}

static int isolate(struct ops_isolate_options options)
{
  machine.changes = 0;
  ops_isolation_free(&run);
  ops_isolation_init(&run, &machine.system);
  run.options = options;
  return ops_isolate(&run);
}

static int release(const char *name)
{
  machine.changes = 0;
  ops_isolation_free(&run);
  ops_isolation_init(&run, &machine.system);
  strcpy(run.options.name, name);
  return ops_release(&run);
}

static const struct ops_change *find_change(const char *path)
{
  for (size_t i = 0; i < run.count; i++)
    if (ends_with(run.changes[i].path, path))
      return &run.changes[i];
  return NULL;
}

static bool remarked(enum ops_remark_level level, const char *text)
{
  for (size_t i = 0; i < run.remark_count; i++)
    if (run.remarks[i].level == level && strstr(run.remarks[i].text, text))
      return true;
  return false;
}

/* Affinity alone is a warning. */
static int good_exit(enum ops_isolate_mode mode)
{
  return mode == OPS_MODE_AFFINITY ? OPS_EXIT_WARNINGS : OPS_EXIT_OK;
}

static bool journal_exists(const char *name)
{
  char path[OPS_PATH_BYTES];
  ops_path_join(path, machine.system.run_root, "isolate-%s.journal", name);
  return ops_file_exists(path);
}

TestSuite(isolate, .timeout = 240);

Test(isolate, confines_and_releases_byte_for_byte_in_each_mode)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes); i++) {
    begin(modes[i]);
    cr_assert_eq(isolate(everything()), good_exit(modes[i]), "%s", bus_error_message());
    cr_expect_eq(run.mode, modes[i]);
    cr_expect_str_eq(get(&machine, "proc/irq/10/smp_affinity_list"), "0-1,3");
    cr_expect_str_eq(get(&machine, "proc/irq/11/smp_affinity_list"), "0-1,3");
    cr_expect_str_eq(get(&machine, "proc/irq/12/smp_affinity_list"), "0-1");
    cr_expect_str_eq(get(&machine, "proc/irq/default_smp_affinity"), "0000000b");
    cr_expect_str_eq(get(&machine, "sys/devices/virtual/workqueue/cpumask"), "0000000b");
    cr_expect_str_eq(get(&machine, "proc/sys/kernel/sched_rt_runtime_us"), "-1");
    cr_expect_str_eq(get(&machine, "proc/sys/kernel/watchdog_cpumask"), "0-1,3");
    cr_expect_str_eq(get(&machine, "sys/kernel/mm/transparent_hugepage/enabled"),
                     "always [madvise] never");
    cr_expect_not_null(strstr(get(&machine, "proc/4/task/4/status"), "list:\t0-1,3\n"));
    cr_expect_not_null(strstr(get(&machine, "proc/100/task/100/status"), "list:\t0-1,3\n"));
    cr_expect_not_null(strstr(get(&machine, "proc/101/task/111/status"), "list:\t1\n"));
    cr_expect_not_null(strstr(get(&machine, "proc/102/task/102/status"), "list:\t0-1\n"));
    cr_expect_not_null(strstr(get(&machine, "proc/3/task/3/status"), "list:\t2\n"));
    cr_expect_str_eq(run.kernel_command_line,
                     "nohz_full=2 rcu_nocbs=2 isolcpus=managed_irq,2 irqaffinity=0-1,3");
    cr_assert_eq(release("bus"), OPS_EXIT_OK, "%s", bus_error_message());
    machine_same(&machine, before, ops_isolate_mode_name(modes[i]));
    cr_expect_not(journal_exists("bus"));
    end();
  }
}

Test(isolate, a_v2_partition_and_a_v1_cpuset_are_what_the_kernel_needs)
{
  begin(OPS_MODE_PARTITION);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cgroup.subtree_control"), "cpu cpuset");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/signal-bus-bus/cpuset.cpus"), "2");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/signal-bus-bus/cpuset.cpus.partition"), "isolated");
  end();
  begin(OPS_MODE_CPUSET);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/signal-bus-bus/cpuset.cpus"), "2");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/signal-bus-bus/cpuset.mems"), "0-1");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/signal-bus-bus/cpuset.cpu_exclusive"), "1");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/cpuset.sched_load_balance"), "0");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/signal-bus-house/cpuset.cpus"), "0-1,3");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/signal-bus-house/cgroup.procs"),
                   "1\n100\n101\n102");
  cr_expect_str_eq(get(&machine, "sys/fs/cgroup/cpuset/cgroup.procs"), "2\n3\n4");
  end();
}

/* True when a dry run named the file of this line of a snapshot. */
static bool planned(const char *line, size_t length)
{
  if (memmem(line, length, "/signal-bus-", 12) || memmem(line, length, "/cgroup.procs", 13))
    return true; /* cgroups of ours, and who is in one, which the move names */
  for (size_t i = 0; i < run.count; i++) {
    const char *path = run.changes[i].path + strlen(machine.root);
    if (!strncmp(line, path, strlen(path)))
      return true;
  }
  return false;
}

Test(isolate, a_dry_run_changes_nothing_and_names_all_that_would_change)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes); i++) {
    begin(modes[i]);
    cr_assert_eq(isolate(everything()), good_exit(modes[i]));
    char *after = machine_snapshot(&machine);
    cr_assert_eq(release("bus"), OPS_EXIT_OK);
    struct ops_isolate_options options = everything();
    options.dry_run = true;
    cr_assert_eq(isolate(options), OPS_EXIT_OK);
    cr_expect_eq(machine.changes, 0);
    machine_same(&machine, before, "dry run");
    for (const char *line = after; *line; line += strcspn(line, "\n") + 1) {
      size_t length = strcspn(line, "\n");
      char *copy = strndup(line, length + 1);
      cr_expect(strstr(before, copy) || *line != '/' || planned(line, length),
                "changed, and not in the dry run: %s", copy);
      free(copy);
    }
    free(after);
    end();
  }
}

/* ---- refusals and deaths at every change ---- */

Test(isolate, a_refusal_of_any_change_rolls_back_or_is_named)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes); i++)
    for (int strict = 0; strict < 2 - (modes[i] == OPS_MODE_AFFINITY); strict++)
      for (int at = 1, made = at; at <= made; at++) {
        begin(modes[i]);
        struct ops_isolate_options options = everything();
        options.strict = strict;
        machine.fail_at = at;
        int code = isolate(options);
        made = machine.changes;
        bool refused = made >= at;
        machine.fail_at = 0;
        if (code == OPS_EXIT_FAILED) {
          cr_assert_not(journal_exists("bus"));
        } else {
          /* An interrupt that does not fire there is noted, and moving is tried again. */
          bool harmless = strstr(machine.refused, "irq/10/") ||
                          ends_with(machine.refused, "house/cgroup.procs");
          cr_assert(code == OPS_EXIT_WARNINGS || !refused || harmless, "change %d: exit %d, %s", at,
                    code, bus_error_message());
          cr_assert_not(strict && refused && code == OPS_EXIT_WARNINGS);
          cr_assert_eq(release("bus"), OPS_EXIT_OK, "change %d", at);
        }
        machine_same(&machine, before, "refused");
        end();
      }
}

/* Runs `what` in a child that is killed before or after change `at`; false when it was through
 * before. */
static bool killed(int at, bool after, int (*what)(void))
{
  int status;
  pid_t pid = fork();
  cr_assert_geq(pid, 0);
  if (pid == 0) {
    machine.die_before = after ? 0 : at;
    machine.die_after = after ? at : 0;
    what();
    _exit(0);
  }
  cr_assert_eq(waitpid(pid, &status, 0), pid);
  return WIFSIGNALED(status);
}

static int isolate_everything(void)
{
  return isolate(everything());
}

static int release_bus(void)
{
  return release("bus");
}

Test(isolate, killed_at_any_change_release_restores_everything)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes) * 2; i++) {
    bool more = true;
    for (int at = 1; more; at++) {
      begin(modes[i / 2]);
      more = killed(at, i % 2, isolate_everything);
      cr_assert(at > 10 || more, "through after %d changes", at);
      cr_assert_eq(release("bus"), OPS_EXIT_OK, "change %d: %s", at, bus_error_message());
      machine_same(&machine, before, "killed");
      cr_assert_not(journal_exists("bus"));
      end();
    }
  }
}

Test(isolate, killed_at_any_change_a_second_call_completes_it)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes) * 2; i++) {
    begin(modes[i / 2]);
    cr_assert_eq(isolate(everything()), good_exit(modes[i / 2]));
    char *isolated = machine_snapshot(&machine);
    end();
    bool more = true;
    for (int at = 1; more; at++) {
      begin(modes[i / 2]);
      more = killed(at, i % 2, isolate_everything);
      cr_assert_eq(isolate(everything()), good_exit(modes[i / 2]), "change %d: %s", at,
                   bus_error_message());
      machine_same(&machine, isolated, "completed");
      cr_assert_eq(release("bus"), OPS_EXIT_OK, "change %d: %s", at,
                   run.remark_count ? run.remarks[0].text : bus_error_message());
      machine_same(&machine, before, "released");
      end();
    }
    free(isolated);
  }
}

Test(isolate, a_release_killed_at_any_change_is_completed_by_the_next)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes) * 2; i++) {
    bool more = true;
    for (int at = 1; more; at++) {
      begin(modes[i / 2]);
      cr_assert_eq(isolate(everything()), good_exit(modes[i / 2]));
      more = killed(at, i % 2, release_bus);
      cr_assert(at > 10 || more);
      cr_assert_eq(release("bus"), OPS_EXIT_OK, "change %d: %s", at, bus_error_message());
      machine_same(&machine, before, "killed");
      end();
    }
  }
}

Test(isolate, a_rollback_that_fails_is_named_and_released_later)
{
  begin(OPS_MODE_CPUSET);
  machine.fail_from = 12;
  cr_assert_eq(isolate(everything()), OPS_EXIT_INCOMPLETE);
  cr_expect_not_null(strstr(bus_error_message(), "isolate-bus.journal"));
  cr_expect(journal_exists("bus"));
  machine.fail_from = 1;
  cr_assert_eq(release("bus"), OPS_EXIT_INCOMPLETE);
  machine.fail_from = 0;
  cr_assert_eq(release("bus"), OPS_EXIT_OK, "%s", bus_error_message());
  machine_same(&machine, before, "released");
  end();
}

static volatile sig_atomic_t terminated;

static void on_signal(int number)
{
  terminated = number;
}

Test(isolate, a_signal_rolls_back_and_arrives_afterwards)
{
  begin(OPS_MODE_CPUSET);
  signal(SIGTERM, on_signal);
  machine.signal_at = 9;
  cr_assert_eq(isolate(everything()), OPS_EXIT_FAILED);
  machine.signal_at = 0;
  cr_expect_eq(terminated, SIGTERM);
  machine_same(&machine, before, "interrupted");
  end();
}

/* ---- single refusals ---- */

Test(isolate, an_invalid_partition_is_noticed_and_rolled_back)
{
  begin(OPS_MODE_PARTITION);
  machine.invalid_partition = true;
  cr_assert_eq(isolate(everything()), OPS_EXIT_FAILED);
  cr_expect_not_null(strstr(bus_error_message(), "isolated invalid (Cpu list"));
  machine_same(&machine, before, "invalid");
  end();
}

Test(isolate, managed_interrupts_are_named_with_what_keeps_them_off)
{
  begin(OPS_MODE_CPUSET);
  machine.fail_path = "irq/11/";
  machine.fail_errno = EPERM;
  cr_assert_eq(isolate(everything()), OPS_EXIT_WARNINGS);
  cr_expect(remarked(OPS_REMARK_WARNING, "irq/11/smp_affinity_list"));
  cr_expect(remarked(OPS_REMARK_WARNING, "isolcpus=managed_irq,2"));
  cr_expect_eq(find_change("irq/11/smp_affinity_list")->state, OPS_CHANGE_FAILED);
  machine.fail_path = NULL;
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  machine_same(&machine, before, "released");
  /* One that does not fire on these CPUs is no warning. */
  machine.fail_path = "irq/10/";
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  cr_expect(remarked(OPS_REMARK_NOTE, "irq/10/smp_affinity_list"));
  end();
}

Test(isolate, an_interrupt_that_has_not_fired_yet_is_pending)
{
  begin(OPS_MODE_CPUSET);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  cr_expect_eq(find_change("irq/11/smp_affinity_list")->state, OPS_CHANGE_PENDING);
  cr_expect_eq(find_change("irq/10/smp_affinity_list")->state, OPS_CHANGE_DONE);
  end();
}

Test(isolate, a_sibling_cgroup_with_the_cpu_is_a_conflict)
{
  begin(OPS_MODE_PARTITION);
  put(&machine, "1-2\n", "sys/fs/cgroup/system.slice/cpuset.cpus");
  cr_assert_eq(isolate(everything()), OPS_EXIT_CONFLICT);
  cr_expect_not_null(strstr(bus_error_message(), "system.slice/cpuset.cpus"));
  put(&machine, "\n", "sys/fs/cgroup/system.slice/cpuset.cpus");
  put(&machine, "2\n", "sys/fs/cgroup/machine.slice/cpuset.cpus.exclusive");
  cr_assert_eq(isolate(everything()), OPS_EXIT_CONFLICT);
  end();
  begin(OPS_MODE_CPUSET);
  put(&machine, "0-3\n", "sys/fs/cgroup/cpuset/docker/cpuset.cpus");
  cr_assert_eq(isolate(everything()), OPS_EXIT_CONFLICT);
  cr_expect_not_null(strstr(bus_error_message(), "cpuset/docker/cpuset.cpus"));
  put(&machine, "0-1\n", "sys/fs/cgroup/cpuset/docker/cpuset.cpus");
  put(&machine, "2\n", "sys/fs/cgroup/cpuset/signal-bus-stranger/cpuset.cpus"); /* no journal */
  cr_assert_eq(isolate(everything()), OPS_EXIT_CONFLICT);
  cr_expect_not_null(strstr(bus_error_message(), "signal-bus-stranger/cpuset.cpus"));
  put(&machine, "3\n", "sys/fs/cgroup/cpuset/signal-bus-stranger/cpuset.cpus");
  put(&machine, "\n", "sys/fs/cgroup/cpuset/signal-bus-bus/cpuset.cpus"); /* nobody's */
  cr_assert_eq(isolate(everything()), OPS_EXIT_CONFLICT);
  cr_expect_eq(machine.changes, 0);
  end();
}

Test(isolate, cpus_that_must_not_be_isolated_are_refused)
{
  static const char *const bad[] = {"0", "0-1", "", "7", "2,7"};
  begin(OPS_MODE_CPUSET);
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    struct ops_isolate_options options = everything();
    ops_cpu_list_parse(&options.cpus, bad[i], "--cpus");
    cr_expect_eq(isolate(options), OPS_EXIT_USAGE, "'%s'", bad[i]);
  }
  put(&machine, "2-3\n", "sys/devices/system/cpu/online");
  struct ops_isolate_options options = everything();
  ops_cpu_list_parse(&options.cpus, "2-3", "--cpus");
  cr_expect_eq(isolate(options), OPS_EXIT_USAGE);
  cr_expect_not_null(strstr(bus_error_message(), "the last"));
  cr_expect_eq(machine.changes, 0);
  end();
}

Test(isolate, hyperthreads_are_included_left_or_warned_about)
{
  begin(OPS_MODE_CPUSET);
  put(&machine, "2-3\n", "sys/devices/system/cpu/cpu2/topology/thread_siblings_list");
  struct ops_isolate_options options = everything();
  options.dry_run = true;
  cr_assert_eq(isolate(options), OPS_EXIT_OK);
  cr_expect(remarked(OPS_REMARK_WARNING, "--siblings include"));
  cr_expect_str_eq(run.cpus_text, "2");
  options.siblings = OPS_SIBLINGS_IGNORE;
  cr_assert_eq(isolate(options), OPS_EXIT_OK);
  cr_expect_eq(run.warning_count, 0);
  options.siblings = OPS_SIBLINGS_INCLUDE;
  cr_assert_eq(isolate(options), OPS_EXIT_OK);
  cr_expect_str_eq(run.cpus_text, "2-3");
  put(&machine, "0,2\n", "sys/devices/system/cpu/cpu2/topology/thread_siblings_list");
  cr_expect_eq(isolate(options), OPS_EXIT_USAGE); /* CPU 0 comes with it */
  end();
}

Test(isolate, strict_refuses_what_would_be_a_warning)
{
  struct ops_isolate_options options = everything();
  options.strict = true;
  begin(OPS_MODE_AFFINITY);
  cr_expect_eq(isolate(options), OPS_EXIT_UNSUPPORTED);
  end();
  begin(OPS_MODE_PARTITION);
  put(&machine, "6.12.81-x\n", "proc/sys/kernel/osrelease");
  cr_expect_eq(isolate(options), OPS_EXIT_UNSUPPORTED);
  options.strict = false;
  cr_expect_eq(isolate(options), OPS_EXIT_WARNINGS);
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  static const char *const fine[] = {"6.12.82", "6.18.23", "6.19.13", "6.8.0", "7.0.0", "5.15.0"};
  options.strict = true;
  options.dry_run = true;
  for (size_t i = 0; i < BUS_COUNT_OF(fine); i++) {
    put(&machine, fine[i], "proc/sys/kernel/osrelease");
    cr_expect_eq(isolate(options), OPS_EXIT_OK, "%s", fine[i]);
  }
  end();
  begin(OPS_MODE_CPUSET);
  options.dry_run = false;
  put_thread(&machine, 103, 103, "irqbalance", 0, "0-3");
  put(&machine, "1\n103\n", "sys/fs/cgroup/cpuset/cgroup.procs");
  cr_expect_eq(isolate(options), OPS_EXIT_FAILED);
  cr_expect(remarked(OPS_REMARK_WARNING, "IRQBALANCE_BANNED_CPULIST=2"));
  cr_expect_eq(machine.changes, 0);
  end();
}

Test(isolate, a_kernel_that_forgets_pins_is_a_warning)
{
  begin(OPS_MODE_CPUSET);
  struct ops_isolate_options options = everything();
  options.dry_run = true;
  put(&machine, "6.1.0-25-amd64\n", "proc/sys/kernel/osrelease");
  cr_assert_eq(isolate(options), OPS_EXIT_OK);
  cr_expect(remarked(OPS_REMARK_WARNING, "3 threads are pinned now"));
  put(&machine, "6.2.0\n", "proc/sys/kernel/osrelease");
  cr_assert_eq(isolate(options), OPS_EXIT_OK);
  cr_expect_eq(run.warning_count, 0);
  end();
}

Test(isolate, a_kernel_without_latency_files_is_unsupported)
{
  begin(OPS_MODE_CPUSET);
  struct ops_isolate_options options = everything();
  options.has_command = true; /* and there is no dev/cpu_dma_latency */
  cr_expect_eq(isolate(options), OPS_EXIT_UNSUPPORTED);
  end();
}

/* ---- again, drift, reboot, several ---- */

Test(isolate, a_second_call_changes_nothing)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes); i++) {
    begin(modes[i]);
    cr_assert_eq(isolate(everything()), good_exit(modes[i]));
    cr_assert_eq(isolate(everything()), good_exit(modes[i]));
    cr_expect_eq(machine.changes, 0);
    cr_assert_eq(release("bus"), OPS_EXIT_OK);
    machine_same(&machine, before, "released");
    cr_assert_eq(release("bus"), OPS_EXIT_OK);
    cr_expect(remarked(OPS_REMARK_NOTE, "nothing to release"));
    end();
  }
}

Test(isolate, a_later_call_adds_stages_and_a_failure_there_takes_only_them_back)
{
  begin(OPS_MODE_CPUSET);
  struct ops_isolate_options few = everything();
  few.settings = few.irqs_move = few.workqueues = false;
  cr_assert_eq(isolate(few), OPS_EXIT_OK);
  char *first = machine_snapshot(&machine);
  struct ops_isolate_options all = everything();
  all.strict = true;
  machine.fail_at = 5;
  cr_assert_eq(isolate(all), OPS_EXIT_FAILED);
  machine_same(&machine, first, "rolled back to the first call");
  machine.fail_at = 0;
  cr_assert_eq(isolate(all), OPS_EXIT_OK);
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  machine_same(&machine, before, "released");
  free(first);
  end();
}

Test(isolate, what_somebody_else_changed_is_left_alone_and_named)
{
  begin(OPS_MODE_CPUSET);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  put(&machine, "30\n", "proc/sys/vm/swappiness");
  put(&machine, "3,0,1\n", "proc/irq/10/smp_affinity_list"); /* the same list in other words */
  cr_assert_eq(release("bus"), OPS_EXIT_WARNINGS);
  cr_expect(remarked(OPS_REMARK_WARNING, "drifted, left alone: '60' was found, '1' written"));
  cr_expect_eq(run.warning_count, 1);
  cr_expect_str_eq(get(&machine, "proc/sys/vm/swappiness"), "30");
  cr_expect_str_eq(get(&machine, "proc/irq/10/smp_affinity_list"), "0-3");
  cr_expect_not(journal_exists("bus"));
  end();
}

Test(isolate, a_controller_that_others_use_now_stays)
{
  begin(OPS_MODE_PARTITION);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  machine.fail_path = "cgroup.subtree_control";
  machine.fail_errno = EBUSY;
  cr_assert_eq(release("bus"), OPS_EXIT_WARNINGS);
  cr_expect(remarked(OPS_REMARK_WARNING, "others use it now"));
  cr_expect_not(journal_exists("bus"));
  end();
}

Test(isolate, threads_that_ended_or_whose_number_came_again_are_left_alone)
{
  begin(OPS_MODE_AFFINITY);
  cr_assert_eq(isolate(everything()), OPS_EXIT_WARNINGS);
  put(&machine, "111 (other) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 9999 0 0\n",
      "proc/101/task/111/stat");
  char command[200];
  snprintf(command, sizeof command, "rm -r %s/proc/100", machine.root);
  cr_assert_eq(system(command), 0);
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  cr_expect_not_null(strstr(get(&machine, "proc/101/task/111/status"), "list:\t1\n"));
  cr_expect_eq(find_change("100/task/100/status")->state, OPS_CHANGE_GONE);
  end();
}

Test(isolate, a_reboot_has_undone_everything)
{
  begin(OPS_MODE_PARTITION);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  put(&machine, "second-boot\n", "proc/sys/kernel/random/boot_id");
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  cr_expect_eq(machine.changes, 0);
  cr_expect(remarked(OPS_REMARK_NOTE, "reboot"));
  cr_expect_not(journal_exists("bus"));
  end();
  begin(OPS_MODE_CPUSET); /* and isolate begins anew over an old journal */
  struct ops_isolate_options options = everything();
  cr_assert_eq(isolate(options), OPS_EXIT_OK);
  char journal[OPS_PATH_BYTES], command[OPS_PATH_BYTES * 2 + 64];
  ops_path_join(journal, machine.system.run_root, "isolate-bus.journal");
  snprintf(command, sizeof command, "cp %s %s/old", journal, machine.root);
  cr_assert_eq(system(command), 0);
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  snprintf(command, sizeof command, "mv %s/old %s", machine.root, journal);
  cr_assert_eq(system(command), 0);
  put(&machine, "second-boot\n", "proc/sys/kernel/random/boot_id");
  ops_cpu_list_add(&options.cpus, 3);
  cr_assert_eq(isolate(options), OPS_EXIT_OK, "%s", bus_error_message());
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  put(&machine, "first-boot\n", "proc/sys/kernel/random/boot_id");
  machine_same(&machine, before, "released");
  end();
}

Test(isolate, two_isolations_live_side_by_side_and_go_in_reverse_order)
{
  for (size_t i = 0; i < BUS_COUNT_OF(modes); i++) {
    begin(modes[i]);
    struct ops_isolate_options second = everything();
    cr_assert_eq(isolate(everything()), good_exit(modes[i]));
    char *first = machine_snapshot(&machine);
    strcpy(second.name, "other");
    cr_expect_eq(isolate(second), OPS_EXIT_CONFLICT); /* the same CPU */
    cr_expect_not_null(strstr(bus_error_message(), "release --name bus"));
    second.cpus = (struct ops_cpu_list){0};
    ops_cpu_list_add(&second.cpus, 3);
    cr_assert_eq(isolate(second), good_exit(modes[i]), "%s", bus_error_message());
    cr_expect_str_eq(get(&machine, "proc/irq/10/smp_affinity_list"), "0-1");
    cr_expect_eq(release("bus"), OPS_EXIT_CONFLICT);
    cr_expect_not_null(strstr(bus_error_message(), "release --name other"));
    cr_assert_eq(release("other"), OPS_EXIT_OK, "%s", bus_error_message());
    machine_same(&machine, first, "the first alone");
    cr_assert_eq(release("bus"), OPS_EXIT_OK);
    machine_same(&machine, before, "released");
    free(first);
    struct ops_isolate_options wrong = everything();
    cr_assert_eq(isolate(wrong), good_exit(modes[i]));
    wrong.cpus = second.cpus;
    cr_expect_eq(isolate(wrong), OPS_EXIT_CONFLICT); /* the same name */
    end();
  }
}

Test(isolate, the_last_housekeeping_cpu_counts_other_isolations)
{
  begin(OPS_MODE_CPUSET);
  put(&machine, "1-2\n", "sys/devices/system/cpu/online");
  put(&machine, "1-2\n", "sys/fs/cgroup/cpuset/cpuset.cpus");
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  struct ops_isolate_options second = everything();
  strcpy(second.name, "other");
  second.cpus = (struct ops_cpu_list){0};
  ops_cpu_list_add(&second.cpus, 1);
  cr_expect_eq(isolate(second), OPS_EXIT_USAGE);
  end();
}

Test(isolate, release_waits_for_the_programs_that_run_there)
{
  begin(OPS_MODE_CPUSET);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  put_thread(&machine, 200, 200, "bus-feed", 0, "2");
  put(&machine, "200\n", "sys/fs/cgroup/cpuset/signal-bus-bus/cgroup.procs");
  cr_assert_eq(release("bus"), OPS_EXIT_CONFLICT);
  cr_expect_not_null(strstr(bus_error_message(), "bus-feed, pid 200"));
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK); /* and a second call leaves it there */
  cr_expect_not_null(strstr(get(&machine, "proc/200/task/200/status"), "list:\t2\n"));
  put(&machine, "", "sys/fs/cgroup/cpuset/signal-bus-bus/cgroup.procs");
  cr_assert_eq(release("bus"), OPS_EXIT_OK);
  end();
}

Test(isolate, a_process_that_cannot_be_moved_for_a_moment_is_moved_then)
{
  begin(OPS_MODE_CPUSET);
  cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  put(&machine, "102\n", "sys/fs/cgroup/cpuset/signal-bus-house/cgroup.procs");
  put(&machine, "1\n2\n3\n4\n100\n101\n", "sys/fs/cgroup/cpuset/cgroup.procs");
  for (int at = 1, made = 1; at <= made; at++) { /* the refusal meets each change, the move's too */
    machine.fail_at = at;
    int code = release("bus");
    made = machine.changes;
    if (strstr(machine.refused, "/cgroup.procs"))
      cr_assert_eq(code, OPS_EXIT_OK, "%s", bus_error_message());
    machine.fail_at = 0;
    if (code != OPS_EXIT_OK)
      cr_assert_eq(release("bus"), OPS_EXIT_OK);
    machine_same(&machine, before, "released");
    cr_assert_eq(isolate(everything()), OPS_EXIT_OK);
  }
  end();
}

Test(isolate, only_one_works_at_a_time)
{
  char path[OPS_PATH_BYTES];
  begin(OPS_MODE_CPUSET);
  int fd = ops_journal_lock(&machine.system);
  cr_assert_geq(fd, 0);
  cr_expect_eq(isolate(everything()), OPS_EXIT_CONFLICT);
  cr_expect_eq(release("bus"), OPS_EXIT_CONFLICT);
  close(fd);
  cr_expect_eq(isolate(everything()), OPS_EXIT_OK);
  ops_path_join(path, machine.system.run_root, "isolate-bus.journal");
  struct stat status;
  cr_assert_eq(stat(path, &status), 0);
  cr_expect_eq(status.st_mode & 07777u, 0600);
  end();
}
