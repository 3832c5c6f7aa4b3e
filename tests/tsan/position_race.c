/* A producer that fills its slots in place (plain stores) and a consumer that reads them in place
 * (plain loads): only P2/C1 and C2/P3 keep them apart. The producer's tie to the position is cut
 * and made again meanwhile, as its housekeeping does; a third thread watches the figures as a tool
 * would.
 *
 * Mutants: 1 the position is stored relaxed; 2 the stamp is stored relaxed; 3 the producer loads
 * the position relaxed. */
#include "race.h"

#define RECORDS  60000u
#define DEPTH    8u
#define WORDS    8u
#define INSTANCE 5u

static _Alignas(128) unsigned char ring[BUS_RING_HEADER_BYTES + DEPTH * WORDS * 8];
static const struct bus_entry entry = {
    .type = BUS_OBJECT_RING, .record_size = WORDS * 8, .depth = DEPTH, .policy = BUS_POLICY_WAIT};
static struct bus_position position;
static uint32_t finished;

static uint64_t *reserve(struct bus_producer *producer)
{
#if MUTANT == 3
  if (producer->next == producer->limit) {
    producer->consumed = BUS_LOAD_RELAXED(&position.position);
    producer->limit = producer->consumed + producer->depth;
    if (producer->next == producer->limit)
      return NULL;
  }
#endif
  return bus_producer_reserve(producer);
}

static void commit(struct bus_producer *producer, uint64_t *slot)
{
#if MUTANT == 2
  BUS_STORE_RELAXED(&slot[WORDS - 1], ++producer->next);
#else
  (void)slot;
  bus_producer_commit(producer);
#endif
}

static void *produce(void *context)
{
  struct bus_producer *producer = context;
  for (uint64_t number = 0; number < RECORDS; number++) {
    uint64_t *slot;
    while ((slot = reserve(producer)) == NULL)
      sched_yield();
    for (unsigned i = 0; i < WORDS - 1; i++)
      slot[i] = race_word(number, i);
    commit(producer, slot);
#if MUTANT != 3 /* would load the position rightly */
    if (number % 100 == 0) {
      bus_producer_connect(producer, NULL, 0);
      bus_producer_report(producer);
      bus_producer_connect(producer, &position, 88);
    }
#endif
  }
  return NULL;
}

static void release(struct bus_consumer *consumer)
{
#if MUTANT == 1
  consumer->published = ++consumer->next;
  BUS_STORE_RELAXED(&consumer->position->position, consumer->next);
#else
  bus_consumer_release(consumer);
#endif
}

static void *consume(void *context)
{
  struct bus_consumer *consumer = context;
  for (uint64_t number = 0; number < RECORDS;) {
    const uint64_t *record = bus_consumer_poll(consumer);
    if (!record) {
      sched_yield();
      continue;
    }
    for (unsigned i = 0; i < WORDS - 1; i++)
      RACE_CHECK(record[i] == race_word(number, i));
    number++;
    release(consumer);
  }
  bus_consumer_publish(consumer);
  BUS_STORE_RELAXED(&finished, 1u);
  return NULL;
}

static void *watch(void *context)
{
  const struct bus_ring_header *header = (const struct bus_ring_header *)(const void *)ring;
  uint64_t before = 0;
  (void)context;
  while (!BUS_LOAD_RELAXED(&finished)) {
    uint64_t now = BUS_LOAD_RELAXED(&position.position);
    RACE_CHECK(now >= before && now <= RECORDS);
    RACE_CHECK(BUS_LOAD_RELAXED(&position.lost) == 0);
    RACE_CHECK(BUS_LOAD_RELAXED(&header->sequence) <= RECORDS);
    RACE_CHECK(BUS_LOAD_RELAXED(&header->positions_rejected) == 0);
    before = now;
    sched_yield();
  }
  return NULL;
}

int main(void)
{
  struct bus_producer producer;
  struct bus_consumer consumer;
  pthread_t threads[3];
  bus_ring_format(ring, &entry, 0);
  bus_producer_init(&producer, ring, &entry, INSTANCE);
  bus_consumer_init(&consumer, ring, &entry, INSTANCE, &position, 0);
  bus_producer_connect(&producer, &position, 88);
  race_start(&threads[0], watch, NULL);
  race_start(&threads[1], consume, &consumer);
  race_start(&threads[2], produce, &producer);
  race_join(threads, 3);
  RACE_CHECK(position.position == RECORDS);
  printf("%u records\n", RECORDS);
  return 0;
}
