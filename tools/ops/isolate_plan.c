#include "tools/ops/isolate_plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void ops_isolation_init(struct ops_isolation *run, struct ops_system *system)
{
  *run = (struct ops_isolation){.system = system, .journal.fd = -1};
}

void ops_isolation_free(struct ops_isolation *run)
{
  ops_journal_close(&run->journal);
  free(run->changes);
  free(run->remarks);
  run->changes = NULL;
  run->remarks = NULL;
  run->count = run->capacity = run->remark_count = 0;
}

const char *ops_isolate_mode_name(enum ops_isolate_mode mode)
{
  return mode == OPS_MODE_PARTITION ? "cgroup v2 partition"
         : mode == OPS_MODE_CPUSET  ? "cgroup v1 cpuset"
                                    : "thread affinity";
}

int ops_plan_add(struct ops_isolation *run, const struct ops_change *change)
{
  if (run->count == run->capacity) {
    size_t capacity = run->capacity ? run->capacity * 2 : 64;
    void *more = realloc(run->changes, capacity * sizeof *run->changes);
    if (!more)
      return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory for the plan");
    run->changes = more;
    run->capacity = capacity;
  }
  run->changes[run->count++] = *change;
  return BUS_OK;
}

int ops_plan_write(struct ops_isolation *run, struct ops_change *change)
{
  int error = ops_change_read(run->system, change, change->found);
  if (error != BUS_OK)
    return error;
  return ops_change_same(change, change->found, change->wanted) ? BUS_OK
                                                                : ops_plan_add(run, change);
}

static void add_remark(struct ops_isolation *run, enum ops_remark_level level, const char *format,
                       va_list arguments)
{
  void *more = realloc(run->remarks, (run->remark_count + 1) * sizeof *run->remarks);
  run->warning_count += level == OPS_REMARK_WARNING;
  if (!more) /* the count alone still tells that something was wrong */
    return;
  run->remarks = more;
  struct ops_remark *remark = &run->remarks[run->remark_count++];
  remark->level = level;
  vsnprintf(remark->text, sizeof remark->text, format, arguments);
}

void ops_plan_note(struct ops_isolation *run, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  add_remark(run, OPS_REMARK_NOTE, format, arguments);
  va_end(arguments);
}

void ops_plan_warn(struct ops_isolation *run, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  add_remark(run, OPS_REMARK_WARNING, format, arguments);
  va_end(arguments);
}

int ops_plan_refuse(struct ops_isolation *run, enum ops_exit code, const char *format, ...)
{
  char text[900];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  run->exit = code;
  return bus_error_set(code == OPS_EXIT_USAGE         ? BUS_ERROR_INVALID
                       : code == OPS_EXIT_UNSUPPORTED ? BUS_ERROR_UNSUPPORTED
                       : code == OPS_EXIT_PERMISSION  ? BUS_ERROR_DENIED
                                                      : BUS_ERROR_BUSY,
                       "%s", text);
}

/* ---- what the kernel command line alone can do ---- */

/* The CPUs that `file` under sys/devices/system/cpu names; empty when it is not there. */
static struct ops_cpu_list read_cpu_file(const struct ops_isolation *run, const char *file)
{
  struct ops_cpu_list cpus = {0};
  char path[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  if (ops_path_join(path, run->system->sys_root, "devices/system/cpu/%s", file) == BUS_OK &&
      ops_file_read(path, text, sizeof text) > 0 &&
      ops_cpu_list_parse(&cpus, text, path) != BUS_OK) /* "(null)" when the kernel has none */
    cpus = (struct ops_cpu_list){0};
  return cpus;
}

static void name_kernel_command_line(struct ops_isolation *run)
{
  struct ops_cpu_list quiet = read_cpu_file(run, "nohz_full");
  struct ops_cpu_list missing = ops_cpu_list_minus(&run->cpus, &quiet);
  char path[OPS_PATH_BYTES], line[4096] = "";
  if (ops_path_join(path, run->system->proc_root, "cmdline") == BUS_OK)
    ops_file_read(path, line, sizeof line);
  if (ops_cpu_list_count(&missing) == 0 && strstr(line, "managed_irq") &&
      (strstr(line, "rcu_nocbs=") || strstr(line, "nohz_full=")))
    return;
  if (snprintf(run->kernel_command_line, sizeof run->kernel_command_line,
               "nohz_full=%s rcu_nocbs=%s isolcpus=managed_irq,%s irqaffinity=%s", run->cpus_text,
               run->cpus_text, run->cpus_text,
               run->house_text) >= (int)sizeof run->kernel_command_line)
    run->kernel_command_line[0] = '\0'; /* half a line would be worse than none */
}

int ops_plan_make(struct ops_isolation *run)
{
  static int (*const stages[])(struct ops_isolation *) = {
      ops_plan_threads,    ops_plan_kthreads, ops_plan_cpuset,  ops_plan_irqs,
      ops_plan_workqueues, ops_plan_settings, ops_plan_latency,
  };
  for (size_t i = 0; i < BUS_COUNT_OF(stages); i++) {
    int error = stages[i](run);
    if (error != BUS_OK)
      return error;
  }
  name_kernel_command_line(run);
  return BUS_OK;
}
