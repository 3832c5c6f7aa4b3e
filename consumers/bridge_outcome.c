/* From attempts to final replies: what an answer or a failure means for its request, and for the
 * server. */
#include "consumers/bridge_core_parts.h"

#include <stdio.h>
#include <string.h>

/* How long a server that refuses without saying for how long is left alone. */
#define PAUSE_NS ((uint64_t)250 * 1000000)

/* ---- the final reply ---- */

static void fill_reply(const struct bus_bridge_core *core, uint32_t id, uint32_t slot,
                       struct bus_llm_reply *reply)
{
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  *reply = (struct bus_llm_reply){
      .id = entry->request.id,
      .accepted_ns = entry->accepted_ns,
      .done_ns = core->now_ns,
      .epoch = core->options.epoch,
  };
  if (slot == BUS_BRIDGE_NONE)
    return;
  const struct bus_bridge_attempt *attempt = &core->attempts[slot];
  reply->attempt = attempt->number < UINT8_MAX ? (uint8_t)attempt->number : UINT8_MAX;
  memcpy(reply->backend, core->backends[attempt->backend].config->name, sizeof reply->backend);
  if (attempt->phase != BUS_BRIDGE_ATTEMPT_ASKED && attempt->phase != BUS_BRIDGE_ATTEMPT_ANSWERED)
    return;
  reply->sent_ns = attempt->sent_ns;
  reply->first_ns = attempt->first_ns;
  reply->prompt_tokens = attempt->answer.prompt_tokens;
  reply->completion_tokens = attempt->answer.completion_tokens;
  reply->retry_after_ms = attempt->answer.retry_after_ms;
  reply->http_status = attempt->answer.http_status;
}

static void count_final(struct bus_bridge_core *core, uint32_t id, uint32_t status)
{
  const struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  bus_meter_add(core->options.meters->finals[status], 1);
  if (request->class_index != BUS_BRIDGE_NONE && core->now_ns >= entry->request.submitted_ns)
    bus_meter_record(core->classes[request->class_index].meters->total_ns,
                     core->now_ns - entry->request.submitted_ns);
}

/* The reply does not fit now: keeps it, behind those of its port that wait already. */
static void keep_decided(struct bus_bridge_core *core, uint32_t id,
                         const struct bus_llm_reply *reply, const char *text, uint32_t text_bytes)
{
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_port_lists *lists = &core->ports[request->port];
  request->reply = *reply;
  bus_byte_buffer_clear(&request->text);
  /* Without memory for it the status goes without the text: late it still is the only one. */
  if (bus_byte_buffer_append(&request->text, text, text_bytes, text_bytes) != BUS_OK)
    request->reply.flags |= BUS_LLM_CUT;
  request->next_decided = BUS_BRIDGE_NONE;
  if (lists->decided_first == BUS_BRIDGE_NONE)
    lists->decided_first = id;
  else
    core->requests[lists->decided_last].next_decided = id;
  lists->decided_last = id;
}

static int publish(struct bus_bridge_core *core, uint32_t id, const struct bus_llm_reply *reply,
                   const char *text, uint32_t text_bytes)
{
  const int error = bus_bridge_port_final(&core->options.ports[core->requests[id].port],
                                          bus_bridge_core_entry(core, id), reply, text, text_bytes);
  if (error)
    return error;
  core->done++;
  if (core->event_ns) {
    bus_meter_record(core->options.meters->out_ns, bus_bridge_core_clock(core) - core->event_ns);
    core->event_ns = 0; /* what else this event decides was not waited for */
  }
  return BUS_OK;
}

void bus_bridge_core_publish_decided(struct bus_bridge_core *core)
{
  for (uint32_t p = 0; p < core->config->client_count; p++) {
    struct bus_bridge_port_lists *lists = &core->ports[p];
    while (lists->decided_first != BUS_BRIDGE_NONE) {
      const uint32_t id = lists->decided_first;
      const struct bus_bridge_request *request = &core->requests[id];
      if (publish(core, id, &request->reply, request->text.bytes, (uint32_t)request->text.size))
        break;
      lists->decided_first = request->next_decided;
      bus_bridge_core_forget(core, id);
    }
  }
}

void bus_bridge_core_let_go(struct bus_bridge_core *core, uint32_t id, uint32_t slot)
{
  struct bus_bridge_request *request = &core->requests[id];
  for (uint32_t i = 0; i < 2; i++) {
    const uint32_t one = request->attempts[i];
    request->attempts[i] = BUS_BRIDGE_NONE;
    if (one != BUS_BRIDGE_NONE)
      bus_bridge_core_release(core, one, one != slot);
  }
}

void bus_bridge_core_decide(struct bus_bridge_core *core, uint32_t id, uint32_t status,
                            uint32_t slot, const char *text)
{
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  struct bus_llm_reply reply;
  fill_reply(core, id, slot, &reply);
  reply.status = (uint8_t)status;
  reply.flags = request->reply_flags;
  uint32_t text_bytes = text ? (uint32_t)strlen(text) : 0;
  const bool answered = reply.sent_ns != 0;
  if (!text && answered) {
    const struct bus_llm_answer *answer = &core->attempts[slot].answer;
    text = answer->text.bytes;
    text_bytes = (uint32_t)answer->text.size;
    if (answer->verdict == BUS_LLM_VERDICT_FULL)
      reply.flags |= BUS_LLM_CUT;
    if (text_bytes == 0 && (status == BUS_LLM_UPSTREAM_4XX || status == BUS_LLM_UPSTREAM_5XX)) {
      text = answer->error_text;
      text_bytes = (uint32_t)strlen(text);
    }
  }
  bus_bridge_core_dequeue(core, id);
  bus_bridge_heap_remove(&core->deadlines, id);
  request->phase = BUS_BRIDGE_REQUEST_DECIDED;
  count_final(core, id, status);
  bus_bridge_entry_set(entry, BUS_BRIDGE_DONE);
  bus_bridge_core_transition(core);
  /* Behind those of its port that wait already it would only take their room. */
  const bool published = core->ports[request->port].decided_first == BUS_BRIDGE_NONE &&
                         publish(core, id, &reply, text, text_bytes) == BUS_OK;
  if (!published)
    keep_decided(core, id, &reply, text, text_bytes);
  bus_bridge_core_let_go(core, id, slot);
  if (published)
    bus_bridge_core_forget(core, id);
}

void bus_bridge_core_break_off(struct bus_bridge_core *core, uint32_t id, uint32_t status)
{
  const struct bus_bridge_request *request = &core->requests[id];
  uint32_t slot = request->attempts[0];
  const uint32_t other = request->attempts[1];
  if (other != BUS_BRIDGE_NONE &&
      (slot == BUS_BRIDGE_NONE || core->attempts[other].phase == BUS_BRIDGE_ATTEMPT_ANSWERED))
    slot = other;
  bus_bridge_core_decide(core, id, status, slot, NULL);
}

/* ---- what goes well ---- */

static void tell_piece(struct bus_bridge_core *core, uint32_t slot, uint8_t flags,
                       const struct bus_byte_buffer *text, size_t *told)
{
  const uint32_t id = core->attempts[slot].request;
  struct bus_bridge_request *request = &core->requests[id];
  if (text->size == *told)
    return;
  struct bus_llm_reply reply;
  fill_reply(core, id, slot, &reply);
  reply.flags = flags;
  reply.text_offset = (uint32_t)*told;
  const uint32_t bytes = (uint32_t)(text->size - *told);
  if (bus_bridge_port_partial(&core->options.ports[request->port], &reply, text->bytes + *told,
                              bytes) == BUS_OK) {
    bus_meter_add(core->options.meters->partials, 1);
  } else {
    bus_meter_add(core->options.meters->partials_lost, 1);
    request->reply_flags |= BUS_LLM_LOST;
  }
  *told = text->size;
}

void bus_bridge_core_progressed(struct bus_bridge_core *core, uint32_t slot)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  core->backends[attempt->backend].life_ns = core->now_ns;
  if (attempt->phase != BUS_BRIDGE_ATTEMPT_ANSWERED || attempt->canary)
    return;
  struct bus_bridge_request *request = &core->requests[attempt->request];
  if (request->attempts[1] != BUS_BRIDGE_NONE) { /* the first token wins */
    const uint32_t loser = request->attempts[request->attempts[0] == slot ? 1 : 0];
    request->attempts[0] = slot;
    request->attempts[1] = BUS_BRIDGE_NONE;
    bus_bridge_core_release(core, loser, true);
  }
  const struct bus_bridge_entry *entry = bus_bridge_core_entry(core, attempt->request);
  if (!bus_bridge_core_is(entry, BUS_LLM_PARTIALS) || entry->request.kind == BUS_LLM_EMBEDDING)
    return;
  tell_piece(core, slot, BUS_LLM_REASONING, &attempt->answer.reasoning, &attempt->reasoning_told);
  tell_piece(core, slot, 0, &attempt->answer.text, &attempt->text_told);
}

static void count_success(struct bus_bridge_core *core, uint32_t slot)
{
  const struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const struct bus_bridge_backend_meters *meters =
      bus_bridge_core_backend_meters(core, attempt->backend);
  const uint32_t tokens = attempt->answer.completion_tokens;
  bus_meter_add(meters->succeeded, 1);
  bus_meter_add(meters->tokens, tokens);
  bus_meter_record(meters->attempt_ns, core->now_ns - attempt->sent_ns);
  if (attempt->first_ns)
    bus_meter_record(meters->first_token_ns, attempt->first_ns - attempt->sent_ns);
  if (tokens >= 2 && attempt->first_ns && core->now_ns > attempt->first_ns)
    bus_meter_record(meters->tokens_per_s,
                     (uint64_t)((tokens - 1) * 1e9 / (double)(core->now_ns - attempt->first_ns)));
}

static void succeeded(struct bus_bridge_core *core, uint32_t slot, uint32_t status)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t b = attempt->backend;
  attempt->settled = true;
  count_success(core, slot);
  if (bus_bridge_backend_succeeded(&core->backends[b], core->now_ns))
    core->ready |= core->pools[b].classes;
  if (attempt->canary)
    bus_bridge_core_release(core, slot, false);
  else
    bus_bridge_core_decide(core, attempt->request, status, slot, NULL);
  bus_bridge_core_backend_rearm(core, b);
}

void bus_bridge_core_answered(struct bus_bridge_core *core, uint32_t slot)
{
  const struct bus_llm_answer *answer = &core->attempts[slot].answer;
  const bool refused = answer->http_status == 429 || answer->http_status == 503;
  char reason[300];
  switch (answer->verdict) {
  case BUS_LLM_VERDICT_OK:
    succeeded(core, slot, BUS_LLM_OK);
    return;
  case BUS_LLM_VERDICT_LENGTH:
  case BUS_LLM_VERDICT_FULL:
    succeeded(core, slot, BUS_LLM_LENGTH);
    return;
  case BUS_LLM_VERDICT_4XX:
  case BUS_LLM_VERDICT_5XX:
    snprintf(reason, sizeof reason, "HTTP %u: %s", answer->http_status, answer->error_text);
    bus_bridge_core_failed(core, slot,
                           refused                                  ? BUS_BRIDGE_FAILURE_REFUSED
                           : answer->verdict == BUS_LLM_VERDICT_4XX ? BUS_BRIDGE_FAILURE_REQUEST
                                                                    : BUS_BRIDGE_FAILURE_SERVER,
                           answer->verdict == BUS_LLM_VERDICT_4XX ? BUS_LLM_UPSTREAM_4XX
                                                                  : BUS_LLM_UPSTREAM_5XX,
                           reason);
    return;
  case BUS_LLM_VERDICT_TRUNCATED:
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_SERVER, BUS_LLM_TRUNCATED,
                           "the answer ended before it was whole");
    return;
  default:
    snprintf(reason, sizeof reason, "no proper answer: %s", answer->error_text);
    bus_bridge_core_failed(core, slot, BUS_BRIDGE_FAILURE_SERVER, BUS_LLM_UPSTREAM_5XX, reason);
  }
}

/* ---- what fails ---- */

/* The breaker of server `b` has opened: its kept connections go, and so does every waiting request
 * that has no other server. */
static void backend_opened(struct bus_bridge_core *core, uint32_t b)
{
  bus_meter_add(bus_bridge_core_backend_meters(core, b)->opened, 1);
  while (core->pools[b].warm != BUS_BRIDGE_NONE)
    bus_bridge_core_release(core, core->pools[b].warm, true);
  for (uint32_t rest = core->pools[b].classes; rest; rest &= rest - 1) {
    const struct bus_bridge_queue *queue = &core->classes[__builtin_ctz(rest)].queue;
    for (uint32_t id = bus_bridge_queue_first(queue);
         id != BUS_BRIDGE_NONE && !bus_bridge_core_has_server(core, id);
         id = bus_bridge_queue_first(queue))
      bus_bridge_core_decide(core, id, BUS_LLM_BACKEND_DOWN, BUS_BRIDGE_NONE, NULL);
  }
}

/* What the failure says about the server; true when its breaker opened. */
static bool blame(struct bus_bridge_core *core, uint32_t slot, uint32_t failure, const char *reason)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  struct bus_bridge_backend *backend = &core->backends[attempt->backend];
  if (failure == BUS_BRIDGE_FAILURE_REFUSED) {
    const uint64_t wish_ns = (uint64_t)attempt->answer.retry_after_ms * 1000000;
    bus_bridge_backend_pause(backend, core->now_ns + (wish_ns ? wish_ns : PAUSE_NS));
  }
  const bool its_fault =
      failure == BUS_BRIDGE_FAILURE_UNSENT || failure == BUS_BRIDGE_FAILURE_SERVER;
  const bool closing = attempt->canary && !bus_bridge_backend_up(backend);
  if (its_fault || closing || (attempt->canary && failure == BUS_BRIDGE_FAILURE_REQUEST))
    return bus_bridge_backend_failed(backend, core->now_ns, attempt->canary, reason);
  snprintf(backend->reason, sizeof backend->reason, "%s", reason);
  return false;
}

/* Another server that is not paused, or a pause that ends in time. */
static bool waits_in_time(const struct bus_bridge_core *core, uint32_t id)
{
  const struct bus_bridge_request *request = &core->requests[id];
  const struct bus_bridge_class_config *config = core->classes[request->class_index].config;
  const uint64_t deadline_ns = bus_bridge_core_entry(core, id)->request.deadline_ns;
  for (uint32_t i = 0; i < config->backend_count; i++) {
    const uint32_t b = config->backends[i].backend;
    if (!(request->unfit >> b & 1) && bus_bridge_backend_up(&core->backends[b]) &&
        core->backends[b].paused_until_ns < deadline_ns)
      return true;
  }
  return false;
}

/* Whether the request may be asked again, and notes that it is. */
static bool may_retry(struct bus_bridge_core *core, uint32_t id, uint32_t failure)
{
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  if (!bus_bridge_core_has_server(core, id) || core->now_ns >= entry->request.deadline_ns)
    return false;
  const bool repeatable = bus_bridge_core_is(entry, BUS_LLM_IDEMPOTENT);
  switch (failure) {
  case BUS_BRIDGE_FAILURE_UNSENT:
  case BUS_BRIDGE_FAILURE_LOCAL:
    return true;
  case BUS_BRIDGE_FAILURE_REFUSED:
    return waits_in_time(core, id);
  case BUS_BRIDGE_FAILURE_STALE:
    if (repeatable && !request->stale) {
      request->stale = true;
      return true;
    }
    break;
  case BUS_BRIDGE_FAILURE_REQUEST:
    return false;
  default:
    break;
  }
  if (!repeatable || request->retries >= core->classes[request->class_index].config->retries_max)
    return false;
  request->retries++;
  return true;
}

/* The attempt of `slot` is over; what becomes of its request? */
static void request_failed(struct bus_bridge_core *core, uint32_t slot, uint32_t failure,
                           uint32_t status)
{
  const uint32_t id = core->attempts[slot].request;
  struct bus_bridge_request *request = &core->requests[id];
  struct bus_bridge_entry *entry = bus_bridge_core_entry(core, id);
  if (failure != BUS_BRIDGE_FAILURE_STALE && failure != BUS_BRIDGE_FAILURE_LOCAL)
    request->avoid |= 1u << core->attempts[slot].backend;
  if (request->attempts[1] != BUS_BRIDGE_NONE) { /* the other goes on alone */
    request->attempts[0] = request->attempts[request->attempts[0] == slot ? 1 : 0];
    request->attempts[1] = BUS_BRIDGE_NONE;
    bus_bridge_core_release(core, slot, true);
    return;
  }
  if (!may_retry(core, id, failure)) {
    bus_bridge_core_decide(core, id, status, slot, NULL);
    return;
  }
  request->attempts[0] = BUS_BRIDGE_NONE;
  bus_bridge_core_release(core, slot, false);
  if (failure < BUS_BRIDGE_FAILURE_STALE || failure == BUS_BRIDGE_FAILURE_REFUSED)
    entry->sent = 0; /* no server has anything of it, or it said that it will do nothing */
  request->failed = true;
  request->direct = false;
  bus_bridge_core_enqueue(core, id);
}

void bus_bridge_core_failed(struct bus_bridge_core *core, uint32_t slot, uint32_t failure,
                            uint32_t status, const char *reason)
{
  struct bus_bridge_attempt *attempt = &core->attempts[slot];
  const uint32_t b = attempt->backend;
  attempt->settled = true;
  bus_meter_add(bus_bridge_core_backend_meters(core, b)->failed, 1);
  const bool opened = blame(core, slot, failure, reason);
  if (attempt->canary)
    bus_bridge_core_release(core, slot, true);
  else
    request_failed(core, slot, failure, status);
  if (opened)
    backend_opened(core, b);
  bus_bridge_core_backend_rearm(core, b);
}
