/* The bus itself: what its directory lies on, who would delete it, what its members may call. */
#include "tools/ops/doctor.h"

#include "shm/base.h"
#include "tools/ops/hugepages.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define PAGES_MIN      32
#define SYSTEM_UID_MAX 999
#define CONF_BYTES     16384

/* Stops the members, and makes the bus again on pages of its own. */
static void suggest_mount(struct ops_doctor *doctor, struct ops_doctor_check *check)
{
  char directory[400], clear[900] = "", reserve[128] = "";
  struct ops_hugepages pages;
  uint64_t need = 2 * doctor->bus.file_bytes / BUS_HUGE_PAGE_BYTES;
  need = need < PAGES_MIN ? PAGES_MIN : need;
  if (!ops_doctor_quote(directory, sizeof directory, doctor->bus.directory) ||
      ops_hugepages_read(doctor->system, &pages) != BUS_OK)
    return;
  const struct ops_hugepages_node *node = ops_hugepages_find(&pages, doctor->node);
  if (!node)
    node = &pages.nodes[0];
  if (node->free < (int64_t)need)
    snprintf(reserve, sizeof reserve,
             "signal-busctl hugepages reserve --pages %" PRId64 " --node %d && ",
             node->total - node->free + (int64_t)need, node->node);
  if (doctor->bus.files)
    snprintf(clear, sizeof clear, "signal-busctl down --bus %s; signal-busctl destroy --bus %s && ",
             directory, directory);
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                    "%s%ssignal-busctl hugepages mount --bus %s --size %" PRIu64
                    "M --min-size %" PRIu64 "M --owner %u",
                    clear, reserve, directory, need * 2, need * 2, doctor->bus.owner);
}

static void check_backing(struct ops_doctor *doctor)
{
  const struct ops_doctor_bus *bus = &doctor->bus;
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "bus_backing",
      "on a disk the kernel writes pages back and stops the writer; in 4 KiB pages each ring takes "
      "512 times as many entries of the TLB");
  uint64_t kib = bus->file_bytes / 1024, huge_kib = bus->huge_bytes / 1024;
  bool hugetlb = bus->file_system == (int64_t)HUGETLBFS_MAGIC;
  bool memory = hugetlb || bus->file_system == (int64_t)TMPFS_MAGIC ||
                bus->file_system == (int64_t)RAMFS_MAGIC;
  const char *name = hugetlb ? "hugetlbfs" : memory ? "tmpfs" : "a disk's file system";
  if (!bus->exists) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "%.200s: there is no bus", bus->directory);
    return;
  }
  ops_doctor_found(check,
                   !memory              ? OPS_DOCTOR_FAIL
                   : bus->members_small ? OPS_DOCTOR_WARN
                                        : OPS_DOCTOR_PASS,
                   "%.120s: %s, %u members, %u of them not wholly in huge pages; %" PRIu64
                   " KiB, %" PRIu64 " of them huge",
                   bus->directory, name, bus->members, bus->members_small, kib, huge_kib);
  if (check->status != OPS_DOCTOR_PASS)
    suggest_mount(doctor, check);
}

/* RemoveIPC of [Login] in one file: 1 yes, 0 no, -1 not said. */
static int read_remove_ipc(const char *path)
{
  char text[CONF_BYTES], *rest = NULL;
  int value = -1;
  bool login = false;
  if (ops_file_read(path, text, sizeof text) < 0)
    return -1;
  for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
    line += strspn(line, " \t");
    if (*line == '[')
      login = strncmp(line, "[Login]", 7) == 0;
    size_t length = strcspn(line, " \t=");
    if (!login || length != 9 || strncmp(line, "RemoveIPC", 9) != 0)
      continue;
    line += length + strspn(line + length, " \t=");
    value = !(strncasecmp(line, "no", 2) == 0 || *line == '0' || strncasecmp(line, "off", 3) == 0 ||
              strncasecmp(line, "false", 5) == 0 || strcasecmp(line, "n") == 0 ||
              strcasecmp(line, "f") == 0);
  }
  return value;
}

/* The main file, then the drop-ins in the order in which they count more. logind's default: yes. */
static bool removes_ipc(const struct ops_doctor *doctor)
{
  static const char *const directories[] = {"usr/lib", "run", "etc"};
  char prefix[OPS_PATH_BYTES], path[OPS_PATH_BYTES];
  int value = -1;
  /* proc_root is PREFIX/proc. */
  snprintf(prefix, sizeof prefix, "%.*s",
           (int)(strlen(doctor->system->proc_root) - strlen("/proc")), doctor->system->proc_root);
  if (ops_path_join(path, prefix, "etc/systemd/logind.conf") == BUS_OK)
    value = read_remove_ipc(path);
  for (size_t i = 0; i < BUS_COUNT_OF(directories); i++) {
    struct ops_names names;
    if (ops_path_join(path, prefix, "%s/systemd/logind.conf.d", directories[i]) ||
        ops_directory_list(path, &names))
      continue;
    for (size_t j = 0; j < names.count; j++) {
      char file[OPS_PATH_BYTES];
      int said = ops_path_join(file, path, "%s", names.names[j]) ? -1 : read_remove_ipc(file);
      value = said >= 0 ? said : value;
    }
    ops_names_free(&names);
  }
  return value != 0;
}

static void check_remove_ipc(struct ops_doctor *doctor)
{
  uid_t owner = doctor->bus.exists ? doctor->bus.owner : geteuid();
  struct ops_doctor_check *check = ops_doctor_add(
      doctor, "remove_ipc", "logind deletes a user's files in /dev/shm at the last logout");
  if (owner <= SYSTEM_UID_MAX) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "the bus is uid %u's, a system user", owner);
    return;
  }
  if (!ops_doctor_runs(doctor, "systemd-logind")) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "no systemd-logind runs");
    return;
  }
  bool removes = removes_ipc(doctor);
  ops_doctor_found(check, removes ? OPS_DOCTOR_FAIL : OPS_DOCTOR_PASS,
                   "RemoveIPC=%s, and the bus is uid %u's, no system user", removes ? "yes" : "no",
                   owner);
  if (removes)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                      "mkdir -p /etc/systemd/logind.conf.d && printf '[Login]\\nRemoveIPC=no\\n' > "
                      "/etc/systemd/logind.conf.d/60-signal-bus.conf && systemctl restart "
                      "systemd-logind");
}

static void check_io_uring(struct ops_doctor *doctor)
{
  char path[OPS_PATH_BYTES];
  int64_t disabled = 0;
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "io_uring",
                     "without it sockets and files cost a system call for each "
                     "read and write");
  /* Kernels before 6.6 have no such setting, and allow it. */
  if (ops_path_join(path, doctor->system->proc_root, "sys/kernel/io_uring_disabled") ||
      ops_file_read_integer(path, &disabled))
    disabled = 0;
  int error = doctor->try_io_uring ? doctor->try_io_uring() : 0;
  if (disabled) {
    ops_doctor_found(check, OPS_DOCTOR_WARN, "kernel.io_uring_disabled is %" PRId64 ": %s",
                     disabled, disabled == 1 ? "only for root and one group" : "for nobody");
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "sysctl -w kernel.io_uring_disabled=0");
  } else if (error) {
    ops_doctor_found(check, OPS_DOCTOR_WARN, "io_uring_setup: %s", strerror(error));
    ops_doctor_remedy(check, OPS_REMEDY_ELSEWHERE, "%s",
                      error == ENOSYS ? "boot a kernel with CONFIG_IO_URING"
                                      : "allow io_uring_setup in the container's seccomp profile");
  } else {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "allowed%s",
                     doctor->try_io_uring ? ", and one was set up" : "");
  }
}

void ops_doctor_check_bus(struct ops_doctor *doctor)
{
  check_backing(doctor);
  check_remove_ipc(doctor);
  check_io_uring(doctor);
}
