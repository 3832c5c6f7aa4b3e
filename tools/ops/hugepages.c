#include "tools/ops/hugepages.h"

#include "shm/base.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#define PAGES_DIRECTORY "hugepages/hugepages-2048kB"
#define RETRY_NS_MAX    200000000L

static int node_path(const struct ops_system *system, char *path, int node, const char *name)
{
  return ops_path_join(path, system->sys_root, "devices/system/node/node%d/%s", node, name);
}

static int read_count(const struct ops_system *system, int node, const char *file, int64_t *value)
{
  char path[OPS_PATH_BYTES], name[64];
  snprintf(name, sizeof name, PAGES_DIRECTORY "/%s", file);
  int error = node_path(system, path, node, name);
  if (!error)
    error = ops_file_read_integer(path, value);
  if (!error && (*value < 0 || *value > INT64_MAX / (int64_t)BUS_HUGE_PAGE_BYTES))
    error = bus_error_set(BUS_ERROR_FORMAT, "%s: %" PRId64 " is no number of pages", path, *value);
  return error;
}

static int read_node(const struct ops_system *system, struct ops_hugepages_node *node)
{
  int error = read_count(system, node->node, "nr_hugepages", &node->total);
  if (!error)
    error = read_count(system, node->node, "free_hugepages", &node->free);
  /* Absent in kernels without overcommit of huge pages. */
  if (!error && read_count(system, node->node, "surplus_hugepages", &node->surplus) != BUS_OK)
    node->surplus = 0;
  return error;
}

static int64_t read_promised(const struct ops_system *system)
{
  char path[OPS_PATH_BYTES];
  int64_t promised;
  if (ops_path_join(path, system->sys_root, "kernel/mm/" PAGES_DIRECTORY "/resv_hugepages") ||
      ops_file_read_integer(path, &promised) || promised < 0)
    return -1;
  return promised;
}

int ops_hugepages_read(const struct ops_system *system, struct ops_hugepages *pages)
{
  char path[OPS_PATH_BYTES];
  struct ops_names names;
  *pages = (struct ops_hugepages){0};
  int error = ops_path_join(path, system->sys_root, "devices/system/node");
  if (!error)
    error = ops_directory_list(path, &names);
  if (error)
    return error;
  for (size_t i = 0; i < names.count && !error && pages->count < OPS_NODES_MAX; i++) {
    struct ops_hugepages_node *node = &pages->nodes[pages->count];
    int end = 0;
    if (sscanf(names.names[i], "node%4d%n", &node->node, &end) != 1 || names.names[i][end] ||
        node->node < 0 || node_path(system, path, node->node, PAGES_DIRECTORY) ||
        !ops_file_exists(path))
      continue;
    error = read_node(system, node);
    pages->count++;
  }
  ops_names_free(&names);
  pages->promised = read_promised(system);
  if (!error && pages->count == 0)
    error = bus_error_set(BUS_ERROR_UNSUPPORTED,
                          "%s/devices/system/node: no node has huge pages of 2048 kB: this kernel "
                          "or machine does not give them",
                          system->sys_root);
  return error;
}

const struct ops_hugepages_node *ops_hugepages_find(const struct ops_hugepages *pages, int node)
{
  for (int i = 0; i < pages->count; i++)
    if (pages->nodes[i].node == node)
      return &pages->nodes[i];
  return NULL;
}

int64_t ops_hugepages_persistent(const struct ops_hugepages_node *node)
{
  return node->surplus <= node->total ? node->total - node->surplus : 0;
}

/* Moves pages together, so that whole 2 MiB come free. Not every kernel can: then the retry alone
 * must do. */
static void compact(struct ops_system *system, int node)
{
  char path[OPS_PATH_BYTES];
  if (node_path(system, path, node, "compact") == BUS_OK && ops_file_exists(path) &&
      ops_system_write(system, path, "1") == BUS_OK)
    return;
  if (ops_path_join(path, system->proc_root, "sys/vm/compact_memory") == BUS_OK &&
      ops_file_exists(path))
    (void)ops_system_write(system, path, "1");
}

/* Longer each time: other processes give memory back meanwhile. */
static void pause_before_retry(int attempt)
{
  long ns = 2000000L << (attempt < 7 ? attempt : 7);
  struct timespec pause = {0, ns < RETRY_NS_MAX ? ns : RETRY_NS_MAX};
  nanosleep(&pause, NULL);
}

int ops_hugepages_resize(struct ops_system *system, int node, int64_t pages, int tries,
                         int64_t *reached)
{
  char path[OPS_PATH_BYTES], value[32];
  int error = node_path(system, path, node, PAGES_DIRECTORY "/nr_hugepages");
  *reached = -1;
  snprintf(value, sizeof value, "%" PRId64, pages);
  for (int attempt = 0; attempt < tries && !error; attempt++) {
    if (attempt > 0) {
      compact(system, node);
      pause_before_retry(attempt);
    }
    error = ops_system_write(system, path, value);
    struct ops_hugepages_node now = {.node = node};
    int read_error = read_node(system, &now);
    *reached = read_error ? -1 : ops_hugepages_persistent(&now);
    error = error ? error : read_error;
    if (!error && *reached >= pages)
      return BUS_OK;
  }
  if (error)
    return error;
  return bus_error_set(BUS_ERROR_NO_SPACE,
                       "node %d: %" PRId64 " of %" PRId64 " huge pages after %d tries with "
                       "compaction: its memory is used or in pieces. Next: `sync; echo 1 > "
                       "/proc/sys/vm/drop_caches` and again, or reserve at boot: hugepages=%" PRId64
                       " on the kernel command line",
                       node, *reached, pages, tries, pages);
}

int ops_hugepages_is_mounted(const char *directory)
{
  char parent[OPS_PATH_BYTES];
  struct stat own, above;
  struct statfs fs;
  if (snprintf(parent, sizeof parent, "%s/..", directory) >= (int)sizeof parent)
    return bus_error_set(BUS_ERROR_INVALID, "%.60s..: the path is too long", directory);
  if (stat(directory, &own) != 0 || statfs(directory, &fs) != 0)
    return bus_error_set_errno("%s: cannot be looked at", directory);
  /* Who may not look above cannot tell the mount from a directory in it. */
  if (stat(parent, &above) != 0)
    return bus_error_set_errno("%s: cannot be looked at", parent);
  return (unsigned long)fs.f_type == HUGETLBFS_MAGIC &&
         (own.st_dev != above.st_dev || own.st_ino == above.st_ino);
}

static int explain_mount(const struct ops_system *system, const char *directory,
                         const struct ops_hugepages_mount *mount)
{
  struct ops_hugepages pages;
  int error = errno;
  uint64_t wanted = mount->min_size_bytes / BUS_HUGE_PAGE_BYTES;
  if (error == ENOMEM && ops_hugepages_read(system, &pages) == BUS_OK) {
    int64_t available = -(pages.promised > 0 ? pages.promised : 0);
    for (int i = 0; i < pages.count; i++)
      available += pages.nodes[i].free;
    return bus_error_set(BUS_ERROR_NO_SPACE,
                         "%s: cannot reserve %" PRIu64 " huge pages for it, %" PRId64
                         " are free; next: signal-busctl hugepages reserve",
                         directory, wanted, available);
  }
  errno = error;
  if (error == EPERM || error == EACCES)
    return bus_error_set_errno("%s: cannot mount a hugetlbfs as uid %u (root may, unless a "
                               "container forbids it)",
                               directory, geteuid());
  if (error == ENODEV)
    return bus_error_set_errno("%s: this kernel has no hugetlbfs", directory);
  return bus_error_set_errno("%s: cannot mount a hugetlbfs of %" PRIu64 " bytes", directory,
                             mount->size_bytes);
}

/* Empty when the mount is what was asked for. */
static const char *find_difference(const char *directory, const struct ops_hugepages_mount *mount)
{
  struct stat status;
  struct statfs fs;
  if (stat(directory, &status) != 0 || statfs(directory, &fs) != 0)
    return "it cannot be looked at";
  if ((unsigned long)fs.f_type != HUGETLBFS_MAGIC)
    return "it is no hugetlbfs";
  if ((uint64_t)fs.f_bsize != BUS_HUGE_PAGE_BYTES)
    return "its page size";
  if (mount->size_bytes && (uint64_t)fs.f_blocks * BUS_HUGE_PAGE_BYTES != mount->size_bytes)
    return "its size";
  if (status.st_uid != mount->uid || status.st_gid != mount->gid)
    return "its owner or group";
  if ((status.st_mode & 07777u) != mount->mode)
    return "its mode";
  return "";
}

int ops_hugepages_mount(const struct ops_system *system, const char *directory,
                        const struct ops_hugepages_mount *mount_options)
{
  char options[192];
  if (system->injected)
    return bus_error_set(
        BUS_ERROR_DENIED,
        "%s: nothing is mounted while " OPS_SYSTEM_ROOT_VARIABLE " is set; unset it", directory);
  int length =
      snprintf(options, sizeof options, "pagesize=%zu,uid=%u,gid=%u,mode=%04o", BUS_HUGE_PAGE_BYTES,
               mount_options->uid, mount_options->gid, mount_options->mode);
  if (mount_options->size_bytes)
    length += snprintf(options + length, sizeof options - (size_t)length, ",size=%" PRIu64,
                       mount_options->size_bytes);
  if (mount_options->min_size_bytes)
    snprintf(options + length, sizeof options - (size_t)length, ",min_size=%" PRIu64,
             mount_options->min_size_bytes);
  if (mount("signal-bus", directory, "hugetlbfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, options) != 0)
    return explain_mount(system, directory, mount_options);
  const char *difference = find_difference(directory, mount_options);
  if (!*difference)
    return BUS_OK;
  (void)umount2(directory, UMOUNT_NOFOLLOW);
  return bus_error_set(BUS_ERROR_INVALID,
                       "%s: the kernel mounted it otherwise than asked (%s); unmounted again",
                       directory, difference);
}
