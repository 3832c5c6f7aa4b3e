#include "producers/feed.h"

#include "producers/binance_message.h"
#include "producers/decimal.h"
#include "producers/features.h"
#include "producers/symbol_table.h"
#include "shm/error.h"

#include <stdlib.h>
#include <string.h>

#define Q30 1073741824.0

const struct bus_feed_counter_description bus_feed_counter_descriptions[] = {
#define BUS_FEED_COUNTER_ROW(field, unit, label) {#field, unit, label},
    BUS_FEED_COUNTERS(BUS_FEED_COUNTER_ROW)
#undef BUS_FEED_COUNTER_ROW
};

/* What the feed keeps for each symbol. Times are the receive times of the messages. */
struct symbol_state {
  struct bus_book_sync *sync;
  double mid_twice; /* best bid + best ask when both were last known; 0 before */
  uint64_t best_time_ns;
  uint64_t depth_time_ns;
  bool has_best;
  bool has_depth;
  int price_exponent;
  int size_exponent;
  struct bus_features features;
};

struct bus_feed {
  struct bus_feed_config config;
  struct bus_feed_counters counters;
  struct bus_symbol_table table;
  struct symbol_state *states;     /* by symbol */
  int32_t snapshot_symbol;         /* owner of snapshots without a name, or -1 */
  struct bus_binance_level *texts; /* config.message_levels of each */
  struct bus_level *levels;
};

/* One message on its way through. */
struct event {
  const struct bus_binance_message *message;
  uint64_t receive_ns;
  uint64_t timestamp_ns;
  uint32_t symbol;
};

void bus_feed_config_defaults(struct bus_feed_config *config)
{
  *config = (struct bus_feed_config){
      .market = BUS_MARKET_SPOT,
      .symbol_capacity = BUS_FEED_SYMBOLS_DEFAULT,
      .price_exponent = -8,
      .size_exponent = -8,
      .stale_ns = BUS_FEED_STALE_NS_DEFAULT,
      .absurd_factor = BUS_FEED_ABSURD_FACTOR_DEFAULT,
      .message_levels = BUS_FEED_MESSAGE_LEVELS_DEFAULT,
      .book_levels = BUS_BOOK_LEVELS_DEFAULT,
      .held_diffs = BUS_BOOK_SYNC_DIFFS_DEFAULT,
      .held_levels = BUS_BOOK_SYNC_LEVELS_DEFAULT,
  };
}

static int check_config(const struct bus_feed_config *config)
{
  if (config->sink.reserve == NULL || config->sink.commit == NULL)
    return bus_error_set(BUS_ERROR_INVALID, "feed: no sink for its records");
  if (config->symbol_capacity > BUS_FEED_SYMBOLS_MAX ||
      config->symbol_capacity < config->symbol_count)
    return bus_error_set(BUS_ERROR_INVALID, "feed: room for %u symbols: use %u to %u",
                         config->symbol_capacity, config->symbol_count, BUS_FEED_SYMBOLS_MAX);
  if (config->price_exponent < BUS_DECIMAL_EXPONENT_MIN || config->price_exponent > 0 ||
      config->size_exponent < BUS_DECIMAL_EXPONENT_MIN || config->size_exponent > 0)
    return bus_error_set(BUS_ERROR_INVALID, "feed: exponents %d and %d: use %d to 0",
                         config->price_exponent, config->size_exponent, BUS_DECIMAL_EXPONENT_MIN);
  if (config->absurd_factor < 2 || config->message_levels == 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "feed: absurd factor %u (2 or more), levels of a "
                         "message %u (1 or more)",
                         config->absurd_factor, config->message_levels);
  return BUS_OK;
}

static int add_symbols(struct bus_feed *feed)
{
  const struct bus_feed_config *config = &feed->config;
  for (uint32_t i = 0; i < config->symbol_count; i++) {
    const struct bus_symbol *symbol = &config->symbols[i];
    size_t length = strnlen(symbol->name, sizeof symbol->name);
    int32_t index = bus_symbol_table_add(&feed->table, symbol->name, length, symbol->price_exponent,
                                         symbol->size_exponent, symbol->tick_size);
    if (index < 0)
      return bus_error_set(BUS_ERROR_INVALID,
                           "feed: symbol %u \"%.*s\" with exponents %d and %d: "
                           "1 to 19 characters, exponents %d to 0, each symbol once",
                           i, (int)length, symbol->name, symbol->price_exponent,
                           symbol->size_exponent, BUS_DECIMAL_EXPONENT_MIN);
    feed->states[index].price_exponent = symbol->price_exponent;
    feed->states[index].size_exponent = symbol->size_exponent;
  }
  return BUS_OK;
}

/* The index of the named symbol, learning it when there is room; or -1. */
static int32_t find_symbol(struct bus_feed *feed, const char *name, size_t length)
{
  int32_t index = bus_symbol_table_find(&feed->table, name, length);
  if (BUS_LIKELY(index >= 0))
    return index;
  index = bus_symbol_table_add(&feed->table, name, length, feed->config.price_exponent,
                               feed->config.size_exponent, 0);
  if (index < 0)
    return -1;
  feed->states[index].price_exponent = feed->config.price_exponent;
  feed->states[index].size_exponent = feed->config.size_exponent;
  return index;
}

static int create_parts(struct bus_feed *feed)
{
  const struct bus_feed_config *config = &feed->config;
  int code = bus_symbol_table_init(&feed->table, config->symbol_capacity);
  if (code != BUS_OK)
    return code;
  feed->states = calloc(config->symbol_capacity, sizeof *feed->states);
  feed->texts = malloc(config->message_levels * sizeof *feed->texts);
  feed->levels = malloc(config->message_levels * sizeof *feed->levels);
  if (feed->states == NULL || feed->texts == NULL || feed->levels == NULL)
    return bus_error_set_errno("feed: %u symbols, %u levels", config->symbol_capacity,
                               config->message_levels);
  explicit_bzero(feed->states, config->symbol_capacity * sizeof *feed->states);
  explicit_bzero(feed->texts, config->message_levels * sizeof *feed->texts);
  explicit_bzero(feed->levels, config->message_levels * sizeof *feed->levels);
  struct bus_book_sync_config sync_config = {
      .market = config->market,
      .book_levels = config->book_levels,
      .held_diffs = config->held_diffs,
      .held_levels = config->held_levels,
  };
  for (uint32_t i = 0; i < config->symbol_capacity; i++) {
    feed->states[i].sync = bus_book_sync_new(&sync_config);
    if (feed->states[i].sync == NULL)
      return bus_error_context(BUS_ERROR_NO_SPACE, "feed: symbol %u", i);
  }
  return add_symbols(feed);
}

struct bus_feed *bus_feed_new(const struct bus_feed_config *config)
{
  if (check_config(config) != BUS_OK)
    return NULL;
  struct bus_feed *feed = calloc(1, sizeof *feed);
  if (feed == NULL) {
    bus_error_set_errno("feed: %zu bytes", sizeof *feed);
    return NULL;
  }
  feed->config = *config;
  feed->snapshot_symbol = -1;
  if (create_parts(feed) != BUS_OK) {
    bus_feed_delete(feed);
    return NULL;
  }
  const char *owner = config->snapshot_symbol;
  if (owner != NULL && (feed->snapshot_symbol = find_symbol(feed, owner, strlen(owner))) < 0) {
    bus_error_set(BUS_ERROR_INVALID,
                  "feed: snapshots are said to belong to \"%s\": not in the "
                  "symbol table, and no room to add it",
                  owner);
    bus_feed_delete(feed);
    return NULL;
  }
  feed->config.symbols = NULL; /* the caller's, and may go away */
  feed->config.snapshot_symbol = NULL;
  return feed;
}

void bus_feed_delete(struct bus_feed *feed)
{
  if (feed == NULL)
    return;
  for (uint32_t i = 0; feed->states != NULL && i < feed->config.symbol_capacity; i++)
    bus_book_sync_delete(feed->states[i].sync);
  bus_symbol_table_free(&feed->table);
  free(feed->states);
  free(feed->texts);
  free(feed->levels);
  free(feed);
}

void bus_feed_reset(struct bus_feed *feed)
{
  for (uint32_t i = 0; i < feed->table.count; i++)
    bus_book_sync_reset(feed->states[i].sync);
}

const struct bus_feed_counters *bus_feed_counters(const struct bus_feed *feed)
{
  return &feed->counters;
}

uint32_t bus_feed_symbol_count(const struct bus_feed *feed)
{
  return feed->table.count;
}

const struct bus_symbol *bus_feed_symbol(const struct bus_feed *feed, uint32_t symbol)
{
  return symbol < feed->table.count ? &feed->table.symbols[symbol] : NULL;
}

const struct bus_book_sync *bus_feed_book(const struct bus_feed *feed, uint32_t symbol)
{
  return symbol < feed->table.count ? feed->states[symbol].sync : NULL;
}

/* Receive time less exchange time; the clocks differ, so it may be negative. */
static int32_t exchange_delay_us(const struct event *event)
{
  const struct bus_binance_message *message = event->message;
  if (!message->has_event_time)
    return INT32_MIN;
  int64_t exchange_ns;
  int64_t delay_ns;
  if (message->event_time_ms > INT64_MAX ||
      __builtin_mul_overflow((int64_t)message->event_time_ms, 1000000, &exchange_ns))
    return INT32_MIN + 1;
  if (event->receive_ns > INT64_MAX ||
      __builtin_sub_overflow((int64_t)event->receive_ns, exchange_ns, &delay_ns))
    return INT32_MAX;
  int64_t delay_us = delay_ns / 1000;
  if (delay_us > INT32_MAX)
    return INT32_MAX;
  return delay_us <= INT32_MIN ? INT32_MIN + 1 : (int32_t)delay_us;
}

static bool is_older(uint64_t now_ns, uint64_t then_ns, uint64_t limit_ns)
{
  return now_ns > then_ns && now_ns - then_ns > limit_ns;
}

/* The flags that follow from the state. */
static uint32_t state_flags(const struct bus_feed *feed, const struct symbol_state *state,
                            uint64_t now_ns)
{
  const struct bus_book_sync *sync = state->sync;
  const struct bus_level *bid = &sync->best[BUS_SIDE_BID];
  const struct bus_level *ask = &sync->best[BUS_SIDE_ASK];
  uint32_t flags = 0;
  if (bid->size > 0 && ask->size > 0) {
    flags |= BUS_FEATURE_VALID;
    if (bid->price >= ask->price)
      flags |= BUS_FEATURE_CROSSED;
  }
  if (sync->state != BUS_BOOK_SYNC_LIVE && sync->has_seen_diff)
    flags |= BUS_FEATURE_RESYNC;
  /* Without depth diffs for that long, the levels behind the best are old, though it is not. */
  if ((state->has_best && is_older(now_ns, state->best_time_ns, feed->config.stale_ns)) ||
      (state->has_depth && is_older(now_ns, state->depth_time_ns, feed->config.stale_ns)))
    flags |= BUS_FEATURE_STALE;
  return flags;
}

/* Fills one record in place and commits it. Returns 1, or 0 when the sink had no room. */
static int publish(struct bus_feed *feed, const struct event *event, enum bus_trigger trigger,
                   uint32_t flags, uint64_t update)
{
  const struct symbol_state *state = &feed->states[event->symbol];
  flags |= state_flags(feed, state, event->receive_ns);
  feed->counters.crossed += (flags & BUS_FEATURE_CROSSED) != 0;
  feed->counters.stale += (flags & BUS_FEATURE_STALE) != 0;
  struct bus_feature *record = feed->config.sink.reserve(feed->config.sink.context);
  if (BUS_UNLIKELY(record == NULL)) {
    feed->counters.dropped_records++;
    return 0;
  }
  const struct bus_level *bid = &state->sync->best[BUS_SIDE_BID];
  const struct bus_level *ask = &state->sync->best[BUS_SIDE_ASK];
  double total = (double)bid->size + (double)ask->size;
  record->timestamp_ns = event->timestamp_ns;
  record->bid_price = bid->price;
  record->ask_price = ask->price;
  record->bid_size = bid->size;
  record->ask_size = ask->size;
  record->exchange_delay_us = exchange_delay_us(event);
  record->book_imbalance =
      total > 0 ? (int32_t)(((double)bid->size - (double)ask->size) / total * Q30) : 0;
  record->update = (uint32_t)update;
  record->symbol = (uint16_t)event->symbol;
  record->trigger = (uint8_t)trigger;
  record->flags = (uint8_t)flags;
  bus_features_write(&state->features, record->x);
  feed->config.sink.commit(feed->config.sink.context);
  feed->counters.records++;
  return 1;
}

/* The book has changed: brings the features up to date. */
static void take_quote(struct symbol_state *state, uint64_t now_ns, bool is_rebuilt)
{
  const struct bus_level *bid = &state->sync->best[BUS_SIDE_BID];
  const struct bus_level *ask = &state->sync->best[BUS_SIDE_ASK];
  struct bus_features_view view;
  bus_book_sync_top(state->sync, BUS_SIDE_BID, view.bids, BUS_FEATURES_LEVELS);
  bus_book_sync_top(state->sync, BUS_SIDE_ASK, view.asks, BUS_FEATURES_LEVELS);
  if (bid->size > 0 && ask->size > 0)
    state->mid_twice = (double)bid->price + (double)ask->price;
  state->best_time_ns = now_ns;
  state->has_best = true;
  bus_features_quote(&state->features, now_ns, &view, is_rebuilt);
}

static bool is_above(const struct bus_feed *feed, const struct symbol_state *state, int64_t price)
{
  return state->mid_twice > 0 &&
         2 * (double)price > state->mid_twice * (double)feed->config.absurd_factor;
}

static bool is_below(const struct bus_feed *feed, const struct symbol_state *state, int64_t price)
{
  return 2 * (double)price * (double)feed->config.absurd_factor < state->mid_twice;
}

static bool is_absurd(const struct bus_feed *feed, const struct symbol_state *state, int64_t price)
{
  return is_above(feed, state, price) || is_below(feed, state, price);
}

static int refuse_price(struct bus_feed *feed)
{
  feed->counters.price_invalid++;
  return BUS_ERROR_INVALID;
}

static int take_ticker(struct bus_feed *feed, const struct event *event)
{
  const struct bus_binance_message *message = event->message;
  struct symbol_state *state = &feed->states[event->symbol];
  struct bus_level bid;
  struct bus_level ask;
  if (bus_decimal_parse(message->bid_price.text, message->bid_price.length, state->price_exponent,
                        &bid.price) != BUS_OK ||
      bus_decimal_parse(message->bid_size.text, message->bid_size.length, state->size_exponent,
                        &bid.size) != BUS_OK ||
      bus_decimal_parse(message->ask_price.text, message->ask_price.length, state->price_exponent,
                        &ask.price) != BUS_OK ||
      bus_decimal_parse(message->ask_size.text, message->ask_size.length, state->size_exponent,
                        &ask.size) != BUS_OK)
    return refuse_price(feed);
  /* Size 0 says that the side is empty; then the price means nothing. */
  if (bid.size < 0 || ask.size < 0 || bid.price < 0 || ask.price < 0 ||
      (bid.size > 0 && (bid.price == 0 || is_absurd(feed, state, bid.price))) ||
      (ask.size > 0 && (ask.price == 0 || is_absurd(feed, state, ask.price))))
    return refuse_price(feed);
  if (bus_book_sync_ticker(state->sync, message->last_update, bid, ask) != BUS_BOOK_SYNC_APPLIED) {
    feed->counters.book_tickers_stale++;
    return 0;
  }
  feed->counters.book_tickers++;
  take_quote(state, event->receive_ns, false);
  return publish(feed, event, BUS_TRIGGER_BOOK_TICKER, 0, message->last_update);
}

static int take_trade(struct bus_feed *feed, const struct event *event)
{
  const struct bus_binance_message *message = event->message;
  struct symbol_state *state = &feed->states[event->symbol];
  int64_t price;
  int64_t size;
  if (bus_decimal_parse(message->price.text, message->price.length, state->price_exponent,
                        &price) != BUS_OK ||
      bus_decimal_parse(message->size.text, message->size.length, state->size_exponent, &size) !=
          BUS_OK ||
      price <= 0 || size <= 0 || is_absurd(feed, state, price))
    return refuse_price(feed);
  feed->counters.trades++;
  bus_features_trade(&state->features, event->receive_ns, size, message->buyer_is_maker);
  return publish(feed, event, BUS_TRIGGER_TRADE, BUS_FEATURE_TRADE, message->trade_id);
}

/* Reads one side's levels into feed->levels from `first` on. A level that is absurdly good would
 * become the best and is left out; absurdly bad ones are real and harmless. Returns how many there
 * are, or -1 when one cannot be read: then the message cannot be applied at all. */
static int64_t read_side(struct bus_feed *feed, const struct symbol_state *state,
                         const struct bus_binance_level *texts, uint32_t count, uint32_t first,
                         bool is_ask)
{
  struct bus_level *levels = feed->levels + first;
  uint32_t used = 0;
  for (uint32_t i = 0; i < count; i++) {
    struct bus_level *level = &levels[used];
    if (bus_decimal_parse(texts[i].price, texts[i].price_length, state->price_exponent,
                          &level->price) != BUS_OK ||
        bus_decimal_parse(texts[i].size, texts[i].size_length, state->size_exponent,
                          &level->size) != BUS_OK ||
        level->price <= 0 || level->size < 0)
      return -1;
    if (BUS_UNLIKELY(is_ask ? is_below(feed, state, level->price)
                            : is_above(feed, state, level->price)))
      feed->counters.price_invalid++;
    else
      used++;
  }
  return used;
}

/* Reads both sides of a depth diff or snapshot; `diff` gets the levels. */
static bool read_levels(struct bus_feed *feed, const struct event *event,
                        struct bus_book_diff *diff)
{
  const struct bus_binance_message *message = event->message;
  const struct symbol_state *state = &feed->states[event->symbol];
  int64_t bids = read_side(feed, state, message->bids, message->bid_count, 0, false);
  if (bids < 0)
    return false;
  int64_t asks = read_side(feed, state, message->asks, message->ask_count, (uint32_t)bids, true);
  if (asks < 0)
    return false;
  diff->bids = feed->levels;
  diff->asks = feed->levels + bids;
  diff->bid_count = (uint32_t)bids;
  diff->ask_count = (uint32_t)asks;
  return true;
}

/* Adds what the book has counted since `before` and `levels_before`. */
static void count_losses(struct bus_feed *feed, const struct bus_book_sync *sync,
                         uint64_t gaps_before, uint64_t overflow_before, uint64_t levels_before)
{
  feed->counters.depth_gaps += sync->gaps - gaps_before;
  feed->counters.buffer_overflow += sync->diffs_overflowed - overflow_before;
  feed->counters.levels_dropped += sync->book->levels_dropped - levels_before;
}

static int take_depth(struct bus_feed *feed, const struct event *event)
{
  const struct bus_binance_message *message = event->message;
  struct symbol_state *state = &feed->states[event->symbol];
  struct bus_book_sync *sync = state->sync;
  struct bus_book_diff diff = {
      .first_update = message->first_update,
      .last_update = message->last_update,
      .previous_update = message->previous_update,
  };
  if (feed->config.market == BUS_MARKET_USDM && !message->has_previous_update) {
    feed->counters.garbage_lines++;
    return BUS_ERROR_FORMAT;
  }
  if (!read_levels(feed, event, &diff))
    return refuse_price(feed);
  uint64_t gaps = sync->gaps;
  uint64_t overflow = sync->diffs_overflowed;
  uint64_t levels = sync->book->levels_dropped;
  bool was_live = sync->state == BUS_BOOK_SYNC_LIVE;
  enum bus_book_sync_result result = bus_book_sync_diff(sync, &diff);
  count_losses(feed, sync, gaps, overflow, levels);
  switch (result) {
  case BUS_BOOK_SYNC_APPLIED:
    feed->counters.depth_applied++;
    state->depth_time_ns = event->receive_ns;
    state->has_depth = true;
    take_quote(state, event->receive_ns, false);
    return publish(feed, event, BUS_TRIGGER_DEPTH, 0, message->last_update);
  case BUS_BOOK_SYNC_STALE:
    feed->counters.depth_stale++;
    return 0;
  case BUS_BOOK_SYNC_GAP:
    feed->counters.resync += was_live;
    feed->counters.depth_held++;
    return 0;
  case BUS_BOOK_SYNC_HELD:
    feed->counters.depth_held++;
    return 0;
  default:
    feed->counters.garbage_lines++;
    return BUS_ERROR_FORMAT;
  }
}

static int take_snapshot(struct bus_feed *feed, const struct event *event)
{
  struct symbol_state *state = &feed->states[event->symbol];
  struct bus_book_sync *sync = state->sync;
  struct bus_book_diff diff;
  /* A snapshot is the authority: no price in it is absurd. */
  double mid_twice = state->mid_twice;
  state->mid_twice = 0;
  if (!read_levels(feed, event, &diff)) {
    state->mid_twice = mid_twice;
    return refuse_price(feed);
  }
  state->mid_twice = mid_twice;
  uint64_t gaps = sync->gaps;
  uint64_t overflow = sync->diffs_overflowed;
  uint64_t levels = sync->book->levels_dropped;
  enum bus_book_sync_result result = bus_book_sync_snapshot(
      sync, event->message->last_update, diff.bids, diff.bid_count, diff.asks, diff.ask_count);
  count_losses(feed, sync, gaps, overflow, levels);
  if (result != BUS_BOOK_SYNC_APPLIED) {
    feed->counters.snapshots_refused++;
    return 0;
  }
  feed->counters.snapshots++;
  state->depth_time_ns = event->receive_ns;
  state->has_depth = true;
  take_quote(state, event->receive_ns, true);
  return publish(feed, event, BUS_TRIGGER_SNAPSHOT, BUS_FEATURE_SNAPSHOT, sync->book_update);
}

/* The symbol before the '@' of a stream's name, which is in lower case there. */
static int32_t symbol_of_stream(struct bus_feed *feed, struct bus_text stream)
{
  char name[BUS_SYMBOL_NAME_BYTES];
  uint32_t length = 0;
  while (length < stream.length && stream.text[length] != '@') {
    if (length == sizeof name)
      return -1;
    char c = stream.text[length];
    name[length++] = c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
  }
  return find_symbol(feed, name, length);
}

static int32_t symbol_of_snapshot(struct bus_feed *feed, const struct bus_binance_message *message)
{
  if (message->symbol.length > 0)
    return find_symbol(feed, message->symbol.text, message->symbol.length);
  if (message->stream.length > 0)
    return symbol_of_stream(feed, message->stream);
  if (feed->snapshot_symbol >= 0)
    return feed->snapshot_symbol;
  if (feed->table.count == 1)
    return 0;
  bus_error_set(BUS_ERROR_ABSENT,
                "a depth snapshot names no symbol and %u are known: name its "
                "owner in the configuration (snapshot symbol)",
                feed->table.count);
  return -1;
}

static int dispatch(struct bus_feed *feed, struct event *event, int symbol)
{
  const struct bus_binance_message *message = event->message;
  int32_t index = symbol;
  feed->counters.messages++;
  if (message->kind == BUS_BINANCE_SERVER_SHUTDOWN) {
    feed->counters.server_shutdowns++;
    return 0;
  }
  if (message->kind == BUS_BINANCE_OTHER) {
    feed->counters.other_messages++;
    return 0;
  }
  if (message->kind != BUS_BINANCE_SNAPSHOT)
    index = find_symbol(feed, message->symbol.text, message->symbol.length);
  else if (index < 0)
    index = symbol_of_snapshot(feed, message);
  if (index < 0 || (uint32_t)index >= feed->table.count) {
    feed->counters.unknown_symbol++;
    return BUS_ERROR_ABSENT;
  }
  event->symbol = (uint32_t)index;
  switch (message->kind) {
  case BUS_BINANCE_BOOK_TICKER:
    return take_ticker(feed, event);
  case BUS_BINANCE_DEPTH:
    return take_depth(feed, event);
  case BUS_BINANCE_SNAPSHOT:
    return take_snapshot(feed, event);
  default:
    return take_trade(feed, event);
  }
}

int bus_feed_message(struct bus_feed *feed, const char *json, size_t length, int symbol,
                     uint64_t receive_ns, uint64_t timestamp_ns)
{
  if (length > BUS_FEED_LINE_BYTES_MAX) {
    feed->counters.oversize_lines++;
    return BUS_ERROR_NO_SPACE;
  }
  struct bus_binance_message message;
  int code = bus_binance_parse(json, length, feed->texts, feed->config.message_levels, &message);
  if (code != BUS_OK) {
    if (code == BUS_ERROR_NO_SPACE)
      feed->counters.oversize_lines++;
    else
      feed->counters.garbage_lines++;
    return code;
  }
  struct event event = {
      .message = &message,
      .receive_ns = receive_ns,
      .timestamp_ns = timestamp_ns,
  };
  return dispatch(feed, &event, symbol);
}

int bus_feed_line(struct bus_feed *feed, const char *line, size_t length, uint64_t timestamp_ns)
{
  if (length > BUS_FEED_LINE_BYTES_MAX) {
    feed->counters.oversize_lines++;
    return BUS_ERROR_NO_SPACE;
  }
  uint64_t receive_ns = 0;
  size_t at = 0;
  bool is_number = true;
  for (; at < length && line[at] >= '0' && line[at] <= '9'; at++)
    if (__builtin_mul_overflow(receive_ns, 10u, &receive_ns) ||
        __builtin_add_overflow(receive_ns, (unsigned)(line[at] - '0'), &receive_ns))
      is_number = false;
  if (!is_number || at == 0 || at == length || line[at] != ' ') {
    feed->counters.garbage_lines++;
    return BUS_ERROR_FORMAT;
  }
  return bus_feed_message(feed, line + at + 1, length - at - 1, -1, receive_ns, timestamp_ns);
}
