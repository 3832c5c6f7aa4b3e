/* The owner appends to a symbol table, two readers copy the rows that they are told are complete.
 *
 * Mutants: 1 the count is stored relaxed. */
#include "race.h"

#define SYMBOLS 2000u
#define READERS 2

static _Alignas(128) unsigned char table[64 + SYMBOLS * sizeof(struct bus_symbol)];
static const struct bus_entry entry = {.type = BUS_OBJECT_SYMBOLS, .depth = SYMBOLS};

static void append(const struct bus_symbol *symbol, uint32_t index)
{
#if MUTANT == 1
  memcpy(table + 64 + index * sizeof *symbol, symbol, sizeof *symbol);
  BUS_STORE_RELAXED((bus_word *)(void *)table, (uint64_t)index + 1);
#else
  RACE_CHECK(bus_symbols_add(table, &entry, symbol) == (int)index);
#endif
}

static void *append_all(void *context)
{
  (void)context;
  for (uint32_t i = 0; i < SYMBOLS; i++) {
    struct bus_symbol symbol = {.price_exponent = -2, .size_exponent = -8, .tick_size = i};
    snprintf(symbol.name, sizeof symbol.name, "S%u", i);
    append(&symbol, i);
    sched_yield();
  }
  return NULL;
}

static void *read_all(void *context)
{
  struct bus_symbol symbol;
  (void)context;
  for (uint32_t next = 0; next < SYMBOLS;) {
    uint32_t count = bus_symbols_count(table, &entry);
    for (; next < count; next++) {
      char name[sizeof symbol.name];
      RACE_CHECK(bus_symbols_get(table, &entry, next, &symbol) == BUS_OK);
      snprintf(name, sizeof name, "S%u", next);
      RACE_CHECK(!strcmp(symbol.name, name) && symbol.tick_size == next);
    }
    sched_yield();
  }
  return NULL;
}

int main(void)
{
  pthread_t threads[1 + READERS];
  for (int i = 0; i < READERS; i++)
    race_start(&threads[i], read_all, NULL);
  race_start(&threads[READERS], append_all, NULL);
  race_join(threads, 1 + READERS);
  printf("%u symbols\n", SYMBOLS);
  return 0;
}
