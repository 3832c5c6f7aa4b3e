/* source_synthetic.h: an exchange that is made up, but speaks like Binance.
 *
 * It keeps a real book per symbol and emits, as the very lines a capture has, depth diffs (every
 * 100 ms of its own time, or when 32 levels have changed), a bookTicker for every change of the
 * best level, trades, and for each symbol one snapshot, some diffs after its start. Update ids are
 * consistent: whoever joins them rightly sees no gap and, at every shared update id, the same best.
 * Events come in self-exciting bursts (up to some 150 in a millisecond); the mid price trends,
 * reverts to its anchor, and follows the imbalance of the best sizes.
 *
 * Integers only: the same seed gives the same bytes on every machine. */
#ifndef SIGNALBUS_SOURCE_SYNTHETIC_H
#define SIGNALBUS_SOURCE_SYNTHETIC_H

#include "producers/book_sync.h"
#include "producers/source.h"

BUS_BEGIN_DECLARATIONS

#define BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX 16u

struct bus_source_synthetic_config {
  uint64_t seed;
  uint64_t lines;            /* how many to emit; 0: no end */
  uint64_t start_ns;         /* receive time of the first one */
  uint32_t symbols;          /* 1..BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX */
  uint32_t mean_interval_ns; /* between events when calm, all symbols together; >= 1000 */
  enum bus_market market;    /* USD-M adds E, T and pu, and has fewer decimals */
};

/* Fills in the defaults: seed 1, no end, 4 symbols, 1 ms, spot. */
void bus_source_synthetic_defaults(struct bus_source_synthetic_config *config);

/* Returns NULL with a message when a parameter is out of range or there is no memory.
 * bus_source_close() closes it. Snapshots come in an envelope whose
 * stream is e.g. "synbtc@snapshot", which names their symbol. */
struct bus_source *bus_source_synthetic_open(const struct bus_source_synthetic_config *config);

/* The name of symbol `index`, 0..BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX-1, e.g. "SYNBTC"; else NULL. */
const char *bus_source_synthetic_symbol(uint32_t index);

BUS_END_DECLARATIONS

#endif
