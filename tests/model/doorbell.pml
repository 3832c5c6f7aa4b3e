/* doorbell.pml: a consumer that sleeps when the ring is empty, and the producer that wakes it.
 *
 *   producer, after the commit:  D1 full fence; waiting? then bell+1, FUTEX_WAKE(bell)
 *   consumer, ring empty:        b = bell; waiting = 1; D2 full fence; polls again; still empty:
 *                                FUTEX_WAIT(bell, b); waiting = 0
 *
 * D1 pairs with D2: either the producer sees `waiting`, or the second poll sees the record.
 *
 * The records are their stamps here; what they carry is publish.pml's. The producer may stop after
 * any record, so that no later one's wake-up covers for one that was lost.
 *
 * Holds: whenever nothing can move any more, the consumer has read everything. Without time-outs;
 * -DTIME_OUT lets FUTEX_WAIT return at any time, as it may. */
#define DEPTH   2
#define RECORDS 5
#define START   4
#define EVERY   2

#define CPUS     2
#define PRODUCER 0
#define CONSUMER 1
#define LOADS    2
#define STORES   5
#define POSITION DEPTH
#define WAITING  (DEPTH + 1)
#define BELL     (DEPTH + 2)
#define WORDS    (DEPTH + 3)
#define STAMP(n) ((n) % DEPTH)

byte committed = START;
bool asleep;

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) < DEPTH -> assert((v) == committed + 1); committed = (v)                                  \
  :: else                                                                                          \
  fi

#include "memory.pml"

/* The kernel makes the caller's stores visible before it looks for sleepers. */
inline futex_wake()
{
  fence_full(PRODUCER);
  asleep = false
}

/* The kernel compares the word in memory and queues the caller in one step. */
inline futex_wait(expected)
{
  d_step {
    if
    :: mem[BELL] == expected -> asleep = true
    :: else
    fi
  };
end_asleep:
  if
  :: !asleep
#ifdef TIME_OUT
  :: asleep -> asleep = false
#endif
  fi
}

proctype producer()
{
  byte next = START;
  byte consumed = START;
  do
  :: next < START + RECORDS ->
    do
    :: next != consumed + DEPTH -> break
    :: else ->
      mem[POSITION] != consumed;
      load_acquire(PRODUCER, 0, POSITION); /* P3 */
      d_step { consumed = REG(PRODUCER, 0); REG(PRODUCER, 0) = 0 }
    od;
    skip;
#ifdef MUTANT_BELL_BEFORE_COMMIT
    load_used(PRODUCER, 0, WAITING);
    if
    :: REG(PRODUCER, 0) != 0 ->
      load_used(PRODUCER, 0, BELL);
      store_relaxed(PRODUCER, BELL, REG(PRODUCER, 0) + 1);
      futex_wake()
    :: else
    fi;
#endif
    store_release(PRODUCER, STAMP(next), next + 1); /* P2 */
    next++;
#ifndef MUTANT_BELL_BEFORE_COMMIT
#ifndef MUTANT_D1_DROPPED
    fence_full(PRODUCER); /* D1 */
#endif
    load_used(PRODUCER, 0, WAITING);
    if
    :: REG(PRODUCER, 0) != 0 ->
#ifndef MUTANT_BELL_NOT_STORED
      load_used(PRODUCER, 0, BELL);
      store_relaxed(PRODUCER, BELL, REG(PRODUCER, 0) + 1);
#endif
#ifndef MUTANT_NO_WAKE
      futex_wake()
#else
      skip
#endif
    :: else
    fi;
#endif
    REG(PRODUCER, 0) = 0
  :: break /* nothing comes for a long time */
  od
}

inline publish_position()
{
  store_release(CONSUMER, POSITION, next); /* C2 */
  published = next
}

proctype consumer()
{
  byte next = START;
  byte published = START;
end:
  do
  :: load_acquire(CONSUMER, 0, STAMP(next)); /* C1 */
    if
    :: REG(CONSUMER, 0) == next + 1 ->
      next++;
      if
      :: next - published >= EVERY -> publish_position()
      :: else
      fi
    :: else ->
      if
      :: published != next -> publish_position()
      :: else
      fi;
#ifndef MUTANT_BELL_READ_LATE
      load_relaxed(CONSUMER, 1, BELL);
#endif
      store_relaxed(CONSUMER, WAITING, 1);
#ifndef MUTANT_D2_DROPPED
      fence_full(CONSUMER); /* D2 */
#endif
#ifndef MUTANT_NO_SECOND_POLL
      load_acquire(CONSUMER, 0, STAMP(next)); /* C1 */
#endif
#ifdef MUTANT_BELL_READ_LATE
      load_relaxed(CONSUMER, 1, BELL);
#endif
      load_wait(CONSUMER);
      if
      :: REG(CONSUMER, 0) == next + 1
      :: else -> futex_wait(REG(CONSUMER, 1))
      fi;
      store_relaxed(CONSUMER, WAITING, 0);
      REG(CONSUMER, 1) = 0
    fi;
    REG(CONSUMER, 0) = 0
  od
}

/* Runs when nothing else can. */
proctype judge()
{
  timeout;
  assert(consumer:next == committed);
  assert(asleep)
}

init
{
  d_step {
    mem[STAMP(START)] = START + 1 - DEPTH;
    mem[STAMP(START + 1)] = START + 2 - DEPTH;
    mem[POSITION] = START
  }
  atomic {
    START_MEMORY(PRODUCER);
    START_MEMORY(CONSUMER);
    run producer();
    run consumer();
    run judge()
  }
}
