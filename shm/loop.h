/* loop.h: the run loop of a member: poll, work, rarely housekeeping, idle by strategy.
 *
 * One thread, pinned when a core is given. The hot part of a cycle is the caller's work function;
 * the loop adds one clock reading. */
#ifndef SIGNALBUS_LOOP_H
#define SIGNALBUS_LOOP_H

#include "clock.h"
#include "histogram.h"
#include "member.h"

BUS_BEGIN_DECLARATIONS

enum bus_idle {
  BUS_IDLE_SPIN = 1,    /* never gives the core away: for a core of its own */
  BUS_IDLE_BACKOFF = 2, /* spins, then yields, then sleeps up to 50 us */
  BUS_IDLE_SLEEP = 3,   /* sleeps 200 us at once: for tools */
  BUS_IDLE_DOORBELL = 4 /* spins, then sleeps until a producer rings (see doorbell.h); where there
                           is nothing to listen to, as BACKOFF */
};

struct bus_idler {
  uint32_t strategy;
  uint32_t empty_polls;
};

/* "spin", "backoff", "sleep", "doorbell" -> enum bus_idle; BUS_ERROR_INVALID with a message
 * otherwise. */
BUS_EXPORT int bus_idle_parse(const char *text);

/* The reverse: a static name, "?" when unknown. */
BUS_EXPORT const char *bus_idle_name(uint32_t strategy);

/* After a poll that found nothing: a pause by the strategy, of some ns (spinning) to 200 us
 * (sleeping). The idler's thread. */
BUS_EXPORT void bus_idler_wait(struct bus_idler *idler);

/* After a poll that found something. */
static BUS_ALWAYS_INLINE void bus_idler_reset(struct bus_idler *idler)
{
  idler->empty_polls = 0;
}

struct bus_loop {
  struct bus_clock clock;
  struct bus_idler idler;
  struct bus_member *member;         /* gets the heartbeat; may be NULL */
  uint64_t now_ns;                   /* bus time at the start of this cycle */
  uint64_t housekeeping_interval_ns; /* mean; each interval is drawn from 75..125 % of it */
  uint64_t next_housekeeping_ns;
  uint64_t cycle_budget_ns; /* a working cycle longer than this is counted */
  uint64_t *cycle_ns_max;   /* own counters; may be NULL */
  uint64_t *cycles_over_budget;
  uint64_t *allocated_bytes;
  uint64_t allocated_bytes_elsewhere; /* before the start, and by housekeeping */
  uint64_t random;
};

/* What the loop drives. Both run on the loop's thread. */
struct bus_loop_operations {
  /* Does what there is to do now: the number of records handled, 0 for nothing, BUS_ERROR_AGAIN to
   * end the loop in order, another negative error to end it with that error. */
  int (*work)(void *context, struct bus_loop *loop);
  /* Rare upkeep: attach, publish counters. May be NULL. Returns BUS_OK or a negative error to end.
   */
  int (*housekeeping)(void *context, struct bus_loop *loop);
  /* With BUS_IDLE_DOORBELL: sleeps until there may be work, `timeout_ns` at most. NULL: this member
   * has no doorbell to listen to. */
  void (*sleep)(void *context, uint64_t timeout_ns);
};

/* The three counters above, to be put into the member's object list. */
#define BUS_LOOP_OBJECTS                                                                           \
  {.type = BUS_OBJECT_COUNTER, .name = "cycle_ns_max", .unit = "ns"},                              \
      {.type = BUS_OBJECT_COUNTER, .name = "cycles_over_budget", .unit = "cycles"},                \
  {                                                                                                \
    .type = BUS_OBJECT_COUNTER, .name = "allocated_bytes", .unit = "bytes"                         \
  }

/* Calibrates the clock, finds the counters above in `member` (may be NULL), pins the calling thread
 * to `core` (-1: not), prefers memory of `numa_node` (-1: not). Defaults: housekeeping every 10 ms,
 * a budget of 100 us. Also sets the thread's timer slack to 1 ns. Returns BUS_OK, or
 * BUS_ERROR_INVALID or another negative error with a message when it cannot be pinned. Takes 10 ms.
 */
BUS_EXPORT int bus_loop_init(struct bus_loop *loop, struct bus_member *member, uint32_t idle,
                             int core, int numa_node);

/* Runs on the calling thread, which called bus_loop_init, until work or housekeeping say so or
 * bus_loop_stop_requested(). Returns BUS_OK or their error. From here on
 * what the work function allocates is counted in the member's "allocated_bytes" (where jemalloc is
 * linked): it should stay 0. Where bus_notify_open was called, a service manager hears that the
 * process is ready, alive and stopping. */
BUS_EXPORT int bus_loop_run(struct bus_loop *loop, const struct bus_loop_operations *operations,
                            void *context);

/* Housekeeping out of turn, for work functions that wait inside a cycle: set loop->now_ns first.
 * Returns what the housekeeping function returns. The loop's thread. */
BUS_EXPORT int bus_loop_keep_house(struct bus_loop *loop,
                                   const struct bus_loop_operations *operations, void *context);

/* Makes SIGINT and SIGTERM ask for the stop, SIGPIPE ignored. Once for each process. */
BUS_EXPORT void bus_loop_handle_signals(void);

/* Whether a signal or the process itself has asked every loop to stop, and asking for it. One flag
 * for the process, never taken back. The loop's thread, or a signal handler. */
BUS_EXPORT bool bus_loop_stop_requested(void);
BUS_EXPORT void bus_loop_request_stop(void);

/* Bytes that the calling thread has allocated since it started, by jemalloc's thread.allocated; 0
 * when the program is not linked with jemalloc. */
BUS_EXPORT uint64_t bus_allocated_bytes(void);

/* Pins the calling thread to `core`. Returns BUS_OK; BUS_ERROR_INVALID, which names the cores that
 * exist; or another negative error with a message when the system refuses. */
BUS_EXPORT int bus_pin_thread(int core);

BUS_END_DECLARATIONS

#endif
