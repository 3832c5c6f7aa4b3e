/* NVIDIA GPUs, as far as /proc and /sys tell. */
#include "tools/ops/doctor.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char no_driver[] = "no NVIDIA driver";

static bool check_driver(struct ops_doctor *doctor)
{
  char text[1024];
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "gpu_driver", "members that infer on a GPU need its driver, and it must find one");
  if (ops_doctor_read(text, sizeof text, doctor->system->proc_root, "driver/nvidia/version") < 0) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, no_driver);
    return false;
  }
  struct ops_names names = {0};
  char path[OPS_PATH_BYTES];
  if (ops_path_join(path, doctor->system->proc_root, "driver/nvidia/gpus") == BUS_OK)
    (void)ops_directory_list(path, &names);
  const char *module = strstr(text, "Kernel Module");
  const char *version = module ? module + strcspn(module, "0123456789\n") : text;
  if (strncmp(version, "86", 2) == 0 && version[2] == '_') /* "for x86_64  580.65.06" */
    version += strcspn(version, " \n");
  version += strspn(version, " ");
  ops_doctor_found(check, names.count ? OPS_DOCTOR_PASS : OPS_DOCTOR_FAIL, "%.*s, %zu GPUs",
                   (int)strcspn(version, " \n"), version, names.count);
  if (names.count == 0)
    ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE,
                      "the driver finds no GPU: see dmesg, and pass the device to this machine");
  ops_names_free(&names);
  return true;
}

static void check_persistence(struct ops_doctor *doctor, bool driver)
{
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "gpu_persistence",
      "without it the driver lets the GPU go with its last user: the next start takes seconds");
  if (!driver) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, no_driver);
    return;
  }
  bool runs = ops_doctor_runs(doctor, "nvidia-persistenced");
  ops_doctor_found(check, runs ? OPS_DOCTOR_PASS : OPS_DOCTOR_WARN, "nvidia-persistenced %s",
                   runs ? "runs" : "does not run");
  if (!runs)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "systemctl enable --now nvidia-persistenced");
}

/* The NUMA node of the GPU at a PCI address, -1: not known, or there is one node. */
static int read_gpu_node(const struct ops_doctor *doctor, const char *address)
{
  char lower[32], path[OPS_PATH_BYTES];
  int64_t node = -1;
  size_t length = strlen(address);
  if (length >= sizeof lower || address[strspn(address, "0123456789abcdefABCDEF:.")])
    return -1;
  for (size_t i = 0; i <= length; i++)
    lower[i] = (char)tolower((unsigned char)address[i]);
  if (ops_path_join(path, doctor->system->sys_root, "bus/pci/devices/%s/numa_node", lower) ||
      ops_file_read_integer(path, &node) || node < 0 || node > 1023)
    return -1;
  return (int)node;
}

/* As many CPUs of `node` as members have now, the last ones; CPU 0 keeps the house. */
static void suggest_cpus(struct ops_doctor *doctor, struct ops_doctor_check *check, int node)
{
  char list[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list near, chosen = {0};
  int wanted = ops_cpu_list_count(&doctor->cpus);
  if (ops_doctor_read_cpus(&near, doctor->system->sys_root, "devices/system/node/node%d/cpulist",
                           node) != BUS_OK)
    return;
  near = ops_cpu_list_and(&near, &doctor->online);
  for (int cpu = OPS_CPUS_MAX - 1; cpu > 0 && wanted > 0; cpu--)
    if (ops_cpu_list_has(&near, cpu)) {
      ops_cpu_list_add(&chosen, cpu);
      wanted--;
    }
  if (wanted > 0)
    return;
  ops_cpu_list_format(&chosen, list, sizeof list);
  if (ops_cpu_list_intersects(&doctor->partition, &doctor->cpus))
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                      "signal-busctl release; signal-busctl isolate --cpus %s", list);
  else
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "signal-busctl isolate --cpus %s", list);
}

static void check_numa(struct ops_doctor *doctor, bool driver)
{
  struct ops_names names;
  char path[OPS_PATH_BYTES];
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "gpu_numa", "a GPU behind another socket adds a hop to each transfer");
  if (!driver) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, no_driver);
    return;
  }
  if (ops_doctor_needs_cpus(doctor, check))
    return;
  int error = ops_path_join(path, doctor->system->proc_root, "driver/nvidia/gpus");
  if (!error)
    error = ops_directory_list(path, &names);
  if (error) {
    ops_doctor_unreadable(check, error);
    return;
  }
  ops_doctor_found(check, OPS_DOCTOR_PASS, "on the members' node, or the only one");
  bool near = names.count == 0;
  int far = -1;
  for (size_t i = 0; i < names.count; i++) {
    int node = read_gpu_node(doctor, names.names[i]);
    near = near || node < 0 || node == doctor->node;
    far = node >= 0 && node != doctor->node ? node : far;
  }
  ops_names_free(&names);
  if (near)
    return;
  ops_doctor_found(check, OPS_DOCTOR_WARN, "on node %d, the members' CPUs are on node %d", far,
                   doctor->node);
  suggest_cpus(doctor, check, far);
}

void ops_doctor_check_gpu(struct ops_doctor *doctor)
{
  bool driver = check_driver(doctor);
  check_persistence(doctor, driver);
  check_numa(doctor, driver);
}
