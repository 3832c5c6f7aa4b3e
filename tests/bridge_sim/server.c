/* server.c: what the simulated servers see and decide. */
#include "tests/bridge_sim/sim.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the body of the first whole request begins; 0 when there is none yet. */
static size_t find_body(const struct bus_byte_buffer *out, size_t *body_bytes)
{
  const char *end = memmem(out->bytes, out->size, "\r\n\r\n", 4);
  if (!end)
    return 0;
  const size_t head = (size_t)(end - out->bytes) + 4;
  static const char name[] = "Content-Length:";
  for (size_t i = 0; i + sizeof name < head; i++)
    if (strncasecmp(out->bytes + i, name, sizeof name - 1) == 0) {
      *body_bytes = strtoul(out->bytes + i + sizeof name - 1, NULL, 10);
      return out->size >= head + *body_bytes ? head : 0;
    }
  return 0;
}

static uint8_t kind_of(const struct bus_byte_buffer *out)
{
  static const char chat[] = "POST /v1/chat/completions ", embed[] = "POST /v1/embeddings ";
  if (out->size > sizeof chat && memcmp(out->bytes, chat, sizeof chat - 1) == 0)
    return BUS_LLM_CHAT;
  return out->size > sizeof embed && memcmp(out->bytes, embed, sizeof embed - 1) == 0
             ? BUS_LLM_EMBEDDING
             : BUS_LLM_COMPLETION;
}

/* What the user says: the content of the last message, the prompt, or the input. */
static const char *content_of(json_t *body, size_t *size)
{
  json_t *value = json_object_get(body, "prompt");
  if (!value)
    value = json_object_get(body, "input");
  json_t *messages = json_object_get(body, "messages");
  if (json_array_size(messages))
    value = json_object_get(json_array_get(messages, json_array_size(messages) - 1), "content");
  if (json_is_array(value))
    value = json_array_get(value, 0);
  *size = json_string_length(value);
  return json_string_value(value);
}

/* The request that this content belongs to: it begins with "#INDEX#"; SIM_NONE: a canary. */
static uint32_t request_of(const struct sim_world *world, const char *content, size_t size)
{
  if (size < 3 || content[0] != '#')
    return SIM_NONE;
  char *end = NULL;
  unsigned long index = strtoul(content + 1, &end, 10);
  return *end == '#' && index < world->request_count ? (uint32_t)index : SIM_NONE;
}

static void check_request(struct sim_world *world, const struct sim_connection *connection,
                          uint32_t index, json_t *body, const char *content, size_t size)
{
  const struct bus_bridge_backend_config *backend = &world->config.backends[connection->backend];
  bool model = json_object_get(body, "model");
  if (model != (backend->model[0] != '\0'))
    sim_fail(world, "request-model", "server %u %s a model name", connection->backend,
             model ? "is sent" : "is not sent");
  if (index == SIM_NONE)
    return;
  const struct sim_request *request = &world->requests[index];
  if (request->bad)
    sim_fail(world, "bad-request-sent", "request %u is none, and was sent to server %u", index,
             connection->backend);
  else if (size != request->content_bytes || memcmp(content, request->content, size) != 0)
    sim_fail(world, "request-text", "the text of request %u changed on its way to server %u", index,
             connection->backend);
  if (request->kind != BUS_LLM_EMBEDDING && !json_is_true(json_object_get(body, "stream")))
    sim_fail(world, "request-stream", "request %u is not streamed", index);
}

uint32_t sim_server_recognise(struct sim_world *world, struct sim_connection *connection)
{
  size_t body_bytes = 0;
  size_t head = find_body(&connection->out, &body_bytes);
  if (head == 0)
    return SIM_NONE;
  json_error_t error;
  json_t *body = json_loadb(connection->out.bytes + head, body_bytes, 0, &error);
  size_t size = 0;
  const char *content = body ? content_of(body, &size) : NULL;
  if (!content || world->attempt_count == SIM_ATTEMPTS_MAX) {
    sim_fail(world, content ? "attempts" : "request-json",
             "server %u cannot take what the bridge sends: %s", connection->backend,
             content ? "more attempts than the simulation has room for" : error.text);
    json_decref(body);
    return SIM_NONE;
  }
  const uint8_t kind = kind_of(&connection->out);
  uint32_t index = request_of(world, content, size);
  if (index != SIM_NONE && kind != world->requests[index].kind && !world->requests[index].bad)
    sim_fail(world, "request-kind", "request %u is asked as kind %u", index, kind);
  check_request(world, connection, index, body, content, size);
  uint32_t tokens_max = (uint32_t)json_integer_value(json_object_get(body, "max_tokens"));
  const bool hostile = size > 0 && content[0] == SIM_HOSTILE_BYTE;
  json_decref(body);
  bus_byte_buffer_consume(&connection->out, head + body_bytes);
  struct sim_attempt *attempt = &world->attempts[world->attempt_count];
  memset(attempt, 0, sizeof *attempt);
  attempt->request = index;
  attempt->backend = connection->backend;
  attempt->epoch = world->epoch;
  attempt->tokens_max = tokens_max;
  attempt->kind = kind;
  attempt->hostile = hostile;
  return world->attempt_count++;
}

static uint32_t draw_fault(struct sim_world *world, const struct sim_connection *connection)
{
  if (!sim_random_chance(&world->random, world->servers[connection->backend].fault_percent))
    return SIM_FAULT_NONE;
  uint32_t sum = 0;
  for (uint32_t i = SIM_FAULT_RESET; i <= SIM_FAULT_NO_FINISH; i++)
    sum += world->fault_weights[i];
  uint64_t draw = sim_random_between(&world->random, 0, sum - 1);
  uint32_t fault = SIM_FAULT_RESET;
  while (draw >= world->fault_weights[fault])
    draw -= world->fault_weights[fault++];
  return fault;
}

void sim_server_answer(struct sim_world *world, struct sim_connection *connection, uint32_t attempt)
{
  struct sim_attempt *answer = &world->attempts[attempt];
  answer->fault = draw_fault(world, connection);
  world->coverage.faults[answer->fault]++;
  sim_log(world, "server %u has attempt %u of request %d, fault %u", connection->backend, attempt,
          (int)answer->request, answer->fault);
  if (answer->fault == SIM_FAULT_SILENT)
    return;
  sim_answer_make(world, connection, answer);
}
