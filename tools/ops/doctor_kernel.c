/* The kernel itself, its clock, and what only its command line can set. */
#include "tools/ops/doctor.h"

#include <stdio.h>
#include <string.h>

#define CPUINFO_BYTES (4 << 20)

static bool is_at_least(const int version[3], int major, int minor, int patch)
{
  if (version[0] != major)
    return version[0] > major;
  if (version[1] != minor)
    return version[1] > minor;
  return version[2] >= patch;
}

/* Work queues can stall when a cpuset partition is made: since 6.9, mended in these releases. */
static bool stalls_with_partitions(const int version[3])
{
  static const int mended[][2] = {{12, 82}, {18, 23}, {19, 13}};
  if (!is_at_least(version, 6, 9, 0) || version[0] != 6 || version[1] > 19)
    return false;
  for (size_t i = 0; i < BUS_COUNT_OF(mended); i++)
    if (version[1] == mended[i][0] && version[2] >= mended[i][1])
      return false;
  return true;
}

/* The distribution's own kernel is mended; where it is the older one, the boot loader still prefers
 * the one that is bad. */
static void suggest_kernel(const struct ops_doctor *doctor, struct ops_doctor_check *check,
                           bool too_old)
{
  char version[512];
#if defined(__aarch64__)
  static const char debian[] = "linux-image-arm64";
#else
  static const char debian[] = "linux-image-amd64";
#endif
  if (ops_doctor_read(version, sizeof version, doctor->system->proc_root, "version") < 0)
    version[0] = '\0';
  if (!too_old && (strstr(version, "Ubuntu") || strstr(version, "Debian")))
    ops_doctor_remedy(check, OPS_REMEDY_REBOOT,
                      "apt-get update && apt-get install -y %s # and choose it in the boot loader",
                      strstr(version, "Ubuntu") ? "linux-image-generic" : debian);
  else
    ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE,
                      "boot a kernel from 6.1 to 6.8, or 6.12.82, 6.18.23, 6.19.13 or later ones");
}

static void check_version(struct ops_doctor *doctor)
{
  char text[128];
  int version[3] = {0};
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "kernel_version",
      "6.9 to before 6.12.82, 6.18.23 and 6.19.13 can stall work queues when CPUs are isolated; "
      "before 6.1 tmpfs cannot be collapsed into huge pages");
  int length =
      ops_doctor_read(text, sizeof text, doctor->system->proc_root, "sys/kernel/osrelease");
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return;
  }
  if (sscanf(text, "%4d.%4d.%4d", &version[0], &version[1], &version[2]) < 2) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "'%.60s' is no version", text);
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_PASS, "%s", text);
  bool too_old = !is_at_least(version, 6, 1, 0);
  if (stalls_with_partitions(version))
    ops_doctor_found(check, doctor->partitioned ? OPS_DOCTOR_FAIL : OPS_DOCTOR_WARN,
                     "%s can stall work queues with cpuset partitions%s", text,
                     doctor->partitioned ? ", and there is one" : "");
  else if (too_old)
    ops_doctor_found(check, OPS_DOCTOR_WARN, "%s is older than 6.1", text);
  if (check->status != OPS_DOCTOR_PASS)
    suggest_kernel(doctor, check, too_old);
}

static bool has_word(const char *text, const char *word)
{
  size_t length = strlen(word);
  for (const char *at = text; (at = strstr(at, word)) != NULL; at += length)
    if ((at == text || strchr(" \t\n", at[-1])) && (!at[length] || strchr(" \t\n", at[length])))
      return true;
  return false;
}

/* The hypervisors' clocks are read without a system call, as the counter's own is. */
static bool is_fast(const char *source)
{
  return !strcmp(source, "tsc") || !strcmp(source, "arch_sys_counter") ||
         !strcmp(source, "kvm-clock") || !strncmp(source, "hyperv_clocksource", 18);
}

static void check_clock_source(struct ops_doctor *doctor)
{
  static const char directory[] = "devices/system/clocksource/clocksource0";
  char now[64], available[256];
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "clock_source",
                     "with another clock than the counter, reading the time takes a system call or "
                     "a detour over the hypervisor");
  int length = ops_doctor_read(now, sizeof now, doctor->system->sys_root, "%s/current_clocksource",
                               directory);
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return;
  }
  if (ops_doctor_read(available, sizeof available, doctor->system->sys_root,
                      "%s/available_clocksource", directory) < 0)
    available[0] = '\0';
  bool tsc = has_word(available, "tsc");
  bool slow = !is_fast(now);
  ops_doctor_found(check,
                   slow                        ? OPS_DOCTOR_FAIL
                   : tsc && strcmp(now, "tsc") ? OPS_DOCTOR_WARN
                                               : OPS_DOCTOR_PASS,
                   "%s%s", now, tsc && strcmp(now, "tsc") ? ", tsc is available" : "");
  if (tsc && check->status != OPS_DOCTOR_PASS)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "echo tsc > /sys/%s/current_clocksource",
                      directory);
  else if (slow)
    ops_doctor_remedy(check, OPS_REMEDY_BOOT, "clocksource=tsc tsc=reliable");
}

static void check_tsc(struct ops_doctor *doctor)
{
  static char text[CPUINFO_BYTES];
  char *flags;
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "invariant_tsc",
                     "without a counter of one rate the bus reads CLOCK_MONOTONIC: twice as slow");
  int length = ops_doctor_read(text, sizeof text, doctor->system->proc_root, "cpuinfo");
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return;
  }
  flags = strstr(text, "\nflags");
  if (!flags) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "not an x86: its counter has one rate");
    return;
  }
  flags[1 + strcspn(flags + 1, "\n")] = '\0';
  bool constant = has_word(flags + 1, "constant_tsc"), nonstop = has_word(flags + 1, "nonstop_tsc");
  bool guest = has_word(flags + 1, "hypervisor");
  if (constant && nonstop) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "constant_tsc, nonstop_tsc");
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "%s is missing in /proc/cpuinfo",
                   constant ? "nonstop_tsc" : "constant_tsc");
  ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE, "%s",
                    guest ? "let the hypervisor pass the flag on (QEMU: -cpu host,+invtsc)"
                          : "this CPU has none: use a newer one");
}

void ops_doctor_check_kernel(struct ops_doctor *doctor)
{
  check_version(doctor);
  check_clock_source(doctor);
  check_tsc(doctor);
}

/* True when the list in `value`, after flags that begin with letters, has all of `cpus`. */
static bool covers(const char *value, const struct ops_cpu_list *cpus)
{
  struct ops_cpu_list list;
  if (!strcmp(value, "all"))
    return true;
  while (*value >= 'a' && *value <= 'z') {
    value += strcspn(value, ",");
    value += *value == ',';
  }
  if (ops_cpu_list_parse(&list, value, "kernel command line") != BUS_OK)
    return false;
  struct ops_cpu_list missing = ops_cpu_list_minus(cpus, &list);
  return ops_cpu_list_count(&missing) == 0;
}

static void check_nohz(struct ops_doctor *doctor, const char *cpus, bool *covered)
{
  char text[OPS_CPU_LIST_BYTES];
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "nohz_full", "the timer's tick interrupts a core 100 to 1000 times a second without");
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  int length =
      ops_doctor_read(text, sizeof text, doctor->system->sys_root, "devices/system/cpu/nohz_full");
  if (length < 0) {
    ops_doctor_found(check, OPS_DOCTOR_WARN, "this kernel has no nohz_full");
    ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE, "boot a kernel with CONFIG_NO_HZ_FULL");
    return;
  }
  *covered = covers(text, &doctor->cpus);
  ops_doctor_found(check, *covered ? OPS_DOCTOR_PASS : OPS_DOCTOR_WARN, "nohz_full %s, of CPUs %s",
                   *text && strcmp(text, "(null)") ? text : "nothing", cpus);
  if (!*covered)
    ops_doctor_remedy(check, OPS_REMEDY_BOOT, "nohz_full=%s", cpus);
}

static void check_rcu(struct ops_doctor *doctor, const char *cpus, bool nohz)
{
  char value[OPS_CPU_LIST_BYTES] = "";
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "rcu_nocbs", "RCU's callbacks run on the core that queued them without");
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  bool named = ops_doctor_boot_value(doctor, "rcu_nocbs", value, sizeof value);
  if (nohz || (named && covers(value, &doctor->cpus))) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "%s", nohz ? "follows from nohz_full" : value);
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "%s%s, of CPUs %s", named ? "only " : "for no CPU",
                   value, cpus);
  ops_doctor_remedy(check, OPS_REMEDY_BOOT, "rcu_nocbs=%s", cpus);
}

static void check_managed_irqs(struct ops_doctor *doctor, const char *cpus)
{
  char value[OPS_CPU_LIST_BYTES] = "";
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "managed_irqs",
      "interrupts of disk and network queues that their drivers place cannot be moved by hand");
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  bool named = ops_doctor_boot_value(doctor, "isolcpus", value, sizeof value);
  if (named && strstr(value, "managed_irq") && covers(value, &doctor->cpus)) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "isolcpus=%s", value);
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "isolcpus=managed_irq is not set for CPUs %s", cpus);
  ops_doctor_remedy(check, OPS_REMEDY_BOOT, "isolcpus=managed_irq,%s", cpus);
}

void ops_doctor_check_boot(struct ops_doctor *doctor)
{
  char cpus[OPS_CPU_LIST_BYTES];
  bool nohz = false;
  ops_cpu_list_format(&doctor->cpus, cpus, sizeof cpus);
  check_nohz(doctor, cpus, &nohz);
  check_rcu(doctor, cpus, nohz);
  check_managed_irqs(doctor, cpus);
}
