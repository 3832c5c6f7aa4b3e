/* bench_record.c: what the recorder takes to a disk, beside plain writing to the same disk. */
#include "consumers/record_member.h"
#include "shm/options.h"
#include "tools/bench/bench_machine.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_trials.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define RING_DEPTH     (1u << 20)
#define RECORD_BYTES   64u
#define BURST          16u /* records between two looks at the clock */
#define SETTLE_NS      300000000u
#define DRAIN_NS       100000000u
#define STAGING_BLOCKS 256u
#define SEGMENT_BYTES  ((uint64_t)1 << 30)

enum mode { MODE_PLAIN, MODE_MAX, MODE_PACED, MODE_COUNT };

static const char *const mode_names[MODE_COUNT] = {
    "plain O_DIRECT writes", "recorded, as fast as it goes", "recorded, paced"};

/* Own options. */
static const char *disk = ".";
static uint64_t seconds = 5;
static uint64_t rate = 10000000;
static int only = -1; /* enum mode; -1: all of them */

struct group {
  struct bench_measure *mega_records;
  struct bench_measure *mega_bytes;
  struct bench_measure *cpu_ns;
  struct bench_measure *missing;
};

/* Shared with the producing child. */
struct shared {
  uint64_t ready; /* by the recorder: it runs */
  uint64_t started_ns;
  uint64_t committed;
  uint64_t done; /* stored last */
};

struct run {
  struct bench_report *report;
  const struct bench_options *options;
  struct group groups[MODE_COUNT];
  struct shared *shared;
  enum mode mode;
  const char *directory;
  char output[512];
  cpu_set_t allowed; /* before anything was pinned: the writing thread's */
};

/* ---- the producer, in a process of its own ---- */

static void fill(uint64_t *slot, uint64_t position)
{
  for (uint64_t i = 0; i < RECORD_BYTES / sizeof *slot - 1; i++)
    slot[i] = position * 0x9e3779b97f4a7c15u + i;
}

static void produce(struct run *run, struct bus_producer *producer, struct bus_backlink *backlink)
{
  uint64_t start_ns = UINT64_MAX, sent = 0;
  while (bench_now_ns() < start_ns && !bench_stopped()) {
    if (start_ns == UINT64_MAX && BUS_LOAD_ACQUIRE(&run->shared->ready))
      start_ns = bench_now_ns() + SETTLE_NS;
    bus_backlink_maintain(backlink);
    usleep(1000);
  }
  const uint64_t end_ns = start_ns + seconds * 1000000000u;
  uint64_t now_ns = start_ns;
  run->shared->started_ns = start_ns;
  while (now_ns < end_ns && !bench_stopped()) {
    while (run->mode == MODE_PACED && bench_now_ns() < start_ns + sent * 1000000000u / rate)
      bus_cpu_relax();
    for (uint32_t i = 0; i < BURST; i++) {
      uint64_t *slot = bus_producer_reserve(producer);
      if (!slot)
        break;
      fill(slot, producer->next);
      bus_producer_commit(producer);
      sent++;
    }
    now_ns = bench_now_ns();
  }
  run->shared->committed = sent;
}

static int producer_process(void *context)
{
  struct run *run = context;
  const bool wait = run->mode == MODE_MAX;
  const struct bus_object_spec ring = {.type = BUS_OBJECT_RING,
                                       .name = "records",
                                       .peer = wait ? "record" : NULL,
                                       .record_size = RECORD_BYTES,
                                       .policy = wait ? BUS_POLICY_WAIT : BUS_POLICY_OVERWRITE,
                                       .depth = RING_DEPTH};
  const struct bus_member_config config = {.directory = run->directory,
                                           .name = "producer",
                                           .kind = "bench",
                                           .objects = &ring,
                                           .object_count = 1,
                                           .takeover = BUS_TAKEOVER_NEVER,
                                           .numa_node = -1,
                                           .core = -1};
  struct bus_member *member;
  struct bus_producer producer;
  struct bus_backlink backlink;
  int error = bus_member_new(&config, &member);
  if (error)
    return error;
  const struct bus_entry *entry = bus_member_entry(member, BUS_OBJECT_RING, "records");
  bus_producer_init(&producer, bus_member_object(member, BUS_OBJECT_RING, "records"), entry,
                    bus_member_header(member)->instance);
  error = bus_backlink_init(&backlink, run->directory, "producer", entry, &producer);
  if (!error) {
    bus_member_run(member);
    produce(run, &producer, &backlink);
    bus_backlink_close(&backlink);
  }
  bus_member_leave(member, BUS_STATE_HALT);
  BUS_STORE_RELEASE(&run->shared->done, (uint64_t)1);
  return error;
}

/* ---- the recorder, in this process ---- */

static double cpu_seconds(void)
{
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void remove_output(const struct run *run)
{
  char path[1024];
  DIR *directory = opendir(run->output);
  for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL;) {
    snprintf(path, sizeof path, "%s/%s", run->output, entry->d_name);
    if (entry->d_name[0] != '.')
      unlink(path);
  }
  if (directory)
    closedir(directory);
  rmdir(run->output);
}

/* Polls until the producer has ended and nothing has come for a while. */
static int follow(struct run *run, struct bus_recorder *recorder)
{
  struct bus_loop loop = {.clock = bench_clock};
  struct bus_idler idler = {.strategy = BUS_IDLE_BACKOFF};
  uint64_t last_ns = bench_now_ns(), house_ns = 0;
  int error = BUS_OK;
  while (!error && !bench_stopped()) {
    loop.now_ns = bench_now_ns();
    if (loop.now_ns - house_ns > 10000000u) {
      house_ns = loop.now_ns;
      error = bus_recorder_keep_house(recorder, &loop);
    }
    if (bus_recorder_work(recorder, &loop) > 0) {
      last_ns = loop.now_ns;
      bus_idler_reset(&idler);
      continue;
    }
    if (BUS_LOAD_ACQUIRE(&run->shared->done) && loop.now_ns - last_ns > DRAIN_NS)
      break;
    bus_idler_wait(&idler);
  }
  return error ? error : bench_stop_error();
}

static int record(struct run *run, struct bus_record_totals *totals, uint64_t *took_ns)
{
  struct bus_record_config config = {.directory = run->directory,
                                     .name = "record",
                                     .output = run->output,
                                     .rings = {{"producer", "records"}},
                                     .ring_count = 1,
                                     .block_size = BUS_CAPTURE_BLOCK_BYTES_DEFAULT,
                                     .staging_blocks = STAGING_BLOCKS,
                                     .segment_bytes = SEGMENT_BYTES,
                                     .block = run->mode == MODE_MAX,
                                     .numa_node = -1,
                                     .core = -1};
  struct bus_recorder *recorder;
  cpu_set_t pinned;
  sched_getaffinity(0, sizeof pinned, &pinned);
  sched_setaffinity(0, sizeof run->allowed, &run->allowed); /* its threads inherit it */
  int error = bus_recorder_new(&config, &recorder);
  sched_setaffinity(0, sizeof pinned, &pinned);
  if (error)
    return error;
  bus_member_run(recorder->member);
  BUS_STORE_RELEASE(&run->shared->ready, (uint64_t)1);
  error = follow(run, recorder);
  int written = bus_recorder_close(recorder, BUS_STATE_HALT, totals);
  *took_ns = bench_now_ns() - run->shared->started_ns;
  return error ? error : written;
}

static int measure_recorder(struct run *run, struct group *group, uint32_t trial)
{
  struct bus_record_totals totals;
  uint64_t took_ns;
  memset(run->shared, 0, sizeof *run->shared);
  double cpu = cpu_seconds();
  pid_t child = bench_fork(run->options->cores[1], run->options->cores[0], producer_process, run);
  if (child < 0)
    return (int)child;
  int error = record(run, &totals, &took_ns);
  bench_reap(&child, true);
  bench_directory_clear();
  remove_output(run);
  if (error)
    return error;
  totals.records -= totals.gaps;
  if (totals.records + totals.missing != run->shared->committed)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "%" PRIu64 " records committed, %" PRIu64 " recorded, %" PRIu64 " missing",
                         run->shared->committed, totals.records, totals.missing);
  double took = (double)took_ns - (double)DRAIN_NS;
  group->mega_records->values[trial] = (double)totals.records * 1e3 / took;
  group->mega_bytes->values[trial] = (double)totals.bytes * 1e3 / took;
  group->cpu_ns->values[trial] = (cpu_seconds() - cpu) * 1e9 / (double)totals.records;
  group->missing->values[trial] = (double)totals.missing;
  return BUS_OK;
}

/* ---- the disk alone ---- */

/* Segments of the same size, allocated as the recorder's are, full of blocks that are never looked
 * at; as many writes under way as the recorder has. */
static int write_plain(struct run *run, struct bus_disk *plain, const void *block, uint64_t *bytes)
{
  const uint32_t block_bytes = BUS_CAPTURE_BLOCK_BYTES_DEFAULT;
  struct bus_disk_completion completions[BUS_DISK_QUEUE];
  const uint64_t end_ns = bench_now_ns() + seconds * 1000000000u;
  uint64_t offset = SEGMENT_BYTES, under_way = 0;
  uint32_t file = 0;
  int fd = -1, error = 0;
  while (!error && bench_now_ns() < end_ns && !bench_stopped()) {
    if (offset == SEGMENT_BYTES && under_way == 0) {
      char path[600];
      snprintf(path, sizeof path, "%s/plain.%u", run->output, file++);
      if (fd >= 0)
        close(fd);
      fd = plain->open(plain, path, O_CREAT);
      error = fd < 0 ? fd : plain->allocate(plain, fd, 0, SEGMENT_BYTES);
      offset = 0;
    }
    while (!error && offset < SEGMENT_BYTES && under_way < BUS_DISK_QUEUE) {
      error = plain->submit(plain, fd, block, block_bytes, offset, 0);
      under_way++;
      offset += block_bytes;
    }
    uint32_t count = error ? 0 : plain->reap(plain, completions, BUS_DISK_QUEUE, 100000000u);
    for (uint32_t i = 0; i < count; i++, under_way--)
      if (completions[i].result == (int64_t)block_bytes)
        *bytes += block_bytes;
      else
        error = completions[i].result < 0 ? (int)completions[i].result : -EIO;
  }
  while (under_way > 0 && (error == 0 || bench_now_ns() < end_ns + 1000000000u)) {
    uint32_t count = plain->reap(plain, completions, BUS_DISK_QUEUE, 100000000u);
    under_way -= count;
    *bytes += error ? 0 : (uint64_t)count * block_bytes;
  }
  if (fd >= 0)
    close(fd);
  errno = -error;
  return error ? bus_error_set_errno("%s: writing", run->output) : bench_stop_error();
}

static int measure_plain(struct run *run, struct group *group, uint32_t trial)
{
  struct bus_disk *plain;
  uint64_t bytes = 0;
  void *block = aligned_alloc(BUS_DISK_ALIGNMENT, BUS_CAPTURE_BLOCK_BYTES_DEFAULT);
  int error = block ? bus_disk_new(true, &plain) : BUS_ERROR_NO_SPACE;
  if (error) {
    free(block);
    return error;
  }
  for (uint64_t i = 0; i < BUS_CAPTURE_BLOCK_BYTES_DEFAULT / RECORD_BYTES; i++)
    fill((uint64_t *)block + i * (RECORD_BYTES / 8), i);
  if (mkdir(run->output, 0750) != 0)
    error = bus_error_set_errno("%s: creating", run->output);
  double cpu = cpu_seconds();
  uint64_t start_ns = bench_now_ns();
  if (!error)
    error = write_plain(run, plain, block, &bytes);
  double took = (double)(bench_now_ns() - start_ns);
  group->mega_records->values[trial] = (double)bytes / RECORD_BYTES * 1e3 / took;
  group->mega_bytes->values[trial] = (double)bytes * 1e3 / took;
  group->cpu_ns->values[trial] = (cpu_seconds() - cpu) * 1e9 / ((double)bytes / RECORD_BYTES);
  plain->close(plain);
  free(block);
  remove_output(run);
  return error;
}

static int measure_trial(void *context, uint32_t index, uint32_t trial)
{
  struct run *run = context;
  run->mode = only < 0 ? (enum mode)index : (enum mode)only;
  struct group *group = &run->groups[run->mode];
  bench_trial_begin();
  return run->mode == MODE_PLAIN ? measure_plain(run, group, trial)
                                 : measure_recorder(run, group, trial);
}

/* ---- the report ---- */

static int add_groups(struct run *run)
{
  for (int i = 0; i < MODE_COUNT; i++) {
    if (only >= 0 && i != only)
      continue;
    uint32_t at = bench_report_group(run->report, mode_names[i]);
    struct group *group = &run->groups[i];
    group->mega_records = bench_report_measure(run->report, at, "records", "M/s", false, false);
    group->mega_bytes = bench_report_measure(run->report, at, "bytes", "MB/s", false, false);
    group->cpu_ns =
        bench_report_measure(run->report, at, "CPU, all threads", "ns/record", false, false);
    group->missing =
        bench_report_measure(run->report, at, "records missing", "records", false, false);
    if (!group->mega_records || !group->mega_bytes || !group->cpu_ns || !group->missing)
      return BUS_ERROR_NO_SPACE;
  }
  return BUS_OK;
}

static void add_notes(struct run *run)
{
  struct bench_summary plain, fast;
  struct statfs system;
  if (only < 0) {
    bench_report_summarize(run->report, run->groups[MODE_PLAIN].mega_bytes, &plain);
    bench_report_summarize(run->report, run->groups[MODE_MAX].mega_bytes, &fast);
    bench_report_note(run->report, "ratio: recorded as fast as it goes / plain writes = %.2f",
                      fast.median / plain.median);
  }
  if (statfs(disk, &system) == 0)
    bench_report_note(run->report, "disk: %s, file system type %lx, %.0f GB free", disk,
                      (unsigned long)system.f_type,
                      (double)system.f_bavail * (double)system.f_bsize * 1e-9);
  bench_report_note(run->report,
                    "paced: %" PRIu64 " records/s of %u bytes for %" PRIu64 " s each repetition",
                    rate, RECORD_BYTES, seconds);
  if (CPU_COUNT(&run->allowed) < 3)
    bench_report_note(run->report,
                      "cores: %d for the producer, the poller and the writer: they "
                      "wait for each other, and what a recorder with a core of its "
                      "own costs the others cannot be seen here",
                      CPU_COUNT(&run->allowed));
}

static int measure_all(struct run *run, struct bench_options *options)
{
  static const char *const members[] = {"producer", "record"};
  options->fifo = false; /* the writing thread would never run beside one that does not sleep */
  int error = bench_machine_prepare(run->report, options, 2);
  run->directory = error ? NULL : bench_directory_make("/dev/shm", members, 2);
  if (!run->directory)
    return error ? error : BUS_ERROR_IO;
  run->options = options;
  snprintf(run->output, sizeof run->output, "%.400s/bus-bench-record.%d", disk, (int)getpid());
  struct bench_trials trials = {.report = run->report,
                                .options = options,
                                .core_count = 2,
                                .run = measure_trial,
                                .context = run};
  error = add_groups(run);
  if (!error)
    error = bench_trials_run(&trials);
  remove_output(run);
  if (error)
    return error;
  add_notes(run);
  return bench_report_write(run->report, options);
}

static int run_record(const struct bench_options *given)
{
  struct bench_options options = *given;
  struct run *run = calloc(1, sizeof *run);
  if (!run)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  sched_getaffinity(0, sizeof run->allowed, &run->allowed);
  run->shared =
      mmap(NULL, sizeof *run->shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  run->report = bench_report_new("record");
  int error = run->report && run->shared != MAP_FAILED ? bench_clock_init() : BUS_ERROR_NO_SPACE;
  if (!error) {
    run->report->canary = "raw lines between the two cores";
    bench_machine_describe(run->report);
    error = measure_all(run, &options);
  }
  bench_report_delete(run->report);
  free(run);
  return error;
}

/* ---- options ---- */

enum { OPTION_DISK = BENCH_OPTION_OWN, OPTION_SECONDS, OPTION_RATE, OPTION_ONLY };

static int take_option(int option, const char *value)
{
  int64_t number = 0;
  int error = BUS_OK;
  if (option == OPTION_DISK) {
    disk = value;
  } else if (option == OPTION_ONLY) {
    static const char *const names[MODE_COUNT] = {"plain", "max", "paced"};
    for (only = MODE_COUNT - 1; only >= 0 && strcmp(value, names[only]) != 0; only--)
      continue;
    error = only < 0 ? bus_error_set(BUS_ERROR_INVALID, "only '%s': use plain, max or paced", value)
                     : BUS_OK;
  } else if (option == OPTION_SECONDS) {
    error = bus_parse_integer(value, 1, 100, "seconds", &number);
    seconds = (uint64_t)number;
  } else {
    error = bus_parse_integer(value, 1000, 1000000000, "rate", &number);
    rate = (uint64_t)number;
  }
  return error;
}

static const struct option record_options[] = {{"disk", required_argument, NULL, OPTION_DISK},
                                               {"seconds", required_argument, NULL, OPTION_SECONDS},
                                               {"rate", required_argument, NULL, OPTION_RATE},
                                               {"only", required_argument, NULL, OPTION_ONLY},
                                               BENCH_COMMON_OPTIONS};

const struct bench bench_record = {
    .name = "record",
    .summary = "recording to a disk, beside plain writing to the same disk",
    .help =
        "usage: bus-bench record [--disk DIR] [options]\n"
        "\n"
        "One process publishes records of 64 bytes, the recorder takes them to a disk: as fast\n"
        "as it goes, the producer waiting, and paced, the producer waiting for nobody. In turn\n"
        "with them blocks of the same size are written to the same disk with O_DIRECT and\n"
        "io_uring and nothing else. Every record is accounted for.\n"
        "\n"
        "  --disk DIR          where the files are made, and removed (default .)\n"
        "  --seconds N         length of one measurement, 1..100 (default 5)\n"
        "  --rate N            records/s when paced (default 10000000)\n"
        "  --only WHAT         measure plain, max or paced alone\n"
        "  --cores A,B         the poller's and the producer's (default: the first two allowed)\n",
    .options = record_options,
    .take_option = take_option,
    .run = run_record};
