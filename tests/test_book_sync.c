#include "producers/binance_message.h"
#include "producers/book_sync.h"
#include "producers/decimal.h"
#include "tests/producer_fixture.h"

static struct bus_book_sync *sync_new(enum bus_market market)
{
  struct bus_book_sync_config config = {market, 4096, 64, 1024};
  struct bus_book_sync *sync = bus_book_sync_new(&config);
  cr_assert_not_null(sync, "%s", bus_error_message());
  return sync;
}

/* A diff that sets one bid. */
static enum bus_book_sync_result bid_diff(struct bus_book_sync *sync, uint64_t first, uint64_t last,
                                          uint64_t previous, int64_t price, int64_t size)
{
  struct bus_level bid = {price, size};
  struct bus_book_diff diff = {first, last, previous, &bid, NULL, 1, 0};
  return bus_book_sync_diff(sync, &diff);
}

static enum bus_book_sync_result snapshot(struct bus_book_sync *sync, uint64_t last)
{
  static const struct bus_level bids[] = {{100, 10}, {99, 9}, {98, 8}};
  static const struct bus_level asks[] = {{101, 11}, {102, 12}, {103, 13}};
  return bus_book_sync_snapshot(sync, last, bids, 3, asks, 3);
}

static int64_t bid_size(const struct bus_book_sync *sync, int64_t price)
{
  for (uint32_t i = 0; i < bus_book_count(sync->book, BUS_SIDE_BID); i++)
    if (bus_book_level(sync->book, BUS_SIDE_BID, i).price == price)
      return bus_book_level(sync->book, BUS_SIDE_BID, i).size;
  return 0;
}

Test(book_sync, spot_joins_held_diffs_to_the_snapshot)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_SPOT);
  cr_expect_not(bus_book_sync_wants_snapshot(sync));
  cr_expect_eq(bid_diff(sync, 1, 5, 0, 90, 1), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(bid_diff(sync, 6, 10, 0, 91, 2), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(bid_diff(sync, 11, 15, 0, 92, 3), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(bid_diff(sync, 11, 15, 0, 92, 3), BUS_BOOK_SYNC_STALE);
  cr_expect(bus_book_sync_wants_snapshot(sync));
  cr_expect_eq(snapshot(sync, 8), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(sync->state, BUS_BOOK_SYNC_LIVE);
  cr_expect_eq(bid_size(sync, 90), 0); /* u <= lastUpdateId: dropped */
  cr_expect_eq(bid_size(sync, 91), 2);
  cr_expect_eq(bid_size(sync, 92), 3);
  cr_expect_eq(sync->book_update, 15);
  cr_expect_eq(bid_diff(sync, 14, 15, 0, 93, 1), BUS_BOOK_SYNC_STALE);
  cr_expect_eq(bid_diff(sync, 15, 16, 0, 93, 1), BUS_BOOK_SYNC_APPLIED); /* overlap is fine */
  cr_expect_eq(bid_diff(sync, 17, 17, 0, 93, 2), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 30, 20, 0, 93, 2), BUS_BOOK_SYNC_REFUSED);
  cr_expect_eq(sync->gaps, 0);
  bus_book_sync_delete(sync);
}

Test(book_sync, spot_sees_a_gap_and_recovers)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_SPOT);
  cr_expect_eq(snapshot(sync, 8), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 9, 10, 0, 91, 1), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 12, 13, 0, 92, 1), BUS_BOOK_SYNC_GAP);
  cr_expect_eq(sync->state, BUS_BOOK_SYNC_RESYNC);
  cr_expect_eq(sync->gaps, 1);
  cr_expect_eq(bid_size(sync, 92), 0);
  cr_expect_eq(bid_diff(sync, 14, 16, 0, 93, 1), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(snapshot(sync, 10), BUS_BOOK_SYNC_REFUSED); /* does not reach the gap's end */
  cr_expect_eq(sync->state, BUS_BOOK_SYNC_RESYNC);
  cr_expect_eq(snapshot(sync, 11), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_size(sync, 91), 0);
  cr_expect_eq(bid_size(sync, 92), 1);
  cr_expect_eq(sync->book_update, 16);
  cr_expect_eq(snapshot(sync, 16), BUS_BOOK_SYNC_STALE);
  cr_expect_eq(sync->gaps, 1);
  bus_book_sync_delete(sync);
}

Test(book_sync, gap_among_held_diffs_keeps_those_after_it)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_SPOT);
  bid_diff(sync, 1, 5, 0, 90, 1);
  cr_expect_eq(bid_diff(sync, 8, 9, 0, 91, 1), BUS_BOOK_SYNC_GAP);
  cr_expect_eq(sync->gaps, 1);
  cr_expect_eq(snapshot(sync, 4), BUS_BOOK_SYNC_REFUSED);
  cr_expect_eq(snapshot(sync, 7), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(sync->book_update, 9);
  bus_book_sync_delete(sync);
}

Test(book_sync, first_diff_after_the_snapshot_must_join_it)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_SPOT);
  cr_expect_eq(snapshot(sync, 8), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 10, 12, 0, 91, 1), BUS_BOOK_SYNC_GAP);
  bus_book_sync_delete(sync);

  sync = sync_new(BUS_MARKET_USDM);
  cr_expect_eq(snapshot(sync, 100), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 80, 99, 70, 91, 1), BUS_BOOK_SYNC_STALE);
  cr_expect_eq(bid_diff(sync, 105, 120, 103, 91, 1), BUS_BOOK_SYNC_GAP);
  bus_book_sync_delete(sync);
}

Test(book_sync, futures_rules)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_USDM);
  bid_diff(sync, 10, 50, 5, 90, 1);
  bid_diff(sync, 60, 100, 50, 91, 2); /* u == lastUpdateId still counts */
  bid_diff(sync, 130, 140, 100, 92, 3);
  cr_expect_eq(snapshot(sync, 100), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_size(sync, 90), 0);
  cr_expect_eq(bid_size(sync, 91), 2);
  cr_expect_eq(bid_size(sync, 92), 3);
  cr_expect_eq(bid_diff(sync, 150, 160, 140, 93, 1), BUS_BOOK_SYNC_APPLIED); /* U != u + 1 */
  cr_expect_eq(bid_diff(sync, 161, 170, 155, 94, 1), BUS_BOOK_SYNC_GAP);     /* pu is what counts */
  cr_expect_eq(bid_diff(sync, 171, 180, 170, 95, 1), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(snapshot(sync, 154), BUS_BOOK_SYNC_REFUSED);
  cr_expect_eq(snapshot(sync, 155), BUS_BOOK_SYNC_APPLIED); /* pu == lastUpdateId */
  cr_expect_eq(bid_size(sync, 94), 1);
  cr_expect_eq(bid_size(sync, 95), 1);
  cr_expect_eq(sync->book_update, 180);
  bus_book_sync_delete(sync);
}

Test(book_sync, futures_first_diff_spans_the_snapshot)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_USDM);
  cr_expect_eq(snapshot(sync, 100), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 90, 110, 80, 91, 1), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bid_diff(sync, 111, 120, 105, 91, 1), BUS_BOOK_SYNC_GAP);
  bus_book_sync_delete(sync);
}

Test(book_sync, drops_the_oldest_held_when_full)
{
  struct bus_book_sync_config config = {BUS_MARKET_SPOT, 16, 4, 5};
  struct bus_book_sync *sync = bus_book_sync_new(&config);
  for (uint64_t u = 1; u <= 6; u++)
    cr_expect_eq(bid_diff(sync, u, u, 0, (int64_t)u, (int64_t)u), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(sync->diffs_overflowed, 2);
  cr_expect_eq(snapshot(sync, 1), BUS_BOOK_SYNC_REFUSED); /* 2 is lost */
  cr_expect(bus_book_sync_wants_snapshot(sync));

  /* Two levels each: the levels run out before the diffs do, and wrap around. */
  struct bus_level bids[] = {{7, 7}, {8, 8}, {9, 9}, {10, 10}, {11, 11}, {12, 12}};
  for (uint64_t u = 7; u <= 30; u++) {
    struct bus_book_diff diff = {u, u, 0, bids, bids + 1, 1, 1};
    cr_expect_eq(bus_book_sync_diff(sync, &diff), BUS_BOOK_SYNC_HELD);
  }
  cr_expect_eq(sync->held_count, 2);
  struct bus_book_diff large = {31, 31, 0, bids, NULL, 6, 0};
  cr_expect_eq(bus_book_sync_diff(sync, &large), BUS_BOOK_SYNC_HELD);
  cr_expect_eq(sync->held_count, 0);
  cr_expect_eq(sync->diffs_overflowed, 2 + 4 + 24 + 1);
  cr_expect_eq(snapshot(sync, 40), BUS_BOOK_SYNC_APPLIED);
  bus_book_sync_delete(sync);
}

Test(book_sync, best_follows_the_newest_of_ticker_and_depth)
{
  struct bus_book_sync *sync = sync_new(BUS_MARKET_SPOT);
  struct bus_level top[4];
  snapshot(sync, 8);
  cr_expect_eq(sync->best[BUS_SIDE_BID].price, 100);
  cr_expect_eq(bus_book_sync_ticker(sync, 7, (struct bus_level){97, 1}, (struct bus_level){98, 1}),
               BUS_BOOK_SYNC_STALE);
  /* Ahead and lower: the better levels are gone, the rest stays. */
  cr_expect_eq(
      bus_book_sync_ticker(sync, 20, (struct bus_level){99, 4}, (struct bus_level){100, 5}),
      BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(bus_book_sync_top(sync, BUS_SIDE_BID, top, 4), 2);
  cr_expect(top[0].price == 99 && top[0].size == 4 && top[1].price == 98 && top[2].size == 0);
  cr_expect_eq(bus_book_sync_top(sync, BUS_SIDE_ASK, top, 4), 4);
  cr_expect(top[0].price == 100 && top[1].price == 101 && top[3].price == 103);
  /* A diff behind the ticker changes the levels, not the best. */
  cr_expect_eq(bid_diff(sync, 9, 15, 0, 97, 7), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(sync->best[BUS_SIDE_BID].price, 99);
  cr_expect_eq(bus_book_sync_top(sync, BUS_SIDE_BID, top, 4), 3);
  cr_expect_eq(top[2].price, 97);
  cr_expect_eq(bid_diff(sync, 16, 21, 0, 97, 6), BUS_BOOK_SYNC_APPLIED);
  cr_expect_eq(sync->best[BUS_SIDE_BID].price, 100); /* the book has caught up */
  /* An empty side. */
  bus_book_sync_ticker(sync, 22, (struct bus_level){99, 0}, (struct bus_level){101, 5});
  cr_expect_eq(bus_book_sync_top(sync, BUS_SIDE_BID, top, 4), 0);
  cr_expect_eq(sync->best[BUS_SIDE_BID].price, 0);
  bus_book_sync_reset(sync);
  cr_expect_eq(sync->state, BUS_BOOK_SYNC_RESYNC);
  cr_expect_eq(bus_book_sync_ticker(sync, 3, (struct bus_level){97, 1}, (struct bus_level){98, 1}),
               BUS_BOOK_SYNC_APPLIED);
  bus_book_sync_delete(sync);
}

Test(book_sync, refuses_bad_parameters)
{
  struct bus_book_sync_config config = {BUS_MARKET_SPOT, 16, 0, 5};
  cr_expect_null(bus_book_sync_new(&config));
  config = (struct bus_book_sync_config){BUS_MARKET_SPOT, 0, 4, 5};
  cr_expect_null(bus_book_sync_new(&config));
  config = (struct bus_book_sync_config){(enum bus_market)9, 16, 4, 5};
  cr_expect_null(bus_book_sync_new(&config));
  cr_expect_str_neq(bus_error_message(), "");
}

/* --- ground truth: the real captures --- */

struct best {
  uint64_t update;
  struct bus_level bid;
  struct bus_level ask;
};

static struct bus_binance_level texts[4096];
static struct bus_level levels[4096];

static int64_t decimal(const char *text, uint32_t length)
{
  int64_t value;
  cr_assert_eq(bus_decimal_parse(text, length, -8, &value), BUS_OK);
  return value;
}

static void convert(const struct bus_binance_level *from, uint32_t count, struct bus_level *to)
{
  for (uint32_t i = 0; i < count; i++) {
    to[i].price = decimal(from[i].price, from[i].price_length);
    to[i].size = decimal(from[i].size, from[i].size_length);
  }
}

/* Takes depth and snapshots only; the best of the book after each step is noted. */
static void take(struct bus_book_sync *sync, const struct bus_binance_message *message,
                 struct best *bests, size_t *count)
{
  convert(message->bids, message->bid_count, levels);
  convert(message->asks, message->ask_count, levels + message->bid_count);
  struct bus_book_diff diff = {
      .first_update = message->first_update,
      .last_update = message->last_update,
      .previous_update = message->previous_update,
      .bids = levels,
      .asks = levels + message->bid_count,
      .bid_count = message->bid_count,
      .ask_count = message->ask_count,
  };
  enum bus_book_sync_result result =
      message->kind == BUS_BINANCE_DEPTH
          ? bus_book_sync_diff(sync, &diff)
          : bus_book_sync_snapshot(sync, message->last_update, diff.bids, diff.bid_count, diff.asks,
                                   diff.ask_count);
  if (result != BUS_BOOK_SYNC_APPLIED) {
    cr_assert_eq(result, BUS_BOOK_SYNC_HELD);
    return;
  }
  bests[(*count)++] = (struct best){sync->book_update, bus_book_best(sync->book, BUS_SIDE_BID),
                                    bus_book_best(sync->book, BUS_SIDE_ASK)};
}

static struct best ticker_of(const struct bus_binance_message *message)
{
  return (struct best){
      .update = message->last_update,
      .bid = {decimal(message->bid_price.text, message->bid_price.length),
              decimal(message->bid_size.text, message->bid_size.length)},
      .ask = {decimal(message->ask_price.text, message->ask_price.length),
              decimal(message->ask_size.text, message->ask_size.length)},
  };
}

/* Both lists are in the order of their update ids. */
static size_t compare(const struct best *books, size_t book_count, const struct best *tickers,
                      size_t ticker_count)
{
  size_t shared = 0;
  for (size_t i = 0, k = 0; i < book_count && k < ticker_count;) {
    if (books[i].update != tickers[k].update) {
      if (books[i].update < tickers[k].update)
        i++;
      else
        k++;
      continue;
    }
    cr_assert_eq(memcmp(&books[i], &tickers[k], sizeof books[i]), 0, "update %lu",
                 (unsigned long)books[i].update);
    shared++;
    i++;
    k++;
  }
  return shared;
}

static void check_capture(const char *name, enum bus_market market, size_t expected)
{
  struct lines lines = read_lines(data_path(name));
  struct best *books = calloc(lines.count, sizeof *books);
  struct best *tickers = calloc(lines.count, sizeof *tickers);
  size_t book_count = 0;
  size_t ticker_count = 0;
  struct bus_book_sync *sync = sync_new(market);
  for (size_t i = 0; i < lines.count; i++) {
    struct bus_binance_message message;
    size_t length;
    const char *json = json_of(&lines, i, &length);
    cr_assert_eq(bus_binance_parse(json, length, texts, 4096, &message), BUS_OK);
    if (message.kind == BUS_BINANCE_BOOK_TICKER)
      tickers[ticker_count++] = ticker_of(&message);
    else if (message.kind != BUS_BINANCE_TRADE)
      take(sync, &message, books, &book_count);
  }
  cr_assert(bus_book_is_valid(sync->book));
  cr_expect_eq(sync->gaps, 0);
  cr_expect_eq(sync->diffs_overflowed, 0);
  size_t shared = compare(books, book_count, tickers, ticker_count);
  cr_log_info("%s: the book equals bookTicker at %zu shared update ids", name, shared);
  cr_expect_eq(shared, expected, "%zu shared update ids", shared);
  bus_book_sync_delete(sync);
  free(books);
  free(tickers);
  free_lines(&lines);
}

/* A shared id is the u of an applied depthUpdate and of a bookTicker. */
Test(book_sync, equals_real_spot_tickers_at_all_564_shared_ids)
{
  check_capture(SPOT_CAPTURE, BUS_MARKET_SPOT, 564);
}

Test(book_sync, equals_real_futures_tickers_at_all_551_shared_ids)
{
  check_capture(USDM_CAPTURE, BUS_MARKET_USDM, 551);
}
