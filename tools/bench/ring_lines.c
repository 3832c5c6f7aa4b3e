/* The limit: cache lines handed over with as little agreement as can be.
 *
 * Saturated: blocks of 64 messages (1 of 16 KiB) with one flag for each block, so what is left is
 * the transfer of the lines that the leader has just written. Otherwise one line with one word: a
 * store on one side and a load on the other, without any ring; a word that was missed counts as
 * taken with the next.
 */
#include "tools/bench/ring_loops.h"

#include <string.h>

#define BLOCK(words) ((words) > 64 ? 1u : 64u) /* messages */

struct lines {
  uint64_t word; /* the one line */
  uint8_t reserved0[BUS_FALSE_SHARING_BYTES - 8];
  uint64_t filled; /* messages, whole blocks */
  uint8_t reserved1[BUS_FALSE_SHARING_BYTES - 8];
  uint64_t emptied;
  uint8_t reserved2[BUS_FALSE_SHARING_BYTES - 8];
  /* The leader's own. */
  uint64_t mask;
  uint64_t depth;
  uint64_t emptied_seen;
  uint8_t reserved3[BUS_FALSE_SHARING_BYTES - 24];
  /* The follower's own. */
  uint64_t follower_mask;
  uint64_t filled_seen;
  uint8_t reserved4[BUS_FALSE_SHARING_BYTES - 16];
};

static uint64_t channel_bytes(enum ring_size size, uint64_t depth)
{
  /* The leader prefetches two lines beyond what it writes. */
  return sizeof(struct lines) + depth * ring_size_bytes(size) + BUS_FALSE_SHARING_BYTES;
}

static int channel_new(void *memory, enum ring_size size, uint64_t depth)
{
  struct lines *lines = memory;
  memset(memory, 0, channel_bytes(size, depth));
  lines->depth = depth;
  lines->mask = lines->follower_mask = depth - 1;
  return BUS_OK;
}

static BUS_ALWAYS_INLINE uint64_t *message_at(struct lines *lines, uint64_t index, uint64_t words)
{
  return (uint64_t *)(void *)(lines + 1) + index * words;
}

static BUS_ALWAYS_INLINE uint64_t push_block(struct lines *lines, const uint64_t *messages,
                                             uint64_t number, uint64_t words)
{
  if (number - lines->emptied_seen == lines->depth) {
    lines->emptied_seen = BUS_LOAD_ACQUIRE(&lines->emptied);
    if (number - lines->emptied_seen == lines->depth)
      return 0;
  }
  uint64_t *to = message_at(lines, number & lines->mask, words);
  for (uint64_t i = 0; i < BLOCK(words); i++, to += words, messages += words) {
    if (BLOCK(words) > 1)
      bus_prefetch_for_write(to + 16);
    memcpy(to, messages, words * sizeof *to);
  }
  BUS_STORE_RELEASE(&lines->filled, number + BLOCK(words));
  return BLOCK(words);
}

static BUS_ALWAYS_INLINE uint64_t pop_block(struct lines *lines, struct ring_check *check,
                                            uint64_t words)
{
  if (check->next == lines->filled_seen) {
    lines->filled_seen = BUS_LOAD_ACQUIRE(&lines->filled);
    if (check->next == lines->filled_seen)
      return 0;
  }
  const uint64_t *from = message_at(lines, check->next & lines->follower_mask, words);
  for (uint64_t i = 0; i < BLOCK(words); i++, check->next++)
    ring_check_message(check, from + i * words, words, ring_table_last(check));
  BUS_STORE_RELEASE(&lines->emptied, check->next);
  return BLOCK(words);
}

#define DEFINE_SIZE(words)                                                                         \
  static BUS_ALWAYS_INLINE uint64_t push_##words(void *tx, const uint64_t *messages,               \
                                                 uint64_t number, uint64_t count)                  \
  {                                                                                                \
    (void)count; /* the trial's messages are whole blocks */                                       \
    return push_block(tx, messages, number, words);                                                \
  }                                                                                                \
  static BUS_ALWAYS_INLINE uint64_t pop_##words(void *rx, struct ring_check *check)                \
  {                                                                                                \
    return pop_block(rx, check, words);                                                            \
  }                                                                                                \
  static const struct ring_ops ops_##words = {words, BLOCK(words), push_##words, pop_##words};     \
  RING_FUNCTION(lead_##words, ring_lead_saturated, ops_##words)                                    \
  RING_FUNCTION(follow_##words, ring_follow_stream, ops_##words)

DEFINE_SIZE(1)
DEFINE_SIZE(8)
DEFINE_SIZE(16)
DEFINE_SIZE(2048)

static BUS_ALWAYS_INLINE uint64_t push_word(void *tx, const uint64_t *messages, uint64_t number,
                                            uint64_t count)
{
  struct lines *lines = tx;
  (void)messages, (void)count;
  BUS_STORE_RELEASE(&lines->word, number + 1);
  return 1;
}

static BUS_ALWAYS_INLINE uint64_t pop_word(void *rx, struct ring_check *check)
{
  const struct lines *lines = rx;
  uint64_t taken = BUS_LOAD_ACQUIRE(&lines->word) - check->next;
  check->next += taken;
  return taken;
}

static const struct ring_ops ops_word = {1, 1, push_word, pop_word};
RING_FUNCTION(lead_hungry, ring_lead_hungry, ops_word)
RING_FUNCTION(lead_round_trip, ring_lead_round_trip, ops_word)
RING_FUNCTION(lead_paced, ring_lead_paced, ops_word)
RING_FUNCTION(follow_stream, ring_follow_stream, ops_word)
RING_FUNCTION(follow_round_trip, ring_follow_round_trip, ops_word)
RING_FUNCTION(follow_paced, ring_follow_paced, ops_word)

/* The block for the saturated workload, the one line for the others. */
static const struct ring_code code_1 = {{lead_1}, {follow_1}};
static const struct ring_code code_8 = {{lead_8, lead_hungry, lead_round_trip, lead_paced},
                                        {follow_8, follow_stream, follow_round_trip, follow_paced}};
static const struct ring_code code_16 = {{lead_16}, {follow_16}};
static const struct ring_code code_2048 = {{lead_2048}, {follow_2048}};

const struct ring_contestant ring_lines = {.name = "limit: bare lines",
                                           .between_processes = true,
                                           .is_limit = true,
                                           .channel_bytes = channel_bytes,
                                           .channel_new = channel_new,
                                           .code = {&code_1, &code_8, &code_16, &code_2048}};
