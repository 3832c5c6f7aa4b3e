#include "consumers/record_member.h"

#include "consumers/capture_segment.h"
#include "consumers/record_rings.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GAPS_DEPTH      1024u
#define OUTPUT_BYTES    512u
#define WRITER_WAIT_NS  500000u
#define WRITER_PAUSE_NS 200000L
#define OBJECTS_MAX     (32u + BUS_RECORD_RINGS_MAX)
#define SCAN_NS         20000000u
#define DESCRIBE_NS     1000000000u
#define FINISH_NS       2000000000u /* for reading what is left in the rings */

/* ---- the member ---- */

static uint32_t list_objects(const struct bus_record_config *config,
                             struct bus_object_spec objects[OBJECTS_MAX])
{
  const struct bus_object_spec fixed[] = {
      {.type = BUS_OBJECT_STAGING,
       .name = "staging",
       .record_size = config->block_size,
       .depth = config->staging_blocks},
      {.type = BUS_OBJECT_RING,
       .name = "gaps",
       .record_type = BUS_RECORD_GAP,
       .record_size = sizeof(struct bus_gap),
       .policy = BUS_POLICY_OVERWRITE,
       .depth = GAPS_DEPTH},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "write_ns", .unit = "ns"},
      {.type = BUS_OBJECT_TEXT, .name = "output", .depth = OUTPUT_BYTES},
      {.type = BUS_OBJECT_TEXT, .name = "disk", .depth = 128},
      BUS_LOOP_OBJECTS,
      {.type = BUS_OBJECT_COUNTER, .name = "records", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "records_lost", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "gaps", .unit = "gaps"},
      {.type = BUS_OBJECT_COUNTER, .name = "streams", .unit = "rings"},
      {.type = BUS_OBJECT_COUNTER, .name = "staging_blocks_max", .unit = "blocks"},
      {.type = BUS_OBJECT_COUNTER, .name = "staging_full", .unit = "times"},
      {.type = BUS_OBJECT_COUNTER, .name = "records_written", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "blocks_written", .unit = "blocks"},
      {.type = BUS_OBJECT_COUNTER, .name = "bytes_written", .unit = "bytes"},
      {.type = BUS_OBJECT_COUNTER, .name = "segments_closed", .unit = "segments"},
      {.type = BUS_OBJECT_COUNTER, .name = "positions_missing", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "flushes", .unit = "blocks"},
      {.type = BUS_OBJECT_COUNTER, .name = "write_errors", .unit = "errors"},
      {.type = BUS_OBJECT_COUNTER, .name = "segments_buffered", .unit = "segments"},
      {.type = BUS_OBJECT_COUNTER, .name = "segments_compressed", .unit = "segments"},
      {.type = BUS_OBJECT_COUNTER, .name = "segments_uncompressed", .unit = "segments"},
      {.type = BUS_OBJECT_COUNTER, .name = "bytes_compressed", .unit = "bytes"},
  };
  BUS_STATIC_ASSERT(BUS_COUNT_OF(fixed) + BUS_RECORD_RINGS_MAX <= OBJECTS_MAX, "all fit");
  memcpy(objects, fixed, sizeof fixed);
  uint32_t count = BUS_COUNT_OF(fixed);
  for (uint32_t i = 0; config->block && i < config->ring_count; i++)
    objects[count++] = (struct bus_object_spec){.type = BUS_OBJECT_POSITION,
                                                .name = config->rings[i].ring,
                                                .peer = config->rings[i].member};
  return count;
}

/* Whether the file of a predecessor would be taken over by a process with these objects. */
static bool has_layout(const struct bus_neighbour *old, const struct bus_object_spec *objects,
                       uint32_t count)
{
  if (bus_neighbour_header(old)->entry_count != count ||
      strcmp(bus_neighbour_header(old)->kind, "record") != 0)
    return false;
  for (uint32_t i = 0; i < count; i++) {
    const struct bus_entry *entry = bus_neighbour_entry(old, i);
    const struct bus_object_spec *object = &objects[i];
    if (entry->type != object->type || strcmp(entry->name, object->name) != 0 ||
        strcmp(entry->peer, object->peer ? object->peer : "") != 0 ||
        entry->record_size != object->record_size ||
        entry->depth != (object->depth ? object->depth : 1))
      return false;
  }
  return true;
}

static uint64_t staged_records(const struct bus_staging *staging)
{
  uint64_t records = 0;
  for (uint32_t i = 0; i < staging->depth; i++)
    if (BUS_LOAD_ACQUIRE(&staging->blocks[i].state) != BUS_STAGING_FREE)
      records += BUS_LOAD_RELAXED(&staging->blocks[i].count);
  return records;
}

/* A predecessor's records must not be thrown away because this process has other options. */
static int respect_predecessor(const struct bus_record_config *config,
                               const struct bus_object_spec *objects, uint32_t count)
{
  struct bus_neighbour *old;
  struct bus_staging staging;
  char output[OUTPUT_BYTES] = "";
  if (bus_neighbour_attach(config->directory, config->name, true, &old) != BUS_OK)
    return BUS_OK; /* none, or one that bus_member_new will judge */
  const struct bus_entry *entry = bus_neighbour_find(old, BUS_OBJECT_STAGING, "staging");
  const struct bus_entry *text = bus_neighbour_find(old, BUS_OBJECT_TEXT, "output");
  uint64_t records = 0;
  if (entry) {
    bus_staging_init(&staging, (void *)(uintptr_t)bus_neighbour_object(old, entry), entry);
    records = staged_records(&staging); /* read only */
  }
  if (text)
    snprintf(output, sizeof output, "%.*s", (int)(text->depth < OUTPUT_BYTES ? text->depth : 511),
             (const char *)bus_neighbour_object(old, text));
  bool fits = has_layout(old, objects, count) && !strcmp(output, config->output);
  bus_neighbour_detach(old);
  if (records == 0 || fits)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_BUSY,
                       "%s/%s: %" PRIu64 " records of the recorder before this one wait in its "
                       "staging for %s; start it once with the options that it had, or give them "
                       "up by removing that file",
                       config->directory ? config->directory : bus_directory_default(),
                       config->name, records, output[0] ? output : "?");
}

static int join_bus(struct bus_recorder *recorder)
{
  struct bus_object_spec objects[OBJECTS_MAX];
  const struct bus_record_config *config = &recorder->config;
  uint32_t count = list_objects(config, objects);
  int error = respect_predecessor(config, objects, count);
  if (error)
    return error;
  const struct bus_member_config file = {.directory = config->directory,
                                         .name = config->name,
                                         .kind = "record",
                                         .objects = objects,
                                         .object_count = count,
                                         .takeover = BUS_TAKEOVER_ALWAYS,
                                         .mode = config->mode,
                                         .numa_node = config->numa_node,
                                         .core = config->core,
                                         .small_pages = config->small_pages};
  error = bus_member_new(&file, &recorder->member);
  if (error)
    return error;
  recorder->other_output =
      strcmp(bus_member_object(recorder->member, BUS_OBJECT_TEXT, "output"), config->output) != 0;
  bus_member_set_text(recorder->member, "output", "%s", config->output);
  const struct bus_entry *gaps = bus_member_entry(recorder->member, BUS_OBJECT_RING, "gaps");
  bus_producer_init(&recorder->gaps, bus_member_object(recorder->member, BUS_OBJECT_RING, "gaps"),
                    gaps, bus_member_header(recorder->member)->instance);
  bus_staging_init(&recorder->staging,
                   bus_member_object(recorder->member, BUS_OBJECT_STAGING, "staging"),
                   bus_member_entry(recorder->member, BUS_OBJECT_STAGING, "staging"));
  return BUS_OK;
}

static bool is_staged(const struct bus_staging *staging, uint32_t stream)
{
  for (uint32_t i = 0; i < staging->depth; i++)
    if (staging->blocks[i].state != BUS_STAGING_FREE && staging->blocks[i].stream == stream)
      return true;
  return false;
}

/* Whether the output holds a segment of this stream. */
static bool has_segments(const struct bus_recorder *recorder, uint32_t stream)
{
  char name[BUS_CAPTURE_STREAM_BYTES];
  struct bus_capture_file_name parts;
  bool found = false;
  DIR *directory = opendir(recorder->config.output);
  if (!directory)
    return true;
  bus_segment_stream_name(&recorder->staging.streams[stream], name);
  for (struct dirent *entry; !found && (entry = readdir(directory)) != NULL;)
    found = bus_capture_file_name_parse(entry->d_name, &parts) && !strcmp(parts.stream, name);
  closedir(directory);
  return found;
}

/* Another output, or one that was moved away, is another capture: it does not begin where the one
 * before it ended. */
static void forget_other_capture(struct bus_recorder *recorder)
{
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    struct bus_staging_stream *stream = &recorder->staging.streams[i];
    if (stream->used && !is_staged(&recorder->staging, i) &&
        (recorder->other_output || (stream->written > 0 && !has_segments(recorder, i))))
      stream->used = 0;
  }
}

/* The process before this one may have noted a gap behind its last staged record, and been killed
 * before the next record: then its successor goes on behind that gap. */
static void skip_noted_gaps(struct bus_recorder *recorder)
{
  struct bus_observer observer;
  struct bus_gap gap = {0};
  bus_observer_init(&observer, bus_member_object(recorder->member, BUS_OBJECT_RING, "gaps"),
                    bus_member_entry(recorder->member, BUS_OBJECT_RING, "gaps"), true);
  for (int status; (status = bus_observer_poll(&observer, &gap)) != 0;)
    for (uint32_t i = 0; status == 1 && i < BUS_STAGING_STREAMS_MAX; i++) {
      const struct bus_staging_stream *stream = &recorder->staging.streams[i];
      char name[BUS_CAPTURE_STREAM_BYTES];
      if (!recorder->recovered[i] || gap.instance != stream->instance ||
          gap.first != recorder->resume[i])
        continue;
      bus_segment_stream_name(stream, name);
      if (gap.stream == bus_capture_stream_id(name))
        recorder->resume[i] = gap.last + 1;
    }
}

/* What the process before this one left in the staging. */
static void take_up(struct bus_recorder *recorder)
{
  struct bus_staging *staging = &recorder->staging;
  uint64_t records = bus_staging_recover(staging);
  forget_other_capture(recorder);
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    recorder->recovered[i] = staging->streams[i].used && !staging->streams[i].ended;
    if (recorder->recovered[i])
      recorder->resume[i] = bus_staging_stream_next(staging, i);
  }
  skip_noted_gaps(recorder);
  if (records > 0)
    fprintf(stderr,
            "bus-record: writing %" PRIu64
            " records that the recorder before this one had staged\n",
            records);
}

/* ---- the writer's thread ---- */

static void tell_failure(struct bus_recorder *recorder, int failure)
{
  if (failure == BUS_LOAD_RELAXED(&recorder->failure))
    return;
  if (failure)
    fprintf(stderr, "bus-record: not writing: %s\n", bus_error_message());
  else
    fputs("bus-record: writing again\n", stderr);
  BUS_STORE_RELEASE(&recorder->failure, failure);
}

static void *write_blocks(void *argument)
{
  struct bus_recorder *recorder = argument;
  struct bus_writer *writer = &recorder->writer;
  bool stopping = false;
  for (;;) {
    bool stop = BUS_LOAD_ACQUIRE(&recorder->stop);
    if (stop && !stopping)
      writer->retry_ns = 0; /* the last attempt does not wait for its time */
    stopping = stop;
    int done = bus_writer_step(writer, bus_clock_monotonic_ns(), WRITER_WAIT_NS);
    if (done < 0)
      tell_failure(recorder, done);
    else if (done > 0 && !writer->failure)
      tell_failure(recorder, BUS_OK);
    if (stop && (done < 0 || writer->failure || bus_writer_is_idle(writer)))
      break;
    if (done <= 0) {
      struct timespec pause = {0, WRITER_PAUSE_NS};
      nanosleep(&pause, NULL);
    }
  }
  int error = bus_writer_finish(writer);
  if (error && !recorder->failure) {
    bus_error_set_errno("%s: closing a segment", recorder->config.output);
    tell_failure(recorder, error);
  }
  return NULL;
}

static void segment_closed(void *context, const char *path)
{
  struct bus_recorder *recorder = context;
  if (recorder->cold)
    bus_cold_add(recorder->cold, path);
}

/* ---- set-up ---- */

static uint64_t *counter(const struct bus_recorder *recorder, const char *name)
{
  return bus_member_object(recorder->member, BUS_OBJECT_COUNTER, name);
}

static int start_cold(struct bus_recorder *recorder)
{
  const struct bus_cold_counters counters = {counter(recorder, "segments_compressed"),
                                             counter(recorder, "segments_uncompressed"),
                                             counter(recorder, "bytes_compressed")};
  return recorder->config.zstd_level
             ? bus_cold_new(recorder->config.zstd_level, &counters, &recorder->cold)
             : BUS_OK;
}

static int start_writer(struct bus_recorder *recorder)
{
  const struct bus_record_config *config = &recorder->config;
  int error = bus_disk_new(!config->no_queue, &recorder->disk);
  if (error)
    return error;
  bus_member_set_text(recorder->member, "disk", "%s",
                      recorder->disk->queued ? "io_uring" : "pwrite");
  const struct bus_writer_config writer = {.directory = config->output,
                                           .staging = &recorder->staging,
                                           .disk = recorder->disk,
                                           .segment_bytes = config->segment_bytes,
                                           .segment_ns = config->segment_ns,
                                           .flush_ns = config->flush_ns,
                                           .closed = segment_closed,
                                           .context = recorder};
  const struct bus_writer_counters counters = {
      .records = counter(recorder, "records_written"),
      .blocks = counter(recorder, "blocks_written"),
      .bytes = counter(recorder, "bytes_written"),
      .segments = counter(recorder, "segments_closed"),
      .lost = counter(recorder, "positions_missing"),
      .flushes = counter(recorder, "flushes"),
      .errors = counter(recorder, "write_errors"),
      .buffered = counter(recorder, "segments_buffered"),
      .write_ns = bus_member_object(recorder->member, BUS_OBJECT_HISTOGRAM, "write_ns")};
  error = bus_writer_init(&recorder->writer, &writer, &counters);
  if (error)
    return error;
  if (!config->no_queue && !recorder->disk->queued)
    fputs("bus-record: io_uring is refused here, writing with pwrite\n", stderr);
  int refused = pthread_create(&recorder->thread, NULL, write_blocks, recorder);
  if (refused) {
    errno = refused;
    return bus_error_set_errno("starting the writing thread");
  }
  recorder->thread_runs = true;
  return BUS_OK;
}

static void count_totals(const struct bus_recorder *recorder, struct bus_record_totals *totals)
{
  *totals = (struct bus_record_totals){.records = *counter(recorder, "records_written"),
                                       .gaps = *recorder->counters.gaps,
                                       .bytes = *counter(recorder, "bytes_written"),
                                       .segments = *counter(recorder, "segments_closed"),
                                       .missing = *counter(recorder, "positions_missing"),
                                       .staged = staged_records(&recorder->staging)};
}

/* Makes the directory, and turns its name into one that a successor started elsewhere has too. */
static int open_output(struct bus_recorder *recorder)
{
  const char *given = recorder->config.output;
  struct stat status;
  char whole[PATH_MAX];
  if (mkdir(given, 0750) != 0 && errno != EEXIST)
    return bus_error_set_errno("%s: creating", given);
  if (stat(given, &status) != 0 || !S_ISDIR(status.st_mode))
    return bus_error_set(BUS_ERROR_INVALID, "%s: not a directory; name one for the capture", given);
  if (access(given, R_OK | W_OK | X_OK) != 0 || !realpath(given, whole))
    return bus_error_set_errno("%s", given);
  if (strlen(whole) >= sizeof recorder->output)
    return bus_error_set(BUS_ERROR_INVALID, "%s: at most %zu characters", whole,
                         sizeof recorder->output - 1);
  strcpy(recorder->output, whole);
  recorder->config.output = recorder->output;
  return BUS_OK;
}

int bus_recorder_new(const struct bus_record_config *config, struct bus_recorder **recorder)
{
  struct bus_recorder *made = calloc(1, sizeof *made);
  *recorder = NULL;
  if (!made)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  made->config = *config;
  int error = open_output(made);
  if (!error)
    error = join_bus(made);
  if (!error) {
    take_up(made);
    made->counters =
        (struct bus_record_counters){.records = counter(made, "records"),
                                     .records_lost = counter(made, "records_lost"),
                                     .gaps = counter(made, "gaps"),
                                     .streams = counter(made, "streams"),
                                     .staging_blocks_max = counter(made, "staging_blocks_max"),
                                     .staging_full = counter(made, "staging_full")};
    count_totals(made, &made->before);
    bus_rings_init(made);
  }
  if (!error)
    error = start_cold(made);
  if (!error)
    error = start_writer(made);
  if (error) {
    struct bus_record_totals totals;
    bus_recorder_close(made, BUS_STATE_FAIL, &totals);
    return error;
  }
  *recorder = made;
  return BUS_OK;
}

/* ---- the end ---- */

/* What is in the rings now, as far as the staging takes it. */
static void read_the_rest(struct bus_recorder *recorder)
{
  uint64_t start_ns = bus_clock_monotonic_ns(), now_ns = start_ns;
  uint32_t empty = 0;
  bus_rings_scan(recorder, start_ns); /* a member that came and went since the last one */
  while (empty < 2 && now_ns - start_ns < FINISH_NS) {
    int records = bus_rings_poll(recorder, now_ns);
    empty = records == 0 && !recorder->pressed ? empty + 1 : 0;
    if (recorder->pressed && BUS_LOAD_ACQUIRE(&recorder->failure))
      break;
    now_ns = bus_clock_monotonic_ns();
  }
  bus_rings_describe(recorder);
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++)
    if (recorder->sources[i].active)
      bus_staging_filler_finish(&recorder->sources[i].filler);
}

int bus_recorder_close(struct bus_recorder *recorder, uint32_t state,
                       struct bus_record_totals *totals)
{
  char message[512] = "";
  if (recorder->thread_runs) {
    read_the_rest(recorder);
    BUS_STORE_RELEASE(&recorder->stop, true);
    pthread_join(recorder->thread, NULL);
    snprintf(message, sizeof message, "%s", recorder->writer.failure_message);
  } else {
    snprintf(message, sizeof message, "%s", bus_error_message());
  }
  bus_cold_close(recorder->cold);
  bus_rings_close(recorder);
  int error = recorder->failure;
  memset(totals, 0, sizeof *totals);
  if (recorder->member) {
    count_totals(recorder, totals);
    totals->records -= recorder->before.records;
    totals->gaps -= recorder->before.gaps;
    totals->bytes -= recorder->before.bytes;
    totals->segments -= recorder->before.segments;
    totals->missing -= recorder->before.missing;
    totals->rings = recorder->rings_found;
    totals->resumed = recorder->rings_resumed;
  }
  if (recorder->writer.scratch)
    bus_writer_close(&recorder->writer);
  if (recorder->disk)
    recorder->disk->close(recorder->disk);
  bus_member_leave(recorder->member, error ? (uint32_t)BUS_STATE_FAIL : state);
  free(recorder);
  if (message[0])
    bus_error_set(error ? error : BUS_ERROR_IO, "%s", message);
  return error;
}

/* ---- the loop's functions ---- */

int bus_recorder_work(void *context, struct bus_loop *loop)
{
  return bus_rings_poll(context, loop->now_ns);
}

int bus_recorder_keep_house(void *context, struct bus_loop *loop)
{
  struct bus_recorder *recorder = context;
  int error = BUS_OK;
  uint32_t used = bus_staging_blocks_used(&recorder->staging);
  if (used > *recorder->counters.staging_blocks_max)
    bus_counter_set(recorder->counters.staging_blocks_max, used);
  bus_producer_report(&recorder->gaps);
  if (recorder->scanned_ns == 0 || loop->now_ns - recorder->scanned_ns >= SCAN_NS) {
    error = bus_rings_scan(recorder, loop->now_ns);
    recorder->scanned_ns = loop->now_ns;
  }
  if (!error && loop->now_ns - recorder->described_ns >= DESCRIBE_NS) {
    bus_rings_describe(recorder);
    recorder->described_ns = loop->now_ns;
  }
  int failure = BUS_LOAD_ACQUIRE(&recorder->failure);
  if (!error && failure && !recorder->config.wait_when_full)
    error = bus_error_set(failure, "%s", recorder->writer.failure_message);
  return error;
}
