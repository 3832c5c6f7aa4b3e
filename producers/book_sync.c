#include "producers/book_sync.h"

#include "shm/error.h"

#include <stdlib.h>
#include <string.h>

/* A diff that waits for a snapshot. Its levels, bids first, start at `position` in the ring. */
struct bus_book_sync_held {
  uint64_t first_update;
  uint64_t last_update;
  uint64_t previous_update;
  uint64_t position;
  uint32_t bid_count;
  uint32_t ask_count;
};

static void *take_memory(size_t count, size_t bytes)
{
  void *memory = malloc(count * bytes);
  if (memory != NULL)
    explicit_bzero(memory, count * bytes); /* touches the pages; memset would become calloc */
  return memory;
}

struct bus_book_sync *bus_book_sync_new(const struct bus_book_sync_config *config)
{
  if (config->held_diffs == 0 || config->held_levels == 0 ||
      (config->market != BUS_MARKET_SPOT && config->market != BUS_MARKET_USDM)) {
    bus_error_set(BUS_ERROR_INVALID, "book: market %d, %u held diffs, %u held levels: out of range",
                  (int)config->market, config->held_diffs, config->held_levels);
    return NULL;
  }
  struct bus_book_sync *sync = calloc(1, sizeof *sync);
  if (sync == NULL) {
    bus_error_set_errno("book: %zu bytes", sizeof *sync);
    return NULL;
  }
  sync->market = config->market;
  sync->held_capacity = config->held_diffs;
  sync->levels_capacity = config->held_levels;
  sync->held = take_memory(config->held_diffs, sizeof *sync->held);
  sync->levels = take_memory(config->held_levels, sizeof *sync->levels);
  if (sync->held == NULL || sync->levels == NULL) {
    bus_error_set_errno("book: room for %u diffs with %u levels", config->held_diffs,
                        config->held_levels);
    bus_book_sync_delete(sync);
    return NULL;
  }
  sync->book = bus_book_new(config->book_levels);
  if (sync->book == NULL) {
    bus_book_sync_delete(sync);
    return NULL;
  }
  return sync;
}

void bus_book_sync_delete(struct bus_book_sync *sync)
{
  if (sync == NULL)
    return;
  bus_book_delete(sync->book);
  free(sync->levels);
  free(sync->held);
  free(sync);
}

void bus_book_sync_reset(struct bus_book_sync *sync)
{
  if (sync->state == BUS_BOOK_SYNC_LIVE)
    sync->state = BUS_BOOK_SYNC_RESYNC;
  sync->held_count = 0;
  sync->best_update = 0;
}

static void drop_oldest(struct bus_book_sync *sync)
{
  sync->held_first = sync->held_first + 1 == sync->held_capacity ? 0 : sync->held_first + 1;
  sync->held_count--;
}

static struct bus_book_sync_held *held_at(const struct bus_book_sync *sync, uint32_t n)
{
  return &sync->held[((uint64_t)sync->held_first + n) % sync->held_capacity];
}

/* A position from which `count` levels lie in one piece, dropping the oldest diffs for it. */
static uint64_t make_room(struct bus_book_sync *sync, uint32_t count)
{
  uint64_t position = sync->levels_next;
  uint64_t index = position % sync->levels_capacity;
  if (index + count > sync->levels_capacity)
    position += sync->levels_capacity - index;
  while (sync->held_count > 0 &&
         (sync->held_count == sync->held_capacity ||
          position + count - held_at(sync, 0)->position > sync->levels_capacity)) {
    drop_oldest(sync);
    sync->diffs_overflowed++;
  }
  return position;
}

static void push(struct bus_book_sync *sync, const struct bus_book_diff *diff)
{
  uint64_t count = (uint64_t)diff->bid_count + diff->ask_count;
  if (count > sync->levels_capacity) {
    /* Without this one, those before it are of no use either. */
    sync->diffs_overflowed += (uint64_t)sync->held_count + 1;
    sync->held_count = 0;
    return;
  }
  uint64_t position = make_room(sync, (uint32_t)count);
  struct bus_level *levels = sync->levels + position % sync->levels_capacity;
  if (diff->bid_count > 0)
    memcpy(levels, diff->bids, diff->bid_count * sizeof *levels);
  if (diff->ask_count > 0)
    memcpy(levels + diff->bid_count, diff->asks, diff->ask_count * sizeof *levels);
  *held_at(sync, sync->held_count) = (struct bus_book_sync_held){
      .first_update = diff->first_update,
      .last_update = diff->last_update,
      .previous_update = diff->previous_update,
      .position = position,
      .bid_count = diff->bid_count,
      .ask_count = diff->ask_count,
  };
  sync->held_count++;
  sync->levels_next = position + count;
}

/* Whether `diff` directly follows update `last`. */
static bool follows(enum bus_market market, const struct bus_book_diff *diff, uint64_t last)
{
  return market == BUS_MARKET_SPOT ? diff->first_update <= last + 1 : diff->previous_update == last;
}

/* Keeps a diff for the next snapshot. Held diffs always continue one another: what lies before a
 * gap could be joined to a snapshot, but not be carried past the gap. */
static enum bus_book_sync_result hold(struct bus_book_sync *sync, const struct bus_book_diff *diff)
{
  enum bus_book_sync_result result = BUS_BOOK_SYNC_HELD;
  if (sync->held_count > 0) {
    uint64_t last = held_at(sync, sync->held_count - 1)->last_update;
    if (diff->last_update <= last)
      return BUS_BOOK_SYNC_STALE;
    if (!follows(sync->market, diff, last)) {
      sync->gaps++;
      sync->held_count = 0;
      result = BUS_BOOK_SYNC_GAP;
    }
  }
  push(sync, diff);
  return result;
}

static bool is_stale(const struct bus_book_sync *sync, const struct bus_book_diff *diff)
{
  if (sync->is_joining && sync->market == BUS_MARKET_USDM)
    return diff->last_update < sync->book_update;
  return diff->last_update <= sync->book_update;
}

static bool continues(const struct bus_book_sync *sync, const struct bus_book_diff *diff)
{
  if (sync->is_joining && sync->market == BUS_MARKET_USDM &&
      diff->first_update <= sync->book_update && diff->last_update >= sync->book_update)
    return true;
  return follows(sync->market, diff, sync->book_update);
}

static void apply(struct bus_book_sync *sync, const struct bus_book_diff *diff)
{
  for (uint32_t i = 0; i < diff->bid_count; i++)
    bus_book_set(sync->book, BUS_SIDE_BID, diff->bids[i].price, diff->bids[i].size);
  for (uint32_t i = 0; i < diff->ask_count; i++)
    bus_book_set(sync->book, BUS_SIDE_ASK, diff->asks[i].price, diff->asks[i].size);
  sync->book_update = diff->last_update;
  sync->is_joining = false;
}

/* The best level is the book's, unless a bookTicker has told a newer one. */
static void refresh_best(struct bus_book_sync *sync)
{
  if (sync->book_update < sync->best_update)
    return;
  sync->best[BUS_SIDE_BID] = bus_book_best(sync->book, BUS_SIDE_BID);
  sync->best[BUS_SIDE_ASK] = bus_book_best(sync->book, BUS_SIDE_ASK);
  sync->best_update = sync->book_update;
}

enum bus_book_sync_result bus_book_sync_diff(struct bus_book_sync *sync,
                                             const struct bus_book_diff *diff)
{
  if (diff->first_update > diff->last_update)
    return BUS_BOOK_SYNC_REFUSED;
  sync->has_seen_diff = true;
  if (sync->state != BUS_BOOK_SYNC_LIVE)
    return hold(sync, diff);
  if (is_stale(sync, diff))
    return BUS_BOOK_SYNC_STALE;
  if (!continues(sync, diff)) {
    sync->gaps++;
    sync->state = BUS_BOOK_SYNC_RESYNC;
    sync->held_count = 0;
    push(sync, diff);
    return BUS_BOOK_SYNC_GAP;
  }
  apply(sync, diff);
  refresh_best(sync);
  return BUS_BOOK_SYNC_APPLIED;
}

static struct bus_book_diff diff_of(const struct bus_book_sync *sync,
                                    const struct bus_book_sync_held *held)
{
  const struct bus_level *levels = sync->levels + held->position % sync->levels_capacity;
  return (struct bus_book_diff){
      .first_update = held->first_update,
      .last_update = held->last_update,
      .previous_update = held->previous_update,
      .bids = levels,
      .asks = levels + held->bid_count,
      .bid_count = held->bid_count,
      .ask_count = held->ask_count,
  };
}

/* Applies the held diffs to the snapshot just loaded. Returns false at a gap, with the diffs from
 * there on still held. */
static bool apply_held(struct bus_book_sync *sync)
{
  while (sync->held_count > 0) {
    struct bus_book_diff diff = diff_of(sync, held_at(sync, 0));
    if (!is_stale(sync, &diff)) {
      if (!continues(sync, &diff))
        return false;
      apply(sync, &diff);
    }
    drop_oldest(sync);
  }
  return true;
}

static bool is_too_old(const struct bus_book_sync *sync, uint64_t last_update)
{
  if (sync->held_count == 0)
    return false;
  const struct bus_book_sync_held *oldest = held_at(sync, 0);
  if (sync->market == BUS_MARKET_SPOT)
    return last_update + 1 < oldest->first_update;
  return last_update < oldest->first_update && last_update != oldest->previous_update;
}

enum bus_book_sync_result bus_book_sync_snapshot(struct bus_book_sync *sync, uint64_t last_update,
                                                 const struct bus_level *bids, uint32_t bid_count,
                                                 const struct bus_level *asks, uint32_t ask_count)
{
  if (sync->state == BUS_BOOK_SYNC_LIVE && last_update <= sync->book_update)
    return BUS_BOOK_SYNC_STALE;
  if (is_too_old(sync, last_update))
    return BUS_BOOK_SYNC_REFUSED;
  bus_book_clear(sync->book);
  bus_book_load(sync->book, BUS_SIDE_BID, bids, bid_count);
  bus_book_load(sync->book, BUS_SIDE_ASK, asks, ask_count);
  sync->book_update = last_update;
  sync->is_joining = true;
  if (!apply_held(sync)) {
    sync->gaps++;
    sync->state = BUS_BOOK_SYNC_RESYNC;
    return BUS_BOOK_SYNC_GAP;
  }
  sync->state = BUS_BOOK_SYNC_LIVE;
  refresh_best(sync);
  return BUS_BOOK_SYNC_APPLIED;
}

enum bus_book_sync_result bus_book_sync_ticker(struct bus_book_sync *sync, uint64_t update,
                                               struct bus_level bid, struct bus_level ask)
{
  static const struct bus_level none = {0, 0};
  if (update < sync->best_update)
    return BUS_BOOK_SYNC_STALE;
  sync->best[BUS_SIDE_BID] = bid.size > 0 ? bid : none;
  sync->best[BUS_SIDE_ASK] = ask.size > 0 ? ask : none;
  sync->best_update = update;
  return BUS_BOOK_SYNC_APPLIED;
}

bool bus_book_sync_wants_snapshot(const struct bus_book_sync *sync)
{
  return sync->state != BUS_BOOK_SYNC_LIVE && sync->held_count > 0;
}

uint32_t bus_book_sync_top(const struct bus_book_sync *sync, enum bus_side side,
                           struct bus_level *levels, uint32_t count)
{
  uint32_t have = 0;
  if (count > 0 && sync->best[side].size > 0) {
    levels[0] = sync->best[side];
    have = 1 + bus_book_top(sync->book, side, levels[0].price, levels + 1, count - 1);
  }
  for (uint32_t i = have; i < count; i++)
    levels[i] = (struct bus_level){0, 0};
  return have;
}
