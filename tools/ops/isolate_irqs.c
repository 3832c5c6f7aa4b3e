/* The stage that moves interrupts to the other CPUs, those to come too. */
#include "tools/ops/isolate_plan.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool read_list(const char *path, struct ops_cpu_list *cpus)
{
  char text[OPS_CPU_LIST_BYTES];
  return ops_file_read(path, text, sizeof text) >= 0 &&
         ops_cpu_list_parse(cpus, text, path) == BUS_OK;
}

/* The first handler of an interrupt: a directory in its directory. */
static void find_handler(const char *directory, char *label, size_t size)
{
  struct ops_names names;
  char path[OPS_PATH_BYTES];
  struct stat status;
  label[0] = '\0';
  if (ops_directory_list(directory, &names) != BUS_OK)
    return;
  for (size_t i = 0; i < names.count && !label[0]; i++)
    if (ops_path_join(path, directory, "%s", names.names[i]) == BUS_OK &&
        stat(path, &status) == 0 && S_ISDIR(status.st_mode))
      snprintf(label, size, "%.60s", names.names[i]);
  ops_names_free(&names);
  for (char *at = label; *at; at++)
    if (*at < 0x20 || *at > 0x7e)
      *at = '?';
}

static int plan_irq(struct ops_isolation *run, const char *number)
{
  struct ops_change change = {.format = OPS_VALUE_LIST, .stage = "irqs"};
  char directory[OPS_PATH_BYTES], effective[OPS_PATH_BYTES];
  struct ops_cpu_list found, now;
  if (ops_path_join(directory, run->system->proc_root, "irq/%s", number) != BUS_OK ||
      ops_path_join(change.path, directory, "smp_affinity_list") != BUS_OK ||
      ops_path_join(effective, directory, "effective_affinity_list") != BUS_OK ||
      !read_list(change.path, &found) || !ops_cpu_list_intersects(&found, &run->cpus))
    return BUS_OK;
  struct ops_cpu_list wanted = ops_cpu_list_minus(&found, &run->cpus);
  struct ops_cpu_list running = ops_cpu_list_and(&wanted, &run->online);
  if (ops_cpu_list_count(&running) == 0)
    wanted = run->house;
  ops_cpu_list_format(&wanted, change.wanted, sizeof change.wanted);
  find_handler(directory, change.label, sizeof change.label);
  /* One without a handler, or that never fires there, disturbs nobody. */
  bool fires =
      change.label[0] && (!read_list(effective, &now) || ops_cpu_list_intersects(&now, &run->cpus));
  change.failure = fires ? OPS_FAILURE_WARNS : OPS_FAILURE_NOTED;
  snprintf(change.advice, sizeof change.advice,
           "its driver manages it, and only isolcpus=managed_irq,%.60s on the kernel command line "
           "keeps it off",
           run->cpus_text);
  return ops_plan_write(run, &change);
}

/* Where interrupts that are requested later begin. */
static int plan_default(struct ops_isolation *run)
{
  struct ops_change change = {
      .format = OPS_VALUE_MASK, .failure = OPS_FAILURE_WARNS, .stage = "irqs"};
  char text[OPS_VALUE_BYTES];
  struct ops_cpu_list cpus;
  int error = ops_path_join(change.path, run->system->proc_root, "irq/default_smp_affinity");
  if (error != BUS_OK || ops_file_read(change.path, text, sizeof text) < 0 ||
      ops_cpu_list_parse_mask(&cpus, text, change.path) != BUS_OK)
    return error;
  cpus = ops_cpu_list_minus(&cpus, &run->cpus);
  struct ops_cpu_list running = ops_cpu_list_and(&cpus, &run->online);
  if (ops_cpu_list_count(&running) == 0)
    cpus = run->house;
  ops_cpu_list_format_mask(&cpus, change.wanted, sizeof change.wanted);
  return ops_plan_write(run, &change);
}

static int find_irqbalance(void *user, const struct ops_thread *thread)
{
  bool *found = user;
  *found = !thread->kernel && !strcmp(thread->name, "irqbalance");
  return *found;
}

int ops_plan_irqs(struct ops_isolation *run)
{
  char path[OPS_PATH_BYTES];
  struct ops_names numbers;
  bool balanced = false;
  if (!run->options.irqs_move)
    return BUS_OK;
  int error = ops_path_join(path, run->system->proc_root, "irq");
  if (error == BUS_OK)
    error = ops_directory_list(path, &numbers);
  if (error != BUS_OK)
    return error;
  for (size_t i = 0; error == BUS_OK && i < numbers.count; i++)
    if (numbers.names[i][0] >= '0' && numbers.names[i][0] <= '9')
      error = plan_irq(run, numbers.names[i]);
  ops_names_free(&numbers);
  if (error == BUS_OK)
    error = plan_default(run);
  ops_thread_visit(run->system, find_irqbalance, &balanced);
  if (balanced)
    ops_plan_warn(run,
                  "irqbalance runs and may move interrupts back: put IRQBALANCE_BANNED_CPULIST=%s "
                  "into its environment file, or systemctl stop irqbalance",
                  run->cpus_text);
  return error;
}
