#include "producers/book.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static uint64_t state = 88172645463325252ull;

static uint32_t random_below(uint32_t range)
{
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)((state >> 32) * range >> 32);
}

Test(book, keeps_levels_sorted)
{
  struct bus_book *book = bus_book_new(16);
  cr_assert_not_null(book);
  cr_expect_eq(bus_book_best(book, BUS_SIDE_BID).size, 0);
  for (int64_t price = 95; price <= 99; price++)
    bus_book_set(book, BUS_SIDE_BID, price, price * 10);
  for (int64_t price = 105; price >= 101; price--)
    bus_book_set(book, BUS_SIDE_ASK, price, price);
  cr_expect(bus_book_is_valid(book));
  cr_expect_eq(bus_book_best(book, BUS_SIDE_BID).price, 99);
  cr_expect_eq(bus_book_best(book, BUS_SIDE_ASK).price, 101);
  cr_expect_eq(bus_book_level(book, BUS_SIDE_ASK, 4).price, 105);
  cr_expect_eq(bus_book_level(book, BUS_SIDE_ASK, 5).size, 0);
  cr_expect_eq(bus_book_sum(book, BUS_SIDE_BID, 2), 990 + 980);
  cr_expect_eq(bus_book_sum(book, BUS_SIDE_BID, 100), 990 + 980 + 970 + 960 + 950);
  bus_book_set(book, BUS_SIDE_BID, 99, 5);
  cr_expect_eq(bus_book_best(book, BUS_SIDE_BID).size, 5);
  bus_book_set(book, BUS_SIDE_BID, 99, 0);
  bus_book_set(book, BUS_SIDE_BID, 99, 0);
  cr_expect_eq(bus_book_best(book, BUS_SIDE_BID).price, 98);
  bus_book_set(book, BUS_SIDE_BID, 101, 1);
  cr_expect(bus_book_is_crossed(book));
  cr_expect_not(bus_book_is_valid(book));
  bus_book_clear(book);
  cr_expect_eq(bus_book_count(book, BUS_SIDE_BID), 0);
  cr_expect_eq(bus_book_count(book, BUS_SIDE_ASK), 0);
  bus_book_delete(book);
}

Test(book, drops_the_worst_level_when_full)
{
  struct bus_book *book = bus_book_new(3);
  for (int64_t price = 1; price <= 5; price++)
    bus_book_set(book, BUS_SIDE_BID, price * 10, price);
  cr_expect_eq(book->levels_dropped, 2);
  cr_expect_eq(bus_book_level(book, BUS_SIDE_BID, 2).price, 30);
  bus_book_set(book, BUS_SIDE_BID, 45, 9);
  cr_expect_eq(bus_book_level(book, BUS_SIDE_BID, 1).price, 45);
  cr_expect_eq(bus_book_level(book, BUS_SIDE_BID, 2).price, 40);
  bus_book_set(book, BUS_SIDE_BID, 5, 9); /* worse than all: itself the one dropped */
  cr_expect_eq(bus_book_level(book, BUS_SIDE_BID, 2).price, 40);
  cr_expect_eq(book->levels_dropped, 4);
  bus_book_set(book, BUS_SIDE_BID, 40, 8); /* known: nothing is dropped */
  cr_expect_eq(book->levels_dropped, 4);
  cr_expect(bus_book_is_valid(book));
  bus_book_delete(book);
}

Test(book, shows_the_top_behind_a_limit)
{
  struct bus_book *book = bus_book_new(64);
  struct bus_level levels[4];
  static const struct bus_level asks[] = {{101, 1}, {102, 2}, {104, 4}, {105, 5}};
  bus_book_load(book, BUS_SIDE_ASK, asks, 4);
  cr_expect_eq(bus_book_best(book, BUS_SIDE_ASK).price, 101);
  cr_expect_eq(bus_book_top(book, BUS_SIDE_ASK, 0, levels, 4), 4);
  cr_expect(levels[0].price == 101 && levels[3].price == 105 && levels[3].size == 5);
  cr_expect_eq(bus_book_top(book, BUS_SIDE_ASK, 102, levels, 4), 2);
  cr_expect(levels[0].price == 104 && levels[1].price == 105);
  cr_expect_eq(bus_book_top(book, BUS_SIDE_ASK, 103, levels, 1), 1);
  cr_expect_eq(levels[0].price, 104);
  cr_expect_eq(bus_book_top(book, BUS_SIDE_ASK, 100, levels, 4), 4);
  cr_expect_eq(bus_book_top(book, BUS_SIDE_ASK, 105, levels, 4), 0);
  cr_expect_eq(bus_book_top(book, BUS_SIDE_BID, 105, levels, 4), 0);
  bus_book_delete(book);
}

/* Against an array indexed by price. */
Test(book, agrees_with_a_simple_model)
{
  enum { PRICES = 600 };
  struct bus_book *book = bus_book_new(PRICES);
  for (int side = 0; side < 2; side++) {
    int64_t model[PRICES + 1] = {0};
    for (int step = 0; step < 200000; step++) {
      int64_t price = 1 + random_below(PRICES);
      int64_t size = random_below(3) == 0 ? 0 : 1 + random_below(1000);
      model[price] = size;
      bus_book_set(book, (enum bus_side)side, price, size);
      if (step % 997 != 0)
        continue;
      uint32_t n = 0;
      for (int64_t i = 1; i <= PRICES; i++) {
        int64_t at = side == BUS_SIDE_BID ? PRICES + 1 - i : i;
        if (model[at] == 0)
          continue;
        struct bus_level level = bus_book_level(book, (enum bus_side)side, n++);
        cr_assert(level.price == at && level.size == model[at], "step %d level %u", step, n - 1);
      }
      cr_assert_eq(bus_book_count(book, (enum bus_side)side), n);
      cr_assert(side == BUS_SIDE_ASK || bus_book_is_valid(book));
    }
    bus_book_clear(book);
  }
  bus_book_delete(book);
}

Test(book, sums_saturate)
{
  struct bus_book *book = bus_book_new(4);
  bus_book_set(book, BUS_SIDE_BID, 1, INT64_MAX);
  bus_book_set(book, BUS_SIDE_BID, INT64_MAX, INT64_MAX);
  bus_book_set(book, BUS_SIDE_ASK, INT64_MAX, 1);
  cr_expect_eq(bus_book_sum(book, BUS_SIDE_BID, 2), INT64_MAX);
  cr_expect_eq(bus_book_best(book, BUS_SIDE_ASK).price, INT64_MAX);
  bus_book_delete(book);
}

Test(book, refuses_bad_parameters)
{
  cr_expect_null(bus_book_new(0));
  cr_expect_str_neq(bus_error_message(), "");
  cr_expect_null(bus_book_new(BUS_BOOK_LEVELS_MAX + 1));
  bus_book_delete(NULL);
}
