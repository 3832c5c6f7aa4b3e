/* binance_message.h: one pass over one Binance JSON message, nothing copied, nothing allocated.
 *
 * Understands, raw or in the combined-stream envelope {"stream":..,"data":{..}}, of spot and USD-M
 * futures: depthUpdate, bookTicker (spot's has no "e"), trade, aggTrade, serverShutdown, and the
 * REST depth snapshot. Keys may come in any order; unknown keys are skipped, whatever they hold.
 * A general JSON library allocates a tree for each message and is several times too slow. */
#ifndef SIGNALBUS_BINANCE_MESSAGE_H
#define SIGNALBUS_BINANCE_MESSAGE_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

enum bus_binance_kind {
  BUS_BINANCE_OTHER = 0, /* valid JSON that none of the following describes */
  BUS_BINANCE_DEPTH = 1,
  BUS_BINANCE_BOOK_TICKER = 2,
  BUS_BINANCE_TRADE = 3,
  BUS_BINANCE_AGGREGATE_TRADE = 4,
  BUS_BINANCE_SNAPSHOT = 5,
  BUS_BINANCE_SERVER_SHUTDOWN = 6
};

/* Nesting beyond this is refused. Binance's own messages nest 4 deep. */
#define BUS_BINANCE_DEPTH_MAX 32

/* A piece of the message, without the quotes. {NULL, 0} when absent. */
struct bus_text {
  const char *text;
  uint32_t length;
};

/* One ["price","size"] pair, as text in the message. */
struct bus_binance_level {
  const char *price;
  const char *size;
  uint32_t price_length;
  uint32_t size_length;
};

/* Fields that a kind does not have are zero, or {NULL, 0}. All texts point into the message. */
struct bus_binance_message {
  enum bus_binance_kind kind;
  bool has_event_time;
  bool has_previous_update; /* USD-M depth only */
  bool buyer_is_maker;      /* trades: true when the seller was the aggressor */
  struct bus_text stream;   /* e.g. btcusdt@depth; only in an envelope */
  struct bus_text symbol;   /* e.g. BTCUSDT; a snapshot has none */
  uint64_t event_time_ms;
  uint64_t transaction_time_ms;
  uint64_t first_update;    /* depth: U */
  uint64_t last_update;     /* depth and bookTicker: u; snapshot: lastUpdateId */
  uint64_t previous_update; /* depth: pu */
  uint64_t trade_id;        /* trade: t; aggTrade: a */
  struct bus_text price;    /* trades */
  struct bus_text size;
  struct bus_text bid_price; /* bookTicker */
  struct bus_text bid_size;
  struct bus_text ask_price;
  struct bus_text ask_size;
  const struct bus_binance_level *bids; /* depth and snapshot; in the caller's array */
  const struct bus_binance_level *asks;
  uint32_t bid_count;
  uint32_t ask_count;
};

/* Reads the `length` bytes at `json` (no NUL needed; nothing outside them is read) into `message`.
 * The levels are put in `levels`, an array of `level_capacity` that stays the caller's and lives as
 * long as `message` is used. Numbers in quotes are not looked into. Any thread.
 *
 * Returns BUS_OK; BUS_ERROR_FORMAT when it is not one valid JSON object, nests too deep, or its
 * kind is known and a field it needs is missing; BUS_ERROR_NO_SPACE when it has more levels than
 * the array. After an error `message` is undefined. */
int bus_binance_parse(const char *json, size_t length, struct bus_binance_level *levels,
                      uint32_t level_capacity, struct bus_binance_message *message);

BUS_END_DECLARATIONS

#endif
