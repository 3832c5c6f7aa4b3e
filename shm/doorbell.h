/* doorbell.h: lets a consumer sleep until its producer has something, for producers that are not
 * hot: a bell costs the producer a full fence for each record, and a system call when somebody
 * sleeps. A hot producer never rings, and its consumers spin or back off.
 *
 * Each side writes its own file only. The consumer says `waiting` in its position; the producer
 * counts its rings in `bell`, in its ring's header, and the kernel puts the consumer to sleep only
 * while the bell still has the value that the consumer saw before it looked into the ring a last
 * time. Orderings, in pairs:
 *
 *   D1  sequentially consistent fence between the commit and the load of `waiting`.
 *       Pairs with D2: one of the two sides sees what the other stored. Without either fence both
 *       stores can still be in their store buffers, on x86 too, and the consumer sleeps on.
 *   D2  sequentially consistent fence between the store of `waiting` and the last look.
 *       Pairs with D1.
 *   D3  the bell is loaded, with acquire, before `waiting` is stored: a ring after that makes the
 *       kernel refuse to sleep. Pairs with D4.
 *   D4  the bell is stored, with release, before the wake-up. Pairs with D3. */
#ifndef SIGNALBUS_DOORBELL_H
#define SIGNALBUS_DOORBELL_H

#include "ring.h"

BUS_BEGIN_DECLARATIONS

/* Most rings that one consumer can sleep over at a time. */
#define BUS_DOORBELL_RINGS_MAX 64u

/* Longest sleep over a ring whose producer does not ring, ns. */
#define BUS_DOORBELL_SILENT_NS 50000u

/* Declares, in the ring's header, that this producer rings. Once, after bus_producer_init, by the
 * producer's thread. */
BUS_EXPORT void bus_doorbell_install(struct bus_producer *producer);

/* The slow part of bus_doorbell_ring: moves the bell and wakes who sleeps. About 1 us and more. */
BUS_EXPORT void bus_doorbell_wake(struct bus_producer *producer);

/* After one or more commits, by the producer's thread: wakes the reliable consumer if it sleeps.
 * Does nothing when none is connected. 5 to 20 ns when nobody sleeps. */
static BUS_ALWAYS_INLINE void bus_doorbell_ring(struct bus_producer *producer)
{
  const struct bus_position *consumer = producer->consumer;
  if (!consumer)
    return;
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* D1 */
  if (BUS_UNLIKELY(BUS_LOAD_RELAXED(&consumer->waiting)))
    bus_doorbell_wake(producer);
}

/* Sleeps until one of the `count` rings (0..BUS_DOORBELL_RINGS_MAX) has a record, `timeout_ns` has
 * passed or a signal came. Rings whose producer does not ring shorten the sleep to
 * BUS_DOORBELL_SILENT_NS. The consumers' thread; positions are published first. Returns true when
 * it slept, false when a ring had a record at once. Spurious wake-ups are allowed for: the caller
 * polls again in any case. Needs Linux 5.16 for more than one ring; older ones get short sleeps. */
BUS_EXPORT bool bus_doorbell_wait(struct bus_consumer *const *consumers, uint32_t count,
                                  uint64_t timeout_ns);

BUS_END_DECLARATIONS

#endif
