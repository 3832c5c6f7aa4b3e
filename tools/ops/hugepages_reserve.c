#include "tools/ops/hugepages.h"

#include <inttypes.h>
#include <stdio.h>

void ops_hugepages_undo(struct ops_system *system, struct ops_hugepages_state *state,
                        const struct ops_hugepages_node *node,
                        const struct ops_hugepages_state *at_first)
{
  char failure[1024];
  int64_t reached, before = ops_hugepages_persistent(node);
  const struct ops_hugepages_taken *taken = ops_hugepages_state_find(at_first, node->node);
  snprintf(failure, sizeof failure, "%s", bus_error_message());
  if (ops_hugepages_resize(system, node->node, before, 1, &reached) == BUS_OK &&
      ops_hugepages_state_put(system, state, node->node, taken ? taken->found : before,
                              taken ? taken->set : before) == BUS_OK)
    bus_error_set(BUS_ERROR_NO_SPACE, "%s; node %d is put back to the %" PRId64 " found", failure,
                  node->node, before);
  else
    bus_error_set(BUS_ERROR_NO_SPACE, "%s; and node %d could not be put back to %" PRId64, failure,
                  node->node, before);
}

int ops_hugepages_reserve(struct ops_system *system, struct ops_hugepages_state *state,
                          const struct ops_hugepages_node *node, int64_t pages, int tries,
                          bool allow_short, int64_t *reached)
{
  const struct ops_hugepages_state at_first = *state;
  const struct ops_hugepages_taken *taken = ops_hugepages_state_find(state, node->node);
  int64_t now = ops_hugepages_persistent(node);
  /* A number that drifted is somebody else's: then that is what was found. */
  int64_t found = taken && taken->set == now ? taken->found : now;
  *reached = now;
  if (now >= pages)
    return BUS_OK;
  int error = ops_hugepages_state_put(system, state, node->node, found, pages);
  if (error)
    return error;
  error = ops_hugepages_resize(system, node->node, pages, tries, reached);
  if (!error)
    return BUS_OK;
  if (error == BUS_ERROR_NO_SPACE && allow_short && *reached >= now) {
    char failure[1024];
    snprintf(failure, sizeof failure, "%s", bus_error_message());
    error = ops_hugepages_state_put(system, state, node->node, found, *reached);
    if (!error)
      bus_error_set(BUS_ERROR_NO_SPACE, "%s", failure);
    return error;
  }
  ops_hugepages_undo(system, state, node, &at_first);
  return error;
}

static int read_one(const struct ops_system *system, int node, int64_t *persistent,
                    int64_t *surplus)
{
  struct ops_hugepages pages;
  int error = ops_hugepages_read(system, &pages);
  if (error)
    return error;
  const struct ops_hugepages_node *found = ops_hugepages_find(&pages, node);
  if (!found)
    return bus_error_set(BUS_ERROR_ABSENT, "node %d: has no huge pages any more", node);
  *persistent = ops_hugepages_persistent(found);
  *surplus = found->surplus;
  return BUS_OK;
}

int ops_hugepages_release(struct ops_system *system, struct ops_hugepages_state *state, int node,
                          int64_t *before, int64_t *after, int64_t *in_use)
{
  const struct ops_hugepages_taken *note = ops_hugepages_state_find(state, node);
  *before = *after = *in_use = 0;
  if (!note)
    return bus_error_set(BUS_ERROR_ABSENT, "node %d: nothing was reserved there", node);
  const struct ops_hugepages_taken taken = *note;
  int error = read_one(system, node, before, in_use);
  *after = *before;
  /* Between the two numbers: a reservation that was killed on its way up. */
  if (!error && *before > taken.found && *before <= taken.set) {
    error = ops_hugepages_resize(system, node, taken.found, 1, after);
    if (!error)
      error = read_one(system, node, after, in_use);
  }
  return error ? error : ops_hugepages_state_put(system, state, node, taken.found, taken.found);
}
