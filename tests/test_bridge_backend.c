#include "consumers/bridge_backend.h"

#include <criterion/criterion.h>
#include <string.h>

#define S ((uint64_t)1000000000)

static const struct bus_bridge_work small = {10, 20};

static struct bus_bridge_backend_config make_config(void)
{
  return (struct bus_bridge_backend_config){
      .concurrency = 4, .failures_to_open = 3, .open_ns = 8 * S, .open_ns_max = 20 * S};
}

/* Two servers of one class. */
struct pair {
  struct bus_bridge_backend_config configs[2];
  struct bus_bridge_backend backends[2];
  struct bus_bridge_class_config class_config;
  struct bus_bridge_share share;
};

static void make_pair(struct pair *pair, uint32_t weight0, uint32_t weight1)
{
  memset(pair, 0, sizeof *pair);
  pair->class_config.backend_count = 2;
  for (uint32_t i = 0; i < 2; i++) {
    pair->configs[i] = make_config();
    bus_bridge_backend_init(&pair->backends[i], &pair->configs[i], i, 0);
    pair->class_config.backends[i].backend = i;
    pair->class_config.backends[i].weight = i ? weight1 : weight0;
  }
}

static uint32_t choose(const struct pair *pair, uint32_t without)
{
  return bus_bridge_backend_choose(pair->backends, &pair->class_config, &pair->share, false, small,
                                   without, S);
}

Test(bridge_backend, has_room_by_slots_tokens_and_pauses)
{
  struct bus_bridge_backend_config config = make_config();
  config.urgent_reserve = 1;
  config.tokens_in_flight_max = 100;
  struct bus_bridge_backend backend;
  bus_bridge_backend_init(&backend, &config, 1, 0);
  const struct bus_bridge_work large = {100, 100};
  cr_assert(bus_bridge_backend_has_room(&backend, false, large, S)); /* nothing else is there */
  bus_bridge_backend_take(&backend, small, 0);
  cr_assert(!bus_bridge_backend_has_room(&backend, false, large, S));
  bus_bridge_backend_take(&backend, small, 0);
  bus_bridge_backend_take(&backend, small, 0);
  cr_assert_eq(backend.tokens_in_flight, 90);
  const struct bus_bridge_work tiny = {5, 5};
  cr_assert(!bus_bridge_backend_has_room(&backend, false, tiny, S)); /* the rest is reserved */
  cr_assert(bus_bridge_backend_has_room(&backend, true, tiny, S));
  bus_bridge_backend_give(&backend, small, 0);
  bus_bridge_backend_give(&backend, small, 0);
  cr_assert(bus_bridge_backend_has_room(&backend, false, small, S));
  bus_bridge_backend_pause(&backend, 3 * S);
  bus_bridge_backend_pause(&backend, 2 * S); /* does not shorten it */
  cr_assert(!bus_bridge_backend_has_room(&backend, true, small, 3 * S - 1));
  cr_assert(bus_bridge_backend_has_room(&backend, false, small, 3 * S));
}

Test(bridge_backend, opens_after_failures_in_a_row)
{
  struct bus_bridge_backend_config config = make_config();
  struct bus_bridge_backend backend;
  bus_bridge_backend_init(&backend, &config, 1, 0);
  for (uint32_t i = 0; i < 2; i++)
    cr_assert(!bus_bridge_backend_failed(&backend, S, false, "dead"));
  cr_assert(!bus_bridge_backend_succeeded(&backend, S));
  for (uint32_t i = 0; i < 2; i++)
    cr_assert(!bus_bridge_backend_failed(&backend, S, false, "dead"));
  cr_assert(bus_bridge_backend_up(&backend));
  cr_assert(bus_bridge_backend_failed(&backend, S, false, "dead"));
  cr_assert_eq(backend.breaker, BUS_BRIDGE_BREAKER_OPEN);
  cr_assert_str_eq(backend.reason, "dead");
  cr_assert(!bus_bridge_backend_failed(&backend, S, false, "what was under way")); /* is open */
  cr_assert(!bus_bridge_backend_has_room(&backend, true, small, S));
}

Test(bridge_backend, waits_twice_as_long_for_each_canary_and_not_exactly)
{
  struct bus_bridge_backend_config config = make_config();
  config.failures_to_open = 1;
  struct bus_bridge_backend backend;
  bool differs = false;
  for (uint64_t seed = 0; seed < 50; seed++) {
    bus_bridge_backend_init(&backend, &config, seed, 0);
    cr_assert(bus_bridge_backend_failed(&backend, 0, false, ""));
    const uint64_t lengths[] = {8, 16, 20, 20};
    for (uint32_t i = 0; i < 4; i++) {
      const uint64_t wait_ns = bus_bridge_backend_canary_ns(&backend);
      cr_assert(wait_ns >= lengths[i] * S * 3 / 4 && wait_ns <= lengths[i] * S * 5 / 4);
      differs |= wait_ns != lengths[i] * S;
      bus_bridge_backend_canary(&backend, 0);
      cr_assert_eq(backend.breaker, BUS_BRIDGE_BREAKER_CANARY);
      cr_assert_eq(bus_bridge_backend_canary_ns(&backend), UINT64_MAX);
      /* What was asked before it opened does not answer for the canary. */
      cr_assert(!bus_bridge_backend_failed(&backend, 0, false, ""));
      cr_assert_eq(backend.breaker, BUS_BRIDGE_BREAKER_CANARY);
      cr_assert(bus_bridge_backend_failed(&backend, 0, true, ""));
    }
    cr_assert(bus_bridge_backend_succeeded(&backend, 0));
    cr_assert(bus_bridge_backend_failed(&backend, 0, false, ""));
    cr_assert_leq(bus_bridge_backend_canary_ns(&backend), 10 * S); /* begins anew */
  }
  cr_assert(differs);
}

Test(bridge_backend, wants_a_canary_after_silence)
{
  struct bus_bridge_backend_config config = make_config();
  struct bus_bridge_backend backend;
  bus_bridge_backend_init(&backend, &config, 1, S);
  cr_assert_eq(bus_bridge_backend_canary_ns(&backend), UINT64_MAX);
  config.canary_interval_ns = 60 * S;
  cr_assert_eq(bus_bridge_backend_canary_ns(&backend), 61 * S);
  bus_bridge_backend_succeeded(&backend, 5 * S);
  cr_assert_eq(bus_bridge_backend_canary_ns(&backend), 65 * S);
  bus_bridge_backend_pause(&backend, 90 * S); /* it asked to be left alone */
  cr_assert_eq(bus_bridge_backend_canary_ns(&backend), 90 * S);
  bus_bridge_backend_canary(&backend, 90 * S);
  cr_assert(bus_bridge_backend_up(&backend));
  cr_assert_eq(bus_bridge_backend_canary_ns(&backend), 150 * S);
}

Test(bridge_backend, chooses_the_one_with_the_least_for_its_weight)
{
  struct pair pair;
  make_pair(&pair, 1, 3);
  uint32_t had[2] = {0};
  for (uint32_t i = 0; i < 4; i++) {
    const uint32_t place = choose(&pair, 0);
    bus_bridge_share_note(&pair.share, &pair.class_config, place);
    bus_bridge_backend_take(&pair.backends[place], small, 0);
    had[place]++;
  }
  cr_assert_eq(had[0], 1);
  cr_assert_eq(had[1], 3);
  cr_assert_eq(choose(&pair, 1u << 0), 1);
  cr_assert_eq(choose(&pair, 1u << 1), 0);
  cr_assert_eq(choose(&pair, 3), BUS_BRIDGE_NONE);
}

Test(bridge_backend, shares_out_by_weight_where_nothing_is_in_flight)
{
  struct pair pair;
  make_pair(&pair, 1, 3);
  uint32_t had[2] = {0};
  for (uint32_t i = 0; i < 4000; i++) {
    const uint32_t place = choose(&pair, 0);
    bus_bridge_share_note(&pair.share, &pair.class_config, place);
    had[place]++;
  }
  cr_assert_eq(had[0], 1000);
  cr_assert_eq(had[1], 3000);
  /* One that was away goes on from where the other is. */
  bus_bridge_backend_pause(&pair.backends[0], 2 * S);
  for (uint32_t i = 0; i < 4000; i++)
    bus_bridge_share_note(&pair.share, &pair.class_config, choose(&pair, 0));
  pair.backends[0].paused_until_ns = 0;
  had[0] = had[1] = 0;
  for (uint32_t i = 0; i < 400; i++) {
    const uint32_t place = choose(&pair, 0);
    bus_bridge_share_note(&pair.share, &pair.class_config, place);
    had[place]++;
  }
  cr_assert(had[0] >= 99 && had[0] <= 102, "%u", had[0]);
}

Test(bridge_backend, estimates_when_work_would_be_done)
{
  struct pair pair;
  make_pair(&pair, 1, 1);
  const struct bus_bridge_work none = {0, 0}, work = {100, 20};
  /* Not as long as the speed of one server is unknown. */
  pair.configs[0].prefill_tokens_per_s = 100;
  pair.configs[0].decode_tokens_per_s = 10; /* 3 s */
  cr_assert_eq(bus_bridge_backend_work_ns(&pair.backends[0], work), 3 * S);
  cr_assert_eq(bus_bridge_backend_work_ns(&pair.backends[1], work), 0);
  cr_assert_eq(bus_bridge_backend_done_ns(pair.backends, &pair.class_config, none, false, work, S),
               0);
  pair.configs[1].prefill_tokens_per_s = 50;
  pair.configs[1].decode_tokens_per_s = 5; /* 6 s */
  cr_assert_eq(bus_bridge_backend_done_ns(pair.backends, &pair.class_config, none, false, work, S),
               4 * S);
  /* Four at a time each, 12 s and 24 s of work: 4/12 + 4/24 a second. */
  const struct bus_bridge_work ahead = {400, 80};
  cr_assert_eq(bus_bridge_backend_done_ns(pair.backends, &pair.class_config, ahead, false, work, S),
               6 * S);
  /* A server that is down does not count. */
  pair.configs[0].failures_to_open = 1;
  bus_bridge_backend_failed(&pair.backends[0], S, false, "");
  cr_assert_eq(bus_bridge_backend_done_ns(pair.backends, &pair.class_config, none, false, work, S),
               7 * S);
  /* All slots are taken for 8 s yet, or the server is paused for longer. */
  for (uint32_t i = 0; i < 4; i++)
    bus_bridge_backend_take(&pair.backends[1], work, 9 * S);
  cr_assert_eq(bus_bridge_backend_done_ns(pair.backends, &pair.class_config, none, false, work, S),
               15 * S);
  bus_bridge_backend_pause(&pair.backends[1], 11 * S);
  cr_assert_eq(bus_bridge_backend_done_ns(pair.backends, &pair.class_config, none, false, work, S),
               17 * S);
}
