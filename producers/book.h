/* book.h: the price levels of one symbol.
 *
 * Each side is a sorted vector with the best level at the back: nearly all changes happen near the
 * best, where little has to move. All memory is taken at creation. */
#ifndef SIGNALBUS_BOOK_H
#define SIGNALBUS_BOOK_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

enum bus_side { BUS_SIDE_BID = 0, BUS_SIDE_ASK = 1 };

#define BUS_BOOK_LEVELS_DEFAULT 8192u
#define BUS_BOOK_LEVELS_MAX     (1u << 24)

/* A price and the total size resting there, in units of the symbol's exponents. */
struct bus_level {
  int64_t price; /* > 0; 0 when there is no such level */
  int64_t size;  /* > 0; 0 when there is no such level, or to delete it */
};

/* One side. Asks are kept with negated prices, so that on both sides the best level has the highest
 * price and is the last. Read through the functions below. */
struct bus_book_side {
  struct bus_level *levels;
  uint32_t count;
};

struct bus_book {
  struct bus_book_side sides[2]; /* by enum bus_side */
  uint32_t capacity;             /* levels of each side */
  uint64_t levels_dropped;       /* levels lost because a side was full: always the worst */
};

/* Creates an empty book of `capacity` levels a side, 1..BUS_BOOK_LEVELS_MAX. The memory is touched,
 * so that no later call takes a page fault. Returns NULL with a message. One thread uses a book. */
struct bus_book *bus_book_new(uint32_t capacity);

/* NULL is allowed. */
void bus_book_delete(struct bus_book *book);

/* Removes all levels; the counter stays. O(1). */
void bus_book_clear(struct bus_book *book);

/* Sets the size at a price, inserting or (size 0) deleting the level; deleting one that is not
 * there does nothing. When the side is full, the worst level (it may be this one) is dropped and
 * counted. Needs price > 0 and size >= 0, in units of the symbol's exponents. O(log n), and moves
 * the levels that are better. */
void bus_book_set(struct bus_book *book, enum bus_side side, int64_t price, int64_t size);

/* bus_book_set of each of `count` levels, from the last to the first: a snapshot lists the best
 * first, so that each one goes to the back of the vector. */
void bus_book_load(struct bus_book *book, enum bus_side side, const struct bus_level *levels,
                   uint32_t count);

/* Copies at most `count` levels, best first, to `levels`; only those worse than `limit_price`
 * unless that is 0. Returns how many. */
uint32_t bus_book_top(const struct bus_book *book, enum bus_side side, int64_t limit_price,
                      struct bus_level *levels, uint32_t count);

/* The total size of the best `count` levels, or of all when there are fewer, saturating at
 * INT64_MAX; in units of the size exponent. */
int64_t bus_book_sum(const struct bus_book *book, enum bus_side side, uint32_t count);

/* Whether both sides are strictly sorted with positive prices and sizes, and do not cross. O(n):
 * for tests and housekeeping. */
bool bus_book_is_valid(const struct bus_book *book);

/* How many levels the side has: 0..capacity. */
static BUS_ALWAYS_INLINE uint32_t bus_book_count(const struct bus_book *book, enum bus_side side)
{
  return book->sides[side].count;
}

/* The level `n` places behind the best (0 is the best); {0, 0} when there is none. */
static BUS_ALWAYS_INLINE struct bus_level bus_book_level(const struct bus_book *book,
                                                         enum bus_side side, uint32_t n)
{
  const struct bus_book_side *from = &book->sides[side];
  struct bus_level level = {0, 0};
  if (n < from->count) {
    level = from->levels[from->count - 1 - n];
    if (side == BUS_SIDE_ASK)
      level.price = -level.price;
  }
  return level;
}

/* The best level; {0, 0} when the side is empty. */
static BUS_ALWAYS_INLINE struct bus_level bus_book_best(const struct bus_book *book,
                                                        enum bus_side side)
{
  return bus_book_level(book, side, 0);
}

/* Whether the best bid is at or above the best ask. */
static BUS_ALWAYS_INLINE bool bus_book_is_crossed(const struct bus_book *book)
{
  return book->sides[BUS_SIDE_BID].count > 0 && book->sides[BUS_SIDE_ASK].count > 0 &&
         bus_book_best(book, BUS_SIDE_BID).price >= bus_book_best(book, BUS_SIDE_ASK).price;
}

BUS_END_DECLARATIONS

#endif
