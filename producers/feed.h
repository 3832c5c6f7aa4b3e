/* feed.h: from one exchange message to one record in the ring.
 *
 * Decodes the message, brings the symbol's book and features up to date, and fills the record
 * straight in the slot that the sink reserves. One thread uses a feed; nothing allocates after
 * bus_feed_new().
 *
 * Records are produced by: every bookTicker that is not older than what is known, every depth diff
 * that is applied, every trade, and every snapshot that brings the book in step. */
#ifndef SIGNALBUS_FEED_H
#define SIGNALBUS_FEED_H

#include "producers/book_sync.h"
#include "shm/record.h"

BUS_BEGIN_DECLARATIONS

/* Longest line, the time stamp included; longer ones are counted and skipped. */
#define BUS_FEED_LINE_BYTES_MAX  (512u << 10)
#define BUS_FEED_SYMBOLS_DEFAULT 8u
#define BUS_FEED_SYMBOLS_MAX     65536u
/* Levels of one message, both sides together. A REST snapshot has at most 10000. */
#define BUS_FEED_MESSAGE_LEVELS_DEFAULT 16384u
#define BUS_FEED_STALE_NS_DEFAULT       5000000000ull
#define BUS_FEED_ABSURD_FACTOR_DEFAULT  1000u

/* Each counter: field, unit, what it counts. */
#define BUS_FEED_COUNTERS(X)                                                                       \
  X(messages, "messages", "valid JSON messages")                                                   \
  X(records, "records", "records committed")                                                       \
  X(dropped_records, "records", "records the sink had no room for")                                \
  X(depth_applied, "messages", "depth diffs applied as they came")                                 \
  X(depth_held, "messages", "depth diffs held for a snapshot")                                     \
  X(depth_stale, "messages", "depth diffs older than the book")                                    \
  X(depth_gaps, "gaps", "breaks in the depth update ids")                                          \
  X(resync, "times", "times a live book was lost to a gap")                                        \
  X(snapshots, "messages", "snapshots applied")                                                    \
  X(snapshots_refused, "messages", "snapshots too old, or not joined to the diffs")                \
  X(book_tickers, "messages", "bookTickers applied")                                               \
  X(book_tickers_stale, "messages", "bookTickers older than the book")                             \
  X(trades, "messages", "trades")                                                                  \
  X(other_messages, "messages", "valid messages of kinds not used")                                \
  X(server_shutdowns, "messages", "the exchange announced an end")                                 \
  X(garbage_lines, "lines", "lines that are no time stamp and valid message")                      \
  X(oversize_lines, "lines", "lines or messages beyond the limits")                                \
  X(price_invalid, "values", "prices or sizes negative, zero, absurd, too big or too fine")        \
  X(unknown_symbol, "messages", "messages whose symbol is not known")                              \
  X(buffer_overflow, "messages", "held depth diffs dropped for lack of room")                      \
  X(levels_dropped, "levels", "worst levels dropped because a side was full")                      \
  X(crossed, "records", "records with best bid >= best ask")                                       \
  X(stale, "records", "records flagged stale")

struct bus_feed_counters {
#define BUS_FEED_COUNTER_FIELD(field, unit, label) uint64_t field;
  BUS_FEED_COUNTERS(BUS_FEED_COUNTER_FIELD)
#undef BUS_FEED_COUNTER_FIELD
};

#define BUS_FEED_COUNTER_COUNT (sizeof(struct bus_feed_counters) / sizeof(uint64_t))

struct bus_feed_counter_description {
  const char *name;
  const char *unit;
  const char *label;
};

/* In the order of struct bus_feed_counters, which is an array of that many uint64_t. */
extern const struct bus_feed_counter_description bus_feed_counter_descriptions[];

/* Where records go. */
struct bus_feed_sink {
  /* The slot to fill, of which `stamp` is not touched; NULL: no room, the record is dropped. */
  struct bus_feature *(*reserve)(void *context);
  /* The slot last reserved is complete. */
  void (*commit)(void *context);
  void *context;
};

struct bus_feed_config {
  enum bus_market market;
  const struct bus_symbol *symbols; /* known from the start: 0..symbol_count-1; may be NULL */
  uint32_t symbol_count;
  uint32_t symbol_capacity;    /* beyond symbol_count, symbols are learnt as they appear */
  int price_exponent;          /* of learnt symbols, -18..0 */
  int size_exponent;           /* of learnt symbols, -18..0 */
  const char *snapshot_symbol; /* owner of snapshots that carry no symbol; NULL: the only one */
  uint64_t stale_ns;           /* records further from the last book update carry STALE */
  uint32_t absurd_factor;      /* prices further from the last mid than this factor are refused */
  uint32_t message_levels;     /* most levels in one message */
  uint32_t book_levels;        /* capacity of each side of each book */
  uint32_t held_diffs;         /* see struct bus_book_sync_config */
  uint32_t held_levels;
  struct bus_feed_sink sink;
};

struct bus_feed;

/* Fills in the defaults: spot, symbols learnt, exponents -8; the sink is empty. */
void bus_feed_config_defaults(struct bus_feed_config *config);

/* Creates a feed. `config` and what it points to may be freed afterwards (but for the sink's
 * context). Returns NULL with a
 * message when a parameter is out of range or there is no memory. */
struct bus_feed *bus_feed_new(const struct bus_feed_config *config);

/* NULL is allowed. */
void bus_feed_delete(struct bus_feed *feed);

/* Takes one line, `<receive time in ns> <JSON>`, which may end in a newline. `timestamp_ns` is the
 * bus clock that goes into the record; the line's own time drives the features.
 *
 * Returns 1 when a record was committed and 0 when none was due or the sink had no room. Refused
 * lines are counted, change nothing, and return BUS_ERROR_FORMAT (garbage), BUS_ERROR_NO_SPACE (too
 * long, or more levels than configured), BUS_ERROR_INVALID (a price or size) or BUS_ERROR_ABSENT
 * (unknown symbol). No message is left, except where a snapshot's symbol cannot be told. */
int bus_feed_line(struct bus_feed *feed, const char *line, size_t length, uint64_t timestamp_ns);

/* As bus_feed_line, and with its results, for a message without time stamp. `symbol` is the index
 * of the symbol that a REST snapshot was fetched for, or -1. `receive_ns` drives the features,
 * `timestamp_ns` goes into the record. */
int bus_feed_message(struct bus_feed *feed, const char *json, size_t length, int symbol,
                     uint64_t receive_ns, uint64_t timestamp_ns);

/* The connection was lost: every book waits for a snapshot (see bus_book_sync_reset). */
void bus_feed_reset(struct bus_feed *feed);

/* What was counted so far, live. Lives as long as the feed; the feed's thread. */
const struct bus_feed_counters *bus_feed_counters(const struct bus_feed *feed);

/* Rows of the symbol table: symbols known or learnt so far. */
uint32_t bus_feed_symbol_count(const struct bus_feed *feed);

/* The symbol table's row `symbol`, or NULL. Rows never move or change once they are there. */
const struct bus_symbol *bus_feed_symbol(const struct bus_feed *feed, uint32_t symbol);

/* The symbol's book, read-only, or NULL. */
const struct bus_book_sync *bus_feed_book(const struct bus_feed *feed, uint32_t symbol);

BUS_END_DECLARATIONS

#endif
