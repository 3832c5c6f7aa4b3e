/* capture_check.h: checks every byte of a capture. */
#ifndef SIGNALBUS_CAPTURE_CHECK_H
#define SIGNALBUS_CAPTURE_CHECK_H

#include "consumers/capture_cursor.h"

BUS_BEGIN_DECLARATIONS

struct bus_capture_checked {
  uint64_t bytes; /* of blocks, uncompressed */
  uint64_t bytes_total;
  uint64_t records;
  uint64_t blocks;     /* whole ones */
  uint64_t blocks_bad; /* by themselves; further damage lies between blocks */
  uint64_t lost;       /* positions that are missing by the headers of whole blocks */
  uint64_t unfinished; /* segments */
};

/* Is told how far it is, after each block. */
struct bus_capture_watcher {
  void (*show)(void *context, uint64_t done, uint64_t total);
  void *context;
};

/* Reads every block, and checks what lies between and behind them. Damage is added to that of
 * `capture`. `watcher` may be NULL. BUS_OK also when there is damage; else a negative error with a
 * message. */
int bus_capture_check(struct bus_capture *capture, const struct bus_capture_watcher *watcher,
                      struct bus_capture_checked *checked);

BUS_END_DECLARATIONS

#endif
