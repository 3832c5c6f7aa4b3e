#include "shm/symbols.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

Test(symbols, grows_finds_and_fills_up)
{
  static uint64_t memory[(64 + 4 * 32) / 8];
  struct bus_entry entry = {.type = BUS_OBJECT_SYMBOLS, .depth = 4};
  struct bus_symbol row = {.price_exponent = -8, .size_exponent = -8}, out;
  cr_assert_eq(bus_symbols_get(memory, &entry, 0, &out), BUS_ERROR_ABSENT);
  for (int i = 0; i < 4; i++) {
    snprintf(row.name, sizeof row.name, "SYM%d", i);
    cr_assert_eq(bus_symbols_add(memory, &entry, &row), i);
  }
  strcpy(row.name, "SYM2");
  cr_assert_eq(bus_symbols_add(memory, &entry, &row), 2);
  row.size_exponent = -2;
  cr_assert_eq(bus_symbols_add(memory, &entry, &row), BUS_ERROR_INVALID);
  strcpy(row.name, "SYM4");
  cr_assert_eq(bus_symbols_add(memory, &entry, &row), BUS_ERROR_NO_SPACE);
  cr_assert_eq(bus_symbols_get(memory, &entry, 3, &out), BUS_OK);
  cr_assert_str_eq(out.name, "SYM3");
  bus_symbols_clear(memory);
  cr_assert_eq(bus_symbols_count(memory, &entry), 0);
  memory[0] = UINT64_MAX; /* a hostile count */
  cr_assert_eq(bus_symbols_count(memory, &entry), 4);
  cr_assert_eq(bus_symbols_get(memory, &entry, 4, &out), BUS_ERROR_ABSENT);
}
