#include "consumers/record_rings.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORDS_PER_POLL 1024u
#define OFFSET_MOVED_NS  1000000 /* the wall clock was set: said in the next META block */

/* ---- hot path ---- */

/* Positions that will not be in the capture; said at once, on the bus. */
static void note_gap(struct bus_recorder *recorder, uint32_t index, uint64_t first, uint64_t count,
                     uint8_t cause, uint64_t now_ns)
{
  const struct bus_staging_stream *stream = &recorder->staging.streams[index];
  struct bus_gap *gap = bus_producer_reserve(&recorder->gaps); /* it overwrites: never NULL */
  gap->time_ns = now_ns;
  gap->first = first;
  gap->last = first + count - 1;
  gap->instance = stream->instance;
  gap->cause = cause;
  memset(gap->reserved0, 0, sizeof gap->reserved0);
  gap->stream = recorder->sources[index].stream_id;
  bus_producer_commit(&recorder->gaps);
  bus_counter_add(recorder->counters.gaps, 1);
  bus_counter_add(recorder->counters.records_lost, count);
}

/* No block is free. What is overwritten while the disk takes nothing is the disk's fault, also when
 * that shows only after it has begun to take some again. */
static void note_pressure(struct bus_recorder *recorder, struct bus_record_source *source)
{
  int failure = BUS_LOAD_RELAXED(&recorder->failure);
  recorder->pressed = true;
  if (failure)
    source->held_up_by = failure == BUS_ERROR_NO_SPACE ? BUS_GAP_DISK_FULL : BUS_GAP_WRITE_ERROR;
}

/* A block is taken only when there is something to put into it: idle rings hold none. */
static BUS_ALWAYS_INLINE bool observer_has_record(const struct bus_observer *observer)
{
  const unsigned char *slot =
      observer->slots + (observer->next & observer->mask) * observer->record_size;
  uint64_t stamp = BUS_LOAD_RELAXED(bus_slot_stamp(slot, observer->record_size));
  return (int64_t)(stamp - observer->next) > 0;
}

static uint32_t observe(struct bus_recorder *recorder, uint32_t index, uint64_t now_ns)
{
  struct bus_record_source *source = &recorder->sources[index];
  uint32_t taken = 0;
  for (uint32_t i = 0; i < RECORDS_PER_POLL; i++) {
    if (!source->filler.block && !observer_has_record(&source->observer))
      break;
    void *to = bus_staging_reserve(&source->filler, now_ns);
    if (BUS_UNLIKELY(!to)) {
      note_pressure(recorder, source);
      return taken;
    }
    const uint64_t next = source->observer.next;
    int status = bus_observer_poll(&source->observer, to);
    if (status == 0)
      break;
    if (BUS_LIKELY(status == 1)) {
      bus_staging_commit(&source->filler);
      taken++;
    } else {
      uint8_t cause = source->held_up_by ? source->held_up_by : BUS_GAP_OVERRUN;
      note_gap(recorder, index, next, source->observer.next - next, cause, now_ns);
    }
  }
  source->drained = taken == 0;
  if (taken > 0)
    source->held_up_by = 0;
  return taken;
}

static uint32_t consume(struct bus_recorder *recorder, uint32_t index, uint64_t now_ns)
{
  struct bus_record_source *source = &recorder->sources[index];
  struct bus_consumer *consumer = &source->reliable->consumer;
  uint32_t taken = 0;
  const void *from;
  while (taken < RECORDS_PER_POLL && (from = bus_consumer_poll(consumer)) != NULL) {
    int64_t ahead = (int64_t)(consumer->next - source->next);
    void *to = ahead < 0 ? NULL : bus_staging_reserve(&source->filler, now_ns);
    if (ahead >= 0 && !to) {
      note_pressure(recorder, source);
      return taken; /* the producer waits */
    }
    if (ahead > 0)
      note_gap(recorder, index, source->next, (uint64_t)ahead, BUS_GAP_OVERRUN, now_ns);
    if (to) { /* else a predecessor has staged it */
      memcpy(to, from, consumer->record_size);
      bus_staging_commit(&source->filler);
      source->next = consumer->next + 1;
      taken++;
    }
    bus_consumer_release(consumer);
  }
  source->drained = taken == 0;
  return taken;
}

/* All free blocks are gone, and none is on its way to the disk: many slow rings hold one each. */
static void relieve(struct bus_recorder *recorder)
{
  for (uint32_t i = 0; i < recorder->staging.depth; i++)
    if (BUS_LOAD_RELAXED(&recorder->staging.blocks[i].state) == BUS_STAGING_FULL)
      return;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++)
    if (recorder->sources[i].active)
      bus_staging_filler_finish(&recorder->sources[i].filler);
}

int bus_rings_poll(struct bus_recorder *recorder, uint64_t now_ns)
{
  uint32_t records = 0;
  recorder->pressed = false;
  for (uint32_t i = 0; i < recorder->sources_end; i++) {
    struct bus_record_source *source = &recorder->sources[i];
    if (!source->active)
      continue;
    uint32_t taken = source->reliable ? consume(recorder, i, now_ns) : observe(recorder, i, now_ns);
    if (taken > 0 && source->filler.block)
      BUS_STORE_RELAXED(&source->filler.block->last_seen_ns, now_ns);
    records += taken;
    struct bus_staging_stream *stream = &recorder->staging.streams[i];
    if (BUS_UNLIKELY(BUS_LOAD_ACQUIRE(&stream->rotate))) {
      bus_staging_filler_finish(&source->filler);
      BUS_STORE_RELAXED(&stream->rotate, 0u);
    }
  }
  if (records > 0)
    bus_counter_add(recorder->counters.records, records);
  if (BUS_UNLIKELY(recorder->pressed)) {
    bus_counter_add(recorder->counters.staging_full, 1);
    relieve(recorder);
  }
  return (int)records;
}

/* ---- streams ---- */

/* The stream of this ring that the process before this one had, or a new one. */
static int find_stream(struct bus_recorder *recorder, const struct bus_member_header *header,
                       const struct bus_entry *entry, bool *resumed)
{
  struct bus_staging *staging = &recorder->staging;
  *resumed = true;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    const struct bus_staging_stream *stream = &staging->streams[i];
    if (recorder->recovered[i] && stream->instance == header->instance &&
        !strcmp(stream->member, header->name) && !strcmp(stream->ring, entry->name) &&
        stream->record_type == entry->record_type && stream->record_size == entry->record_size) {
      recorder->recovered[i] = false;
      return (int)i;
    }
  }
  *resumed = false;
  int index = bus_staging_stream_new(staging);
  if (index < 0)
    return index;
  struct bus_staging_stream *stream = &staging->streams[index];
  snprintf(stream->member, sizeof stream->member, "%s", header->name);
  snprintf(stream->ring, sizeof stream->ring, "%s", entry->name);
  stream->instance = header->instance;
  stream->depth = entry->depth;
  stream->record_type = entry->record_type;
  stream->record_size = entry->record_size;
  return index;
}

static void describe(struct bus_recorder *recorder, uint32_t index)
{
  struct bus_record_source *source = &recorder->sources[index];
  const struct bus_neighbour *neighbour =
      source->reliable ? source->reliable->neighbour : source->neighbour;
  if (!neighbour)
    return;
  int64_t offset_ns = bus_clock_realtime_offset_ns();
  int64_t moved_ns = offset_ns - source->began.realtime_offset_ns;
  if (moved_ns > OFFSET_MOVED_NS || moved_ns < -OFFSET_MOVED_NS)
    source->began.realtime_offset_ns = offset_ns;
  const uint32_t block_size = recorder->staging.block_size;
  char *text = bus_meta_compose(neighbour, source->entry, &source->began, block_size,
                                block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES);
  if (text)
    bus_writer_set_meta(&recorder->writer, index, text, strlen(text));
  free(text);
}

/* Starts the recording of a ring; `next` is where its reader can begin. Returns the index of its
 * stream, negative (with a message) when there is no room. */
static int start_stream(struct bus_recorder *recorder, const struct bus_neighbour *neighbour,
                        const struct bus_entry *entry, uint64_t *next, uint64_t now_ns)
{
  const struct bus_member_header *header = bus_neighbour_header(neighbour);
  char name[BUS_CAPTURE_STREAM_BYTES];
  bool resumed;
  int index = find_stream(recorder, header, entry, &resumed);
  if (index < 0)
    return index;
  struct bus_staging_stream *stream = &recorder->staging.streams[index];
  struct bus_record_source *source = &recorder->sources[index];
  memset(source, 0, sizeof *source);
  snprintf(name, sizeof name, "%s.%s", stream->member, stream->ring);
  source->stream_id = bus_capture_stream_id(name);
  source->entry = entry;
  source->began.realtime_offset_ns = bus_clock_realtime_offset_ns();
  source->began.created_realtime_ns =
      bus_clock_monotonic_ns() + (uint64_t)source->began.realtime_offset_ns;
  if (resumed) {
    uint64_t resume = recorder->resume[index];
    recorder->rings_resumed += strcmp(stream->member, recorder->config.name) != 0;
    if ((int64_t)(*next - resume) > 0)
      note_gap(recorder, (uint32_t)index, resume, *next - resume, BUS_GAP_STOPPED, now_ns);
    else
      *next = resume;
  } else {
    stream->durable = *next;
  }
  source->next = *next;
  bus_staging_filler_init(&source->filler, &recorder->staging, (uint32_t)index);
  BUS_STORE_RELEASE(&stream->used, 1u);
  bus_counter_add(recorder->counters.streams, 1);
  recorder->rings_found += strcmp(stream->member, recorder->config.name) != 0;
  if ((uint32_t)index >= recorder->sources_end)
    recorder->sources_end = (uint32_t)index + 1;
  return index;
}

/* Nothing more comes: the writer closes its segment when all is written. */
static void end_stream(struct bus_recorder *recorder, uint32_t index)
{
  struct bus_record_source *source = &recorder->sources[index];
  if (source->active) {
    describe(recorder, index);
    bus_staging_filler_finish(&source->filler);
  }
  if (source->filler.block) /* taken, and nothing came */
    BUS_STORE_RELEASE(&source->filler.block->state, (uint32_t)BUS_STAGING_FREE);
  source->filler.block = NULL;
  source->active = false;
  BUS_STORE_RELEASE(&recorder->staging.streams[index].ended, 1u);
}

/* ---- observed members ---- */

static bool is_wanted(const struct bus_recorder *recorder, const char *member, const char *ring)
{
  const struct bus_record_config *config = &recorder->config;
  if (config->block)
    return !strcmp(member, config->name) && (!ring || !strcmp(ring, "gaps")); /* its own gaps */
  if (config->ring_count == 0 || (!strcmp(member, config->name)))
    return true;
  for (uint32_t i = 0; i < config->ring_count; i++)
    if (!strcmp(config->rings[i].member, member) && (!ring || !strcmp(config->rings[i].ring, ring)))
      return true;
  return false;
}

static void refuse_ring(struct bus_recorder *recorder, const char *member, const char *ring)
{
  if (!recorder->refused_ring)
    fprintf(stderr, "bus-record: %s.%s is not recorded: %s\n", member, ring, bus_error_message());
  recorder->refused_ring = true;
}

static void observe_ring(struct bus_recorder *recorder, struct bus_record_neighbour *from,
                         const struct bus_entry *entry, uint64_t now_ns)
{
  if (bus_capture_capacity(entry->record_size, recorder->staging.block_size) == 0) {
    bus_error_set(BUS_ERROR_INVALID, "its records of %u bytes do not fit a block: --block-size %u",
                  entry->record_size,
                  BUS_ALIGN_UP(entry->record_size + BUS_CAPTURE_BLOCK_HEADER_BYTES,
                               BUS_CAPTURE_BLOCK_BYTES_MIN));
    refuse_ring(recorder, from->name, entry->name);
    return;
  }
  struct bus_observer observer;
  bool from_oldest = !recorder->config.from_now;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) /* known: from where it stopped */
    from_oldest |= recorder->recovered[i] &&
                   !strcmp(recorder->staging.streams[i].member, from->name) &&
                   !strcmp(recorder->staging.streams[i].ring, entry->name);
  bus_observer_init(&observer, bus_neighbour_object(from->neighbour, entry), entry, from_oldest);
  int index = start_stream(recorder, from->neighbour, entry, &observer.next, now_ns);
  if (index < 0) {
    refuse_ring(recorder, from->name, entry->name);
    return;
  }
  struct bus_record_source *source = &recorder->sources[index];
  source->observer = observer;
  source->neighbour = from->neighbour;
  source->active = true;
  describe(recorder, (uint32_t)index);
}

/* A member that this program will not be able to read, however often it looks. */
static void refuse_member(struct bus_recorder *recorder, const char *name, int error)
{
  if (error != BUS_ERROR_VERSION && error != BUS_ERROR_DENIED)
    return;
  if (!recorder->refused_member)
    fprintf(stderr, "bus-record: '%s' is not recorded: %s\n", name, bus_error_message());
  recorder->refused_member = true;
}

struct scan {
  struct bus_recorder *recorder;
  uint64_t now_ns;
};

static int visit_member(const char *name, void *context)
{
  struct scan *scan = context;
  struct bus_recorder *recorder = scan->recorder;
  struct bus_record_neighbour *free_place = NULL;
  if (!is_wanted(recorder, name, NULL))
    return 0;
  for (uint32_t i = 0; i < BUS_RECORD_MEMBERS_MAX; i++) {
    struct bus_record_neighbour *place = &recorder->neighbours[i];
    if (place->neighbour && !strcmp(place->name, name))
      return 0; /* known; when it is gone it is drained first */
    if (!place->neighbour && !free_place)
      free_place = place;
  }
  struct bus_neighbour *neighbour;
  if (!free_place)
    return 0;
  int error = bus_neighbour_attach(recorder->config.directory, name, true, &neighbour);
  if (error) { /* not a member's file, or not ready: looked at again */
    refuse_member(recorder, name, error);
    return 0;
  }
  snprintf(free_place->name, sizeof free_place->name, "%s", name);
  free_place->neighbour = neighbour;
  free_place->gone = false;
  const struct bus_entry *entry;
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++)
    if (entry->type == BUS_OBJECT_RING && is_wanted(recorder, name, entry->name))
      observe_ring(recorder, free_place, entry, scan->now_ns);
  return 0;
}

/* A member whose file was deleted or replaced is read to its end, then let go. */
static void let_go(struct bus_recorder *recorder)
{
  for (uint32_t i = 0; i < BUS_RECORD_MEMBERS_MAX; i++) {
    struct bus_record_neighbour *from = &recorder->neighbours[i];
    if (!from->neighbour)
      continue;
    if (!from->gone) {
      from->gone = bus_neighbour_status(from->neighbour, UINT64_MAX) == BUS_NEIGHBOUR_GONE;
      for (uint32_t j = 0; from->gone && j < recorder->sources_end; j++)
        recorder->sources[j].drained = false;
      continue; /* at least one more poll */
    }
    bool drained = true;
    for (uint32_t j = 0; j < recorder->sources_end; j++)
      if (recorder->sources[j].active && recorder->sources[j].neighbour == from->neighbour)
        drained &= recorder->sources[j].drained;
    if (!drained)
      continue;
    for (uint32_t j = 0; j < recorder->sources_end; j++)
      if (recorder->sources[j].active && recorder->sources[j].neighbour == from->neighbour)
        end_stream(recorder, j);
    bus_neighbour_detach(from->neighbour);
    from->neighbour = NULL;
  }
}

/* ---- rings that hold back for this recorder ---- */

void bus_rings_init(struct bus_recorder *recorder)
{
  for (uint32_t i = 0; i < BUS_RECORD_RINGS_MAX; i++)
    recorder->reliable_stream[i] = -1;
}

/* The ring's type and size are the producer's to say. */
static int describe_tie(struct bus_recorder *recorder, uint32_t at)
{
  const struct bus_record_ring *ring = &recorder->config.rings[at];
  struct bus_neighbour *neighbour;
  int error = bus_neighbour_attach(recorder->config.directory, ring->member, true, &neighbour);
  if (error)
    return error;
  const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_RING, ring->ring);
  error = entry ? bus_subscription_init(&recorder->reliable[at], recorder->config.directory,
                                        ring->member, ring->ring, entry->record_type,
                                        entry->record_size, recorder->member)
                : BUS_ERROR_ABSENT;
  bus_neighbour_detach(neighbour);
  return error;
}

static void follow_tie(struct bus_recorder *recorder, uint32_t at, uint64_t now_ns)
{
  struct bus_subscription *tie = &recorder->reliable[at];
  const struct bus_entry *entry = bus_neighbour_find(tie->neighbour, BUS_OBJECT_RING, tie->ring);
  uint64_t next = tie->consumer.next;
  int index = start_stream(recorder, tie->neighbour, entry, &next, now_ns);
  recorder->reliable_stream[at] = index;
  if (index < 0) {
    refuse_ring(recorder, tie->member, tie->ring);
    return;
  }
  recorder->sources[index].reliable = tie;
  recorder->sources[index].active = true;
  describe(recorder, (uint32_t)index);
}

static int tend_tie(struct bus_recorder *recorder, uint32_t at, uint64_t now_ns)
{
  struct bus_subscription *tie = &recorder->reliable[at];
  int index = recorder->reliable_stream[at];
  if (tie->neighbour && index >= 0 &&
      bus_neighbour_status(tie->neighbour, UINT64_MAX) == BUS_NEIGHBOUR_GONE) {
    while (consume(recorder, (uint32_t)index, now_ns) > 0)
      continue;
    if (recorder->pressed && bus_consumer_poll(&tie->consumer))
      return BUS_OK; /* when the disk has taken some */
    end_stream(recorder, (uint32_t)index);
    recorder->reliable_stream[at] = -1;
  }
  int status = tie->neighbour || describe_tie(recorder, at) == BUS_OK
                   ? bus_subscription_maintain(tie, 0)
                   : BUS_ERROR_ABSENT;
  if (status == 1)
    follow_tie(recorder, at, now_ns);
  return status == BUS_ERROR_INVALID ? status : BUS_OK;
}

/* ---- housekeeping ---- */

int bus_rings_scan(struct bus_recorder *recorder, uint64_t now_ns)
{
  struct scan scan = {recorder, now_ns};
  bool first = recorder->scanned_ns == 0;
  int error = BUS_OK;
  let_go(recorder);
  for (uint32_t i = 0; !error && recorder->config.block && i < recorder->config.ring_count; i++)
    error = tend_tie(recorder, i, now_ns);
  if (!error)
    bus_directory_visit(recorder->config.directory, visit_member, &scan);
  /* Streams whose ring is not there any more: what was staged is written, more will not come. */
  for (uint32_t i = 0; first && i < BUS_STAGING_STREAMS_MAX; i++)
    if (recorder->recovered[i]) {
      recorder->recovered[i] = false;
      recorder->sources[i].stream_id = 0;
      end_stream(recorder, i);
    }
  return error;
}

void bus_rings_describe(struct bus_recorder *recorder)
{
  for (uint32_t i = 0; i < recorder->sources_end; i++)
    if (recorder->sources[i].active)
      describe(recorder, i);
}

void bus_rings_close(struct bus_recorder *recorder)
{
  for (uint32_t i = 0; i < BUS_RECORD_RINGS_MAX; i++)
    if (recorder->reliable[i].neighbour)
      bus_subscription_close(&recorder->reliable[i]);
  for (uint32_t i = 0; i < BUS_RECORD_MEMBERS_MAX; i++)
    bus_neighbour_detach(recorder->neighbours[i].neighbour);
}
