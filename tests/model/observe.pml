/* observe.pml: an observer of a ring whose producer waits for nobody (OVERWRITE): bus_observer_init,
 * _poll, _overrun against bus_producer_publish; shm/ring.h, shm/ring.c.
 *
 * Holds: a copy that is accepted is whole and of the position asked for; each overrun is real; lost
 * and read add up to the positions passed; the observer never runs ahead of the producer. */
#define DEPTH   4
#define RECORDS 10 /* two laps and a half */
#define START   6

#define CPUS     2
#define PRODUCER 0
#define OBSERVER 1
#define LOADS    3
#define STORES   5
#define WORDS    (3 * DEPTH)

#define SLOT(n)    (((n) % DEPTH) * 3)
#define STAMP(n)   (SLOT(n) + 2)

byte committed = START;

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) % 3 == 2 -> assert((v) == committed + 1); committed = (v)                                 \
  :: else                                                                                          \
  fi

#include "memory.pml"

proctype producer()
{
  byte next = START;
  do
  :: next < START + RECORDS ->
#ifndef MUTANT_P1_DROPPED
    fence_release(PRODUCER); /* P1 */
#endif
    store_relaxed(PRODUCER, SLOT(next), next);
    store_relaxed(PRODUCER, SLOT(next) + 1, next);
    store_release(PRODUCER, STAMP(next), next + 1); /* P2 */
    next++
  :: else -> break
  od
}

/* bus_ring_head: `head` becomes the highest stamp, looking at one slot after the other. */
inline find_head()
{
  head = 0;
  slot = 0;
  do
  :: slot < DEPTH ->
    load_acquire(OBSERVER, 0, slot * 3 + 2);
    d_step {
      if
      :: REG(OBSERVER, 0) > head -> head = REG(OBSERVER, 0)
      :: else
      fi;
      slot++
    }
  :: else -> break
  od;
  slot = 0
}

/* bus_observer_overrun. Whatever made the observer think so, the record may really be overwritten:
 * the record before the one that replaces it has been committed. */
inline overrun()
{
  assert(committed >= next + DEPTH);
  find_head();
  d_step {
    if
    :: head > next + DEPTH / 2 -> head = head - DEPTH / 2
    :: else -> head = next + 1
    fi;
#ifdef MUTANT_LOST_ONE_SHORT
    lost = lost + head - next - 1;
#else
    lost = lost + head - next;
#endif
    next = head;
    head = 0;
    assert(next <= committed);
    REG(OBSERVER, 0) = 0;
    REG(OBSERVER, 1) = 0;
    REG(OBSERVER, 2) = 0
  }
}

proctype observer()
{
  byte next, first, lost, read, head, slot;
  find_head();
  if
  :: d_step { /* from the oldest: what the ring holds, but the one that cannot be checked */
       if
       :: head - START < DEPTH -> next = START
       :: else -> next = head - DEPTH + 1
       fi
     }
  :: next = head /* from the next to come */
  fi;
  first = next;
  head = 0;
  do
  :: next < START + RECORDS ->
#ifdef MUTANT_O1_RELAXED
    load_relaxed(OBSERVER, 2, STAMP(next));
    load_relaxed(OBSERVER, 0, SLOT(next));
    load_relaxed(OBSERVER, 1, SLOT(next) + 1);
    load_wait(OBSERVER);
#else
    load_acquire(OBSERVER, 2, STAMP(next)); /* O1 */
#endif
    if
    :: REG(OBSERVER, 2) == next + 1 ->
#ifndef MUTANT_O1_RELAXED
      load_relaxed(OBSERVER, 0, SLOT(next));
      load_relaxed(OBSERVER, 1, SLOT(next) + 1);
#endif
#ifndef MUTANT_O2_DROPPED
      fence_acquire(OBSERVER); /* O2 */
#endif
#if defined(MUTANT_OWN_STAMP)
#define CHECKED next
#elif defined(MUTANT_NEIGHBOUR_TOO_FAR)
#define CHECKED (next - 2)
#else
#define CHECKED (next - 1)
#endif
#ifdef MUTANT_NO_CHECK
      REG(OBSERVER, 2) = next;
#else
      load_relaxed(OBSERVER, 2, STAMP(CHECKED));
#endif
      load_wait(OBSERVER);
      if
#ifdef MUTANT_NEIGHBOUR_A_LAP_LATE
      :: REG(OBSERVER, 2) == CHECKED + 1 || REG(OBSERVER, 2) == CHECKED + 1 + DEPTH ->
#elif defined(MUTANT_NO_CHECK)
      :: true ->
#else
      :: REG(OBSERVER, 2) == CHECKED + 1 ->
#endif
        d_step {
          assert(REG(OBSERVER, 0) == next && REG(OBSERVER, 1) == next);
          REG(OBSERVER, 0) = 0;
          REG(OBSERVER, 1) = 0;
          REG(OBSERVER, 2) = 0;
          next++;
          read++;
          assert(next <= committed)
        }
      :: else -> overrun()
      fi
    :: REG(OBSERVER, 2) > next + 1 -> overrun()
    :: else ->
      REG(OBSERVER, 2) = 0;
      mem[STAMP(next)] >= next + 1 /* none yet: until there is */
    fi
  :: else -> break
  od;
  assert(lost + read == next - first)
}

init
{
  d_step {
    byte i = 0;
    do
    :: i < DEPTH -> mem[STAMP(START + i)] = START + i + 1 - DEPTH; i++
    :: else -> break
    od;
    i = 0
  }
  atomic {
    START_MEMORY(PRODUCER);
    START_MEMORY(OBSERVER);
    run producer();
    run observer()
  }
}
