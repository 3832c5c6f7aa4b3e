#include "tools/ops/gaps.h"

#include "shm/clock.h"
#include "shm/loop.h"
#include "tools/ops/doctor.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CALIBRATION_MS 50
#define WATCH_NS       100000000L
#define MARGIN_US      20000
#define PERIOD_US_MAX  10000000

/* What parent and child share. */
struct shared {
  struct ops_gaps gaps;
  int error;
  char message[512];
};

static void keep_worst(struct ops_gaps *gaps, uint64_t at_ns, uint64_t ns)
{
  uint32_t at = gaps->worst_count;
  if (at == OPS_GAPS_WORST) {
    if (ns <= gaps->worst[at - 1].ns)
      return;
    at--;
  } else {
    gaps->worst_count++;
  }
  for (; at > 0 && gaps->worst[at - 1].ns < ns; at--)
    gaps->worst[at] = gaps->worst[at - 1];
  gaps->worst[at] = (struct ops_gap){at_ns, ns};
}

void ops_gaps_record(struct ops_gaps *gaps, uint64_t at_ns, uint64_t ns)
{
  uint32_t bucket = 63u - (uint32_t)__builtin_clzll(ns | 1);
  gaps->buckets[bucket < OPS_GAPS_BUCKETS ? bucket : OPS_GAPS_BUCKETS - 1]++;
  gaps->readings++;
  if (BUS_LIKELY(ns < OPS_GAPS_THRESHOLD_NS))
    return;
  gaps->count++;
  gaps->stolen_ns += ns;
  gaps->count_1ms += ns >= 1000000;
  BUS_STORE_RELAXED(&gaps->ns_max, ns > gaps->ns_max ? ns : gaps->ns_max);
  keep_worst(gaps, at_ns, ns);
}

/* How long a real-time process may run in a row, and must sleep then: 0, 0 for no limit. */
struct slices {
  uint64_t run_ns;
  uint64_t pause_ns;
};

static void sleep_ns(uint64_t ns)
{
  struct timespec pause = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
  nanosleep(&pause, NULL);
}

/* Until the time is over or somebody says so. A gap's bookkeeping is not part of the next. */
static void spin(struct ops_gaps *gaps, const struct bus_clock *clock, uint64_t duration_ns,
                 struct slices slices)
{
  uint64_t start_ns = bus_clock_now_ns(clock), last_ns = start_ns, now_ns = start_ns;
  uint64_t slice_end_ns = slices.run_ns ? start_ns + slices.run_ns : UINT64_MAX;
  while (now_ns - start_ns < duration_ns && !BUS_LOAD_RELAXED(&gaps->stop)) {
    now_ns = bus_clock_now_ns(clock);
    uint64_t ns = now_ns - last_ns;
    ops_gaps_record(gaps, last_ns - start_ns, ns);
    last_ns = now_ns;
    if (BUS_UNLIKELY(ns >= OPS_GAPS_THRESHOLD_NS))
      last_ns = bus_clock_now_ns(clock);
    BUS_STORE_RELAXED(&gaps->elapsed_ns, now_ns - start_ns);
    if (BUS_UNLIKELY(now_ns >= slice_end_ns && now_ns - start_ns < duration_ns)) {
      sleep_ns(slices.pause_ns);
      last_ns = bus_clock_now_ns(clock);
      gaps->paused_ns += last_ns - now_ns;
      slice_end_ns = last_ns + slices.run_ns;
    }
  }
}

/* A real-time process that never sleeps keeps everything else off its CPU: the kernel's throttling
 * must leave the others a share, which we keep to before it makes us, or the CPU be isolated. */
static bool may_go_real_time(const struct ops_system *system, int cpu, struct slices *slices)
{
  char path[OPS_PATH_BYTES];
  int64_t runtime_us, period_us;
  struct ops_doctor_group group;
  *slices = (struct slices){0};
  if (ops_path_join(path, system->proc_root, "sys/kernel/sched_rt_runtime_us") == BUS_OK &&
      ops_file_read_integer(path, &runtime_us) == BUS_OK && runtime_us >= 0) {
    if (ops_path_join(path, system->proc_root, "sys/kernel/sched_rt_period_us") != BUS_OK ||
        ops_file_read_integer(path, &period_us) != BUS_OK || period_us < runtime_us ||
        period_us > PERIOD_US_MAX || runtime_us <= 2 * MARGIN_US)
      return false;
    if (runtime_us < period_us)
      *slices = (struct slices){(uint64_t)(runtime_us - MARGIN_US) * 1000,
                                (uint64_t)(period_us - runtime_us + MARGIN_US) * 1000};
    return true;
  }
  ops_doctor_find_group(system, cpu, &group);
  return group.isolated;
}

/* Inside a partition only its own processes may run. */
static int join(const struct ops_system *system, int cpu, struct ops_gaps *gaps)
{
  char path[OPS_PATH_BYTES];
  struct ops_doctor_group group;
  ops_doctor_find_group(system, cpu, &group);
  int error = *group.path ? ops_path_join(path, group.path, "cgroup.procs") : BUS_ERROR_ABSENT;
  FILE *file = error ? NULL : fopen(path, "we");
  if (!file)
    return bus_error_set(BUS_ERROR_DENIED,
                         "CPU %d is not for this process: %s%s; run this as root, or in the cgroup "
                         "that has the CPU",
                         cpu, *group.path ? "it belongs to " : "no cgroup that has it was found",
                         group.path);
  bool written = fputs("0\n", file) >= 0;
  if (fclose(file) != 0 || !written)
    return bus_error_set_errno("%s: cannot join", path);
  gaps->joined = true;
  return bus_pin_thread(cpu);
}

static int prepare(const struct ops_system *system, int cpu, bool real_time, struct ops_gaps *gaps,
                   struct bus_clock *clock, struct slices *slices)
{
  struct sched_param parameters = {.sched_priority = 1};
  int error = bus_pin_thread(cpu);
  if (error)
    error = join(system, cpu, gaps);
  if (!error)
    error = bus_clock_init(clock, CALIBRATION_MS);
  if (error)
    return error;
  gaps->real_time = real_time && may_go_real_time(system, cpu, slices) &&
                    sched_setscheduler(0, SCHED_FIFO, &parameters) == 0;
  if (!gaps->real_time)
    *slices = (struct slices){0};
  return BUS_OK;
}

static _Noreturn void run_child(const struct ops_system *system, int cpu, uint64_t duration_ns,
                                bool real_time, pid_t parent, struct shared *shared)
{
  struct bus_clock clock;
  struct slices slices = {0};
  struct rusage before, after;
  signal(SIGINT, SIG_IGN); /* the parent asks us to stop */
  signal(SIGTERM, SIG_DFL);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(1);
  shared->error = prepare(system, cpu, real_time, &shared->gaps, &clock, &slices);
  if (shared->error) {
    snprintf(shared->message, sizeof shared->message, "%s", bus_error_message());
    _exit(1);
  }
  getrusage(RUSAGE_SELF, &before);
  spin(&shared->gaps, &clock, duration_ns, slices);
  getrusage(RUSAGE_SELF, &after);
  shared->gaps.switches_involuntary = (uint64_t)(after.ru_nivcsw - before.ru_nivcsw);
  _exit(0);
}

static int wait_for(pid_t child, struct shared *shared,
                    int (*watch)(const struct ops_gaps *gaps, void *context), void *context)
{
  int status = 0;
  pid_t ended;
  while ((ended = waitpid(child, &status, WNOHANG)) == 0) {
    struct timespec pause = {0, WATCH_NS};
    if (watch && watch(&shared->gaps, context))
      BUS_STORE_RELAXED(&shared->gaps.stop, 1u);
    nanosleep(&pause, NULL);
  }
  if (ended < 0)
    return bus_error_set_errno("waiting for the process that measures");
  if (shared->error)
    return bus_error_set(shared->error, "%s", shared->message);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
    return bus_error_set(BUS_ERROR_IO, "the process that measures was ended by signal %d",
                         WIFSIGNALED(status) ? WTERMSIG(status) : 0);
  return BUS_OK;
}

int ops_gaps_measure(const struct ops_system *system, int cpu, uint64_t duration_ns, bool real_time,
                     int (*watch)(const struct ops_gaps *gaps, void *context), void *context,
                     struct ops_gaps *gaps)
{
  pid_t parent = getpid();
  struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                               MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (shared == MAP_FAILED)
    return bus_error_set_errno("memory for the measurement");
  fflush(NULL);
  pid_t child = fork();
  if (child == 0)
    run_child(system, cpu, duration_ns, real_time, parent, shared);
  int error = child < 0 ? bus_error_set_errno("a process for the measurement")
                        : wait_for(child, shared, watch, context);
  *gaps = shared->gaps;
  munmap(shared, sizeof *shared);
  return error;
}
