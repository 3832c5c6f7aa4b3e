/* symbol_table.h: names to small indices, learnt in order of appearance. */
#ifndef SIGNALBUS_SYMBOL_TABLE_H
#define SIGNALBUS_SYMBOL_TABLE_H

#include "shm/record.h"

BUS_BEGIN_DECLARATIONS

#define BUS_SYMBOL_NAME_BYTES sizeof(((struct bus_symbol *)0)->name)

/* Read-only to users. Private to one thread. */
struct bus_symbol_table {
  struct bus_symbol *symbols;
  uint32_t count;
  uint32_t capacity;
  uint32_t *slots; /* open addressing; 0 is free, else index + 1 */
  uint32_t slot_mask;
};

/* Takes memory for `capacity` symbols, 1..65536. Returns BUS_OK, or BUS_ERROR_INVALID or
 * BUS_ERROR_NO_SPACE with a message. */
int bus_symbol_table_init(struct bus_symbol_table *table, uint32_t capacity);

/* Frees the memory, not the struct. A zeroed table is allowed. */
void bus_symbol_table_free(struct bus_symbol_table *table);

/* The index of the name, or -1. `length` bytes, no NUL needed. O(1); does not allocate. */
int32_t bus_symbol_table_find(const struct bus_symbol_table *table, const char *name,
                              size_t length);

/* Adds a symbol that is not there yet, with 1..19 bytes of name without control characters and
 * exponents of -18..0. Returns its index; BUS_ERROR_INVALID or BUS_ERROR_NO_SPACE when not. */
int32_t bus_symbol_table_add(struct bus_symbol_table *table, const char *name, size_t length,
                             int price_exponent, int size_exponent, int64_t tick_size);

BUS_END_DECLARATIONS

#endif
