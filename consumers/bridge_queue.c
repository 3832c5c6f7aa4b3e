#include "consumers/bridge_queue.h"

#include "consumers/bridge_random.h"

void bus_bridge_queue_init(struct bus_bridge_queue *queue, struct bus_bridge_queue_node *nodes)
{
  *queue = (struct bus_bridge_queue){.nodes = nodes, .root = BUS_BRIDGE_NONE};
}

static void add_work(struct bus_bridge_work *sum, struct bus_bridge_work work)
{
  sum->prompt_tokens += work.prompt_tokens;
  sum->answer_tokens += work.answer_tokens;
}

static void add_below(const struct bus_bridge_queue_node *nodes, uint32_t id,
                      struct bus_bridge_work *sum)
{
  if (id != BUS_BRIDGE_NONE)
    add_work(sum, nodes[id].below);
}

static void sum_up(struct bus_bridge_queue_node *nodes, uint32_t id)
{
  nodes[id].below = nodes[id].work;
  add_below(nodes, nodes[id].left, &nodes[id].below);
  add_below(nodes, nodes[id].right, &nodes[id].below);
}

/* Parts the tree `id` into what stands before `rank` and the rest. As deep as the tree, which is
 * O(log n): the weights are spread evenly, whoever chooses the ranks. */
static void split(struct bus_bridge_queue_node *nodes, uint32_t id, struct bus_bridge_rank rank,
                  uint32_t *before, uint32_t *rest)
{
  if (id == BUS_BRIDGE_NONE) {
    *before = *rest = BUS_BRIDGE_NONE;
    return;
  }
  if (bus_bridge_rank_before(nodes[id].rank, rank)) {
    split(nodes, nodes[id].right, rank, &nodes[id].right, rest);
    *before = id;
  } else {
    split(nodes, nodes[id].left, rank, before, &nodes[id].left);
    *rest = id;
  }
  sum_up(nodes, id);
}

/* Joins two trees, all of the first before all of the second. As deep as they are. */
static uint32_t join(struct bus_bridge_queue_node *nodes, uint32_t first, uint32_t second)
{
  if (first == BUS_BRIDGE_NONE || second == BUS_BRIDGE_NONE)
    return first == BUS_BRIDGE_NONE ? second : first;
  const uint32_t root = nodes[first].weight > nodes[second].weight ? first : second;
  if (root == first)
    nodes[first].right = join(nodes, nodes[first].right, second);
  else
    nodes[second].left = join(nodes, first, nodes[second].left);
  sum_up(nodes, root);
  return root;
}

void bus_bridge_queue_add(struct bus_bridge_queue *queue, uint32_t id, struct bus_bridge_rank rank,
                          struct bus_bridge_work work)
{
  uint32_t before, rest;
  split(queue->nodes, queue->root, rank, &before, &rest);
  queue->nodes[id] = (struct bus_bridge_queue_node){
      .rank = rank,
      .work = work,
      .below = work,
      .weight = bus_bridge_mix(rank.sequence + 0x9e3779b97f4a7c15u),
      .left = BUS_BRIDGE_NONE,
      .right = BUS_BRIDGE_NONE,
  };
  queue->root = join(queue->nodes, join(queue->nodes, before, id), rest);
  queue->count++;
}

void bus_bridge_queue_remove(struct bus_bridge_queue *queue, uint32_t id)
{
  struct bus_bridge_rank after = queue->nodes[id].rank;
  after.sequence++; /* ranks are different: nothing stands between */
  uint32_t before, rest, self;
  split(queue->nodes, queue->root, queue->nodes[id].rank, &before, &rest);
  split(queue->nodes, rest, after, &self, &rest);
  queue->root = join(queue->nodes, before, rest);
  queue->count--;
}

uint32_t bus_bridge_queue_first(const struct bus_bridge_queue *queue)
{
  uint32_t id = queue->root;
  while (id != BUS_BRIDGE_NONE && queue->nodes[id].left != BUS_BRIDGE_NONE)
    id = queue->nodes[id].left;
  return id;
}

void bus_bridge_queue_before(const struct bus_bridge_queue *queue, struct bus_bridge_rank rank,
                             struct bus_bridge_work *work)
{
  uint32_t id = queue->root;
  while (id != BUS_BRIDGE_NONE) {
    const struct bus_bridge_queue_node *node = &queue->nodes[id];
    if (bus_bridge_rank_before(node->rank, rank)) {
      add_below(queue->nodes, node->left, work);
      add_work(work, node->work);
      id = node->right;
    } else {
      id = node->left;
    }
  }
}
