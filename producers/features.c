#include "producers/features.h"

#include <string.h>

#define SPREAD_LIMIT     1000.0
#define OFFSET_LIMIT     500.0
#define FLOW_LIMIT       100.0
#define RETURN_LIMIT     1000.0
#define TRADE_RATE_LIMIT 16.0
#define TRADE_TIME_LIMIT 14.0
#define BUCKET_TRADES    20.0
/* Weight of a trade in the mean trade size: about the last 200 count. */
#define TRADE_SIZE_WEIGHT (1.0 / 128.0)

const struct bus_feature_description bus_feature_descriptions[BUS_FEATURE_INPUTS] = {
    {"spread_bps", "bps", -SPREAD_LIMIT, SPREAD_LIMIT},
    {"imbalance_l1", "", -1, 1},
    {"imbalance_l5", "", -1, 1},
    {"weighted_mid_offset_bps", "bps", -OFFSET_LIMIT, OFFSET_LIMIT},
    {"ofi_l1", "", -FLOW_LIMIT, FLOW_LIMIT},
    {"ofi_l5", "", -FLOW_LIMIT, FLOW_LIMIT},
    {"trade_imbalance_1s", "", -1, 1},
    {"return_100ms_bps", "bps", -RETURN_LIMIT, RETURN_LIMIT},
    {"return_1s_bps", "bps", -RETURN_LIMIT, RETURN_LIMIT},
    {"return_10s_bps", "bps", -RETURN_LIMIT, RETURN_LIMIT},
    {"volatility_1s_bps", "bps", 0, RETURN_LIMIT},
    {"volatility_10s_bps", "bps", 0, RETURN_LIMIT},
    {"trade_rate", "log 1/s", 0, TRADE_RATE_LIMIT},
    {"queue_depletion", "", -FLOW_LIMIT, FLOW_LIMIT},
    {"time_since_trade", "log ms", 0, TRADE_TIME_LIMIT},
    {"vpin", "", 0, 1},
};

static double double_of_bits(uint64_t bits)
{
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint64_t bits_of_double(double value)
{
  uint64_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

double bus_features_exp_negative(double y)
{
  if (!(y > 0))
    return 1;
  if (y > 700)
    return 0;
  /* y = k ln 2 + r with |r| <= ln(2)/2; ln 2 in two parts, so that k * the first is exact. */
  uint64_t k = (uint64_t)(y * 1.4426950408889634 + 0.5);
  double r = (y - (double)k * 0.6931471803691238) - (double)k * 1.9082149292705877e-10;
  double sum = 1.0 / 479001600.0; /* Taylor series of exp(-r), 12 terms */
  sum = 1.0 / 39916800.0 - r * sum;
  sum = 1.0 / 3628800.0 - r * sum;
  sum = 1.0 / 362880.0 - r * sum;
  sum = 1.0 / 40320.0 - r * sum;
  sum = 1.0 / 5040.0 - r * sum;
  sum = 1.0 / 720.0 - r * sum;
  sum = 1.0 / 120.0 - r * sum;
  sum = 1.0 / 24.0 - r * sum;
  sum = 1.0 / 6.0 - r * sum;
  sum = 0.5 - r * sum;
  sum = 1.0 - r * sum;
  sum = 1.0 - r * sum;
  return sum * double_of_bits((1023 - k) << 52);
}

double bus_features_log1p(double y)
{
  if (!(y > 0))
    return 0;
  double value = 1 + y;
  if (value > 1e300)
    value = 1e300;
  /* value = m * 2^e with m in [1/sqrt 2, sqrt 2); log m = 2 atanh((m-1)/(m+1)). */
  uint64_t bits = bits_of_double(value);
  int e = (int)(bits >> 52) - 1023;
  double m = double_of_bits((bits & 0xFFFFFFFFFFFFFull) | (1023ull << 52));
  if (m > 1.4142135623730951) {
    m *= 0.5;
    e++;
  }
  double s = e == 0 ? y / (2 + y) : (m - 1) / (m + 1); /* 1 + y loses digits of a small y */
  double z = s * s;
  double sum = 1.0 / 17.0;
  sum = 1.0 / 15.0 + z * sum;
  sum = 1.0 / 13.0 + z * sum;
  sum = 1.0 / 11.0 + z * sum;
  sum = 1.0 / 9.0 + z * sum;
  sum = 1.0 / 7.0 + z * sum;
  sum = 1.0 / 5.0 + z * sum;
  sum = 1.0 / 3.0 + z * sum;
  return e * 0.6931471805599453 + 2 * (s + s * (z * sum));
}

static double power_ten(double w)
{
  double w2 = w * w;
  double w5 = w2 * w2 * w;
  return w5 * w5;
}

void bus_features_reset(struct bus_features *features)
{
  memset(features, 0, sizeof *features);
}

/* Decays everything to `now_ns`. The values that held since the last event count for the time in
 * between. One exp serves the three time constants, which are powers of ten apart. */
static void advance(struct bus_features *f, uint64_t now_ns)
{
  if (now_ns <= f->now_ns)
    return;
  double w_10s = bus_features_exp_negative((double)(now_ns - f->now_ns) * 1e-10);
  double w_1s = power_ten(w_10s);
  double w_100ms = power_ten(w_1s);
  f->now_ns = now_ns;
  if (f->has_mid) {
    f->mean_100ms = f->mid + w_100ms * (f->mean_100ms - f->mid);
    f->mean_1s = f->mid + w_1s * (f->mean_1s - f->mid);
    f->mean_10s = f->mid + w_10s * (f->mean_10s - f->mid);
  }
  f->mean_depth_l1 = f->depth_l1 + w_10s * (f->mean_depth_l1 - f->depth_l1);
  f->mean_depth_l5 = f->depth_l5 + w_10s * (f->mean_depth_l5 - f->depth_l5);
  f->variance_1s *= w_1s;
  f->variance_10s *= w_10s;
  f->flow_l1 *= w_100ms;
  f->flow_l5 *= w_1s;
  f->depletion *= w_1s;
  f->trade_signed *= w_1s;
  f->trade_volume *= w_1s;
  f->trade_count *= w_1s;
}

/* Order flow at one level of one side: what its present queue adds less what the former one was. A
 * missing level has size 0 and counts as the worst price. */
static BUS_ALWAYS_INLINE double bid_flow(struct bus_level before, struct bus_level now)
{
  double flow = 0;
  if (now.price >= before.price)
    flow += (double)now.size;
  if (now.price <= before.price)
    flow -= (double)before.size;
  return flow;
}

static BUS_ALWAYS_INLINE double ask_flow(struct bus_level before, struct bus_level now)
{
  int64_t now_price = now.size > 0 ? now.price : INT64_MAX;
  int64_t before_price = before.size > 0 ? before.price : INT64_MAX;
  double flow = 0;
  if (now_price <= before_price)
    flow -= (double)now.size;
  if (now_price >= before_price)
    flow += (double)before.size;
  return flow;
}

static double depletion_of(struct bus_level before, struct bus_level now)
{
  return now.price == before.price && now.size < before.size ? (double)(before.size - now.size) : 0;
}

static void add_flow(struct bus_features *f, const struct bus_features_view *now)
{
  const struct bus_features_view *before = &f->view;
  double level_flow[BUS_FEATURES_LEVELS];
  for (uint32_t i = 0; i < BUS_FEATURES_LEVELS; i++)
    level_flow[i] =
        bid_flow(before->bids[i], now->bids[i]) + ask_flow(before->asks[i], now->asks[i]);
  double sum = level_flow[0];
  for (uint32_t i = 1; i < BUS_FEATURES_LEVELS; i++)
    sum += level_flow[i];
  f->flow_l1 += level_flow[0];
  f->flow_l5 += sum;
  f->depletion += depletion_of(before->bids[0], now->bids[0]);
  f->depletion -= depletion_of(before->asks[0], now->asks[0]);
}

static void set_mid(struct bus_features *f, double mid)
{
  if (!f->has_mid) {
    f->mean_100ms = mid;
    f->mean_1s = mid;
    f->mean_10s = mid;
    f->has_mid = true;
  } else if (mid != f->mid) {
    double r = (mid - f->mid) / f->mid * 1e4;
    f->variance_1s += r * r;
    f->variance_10s += r * r;
  }
  f->mid = mid;
}

static double ratio(double above, double below)
{
  return below > 0 ? above / below : 0;
}

void bus_features_quote(struct bus_features *features, uint64_t now_ns,
                        const struct bus_features_view *view, bool is_rebuilt)
{
  struct bus_features *f = features;
  advance(f, now_ns);
  if (view->bids[0].size <= 0 || view->asks[0].size <= 0) {
    f->has_view = false; /* nothing to compare with until both sides are back */
    return;
  }
  double bids = 0;
  double asks = 0;
  for (uint32_t i = 0; i < BUS_FEATURES_LEVELS; i++) {
    bids += (double)view->bids[i].size;
    asks += (double)view->asks[i].size;
  }
  double qb = (double)view->bids[0].size;
  double qa = (double)view->asks[0].size;
  double b = (double)view->bids[0].price;
  double a = (double)view->asks[0].price;
  double mid = (a + b) * 0.5;
  bool is_first = f->mean_depth_l1 == 0;
  f->spread_bps = (a - b) / mid * 1e4;
  f->imbalance_l1 = (qb - qa) / (qb + qa);
  f->imbalance_l5 = (bids - asks) / (bids + asks);
  f->depth_l1 = (qb + qa) * 0.5;
  f->depth_l5 = (bids + asks) * 0.5;
  if (is_first) {
    f->mean_depth_l1 = f->depth_l1;
    f->mean_depth_l5 = f->depth_l5;
  }
  if (f->has_view && !is_rebuilt)
    add_flow(f, view);
  set_mid(f, mid);
  f->view = *view;
  f->has_view = true;
}

static void close_bucket(struct bus_features *f)
{
  struct bus_features_bucket *bucket = &f->buckets[f->bucket_next];
  bucket->imbalance = f->bucket_signed < 0 ? -f->bucket_signed : f->bucket_signed;
  bucket->volume = f->bucket_volume;
  f->bucket_next = f->bucket_next + 1 == BUS_FEATURES_BUCKETS ? 0 : f->bucket_next + 1;
  if (f->bucket_count < BUS_FEATURES_BUCKETS)
    f->bucket_count++;
  f->bucket_signed = 0;
  f->bucket_volume = 0;
  f->bucket_size = f->trade_size_mean * BUCKET_TRADES;

  /* Summed anew, about every 20 trades: running sums would gather rounding errors. */
  double imbalance = 0;
  double volume = 0;
  for (uint32_t i = 0; i < f->bucket_count; i++) {
    imbalance += f->buckets[i].imbalance;
    volume += f->buckets[i].volume;
  }
  f->vpin = ratio(imbalance, volume);
}

/* A trade may fill the rest of one bucket and several more; more than all of them makes no
 * difference. */
static void fill_buckets(struct bus_features *f, double volume, double sign)
{
  if (f->bucket_size == 0)
    f->bucket_size = f->trade_size_mean * BUCKET_TRADES;
  for (uint32_t i = 0; i <= BUS_FEATURES_BUCKETS; i++) {
    double room = f->bucket_size - f->bucket_volume;
    if (volume < room) {
      f->bucket_volume += volume;
      f->bucket_signed += volume * sign;
      return;
    }
    f->bucket_volume += room;
    f->bucket_signed += room * sign;
    volume -= room;
    close_bucket(f);
  }
}

void bus_features_trade(struct bus_features *features, uint64_t now_ns, int64_t size,
                        bool buyer_is_maker)
{
  struct bus_features *f = features;
  double volume = (double)size;
  double sign = buyer_is_maker ? -1 : 1;
  advance(f, now_ns);
  f->last_trade_ns = f->now_ns;
  f->trade_signed += volume * sign;
  f->trade_volume += volume;
  f->trade_count += 1;
  if (f->trades == 0)
    f->trade_size_mean = volume;
  else
    f->trade_size_mean += (volume - f->trade_size_mean) * TRADE_SIZE_WEIGHT;
  f->trades++;
  fill_buckets(f, volume, sign);
}

static BUS_ALWAYS_INLINE float bounded(double value, double low, double high)
{
  if (!(value >= low)) /* NaN too */
    return (float)low;
  return (float)(value > high ? high : value);
}

static BUS_ALWAYS_INLINE float symmetric(double value, double limit)
{
  return bounded(value, -limit, limit);
}

void bus_features_write(const struct bus_features *features, float x[BUS_FEATURE_INPUTS])
{
  const struct bus_features *f = features;
  double since_ms = (double)(f->now_ns - f->last_trade_ns) * 1e-6;
  double since = f->trades > 0 ? bus_features_log1p(since_ms) : TRADE_TIME_LIMIT;
  double per_depth = ratio(1, f->mean_depth_l1);
  /* (a*qb + b*qa)/(qb+qa) - M is half the spread times the imbalance. */
  double offset = 0.5 * f->spread_bps * f->imbalance_l1;

  x[BUS_INPUT_SPREAD] = symmetric(f->spread_bps, SPREAD_LIMIT);
  x[BUS_INPUT_IMBALANCE_L1] = symmetric(f->imbalance_l1, 1);
  x[BUS_INPUT_IMBALANCE_L5] = symmetric(f->imbalance_l5, 1);
  x[BUS_INPUT_WEIGHTED_MID_OFFSET] = symmetric(offset, OFFSET_LIMIT);
  x[BUS_INPUT_OFI_L1] = symmetric(f->flow_l1 * per_depth, FLOW_LIMIT);
  x[BUS_INPUT_OFI_L5] = symmetric(ratio(f->flow_l5, f->mean_depth_l5), FLOW_LIMIT);
  x[BUS_INPUT_TRADE_IMBALANCE] = symmetric(ratio(f->trade_signed, f->trade_volume), 1);
  x[BUS_INPUT_RETURN_100MS] =
      symmetric(ratio(f->mid - f->mean_100ms, f->mean_100ms) * 1e4, RETURN_LIMIT);
  x[BUS_INPUT_RETURN_1S] = symmetric(ratio(f->mid - f->mean_1s, f->mean_1s) * 1e4, RETURN_LIMIT);
  x[BUS_INPUT_RETURN_10S] = symmetric(ratio(f->mid - f->mean_10s, f->mean_10s) * 1e4, RETURN_LIMIT);
  x[BUS_INPUT_VOLATILITY_1S] = bounded(__builtin_sqrt(f->variance_1s), 0, RETURN_LIMIT);
  x[BUS_INPUT_VOLATILITY_10S] = bounded(__builtin_sqrt(f->variance_10s), 0, RETURN_LIMIT);
  x[BUS_INPUT_TRADE_RATE] = bounded(bus_features_log1p(f->trade_count), 0, TRADE_RATE_LIMIT);
  x[BUS_INPUT_QUEUE_DEPLETION] = symmetric(f->depletion * per_depth, FLOW_LIMIT);
  x[BUS_INPUT_TIME_SINCE_TRADE] = bounded(since, 0, TRADE_TIME_LIMIT);
  x[BUS_INPUT_VPIN] = bounded(f->vpin, 0, 1);
}
