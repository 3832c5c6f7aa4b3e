#include "member.h"

#include "error.h"
#include "mapping.h"
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Objects that the owner writes often start two lines apart; counters share lines with each other.
 */
#define OBJECTS_START 4096u
#define LOCK_ATTEMPTS 20
#define PATH_BYTES    512

struct bus_member {
  struct bus_mapping mapping;
  struct bus_member_header *header; /* shared */
  struct bus_member_header plan;    /* private: what the file must look like */
  struct bus_entry *entries;        /* private */
  bool successor;
  int fd;
  char directory[PATH_BYTES];
  char path[PATH_BYTES];
};

const char *bus_directory_default(void)
{
  const char *directory = getenv("SIGNAL_BUS");
  return directory && *directory ? directory : "/dev/shm/signals";
}

size_t bus_member_align(void)
{
  return BUS_HUGE_PAGE_BYTES;
}

static int plan_entry(const struct bus_object_spec *spec, struct bus_entry *entry)
{
  memset(entry, 0, sizeof *entry);
  if (!bus_layout_name_is_valid(spec->name) ||
      (spec->peer && !bus_layout_name_is_valid(spec->peer)))
    return bus_error_set(BUS_ERROR_INVALID,
                         "object name '%s' or its peer: use 1..31 of A-Za-z0-9._-",
                         spec->name ? spec->name : "");
  if (spec->unit && strlen(spec->unit) >= sizeof entry->unit)
    return bus_error_set(BUS_ERROR_INVALID, "unit of '%s' is longer than 15", spec->name);
  strcpy(entry->name, spec->name);
  strcpy(entry->peer, spec->peer ? spec->peer : "");
  strcpy(entry->unit, spec->unit ? spec->unit : "");
  entry->type = spec->type;
  entry->record_type = spec->record_type;
  entry->record_size = spec->record_size;
  entry->policy = spec->policy;
  entry->depth = spec->depth ? spec->depth : 1;
  entry->size = bus_layout_object_bytes(entry);
  if (entry->size == 0)
    return bus_error_set(
        BUS_ERROR_INVALID, "%s '%s' of depth %" PRIu64 ", record size %u: out of range",
        bus_object_type_name(spec->type), spec->name, spec->depth, spec->record_size);
  return BUS_OK;
}

/* Fills the private header and directory; returns the end of the last object, 0 on error. */
static uint64_t plan_layout(const struct bus_member_config *config,
                            struct bus_member_header *header, struct bus_entry *entries)
{
  memset(header, 0, sizeof *header);
  if (!bus_layout_name_is_valid(config->name) || !config->kind ||
      strlen(config->kind) >= sizeof header->kind || config->object_count > BUS_ENTRIES_MAX) {
    bus_error_set(BUS_ERROR_INVALID,
                  "member '%s': name 1..31 of A-Za-z0-9._-, kind up to 15, objects up to %u",
                  config->name ? config->name : "", BUS_ENTRIES_MAX);
    return 0;
  }
  strcpy(header->name, config->name);
  strcpy(header->kind, config->kind);
  header->abi_version = BUS_ABI_VERSION;
  header->header_size = BUS_HEADER_BYTES;
  header->entry_size = BUS_ENTRY_BYTES;
  header->entry_offset = BUS_HEADER_BYTES;
  header->entry_count = config->object_count;
  header->identity = config->identity;
  uint64_t end = BUS_HEADER_BYTES + (uint64_t)config->object_count * BUS_ENTRY_BYTES;
  end = BUS_ALIGN_UP(end, (uint64_t)OBJECTS_START);
  for (uint32_t i = 0; i < config->object_count; i++) {
    if (plan_entry(&config->objects[i], &entries[i]) != BUS_OK)
      return 0;
    for (uint32_t j = 0; j < i; j++)
      if (entries[j].type == entries[i].type && !strcmp(entries[j].name, entries[i].name) &&
          !strcmp(entries[j].peer, entries[i].peer)) {
        bus_error_set(BUS_ERROR_INVALID, "two objects are called '%s'", entries[i].name);
        return 0;
      }
    uint64_t alignment =
        entries[i].type == BUS_OBJECT_COUNTER && i > 0 && entries[i - 1].type == BUS_OBJECT_COUNTER
            ? sizeof(uint64_t)
        : entries[i].type == BUS_OBJECT_STAGING ? BUS_STAGING_ALIGNMENT
                                                : BUS_FALSE_SHARING_BYTES;
    entries[i].offset = BUS_ALIGN_UP(end, alignment);
    end = entries[i].offset + entries[i].size;
  }
  if (end > BUS_FILE_BYTES_MAX) {
    bus_error_set(BUS_ERROR_INVALID, "member '%s' would take more than 1 TiB", config->name);
    return 0;
  }
  return end;
}

uint64_t bus_member_footprint(const struct bus_member_config *config)
{
  struct bus_member_header header;
  struct bus_entry *entries = calloc(BUS_ENTRIES_MAX, sizeof *entries);
  if (!entries)
    return 0;
  uint64_t bytes = plan_layout(config, &header, entries);
  free(entries);
  return bytes;
}

static int lock_file(int fd, bool *held_by_other)
{
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  *held_by_other = false;
  if (fcntl(fd, F_OFD_SETLK, &lock) == 0)
    return BUS_OK;
  *held_by_other = errno == EAGAIN || errno == EACCES;
  return bus_error_set_errno("locking");
}

static int report_busy(int fd, const char *path)
{
  struct bus_member_header header;
  ssize_t got = pread(fd, &header, sizeof header, 0);
  if (got == (ssize_t)sizeof header && header.magic == BUS_MAGIC)
    return bus_error_set(
        BUS_ERROR_BUSY,
        "%s: owned by running process %u; stop it first, or choose another member name", path,
        header.pid);
  return bus_error_set(BUS_ERROR_BUSY, "%s: owned by another running process", path);
}

static int report_open_error(const char *directory, const char *path)
{
  struct stat status;
  int saved = errno;
  if (saved == ENOENT && stat(directory, &status) != 0)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "%s: no bus there; create it with: signal-busctl create --bus %s",
                         directory, directory);
  if (saved == ENOTDIR)
    return bus_error_set(BUS_ERROR_INVALID, "%s: not a directory; name a directory for the bus",
                         directory);
  if (saved == EACCES && stat(directory, &status) == 0)
    return bus_error_set(BUS_ERROR_DENIED,
                         "%s: permission denied; the bus directory belongs to uid %u, gid %u, mode "
                         "%04o, and this process runs as uid %u",
                         path, status.st_uid, status.st_gid, status.st_mode & 07777u, geteuid());
  errno = saved;
  return bus_error_set_errno("%s: opening", path);
}

/* Opens the member's path and locks it; tries again when the file was unlinked in between. */
static int open_locked(const char *directory, const char *path, int flags, mode_t mode)
{
  for (int attempt = 0; attempt < LOCK_ATTEMPTS; attempt++) {
    int fd = open(path, flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, mode);
    if (fd < 0)
      return report_open_error(directory, path);
    struct stat mine, there;
    int error = BUS_OK;
    bool busy;
    if (fstat(fd, &mine) != 0)
      error = bus_error_set_errno("%s", path);
    else if (!S_ISREG(mine.st_mode))
      error = bus_error_set(BUS_ERROR_CORRUPT, "%s: not a regular file; remove it", path);
    else if (lock_file(fd, &busy) != BUS_OK)
      error = busy ? report_busy(fd, path) : bus_error_context(BUS_ERROR_IO, "%s", path);
    else if (stat(path, &there) == 0 && there.st_ino == mine.st_ino && there.st_dev == mine.st_dev)
      return fd;
    close(fd);
    if (error)
      return error;
  }
  return bus_error_set(BUS_ERROR_IO, "%s: keeps being replaced while it is opened", path);
}

uint64_t bus_process_start_ticks(pid_t pid)
{
  char path[64], text[1024];
  snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
  FILE *file = fopen(path, "re");
  if (!file)
    return 0;
  size_t length = fread(text, 1, sizeof text - 1, file);
  fclose(file);
  text[length] = '\0';
  const char *at = strrchr(text, ')'); /* the command before it may hold spaces */
  for (int field = 2; at && field < 22; field++)
    at = strchr(at + 1, ' ');
  return at ? strtoull(at + 1, NULL, 10) : 0;
}

static void read_boot_id(char *boot_id, size_t size)
{
  FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
  memset(boot_id, 0, size);
  if (!file)
    return;
  if (fgets(boot_id, (int)size, file))
    boot_id[strcspn(boot_id, "\n")] = '\0';
  fclose(file);
}

static uint64_t realtime_ns(void)
{
  return bus_clock_monotonic_ns() + (uint64_t)bus_clock_realtime_offset_ns();
}

static void sign_in(struct bus_member *member, const struct bus_member_config *config)
{
  struct bus_member_header *header = member->header;
  header->pid = (uint32_t)getpid();
  header->process_start_ticks = bus_process_start_ticks(getpid());
  header->core = config->core;
  header->numa_node = config->numa_node;
  header->backing = member->mapping.backing;
  header->huge_bytes = member->mapping.huge_bytes;
  BUS_STORE_RELAXED(&header->state, (uint32_t)BUS_STATE_BOOT);
  bus_member_heartbeat(member, bus_clock_monotonic_ns());
}

static void format_objects(struct bus_member *member, const struct bus_member_config *config)
{
  for (uint32_t i = 0; i < member->plan.entry_count; i++) {
    const struct bus_entry *entry = &member->entries[i];
    if (entry->type == BUS_OBJECT_RING)
      bus_ring_format(member->mapping.base + entry->offset, entry,
                      config->start_position + config->objects[i].start_position);
  }
}

static int create_file(struct bus_member *member, const struct bus_member_config *config,
                       uint64_t epoch)
{
  if (ftruncate(member->fd, 0) != 0)
    return bus_error_set_errno("%s: emptying", member->path);
  int error =
      bus_mapping_open_owner(&member->mapping, member->fd, member->path, member->plan.file_size,
                             true, config->numa_node, !config->small_pages);
  if (error) {
    /* Nothing half-made stays behind to take the space of others. */
    unlink(member->path);
    return error;
  }
  member->header = (struct bus_member_header *)member->mapping.base;
  format_objects(member, config);
  memcpy(member->mapping.base + BUS_HEADER_BYTES, member->entries,
         (size_t)member->plan.entry_count * BUS_ENTRY_BYTES);
  *member->header = member->plan;
  read_boot_id(member->header->boot_id, sizeof member->header->boot_id);
  member->header->created_realtime_ns = realtime_ns();
  uint64_t pid = (uint64_t)getpid();
  member->header->instance =
      bus_layout_hash_bytes(member->header->created_realtime_ns, &pid, sizeof pid) | 1;
  member->header->epoch = epoch + 1;
  sign_in(member, config);
  BUS_STORE_RELEASE(&member->header->magic, BUS_MAGIC);
  return BUS_OK;
}

static int take_over_file(struct bus_member *member, const struct bus_member_config *config)
{
  int error =
      bus_mapping_open_owner(&member->mapping, member->fd, member->path, member->plan.file_size,
                             false, config->numa_node, !config->small_pages);
  if (error)
    return error;
  member->header = (struct bus_member_header *)member->mapping.base;
  member->successor = true;
  BUS_STORE_RELAXED(&member->header->epoch, member->header->epoch + 1);
  sign_in(member, config);
  return BUS_OK;
}

/* What an existing file is good for: *reusable when it can be taken over; *epoch is its epoch. */
static int judge_existing(const struct bus_member *member, const struct bus_member_config *config,
                          uint64_t size, bool *reusable, uint64_t *epoch)
{
  struct bus_member_header header;
  *reusable = false;
  *epoch = 0;
  if (size == 0)
    return BUS_OK;
  if (size < sizeof header ||
      pread(member->fd, &header, sizeof header, 0) != (ssize_t)sizeof header)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "%s: %" PRIu64 " bytes, too short for a member file; move it away",
                         member->path, size);
  if (header.magic == 0)
    return BUS_OK; /* its creator died before it was complete: nobody has attached */
  if (header.magic != BUS_MAGIC)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "%s: a foreign file (magic %016" PRIx64 "); move it away", member->path,
                         header.magic);
  *epoch = header.epoch;
  bool left_in_order = header.state == BUS_STATE_HALT || header.state == BUS_STATE_FAIL;
  char boot_id[sizeof header.boot_id];
  read_boot_id(boot_id, sizeof boot_id);
  *reusable = bus_layout_check(&header, NULL, size) == BUS_OK &&
              header.layout_hash == member->plan.layout_hash &&
              !memcmp(boot_id, header.boot_id, sizeof boot_id) &&
              config->takeover != BUS_TAKEOVER_NEVER &&
              !(config->takeover == BUS_TAKEOVER_AFTER_CRASH && left_in_order);
  if (*reusable) {
    size_t bytes = (size_t)header.entry_count * BUS_ENTRY_BYTES;
    struct bus_entry *entries = malloc(bytes + 1);
    *reusable = entries && pread(member->fd, entries, bytes, BUS_HEADER_BYTES) == (ssize_t)bytes &&
                bus_layout_check(&header, entries, size) == BUS_OK;
    free(entries);
  }
  bus_error_clear();
  return BUS_OK;
}

static int replace_file(struct bus_member *member, mode_t mode)
{
  close(member->fd);
  member->fd = -1;
  int error = bus_member_delete(member->directory, member->plan.name);
  if (error && error != BUS_ERROR_ABSENT)
    return error;
  member->fd = open_locked(member->directory, member->path, O_CREAT, mode);
  return member->fd < 0 ? member->fd : BUS_OK;
}

static int open_member(struct bus_member *member, const struct bus_member_config *config)
{
  mode_t mode = (config->mode ? config->mode : 0640) & ~(mode_t)022;
  member->fd = open_locked(member->directory, member->path, O_CREAT, mode);
  if (member->fd < 0)
    return member->fd;
  struct stat status;
  if (fchmod(member->fd, mode) != 0 || fstat(member->fd, &status) != 0)
    return bus_error_set_errno("%s: setting mode %04o", member->path, mode);
  member->plan.file_size = bus_mapping_file_bytes(member->fd, member->plan.file_size);
  member->plan.layout_hash = bus_layout_hash(&member->plan, member->entries);
  bool reusable;
  uint64_t epoch;
  int error = judge_existing(member, config, (uint64_t)status.st_size, &reusable, &epoch);
  if (error)
    return error;
  if (reusable)
    return take_over_file(member, config);
  if (status.st_size > 0) {
    error = replace_file(member, mode);
    if (!error && fchmod(member->fd, mode) != 0)
      error = bus_error_set_errno("%s: setting mode %04o", member->path, mode);
  }
  return error ? error : create_file(member, config, epoch);
}

static int check_config(const struct bus_member_config *config)
{
  const char *directory = config->directory ? config->directory : bus_directory_default();
  if (strlen(directory) + BUS_NAME_BYTES + 2 > PATH_BYTES)
    return bus_error_set(BUS_ERROR_INVALID, "bus directory name is too long: %s", directory);
  return BUS_OK;
}

int bus_member_new(const struct bus_member_config *config, struct bus_member **result)
{
  *result = NULL;
  int error = check_config(config);
  struct bus_member *member = error ? NULL : calloc(1, sizeof *member);
  if (error)
    return error;
  if (!member || !(member->entries = calloc(BUS_ENTRIES_MAX, sizeof *member->entries))) {
    free(member);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  member->fd = -1;
  strcpy(member->directory, config->directory ? config->directory : bus_directory_default());
  member->plan.file_size = plan_layout(config, &member->plan, member->entries);
  if (member->plan.file_size == 0) {
    error = BUS_ERROR_INVALID;
  } else {
    snprintf(member->path, sizeof member->path, "%.478s/%s", member->directory, config->name);
    error = open_member(member, config);
  }
  if (error) {
    bus_mapping_close(&member->mapping);
    if (member->fd >= 0)
      close(member->fd);
    free(member->entries);
    free(member);
    return error;
  }
  *result = member;
  return BUS_OK;
}

void bus_member_run(struct bus_member *member)
{
  bus_member_heartbeat(member, bus_clock_monotonic_ns());
  BUS_STORE_RELEASE(&member->header->state, (uint32_t)BUS_STATE_RUN);
}

void bus_member_heartbeat(struct bus_member *member, uint64_t now_ns)
{
  BUS_STORE_RELAXED(&member->header->realtime_offset_ns, bus_clock_realtime_offset_ns());
  BUS_STORE_RELEASE(&member->header->heartbeat_ns, now_ns);
}

void bus_member_leave(struct bus_member *member, uint32_t state)
{
  if (!member)
    return;
  BUS_STORE_RELEASE(&member->header->state, state);
  bus_mapping_close(&member->mapping);
  close(member->fd);
  free(member->entries);
  free(member);
}

int bus_member_delete(const char *directory, const char *name)
{
  char path[PATH_BYTES];
  if (!bus_layout_name_is_valid(name) || strlen(directory) + BUS_NAME_BYTES + 2 > PATH_BYTES)
    return bus_error_set(BUS_ERROR_INVALID, "'%s' is no member name", name ? name : "");
  snprintf(path, sizeof path, "%s/%s", directory, name);
  int fd = open_locked(directory, path, 0, 0);
  if (fd < 0)
    return fd;
  struct stat status;
  struct bus_mapping mapping = {0};
  int error = fstat(fd, &status) == 0 ? BUS_OK : bus_error_set_errno("%s", path);
  if (!error && status.st_size >= (off_t)BUS_HEADER_BYTES) {
    error = bus_mapping_open_owner(&mapping, fd, path, (uint64_t)status.st_size, false, -1, false);
    uint64_t *magic = (uint64_t *)(void *)mapping.base;
    if (!error && *magic != BUS_MAGIC && *magic != 0)
      error = bus_error_set(BUS_ERROR_CORRUPT, "%s: not a member file; remove it by hand", path);
    else if (!error)
      BUS_STORE_RELEASE(magic, (uint64_t)0);
  } else if (!error && status.st_size > 0) {
    error = bus_error_set(BUS_ERROR_CORRUPT, "%s: not a member file; remove it by hand", path);
  }
  if (!error && unlink(path) != 0)
    error = bus_error_set_errno("%s: removing", path);
  bus_mapping_close(&mapping);
  close(fd);
  return error;
}

bool bus_member_is_successor(const struct bus_member *member)
{
  return member->successor;
}

const struct bus_member_header *bus_member_header(const struct bus_member *member)
{
  return member->header;
}

const char *bus_member_path(const struct bus_member *member)
{
  return member->path;
}

const char *bus_member_directory(const struct bus_member *member)
{
  return member->directory;
}

const struct bus_entry *bus_member_entry(const struct bus_member *member, uint32_t type,
                                         const char *name)
{
  for (uint32_t i = 0; i < member->plan.entry_count; i++)
    if (member->entries[i].type == type && !strcmp(member->entries[i].name, name))
      return &member->entries[i];
  return NULL;
}

void *bus_member_object(const struct bus_member *member, uint32_t type, const char *name)
{
  const struct bus_entry *entry = bus_member_entry(member, type, name);
  return entry ? member->mapping.base + entry->offset : NULL;
}

struct bus_position *bus_member_position(const struct bus_member *member, const char *producer,
                                         const char *ring)
{
  for (uint32_t i = 0; i < member->plan.entry_count; i++) {
    const struct bus_entry *entry = &member->entries[i];
    if (entry->type == BUS_OBJECT_POSITION && !strcmp(entry->name, ring) &&
        !strcmp(entry->peer, producer))
      return (struct bus_position *)(void *)(member->mapping.base + entry->offset);
  }
  return NULL;
}

void bus_member_set_text(struct bus_member *member, const char *name, const char *format, ...)
{
  const struct bus_entry *entry = bus_member_entry(member, BUS_OBJECT_TEXT, name);
  if (!entry)
    return;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf((char *)member->mapping.base + entry->offset, (size_t)entry->depth, format, arguments);
  va_end(arguments);
}
