#include "producers/features.h"
#include "producers/feed.h"
#include "shm/error.h"

#include <stdlib.h>
#include <string.h>

static struct bus_feature slot;

static struct bus_feature *reserve(void *context)
{
  (void)context;
  return &slot;
}

/* Every record must be sane, whatever the lines were. */
static void commit(void *context)
{
  (void)context;
  for (int i = 0; i < BUS_FEATURE_INPUTS; i++)
    if (!(slot.x[i] >= bus_feature_descriptions[i].low &&
          slot.x[i] <= bus_feature_descriptions[i].high))
      abort();
  if (slot.bid_price < 0 || slot.ask_price < 0 || slot.bid_size < 0 || slot.ask_size < 0)
    abort();
}

/* The first byte chooses the market, the rest are lines. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct bus_feed_config config;
  if (size == 0)
    return 0;
  bus_feed_config_defaults(&config);
  config.market = data[0] & 1 ? BUS_MARKET_USDM : BUS_MARKET_SPOT;
  config.symbol_capacity = 2;
  config.message_levels = 32;
  config.book_levels = 8;
  config.held_diffs = 3;
  config.held_levels = 12;
  config.sink = (struct bus_feed_sink){reserve, commit, NULL};
  struct bus_feed *feed = bus_feed_new(&config);
  if (feed == NULL)
    abort();
  const char *at = (const char *)data + 1;
  const char *end = (const char *)data + size;
  while (at < end) {
    const char *newline = memchr(at, '\n', (size_t)(end - at));
    const char *stop = newline != NULL ? newline : end;
    bus_feed_line(feed, at, (size_t)(stop - at), 1);
    at = newline != NULL ? newline + 1 : end;
  }
  for (uint32_t i = 0; i < bus_feed_symbol_count(feed); i++) {
    const struct bus_book *book = bus_feed_book(feed, i)->book;
    if (!bus_book_is_valid(book) && !bus_book_is_crossed(book))
      abort();
  }
  bus_feed_delete(feed);
  return 0;
}
