#include "shm/symbols.h"

#include <criterion/criterion.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* One thread fills and clears the table again and again, each time with another row. */
#define READS 5000u

static _Alignas(64) uint64_t shared[(64 + 4 * 32) / 8];
static const struct bus_entry shared_entry = {.type = BUS_OBJECT_SYMBOLS, .depth = 4};

static void *fill_and_clear(void *context)
{
  const bool *enough = context;
  for (unsigned round = 0; !BUS_LOAD_ACQUIRE(enough); round++) {
    struct bus_symbol row = {.tick_size = round};
    snprintf(row.name, sizeof row.name, "%08x-%08x", round, round);
    cr_assert_eq(bus_symbols_add(shared, &shared_entry, &row), 0);
    bus_symbols_clear(shared, round + 1);
  }
  return NULL;
}

Test(symbols, a_row_is_never_a_mixture_of_two, .timeout = 60)
{
  pthread_t thread;
  bool enough = false;
  cr_assert_eq(pthread_create(&thread, NULL, fill_and_clear, &enough), 0);
  for (uint64_t read = 0; read < READS;) {
    struct bus_symbol row;
    if (bus_symbols_get(shared, &shared_entry, 0, &row) != BUS_OK)
      continue;
    char name[32];
    snprintf(name, sizeof name, "%08x-%08x", (unsigned)row.tick_size, (unsigned)row.tick_size);
    cr_assert_str_eq(row.name, name);
    read++;
  }
  BUS_STORE_RELEASE(&enough, true);
  pthread_join(thread, NULL);
}

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
  cr_assert_eq(bus_symbols_generation(memory), 0);
  bus_symbols_clear(memory, 7);
  cr_assert_eq(bus_symbols_generation(memory), 7);
  cr_assert_eq(bus_symbols_count(memory, &entry), 0);
  cr_assert_eq(bus_symbols_get(memory, &entry, 0, &out), BUS_ERROR_ABSENT);
  memory[0] = UINT64_MAX; /* a hostile count */
  cr_assert_eq(bus_symbols_count(memory, &entry), 4);
  cr_assert_eq(bus_symbols_get(memory, &entry, 4, &out), BUS_ERROR_ABSENT);
}
