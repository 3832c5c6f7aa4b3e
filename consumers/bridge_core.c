#include "consumers/bridge_core_parts.h"

#include "consumers/bridge_random.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX 65536u /* what a transport has room for */

uint32_t bus_bridge_core_connections(const struct bus_bridge_config *config)
{
  uint32_t count = 0;
  for (uint32_t b = 0; b < config->backend_count; b++)
    count += config->backends[b].concurrency + 1; /* and a canary */
  return count;
}

/* ---- life ---- */

static int check_class(const struct bus_bridge_config *config, uint32_t c)
{
  const struct bus_bridge_class_config *class = &config->classes[c];
  if (class->backend_count < 1 || class->backend_count > BUS_BRIDGE_BACKENDS_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "class %s has %u servers, not 1..%u", class->name,
                         class->backend_count, BUS_BRIDGE_BACKENDS_MAX);
  for (uint32_t i = 0; i < class->backend_count; i++) {
    if (class->backends[i].backend >= config->backend_count || class->backends[i].weight < 1)
      return bus_error_set(BUS_ERROR_INVALID, "server %u of class %s: index %u of %u, weight %u", i,
                           class->name, class->backends[i].backend, config->backend_count,
                           class->backends[i].weight);
  }
  return BUS_OK;
}

static int check_options(const struct bus_bridge_core_options *options)
{
  const struct bus_bridge_config *config = options->config;
  if (config->backend_count < 1 || config->backend_count > BUS_BRIDGE_BACKENDS_MAX ||
      config->class_count < 1 || config->class_count > BUS_BRIDGE_CLASSES_MAX ||
      config->client_count < 1 || config->client_count > BUS_BRIDGE_CLIENTS_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "%u servers, %u classes, %u clients: 1..%u each",
                         config->backend_count, config->class_count, config->client_count,
                         BUS_BRIDGE_BACKENDS_MAX);
  if (options->table.count < 2 || options->table.entry_bytes <= BUS_BRIDGE_ENTRY_HEADER_BYTES)
    return bus_error_set(BUS_ERROR_INVALID, "a table of %u entries of %u bytes is too small",
                         options->table.count, options->table.entry_bytes);
  for (uint32_t b = 0; b < config->backend_count; b++) {
    const struct bus_bridge_backend_config *backend = &config->backends[b];
    if (backend->concurrency < 1 || backend->concurrency > CONNECTIONS_MAX ||
        backend->urgent_reserve >= backend->concurrency)
      return bus_error_set(BUS_ERROR_INVALID, "server %s: %u requests at a time, %u for urgent",
                           backend->name, backend->concurrency, backend->urgent_reserve);
  }
  int error = BUS_OK;
  for (uint32_t c = 0; c < config->class_count && !error; c++)
    error = check_class(config, c);
  return error;
}

static int allocate(struct bus_bridge_core *core)
{
  const uint32_t count = core->options.table.count;
  core->attempt_count = bus_bridge_core_connections(core->config);
  if (core->attempt_count == 0 || core->attempt_count > CONNECTIONS_MAX)
    return bus_error_set(BUS_ERROR_INVALID,
                         "the servers take %u connections, canaries included: 2..%u",
                         core->attempt_count, CONNECTIONS_MAX);
  core->requests = calloc(count, sizeof *core->requests);
  core->free_requests = calloc(count, sizeof *core->free_requests);
  core->nodes = calloc(count, sizeof *core->nodes);
  core->attempts = calloc(core->attempt_count, sizeof *core->attempts);
  if (!core->requests || !core->free_requests || !core->nodes || !core->attempts)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for %u requests and %u connections", count,
                         core->attempt_count);
  int error = bus_bridge_map_init(&core->ids, count);
  if (!error)
    error = bus_bridge_map_init(&core->connections, core->attempt_count);
  if (!error)
    error = bus_bridge_heap_init(&core->deadlines, count);
  if (!error)
    error = bus_bridge_heap_init(&core->timers, core->attempt_count + core->config->backend_count);
  return error;
}

static void set_up_backend(struct bus_bridge_core *core, uint32_t b, uint32_t first_slot)
{
  const struct bus_bridge_backend_config *config = &core->config->backends[b];
  struct bus_bridge_pool *pool = &core->pools[b];
  bus_bridge_backend_init(&core->backends[b], config,
                          bus_bridge_mix(core->options.random_seed + b + 1), core->now_ns);
  *pool = (struct bus_bridge_pool){
      .free = first_slot,
      .warm = BUS_BRIDGE_NONE,
      .canary = BUS_BRIDGE_NONE,
      .kind = BUS_LLM_CHAT,
  };
  const uint32_t end = first_slot + config->concurrency + 1;
  for (uint32_t slot = first_slot; slot < end; slot++) {
    struct bus_bridge_attempt *attempt = &core->attempts[slot];
    attempt->backend = b;
    attempt->request = BUS_BRIDGE_NONE;
    attempt->newer = slot > first_slot ? slot - 1 : BUS_BRIDGE_NONE;
    attempt->older = slot + 1 < end ? slot + 1 : BUS_BRIDGE_NONE;
  }
  bus_bridge_core_backend_rearm(core, b);
}

static void set_up(struct bus_bridge_core *core)
{
  const struct bus_bridge_config *config = core->config;
  uint32_t slot = 0;
  for (uint32_t b = 0; b < config->backend_count; b++) {
    set_up_backend(core, b, slot);
    slot += config->backends[b].concurrency + 1;
  }
  for (uint32_t c = 0; c < config->class_count; c++) {
    core->classes[c].config = &config->classes[c];
    core->classes[c].meters = &core->options.meters->classes[c];
    bus_bridge_queue_init(&core->classes[c].queue, core->nodes);
    for (uint32_t i = 0; i < config->classes[c].backend_count; i++)
      core->pools[config->classes[c].backends[i].backend].classes |= 1u << c;
  }
  for (uint32_t p = 0; p < config->client_count; p++) {
    core->ports[p] =
        (struct bus_bridge_port_lists){BUS_BRIDGE_NONE, BUS_BRIDGE_NONE, BUS_BRIDGE_NONE};
    core->options.ports[p].transition = core->options.transition;
    core->options.ports[p].transition_context = core->options.transition_context;
  }
}

int bus_bridge_core_new(const struct bus_bridge_core_options *options, uint64_t now_ns,
                        struct bus_bridge_core **core)
{
  *core = NULL;
  int error = check_options(options);
  if (error)
    return error;
  struct bus_bridge_core *made = calloc(1, sizeof *made);
  if (!made)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for the bridge's core");
  made->options = *options;
  made->config = options->config;
  made->now_ns = now_ns;
  error = allocate(made);
  if (error) {
    bus_bridge_core_delete(made);
    return error;
  }
  set_up(made);
  uint32_t damaged;
  bus_bridge_table_check(&made->options.table, &damaged);
  bus_meter_add(made->options.meters->orphaned, damaged);
  bus_bridge_core_recover(made);
  *core = made;
  return BUS_OK;
}

void bus_bridge_core_delete(struct bus_bridge_core *core)
{
  if (!core)
    return;
  for (uint32_t slot = 0; core->attempts && slot < core->attempt_count; slot++) {
    bus_bridge_attempt_close(&core->attempts[slot], core->options.transport);
    bus_llm_answer_free(&core->attempts[slot].answer);
  }
  for (uint32_t id = 0; core->requests && id < core->options.table.count; id++)
    bus_byte_buffer_free(&core->requests[id].text);
  bus_bridge_map_free(&core->ids);
  bus_bridge_map_free(&core->connections);
  bus_bridge_heap_free(&core->deadlines);
  bus_bridge_heap_free(&core->timers);
  bus_byte_buffer_free(&core->question);
  free(core->requests);
  free(core->free_requests);
  free(core->nodes);
  free(core->attempts);
  free(core);
}

/* ---- events of the transport ---- */

static void ended(struct bus_bridge_core *core, uint32_t slot,
                  const struct bus_transport_event *event)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const bool broken = event->type == BUS_TRANSPORT_FAILED;
  const char *said = bus_transport_reason(core->options.transport, attempt->connection);
  char reason[160];
  snprintf(reason, sizeof reason, "%s",
           said[0]  ? said
           : broken ? strerror(event->error)
                    : "the server closed the connection");
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_WARM) {
    bus_bridge_core_release(core, slot, true);
  } else if (attempt->phase == BUS_BRIDGE_ATTEMPT_CONNECTING) {
    if (event->error == ETIMEDOUT)
      bus_meter_add(bus_bridge_core_backend_meters(core, attempt->backend)->timed_out, 1);
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_UNSENT, BUS_LLM_BACKEND_DOWN, reason);
  } else if (attempt->reused && attempt->answer.bytes == 0) {
    bus_llm_answer_end(&attempt->answer, broken);
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_STALE, BUS_LLM_TRUNCATED, reason);
  } else {
    bus_llm_answer_end(&attempt->answer, broken);
    bus_bridge_core_answered(core, slot);
  }
}

static void take_data(struct bus_bridge_core *core, uint32_t slot,
                      const struct bus_transport_event *event)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_WARM) {
    /* Nobody asked: what it says next would be taken for an answer. */
    bus_bridge_core_release(core, slot, true);
    return;
  }
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_CONNECTING) {
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_UNSENT, BUS_LLM_BACKEND_DOWN,
                           "spoke before it was asked");
    return;
  }
  const uint32_t phase = attempt->phase;
  const uint32_t verdict = bus_bridge_attempt_take(attempt, event->data, event->size, core->now_ns);
  if (verdict != BUS_LLM_VERDICT_MORE) {
    bus_bridge_core_answered(core, slot);
    return;
  }
  bus_bridge_core_progressed(core, slot);
  /* Later tokens leave the timer where it is: when it goes off it is set anew. */
  if (attempt->phase != phase)
    bus_bridge_core_slot_rearm(core, slot);
}

static void take_event(struct bus_bridge_core *core, const struct bus_transport_event *event)
{
  uint32_t cursor = 0;
  const uint32_t slot = bus_bridge_map_next(&core->connections, event->connection, &cursor);
  if (slot == BUS_BRIDGE_NONE)
    return; /* closed meanwhile */
  core->done++;
  switch (event->type) {
  case BUS_TRANSPORT_CONNECTED:
    if (core->attempts[slot].phase == BUS_BRIDGE_ATTEMPT_CONNECTING)
      bus_bridge_core_connected(core, slot);
    break;
  case BUS_TRANSPORT_DATA:
    core->event_ns = bus_bridge_core_clock(core);
    take_data(core, slot, event);
    core->event_ns = 0;
    break;
  default:
    ended(core, slot, event);
  }
}

/* ---- timers ---- */

static void expire(struct bus_bridge_core *core)
{
  while (bus_bridge_heap_key(&core->deadlines) <= core->now_ns) {
    core->done++;
    bus_bridge_core_break_off(core, bus_bridge_heap_first(&core->deadlines), BUS_LLM_EXPIRED);
  }
}

static void slot_due(struct bus_bridge_core *core, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t b = attempt->backend;
  const uint32_t overdue =
      bus_bridge_attempt_overdue(attempt, core->backends[b].config, core->now_ns);
  if (overdue == BUS_BRIDGE_OVERDUE_NOT) {
    if (attempt->phase == BUS_BRIDGE_ATTEMPT_ASKED && attempt->hedge_ns <= core->now_ns)
      bus_bridge_core_hedge(core, slot);
    bus_bridge_core_slot_rearm(core, slot);
    return;
  }
  if (overdue == BUS_BRIDGE_OVERDUE_IDLE) {
    bus_bridge_core_release(core, slot, true);
    return;
  }
  const char *reason = bus_bridge_overdue_name(overdue);
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_CONNECTING) {
    bus_meter_add(bus_bridge_core_backend_meters(core, b)->timed_out, 1);
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_UNSENT, BUS_LLM_BACKEND_DOWN, reason);
    return;
  }
  /* Whole but for the end of the HTTP message: nobody needs that. */
  const uint32_t verdict = bus_llm_answer_end(&attempt->answer, false);
  if (verdict == BUS_LLM_VERDICT_OK || verdict == BUS_LLM_VERDICT_LENGTH) {
    attempt->answer.reusable = false;
    bus_bridge_core_answered(core, slot);
    return;
  }
  bus_meter_add(bus_bridge_core_backend_meters(core, b)->timed_out, 1);
  bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_SERVER, BUS_LLM_TRUNCATED, reason);
}

static void run_timers(struct bus_bridge_core *core)
{
  while (bus_bridge_heap_key(&core->timers) <= core->now_ns) {
    const uint32_t id = bus_bridge_heap_first(&core->timers);
    core->done++;
    if (id < core->attempt_count)
      slot_due(core, id);
    else
      bus_bridge_core_backend_due(core, id - core->attempt_count);
  }
}

uint64_t bus_bridge_core_next_ns(const struct bus_bridge_core *core)
{
  const uint64_t deadline_ns = bus_bridge_heap_key(&core->deadlines);
  const uint64_t timer_ns = bus_bridge_heap_key(&core->timers);
  return deadline_ns < timer_ns ? deadline_ns : timer_ns;
}

/* ---- the step ---- */

int bus_bridge_core_step(struct bus_bridge_core *core, uint64_t now_ns, uint64_t wait_ns)
{
  const uint64_t next_ns = bus_bridge_core_next_ns(core);
  core->now_ns = now_ns;
  core->done = 0;
  if (next_ns <= now_ns)
    wait_ns = 0;
  else if (next_ns - now_ns < wait_ns)
    wait_ns = next_ns - now_ns;
  const int count = core->options.transport->operations->poll(core->options.transport, core->events,
                                                              BUS_BRIDGE_EVENTS_MAX, wait_ns);
  if (count < 0)
    return count;
  const uint64_t clock_ns = wait_ns ? bus_bridge_core_clock(core) : 0;
  if (clock_ns > core->now_ns)
    core->now_ns = clock_ns;
  /* The deadline beats everything, even an answer that came with it; but what has come beats the
   * other time-outs: a bridge that was stopped for a while finds it all at once. */
  expire(core);
  for (int i = 0; i < count; i++)
    take_event(core, &core->events[i]);
  run_timers(core);
  bus_bridge_core_publish_decided(core);
  bus_bridge_core_dispatch(core);
  bus_bridge_core_take_in(core);
  bus_bridge_core_dispatch(core);
  return (int)core->done;
}

void bus_bridge_core_backend(const struct bus_bridge_core *core, uint32_t index,
                             struct bus_bridge_backend_view *view)
{
  const struct bus_bridge_backend *backend = &core->backends[index];
  *view = (struct bus_bridge_backend_view){
      .breaker = backend->breaker,
      .in_flight = backend->in_flight,
      .open_until_ns = backend->open_until_ns,
  };
  snprintf(view->reason, sizeof view->reason, "%s", backend->reason);
}
