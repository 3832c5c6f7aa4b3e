/* replies.c: the invariants that reply rings show: order, wholeness, and who said the text. */
#include "tests/bridge_sim/sim.h"

#include <string.h>

static uint32_t index_of(const struct sim_world *world, const struct sim_request *request)
{
  return (uint32_t)(request - world->requests);
}

static bool begins(const char *whole, uint32_t whole_bytes, const char *part, uint32_t part_bytes)
{
  return part_bytes == 0 || (part_bytes <= whole_bytes && memcmp(whole, part, part_bytes) == 0);
}

/* Some server said this for the request, from the beginning on. */
static bool is_prefix(const struct sim_world *world, uint32_t request, const char *text,
                      uint32_t bytes)
{
  if (bytes == 0)
    return true;
  for (uint32_t i = 0; i < world->attempt_count; i++)
    if (world->attempts[i].request == request &&
        begins(world->attempts[i].text, world->attempts[i].text_bytes, text, bytes))
      return true;
  return false;
}

/* Some server said exactly this, ended in order (by its limit: `length`), and the bridge has all of
 * it. */
static bool is_whole(const struct sim_world *world, uint32_t request, const char *text,
                     uint32_t bytes, bool length, const char *backend)
{
  for (uint32_t i = 0; i < world->attempt_count; i++) {
    const struct sim_attempt *attempt = &world->attempts[i];
    if (attempt->request == request && attempt->good && attempt->length == length &&
        attempt->delivered >= attempt->done_offset && attempt->text_bytes == bytes &&
        begins(attempt->text, attempt->text_bytes, text, bytes) &&
        strcmp(world->config.backends[attempt->backend].name, backend) == 0)
      return true;
  }
  return false;
}

static bool fault_was(const struct sim_world *world, uint32_t request, uint64_t faults)
{
  for (uint32_t i = 0; i < world->attempt_count; i++)
    if (world->attempts[i].request == request && (faults >> world->attempts[i].fault & 1))
      return true;
  return false;
}

#define FAULT(name) (1ull << SIM_FAULT_##name)

/* The reason for a status that is no answer. */
static void check_reason(struct sim_world *world, const struct sim_request *request,
                         uint32_t status)
{
  const uint32_t index = index_of(world, request);
  bool right = true;
  switch (status) {
  case BUS_LLM_EXPIRED:
    right = world->now_ns >= request->deadline_ns;
    break;
  case BUS_LLM_CANCELLED:
    right = request->cancelled_ns != 0;
    break;
  case BUS_LLM_BAD_REQUEST:
    right = request->bad || request->doubtful;
    break;
  case BUS_LLM_BRIDGE_RESTART:
    right = request->sent_killed &&
            (!(request->flags & BUS_LLM_IDEMPOTENT) || world->now_ns >= request->deadline_ns);
    break;
  case BUS_LLM_UPSTREAM_4XX:
    right = fault_was(world, index, FAULT(400) | FAULT(429));
    break;
  case BUS_LLM_UPSTREAM_5XX:
    right = fault_was(world, index,
                      FAULT(500) | FAULT(503) | FAULT(429) | FAULT(GARBAGE) | FAULT(BROKEN_EVENT) |
                          FAULT(STREAM_ERROR));
    /* Where the end of the connection ends the body, half a piece of JSON is garbage too. */
    right = right || (request->kind == BUS_LLM_EMBEDDING && fault_was(world, index, FAULT(CUT)));
    break;
  case BUS_LLM_REJECTED_DEADLINE:
  case BUS_LLM_REJECTED_QUEUE:
    right = request->sends == 0 || world->coverage.kills;
    break;
  case BUS_LLM_TRUNCATED:
  case BUS_LLM_BACKEND_DOWN:
    right = !world->faultless || request->doubtful;
    break;
  default:
    right = status == BUS_LLM_OK || status == BUS_LLM_LENGTH;
  }
  if (!right)
    sim_fail(world, "status-reason", "request %u ends with status %u without a reason", index,
             status);
  if (request->bad && status != BUS_LLM_BAD_REQUEST && status != BUS_LLM_EXPIRED &&
      status != BUS_LLM_CANCELLED && status != BUS_LLM_REJECTED_QUEUE &&
      status != BUS_LLM_BACKEND_DOWN && status != BUS_LLM_REJECTED_DEADLINE)
    sim_fail(world, "status-bad", "request %u is none and ends with status %u", index, status);
}

static void check_text(struct sim_world *world, const struct sim_request *request,
                       const struct bus_llm_reply *reply, const char *text)
{
  const uint32_t index = index_of(world, request);
  const uint32_t bytes = reply->text_bytes;
  const bool cut = reply->flags & BUS_LLM_CUT;
  switch (reply->status) {
  case BUS_LLM_OK:
    if (cut || !is_whole(world, index, text, bytes, false, reply->backend))
      sim_fail(world, "ok-text", "request %u: OK, and no server's whole answer (%u bytes)", index,
               bytes);
    break;
  case BUS_LLM_LENGTH:
    if (cut ? !is_prefix(world, index, text, bytes)
            : !is_whole(world, index, text, bytes, true, reply->backend))
      sim_fail(world, "length-text", "request %u: LENGTH, and no server said that (%u bytes)",
               index, bytes);
    break;
  case BUS_LLM_EXPIRED:
  case BUS_LLM_CANCELLED:
  case BUS_LLM_TRUNCATED:
    if (!is_prefix(world, index, text, bytes))
      sim_fail(world, "prefix-text", "request %u: status %u, and no server began so (%u bytes)",
               index, reply->status, bytes);
    break;
  default:
    break;
  }
  const uint32_t room = bus_llm_slot_text_bytes(world->config.record_bytes);
  uint32_t most = request->reply_slots * room;
  if (bytes > most)
    sim_fail(world, "final-size", "request %u: %u bytes in %u slots", index, bytes,
             request->reply_slots);
  if (most > world->config.answer_bytes_max)
    most = world->config.answer_bytes_max;
  if (cut && bytes + 4 <= most)
    sim_fail(world, "cut-early", "request %u: cut after %u bytes, %u have room", index, bytes,
             most);
}

static void check_times(struct sim_world *world, const struct sim_request *request,
                        const struct bus_llm_reply *reply)
{
  const uint32_t index = index_of(world, request);
  if (reply->epoch != world->epoch)
    sim_fail(world, "final-epoch", "request %u: epoch %u, the bridge has %u", index, reply->epoch,
             world->epoch);
  if (reply->done_ns > world->now_ns || reply->done_ns < reply->accepted_ns ||
      reply->accepted_ns != request->accepted_ns ||
      (reply->sent_ns &&
       (reply->sent_ns < reply->accepted_ns || reply->sent_ns > reply->done_ns)) ||
      (reply->first_ns && (reply->first_ns < reply->sent_ns || reply->first_ns > reply->done_ns)))
    sim_fail(world, "final-times", "request %u: accepted %llu sent %llu first %llu done %llu",
             index, (unsigned long long)reply->accepted_ns, (unsigned long long)reply->sent_ns,
             (unsigned long long)reply->first_ns, (unsigned long long)reply->done_ns);
}

static void check_final(struct sim_world *world, uint32_t client, const struct bus_llm_reply *reply,
                        const char *text)
{
  struct sim_request *request = sim_client_find(world, client, reply->id);
  sim_trace(world, reply->id + reply->status);
  if (!request) {
    if (world->hostile_messages == 0)
      sim_fail(world, "final-unasked", "client %u: a final reply to nothing", client);
    return;
  }
  const uint32_t index = index_of(world, request);
  sim_log(world, "FINAL of request %u: status %u flags %u attempt %u, %u bytes, %s", index,
          reply->status, reply->flags, reply->attempt, reply->text_bytes, reply->backend);
  if (reply->status >= BUS_LLM_STATUS_COUNT || reply->status == BUS_LLM_PENDING ||
      reply->status == BUS_LLM_LOCAL_TIMEOUT) {
    sim_fail(world, "status", "request %u ends with status %u", index, reply->status);
    return;
  }
  world->coverage.statuses[reply->status]++;
  if (++request->finals > 1)
    sim_fail(world, "two-finals", "request %u has %u final replies", index, request->finals);
  request->final_status = reply->status;
  request->final_ns = world->now_ns;
  if (!request->accepted)
    sim_fail(world, "final-unasked", "request %u is answered before it is claimed", index);
  if (reply->status == BUS_LLM_EXPIRED) /* the core closes before it hears how a connect ended */
    for (uint32_t i = 0; i < world->config.backend_count; i++)
      world->servers[i].connect_failures = 0, world->servers[i].must_rest_until_ns = 0;
  check_reason(world, request, reply->status);
  check_text(world, request, reply, text);
  check_times(world, request, reply);
  if (world->coverage.kills == 0 && request->partial_gap && !(reply->flags & BUS_LLM_LOST))
    sim_fail(world, "lost-unsaid",
             "request %u: partial replies are missing, the final says nothing", index);
}

static void take_final(struct sim_world *world, uint32_t index, const struct bus_llm_reply *reply)
{
  struct sim_assembly *assembly = &world->clients[index].checked;
  if (reply->fragment == 0) {
    assembly->active = true;
    assembly->next_fragment = 0;
    assembly->text_bytes = 0;
    assembly->first = *reply;
  }
  if (!assembly->active || reply->id != assembly->first.id ||
      reply->fragment != assembly->next_fragment || reply->text_offset != assembly->text_bytes ||
      reply->text_bytes != assembly->first.text_bytes ||
      reply->fragments != assembly->first.fragments ||
      reply->fragment_bytes > bus_llm_slot_text_bytes(world->config.record_bytes) ||
      assembly->text_bytes + reply->fragment_bytes > sizeof assembly->text) {
    sim_fail(world, "fragments", "client %u: fragment %u of %u does not follow", index,
             reply->fragment, reply->fragments);
    assembly->active = false;
    return;
  }
  memcpy(assembly->text + assembly->text_bytes, (const char *)reply + BUS_LLM_HEADER_BYTES,
         reply->fragment_bytes);
  assembly->text_bytes += reply->fragment_bytes;
  if (++assembly->next_fragment < reply->fragments)
    return;
  assembly->active = false;
  if (assembly->text_bytes != reply->text_bytes)
    sim_fail(world, "fragments", "client %u: %u bytes came, %u were announced", index,
             assembly->text_bytes, reply->text_bytes);
  check_final(world, index, &assembly->first, assembly->text);
}

/* Some server said this piece at this place for the request. */
static bool is_piece(const struct sim_world *world, uint32_t request,
                     const struct bus_llm_reply *reply)
{
  const char *piece = (const char *)reply + BUS_LLM_HEADER_BYTES;
  for (uint32_t i = 0; i < world->attempt_count; i++) {
    const struct sim_attempt *attempt = &world->attempts[i];
    if (attempt->request != request)
      continue;
    const bool reasoning = reply->flags & BUS_LLM_REASONING;
    const char *text = reasoning ? attempt->reasoning : attempt->text;
    const uint32_t bytes = reasoning ? attempt->reasoning_bytes : attempt->text_bytes;
    if (text && reply->text_offset <= bytes &&
        begins(text + reply->text_offset, bytes - reply->text_offset, piece, reply->fragment_bytes))
      return true;
  }
  return false;
}

static void take_partial(struct sim_world *world, uint32_t client,
                         const struct bus_llm_reply *reply)
{
  struct sim_request *request = sim_client_find(world, client, reply->id);
  world->coverage.partials++;
  if (!request)
    return;
  const uint32_t index = index_of(world, request);
  const uint32_t which = reply->flags & BUS_LLM_REASONING ? 1 : 0;
  if (!(request->flags & BUS_LLM_PARTIALS) || reply->status != BUS_LLM_PENDING)
    sim_fail(world, "partial-unasked", "request %u: a partial reply, status %u", index,
             reply->status);
  if (request->finals)
    sim_fail(world, "partial-after-final", "request %u: a partial reply after the final one",
             index);
  if (reply->fragment_bytes == 0 || !is_piece(world, index, reply))
    sim_fail(world, "partial-text", "request %u: a piece of %u bytes at %u that no server said",
             index, reply->fragment_bytes, reply->text_offset);
  if (request->partial_seen && reply->attempt < request->partial_attempt)
    sim_fail(world, "partial-order", "request %u: a piece of attempt %u after one of %u", index,
             reply->attempt, request->partial_attempt);
  if (!request->partial_seen || reply->attempt != request->partial_attempt) {
    request->partial_seen = true;
    request->partial_attempt = reply->attempt;
    request->partial_offset[0] = request->partial_offset[1] = 0;
  }
  if (reply->text_offset < request->partial_offset[which])
    sim_fail(world, "partial-overlap", "request %u: a piece at %u, %u are there already", index,
             reply->text_offset, request->partial_offset[which]);
  request->partial_gap |= reply->text_offset > request->partial_offset[which];
  request->partial_offset[which] = reply->text_offset + reply->fragment_bytes;
}

void sim_replies_read(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  const struct bus_entry *entry = &world->reply_entry;
  const unsigned char *slots =
      (const unsigned char *)world->file.rings[index] + BUS_RING_HEADER_BYTES;
  for (;;) {
    const unsigned char *slot =
        slots + (client->seen & (entry->depth - 1)) * (size_t)entry->record_size;
    if (*bus_slot_stamp(slot, entry->record_size) != client->seen + 1)
      return;
    const struct bus_llm_reply *reply = (const struct bus_llm_reply *)(const void *)slot;
    if (reply->kind == BUS_LLM_FINAL)
      take_final(world, index, reply);
    else if (reply->kind == BUS_LLM_PARTIAL)
      take_partial(world, index, reply);
    else
      sim_fail(world, "reply-kind", "client %u: a reply of kind %u", index, reply->kind);
    client->seen++;
  }
}
