/* bench_replay.c: how fast a capture is read: checked whole, merged, hashed; cached and cold. */
#include "tools/bench/bench_machine.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_trials.h"

#include "consumers/capture_check.h"
#include "consumers/capture_merge.h"
#include "tools/replay_output.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT_DEFAULT 10000000u
#define PLACE_DEFAULT "/var/tmp"
#define STREAM        "infer.signals"

enum way { WAY_BYTES, WAY_CHECKED, WAY_MERGED, WAY_BYTES_COLD, WAY_CHECKED_COLD, WAY_COUNT };

static const struct {
  const char *name;
  bool cold;
} ways[WAY_COUNT] = {
    [WAY_BYTES] = {"the file's bytes alone, cached", false},
    [WAY_CHECKED] = {"blocks read and checked, cached", false},
    [WAY_MERGED] = {"and each record given out in order, cached", false},
    [WAY_BYTES_COLD] = {"the file's bytes alone, from the disk", true},
    [WAY_CHECKED_COLD] = {"blocks read and checked, from the disk", true},
};

struct run {
  struct bench_report *report;
  char directory[512];
  char path[640];
  uint64_t records;
  struct bench_measure *rates[WAY_COUNT];
};

static const char *place = PLACE_DEFAULT;

/* ---- the capture ---- */

static int write_records(struct run *run, struct replay_output *output)
{
  struct bus_capture_shape shape = {.record_type = BUS_RECORD_SIGNAL,
                                    .record_size = sizeof(struct bus_signal),
                                    .block_size = BUS_CAPTURE_BLOCK_BYTES_DEFAULT};
  int stream = replay_output_stream(output, STREAM, &shape);
  if (stream < 0)
    return stream;
  json_t *meta = json_pack("{s:s, s:i, s:s, s:s, s:s, s:i}", "format", "signal-bus capture",
                           "version", BUS_CAPTURE_VERSION, "member", "infer", "ring", "signals",
                           "record_type", "signal", "record_size", (int)sizeof(struct bus_signal));
  int error = replay_output_meta(output, stream, meta);
  json_decref(meta);
  for (uint64_t i = 0; i < run->records && !error; i++) {
    struct bus_signal signal = {.timestamp_ns = 1000000 + i * 100,
                                .feature_position = i,
                                .target_price = (int64_t)(i * 2654435761u),
                                .queue_ns = 50,
                                .inference_ns = 400,
                                .symbol = (uint16_t)(i % 7),
                                .flags = BUS_SIGNAL_VALID,
                                .stamp = i + 1};
    error = replay_output_record(output, stream, &signal, 0);
  }
  return error;
}

static int make_capture(struct run *run)
{
  struct replay_output *output;
  snprintf(run->directory, sizeof run->directory, "%.400s/signalbus-bench-%d", place,
           (int)getpid());
  snprintf(run->path, sizeof run->path, "%s/" STREAM ".000000.npy", run->directory);
  int error = replay_output_open(run->directory, UINT64_MAX, &output);
  if (error)
    return error;
  error = write_records(run, output);
  if (!error)
    return replay_output_close(output);
  replay_output_abandon(output);
  return error;
}

static void remove_capture(const struct run *run)
{
  char partial[700];
  snprintf(partial, sizeof partial, "%s.partial", run->path);
  unlink(run->path);
  unlink(partial);
  rmdir(run->directory);
}

/* ---- reading it ---- */

/* Takes the file out of memory, as far as the file system does that; tmpfs does not. */
static int forget(const struct run *run)
{
  int file = open(run->path, O_RDONLY | O_CLOEXEC);
  int error = file >= 0 && posix_fadvise(file, 0, 0, POSIX_FADV_DONTNEED) == 0
                  ? BUS_OK
                  : bus_error_set_errno("%s", run->path);
  if (file >= 0)
    close(file);
  return error;
}

static int read_bytes(const struct run *run)
{
  size_t size = BUS_CAPTURE_BLOCK_BYTES_DEFAULT;
  void *buffer = aligned_alloc(4096, size);
  int file = open(run->path, O_RDONLY | O_CLOEXEC);
  ssize_t got = -1;
  if (buffer && file >= 0)
    while ((got = read(file, buffer, size)) > 0)
      ;
  int error = got < 0 ? bus_error_set_errno("%s", run->path) : BUS_OK;
  if (file >= 0)
    close(file);
  free(buffer);
  return error;
}

static int check(struct bus_capture *capture, uint64_t *records)
{
  struct bus_capture_checked checked;
  int error = bus_capture_check(capture, NULL, &checked);
  *records = checked.records;
  return error;
}

static int merge(struct bus_capture *capture, uint64_t *records)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct bus_capture_merge *merged;
  struct bus_capture_event event;
  uint64_t sum = 0;
  int status = bus_capture_merge_open(capture, &all, &merged);
  while (!status && (status = bus_capture_merge_next(merged, &event)) == 1) {
    status = BUS_OK;
    if (event.kind == BUS_CAPTURE_EVENT_RECORD)
      sum += event.position - (*records)++; /* 0 when each came in its turn */
  }
  bus_capture_merge_close(merged);
  return status || sum == 0 ? status : bus_error_set(BUS_ERROR_CORRUPT, "records out of order");
}

static int read_capture(const struct run *run, enum way way)
{
  struct bus_capture *capture;
  uint64_t records = 0;
  int error = bus_capture_open(run->directory, &capture);
  if (error)
    return error;
  error = way == WAY_MERGED ? merge(capture, &records) : check(capture, &records);
  if (!error && (records != run->records || bus_capture_damage_count(capture) != 0))
    error = bus_error_set(BUS_ERROR_CORRUPT, "%s: %" PRIu64 " of %" PRIu64 " records are whole",
                          run->directory, records, run->records);
  bus_capture_close(capture);
  return error;
}

static int measure_trial(void *context, uint32_t group, uint32_t trial)
{
  struct run *run = context;
  enum way way = group; /* groups are made in the order of the ways */
  bool bytes_only = way == WAY_BYTES || way == WAY_BYTES_COLD;
  /* The trial before may have left it out of memory, or in it. */
  int error = ways[way].cold ? forget(run) : read_bytes(run);
  if (error)
    return error;
  uint64_t start_ns = bench_now_ns();
  error = bytes_only ? read_bytes(run) : read_capture(run, way);
  uint64_t taken_ns = bench_now_ns() - start_ns;
  run->rates[way]->values[trial] = (double)run->records * 1e3 / (double)taken_ns;
  return error;
}

static int measure_all(struct run *run, struct bench_options *options)
{
  int error = bench_machine_prepare(run->report, options, 1);
  for (uint32_t i = 0; i < WAY_COUNT && !error; i++) {
    uint32_t group = bench_report_group(run->report, ways[i].name);
    run->rates[i] = bench_report_measure(run->report, group, "records", "million/s", false, false);
    error = run->rates[i] ? BUS_OK : BUS_ERROR_NO_SPACE;
  }
  if (!error)
    error = make_capture(run);
  struct bench_trials trials = {.report = run->report,
                                .options = options,
                                .core_count = 1,
                                .run = measure_trial,
                                .context = run};
  if (!error)
    error = bench_trials_run(&trials);
  remove_capture(run);
  if (error)
    return error;
  bench_report_note(run->report,
                    "capture: %" PRIu64 " records of 64 bytes in blocks of 1 MiB, %.0f MB, in %s",
                    run->records, (double)run->records * 64 / 1e6, place);
  bench_report_note(run->report, "disk: from the disk means that the file was taken out of the "
                                 "page cache before; what lies under it may cache too");
  return bench_report_write(run->report, options);
}

static int run_replay(const struct bench_options *given)
{
  struct bench_options options = *given;
  struct run *run = calloc(1, sizeof *run);
  if (!run)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  run->records = options.count;
  run->report = bench_report_new("replay");
  int error = run->report ? bench_clock_init() : BUS_ERROR_NO_SPACE;
  if (!error) {
    run->report->canary = "100 multiplications, each of the product before it";
    bench_machine_describe(run->report);
    error = measure_all(run, &options);
  }
  bench_report_delete(run->report);
  free(run);
  return error;
}

enum { OPTION_PLACE = BENCH_OPTION_OWN };

static int take_option(int option, const char *value)
{
  if (option != OPTION_PLACE)
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  place = value;
  return BUS_OK;
}

static const struct option replay_options[] = {
    {"place", required_argument, NULL, OPTION_PLACE},
    {"count", required_argument, NULL, BENCH_OPTION_COUNT},
    BENCH_COMMON_OPTIONS};

const struct bench bench_replay = {
    .name = "replay",
    .summary = "reading a capture: million records per second, cached and from the disk",
    .help = "usage: bus-bench replay [--place DIR] [--count N] [options]\n"
            "\n"
            "Writes a capture of 64-byte records and reads it as bus-replay does: every block\n"
            "checked, and every record given out in order; beside it, the file's bytes alone.\n"
            "\n"
            "  --place DIR         where the capture is made, on a disk (default /var/tmp)\n"
            "  --count N           records (default 10000000: 640 MB)\n"
            "  --cores A           the core (default: the first allowed)\n",
    .options = replay_options,
    .count_default = COUNT_DEFAULT,
    .take_option = take_option,
    .run = run_replay};
