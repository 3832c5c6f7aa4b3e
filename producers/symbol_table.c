#include "producers/symbol_table.h"

#include "producers/decimal.h"
#include "shm/error.h"

#include <stdlib.h>
#include <string.h>

#define CAPACITY_MAX 65536u

int bus_symbol_table_init(struct bus_symbol_table *table, uint32_t capacity)
{
  memset(table, 0, sizeof *table);
  if (capacity == 0 || capacity > CAPACITY_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "symbol table of %u: use 1 to %u", capacity,
                         CAPACITY_MAX);
  uint32_t slots = 4;
  while (slots < 2 * capacity)
    slots *= 2;
  table->symbols = calloc(capacity, sizeof *table->symbols);
  table->slots = calloc(slots, sizeof *table->slots);
  if (table->symbols == NULL || table->slots == NULL) {
    bus_symbol_table_free(table);
    return bus_error_set_errno("symbol table of %u", capacity);
  }
  table->capacity = capacity;
  table->slot_mask = slots - 1;
  return BUS_OK;
}

void bus_symbol_table_free(struct bus_symbol_table *table)
{
  free(table->slots);
  free(table->symbols);
  memset(table, 0, sizeof *table);
}

/* The name, padded with NULs, as words: compared and hashed at once. */
struct words {
  uint64_t word[3];
};

static struct words words_of(const char *name, size_t length)
{
  struct words words = {{0, 0, 0}};
  memcpy(words.word, name, length);
  return words;
}

static uint32_t hash_of(struct words words)
{
  uint64_t hash = words.word[0] * 0x9E3779B97F4A7C15ull;
  hash = (hash ^ hash >> 29 ^ words.word[1]) * 0xBF58476D1CE4E5B9ull;
  hash = (hash ^ hash >> 32 ^ words.word[2]) * 0x94D049BB133111EBull;
  return (uint32_t)(hash >> 32);
}

/* The slot that holds the name, or the free one where it belongs. There is always a free one. */
static uint32_t *slot_of(const struct bus_symbol_table *table, struct words words)
{
  for (uint32_t i = hash_of(words);; i++) {
    uint32_t *slot = &table->slots[i & table->slot_mask];
    if (*slot == 0 ||
        memcmp(table->symbols[*slot - 1].name, words.word, BUS_SYMBOL_NAME_BYTES) == 0)
      return slot;
  }
}

int32_t bus_symbol_table_find(const struct bus_symbol_table *table, const char *name, size_t length)
{
  if (length == 0 || length >= BUS_SYMBOL_NAME_BYTES)
    return -1;
  return (int32_t)*slot_of(table, words_of(name, length)) - 1;
}

int32_t bus_symbol_table_add(struct bus_symbol_table *table, const char *name, size_t length,
                             int price_exponent, int size_exponent, int64_t tick_size)
{
  if (length == 0 || length >= BUS_SYMBOL_NAME_BYTES)
    return BUS_ERROR_INVALID;
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)name[i] <= ' ' || name[i] == 127)
      return BUS_ERROR_INVALID;
  if (price_exponent < BUS_DECIMAL_EXPONENT_MIN || price_exponent > 0 ||
      size_exponent < BUS_DECIMAL_EXPONENT_MIN || size_exponent > 0 || tick_size < 0)
    return BUS_ERROR_INVALID;
  uint32_t *slot = slot_of(table, words_of(name, length));
  if (*slot != 0)
    return BUS_ERROR_INVALID;
  if (table->count == table->capacity)
    return BUS_ERROR_NO_SPACE;
  struct bus_symbol *symbol = &table->symbols[table->count];
  memcpy(symbol->name, name, length);
  symbol->price_exponent = (int8_t)price_exponent;
  symbol->size_exponent = (int8_t)size_exponent;
  symbol->tick_size = tick_size;
  *slot = ++table->count;
  return (int32_t)table->count - 1;
}
