#include "consumers/decision.h"

#include <criterion/criterion.h>

static struct bus_signal decide(const struct bus_tick *tick, float sell, float flat, float buy)
{
  struct bus_signal signal = {0};
  const float score[3] = {sell, flat, buy};
  bus_decision_fill(&signal, tick, score);
  return signal;
}

Test(decision, names_the_side_the_price_and_the_confidence)
{
  const struct bus_tick tick = {.timestamp_ns = 5,
                                .position = 9,
                                .bid_price = 100,
                                .ask_price = 103,
                                .symbol = 2,
                                .source = 1,
                                .flags = BUS_FEATURE_VALID};
  struct bus_signal buy = decide(&tick, 0.1f, 0.2f, 0.7f);
  cr_assert_eq(buy.direction, 1);
  cr_assert_eq(buy.target_price, 103);
  cr_assert_eq(buy.confidence, 70);
  cr_assert_eq(buy.flags, BUS_SIGNAL_VALID);
  cr_assert_eq(buy.feature_position, 9);
  cr_assert_eq(buy.source, 1);
  struct bus_signal sell = decide(&tick, 0.6f, 0.2f, 0.2f);
  cr_assert_eq(sell.direction, -1);
  cr_assert_eq(sell.target_price, 100);
  struct bus_signal flat = decide(&tick, 0.3f, 0.4f, 0.3f);
  cr_assert_eq(flat.direction, 0);
  cr_assert_eq(flat.target_price, 101);
  cr_assert_eq(decide(&tick, 0.5f, 0.0f, 0.5f).direction, -1, "sell before buy");
  cr_assert_eq(decide(&tick, 0.5f, 0.5f, 0.0f).direction, 0, "flat before both");
}

Test(decision, does_not_act_on_what_is_not_known)
{
  struct bus_tick tick = {.bid_price = 100, .ask_price = 103};
  struct bus_signal signal = decide(&tick, 0, 0, 1);
  cr_assert_eq(signal.direction, 0);
  cr_assert_eq(signal.target_price, 0);
  cr_assert_eq(signal.flags, 0);
  tick.flags = BUS_FEATURE_VALID | BUS_FEATURE_CROSSED;
  cr_assert_eq(decide(&tick, 0, 0, 1).flags, BUS_SIGNAL_STALE);
  cr_assert_eq(decide(&tick, 0, 0, 1).direction, 0);
  tick.flags = BUS_FEATURE_VALID | BUS_FEATURE_RESYNC;
  signal = decide(&tick, 0, 0, 1);
  cr_assert_eq(signal.flags, BUS_SIGNAL_VALID | BUS_SIGNAL_STALE);
  cr_assert_eq(signal.direction, 1);
}

Test(decision, arithmetic_does_not_overflow)
{
  cr_assert_eq(bus_decision_mid(INT64_MAX, INT64_MAX), INT64_MAX);
  cr_assert_eq(bus_decision_mid(INT64_MIN, INT64_MAX), -1);
  cr_assert_eq(bus_decision_mid(-3, -2), -3);
  cr_assert_eq(bus_decision_elapsed_ns(10, 5), 0);
  cr_assert_eq(bus_decision_elapsed_ns(5, 10), 5);
  cr_assert_eq(bus_decision_elapsed_ns(0, (uint64_t)1 << 40), UINT32_MAX);
}
