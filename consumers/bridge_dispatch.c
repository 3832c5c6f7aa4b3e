/* From the queues to the servers: who is next, on which connection, and when a second one. */
#include "consumers/bridge_core_parts.h"

#include <string.h>

/* A kept connection that was idle for longer may meet the server's keep-alive end half-way. What
 * may be asked once only gets a connection that is surely still read. */
#define FRESH_NS ((uint64_t)1000000000)

/* How long a server is left alone when this side has no connection for it. */
#define LOCAL_PAUSE_NS          ((uint64_t)10 * 1000000)

#define CANARY_TEXT             "ping"
#define CANARY_ANSWER_BYTES_MAX ((size_t)64 << 10)

/* ---- lists of slots ---- */

static void list_push(struct bus_bridge_core *core, uint32_t *newest, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  attempt->newer = BUS_BRIDGE_NONE;
  attempt->older = *newest;
  if (*newest != BUS_BRIDGE_NONE)
    core->attempts[*newest].newer = slot;
  *newest = slot;
}

static void list_remove(struct bus_bridge_core *core, uint32_t *newest, uint32_t slot)
{
  const struct bus_bridge_attempt *attempt = &core->attempts[slot];
  if (attempt->newer == BUS_BRIDGE_NONE)
    *newest = attempt->older;
  else
    core->attempts[attempt->newer].older = attempt->older;
  if (attempt->older != BUS_BRIDGE_NONE)
    core->attempts[attempt->older].newer = attempt->newer;
}

static void close_slot(struct bus_bridge_core *core, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  if (attempt->phase != BUS_BRIDGE_ATTEMPT_FREE)
    bus_bridge_map_remove(&core->connections, attempt->connection, slot);
  bus_bridge_attempt_close(attempt, core->options.transport);
}

/* A slot of server `b`, out of its lists: connected (WARM) or FREE. There always is one: a server
 * has as many as requests at a time, and one for a canary. */
static uint32_t take_slot(struct bus_bridge_core *core, uint32_t b, bool repeatable)
{
  struct bus_bridge_pool *pool = &core->pools[b];
  const uint32_t warm = pool->warm;
  const bool usable = warm != BUS_BRIDGE_NONE &&
                      (repeatable || core->now_ns - core->attempts[warm].begun_ns < FRESH_NS);
  if (!usable && pool->free != BUS_BRIDGE_NONE) {
    const uint32_t slot = pool->free;
    list_remove(core, &pool->free, slot);
    return slot;
  }
  list_remove(core, &pool->warm, warm);
  if (!usable)
    close_slot(core, warm);
  return warm;
}

void bus_bridge_core_slot_rearm(struct bus_bridge_core *core, uint32_t slot)
{
  const struct bus_bridge_attempt *attempt = &core->attempts[slot];
  uint64_t due_ns = bus_bridge_attempt_due_ns(attempt, core->backends[attempt->backend].config);
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_ASKED && attempt->hedge_ns < due_ns)
    due_ns = attempt->hedge_ns;
  if (due_ns == UINT64_MAX)
    bus_bridge_heap_remove(&core->timers, slot);
  else
    bus_bridge_heap_set(&core->timers, slot, due_ns);
}

void bus_bridge_core_release(struct bus_bridge_core *core, uint32_t slot, bool close)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t b = attempt->backend;
  struct bus_bridge_pool *pool = &core->pools[b];
  const struct bus_bridge_backend_meters *meters = bus_bridge_core_backend_meters(core, b);
  const bool idle = attempt->request == BUS_BRIDGE_NONE && !attempt->canary;
  if (idle) {
    list_remove(core, &pool->warm, slot);
  } else if (attempt->canary) {
    pool->canary = BUS_BRIDGE_NONE;
  } else {
    bus_bridge_backend_give(&core->backends[b], attempt->work, attempt->end_ns);
    bus_meter_set(meters->in_flight, core->backends[b].in_flight);
    core->ready |= pool->classes;
  }
  if (!idle && attempt->sent_ns && !attempt->settled)
    bus_meter_add(meters->abandoned, 1);
  const uint32_t handle = attempt->connection;
  const bool connected = attempt->phase != BUS_BRIDGE_ATTEMPT_FREE;
  const bool whole = (attempt->phase == BUS_BRIDGE_ATTEMPT_ASKED ||
                      attempt->phase == BUS_BRIDGE_ATTEMPT_ANSWERED) &&
                     attempt->answer.verdict != BUS_LLM_VERDICT_MORE;
  if (close || !whole || !bus_bridge_backend_up(&core->backends[b]))
    bus_bridge_attempt_close(attempt, core->options.transport);
  else
    bus_bridge_attempt_finish(attempt, core->options.transport, core->backends[b].config,
                              core->now_ns);
  if (connected && attempt->phase == BUS_BRIDGE_ATTEMPT_FREE)
    bus_bridge_map_remove(&core->connections, handle, slot);
  list_push(core, attempt->phase == BUS_BRIDGE_ATTEMPT_WARM ? &pool->warm : &pool->free, slot);
  bus_bridge_core_slot_rearm(core, slot);
}

/* ---- one attempt ---- */

/* Writes to core->question what server `b` is asked: the request `id`, or a canary. */
static int write_question(struct bus_bridge_core *core, uint32_t b, uint32_t id)
{
  const struct bus_bridge_backend_config *config = core->backends[b].config;
  const struct bus_llm_endpoint endpoint = {
      .host = config->host,
      .path = config->path,
      .model = config->model,
      .authorization = config->authorization,
      .flavor = config->flavor,
  };
  struct bus_llm_question question = {
      .kind = core->pools[b].kind,
      .tokens_max = 1,
      .temperature = -1,
      .text = CANARY_TEXT,
      .text_bytes = sizeof CANARY_TEXT - 1,
  };
  if (id != BUS_BRIDGE_NONE) {
    const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
    question.kind = entry->request.kind;
    question.flags = entry->request.flags;
    question.tokens_max = (uint32_t)core->requests[id].work.answer_tokens;
    question.temperature = entry->request.temperature;
    question.text = entry->text;
    question.text_bytes = entry->text_bytes;
  }
  bus_byte_buffer_clear(&core->question);
  return bus_llm_question_write(&core->question, &endpoint, &question);
}

/* The text of an answer that its final reply can carry. */
static size_t answer_bytes_max(const struct bus_bridge_core *core, uint32_t id)
{
  const struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  const uint64_t record_size = core->options.ports[request->port].replies->record_size;
  const size_t room =
      (size_t)entry->request.reply_slots * bus_llm_slot_text_bytes((uint32_t)record_size);
  return room < core->config->answer_bytes_max ? room : core->config->answer_bytes_max;
}

static void count_queue_time(struct bus_bridge_core *core, uint32_t id)
{
  struct bus_bridge_request *request = &core->requests[id];
  if (request->queue_counted)
    return;
  request->queue_counted = true;
  bus_meter_record(core->classes[request->class_index].meters->queue_ns,
                   core->now_ns - bus_bridge_core_entry(core, id)->accepted_ns);
}

/* Bytes can be sent on `slot`, and core->question holds them. */
static void send_question(struct bus_bridge_core *core, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t id = attempt->request;
  const uint64_t wall_ns = core->now_ns + (uint64_t)core->options.realtime_offset_ns;
  struct bus_bridge_entry *entry = id == BUS_BRIDGE_NONE ? NULL : bus_bridge_core_entry(core, id);
  const uint8_t kind = entry ? entry->request.kind : core->pools[attempt->backend].kind;
  const size_t limit = entry ? answer_bytes_max(core, id) : CANARY_ANSWER_BYTES_MAX;
  int error = bus_bridge_attempt_prepare(attempt, kind, limit, wall_ns);
  if (!error && entry) {
    entry->sent = 1;
    bus_bridge_core_transition(core);
  }
  if (!error)
    error = bus_bridge_attempt_send(attempt, core->options.transport, core->question.bytes,
                                    core->question.size, core->now_ns);
  if (error) {
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_LOCAL, BUS_LLM_BACKEND_DOWN,
                           "no memory to send the request");
    return;
  }
  bus_meter_add(bus_bridge_core_backend_meters(core, attempt->backend)->sent, 1);
  if (entry) {
    count_queue_time(core, id);
    const uint64_t clock_ns = bus_bridge_core_clock(core);
    if (core->requests[id].direct && attempt->reused && clock_ns > entry->request.submitted_ns)
      bus_meter_record(core->options.meters->in_ns, clock_ns - entry->request.submitted_ns);
  }
  bus_bridge_core_slot_rearm(core, slot);
}

/* Begins to connect, or sends at once where the connection stands already. */
static void start(struct bus_bridge_core *core, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t b = attempt->backend;
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_WARM) {
    send_question(core, slot);
    return;
  }
  if (attempt->request != BUS_BRIDGE_NONE)
    core->requests[attempt->request].direct = false;
  const int error = bus_bridge_attempt_connect(attempt, core->options.transport,
                                               core->backends[b].config, core->now_ns);
  if (error == BUS_ERROR_NO_SPACE) {
    bus_bridge_backend_pause(&core->backends[b], core->now_ns + LOCAL_PAUSE_NS);
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_LOCAL, BUS_LLM_BACKEND_DOWN,
                           bus_error_message());
  } else if (error) {
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_UNSENT, BUS_LLM_BACKEND_DOWN,
                           bus_error_message());
  } else {
    bus_meter_add(bus_bridge_core_backend_meters(core, b)->reconnects, 1);
    bus_bridge_map_add(&core->connections, attempt->connection, slot);
    bus_bridge_core_slot_rearm(core, slot);
  }
}

void bus_bridge_core_connected(struct bus_bridge_core *core, uint32_t slot)
{
  const struct bus_bridge_attempt *attempt = &core->attempts[slot];
  bus_meter_record(bus_bridge_core_backend_meters(core, attempt->backend)->connect_ns,
                   core->now_ns - attempt->begun_ns);
  /* It was written once, and could be: only memory can be missing now. */
  if (write_question(core, attempt->backend, attempt->request) != BUS_OK)
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_LOCAL, BUS_LLM_BACKEND_DOWN,
                           bus_error_message());
  else
    send_question(core, slot);
}

/* Asks the server at `place` of the request's class; core->question is written for it. */
static void begin(struct bus_bridge_core *core, uint32_t id, uint32_t place)
{
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  struct bus_bridge_class *class = &core->classes[request->class_index];
  const uint32_t b = class->config->backends[place].backend;
  const bool repeatable = bus_bridge_core_is(entry, BUS_LLM_IDEMPOTENT);
  const uint32_t slot = take_slot(core, b, repeatable);
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  bus_bridge_core_dequeue(core, id);
  request->attempts[request->attempts[0] == BUS_BRIDGE_NONE ? 0 : 1] = slot;
  request->phase = BUS_BRIDGE_REQUEST_ASKED;
  attempt->request = id;
  attempt->number = ++entry->attempts;
  attempt->work = request->work;
  attempt->end_ns = core->now_ns + bus_bridge_backend_work_ns(&core->backends[b], request->work);
  attempt->hedge_ns = UINT64_MAX;
  if (class->config->hedge_after_ns && class->config->backend_count > 1 && repeatable)
    attempt->hedge_ns = core->now_ns + class->config->hedge_after_ns;
  core->pools[b].kind = entry->request.kind;
  bus_bridge_backend_take(&core->backends[b], attempt->work, attempt->end_ns);
  bus_bridge_share_note(&class->share, class->config, place);
  bus_meter_set(bus_bridge_core_backend_meters(core, b)->in_flight, core->backends[b].in_flight);
  if (request->failed)
    bus_meter_add(core->options.meters->retries, 1);
  request->failed = false;
  bus_bridge_entry_set(entry, BUS_BRIDGE_DISPATCHED);
  bus_bridge_core_transition(core);
  start(core, slot);
}

/* ---- who is next ---- */

bool bus_bridge_core_has_server(const struct bus_bridge_core *core, uint32_t id)
{
  const struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_class_config *config = core->classes[request->class_index].config;
  for (uint32_t i = 0; i < config->backend_count; i++) {
    const uint32_t b = config->backends[i].backend;
    if (!(request->unfit >> b & 1) && bus_bridge_backend_up(&core->backends[b]))
      return true;
  }
  return false;
}

static uint32_t choose(const struct bus_bridge_core *core, uint32_t id, uint32_t without)
{
  const struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_class *class = &core->classes[request->class_index];
  const bool urgent = bus_bridge_core_is(bus_bridge_core_entry(core, id), BUS_LLM_URGENT);
  return bus_bridge_backend_choose(core->backends, class->config, &class->share, urgent,
                                   request->work, without | request->unfit, core->now_ns);
}

/* The question cannot be put to server `b` at all. To any other of the class? If not it is the
 * request that is wrong, and the last message says why. */
static bool is_wrong(struct bus_bridge_core *core, uint32_t id, uint32_t b)
{
  struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_class_config *config = core->classes[request->class_index].config;
  request->unfit |= 1u << b;
  for (uint32_t i = 0; i < config->backend_count; i++) {
    const uint32_t other = config->backends[i].backend;
    if (!(request->unfit >> other & 1) && write_question(core, other, id) == BUS_OK)
      return false;
    request->unfit |= 1u << other;
  }
  return true;
}

/* Tries to begin the first of class `c`. False: it must wait. */
static bool dispatch_first(struct bus_bridge_core *core, uint32_t c, uint32_t id)
{
  struct bus_bridge_request *request = &core->requests[id];
  uint32_t place = choose(core, id, request->avoid);
  if (place == BUS_BRIDGE_NONE)
    place = choose(core, id, 0);
  if (place == BUS_BRIDGE_NONE) {
    if (bus_bridge_core_has_server(core, id)) {
      request->direct = false;
      return false;
    }
    bus_bridge_core_decide(core, id, BUS_LLM_BACKEND_DOWN, BUS_BRIDGE_NONE, NULL);
    return true;
  }
  const uint32_t b = core->classes[c].config->backends[place].backend;
  const int error = write_question(core, b, id);
  if (error == BUS_ERROR_NO_SPACE)
    bus_bridge_core_decide(core, id, BUS_LLM_REJECTED_QUEUE, BUS_BRIDGE_NONE, NULL);
  else if (!error)
    begin(core, id, place);
  else if (is_wrong(core, id, b))
    bus_bridge_core_decide(core, id, BUS_LLM_BAD_REQUEST, BUS_BRIDGE_NONE, bus_error_message());
  return true;
}

void bus_bridge_core_dispatch(struct bus_bridge_core *core)
{
  while (core->ready) {
    uint32_t best = BUS_BRIDGE_NONE, first = BUS_BRIDGE_NONE;
    for (uint32_t rest = core->ready; rest; rest &= rest - 1) {
      const uint32_t c = (uint32_t)__builtin_ctz(rest);
      const uint32_t id = bus_bridge_queue_first(&core->classes[c].queue);
      if (id == BUS_BRIDGE_NONE)
        core->ready &= ~(1u << c);
      else if (first == BUS_BRIDGE_NONE ||
               bus_bridge_rank_before(core->nodes[id].rank, core->nodes[first].rank)) {
        best = c;
        first = id;
      }
    }
    if (first == BUS_BRIDGE_NONE)
      return;
    core->done++;
    if (!dispatch_first(core, best, first)) {
      core->ready &= ~(1u << best);
      core->done--;
    }
  }
}

void bus_bridge_core_hedge(struct bus_bridge_core *core, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t id = attempt->request;
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_class *class = &core->classes[request->class_index];
  attempt->hedge_ns = UINT64_MAX;
  if (request->attempts[1] != BUS_BRIDGE_NONE || request->attempts[0] != slot)
    return;
  const uint32_t place = choose(core, id, request->avoid | 1u << attempt->backend);
  if (place == BUS_BRIDGE_NONE ||
      (class->hedges + 1) * 100 > class->config->hedge_percent * class->accepted) {
    attempt->hedge_ns = core->now_ns + class->config->hedge_after_ns; /* looks again */
    return;
  }
  if (write_question(core, class->config->backends[place].backend, id) != BUS_OK)
    return;
  class->hedges++;
  request->reply_flags |= BUS_LLM_HEDGED;
  bus_meter_add(core->options.meters->hedges, 1);
  begin(core, id, place);
}

/* ---- servers ---- */

void bus_bridge_core_backend_rearm(struct bus_bridge_core *core, uint32_t b)
{
  const struct bus_bridge_backend *backend = &core->backends[b];
  uint64_t due_ns =
      core->pools[b].canary == BUS_BRIDGE_NONE ? bus_bridge_backend_canary_ns(backend) : UINT64_MAX;
  if (backend->paused_until_ns > core->now_ns && backend->paused_until_ns < due_ns)
    due_ns = backend->paused_until_ns;
  bus_meter_set(bus_bridge_core_backend_meters(core, b)->breaker, backend->breaker);
  const uint32_t timer = core->attempt_count + b;
  if (due_ns == UINT64_MAX)
    bus_bridge_heap_remove(&core->timers, timer);
  else
    bus_bridge_heap_set(&core->timers, timer, due_ns);
}

static void begin_canary(struct bus_bridge_core *core, uint32_t b)
{
  const uint32_t slot = take_slot(core, b, true);
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  bus_bridge_backend_canary(&core->backends[b], core->now_ns);
  core->pools[b].canary = slot;
  attempt->canary = true;
  attempt->request = BUS_BRIDGE_NONE;
  attempt->hedge_ns = UINT64_MAX;
  if (write_question(core, b, BUS_BRIDGE_NONE) != BUS_OK)
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_LOCAL, 0, bus_error_message());
  else
    start(core, slot);
}

void bus_bridge_core_backend_due(struct bus_bridge_core *core, uint32_t b)
{
  if (core->backends[b].paused_until_ns <= core->now_ns)
    core->ready |= core->pools[b].classes;
  if (core->pools[b].canary == BUS_BRIDGE_NONE &&
      bus_bridge_backend_canary_ns(&core->backends[b]) <= core->now_ns)
    begin_canary(core, b);
  bus_bridge_core_backend_rearm(core, b);
}
