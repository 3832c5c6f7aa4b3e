/* ring_loops.h: the measured loops, one source for every contestant, C and C++.
 *
 * A contestant gives its two operations as constants; the loops are inlined into a function of its
 * own for each message size, and the operations into the loops, so that nothing is called through a
 * pointer while the clock runs. */
#ifndef TOOLS_RING_LOOPS_H
#define TOOLS_RING_LOOPS_H

#include "tools/bench/bench_process.h"
#include "tools/bench/ring_trial.h"

/* What arrived, kept by the follower (and by the leader of a round trip). */
struct ring_check {
  uint64_t next; /* number of the message that comes next */
  uint64_t mask; /* of the source */
  uint64_t sum;  /* of all words but the last ones */
  uint64_t bad;  /* messages with the wrong number */
};

struct ring_ops {
  uint64_t words; /* of a message */
  uint64_t batch; /* messages to give to `push` where there are as many; RING_BATCH_MAX at most */
  /* Sends `count` messages or fewer, the first one `number`. Returns how many. */
  uint64_t (*push)(void *tx, const uint64_t *messages, uint64_t number, uint64_t count);
  /* Takes messages, calling ring_check_message and raising check->next for each. Returns how many.
   */
  uint64_t (*pop)(void *rx, struct ring_check *check);
};

/* Failed attempts between two looks at whether to go on; some ms. */
#define RING_PATIENCE 0xfffffu

/* `last` is what the last word has to be. Reads every word. */
static BUS_ALWAYS_INLINE void ring_check_message(struct ring_check *check, const void *message,
                                                 uint64_t words, uint64_t last)
{
  const bus_word *word = (const bus_word *)message;
  uint64_t sum = 0;
  for (uint64_t i = 0; i + 1 < words; i++)
    sum += word[i];
  check->sum += sum;
  check->bad += word[words - 1] != last;
}

/* What the last word is in the table's messages. */
static BUS_ALWAYS_INLINE uint64_t ring_table_last(const struct ring_check *check)
{
  return (check->next & check->mask) + 1;
}

static BUS_ALWAYS_INLINE uint64_t ring_least(uint64_t a, uint64_t b)
{
  return a < b ? a : b;
}

/* A chain of multiplications that nothing can shorten. */
static BUS_ALWAYS_INLINE uint64_t ring_work(uint64_t state, uint64_t steps)
{
  for (; steps > 0; steps--) {
    state *= 0x9e3779b97f4a7c15u;
    __asm__ volatile("" : "+r"(state));
  }
  return state;
}

static BUS_ALWAYS_INLINE const uint64_t *ring_message(const struct ring_source *source,
                                                      uint64_t number, uint64_t words)
{
  return source->table + (number & source->mask) * words;
}

/* After an attempt in vain; true when there have been too many. */
static BUS_ALWAYS_INLINE bool ring_gives_up(struct ring_side *side,
                                            const struct ring_source *source, uint64_t *attempts)
{
  if (source->pauses)
    bus_cpu_relax();
  return BUS_UNLIKELY((++*attempts & RING_PATIENCE) == 0) && ring_has_to_stop(side);
}

/* Sends `count` messages, waiting for room. */
static BUS_ALWAYS_INLINE bool ring_send(struct ring_side *side, const struct ring_source *source,
                                        const struct ring_ops *ops, uint64_t number, uint64_t count)
{
  uint64_t attempts = 0;
  for (const uint64_t end = number + count; number < end;) {
    uint64_t sent =
        ops->push(side->tx, ring_message(source, number, ops->words), number, end - number);
    number += sent;
    if (BUS_UNLIKELY(sent == 0) && ring_gives_up(side, source, &attempts))
      return false;
  }
  return true;
}

/* Waits until something has been taken; how much, 0 to give up. */
static BUS_ALWAYS_INLINE uint64_t ring_take(struct ring_side *side,
                                            const struct ring_source *source,
                                            const struct ring_ops *ops, struct ring_check *check)
{
  for (uint64_t attempts = 0;;) {
    uint64_t taken = ops->pop(side->rx, check);
    if (BUS_LIKELY(taken > 0))
      return taken;
    if (ring_gives_up(side, source, &attempts))
      return 0;
  }
}

static BUS_ALWAYS_INLINE int ring_lead_saturated(struct ring_side *side, const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  for (uint64_t number = 0; number < source.all;) {
    uint64_t count = ring_least(ops->batch, source.all - number);
    if (!ring_send(side, &source, ops, number, count))
      return BUS_ERROR_AGAIN;
    number += count;
  }
  return BUS_OK;
}

static BUS_ALWAYS_INLINE int ring_lead_hungry(struct ring_side *side, const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  uint64_t state = 1;
  for (uint64_t number = 0; number < source.all;) {
    uint64_t count = ring_least(ops->batch, source.all - number);
    for (uint64_t i = 0; i < count; i++)
      state = ring_work(state, source.work_steps);
    if (!ring_send(side, &source, ops, number, count))
      return BUS_ERROR_AGAIN;
    number += count;
  }
  return BUS_OK;
}

/* Messages are sent as they fall due; those that are late already, in one batch where there is
 * such a thing. */
static BUS_ALWAYS_INLINE int ring_lead_paced(struct ring_side *side, const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  uint64_t due_ns = side->trial->start_ns, attempts = 0;
  for (uint64_t number = 0; number < source.all;) {
    uint64_t now_ns = bench_now_ns();
    if (now_ns < due_ns) {
      if (BUS_UNLIKELY((++attempts & RING_PATIENCE) == 0) && ring_has_to_stop(side))
        return BUS_ERROR_AGAIN;
      continue;
    }
    uint64_t count = 0;
    for (; count < ops->batch && number + count < source.all && now_ns >= due_ns; count++)
      due_ns += source.interval_ns;
    if (!ring_send(side, &source, ops, number, count))
      return BUS_ERROR_AGAIN;
    number += count;
  }
  return BUS_OK;
}

/* The clock is the follower's alone: from the last warm message taken to the last of all. */
static BUS_ALWAYS_INLINE int ring_follow_stream(struct ring_side *side, const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  struct ring_check check = {0, source.mask, 0, 0};
  uint64_t from = 0, from_ns = 0, attempts = 0;
  for (uint64_t goal = source.warm;; goal = source.all) {
    while (check.next < goal)
      if (ops->pop(side->rx, &check) == 0 && ring_gives_up(side, &source, &attempts))
        return BUS_ERROR_AGAIN;
    uint64_t now_ns = bench_now_ns();
    if (goal == source.all) {
      side->trial->ns_per_message = (double)(now_ns - from_ns) / (double)(check.next - from);
      return ring_check_total(side, check.next, ops->words, check.sum, check.bad);
    }
    from = check.next;
    from_ns = now_ns;
  }
}

static BUS_ALWAYS_INLINE int ring_follow_paced(struct ring_side *side, const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  struct bus_histogram *latency_ns = &side->trial->latency_ns;
  const uint64_t start_ns = side->trial->start_ns;
  struct ring_check check = {0, source.mask, 0, 0};
  while (check.next < source.all) {
    uint64_t number = check.next;
    if (ring_take(side, &source, ops, &check) == 0)
      return BUS_ERROR_AGAIN;
    uint64_t now_ns = bench_now_ns();
    for (; number < check.next; number++) {
      /* The clock is read without a fence and may be some ns ahead of the message. */
      uint64_t due_ns = start_ns + number * source.interval_ns;
      if (number >= source.warm)
        bus_histogram_record(latency_ns, now_ns > due_ns ? now_ns - due_ns : 0);
    }
  }
  return ring_check_total(side, check.next, ops->words, check.sum, check.bad);
}

static BUS_ALWAYS_INLINE int ring_lead_round_trip(struct ring_side *side,
                                                  const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  struct ring_check check = {0, source.mask, 0, 0};
  double runs_ns[RING_RUNS];
  uint32_t runs = 0;
  for (uint64_t goal = source.warm, number = 0; goal <= source.all; goal += source.run) {
    uint64_t from = number, from_ns = bench_now_ns();
    for (; number < goal; number++)
      if (!ring_send(side, &source, ops, number, 1) || ring_take(side, &source, ops, &check) == 0)
        return BUS_ERROR_AGAIN;
    if (goal > source.warm && runs < RING_RUNS)
      runs_ns[runs++] = (double)(bench_now_ns() - from_ns) / (double)(number - from);
  }
  side->trial->ns_per_message = ring_median(runs_ns, runs);
  return ring_check_total(side, check.next, ops->words, check.sum, check.bad);
}

static BUS_ALWAYS_INLINE int ring_follow_round_trip(struct ring_side *side,
                                                    const struct ring_ops *ops)
{
  const struct ring_source source = side->trial->source;
  struct ring_check check = {0, source.mask, 0, 0};
  for (uint64_t number = 0; number < source.all; number++)
    if (ring_take(side, &source, ops, &check) == 0 || !ring_send(side, &source, ops, number, 1))
      return BUS_ERROR_AGAIN;
  return ring_check_total(side, check.next, ops->words, check.sum, check.bad);
}

/* A function of its own. */
#define RING_FUNCTION(name, loop, ops)                                                             \
  static int name(struct ring_side *side)                                                          \
  {                                                                                                \
    return loop(side, &(ops));                                                                     \
  }

/* All loops around `ops`, a static const struct ring_ops, as struct ring_code `name`. */
#define RING_DEFINE_CODE(name, ops)                                                                \
  RING_FUNCTION(name##_lead_saturated, ring_lead_saturated, ops)                                   \
  RING_FUNCTION(name##_lead_hungry, ring_lead_hungry, ops)                                         \
  RING_FUNCTION(name##_lead_round_trip, ring_lead_round_trip, ops)                                 \
  RING_FUNCTION(name##_lead_paced, ring_lead_paced, ops)                                           \
  RING_FUNCTION(name##_follow_stream, ring_follow_stream, ops)                                     \
  RING_FUNCTION(name##_follow_round_trip, ring_follow_round_trip, ops)                             \
  RING_FUNCTION(name##_follow_paced, ring_follow_paced, ops)                                       \
  static const struct ring_code name = {                                                           \
      {name##_lead_saturated, name##_lead_hungry, name##_lead_round_trip, name##_lead_paced},      \
      {name##_follow_stream, name##_follow_stream, name##_follow_round_trip,                       \
       name##_follow_paced}};

#endif
