/* join.pml: a waiting ring whose consumer's file is replaced, while its producer lives or after it
 * was killed: bus_producer_init, _connect, take_position; bus_backlink_maintain;
 * bus_consumer_may_join, _init; shm/ring.c, shm/subscription.c.
 *
 * File 1 is there at first, with the position of a consumer that is gone, anywhere in the ring. The
 * consumer that starts puts file 2 in its place; when it is killed it comes back in the file that
 * it has, or in another new one. The producer goes by the file that it has mapped until its
 * housekeeping, at any time between two records, maps the one of that name. It may have opened that
 * when the next replaces it. It may be killed at any step, and its successor start at any time.
 *
 * Holds: nothing is read but what was committed, whole and in its place; nothing that was not read
 * before is left out; a position is never refused; the consumer joins in the end and reads all. */
#ifndef DEPTH
#define DEPTH   2
#endif
#ifndef RECORDS
#define RECORDS 4
#endif
#ifndef CRASHES
#define CRASHES 1 /* in all, of either */
#endif
#ifndef FILES
#define FILES   3
#endif
#define START   8
#define FIRST   (START - DEPTH)

#define CPUS     2
#define PRODUCER 0
#define CONSUMER 1
#define LOADS    2
#define STORES   5
#define POSITION(f) (3 * DEPTH + 2 * ((f) - 1))
#define INSTANCE(f) (3 * DEPTH + 2 * ((f) - 1) + 1)
#define CONSUMED (3 * DEPTH + 2 * FILES)
#define CONNECTED (3 * DEPTH + 2 * FILES + 1) /* consumer_instance */
#define WORDS    (3 * DEPTH + 2 * FILES + 2)

#define SLOT(n)  (((n) % DEPTH) * 3)
#define STAMP(n) (SLOT(n) + 2)
#define LIVE 7 /* instance of the producer's file */
#define NONE 0

byte committed = START;
byte token[DEPTH + RECORDS]; /* what was committed at FIRST+i */
byte life;
byte seen;     /* a consumer has read everything before it */
byte file = 1; /* what the consumer's name leads to; its `instance`, too */
byte crashes = CRASHES;
bool killed[2];
bool dead; /* the producer's file is not locked */

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) % 3 == 2 && (a) < 3 * DEPTH ->                                                            \
    assert((v) == committed + 1);                                                                  \
    assert(mem[(a) - 1] == mem[(a) - 2]);                                                          \
    token[committed - FIRST] = mem[(a) - 1];                                                       \
    committed = (v)                                                                                \
  :: else                                                                                          \
  fi

#include "memory.pml"

#define IN_RING(n, head) ((n) <= (head) && (n) + DEPTH >= (head))

/* bus_producer_init; what the dead one's stores left is in memory. */
inline recover_producer()
{
  d_step {
    next = 0;
    consumed = 0;
    do
    :: consumed < DEPTH ->
      next = (mem[3 * consumed + 2] > next -> mem[3 * consumed + 2] : next);
      consumed++
    :: else -> break
    od;
#ifdef MUTANT_CONSUMED_AT_CONNECT
    consumed = next - DEPTH;
#else
    consumed = (IN_RING(mem[CONSUMED], next) -> mem[CONSUMED] : next - DEPTH);
#endif
    tied = (life == 0 -> 1 : NONE)
  };
  if
  :: life > 0 ->
#ifndef MUTANT_CONSUMED_AT_CONNECT
    store_relaxed(PRODUCER, CONSUMED, consumed);
#endif
#ifndef MUTANT_SUCCESSOR_KEEPS
    store_release(PRODUCER, CONNECTED, NONE)
#endif
  :: else
  fi
}

inline take_position()
{
  if
  :: tied != NONE ->
    load_acquire(PRODUCER, 0, INSTANCE(tied));
    if
    :: REG(PRODUCER, 0) == LIVE ->
      load_acquire(PRODUCER, 0, POSITION(tied)); /* P3 */
      d_step {
        assert(REG(PRODUCER, 0) >= consumed && REG(PRODUCER, 0) <= next);
        consumed = REG(PRODUCER, 0);
        REG(PRODUCER, 0) = 0
      };
#ifndef MUTANT_CONSUMED_AT_CONNECT
      store_relaxed(PRODUCER, CONSUMED, consumed)
#endif
    :: else -> REG(PRODUCER, 0) = 0
    fi
  :: else
  fi
}

/* bus_producer_connect */
inline connect(f)
{
#ifdef MUTANT_CONNECTED_FIRST
  store_release(PRODUCER, CONNECTED, f);
  take_position();
  tied = f
#else
  take_position();
  tied = f;
#ifdef MUTANT_CONSUMED_AT_CONNECT
  store_relaxed(PRODUCER, CONSUMED, consumed);
#endif
#ifdef MUTANT_P4_RELAXED
  store_relaxed(PRODUCER, CONNECTED, f)
#else
  store_release(PRODUCER, CONNECTED, f) /* P4 */
#endif
#endif
}

#define HAS_MOVED(f) (mem[INSTANCE(f)] == LIVE && mem[POSITION(f)] != consumed)

proctype producer()
{
  byte next, consumed, tied, opened;
again:
  {
    skip; /* a goto may not lead into a d_step */
    recover_producer();
end:
    do
    :: next < START + RECORDS && next != consumed + DEPTH ->
      fence_release(PRODUCER); /* P1 */
      store_relaxed(PRODUCER, SLOT(next), next + 16 * life);
      store_relaxed(PRODUCER, SLOT(next) + 1, next + 16 * life);
      store_release(PRODUCER, STAMP(next), next + 1); /* P2 */
      next++
    :: next < START + RECORDS && next == consumed + DEPTH && tied != NONE && HAS_MOVED(tied) ->
      take_position()
    :: tied != NONE && tied != file ->
      if
      :: connect(NONE) /* bus_backlink_maintain */
      :: opened = file; /* the interface allows it */
        connect(opened);
        opened = 0;
        take_position()
      fi
    :: tied == NONE ->
      opened = file;
      connect(opened);
      opened = 0;
      take_position()
    od
  } unless { killed[PRODUCER] };
  bury(PRODUCER);
  d_step {
    dead = true;
    next = 0; consumed = 0; tied = 0; opened = 0; REG(PRODUCER, 0) = 0
  };
  dead; /* until it is started again */
  d_step { dead = false; killed[PRODUCER] = false; life++ };
  goto again
}

/* bus_ring_head by the consumer: the producer may be at work meanwhile. */
inline find_head()
{
  head = 0;
  slot = 0;
  do
  :: slot < DEPTH ->
    load_acquire(CONSUMER, 0, slot * 3 + 2);
    d_step {
      head = (REG(CONSUMER, 0) > head -> REG(CONSUMER, 0) : head);
      slot++
    }
  :: else -> break
  od;
  slot = 0
}

inline join_afresh()
{
  do
  ::
#ifdef MUTANT_C3_RELAXED
    load_relaxed(CONSUMER, 1, CONNECTED);
    find_head();
    load_relaxed(CONSUMER, 0, CONSUMED);
    load_wait(CONSUMER);
#else
    load_acquire(CONSUMER, 1, CONNECTED); /* C3 */
#endif
    if
    :: REG(CONSUMER, 1) == file -> break
#ifdef MUTANT_NO_WAIT
    :: else -> break
#else
    :: else ->
      if
      :: dead ->
#ifdef MUTANT_C3_RELAXED
        find_head(); /* the system call in between does not let these loads go ahead */
        load_acquire(CONSUMER, 0, CONSUMED);
#endif
        break
      :: else -> (mem[CONNECTED] == file || dead)
      fi
#endif
    fi
  od;
#ifndef MUTANT_C3_RELAXED
  find_head();
#ifdef MUTANT_CONSUMED_AT_CONNECT
  load_acquire(CONSUMER, 1, CONNECTED);
#endif
  load_used(CONSUMER, 0, CONSUMED);
#endif
#if defined(MUTANT_OLDEST)
  next = head - DEPTH
#elif defined(MUTANT_CONSUMED_AT_CONNECT)
  next = (REG(CONSUMER, 1) == file && IN_RING(REG(CONSUMER, 0), head) -> REG(CONSUMER, 0) :
                                                                        head - DEPTH)
#else
  next = (IN_RING(REG(CONSUMER, 0), head) -> REG(CONSUMER, 0) : head - DEPTH)
#endif
}

inline start_consumer()
{
  load_acquire(CONSUMER, 0, INSTANCE(file));
  if
  :: REG(CONSUMER, 0) != LIVE ->
    join_afresh()
  :: else ->
    find_head();
    load_acquire(CONSUMER, 0, POSITION(file));
    assert(IN_RING(REG(CONSUMER, 0), head));
    next = REG(CONSUMER, 0)
  fi;
  d_step { head = 0; REG(CONSUMER, 0) = 0; REG(CONSUMER, 1) = 0 };
  store_release(CONSUMER, POSITION(file), next); /* C2 */
  store_release(CONSUMER, INSTANCE(file), LIVE)
}

proctype consumer()
{
  byte next, head, slot;
  file = 2;
again:
  {
    start_consumer();
    do
    :: next < START + RECORDS ->
      load_acquire(CONSUMER, 0, STAMP(next)); /* C1 */
      if
      :: REG(CONSUMER, 0) == next + 1 ->
        load_relaxed(CONSUMER, 0, SLOT(next));
        load_relaxed(CONSUMER, 1, SLOT(next) + 1);
        load_wait(CONSUMER);
        d_step {
          assert(next <= seen);
          assert(REG(CONSUMER, 0) == token[next - FIRST]);
          assert(REG(CONSUMER, 1) == token[next - FIRST]);
          seen = (next == seen -> seen + 1 : seen);
          REG(CONSUMER, 0) = 0;
          REG(CONSUMER, 1) = 0;
          next++
        };
        store_release(CONSUMER, POSITION(file), next) /* C2 */
      :: else ->
        assert(REG(CONSUMER, 0) == next + 1 - DEPTH);
        mem[STAMP(next)] == next + 1
      fi
    :: else -> break
    od;
    goto done
  } unless { killed[CONSUMER] };
  bury(CONSUMER);
  d_step {
    killed[CONSUMER] = false;
    next = 0; head = 0; slot = 0;
    REG(CONSUMER, 0) = 0; REG(CONSUMER, 1) = 0
  };
  if
  :: skip
  :: file < FILES -> file++
  fi;
  goto again;
done:
  assert(seen == START + RECORDS)
}

proctype killer()
{
end:
  do
  :: d_step { crashes > 0 && !killed[PRODUCER] -> crashes--; killed[PRODUCER] = true }
  :: d_step { crashes > 0 && !killed[CONSUMER] -> crashes--; killed[CONSUMER] = true }
  od
}

init
{
  d_step {
    byte i = 0;
    do
    :: i < DEPTH ->
      mem[SLOT(FIRST + i)] = FIRST + i;
      mem[SLOT(FIRST + i) + 1] = FIRST + i;
      mem[STAMP(FIRST + i)] = FIRST + i + 1;
      token[i] = FIRST + i;
      i++
    :: else -> break
    od;
    i = 0;
    mem[INSTANCE(1)] = LIVE;
    mem[CONNECTED] = 1;
    mem[CONSUMED] = FIRST;
    seen = FIRST
  };
  do
  :: seen < START -> seen++
  :: break
  od;
  atomic {
    mem[POSITION(1)] = seen;
    START_MEMORY(PRODUCER);
    START_MEMORY(CONSUMER);
    run producer();
    run consumer();
    run killer()
  }
}
