#include "neighbour.h"

#include "clock.h"
#include "error.h"
#include "mapping.h"
#include "member.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define PATH_BYTES 512

struct bus_neighbour {
  struct bus_mapping mapping;
  struct bus_member_header header; /* private copy */
  struct bus_entry *entries;       /* private copy */
  int fd;
  char path[PATH_BYTES];
};

/* Word by word: the source may change under the copy, and every word must be read exactly once. */
static void copy_words(void *to, const void *from, size_t size)
{
  bus_word *out = to;
  const bus_word *in = from;
  for (size_t i = 0; i < size / sizeof *in; i++)
    out[i] = BUS_LOAD_RELAXED(&in[i]);
}

static bool is_locked(int fd)
{
  struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
  return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK;
}

static int check_trust(int fd, const char *directory, const char *path, struct stat *status)
{
  struct stat parent;
  if (fstat(fd, status) != 0 || stat(directory, &parent) != 0)
    return bus_error_set_errno("%s", path);
  if (!S_ISREG(status->st_mode))
    return bus_error_set(BUS_ERROR_CORRUPT, "%s: not a regular file", path);
  bool known_owner =
      status->st_uid == geteuid() || status->st_uid == parent.st_uid || status->st_uid == 0;
  if (!known_owner)
    return bus_error_set(BUS_ERROR_DENIED,
                         "%s: belongs to uid %u, not to the bus owner (uid %u), this user (uid %u) "
                         "or root; if that member is wanted, run it as one of them",
                         path, status->st_uid, parent.st_uid, geteuid());
  if (status->st_mode & 022u)
    return bus_error_set(BUS_ERROR_DENIED,
                         "%s: mode %04o lets others than its owner write to it; restart its member",
                         path, status->st_mode & 07777u);
  return BUS_OK;
}

/* Even reading a hole of a tmpfs file allocates it, at the reader's expense: a terabyte that its
 * owner never paid for would take all memory. Owners allocate the whole file before it is ready. */
static bool has_holes(int fd, const struct stat *status)
{
  struct statfs fs;
  return (uint64_t)status->st_blocks * 512 < (uint64_t)status->st_size && fstatfs(fd, &fs) == 0 &&
         fs.f_type == TMPFS_MAGIC;
}

static int copy_and_check(struct bus_neighbour *neighbour, uint64_t file_size)
{
  const unsigned char *base = neighbour->mapping.base;
  /* A release store of the magic was the creator's last act: acquire it before the rest. */
  (void)BUS_LOAD_ACQUIRE((const bus_word *)(const void *)base);
  copy_words(&neighbour->header, base, sizeof neighbour->header);
  int error = bus_layout_check(&neighbour->header, NULL, file_size);
  if (error)
    return bus_error_context(error, "%s", neighbour->path);
  size_t bytes = (size_t)neighbour->header.entry_count * BUS_ENTRY_BYTES;
  neighbour->entries = malloc(bytes + 1);
  if (!neighbour->entries)
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", neighbour->path);
  copy_words(neighbour->entries, base + BUS_HEADER_BYTES, bytes);
  error = bus_layout_check(&neighbour->header, neighbour->entries, file_size);
  return error ? bus_error_context(error, "%s", neighbour->path) : BUS_OK;
}

static int open_neighbour(struct bus_neighbour *neighbour, const char *directory, const char *name,
                          bool allow_dead)
{
  const char *path = neighbour->path;
  struct stat status;
  neighbour->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (neighbour->fd < 0) {
    if (errno == ENOENT)
      return bus_error_set(
          BUS_ERROR_ABSENT,
          "%s: no such member on the bus; start it, or see: signal-busctl info --bus %s", path,
          directory);
    if (errno == EACCES && stat(path, &status) == 0)
      return bus_error_set(BUS_ERROR_DENIED,
                           "%s: permission denied; owner uid %u, gid %u, mode %04o, this process "
                           "is uid %u: join that group",
                           path, status.st_uid, status.st_gid, status.st_mode & 07777u, geteuid());
    return bus_error_set_errno("%s: opening", path);
  }
  int error = check_trust(neighbour->fd, directory, path, &status);
  if (error)
    return error;
  if (status.st_size == 0)
    return bus_error_set(BUS_ERROR_NOT_READY, "%s: empty, being created", path);
  if (status.st_size < (off_t)BUS_HEADER_BYTES || (uint64_t)status.st_size > BUS_FILE_BYTES_MAX)
    return bus_error_set(BUS_ERROR_CORRUPT, "%s: %lld bytes, not a member file", path,
                         (long long)status.st_size);
  if (has_holes(neighbour->fd, &status))
    return bus_error_set(BUS_ERROR_NOT_READY,
                         "%s: %lld of its %lld KiB are allocated: being created; if it stays so, "
                         "restart its member",
                         path, (long long)status.st_blocks / 2, (long long)status.st_size / 1024);
  error = bus_mapping_open_neighbour(&neighbour->mapping, neighbour->fd, path,
                                     (uint64_t)status.st_size);
  if (!error)
    error = copy_and_check(neighbour, (uint64_t)status.st_size);
  if (!error && strcmp(neighbour->header.name, name))
    error = bus_error_set(BUS_ERROR_CORRUPT, "%s: its header names member '%s'", path,
                          neighbour->header.name);
  if (!error && !allow_dead && !is_locked(neighbour->fd))
    error = bus_error_set(BUS_ERROR_DEAD_OWNER,
                          "%s: its process %u (epoch %llu) is gone; restart the member", path,
                          neighbour->header.pid, (unsigned long long)neighbour->header.epoch);
  return error;
}

int bus_neighbour_attach(const char *directory, const char *name, bool allow_dead,
                         struct bus_neighbour **result)
{
  *result = NULL;
  if (!directory)
    directory = bus_directory_default();
  if (!bus_layout_name_is_valid(name) || strlen(directory) + BUS_NAME_BYTES + 2 > PATH_BYTES)
    return bus_error_set(BUS_ERROR_INVALID, "'%s' is no member name", name ? name : "");
  struct bus_neighbour *neighbour = calloc(1, sizeof *neighbour);
  if (!neighbour)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  snprintf(neighbour->path, sizeof neighbour->path, "%s/%s", directory, name);
  int error = open_neighbour(neighbour, directory, name, allow_dead);
  if (error) {
    bus_neighbour_detach(neighbour);
    return error;
  }
  *result = neighbour;
  return BUS_OK;
}

void bus_neighbour_detach(struct bus_neighbour *neighbour)
{
  if (!neighbour)
    return;
  bus_mapping_close(&neighbour->mapping);
  if (neighbour->fd >= 0)
    close(neighbour->fd);
  free(neighbour->entries);
  free(neighbour);
}

enum bus_neighbour_status bus_neighbour_status(const struct bus_neighbour *neighbour,
                                               uint64_t stall_ns)
{
  const struct bus_member_header *shared =
      (const struct bus_member_header *)neighbour->mapping.base;
  struct stat status;
  if (BUS_LOAD_ACQUIRE(&shared->magic) != BUS_MAGIC ||
      BUS_LOAD_ACQUIRE(&neighbour->mapping.truncated) || fstat(neighbour->fd, &status) != 0 ||
      status.st_nlink == 0 || (uint64_t)status.st_size < neighbour->header.file_size)
    return BUS_NEIGHBOUR_GONE;
  if (!is_locked(neighbour->fd))
    return BUS_NEIGHBOUR_DEAD;
  uint64_t beat_ns = BUS_LOAD_ACQUIRE(&shared->heartbeat_ns);
  uint64_t now_ns = bus_clock_monotonic_ns();
  return now_ns > beat_ns && now_ns - beat_ns > stall_ns ? BUS_NEIGHBOUR_STALLED
                                                         : BUS_NEIGHBOUR_ALIVE;
}

const char *bus_neighbour_status_name(enum bus_neighbour_status status)
{
  static const char *const names[] = {"?", "alive", "stalled", "dead", "gone"};
  return (unsigned)status < BUS_COUNT_OF(names) ? names[status] : "?";
}

const struct bus_member_header *bus_neighbour_header(const struct bus_neighbour *neighbour)
{
  return &neighbour->header;
}

void bus_neighbour_live(const struct bus_neighbour *neighbour, struct bus_member_header *now)
{
  copy_words(now, neighbour->mapping.base, sizeof *now);
}

const struct bus_entry *bus_neighbour_entry(const struct bus_neighbour *neighbour, uint32_t index)
{
  return index < neighbour->header.entry_count ? &neighbour->entries[index] : NULL;
}

const struct bus_entry *bus_neighbour_find(const struct bus_neighbour *neighbour, uint32_t type,
                                           const char *name)
{
  for (uint32_t i = 0; i < neighbour->header.entry_count; i++)
    if (neighbour->entries[i].type == type && (!name || !strcmp(neighbour->entries[i].name, name)))
      return &neighbour->entries[i];
  return NULL;
}

const void *bus_neighbour_object(const struct bus_neighbour *neighbour,
                                 const struct bus_entry *entry)
{
  return neighbour->mapping.base + entry->offset;
}

static int is_candidate(const struct dirent *entry)
{
  return bus_layout_name_is_valid(entry->d_name);
}

int bus_directory_visit(const char *directory, int (*visit)(const char *name, void *context),
                        void *context)
{
  struct dirent **entries;
  if (!directory)
    directory = bus_directory_default();
  int count = scandir(directory, &entries, is_candidate, alphasort);
  if (count < 0 && errno == ENOENT)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "%s: no bus there; create it with: signal-busctl create --bus %s",
                         directory, directory);
  if (count < 0)
    return bus_error_set_errno("%s: reading the bus directory", directory);
  int result = BUS_OK;
  for (int i = 0; i < count; i++) {
    if (result == BUS_OK)
      result = visit(entries[i]->d_name, context);
    free(entries[i]);
  }
  free(entries);
  return result;
}
