/* DPDK's rte_ring, single producer and single consumer, on memory of our own: no EAL is started.
 * Messages by value, one at a time or in bursts of 32. */
#include "tools/bench/ring_loops.h"

#include <rte_ring.h>
#include <rte_ring_elem.h>
#include <string.h>

#define BURST 32u

static uint64_t channel_bytes(enum ring_size size, uint64_t depth)
{
  return sizeof(struct rte_ring) + depth * ring_size_bytes(size);
}

static int channel_new(void *memory, enum ring_size size, uint64_t depth)
{
  memset(memory, 0, channel_bytes(size, depth));
  int error = rte_ring_init(memory, "bus-bench", (unsigned)depth, RING_F_SP_ENQ | RING_F_SC_DEQ);
  return error ? bus_error_set(BUS_ERROR_INVALID, "rte_ring_init: error %d", error) : BUS_OK;
}

static BUS_ALWAYS_INLINE uint64_t pop_single(struct rte_ring *ring, struct ring_check *check,
                                             uint64_t *message, uint64_t words)
{
  if (rte_ring_sc_dequeue_elem(ring, message, (unsigned)(words * 8)) != 0)
    return 0;
  ring_check_message(check, message, words, ring_table_last(check));
  check->next++;
  return 1;
}

static BUS_ALWAYS_INLINE uint64_t pop_burst(struct rte_ring *ring, struct ring_check *check,
                                            uint64_t *messages, uint64_t words)
{
  unsigned taken =
      rte_ring_sc_dequeue_burst_elem(ring, messages, (unsigned)(words * 8), BURST, NULL);
  for (unsigned i = 0; i < taken; i++, check->next++)
    ring_check_message(check, messages + i * words, words, ring_table_last(check));
  return taken;
}

#define DEFINE_SIZE(words)                                                                         \
  static BUS_ALWAYS_INLINE uint64_t push_##words(void *tx, const uint64_t *messages,               \
                                                 uint64_t number, uint64_t count)                  \
  {                                                                                                \
    (void)number, (void)count;                                                                     \
    return rte_ring_sp_enqueue_elem(tx, (void *)(uintptr_t)messages, 8 * (words)) == 0;            \
  }                                                                                                \
  static BUS_ALWAYS_INLINE uint64_t pop_##words(void *rx, struct ring_check *check)                \
  {                                                                                                \
    uint64_t message[words];                                                                       \
    return pop_single(rx, check, message, words);                                                  \
  }                                                                                                \
  static const struct ring_ops ops_##words = {words, 1, push_##words, pop_##words};                \
  RING_DEFINE_CODE(code_##words, ops_##words)                                                      \
  static BUS_ALWAYS_INLINE uint64_t push_burst_##words(void *tx, const uint64_t *messages,         \
                                                       uint64_t number, uint64_t count)            \
  {                                                                                                \
    (void)number;                                                                                  \
    return rte_ring_sp_enqueue_burst_elem(tx, messages, 8 * (words), (unsigned)count, NULL);       \
  }                                                                                                \
  static BUS_ALWAYS_INLINE uint64_t pop_burst_##words(void *rx, struct ring_check *check)          \
  {                                                                                                \
    uint64_t messages[BURST * (words)];                                                            \
    return pop_burst(rx, check, messages, words);                                                  \
  }                                                                                                \
  static const struct ring_ops ops_burst_##words = {words, BURST, push_burst_##words,              \
                                                    pop_burst_##words};                            \
  RING_DEFINE_CODE(code_burst_##words, ops_burst_##words)

DEFINE_SIZE(1)
DEFINE_SIZE(8)
DEFINE_SIZE(16)
DEFINE_SIZE(2048)

const struct ring_contestant ring_dpdk = {.name = "DPDK rte_ring",
                                          .between_processes = true,
                                          .channel_bytes = channel_bytes,
                                          .channel_new = channel_new,
                                          .code = {&code_1, &code_8, &code_16, &code_2048}};

const struct ring_contestant ring_dpdk_burst = {
    .name = "DPDK rte_ring, burst 32",
    .between_processes = true,
    .channel_bytes = channel_bytes,
    .channel_new = channel_new,
    .code = {&code_burst_1, &code_burst_8, &code_burst_16, &code_burst_2048}};
