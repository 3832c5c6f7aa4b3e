/* How fast the members' cores are and how soon they wake: governor, idle states, the host. */
#include "tools/ops/doctor.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WAKE_US_MAX     10 /* what an idle state may take to leave */
#define IDLE_STATES_MAX 16
#define STEAL_PERCENT   0.1 /* from which it is a warning */
#define STAT_BYTES      (1 << 20)

static void check_governor(struct ops_doctor *doctor)
{
  char found[64] = "", list[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list slow = {0};
  int read = 0;
  const struct ops_cpu_list *cpus =
      ops_cpu_list_count(&doctor->cpus) > 0 ? &doctor->cpus : &doctor->online;
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "governor", "other governors than performance slow a core down when it waits");
  for (int cpu = ops_cpu_list_next(cpus, 0); cpu >= 0; cpu = ops_cpu_list_next(cpus, cpu + 1)) {
    char governor[64];
    if (ops_doctor_read(governor, sizeof governor, doctor->system->sys_root,
                        "devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu) < 0)
      continue;
    read++;
    if (strcmp(governor, "performance") == 0)
      continue;
    snprintf(found, sizeof found, "%s", governor);
    ops_cpu_list_add(&slow, cpu);
  }
  if (read == 0)
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "no governor here: firmware or hypervisor decide");
  else if (ops_cpu_list_count(&slow) == 0)
    ops_doctor_found(check, OPS_DOCTOR_PASS, "performance");
  if (read == 0 || ops_cpu_list_count(&slow) == 0)
    return;
  ops_doctor_found(check, OPS_DOCTOR_WARN, "%s on CPUs %s", found,
                   ops_cpu_list_format(&slow, list, sizeof list));
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                    "for f in /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor; do echo "
                    "performance > $f; done");
}

/* What a process has asked for, while it holds the file open; -1: nobody, or not readable. */
static int32_t read_dma_latency_us(const struct ops_doctor *doctor)
{
  char path[OPS_PATH_BYTES];
  int32_t latency_us = -1;
  if (ops_path_join(path, doctor->system->dev_root, "cpu_dma_latency"))
    return -1;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0)
    return -1;
  if (read(fd, &latency_us, sizeof latency_us) != (ssize_t)sizeof latency_us)
    latency_us = -1;
  close(fd);
  return latency_us;
}

/* The idle states of `cpu` that are on and slow to leave, a bit each. */
static uint32_t find_deep_states(const struct ops_doctor *doctor, int cpu, int64_t *worst_us)
{
  uint32_t deep = 0;
  for (int state = 0; state < IDLE_STATES_MAX; state++) {
    char path[OPS_PATH_BYTES];
    int64_t latency_us, disabled;
    const char *sys = doctor->system->sys_root;
    if (ops_path_join(path, sys, "devices/system/cpu/cpu%d/cpuidle/state%d/latency", cpu, state) ||
        ops_file_read_integer(path, &latency_us) ||
        ops_path_join(path, sys, "devices/system/cpu/cpu%d/cpuidle/state%d/disable", cpu, state) ||
        ops_file_read_integer(path, &disabled))
      continue;
    if (latency_us <= WAKE_US_MAX || disabled)
      continue;
    deep |= 1u << state;
    *worst_us = latency_us > *worst_us ? latency_us : *worst_us;
  }
  return deep;
}

static void check_idle(struct ops_doctor *doctor)
{
  char cpus[OPS_DOCTOR_REMEDY_BYTES / 3] = "", states[64] = "";
  size_t length = 0;
  uint32_t deep = 0;
  int64_t worst_us = 0;
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "c_states", "a member that sleeps wakes so much later; a member that spins does not");
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  for (int cpu = ops_cpu_list_next(&doctor->cpus, 0); cpu >= 0;
       cpu = ops_cpu_list_next(&doctor->cpus, cpu + 1)) {
    uint32_t own = find_deep_states(doctor, cpu, &worst_us);
    deep |= own;
    if (own && length + 8 < sizeof cpus)
      length +=
          (size_t)snprintf(cpus + length, sizeof cpus - length, "%s%d", length ? " " : "", cpu);
  }
  int32_t asked_us = read_dma_latency_us(doctor);
  if (deep == 0 || (asked_us >= 0 && asked_us <= WAKE_US_MAX)) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "none takes more than %d us to leave%s", WAKE_US_MAX,
                     deep ? " while a process holds cpu_dma_latency" : "");
    return;
  }
  for (int state = 0, used = 0; state < IDLE_STATES_MAX; state++)
    if (deep & 1u << state)
      used += snprintf(states + used, sizeof states - (size_t)used, "%s%d", used ? " " : "", state);
  ops_doctor_found(check, OPS_DOCTOR_WARN, "CPUs %s: states %s, up to %" PRId64 " us to leave",
                   cpus, states, worst_us);
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                    "for c in %s; do for s in %s; do echo 1 > "
                    "/sys/devices/system/cpu/cpu$c/cpuidle/state$s/disable; done; done",
                    cpus, states);
}

/* Percent of the time since boot that the hypervisor took from the CPUs of a line of /proc/stat;
 * negative when it is none. */
static double stolen_percent(const char *line)
{
  uint64_t ticks[8], sum = 0;
  line += strcspn(line, " ");
  if (sscanf(line,
             "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
             " %" SCNu64,
             &ticks[0], &ticks[1], &ticks[2], &ticks[3], &ticks[4], &ticks[5], &ticks[6],
             &ticks[7]) != 8)
    return -1;
  for (int i = 0; i < 8; i++)
    sum += ticks[i];
  return sum ? 100.0 * (double)ticks[7] / (double)sum : 0;
}

static void check_steal(struct ops_doctor *doctor)
{
  static char text[STAT_BYTES];
  double worst = -1;
  int worst_cpu = -1;
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "steal_time", "the host runs something else on this machine's cores");
  int length = ops_doctor_read(text, sizeof text, doctor->system->proc_root, "stat");
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return;
  }
  char *rest = NULL;
  for (char *line = strtok_r(text, "\n", &rest); line && !strncmp(line, "cpu", 3);
       line = strtok_r(NULL, "\n", &rest)) {
    int cpu = line[3] == ' ' ? -1 : atoi(line + 3);
    if (cpu >= 0 && ops_cpu_list_count(&doctor->cpus) && !ops_cpu_list_has(&doctor->cpus, cpu))
      continue;
    double percent = stolen_percent(line);
    if (cpu >= 0 && percent > worst) {
      worst = percent;
      worst_cpu = cpu;
    }
  }
  if (worst < 0) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "the kernel does not count it");
    return;
  }
  ops_doctor_found(check, worst >= STEAL_PERCENT ? OPS_DOCTOR_WARN : OPS_DOCTOR_PASS,
                   "%.3f %% of CPU %d since boot", worst, worst_cpu);
  if (worst >= STEAL_PERCENT)
    ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE,
                      "on the host: pin this machine's virtual CPUs to cores of their own");
}

void ops_doctor_check_power(struct ops_doctor *doctor)
{
  check_governor(doctor);
  check_idle(doctor);
  check_steal(doctor);
}
