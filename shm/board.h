/* board.h: the latest signal of each symbol: one line to read, no queue to follow.
 *
 * Slot i, 64 bytes, holds a struct bus_signal whose stamp is twice the number of times that it was
 * written; an odd stamp says that a write is under way. Orderings, in pairs:
 *   B1 release fence after the odd stamp, before the fields. Pairs with B4.
 *   B2 release store of the even stamp after the fields. Pairs with B3.
 *   B3 acquire load of the stamp before the copy. Pairs with B2.
 *   B4 acquire fence after the copy, then the stamp must be unchanged. Pairs with B1. */
#ifndef SIGNALBUS_BOARD_H
#define SIGNALBUS_BOARD_H

#include "error.h"
#include "record.h"

BUS_BEGIN_DECLARATIONS

#define BUS_BOARD_READ_ATTEMPTS 64

/* Replaces `slot` by `signal` (its stamp is ignored), B1 and B2. The board's owner, one thread,
 * from the first write on the same or its successor. Does not fail. */
static BUS_ALWAYS_INLINE void bus_board_write(struct bus_signal *slot,
                                              const struct bus_signal *signal)
{
  bus_word *to = (bus_word *)slot;
  const bus_word *from = (const bus_word *)signal;
  uint64_t stamp =
      (to[7] | 1) + 1; /* of a write that its owner did not survive: finished by this */
  BUS_STORE_RELAXED(&to[7], stamp - 1);
  BUS_FENCE_RELEASE(); /* B1 */
  for (int i = 0; i < 7; i++)
    BUS_STORE_RELAXED(&to[i], from[i]);
  BUS_STORE_RELEASE(&to[7], stamp); /* B2 */
}

/* Copies the latest signal out of `slot`. Returns 1; 0 when that symbol has had none; or
 * BUS_ERROR_AGAIN when a write was under way at every one of BUS_BOARD_READ_ATTEMPTS tries (its
 * owner was stopped or killed in the middle: its successor will write the slot again); then
 * `signal` holds nothing of use. B3 and B4. Any thread; stores nothing on the bus. */
static BUS_ALWAYS_INLINE int bus_board_read(const struct bus_signal *slot,
                                            struct bus_signal *signal)
{
  const bus_word *from = (const bus_word *)slot;
  bus_word *to = (bus_word *)signal;
  for (int attempt = 0; attempt < BUS_BOARD_READ_ATTEMPTS; attempt++) {
    uint64_t stamp = BUS_LOAD_ACQUIRE(&from[7]); /* B3 */
    if (stamp == 0)
      return 0;
    if (!(stamp & 1)) {
      for (int i = 0; i < 7; i++)
        to[i] = BUS_LOAD_RELAXED(&from[i]);
      BUS_FENCE_ACQUIRE(); /* B4 */
      to[7] = stamp;
      if (BUS_LOAD_RELAXED(&from[7]) == stamp)
        return 1;
    }
    bus_cpu_relax();
  }
  return BUS_ERROR_AGAIN;
}

BUS_END_DECLARATIONS

#endif
