#include "consumers/capture_merge.h"

#include <stdlib.h>
#include <string.h>

/* Blocks that end so long before the range begins are passed over unread. Nearer ones are read: a
 * record inside may be later than the block's last one. */
#define SKIP_MARGIN_NS ((uint64_t)1000000000)

/* One stream and its next event. */
struct lane {
  struct bus_capture_event event;
  struct bus_capture_cursor *cursor;
  const struct bus_capture_stream *stream;
  uint64_t order; /* among events of the same time */
  bool done;
  bool started;  /* a record of the range was found: what is missing from now on is a gap */
  bool damaged;  /* a block was passed over since the last record */
  bool timed;    /* the records carry a time */
  bool gap_told; /* of the gap before the present record */
  bool filtered; /* records were left out on purpose: what is missing is no gap */
  /* The block that is being given out. */
  const struct bus_capture_block *block;
  const unsigned char *record; /* the next one */
  uint32_t left;               /* records from `record` on */
  /* The next record's position if nothing is missing. */
  uint64_t expected;
  bool expected_known;
  uint64_t time_ns; /* the greatest so far */
  const struct bus_capture_segment *segment;
  size_t segment_index; /* of the next block; kept here to pass over blocks */
  uint64_t block_index;
  json_t *meta;
};

struct bus_capture_merge {
  struct bus_capture *capture;
  struct bus_capture_range range;
  struct lane *lanes;
  uint32_t lane_count;
  struct lane *current;
  /* Below this the current lane stays the first. */
  uint64_t limit_ns;
  uint64_t limit_order;
  uint64_t bytes_done;
  uint64_t bytes_total;
};

/* ---- one lane ---- */

static uint64_t time_of(const struct lane *lane)
{
  const struct bus_capture_block *block = lane->block;
  if (lane->timed)
    return bus_capture_record_time(lane->stream->record_type, lane->stream->record_size,
                                   lane->record);
  if (block->count < 2 || block->last_time_ns <= block->first_time_ns)
    return block->first_time_ns;
  uint64_t span_ns = block->last_time_ns - block->first_time_ns;
  uint32_t index = block->count - lane->left;
  return block->first_time_ns + (uint64_t)((double)span_ns * index / (block->count - 1));
}

/* True when the index alone says that the block lies outside of the range. */
static bool lies_outside(const struct bus_capture_merge *merge,
                         const struct bus_capture_segment *segment, uint64_t number)
{
  const struct bus_capture_block *block = &segment->index[number];
  const struct bus_capture_range *range = &merge->range;
  if (segment->states[number] == BUS_CAPTURE_BLOCK_BAD || block->kind != BUS_CAPTURE_DATA)
    return false;
  return block->last < range->from_position || block->first >= range->until_position ||
         (block->last_time_ns < range->from_ns &&
          range->from_ns - block->last_time_ns > SKIP_MARGIN_NS);
}

/* Goes to the stream's next block that may have something. Returns false at the end. */
static bool find_block(struct bus_capture_merge *merge, struct lane *lane)
{
  const struct bus_capture_stream *stream = lane->stream;
  bool skipped = false;
  for (; lane->segment_index < stream->segment_count;
       lane->segment_index++, lane->block_index = 0) {
    const struct bus_capture_segment *segment = &stream->segments[lane->segment_index];
    for (; lane->block_index < segment->blocks; lane->block_index++) {
      const struct bus_capture_block *block = &segment->index[lane->block_index];
      merge->bytes_done += segment->shape.block_size;
      if (!lies_outside(merge, segment, lane->block_index)) {
        if (skipped)
          bus_capture_cursor_seek(lane->cursor, lane->segment_index, lane->block_index);
        lane->block_index++;
        return true;
      }
      skipped = true;
      lane->expected = block->last + 1;
      lane->expected_known = true;
      if (block->last_time_ns > lane->time_ns)
        lane->time_ns = block->last_time_ns;
    }
  }
  return false;
}

static int tell(struct lane *lane, enum bus_capture_event_kind kind)
{
  lane->event.kind = kind;
  lane->event.time_ns = lane->time_ns;
  lane->event.record = NULL;
  return 1;
}

static int read_meta(struct lane *lane, const struct bus_capture_block *block)
{
  json_t *meta;
  int error = bus_capture_meta_parse((const char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES,
                                     block->count, &meta);
  if (error)
    return error;
  json_decref(lane->meta);
  lane->event.meta = lane->meta = meta;
  return BUS_OK;
}

/* Takes the next block. Returns 2: records are there, 1: an event, 0: the end, or an error. */
static int next_block(struct bus_capture_merge *merge, struct lane *lane)
{
  struct bus_capture_view view;
  if (!find_block(merge, lane))
    return 0;
  int status = bus_capture_cursor_next(lane->cursor, &view);
  if (status <= 0)
    return status;
  bool replaced = false;
  if (view.segment != lane->segment) {
    lane->segment = view.segment;
    replaced = view.segment->instance && lane->event.instance &&
               view.segment->instance != lane->event.instance;
    if (view.segment->instance)
      lane->event.instance = view.segment->instance;
    if (replaced)
      lane->expected_known = false;
  }
  if (!view.block) {
    lane->damaged = true;
    return tell(lane, BUS_CAPTURE_EVENT_DAMAGE);
  }
  if (view.block->kind == BUS_CAPTURE_META) {
    if (read_meta(lane, view.block) != BUS_OK) {
      lane->damaged = true;
      return tell(lane, BUS_CAPTURE_EVENT_DAMAGE);
    }
    return tell(lane, replaced ? BUS_CAPTURE_EVENT_INSTANCE : BUS_CAPTURE_EVENT_META);
  }
  lane->block = view.block;
  lane->record = (const unsigned char *)view.block + BUS_CAPTURE_BLOCK_HEADER_BYTES;
  lane->left = view.block->count;
  /* What the block says is missing before the capture's first one. */
  uint64_t inside = view.block->last - view.block->first + 1 - view.block->count;
  if (!lane->expected_known && !lane->damaged && view.block->lost > inside &&
      view.block->lost - inside <= view.block->first) {
    lane->expected = view.block->first - (view.block->lost - inside);
    lane->expected_known = true;
  }
  return 2;
}

/* Makes the lane's next event of the record at hand. Returns 1, or 0 when it is not wanted. */
static int next_record(const struct bus_capture_merge *merge, struct lane *lane)
{
  const struct bus_capture_range *range = &merge->range;
  const uint32_t size = lane->stream->record_size;
  uint64_t position = bus_capture_record_position(lane->record, size);
  uint64_t time_ns = time_of(lane);
  if (time_ns > lane->time_ns)
    lane->time_ns = time_ns;
  if (lane->time_ns >= range->until_ns) {
    lane->done = true;
    return 0;
  }
  bool inside = lane->time_ns >= range->from_ns && position >= range->from_position &&
                position < range->until_position;
  if (BUS_UNLIKELY(lane->expected_known && position != lane->expected) && inside && lane->started &&
      !lane->filtered && !lane->gap_told && position > lane->expected) {
    lane->gap_told = true;
    lane->event.position = lane->expected;
    lane->event.last = position - 1;
    lane->event.by_damage = lane->damaged;
    return tell(lane, BUS_CAPTURE_EVENT_GAP);
  }
  const unsigned char *record = lane->record;
  lane->gap_told = false;
  lane->damaged = false;
  lane->expected = position + 1;
  lane->expected_known = true;
  lane->record += size;
  lane->left--;
  lane->started |= inside;
  if (!inside || (range->wants && !range->wants(range->context, lane->event.stream, record)))
    return 0;
  lane->event.kind = BUS_CAPTURE_EVENT_RECORD;
  lane->event.position = position;
  lane->event.time_ns = lane->time_ns;
  lane->event.record = record;
  return 1;
}

/* Makes the lane's next event, or sets `done`. Returns BUS_OK or an error. */
static int advance(struct bus_capture_merge *merge, struct lane *lane)
{
  while (!lane->done) {
    if (BUS_LIKELY(lane->left > 0)) {
      if (next_record(merge, lane))
        return BUS_OK;
      continue;
    }
    int status = next_block(merge, lane);
    if (status < 0)
      return status;
    if (status == 0)
      lane->done = true;
    /* Damage before the range is not the caller's concern. */
    if (status == 1 && (lane->event.kind != BUS_CAPTURE_EVENT_DAMAGE || lane->started))
      return BUS_OK;
  }
  return BUS_OK;
}

/* ---- all of them ---- */

static uint64_t rank(uint32_t record_type)
{
  return record_type == BUS_RECORD_FEATURE ? 0 : record_type == BUS_RECORD_SIGNAL ? 1 : 2;
}

static int open_lane(struct bus_capture_merge *merge, uint32_t stream)
{
  struct lane *lane = &merge->lanes[merge->lane_count++];
  lane->stream = bus_capture_stream(merge->capture, stream);
  lane->event.stream = stream;
  lane->order = rank(lane->stream->record_type) << 32 | stream;
  lane->timed = bus_capture_has_time(lane->stream->record_type, lane->stream->record_size);
  lane->filtered = *bus_capture_meta_text(lane->stream->meta, "filtered");
  /* From its beginning a stream can lack records before its first one. */
  lane->started = merge->range.from_ns == 0 && merge->range.from_position == 0;
  for (size_t i = 0; i < lane->stream->segment_count; i++)
    merge->bytes_total +=
        lane->stream->segments[i].blocks * lane->stream->segments[i].shape.block_size;
  int error = bus_capture_cursor_open(merge->capture, stream, &lane->cursor);
  return error ? error : advance(merge, lane);
}

int bus_capture_merge_open(struct bus_capture *capture, const struct bus_capture_range *range,
                           struct bus_capture_merge **out)
{
  uint32_t streams = bus_capture_stream_count(capture);
  struct bus_capture_merge *merge = calloc(1, sizeof *merge);
  *out = NULL;
  if (!merge || !(merge->lanes = calloc(streams ? streams : 1, sizeof *merge->lanes))) {
    free(merge);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory to read %u streams", streams);
  }
  merge->capture = capture;
  merge->range = *range;
  int error = BUS_OK;
  for (uint32_t i = 0; i < streams && !error; i++)
    if (!range->streams || range->streams[i])
      error = open_lane(merge, i);
  if (error)
    bus_capture_merge_close(merge);
  else
    *out = merge;
  return error;
}

void bus_capture_merge_close(struct bus_capture_merge *merge)
{
  if (!merge)
    return;
  for (uint32_t i = 0; i < merge->lane_count; i++) {
    bus_capture_cursor_close(merge->lanes[i].cursor);
    json_decref(merge->lanes[i].meta);
  }
  free(merge->lanes);
  free(merge);
}

static bool comes_before(const struct lane *lane, uint64_t time_ns, uint64_t order)
{
  return lane->event.time_ns < time_ns || (lane->event.time_ns == time_ns && lane->order < order);
}

/* The first lane becomes the current one, the second its limit. */
static void select_lane(struct bus_capture_merge *merge)
{
  struct lane *first = NULL;
  merge->limit_ns = merge->limit_order = UINT64_MAX;
  for (uint32_t i = 0; i < merge->lane_count; i++) {
    struct lane *lane = &merge->lanes[i];
    if (lane->done)
      continue;
    if (!first || comes_before(lane, first->event.time_ns, first->order)) {
      if (first) {
        merge->limit_ns = first->event.time_ns;
        merge->limit_order = first->order;
      }
      first = lane;
    } else if (comes_before(lane, merge->limit_ns, merge->limit_order)) {
      merge->limit_ns = lane->event.time_ns;
      merge->limit_order = lane->order;
    }
  }
  merge->current = first;
}

int bus_capture_merge_next(struct bus_capture_merge *merge, struct bus_capture_event *event)
{
  struct lane *lane = merge->current;
  if (lane) {
    int error = advance(merge, lane);
    if (error)
      return error;
  }
  if (!lane || lane->done || !comes_before(lane, merge->limit_ns, merge->limit_order)) {
    select_lane(merge);
    lane = merge->current;
    if (!lane)
      return 0;
  }
  *event = lane->event;
  return 1;
}

void bus_capture_merge_progress(const struct bus_capture_merge *merge, uint64_t *done,
                                uint64_t *total)
{
  *done = merge->bytes_done;
  *total = merge->bytes_total;
}
