/* publish.pml: a producer and its reliable consumer on a ring that makes the producer wait
 * (bus_producer_reserve, _commit, _refresh; bus_consumer_poll, _release, _idle; shm/ring.h).
 *
 * Holds: every record is read once, in order, whole; stamps become visible one after the other,
 * none twice; neither side waits for ever. */
#define DEPTH   4
#define RECORDS 10 /* two laps and a half */
#define START   6  /* the first position, so that the lap before has stamps > 0 */
#define EVERY   2  /* records for each publication of the position */

#define CPUS     2
#define PRODUCER 0
#define CONSUMER 1
#define LOADS    3
#define STORES   5
#define WORDS    (3 * DEPTH + 1)

#define SLOT(n)    (((n) % DEPTH) * 3)
#define STAMP(n)   (SLOT(n) + 2)
#define POSITION   (3 * DEPTH)

byte committed = START; /* positions whose stamp has become visible */

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) % 3 == 2 && (a) < POSITION -> assert((v) == committed + 1); committed = (v)               \
  :: else                                                                                          \
  fi

#include "memory.pml"

proctype producer()
{
  byte next = START;
  byte consumed = START;
#ifdef MUTANT_LIMIT
#define LIMIT (consumed + DEPTH + 1)
#else
#define LIMIT (consumed + DEPTH)
#endif
  do
  :: next < START + RECORDS ->
    do
    :: next != LIMIT -> break
    :: else ->
      load_acquire(PRODUCER, 0, POSITION); /* P3 */
      if
      :: REG(PRODUCER, 0) == consumed -> mem[POSITION] != consumed /* full: until it moves */
      :: else ->
        d_step {
          assert(REG(PRODUCER, 0) > consumed && REG(PRODUCER, 0) <= next);
          consumed = REG(PRODUCER, 0);
          REG(PRODUCER, 0) = 0
        }
      fi
    od;
    fence_release(PRODUCER); /* P1: only observers need it, see observe.pml */
#ifdef MUTANT_STAMP_FIRST
    store_release(PRODUCER, STAMP(next), next + 1);
#endif
    store_relaxed(PRODUCER, SLOT(next), next);
    store_relaxed(PRODUCER, SLOT(next) + 1, next);
#ifdef MUTANT_P2_RELAXED
    store_relaxed(PRODUCER, STAMP(next), next + 1);
#elif !defined(MUTANT_STAMP_FIRST)
    store_release(PRODUCER, STAMP(next), next + 1); /* P2 */
#endif
    next++
  :: else -> break
  od
}

inline publish_position(n)
{
#ifdef MUTANT_C2_RELAXED
  store_relaxed(CONSUMER, POSITION, n);
#else
  store_release(CONSUMER, POSITION, n); /* C2 */
#endif
  published = n
}

proctype consumer()
{
  byte next = START;
  byte published = START;
  do
  :: next < START + RECORDS ->
#ifdef MUTANT_C1_RELAXED
    /* The branch on the stamp is predicted, so the reads of the record may come first. */
    load_relaxed(CONSUMER, 2, STAMP(next));
    load_relaxed(CONSUMER, 0, SLOT(next));
    load_relaxed(CONSUMER, 1, SLOT(next) + 1);
    load_wait(CONSUMER);
#else
    load_acquire(CONSUMER, 2, STAMP(next)); /* C1 */
#endif
    if
    :: REG(CONSUMER, 2) == next + 1 ->
#ifdef MUTANT_POSITION_EARLY
      publish_position(next + 1);
#endif
#ifndef MUTANT_C1_RELAXED
      load_relaxed(CONSUMER, 0, SLOT(next));
      load_relaxed(CONSUMER, 1, SLOT(next) + 1);
#endif
      next++;
      if
      :: next - published >= EVERY -> publish_position(next)
      :: else
      fi;
      load_wait(CONSUMER);
      d_step {
        assert(REG(CONSUMER, 0) == next - 1 && REG(CONSUMER, 1) == next - 1);
        REG(CONSUMER, 0) = 0;
        REG(CONSUMER, 1) = 0;
        REG(CONSUMER, 2) = 0
      }
    :: else ->
      assert(REG(CONSUMER, 2) == next + 1 - DEPTH); /* never lapped */
      if
      :: published != next -> publish_position(next)
      :: else
      fi;
      mem[STAMP(next)] == next + 1
    fi
  :: else -> break
  od
}

init
{
  d_step {
    byte i = 0;
    do
    :: i < DEPTH -> mem[STAMP(START + i)] = START + i + 1 - DEPTH; i++
    :: else -> break
    od;
    mem[POSITION] = START;
    i = 0
  }
  atomic {
    START_MEMORY(PRODUCER);
    START_MEMORY(CONSUMER);
    run producer();
    run consumer()
  }
}
