/* capture_merge.h: the records of a capture in one order: by (time, features before signals before
 * others, stream name). Within a stream the order is always the stream's own: a record that is
 * older than the one before it counts as old as that. A signal never comes before its feature.
 *
 *   struct bus_capture_merge *merge;
 *   struct bus_capture_event event;
 *   struct bus_capture_range range = BUS_CAPTURE_RANGE_ALL;
 *   bus_capture_merge_open(capture, &range, &merge);
 *   while ((status = bus_capture_merge_next(merge, &event)) == 1)
 *     if (event.kind == BUS_CAPTURE_EVENT_RECORD) ... event.record */
#ifndef SIGNALBUS_CAPTURE_MERGE_H
#define SIGNALBUS_CAPTURE_MERGE_H

#include "consumers/capture_cursor.h"

BUS_BEGIN_DECLARATIONS

/* GAP is never told of a stream whose META has "filtered": a cut by symbols left records out. */
enum bus_capture_event_kind {
  BUS_CAPTURE_EVENT_RECORD = 1,
  BUS_CAPTURE_EVENT_GAP = 2,     /* positions that are not in the capture */
  BUS_CAPTURE_EVENT_DAMAGE = 3,  /* a block that cannot be used: in the damages */
  BUS_CAPTURE_EVENT_META = 4,    /* the stream is described anew */
  BUS_CAPTURE_EVENT_INSTANCE = 5 /* the ring was replaced: positions start anew */
};

struct bus_capture_event {
  enum bus_capture_event_kind kind;
  uint32_t stream;    /* index */
  uint64_t position;  /* RECORD: its own; GAP: the first that is missing */
  uint64_t last;      /* GAP: the last that is missing */
  uint64_t time_ns;   /* for the order and for pacing; bus clock of the recording machine */
  const void *record; /* RECORD: stream's record_size bytes, aligned to 64, the stamp last */
  const json_t *meta; /* META: borrowed, good until the next call */
  uint64_t instance;  /* of the producer's file; 0: unknown */
  bool by_damage;     /* GAP: a damaged block stands there */
};

/* What is wanted. Both ranges are half open, so that cuts at the same point tile. Records must be
 * in both; a position is compared in each instance of each stream. */
struct bus_capture_range {
  uint64_t from_ns;
  uint64_t until_ns;
  uint64_t from_position;
  uint64_t until_position;
  const bool *streams; /* [stream_count]: wanted ones; NULL: all */
  /* Whether a record is wanted; NULL: all are. Gaps are found before it is asked. */
  bool (*wants)(void *context, uint32_t stream, const void *record);
  void *context;
};

#define BUS_CAPTURE_RANGE_ALL                                                                      \
  {                                                                                                \
    .until_ns = UINT64_MAX, .until_position = UINT64_MAX                                           \
  }

struct bus_capture_merge;

/* `range` is copied; what it points to must stay. BUS_OK or a negative error with a message. */
int bus_capture_merge_open(struct bus_capture *capture, const struct bus_capture_range *range,
                           struct bus_capture_merge **out);
void bus_capture_merge_close(struct bus_capture_merge *merge); /* NULL is ignored */

/* The next event. Returns 1, 0 at the end, or a negative error with a message. What *event points
 * to is good until the next call. Gaps and damage before the range's first record are not reported.
 */
int bus_capture_merge_next(struct bus_capture_merge *merge, struct bus_capture_event *event);

/* Bytes of blocks read so far, and to read in all, for a progress bar. */
void bus_capture_merge_progress(const struct bus_capture_merge *merge, uint64_t *done,
                                uint64_t *total);

BUS_END_DECLARATIONS

#endif
