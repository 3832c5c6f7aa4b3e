/* race.h: what the race programs share. Each is a plain program (Criterion does not run under
 * ThreadSanitizer) of a few threads over one mapping: the same memory mapped twice would hide every
 * race.
 *
 * What ThreadSanitizer sees: accesses that no happens-before edge orders, of which one is plain.
 * Its edges are locks, threads and acquire/release operations on atomics. So it checks
 *   - that every word which two threads touch at once is an atomic one;
 *   - that P2/C1, P2/O1, C2/P3, B2/B3 and Y1/Y2 order what they are there to order: the consumer's
 *     plain reads in place, and a plain "witness" word for each record, written before the publish
 *     and read after the poll, which nothing else orders.
 * What it does not see: fences. Neither clang 14 nor gcc 12 (which refuses to compile them, -Wtsan)
 * models atomic_thread_fence, so the pairs P1/O2 and B1/B4 are not covered here: a missing fence is
 * found by the SPIN models alone, and on x86 by no test at all. The threads check each payload,
 * too.
 *
 * Each program is also built with the mutants that its head lists, -DMUTANT=.., a fault that
 * ThreadSanitizer must report: a check that cannot fail proves nothing. */
#ifndef TESTS_TSAN_RACE_H
#define TESTS_TSAN_RACE_H

#include "shm/signalbus.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifndef MUTANT
#define MUTANT 0
#endif

/* Exit status 1, unlike ThreadSanitizer's 66. */
#define RACE_CHECK(condition)                                                                      \
  do {                                                                                             \
    if (!(condition)) {                                                                            \
      fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                              \
      _exit(1);                                                                                    \
    }                                                                                              \
  } while (0)

/* Word `index` of the payload that belongs to `number`: no two words of two records are equal. */
static inline uint64_t race_word(uint64_t number, uint64_t index)
{
  return (number * 64 + index) * 0x9e3779b97f4a7c15u;
}

static inline void race_start(pthread_t *thread, void *(*run)(void *), void *argument)
{
  RACE_CHECK(pthread_create(thread, NULL, run, argument) == 0);
}

static inline void race_join(pthread_t *threads, size_t count)
{
  for (size_t i = 0; i < count; i++)
    RACE_CHECK(pthread_join(threads[i], NULL) == 0);
}

#endif
