/* From the clients to the queues: requests admitted or rejected, cancels, and after a restart what
 * a predecessor left. */
#include "consumers/bridge_core_parts.h"

#include <string.h>

/* Messages in one step: answers that came meanwhile must not wait for a client that asks without
 * end. */
#define MESSAGES_MAX 128u

/* What a token is in bytes of text, roughly: enough for an estimate. */
#define BYTES_PER_TOKEN 4u

static uint64_t id_key(uint32_t port, uint64_t id)
{
  return id ^ (uint64_t)port << 56;
}

/* ---- requests come and go ---- */

static uint32_t find_class(const struct bus_bridge_core *core, const char *name)
{
  for (uint32_t c = 0; c < core->config->class_count; c++) {
    if (!strncmp(core->config->classes[c].name, name, BUS_LLM_NAME_BYTES))
      return c;
  }
  return BUS_BRIDGE_NONE;
}

static struct bus_bridge_work estimate_work(const struct bus_bridge_core *core,
                                            const struct bus_bridge_entry *entry, uint32_t c)
{
  const uint32_t limit = c == BUS_BRIDGE_NONE ? 0 : core->config->classes[c].tokens_max;
  uint32_t tokens = entry->request.tokens_max;
  if (tokens == 0 || (limit && tokens > limit))
    tokens = limit;
  return (struct bus_bridge_work){
      .prompt_tokens = entry->text_bytes / BYTES_PER_TOKEN + 1,
      .answer_tokens = entry->request.kind == BUS_LLM_EMBEDDING ? 0 : tokens,
  };
}

static void count_in_flight(const struct bus_bridge_core *core)
{
  bus_meter_set(core->options.meters->in_flight, core->options.table.count - core->free_count);
}

/* Makes a request of the entry `id`, which is in use and was free here. */
static void adopt(struct bus_bridge_core *core, uint32_t id, uint32_t port)
{
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_port_lists *lists = &core->ports[port];
  const uint32_t c = find_class(core, entry->request.class_name);
  *request = (struct bus_bridge_request){
      .port = port,
      .class_index = c,
      .attempts = {BUS_BRIDGE_NONE, BUS_BRIDGE_NONE},
      .sequence = core->sequence++,
      .work = estimate_work(core, entry, c),
      .newer = BUS_BRIDGE_NONE,
      .older = lists->newest,
      .next_decided = BUS_BRIDGE_NONE,
  };
  if (lists->newest != BUS_BRIDGE_NONE)
    core->requests[lists->newest].newer = id;
  lists->newest = id;
  bus_bridge_map_add(&core->ids, id_key(port, entry->request.id), id);
  bus_bridge_heap_set(&core->deadlines, id, entry->request.deadline_ns);
  count_in_flight(core);
}

void bus_bridge_core_forget(struct bus_bridge_core *core, uint32_t id)
{
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_port_lists *lists = &core->ports[request->port];
  if (request->newer == BUS_BRIDGE_NONE)
    lists->newest = request->older;
  else
    core->requests[request->newer].older = request->older;
  if (request->older != BUS_BRIDGE_NONE)
    core->requests[request->older].newer = request->newer;
  bus_bridge_map_remove(&core->ids,
                        id_key(request->port, bus_bridge_core_entry(core, id)->request.id), id);
  bus_bridge_heap_remove(&core->deadlines, id);
  bus_byte_buffer_free(&request->text);
  request->phase = BUS_BRIDGE_REQUEST_FREE;
  core->free_requests[core->free_count++] = id;
  count_in_flight(core);
}

void bus_bridge_core_enqueue(struct bus_bridge_core *core, uint32_t id)
{
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_class *class = &core->classes[request->class_index];
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  bus_bridge_queue_add(&class->queue, id,
                       bus_bridge_rank_of(bus_bridge_core_is(entry, BUS_LLM_URGENT),
                                          entry->request.deadline_ns, request->sequence),
                       request->work);
  request->phase = BUS_BRIDGE_REQUEST_WAITING;
  core->ready |= 1u << request->class_index;
  bus_meter_set(class->meters->waiting, class->queue.count);
}

void bus_bridge_core_dequeue(struct bus_bridge_core *core, uint32_t id)
{
  struct bus_bridge_request *request = &core->requests[id];
  if (request->phase != BUS_BRIDGE_REQUEST_WAITING)
    return;
  struct bus_bridge_class *class = &core->classes[request->class_index];
  bus_bridge_queue_remove(&class->queue, id);
  bus_meter_set(class->meters->waiting, class->queue.count);
}

/* ---- admission ---- */

/* All that waits before `rank` for one of the servers of class `c`, in whatever class. */
static struct bus_bridge_work work_ahead(const struct bus_bridge_core *core, uint32_t c,
                                         struct bus_bridge_rank rank)
{
  const struct bus_bridge_class_config *config = core->classes[c].config;
  uint32_t classes = 0;
  for (uint32_t i = 0; i < config->backend_count; i++)
    classes |= core->pools[config->backends[i].backend].classes;
  struct bus_bridge_work ahead = {0};
  for (uint32_t rest = classes; rest; rest &= rest - 1)
    bus_bridge_queue_before(&core->classes[__builtin_ctz(rest)].queue, rank, &ahead);
  return ahead;
}

/* BUS_LLM_PENDING: may wait; otherwise the status it is rejected with. */
static uint32_t admission(const struct bus_bridge_core *core, uint32_t id)
{
  const struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  const struct bus_bridge_class *class = &core->classes[request->class_index];
  if (core->now_ns >= entry->request.deadline_ns)
    return BUS_LLM_EXPIRED;
  if (!bus_bridge_core_has_server(core, id))
    return BUS_LLM_BACKEND_DOWN;
  if (core->free_count == 0) /* the entry that is kept for saying so */
    return BUS_LLM_REJECTED_QUEUE;
  const bool urgent = bus_bridge_core_is(entry, BUS_LLM_URGENT);
  const struct bus_bridge_rank rank =
      bus_bridge_rank_of(urgent, entry->request.deadline_ns, request->sequence);
  const uint32_t first = bus_bridge_queue_first(&class->queue);
  const bool next =
      (first == BUS_BRIDGE_NONE || bus_bridge_rank_before(rank, core->nodes[first].rank)) &&
      bus_bridge_backend_choose(core->backends, class->config, &class->share, urgent, request->work,
                                0, core->now_ns) != BUS_BRIDGE_NONE;
  if (!next && class->queue.count >= class->config->queue_max)
    return BUS_LLM_REJECTED_QUEUE;
  const uint64_t done_ns = bus_bridge_backend_done_ns(core->backends, class->config,
                                                      work_ahead(core, request->class_index, rank),
                                                      urgent, request->work, core->now_ns);
  return done_ns > entry->request.deadline_ns ? BUS_LLM_REJECTED_DEADLINE : BUS_LLM_PENDING;
}

static bool is_rejection(uint32_t status)
{
  return status == BUS_LLM_REJECTED_QUEUE || status == BUS_LLM_REJECTED_DEADLINE ||
         status == BUS_LLM_BACKEND_DOWN;
}

/* The port has put a request into entry `id`. */
static void admit(struct bus_bridge_core *core, uint32_t id, uint32_t port, bool valid)
{
  adopt(core, id, port);
  struct bus_bridge_request *request = &core->requests[id];
  if (!valid || request->class_index == BUS_BRIDGE_NONE) {
    bus_bridge_core_decide(core, id, BUS_LLM_BAD_REQUEST, BUS_BRIDGE_NONE,
                           valid ? "no such class" : "malformed, or too long");
    return;
  }
  struct bus_bridge_class *class = &core->classes[request->class_index];
  const uint32_t status = admission(core, id);
  if (status != BUS_LLM_PENDING) {
    if (is_rejection(status))
      bus_meter_add(class->meters->rejected, 1);
    bus_bridge_core_decide(core, id, status, BUS_BRIDGE_NONE, NULL);
    return;
  }
  class->accepted++;
  bus_meter_add(class->meters->accepted, 1);
  request->direct = true;
  bus_bridge_core_enqueue(core, id);
  bus_bridge_core_dispatch(core);
}

/* ---- ports ---- */

static uint32_t find_request(const struct bus_bridge_core *core, uint32_t port, uint64_t client_id)
{
  uint32_t cursor = 0;
  for (;;) {
    const uint32_t id = bus_bridge_map_next(&core->ids, id_key(port, client_id), &cursor);
    if (id == BUS_BRIDGE_NONE)
      return id;
    if (core->requests[id].port == port &&
        bus_bridge_core_entry(core, id)->request.id == client_id &&
        core->requests[id].phase != BUS_BRIDGE_REQUEST_DECIDED)
      return id;
  }
}

static void cancel(struct bus_bridge_core *core, uint32_t port, uint64_t client_id)
{
  const uint32_t id = find_request(core, port, client_id);
  if (id == BUS_BRIDGE_NONE) {
    bus_meter_add(core->options.meters->cancels_late, 1);
    bus_bridge_port_cancel_done(&core->options.ports[port]);
    return;
  }
  bus_bridge_core_entry(core, id)->cancelled = 1;
  bus_bridge_core_transition(core);
  bus_bridge_port_cancel_done(&core->options.ports[port]);
  bus_bridge_core_break_off(core, id, BUS_LLM_CANCELLED);
}

/* One message of a port; false when there is none. */
static bool take_one(struct bus_bridge_core *core, uint32_t p)
{
  struct bus_bridge_port *port = &core->options.ports[p];
  const uint32_t id =
      core->free_count ? core->free_requests[core->free_count - 1] : BUS_BRIDGE_NONE;
  const uint64_t invalid = port->invalid;
  struct bus_llm_request message;
  bool valid;
  const uint32_t found = bus_bridge_port_take(
      port, &core->options.table, id == BUS_BRIDGE_NONE ? NULL : bus_bridge_core_entry(core, id),
      core->now_ns, &message, &valid);
  bus_meter_add(core->options.meters->requests_invalid, port->invalid - invalid);
  if (found == BUS_BRIDGE_INTAKE_REQUEST) {
    core->free_count--;
    admit(core, id, p, valid);
  } else if (found == BUS_BRIDGE_INTAKE_CANCEL) {
    cancel(core, p, message.id);
  }
  return found != BUS_BRIDGE_INTAKE_NONE;
}

void bus_bridge_core_take_in(struct bus_bridge_core *core)
{
  const uint32_t count = core->config->client_count;
  uint32_t silent = 0, taken = 0;
  while (silent < count && taken < MESSAGES_MAX) {
    const uint32_t p = core->next_port;
    core->next_port = (p + 1) % count;
    if (core->options.ports[p].requests && take_one(core, p)) {
      silent = 0;
      taken++;
    } else {
      silent++;
    }
  }
  core->done += taken;
}

/* The client that asked is gone, and nobody waits for the answer. */
static void drop(struct bus_bridge_core *core, uint32_t id)
{
  bus_bridge_core_dequeue(core, id);
  bus_bridge_core_let_go(core, id, BUS_BRIDGE_NONE);
  bus_bridge_port_drop(&core->options.ports[core->requests[id].port],
                       bus_bridge_core_entry(core, id));
  bus_meter_add(core->options.meters->orphaned, 1);
  bus_bridge_core_forget(core, id);
}

static bool is_orphan(const struct bus_bridge_core *core, uint32_t id)
{
  return bus_bridge_core_entry(core, id)->client_instance !=
         core->options.ports[core->requests[id].port].instance;
}

void bus_bridge_core_attached(struct bus_bridge_core *core, uint32_t index)
{
  struct bus_bridge_port_lists *lists = &core->ports[index];
  uint32_t *link = &lists->decided_first;
  lists->decided_last = BUS_BRIDGE_NONE;
  while (*link != BUS_BRIDGE_NONE) {
    if (is_orphan(core, *link)) {
      *link = core->requests[*link].next_decided;
    } else {
      lists->decided_last = *link;
      link = &core->requests[*link].next_decided;
    }
  }
  for (uint32_t id = lists->newest, older; id != BUS_BRIDGE_NONE; id = older) {
    older = core->requests[id].older;
    if (is_orphan(core, id))
      drop(core, id);
  }
}

/* ---- after a restart ---- */

static uint32_t find_port(const struct bus_bridge_core *core, const char *client)
{
  for (uint32_t p = 0; p < core->config->client_count; p++) {
    if (!strncmp(core->options.ports[p].client, client, BUS_LLM_NAME_BYTES))
      return p;
  }
  return BUS_BRIDGE_NONE;
}

/* Decides or queues what a predecessor has left; see bridge_table.h. */
static void settle(struct bus_bridge_core *core, uint32_t id)
{
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  struct bus_bridge_request *request = &core->requests[id];
  const bool expired = core->now_ns >= entry->request.deadline_ns;
  uint32_t status = BUS_LLM_PENDING;
  if (entry->cancelled)
    status = BUS_LLM_CANCELLED;
  else if (entry->refused || request->class_index == BUS_BRIDGE_NONE)
    status = BUS_LLM_BAD_REQUEST;
  else if (entry->sent && (expired || !bus_bridge_core_is(entry, BUS_LLM_IDEMPOTENT)))
    status = BUS_LLM_BRIDGE_RESTART;
  else if (expired)
    status = BUS_LLM_EXPIRED;
  if (status != BUS_LLM_PENDING) {
    bus_bridge_core_decide(core, id, status, BUS_BRIDGE_NONE, NULL);
    return;
  }
  request->failed = entry->sent != 0;
  bus_bridge_core_enqueue(core, id);
}

void bus_bridge_core_recover(struct bus_bridge_core *core)
{
  for (uint32_t i = core->options.table.count; i-- > 0;) {
    struct bus_bridge_entry *entry = bus_bridge_core_entry(core, i);
    const uint32_t port =
        entry->state == BUS_BRIDGE_FREE ? BUS_BRIDGE_NONE : find_port(core, entry->client);
    if (entry->state != BUS_BRIDGE_FREE && port == BUS_BRIDGE_NONE) {
      bus_meter_add(core->options.meters->orphaned, 1);
      bus_bridge_entry_set(entry, BUS_BRIDGE_FREE);
      bus_bridge_core_transition(core);
    }
    if (port == BUS_BRIDGE_NONE || bus_bridge_port_recover(&core->options.ports[port], entry)) {
      core->free_requests[core->free_count++] = i;
      continue;
    }
    bus_meter_add(core->options.meters->recovered, 1);
    adopt(core, i, port);
  }
  count_in_flight(core); /* the predecessor's count, where nothing was left */
  /* Only now, with every read position where it belongs, may anything be published. */
  for (uint32_t i = 0; i < core->options.table.count; i++) {
    if (core->requests[i].phase == BUS_BRIDGE_REQUEST_FREE &&
        bus_bridge_core_entry(core, i)->state != BUS_BRIDGE_FREE)
      settle(core, i);
  }
}
