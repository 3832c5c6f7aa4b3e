/* Device interrupts on the members' CPUs. */
#include "tools/ops/doctor.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* True when the interrupt is allowed on the members' CPUs and goes there. A new mask takes effect
 * at the next interrupt only: an effective place that the mask no longer has is on its way out. */
static bool goes_to_members(const struct ops_doctor *doctor, const char *irq)
{
  struct ops_cpu_list allowed, effective;
  const char *root = doctor->system->proc_root;
  if (ops_doctor_read_cpus(&allowed, root, "irq/%s/smp_affinity_list", irq) != BUS_OK ||
      !ops_cpu_list_intersects(&allowed, &doctor->cpus))
    return false;
  if (ops_doctor_read_cpus(&effective, root, "irq/%s/effective_affinity_list", irq) != BUS_OK ||
      ops_cpu_list_count(&effective) == 0)
    return true;
  return ops_cpu_list_intersects(&effective, &doctor->cpus);
}

static void check_devices(struct ops_doctor *doctor)
{
  char path[OPS_PATH_BYTES], words[OPS_DOCTOR_REMEDY_BYTES / 2] = "", house[OPS_CPU_LIST_BYTES];
  struct ops_names names;
  size_t length = 0;
  int count = 0;
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "irqs", "each interrupt of a device takes the core for microseconds and its cache");
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  int error = ops_path_join(path, doctor->system->proc_root, "irq");
  if (!error)
    error = ops_directory_list(path, &names);
  if (error) {
    ops_doctor_unreadable(check, error);
    return;
  }
  for (size_t i = 0; i < names.count; i++) {
    const char *name = names.names[i];
    if (name[strspn(name, "0123456789")] || strlen(name) > 6 || !goes_to_members(doctor, name))
      continue;
    count++;
    if (length + strlen(name) + 2 < sizeof words) /* those beyond: at the next run */
      length +=
          (size_t)snprintf(words + length, sizeof words - length, "%s%s", length ? " " : "", name);
  }
  ops_names_free(&names);
  if (count == 0) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "none goes there");
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "%d go there: %.200s", count, words);
  ops_cpu_list_format(&doctor->house, house, sizeof house);
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                    "for i in %s; do echo %s > /proc/irq/$i/smp_affinity_list || echo \"IRQ $i is "
                    "its driver's: see managed_irqs\"; done",
                    words, house);
}

static void check_default(struct ops_doctor *doctor)
{
  ops_doctor_check_mask(doctor, "irq_default",
                        "interrupts of devices that come later are allowed on these CPUs",
                        doctor->system->proc_root, "/proc", "irq/default_smp_affinity");
}

static void check_irqbalance(struct ops_doctor *doctor)
{
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "irqbalance", "it moves interrupts back onto the members' CPUs");
  if (!ops_doctor_runs(doctor, "irqbalance")) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "does not run");
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "runs");
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "systemctl disable --now irqbalance");
}

void ops_doctor_check_irqs(struct ops_doctor *doctor)
{
  check_devices(doctor);
  check_default(doctor);
  check_irqbalance(doctor);
}
