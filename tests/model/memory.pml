/* memory.pml: shared memory as a machine shows it. Exactly one of SC, TSO, RELAXED is defined.
 *
 *   SC       every store and load takes effect at once, in program order.
 *   TSO      (x86) each process has a FIFO of stores under way; its own loads see them, others do
 * not before they drain. Loads take effect in order.
 *   RELAXED  (ARMv8) stores drain in any order, loads are satisfied in any order, a store may
 * become visible before an older load is satisfied. What still holds: stores to one word drain in
 * order; a release store drains after everything older; no store overtakes a release fence;
 * nothing overtakes an acquire load; an acquire fence waits for the loads before it.
 *
 * A program defines CPUS, WORDS (at most 63), LOADS (registers for each process), STORES (stores
 * under way for each process) and VISIBLE(address, value), which runs when a store reaches memory,
 * then includes this file and starts `memory(process)` for each process (not needed for SC).
 * README.md argues why this is enough. */

byte mem[WORDS];
byte reg[CPUS * LOADS];
hidden byte at_;
hidden byte from_;

#define REG(p, r) reg[(p) * LOADS + (r)]

#ifdef SC

#define store_relaxed(p, a, v) d_step { mem[a] = v; VISIBLE(a, v) }
#define store_release(p, a, v) store_relaxed(p, a, v)
#define load_acquire(p, r, a)  REG(p, r) = mem[a]
#define load_relaxed(p, r, a)  REG(p, r) = mem[a]
#define load_used(p, r, a)     REG(p, r) = mem[a]
#define load_wait(p)           skip
#define fence_release(p)       skip
#define fence_acquire(p)       skip
#define fence_full(p)          skip
#define BUFFER_EMPTY(p)        true
#define load_cancel(p)         skip
#define forget(p)              skip

#else

#define ADDRESS 63
#define RELEASE 64
#define FENCE   127

typedef store_queue {
  byte count;
  byte address[STORES]; /* word, + RELEASE; FENCE: a release fence */
  byte value[STORES];
}
store_queue queue[CPUS];

#define Q(p) queue[p]

/* The value that process p sees in word a: its own newest store under way, else memory. */
inline look(p, r, a)
{
  REG(p, r) = mem[a];
  at_ = 0;
  do
  :: at_ < Q(p).count ->
    if
    :: (Q(p).address[at_] & ADDRESS) == (a) && Q(p).address[at_] != FENCE ->
      REG(p, r) = Q(p).value[at_]
    :: else
    fi;
    at_++
  :: else -> break
  od;
  at_ = 0 /* a d_step may not end with its loop's exit */
}

inline push(p, a, v)
{
  Q(p).address[Q(p).count] = a;
  Q(p).value[Q(p).count] = v;
  Q(p).count++
}

/* Takes entry i out; what is behind it moves up. */
inline take(p, i)
{
  at_ = i;
  do
  :: at_ + 1 < Q(p).count ->
    Q(p).address[at_] = Q(p).address[at_ + 1];
    Q(p).value[at_] = Q(p).value[at_ + 1];
    at_++
  :: else -> break
  od;
  Q(p).count--;
  Q(p).address[Q(p).count] = 0;
  Q(p).value[Q(p).count] = 0
}

inline drain(p, i)
{
  from_ = Q(p).address[i] & ADDRESS;
  mem[from_] = Q(p).value[i];
  VISIBLE(from_, Q(p).value[i]);
  take(p, i);
  do
  :: Q(p).count > 0 && Q(p).address[0] == FENCE -> take(p, 0)
  :: else -> break
  od;
  at_ = 0
}

#define BUFFER_EMPTY(p) (Q(p).count == 0)
#define ROOM(p)         (Q(p).count < STORES)

/* The stores of a process that is no more: those that have not drained never will. */
inline forget(p)
{
  d_step {
    do
    :: Q(p).count > 0 -> take(p, 0)
    :: else -> break
    od;
    at_ = 0
  }
}

#ifdef TSO

#define store_relaxed(p, a, v) d_step { ROOM(p) -> push(p, a, v) }
#define store_release(p, a, v) store_relaxed(p, a, v)
#define load_acquire(p, r, a)  d_step { look(p, r, a) }
#define load_relaxed(p, r, a)  d_step { look(p, r, a) }
#define load_used(p, r, a)     d_step { look(p, r, a) }
#define load_wait(p)           skip
#define fence_release(p)       skip
#define fence_acquire(p)       skip
#define fence_full(p)          BUFFER_EMPTY(p)
#define load_cancel(p)         skip

proctype memory(byte p)
{
end:
  do
  :: d_step { Q(p).count > 0 -> drain(p, 0) }
  od
}

#else /* RELAXED */

/* Loads not yet satisfied: word + 1, for each register; 0: none. */
byte pending[CPUS * LOADS];
#define PENDING(p, r) pending[(p) * LOADS + (r)]

#if LOADS == 1
#define ALL_LOADED(p)         (PENDING(p, 0) == 0)
#define IS_PENDING(p, a)      (PENDING(p, 0) == (a) + 1)
#elif LOADS == 2
#define ALL_LOADED(p)         (PENDING(p, 0) == 0 && PENDING(p, 1) == 0)
#define IS_PENDING(p, a)      (PENDING(p, 0) == (a) + 1 || PENDING(p, 1) == (a) + 1)
#elif LOADS == 3
#define ALL_LOADED(p)         (PENDING(p, 0) == 0 && PENDING(p, 1) == 0 && PENDING(p, 2) == 0)
#define IS_PENDING(p, a)                                                                           \
  (PENDING(p, 0) == (a) + 1 || PENDING(p, 1) == (a) + 1 || PENDING(p, 2) == (a) + 1)
#else
#error "LOADS is 1 to 3"
#endif

/* Same-word order is not modelled beyond what the programs need: they never have two accesses to
 * one word under way, of which the first is a load. The assertions hold them to it. */
#define store_relaxed(p, a, v) d_step { ROOM(p) -> assert(!IS_PENDING(p, a)); push(p, a, v) }
#define store_release(p, a, v)                                                                     \
  d_step { ROOM(p) && ALL_LOADED(p) -> push(p, (a) | RELEASE, v) }
#define load_acquire(p, r, a)                                                                      \
  d_step { PENDING(p, r) == 0 -> assert(!IS_PENDING(p, a)); look(p, r, a) }
#define load_relaxed(p, r, a)                                                                      \
  d_step { PENDING(p, r) == 0 -> assert(!IS_PENDING(p, a)); PENDING(p, r) = (a) + 1 }
/* A relaxed load whose value decides at once, with no load behind it that could go first. */
#define load_used(p, r, a)     load_acquire(p, r, a)
#define load_wait(p)           ALL_LOADED(p)
#define fence_acquire(p)       ALL_LOADED(p)
#define fence_full(p)          (BUFFER_EMPTY(p) && ALL_LOADED(p))
#define load_cancel(p)         drop_loads(p)

inline fence_release(p)
{
  d_step {
    ROOM(p) && ALL_LOADED(p) ->
    if
    :: Q(p).count > 0 && Q(p).address[Q(p).count - 1] != FENCE -> push(p, FENCE, 0)
    :: else
    fi
  }
}

/* Loads made ahead on a path that was not taken, or by a process that is no more. */
inline drop_loads(p)
{
  d_step {
    at_ = 0;
    do
    :: at_ < LOADS -> PENDING(p, at_) = 0; at_++
    :: else -> break
    od;
    at_ = 0
  }
}

/* Entry i may drain before entry j, older: no fence between, another word. */
#define PASSES(p, i, j)                                                                            \
  (Q(p).address[j] != FENCE && (Q(p).address[j] & ADDRESS) != (Q(p).address[i] & ADDRESS))
#define IS_FREE(p, i) (Q(p).count > (i) && !(Q(p).address[i] & RELEASE))
#define MAY_DRAIN_1(p) (IS_FREE(p, 1) && PASSES(p, 1, 0))
#define MAY_DRAIN_2(p) (IS_FREE(p, 2) && PASSES(p, 2, 0) && PASSES(p, 2, 1))
#define MAY_DRAIN_3(p) (IS_FREE(p, 3) && PASSES(p, 3, 0) && PASSES(p, 3, 1) && PASSES(p, 3, 2))
#define MAY_DRAIN_4(p)                                                                             \
  (IS_FREE(p, 4) && PASSES(p, 4, 0) && PASSES(p, 4, 1) && PASSES(p, 4, 2) && PASSES(p, 4, 3))
#define MAY_DRAIN_5(p)                                                                             \
  (IS_FREE(p, 5) && PASSES(p, 5, 0) && PASSES(p, 5, 1) && PASSES(p, 5, 2) && PASSES(p, 5, 3) &&    \
   PASSES(p, 5, 4))

proctype memory(byte p)
{
end:
  do
  :: d_step { Q(p).count > 0 -> drain(p, 0) }
#if STORES > 1
  :: d_step { MAY_DRAIN_1(p) -> drain(p, 1) }
#endif
#if STORES > 2
  :: d_step { MAY_DRAIN_2(p) -> drain(p, 2) }
#endif
#if STORES > 3
  :: d_step { MAY_DRAIN_3(p) -> drain(p, 3) }
#endif
#if STORES > 4
  :: d_step { MAY_DRAIN_4(p) -> drain(p, 4) }
#endif
#if STORES > 5
  :: d_step { MAY_DRAIN_5(p) -> drain(p, 5) }
#endif
#if STORES > 6
#error "STORES is at most 6"
#endif
  :: d_step { PENDING(p, 0) != 0 -> look(p, 0, PENDING(p, 0) - 1); PENDING(p, 0) = 0 }
#if LOADS > 1
  :: d_step { PENDING(p, 1) != 0 -> look(p, 1, PENDING(p, 1) - 1); PENDING(p, 1) = 0 }
#endif
#if LOADS > 2
  :: d_step { PENDING(p, 2) != 0 -> look(p, 2, PENDING(p, 2) - 1); PENDING(p, 2) = 0 }
#endif
  od
}

#endif
#endif

/* Process p was killed: what it had stored and was under way arrives in full, or not at all. The
 * lock on its file is free only then. */
inline bury(p)
{
  load_cancel(p);
  if
  :: BUFFER_EMPTY(p)
  :: !BUFFER_EMPTY(p) -> forget(p)
  fi
}

#ifdef SC
#define START_MEMORY(p) skip
#else
#define START_MEMORY(p) run memory(p)
#endif
