/* bridge_meters.h: what the bridge counts, as pointers into its member file. Any may be NULL: then
 * it is not counted. One thread. */
#ifndef SIGNALBUS_BRIDGE_METERS_H
#define SIGNALBUS_BRIDGE_METERS_H

#include "consumers/bridge_config.h"
#include "shm/histogram.h"
#include "shm/member.h"

BUS_BEGIN_DECLARATIONS

struct bus_bridge_backend_meters {
  uint64_t *sent;       /* attempts whose request went out, canaries included */
  uint64_t *succeeded;  /* attempts that ended OK or LENGTH */
  uint64_t *failed;     /* attempts that did not: connect, time-out, status, truncation, garbage */
  uint64_t *timed_out;  /* of these: by one of the time-outs */
  uint64_t *abandoned;  /* attempts closed because nobody wanted them any more */
  uint64_t *tokens;     /* of answers */
  uint64_t *in_flight;  /* now */
  uint64_t *breaker;    /* now: 0 closed, 1 open, 2 trying a canary */
  uint64_t *opened;     /* times that the breaker opened */
  uint64_t *reconnects; /* connections opened */
  struct bus_histogram *connect_ns;
  struct bus_histogram *first_token_ns; /* from the request's last byte sent */
  struct bus_histogram *attempt_ns;     /* sent to whole */
  struct bus_histogram *tokens_per_s;   /* of answers of 2 tokens and more, after the first */
};

struct bus_bridge_class_meters {
  uint64_t *accepted;
  uint64_t *rejected;             /* REJECTED_QUEUE, REJECTED_DEADLINE, BACKEND_DOWN at the door */
  uint64_t *waiting;              /* now */
  struct bus_histogram *queue_ns; /* accepted to first sent */
  struct bus_histogram *total_ns; /* submitted to final reply */
};

struct bus_bridge_meters {
  struct bus_bridge_backend_meters backends[BUS_BRIDGE_BACKENDS_MAX];
  struct bus_bridge_class_meters classes[BUS_BRIDGE_CLASSES_MAX];
  uint64_t *finals[BUS_LLM_STATUS_COUNT]; /* by status */
  uint64_t *partials;
  uint64_t *partials_lost;      /* left out: no room */
  uint64_t *retries;            /* attempts after a failed one */
  uint64_t *hedges;             /* second attempts beside a slow one */
  uint64_t *requests_invalid;   /* fragments that make no request: skipped, counted */
  uint64_t *cancels_late;       /* for a request that is not there (any more) */
  uint64_t *recovered;          /* entries found at a start */
  uint64_t *orphaned;           /* entries whose client is gone: dropped without an answer */
  uint64_t *in_flight;          /* entries in use, now */
  struct bus_histogram *in_ns;  /* request committed to request handed to the socket, where neither
                                   queue nor connect was between */
  struct bus_histogram *out_ns; /* last bytes off the socket to final reply committed */
};

/* Objects of a bridge with as many servers and classes as there can be. */
#define BUS_BRIDGE_METERS_MAX (23u + 14u * BUS_BRIDGE_BACKENDS_MAX + 5u * BUS_BRIDGE_CLASSES_MAX)

/* Room for the name of a meter's object. */
struct bus_bridge_meter_name {
  char text[BUS_NAME_BYTES];
};

/* Lists the counters and histograms of a bridge with this configuration: "final_ok", "in_ns", ..;
 * "SERVER.sent", "SERVER.first_token_ns", ..; "class.CLASS.waiting", ... `objects` and `names`,
 * which the objects' names point into, have room for BUS_BRIDGE_METERS_MAX. Returns how many. */
BUS_EXPORT uint32_t bus_bridge_meters_list(const struct bus_bridge_config *config,
                                           struct bus_object_spec *objects,
                                           struct bus_bridge_meter_name *names);

/* Points the meters at the objects of those names in `member`, NULL where it has none. */
BUS_EXPORT void bus_bridge_meters_find(const struct bus_bridge_config *config,
                                       struct bus_member *member, struct bus_bridge_meters *meters);

static BUS_ALWAYS_INLINE void bus_meter_add(uint64_t *counter, uint64_t increment)
{
  if (counter)
    bus_counter_add(counter, increment);
}

static BUS_ALWAYS_INLINE void bus_meter_set(uint64_t *counter, uint64_t value)
{
  if (counter)
    bus_counter_set(counter, value);
}

static BUS_ALWAYS_INLINE void bus_meter_record(struct bus_histogram *histogram, uint64_t value)
{
  if (histogram)
    bus_histogram_record(histogram, value);
}

BUS_END_DECLARATIONS

#endif
