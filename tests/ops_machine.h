/* ops_machine.h: a machine made of files, for tests of what changes the real one.
 *
 * Four CPUs, threads, interrupts, cgroups and settings under a directory in /dev/shm. The hooks of
 * struct ops_system answer as a kernel does, and can refuse, or kill the process, at any change. */
#ifndef SIGNALBUS_TESTS_OPS_MACHINE_H
#define SIGNALBUS_TESTS_OPS_MACHINE_H

#include "tools/ops/isolate.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fts.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MACHINE_CHANGES_MAX 500

struct machine {
  struct ops_system system;
  char root[64];
  enum ops_isolate_mode mode;
  int changes;   /* that were asked for so far, counted from 1 */
  int fail_at;   /* this one is refused; 0: none */
  int fail_from; /* and all from this one on; 0: none */
  int fail_errno;
  const char *fail_path;     /* changes of paths with this in them are refused; NULL: none */
  int die_before, die_after; /* SIGKILL there; 0: never */
  int signal_at;             /* SIGTERM to ourselves there */
  bool invalid_partition;
  char refused[OPS_PATH_BYTES]; /* the path of the last change that was refused */
};

static inline void machine_path(const struct machine *machine, char *path, const char *format,
                                va_list arguments)
{
  int length = snprintf(path, OPS_PATH_BYTES, "%s/", machine->root);
  vsnprintf(path + length, OPS_PATH_BYTES - (size_t)length, format, arguments);
}

static inline void write_file(const char *path, const char *text)
{
  FILE *file = fopen(path, "w");
  cr_assert_not_null(file, "%s: %s", path, strerror(errno));
  fputs(text, file);
  fclose(file);
}

/* Makes the file with its directories; what follows the path is `text`. */
static inline void put(const struct machine *machine, const char *text, const char *format, ...)
    BUS_PRINTF(3, 4);
static inline void put(const struct machine *machine, const char *text, const char *format, ...)
{
  char path[OPS_PATH_BYTES];
  va_list arguments;
  va_start(arguments, format);
  machine_path(machine, path, format, arguments);
  va_end(arguments);
  for (char *at = path + strlen(machine->root) + 1; (at = strchr(at, '/')) != NULL; at++) {
    *at = '\0';
    mkdir(path, 0755);
    *at = '/';
  }
  write_file(path, text);
}

/* The text of a file, without its last newline; static. */
static inline const char *get(const struct machine *machine, const char *format, ...)
    BUS_PRINTF(2, 3);
static inline const char *get(const struct machine *machine, const char *format, ...)
{
  static char text[4096];
  char path[OPS_PATH_BYTES];
  va_list arguments;
  va_start(arguments, format);
  machine_path(machine, path, format, arguments);
  va_end(arguments);
  cr_assert_geq(ops_file_read(path, text, sizeof text), 0, "%s", bus_error_message());
  return text;
}

static inline void put_thread(const struct machine *machine, int pid, int tid, const char *name,
                              unsigned flags, const char *cpus)
{
  char text[512];
  snprintf(text, sizeof text, "%d (%s) S 1 1 1 0 -1 %u 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0\n", tid,
           name, flags, 1000 + tid);
  put(machine, text, "proc/%d/task/%d/stat", pid, tid);
  snprintf(text, sizeof text, "Name:\t%s\nCpus_allowed:\tf\nCpus_allowed_list:\t%s\nMems:\t1\n",
           name, cpus);
  put(machine, text, "proc/%d/task/%d/status", pid, tid);
}

#define KERNEL_THREAD 0x00200000u
#define FIXED_THREAD  0x04000000u

static inline void put_cgroup(const struct machine *machine, const char *directory)
{
  static const char *const v1[][2] = {{"cpuset.cpus", "\n"},
                                      {"cpuset.mems", "\n"},
                                      {"cpuset.sched_load_balance", "1\n"},
                                      {"cpuset.cpu_exclusive", "0\n"},
                                      {"cgroup.procs", ""}};
  static const char *const v2[][2] = {
      {"cpuset.cpus", "\n"}, {"cpuset.cpus.partition", "member\n"}, {"cgroup.procs", ""}};
  char path[OPS_PATH_BYTES];
  for (size_t i = 0; i < (machine->mode == OPS_MODE_CPUSET ? BUS_COUNT_OF(v1) : BUS_COUNT_OF(v2));
       i++) {
    const char *const *file = machine->mode == OPS_MODE_CPUSET ? v1[i] : v2[i];
    ops_path_join(path, directory, "%s", file[0]);
    write_file(path, file[1]);
  }
}

/* ---- what a kernel does ---- */

static inline bool ends_with(const char *text, const char *end)
{
  size_t length = strlen(text), end_length = strlen(end);
  return length >= end_length && !strcmp(text + length - end_length, end);
}

static inline int by_number(const void *a, const void *b)
{
  return *(const int *)a - *(const int *)b;
}

/* Takes pid out of a cgroup.procs that held `text`, or puts it in, sorted as the kernel does. */
static inline void change_processes(const char *path, char *text, int pid, bool enter)
{
  int pids[64], count = 0;
  for (char *at = strtok(text, "\n"); at; at = strtok(NULL, "\n"))
    if (atoi(at) != pid)
      pids[count++] = atoi(at);
  if (enter)
    pids[count++] = pid;
  qsort(pids, (size_t)count, sizeof *pids, by_number);
  FILE *file = fopen(path, "w");
  for (int i = 0; i < count; i++)
    fprintf(file, "%d\n", pids[i]);
  fclose(file);
}

/* The contents of every cgroup.procs before the write that is about to happen. */
static char procs_texts[8][2048];
static char procs_paths[8][OPS_PATH_BYTES];
static size_t procs_count;

static inline void remember_processes(struct machine *machine)
{
  char *roots[] = {machine->system.cgroup_root, NULL};
  FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
  procs_count = 0;
  for (FTSENT *entry; (entry = fts_read(walk)) != NULL;)
    if (!strcmp(entry->fts_name, "cgroup.procs")) {
      snprintf(procs_paths[procs_count], OPS_PATH_BYTES, "%s", entry->fts_path);
      ops_file_read(entry->fts_path, procs_texts[procs_count++], 2048);
    }
  fts_close(walk);
}

static inline int empty_cgroup(const char *directory)
{
  char path[OPS_PATH_BYTES], text[64];
  struct ops_names names;
  ops_path_join(path, directory, "cgroup.procs");
  if (ops_file_read(path, text, sizeof text) != 0)
    return EBUSY;
  cr_assert_eq(ops_directory_list(directory, &names), BUS_OK);
  for (size_t i = 0; i < names.count; i++) {
    ops_path_join(path, directory, "%s", names.names[i]);
    unlink(path);
  }
  ops_names_free(&names);
  return 0;
}

static inline int machine_before(void *user, const char *path, const char *value)
{
  struct machine *machine = user;
  int number = ++machine->changes;
  cr_assert_eq(strncmp(path, machine->root, strlen(machine->root)), 0, "outside: %s", path);
  cr_assert_lt(number, MACHINE_CHANGES_MAX);
  if (number == machine->die_before)
    raise(SIGKILL);
  if (number == machine->signal_at)
    raise(SIGTERM);
  if (number == machine->fail_at || (machine->fail_from && number >= machine->fail_from) ||
      (machine->fail_path && strstr(path, machine->fail_path))) {
    snprintf(machine->refused, sizeof machine->refused, "%s", path);
    return machine->fail_errno;
  }
  if (!value && ops_file_exists(path))
    return empty_cgroup(path);
  if (value && ends_with(path, "/cgroup.procs"))
    remember_processes(machine);
  return 0;
}

static inline void choose(const char *path, const char *value)
{
  static const char *const words[] = {"always", "madvise", "never"};
  char text[128] = "";
  for (size_t i = 0; i < BUS_COUNT_OF(words); i++)
    snprintf(text + strlen(text), sizeof text - strlen(text),
             !strcmp(words[i], value) ? "%s[%s]" : "%s%s", i ? " " : "", words[i]);
  strcat(text, "\n");
  write_file(path, text);
}

/* A partition takes the kernel's threads off its CPUs, and not back when it goes. */
static inline void make_partition(struct machine *machine, const char *path)
{
  char directory[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  struct ops_names names;
  struct ops_cpu_list cpus;
  if (machine->invalid_partition) {
    write_file(path, "isolated invalid (Cpu list in cpuset.cpus not exclusive)\n");
    return;
  }
  snprintf(directory, sizeof directory, "%.*s", (int)(strrchr(path, '/') - path), path);
  ops_path_join(procs_paths[0], directory, "cpuset.cpus");
  ops_file_read(procs_paths[0], text, sizeof text);
  ops_cpu_list_parse(&cpus, text, "cpus");
  cr_assert_eq(ops_directory_list(machine->system.proc_root, &names), BUS_OK);
  struct ops_system quiet = machine->system;
  quiet.before_change = NULL;
  quiet.after_change = NULL;
  for (size_t i = 0; i < names.count; i++) {
    struct ops_thread thread;
    int pid = atoi(names.names[i]);
    if (pid <= 0 || ops_thread_read(&quiet, pid, pid, &thread) != BUS_OK || !thread.kernel ||
        thread.fixed || !ops_cpu_list_intersects(&thread.cpus, &cpus))
      continue;
    struct ops_cpu_list rest = ops_cpu_list_minus(&thread.cpus, &cpus);
    ops_thread_set_cpus(&quiet, &thread, &rest);
  }
  ops_names_free(&names);
}

static inline void machine_after(void *user, const char *path, const char *value)
{
  struct machine *machine = user;
  if (!value && ops_file_exists(path))
    put_cgroup(machine, path);
  if (value && ends_with(path, "/cgroup.procs")) {
    for (size_t i = 0; i < procs_count; i++)
      change_processes(procs_paths[i], procs_texts[i], atoi(value), !strcmp(procs_paths[i], path));
  }
  if (value && ends_with(path, "/cgroup.subtree_control"))
    write_file(path, *value == '+' ? "cpu cpuset\n" : "cpu\n");
  if (value && strstr(path, "transparent_hugepage"))
    choose(path, value);
  if (value && ends_with(path, "/cpuset.cpus.partition"))
    make_partition(machine, path);
  if (machine->changes == machine->die_after)
    raise(SIGKILL);
}

/* ---- the machine ---- */

static inline void put_cgroups(struct machine *machine)
{
  if (machine->mode == OPS_MODE_PARTITION) {
    put(machine, "cpuset cpu memory\n", "sys/fs/cgroup/cgroup.controllers");
    put(machine, "cpu\n", "sys/fs/cgroup/cgroup.subtree_control");
    put(machine, "1\n", "sys/fs/cgroup/cgroup.procs");
    put(machine, "\n", "sys/fs/cgroup/system.slice/cpuset.cpus");
  } else if (machine->mode == OPS_MODE_CPUSET) {
    put(machine, "0-3\n", "sys/fs/cgroup/cpuset/cpuset.cpus");
    put(machine, "0-1\n", "sys/fs/cgroup/cpuset/cpuset.mems");
    put(machine, "1\n", "sys/fs/cgroup/cpuset/cpuset.sched_load_balance");
    put(machine, "1\n2\n3\n4\n100\n101\n102\n", "sys/fs/cgroup/cpuset/cgroup.procs");
  } else {
    put(machine, "memory\n", "sys/fs/cgroup/cgroup.controllers");
  }
}

static inline void put_threads(struct machine *machine)
{
  put_thread(machine, 1, 1, "init", 0x400000, "0-3");
  put_thread(machine, 2, 2, "kthreadd", KERNEL_THREAD, "0-3");
  put_thread(machine, 3, 3, "ksoftirqd/2", KERNEL_THREAD | FIXED_THREAD, "2");
  put_thread(machine, 4, 4, "kswapd0", KERNEL_THREAD, "0-3");
  put_thread(machine, 100, 100, "pinned (2) x", 0, "2");
  put_thread(machine, 101, 101, "server", 0, "0-3");
  put_thread(machine, 101, 111, "worker", 0, "1-2");
  put_thread(machine, 102, 102, "elsewhere", 0, "0-1");
}

static inline void put_settings(struct machine *machine)
{
  static const char *const files[][2] = {
      {"sys/devices/virtual/workqueue/cpumask", "f\n"},
      {"proc/sys/kernel/sched_rt_runtime_us", "950000\n"},
      {"proc/sys/kernel/numa_balancing", "1\n"},
      {"proc/sys/kernel/watchdog_cpumask", "0-3\n"},
      {"proc/sys/kernel/timer_migration", "1\n"},
      {"proc/sys/vm/stat_interval", "1\n"},
      {"proc/sys/vm/swappiness", "60\n"},
      {"sys/kernel/mm/ksm/run", "1\n"},
      {"sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n"},
      {"sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "schedutil\n"},
      {"sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us", "0\n"},
      {"sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "2\n"},
      {"sys/devices/system/cpu/cpu3/power/pm_qos_resume_latency_us", "0\n"},
      {"sys/devices/system/cpu/cpu3/topology/thread_siblings_list", "3\n"},
      {"sys/devices/system/cpu/online", "0-3\n"},
      {"proc/sys/kernel/random/boot_id", "first-boot\n"},
      {"proc/sys/kernel/osrelease", "6.8.0-45-generic\n"},
      {"proc/cmdline", "quiet\n"},
      {"proc/irq/default_smp_affinity", "f\n"},
      {"proc/irq/10/smp_affinity_list", "0-3\n"},
      {"proc/irq/10/effective_affinity_list", "1\n"},
      {"proc/irq/10/eth0-rx/name", ""},
      {"proc/irq/11/smp_affinity_list", "2\n"},
      {"proc/irq/11/effective_affinity_list", "2\n"},
      {"proc/irq/11/nvme0q1/name", ""},
      {"proc/irq/12/smp_affinity_list", "0-1\n"},
  };
  for (size_t i = 0; i < BUS_COUNT_OF(files); i++)
    put(machine, files[i][1], "%s", files[i][0]);
}

static inline void machine_make(struct machine *machine, enum ops_isolate_mode mode)
{
  *machine = (struct machine){.mode = mode, .fail_errno = EIO};
  snprintf(machine->root, sizeof machine->root, "/dev/shm/signal-bus-machine-%d-XXXXXX", getpid());
  cr_assert_not_null(mkdtemp(machine->root));
  cr_assert_eq(ops_system_init(&machine->system, machine->root), BUS_OK);
  machine->system.before_change = machine_before;
  machine->system.after_change = machine_after;
  machine->system.user = machine;
  put_settings(machine);
  put_threads(machine);
  put_cgroups(machine);
}

static inline void machine_remove(struct machine *machine)
{
  char command[128];
  snprintf(command, sizeof command, "rm -rf '%s'", machine->root);
  cr_assert_eq(system(command), 0);
}

static inline int by_name(const FTSENT **a, const FTSENT **b)
{
  return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* Every directory, file and byte of the machine but our own files in run/; to be freed. */
static inline char *machine_snapshot(struct machine *machine)
{
  char *snapshot = NULL, text[4096];
  size_t size;
  FILE *out = open_memstream(&snapshot, &size);
  char *roots[] = {machine->root, NULL};
  FTS *walk = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
  for (FTSENT *entry; (entry = fts_read(walk)) != NULL;) {
    const char *name = entry->fts_path + strlen(machine->root);
    if (!strcmp(name, "/run"))
      fts_set(walk, entry, FTS_SKIP);
    else if (entry->fts_info == FTS_D)
      fprintf(out, "%s/\n", name);
    else if (entry->fts_info == FTS_F) {
      FILE *file = fopen(entry->fts_path, "r");
      size_t bytes = fread(text, 1, sizeof text, file);
      fclose(file);
      fprintf(out, "%s: %.*s<end>\n", name, (int)bytes, text);
    }
  }
  fts_close(walk);
  fclose(out);
  return snapshot;
}

/* Fails with the first line that differs. */
static inline void machine_same(struct machine *machine, const char *snapshot, const char *what)
{
  char *now = machine_snapshot(machine);
  const char *a = snapshot, *b = now;
  while (*a && *a == *b)
    a++, b++;
  if (*a || *b) {
    while (a > snapshot && a[-1] != '\n')
      a--, b--;
    cr_assert_fail("%s: was '%.*s', is '%.*s'", what, (int)strcspn(a, "\n"), a,
                   (int)strcspn(b, "\n"), b);
  }
  free(now);
}

#endif
