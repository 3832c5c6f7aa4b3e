/* symbols.pml: one row of a symbol table: bus_symbols_add and bus_symbols_clear by the owner,
 * bus_symbols_get by anybody; shm/symbols.h, symbols.c.
 *
 * Holds: a row that is accepted is one that was added, whole; a reader never goes back; after the
 * last addition the row can be read. */
#define ROUNDS 3

#define CPUS       2
#define OWNER      0
#define READER     1
#define LOADS      3
#define STORES     6
#define WORDS      4
#define COUNT      2
#define GENERATION 3

#define VISIBLE(a, v) skip

#include "memory.pml"

bool finished; /* nothing more will be stored */

proctype owner()
{
  byte round;
  do
  :: round < ROUNDS ->
    round++;
    store_relaxed(OWNER, 0, round);
    store_relaxed(OWNER, 1, round);
#ifdef MUTANT_Y1_RELAXED
    store_relaxed(OWNER, COUNT, 1);
#else
    store_release(OWNER, COUNT, 1); /* Y1 */
#endif
    if
    :: round < ROUNDS ->
#ifdef MUTANT_GENERATION_FIRST
      store_relaxed(OWNER, GENERATION, round);
      store_release(OWNER, COUNT, 0);
#else
      store_relaxed(OWNER, COUNT, 0);
#ifdef MUTANT_Y5_RELAXED
      store_relaxed(OWNER, GENERATION, round);
#else
#ifdef MUTANT_GENERATION_KEPT
      skip;
#else
      store_release(OWNER, GENERATION, round); /* Y5 */
#endif
#endif
#endif
#ifdef MUTANT_Y3_DROPPED
      skip
#else
      fence_release(OWNER) /* Y3 */
#endif
    :: else
    fi
  :: else -> break
  od;
  BUFFER_EMPTY(OWNER) -> finished = true
}

proctype reader()
{
  byte generation, newest;
  bool quiet;
  do
  :: newest == ROUNDS -> break
  :: newest < ROUNDS ->
    quiet = finished;
#ifdef MUTANT_Y6_RELAXED
    load_relaxed(READER, 2, GENERATION);
    load_acquire(READER, 0, COUNT); /* Y2 */
    load_wait(READER);
#else
    load_acquire(READER, 2, GENERATION); /* Y6 */
#ifdef MUTANT_Y2_RELAXED
    load_relaxed(READER, 0, COUNT);
#else
    load_acquire(READER, 0, COUNT); /* Y2 */
#endif
#endif
    generation = REG(READER, 2);
#ifdef MUTANT_Y2_RELAXED
    /* The loads behind the branch are issued with it. */
    load_relaxed(READER, 1, 1);
    load_relaxed(READER, 2, 0);
    load_wait(READER);
    if
    :: REG(READER, 0) == 0 -> goto absent
    :: else -> REG(READER, 0) = REG(READER, 2)
    fi;
#else
    if
    :: REG(READER, 0) == 0 -> goto absent
    :: else
    fi;
    load_relaxed(READER, 0, 0);
    load_relaxed(READER, 1, 1);
#endif
#ifndef MUTANT_Y4_DROPPED
    fence_acquire(READER); /* Y4 */
#endif
#ifdef MUTANT_NO_SECOND_LOOK
    REG(READER, 2) = generation;
#else
    load_relaxed(READER, 2, GENERATION);
#endif
    load_wait(READER);
    if
    :: REG(READER, 2) == generation ->
      d_step {
        assert(REG(READER, 0) == REG(READER, 1) && REG(READER, 0) >= newest && REG(READER, 0) > 0);
        newest = REG(READER, 0);
        assert(!quiet || newest == ROUNDS);
        REG(READER, 0) = 0;
        REG(READER, 1) = 0;
        REG(READER, 2) = 0
      }
    :: else -> assert(REG(READER, 2) > generation && !quiet)
    fi;
    goto again;
absent:
    assert(!quiet);
again:
    skip
  od
}

init
{
  atomic {
    START_MEMORY(OWNER);
    START_MEMORY(READER);
    run owner();
    run reader()
  }
}
