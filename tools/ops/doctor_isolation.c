/* Whether the members' CPUs are theirs alone: partitions, SMT siblings, kernel work. */
#include "tools/ops/doctor.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define CGROUPS_MAX 4096
#define DEPTH_MAX   8

struct walk {
  struct ops_doctor *doctor;
  bool v1;
  int seen;
  int cpu;    /* whose group is looked for, -1: nobody's */
  char *path; /* [OPS_PATH_BYTES], of that group */
};

static void note_group(struct walk *walk, const struct ops_cpu_list *cpus, const char *path)
{
  if (walk->cpu >= 0 && ops_cpu_list_has(cpus, walk->cpu))
    snprintf(walk->path, OPS_PATH_BYTES, "%s", path);
}

static void add_cpus(struct ops_cpu_list *to, const struct ops_cpu_list *from)
{
  *to = ops_cpu_list_or(to, from);
}

/* The kernel reports success for a partition that it made invalid: its state says so only when it
 * is read. */
static void look_at_partition(struct walk *walk, const char *path)
{
  struct ops_doctor *doctor = walk->doctor;
  struct ops_cpu_list cpus;
  char state[160];
  if (ops_doctor_read(state, sizeof state, path, "cpuset.cpus.partition") < 0 ||
      strcmp(state, "member") == 0 || strcmp(path, doctor->system->cgroup_root) == 0)
    return;
  if (strcmp(state, "isolated") != 0 && strncmp(state, "root", 4) != 0 &&
      strncmp(state, "isolated ", 9) != 0)
    return;
  doctor->partitioned = true;
  if (strstr(state, "invalid")) {
    snprintf(doctor->invalid, sizeof doctor->invalid, "%.80s: %s",
             strrchr(path, '/') ? strrchr(path, '/') + 1 : path, state);
    (void)ops_doctor_read_cpus(&doctor->invalid_cpus, path, "cpuset.cpus");
  } else if (strcmp(state, "isolated") == 0 &&
             ops_doctor_read_cpus(&cpus, path, "cpuset.cpus.effective") == BUS_OK) {
    add_cpus(&doctor->partition, &cpus);
    note_group(walk, &cpus, path);
  }
}

/* cgroup v1 has no partitions; an exclusive set under a root that does not balance comes to the
 * same. */
static void look_at_v1(struct walk *walk, const char *path)
{
  struct ops_cpu_list cpus;
  char text[16];
  if (ops_doctor_read(text, sizeof text, path, "cpuset.cpu_exclusive") > 0 && *text == '1' &&
      ops_doctor_read_cpus(&cpus, path, "cpuset.cpus") == BUS_OK) {
    add_cpus(&walk->doctor->partition, &cpus);
    note_group(walk, &cpus, path);
  }
}

static void walk_below(struct walk *walk, const char *path, int depth)
{
  struct ops_names names;
  struct stat status;
  if (depth == 0 || ops_directory_list(path, &names) != BUS_OK)
    return;
  for (size_t i = 0; i < names.count && walk->seen < CGROUPS_MAX; i++) {
    char below[OPS_PATH_BYTES];
    if (ops_path_join(below, path, "%s", names.names[i]) || lstat(below, &status) != 0 ||
        !S_ISDIR(status.st_mode))
      continue;
    walk->seen++;
    if (walk->v1)
      look_at_v1(walk, below);
    else
      look_at_partition(walk, below);
    walk_below(walk, below, depth - 1);
  }
  ops_names_free(&names);
}

static void find_partitions(struct ops_doctor *doctor, int cpu, char *group)
{
  char path[OPS_PATH_BYTES], text[16];
  struct ops_cpu_list booted;
  const char *root = doctor->system->cgroup_root;
  struct walk walk = {.doctor = doctor, .cpu = cpu, .path = group};
  if (ops_path_join(path, root, "cgroup.controllers") == BUS_OK && ops_file_exists(path))
    walk_below(&walk, root, DEPTH_MAX);
  if (ops_path_join(path, root, "cpuset") == BUS_OK &&
      ops_doctor_read(text, sizeof text, path, "cpuset.sched_load_balance") > 0 && *text == '0') {
    walk = (struct walk){.doctor = doctor, .v1 = true, .cpu = cpu, .path = group};
    walk_below(&walk, path, DEPTH_MAX);
  }
  if (ops_doctor_read_cpus(&booted, doctor->system->sys_root, "devices/system/cpu/isolated") ==
      BUS_OK)
    add_cpus(&doctor->partition, &booted);
}

void ops_doctor_find_partitions(struct ops_doctor *doctor)
{
  find_partitions(doctor, -1, NULL);
}

void ops_doctor_find_group(const struct ops_system *system, int cpu, struct ops_doctor_group *group)
{
  static struct ops_doctor doctor;
  doctor = (struct ops_doctor){.system = system};
  *group = (struct ops_doctor_group){0};
  find_partitions(&doctor, cpu, group->path);
  group->isolated = ops_cpu_list_has(&doctor.partition, cpu);
}

static void check_partition(struct ops_doctor *doctor)
{
  char cpus[OPS_CPU_LIST_BYTES], have[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list wanted = doctor->cpus;
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "partition",
                     "any other process may run on a member's core and stop it for milliseconds");
  if (*doctor->invalid) {
    add_cpus(&wanted, &doctor->invalid_cpus);
    ops_doctor_found(check, OPS_DOCTOR_FAIL, "%s", doctor->invalid);
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                      "signal-busctl release; signal-busctl isolate --cpus %s",
                      ops_cpu_list_format(&wanted, cpus, sizeof cpus));
    return;
  }
  struct ops_cpu_list missing = ops_cpu_list_minus(&wanted, &doctor->partition);
  if (ops_cpu_list_count(&wanted) > 0 && ops_cpu_list_count(&missing) == 0) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "CPUs %s are isolated",
                     ops_cpu_list_format(&wanted, cpus, sizeof cpus));
    return;
  }
  if (ops_cpu_list_count(&wanted) == 0) { /* the last one: CPU 0 keeps the house */
    int last = -1;
    for (int cpu = ops_cpu_list_next(&doctor->online, 0); cpu >= 0;
         cpu = ops_cpu_list_next(&doctor->online, cpu + 1))
      last = cpu;
    if (ops_cpu_list_count(&doctor->online) < 2) {
      ops_doctor_found(check, OPS_DOCTOR_SKIP, "there is one CPU: none can be isolated");
      return;
    }
    ops_cpu_list_add(&wanted, last);
  }
  ops_cpu_list_format(&doctor->partition, have, sizeof have);
  ops_doctor_found(check, OPS_DOCTOR_WARN, "isolated: %s", *have ? have : "no CPU");
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "signal-busctl isolate --cpus %s",
                    ops_cpu_list_format(&wanted, cpus, sizeof cpus));
}

/* The CPUs that share a core with the members' and are neither theirs nor off. */
static struct ops_cpu_list find_siblings(const struct ops_doctor *doctor)
{
  struct ops_cpu_list found = {0};
  for (int cpu = ops_cpu_list_next(&doctor->cpus, 0); cpu >= 0;
       cpu = ops_cpu_list_next(&doctor->cpus, cpu + 1)) {
    struct ops_cpu_list siblings;
    if (ops_doctor_read_cpus(&siblings, doctor->system->sys_root,
                             "devices/system/cpu/cpu%d/topology/thread_siblings_list",
                             cpu) != BUS_OK)
      continue;
    siblings = ops_cpu_list_minus(&siblings, &doctor->cpus);
    for (int other = ops_cpu_list_next(&siblings, 0); other >= 0;
         other = ops_cpu_list_next(&siblings, other + 1)) {
      char text[16];
      if (ops_doctor_read(text, sizeof text, doctor->system->sys_root,
                          "devices/system/cpu/cpu%d/online", other) < 0 ||
          *text != '0')
        ops_cpu_list_add(&found, other);
    }
  }
  return found;
}

/* "3 5 9", as sh's for takes it; false when it does not fit. */
static bool format_words(const struct ops_cpu_list *list, char *text, size_t size)
{
  size_t length = 0;
  text[0] = '\0';
  for (int cpu = ops_cpu_list_next(list, 0); cpu >= 0; cpu = ops_cpu_list_next(list, cpu + 1)) {
    int bytes = snprintf(text + length, size - length, "%s%d", length ? " " : "", cpu);
    if (bytes < 0 || (size_t)bytes >= size - length)
      return false;
    length += (size_t)bytes;
  }
  return true;
}

static void check_siblings(struct ops_doctor *doctor)
{
  char list[OPS_CPU_LIST_BYTES], words[OPS_DOCTOR_REMEDY_BYTES / 2];
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "smt_siblings", "what runs on the other thread of a core takes half of the core");
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  struct ops_cpu_list siblings = find_siblings(doctor);
  if (ops_cpu_list_count(&siblings) == 0) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "no other thread of their cores is on");
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "CPUs %s share the cores",
                   ops_cpu_list_format(&siblings, list, sizeof list));
  if (ops_cpu_list_has(&siblings, 0))
    ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE,
                      "give members other cores: CPU 0 is one of these and cannot be switched off");
  else if (format_words(&siblings, words, sizeof words))
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                      "for c in %s; do echo 0 > /sys/devices/system/cpu/cpu$c/online; done", words);
}

static void check_workqueues(struct ops_doctor *doctor)
{
  ops_doctor_check_mask(doctor, "workqueues",
                        "the kernel's deferred work runs on any CPU of this mask",
                        doctor->system->sys_root, "/sys", "devices/virtual/workqueue/cpumask");
}

void ops_doctor_check_isolation(struct ops_doctor *doctor)
{
  check_partition(doctor);
  check_siblings(doctor);
  check_workqueues(doctor);
}
