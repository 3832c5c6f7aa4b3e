#include "consumers/bridge_queue.h"
#include "consumers/bridge_random.h"

#include <criterion/criterion.h>
#include <stdlib.h>

static const struct bus_bridge_work one_token = {1, 0};

Test(bridge_queue, is_urgent_first_then_by_deadline_then_by_age)
{
  struct bus_bridge_queue_node nodes[5];
  struct bus_bridge_queue queue;
  bus_bridge_queue_init(&queue, nodes);
  cr_assert_eq(bus_bridge_queue_first(&queue), BUS_BRIDGE_NONE);
  bus_bridge_queue_add(&queue, 0, bus_bridge_rank_of(false, 100, 1), one_token);
  bus_bridge_queue_add(&queue, 1, bus_bridge_rank_of(false, 50, 3), one_token);
  bus_bridge_queue_add(&queue, 2, bus_bridge_rank_of(false, 50, 2), one_token);
  bus_bridge_queue_add(&queue, 3, bus_bridge_rank_of(true, UINT64_MAX, 4), one_token);
  bus_bridge_queue_add(&queue, 4, bus_bridge_rank_of(false, UINT64_MAX, 0), one_token);
  const uint32_t order[] = {3, 2, 1, 0, 4};
  for (uint32_t i = 0; i < 5; i++) {
    cr_assert_eq(bus_bridge_queue_first(&queue), order[i]);
    cr_assert_eq(queue.count, 5 - i);
    bus_bridge_queue_remove(&queue, order[i]);
  }
  cr_assert_eq(bus_bridge_queue_first(&queue), BUS_BRIDGE_NONE);
}

/* Against a list that is searched. */
Test(bridge_queue, knows_who_is_first_and_what_is_before_whom)
{
  enum { IDS = 50 };
  struct bus_bridge_queue_node nodes[IDS];
  bool in[IDS] = {false};
  struct bus_bridge_queue queue;
  bus_bridge_queue_init(&queue, nodes);
  uint64_t random = 5, sequence = 0;
  for (uint32_t i = 0; i < 50000; i++) {
    const uint32_t id = (uint32_t)(bus_bridge_random(&random) % IDS);
    if (in[id])
      bus_bridge_queue_remove(&queue, id);
    else
      bus_bridge_queue_add(&queue, id,
                           bus_bridge_rank_of(bus_bridge_random(&random) & 1,
                                              bus_bridge_random(&random) % 20, sequence++),
                           (struct bus_bridge_work){bus_bridge_random(&random) % 1000,
                                                    bus_bridge_random(&random) % 1000});
    in[id] = !in[id];
    const struct bus_bridge_rank rank =
        bus_bridge_rank_of(bus_bridge_random(&random) & 1, bus_bridge_random(&random) % 20,
                           bus_bridge_random(&random) % (sequence + 1));
    struct bus_bridge_work before = {7, 8}, expected = {7, 8};
    bus_bridge_queue_before(&queue, rank, &before);
    uint32_t first = BUS_BRIDGE_NONE;
    for (uint32_t other = 0; other < IDS; other++) {
      if (!in[other])
        continue;
      if (first == BUS_BRIDGE_NONE || bus_bridge_rank_before(nodes[other].rank, nodes[first].rank))
        first = other;
      if (bus_bridge_rank_before(nodes[other].rank, rank)) {
        expected.prompt_tokens += nodes[other].work.prompt_tokens;
        expected.answer_tokens += nodes[other].work.answer_tokens;
      }
    }
    cr_assert_eq(bus_bridge_queue_first(&queue), first);
    cr_assert_eq(before.prompt_tokens, expected.prompt_tokens);
    cr_assert_eq(before.answer_tokens, expected.answer_tokens);
  }
}

static uint32_t depth(const struct bus_bridge_queue *queue, uint32_t id)
{
  if (id == BUS_BRIDGE_NONE)
    return 0;
  const uint32_t left = depth(queue, queue->nodes[id].left);
  const uint32_t right = depth(queue, queue->nodes[id].right);
  return 1 + (left > right ? left : right);
}

Test(bridge_queue, stays_flat_when_deadlines_come_in_order)
{
  const uint32_t count = 65536;
  struct bus_bridge_queue_node *nodes = malloc(count * sizeof *nodes);
  struct bus_bridge_queue queue;
  bus_bridge_queue_init(&queue, nodes);
  for (uint32_t id = 0; id < count; id++)
    bus_bridge_queue_add(&queue, id, bus_bridge_rank_of(false, id, id), one_token);
  cr_assert_lt(depth(&queue, queue.root), 60);
  free(nodes);
}
