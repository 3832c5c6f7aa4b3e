/* Settings that are one number in one file. */
#include "tools/ops/doctor.h"

#include <inttypes.h>

struct setting {
  const char *key;
  const char *file;        /* below /proc */
  int64_t lowest, highest; /* what passes */
  const char *why;
  const char *remedy;
};

static const struct setting settings[] = {
    {"rt_throttling", "sys/kernel/sched_rt_runtime_us", -1, -1,
     "a member that spins in real time is stopped for 50 ms of every second",
     "sysctl -w kernel.sched_rt_runtime_us=-1"},
    {"numa_balancing", "sys/kernel/numa_balancing", 0, 0,
     "the kernel unmaps pages now and then to see who touches them: page faults on the hot path",
     "sysctl -w kernel.numa_balancing=0"},
    {"vm_stat_interval", "sys/vm/stat_interval", 10, INT64_MAX,
     "the kernel wakes each core so often, in seconds, to sum its counters",
     "sysctl -w vm.stat_interval=120"},
    {"zone_reclaim", "sys/vm/zone_reclaim_mode", 0, 0,
     "an allocation first reclaims memory of its own node, which takes milliseconds",
     "sysctl -w vm.zone_reclaim_mode=0"},
};

static void judge(struct ops_doctor_check *check, const struct setting *setting, int error,
                  int64_t value)
{
  if (error) {
    ops_doctor_unreadable(check, error);
    return;
  }
  bool passes = value >= setting->lowest && value <= setting->highest;
  ops_doctor_found(check, passes ? OPS_DOCTOR_PASS : OPS_DOCTOR_WARN, "%" PRId64, value);
  if (!passes)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "%s", setting->remedy);
}

static void check_ksm(struct ops_doctor *doctor)
{
  static const struct setting ksm = {
      "ksm",
      NULL,
      0,
      0,
      "merging equal pages write-protects them: the next write is a page fault and a copy",
      "echo 0 > /sys/kernel/mm/ksm/run"};
  char path[OPS_PATH_BYTES];
  int64_t value = 0;
  struct ops_doctor_check *check = ops_doctor_add(doctor, ksm.key, ksm.why);
  int error = ops_path_join(path, doctor->system->sys_root, "kernel/mm/ksm/run");
  if (!error)
    error = ops_file_read_integer(path, &value);
  judge(check, &ksm, error, value == 2 ? 0 : value); /* 2: unmerged, and off */
}

void ops_doctor_check_settings(struct ops_doctor *doctor)
{
  for (size_t i = 0; i < BUS_COUNT_OF(settings); i++) {
    char path[OPS_PATH_BYTES];
    int64_t value = 0;
    struct ops_doctor_check *check = ops_doctor_add(doctor, settings[i].key, settings[i].why);
    int error = ops_path_join(path, doctor->system->proc_root, "%s", settings[i].file);
    if (!error)
      error = ops_file_read_integer(path, &value);
    judge(check, &settings[i], error, value);
  }
  check_ksm(doctor);
}
