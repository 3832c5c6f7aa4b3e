#include "tools/ops/doctor.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* What only a caller can bring about; the checks over files are in test_doctor_verb.py. */
static char root[64];
static struct ops_system machine;
static struct ops_doctor doctor;
static struct ops_doctor_bus bus;

static void put(const char *name, const char *text)
{
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *at = path + 1; (at = strchr(at, '/')); at++) {
    *at = '\0';
    mkdir(path, 0755);
    *at = '/';
  }
  FILE *file = fopen(path, "w");
  cr_assert(file, "%s", path);
  fputs(text, file);
  fclose(file);
}

static void set_up(void)
{
  strcpy(root, "/dev/shm/signalbus-doctor-XXXXXX");
  cr_assert(mkdtemp(root));
  cr_assert_eq(ops_system_init(&machine, root), BUS_OK);
  put("sys/devices/system/cpu/online", "0-3\n");
  put("sys/devices/system/node/node0/cpulist", "0-1\n");
  put("sys/devices/system/node/node1/cpulist", "2-3\n");
  bus = (struct ops_doctor_bus){.directory = "/dev/shm/it's", .exists = true};
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place)
{
  (void)status, (void)type, (void)place;
  return remove(path);
}

static void tear_down(void)
{
  nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(doctor, .init = set_up, .fini = tear_down);

static struct ops_cpu_list cpus(const char *list)
{
  struct ops_cpu_list parsed;
  cr_assert_eq(ops_cpu_list_parse(&parsed, list, "test"), BUS_OK);
  return parsed;
}

static const struct ops_doctor_check *examine(const char *list, const char *key)
{
  struct ops_cpu_list named = cpus(list);
  cr_assert_eq(ops_doctor_init(&doctor, &machine, &bus, &named), BUS_OK, "%s", bus_error_message());
  ops_doctor_run(&doctor);
  const struct ops_doctor_check *check = ops_doctor_find(&doctor, key);
  cr_assert(check, "no check %s", key);
  return check;
}

Test(doctor, an_empty_machine_is_examined_to_the_end)
{
  struct ops_cpu_list none = {0};
  cr_assert_eq(ops_doctor_init(&doctor, &machine, &bus, &none), BUS_OK);
  ops_doctor_run(&doctor);
  int sum = 0;
  for (int status = OPS_DOCTOR_PASS; status <= OPS_DOCTOR_SKIP; status++)
    sum += ops_doctor_count(&doctor, (enum ops_doctor_status)status);
  cr_assert(sum == doctor.count && doctor.count > 30);
  for (int i = 0; i < doctor.count; i++) {
    const struct ops_doctor_check *check = &doctor.checks[i];
    cr_assert(check->found[0] && check->why[0], "%s", check->key);
    cr_assert_eq(ops_doctor_find(&doctor, check->key), check, "%s is there twice", check->key);
    cr_assert_eq(check->remedy_kind == OPS_REMEDY_NONE, check->remedy[0] == '\0', "%s", check->key);
  }
  cr_assert_null(ops_doctor_find(&doctor, "nonsense"));
}

Test(doctor, cpus_must_be_there_and_leave_one)
{
  struct ops_cpu_list all = cpus("0-3"), more = cpus("2-4");
  cr_assert_eq(ops_doctor_init(&doctor, &machine, &bus, &all), BUS_ERROR_INVALID);
  cr_assert_eq(ops_doctor_init(&doctor, &machine, &bus, &more), BUS_ERROR_INVALID);
  cr_assert(strstr(bus_error_message(), "CPU 4"), "%s", bus_error_message());
}

Test(doctor, the_node_is_that_of_the_cpus)
{
  examine("3", "partition");
  cr_assert_eq(doctor.node, 1);
  examine("1", "partition");
  cr_assert_eq(doctor.node, 0);
}

static int trial_result;

static int trial(void)
{
  return trial_result;
}

Test(doctor, an_io_uring_that_is_refused_is_seen)
{
  static const struct {
    int result;
    enum ops_doctor_status status;
    const char *remedy;
  } cases[] = {{0, OPS_DOCTOR_PASS, ""},
               {EPERM, OPS_DOCTOR_WARN, "seccomp"},
               {ENOSYS, OPS_DOCTOR_WARN, "CONFIG_IO_URING"}};
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    examine("3", "io_uring");
    doctor.try_io_uring = trial;
    trial_result = cases[i].result;
    ops_doctor_run(&doctor);
    const struct ops_doctor_check *check = ops_doctor_find(&doctor, "io_uring");
    cr_assert_eq(check->status, cases[i].status);
    cr_assert(strstr(check->remedy, cases[i].remedy), "%s", check->remedy);
  }
}

Test(doctor, the_bus_s_remedy_counts_pages_and_quotes)
{
  put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "10\n");
  put("sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "4\n");
  bus.file_system = TMPFS_MAGIC;
  bus.files = bus.members = bus.members_small = 1;
  bus.file_bytes = (uint64_t)100 << 20; /* 50 pages, and as much again */
  const struct ops_doctor_check *check = examine("3", "bus_backing");
  cr_assert_eq(check->status, OPS_DOCTOR_WARN);
  cr_assert_str_eq(check->remedy,
                   "signal-busctl down --bus '/dev/shm/it'\\''s'; signal-busctl destroy --bus "
                   "'/dev/shm/it'\\''s' && signal-busctl hugepages reserve --pages 106 --node 1 && "
                   "signal-busctl hugepages mount --bus '/dev/shm/it'\\''s' --size 200M --min-size "
                   "200M --owner 0");
  bus.file_system = HUGETLBFS_MAGIC;
  bus.members_small = 0;
  cr_assert_eq(examine("3", "bus_backing")->status, OPS_DOCTOR_PASS);
  bus.exists = false;
  cr_assert_eq(examine("3", "bus_backing")->status, OPS_DOCTOR_SKIP);
}

Test(doctor, half_a_remedy_is_none)
{
  struct ops_doctor_check check = {.key = "x"};
  char text[OPS_DOCTOR_REMEDY_BYTES + 1];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  ops_doctor_remedy(&check, OPS_REMEDY_COMMAND, "%s", text);
  cr_assert(check.remedy_kind == OPS_REMEDY_NONE && check.remedy[0] == '\0');
  ops_doctor_remedy(&check, OPS_REMEDY_COMMAND, "%s", text + 1);
  cr_assert_eq(check.remedy_kind, OPS_REMEDY_COMMAND);
}

Test(doctor, quoting_is_for_sh)
{
  static const char *const cases[][2] = {{"/dev/shm/a-b_c.d", "/dev/shm/a-b_c.d"},
                                         {"", "''"},
                                         {"a b", "'a b'"},
                                         {"-x", "'-x'"},
                                         {"$(id)`id`", "'$(id)`id`'"},
                                         {"'", "''\\'''"},
                                         {"~/x", "'~/x'"}};
  char text[32];
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    cr_assert(ops_doctor_quote(text, sizeof text, cases[i][0]));
    cr_assert_str_eq(text, cases[i][1]);
    for (size_t size = 1; size <= strlen(cases[i][1]); size++)
      cr_assert_not(ops_doctor_quote(text, size, cases[i][0]), "%s in %zu", cases[i][1], size);
  }
}

Test(doctor, the_last_word_on_the_command_line_counts)
{
  char value[32];
  put("proc/cmdline", "rcu_nocbs=1 quiet rcu_nocbs=2-3 xrcu_nocbs=9\n");
  examine("3", "rcu_nocbs");
  cr_assert(ops_doctor_boot_value(&doctor, "rcu_nocbs", value, sizeof value));
  cr_assert_str_eq(value, "2-3");
  cr_assert_not(ops_doctor_boot_value(&doctor, "quiet", value, sizeof value));
  cr_assert_eq(ops_doctor_find(&doctor, "rcu_nocbs")->status, OPS_DOCTOR_PASS);
}

Test(doctor, a_group_is_found_by_its_cpu)
{
  struct ops_doctor_group group;
  put("sys/fs/cgroup/cgroup.controllers", "cpuset\n");
  put("sys/fs/cgroup/a/b/cpuset.cpus.partition", "isolated\n");
  put("sys/fs/cgroup/a/b/cpuset.cpus.effective", "2\n");
  ops_doctor_find_group(&machine, 2, &group);
  cr_assert(group.isolated && strstr(group.path, "/sys/fs/cgroup/a/b"), "%s", group.path);
  ops_doctor_find_group(&machine, 3, &group);
  cr_assert(!group.isolated && group.path[0] == '\0');
}
