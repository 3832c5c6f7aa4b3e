/* The checks before a plan: which CPUs, whose they are, and what can confine programs to them. */
#include "tools/ops/isolate_plan.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int read_cpus(const struct ops_isolation *run, const char *file, struct ops_cpu_list *cpus)
{
  char path[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  int error = ops_path_join(path, run->system->sys_root, "devices/system/cpu/%s", file);
  int length = error == BUS_OK ? ops_file_read(path, text, sizeof text) : error;
  return length < 0 ? length : ops_cpu_list_parse(cpus, text, path);
}

/* Adds or names the hyperthreads that share a core with the CPUs. */
static int look_at_siblings(struct ops_isolation *run)
{
  struct ops_cpu_list all = run->cpus;
  char file[64], text[OPS_CPU_LIST_BYTES];
  for (int cpu = ops_cpu_list_next(&run->cpus, 0); cpu >= 0;
       cpu = ops_cpu_list_next(&run->cpus, cpu + 1)) {
    struct ops_cpu_list siblings;
    snprintf(file, sizeof file, "cpu%d/topology/thread_siblings_list", cpu);
    if (read_cpus(run, file, &siblings) == BUS_OK)
      all = ops_cpu_list_or(&all, &siblings);
  }
  struct ops_cpu_list extra = ops_cpu_list_minus(&all, &run->cpus);
  if (ops_cpu_list_count(&extra) == 0 || run->options.siblings == OPS_SIBLINGS_IGNORE)
    return BUS_OK;
  ops_cpu_list_format(&extra, text, sizeof text);
  if (run->options.siblings == OPS_SIBLINGS_INCLUDE) {
    ops_plan_note(run, "CPUs %s share a core with those named and are isolated too", text);
    run->cpus = all;
  } else {
    ops_plan_warn(run,
                  "CPUs %s share a core with those named, and what runs there slows them: "
                  "--siblings include isolates them too, --siblings ignore leaves them",
                  text);
  }
  return BUS_OK;
}

/* What the journal of another isolation holds. */
static int take_other(struct ops_isolation *run, const char *name, const char *boot_id)
{
  struct ops_journal other;
  int error = ops_journal_read(run->system, name, &other);
  if (error == BUS_ERROR_ABSENT)
    return BUS_OK;
  if (error == BUS_ERROR_DENIED && geteuid() != 0) {
    ops_plan_note(run, "isolation '%s' exists; what it holds only root can see", name);
    return BUS_OK;
  }
  if (error != BUS_OK)
    return error;
  if (!strcmp(other.boot_id, boot_id)) {
    run->others = ops_cpu_list_or(&run->others, &other.cpus);
    if (other.made_ns >= run->latest_other_ns) {
      run->latest_other_ns = other.made_ns;
      strcpy(run->latest_other, other.name);
    }
    struct ops_cpu_list both = ops_cpu_list_and(&run->cpus, &other.cpus);
    char text[OPS_CPU_LIST_BYTES];
    if (ops_cpu_list_count(&both) > 0)
      error = ops_plan_refuse(run, OPS_EXIT_CONFLICT,
                              "CPUs %s are isolated as '%s' already: signal-busctl release --name "
                              "%s first, or name other CPUs",
                              ops_cpu_list_format(&both, text, sizeof text), name, name);
  }
  ops_journal_close(&other);
  return error;
}

/* The name in "isolate-NAME.journal", false when it is another file's. */
static bool journal_name(const char *file, char *name)
{
  static const char begin[] = "isolate-", end[] = ".journal";
  size_t length = strlen(file);
  if (length <= sizeof begin + sizeof end - 2 || strncmp(file, begin, sizeof begin - 1) != 0 ||
      strcmp(file + length - sizeof end + 1, end) != 0)
    return false;
  length -= sizeof begin + sizeof end - 2;
  if (length >= OPS_ISOLATION_NAME_BYTES)
    return false;
  memcpy(name, file + sizeof begin - 1, length);
  name[length] = '\0';
  return ops_isolation_name_valid(name);
}

static int look_at_others(struct ops_isolation *run, const char *boot_id)
{
  struct ops_names files;
  char name[OPS_ISOLATION_NAME_BYTES];
  int error = BUS_OK;
  if (ops_directory_list(run->system->run_root, &files) != BUS_OK)
    return BUS_OK; /* not made yet */
  for (size_t i = 0; i < files.count && error == BUS_OK; i++)
    if (journal_name(files.names[i], name) && strcmp(name, run->options.name) != 0)
      error = take_other(run, name, boot_id);
  ops_names_free(&files);
  return error;
}

/* Our own journal, of an earlier call or of one that was killed. */
static int look_at_own(struct ops_isolation *run, const char *boot_id)
{
  char text[OPS_CPU_LIST_BYTES];
  int error = ops_journal_read(run->system, run->options.name, &run->journal);
  if (error == BUS_ERROR_ABSENT)
    return BUS_OK;
  if (error == BUS_ERROR_DENIED && geteuid() != 0) {
    ops_plan_note(run, "isolation '%s' exists; what it holds only root can see", run->options.name);
    return BUS_OK;
  }
  if (error != BUS_OK)
    return error;
  if (strcmp(run->journal.boot_id, boot_id) != 0) {
    ops_journal_close(&run->journal); /* the reboot undid it */
    run->journal = (struct ops_journal){.fd = -1};
    return BUS_OK;
  }
  run->journal_exists = true;
  if (ops_cpu_list_equal(&run->journal.cpus, &run->cpus))
    return BUS_OK;
  return ops_plan_refuse(run, OPS_EXIT_CONFLICT,
                         "isolation '%s' holds CPUs %s: signal-busctl release --name %s first, or "
                         "choose another --name",
                         run->options.name,
                         ops_cpu_list_format(&run->journal.cpus, text, sizeof text),
                         run->options.name);
}

static int check_cpus(struct ops_isolation *run)
{
  char text[OPS_CPU_LIST_BYTES], online[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list offline = ops_cpu_list_minus(&run->cpus, &run->online);
  ops_cpu_list_format(&run->online, online, sizeof online);
  if (ops_cpu_list_count(&run->cpus) == 0)
    return ops_plan_refuse(run, OPS_EXIT_USAGE, "--cpus names no CPU; online are %s", online);
  if (ops_cpu_list_count(&offline) > 0)
    return ops_plan_refuse(run, OPS_EXIT_USAGE, "CPUs %s are not online; online are %s",
                           ops_cpu_list_format(&offline, text, sizeof text), online);
  if (ops_cpu_list_has(&run->cpus, 0))
    return ops_plan_refuse(
        run, OPS_EXIT_USAGE, "CPU 0 does the kernel's own work and cannot be isolated%s",
        ops_cpu_list_has(&run->options.cpus, 0) ? ""
                                                : "; it shares a core with one of those named");
  return BUS_OK;
}

/* The cgroup v2 root that has the cpuset controller: the only hierarchy, or one beside v1's. */
static bool find_partition_root(struct ops_isolation *run)
{
  static const char *const places[] = {"", "/unified"};
  for (size_t i = 0; i < BUS_COUNT_OF(places); i++) {
    struct ops_change token = {.format = OPS_VALUE_TOKEN, .wanted = "cpuset"};
    char value[OPS_VALUE_BYTES];
    if (snprintf(run->cgroup_parent, OPS_PATH_BYTES, "%s%s", run->system->cgroup_root, places[i]) <
            OPS_PATH_BYTES &&
        ops_path_join(token.path, run->cgroup_parent, "cgroup.controllers") == BUS_OK &&
        ops_change_read(run->system, &token, value) == BUS_OK && !strcmp(value, "cpuset"))
      return true;
  }
  return false;
}

static int find_mode(struct ops_isolation *run)
{
  char path[OPS_PATH_BYTES];
  run->mode = OPS_MODE_AFFINITY;
  if (find_partition_root(run))
    run->mode = OPS_MODE_PARTITION;
  else if (ops_path_join(run->cgroup_parent, run->system->cgroup_root, "cpuset") == BUS_OK &&
           ops_path_join(path, run->cgroup_parent, "cpuset.cpus") == BUS_OK &&
           ops_file_exists(path))
    run->mode = OPS_MODE_CPUSET;
  if (run->mode == OPS_MODE_AFFINITY) {
    run->cgroup_parent[0] = '\0';
    if (run->options.strict)
      return ops_plan_refuse(run, OPS_EXIT_UNSUPPORTED,
                             "%s: no cpuset controller, neither of cgroup v2 nor of v1; without "
                             "--strict the affinity of each thread is set instead",
                             run->system->cgroup_root);
    ops_plan_warn(run,
                  "%s has no cpuset controller: only the threads that run now are moved; what "
                  "starts later may come back",
                  run->system->cgroup_root);
    return BUS_OK;
  }
  int error = ops_path_join(run->cgroup, run->cgroup_parent, "signal-bus-%s", run->options.name);
  return error != BUS_OK || run->mode == OPS_MODE_PARTITION
             ? error
             : ops_path_join(run->cgroup_house, run->cgroup_parent, "signal-bus-house");
}

int ops_plan_prepare(struct ops_isolation *run)
{
  char boot_id[OPS_BOOT_ID_BYTES];
  struct ops_cpu_list taken;
  int error;
  run->cpus = run->options.cpus;
  if ((error = read_cpus(run, "online", &run->online)) != BUS_OK ||
      (error = check_cpus(run)) != BUS_OK || (error = look_at_siblings(run)) != BUS_OK ||
      (error = check_cpus(run)) != BUS_OK ||
      (error = ops_boot_id_read(run->system, boot_id)) != BUS_OK ||
      (error = look_at_others(run, boot_id)) != BUS_OK ||
      (error = look_at_own(run, boot_id)) != BUS_OK)
    return error;
  ops_cpu_list_format(&run->cpus, run->cpus_text, sizeof run->cpus_text);
  taken = ops_cpu_list_or(&run->cpus, &run->others);
  run->house = ops_cpu_list_minus(&run->online, &taken);
  ops_cpu_list_format(&run->house, run->house_text, sizeof run->house_text);
  if (ops_cpu_list_count(&run->house) == 0)
    return ops_plan_refuse(run, OPS_EXIT_USAGE,
                           "CPUs %s are the last that everybody else may run on; leave one",
                           run->cpus_text);
  if ((error = find_mode(run)) != BUS_OK)
    return error;
  if (!run->journal_exists) {
    snprintf(run->journal.boot_id, OPS_BOOT_ID_BYTES, "%s", boot_id);
    strcpy(run->journal.name, run->options.name);
    strcpy(run->journal.cgroup, run->cgroup);
    run->journal.cpus = run->cpus;
  }
  return BUS_OK;
}
