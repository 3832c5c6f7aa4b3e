/* workers.h: members that run as processes of their own until they are killed or told to stop. Each
 * checks every record and, when it starts, that it goes on exactly where its predecessor was
 * killed. */
#ifndef FAULTLAB_WORKERS_H
#define FAULTLAB_WORKERS_H

#include "rig.h"

enum worker_phase { PHASE_FORKED, PHASE_STARTING, PHASE_RUNNING };

/* lab_control->phase[] and the order in which stop ends them: stop 1 ends the producer, 2 all. */
enum worker_id { WORKER_PRODUCER, WORKER_CONSUMER, WORKER_OBSERVER };

/* lab_control->value[] of the workers */
enum worker_value {
  VALUE_EMIT_BEGUN,
  VALUE_EMITTED, /* outputs that the relay has committed */
  VALUE_AGAIN,   /* records that a consumer saw a second time */
  VALUE_OVERRUNS,
  VALUE_OBSERVED_FROM /* where the observer joined */
};

/* Who wrote each of the newest positions, as first seen: a record that is published twice, by a
 * producer that had already published it, has another author. Shared by all workers. */
void workers_share(void);

/* Member p: writes as fast as the ring's policy allows. */
void worker_producer(void);
/* Member c: reads each record in place. */
void worker_consumer(void);
/* Member c, with a ring "out": makes exactly one output of each record. */
void worker_relay(void);
/* Follows p's ring; with outputs also the relay's. */
void worker_observer(void);
void worker_observer_of_both(void);

/* A worker that runs. */
pid_t worker_start(enum worker_id id, void (*body)(void));
/* Waits until it has got so far. */
void worker_await(enum worker_id id, enum worker_phase phase);

/* Counters read by one process, written by another. */
static inline uint64_t worker_read(const uint64_t *value)
{
  return BUS_LOAD_ACQUIRE(value);
}

#endif
