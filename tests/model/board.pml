/* board.pml: the latest signal of one symbol: bus_board_write by an owner that is killed at any
 * step and succeeded, bus_board_read by anybody; shm/board.h.
 *
 * Holds: a copy that is accepted is one write's, whole; a reader never goes back; after the last
 * write the slot can be read. */
#define WRITES  3
#ifndef CRASHES
#define CRASHES 2
#endif

#define CPUS   2
#define WRITER 0
#define READER 1
#define LOADS  3
#define STORES 6
#define WORDS  3
#define STAMP  2

byte token;                         /* each write's own words */
byte shown[WRITES + 2 * CRASHES + 2]; /* what an even stamp, halved, stands for */
byte stamp_last;                    /* the newest even stamp that became visible */
byte written; /* writes begun to the end; after a kill those that arrived */
byte arrived;
byte crashes = CRASHES;
bool killed;

#define VISIBLE(a, v)                                                                              \
  if                                                                                               \
  :: (a) == STAMP && (v) % 2 == 0 ->                                                               \
    assert((v) > stamp_last);                                                                      \
    stamp_last = (v);                                                                              \
    arrived++;                                                                                     \
    shown[(v) / 2] = mem[0]                                                                        \
  :: else                                                                                          \
  fi

#include "memory.pml"

proctype writer()
{
  byte stamp;
again:
  {
    do
    :: written < WRITES ->
      load_used(WRITER, 0, STAMP);
      d_step {
#ifdef MUTANT_SUCCESSOR_KEEPS_PARITY
        stamp = REG(WRITER, 0) + 2;
#else
        stamp = (REG(WRITER, 0) | 1) + 1;
#endif
        REG(WRITER, 0) = 0;
        token++
      };
#ifndef MUTANT_NO_ODD_STAMP
      store_relaxed(WRITER, STAMP, stamp - 1);
#endif
#ifdef MUTANT_B1_DROPPED
      skip;
#else
      fence_release(WRITER); /* B1 */
#endif
      store_relaxed(WRITER, 0, token);
      store_relaxed(WRITER, 1, token);
#ifdef MUTANT_B2_RELAXED
      store_relaxed(WRITER, STAMP, stamp);
#else
      store_release(WRITER, STAMP, stamp); /* B2 */
#endif
      written++
    :: else -> break
    od;
    goto done
  } unless { killed };
  bury(WRITER);
  d_step { killed = false; written = arrived; REG(WRITER, 0) = 0; stamp = 0 };
  goto again;
done:
  skip
}

#define QUIET (arrived == WRITES)

proctype reader()
{
  byte stamp;
  do
  ::
#ifdef MUTANT_B3_RELAXED
    load_relaxed(READER, 2, STAMP);
    load_relaxed(READER, 0, 0);
    load_relaxed(READER, 1, 1);
    load_wait(READER);
#else
    load_acquire(READER, 2, STAMP); /* B3 */
#endif
    stamp = REG(READER, 2);
    if
    :: stamp == 0 || stamp % 2 == 1 -> mem[STAMP] != stamp /* its owner will write it again */
    :: else ->
#ifndef MUTANT_B3_RELAXED
      load_relaxed(READER, 0, 0);
      load_relaxed(READER, 1, 1);
#endif
#ifndef MUTANT_B4_DROPPED
      fence_acquire(READER); /* B4 */
#endif
#ifdef MUTANT_NO_SECOND_LOOK
      skip;
#else
      load_relaxed(READER, 2, STAMP);
#endif
      load_wait(READER);
      if
      :: REG(READER, 2) == stamp ->
        d_step {
          assert(REG(READER, 0) == shown[stamp / 2] && REG(READER, 1) == shown[stamp / 2]);
          REG(READER, 0) = 0;
          REG(READER, 1) = 0;
          REG(READER, 2) = 0
        };
        if
        :: mem[STAMP] > stamp
        :: QUIET && mem[STAMP] == stamp -> break
        fi
      :: else -> assert(REG(READER, 2) > stamp)
      fi
    fi
  od
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
  atomic {
    START_MEMORY(WRITER);
    START_MEMORY(READER);
    run writer();
    run reader();
    run killer()
  }
}
