/* features.h: the sixteen numbers a model reads, kept up to date per symbol.
 *
 * b, a: best bid and ask price; qb, qa: their sizes; M = (a+b)/2; e^: an exponentially weighted sum
 * or mean with the time constant given, decayed by w = exp(-dt/tau) over event time, which is the
 * receive time recorded with each message, never the present time.
 *
 *  # name                     formula                                          unit     range
 *  0 spread_bps               (a-b)/M * 1e4                                    bps      -1000..1000
 *  1 imbalance_l1             (qb-qa)/(qb+qa)                                  -        -1..1
 *  2 imbalance_l5             the same with the sums over the best 5 levels    -        -1..1
 *  3 weighted_mid_offset_bps  ((a*qb+b*qa)/(qb+qa) - M)/M * 1e4                bps      -500..500
 *  4 ofi_l1                   e^sum(e, 100 ms) / D1, where                     -        -100..100
 *                             e = 1[b>=b']qb - 1[b<=b']qb' - 1[a<=a']qa + 1[a>=a']qa'
 *                             (primes: before the update) and
 *                             D1 = e^mean((qb+qa)/2, 10 s)
 *  5 ofi_l5                   e^sum(sum of e over the best 5 levels, 1 s) /    -        -100..100
 *                             D5, D5 = e^mean(half the size of the 5 levels of both sides, 10 s)
 *  6 trade_imbalance_1s       e^sum(+-v, 1 s)/e^sum(v, 1 s); v: trade size,    -        -1..1
 *                             + when the buyer was the aggressor
 *  7 return_100ms_bps         (M - m)/m * 1e4, m = e^mean(M, 100 ms)           bps      -1000..1000
 *  8 return_1s_bps            the same with 1 s                                bps      -1000..1000
 *  9 return_10s_bps           the same with 10 s                               bps      -1000..1000
 * 10 volatility_1s_bps        sqrt(e^sum(r^2, 1 s)), r = (M-M')/M' * 1e4       bps      0..1000
 * 11 volatility_10s_bps       the same with 10 s                               bps      0..1000
 * 12 trade_rate               log1p(e^sum(1 per trade, 1 s) / 1 s)             log 1/s  0..16
 * 13 queue_depletion          e^sum(max(0, qb'-qb) at an unchanged b, minus    -        -100..100
 *                             max(0, qa'-qa) at an unchanged a, 1 s) / D1
 * 14 time_since_trade         log1p(ms since the last trade); before the       log ms   0..14
 *                             first: 14
 * 15 vpin                     sum|Vbuy-Vsell|/sum V over the last 50 volume    -        0..1
 *                             buckets; a bucket holds 20 mean trades
 *
 * Sources: 4 Cont, Kukanov, Stoikov 2014, doi 10.1093/jjfinec/nbt003; 5 Xu, Gould, Howison,
 * arXiv 1907.06230; 15 Easley, Lopez de Prado, O'Hara 2012, doi 10.1093/rfs/hhs053; 3 the weighted
 * mid that Stoikov 2018, doi 10.1080/14697688.2018.1489139, starts from.
 *
 * The arithmetic is double +, -, *, / and sqrt, with an own exp and log, so that the same messages
 * give the same bits on every CPU. Nothing is ever NaN or infinite. */
#ifndef SIGNALBUS_FEATURES_H
#define SIGNALBUS_FEATURES_H

#include "producers/book.h"
#include "shm/record.h"

BUS_BEGIN_DECLARATIONS

#define BUS_FEATURES_LEVELS  5u
#define BUS_FEATURES_BUCKETS 50u

enum bus_feature_input {
  BUS_INPUT_SPREAD = 0,
  BUS_INPUT_IMBALANCE_L1 = 1,
  BUS_INPUT_IMBALANCE_L5 = 2,
  BUS_INPUT_WEIGHTED_MID_OFFSET = 3,
  BUS_INPUT_OFI_L1 = 4,
  BUS_INPUT_OFI_L5 = 5,
  BUS_INPUT_TRADE_IMBALANCE = 6,
  BUS_INPUT_RETURN_100MS = 7,
  BUS_INPUT_RETURN_1S = 8,
  BUS_INPUT_RETURN_10S = 9,
  BUS_INPUT_VOLATILITY_1S = 10,
  BUS_INPUT_VOLATILITY_10S = 11,
  BUS_INPUT_TRADE_RATE = 12,
  BUS_INPUT_QUEUE_DEPLETION = 13,
  BUS_INPUT_TIME_SINCE_TRADE = 14,
  BUS_INPUT_VPIN = 15
};

struct bus_feature_description {
  const char *name;
  const char *unit; /* "" when it has none */
  float low;        /* the least value it can take */
  float high;
};

/* By enum bus_feature_input. */
extern const struct bus_feature_description bus_feature_descriptions[BUS_FEATURE_INPUTS];

/* The best levels of both sides, best first; {0, 0} where there is none. */
struct bus_features_view {
  struct bus_level bids[BUS_FEATURES_LEVELS];
  struct bus_level asks[BUS_FEATURES_LEVELS];
};

struct bus_features_bucket {
  double imbalance; /* |buy - sell| */
  double volume;
};

/* Private. All sizes in units of the symbol's size exponent, all prices in its price units. */
struct bus_features {
  uint64_t now_ns;        /* time of the last event: the sums are decayed to it */
  uint64_t last_trade_ns; /* valid when trades > 0 */
  uint64_t trades;
  bool has_view; /* `view` may be compared with the next one */
  bool has_mid;
  struct bus_features_view view;
  double mid;
  double spread_bps;
  double imbalance_l1;
  double imbalance_l5;
  double mean_100ms; /* of the mid */
  double mean_1s;
  double mean_10s;
  double variance_1s; /* bps^2 */
  double variance_10s;
  double depth_l1; /* present (qb+qa)/2 */
  double depth_l5;
  double mean_depth_l1;
  double mean_depth_l5;
  double flow_l1;
  double flow_l5;
  double depletion;
  double trade_signed;
  double trade_volume;
  double trade_count;
  double trade_size_mean;
  double bucket_signed;
  double bucket_volume;
  double bucket_size;
  double vpin;
  uint32_t bucket_next;
  uint32_t bucket_count;
  struct bus_features_bucket buckets[BUS_FEATURES_BUCKETS];
};

/* Forgets everything. One thread uses a struct bus_features; none of these functions fails. */
void bus_features_reset(struct bus_features *features);

/* The book is now as `view` says, at event time `now_ns` (times that run backwards count as no
 * time). `is_rebuilt`: it was rebuilt from a snapshot, so that the difference to the last view is
 * not order flow. */
void bus_features_quote(struct bus_features *features, uint64_t now_ns,
                        const struct bus_features_view *view, bool is_rebuilt);

/* A trade of `size` > 0 (units of the size exponent) happened at event time `now_ns`, as above;
 * `buyer_is_maker` says that the seller was the aggressor. */
void bus_features_trade(struct bus_features *features, uint64_t now_ns, int64_t size,
                        bool buyer_is_maker);

/* Stores all sixteen, each within its range and finite, one by one: straight into a slot. */
void bus_features_write(const struct bus_features *features, float x[BUS_FEATURE_INPUTS]);

/* exp(-y) for y >= 0 and log(1 + y) for y >= 0, to about 1e-14 relative; the same bits on every
 * CPU. Negative arguments and NaN count as 0. Pure. */
double bus_features_exp_negative(double y);
double bus_features_log1p(double y);

BUS_END_DECLARATIONS

#endif
