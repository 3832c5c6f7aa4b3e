/* symbols.h: a feed's symbol table: index -> name and exponents. It grows, and is cleared
 * only when what it describes is replaced.
 *
 * Object: u64 count, u64 generation, padding to 64 bytes, then struct bus_symbol [depth]. Row i is
 * complete when count > i. The generation says what the rows describe; another one is given when
 * the table is cleared. Orderings, in pairs:
 *
 *   Y1  release store of the count after the row. Pairs with Y2.
 *   Y2  acquire load of the count before the row. Pairs with Y1.
 *   Y3  release fence after the new generation, before any row is written again. Pairs with Y4.
 *   Y4  acquire fence after the row, then the generation must be unchanged. Pairs with Y3.
 *   Y5  release store of the new generation after the count 0: who sees it counts no old row. Pairs
 *       with Y6.
 *   Y6  acquire load of the generation before the count. Pairs with Y5. */
#ifndef SIGNALBUS_SYMBOLS_H
#define SIGNALBUS_SYMBOLS_H

#include "error.h"
#include "layout.h"

BUS_BEGIN_DECLARATIONS

/* Appends a row to an own table, or finds the row of that name (whose exponents then must be
 * equal). Returns its index or BUS_ERROR_NO_SPACE, BUS_ERROR_INVALID. The owner's thread; set-up
 * and housekeeping. O(rows). Y1. */
BUS_EXPORT int bus_symbols_add(void *memory, const struct bus_entry *entry,
                               const struct bus_symbol *symbol);

/* Forgets all rows. `generation` must differ from every earlier one of the table: a new table has
 * 0; for a copy of a feed's table it is that feed's ring_instance. The owner's thread. Y3, Y5. */
BUS_EXPORT void bus_symbols_clear(void *memory, uint64_t generation);

/* What the table was cleared for last, 0 when it never was. Any thread. Orders nothing. */
BUS_EXPORT uint64_t bus_symbols_generation(const void *memory);

/* Rows that may be read, never more than entry->depth. Any thread. Y2. */
BUS_EXPORT uint32_t bus_symbols_count(const void *memory, const struct bus_entry *entry);

/* Copies row `index`; its name is always terminated, the rest is unchecked. Returns BUS_OK, or
 * BUS_ERROR_ABSENT (without a message) when there are no more, or when the table was cleared again
 * at each of a few tries. Any thread. Y2, Y4, Y6. */
BUS_EXPORT int bus_symbols_get(const void *memory, const struct bus_entry *entry, uint32_t index,
                               struct bus_symbol *symbol);

BUS_END_DECLARATIONS

#endif
