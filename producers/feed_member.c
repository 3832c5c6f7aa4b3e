#include "producers/feed_member.h"

#include "shm/doorbell.h"
#include "shm/error.h"
#include "shm/symbols.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Lines in one cycle of the loop: bounds the time to the next housekeeping. */
#define LINES_PER_CYCLE   64
#define SYMBOLS_DEPTH_MAX 1024u
#define OWN_OBJECTS       11
#define OBJECTS_MAX       (OWN_OBJECTS + BUS_FEED_COUNTER_COUNT)

struct bus_feed_member {
  struct bus_feed_member_config config;
  struct bus_member *member;
  struct bus_feed *feed;
  struct bus_loop loop;
  struct bus_producer producer;
  struct bus_backlink backlink;
  struct bus_histogram *decode_ns;
  uint64_t *counters[BUS_FEED_COUNTER_COUNT];
  uint64_t *source_bytes;
  uint64_t *source_bytes_total;
  uint64_t *source_errors;
  uint64_t *resumed_records;
  void *symbols;
  const struct bus_entry *symbols_entry;
  uint32_t symbols_published;
  const char *line; /* read, not yet processed; NULL: none */
  size_t line_length;
  uint64_t skip_records; /* already published by a predecessor */
  uint64_t pace_bus_ns;  /* bus time at which ... */
  uint64_t pace_line_ns; /* ... the line with this stamp was due; 0: not set */
  uint64_t end_ns;
  int result;
  struct bus_feature scratch; /* where skipped records go */
};

static void publish_symbols(struct bus_feed_member *member)
{
  for (; member->symbols_published < bus_feed_symbol_count(member->feed);
       member->symbols_published++)
    bus_symbols_add(member->symbols, member->symbols_entry,
                    bus_feed_symbol(member->feed, member->symbols_published));
}

static struct bus_feature *reserve(void *context)
{
  struct bus_feed_member *member = context;
  if (BUS_UNLIKELY(member->symbols_published < bus_feed_symbol_count(member->feed)))
    publish_symbols(member); /* before the first record that names it */
  if (BUS_UNLIKELY(member->skip_records > 0))
    return &member->scratch;
  return bus_producer_reserve(&member->producer);
}

static void commit(void *context)
{
  struct bus_feed_member *member = context;
  if (BUS_UNLIKELY(member->skip_records > 0))
    member->skip_records--;
  else {
    bus_producer_commit(&member->producer);
    if (member->config.doorbell)
      bus_doorbell_ring(&member->producer);
  }
}

/* The digits that a line begins with; 0 when there are none. */
static uint64_t line_time_ns(const char *line, size_t length)
{
  uint64_t ns = 0;
  for (size_t i = 0; i < length && i < 19 && line[i] >= '0' && line[i] <= '9'; i++)
    ns = ns * 10 + (uint64_t)(line[i] - '0');
  return ns;
}

/* Bus time at which a line with this stamp is due. The first line, and every line that would be
 * more than a minute late (a clock step in the capture, or a stop of this process), restarts the
 * pace. */
static bool is_due(struct bus_feed_member *member, uint64_t line_ns, uint64_t now_ns)
{
  const uint64_t restart_ns = 60000000000u;
  double line_offset_ns = (double)(int64_t)(line_ns - member->pace_line_ns) / member->config.speed;
  uint64_t due_ns = member->pace_bus_ns + (uint64_t)(int64_t)line_offset_ns;
  int64_t late_ns = (int64_t)(now_ns - due_ns);
  if (member->pace_line_ns == 0 || late_ns > (int64_t)restart_ns ||
      late_ns < -(int64_t)restart_ns * 60) {
    member->pace_line_ns = line_ns;
    member->pace_bus_ns = now_ns;
    return true;
  }
  return late_ns >= 0;
}

static int end_of_source(struct bus_feed_member *member, int result)
{
  if (result < 0) {
    bus_counter_add(member->source_errors, 1);
    return result;
  }
  return BUS_ERROR_AGAIN;
}

static void process_line(struct bus_feed_member *member, uint64_t line_ns, uint64_t now_ns)
{
  uint64_t timestamp_ns = member->config.capture_timestamps ? line_ns : now_ns;
  int result = bus_feed_line(member->feed, member->line, member->line_length, timestamp_ns);
  if (result > 0)
    bus_histogram_record(member->decode_ns, bus_clock_now_ns(&member->loop.clock) - now_ns);
  member->line = NULL;
}

static int work(void *context, struct bus_loop *loop)
{
  struct bus_feed_member *member = context;
  for (int lines = 0; lines < LINES_PER_CYCLE; lines++) {
    if (!member->line) {
      int result = bus_source_next(member->config.source, &member->line, &member->line_length);
      if (result <= 0) {
        member->line = NULL;
        return end_of_source(member, result);
      }
    }
    uint64_t now_ns = bus_clock_now_ns(&loop->clock);
    uint64_t line_ns = line_time_ns(member->line, member->line_length);
    if (member->skip_records == 0) {
      if (member->config.speed > 0 && !is_due(member, line_ns, now_ns))
        return lines;
      if (member->config.policy == BUS_POLICY_WAIT && !bus_producer_reserve(&member->producer))
        return lines; /* full: the line waits, housekeeping goes on */
    }
    process_line(member, line_ns, now_ns);
  }
  return LINES_PER_CYCLE;
}

void bus_feed_member_copy_counters(const struct bus_feed_member *member,
                                   struct bus_feed_counters *counters)
{
  *counters = *bus_feed_counters(member->feed);
  counters->oversize_lines += member->config.source->oversize_lines;
}

static void publish_counters(struct bus_feed_member *member)
{
  struct bus_feed_counters counters;
  bus_feed_member_copy_counters(member, &counters);
  uint64_t values[BUS_FEED_COUNTER_COUNT];
  memcpy(values, &counters, sizeof values);
  for (size_t i = 0; i < BUS_FEED_COUNTER_COUNT; i++)
    bus_counter_set(member->counters[i], values[i]);
  bus_counter_set(member->source_bytes,
                  member->config.source->consumed_bytes(member->config.source));
}

static int housekeeping(void *context, struct bus_loop *loop)
{
  struct bus_feed_member *member = context;
  bus_backlink_maintain(&member->backlink); /* an absent consumer is no error: it may come */
  bus_producer_report(&member->producer);
  publish_counters(member);
  if (member->end_ns && loop->now_ns >= member->end_ns)
    return BUS_ERROR_AGAIN;
  return BUS_OK;
}

static uint32_t list_objects(const struct bus_feed_member_config *config,
                             struct bus_object_spec *objects)
{
  const struct bus_object_spec own[] = {
      {.type = BUS_OBJECT_RING,
       .name = BUS_FEED_RING,
       .peer = config->consumer,
       .record_type = BUS_RECORD_FEATURE,
       .record_size = sizeof(struct bus_feature),
       .policy = config->policy,
       .depth = config->ring_depth},
      {.type = BUS_OBJECT_SYMBOLS, .name = "symbols", .depth = SYMBOLS_DEPTH_MAX},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "decode_ns", .unit = "ns"},
      {.type = BUS_OBJECT_TEXT, .name = "source", .depth = 512},
      BUS_LOOP_OBJECTS,
      {.type = BUS_OBJECT_COUNTER, .name = "source_bytes", .unit = "bytes"},
      {.type = BUS_OBJECT_COUNTER, .name = "source_bytes_total", .unit = "bytes"},
      {.type = BUS_OBJECT_COUNTER, .name = "source_errors", .unit = "errors"},
      {.type = BUS_OBJECT_COUNTER, .name = "resumed_records", .unit = "records"},
  };
  uint32_t count = 0;
  for (; count < BUS_COUNT_OF(own); count++)
    objects[count] = own[count];
  for (size_t i = 0; i < BUS_FEED_COUNTER_COUNT; i++)
    objects[count++] = (struct bus_object_spec){.type = BUS_OBJECT_COUNTER,
                                                .name = bus_feed_counter_descriptions[i].name,
                                                .unit = bus_feed_counter_descriptions[i].unit};
  return count;
}

static int join_bus(struct bus_feed_member *member)
{
  const struct bus_feed_member_config *config = &member->config;
  struct bus_object_spec objects[OBJECTS_MAX];
  struct bus_member_config file = {.directory = config->options.directory,
                                   .name = config->options.name,
                                   .kind = "feed",
                                   .objects = objects,
                                   .object_count = list_objects(config, objects),
                                   .takeover = BUS_TAKEOVER_AFTER_CRASH,
                                   .identity = config->source_identity,
                                   .mode = config->options.mode,
                                   .numa_node = config->options.numa_node,
                                   .core = config->options.core,
                                   .small_pages = config->options.small_pages};
  return bus_member_new(&file, &member->member);
}

static uint64_t *counter(const struct bus_feed_member *member, const char *name)
{
  return bus_member_object(member->member, BUS_OBJECT_COUNTER, name);
}

static void find_objects(struct bus_feed_member *member)
{
  for (size_t i = 0; i < BUS_FEED_COUNTER_COUNT; i++)
    member->counters[i] = counter(member, bus_feed_counter_descriptions[i].name);
  member->source_bytes = counter(member, "source_bytes");
  member->source_bytes_total = counter(member, "source_bytes_total");
  member->source_errors = counter(member, "source_errors");
  member->resumed_records = counter(member, "resumed_records");
  member->decode_ns = bus_member_object(member->member, BUS_OBJECT_HISTOGRAM, "decode_ns");
  member->symbols = bus_member_object(member->member, BUS_OBJECT_SYMBOLS, "symbols");
  member->symbols_entry = bus_member_entry(member->member, BUS_OBJECT_SYMBOLS, "symbols");
  bus_counter_set(member->source_bytes_total, member->config.source->total_bytes);
  bus_member_set_text(member->member, "source", "%s", member->config.source_text);
}

/* Every record of a source has its place: committed, or counted as dropped in the ring's header,
 * each by one store. So their sum is how far a predecessor came, whenever it was killed. */
static int open_ring(struct bus_feed_member *member)
{
  const struct bus_entry *entry = bus_member_entry(member->member, BUS_OBJECT_RING, BUS_FEED_RING);
  void *memory = bus_member_object(member->member, BUS_OBJECT_RING, BUS_FEED_RING);
  bus_producer_init(&member->producer, memory, entry, bus_member_header(member->member)->instance);
  if (member->config.doorbell)
    bus_doorbell_install(&member->producer);
  struct bus_ring_header *header = memory;
  member->skip_records = member->producer.next - header->first + header->dropped;
  bus_counter_set(member->resumed_records, member->skip_records);
  return bus_backlink_init(&member->backlink, member->config.options.directory,
                           member->config.options.name, entry, &member->producer);
}

int bus_feed_member_new(const struct bus_feed_member_config *config,
                        struct bus_feed_member **result)
{
  *result = NULL;
  struct bus_feed_member *member = calloc(1, sizeof *member);
  if (!member)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  member->config = *config;
  member->config.feed.sink = (struct bus_feed_sink){reserve, commit, member};
  int error = BUS_OK;
  member->feed = bus_feed_new(&member->config.feed);
  if (!member->feed)
    error = BUS_ERROR_INVALID; /* with its message */
  if (!error)
    error = join_bus(member);
  if (!error) {
    find_objects(member);
    error = open_ring(member);
  }
  if (!error)
    error = bus_loop_init(&member->loop, member->member, config->options.idle, config->options.core,
                          config->options.numa_node);
  if (error) {
    member->result = error;
    bus_feed_member_delete(member);
    return error;
  }
  *result = member;
  return BUS_OK;
}

int bus_feed_member_run(struct bus_feed_member *member)
{
  static const struct bus_loop_operations operations = {work, housekeeping, NULL};
  if (member->config.seconds)
    member->end_ns = bus_clock_now_ns(&member->loop.clock) + member->config.seconds * 1000000000u;
  bus_backlink_maintain(&member->backlink);
  publish_symbols(member);
  bus_member_run(member->member);
  member->result = bus_loop_run(&member->loop, &operations, member);
  bus_producer_report(&member->producer);
  publish_counters(member);
  return member->result;
}

void bus_feed_member_delete(struct bus_feed_member *member)
{
  if (!member)
    return;
  bus_backlink_close(&member->backlink);
  bus_member_leave(member->member, member->result == BUS_OK ? BUS_STATE_HALT : BUS_STATE_FAIL);
  bus_feed_delete(member->feed);
  free(member);
}

/* ---- without a bus ---- */

struct file_sink {
  FILE *file;
  struct bus_feature record;
  int64_t records;
  bool failed;
};

static struct bus_feature *file_reserve(void *context)
{
  return &((struct file_sink *)context)->record;
}

static void file_commit(void *context)
{
  struct file_sink *sink = context;
  sink->record.stamp = (uint64_t)++sink->records;
  if (fwrite(&sink->record, sizeof sink->record, 1, sink->file) != 1)
    sink->failed = true;
}

static int drain_source(struct bus_source *source, struct bus_feed *feed, struct file_sink *sink,
                        const char *path)
{
  const char *line;
  size_t length;
  int result;
  while ((result = bus_source_next(source, &line, &length)) > 0 && !bus_loop_stop_requested()) {
    bus_feed_line(feed, line, length, line_time_ns(line, length));
    if (sink->failed)
      return bus_error_set_errno("%s: writing records", path);
  }
  return result < 0 ? result : BUS_OK;
}

int64_t bus_feed_write_file(struct bus_source *source, const struct bus_feed_config *config,
                            const char *path, struct bus_feed_counters *counters)
{
  struct file_sink sink = {.file = fopen(path, "wbe")};
  if (!sink.file)
    return bus_error_set_errno("%s: creating", path);
  struct bus_feed_config with_sink = *config;
  with_sink.sink = (struct bus_feed_sink){file_reserve, file_commit, &sink};
  struct bus_feed *feed = bus_feed_new(&with_sink);
  int error = feed ? drain_source(source, feed, &sink, path) : BUS_ERROR_INVALID;
  if (feed) {
    *counters = *bus_feed_counters(feed);
    counters->oversize_lines += source->oversize_lines;
  }
  bus_feed_delete(feed);
  if (fclose(sink.file) != 0 && !error)
    error = bus_error_set_errno("%s: writing records", path);
  return error ? error : sink.records;
}
