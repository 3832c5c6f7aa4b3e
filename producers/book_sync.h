/* book_sync.h: joins Binance depth diffs to a snapshot and keeps the best level ahead of them.
 *
 * Diffs are held until a snapshot comes, then joined to it by their update ids:
 *   spot:   diffs with u <= lastUpdateId are dropped; the first one applied contains
 *           lastUpdateId + 1; after it U <= book's u + 1.
 *   USD-M:  diffs with u < lastUpdateId are dropped; the first one applied has
 *           U <= lastUpdateId <= u, or pu == lastUpdateId; after it pu == book's u.
 * A diff that does not continue is a gap: the book waits for the next snapshot (RESYNC), holding
 * the diffs from the gap on.
 *
 * bookTicker runs ahead of the depth stream. The best level comes from whichever of the two has the
 * higher update id; bus_book_sync_top() shows the book as it must look behind that best: levels
 * that would be better than it are gone already, its own level is replaced. */
#ifndef SIGNALBUS_BOOK_SYNC_H
#define SIGNALBUS_BOOK_SYNC_H

#include "producers/book.h"

BUS_BEGIN_DECLARATIONS

enum bus_market { BUS_MARKET_SPOT = 0, BUS_MARKET_USDM = 1 };

enum bus_book_sync_state {
  BUS_BOOK_SYNC_EMPTY = 0,  /* no snapshot has been applied yet */
  BUS_BOOK_SYNC_LIVE = 1,   /* the book is exact as of book_update */
  BUS_BOOK_SYNC_RESYNC = 2, /* updates were lost: waiting for a snapshot */
};

/* What became of a message. */
enum bus_book_sync_result {
  BUS_BOOK_SYNC_APPLIED = 0,
  BUS_BOOK_SYNC_HELD = 1,    /* a diff that waits for a snapshot */
  BUS_BOOK_SYNC_STALE = 2,   /* older than what is known: ignored */
  BUS_BOOK_SYNC_GAP = 3,     /* updates are missing before it: the state is RESYNC */
  BUS_BOOK_SYNC_REFUSED = 4, /* a snapshot too old for the diffs held, or a diff with U > u */
};

#define BUS_BOOK_SYNC_DIFFS_DEFAULT  1024u
#define BUS_BOOK_SYNC_LEVELS_DEFAULT 65536u

/* A depthUpdate with prices and sizes as integers. Prices are > 0, sizes >= 0. */
struct bus_book_diff {
  uint64_t first_update;    /* U */
  uint64_t last_update;     /* u */
  uint64_t previous_update; /* pu; spot: not used */
  const struct bus_level *bids;
  const struct bus_level *asks;
  uint32_t bid_count;
  uint32_t ask_count;
};

struct bus_book_sync_config {
  enum bus_market market;
  uint32_t book_levels; /* capacity of each side */
  uint32_t held_diffs;  /* diffs that can wait for a snapshot, >= 1 */
  uint32_t held_levels; /* their levels all together, >= 1 */
};

/* Read-only to users. */
struct bus_book_sync {
  struct bus_book *book;
  enum bus_market market;
  enum bus_book_sync_state state;
  bool is_joining;           /* LIVE, and no diff has been applied to the snapshot yet */
  bool has_seen_diff;        /* since creation */
  struct bus_level best[2];  /* by enum bus_side; {0, 0} when the side is empty or unknown */
  uint64_t best_update;      /* the update id that `best` belongs to */
  uint64_t book_update;      /* the update id that `book` belongs to */
  uint64_t gaps;             /* breaks of continuity, those among held diffs included */
  uint64_t diffs_overflowed; /* held diffs dropped for lack of room, oldest first */

  struct bus_book_sync_held *held; /* ring of held_capacity */
  uint32_t held_capacity;
  uint32_t held_first; /* index of the oldest */
  uint32_t held_count;
  struct bus_level *levels; /* ring of levels_capacity; each diff's levels are in one piece */
  uint32_t levels_capacity;
  uint64_t levels_next; /* position where the next diff's levels go; index = position % capacity */
};

/* Creates a book that waits for its first snapshot; all memory is taken and touched now. Returns
 * NULL with a message. One thread uses it. */
struct bus_book_sync *bus_book_sync_new(const struct bus_book_sync_config *config);

/* NULL is allowed. */
void bus_book_sync_delete(struct bus_book_sync *sync);

/* The connection was lost: forgets the held diffs and demands a snapshot; the next bookTicker is
 * taken whatever its update id. */
void bus_book_sync_reset(struct bus_book_sync *sync);

/* Takes a depth diff: APPLIED, HELD, STALE, GAP or REFUSED. A GAP is counted; the diff itself is
 * held. */
enum bus_book_sync_result bus_book_sync_diff(struct bus_book_sync *sync,
                                             const struct bus_book_diff *diff);

/* Takes a depth snapshot and the held diffs that follow it: APPLIED; STALE when the book is live
 * and at least as new; REFUSED when it is too old to be joined to the held diffs; GAP when it was
 * loaded, but the held diffs do not continue it: then another snapshot is needed. */
enum bus_book_sync_result bus_book_sync_snapshot(struct bus_book_sync *sync, uint64_t last_update,
                                                 const struct bus_level *bids, uint32_t bid_count,
                                                 const struct bus_level *asks, uint32_t ask_count);

/* Takes a bookTicker: APPLIED, or STALE when the best is known from a later update. A side with
 * size 0 is empty. */
enum bus_book_sync_result bus_book_sync_ticker(struct bus_book_sync *sync, uint64_t update,
                                               struct bus_level bid, struct bus_level ask);

/* Whether a snapshot should be fetched now: the book is not exact, and diffs are waiting. */
bool bus_book_sync_wants_snapshot(const struct bus_book_sync *sync);

/* Writes the best `count` levels of the merged view, best first, the rest {0, 0}. Returns how many
 * there are. In state EMPTY and RESYNC only the first is to be trusted. */
uint32_t bus_book_sync_top(const struct bus_book_sync *sync, enum bus_side side,
                           struct bus_level *levels, uint32_t count);

BUS_END_DECLARATIONS

#endif
