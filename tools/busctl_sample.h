/* busctl_sample.h: the figures of a whole bus at one time, and what two of them say about the time
 * between: rates, percentiles of an interval. What `top` and `metrics` show is made from these.
 * Reads the bus, never writes to it. Internal to signal-busctl; one thread.
 *
 * A sample is a copy: it outlives the scan that it was taken from. Its strings are sanitised. */
#ifndef SIGNALBUS_BUSCTL_SAMPLE_H
#define SIGNALBUS_BUSCTL_SAMPLE_H

#include "shm/histogram.h"
#include "tools/busctl.h"

/* A file of the bus directory. */
struct busctl_member {
  char name[256];
  char kind[16];
  bool attached; /* false: not a member's or not readable, see `error`; the rest is then 0 */
  int error;     /* negative enum bus_error */
  char reason[256];
  enum bus_neighbour_status status;
  uint32_t state; /* enum bus_member_state */
  uint32_t pid;
  uint64_t epoch;
  uint64_t heartbeat_age_ns;
  int32_t core;      /* -1: not pinned */
  int32_t numa_node; /* -1: not placed */
  uint32_t backing;  /* enum bus_backing */
  uint64_t huge_bytes;
  uint64_t file_bytes;
};

/* An object of a member: a ring, position, counter or histogram. */
struct busctl_item {
  uint32_t type;   /* enum bus_object_type */
  uint32_t member; /* index into the sample's members */
  uint64_t instance;
  char name[BUS_NAME_BYTES];
  char peer[BUS_NAME_BYTES]; /* ring: its reliable consumer; position: the producer */
  char unit[16];
  union {
    struct busctl_ring ring;
    uint64_t counter;
    uint64_t lost;                   /* of a position: records */
    struct bus_histogram *histogram; /* the sample's */
  };
};

struct busctl_sample {
  char directory[256];
  uint64_t taken_ns;  /* bus clock */
  uint64_t lasted_ns; /* that it took to read the bus */
  struct busctl_member *members;
  size_t member_count;
  struct busctl_item *items; /* in the order of the files and their directories */
  size_t item_count;
};

/* Reads everything that `scan` is attached to. Returns BUS_OK or BUS_ERROR_NO_SPACE; *sample is
 * then empty. Free it. */
int busctl_sample_take(struct busctl_sample *sample, const struct busctl_scan *scan);
void busctl_sample_free(struct busctl_sample *sample);

/* An item of the later sample, and what happened to it since the earlier. What was not there then
 * has rates of 0 (a ring, a position) or counts from 0 (a counter, a histogram); a figure that fell
 * was reset by a new owner and counts from 0. */
struct busctl_change {
  const struct busctl_item *item;
  const struct busctl_member *member;
  bool changed; /* the counter, the number of values, records or lost records */
  union {
    struct {
      double records_per_s;
      double dropped_per_s;
      double waits_per_s;
    } ring;
    double counter_per_s;
    double lost_per_s;
    const struct bus_histogram *interval; /* what was recorded; its maximum known to its bucket */
  };
};

/* True for a counter that is a maximum, by its name (.._max). Pure. */
bool busctl_item_is_maximum(const struct busctl_item *item);

/* True for a counter that says how much there is now, and so may fall, by what its name is or ends
 * with behind a dot: in_flight, breaker, waiting. Pure. */
bool busctl_item_is_level(const struct busctl_item *item);

/* True for a counter that is neither. Pure. */
bool busctl_item_has_rate(const struct busctl_item *item);

/* What lies between two samples; lends from both. */
struct busctl_view {
  const struct busctl_sample *now;
  const struct busctl_sample *before;
  uint64_t interval_ns;
  struct busctl_change *changes;   /* now->item_count of them, in that order */
  struct bus_histogram *intervals; /* of the changes of histograms */
};

/* `before` may be the same as `now`. Returns BUS_OK or BUS_ERROR_NO_SPACE. Free it before the
 * samples. */
int busctl_view_make(struct busctl_view *view, const struct busctl_sample *now,
                     const struct busctl_sample *before);
void busctl_view_free(struct busctl_view *view);

#endif
