/* ring.h: the single-producer ring: one producer, at most one reliable consumer, any observers.
 *
 * Slot i = position n & (depth-1) holds the record of position n exactly when its last word, the
 * stamp, is n+1. There is no shared head or tail: a record costs the transfer of the lines it
 * fills. A new ring's stamps are those of "the lap before", so every rule below holds from the
 * first record.
 *
 * Positions are 64-bit, count from 0 and wrap.
 */
/* clang-format off */
/* Orderings, in pairs. On x86 none of them takes an instruction (loads are not reordered with
 * loads, nor stores with stores), they only hold the compiler; ARM64 instructions in brackets.
 *
 *   P1  Producer: release fence before the payload stores of record n [dmb ish]. Whoever sees one
 *       of these stores also sees the stamp of record n-1. Pairs with O2.
 *   P2  Producer: release store of the stamp n+1 after the payload [stlr]. Pairs with C1 and O1.
 *   P3  Producer: acquire load of the consumer's position [ldar]: the consumer's reads of a slot
 *       are over before the producer overwrites it. Pairs with C2.
 *
 *   P4  Producer: release store of consumer_instance, after `consumed`, when it connects that
 *       consumer's file [stlr]: from here on only a position in that file moves it on. Pairs with C3.
 *
 *   C1  Consumer: acquire load of the stamp, before the payload is read [ldar]. Pairs with P2.
 *   C2  Consumer: release store of the position, after the reads [stlr]. Pairs with P3.
 *   C3  Consumer that joins afresh: acquire load of consumer_instance, before `consumed` [ldar]:
 *       its own instance means that no slot from `consumed` on is overwritten before it says so.
 *       Until then the producer may still go by the file that was there before. Pairs with P4.
 *
 *   O1  Observer: acquire load of the stamp, before the copy [ldar]. Pairs with P2.
 *   O2  Observer: acquire fence after the copy [dmb ishld], then a load of the stamp of slot n-1:
 *       still n means that record n-1+depth is not committed, so by P1 no word of record n+depth
 *       was visible to the copy: it is whole. (Loading slot n's own stamp again does not show an
 *       overwrite that is under way.) Pairs with P1. */
/* clang-format on */
#ifndef SIGNALBUS_RING_H
#define SIGNALBUS_RING_H

#include "error.h"
#include "layout.h"

BUS_BEGIN_DECLARATIONS

/* Producer: private to one thread. Fields are for the inline functions only. */
struct bus_producer {
  unsigned char *slots;
  uint64_t next;  /* position of the record to write */
  uint64_t limit; /* first position that may not be written yet */
  uint64_t mask;
  uint64_t record_size;
  struct bus_ring_header *header;
  const struct bus_position *consumer; /* NULL: not connected */
  uint64_t consumed;                   /* the consumer's position, as last accepted */
  uint64_t depth;
  uint64_t instance; /* of the ring's file */
  uint32_t policy;
  uint32_t reserved0;
};

/* Reliable consumer: private to one thread. */
struct bus_consumer {
  const unsigned char *slots;
  uint64_t next;      /* position of the record to read */
  uint64_t published; /* what `position` says */
  uint64_t publish_every;
  uint64_t mask;
  uint64_t record_size;
  struct bus_position *position; /* in the consumer's own file */
  uint64_t depth;
};

/* Observer: private to one thread. */
struct bus_observer {
  const unsigned char *slots;
  uint64_t next;
  uint64_t lost; /* records overwritten before they were read, in total */
  uint64_t mask;
  uint64_t record_size;
  uint64_t depth;
};

/* ---- set-up; control plane ---- */

/* Makes the ring at `memory` (entry->size zeroed bytes) empty with its first record at `start`. The
 * owner, before the file can be attached: orders nothing. */
BUS_EXPORT void bus_ring_format(void *memory, const struct bus_entry *entry, uint64_t start);

/* Position after the newest committed record, from the stamps alone. O(depth); for attach and
 * takeover. `memory` is the ring object, own or a neighbour's, `entry` its checked entry. Stamps
 * that cannot belong to their slot are ignored; 0 when none can. Any thread. */
BUS_EXPORT uint64_t bus_ring_head(const void *memory, const struct bus_entry *entry);

/* Starts (or resumes, after the newest committed record) producing into an own ring of `instance`
 * (bus_member_header()->instance). Until a consumer is connected everything that the ring still
 * holds and its predecessor had not accepted as consumed counts as unread: nothing that the
 * consumer may want is overwritten. The thread that will
 * produce. O(depth). */
BUS_EXPORT void bus_producer_init(struct bus_producer *producer, void *memory,
                                  const struct bus_entry *entry, uint64_t instance);

/* Connects the reliable consumer's position (in the consumer's mapped file, whose instance is
 * `consumer_instance`), or disconnects it with NULL: what it says last is still taken. Its memory
 * must stay mapped until it is disconnected. The ring's header then says which file counts, and
 * from where on. Housekeeping, by the producer's thread. P3, P4. */
BUS_EXPORT void bus_producer_connect(struct bus_producer *producer,
                                     const struct bus_position *position,
                                     uint64_t consumer_instance);

/* Publishes the producer's sequence in the ring header, for people. Housekeeping, by the producer's
 * thread. Relaxed: no reader may take records by it. */
BUS_EXPORT void bus_producer_report(struct bus_producer *producer);

/* Takes the consumer's position again (P3) and moves the limit. Called by reserve, by the
 * producer's thread; returns true when there is room now, else counts a wait or, by policy, a
 * dropped record. Impossible positions (ahead of the producer, or backwards) are counted and
 * ignored. */
BUS_EXPORT bool bus_producer_refresh(struct bus_producer *producer);

/* Starts (or resumes) consuming a neighbour's ring: `position` is the consumer's own object. When
 * it holds a position of this `instance` that one is resumed, moved up when records were
 * overwritten meanwhile (counted in position->lost). Else it joins afresh: reading starts at the
 * first record that the producer had not accepted as consumed, and `output_floor` is stored with
 * it: where the consumer's own output stands at that moment. A fresh join is safe when
 * bus_consumer_may_join said so before, or the producer was dead then. `memory` and `entry` are
 * those of the neighbour, which must stay attached. The thread that will consume. O(depth). C2. */
BUS_EXPORT void bus_consumer_init(struct bus_consumer *consumer, const void *memory,
                                  const struct bus_entry *entry, uint64_t instance,
                                  struct bus_position *position, uint64_t output_floor);

/* True when bus_consumer_init with these arguments can read in place: it resumes, or the producer
 * goes by this file already. False: a living producer may still go by an earlier file of this
 * consumer's, and overwrite what a fresh join would read: try again later. (A dead one overwrites
 * nothing, and its successor goes on from the same `consumed`.) The thread that will
 * consume. C3. */
BUS_EXPORT bool bus_consumer_may_join(const void *memory, uint64_t instance,
                                      const struct bus_position *position, uint64_t own_instance);

/* The slow part of bus_consumer_poll: publishes the position, and moves on when the producer has
 * lapped this consumer (it could not see the position), counting what was lost; `stamp` is what
 * the slot said. Returns NULL. O(depth) when lapped. */
BUS_EXPORT const void *bus_consumer_idle(struct bus_consumer *consumer, uint64_t stamp);

/* Starts observing, `from_oldest` in the ring or from the next record to come. `memory` and `entry`
 * as for bus_consumer_init. The thread that will observe. O(depth). Writes nothing to the bus. */
BUS_EXPORT void bus_observer_init(struct bus_observer *observer, const void *memory,
                                  const struct bus_entry *entry, bool from_oldest);

/* The slow part of bus_observer_poll: moves an observer that was lapped to the middle of the ring
 * and counts what it lost. Returns BUS_ERROR_OVERRUN. O(depth). */
BUS_EXPORT int bus_observer_overrun(struct bus_observer *observer);

/* The acquire fence of O2, B4 and Y4 as a call, for languages that have loads but no fences: loads
 * before it stay before loads and stores after it, so behind the load of a stamp it also makes O1
 * and B3. Any thread. */
BUS_EXPORT void bus_fence_acquire(void);

/* ---- hot path ---- */

/* The last word of a slot of `record_size` bytes. Store to it only in an own ring. Pure. */
static BUS_ALWAYS_INLINE uint64_t *bus_slot_stamp(const unsigned char *slot, uint64_t record_size)
{
  return (uint64_t *)(uintptr_t)(slot + record_size - sizeof(uint64_t));
}

/* The slot to fill for the next record, or NULL when the ring is full (WAIT: try again;
 * DROP_NEWEST: counted as dropped). Fill it directly, all but the stamp, then commit; nothing is
 * visible before. Calling reserve again without commit gives the same slot. Filling it with plain
 * stores is right for gcc and clang on x86-64 and ARM64, which keep stores behind P1 and before P2;
 * the language calls them a race with observers, who throw away what they copied meanwhile
 * (tests/tsan/ring_race.c): bus_producer_publish is free of that. The producer's thread. P1. */
static BUS_ALWAYS_INLINE void *bus_producer_reserve(struct bus_producer *producer)
{
  if (BUS_UNLIKELY(producer->next == producer->limit) && !bus_producer_refresh(producer))
    return NULL;
  unsigned char *slot = producer->slots + (producer->next & producer->mask) * producer->record_size;
  bus_prefetch_for_write(producer->slots +
                         ((producer->next + 2) & producer->mask) * producer->record_size);
  BUS_FENCE_RELEASE(); /* P1 */
  return slot;
}

/* Publishes the slot that the last reserve returned (not NULL); returns its position. Once for each
 * reserve. The producer's thread. P2. */
static BUS_ALWAYS_INLINE uint64_t bus_producer_commit(struct bus_producer *producer)
{
  uint64_t position = producer->next++;
  unsigned char *slot = producer->slots + (position & producer->mask) * producer->record_size;
  BUS_STORE_RELEASE(bus_slot_stamp(slot, producer->record_size), position + 1); /* P2 */
  return position;
}

/* Reserve, copy `record` (record_size bytes; its last word is ignored) and commit. Returns BUS_OK
 * or BUS_ERROR_AGAIN when full. The copy is made of relaxed 64-bit stores, so observers race with
 * nothing but atomics; filling the reserved slot field by field is faster. `record` is aligned to 8
 * bytes. The producer's thread. P1, P2. */
static BUS_ALWAYS_INLINE int bus_producer_publish(struct bus_producer *producer, const void *record)
{
  bus_word *slot = (bus_word *)bus_producer_reserve(producer);
  if (!slot)
    return BUS_ERROR_AGAIN;
  const bus_word *from = (const bus_word *)record;
  const uint64_t words = producer->record_size / sizeof(bus_word) - 1; /* a slot may alias it */
  for (uint64_t i = 0; i < words; i++)
    BUS_STORE_RELAXED(&slot[i], from[i]);
  bus_producer_commit(producer);
  return 0;
}

/* The next record, in place and valid until released, or NULL when there is none. Valid means that
 * the producer honours the position: not with OVERWRITE, where readers observe. The consumer's
 * thread. C1. */
static BUS_ALWAYS_INLINE const void *bus_consumer_poll(struct bus_consumer *consumer)
{
  const unsigned char *slot =
      consumer->slots + (consumer->next & consumer->mask) * consumer->record_size;
  uint64_t stamp = BUS_LOAD_ACQUIRE(bus_slot_stamp(slot, consumer->record_size)); /* C1 */
  if (BUS_LIKELY(stamp == consumer->next + 1))
    return slot;
  return bus_consumer_idle(consumer, stamp);
}

/* The record `ahead` places after the next one (0..depth-1), in place, or NULL when it is not there
 * yet: for batches. Nothing is taken until released, so a peek may be repeated at will. It never
 * publishes the position and never notices an overrun: poll does. The consumer's thread. C1. */
static BUS_ALWAYS_INLINE const void *bus_consumer_peek(const struct bus_consumer *consumer,
                                                       uint64_t ahead)
{
  uint64_t position = consumer->next + ahead;
  const unsigned char *slot = consumer->slots + (position & consumer->mask) * consumer->record_size;
  uint64_t stamp = BUS_LOAD_ACQUIRE(bus_slot_stamp(slot, consumer->record_size)); /* C1 */
  return stamp == position + 1 ? slot : NULL;
}

/* Publishes everything before `next` as consumed, now. The consumer's thread. C2. */
static BUS_ALWAYS_INLINE void bus_consumer_publish(struct bus_consumer *consumer)
{
  consumer->published = consumer->next;
  BUS_STORE_RELEASE(&consumer->position->position, consumer->next); /* C2 */
}

/* Gives the polled record back. The position is published every min(64, depth/4) records and by the
 * first poll that finds nothing; a consumer that is killed may therefore see up to that many again.
 * Once for each record polled. The consumer's thread. C2. */
static BUS_ALWAYS_INLINE void bus_consumer_release(struct bus_consumer *consumer)
{
  consumer->next++;
  if (BUS_UNLIKELY(consumer->next - consumer->published >= consumer->publish_every))
    bus_consumer_publish(consumer);
}

/* Gives `count` peeked records back and publishes the position at once: call it when what was made
 * of them is committed. `count` is at most what was peeked. The consumer's thread. C2. */
static BUS_ALWAYS_INLINE void bus_consumer_release_batch(struct bus_consumer *consumer,
                                                         uint64_t count)
{
  consumer->next += count;
  bus_consumer_publish(consumer);
}

/* Copies the next record (record_size bytes) to `record`. Returns 1; 0 when there is none yet; or
 * BUS_ERROR_OVERRUN when the producer has lapped: observer->lost grew, the next call goes on, and
 * `record` holds nothing of use. `record` is aligned to 8 bytes. The observer's thread. O1, O2. */
static BUS_ALWAYS_INLINE int bus_observer_poll(struct bus_observer *observer, void *record)
{
  const uint64_t next = observer->next;
  const unsigned char *slot = observer->slots + (next & observer->mask) * observer->record_size;
  uint64_t stamp = BUS_LOAD_ACQUIRE(bus_slot_stamp(slot, observer->record_size)); /* O1 */
  if (stamp != next + 1)
    return (int64_t)(stamp - (next + 1)) > 0 ? bus_observer_overrun(observer) : 0;
  const bus_word *from = (const bus_word *)(const void *)slot;
  bus_word *to = (bus_word *)record;
  const uint64_t words = observer->record_size / sizeof(bus_word); /* `record` may alias it */
  uint64_t last = 0;
  for (uint64_t i = 0; i < words; i++)
    to[i] = last = BUS_LOAD_RELAXED(&from[i]);
  BUS_FENCE_ACQUIRE(); /* O2 */
  const unsigned char *before =
      observer->slots + ((next - 1) & observer->mask) * observer->record_size;
  /* The copied stamp too: a file cut under the copy reads as zeros from there on, and a zero is
   * what stands before record 0. */
  if (BUS_LOAD_RELAXED(bus_slot_stamp(before, observer->record_size)) != next || last != next + 1)
    return bus_observer_overrun(observer);
  observer->next = next + 1;
  return 1;
}

BUS_END_DECLARATIONS

#endif
