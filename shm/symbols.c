#include "symbols.h"

#include <string.h>

/* A table is cleared once in the life of what it describes. */
#define READ_ATTEMPTS 4
#define ROW_WORDS     (sizeof(struct bus_symbol) / sizeof(bus_word))

static bus_word *row_at(const void *memory, uint32_t index)
{
  return (bus_word *)(uintptr_t)memory + BUS_CACHE_LINE_BYTES / sizeof(bus_word) +
         (size_t)index * ROW_WORDS;
}

static bus_word *generation_of(const void *memory)
{
  return (bus_word *)(uintptr_t)memory + 1;
}

uint32_t bus_symbols_count(const void *memory, const struct bus_entry *entry)
{
  uint64_t count = BUS_LOAD_ACQUIRE((const bus_word *)memory); /* Y2 */
  return (uint32_t)(count < entry->depth ? count : entry->depth);
}

int bus_symbols_get(const void *memory, const struct bus_entry *entry, uint32_t index,
                    struct bus_symbol *symbol)
{
  bus_word words[ROW_WORDS];
  for (int attempt = 0; attempt < READ_ATTEMPTS; attempt++) {
    uint64_t generation = BUS_LOAD_ACQUIRE(generation_of(memory)); /* Y6 */
    if (index >= bus_symbols_count(memory, entry))
      return BUS_ERROR_ABSENT;
    for (size_t i = 0; i < ROW_WORDS; i++)
      words[i] = BUS_LOAD_RELAXED(&row_at(memory, index)[i]);
    BUS_FENCE_ACQUIRE(); /* Y4 */
    if (BUS_LOAD_RELAXED(generation_of(memory)) != generation)
      continue;
    memcpy(symbol, words, sizeof *symbol);
    symbol->name[sizeof symbol->name - 1] = '\0';
    return BUS_OK;
  }
  return BUS_ERROR_ABSENT;
}

void bus_symbols_clear(void *memory, uint64_t generation)
{
  BUS_STORE_RELAXED((bus_word *)memory, (uint64_t)0);
  BUS_STORE_RELEASE(generation_of(memory), generation); /* Y5 */
  BUS_FENCE_RELEASE();                                  /* Y3 */
}

uint64_t bus_symbols_generation(const void *memory)
{
  return BUS_LOAD_RELAXED(generation_of(memory));
}

int bus_symbols_add(void *memory, const struct bus_entry *entry, const struct bus_symbol *symbol)
{
  uint32_t count = bus_symbols_count(memory, entry);
  struct bus_symbol row;
  for (uint32_t i = 0; i < count; i++) {
    if (bus_symbols_get(memory, entry, i, &row) != BUS_OK ||
        strncmp(row.name, symbol->name, sizeof row.name))
      continue;
    if (row.price_exponent != symbol->price_exponent || row.size_exponent != symbol->size_exponent)
      return bus_error_set(BUS_ERROR_INVALID, "symbol %s is in the table with other exponents",
                           row.name);
    return (int)i;
  }
  if (count >= entry->depth)
    return bus_error_set(BUS_ERROR_NO_SPACE, "symbol table is full (%u rows)", count);
  bus_word words[ROW_WORDS];
  memcpy(words, symbol, sizeof words);
  for (size_t i = 0; i < ROW_WORDS; i++)
    BUS_STORE_RELAXED(&row_at(memory, count)[i], words[i]);
  BUS_STORE_RELEASE((bus_word *)memory, (uint64_t)count + 1); /* Y1 */
  return (int)count;
}
