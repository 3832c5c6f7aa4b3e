#include "tools/bench/ring_trial.h"

#include "shm/loop.h"
#include "tools/bench/bench_process.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

uint32_t ring_size_bytes(enum ring_size size)
{
  static const uint32_t bytes[RING_SIZES] = {8, 64, 128, 16384};
  return bytes[size];
}

bool ring_has_to_stop(struct ring_side *side)
{
  if (bench_stop_error() != BUS_OK)
    return true;
  if (BUS_LOAD_ACQUIRE(&side->trial->failed)) {
    bus_error_set(BUS_ERROR_IO, "the other side has failed");
    return true;
  }
  if (side->child && !bench_child_is_running(side->child) &&
      !BUS_LOAD_ACQUIRE(&side->trial->finished)) {
    bus_error_set(BUS_ERROR_IO, "the other process has ended too early");
    return true;
  }
  return false;
}

int ring_check_total(const struct ring_side *side, uint64_t messages, uint64_t words, uint64_t sum,
                     uint64_t bad)
{
  const struct ring_source *source = &side->trial->source;
  uint64_t expected = 0;
  for (uint64_t i = 0; i <= source->mask; i++) {
    /* How often message i of the table was sent. */
    uint64_t times = messages / (source->mask + 1) + (i < (messages & source->mask));
    for (uint64_t word = 0; word + 1 < words; word++)
      expected += times * source->table[i * words + word];
  }
  if (bad || messages != source->all || sum != expected)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "%s, %u bytes: %llu of %llu messages came, %llu of them out of order, %s",
                         side->trial->contestant->name, ring_size_bytes(side->trial->size),
                         (unsigned long long)messages, (unsigned long long)source->all,
                         (unsigned long long)bad,
                         sum == expected ? "contents right" : "contents not those that were sent");
  return BUS_OK;
}

static int compare_doubles(const void *left, const void *right)
{
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

double ring_median(double *values, uint32_t count)
{
  if (count == 0)
    return 0;
  qsort(values, count, sizeof *values, compare_doubles);
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

struct ring_trial *ring_trial_new(void)
{
  void *memory = mmap(NULL, sizeof(struct ring_trial), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    bus_error_set_errno("memory for a trial");
    return NULL;
  }
  memset(memory, 0, sizeof(struct ring_trial)); /* takes the page faults */
  return memory;
}

/* ---- channels: memory that both sides have at the same address ---- */

static void free_channels(struct ring_trial *trial)
{
  const struct ring_contestant *contestant = trial->contestant;
  for (int i = 0; i < 2; i++) {
    if (!trial->channels[i])
      continue;
    if (contestant->channel_delete)
      contestant->channel_delete(trial->channels[i], trial->size);
    munmap(trial->channels[i], trial->channel_bytes);
    trial->channels[i] = NULL;
  }
}

/* Huge pages where they can be had, as the bus's files get them. */
static void *map_channel(uint64_t bytes)
{
  uint64_t room = bytes + BUS_HUGE_PAGE_BYTES;
  char *memory =
      mmap(NULL, room, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED)
    return NULL;
  char *aligned = (char *)BUS_ALIGN_UP((uintptr_t)memory, BUS_HUGE_PAGE_BYTES);
  if (aligned > memory)
    munmap(memory, (size_t)(aligned - memory));
  if (aligned + bytes < memory + room)
    munmap(aligned + bytes, (size_t)(memory + room - (aligned + bytes)));
  return aligned;
}

static int make_channels(struct ring_trial *trial)
{
  const struct ring_contestant *contestant = trial->contestant;
  if (!contestant->channel_bytes)
    return BUS_OK;
  uint64_t bytes = contestant->channel_bytes(trial->size, trial->depth);
  uint64_t page = bytes >= BUS_HUGE_PAGE_BYTES / 2 ? BUS_HUGE_PAGE_BYTES : 4096;
  trial->channel_bytes = BUS_ALIGN_UP(bytes, page);
  for (int i = 0; i < (trial->workload == RING_ROUND_TRIP ? 2 : 1); i++) {
    void *memory = map_channel(trial->channel_bytes);
    if (!memory)
      return bus_error_set_errno("memory for %s", contestant->name);
    memset(memory, 0, trial->channel_bytes);
    if (!trial->small_pages && page > 4096)
      madvise(memory, trial->channel_bytes, MADV_COLLAPSE);
    int error = contestant->channel_new(memory, trial->size, trial->depth);
    if (error) {
      munmap(memory, trial->channel_bytes);
      return error;
    }
    trial->channels[i] = memory;
  }
  return BUS_OK;
}

static int open_channels(struct ring_side *side)
{
  struct ring_trial *trial = side->trial;
  side->tx = trial->channels[side->role == RING_LEADER ? 0 : 1];
  side->rx = trial->channels[side->role == RING_LEADER ? 1 : 0];
  for (int i = 0; i < 2; i++) /* a forked process has yet to fault the pages in */
    for (uint64_t offset = 0; trial->channels[i] && offset < trial->channel_bytes; offset += 4096)
      (void)*((volatile char *)trial->channels[i] + offset);
  return BUS_OK;
}

/* ---- the two sides ---- */

static bool wait_for(struct ring_side *side, const uint32_t *flag)
{
  while (!BUS_LOAD_ACQUIRE(flag)) {
    if (ring_has_to_stop(side))
      return false;
    struct timespec pause = {0, 20000};
    nanosleep(&pause, NULL);
  }
  return true;
}

static bool spin_for(struct ring_side *side, const uint32_t *flag)
{
  for (uint64_t spins = 1; !BUS_LOAD_ACQUIRE(flag); spins++)
    if ((spins & 0xfffffu) == 0 && ring_has_to_stop(side))
      return false;
  return true;
}

/* The leader, who says when, waits asleep; the follower, who must be awake then, does not. */
static int start_together(struct ring_side *side)
{
  struct ring_trial *trial = side->trial;
  if (side->role == RING_FOLLOWER) {
    BUS_STORE_RELEASE(&trial->ready[RING_FOLLOWER], 1u);
    return spin_for(side, &trial->ready[RING_LEADER]) ? BUS_OK : BUS_ERROR_AGAIN;
  }
  if (!wait_for(side, &trial->ready[RING_FOLLOWER]) ||
      (trial->with_observer && !wait_for(side, &trial->observer_ready)))
    return BUS_ERROR_AGAIN;
  trial->start_ns = bench_now_ns() + 20000;
  BUS_STORE_RELEASE(&trial->ready[RING_LEADER], 1u);
  return BUS_OK;
}

static int play_side(struct ring_side *side)
{
  struct ring_trial *trial = side->trial;
  const struct ring_contestant *contestant = trial->contestant;
  const struct ring_code *code = contestant->code[trial->size];
  int error = contestant->open ? contestant->open(side) : open_channels(side);
  if (!error)
    error = start_together(side);
  if (!error)
    error = side->role == RING_LEADER ? code->lead[trial->workload](side)
                                      : code->follow[trial->workload](side);
  if (error)
    BUS_STORE_RELEASE(&trial->failed, 1u);
  else if (side->role == RING_FOLLOWER)
    BUS_STORE_RELEASE(&trial->finished, 1u);
  if (contestant->close)
    contestant->close(side);
  return error;
}

static int follow(void *context)
{
  struct ring_side side = {.trial = context, .role = RING_FOLLOWER};
  return play_side(&side);
}

struct ring_thread {
  struct ring_trial *trial;
  char message[256];
};

static void *follow_in_thread(void *context)
{
  struct ring_thread *thread = context;
  if (follow(thread->trial) != BUS_OK)
    snprintf(thread->message, sizeof thread->message, "%s", bus_error_message());
  return NULL;
}

static int play_between_threads(struct ring_trial *trial)
{
  struct ring_thread other = {.trial = trial};
  struct ring_side side = {.trial = trial, .role = RING_LEADER};
  pthread_attr_t attributes;
  pthread_t thread;
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(trial->cores[1], &cpus);
  pthread_attr_init(&attributes);
  pthread_attr_setaffinity_np(&attributes, sizeof cpus, &cpus);
  int error = pthread_create(&thread, &attributes, follow_in_thread, &other);
  pthread_attr_destroy(&attributes);
  if (error)
    return bus_error_set(BUS_ERROR_NO_SPACE, "starting a thread: %s", strerror(error));
  error = play_side(&side);
  pthread_join(thread, NULL);
  if (other.message[0])
    return bus_error_set(BUS_ERROR_IO, "%s", other.message);
  return error;
}

static int play_between_processes(struct ring_trial *trial)
{
  pid_t child = bench_fork(trial->cores[1], trial->cores[0], follow, trial);
  if (child < 0)
    return (int)child;
  struct ring_side side = {.trial = trial, .role = RING_LEADER, .child = &child};
  int error = play_side(&side);
  bench_reap(&child, error != BUS_OK);
  if (!error && !trial->finished)
    error = bus_error_set(BUS_ERROR_CORRUPT, "%s: the follower has failed, see above",
                          trial->contestant->name);
  return error;
}

/* Runs on either of the pair's cores, and before the pair where that is real-time: an observer that
 * waited for a spinning pair would never run. */
static int observe(void *context)
{
  struct ring_trial *trial = context;
  struct sched_param priority = {.sched_priority = 2};
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  CPU_SET(trial->cores[0], &cpus);
  CPU_SET(trial->cores[1], &cpus);
  sched_setaffinity(0, sizeof cpus, &cpus);
  if (sched_getscheduler(0) == SCHED_FIFO)
    sched_setscheduler(0, SCHED_FIFO, &priority);
  return ring_bus_observe(trial);
}

int ring_trial_play(struct ring_trial *trial)
{
  pid_t observer = 0;
  int error = make_channels(trial);
  if (!error && trial->with_observer) {
    observer = bench_fork(trial->cores[1], trial->cores[0], observe, trial);
    error = observer < 0 ? (int)observer : BUS_OK;
  }
  if (!error)
    error = trial->between_threads ? play_between_threads(trial) : play_between_processes(trial);
  BUS_STORE_RELEASE(&trial->done, 1u);
  bench_reap(&observer, error != BUS_OK);
  free_channels(trial);
  bench_directory_clear();
  return error ? error : bench_stop_error();
}
