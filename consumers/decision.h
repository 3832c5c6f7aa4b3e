/* decision.h: from a model's scores and the tick they belong to, the signal that a trader acts on.
 */
#ifndef SIGNALBUS_DECISION_H
#define SIGNALBUS_DECISION_H

#include "shm/record.h"

BUS_BEGIN_DECLARATIONS

/* What of a feature outlives its slot until its batch is done. */
struct bus_tick {
  uint64_t timestamp_ns;
  uint64_t position; /* in its ring */
  int64_t bid_price;
  int64_t ask_price;
  uint16_t symbol;
  uint16_t source; /* which input ring */
  uint8_t flags;   /* enum bus_feature_flag */
};

/* Index of the largest score; the flat one (1) wins ties, then the sell. Pure. */
static inline int bus_decision_winner(const float score[3])
{
  int winner = 1;
  if (score[0] > score[winner])
    winner = 0;
  if (score[2] > score[winner])
    winner = 2;
  return winner;
}

/* Mean of two prices, rounded down, for any two values: a neighbour's record is not to be trusted
 * not to overflow a sum. Pure. */
static inline int64_t bus_decision_mid(int64_t bid_price, int64_t ask_price)
{
  return (bid_price & ask_price) + ((bid_price ^ ask_price) >> 1);
}

/* Difference of two bus times as a 32-bit field: 0 when negative, saturated above 4.29 s. Pure. */
static inline uint32_t bus_decision_elapsed_ns(uint64_t from_ns, uint64_t to_ns)
{
  int64_t elapsed_ns = (int64_t)(to_ns - from_ns);
  if (elapsed_ns < 0)
    return 0;
  return elapsed_ns > (int64_t)UINT32_MAX ? UINT32_MAX : (uint32_t)elapsed_ns;
}

/* Writes every field of `signal` that follows from the tick and the scores, straight into its slot:
 * all but queue_ns, inference_ns, batch, model, engine and the stamp. A signal is VALID when the
 * tick was VALID and its book not crossed. target_price: best ask for a buy, best bid for a sell,
 * else the mid, rounded down. `score` holds three finite numbers in 0..1. Same input, same bits.
 * The thread that reserved the slot. */
static inline void bus_decision_fill(struct bus_signal *signal, const struct bus_tick *tick,
                                     const float score[3])
{
  const unsigned unsafe = BUS_FEATURE_STALE | BUS_FEATURE_RESYNC | BUS_FEATURE_CROSSED;
  bool valid = (tick->flags & BUS_FEATURE_VALID) && !(tick->flags & BUS_FEATURE_CROSSED);
  int winner = bus_decision_winner(score);
  int64_t target_price = winner == 2   ? tick->ask_price
                         : winner == 0 ? tick->bid_price
                                       : bus_decision_mid(tick->bid_price, tick->ask_price);
  signal->timestamp_ns = tick->timestamp_ns;
  signal->feature_position = tick->position;
  signal->target_price = valid ? target_price : 0;
  signal->score[0] = score[0];
  signal->score[1] = score[1];
  signal->score[2] = score[2];
  signal->source = tick->source;
  signal->symbol = tick->symbol;
  signal->direction = (int8_t)(valid ? winner - 1 : 0);
  signal->confidence = (uint8_t)(score[winner] * 100.0f + 0.5f);
  signal->flags =
      (uint8_t)((valid ? BUS_SIGNAL_VALID : 0) | (tick->flags & unsafe ? BUS_SIGNAL_STALE : 0));
}

BUS_END_DECLARATIONS

#endif
