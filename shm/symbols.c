#include "symbols.h"

#include <string.h>

static const unsigned char *row_at(const void *memory, uint32_t index)
{
  return (const unsigned char *)memory + BUS_CACHE_LINE_BYTES + index * sizeof(struct bus_symbol);
}

uint32_t bus_symbols_count(const void *memory, const struct bus_entry *entry)
{
  uint64_t count = BUS_LOAD_ACQUIRE((const bus_word *)memory); /* Y2 */
  return (uint32_t)(count < entry->depth ? count : entry->depth);
}

int bus_symbols_get(const void *memory, const struct bus_entry *entry, uint32_t index,
                    struct bus_symbol *symbol)
{
  if (index >= bus_symbols_count(memory, entry))
    return BUS_ERROR_ABSENT;
  memcpy(symbol, row_at(memory, index), sizeof *symbol);
  symbol->name[sizeof symbol->name - 1] = '\0';
  return BUS_OK;
}

void bus_symbols_clear(void *memory)
{
  BUS_STORE_RELEASE((bus_word *)memory, (uint64_t)0);
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
  memcpy((unsigned char *)(uintptr_t)row_at(memory, count), symbol, sizeof *symbol);
  BUS_STORE_RELEASE((bus_word *)memory, (uint64_t)count + 1); /* Y1 */
  return (int)count;
}
