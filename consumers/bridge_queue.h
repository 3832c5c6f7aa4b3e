/* bridge_queue.h: what waits for a server: urgent first, then the earliest deadline, then the
 * oldest; and how much work stands before somebody, which admission asks. Private memory, one
 * thread; allocates nothing.
 *
 * A treap: a tree ordered by what is above, whose shape is that of random insertion, with the sum
 * of the work below in each node. Everything takes O(log n) expected. The nodes are an array that
 * several queues share: an id is in one queue at a time. */
#ifndef SIGNALBUS_BRIDGE_QUEUE_H
#define SIGNALBUS_BRIDGE_QUEUE_H

#include "consumers/bridge_heap.h"

BUS_BEGIN_DECLARATIONS

/* Tokens, by the estimate. */
struct bus_bridge_work {
  uint64_t prompt_tokens;
  uint64_t answer_tokens;
};

/* Where something stands. Smaller comes first. */
struct bus_bridge_rank {
  uint64_t key;      /* bus_bridge_rank_of */
  uint64_t sequence; /* different for each that waits */
};

struct bus_bridge_queue_node {
  struct bus_bridge_rank rank;
  struct bus_bridge_work work;  /* its own */
  struct bus_bridge_work below; /* of it and its children's children */
  uint64_t weight;              /* parents have larger ones */
  uint32_t left, right;
};

struct bus_bridge_queue {
  struct bus_bridge_queue_node *nodes; /* by id */
  uint32_t root;
  uint32_t count;
};

static BUS_ALWAYS_INLINE struct bus_bridge_rank
bus_bridge_rank_of(bool urgent, uint64_t deadline_ns, uint64_t sequence)
{
  const uint64_t later = (uint64_t)1 << 63;
  uint64_t key = deadline_ns < later ? deadline_ns : later - 1;
  return (struct bus_bridge_rank){.key = urgent ? key : key | later, .sequence = sequence};
}

static BUS_ALWAYS_INLINE bool bus_bridge_rank_before(struct bus_bridge_rank a,
                                                     struct bus_bridge_rank b)
{
  return a.key != b.key ? a.key < b.key : a.sequence < b.sequence;
}

BUS_EXPORT void bus_bridge_queue_init(struct bus_bridge_queue *queue,
                                      struct bus_bridge_queue_node *nodes);

/* Adds `id`, which is in no queue. */
BUS_EXPORT void bus_bridge_queue_add(struct bus_bridge_queue *queue, uint32_t id,
                                     struct bus_bridge_rank rank, struct bus_bridge_work work);

/* Takes `id` out, which is in this queue. */
BUS_EXPORT void bus_bridge_queue_remove(struct bus_bridge_queue *queue, uint32_t id);

/* Whose turn it is; BUS_BRIDGE_NONE: nobody's. */
BUS_EXPORT uint32_t bus_bridge_queue_first(const struct bus_bridge_queue *queue);

/* Adds to *work what stands before `rank`. */
BUS_EXPORT void bus_bridge_queue_before(const struct bus_bridge_queue *queue,
                                        struct bus_bridge_rank rank, struct bus_bridge_work *work);

BUS_END_DECLARATIONS

#endif
