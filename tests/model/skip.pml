/* skip.pml: the count of lost records: skip_lost, finish_skip, bus_consumer_init and _idle of
 * shm/ring.c. The consumer is killed at any step, between the stores of a skip as well, and comes
 * back in its file. The producer does not see its position (it laps it at any time), and once its
 * own file may be replaced: positions of another instance, which may be the very same numbers.
 *
 * What is in the ring is left to the other models: the head is one number here.
 *
 * Holds: whenever the consumer has begun, and in the end, `lost` is what the position passed over
 * without reading, each record counted once. */
#ifndef CRASHES
#define CRASHES 2
#endif
#define DEPTH   2
#define START   4
#ifndef RECORDS
#define RECORDS 4
#endif

#define CPUS      1
#define CONSUMER  0
#define LOADS     1
#define STORES    6
#define POSITION  0
#define INSTANCE  1
#define LOST      2
#define SKIP_TO   3
#define SKIP_LOST 4
#define WORDS     5

byte instance = 1; /* of the producer's file */
byte head = START;
byte crashes = CRASHES;
byte position = START; /* as memory has it */
byte passed;           /* what it passed over unread: what `lost` has to be */
byte going;            /* where a skip goes; 0: none is under way */
bool killed;

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) == POSITION ->                                                                            \
    passed = (going != 0 && going == (v) -> passed + ((v) - position) : passed);                   \
    position = (v)                                                                                 \
  :: else                                                                                          \
  fi

#include "memory.pml"

#define OLDEST (head - START < DEPTH -> START : head - DEPTH)

inline load(word, to)
{
  load_acquire(CONSUMER, 0, word);
  to = REG(CONSUMER, 0)
}

inline store(word, value) { store_release(CONSUMER, word, value) }

inline skip_lost(to)
{
  load(LOST, lost);
  d_step { lost = lost + (to - next); going = to };
#ifdef MUTANT_POSITION_FIRST
  store(POSITION, to);
#endif
#ifndef MUTANT_NOT_INVALIDATED
  store(SKIP_TO, next - 1); /* next is what the position says here */
#endif
  store(SKIP_LOST, lost);
  store(SKIP_TO, to);
  next = to;
#ifndef MUTANT_POSITION_FIRST
  store(POSITION, next);
#endif
  store(LOST, lost);
  published = next
}

inline finish_skip()
{
  skip;
#ifndef MUTANT_NOT_FINISHED
  load(POSITION, at);
  load(SKIP_TO, lost);
  if
  :: at == lost ->
    load(SKIP_LOST, lost);
    store(LOST, lost)
  :: else
  fi
#endif
}

inline start_consumer()
{
  d_step { joined = instance; oldest = OLDEST }; /* attached to that file */
#ifndef MUTANT_FINISHED_WHEN_RESUMED
  finish_skip();
#endif
  load(INSTANCE, at);
  if
  :: at != joined ->
    store(INSTANCE, 0);
#ifndef MUTANT_JOIN_KEEPS_SKIP
    load(LOST, lost);
    store_relaxed(CONSUMER, SKIP_LOST, lost);
#endif
    next = oldest
  :: else ->
#ifdef MUTANT_FINISHED_WHEN_RESUMED
    finish_skip();
#endif
    load(POSITION, next);
    if
    :: next < oldest -> skip_lost(oldest)
    :: else
    fi
  fi;
  store(POSITION, next); /* C2 */
  published = next;
  store(INSTANCE, joined);
  fence_full(CONSUMER); /* for the judge */
  d_step {
    going = 0; oldest = 0; at = 0; lost = 0; REG(CONSUMER, 0) = 0;
    assert(mem[LOST] == passed)
  }
}

proctype consumer()
{
  byte next, published, joined, at, lost, to, oldest;
again:
  {
    start_consumer();
    do
    :: instance != joined -> start_consumer() /* bus_subscription_maintain */
    :: instance == joined && next < head && head <= next + DEPTH ->
      next++;
      if
      :: store(POSITION, next); published = next /* C2 */
      :: skip
      fi
    :: instance == joined && (next == head || head > next + DEPTH) && published != next ->
      store(POSITION, next);
      published = next /* bus_consumer_idle */
    :: d_step {
         instance == joined && head > next + DEPTH && published == next -> to = head - DEPTH / 2
       };
      skip_lost(to);
      fence_full(CONSUMER);
      d_step {
        going = 0; to = 0; lost = 0; REG(CONSUMER, 0) = 0;
        assert(mem[LOST] == passed)
      }
    :: instance == joined && next == START + RECORDS && published == next -> break
    od;
    goto done
  } unless { killed };
  bury(CONSUMER);
  d_step {
    killed = false; going = 0;
    next = 0; published = 0; joined = 0; at = 0; lost = 0; to = 0; oldest = 0;
    REG(CONSUMER, 0) = 0
  };
  goto again;
done:
  BUFFER_EMPTY(CONSUMER);
  assert(mem[LOST] == passed && mem[POSITION] == START + RECORDS)
}

proctype world()
{
  do
  :: head < START + RECORDS -> head++
  :: d_step { instance == 1 -> instance = 2; head = START }
  :: d_step { crashes > 0 && !killed -> crashes--; killed = true }
  :: head == START + RECORDS -> break
  od
}

init
{
  d_step {
    mem[POSITION] = START;
    mem[INSTANCE] = 1
  };
  atomic {
    START_MEMORY(CONSUMER);
    run consumer();
    run world()
  }
}
