/* The stages of single values: workqueues, settings of the kernel, how deep the CPUs may sleep. */
#include "tools/ops/isolate_plan.h"

#include <stdio.h>
#include <string.h>

/* Adds one value; a machine that does not have the file needs no change there. */
static int plan_optional(struct ops_isolation *run, struct ops_change *change)
{
  change->failure = OPS_FAILURE_WARNS;
  if (!ops_file_exists(change->path))
    return BUS_OK;
  int error = ops_plan_write(run, change);
  if (error == BUS_OK || error == BUS_ERROR_NO_SPACE)
    return error;
  ops_plan_warn(run, "%s", bus_error_message());
  return BUS_OK;
}

int ops_plan_workqueues(struct ops_isolation *run)
{
  struct ops_change change = {
      .format = OPS_VALUE_MASK, .failure = OPS_FAILURE_WARNS, .stage = "workqueues"};
  char text[OPS_VALUE_BYTES];
  struct ops_cpu_list cpus;
  if (!run->options.workqueues)
    return BUS_OK;
  int error =
      ops_path_join(change.path, run->system->sys_root, "devices/virtual/workqueue/cpumask");
  if (error != BUS_OK || (error = ops_file_read(change.path, text, sizeof text)) < 0 ||
      (error = ops_cpu_list_parse_mask(&cpus, text, change.path)) != BUS_OK)
    return error;
  cpus = ops_cpu_list_minus(&cpus, &run->cpus);
  struct ops_cpu_list running = ops_cpu_list_and(&cpus, &run->online);
  if (ops_cpu_list_count(&running) == 0)
    cpus = run->house;
  ops_cpu_list_format_mask(&cpus, change.wanted, sizeof change.wanted);
  return ops_plan_write(run, &change);
}

/* ---- --sysctl ---- */

struct setting {
  const char *root; /* "proc" or "sys" */
  const char *file;
  enum ops_value_format format;
  const char *wanted;
  const char *from; /* change it only when this is what is found; NULL: always */
};

static const struct setting settings[] = {
    /* A real-time member may use its CPU entirely. */
    {"proc", "sys/kernel/sched_rt_runtime_us", OPS_VALUE_TEXT, "-1", NULL},
    /* No page faults to find out where pages belong. */
    {"proc", "sys/kernel/numa_balancing", OPS_VALUE_TEXT, "0", NULL},
    /* The kernel's counters of each CPU are gathered every two minutes, not every second. */
    {"proc", "sys/vm/stat_interval", OPS_VALUE_TEXT, "120", NULL},
    /* Timers go where CPUs are busy with other things anyway. */
    {"proc", "sys/kernel/timer_migration", OPS_VALUE_TEXT, "1", NULL},
    {"proc", "sys/vm/swappiness", OPS_VALUE_TEXT, "1", NULL},
    /* Neither daemon takes pages out of a member's hands. 2 would unmerge, too. */
    {"sys", "kernel/mm/ksm/run", OPS_VALUE_TEXT, "0", NULL},
    {"sys", "kernel/mm/transparent_hugepage/enabled", OPS_VALUE_CHOICE, "madvise", "always"},
    {"sys", "kernel/mm/transparent_hugepage/defrag", OPS_VALUE_CHOICE, "madvise", "always"},
};

static int plan_setting(struct ops_isolation *run, const struct setting *setting)
{
  struct ops_change change = {.format = setting->format, .stage = "settings"};
  char value[OPS_VALUE_BYTES];
  const char *root = strcmp(setting->root, "proc") ? run->system->sys_root : run->system->proc_root;
  strcpy(change.wanted, setting->wanted);
  int error = ops_path_join(change.path, root, "%s", setting->file);
  if (error != BUS_OK)
    return error;
  if (setting->from &&
      (ops_change_read(run->system, &change, value) != BUS_OK || strcmp(value, setting->from) != 0))
    return BUS_OK;
  return plan_optional(run, &change);
}

static int plan_watchdog(struct ops_isolation *run)
{
  struct ops_change change = {.format = OPS_VALUE_LIST, .stage = "settings"};
  char text[OPS_VALUE_BYTES];
  struct ops_cpu_list cpus;
  int error = ops_path_join(change.path, run->system->proc_root, "sys/kernel/watchdog_cpumask");
  if (error != BUS_OK || ops_file_read(change.path, text, sizeof text) < 0 ||
      ops_cpu_list_parse(&cpus, text, change.path) != BUS_OK)
    return error;
  cpus = ops_cpu_list_minus(&cpus, &run->cpus);
  ops_cpu_list_format(&cpus, change.wanted, sizeof change.wanted);
  return plan_optional(run, &change);
}

static int plan_governors(struct ops_isolation *run)
{
  int error = BUS_OK;
  for (int cpu = ops_cpu_list_next(&run->cpus, 0); error == BUS_OK && cpu >= 0;
       cpu = ops_cpu_list_next(&run->cpus, cpu + 1)) {
    struct ops_change change = {.wanted = "performance", .stage = "settings"};
    error = ops_path_join(change.path, run->system->sys_root,
                          "devices/system/cpu/cpu%d/cpufreq/scaling_governor", cpu);
    if (error == BUS_OK)
      error = plan_optional(run, &change);
  }
  return error;
}

int ops_plan_settings(struct ops_isolation *run)
{
  int error = BUS_OK;
  if (!run->options.settings)
    return BUS_OK;
  for (size_t i = 0; error == BUS_OK && i < BUS_COUNT_OF(settings); i++)
    error = plan_setting(run, &settings[i]);
  if (error == BUS_OK)
    error = plan_watchdog(run);
  return error == BUS_OK ? plan_governors(run) : error;
}

/* ---- --cpu-dma-latency ---- */

/* With a command, /dev/cpu_dma_latency is held open by it. Without one nobody would hold it, so the
 * same is asked for the CPUs alone, in a file that keeps its value. */
int ops_plan_latency(struct ops_isolation *run)
{
  char path[OPS_PATH_BYTES];
  int error = BUS_OK;
  if (!run->options.cpu_dma_latency)
    return BUS_OK;
  if (run->options.has_command) {
    error = ops_path_join(path, run->system->dev_root, "cpu_dma_latency");
    return error != BUS_OK || ops_file_exists(path)
               ? error
               : ops_plan_refuse(run, OPS_EXIT_UNSUPPORTED,
                                 "%s: this kernel does not have it; leave out --cpu-dma-latency",
                                 path);
  }
  for (int cpu = ops_cpu_list_next(&run->cpus, 0); error == BUS_OK && cpu >= 0;
       cpu = ops_cpu_list_next(&run->cpus, cpu + 1)) {
    struct ops_change change = {.wanted = "n/a", .stage = "latency"};
    error = ops_path_join(change.path, run->system->sys_root,
                          "devices/system/cpu/cpu%d/power/pm_qos_resume_latency_us", cpu);
    if (error == BUS_OK && !ops_file_exists(change.path))
      error = ops_plan_refuse(run, OPS_EXIT_UNSUPPORTED,
                              "%s: this kernel does not have it; give -- CMD to hold "
                              "/dev/cpu_dma_latency, or leave out --cpu-dma-latency",
                              change.path);
    if (error == BUS_OK)
      error = ops_plan_write(run, &change);
  }
  return error;
}
