/* takeover.pml: a waiting ring whose producer and consumer are killed at any step, between the
 * stores of a record as well, and come back: bus_producer_init, _connect, take_position;
 * bus_consumer_init; shm/ring.c.
 *
 * Holds: what was committed is neither lost nor published again; the consumer reads every position
 * at least once, without a gap, with the words that were committed; nothing waits for ever. */
#ifndef DEPTH
#define DEPTH   4
#endif
#ifndef RECORDS
#define RECORDS 9
#endif
#ifndef CRASHES
#define CRASHES 1 /* in all, of either */
#endif
#define START   6
#ifndef EVERY
#define EVERY   2
#endif

#define CPUS     2
#define PRODUCER 0
#define CONSUMER 1
#define LOADS    2
#define STORES   4
#define POSITION (3 * DEPTH)
#define INSTANCE (3 * DEPTH + 1)
#ifdef MUTANT_RECOVER_FROM_CURSOR
#define CURSOR   (3 * DEPTH + 2)
#define WORDS    (3 * DEPTH + 3)
#else
#define WORDS    (3 * DEPTH + 2)
#endif

#define SLOT(n)    (((n) % DEPTH) * 3)
#define STAMP(n)   (SLOT(n) + 2)
#define LIVE 7  /* instance of the producer's file */
#define OLD  3  /* of the one that was there before it */

byte committed = START;
byte token[RECORDS]; /* what was committed at START+i: another word for each life of the producer */
byte life;
byte seen = START; /* the consumer has read everything before it */
byte crashes = CRASHES;
bool killed[2];

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) % 3 == 2 && (a) < POSITION ->                                                             \
    assert((v) == committed + 1);                                                                  \
    assert(mem[(a) - 1] == mem[(a) - 2]);                                                          \
    token[committed - START] = mem[(a) - 1];                                                       \
    committed = (v)                                                                                \
  :: else                                                                                          \
  fi

#include "memory.pml"

/* bus_ring_head by the producer: nobody else writes the ring. */
inline recover_producer()
{
  d_step {
    next = 0;
    consumed = 0;
    do
    :: consumed < DEPTH ->
      if
      :: mem[3 * consumed + 2] > next -> next = mem[3 * consumed + 2]
      :: else
      fi;
      consumed++
    :: else -> break
    od;
#if defined(MUTANT_RECOVER_FROM_CURSOR)
    next = mem[CURSOR];
#elif defined(MUTANT_RECOVER_ONE_BEHIND)
    next = (next > START -> next - 1 : next);
#elif defined(MUTANT_RECOVER_ONE_AHEAD)
    next = (next > START -> next + 1 : next);
#endif
#ifdef MUTANT_TAKEOVER_THINKS_EMPTY
    consumed = next
#else
    consumed = (next - START < DEPTH -> START : next - DEPTH)
#endif
  }
}

/* take_position until there is room. */
inline wait_for_room()
{
  do
  :: next != consumed + DEPTH -> break
  :: else ->
    load_acquire(PRODUCER, 0, INSTANCE);
    if
    :: REG(PRODUCER, 0) == LIVE ->
      load_acquire(PRODUCER, 0, POSITION); /* P3 */
      d_step {
        assert(REG(PRODUCER, 0) >= consumed && REG(PRODUCER, 0) <= next);
        consumed = REG(PRODUCER, 0);
        REG(PRODUCER, 0) = 0
      }
    :: else
    fi;
    (next != consumed + DEPTH || mem[INSTANCE] == LIVE && mem[POSITION] != consumed)
  od
}

proctype producer()
{
  byte next, consumed;
again:
  {
    skip; /* a goto may not lead into a d_step */
    recover_producer();
    do
    :: next < START + RECORDS ->
      wait_for_room();
      fence_release(PRODUCER); /* P1 */
      store_relaxed(PRODUCER, SLOT(next), next + 16 * life);
      store_relaxed(PRODUCER, SLOT(next) + 1, next + 16 * life);
      store_release(PRODUCER, STAMP(next), next + 1); /* P2 */
      next++;
#ifdef MUTANT_RECOVER_FROM_CURSOR
      if
      :: next % 2 == 0 -> store_relaxed(PRODUCER, CURSOR, next)
      :: else
      fi
#endif
    :: else -> break
    od;
    goto done
  } unless { killed[PRODUCER] };
  bury(PRODUCER);
  d_step { killed[PRODUCER] = false; life++ };
  goto again;
done:
  skip
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
  slot = (head - START < DEPTH -> START : head - DEPTH) /* the oldest */
}

inline start_consumer()
{
  find_head();
  load_acquire(CONSUMER, 0, INSTANCE);
  if
  :: REG(CONSUMER, 0) != LIVE ->
    store_release(CONSUMER, INSTANCE, 0);
    next = slot
  :: else ->
    load_acquire(CONSUMER, 0, POSITION);
    assert(REG(CONSUMER, 0) >= slot && REG(CONSUMER, 0) <= head);
#ifdef MUTANT_RESUME_AT_HEAD
    next = head
#else
    next = REG(CONSUMER, 0)
#endif
  fi;
  d_step { head = 0; slot = 0; REG(CONSUMER, 0) = 0 };
#ifdef MUTANT_INSTANCE_FIRST
  store_release(CONSUMER, INSTANCE, LIVE);
#endif
  store_release(CONSUMER, POSITION, next); /* C2 */
#ifndef MUTANT_INSTANCE_FIRST
  store_release(CONSUMER, INSTANCE, LIVE);
#endif
  published = next
}

proctype consumer()
{
  byte next, published, head, slot;
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
          assert(REG(CONSUMER, 0) == token[next - START]);
          assert(REG(CONSUMER, 1) == token[next - START]);
          seen = (next == seen -> seen + 1 : seen);
          REG(CONSUMER, 0) = 0;
          REG(CONSUMER, 1) = 0;
          next++
        };
        if
        :: next - published >= EVERY ->
          store_release(CONSUMER, POSITION, next); /* C2 */
          published = next
        :: else
        fi
      :: else ->
        assert(REG(CONSUMER, 0) == next + 1 - DEPTH);
        if
        :: published != next ->
          store_release(CONSUMER, POSITION, next); /* C2 */
          published = next
        :: else
        fi;
        mem[STAMP(next)] == next + 1
      fi
    :: else -> break
    od;
    goto done
  } unless { killed[CONSUMER] };
  bury(CONSUMER);
  d_step {
    killed[CONSUMER] = false;
    next = 0; published = 0; head = 0; slot = 0;
    REG(CONSUMER, 0) = 0; REG(CONSUMER, 1) = 0
  };
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
    :: i < DEPTH -> mem[STAMP(START + i)] = START + i + 1 - DEPTH; i++
    :: else -> break
    od;
    /* A position in an earlier file of the producer, which would be a possible one in this. */
    mem[INSTANCE] = OLD;
    mem[POSITION] = START + 2;
#ifdef MUTANT_RECOVER_FROM_CURSOR
    mem[CURSOR] = START;
#endif
    i = 0
  }
  atomic {
    START_MEMORY(PRODUCER);
    START_MEMORY(CONSUMER);
    run producer();
    run consumer();
    run killer()
  }
}
