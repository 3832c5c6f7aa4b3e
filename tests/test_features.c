#include "producers/features.h"
#include "producers/feed.h"
#include "tests/producer_fixture.h"

#include <math.h>

#define SECOND 1000000000ull

static struct bus_features_view view_of(int64_t bid, int64_t bid_size, int64_t ask,
                                        int64_t ask_size)
{
  struct bus_features_view view = {{{0, 0}}, {{0, 0}}};
  for (int i = 0; i < 5; i++) {
    view.bids[i] = (struct bus_level){bid - i, i == 0 ? bid_size : 10};
    view.asks[i] = (struct bus_level){ask + i, i == 0 ? ask_size : 10};
  }
  return view;
}

/* One feature after two quotes at the same moment. */
static float after(enum bus_feature_input input, struct bus_features_view first,
                   struct bus_features_view second)
{
  struct bus_features features;
  float x[BUS_FEATURE_INPUTS];
  bus_features_reset(&features);
  bus_features_quote(&features, SECOND, &first, false);
  bus_features_quote(&features, SECOND, &second, false);
  bus_features_write(&features, x);
  return x[input];
}

Test(features, own_exp_and_log_are_right)
{
  for (double y = 0; y < 700; y += 0.0137) {
    double expected = exp(-y);
    cr_assert_lt(fabs(bus_features_exp_negative(y) - expected), expected * 2e-14, "exp(-%g)", y);
  }
  cr_expect_eq(bus_features_exp_negative(0), 1);
  cr_expect_eq(bus_features_exp_negative(-5), 1);
  cr_expect_eq(bus_features_exp_negative(NAN), 1);
  cr_expect_eq(bus_features_exp_negative(INFINITY), 0);
  for (double y = 1e-9; y < 1e18; y *= 1.0037) {
    double expected = log1p(y);
    cr_assert_lt(fabs(bus_features_log1p(y) - expected), expected * 1e-12, "log1p(%g)", y);
  }
  cr_expect_eq(bus_features_log1p(-1), 0);
  cr_expect_eq(bus_features_log1p(NAN), 0);
  cr_expect(isfinite(bus_features_log1p(INFINITY)));
}

Test(features, describes_each_one)
{
  for (int i = 0; i < BUS_FEATURE_INPUTS; i++) {
    const struct bus_feature_description *one = &bus_feature_descriptions[i];
    cr_assert_not_null(one->name);
    cr_assert_not_null(one->unit);
    cr_assert_lt(one->low, one->high);
    for (int k = 0; k < i; k++)
      cr_assert_str_neq(one->name, bus_feature_descriptions[k].name);
  }
}

Test(features, book_formulas)
{
  struct bus_features_view view = view_of(9999, 30, 10001, 10);
  cr_expect_float_eq(after(BUS_INPUT_SPREAD, view, view), 2.0, 1e-5);
  cr_expect_float_eq(after(BUS_INPUT_IMBALANCE_L1, view, view), 0.5, 1e-6);
  cr_expect_float_eq(after(BUS_INPUT_IMBALANCE_L5, view, view), 20.0 / 120.0, 1e-6);
  /* (10001*30 + 9999*10)/40 = 10000.5: half a tick above the mid of 10000 */
  cr_expect_float_eq(after(BUS_INPUT_WEIGHTED_MID_OFFSET, view, view), 0.5, 1e-5);
  cr_expect_float_eq(after(BUS_INPUT_OFI_L1, view, view), 0, 0);
}

/* Cont, Kukanov and Stoikov: demand up is positive, supply up is negative, on both sides. */
Test(features, order_flow_has_the_right_sign)
{
  struct bus_features_view from = view_of(9999, 20, 10001, 20);
  static const struct {
    int64_t bid, bid_size, ask, ask_size;
    double flow; /* in sizes; the mean depth is 20 */
  } cases[] = {
      {9999, 25, 10001, 20, 5},  /* bids added */
      {9999, 15, 10001, 20, -5}, /* bids taken */
      {10000, 7, 10001, 20, 7},  /* a better bid */
      {9998, 7, 10001, 20, -20}, /* the best bid gone */
      {9999, 20, 10001, 25, -5}, /* asks added */
      {9999, 20, 10001, 15, 5},  /* asks taken */
      {9999, 20, 10000, 7, -7},  /* a better ask */
      {9999, 20, 10002, 7, 20},  /* the best ask gone */
  };
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    struct bus_features_view to =
        view_of(cases[i].bid, cases[i].bid_size, cases[i].ask, cases[i].ask_size);
    cr_expect_float_eq(after(BUS_INPUT_OFI_L1, from, to), cases[i].flow / 20, 1e-6, "case %zu", i);
    cr_expect_gt(after(BUS_INPUT_OFI_L5, from, to) * cases[i].flow, 0, "case %zu", i);
  }
  cr_expect_float_eq(after(BUS_INPUT_QUEUE_DEPLETION, from, view_of(9999, 15, 10001, 20)), 0.25,
                     1e-6);
  cr_expect_float_eq(after(BUS_INPUT_QUEUE_DEPLETION, from, view_of(9999, 20, 10001, 15)), -0.25,
                     1e-6);
}

Test(features, decay_with_event_time)
{
  struct bus_features features;
  struct bus_features_view low = view_of(9999, 20, 10001, 20);
  struct bus_features_view high = view_of(10009, 20, 10011, 20);
  float x[BUS_FEATURE_INPUTS];
  bus_features_reset(&features);
  bus_features_quote(&features, SECOND, &low, false);
  bus_features_quote(&features, SECOND, &high, false);
  bus_features_write(&features, x);
  cr_expect_float_eq(x[BUS_INPUT_RETURN_1S], 10, 1e-4); /* from 10000 to 10010 */
  cr_expect_float_eq(x[BUS_INPUT_VOLATILITY_1S], 10, 1e-4);
  float flow = x[BUS_INPUT_OFI_L1];
  bus_features_quote(&features, SECOND + SECOND / 10, &high, false);
  bus_features_write(&features, x);
  cr_expect_float_eq(x[BUS_INPUT_OFI_L1], flow * exp(-1), 1e-5);
  cr_expect_float_eq(x[BUS_INPUT_RETURN_100MS], 10 * exp(-1), 1e-2);
  cr_expect_float_eq(x[BUS_INPUT_VOLATILITY_10S], 10 * exp(-0.005), 1e-3);
  bus_features_quote(&features, SECOND / 2, &high, false); /* a clock that ran backwards */
  bus_features_quote(&features, 1000 * SECOND, &high, false);
  bus_features_write(&features, x);
  cr_expect_float_eq(x[BUS_INPUT_RETURN_10S], 0, 1e-6);
  cr_expect_float_eq(x[BUS_INPUT_VOLATILITY_10S], 0, 1e-6);
}

Test(features, trades)
{
  struct bus_features features;
  float x[BUS_FEATURE_INPUTS];
  bus_features_reset(&features);
  bus_features_write(&features, x);
  cr_expect_eq(x[BUS_INPUT_TIME_SINCE_TRADE], 14);
  bus_features_trade(&features, SECOND, 30, false);
  bus_features_trade(&features, SECOND, 10, true);
  bus_features_write(&features, x);
  cr_expect_float_eq(x[BUS_INPUT_TRADE_IMBALANCE], 0.5, 1e-6);
  cr_expect_float_eq(x[BUS_INPUT_TRADE_RATE], log(3), 1e-6);
  cr_expect_eq(x[BUS_INPUT_TIME_SINCE_TRADE], 0);
  struct bus_features_view view = view_of(9999, 30, 10001, 10);
  bus_features_quote(&features, SECOND + 1000000, &view, false);
  bus_features_write(&features, x);
  cr_expect_float_eq(x[BUS_INPUT_TIME_SINCE_TRADE], log(2), 1e-6);
  for (int i = 0; i < 4000; i++)
    bus_features_trade(&features, SECOND, 10, true);
  bus_features_write(&features, x);
  cr_expect_float_eq(x[BUS_INPUT_VPIN], 1, 1e-6); /* sellers only */
  for (int i = 0; i < 4000; i++)
    bus_features_trade(&features, SECOND, 10, i % 2 == 0);
  bus_features_write(&features, x);
  cr_expect_lt(x[BUS_INPUT_VPIN], 0.1);
}

Test(features, are_always_finite_and_in_range)
{
  static const int64_t extremes[] = {1, 2, 1000, 6183763000000, INT64_MAX / 2, INT64_MAX};
  uint64_t state = 88172645463325252ull;
  struct bus_features features;
  float x[BUS_FEATURE_INPUTS];
  bus_features_reset(&features);
  for (int step = 0; step < 200000; step++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    struct bus_features_view view;
    for (unsigned i = 0; i < 5; i++) {
      view.bids[i] =
          (struct bus_level){extremes[(state >> (i * 3)) % 6], extremes[(state >> i) % 6]};
      view.asks[i] =
          (struct bus_level){extremes[(state >> (i * 5)) % 6], extremes[(state >> 9) % 6]};
      if ((state >> (20 + i)) % 16 == 0)
        view.bids[i] = (struct bus_level){0, 0};
      if ((state >> (30 + i)) % 16 == 0)
        view.asks[i] = (struct bus_level){0, 0};
    }
    uint64_t now_ns = state % 8 == 0 ? state : (uint64_t)step * 1000;
    if (state % 5 == 0)
      bus_features_trade(&features, now_ns, extremes[(state >> 40) % 6], state & 1);
    else
      bus_features_quote(&features, now_ns, &view, state % 7 == 0);
    bus_features_write(&features, x);
    for (int i = 0; i < BUS_FEATURE_INPUTS; i++)
      cr_assert(x[i] >= bus_feature_descriptions[i].low && x[i] <= bus_feature_descriptions[i].high,
                "step %d: %s = %g", step, bus_feature_descriptions[i].name, (double)x[i]);
    if (step % 1000 == 999)
      bus_features_reset(&features);
  }
}

/* The correlation between an input and the mid's change over the time that the input looks back. */
static double correlation_with_return(const struct record_sink *sink, enum bus_feature_input input,
                                      uint64_t step_ns, const uint64_t *receive_ns)
{
  double n = 0, sx = 0, sy = 0, sxx = 0, syy = 0, sxy = 0, mid_before = 0;
  uint64_t next_ns = 0;
  for (size_t i = 0; i < sink->count; i++) {
    const struct bus_feature *record = &sink->records[i];
    if ((record->flags & BUS_FEATURE_VALID) == 0 || receive_ns[record->timestamp_ns] < next_ns)
      continue;
    next_ns = receive_ns[record->timestamp_ns] + step_ns;
    double mid = 0.5 * (double)(record->bid_price + record->ask_price);
    double x = record->x[input];
    double y = mid_before > 0 ? (mid - mid_before) / mid : 0;
    mid_before = mid;
    n += 1, sx += x, sy += y, sxx += x * x, syy += y * y, sxy += x * y;
  }
  return (n * sxy - sx * sy) / sqrt((n * sxx - sx * sx) * (n * syy - sy * sy));
}

static void check_signs(const char *name, enum bus_market market)
{
  struct lines lines = read_lines(data_path(name));
  uint64_t *receive_ns = calloc(lines.count, sizeof *receive_ns);
  struct record_sink sink = sink_new(lines.count);
  struct bus_feed_config config;
  bus_feed_config_defaults(&config);
  config.market = market;
  config.sink = (struct bus_feed_sink){sink_reserve, sink_commit, &sink};
  struct bus_feed *feed = bus_feed_new(&config);
  for (size_t i = 0; i < lines.count; i++) {
    receive_ns[i] = strtoull(lines.text + lines.start[i], NULL, 10);
    cr_assert_geq(bus_feed_line(feed, lines.text + lines.start[i], lines.length[i], i), 0);
  }
  double ofi_l1 = correlation_with_return(&sink, BUS_INPUT_OFI_L1, SECOND / 10, receive_ns);
  double ofi_l5 = correlation_with_return(&sink, BUS_INPUT_OFI_L5, SECOND, receive_ns);
  double trades = correlation_with_return(&sink, BUS_INPUT_TRADE_IMBALANCE, SECOND, receive_ns);
  cr_log_info("%s: correlation with the mid's change: ofi_l1 %.3f, ofi_l5 %.3f, "
              "trade_imbalance_1s %.3f",
              name, ofi_l1, ofi_l5, trades);
  cr_expect_gt(ofi_l1, 0.2);
  cr_expect_gt(ofi_l5, 0.2);
  cr_expect_gt(trades, 0.1);
  bus_feed_delete(feed);
  free(sink.records);
  free(receive_ns);
  free_lines(&lines);
}

Test(features, order_flow_moves_the_real_spot_price)
{
  check_signs(SPOT_CAPTURE, BUS_MARKET_SPOT);
}

Test(features, order_flow_moves_the_real_futures_price)
{
  check_signs(USDM_CAPTURE, BUS_MARKET_USDM);
}
