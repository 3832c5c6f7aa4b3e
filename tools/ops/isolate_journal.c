#include "tools/ops/isolate_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FORMAT_NAME    "signal-bus isolation"
#define FORMAT_VERSION 1
#define JOURNAL_BYTES  (64 << 20)

bool ops_isolation_name_valid(const char *name)
{
  static const char allowed[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
  size_t length = strlen(name);
  return length >= 1 && length < OPS_ISOLATION_NAME_BYTES && name[0] != '.' &&
         strspn(name, allowed) == length && strcmp(name, "house") != 0;
}

int ops_boot_id_read(const struct ops_system *system, char *boot_id)
{
  char path[OPS_PATH_BYTES];
  int error = ops_path_join(path, system->proc_root, "sys/kernel/random/boot_id");
  if (error != BUS_OK)
    return error;
  int length = ops_file_read(path, boot_id, OPS_BOOT_ID_BYTES);
  return length < 0 ? length : BUS_OK;
}

static int make_directory(const char *path)
{
  char parent[OPS_PATH_BYTES];
  snprintf(parent, sizeof parent, "%s", path);
  *strrchr(parent, '/') = '\0';
  if (mkdir(path, 0755) == 0 || errno == EEXIST)
    return BUS_OK;
  if (errno != ENOENT || (mkdir(parent, 0755) != 0 && errno != EEXIST) ||
      (mkdir(path, 0755) != 0 && errno != EEXIST))
    return bus_error_set_errno("%s: cannot be made", path);
  return BUS_OK;
}

/* Who can write there can take a journal away, or hold the lock for ever. */
static int check_directory(const char *path)
{
  struct stat status;
  if (lstat(path, &status) != 0)
    return bus_error_set_errno("%s: cannot be looked at", path);
  if (S_ISDIR(status.st_mode) && status.st_uid == geteuid() && (status.st_mode & 022) == 0)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_DENIED,
                       "%s: belongs to uid %u with mode %04o; it must be a directory that uid %u "
                       "alone may write: chown %u %s && chmod 755 %s",
                       path, status.st_uid, status.st_mode & 07777u, geteuid(), geteuid(), path,
                       path);
}

int ops_journal_lock(const struct ops_system *system)
{
  char path[OPS_PATH_BYTES];
  int error = ops_path_join(path, system->run_root, "isolate.lock");
  if (error != BUS_OK || (error = make_directory(system->run_root)) != BUS_OK ||
      (error = check_directory(system->run_root)) != BUS_OK)
    return error;
  int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return bus_error_set_errno("%s: cannot be opened", path);
  if (flock(fd, LOCK_EX | LOCK_NB) == 0)
    return fd;
  error = errno == EWOULDBLOCK
              ? bus_error_set(BUS_ERROR_BUSY,
                              "%s: another isolate or release works right now; wait for it", path)
              : bus_error_set_errno("%s: cannot be locked", path);
  close(fd);
  return error;
}

static const char *get_string(const json_t *object, const char *key)
{
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

/* Copies a value; false when it is not there or does not fit. */
static bool copy_string(char *to, size_t size, const json_t *object, const char *key)
{
  const json_t *value = json_object_get(object, key);
  return json_is_string(value) && (size_t)snprintf(to, size, "%s", json_string_value(value)) < size;
}

static bool parse_header(const json_t *line, struct ops_journal *journal)
{
  char cpus[OPS_CPU_LIST_BYTES], name[OPS_ISOLATION_NAME_BYTES];
  if (strcmp(get_string(line, "format"), FORMAT_NAME) != 0 ||
      json_integer_value(json_object_get(line, "version")) != FORMAT_VERSION)
    return false;
  journal->made_ns = json_integer_value(json_object_get(line, "made_ns"));
  return copy_string(name, sizeof name, line, "name") && !strcmp(name, journal->name) &&
         copy_string(journal->boot_id, sizeof journal->boot_id, line, "boot_id") &&
         copy_string(journal->cgroup, sizeof journal->cgroup, line, "cgroup") &&
         copy_string(cpus, sizeof cpus, line, "cpus") &&
         ops_cpu_list_parse(&journal->cpus, cpus, "cpus") == BUS_OK;
}

static bool parse_change(const json_t *line, struct ops_change *change)
{
  int kind = ops_change_kind_parse(get_string(line, "kind"));
  int format = ops_value_format_parse(get_string(line, "format"));
  if (kind < 0 || format < 0)
    return false;
  *change = (struct ops_change){.kind = (enum ops_change_kind)kind,
                                .format = (enum ops_value_format)format};
  change->pid = (pid_t)json_integer_value(json_object_get(line, "pid"));
  change->tid = (pid_t)json_integer_value(json_object_get(line, "tid"));
  change->start_ticks = (uint64_t)json_integer_value(json_object_get(line, "start_ticks"));
  return (kind != OPS_CHANGE_AFFINITY || (change->pid > 0 && change->tid > 0)) &&
         copy_string(change->stage, sizeof change->stage, line, "stage") &&
         copy_string(change->path, sizeof change->path, line, "path") &&
         copy_string(change->label, sizeof change->label, line, "label") &&
         copy_string(change->found, sizeof change->found, line, "found") &&
         copy_string(change->wanted, sizeof change->wanted, line, "wanted");
}

static int add_change(struct ops_journal *journal, const struct ops_change *change)
{
  if ((journal->count & (journal->count + 1)) == 0) { /* full: 0, 1, 3, 7, .. */
    void *more = realloc(journal->changes, (journal->count * 2 + 1) * sizeof *journal->changes);
    if (!more)
      return bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", journal->path);
    journal->changes = more;
  }
  journal->changes[journal->count++] = *change;
  return BUS_OK;
}

static int parse_line(struct ops_journal *journal, const char *text, size_t size, int number)
{
  json_error_t reason;
  struct ops_change change;
  json_t *line = json_loadb(text, size, JSON_REJECT_DUPLICATES, &reason);
  bool complete = number > 1 && json_is_true(json_object_get(line, "complete"));
  bool fine = complete || (json_is_object(line) && (number == 1 ? parse_header(line, journal)
                                                                : parse_change(line, &change)));
  json_decref(line);
  journal->complete |= complete;
  if (fine)
    return number == 1 || complete ? BUS_OK : add_change(journal, &change);
  return bus_error_set(BUS_ERROR_FORMAT,
                       "%s:%d: not a line of this program's; what it says cannot be restored. Look "
                       "at it, restore by hand, then delete it",
                       journal->path, number);
}

static int parse_text(struct ops_journal *journal, const char *text)
{
  int number = 1;
  const char *at = text;
  for (const char *end; (end = strchr(at, '\n')) != NULL; at = end + 1, number++) {
    int error = parse_line(journal, at, (size_t)(end - at), number);
    if (error != BUS_OK)
      return error;
  }
  journal->size = at - text;
  return number > 1 ? BUS_OK
                    : bus_error_set(BUS_ERROR_ABSENT, "%s: nothing was changed", journal->path);
}

static int read_file(int fd, struct ops_journal *journal, char **text)
{
  struct stat status;
  if (fstat(fd, &status) != 0)
    return bus_error_set_errno("%s: cannot be looked at", journal->path);
  if (!S_ISREG(status.st_mode) || status.st_uid != geteuid() || (status.st_mode & 022) != 0)
    return bus_error_set(BUS_ERROR_DENIED,
                         "%s: belongs to uid %u with mode %04o; only a regular file that uid %u "
                         "alone may write is trusted",
                         journal->path, status.st_uid, status.st_mode & 07777u, geteuid());
  if (status.st_size > JOURNAL_BYTES)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: larger than any journal", journal->path);
  *text = calloc(1, (size_t)status.st_size + 1);
  if (!*text)
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", journal->path);
  if (pread(fd, *text, (size_t)status.st_size, 0) != status.st_size)
    return bus_error_set(BUS_ERROR_IO, "%s: cannot be read", journal->path);
  return BUS_OK;
}

static int make_path(const struct ops_system *system, struct ops_journal *journal)
{
  return ops_path_join(journal->path, system->run_root, "isolate-%s.journal", journal->name);
}

int ops_journal_read(const struct ops_system *system, const char *name, struct ops_journal *journal)
{
  char *text = NULL;
  *journal = (struct ops_journal){.fd = -1};
  snprintf(journal->name, sizeof journal->name, "%s", name);
  int error = make_path(system, journal);
  if (error != BUS_OK)
    return error;
  int fd = open(journal->path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0)
    return bus_error_set_errno("%s: cannot be opened", journal->path);
  error = read_file(fd, journal, &text);
  close(fd);
  if (error == BUS_OK && text)
    error = parse_text(journal, text);
  free(text);
  if (error != BUS_OK)
    ops_journal_close(journal);
  return error;
}

/* One synced line. */
static int append_line(struct ops_journal *journal, json_t *line)
{
  char *text = line ? json_dumps(line, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
  json_decref(line);
  if (!text)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: a value cannot be written down", journal->path);
  size_t length = strlen(text);
  text[length++] = '\n'; /* in the NUL's place */
  ssize_t written = pwrite(journal->fd, text, length, journal->size);
  free(text);
  if (written != (ssize_t)length || fdatasync(journal->fd) != 0)
    return bus_error_set_errno("%s: cannot be written", journal->path);
  journal->size += written;
  return BUS_OK;
}

static int sync_directory(const struct ops_system *system)
{
  int fd = open(system->run_root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0 || fsync(fd) != 0) {
    if (fd >= 0)
      close(fd);
    return bus_error_set_errno("%s: cannot be synced", system->run_root);
  }
  close(fd);
  return BUS_OK;
}

int ops_journal_create(const struct ops_system *system, struct ops_journal *journal)
{
  char cpus[OPS_CPU_LIST_BYTES];
  int error = make_path(system, journal);
  if (error != BUS_OK)
    return error;
  /* One that is there says that nothing was changed, or ops_journal_read would have had it. */
  if (unlink(journal->path) != 0 && errno != ENOENT)
    return bus_error_set_errno("%s: cannot be replaced", journal->path);
  journal->fd = open(journal->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (journal->fd < 0)
    return bus_error_set_errno("%s: cannot be made", journal->path);
  journal->size = 0;
  json_t *line =
      json_pack("{ss,si,ss,ss,ss,ss,sI}", "format", FORMAT_NAME, "version", FORMAT_VERSION, "name",
                journal->name, "boot_id", journal->boot_id, "cgroup", journal->cgroup, "cpus",
                ops_cpu_list_format(&journal->cpus, cpus, sizeof cpus), "made_ns",
                (json_int_t)journal->made_ns);
  error = append_line(journal, line);
  return error != BUS_OK ? error : sync_directory(system);
}

int ops_journal_open(struct ops_journal *journal)
{
  journal->fd = open(journal->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
  if (journal->fd < 0)
    return bus_error_set_errno("%s: cannot be opened", journal->path);
  return ops_journal_truncate(journal, journal->count, journal->size);
}

int ops_journal_append(struct ops_journal *journal, const struct ops_change *change)
{
  json_t *line = json_pack(
      "{ss,ss,ss,ss,ss,ss,ss,si,si,sI}", "stage", change->stage, "kind",
      ops_change_kind_name(change->kind), "format", ops_value_format_name(change->format), "path",
      change->path, "label", change->label, "found", change->found, "wanted", change->wanted, "pid",
      change->pid, "tid", change->tid, "start_ticks", (json_int_t)change->start_ticks);
  int error = append_line(journal, line);
  return error != BUS_OK ? error : add_change(journal, change);
}

int ops_journal_complete(struct ops_journal *journal)
{
  if (journal->complete)
    return BUS_OK;
  int error = append_line(journal, json_pack("{sb}", "complete", 1));
  journal->complete = error == BUS_OK;
  return error;
}

int ops_journal_truncate(struct ops_journal *journal, size_t count, int64_t size)
{
  if (ftruncate(journal->fd, size) != 0 || fdatasync(journal->fd) != 0)
    return bus_error_set_errno("%s: cannot be cut", journal->path);
  journal->count = count;
  journal->size = size;
  return BUS_OK;
}

int ops_journal_remove(struct ops_journal *journal)
{
  if (unlink(journal->path) != 0 && errno != ENOENT)
    return bus_error_set_errno("%s: cannot be deleted", journal->path);
  return BUS_OK;
}

void ops_journal_close(struct ops_journal *journal)
{
  if (journal->fd >= 0)
    close(journal->fd);
  free(journal->changes);
  journal->changes = NULL;
  journal->count = 0;
  journal->fd = -1;
}
