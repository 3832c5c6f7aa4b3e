#include "ring.h"

/* How far ahead OVERWRITE sets its limit: far enough to be asked for once in years, near enough
 * that wrapping comparisons stay right. */
#define OVERWRITE_RUN ((uint64_t)1 << 60)

static uint64_t *stamp_at(const unsigned char *slots, const struct bus_entry *entry, uint64_t index)
{
  return bus_slot_stamp(slots + index * entry->record_size, entry->record_size);
}

void bus_ring_format(void *memory, const struct bus_entry *entry, uint64_t start)
{
  struct bus_ring_header *header = memory;
  unsigned char *slots = (unsigned char *)memory + BUS_RING_HEADER_BYTES;
  header->depth = entry->depth;
  header->record_size = entry->record_size;
  header->record_type = entry->record_type;
  header->first = start;
  header->sequence = start;
  /* Slot of position start+i gets the stamp of the lap before: (start+i)+1-depth. */
  for (uint64_t i = 0; i < entry->depth; i++) {
    uint64_t position = start + i;
    BUS_STORE_RELAXED(stamp_at(slots, entry, position & (entry->depth - 1)),
                      position + 1 - entry->depth);
  }
}

uint64_t bus_ring_head(const void *memory, const struct bus_entry *entry)
{
  const unsigned char *slots = (const unsigned char *)memory + BUS_RING_HEADER_BYTES;
  const uint64_t mask = entry->depth - 1;
  uint64_t head = 0;
  bool found = false;
  for (uint64_t i = 0; i < entry->depth; i++) {
    uint64_t stamp = BUS_LOAD_ACQUIRE(stamp_at(slots, entry, i));
    if (((stamp - 1) & mask) != i)
      continue;
    if (!found || (int64_t)(stamp - head) > 0)
      head = stamp;
    found = true;
  }
  return head;
}

/* The oldest position that a ring with this head still holds. */
static uint64_t oldest_position(const void *memory, const struct bus_entry *entry, uint64_t head)
{
  const struct bus_ring_header *header = memory;
  uint64_t first = BUS_LOAD_RELAXED(&header->first);
  return head - first < entry->depth ? first : head - entry->depth;
}

/* Where a producer's successor, or a consumer that joins afresh, begins. Not always at the oldest:
 * a producer that was killed may have left that slot half overwritten, under its old stamp. It had
 * accepted, and stored in `consumed`, a position beyond it before; P1 keeps the payload behind
 * that. */
static uint64_t first_unread(const void *memory, const struct bus_entry *entry, uint64_t head)
{
  const struct bus_ring_header *header = memory;
  uint64_t oldest = oldest_position(memory, entry, head);
  uint64_t consumed = BUS_LOAD_RELAXED(&header->consumed);
  return consumed - oldest <= head - oldest ? consumed : oldest;
}

void bus_producer_init(struct bus_producer *producer, void *memory, const struct bus_entry *entry,
                       uint64_t instance)
{
  producer->header = memory;
  producer->slots = (unsigned char *)memory + BUS_RING_HEADER_BYTES;
  producer->mask = entry->depth - 1;
  producer->record_size = entry->record_size;
  producer->depth = entry->depth;
  producer->policy = entry->policy;
  producer->instance = instance;
  producer->next = bus_ring_head(memory, entry);
  producer->consumer = NULL;
  producer->consumed = first_unread(memory, entry, producer->next);
  producer->limit = entry->policy == BUS_POLICY_OVERWRITE ? producer->next + OVERWRITE_RUN
                                                          : producer->consumed + entry->depth;
  BUS_STORE_RELAXED(&producer->header->consumed, producer->consumed);
  BUS_STORE_RELEASE(&producer->header->consumer_instance, (uint64_t)0); /* its predecessor's */
}

/* P3: accepts the consumer's position when it counts in this ring and lies between the last
 * accepted one and `next`. */
static void take_position(struct bus_producer *producer)
{
  const struct bus_position *consumer = producer->consumer;
  if (!consumer || BUS_LOAD_ACQUIRE(&consumer->ring_instance) != producer->instance)
    return;
  uint64_t position = BUS_LOAD_ACQUIRE(&consumer->position); /* P3 */
  if (position - producer->consumed > producer->next - producer->consumed) {
    BUS_STORE_RELAXED(&producer->header->positions_rejected,
                      producer->header->positions_rejected + 1);
    return;
  }
  producer->consumed = position;
  BUS_STORE_RELAXED(&producer->header->consumed, position);
  producer->limit = position + producer->depth;
}

void bus_producer_connect(struct bus_producer *producer, const struct bus_position *position,
                          uint64_t consumer_instance)
{
  take_position(producer); /* the last word of the one that goes */
  producer->consumer = position;
  BUS_STORE_RELEASE(&producer->header->consumer_instance,
                    position ? consumer_instance : 0); /* P4 */
  take_position(producer);
}

void bus_producer_report(struct bus_producer *producer)
{
  BUS_STORE_RELAXED(&producer->header->sequence, producer->next);
}

bool bus_producer_refresh(struct bus_producer *producer)
{
  struct bus_ring_header *header = producer->header;
  if (producer->policy == BUS_POLICY_OVERWRITE) {
    producer->limit = producer->next + OVERWRITE_RUN;
    return true;
  }
  take_position(producer);
  if (producer->next != producer->limit)
    return true;
  uint64_t *refused =
      producer->policy == BUS_POLICY_DROP_NEWEST ? &header->dropped : &header->waits;
  BUS_STORE_RELAXED(refused, *refused + 1);
  return false;
}

bool bus_consumer_may_join(const void *memory, uint64_t instance,
                           const struct bus_position *position, uint64_t own_instance)
{
  const struct bus_ring_header *header = memory;
  return position->ring_instance == instance ||
         BUS_LOAD_ACQUIRE(&header->consumer_instance) == own_instance; /* C3 */
}

/* Counts the records from consumer->next up to `to` as lost and goes on there, so that a kill at
 * any step counts them once: a skip is done when the position is where it went. */
static void skip_lost(struct bus_consumer *consumer, uint64_t to)
{
  struct bus_position *position = consumer->position;
  uint64_t lost = position->lost + (to - consumer->next);
  BUS_STORE_RELEASE(&position->skip_to, position->position - 1); /* where no position will be */
  BUS_STORE_RELEASE(&position->skip_lost, lost);
  BUS_STORE_RELEASE(&position->skip_to, to);
  consumer->next = to;
  bus_consumer_publish(consumer);
  BUS_STORE_RELEASE(&position->lost, lost);
}

/* A predecessor was killed between the last two steps of skip_lost. */
static void finish_skip(struct bus_position *position)
{
  if (position->position == position->skip_to && position->lost != position->skip_lost)
    BUS_STORE_RELEASE(&position->lost, position->skip_lost);
}

void bus_consumer_init(struct bus_consumer *consumer, const void *memory,
                       const struct bus_entry *entry, uint64_t instance,
                       struct bus_position *position, uint64_t output_floor)
{
  consumer->slots = (const unsigned char *)memory + BUS_RING_HEADER_BYTES;
  consumer->mask = entry->depth - 1;
  consumer->record_size = entry->record_size;
  consumer->depth = entry->depth;
  consumer->publish_every = entry->depth / 4 < 64 ? entry->depth / 4 : 64;
  consumer->position = position;
  uint64_t head = bus_ring_head(memory, entry);
  uint64_t oldest = oldest_position(memory, entry, head);
  finish_skip(position);
  if (position->ring_instance != instance) {
    /* A kill between these stores leaves instance 0: the next start joins afresh, nothing consumed.
     */
    BUS_STORE_RELEASE(&position->ring_instance, (uint64_t)0);
    BUS_STORE_RELAXED(&position->output_floor, output_floor);
    BUS_STORE_RELAXED(&position->skip_lost, position->lost);
    consumer->next = first_unread(memory, entry, head);
  } else {
    consumer->next = position->position;
    if ((int64_t)(position->position - head) > 0)
      consumer->next = head; /* impossible, so not to be trusted with a repetition either */
    else if (head - position->position > head - oldest)
      skip_lost(consumer, oldest);
  }
  BUS_STORE_RELAXED(&position->waiting, (uint64_t)0); /* of a predecessor that was killed asleep */
  bus_consumer_publish(consumer);
  BUS_STORE_RELEASE(&position->ring_instance, instance);
}

/* Newest stamp near `position`'s lap, by looking at the ring as it is now. */
static uint64_t head_now(const unsigned char *slots, uint64_t depth, uint64_t record_size)
{
  struct bus_entry entry = {.depth = depth, .record_size = (uint32_t)record_size};
  return bus_ring_head(slots - BUS_RING_HEADER_BYTES, &entry);
}

const void *bus_consumer_idle(struct bus_consumer *consumer, uint64_t stamp)
{
  if (consumer->published != consumer->next)
    bus_consumer_publish(consumer);
  if ((int64_t)(stamp - (consumer->next + 1)) > 0) {
    uint64_t head = head_now(consumer->slots, consumer->depth, consumer->record_size);
    uint64_t resume = head - consumer->depth / 2;
    if ((int64_t)(resume - consumer->next) > 0)
      skip_lost(consumer, resume);
  }
  return NULL;
}

void bus_observer_init(struct bus_observer *observer, const void *memory,
                       const struct bus_entry *entry, bool from_oldest)
{
  observer->slots = (const unsigned char *)memory + BUS_RING_HEADER_BYTES;
  observer->mask = entry->depth - 1;
  observer->record_size = entry->record_size;
  observer->depth = entry->depth;
  observer->lost = 0;
  uint64_t head = bus_ring_head(memory, entry);
  uint64_t oldest = oldest_position(memory, entry, head);
  /* The oldest slot's neighbour is the newest one: leave it out, its check could not pass. */
  if (head - oldest == entry->depth)
    oldest++;
  observer->next = from_oldest ? oldest : head;
}

int bus_observer_overrun(struct bus_observer *observer)
{
  uint64_t head = head_now(observer->slots, observer->depth, observer->record_size);
  uint64_t resume = head - observer->depth / 2;
  if ((int64_t)(resume - observer->next) <= 0)
    resume = observer->next + 1; /* lapped at this one slot, or stamps that make no sense: go on */
  observer->lost += resume - observer->next;
  observer->next = resume;
  return BUS_ERROR_OVERRUN;
}

void bus_fence_acquire(void)
{
  BUS_FENCE_ACQUIRE();
}
