/* bridge_core_parts.h: what the files of the core share: bridge_core.c (life, step, events),
 * bridge_intake.c (from the ports to the queue), bridge_dispatch.c (from the queue to a server),
 * bridge_outcome.c (from an attempt to the final reply). For nobody else.
 *
 * Indices: `id` of a request (= its entry in the table), `slot` of an attempt, `b` of a server, `c`
 * of a class. All lists hold indices, BUS_BRIDGE_NONE at their ends. */
#ifndef SIGNALBUS_BRIDGE_CORE_PARTS_H
#define SIGNALBUS_BRIDGE_CORE_PARTS_H

#include "consumers/bridge_attempt.h"
#include "consumers/bridge_core.h"
#include "consumers/bridge_map.h"

BUS_BEGIN_DECLARATIONS

#define BUS_BRIDGE_EVENTS_MAX 256u /* of the transport in one step */

enum bus_bridge_request_phase {
  BUS_BRIDGE_REQUEST_FREE = 0,
  BUS_BRIDGE_REQUEST_WAITING = 1, /* in its class's queue */
  BUS_BRIDGE_REQUEST_ASKED = 2,   /* one attempt or two */
  BUS_BRIDGE_REQUEST_DECIDED = 3  /* its final reply waits for room */
};

/* What the core knows of a request beside its entry in the table. */
struct bus_bridge_request {
  uint32_t phase; /* enum bus_bridge_request_phase */
  uint32_t port;
  uint32_t class_index; /* BUS_BRIDGE_NONE: no such class */
  uint32_t attempts[2]; /* slots; the second while hedged */
  uint32_t retries;     /* of retries_max */
  uint32_t avoid;       /* servers that failed it, as bits: asked again only if nobody else can */
  uint32_t unfit;       /* servers that cannot be asked this at all */
  uint8_t reply_flags;  /* HEDGED, LOST: for the final reply */
  bool failed;          /* the next attempt is a retry */
  bool stale;           /* a kept connection broke under it once */
  bool direct;          /* has neither waited nor connected so far */
  bool queue_counted;   /* queue_ns has it */
  uint64_t sequence;    /* of acceptance */
  struct bus_bridge_work work;
  uint32_t newer, older;      /* of the same port */
  uint32_t next_decided;      /* of the same port */
  struct bus_llm_reply reply; /* DECIDED */
  struct bus_byte_buffer text;
};

struct bus_bridge_class {
  const struct bus_bridge_class_config *config;
  const struct bus_bridge_class_meters *meters;
  struct bus_bridge_queue queue;
  struct bus_bridge_share share;
  uint64_t accepted;
  uint64_t hedges;
};

/* The connections of a server. */
struct bus_bridge_pool {
  uint32_t free, warm; /* newest first */
  uint32_t canary;     /* slot of the canary under way */
  uint32_t classes;    /* that use the server, as bits */
  uint8_t kind;        /* of request, that it was asked last: the canary's too */
};

struct bus_bridge_port_lists {
  uint32_t newest;                      /* request */
  uint32_t decided_first, decided_last; /* requests */
};

struct bus_bridge_core {
  struct bus_bridge_core_options options;
  const struct bus_bridge_config *config;
  uint64_t now_ns;
  uint64_t event_ns; /* clock when the event at hand was taken up; 0: none, or no clock */
  uint64_t sequence;
  uint32_t done; /* things done in this step */

  struct bus_bridge_request *requests; /* table.count */
  uint32_t *free_requests;             /* a stack */
  uint32_t free_count;
  struct bus_bridge_map ids; /* client's id -> request */
  struct bus_bridge_queue_node *nodes;
  struct bus_bridge_class classes[BUS_BRIDGE_CLASSES_MAX];
  uint32_t ready; /* classes whose queue may move, as bits */

  struct bus_bridge_backend backends[BUS_BRIDGE_BACKENDS_MAX];
  struct bus_bridge_pool pools[BUS_BRIDGE_BACKENDS_MAX];
  struct bus_bridge_attempt *attempts;
  uint32_t attempt_count;
  struct bus_bridge_map connections; /* transport's handle -> slot */

  struct bus_bridge_heap deadlines; /* of requests */
  struct bus_bridge_heap timers;    /* of slots, then of servers */

  struct bus_bridge_port_lists ports[BUS_BRIDGE_CLIENTS_MAX];
  uint32_t next_port;
  struct bus_byte_buffer question; /* scratch */
  struct bus_transport_event events[BUS_BRIDGE_EVENTS_MAX];
};

/* Why an attempt failed. */
enum bus_bridge_failure {
  BUS_BRIDGE_FAILURE_UNSENT = 1,  /* by the server's fault, before a byte could reach it */
  BUS_BRIDGE_FAILURE_LOCAL = 2,   /* likewise, by no fault of the server's */
  BUS_BRIDGE_FAILURE_STALE = 3,   /* a kept connection that was closed before it answered */
  BUS_BRIDGE_FAILURE_REFUSED = 4, /* 429, 503: nothing was done */
  BUS_BRIDGE_FAILURE_REQUEST = 5, /* other 4xx: by the request's fault */
  BUS_BRIDGE_FAILURE_SERVER = 6   /* anything else */
};

static BUS_ALWAYS_INLINE struct bus_bridge_entry *
bus_bridge_core_entry(const struct bus_bridge_core *core, uint32_t id)
{
  return bus_bridge_table_at(&core->options.table, id);
}

static BUS_ALWAYS_INLINE void bus_bridge_core_transition(const struct bus_bridge_core *core)
{
  if (core->options.transition)
    core->options.transition(core->options.transition_context);
}

static BUS_ALWAYS_INLINE const struct bus_bridge_backend_meters *
bus_bridge_core_backend_meters(const struct bus_bridge_core *core, uint32_t b)
{
  return &core->options.meters->backends[b];
}

static BUS_ALWAYS_INLINE uint64_t bus_bridge_core_clock(const struct bus_bridge_core *core)
{
  return core->options.clock ? core->options.clock(core->options.clock_context) : 0;
}

static BUS_ALWAYS_INLINE bool bus_bridge_core_is(const struct bus_bridge_entry *entry, uint8_t flag)
{
  return (entry->request.flags & flag) != 0;
}

/* ---- bridge_intake.c ---- */

/* Takes messages from all ports in turn. */
void bus_bridge_core_take_in(struct bus_bridge_core *core);

/* Recovery: makes the entries that are in use requests again, then decides or queues them. */
void bus_bridge_core_recover(struct bus_bridge_core *core);

/* The request is over and its entry FREE: forgets it. */
void bus_bridge_core_forget(struct bus_bridge_core *core, uint32_t id);

/* Puts it (back) into its class's queue. */
void bus_bridge_core_enqueue(struct bus_bridge_core *core, uint32_t id);

/* Takes it out, where it is in. */
void bus_bridge_core_dequeue(struct bus_bridge_core *core, uint32_t id);

/* ---- bridge_dispatch.c ---- */

/* Begins what can begin: of all classes that may move, the first in rank. */
void bus_bridge_core_dispatch(struct bus_bridge_core *core);

/* Whether a server that can be asked this, as far as is known, is up. */
bool bus_bridge_core_has_server(const struct bus_bridge_core *core, uint32_t id);

/* The connection of `slot` stands: sends its question. */
void bus_bridge_core_connected(struct bus_bridge_core *core, uint32_t slot);

/* `slot` has waited long enough for its first token: asks a second server, if that may be. */
void bus_bridge_core_hedge(struct bus_bridge_core *core, uint32_t slot);

/* Timer of server `b`: a pause is over, a canary is due. */
void bus_bridge_core_backend_due(struct bus_bridge_core *core, uint32_t b);

/* Sets the timer of server `b`, or of `slot`, by how it stands. */
void bus_bridge_core_backend_rearm(struct bus_bridge_core *core, uint32_t b);
void bus_bridge_core_slot_rearm(struct bus_bridge_core *core, uint32_t slot);

/* `slot` is no request's any more: kept warm if the exchange came to its end and the
 * server keeps the connection, closed otherwise or with `close`. */
void bus_bridge_core_release(struct bus_bridge_core *core, uint32_t slot, bool close);

/* ---- bridge_outcome.c ---- */

/* The request ends: with what `slot` (BUS_BRIDGE_NONE: none) has of an answer, or with `text` where
 * that is not NULL. */
void bus_bridge_core_decide(struct bus_bridge_core *core, uint32_t id, uint32_t status,
                            uint32_t slot, const char *text);

/* As decide, with the text of the attempt that has come farthest. */
void bus_bridge_core_break_off(struct bus_bridge_core *core, uint32_t id, uint32_t status);

/* Releases the attempts of the request: that of `slot`, which may be whole, and any other. */
void bus_bridge_core_let_go(struct bus_bridge_core *core, uint32_t id, uint32_t slot);

/* Final replies that wait for room, of all ports. */
void bus_bridge_core_publish_decided(struct bus_bridge_core *core);

/* The answer of `slot` has a verdict that is not MORE. */
void bus_bridge_core_answered(struct bus_bridge_core *core, uint32_t slot);

/* The attempt failed: retried, or decided with `status`. `reason` is for people. */
void bus_bridge_core_failed(struct bus_bridge_core *core, uint32_t slot, uint32_t failure,
                            uint32_t status, const char *reason);

/* More of the answer has come: a hedge is won, partial replies go out. */
void bus_bridge_core_progressed(struct bus_bridge_core *core, uint32_t slot);

BUS_END_DECLARATIONS

#endif
