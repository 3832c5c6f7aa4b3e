#include "bus_fixture.h"

#include "shm/doorbell.h"

#include <pthread.h>

/* A wake-up that is lost makes a test here hang: the time-out is what fails. */
TestSuite(doorbell, .init = fixture_create, .fini = fixture_remove, .timeout = 120);

#define RINGS_MAX   3u
#define FOR_EVER_NS 3600000000000u
#define HAND_OVERS  200000u

static const char *const ring_names[RINGS_MAX] = {"a", "b", "c"};

/* A producer and a consumer member that know each other through read-only maps, as processes do. */
struct pair {
  uint32_t rings;
  struct bus_member *source, *sink;
  struct bus_producer producers[RINGS_MAX];
  struct bus_backlink backlinks[RINGS_MAX];
  struct bus_subscription subscriptions[RINGS_MAX];
  struct bus_consumer *consumers[RINGS_MAX];
  uint64_t taken; /* by the consumer's thread */
};

static void pair_open(struct pair *pair, uint32_t rings)
{
  struct bus_object_spec out[RINGS_MAX], in[RINGS_MAX];
  memset(pair, 0, sizeof *pair);
  pair->rings = rings;
  for (uint32_t i = 0; i < rings; i++) {
    out[i] = (struct bus_object_spec){.type = BUS_OBJECT_RING,
                                      .name = ring_names[i],
                                      .peer = "sink",
                                      .record_size = 64,
                                      .policy = BUS_POLICY_WAIT,
                                      .depth = 4};
    in[i] = (struct bus_object_spec){
        .type = BUS_OBJECT_POSITION, .name = ring_names[i], .peer = "source"};
  }
  pair->source = fixture_member("source", out, rings, 0);
  pair->sink = fixture_member("sink", in, rings, 0);
  for (uint32_t i = 0; i < rings; i++) {
    const struct bus_entry *entry = bus_member_entry(pair->source, BUS_OBJECT_RING, ring_names[i]);
    bus_producer_init(&pair->producers[i],
                      bus_member_object(pair->source, BUS_OBJECT_RING, ring_names[i]), entry,
                      bus_member_header(pair->source)->instance);
    bus_doorbell_install(&pair->producers[i]);
    cr_assert_eq(bus_subscription_init(&pair->subscriptions[i], fixture_directory, "source",
                                       ring_names[i], BUS_RECORD_RAW, 64, pair->sink),
                 BUS_OK);
    cr_assert_eq(bus_backlink_init(&pair->backlinks[i], fixture_directory, "source", entry,
                                   &pair->producers[i]),
                 BUS_OK);
    cr_assert_eq(bus_backlink_maintain(&pair->backlinks[i]), 1, "%s", bus_error_message());
    cr_assert_eq(bus_subscription_maintain(&pair->subscriptions[i], 0), 1, "%s",
                 bus_error_message());
    pair->consumers[i] = &pair->subscriptions[i].consumer;
  }
}

static void pair_close(struct pair *pair)
{
  for (uint32_t i = 0; i < pair->rings; i++) {
    bus_subscription_close(&pair->subscriptions[i]);
    bus_backlink_close(&pair->backlinks[i]);
  }
  bus_member_leave(pair->sink, BUS_STATE_HALT);
  bus_member_leave(pair->source, BUS_STATE_HALT);
}

static void publish(struct pair *pair, uint32_t ring, uint64_t value)
{
  uint64_t *slot;
  while ((slot = bus_producer_reserve(&pair->producers[ring])) == NULL)
    bus_cpu_relax();
  slot[0] = value;
  bus_producer_commit(&pair->producers[ring]);
  bus_doorbell_ring(&pair->producers[ring]);
}

/* Sleeps whenever all rings are empty, with no time-out that could save it. */
static void *consume_all(void *context)
{
  struct pair *pair = context;
  for (uint64_t expected = 0; expected < HAND_OVERS;) {
    bool found = false;
    for (uint32_t i = 0; i < pair->rings; i++) {
      const uint64_t *record = bus_consumer_poll(pair->consumers[i]);
      if (!record)
        continue;
      found = true;
      expected++;
      cr_assert_eq(record[0], pair->consumers[i]->next);
      bus_consumer_release(pair->consumers[i]);
      BUS_STORE_RELEASE(&pair->taken, expected);
    }
    if (!found)
      bus_doorbell_wait(pair->consumers, pair->rings, FOR_EVER_NS);
  }
  return NULL;
}

/* Mostly the next record comes when the consumer is on its way to sleep. */
static void hand_over(uint32_t rings)
{
  struct pair pair;
  pthread_t thread;
  uint64_t sent[RINGS_MAX] = {0}, random = 1;
  pair_open(&pair, rings);
  cr_assert_eq(pthread_create(&thread, NULL, consume_all, &pair), 0);
  for (uint64_t i = 0; i < HAND_OVERS; i++) {
    uint32_t ring = (uint32_t)(i % rings);
    publish(&pair, ring, sent[ring]++);
    for (uint64_t spins = 0; i % 7 != 3 && BUS_LOAD_ACQUIRE(&pair.taken) <= i; spins++)
      if (spins > 10000)
        sched_yield();
    random = random * 6364136223846793005u + 1442695040888963407u;
    for (uint64_t delay = (random >> 33) % 256; delay > 0; delay--)
      __asm__ volatile("" ::: "memory");
  }
  pthread_join(thread, NULL);
  cr_assert_eq(pair.taken, HAND_OVERS);
  for (uint32_t i = 0; i < rings; i++)
    cr_assert_eq(pair.consumers[i]->position->waiting, 0);
  pair_close(&pair);
}

Test(doorbell, no_wake_up_is_lost_on_one_ring)
{
  hand_over(1);
}

Test(doorbell, no_wake_up_is_lost_over_several_rings)
{
  hand_over(RINGS_MAX);
}

Test(doorbell, does_not_sleep_over_a_record)
{
  struct pair pair;
  pair_open(&pair, 2);
  publish(&pair, 1, 0);
  cr_assert_not(bus_doorbell_wait(pair.consumers, 2, FOR_EVER_NS));
  cr_assert_eq(pair.consumers[0]->position->waiting, 0);
  cr_assert_eq(pair.consumers[1]->position->waiting, 0);
  pair_close(&pair);
}

Test(doorbell, sleeps_shortly_over_a_producer_that_does_not_ring)
{
  struct pair pair;
  pair_open(&pair, 2);
  pair.producers[0].header->bell = 0;
  cr_assert(bus_doorbell_wait(pair.consumers, 2, FOR_EVER_NS));
  cr_assert(bus_doorbell_wait(pair.consumers, 0, 1000));
  cr_assert(bus_doorbell_wait(pair.consumers + 1, 1, 1000), "the time-out ends it");
  pair_close(&pair);
}

Test(doorbell, is_odd_for_ever)
{
  struct pair pair;
  pair_open(&pair, 1);
  cr_assert_eq(pair.producers[0].header->bell, 1);
  bus_doorbell_wake(&pair.producers[0]);
  cr_assert_eq(pair.producers[0].header->bell, 3);
  pair.producers[0].header->bell = UINT32_MAX;
  bus_doorbell_wake(&pair.producers[0]);
  cr_assert_eq(pair.producers[0].header->bell, 1, "never 0 again");
  bus_doorbell_install(&pair.producers[0]);
  cr_assert_eq(pair.producers[0].header->bell, 1, "a successor keeps it");
  pair_close(&pair);
}

Test(doorbell, a_consumer_killed_asleep_is_no_longer_waiting_when_it_is_back)
{
  struct pair pair;
  pair_open(&pair, 1);
  struct bus_position *position = pair.consumers[0]->position;
  position->waiting = 1;
  const struct bus_entry *entry = bus_member_entry(pair.source, BUS_OBJECT_RING, "a");
  bus_consumer_init(pair.consumers[0], bus_member_object(pair.source, BUS_OBJECT_RING, "a"), entry,
                    bus_member_header(pair.source)->instance, position, 0);
  cr_assert_eq(position->waiting, 0);
  pair_close(&pair);
}
