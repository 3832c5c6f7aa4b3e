/* The stage that keeps other programs off the CPUs for good: a cgroup of cpuset's. */
#include "tools/ops/isolate_plan.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char stage[] = "cpuset";

/* True when this isolation made `path` itself, in an earlier call. */
static bool made_before(const struct ops_isolation *run, const char *path)
{
  for (size_t i = 0; i < run->journal.count; i++)
    if (run->journal.changes[i].kind == OPS_CHANGE_DIRECTORY &&
        !strcmp(run->journal.changes[i].path, path))
      return true;
  return false;
}

static int plan_directory(struct ops_isolation *run, const char *path)
{
  struct ops_change change = {.kind = OPS_CHANGE_DIRECTORY, .found = "absent", .wanted = "made"};
  strcpy(change.stage, stage);
  strcpy(change.path, path);
  if (!ops_file_exists(path))
    return ops_plan_add(run, &change);
  if (made_before(run, path))
    return BUS_OK;
  return ops_plan_refuse(run, OPS_EXIT_CONFLICT,
                         "%s is there and no journal of ours says who made it: look at its "
                         "cgroup.procs, then rmdir it, or choose another --name",
                         path);
}

/* A value in a cgroup of ours: it needs no restoring, since the cgroup goes. */
static int plan_value(struct ops_isolation *run, const char *cgroup, const char *file,
                      enum ops_value_format format, const char *wanted)
{
  struct ops_change change = {.format = format, .fresh = true, .found = "(new)"};
  strcpy(change.stage, stage);
  snprintf(change.wanted, sizeof change.wanted, "%s", wanted);
  int error = ops_path_join(change.path, cgroup, "%s", file);
  if (error != BUS_OK)
    return error;
  return ops_file_exists(change.path) ? ops_plan_write(run, &change) : ops_plan_add(run, &change);
}

/* Refuses when the cgroup `name` beside ours names one of the CPUs in `file`. */
static int check_sibling(struct ops_isolation *run, const char *name, const char *file)
{
  char path[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list cpus;
  if (ops_path_join(path, run->cgroup_parent, "%s/%s", name, file) != BUS_OK ||
      ops_file_read(path, text, sizeof text) <= 0 ||
      ops_cpu_list_parse(&cpus, text, path) != BUS_OK)
    return BUS_OK;
  cpus = ops_cpu_list_and(&cpus, &run->cpus);
  if (ops_cpu_list_count(&cpus) == 0)
    return BUS_OK;
  char both[OPS_CPU_LIST_BYTES], remedy[OPS_CPU_LIST_BYTES + 256];
  if (run->mode == OPS_MODE_PARTITION)
    snprintf(remedy, sizeof remedy,
             "take them out there (a systemd unit's: systemctl set-property --runtime %.100s "
             "AllowedCPUs=%s)",
             name, run->house_text);
  else
    snprintf(remedy, sizeof remedy, "write '%s' there, or remove that cgroup", run->house_text);
  return ops_plan_refuse(
      run, OPS_EXIT_CONFLICT,
      "%s is '%s' and names CPUs %s: an isolation and another cgroup cannot share "
      "them; %s, then try again",
      path, text, ops_cpu_list_format(&cpus, both, sizeof both), remedy);
}

static bool is_last_part(const char *path, const char *name)
{
  const char *slash = strrchr(path, '/');
  return slash && !strcmp(slash + 1, name);
}

static int check_siblings(struct ops_isolation *run)
{
  static const char *const files[] = {"cpuset.cpus", "cpuset.cpus.exclusive"};
  struct ops_names names;
  int error = ops_directory_list(run->cgroup_parent, &names);
  for (size_t i = 0; error == BUS_OK && i < names.count; i++) {
    /* Ours, or everybody's of an isolation that is there; those of others hold other CPUs. */
    if (is_last_part(run->cgroup, names.names[i]) ||
        is_last_part(run->cgroup_house, names.names[i]))
      continue;
    for (size_t j = 0; error == BUS_OK && j < BUS_COUNT_OF(files); j++)
      error = check_sibling(run, names.names[i], files[j]);
  }
  ops_names_free(&names);
  return error;
}

/* ---- cgroup v2 ---- */

/* True for kernels whose workqueues can stall when a partition is made: 6.9 and later, fixed in
 * 6.12.82, 6.18.23 and 6.19.13. */
static bool kernel_can_stall(int major, int minor, int patch)
{
  if (major != 6 || minor < 9 || minor > 19)
    return false;
  return minor == 12 ? patch < 82 : minor == 18 ? patch < 23 : minor == 19 ? patch < 13 : true;
}

/* Reads "6.8.0-45-generic"; false when it is not like that. */
static bool read_kernel(const struct ops_isolation *run, int *major, int *minor, int *patch)
{
  char path[OPS_PATH_BYTES], text[256];
  *patch = 0;
  return ops_path_join(path, run->system->proc_root, "sys/kernel/osrelease") == BUS_OK &&
         ops_file_read(path, text, sizeof text) >= 0 &&
         sscanf(text, "%9d.%9d.%9d", major, minor, patch) >= 2;
}

struct pinned {
  const struct ops_isolation *run;
  int count;
};

static int count_pinned(void *user, const struct ops_thread *thread)
{
  struct pinned *pinned = user;
  struct ops_cpu_list rest = ops_cpu_list_minus(&pinned->run->online, &thread->cpus);
  pinned->count += !thread->kernel && !thread->fixed && ops_cpu_list_count(&rest) > 0;
  return 0;
}

/* Since 6.2 the kernel remembers which CPUs a thread asked for when its cpuset changes. */
static void check_pins(struct ops_isolation *run)
{
  int major, minor, patch;
  struct pinned pinned = {.run = run};
  if (!read_kernel(run, &major, &minor, &patch) || major > 6 || (major == 6 && minor >= 2))
    return;
  ops_thread_visit(run->system, count_pinned, &pinned);
  if (pinned.count > 0)
    ops_plan_warn(run,
                  "kernel %d.%d forgets which CPUs a thread was pinned to when its cpuset changes: "
                  "%d threads are pinned now and have to be pinned again, now and after release",
                  major, minor, pinned.count);
}

static int check_kernel(struct ops_isolation *run)
{
  int major, minor, patch;
  if (!read_kernel(run, &major, &minor, &patch) || !kernel_can_stall(major, minor, patch))
    return BUS_OK;
  if (run->options.strict)
    return ops_plan_refuse(run, OPS_EXIT_UNSUPPORTED,
                           "kernel %d.%d.%d can stall its workqueues when a partition is made: "
                           "install 6.12.82, 6.18.23, 6.19.13 or later",
                           major, minor, patch);
  ops_plan_warn(run,
                "kernel %d.%d.%d can stall its workqueues when a partition is made; fixed in "
                "6.12.82, 6.18.23 and 6.19.13",
                major, minor, patch);
  return BUS_OK;
}

static int plan_partition(struct ops_isolation *run)
{
  struct ops_change control = {.format = OPS_VALUE_TOKEN, .wanted = "cpuset"};
  strcpy(control.stage, stage);
  int error;
  if (!run->journal_exists)
    ops_plan_note(run,
                  "as long as the partition is there, the kernel itself keeps its unbound "
                  "workqueues and every thread outside off CPUs %.100s",
                  run->cpus_text);
  if ((error = check_kernel(run)) != BUS_OK ||
      (error = ops_path_join(control.path, run->cgroup_parent, "cgroup.subtree_control")) !=
          BUS_OK ||
      (error = ops_plan_write(run, &control)) != BUS_OK ||
      (error = plan_directory(run, run->cgroup)) != BUS_OK ||
      (error = plan_value(run, run->cgroup, "cpuset.cpus", OPS_VALUE_LIST, run->cpus_text)) !=
          BUS_OK)
    return error;
  return plan_value(run, run->cgroup, "cpuset.cpus.partition", OPS_VALUE_TEXT, "isolated");
}

/* ---- cgroup v1 ---- */

/* Everybody's cpuset: of this isolation, or of an earlier one that is still there. */
static int plan_house(struct ops_isolation *run, const char *mems)
{
  int error;
  bool shared = ops_file_exists(run->cgroup_house) && !made_before(run, run->cgroup_house);
  if (shared && run->latest_other[0]) {
    struct ops_change cpus = {.format = OPS_VALUE_LIST};
    strcpy(cpus.stage, stage);
    strcpy(cpus.wanted, run->house_text);
    error = ops_path_join(cpus.path, run->cgroup_house, "cpuset.cpus");
    return error != BUS_OK ? error : ops_plan_write(run, &cpus);
  }
  if ((error = plan_directory(run, run->cgroup_house)) != BUS_OK ||
      (error = plan_value(run, run->cgroup_house, "cpuset.cpus", OPS_VALUE_LIST,
                          run->house_text)) != BUS_OK)
    return error;
  return plan_value(run, run->cgroup_house, "cpuset.mems", OPS_VALUE_TEXT, mems);
}

/* Everybody who is in the root cpuset. */
static int plan_move(struct ops_isolation *run)
{
  struct ops_change change = {.kind = OPS_CHANGE_MOVE, .failure = OPS_FAILURE_WARNS};
  int processes = ops_cgroup_count(run->system, run->cgroup_parent, NULL);
  if (processes <= 0)
    return processes;
  strcpy(change.stage, stage);
  snprintf(change.label, sizeof change.label, "%d processes", processes);
  strcpy(change.path, run->cgroup_house);
  snprintf(change.found, sizeof change.found, "%s", run->cgroup_parent);
  snprintf(change.wanted, sizeof change.wanted, "%s", run->cgroup_house);
  strcpy(change.advice, "they may still run on the CPUs: stop them, or start them again");
  /* The release of the isolation that made it brings them back. */
  change.fresh = ops_file_exists(run->cgroup_house) && !made_before(run, run->cgroup_house);
  return ops_plan_add(run, &change);
}

static int plan_root_balance(struct ops_isolation *run)
{
  struct ops_change change = {.wanted = "0"};
  strcpy(change.stage, stage);
  int error = ops_path_join(change.path, run->cgroup_parent, "cpuset.sched_load_balance");
  return error != BUS_OK ? error : ops_plan_write(run, &change);
}

static int plan_cpuset_v1(struct ops_isolation *run)
{
  char path[OPS_PATH_BYTES], mems[OPS_VALUE_BYTES];
  int error = ops_path_join(path, run->cgroup_parent, "cpuset.mems");
  if (error != BUS_OK || (error = ops_file_read(path, mems, sizeof mems)) < 0 ||
      (error = plan_house(run, mems)) != BUS_OK ||
      (error = plan_directory(run, run->cgroup)) != BUS_OK ||
      (error = plan_value(run, run->cgroup, "cpuset.cpus", OPS_VALUE_LIST, run->cpus_text)) !=
          BUS_OK ||
      (error = plan_value(run, run->cgroup, "cpuset.mems", OPS_VALUE_TEXT, mems)) != BUS_OK ||
      (error = plan_value(run, run->cgroup, "cpuset.sched_load_balance", OPS_VALUE_TEXT, "0")) !=
          BUS_OK ||
      (error = plan_move(run)) != BUS_OK || (error = plan_root_balance(run)) != BUS_OK)
    return error;
  return plan_value(run, run->cgroup, "cpuset.cpu_exclusive", OPS_VALUE_TEXT, "1");
}

int ops_plan_cpuset(struct ops_isolation *run)
{
  if (run->mode == OPS_MODE_AFFINITY)
    return BUS_OK;
  int error = check_siblings(run);
  if (error != BUS_OK)
    return error;
  check_pins(run);
  return run->mode == OPS_MODE_PARTITION ? plan_partition(run) : plan_cpuset_v1(run);
}
