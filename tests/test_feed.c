#include "producers/binance_message.h"
#include "producers/decimal.h"
#include "producers/feed.h"
#include "tests/producer_fixture.h"

#define MESSAGE_LEVELS 16384u

static struct bus_feed *feed_new(struct record_sink *sink, enum bus_market market)
{
  struct bus_feed_config config;
  bus_feed_config_defaults(&config);
  config.market = market;
  config.symbol_capacity = 4;
  config.sink = (struct bus_feed_sink){sink_reserve, sink_commit, sink};
  struct bus_feed *feed = bus_feed_new(&config);
  cr_assert_not_null(feed, "%s", bus_error_message());
  return feed;
}

static int feed_text(struct bus_feed *feed, const char *line)
{
  return bus_feed_line(feed, line, strlen(line), 42);
}

static int feed_at(struct bus_feed *feed, const struct lines *lines, size_t i)
{
  return bus_feed_line(feed, lines->text + lines->start[i], lines->length[i], i);
}

static bool is_depth(const struct lines *lines, size_t i)
{
  return memmem(lines->text + lines->start[i], lines->length[i], "\"depthUpdate\"", 13) != NULL;
}

#define TICKER(u, b, B, a, A)                                                                      \
  "{\"u\":" #u ",\"s\":\"X\",\"b\":\"" b "\",\"B\":\"" B "\",\"a\":\"" a "\",\"A\":\"" A "\"}"
#define TRADE(t, p, q)                                                                             \
  "{\"e\":\"trade\",\"E\":1000,\"s\":\"X\",\"t\":" #t ",\"p\":\"" p "\",\"q\":\"" q "\","          \
  "\"m\":true}"
#define DEPTH(U, u, b, a)                                                                          \
  "{\"e\":\"depthUpdate\",\"E\":1000,\"s\":\"X\",\"U\":" #U ",\"u\":" #u ",\"b\":[" b "],"         \
  "\"a\":[" a "]}"
#define SNAPSHOT(u)                                                                                \
  "{\"lastUpdateId\":" #u ",\"bids\":[[\"99\",\"9\"],[\"98\",\"8\"]],"                             \
  "\"asks\":[[\"101\",\"1\"],[\"102\",\"2\"]]}"

Test(feed, fills_the_record)
{
  struct record_sink sink = sink_new(4);
  struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
  memset(sink.records, 0xAA, 4 * sizeof *sink.records);
  cr_assert_eq(feed_text(feed, "1000500000 " TICKER(7, "99", "3", "101", "1")), 1);
  struct bus_feature record = *sink_last(&sink);
  cr_expect_eq(record.timestamp_ns, 42);
  cr_expect_eq(record.bid_price, 9900000000);
  cr_expect_eq(record.ask_price, 10100000000);
  cr_expect_eq(record.bid_size, 300000000);
  cr_expect_eq(record.ask_size, 100000000);
  cr_expect_eq(record.exchange_delay_us, INT32_MIN);
  cr_expect_eq(record.book_imbalance, 1 << 29);
  cr_expect_eq(record.update, 7);
  cr_expect_eq(record.symbol, 0);
  cr_expect_eq(record.trigger, BUS_TRIGGER_BOOK_TICKER);
  cr_expect_eq(record.flags, BUS_FEATURE_VALID);
  cr_expect_eq(record.stamp, 0xAAAAAAAAAAAAAAAAull); /* the ring's, not the feed's */
  cr_assert_eq(feed_text(feed, "1000500000 " TRADE(8589934593, "100", "2") "\n"), 1);
  record = *sink_last(&sink);
  cr_expect_eq(record.exchange_delay_us, 500);
  cr_expect_eq(record.update, 1);
  cr_expect_eq(record.trigger, BUS_TRIGGER_TRADE);
  cr_expect_eq(record.flags, BUS_FEATURE_VALID | BUS_FEATURE_TRADE);
  cr_assert_eq(feed_text(feed, "900000000 " TRADE(1, "100", "2")), 1);
  cr_expect_eq(sink_last(&sink)->exchange_delay_us, -100000); /* the clocks differ */
  bus_feed_delete(feed);
  free(sink.records);
}

/* Whatever was in the slot, every byte but the stamp is the same afterwards. */
Test(feed, writes_every_byte)
{
  struct bus_feature records[2];
  for (int i = 0; i < 2; i++) {
    struct record_sink sink = sink_new(1);
    struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
    memset(sink.records, i == 0 ? 0x00 : 0xFF, sizeof *sink.records);
    cr_assert_eq(feed_text(feed, "1 " TRADE(1, "100", "2")), 1);
    records[i] = *sink_last(&sink);
    bus_feed_delete(feed);
    free(sink.records);
  }
  cr_expect_eq(memcmp(&records[0], &records[1], offsetof(struct bus_feature, stamp)), 0);
  cr_expect_eq(records[0].flags, BUS_FEATURE_TRADE); /* no book yet: not valid */
}

Test(feed, flags_resync_snapshot_stale_and_crossed)
{
  struct record_sink sink = sink_new(16);
  struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  cr_expect_eq(feed_text(feed, "1 " DEPTH(1, 5, "[\"99\",\"1\"]", "")), 0);
  cr_expect_eq(feed_text(feed, "2 " TICKER(5, "99", "3", "101", "1")), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID | BUS_FEATURE_RESYNC);
  cr_expect_eq(feed_text(feed, "3 " SNAPSHOT(4)), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID | BUS_FEATURE_SNAPSHOT);
  cr_expect_eq(sink_last(&sink)->trigger, BUS_TRIGGER_SNAPSHOT);
  cr_expect_eq(sink_last(&sink)->update, 5);
  cr_expect_eq(feed_text(feed, "4 " DEPTH(6, 7, "[\"99.5\",\"1\"]", "")), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID);
  cr_expect_eq(sink_last(&sink)->bid_price, 9950000000);
  cr_expect_eq(feed_text(feed, "5 " TICKER(6, "99", "3", "101", "1")), 0); /* older */
  cr_expect_eq(counters->book_tickers_stale, 1);
  cr_expect_eq(feed_text(feed, "4000000000 " TRADE(1, "100", "2")), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID | BUS_FEATURE_TRADE);
  cr_expect_eq(feed_text(feed, "6000000000 " TRADE(1, "100", "2")), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID | BUS_FEATURE_TRADE | BUS_FEATURE_STALE);
  cr_expect_eq(feed_text(feed, "6000000001 " TICKER(8, "99", "3", "101", "1")), 1);
  cr_expect(sink_last(&sink)->flags & BUS_FEATURE_STALE); /* the depth is still old */
  cr_expect_eq(feed_text(feed, "6000000002 " DEPTH(8, 9, "[\"99.5\",\"1\"]", "")), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID);
  cr_expect_eq(feed_text(feed, "6000000003 " TICKER(10, "101", "3", "101", "1")), 1);
  cr_expect_eq(sink_last(&sink)->flags, BUS_FEATURE_VALID | BUS_FEATURE_CROSSED);
  cr_expect_eq(feed_text(feed, "6000000004 " DEPTH(11, 12, "", "")), 0);
  cr_expect_eq(counters->depth_gaps, 1);
  cr_expect_eq(counters->resync, 1);
  cr_expect_eq(counters->crossed, 1);
  cr_expect_eq(counters->stale, 2);
  cr_expect_eq(counters->snapshots, 1);
  cr_expect_eq(feed_text(feed, "6000000005 " SNAPSHOT(8)), 0); /* does not reach the gap */
  cr_expect_eq(counters->snapshots_refused, 1);
  bus_feed_reset(feed);
  cr_expect_eq(feed_text(feed, "6000000006 " TICKER(1, "100", "3", "101", "1")), 1);
  bus_feed_delete(feed);
  free(sink.records);
}

Test(feed, counts_bad_prices)
{
  struct record_sink sink = sink_new(4);
  struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  static const char *const bad[] = {
      "1 " TICKER(9, "-99", "3", "101", "1"),
      "1 " TICKER(9, "99", "-3", "101", "1"),
      "1 " TICKER(9, "0", "3", "101", "1"),
      "1 " TICKER(9, "99", "3", "0.00", "1"),
      "1 " TICKER(9, "99.000000001", "3", "101", "1"),
      "1 " TICKER(9, "99", "3", "1000000000000", "1"),
      "1 " TICKER(9, "99", "3", "101000", "1"),
      "1 " TICKER(9, "0.01", "3", "101", "1"),
      "1 " TICKER(9, "", "3", "101", "1"),
      "1 " TICKER(9, "9e9", "3", "101", "1"),
      "1 " TRADE(1, "0", "1"),
      "1 " TRADE(1, "-1", "1"),
      "1 " TRADE(1, "100", "0"),
      "1 " TRADE(1, "1000000", "1"),
      "1 " DEPTH(1, 2, "[\"-1\",\"1\"]", ""),
      "1 " DEPTH(1, 2, "[\"0\",\"1\"]", ""),
      "1 " DEPTH(1, 2, "", "[\"1\",\"-1\"]"),
      "1 " DEPTH(1, 2, "", "[\"1\",\"99999999999999999999\"]"),
      "1 {\"lastUpdateId\":1,\"bids\":[[\"x\",\"1\"]],\"asks\":[]}",
  };
  cr_expect_eq(feed_text(feed, "1 " TICKER(8, "99", "3", "101", "1")), 1);
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    cr_expect_eq(feed_text(feed, bad[i]), BUS_ERROR_INVALID, "%s", bad[i]);
    cr_expect_eq(counters->price_invalid, i + 1, "%s", bad[i]);
  }
  cr_expect_eq(sink.count, 1);
  cr_expect_eq(feed_text(feed, "1 " TICKER(9, "0.00", "0.00", "101", "1")), 1); /* no bids */
  cr_expect_eq(sink_last(&sink)->flags, 0);
  cr_expect_eq(sink_last(&sink)->bid_price, 0);
  cr_expect_eq(feed_text(feed, "1 " SNAPSHOT(10)), 1);
  /* A bid far above and an ask far below the mid are left out; far bids and asks are real. */
  cr_expect_eq(feed_text(feed, "1 " DEPTH(11, 11, "[\"9999999\",\"1\"],[\"0.001\",\"1\"]",
                                          "[\"0.001\",\"1\"],[\"9999999\",\"1\"]")),
               1);
  cr_expect_eq(counters->price_invalid, BUS_COUNT_OF(bad) + 2);
  cr_expect_eq(bus_book_count(bus_feed_book(feed, 0)->book, BUS_SIDE_BID), 3);
  cr_expect_eq(sink_last(&sink)->bid_price, 9900000000);
  cr_expect_eq(sink_last(&sink)->ask_price, 10100000000);
  bus_feed_delete(feed);
  free(sink.records);
}

Test(feed, counts_garbage_and_goes_on)
{
  struct record_sink sink = sink_new(4);
  struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  static const char *const garbage[] = {
      "",      " ",      "1",          "1 ",
      "x {}",  "{}",     "-1 {}",      "1  [",
      "1\t{}", "1 {} x", "1 {\"e\":",  "99999999999999999999 {}",
      "1 {",   "1.5 {}", "\xff\xfe\0", "1 {\"e\":\"trade\"}",
  };
  for (size_t i = 0; i < BUS_COUNT_OF(garbage); i++) {
    cr_expect_eq(feed_text(feed, garbage[i]), BUS_ERROR_FORMAT, "%s", garbage[i]);
    cr_expect_eq(counters->garbage_lines, i + 1);
  }
  char *large = malloc(1 << 20);
  memset(large, '[', 1 << 20);
  cr_expect_eq(bus_feed_line(feed, large, 1 << 20, 1), BUS_ERROR_NO_SPACE);
  cr_expect_eq(counters->oversize_lines, 1);
  memcpy(large, "1 {\"x\":", 7);
  cr_expect_eq(bus_feed_line(feed, large, BUS_FEED_LINE_BYTES_MAX, 1), BUS_ERROR_FORMAT);
  cr_expect_eq(feed_text(feed, "1 {\"e\":\"serverShutdown\",\"E\":1}"), 0);
  cr_expect_eq(counters->server_shutdowns, 1);
  cr_expect_eq(feed_text(feed, "1 {\"result\":null,\"id\":3}"), 0);
  cr_expect_eq(counters->other_messages, 1);
  cr_expect_eq(feed_text(feed, "1 " TICKER(8, "99", "3", "101", "1")), 1);
  free(large);
  bus_feed_delete(feed);

  feed = feed_new(&sink, BUS_MARKET_USDM); /* pu is missing */
  cr_expect_eq(feed_text(feed, "1 " DEPTH(1, 2, "", "")), BUS_ERROR_FORMAT);
  cr_expect_eq(bus_feed_counters(feed)->garbage_lines, 1);
  bus_feed_delete(feed);
  free(sink.records);
}

Test(feed, learns_symbols_and_finds_the_owner_of_snapshots)
{
  struct record_sink sink = sink_new(4);
  struct bus_symbol known = {.name = "BTCUSDT", .price_exponent = -2, .size_exponent = -3};
  struct bus_feed_config config;
  bus_feed_config_defaults(&config);
  config.symbols = &known;
  config.symbol_count = 1;
  config.symbol_capacity = 2;
  config.sink = (struct bus_feed_sink){sink_reserve, sink_commit, &sink};
  struct bus_feed *feed = bus_feed_new(&config);
  cr_assert_not_null(feed, "%s", bus_error_message());
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  cr_expect_eq(feed_text(feed, "1 " SNAPSHOT(4)), 1); /* the only symbol's */
  cr_expect_eq(sink_last(&sink)->bid_price, 9900);
  cr_expect_eq(sink_last(&sink)->bid_size, 9000);
  cr_expect_eq(feed_text(feed, "1 " TICKER(8, "99", "3", "101", "1")), 1); /* X is learnt */
  cr_expect_eq(sink_last(&sink)->symbol, 1);
  cr_expect_str_eq(bus_feed_symbol(feed, 1)->name, "X");
  cr_expect_eq(bus_feed_symbol(feed, 1)->price_exponent, -8);
  cr_expect_null(bus_feed_symbol(feed, 2));
  cr_expect_eq(feed_text(feed, "1 " SNAPSHOT(20)), BUS_ERROR_ABSENT); /* whose? */
  cr_expect_eq(counters->unknown_symbol, 1);
  cr_expect_not_null(strstr(bus_error_message(), "snapshot"));
  cr_expect_eq(feed_text(feed, "1 {\"stream\":\"btcusdt@snapshot\",\"data\":" SNAPSHOT(20) "}"), 1);
  cr_expect_eq(sink_last(&sink)->symbol, 0);
  cr_expect_eq(bus_feed_message(feed, SNAPSHOT(9), strlen(SNAPSHOT(9)), 1, 1, 1), 1);
  cr_expect_eq(sink_last(&sink)->symbol, 1);
  cr_expect_eq(bus_feed_message(feed, SNAPSHOT(9), strlen(SNAPSHOT(9)), 2, 1, 1), BUS_ERROR_ABSENT);
  cr_expect_eq(feed_text(feed, "1 {\"u\":1,\"s\":\"Y\",\"b\":\"1\",\"B\":\"1\",\"a\":\"2\","
                               "\"A\":\"1\"}"),
               BUS_ERROR_ABSENT); /* no room */
  cr_expect_eq(feed_text(feed, "1 {\"u\":1,\"s\":\"A23456789012345678901234\",\"b\":\"1\","
                               "\"B\":\"1\",\"a\":\"2\",\"A\":\"1\"}"),
               BUS_ERROR_ABSENT);
  cr_expect_eq(
      feed_text(feed, "1 {\"stream\":\"a23456789012345678901234@x\",\"data\":" SNAPSHOT(9) "}"),
      BUS_ERROR_ABSENT);
  cr_expect_eq(counters->unknown_symbol, 5);
  bus_feed_delete(feed);

  config.snapshot_symbol = "ETHUSDT"; /* learnt at once */
  feed = bus_feed_new(&config);
  cr_assert_not_null(feed, "%s", bus_error_message());
  cr_expect_eq(feed_text(feed, "1 " SNAPSHOT(4)), 1);
  cr_expect_eq(sink_last(&sink)->symbol, 1);
  bus_feed_delete(feed);
  free(sink.records);
}

Test(feed, refuses_bad_configurations)
{
  struct record_sink sink = sink_new(1);
  struct bus_symbol symbols[2] = {{.name = "A"}, {.name = "A"}};
  struct bus_feed_config good;
  bus_feed_config_defaults(&good);
  struct bus_feed_config bad = good;
  cr_expect_null(bus_feed_new(&bad)); /* no sink */
  good.sink = (struct bus_feed_sink){sink_reserve, sink_commit, &sink};
  bad = good;
  bad.symbol_capacity = 0;
  cr_expect_null(bus_feed_new(&bad));
  bad = good;
  bad.price_exponent = 1;
  cr_expect_null(bus_feed_new(&bad));
  bad = good;
  bad.symbols = symbols;
  bad.symbol_count = 2; /* the same twice */
  cr_expect_null(bus_feed_new(&bad));
  bad = good;
  bad.book_levels = 0;
  cr_expect_null(bus_feed_new(&bad));
  bad = good;
  bad.absurd_factor = 0;
  cr_expect_null(bus_feed_new(&bad));
  bad = good;
  bad.snapshot_symbol = "A NAME THAT IS TOO LONG";
  cr_expect_null(bus_feed_new(&bad));
  cr_expect_not_null(strstr(bus_error_message(), "TOO LONG"));
  bus_feed_delete(NULL);
  free(sink.records);
}

Test(feed, counts_records_without_room_and_goes_on)
{
  struct record_sink sink = sink_new(2);
  struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
  sink.refuse_from = 1;
  cr_expect_eq(feed_text(feed, "1 " TICKER(8, "99", "3", "101", "1")), 1);
  cr_expect_eq(feed_text(feed, "1 " TICKER(9, "98", "3", "101", "1")), 0);
  cr_expect_eq(bus_feed_counters(feed)->dropped_records, 1);
  sink.refuse_from = SIZE_MAX;
  cr_expect_eq(feed_text(feed, "1 " TRADE(1, "98", "1")), 1);
  cr_expect_eq(sink_last(&sink)->bid_price, 9800000000); /* the state went on */
  bus_feed_delete(feed);
  free(sink.records);
}

Test(feed, names_its_counters)
{
  for (size_t i = 0; i < BUS_FEED_COUNTER_COUNT; i++) {
    cr_expect_lt(strlen(bus_feed_counter_descriptions[i].name), BUS_NAME_BYTES);
    cr_expect_gt(strlen(bus_feed_counter_descriptions[i].unit), 0);
  }
  cr_expect_str_eq(bus_feed_counter_descriptions[0].name, "messages");
  cr_expect_str_eq(bus_feed_counter_descriptions[BUS_FEED_COUNTER_COUNT - 1].name, "stale");
}

/* --- real captures --- */

/* A slow book: unsorted levels, searched from the start. */
struct reference {
  struct bus_level levels[2][8192];
  uint32_t count[2];
  uint64_t update;
};

static struct bus_binance_level texts[MESSAGE_LEVELS];

static int64_t decimal(const char *text, uint32_t length)
{
  int64_t value;
  cr_assert_eq(bus_decimal_parse(text, length, -8, &value), BUS_OK);
  return value;
}

static void reference_set(struct reference *book, int side, int64_t price, int64_t size)
{
  uint32_t i = 0;
  while (i < book->count[side] && book->levels[side][i].price != price)
    i++;
  if (i == book->count[side])
    book->count[side]++;
  book->levels[side][i] = (struct bus_level){price, size};
  if (size == 0)
    book->levels[side][i] = book->levels[side][--book->count[side]];
}

/* Applies line `i` when it is a snapshot, or a depth message later than `after`. */
static void reference_take(struct reference *book, const struct lines *lines, size_t i,
                           uint64_t after)
{
  struct bus_binance_message message;
  size_t length;
  const char *json = json_of(lines, i, &length);
  cr_assert_eq(bus_binance_parse(json, length, texts, MESSAGE_LEVELS, &message), BUS_OK);
  if (message.kind != BUS_BINANCE_SNAPSHOT &&
      (message.kind != BUS_BINANCE_DEPTH || message.last_update <= after))
    return;
  for (uint32_t k = 0; k < message.bid_count; k++)
    reference_set(book, 0, decimal(message.bids[k].price, message.bids[k].price_length),
                  decimal(message.bids[k].size, message.bids[k].size_length));
  for (uint32_t k = 0; k < message.ask_count; k++)
    reference_set(book, 1, decimal(message.asks[k].price, message.asks[k].price_length),
                  decimal(message.asks[k].size, message.asks[k].size_length));
  book->update = message.last_update;
}

/* The snapshot in line `i` and the diffs before it that it does not contain. On futures the diff
 * with u == lastUpdateId counts too: it may tell levels beyond those that the snapshot lists. */
static void reference_start(struct reference *book, const struct lines *lines, size_t i,
                            enum bus_market market)
{
  reference_take(book, lines, i, 0);
  uint64_t after = book->update - (market == BUS_MARKET_USDM);
  for (size_t k = 0; k < i; k++)
    reference_take(book, lines, k, after);
}

static int by_price_down(const void *a, const void *b)
{
  const struct bus_level *left = a;
  const struct bus_level *right = b;
  return (left->price < right->price) - (left->price > right->price);
}

static int by_price_up(const void *a, const void *b)
{
  return -by_price_down(a, b);
}

static void reference_sort(struct reference *book)
{
  qsort(book->levels[0], book->count[0], sizeof(struct bus_level), by_price_down);
  qsort(book->levels[1], book->count[1], sizeof(struct bus_level), by_price_up);
}

static void reference_compare(struct reference *book, const struct bus_book_sync *sync)
{
  reference_sort(book);
  cr_assert_eq(sync->book_update, book->update);
  for (int side = 0; side < 2; side++) {
    cr_assert_eq(bus_book_count(sync->book, (enum bus_side)side), book->count[side]);
    for (uint32_t n = 0; n < book->count[side]; n++) {
      struct bus_level level = bus_book_level(sync->book, (enum bus_side)side, n);
      cr_assert(level.price == book->levels[side][n].price &&
                    level.size == book->levels[side][n].size,
                "side %d level %u", side, n);
    }
  }
}

/* The reference as the line of a REST snapshot. */
static size_t reference_print(struct reference *book, uint64_t receive_ns, char *text, size_t room)
{
  reference_sort(book);
  size_t used = (size_t)snprintf(text, room, "%lu {\"lastUpdateId\":%lu", (unsigned long)receive_ns,
                                 (unsigned long)book->update);
  for (int side = 0; side < 2; side++) {
    used += (size_t)snprintf(text + used, room - used, side == 0 ? ",\"bids\":[" : ",\"asks\":[");
    for (uint32_t n = 0; n < book->count[side]; n++) {
      const struct bus_level *level = &book->levels[side][n];
      used += (size_t)snprintf(text + used, room - used, "%s[\"%ld.%08ld\",\"%ld.%08ld\"]",
                               n == 0 ? "" : ",", (long)(level->price / 100000000),
                               (long)(level->price % 100000000), (long)(level->size / 100000000),
                               (long)(level->size % 100000000));
    }
    used += (size_t)snprintf(text + used, room - used, "]");
  }
  used += (size_t)snprintf(text + used, room - used, "}");
  cr_assert_lt(used, room);
  return used;
}

static void check_whole(const char *name, enum bus_market market, uint64_t records)
{
  struct lines lines = read_lines(data_path(name));
  struct record_sink sinks[2] = {sink_new(lines.count), sink_new(lines.count)};
  for (int run = 0; run < 2; run++) {
    struct bus_feed *feed = feed_new(&sinks[run], market);
    const struct bus_feed_counters *counters = bus_feed_counters(feed);
    size_t before = allocation_count;
    for (size_t i = 0; i < lines.count; i++)
      cr_assert_geq(
          bus_feed_line(feed, lines.text + lines.start[i], lines.length[i], i + (size_t)run * 1000),
          0);
    cr_expect_eq(allocation_count, before, "bus_feed_line allocates");
    cr_expect_eq(counters->messages, lines.count);
    cr_expect_eq(counters->records, records);
    cr_expect_eq(counters->records, sinks[run].count);
    cr_expect_eq(counters->snapshots, 1);
    cr_expect_eq(counters->depth_gaps + counters->resync + counters->buffer_overflow, 0);
    cr_expect_eq(counters->garbage_lines + counters->price_invalid + counters->crossed, 0);
    cr_expect_eq(counters->levels_dropped + counters->depth_stale, 0);
    cr_expect_eq(counters->records + counters->depth_held + counters->book_tickers_stale,
                 counters->messages);
    bus_feed_delete(feed);
  }
  cr_assert_eq(sinks[0].count, sinks[1].count);
  for (size_t i = 0; i < sinks[0].count; i++) {
    cr_assert_eq(sinks[0].records[i].timestamp_ns + 1000, sinks[1].records[i].timestamp_ns);
    cr_assert_eq(memcmp(&sinks[0].records[i].bid_price, &sinks[1].records[i].bid_price,
                        sizeof(struct bus_feature) - 8),
                 0, "record %zu", i);
  }
  free(sinks[0].records);
  free(sinks[1].records);
  free_lines(&lines);
}

Test(feed, real_spot_twice_gives_the_same_records)
{
  check_whole(SPOT_CAPTURE, BUS_MARKET_SPOT, 41246);
}

Test(feed, real_futures_twice_gives_the_same_records)
{
  check_whole(USDM_CAPTURE, BUS_MARKET_USDM, 74312);
}

enum { DROPPED = 500, INSERTED = 650, CHECKED = 900 }; /* depth messages */

/* The flags that the phase between the loss and the new snapshot calls for. */
static void check_flags(const struct record_sink *sink, bool is_lost, bool is_snapshot)
{
  uint8_t flags = sink_last(sink)->flags;
  cr_assert_eq((flags & BUS_FEATURE_RESYNC) != 0, is_lost);
  cr_assert_eq((flags & BUS_FEATURE_SNAPSHOT) != 0, is_snapshot);
  cr_assert(flags & BUS_FEATURE_VALID);
}

/* While the book waits, the best must be the bookTicker's. */
static void check_best(const struct record_sink *sink, const struct lines *lines, size_t i)
{
  struct bus_binance_message message;
  size_t length;
  const char *json = json_of(lines, i, &length);
  cr_assert_eq(bus_binance_parse(json, length, texts, MESSAGE_LEVELS, &message), BUS_OK);
  if (message.kind != BUS_BINANCE_BOOK_TICKER)
    return;
  cr_assert_eq(sink_last(sink)->bid_price,
               decimal(message.bid_price.text, message.bid_price.length));
  cr_assert_eq(sink_last(sink)->ask_size, decimal(message.ask_size.text, message.ask_size.length));
}

static void lose_and_recover(const char *name, enum bus_market market)
{
  struct lines lines = read_lines(data_path(name));
  struct record_sink sink = sink_new(16);
  struct bus_feed *feed = feed_new(&sink, market);
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  struct reference *book = calloc(1, sizeof *book);
  char *text = malloc(BUS_FEED_LINE_BYTES_MAX);
  bool is_lost = false;
  int depths = 0;
  bool has_snapshot = false;
  for (size_t i = 0; i < lines.count && depths < CHECKED; i++) {
    bool is_snapshot = memmem(lines.text + lines.start[i], lines.length[i], "lastUpdateId", 12);
    has_snapshot |= is_snapshot;
    bool is_counted = has_snapshot && is_depth(&lines, i);
    if (is_snapshot)
      reference_start(book, &lines, i, market);
    else if (has_snapshot)
      reference_take(book, &lines, i, 0);
    depths += is_counted;
    if (is_counted && depths == DROPPED)
      continue; /* lost on the way */
    int result = feed_at(feed, &lines, i);
    cr_assert_geq(result, 0);
    if (is_counted && depths == DROPPED + 1) {
      is_lost = true;
      cr_assert_eq(result, 0);
    }
    if (result == 1 && has_snapshot)
      check_flags(&sink, is_lost, is_snapshot);
    if (result == 1 && is_lost)
      check_best(&sink, &lines, i);
    if (is_counted && depths == INSERTED) {
      uint64_t receive_ns = strtoull(lines.text + lines.start[i], NULL, 10);
      size_t length = reference_print(book, receive_ns, text, BUS_FEED_LINE_BYTES_MAX);
      is_lost = false;
      cr_assert_eq(bus_feed_line(feed, text, length, i), 1);
      check_flags(&sink, false, true);
    }
    if (is_counted && (depths > INSERTED || depths < DROPPED) && depths % 7 == 0)
      reference_compare(book, bus_feed_book(feed, 0));
  }
  cr_expect_eq(depths, CHECKED);
  cr_expect_eq(counters->depth_gaps, 1);
  cr_expect_eq(counters->resync, 1);
  cr_expect_eq(counters->snapshots, 2);
  cr_expect_eq(counters->buffer_overflow, 0);
  free(text);
  free(book);
  bus_feed_delete(feed);
  free(sink.records);
  free_lines(&lines);
}

Test(feed, loses_a_spot_diff_and_recovers)
{
  lose_and_recover(SPOT_CAPTURE, BUS_MARKET_SPOT);
}

Test(feed, loses_a_futures_diff_and_recovers)
{
  lose_and_recover(USDM_CAPTURE, BUS_MARKET_USDM);
}

Test(feed, survives_every_truncation)
{
  struct lines lines = read_lines(data_path(SPOT_CAPTURE));
  struct record_sink sink = sink_new(16);
  struct bus_feed *feed = feed_new(&sink, BUS_MARKET_SPOT);
  uint64_t cuts = 0;
  for (size_t i = 0; i < 20; i++)
    for (size_t cut = 0; cut<lines.length[i]; cut += lines.length[i]> 4096 ? 101 : 1) {
      cr_assert_eq(bus_feed_line(feed, lines.text + lines.start[i], cut, i), BUS_ERROR_FORMAT);
      cuts++;
    }
  cr_expect_eq(bus_feed_counters(feed)->garbage_lines, cuts);
  for (size_t i = 0; i < lines.count; i++)
    cr_assert_geq(feed_at(feed, &lines, i), 0);
  cr_expect_eq(bus_feed_counters(feed)->records, 41246);
  bus_feed_delete(feed);
  free(sink.records);
  free_lines(&lines);
}
