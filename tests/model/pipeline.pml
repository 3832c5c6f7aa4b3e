/* pipeline.pml: features ring -> inference -> signals ring, with the inference process killed at
 * any step: bus_consumer_init with its output floor, gather, publish, release_batch and
 * skip_answered; consumers/infer_member.c, shm/ring.c.
 *
 * A signal carries the position of the feature that it answers. The features ring itself is
 * takeover.pml's, so its producer acts in single steps here; signals are judged when they become
 * visible. The signals ring overwrites, and begins with answers to an earlier instance of the feed,
 * whose positions are possible ones in the present instance too.
 *
 * Holds: every feature is answered by exactly one signal, in order, whole. */
#define IN_DEPTH  4
#define OUT_DEPTH 4
#ifndef RECORDS
#define RECORDS   8
#endif
#ifndef CRASHES
#define CRASHES   2
#endif
#define BATCH     2
#define START     4 /* first feature of the present instance */
#define OUT_START 6 /* first signal; OUT_OLD of them answer the earlier instance */
#define OUT_OLD   3

#define CPUS     1
#define INFER    0
#define LOADS    2
#define STORES   6
#define OUT(n)       (((n) % OUT_DEPTH) * 3)
#define OUT_STAMP(n) (OUT(n) + 2)
#define IN(n)        (3 * OUT_DEPTH + ((n) % IN_DEPTH) * 2)
#define IN_STAMP(n)  (IN(n) + 1)
#define POSITION     (3 * OUT_DEPTH + 2 * IN_DEPTH)
#define INSTANCE     (POSITION + 1)
#define FLOOR        (POSITION + 2)
#define WORDS        (POSITION + 3)
#define LIVE 7
#define OLD  3

#define ANSWER(feature) ((feature) + 100)

byte committed = OUT_START + OUT_OLD;
byte answered = START; /* every feature before it has its signal */
byte fed = START;
byte crashes = CRASHES;
bool killed;

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) % 3 == 2 && (a) < 3 * OUT_DEPTH ->                                                        \
    assert((v) == committed + 1);                                                                  \
    committed = (v);                                                                               \
    assert(mem[(a) - 2] == answered);                                                              \
    assert(mem[(a) - 1] == ANSWER(answered));                                                      \
    answered++                                                                                     \
  :: else                                                                                          \
  fi

#include "memory.pml"

/* The feed: fills the features ring as the position allows. */
proctype feed()
{
end:
  do
  :: d_step {
       fed < START + RECORDS &&
         (fed < START + IN_DEPTH || mem[INSTANCE] == LIVE && fed < mem[POSITION] + IN_DEPTH) ->
       mem[IN(fed)] = fed;
       mem[IN_STAMP(fed)] = fed + 1;
       fed++
     }
  od
}

/* bus_producer_init of the own ring, bus_consumer_init of the feed's. */
inline start_infer()
{
  d_step {
    i = 0;
    head = 0;
    do
    :: i < OUT_DEPTH ->
      head = (mem[3 * i + 2] > head -> mem[3 * i + 2] : head);
      i++
    :: else -> break
    od;
    i = 0;
    next = (fed - START < IN_DEPTH -> START : fed - IN_DEPTH) /* the oldest feature */
  };
  load_used(INFER, 0, INSTANCE);
  if
  :: REG(INFER, 0) != LIVE ->
    store_release(INFER, INSTANCE, 0);
#ifndef MUTANT_NO_FLOOR
#ifdef MUTANT_FLOOR_LAST
    skip
#else
    store_relaxed(INFER, FLOOR, head)
#endif
#endif
  :: else ->
    resumed = true;
    load_used(INFER, 0, POSITION);
    assert(REG(INFER, 0) >= next && REG(INFER, 0) <= fed);
    next = REG(INFER, 0)
  fi;
  REG(INFER, 0) = 0;
  store_release(INFER, POSITION, next); /* C2 */
  store_release(INFER, INSTANCE, LIVE);
#ifdef MUTANT_FLOOR_LAST
  if
  :: !resumed -> store_relaxed(INFER, FLOOR, head)
  :: else
  fi
#endif
}

#ifdef MUTANT_SKIP_WHOLE_RING
#define SPAN_MAX OUT_DEPTH
#else
#define SPAN_MAX (OUT_DEPTH - 1)
#endif

/* Moves behind the features that the own ring's signals already answer. The slot of the oldest
 * signal may be one that the predecessor had begun to overwrite. */
inline skip_answered()
{
  load_used(INFER, 0, FLOOR);
  d_step {
    i = head - REG(INFER, 0);
    i = (i > SPAN_MAX -> SPAN_MAX : i);
    do
    :: i > 0 ->
      if
      :: mem[OUT_STAMP(head - i)] == head - i + 1 && mem[OUT(head - i)] >= next &&
           mem[OUT(head - i)] < next + IN_DEPTH ->
        next = mem[OUT(head - i)] + 1
      :: else
      fi;
      i--
    :: else -> break
    od;
    REG(INFER, 0) = 0;
    resumed = false
  };
  store_release(INFER, POSITION, next) /* C2 */
}

inline publish(feature)
{
  fence_release(INFER); /* P1 */
  store_relaxed(INFER, OUT(head), feature);
  store_relaxed(INFER, OUT(head) + 1, ANSWER(feature));
  store_release(INFER, OUT_STAMP(head), head + 1); /* P2 */
  head++
}

proctype infer()
{
  byte next, head, count, i;
  bool resumed;
again:
  {
    skip; /* a goto may not lead into a d_step */
    start_infer();
#ifndef MUTANT_NO_SKIP
    if
    :: resumed -> skip_answered()
    :: else
    fi;
#endif
    do
    :: next < START + RECORDS ->
      mem[IN_STAMP(next)] == next + 1; /* idle until there is one */
      /* gather: one, or two when there are two */
      load_acquire(INFER, 0, IN_STAMP(next + 1)); /* C1 */
      d_step {
        count = (REG(INFER, 0) == next + 2 -> 2 : 1);
        REG(INFER, 0) = mem[IN(next)];
        REG(INFER, 1) = (count == 2 -> mem[IN(next + 1)] : 0)
      };
#ifdef MUTANT_RELEASE_FIRST
      store_release(INFER, POSITION, next + count); /* C2 */
#endif
      publish(REG(INFER, 0));
      if
      :: count == 2 -> publish(REG(INFER, 1))
      :: else
      fi;
      next = next + count;
#ifdef MUTANT_POSITION_RELAXED
      store_relaxed(INFER, POSITION, next);
#elif !defined(MUTANT_RELEASE_FIRST)
      store_release(INFER, POSITION, next); /* C2 */
#endif
      d_step { count = 0; REG(INFER, 0) = 0; REG(INFER, 1) = 0 }
    :: else -> break
    od;
    fence_full(INFER);
    goto done
  } unless { killed };
  bury(INFER);
  d_step {
    killed = false;
    next = 0; head = 0; count = 0; i = 0; resumed = false;
    REG(INFER, 0) = 0; REG(INFER, 1) = 0
  };
  goto again;
done:
  assert(answered == START + RECORDS)
}

proctype killer()
{
end:
  do
  :: d_step { crashes > 0 && !killed -> crashes--; killed = true }
  od
}

init
{
  d_step {
    byte k = 0;
    do
    :: k < OUT_DEPTH -> mem[OUT_STAMP(OUT_START + k)] = OUT_START + k + 1 - OUT_DEPTH; k++
    :: else -> break
    od;
    k = 0;
    do
    :: k < OUT_OLD ->
      mem[OUT(OUT_START + k)] = START + k;
      mem[OUT(OUT_START + k) + 1] = ANSWER(START + k);
      mem[OUT_STAMP(OUT_START + k)] = OUT_START + k + 1;
      k++
    :: else -> break
    od;
    k = 0;
    do
    :: k < IN_DEPTH -> mem[IN_STAMP(START + k)] = START + k + 1 - IN_DEPTH; k++
    :: else -> break
    od;
    mem[INSTANCE] = OLD;
    mem[POSITION] = START + OUT_OLD;
    k = 0
  }
  atomic {
    START_MEMORY(INFER);
    run feed();
    run infer();
    run killer()
  }
}
