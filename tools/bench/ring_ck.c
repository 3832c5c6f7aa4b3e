/* Concurrency Kit's ck_ring, single producer and single consumer, messages by value. */
#include "tools/bench/ring_loops.h"

#include <ck_ring.h>
#include <string.h>

#define BUFFER_OFFSET 256u /* of the slots: struct ck_ring takes a little over two lines */

static uint64_t channel_bytes(enum ring_size size, uint64_t depth)
{
  return BUFFER_OFFSET + depth * ring_size_bytes(size);
}

static int channel_new(void *memory, enum ring_size size, uint64_t depth)
{
  memset(memory, 0, channel_bytes(size, depth));
  ck_ring_init(memory, (unsigned)depth);
  return BUS_OK;
}

#define DEFINE_SIZE(words)                                                                         \
  struct message_##words {                                                                         \
    uint64_t word[words];                                                                          \
  };                                                                                               \
  CK_RING_PROTOTYPE(words, message_##words)                                                        \
  static BUS_ALWAYS_INLINE uint64_t push_##words(void *tx, const uint64_t *messages,               \
                                                 uint64_t number, uint64_t count)                  \
  {                                                                                                \
    (void)number, (void)count;                                                                     \
    struct message_##words *slots = (void *)((char *)tx + BUFFER_OFFSET);                          \
    return CK_RING_ENQUEUE_SPSC(words, tx, slots, (struct message_##words *)(uintptr_t)messages);  \
  }                                                                                                \
  static BUS_ALWAYS_INLINE uint64_t pop_##words(void *rx, struct ring_check *check)                \
  {                                                                                                \
    struct message_##words message, *slots = (void *)((char *)rx + BUFFER_OFFSET);                 \
    if (!CK_RING_DEQUEUE_SPSC(words, rx, slots, &message))                                         \
      return 0;                                                                                    \
    ring_check_message(check, &message, words, ring_table_last(check));                            \
    check->next++;                                                                                 \
    return 1;                                                                                      \
  }                                                                                                \
  static const struct ring_ops ops_##words = {words, 1, push_##words, pop_##words};                \
  RING_DEFINE_CODE(code_##words, ops_##words)

DEFINE_SIZE(1)
DEFINE_SIZE(8)
DEFINE_SIZE(16)
DEFINE_SIZE(2048)

const struct ring_contestant ring_ck = {.name = "ck_ring",
                                        .between_processes = true,
                                        .channel_bytes = channel_bytes,
                                        .channel_new = channel_new,
                                        .code = {&code_1, &code_8, &code_16, &code_2048}};
