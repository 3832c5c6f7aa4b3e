#include "producers/feed.h"
#include "producers/source_synthetic.h"
#include "tests/producer_fixture.h"

static struct bus_source *open_with(uint64_t seed, uint64_t lines, uint32_t symbols,
                                    enum bus_market market)
{
  struct bus_source_synthetic_config config;
  bus_source_synthetic_defaults(&config);
  config.seed = seed;
  config.lines = lines;
  config.symbols = symbols;
  config.market = market;
  struct bus_source *source = bus_source_synthetic_open(&config);
  cr_assert_not_null(source, "%s", bus_error_message());
  return source;
}

/* A right synchroniser sees nothing odd: this checks the exchange and the feed against each other.
 */
static void run(uint64_t seed, uint32_t symbols, enum bus_market market)
{
  enum { LINES = 200000 };
  struct bus_source *source = open_with(seed, LINES, symbols, market);
  struct record_sink sink = sink_new(64);
  struct bus_feed_config config;
  bus_feed_config_defaults(&config);
  config.market = market;
  config.symbol_capacity = symbols;
  config.book_levels = 1024;
  config.sink = (struct bus_feed_sink){sink_reserve, sink_commit, &sink};
  struct bus_feed *feed = bus_feed_new(&config);
  cr_assert_not_null(feed, "%s", bus_error_message());
  const char *line;
  size_t length;
  size_t lines = 0;
  size_t before = allocation_count;
  while (bus_source_next(source, &line, &length) == 1) {
    cr_assert_geq(bus_feed_line(feed, line, length, lines), 0, "%.*s", (int)length, line);
    lines++;
  }
  cr_expect_eq(allocation_count, before);
  cr_expect_eq(lines, LINES);
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  cr_expect_eq(counters->depth_gaps, 0);
  cr_expect_eq(counters->snapshots, symbols);
  cr_expect_eq(counters->depth_stale + counters->book_tickers_stale, 0);
  cr_expect_eq(counters->crossed, 0);
  cr_expect_eq(counters->price_invalid, 0);
  cr_expect_eq(counters->unknown_symbol, 0);
  cr_expect_gt(counters->trades, LINES / 20);
  cr_expect_gt(counters->depth_applied, LINES / 200);
  cr_expect_eq(bus_feed_symbol_count(feed), symbols);
  for (uint32_t i = 0; i < symbols; i++) {
    const struct bus_book_sync *sync = bus_feed_book(feed, i);
    cr_expect_eq(sync->state, BUS_BOOK_SYNC_LIVE);
    cr_expect(bus_book_is_valid(sync->book));
    cr_expect_eq(bus_book_count(sync->book, BUS_SIDE_BID), 64);
    cr_expect_eq(bus_book_count(sync->book, BUS_SIDE_ASK), 64);
  }
  bus_feed_delete(feed);
  bus_source_close(source);
  free(sink.records);
}

Test(source_synthetic, is_consistent)
{
  run(1, 4, BUS_MARKET_SPOT);
  run(2, 1, BUS_MARKET_SPOT);
  run(3, BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX, BUS_MARKET_SPOT);
  run(4, 4, BUS_MARKET_USDM);
}

Test(source_synthetic, same_seed_same_bytes)
{
  struct bus_source *first = open_with(7, 50000, 4, BUS_MARKET_SPOT);
  struct bus_source *same = open_with(7, 50000, 4, BUS_MARKET_SPOT);
  struct bus_source *other = open_with(8, 50000, 4, BUS_MARKET_SPOT);
  const char *line[3];
  size_t length[3];
  size_t differences = 0;
  while (bus_source_next(first, &line[0], &length[0]) == 1) {
    cr_assert_eq(bus_source_next(same, &line[1], &length[1]), 1);
    cr_assert_eq(bus_source_next(other, &line[2], &length[2]), 1);
    cr_assert_eq(length[0], length[1]);
    cr_assert_eq(memcmp(line[0], line[1], length[0]), 0);
    differences += length[0] != length[2] || memcmp(line[0], line[2], length[0]) != 0;
  }
  cr_expect_gt(differences, 40000);
  cr_expect_eq(bus_source_next(same, &line[1], &length[1]), 0);
  bus_source_close(first);
  bus_source_close(same);
  bus_source_close(other);
}

Test(source_synthetic, comes_in_bursts)
{
  struct bus_source *source = open_with(1, 500000, 4, BUS_MARKET_SPOT);
  const char *line;
  size_t length;
  uint64_t previous_ns = 0;
  uint64_t millisecond = 0;
  uint32_t in_millisecond = 0;
  uint32_t most = 0;
  uint32_t milliseconds = 0;
  while (bus_source_next(source, &line, &length) == 1) {
    uint64_t now_ns = strtoull(line, NULL, 10);
    cr_assert_geq(now_ns, previous_ns);
    previous_ns = now_ns;
    if (now_ns / 1000000 != millisecond) {
      millisecond = now_ns / 1000000;
      in_millisecond = 0;
      milliseconds++;
    }
    in_millisecond++;
    most = in_millisecond > most ? in_millisecond : most;
  }
  cr_log_info("most messages in a millisecond: %u, mean %.1f", most, 500000.0 / milliseconds);
  cr_expect(most >= 60 && most <= 300, "%u", most);
  bus_source_close(source);
}

Test(source_synthetic, refuses_bad_parameters)
{
  struct bus_source_synthetic_config config;
  bus_source_synthetic_defaults(&config);
  config.symbols = 0;
  cr_expect_null(bus_source_synthetic_open(&config));
  config.symbols = BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX + 1;
  cr_expect_null(bus_source_synthetic_open(&config));
  bus_source_synthetic_defaults(&config);
  config.mean_interval_ns = 1;
  cr_expect_null(bus_source_synthetic_open(&config));
  cr_expect_str_neq(bus_error_message(), "");
  cr_expect_null(bus_source_synthetic_symbol(BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX));
  cr_expect_str_eq(bus_source_synthetic_symbol(0), "SYNBTC");
}
