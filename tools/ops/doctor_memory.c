/* Memory: huge pages, both kinds; swap; what may be locked. */
#include "tools/ops/doctor.h"

#include "tools/ops/hugepages.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SWAPPINESS_MAX 10
#define MEMLOCK_BYTES  ((uint64_t)64 << 20)
#define PAGES_DEFAULT  32
#define SWAPS_BYTES    16384

/* "always [madvise] never" -> "madvise"; "" when nothing is chosen. */
static void find_chosen(const char *text, char *chosen, size_t size)
{
  const char *open = strchr(text, '[');
  const char *close = open ? strchr(open, ']') : NULL;
  chosen[0] = '\0';
  if (close)
    snprintf(chosen, size, "%.*s", (int)(close - open - 1), open + 1);
}

/* Warns when `file` is set to `bad`. */
static void check_thp(struct ops_doctor *doctor, const char *key, const char *file, const char *bad,
                      const char *better, const char *why)
{
  char text[128], chosen[32];
  struct ops_doctor_check *check = ops_doctor_add(doctor, key, why);
  int length = ops_doctor_read(text, sizeof text, doctor->system->sys_root,
                               "kernel/mm/transparent_hugepage/%s", file);
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return;
  }
  find_chosen(text, chosen, sizeof chosen);
  bool hit = strcmp(chosen, bad) == 0;
  ops_doctor_found(check, hit ? OPS_DOCTOR_WARN : OPS_DOCTOR_PASS, "%s", *chosen ? chosen : text);
  if (hit)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "echo %s > /sys/kernel/mm/transparent_hugepage/%s",
                      better, file);
}

/* The second line of /proc/swaps is the first swap. */
static bool check_swap(struct ops_doctor *doctor)
{
  char text[SWAPS_BYTES];
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "swap", "a page that was swapped out comes back in milliseconds");
  int length = ops_doctor_read(text, sizeof text, doctor->system->proc_root, "swaps");
  if (length == BUS_ERROR_ABSENT) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "this kernel has none");
    return false;
  }
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return true;
  }
  const char *line = strchr(text, '\n');
  if (!line) {
    ops_doctor_found(check, OPS_DOCTOR_PASS, "none");
    return false;
  }
  ops_doctor_found(check, OPS_DOCTOR_WARN, "%.*s", (int)strcspn(line + 1, " \t\n"), line + 1);
  ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "swapoff -a");
  return true;
}

static void check_swappiness(struct ops_doctor *doctor, bool swaps)
{
  char path[OPS_PATH_BYTES];
  int64_t value = 0;
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "swappiness", "the higher, the sooner idle pages are swapped out");
  int error = ops_path_join(path, doctor->system->proc_root, "sys/vm/swappiness");
  if (!error)
    error = ops_file_read_integer(path, &value);
  if (error) {
    ops_doctor_unreadable(check, error);
    return;
  }
  bool hit = swaps && value > SWAPPINESS_MAX;
  ops_doctor_found(check, hit ? OPS_DOCTOR_WARN : OPS_DOCTOR_PASS, "%" PRId64 "%s", value,
                   swaps ? "" : ", and no swap");
  if (hit)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND, "sysctl -w vm.swappiness=1");
}

static void check_hugepages(struct ops_doctor *doctor)
{
  struct ops_hugepages pages;
  size_t length = 0;
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "huge_pages",
                     "without reserved pages the bus hangs on what the kernel can collapse later");
  int error = ops_hugepages_read(doctor->system, &pages);
  if (error) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "%s", bus_error_message());
    return;
  }
  for (int i = 0; i < pages.count && length < sizeof check->found - 64; i++)
    length += (size_t)snprintf(check->found + length, sizeof check->found - length,
                               "%snode %d: %" PRId64 " free of %" PRId64, i ? ", " : "",
                               pages.nodes[i].node, pages.nodes[i].free, pages.nodes[i].total);
  const struct ops_hugepages_node *node = ops_hugepages_find(&pages, doctor->node);
  if (!node)
    node = &pages.nodes[0];
  /* Used up by the bus itself is as it should be. */
  bool enough = node->total > 0 && (node->free > 0 || doctor->bus.huge_bytes > 0);
  check->status = enough ? OPS_DOCTOR_PASS : OPS_DOCTOR_WARN;
  if (!enough)
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                      "signal-busctl hugepages reserve --pages %" PRId64 " --node %d",
                      node->total + PAGES_DEFAULT, node->node);
}

static bool is_enough(const char *limit)
{
  return !strcmp(limit, "unlimited") || strtoull(limit, NULL, 10) >= MEMLOCK_BYTES;
}

/* Everybody may raise the soft limit to the hard one; that one comes from the login. */
static void suggest_memlock(struct ops_doctor_check *check, const char *hard)
{
  if (!strcmp(hard, "unlimited"))
    ops_doctor_remedy(check, OPS_REMEDY_SHELL, "ulimit -S -l unlimited");
  else if (is_enough(hard))
    ops_doctor_remedy(check, OPS_REMEDY_SHELL, "ulimit -S -l %llu",
                      strtoull(hard, NULL, 10) / 1024);
  else
    ops_doctor_remedy(check, OPS_REMEDY_COMMAND,
                      "printf '%%s - memlock unlimited\\n' '*' root > "
                      "/etc/security/limits.d/60-signal-bus.conf # and log in again");
}

static void check_memlock(struct ops_doctor *doctor)
{
  char text[4096], soft[32], hard[32];
  struct ops_doctor_check *check =
      ops_doctor_add(doctor, "memlock",
                     "a member that may not lock its memory can lose pages to reclaim; io_uring's "
                     "and the GPU's buffers are locked too");
  int length = ops_doctor_read(text, sizeof text, doctor->system->proc_root, "self/limits");
  if (length < 0) {
    ops_doctor_unreadable(check, length);
    return;
  }
  const char *line = strstr(text, "Max locked memory");
  if (!line || sscanf(line + strlen("Max locked memory"), "%31s %31s", soft, hard) != 2) {
    ops_doctor_found(check, OPS_DOCTOR_SKIP, "/proc/self/limits does not say");
    return;
  }
  bool enough = is_enough(soft);
  ops_doctor_found(check, enough ? OPS_DOCTOR_PASS : OPS_DOCTOR_WARN, "%s%s", soft,
                   strcmp(soft, "unlimited") ? " bytes" : "");
  if (!enough)
    suggest_memlock(check, hard);
}

void ops_doctor_check_memory(struct ops_doctor *doctor)
{
  check_thp(doctor, "thp", "enabled", "always", "madvise",
            "the kernel makes huge pages of any memory, and stops its owner while it copies");
  check_thp(doctor, "thp_defrag", "defrag", "always", "madvise",
            "a page fault may compact memory first, which takes milliseconds");
  check_thp(doctor, "thp_shmem", "shmem_enabled", "deny", "advise",
            "tmpfs may not use huge pages: a bus on it stays in 4 KiB pages");
  bool swaps = check_swap(doctor);
  check_swappiness(doctor, swaps);
  check_hugepages(doctor);
  check_memlock(doctor);
}
