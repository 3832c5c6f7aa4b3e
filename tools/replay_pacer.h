/* replay_pacer.h: when each record of a capture is due, and waiting for that moment.
 *
 * Deadlines are absolute: record time t is due at start + (t - first) / speed on the bus clock, so
 * what one record is late never adds to the next. Waiting sleeps until shortly before the deadline
 * and spins the rest. When a record comes out later than the limit, the whole schedule moves by as
 * much: all channels slow down together and keep their distances, instead of a burst that makes up
 * for lost time. */
#ifndef TOOLS_REPLAY_PACER_H
#define TOOLS_REPLAY_PACER_H

#include "shm/clock.h"
#include "shm/histogram.h"
#include "shm/ring.h"

/* How long before a deadline the sleep ends and the spin begins. A sleep with a timer slack of 1 ns
 * ends 30 to 45 us after it should at the median. */
#define REPLAY_PACER_SPIN_NS 100000u

/* The last of the spin, which is without pauses and ends in the commit. */
#define REPLAY_PACER_RELEASE_NS 2000u

/* A record that is later than this moves the schedule. */
#define REPLAY_PACER_SLIP_NS 100000u

/* The time that a pacer goes by; tests bring one of their own. */
struct replay_pacer_clock {
  const struct bus_clock *bus; /* is read directly; NULL: now_ns is called instead */
  uint64_t (*now_ns)(void *context);
  /* Returns at `deadline_ns`, earlier when a signal comes, or as much later as the kernel likes. */
  void (*sleep_until)(void *context, uint64_t deadline_ns);
  void *context;
};

struct replay_pacer {
  struct replay_pacer_clock clock;
  double speed;
  uint64_t first_record_ns; /* the record with this time ... */
  uint64_t start_ns;        /* ... is due at this bus time */
  uint64_t slips;           /* times that the schedule moved ... */
  uint64_t slipped_ns;      /* ... and by how much in all */
};

/* A pacer without schedule. `speed` > 0: 1 as recorded, 10 ten times as fast. The thread that
 * paces: all of this. */
void replay_pacer_init(struct replay_pacer *pacer, const struct replay_pacer_clock *clock,
                       double speed);

/* Begins a schedule: a record of time `record_ns` is due now, and the others by their distance from
 * it. */
void replay_pacer_start(struct replay_pacer *pacer, uint64_t record_ns);

/* Bus time at which a record of time `record_ns` is due. Records before the first one are due with
 * it; the far future is cut at 292 years. Pure. */
uint64_t replay_pacer_due_ns(const struct replay_pacer *pacer, uint64_t record_ns);

/* Waits until shortly before `due_ns`, but not beyond `until_ns`, nor after a signal that ended the
 * sleep. True when the record may be released now. */
bool replay_pacer_wait(const struct replay_pacer *pacer, uint64_t due_ns, uint64_t until_ns);

/* Commits what `producer` has reserved (see ring.h) at `due_ns`, which replay_pacer_wait has let
 * pass, or at once when that is over. Counts in `lateness_ns` how late the commit was over, and
 * moves the schedule when that is beyond the limit. Returns the lateness, ns. */
uint64_t replay_pacer_release(struct replay_pacer *pacer, uint64_t due_ns,
                              struct bus_producer *producer, struct bus_histogram *lateness_ns);

#endif
