/* cold.c: create, takeover, delete and attach, killed at every instruction.
 *
 * These run mostly inside libc and the kernel. Snapshot: every single instruction is stepped
 * through, libc's too, and whenever one of the bus files is not what it was an instruction before,
 * the state is put into a directory of its own, where neighbours attach and members restart.
 * Kill: a real SIGKILL at every entry and return of a system call, and at the first, second and
 * last execution of every instruction of the library itself. */
#include "experiments.h"
#include "rig.h"
#include "trace.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORDS      11u /* written before the kill: more than a lap */
#define STALE_PLACE  3u  /* a position in an older file, plausible in this one */
#define SITES_MAX    32768u
#define LAST_HIT_MAX 48u

enum scene { CREATE, TAKEOVER, DELETE, ATTACH_FIRST, ATTACH_AGAIN, ATTACH_STALE, BACKLINK };
static enum scene scene;
static char real_directory[LAB_PATH_BYTES];

/* ---- the scene and its operation ---- */

static void write_records(struct rig_producer *p, uint64_t until)
{
  while (p->producer.next < until)
    LAB_CHECK(op_publish(&p->producer, 1), "cannot write record %llu",
              (unsigned long long)p->producer.next);
}

/* Two members that were killed: RECORDS written, all but two of them read. */
static void leave_dead_pair(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  rig_pair_open(&p, &c);
  while (p.producer.next < RECORDS) {
    write_records(&p, p.producer.next + 1);
    if (p.producer.next <= RECORDS - 3)
      rig_consume(&c.subscription.consumer, rig_spec.record_size);
  }
  bus_consumer_publish(&c.subscription.consumer);
  rig_producer_abandon(&p);
  rig_consumer_abandon(&c);
}

/* The producer's file holds six unread records; the consumer has a place in another file. */
static void leave_unread(uint64_t ring_instance, uint64_t place)
{
  struct rig_producer p;
  struct bus_member *c;
  rig_producer_open(&p);
  write_records(&p, 6);
  LAB_CHECK(rig_consumer_new(&c) == BUS_OK, "%s", bus_error_message());
  struct bus_position *position = bus_member_position(c, "p", "r");
  position->position = place;
  position->ring_instance = ring_instance;
  rig_producer_abandon(&p);
  bus_member_leave(c, BUS_STATE_RUN);
}

static void set_scene(enum scene wanted)
{
  scene = wanted;
  lab_clean();
  memset(lab_control, 0, sizeof *lab_control);
  if (scene == TAKEOVER || scene == DELETE || scene == ATTACH_AGAIN || scene == BACKLINK)
    leave_dead_pair();
  else if (scene == ATTACH_FIRST)
    leave_unread(0, 0);
  else if (scene == ATTACH_STALE)
    leave_unread(4711, STALE_PLACE);
}

static void operate_member(void)
{
  struct bus_member *member;
  trace_ready();
  lab_control->inside = 1;
  int error = scene == DELETE ? bus_member_delete(lab_directory, "p") : rig_producer_new(&member);
  lab_control->inside = 0;
  LAB_CHECK(error == BUS_OK, "%s", bus_error_message());
  trace_ready();
}

static void operate_attach(void)
{
  struct bus_member *member;
  struct bus_subscription subscription;
  LAB_CHECK(rig_consumer_new(&member) == BUS_OK, "%s", bus_error_message());
  bus_subscription_init(&subscription, lab_directory, "p", "r", BUS_RECORD_RAW,
                        rig_spec.record_size, member);
  trace_ready();
  lab_control->inside = 1;
  int status = bus_subscription_maintain(&subscription, 0);
  lab_control->inside = 0;
  LAB_CHECK(status == 1, "%s", bus_error_message());
  trace_ready();
}

static void operate_backlink(void)
{
  struct rig_producer p;
  rig_producer_open(&p);
  bus_backlink_close(&p.backlink);
  trace_ready();
  lab_control->inside = 1;
  int status = bus_backlink_maintain(&p.backlink);
  lab_control->inside = 0;
  LAB_CHECK(status == 1, "%s", bus_error_message());
  trace_ready();
}

static void (*operation(void))(void)
{
  if (scene == BACKLINK)
    return operate_backlink;
  return scene <= DELETE ? operate_member : operate_attach;
}

/* ---- what must hold wherever it died ---- */

static uint64_t records_before(void)
{
  return scene == CREATE ? 0 : scene == ATTACH_FIRST || scene == ATTACH_STALE ? 6 : RECORDS;
}

/* A neighbour sees the whole file or none; returns true when it could attach. */
static bool check_neighbour(uint64_t *epoch)
{
  struct bus_neighbour *p;
  int error = bus_neighbour_attach(lab_directory, "p", true, &p);
  if (error) {
    LAB_CHECK(scene == CREATE || scene == DELETE, "p was there and cannot be attached: %s",
              bus_error_message());
    LAB_CHECK(error == BUS_ERROR_ABSENT || error == BUS_ERROR_NOT_READY,
              "neither absent nor not ready: %s", bus_error_message());
    LAB_CHECK(strstr(bus_error_message(), lab_path("p")), "no path in: %s", bus_error_message());
    return false;
  }
  const struct bus_entry *entry = bus_neighbour_find(p, BUS_OBJECT_RING, "r");
  LAB_CHECK(entry, "attached to a file without its ring");
  LAB_CHECK(bus_ring_head(bus_neighbour_object(p, entry), entry) == records_before(),
            "%llu records instead of %llu",
            (unsigned long long)bus_ring_head(bus_neighbour_object(p, entry), entry),
            (unsigned long long)records_before());
  LAB_CHECK(bus_neighbour_status(p, UINT64_MAX) != BUS_NEIGHBOUR_GONE, "a whole file is gone");
  *epoch = bus_neighbour_header(p)->epoch;
  bus_neighbour_detach(p);
  return true;
}

static void check_left_behind(void)
{
  uint64_t epoch = 0;
  bool attached = check_neighbour(&epoch);
  struct bus_member *member;
  LAB_CHECK(rig_producer_new(&member) == BUS_OK, "cannot restart: %s", bus_error_message());
  LAB_CHECK(bus_member_header(member)->epoch > epoch, "the epoch did not grow");
  LAB_CHECK(bus_member_is_successor(member) == attached,
            attached ? "a whole file was made anew" : "an unfinished file was taken over");
  bus_member_leave(member, BUS_STATE_RUN);
  struct rig_truth truth = {.begun = attached ? records_before() : 0};
  truth.committed = truth.begun;
  truth.read = !attached || scene == ATTACH_FIRST || scene == ATTACH_STALE ? 0
               : scene == CREATE                                           ? 0
                                                                           : RECORDS - 3;
  rig_check_restart(truth, rig_lag_max(rig_spec.depth));
}

/* ---- snapshots ---- */

struct file_state {
  int64_t size; /* -1: not there */
  ino_t inode;
  mode_t mode;
  unsigned char bytes[RIG_IMAGE_BYTES];
};
struct watched {
  const char *name;
  const unsigned char *map;
  struct file_state state;
};
static struct watched files[] = {{.name = "p"}, {.name = "c"}};

static void watch_end(struct watched *file)
{
  if (file->map)
    munmap((void *)(uintptr_t)file->map, RIG_IMAGE_BYTES);
  file->map = NULL;
  file->state.size = -1;
}

static void watch_begin(struct watched *file, const struct stat *status)
{
  watch_end(file);
  LAB_CHECK(status->st_size <= (off_t)RIG_IMAGE_BYTES, "file too large for the laboratory");
  int fd = open(lab_path(file->name), O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return;
  const void *map = mmap(NULL, RIG_IMAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
  close(fd);
  LAB_CHECK(map != MAP_FAILED, "mmap: %m");
  file->map = map;
  file->state.inode = status->st_ino;
  file->state.size = status->st_size;
  file->state.mode = status->st_mode;
  memcpy(file->state.bytes, map, (size_t)status->st_size);
}

/* True when the file is not as it was. */
static bool watch(struct watched *file)
{
  struct stat status;
  if (stat(lab_path(file->name), &status) != 0) {
    bool was_there = file->state.size >= 0;
    watch_end(file);
    return was_there;
  }
  struct file_state *state = &file->state;
  if (state->size != status.st_size || state->inode != status.st_ino ||
      state->mode != status.st_mode) {
    watch_begin(file, &status);
    return true;
  }
  if (!memcmp(state->bytes, file->map, (size_t)state->size))
    return false;
  memcpy(state->bytes, file->map, (size_t)state->size);
  return true;
}

static void enter(const char *directory)
{
  snprintf(lab_directory, sizeof lab_directory, "%s", directory);
}

static void put_down(const struct watched *file)
{
  if (file->state.size < 0)
    return;
  int fd = open(lab_path(file->name), O_RDWR | O_CREAT | O_TRUNC, 0640);
  LAB_CHECK(fd >= 0, "%s: %m", lab_path(file->name));
  LAB_CHECK(write(fd, file->state.bytes, (size_t)file->state.size) == (ssize_t)file->state.size &&
                fchmod(fd, file->state.mode & 07777u) == 0,
            "%s: %m", lab_path(file->name));
  close(fd);
}

static void check_state(void)
{
  char copy[LAB_PATH_BYTES];
  snprintf(copy, sizeof copy, "%.180s/" LAB_COPY, real_directory);
  enter(copy);
  lab_clean();
  for (size_t i = 0; i < BUS_COUNT_OF(files); i++)
    put_down(&files[i]);
  check_left_behind();
  lab_clean();
  rmdir(copy);
  enter(real_directory);
}

struct site {
  uint64_t address;
  uint64_t hits;
};
static struct site sites[SITES_MAX]; /* hashed by address */
static uint64_t site_count;

static struct site *site_of(uint64_t address)
{
  uint64_t at = address * 0x9e3779b97f4a7c15u >> 49;
  while (sites[at % SITES_MAX].address && sites[at % SITES_MAX].address != address)
    at++;
  struct site *site = &sites[at % SITES_MAX];
  if (!site->address) {
    site->address = address;
    LAB_CHECK(++site_count < SITES_MAX / 2, "more instructions than the laboratory keeps");
  }
  return site;
}

/* Who was attached before the file was deleted must notice. */
static void check_noticed(struct bus_neighbour *attached)
{
  struct bus_member_header now;
  bus_neighbour_live(attached, &now);
  LAB_CHECK(now.magic == 0, "the magic of a deleted file is still there");
  LAB_CHECK(bus_neighbour_status(attached, UINT64_MAX) == BUS_NEIGHBOUR_GONE,
            "a deleted file is not gone for who has it mapped");
  bus_neighbour_detach(attached);
}

static void snapshot_scene(enum scene wanted, uint64_t *points, uint64_t *own, uint64_t *states)
{
  struct bus_neighbour *attached = NULL;
  set_scene(wanted);
  if (scene == DELETE)
    LAB_CHECK(bus_neighbour_attach(lab_directory, "p", true, &attached) == BUS_OK, "%s",
              bus_error_message());
  pid_t pid = trace_fork(operation());
  for (size_t i = 0; i < BUS_COUNT_OF(files); i++) {
    watch_end(&files[i]);
    watch(&files[i]);
  }
  check_state();
  trace_to_operation(pid);
  do {
    ++*points;
    *own += trace_is_own(trace_address(pid));
    bool changed = false;
    for (size_t i = 0; i < BUS_COUNT_OF(files); i++)
      changed |= watch(&files[i]);
    if (changed) {
      ++*states;
      check_state();
    }
    LAB_CHECK(trace_step(pid), "the operation did not end");
  } while (lab_control->inside);
  lab_kill(pid);
  if (attached)
    check_noticed(attached);
  check_left_behind();
}

static void snapshot_scenes(enum scene first, enum scene last)
{
  uint64_t points = 0, own = 0, states = 0;
  lab_pin();
  snprintf(real_directory, sizeof real_directory, "%s", lab_directory);
  for (unsigned i = first; i <= last; i++)
    snapshot_scene((enum scene)i, &points, &own, &states);
  lab_count("%llu instructions (%llu of the library), %llu distinct states",
            (unsigned long long)points, (unsigned long long)own, (unsigned long long)states);
}

void snapshot_create(void)
{
  snapshot_scenes(CREATE, CREATE);
}

void snapshot_takeover(void)
{
  snapshot_scenes(TAKEOVER, TAKEOVER);
}

void snapshot_delete(void)
{
  snapshot_scenes(DELETE, DELETE);
}

void snapshot_attach(void)
{
  snapshot_scenes(ATTACH_FIRST, BACKLINK);
}

/* ---- kills ---- */

static uint64_t kill_at_system_calls(void)
{
  for (uint64_t stop = 1;; stop++) {
    set_scene(scene);
    pid_t pid = trace_fork(operation());
    trace_to_operation(pid);
    bool inside = true;
    for (uint64_t i = 0; i < stop && inside; i++)
      inside = trace_to_system_call(pid) && lab_control->inside;
    lab_kill(pid);
    check_left_behind();
    if (!inside)
      return stop;
  }
}

/* Which instructions of the library the operation executes, and how often: from one trace. */
static void find_sites(void)
{
  memset(sites, 0, sizeof sites);
  site_count = 0;
  set_scene(scene);
  pid_t pid = trace_fork(operation());
  trace_to_operation(pid);
  while (lab_control->inside) {
    uint64_t address = trace_address(pid);
    if (trace_is_own(address))
      site_of(address)->hits++;
    LAB_CHECK(trace_step(pid), "the operation did not end");
  }
  lab_kill(pid);
}

static void kill_at(uint64_t address, uint64_t hit)
{
  set_scene(scene);
  pid_t pid = trace_fork(operation());
  trace_to_operation(pid);
  trace_to_address(pid, address, hit); /* not reached: killed at its end */
  lab_kill(pid);
  check_left_behind();
}

static uint64_t kill_at_sites(void)
{
  uint64_t kills = 0;
  find_sites();
  for (size_t i = 0; i < SITES_MAX; i++) {
    const struct site *site = &sites[i];
    for (uint64_t hit = 1; hit <= 2 && hit <= site->hits; hit++, kills++)
      kill_at(site->address, hit);
    if (site->hits > 2 && site->hits <= LAST_HIT_MAX) {
      kill_at(site->address, site->hits);
      kills++;
    }
  }
  return kills;
}

static void kill_scenes(enum scene first, enum scene last)
{
  uint64_t calls = 0, instructions = 0;
  lab_pin();
  for (unsigned i = first; i <= last; i++) {
    scene = (enum scene)i;
    calls += kill_at_system_calls();
    instructions += kill_at_sites();
  }
  lab_count("%llu kills at system calls, %llu at instructions of the library",
            (unsigned long long)calls, (unsigned long long)instructions);
}

void kill_create(void)
{
  kill_scenes(CREATE, CREATE);
}

void kill_takeover(void)
{
  kill_scenes(TAKEOVER, TAKEOVER);
}

void kill_delete(void)
{
  kill_scenes(DELETE, DELETE);
}

void kill_attach(void)
{
  kill_scenes(ATTACH_FIRST, BACKLINK);
}
