#include "producers/source_synthetic.h"

#include "shm/error.h"

#include <stdlib.h>
#include <string.h>

#define LEVELS           64u /* of each side; a power of two */
#define PENDING_MAX      32u /* changed levels that force a depth diff */
#define PENDING_ROOM     (2 * PENDING_MAX)
#define DEPTH_NS         100000000ull
#define EXCHANGE_LAG_NS  1500000ull /* receive time less exchange time */
#define DIFFS_BEFORE     3u         /* diffs of a symbol before its snapshot */
#define LINE_BYTES       16384u
#define EXCITEMENT_NS    1000000ull /* how fast bursts die away */
#define EXCITEMENT_EVENT 850u       /* per mille of one more event that each event brings about */
#define EXCITEMENT_MAX   150000u    /* per mille of events in EXCITEMENT_NS */
#define SHOCK_RARITY     4000u      /* one event in so many sets off a large burst */

/* A made-up symbol. Sizes are in lots; a lot is 10^-3. */
struct symbol_kind {
  const char *name;
  int64_t price_ticks;   /* where the price starts and what it returns to */
  uint32_t tick_decimal; /* decimals of a tick in the price */
  uint32_t mean_lots;    /* typical size of a level */
};

static const struct symbol_kind kinds[BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX] = {
    {"SYNBTC", 6183763, 2, 900},   {"SYNETH", 268162, 2, 9000},  {"SYNSOL", 16225, 2, 60000},
    {"SYNDOGE", 10391, 5, 900000}, {"SYNXRP", 60410, 5, 90000},  {"SYNBNB", 51590, 2, 7000},
    {"SYNADA", 34210, 5, 200000},  {"SYNLTC", 60120, 3, 20000},  {"SYNDOT", 47310, 4, 50000},
    {"SYNTRX", 12750, 5, 900000},  {"SYNLINK", 104300, 4, 8000}, {"SYNAVAX", 217600, 4, 4000},
    {"SYNATOM", 48900, 4, 15000},  {"SYNUNI", 60330, 4, 9000},   {"SYNXLM", 10120, 5, 600000},
    {"SYNFIL", 37300, 4, 14000},
};

/* One side: dense levels from `best` on away from the mid; the size at a price is at [price %
 * LEVELS], which is unique within the window. */
struct half {
  int64_t best;
  int64_t size[LEVELS];
  int64_t changed[PENDING_ROOM]; /* prices changed since the last diff */
  uint32_t changed_count;
};

struct exchange_symbol {
  const struct symbol_kind *kind;
  char stream[16];
  struct half sides[2]; /* by enum bus_side */
  int64_t drift;        /* of the present trend, per mille of probability */
  uint64_t update;      /* id of the last change */
  uint64_t diff_update; /* u of the last diff */
  uint64_t diff_ns;     /* time of the last diff */
  uint64_t trade_id;
  uint32_t diffs; /* sent so far */
  bool has_snapshot;
  bool is_ticker_due;
  bool is_trade_due;
  bool is_depth_due;
  bool is_snapshot_due;
  int64_t trade_price;
  int64_t trade_size;
  bool trade_buyer_is_maker;
};

struct synthetic {
  struct bus_source source; /* first: the interface is cast back */
  struct bus_source_synthetic_config config;
  uint64_t random;
  uint64_t now_ns;
  uint64_t excitement; /* expected further events in EXCITEMENT_NS, per mille */
  uint64_t lines;
  uint64_t bytes;
  struct exchange_symbol *due; /* has lines to send, or NULL */
  struct exchange_symbol symbols[BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX];
  char line[LINE_BYTES];
};

/* xorshift64*: the state is never 0. */
static uint64_t random_next(struct synthetic *s)
{
  s->random ^= s->random >> 12;
  s->random ^= s->random << 25;
  s->random ^= s->random >> 27;
  return s->random * 0x2545F4914F6CDD1Dull;
}

/* 0..range-1, range > 0. */
static uint32_t random_below(struct synthetic *s, uint32_t range)
{
  return (uint32_t)((random_next(s) >> 32) * range >> 32);
}

static bool random_chance(struct synthetic *s, int64_t per_mille)
{
  return (int64_t)random_below(s, 1000) < per_mille;
}

/* About exponentially distributed with this mean: -log2 of a uniform number, linear between powers
 * of two, times ln 2. */
static uint64_t random_exponential(struct synthetic *s, uint64_t mean)
{
  uint64_t uniform = random_next(s) | 1;
  unsigned zeros = (unsigned)__builtin_clzll(uniform);
  uint64_t mantissa = zeros == 63 ? 0 : (uniform << (zeros + 1)) >> 48; /* of 2^16 */
  uint64_t log2_q16 = ((uint64_t)zeros << 16) + (65536 - mantissa);
  return (mean * (log2_q16 * 45426 >> 16)) >> 16;
}

static char *put_text(char *to, const char *text)
{
  size_t length = strlen(text);
  memcpy(to, text, length);
  return to + length;
}

#define PUT(to, literal) ((char *)memcpy((to), literal, sizeof(literal) - 1) + sizeof(literal) - 1)

static char *put_number(char *to, uint64_t value)
{
  char digits[20];
  unsigned count = 0;
  do {
    digits[count++] = (char)('0' + value % 10);
    value /= 10;
  } while (value != 0);
  while (count > 0)
    *to++ = digits[--count];
  return to;
}

/* `value` in units of 10^-decimals, with `shown` >= `decimals` places, in quotes. */
static char *put_decimal(char *to, uint64_t value, unsigned decimals, unsigned shown)
{
  static const uint64_t powers[] = {1, 10, 100, 1000, 10000, 100000};
  *to++ = '"';
  to = put_number(to, value / powers[decimals]);
  *to++ = '.';
  uint64_t fraction = value % powers[decimals];
  for (unsigned i = decimals; i-- > 0;) {
    to[i] = (char)('0' + fraction % 10);
    fraction /= 10;
  }
  to += decimals;
  for (unsigned i = decimals; i < shown; i++)
    *to++ = '0';
  *to++ = '"';
  return to;
}

static unsigned places_shown(const struct synthetic *s, unsigned decimals)
{
  return s->config.market == BUS_MARKET_SPOT ? 8 : decimals;
}

static char *put_price(const struct synthetic *s, const struct exchange_symbol *symbol, char *to,
                       int64_t ticks)
{
  unsigned decimals = symbol->kind->tick_decimal;
  return put_decimal(to, (uint64_t)ticks, decimals, places_shown(s, decimals));
}

static char *put_size(const struct synthetic *s, char *to, int64_t lots)
{
  return put_decimal(to, (uint64_t)lots, 3, places_shown(s, 3));
}

static char *put_level(const struct synthetic *s, const struct exchange_symbol *symbol, char *to,
                       int64_t price, int64_t size)
{
  *to++ = '[';
  to = put_price(s, symbol, to, price);
  *to++ = ',';
  to = put_size(s, to, size);
  return PUT(to, "],");
}

static uint64_t exchange_ms(const struct synthetic *s)
{
  return s->now_ns < EXCHANGE_LAG_NS ? 0 : (s->now_ns - EXCHANGE_LAG_NS) / 1000000;
}

static char *put_envelope(struct synthetic *s, const struct exchange_symbol *symbol,
                          const char *stream)
{
  char *to = put_number(s->line, s->now_ns);
  to = PUT(to, " {\"stream\":\"");
  to = put_text(to, symbol->stream);
  return put_text(to, stream);
}

/* ,"E":...[,"T":...],"s":"..." */
static char *put_times_and_symbol(const struct synthetic *s, const struct exchange_symbol *symbol,
                                  char *to)
{
  to = PUT(to, ",\"E\":");
  to = put_number(to, exchange_ms(s));
  if (s->config.market == BUS_MARKET_USDM) {
    to = PUT(to, ",\"T\":");
    to = put_number(to, exchange_ms(s));
  }
  to = PUT(to, ",\"s\":\"");
  to = put_text(to, symbol->kind->name);
  return PUT(to, "\"");
}

static int64_t *size_at(struct half *half, int64_t price)
{
  return &half->size[(uint64_t)price % LEVELS];
}

/* The distance from the best, away from the mid. */
static int64_t distance(const struct half *half, enum bus_side side, int64_t price)
{
  return side == BUS_SIDE_BID ? half->best - price : price - half->best;
}

/* The size now at `price`: 0 outside the window. */
static int64_t present_size(struct half *half, enum bus_side side, int64_t price)
{
  int64_t away = distance(half, side, price);
  return away < 0 || away >= (int64_t)LEVELS ? 0 : *size_at(half, price);
}

static void mark_changed(struct half *half, int64_t price)
{
  for (uint32_t i = 0; i < half->changed_count; i++)
    if (half->changed[i] == price)
      return;
  half->changed[half->changed_count++] = price;
}

/* The price `levels` behind the best. */
static int64_t behind(const struct half *half, enum bus_side side, int64_t levels)
{
  return side == BUS_SIDE_BID ? half->best - levels : half->best + levels;
}

static int64_t random_size(struct synthetic *s, const struct exchange_symbol *symbol)
{
  return 1 + (int64_t)random_exponential(s, symbol->kind->mean_lots);
}

/* The best level is used up: the next one becomes the best, and one more comes in at the end. */
static void step_back(struct synthetic *s, struct exchange_symbol *symbol, enum bus_side side)
{
  struct half *half = &symbol->sides[side];
  mark_changed(half, half->best);
  half->best = behind(half, side, 1);
  int64_t last = behind(half, side, LEVELS - 1);
  *size_at(half, last) = random_size(s, symbol);
  mark_changed(half, last);
}

/* A new best level within the spread; the last one falls out. */
static void step_forward(struct synthetic *s, struct exchange_symbol *symbol, enum bus_side side)
{
  struct half *half = &symbol->sides[side];
  mark_changed(half, behind(half, side, LEVELS - 1));
  half->best = behind(half, side, -1);
  *size_at(half, half->best) = random_size(s, symbol);
  mark_changed(half, half->best);
}

static void take_from_best(struct synthetic *s, struct exchange_symbol *symbol, enum bus_side side,
                           int64_t size)
{
  struct half *half = &symbol->sides[side];
  int64_t *best = size_at(half, half->best);
  if (size < *best) {
    *best -= size;
    mark_changed(half, half->best);
    return;
  }
  step_back(s, symbol, side);
}

static void trade(struct synthetic *s, struct exchange_symbol *symbol, enum bus_side side)
{
  struct half *half = &symbol->sides[side];
  int64_t resting = *size_at(half, half->best);
  int64_t size = 1 + (int64_t)random_exponential(s, symbol->kind->mean_lots / 4);
  symbol->trade_price = half->best;
  symbol->trade_size = size < resting ? size : resting;
  symbol->trade_buyer_is_maker = side == BUS_SIDE_BID;
  symbol->trade_id++;
  symbol->is_trade_due = true;
  take_from_best(s, symbol, side, size);
}

/* The chance, per mille, that the next aggressor buys: the trend, the pull back to the anchor, and
 * the queue that is short. */
static int64_t buy_chance(struct exchange_symbol *symbol)
{
  struct half *bids = &symbol->sides[BUS_SIDE_BID];
  struct half *asks = &symbol->sides[BUS_SIDE_ASK];
  int64_t bid = *size_at(bids, bids->best);
  int64_t ask = *size_at(asks, asks->best);
  int64_t pull = (symbol->kind->price_ticks - bids->best) * 20000 / symbol->kind->price_ticks;
  int64_t chance = 500 + symbol->drift + pull + 150 * (bid - ask) / (bid + ask);
  return chance < 50 ? 50 : chance > 950 ? 950 : chance;
}

static int64_t spread(const struct exchange_symbol *symbol)
{
  return symbol->sides[BUS_SIDE_ASK].best - symbol->sides[BUS_SIDE_BID].best;
}

/* One thing happens at the exchange: one update id. */
static void happen(struct synthetic *s, struct exchange_symbol *symbol)
{
  int64_t bid = symbol->sides[BUS_SIDE_BID].best;
  int64_t ask = symbol->sides[BUS_SIDE_ASK].best;
  int64_t bid_size = *size_at(&symbol->sides[BUS_SIDE_BID], bid);
  int64_t ask_size = *size_at(&symbol->sides[BUS_SIDE_ASK], ask);
  bool is_up = random_chance(s, buy_chance(symbol));
  uint32_t what = random_below(s, 100);
  if (random_chance(s, 2))
    symbol->drift = (int64_t)random_below(s, 241) - 120;
  symbol->update++;
  symbol->is_snapshot_due = !symbol->has_snapshot && symbol->diffs >= DIFFS_BEFORE;
  if (spread(symbol) > 1 && what < 60) {
    step_forward(s, symbol, is_up ? BUS_SIDE_BID : BUS_SIDE_ASK);
  } else if (what < 20) {
    trade(s, symbol, is_up ? BUS_SIDE_ASK : BUS_SIDE_BID);
  } else if (what < 40) {
    enum bus_side side = is_up ? BUS_SIDE_ASK : BUS_SIDE_BID;
    take_from_best(s, symbol, side, (int64_t)random_exponential(s, symbol->kind->mean_lots / 2));
  } else {
    enum bus_side side = random_chance(s, 500) ? BUS_SIDE_ASK : BUS_SIDE_BID;
    struct half *half = &symbol->sides[side];
    uint64_t away = random_exponential(s, 4);
    int64_t price = behind(half, side, (int64_t)(away < LEVELS ? away : LEVELS - 1));
    *size_at(half, price) = random_size(s, symbol);
    mark_changed(half, price);
  }
  symbol->is_ticker_due = bid != symbol->sides[BUS_SIDE_BID].best ||
                          ask != symbol->sides[BUS_SIDE_ASK].best ||
                          bid_size != *size_at(&symbol->sides[BUS_SIDE_BID], bid) ||
                          ask_size != *size_at(&symbol->sides[BUS_SIDE_ASK], ask);
  symbol->is_depth_due =
      s->now_ns - symbol->diff_ns >= DEPTH_NS ||
      symbol->sides[BUS_SIDE_BID].changed_count + symbol->sides[BUS_SIDE_ASK].changed_count >=
          PENDING_MAX;
}

/* Time passes until the next event, which comes the sooner the more have come just now. */
static void wait_for_event(struct synthetic *s)
{
  uint64_t rate_calm = EXCITEMENT_NS * 1000 / s->config.mean_interval_ns;
  uint64_t rate = rate_calm + s->excitement; /* events in EXCITEMENT_NS, per mille */
  uint64_t gap_ns = 1 + random_exponential(s, EXCITEMENT_NS * 1000 / (rate > 0 ? rate : 1));
  s->now_ns += gap_ns;
  s->excitement =
      gap_ns >= EXCITEMENT_NS ? 0 : s->excitement - s->excitement * gap_ns / EXCITEMENT_NS;
  s->excitement += EXCITEMENT_EVENT;
  if (random_below(s, SHOCK_RARITY) == 0)
    s->excitement += EXCITEMENT_MAX / 2;
  if (s->excitement > EXCITEMENT_MAX)
    s->excitement = EXCITEMENT_MAX;
}

static int write_trade(struct synthetic *s, struct exchange_symbol *symbol)
{
  char *to = put_envelope(s, symbol, "@trade\",\"data\":{\"e\":\"trade\"");
  to = put_times_and_symbol(s, symbol, to);
  to = PUT(to, ",\"t\":");
  to = put_number(to, symbol->trade_id);
  to = PUT(to, ",\"p\":");
  to = put_price(s, symbol, to, symbol->trade_price);
  to = PUT(to, ",\"q\":");
  to = put_size(s, to, symbol->trade_size);
  to = PUT(to, ",\"m\":");
  to = put_text(to, symbol->trade_buyer_is_maker ? "true" : "false");
  to = PUT(to, "}}");
  symbol->is_trade_due = false;
  return (int)(to - s->line);
}

static int write_ticker(struct synthetic *s, struct exchange_symbol *symbol)
{
  struct half *bids = &symbol->sides[BUS_SIDE_BID];
  struct half *asks = &symbol->sides[BUS_SIDE_ASK];
  char *to = put_envelope(s, symbol, "@bookTicker\",\"data\":{");
  if (s->config.market == BUS_MARKET_USDM)
    to = PUT(to, "\"e\":\"bookTicker\",");
  to = PUT(to, "\"u\":");
  to = put_number(to, symbol->update);
  if (s->config.market == BUS_MARKET_USDM) {
    to = put_times_and_symbol(s, symbol, to);
  } else {
    to = PUT(to, ",\"s\":\"");
    to = put_text(to, symbol->kind->name);
    to = PUT(to, "\"");
  }
  to = PUT(to, ",\"b\":");
  to = put_price(s, symbol, to, bids->best);
  to = PUT(to, ",\"B\":");
  to = put_size(s, to, *size_at(bids, bids->best));
  to = PUT(to, ",\"a\":");
  to = put_price(s, symbol, to, asks->best);
  to = PUT(to, ",\"A\":");
  to = put_size(s, to, *size_at(asks, asks->best));
  to = PUT(to, "}}");
  symbol->is_ticker_due = false;
  return (int)(to - s->line);
}

static char *put_changes(struct synthetic *s, struct exchange_symbol *symbol, char *to,
                         enum bus_side side)
{
  struct half *half = &symbol->sides[side];
  for (uint32_t i = 0; i < half->changed_count; i++)
    to = put_level(s, symbol, to, half->changed[i], present_size(half, side, half->changed[i]));
  if (half->changed_count > 0)
    to--; /* the last comma */
  half->changed_count = 0;
  return to;
}

static int write_depth(struct synthetic *s, struct exchange_symbol *symbol)
{
  char *to = put_envelope(s, symbol, "@depth\",\"data\":{\"e\":\"depthUpdate\"");
  to = put_times_and_symbol(s, symbol, to);
  to = PUT(to, ",\"U\":");
  to = put_number(to, symbol->diff_update + 1);
  to = PUT(to, ",\"u\":");
  to = put_number(to, symbol->update);
  if (s->config.market == BUS_MARKET_USDM) {
    to = PUT(to, ",\"pu\":");
    to = put_number(to, symbol->diff_update);
  }
  to = PUT(to, ",\"b\":[");
  to = put_changes(s, symbol, to, BUS_SIDE_BID);
  to = PUT(to, "],\"a\":[");
  to = put_changes(s, symbol, to, BUS_SIDE_ASK);
  to = PUT(to, "]}}");
  symbol->diff_update = symbol->update;
  symbol->diff_ns = s->now_ns;
  symbol->diffs++;
  symbol->is_depth_due = false;
  return (int)(to - s->line);
}

static int write_snapshot(struct synthetic *s, struct exchange_symbol *symbol)
{
  char *to = put_envelope(s, symbol, "@snapshot\",\"data\":{\"lastUpdateId\":");
  to = put_number(to, symbol->update);
  for (int side = 0; side < 2; side++) {
    struct half *half = &symbol->sides[side];
    to = put_text(to, side == BUS_SIDE_BID ? ",\"bids\":[" : ",\"asks\":[");
    for (uint32_t i = 0; i < LEVELS; i++) {
      int64_t price = behind(half, (enum bus_side)side, i);
      to = put_level(s, symbol, to, price, *size_at(half, price));
    }
    to[-1] = ']'; /* instead of the last comma */
  }
  to = PUT(to, "}}");
  symbol->has_snapshot = true;
  symbol->is_snapshot_due = false;
  return (int)(to - s->line);
}

/* Writes one of the lines that are due; 0 when none is left. */
static int write_due(struct synthetic *s, struct exchange_symbol *symbol)
{
  if (symbol->is_trade_due)
    return write_trade(s, symbol);
  if (symbol->is_ticker_due)
    return write_ticker(s, symbol);
  if (symbol->is_snapshot_due)
    return write_snapshot(s, symbol);
  if (symbol->is_depth_due)
    return write_depth(s, symbol);
  return 0;
}

static int synthetic_next(struct bus_source *source, const char **line, size_t *length)
{
  struct synthetic *s = (struct synthetic *)source;
  if (s->config.lines != 0 && s->lines == s->config.lines)
    return 0;
  int written = s->due == NULL ? 0 : write_due(s, s->due);
  while (written == 0) {
    wait_for_event(s);
    s->due = &s->symbols[random_below(s, s->config.symbols)];
    happen(s, s->due);
    written = write_due(s, s->due);
  }
  s->lines++;
  s->bytes += (uint64_t)written;
  *line = s->line;
  *length = (size_t)written;
  return 1;
}

static uint64_t synthetic_consumed_bytes(struct bus_source *source)
{
  return ((struct synthetic *)source)->bytes;
}

static void synthetic_close(struct bus_source *source)
{
  free(source);
}

static void start_symbol(struct synthetic *s, uint32_t index)
{
  struct exchange_symbol *symbol = &s->symbols[index];
  symbol->kind = &kinds[index];
  for (size_t i = 0; symbol->kind->name[i] != '\0'; i++)
    symbol->stream[i] = (char)(symbol->kind->name[i] - 'A' + 'a');
  symbol->update = 1000000 * (index + 1);
  symbol->diff_update = symbol->update;
  symbol->diff_ns = s->now_ns;
  symbol->trade_id = 5000 * (index + 1);
  symbol->sides[BUS_SIDE_BID].best = symbol->kind->price_ticks;
  symbol->sides[BUS_SIDE_ASK].best = symbol->kind->price_ticks + 1;
  for (int side = 0; side < 2; side++)
    for (uint32_t i = 0; i < LEVELS; i++) {
      int64_t price = behind(&symbol->sides[side], (enum bus_side)side, i);
      *size_at(&symbol->sides[side], price) = random_size(s, symbol);
    }
}

void bus_source_synthetic_defaults(struct bus_source_synthetic_config *config)
{
  *config = (struct bus_source_synthetic_config){
      .seed = 1,
      .start_ns = 1700000000000000000ull,
      .symbols = 4,
      .mean_interval_ns = 1000000,
      .market = BUS_MARKET_SPOT,
  };
}

const char *bus_source_synthetic_symbol(uint32_t index)
{
  return index < BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX ? kinds[index].name : NULL;
}

struct bus_source *bus_source_synthetic_open(const struct bus_source_synthetic_config *config)
{
  if (config->symbols == 0 || config->symbols > BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX ||
      config->mean_interval_ns < 1000) {
    bus_error_set(BUS_ERROR_INVALID,
                  "synthetic exchange: %u symbols (1 to %u), mean interval %u ns (1000 or more)",
                  config->symbols, BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX, config->mean_interval_ns);
    return NULL;
  }
  struct synthetic *s = malloc(sizeof *s);
  if (s == NULL) {
    bus_error_set_errno("synthetic exchange: %zu bytes", sizeof *s);
    return NULL;
  }
  explicit_bzero(s, sizeof *s);
  s->source.next = synthetic_next;
  s->source.consumed_bytes = synthetic_consumed_bytes;
  s->source.close = synthetic_close;
  s->config = *config;
  s->random = (config->seed + 1) * 0x9E3779B97F4A7C15ull;
  if (s->random == 0)
    s->random = 1;
  s->now_ns = config->start_ns;
  for (uint32_t i = 0; i < config->symbols; i++)
    start_symbol(s, i);
  return &s->source;
}
