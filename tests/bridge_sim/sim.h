/* sim.h: the world that the bridge's simulation runs in: one seed, one thread, no system calls.
 *
 * The bridge's core, its ports and the reader of answers are the real ones. Time, network, servers
 * and clients are made up here, and every choice is drawn from the seed. A run ends with nothing
 * broken, or with the name of the invariant that was (see README.md for the list). */
#ifndef SIGNALBUS_BRIDGE_SIM_H
#define SIGNALBUS_BRIDGE_SIM_H

#include "consumers/bridge_core.h"
#include "shm/ring.h"

#include <stdio.h>

#define SIM_BACKENDS_MAX    3u
#define SIM_CLASSES_MAX     3u
#define SIM_CLIENTS_MAX     4u
#define SIM_ENTRIES_MAX     16u
#define SIM_REQUESTS_MAX    96u
#define SIM_ATTEMPTS_MAX    1024u
#define SIM_CONNECTIONS_MAX 64u
#define SIM_EVENTS_MAX      8192u
#define SIM_ARENA_BYTES     ((size_t)8 << 20)
#define SIM_US              1000ull
#define SIM_MS              1000000ull
#define SIM_S               1000000000ull
#define SIM_NONE            UINT32_MAX
#define SIM_HOSTILE_BYTE    '\x01' /* begins the texts of hostile clients, and no others */

/* ---- randomness ---- */

struct sim_random {
  uint64_t state;
};

/* SplitMix64. */
static inline uint64_t sim_random_next(struct sim_random *random)
{
  uint64_t z = random->state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

/* low..high, both included. */
static inline uint64_t sim_random_between(struct sim_random *random, uint64_t low, uint64_t high)
{
  return low + (sim_random_next(random) >> 11) % (high - low + 1);
}

static inline bool sim_random_chance(struct sim_random *random, uint32_t percent)
{
  return sim_random_between(random, 0, 99) < percent;
}

/* ---- what happens when ---- */

enum sim_event_type {
  SIM_EVENT_TRANSPORT = 1,     /* to the bridge: `transport_type`, `error`, `data` */
  SIM_EVENT_ARRIVAL = 2,       /* bytes of the bridge reach the server of `connection` */
  SIM_EVENT_CLIENT = 3,        /* client `index` does something */
  SIM_EVENT_SERVER_DOWN = 4,   /* server `index` dies */
  SIM_EVENT_SERVER_UP = 5,     /* and returns */
  SIM_EVENT_KILL = 6,          /* the bridge dies between two steps */
  SIM_EVENT_START = 7,         /* and is started again */
  SIM_EVENT_ATTACH = 8,        /* the bridge's housekeeping looks for its clients */
  SIM_EVENT_HEAL = 9,          /* no more faults from here on */
  SIM_EVENT_PROBE = 10,        /* every living client asks once more */
  SIM_EVENT_SERVER_CLOSES = 11 /* the server's patience with an idle connection ends */
};

struct sim_event {
  uint64_t at_ns;
  uint64_t sequence; /* order of those of the same time */
  uint32_t type;     /* enum sim_event_type */
  uint32_t index;
  uint32_t connection; /* handle */
  uint32_t transport_type;
  int32_t error;
  uint32_t uses; /* SERVER_CLOSES: requests that the connection had carried */
  const char *data;
  size_t size;
};

/* A binary heap, the earliest first. */
struct sim_agenda {
  uint32_t count;
  struct sim_event events[SIM_EVENTS_MAX];
};

/* ---- servers and their answers ---- */

enum sim_fault {
  SIM_FAULT_NONE = 0,
  SIM_FAULT_RESET,        /* ECONNRESET after some bytes of the answer */
  SIM_FAULT_CUT,          /* an orderly end after some bytes */
  SIM_FAULT_ZERO_BYTES,   /* an orderly end before any */
  SIM_FAULT_GARBAGE,      /* no HTTP at all */
  SIM_FAULT_BROKEN_EVENT, /* an event that is no JSON within the stream */
  SIM_FAULT_429,
  SIM_FAULT_503,
  SIM_FAULT_500,
  SIM_FAULT_400,
  SIM_FAULT_SLOW_FIRST,   /* the first token comes late */
  SIM_FAULT_STALL,        /* no further token, and the connection stays */
  SIM_FAULT_SILENT,       /* takes the request and says nothing */
  SIM_FAULT_STREAM_ERROR, /* an error object within the stream, then [DONE] */
  SIM_FAULT_NO_DONE,      /* finish_reason, then the end without [DONE] */
  SIM_FAULT_NO_FINISH,    /* [DONE] without finish_reason */
  SIM_FAULT_REFUSED,      /* connect: ECONNREFUSED */
  SIM_FAULT_NO_CONNECT,   /* connect: nothing comes back */
  SIM_FAULT_DEATH,        /* the whole server, while requests are under way */
  SIM_FAULT_STUCK,        /* accepts, and reads nothing */
  SIM_FAULT_IDLE_CLOSE,   /* keep-alive ends just when the next request is under way */
  SIM_FAULT_KILL,         /* of the bridge, between two steps or at a transition */
  SIM_FAULT_CLIENT_DEATH, /* and return with the same file */
  SIM_FAULT_CLIENT_NEW,   /* and return with a new one */
  SIM_FAULT_HOSTILE,      /* fragments that make no sense */
  SIM_FAULT_COUNT
};

enum sim_framing { SIM_FRAMING_CLOSE = 0, SIM_FRAMING_CHUNKED = 1, SIM_FRAMING_LENGTH = 2 };

/* One answer that a server made up. */
struct sim_attempt {
  uint32_t request; /* index; SIM_NONE: a canary, or what a hostile client asked */
  uint8_t kind;     /* by the path */
  uint32_t backend;
  uint32_t epoch;      /* of the bridge that sent it */
  uint32_t fault;      /* enum sim_fault */
  bool length;         /* finish_reason "length" */
  bool good;           /* what the server planned is a whole answer */
  bool whole;          /* every byte that its framing announced is planned, whatever they say */
  uint32_t tokens_max; /* as asked; 0: not */
  bool hostile;
  bool ended;       /* nothing of it comes any more */
  uint16_t status;  /* HTTP */
  const char *text; /* decoded; embedding: float32 */
  uint32_t text_bytes;
  const char *reasoning;
  uint32_t reasoning_bytes;
  const char *response; /* bytes on the wire, without what a fault cut off */
  uint32_t response_bytes;
  uint32_t done_offset; /* of `response`, where a good answer is whole */
  uint32_t delivered;   /* bytes of it that the bridge was given */
  char error_text[48];
};

struct sim_server {
  bool down;
  uint32_t down_count;
  uint64_t stuck_until_ns;
  uint32_t fault_percent;   /* of the answers before the healing */
  uint32_t connect_percent; /* of the connects likewise */
  bool keeps_alive;
  uint64_t latency_ns;
  /* What the bridge was told about this server, for `breaker-late`. */
  uint32_t connect_failures; /* in a row */
  uint64_t must_rest_since_ns, must_rest_until_ns;
};

enum sim_connection_state {
  SIM_CONNECTION_FREE = 0,
  SIM_CONNECTION_CONNECTING,
  SIM_CONNECTION_CONNECTED,
  SIM_CONNECTION_ENDED /* CLOSED or FAILED was given out, the bridge has not closed yet */
};

struct sim_connection {
  uint32_t state; /* enum sim_connection_state */
  uint32_t generation;
  uint32_t backend;
  uint64_t opened_ns;
  bool dead;                  /* at the server's end: what arrives there is answered by a reset */
  bool stuck;                 /* the server never reads it */
  uint64_t last_ns;           /* of the latest event on its way to the bridge */
  uint64_t cut_ns;            /* events on their way after it are lost */
  uint32_t attempt;           /* under way, by the bridge's view; SIM_NONE */
  uint32_t requests;          /* that it has carried */
  struct bus_byte_buffer out; /* sent, and no whole request yet */
};

struct sim_transport {
  struct bus_transport base;
  struct sim_world *world;
};

/* ---- clients ---- */

struct sim_request {
  uint64_t id;
  uint64_t instance; /* of the client's file */
  uint32_t client;
  uint32_t class_index; /* SIM_NONE: none of that name */
  uint64_t deadline_ns;
  uint64_t submitted_ns;
  uint64_t cancelled_ns; /* the cancel is in the ring; 0: not taken back */
  uint64_t timeout_ns;   /* the client's LOCAL_TIMEOUT */
  uint32_t tokens_max;
  uint32_t reply_slots;
  uint8_t kind;
  uint8_t flags;
  bool bad;       /* must be refused as BAD_REQUEST */
  bool doubtful;  /* may be: not every server of its class has such a thing */
  bool probe;     /* asked after the healing: must succeed */
  bool written;   /* whole in the ring */
  bool given_up;  /* its client died in the middle of writing it */
  bool timed_out; /* LOCAL_TIMEOUT */
  bool read;      /* the client has its final reply */
  const char *text;
  uint32_t text_bytes;
  const char *content; /* of the text, as the server must see it */
  uint32_t content_bytes;
  /* What the bridge did with it. */
  bool accepted;
  bool dropped;          /* its client's file went, and the entry with it */
  bool sent_killed;      /* a bridge was killed after it may have been sent */
  bool marked_cancelled; /* in the table */
  uint64_t marked_cancelled_ns;
  uint32_t finals;
  uint32_t final_status;
  uint64_t final_ns;
  uint32_t sends; /* over all lives */
  uint32_t in_flight;
  uint64_t accepted_ns;
  uint64_t
      begun_ns; /* the last attempt: its connect, or where there was a connection its sending */
  uint64_t first_answer_ns; /* a byte of an answer of the attempt under way */
  /* Its partial replies. */
  uint32_t partial_attempt;
  uint32_t partial_offset[2]; /* of the answer, of the reasoning */
  bool partial_gap;
  bool partial_seen;
};

/* A final reply that is put together of its fragments. */
struct sim_assembly {
  bool active;
  uint32_t next_fragment;
  uint32_t text_bytes;
  struct bus_llm_reply first;
  char text[16384];
};

#define SIM_CLIENT_FILE_BYTES 65536u

struct sim_client {
  bool alive;
  bool hostile;
  bool polite; /* keeps room for what it asked */
  bool file;   /* it has one */
  uint64_t instance;
  struct bus_producer producer; /* of its request ring */
  struct bus_consumer consumer; /* of its reply ring */
  bool joined;
  uint32_t writing; /* request under way into the ring; SIM_NONE */
  uint32_t written_bytes;
  uint32_t left; /* requests to submit */
  uint32_t deaths_left;
  uint64_t next_submit_ns;
  uint64_t read_interval_ns;
  uint64_t next_read_ns;
  uint64_t dead_until_ns;
  uint32_t outstanding_slots;
  uint64_t seen;               /* position in the reply ring up to which the checks have looked */
  bool reserve_debt;           /* a killed bridge left half a reply in the room */
  uint64_t debt_ns;            /* until when it was not paid back */
  struct sim_assembly checked; /* by the checks */
  char *memory;                /* the file: request ring, position */
};

/* ---- the bridge ---- */

/* The bridge's member file: everything that outlives it. */
struct sim_bridge_file {
  char *memory;
  char *snapshot;
  size_t bytes;
  struct bus_bridge_table table;
  char *rings[SIM_CLIENTS_MAX];
  struct bus_position *positions; /* in the clients' request rings */
  uint64_t *counters;
};

enum sim_counter {
  SIM_COUNTER_ACCEPTED = 0, /* one for each class */
  SIM_COUNTER_REJECTED = SIM_CLASSES_MAX,
  SIM_COUNTER_FINALS = 2 * SIM_CLASSES_MAX, /* one for each status */
  SIM_COUNTER_ORPHANED = SIM_COUNTER_FINALS + BUS_LLM_STATUS_COUNT,
  SIM_COUNTER_IN_FLIGHT,
  SIM_COUNTER_HEDGES,
  SIM_COUNTER_RETRIES,
  SIM_COUNTER_PARTIALS,
  SIM_COUNTER_PARTIALS_LOST,
  SIM_COUNTER_INVALID,
  SIM_COUNTER_RECOVERED,
  SIM_COUNTER_WAITING,                                      /* one for each class */
  SIM_COUNTER_SENT = SIM_COUNTER_WAITING + SIM_CLASSES_MAX, /* one for each server */
  SIM_COUNTER_SERVER_IN_FLIGHT = SIM_COUNTER_SENT + SIM_BACKENDS_MAX,
  SIM_COUNTER_COUNT = SIM_COUNTER_SERVER_IN_FLIGHT + SIM_BACKENDS_MAX
};

#define SIM_STATES 6u /* enum bus_bridge_state */

/* What a run has met, and all runs together. */
struct sim_coverage {
  uint64_t runs, requests, steps, kills, transition_kills, start_kills;
  uint64_t accepted, attempts, canaries, partials, hedged, local_timeouts;
  uint64_t statuses[BUS_LLM_STATUS_COUNT];
  uint64_t faults[SIM_FAULT_COUNT];
  uint64_t transitions[SIM_STATES][SIM_STATES];
  uint64_t killed_in[SIM_STATES]; /* an entry stood there when the bridge was killed */
};

struct sim_world {
  uint64_t seed;
  FILE *log; /* NULL: none is written */
  uint64_t now_ns;
  uint64_t sequence;
  struct sim_random random;
  uint64_t trace; /* hash of all that happened */

  char failure[40]; /* name of the broken invariant; "": none */
  char failure_text[400];

  /* The plan. */
  struct bus_bridge_config config;
  struct bus_entry reply_entry, request_entry;
  bool faultless;
  uint32_t kills_left;
  uint32_t fault_weights[SIM_FAULT_COUNT];
  uint64_t heal_ns, probe_ns, end_ns;
  bool healed, probed;

  /* The bridge. */
  struct bus_bridge_core *core; /* NULL: dead */
  struct sim_bridge_file file;
  struct bus_bridge_port ports[SIM_CLIENTS_MAX];
  struct bus_consumer port_consumers[SIM_CLIENTS_MAX];
  struct bus_producer port_producers[SIM_CLIENTS_MAX];
  struct bus_bridge_meters meters;
  uint64_t bridge_instance;
  uint32_t epoch;
  uint64_t started_ns;
  uint64_t wake_ns; /* something happened that the bridge may see by a step; UINT64_MAX */
  uint64_t lag_ns;  /* of its next step */
  bool doomed;      /* killed at a transition: what the step does from there on never happened */
  bool starting;    /* within bus_bridge_core_new */
  uint32_t kill_countdown;                     /* transitions until the kill; 0: none planned */
  uint32_t idle_steps;                         /* in a row, with a timer that is due */
  uint32_t states[SIM_ENTRIES_MAX];            /* of the table, as last seen */
  uint32_t owners[SIM_ENTRIES_MAX];            /* requests in the table's entries; SIM_NONE */
  uint64_t breaker_since_ns[SIM_BACKENDS_MAX]; /* found open at the end of a step; 0: closed */
  uint64_t claims;                             /* of all lives */
  uint64_t meter_doubt; /* by how much kills may have put the counters apart */
  uint32_t recovered;   /* entries in use at the start of this life */
  uint32_t life_accepted[SIM_CLASSES_MAX], life_hedges[SIM_CLASSES_MAX];
  uint64_t steps;

  /* The network. */
  struct sim_transport transport;
  struct sim_connection connections[SIM_CONNECTIONS_MAX];
  struct sim_server servers[SIM_BACKENDS_MAX];
  struct sim_agenda network; /* what is on its way to the bridge */
  struct sim_agenda agenda;  /* everything else */
  uint32_t attempt_count;
  struct sim_attempt attempts[SIM_ATTEMPTS_MAX];

  struct sim_client clients[SIM_CLIENTS_MAX];
  uint32_t request_count;
  struct sim_request requests[SIM_REQUESTS_MAX];
  uint64_t hostile_messages; /* whole ones that a hostile client wrote */

  struct sim_coverage coverage;
  char *arena;
  size_t arena_used;
};

/* ---- run.c: the world as a whole ---- */

/* Makes a world once for all runs; NULL when memory is out. */
struct sim_world *sim_world_new(void);
void sim_world_delete(struct sim_world *world);

/* One run, written down to `log` where that is not NULL. Returns true when every invariant held. */
bool sim_world_run(struct sim_world *world, uint64_t seed, FILE *log);

/* The first broken invariant counts; later ones follow from it. */
void sim_fail(struct sim_world *world, const char *invariant, const char *format, ...)
    BUS_PRINTF(3, 4);

/* A line of the log of a run that is repeated. */
void sim_log(struct sim_world *world, const char *format, ...) BUS_PRINTF(2, 3);

/* Mixes what happened into the trace. */
static inline void sim_trace(struct sim_world *world, uint64_t value)
{
  world->trace = (world->trace ^ value ^ world->now_ns) * 0x100000001b3ull;
}

/* Memory that lasts as long as the run. */
void *sim_world_allocate(struct sim_world *world, size_t bytes);
struct sim_event *sim_world_schedule(struct sim_world *world, struct sim_agenda *agenda,
                                     uint64_t at_ns, uint32_t type, uint32_t index);
bool sim_agenda_take(struct sim_agenda *agenda, uint64_t now_ns, struct sim_event *event);
uint64_t sim_agenda_next_ns(const struct sim_agenda *agenda);

/* ---- plan.c: who is there and how it is set up ---- */
void sim_plan_draw(struct sim_world *world);

/* ---- bridge.c: the lives of the bridge ---- */
int sim_bridge_file_allocate(struct sim_world *world);
void sim_bridge_file_format(struct sim_world *world);
void sim_bridge_start(struct sim_world *world);
void sim_bridge_step(struct sim_world *world);
void sim_bridge_kill(struct sim_world *world);
void sim_bridge_attach(struct sim_world *world);
void sim_bridge_plan_kill(struct sim_world *world);

/* ---- network.c: the transport ---- */
void sim_network_reset(struct sim_world *world);
void sim_network_arrival(struct sim_world *world, const struct sim_event *event);
void sim_network_server_closes(struct sim_world *world, const struct sim_event *event);
void sim_network_server_down(struct sim_world *world, uint32_t backend);
void sim_network_end(struct sim_world *world, struct sim_connection *connection, uint64_t at_ns,
                     int error);
void sim_network_deliver(struct sim_world *world, struct sim_connection *connection, uint64_t at_ns,
                         const char *data, size_t size);
uint32_t sim_network_open_count(const struct sim_world *world);

/* ---- server.c: what a server makes of a request ---- */

/* Looks for a whole request in connection->out; takes it out and returns the new attempt, SIM_NONE
 * when there is none yet. At the moment of sending: the bridge's view. */
uint32_t sim_server_recognise(struct sim_world *world, struct sim_connection *connection);

/* The request of `attempt` has reached the server: plans the answer. */
void sim_server_answer(struct sim_world *world, struct sim_connection *connection,
                       uint32_t attempt);

/* ---- answer.c: an answer as bytes ---- */

/* Fills in text, response, done_offset of `attempt` and hands the pieces to the network. */
void sim_answer_make(struct sim_world *world, struct sim_connection *connection,
                     struct sim_attempt *attempt);

/* ---- client.c ---- */
void sim_client_create_file(struct sim_world *world, uint32_t index);
void sim_client_act(struct sim_world *world, uint32_t index);
void sim_client_probe(struct sim_world *world, uint32_t index);
struct sim_request *sim_client_find(struct sim_world *world, uint32_t client, uint64_t id);

/* ---- watch.c, replies.c: the invariants ---- */
void sim_watch_transition(struct sim_world *world);
void sim_watch_start(struct sim_world *world);
void sim_watch_step(struct sim_world *world);
void sim_watch_send(struct sim_world *world, struct sim_connection *connection, uint32_t attempt);
void sim_watch_end(struct sim_world *world);
void sim_replies_read(struct sim_world *world, uint32_t client);

#endif
