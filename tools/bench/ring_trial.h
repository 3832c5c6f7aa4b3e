/* ring_trial.h: one measurement of one ring: what both sides share, and what a contestant is.
 *
 * A leader sends messages to a follower, and in the round trip the follower answers. A message is
 * `words` 64-bit words; all but the last come from a table made before, so that no ring pays for
 * the making of messages, and the last one numbers it. The signal bus has that number as its stamp
 * already; the others copy the whole message from the table, where it is the table's index + 1.
 * What is carried, and what the follower checks, are thus the same bytes for everybody. */
#ifndef TOOLS_RING_TRIAL_H
#define TOOLS_RING_TRIAL_H

#include "shm/histogram.h"
#include "tools/bench/bench.h"

#include <sys/types.h>

BUS_BEGIN_DECLARATIONS

enum ring_workload {
  RING_SATURATED, /* the leader sends as fast as it can */
  RING_HUNGRY,    /* the leader works on each message: the follower is always caught up */
  RING_ROUND_TRIP,
  RING_PACED, /* a message at fixed times */
  RING_WORKLOADS
};

enum ring_size { RING_SIZE_8, RING_SIZE_64, RING_SIZE_128, RING_SIZE_16384, RING_SIZES };

/* Most messages that any contestant takes at once; the table repeats as many behind its end, so
 * that a batch is always in one piece. */
#define RING_BATCH_MAX 64u
#define RING_RINGS_MAX 64u
#define RING_RUNS      31u /* of round trips: the median of their means is reported */
#define RING_DEPTH_MIN 64u
#define RING_DEPTH_MAX 65536u

/* What is sent. Read-only, the same for all contestants. */
struct ring_source {
  const uint64_t *table;
  uint64_t mask;        /* messages in the table - 1 */
  uint64_t warm;        /* messages (round trips) before those that are measured */
  uint64_t all;         /* with the warm ones; both are multiples of RING_BATCH_MAX */
  uint64_t run;         /* round trips in a run; all - warm is RING_RUNS of them */
  uint64_t work_steps;  /* of ring_work for each message, RING_HUNGRY */
  uint64_t interval_ns; /* RING_PACED */
  bool pauses;          /* after an attempt in vain, as the members' run loops do */
};

/* In memory that both sides write. */
struct ring_trial {
  struct ring_source source;
  const struct ring_contestant *contestant;
  enum ring_workload workload;
  enum ring_size size;
  uint64_t depth; /* of each ring */
  uint32_t rings; /* that the messages go round; 1 but for the bus */
  bool small_pages;
  bool between_threads;
  bool with_observer;
  int cores[2];
  const char *directory; /* of the bus */
  void *channels[2];     /* of the others: to the follower, and back */
  uint64_t channel_bytes;
  uint8_t reserved0[BUS_FALSE_SHARING_BYTES];
  uint32_t ready[2]; /* by enum ring_role */
  uint32_t observer_ready;
  uint32_t failed;   /* a side has given up */
  uint32_t finished; /* the follower has taken and checked everything */
  uint32_t done;     /* for the observer */
  uint64_t start_ns; /* RING_PACED: when message 0 is due */
  uint8_t reserved1[BUS_FALSE_SHARING_BYTES];
  double ns_per_message;           /* result; of a round trip: of one trip */
  uint64_t observed;               /* by the observer: records read, */
  uint64_t overrun;                /* and lost */
  struct bus_histogram latency_ns; /* result of RING_PACED */
};

enum ring_role { RING_LEADER, RING_FOLLOWER };

/* One side of a trial, private to it. */
struct ring_side {
  struct ring_trial *trial;
  enum ring_role role;
  void *tx; /* NULL: this side does not send */
  void *rx;
  void *owned;  /* the contestant's own */
  pid_t *child; /* whom the leader waits for; NULL: a thread */
};

/* What one side does in each workload: BUS_OK or an error with a message. */
struct ring_code {
  int (*lead[RING_WORKLOADS])(struct ring_side *side);
  int (*follow[RING_WORKLOADS])(struct ring_side *side);
};

struct ring_contestant {
  const char *name;
  bool between_processes; /* false: its memory is of one process, so it is run between threads */
  bool is_limit;          /* no ring, but what no ring can beat */
  /* Bytes that one channel needs, and making it in memory that both sides have at one address.
   * NULL for the bus, which opens its members instead. `channel_delete` may be NULL. */
  uint64_t (*channel_bytes)(enum ring_size size, uint64_t depth);
  int (*channel_new)(void *memory, enum ring_size size, uint64_t depth);
  void (*channel_delete)(void *memory, enum ring_size size);
  int (*open)(struct ring_side *side);
  void (*close)(struct ring_side *side);
  const struct ring_code *code[RING_SIZES]; /* NULL, or a NULL function: does not take part */
};

extern const struct ring_contestant ring_bus;
extern const struct ring_contestant ring_bus_many; /* a consumer that polls several rings */
extern const struct ring_contestant ring_lines;
extern const struct ring_contestant ring_ck;
extern const struct ring_contestant ring_dpdk;
extern const struct ring_contestant ring_dpdk_burst;
extern const struct ring_contestant ring_boost;
extern const struct ring_contestant ring_readerwriter;

/* Bytes of a message. */
uint32_t ring_size_bytes(enum ring_size size);

/* Memory for a trial that processes share, all zero; NULL with a message. */
struct ring_trial *ring_trial_new(void);

/* Plays `trial`, whose first fields (up to `directory`) are set: results are in it afterwards.
 * BUS_OK, or an error with a message; a message that arrived otherwise than it was sent is one. The
 * calling thread leads, on cores[0]. */
int ring_trial_play(struct ring_trial *trial);

/* Follows a running pair without hurry: one look each millisecond until the trial is done. */
int ring_bus_observe(struct ring_trial *trial);

/* After many vain attempts: true when it is time to give up, with a message. */
bool ring_has_to_stop(struct ring_side *side);

/* Compares what arrived with what was sent; BUS_ERROR_CORRUPT with a message. */
int ring_check_total(const struct ring_side *side, uint64_t messages, uint64_t words, uint64_t sum,
                     uint64_t bad);

/* The median of `count` values, which get sorted. */
double ring_median(double *values, uint32_t count);

BUS_END_DECLARATIONS

#endif
