#include "shm/board.h"

#include <criterion/criterion.h>
#include <string.h>

Test(board, shows_the_latest)
{
  static struct bus_signal slot, in, out;
  cr_assert_eq(bus_board_read(&slot, &out), 0);
  for (uint64_t i = 1; i < 100; i++) {
    memset(&in, (int)i, sizeof in);
    bus_board_write(&slot, &in);
    cr_assert_eq(bus_board_read(&slot, &out), 1);
    cr_assert_eq(out.stamp, 2 * i);
    cr_assert_eq(memcmp(&in, &out, offsetof(struct bus_signal, stamp)), 0);
  }
}

Test(board, an_unfinished_write_is_never_shown)
{
  static struct bus_signal slot, in, out;
  in.target_price = 1;
  bus_board_write(&slot, &in);
  slot.stamp = 3; /* the owner died here */
  slot.target_price = 99;
  cr_assert_eq(bus_board_read(&slot, &out), BUS_ERROR_AGAIN);
  in.target_price = 2;
  bus_board_write(&slot, &in); /* its successor */
  cr_assert_eq(bus_board_read(&slot, &out), 1);
  cr_assert_eq(out.target_price, 2);
  cr_assert_eq(out.stamp, 4);
}
