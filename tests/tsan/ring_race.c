/* A producer that publishes, a reliable consumer and two observers over one ring; then a producer
 * that nobody holds back, and two observers that it laps.
 *
 * Mutants: 1 the observer copies with memcpy; 2 the stamp is stored relaxed; 3 the producer fills
 * the reserved slot with plain stores under the observers' eyes. The third is what
 * bus_producer_reserve offers, and why its slots are "plain to the owner": the fence P1 and the
 * stamp P2 keep the stores between them for gcc and clang, and observers throw away what they
 * copied meanwhile, but the language calls it a race, and ThreadSanitizer is right to say so. */
#include "race.h"

#define RECORDS   60000u
#define DEPTH     8u
#define WORDS     16u
#define OBSERVERS 2

static _Alignas(128) unsigned char ring[BUS_RING_HEADER_BYTES + DEPTH * WORDS * 8];
static struct bus_entry entry = {
    .type = BUS_OBJECT_RING, .record_size = WORDS * 8, .depth = DEPTH, .policy = BUS_POLICY_WAIT};
static struct bus_position position;
static uint64_t witness[RECORDS]; /* plain: ordered by P2 and C1 or O1 only */
static uint32_t finished;

static bool publish(struct bus_producer *producer, const uint64_t *record)
{
#if MUTANT == 2
  bus_word *slot = bus_producer_reserve(producer);
  if (!slot)
    return false;
  for (unsigned i = 0; i < WORDS - 1; i++)
    BUS_STORE_RELAXED(&slot[i], record[i]);
  BUS_STORE_RELAXED(&slot[WORDS - 1], ++producer->next);
  return true;
#elif MUTANT == 3
  uint64_t *slot = bus_producer_reserve(producer);
  if (!slot)
    return false;
  for (unsigned i = 0; i < WORDS - 1; i++)
    slot[i] = record[i];
  bus_producer_commit(producer);
  return true;
#else
  return bus_producer_publish(producer, record) == BUS_OK;
#endif
}

static void *produce(void *context)
{
  struct bus_producer *producer = context;
  uint64_t record[WORDS] = {0};
  for (uint64_t number = 0; number < RECORDS; number++) {
    for (unsigned i = 0; i < WORDS - 1; i++)
      record[i] = race_word(number, i);
    witness[number] = number;
    while (!publish(producer, record))
      sched_yield();
    if (entry.policy == BUS_POLICY_OVERWRITE && number % 64 == 0)
      sched_yield(); /* or the observers would see little but overruns */
  }
  BUS_STORE_RELAXED(&finished, 1u);
  return NULL;
}

static void check(const uint64_t *record, uint64_t number)
{
  RACE_CHECK(number < RECORDS && witness[number] == number);
  for (unsigned i = 0; i < WORDS - 1; i++)
    RACE_CHECK(record[i] == race_word(number, i));
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
    check(record, number++);
    bus_consumer_release(consumer);
  }
  RACE_CHECK(bus_consumer_poll(consumer) == NULL && position.lost == 0);
  return NULL;
}

static int poll_observer(struct bus_observer *observer, uint64_t *record)
{
#if MUTANT == 1
  const uint64_t next = observer->next;
  const unsigned char *slot = observer->slots + (next & observer->mask) * observer->record_size;
  uint64_t stamp = BUS_LOAD_ACQUIRE(bus_slot_stamp(slot, observer->record_size));
  if (stamp != next + 1)
    return (int64_t)(stamp - (next + 1)) > 0 ? bus_observer_overrun(observer) : 0;
  memcpy(record, slot, observer->record_size);
  BUS_FENCE_ACQUIRE();
  const unsigned char *before =
      observer->slots + ((next - 1) & observer->mask) * observer->record_size;
  if (BUS_LOAD_RELAXED(bus_slot_stamp(before, observer->record_size)) != next)
    return bus_observer_overrun(observer);
  observer->next = next + 1;
  return 1;
#else
  return bus_observer_poll(observer, record);
#endif
}

static void *observe(void *context)
{
  struct bus_observer *observer = context;
  uint64_t record[WORDS], read = 0;
  for (;;) {
    bool last = BUS_LOAD_RELAXED(&finished);
    int status = poll_observer(observer, record);
    if (status == 1) {
      check(record, observer->next - 1);
      read++;
    } else if (status == 0 && last && observer->next == RECORDS) {
      break;
    } else if (status == 0) {
      sched_yield();
    }
  }
  RACE_CHECK(read > 0 && read + observer->lost == RECORDS);
  return NULL;
}

static void run(uint32_t policy)
{
  struct bus_producer producer;
  struct bus_consumer consumer;
  struct bus_observer observers[OBSERVERS];
  pthread_t threads[2 + OBSERVERS];
  size_t count = 0;
  memset(ring, 0, sizeof ring);
  memset(witness, 0xff, sizeof witness);
  finished = 0;
  entry.policy = policy;
  bus_ring_format(ring, &entry, 0);
  bus_producer_init(&producer, ring, &entry, 1);
  if (policy == BUS_POLICY_WAIT) {
    bus_consumer_init(&consumer, ring, &entry, 1, &position, 0);
    bus_producer_connect(&producer, &position, 88);
    race_start(&threads[count++], consume, &consumer);
  }
  for (int i = 0; i < OBSERVERS; i++) {
    bus_observer_init(&observers[i], ring, &entry, true);
    race_start(&threads[count++], observe, &observers[i]);
  }
  race_start(&threads[count++], produce, &producer);
  race_join(threads, count);
  printf("policy %s: %u records; observers lost %llu and %llu\n", bus_policy_name(policy), RECORDS,
         (unsigned long long)observers[0].lost, (unsigned long long)observers[1].lost);
}

int main(void)
{
  run(BUS_POLICY_WAIT);
  run(BUS_POLICY_OVERWRITE);
  return 0;
}
