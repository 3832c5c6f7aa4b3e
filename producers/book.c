#include "producers/book.h"

#include "shm/error.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Levels looked at one by one from the back before the binary search: most changes are there, and
 * those steps predict well. */
#define LINEAR_STEPS 8u

struct bus_book *bus_book_new(uint32_t capacity)
{
  if (capacity == 0 || capacity > BUS_BOOK_LEVELS_MAX) {
    bus_error_set(BUS_ERROR_INVALID, "book of %u levels: use 1 to %u", capacity,
                  BUS_BOOK_LEVELS_MAX);
    return NULL;
  }
  struct bus_book *book = calloc(1, sizeof *book);
  size_t bytes = (size_t)capacity * sizeof(struct bus_level);
  struct bus_level *levels = book == NULL ? NULL : malloc(2 * bytes);
  if (levels == NULL) {
    free(book);
    bus_error_set_errno("book of %u levels: %zu bytes", capacity, 2 * bytes);
    return NULL;
  }
  explicit_bzero(levels, 2 * bytes); /* unlike memset, it is not turned into an untouched calloc */
  book->capacity = capacity;
  book->sides[BUS_SIDE_BID].levels = levels;
  book->sides[BUS_SIDE_ASK].levels = levels + capacity;
  return book;
}

void bus_book_delete(struct bus_book *book)
{
  if (book == NULL)
    return;
  free(book->sides[BUS_SIDE_BID].levels);
  free(book);
}

void bus_book_clear(struct bus_book *book)
{
  book->sides[BUS_SIDE_BID].count = 0;
  book->sides[BUS_SIDE_ASK].count = 0;
}

/* The number of levels that are not better than `price`: the level itself, if there is one, is just
 * before that place. */
static BUS_ALWAYS_INLINE uint32_t find(const struct bus_level *levels, uint32_t count,
                                       int64_t price)
{
  uint32_t floor = count > LINEAR_STEPS ? count - LINEAR_STEPS : 0;
  while (count > floor) {
    if (levels[count - 1].price <= price)
      return count;
    count--;
  }
  uint32_t base = 0;
  while (count > 0) {
    uint32_t half = count / 2;
    bool is_upper = levels[base + half].price <= price;
    base += is_upper ? half + 1 : 0;
    count = is_upper ? count - half - 1 : half;
  }
  return base;
}

/* The side is full: makes room below `place` by dropping the worst level. */
static void replace_worst(struct bus_book_side *to, uint32_t place, struct bus_level level)
{
  if (place == 0)
    return;
  memmove(to->levels, to->levels + 1, (place - 1) * sizeof *to->levels);
  to->levels[place - 1] = level;
}

static BUS_ALWAYS_INLINE void set(struct bus_book *book, struct bus_book_side *to, int64_t price,
                                  int64_t size)
{
  struct bus_level *levels = to->levels;
  uint32_t place = find(levels, to->count, price);
  if (place > 0 && levels[place - 1].price == price) {
    if (size > 0) {
      levels[place - 1].size = size;
      return;
    }
    memmove(levels + place - 1, levels + place, (to->count - place) * sizeof *levels);
    to->count--;
    return;
  }
  if (size == 0)
    return;
  struct bus_level level = {price, size};
  if (BUS_UNLIKELY(to->count == book->capacity)) {
    replace_worst(to, place, level);
    book->levels_dropped++;
    return;
  }
  memmove(levels + place + 1, levels + place, (to->count - place) * sizeof *levels);
  levels[place] = level;
  to->count++;
}

void bus_book_set(struct bus_book *book, enum bus_side side, int64_t price, int64_t size)
{
  assert(price > 0 && size >= 0);
  set(book, &book->sides[side], side == BUS_SIDE_ASK ? -price : price, size);
}

void bus_book_load(struct bus_book *book, enum bus_side side, const struct bus_level *levels,
                   uint32_t count)
{
  for (uint32_t i = count; i-- > 0;)
    bus_book_set(book, side, levels[i].price, levels[i].size);
}

uint32_t bus_book_top(const struct bus_book *book, enum bus_side side, int64_t limit_price,
                      struct bus_level *levels, uint32_t count)
{
  const struct bus_book_side *from = &book->sides[side];
  int64_t sign = side == BUS_SIDE_ASK ? -1 : 1;
  uint32_t left = from->count;
  uint32_t copied = 0;
  if (limit_price != 0) {
    int64_t limit = limit_price * sign;
    left = find(from->levels, left, limit);
    if (left > 0 && from->levels[left - 1].price == limit)
      left--;
  }
  for (; copied < count && left > 0; copied++) {
    const struct bus_level *level = &from->levels[--left];
    levels[copied].price = level->price * sign;
    levels[copied].size = level->size;
  }
  return copied;
}

int64_t bus_book_sum(const struct bus_book *book, enum bus_side side, uint32_t count)
{
  const struct bus_book_side *from = &book->sides[side];
  int64_t sum = 0;
  for (uint32_t i = 0; i < count && i < from->count; i++)
    if (__builtin_add_overflow(sum, from->levels[from->count - 1 - i].size, &sum))
      return INT64_MAX;
  return sum;
}

static bool is_side_valid(const struct bus_book_side *side, bool is_ask, uint32_t capacity)
{
  if (side->count > capacity)
    return false;
  for (uint32_t i = 0; i < side->count; i++) {
    int64_t price = side->levels[i].price;
    if (side->levels[i].size <= 0 || (is_ask ? price >= 0 : price <= 0))
      return false;
    if (i > 0 && side->levels[i - 1].price >= price)
      return false;
  }
  return true;
}

bool bus_book_is_valid(const struct bus_book *book)
{
  return is_side_valid(&book->sides[BUS_SIDE_BID], false, book->capacity) &&
         is_side_valid(&book->sides[BUS_SIDE_ASK], true, book->capacity) &&
         !bus_book_is_crossed(book);
}
