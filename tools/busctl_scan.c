#include "tools/busctl.h"

#include "shm/clock.h"
#include "shm/llm_record.h"
#include "shm/member.h"
#include "shm/ring.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static void terminate_names(struct bus_member_header *header)
{
  header->name[sizeof header->name - 1] = '\0';
  header->kind[sizeof header->kind - 1] = '\0';
  header->boot_id[sizeof header->boot_id - 1] = '\0';
}

/* Looks at a file whose name is set; `old` may be attached to it already. */
static void look_at(const char *directory, struct busctl_file *file, struct busctl_file *old)
{
  char path[600];
  struct stat status;
  snprintf(path, sizeof path, "%s/%s", directory, file->name);
  if (lstat(path, &status) == 0)
    file->file_bytes = (uint64_t)status.st_size;
  if (old && old->neighbour &&
      bus_neighbour_status(old->neighbour, BUSCTL_STALL_NS) != BUS_NEIGHBOUR_GONE) {
    file->neighbour = old->neighbour;
    old->neighbour = NULL;
  } else if (!bus_layout_name_is_valid(file->name)) {
    file->error = BUS_ERROR_INVALID;
    strcpy(file->reason, "not a member's name");
    return;
  } else {
    file->error = bus_neighbour_attach(directory, file->name, true, &file->neighbour);
    if (file->error) {
      busctl_sanitise(file->reason, sizeof file->reason, bus_error_message(), 1024);
      return;
    }
  }
  file->status = bus_neighbour_status(file->neighbour, BUSCTL_STALL_NS);
  bus_neighbour_live(file->neighbour, &file->live);
  terminate_names(&file->live);
}

static struct busctl_file *find_file(struct busctl_file *files, size_t count, const char *name)
{
  for (size_t i = 0; i < count; i++)
    if (!strcmp(files[i].name, name))
      return &files[i];
  return NULL;
}

static int is_not_dots(const struct dirent *entry)
{
  return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static int list_directory(const char *directory, struct dirent ***names)
{
  int count = scandir(directory, names, is_not_dots, alphasort);
  if (count >= 0)
    return count;
  if (errno == ENOENT)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "%s: no bus there; create it with: signal-busctl create --bus %s",
                         directory, directory);
  if (errno == ENOTDIR)
    return bus_error_set(BUS_ERROR_INVALID,
                         "%s: not a directory; name the bus directory with --bus", directory);
  struct stat status;
  int saved = errno;
  if (saved == EACCES && stat(directory, &status) == 0)
    return bus_error_set(
        BUS_ERROR_DENIED,
        "%s: permission denied; it belongs to uid %u, gid %u, mode %04o: join that "
        "group, or run as that user",
        directory, status.st_uid, status.st_gid, status.st_mode & 07777u);
  errno = saved;
  return bus_error_set_errno("%s: reading the bus directory", directory);
}

static void close_files(struct busctl_file *files, size_t count)
{
  for (size_t i = 0; i < count; i++)
    bus_neighbour_detach(files[i].neighbour);
  free(files);
}

int busctl_scan_refresh(struct busctl_scan *scan)
{
  struct dirent **names = NULL;
  struct busctl_file *files = NULL;
  int count = list_directory(scan->directory, &names);
  int error = count < 0 ? count : BUS_OK;
  if (count > (int)BUSCTL_FILES_MAX)
    error = bus_error_set(BUS_ERROR_NO_SPACE, "%s: %d files, which is no bus (limit %u)",
                          scan->directory, count, BUSCTL_FILES_MAX);
  else if (!error && !(files = calloc((size_t)count + 1, sizeof *files)))
    error = bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  for (int i = 0; i < count; i++) {
    if (files) {
      snprintf(files[i].name, sizeof files[i].name, "%s", names[i]->d_name);
      look_at(scan->directory, &files[i], find_file(scan->files, scan->count, files[i].name));
    }
    free(names[i]);
  }
  free(names);
  close_files(scan->files, scan->count);
  scan->files = error ? NULL : files;
  scan->count = error ? 0 : (size_t)count;
  return error;
}

int busctl_scan_open(struct busctl_scan *scan, const char *directory)
{
  memset(scan, 0, sizeof *scan);
  if (!directory)
    directory = bus_directory_default();
  if (strlen(directory) >= sizeof scan->directory)
    return bus_error_set(BUS_ERROR_INVALID, "the bus directory's name is longer than %zu bytes",
                         sizeof scan->directory - 1);
  strcpy(scan->directory, directory);
  return busctl_scan_refresh(scan);
}

void busctl_scan_close(struct busctl_scan *scan)
{
  close_files(scan->files, scan->count);
  scan->files = NULL;
  scan->count = 0;
}

const struct busctl_file *busctl_scan_member(const struct busctl_scan *scan, const char *name)
{
  const struct busctl_file *file = find_file(scan->files, scan->count, name);
  return file && file->neighbour ? file : NULL;
}

bool busctl_file_lives(const struct busctl_file *file)
{
  return file->neighbour &&
         (file->status == BUS_NEIGHBOUR_ALIVE || file->status == BUS_NEIGHBOUR_STALLED);
}

size_t busctl_print_living(const struct busctl_scan *scan, FILE *out)
{
  size_t living = 0;
  for (size_t i = 0; i < scan->count; i++) {
    const struct busctl_file *file = &scan->files[i];
    if (!busctl_file_lives(file))
      continue;
    living++;
    fprintf(out, "  %s: %s, pid %u\n", file->name, bus_neighbour_status_name(file->status),
            file->live.pid);
  }
  return living;
}

/* The position of the ring's reliable consumer, from the consumer's file, when it counts in this
 * ring. */
static bool find_position(const struct busctl_scan *scan, const struct busctl_file *producer,
                          const struct bus_entry *ring, uint64_t *position)
{
  const struct busctl_file *consumer = busctl_scan_member(scan, ring->peer);
  const struct bus_entry *entry;
  for (uint32_t i = 0; consumer && (entry = bus_neighbour_entry(consumer->neighbour, i)); i++) {
    if (entry->type != BUS_OBJECT_POSITION || strcmp(entry->name, ring->name) ||
        strcmp(entry->peer, producer->name))
      continue;
    const struct bus_position *shared = bus_neighbour_object(consumer->neighbour, entry);
    *position = BUS_LOAD_ACQUIRE(&shared->position);
    return BUS_LOAD_RELAXED(&shared->ring_instance) ==
           bus_neighbour_header(producer->neighbour)->instance;
  }
  return false;
}

/* Where the records of a type say when they were made: a byte offset, -1 for those that do not. */
static int time_offset(uint32_t record_type)
{
  switch (record_type) {
  case BUS_RECORD_FEATURE:
    return offsetof(struct bus_feature, timestamp_ns);
  case BUS_RECORD_SIGNAL:
    return offsetof(struct bus_signal, timestamp_ns);
  case BUS_RECORD_LLM_REQUEST:
    return offsetof(struct bus_llm_request, submitted_ns);
  case BUS_RECORD_LLM_REPLY:
    return offsetof(struct bus_llm_reply, done_ns);
  default:
    return -1;
  }
}

/* The age of the newest record that the producer has reported. Not known when it is overwritten
 * already, or when the time is none of this clock. */
static void read_age(const struct bus_ring_header *header, const struct bus_entry *entry,
                     struct busctl_ring *ring)
{
  const unsigned char *slots = (const unsigned char *)(header + 1);
  const int offset = time_offset(entry->record_type);
  if (offset < 0 || (uint32_t)offset + 2 * sizeof(uint64_t) > entry->record_size ||
      ring->committed == 0)
    return;
  uint64_t position = ring->head - 1;
  const unsigned char *slot = slots + (position & (entry->depth - 1)) * entry->record_size;
  const unsigned char *last = slots + ((position - 1) & (entry->depth - 1)) * entry->record_size;
  uint64_t stamp = BUS_LOAD_ACQUIRE(bus_slot_stamp(slot, entry->record_size)); /* O1 */
  uint64_t time_ns = BUS_LOAD_RELAXED((const bus_word *)(const void *)(slot + offset));
  BUS_FENCE_ACQUIRE(); /* O2 */
  bool whole = stamp == position + 1 &&
               BUS_LOAD_RELAXED(bus_slot_stamp(last, entry->record_size)) == position;
  uint64_t now_ns = bus_clock_monotonic_ns();
  ring->age_known = whole && time_ns && time_ns <= now_ns;
  ring->newest_age_ns = ring->age_known ? now_ns - time_ns : 0;
}

void busctl_read_ring(const struct busctl_scan *scan, const struct busctl_file *file,
                      const struct bus_entry *entry, bool exact, struct busctl_ring *ring)
{
  const struct bus_ring_header *header = bus_neighbour_object(file->neighbour, entry);
  uint64_t position = 0;
  memset(ring, 0, sizeof *ring);
  /* The position before the head: a lag can then not come out negative. */
  bool known = find_position(scan, file, entry, &position);
  ring->head = exact ? bus_ring_head(header, entry) : BUS_LOAD_RELAXED(&header->sequence);
  ring->committed = ring->head - BUS_LOAD_RELAXED(&header->first);
  ring->dropped = BUS_LOAD_RELAXED(&header->dropped);
  ring->waits = BUS_LOAD_RELAXED(&header->waits);
  ring->positions_rejected = BUS_LOAD_RELAXED(&header->positions_rejected);
  ring->lag = ring->head - position;
  /* The reported head may be older than the position: the consumer is then caught up with it. */
  if (known && !exact && (int64_t)ring->lag < 0)
    ring->lag = 0;
  /* Further ahead or behind than the ring is long: somebody writes nonsense. */
  ring->lag_known = known && ring->lag <= entry->depth;
  ring->depth = entry->depth;
  read_age(header, entry, ring);
}
