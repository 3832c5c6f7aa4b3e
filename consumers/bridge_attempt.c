#include "consumers/bridge_attempt.h"

#include <string.h>

/* Buffers larger than this are not kept for the next answer: one long answer on each connection
 * must not hold a mebibyte for each for ever. */
#define KEPT_BYTES_MAX ((size_t)64 << 10)

/* A canary of a server without time-outs must end too. */
#define CANARY_TIMEOUT_NS ((uint64_t)30 * 1000000000)

static void begin_exchange(struct bus_bridge_attempt *attempt, uint64_t now_ns)
{
  attempt->begun_ns = now_ns;
  attempt->sent_ns = 0;
  attempt->first_ns = 0;
  attempt->token_ns = 0;
  attempt->tokens = 0;
  attempt->text_told = 0;
  attempt->reasoning_told = 0;
  attempt->settled = false;
}

int bus_bridge_attempt_connect(struct bus_bridge_attempt *attempt, struct bus_transport *transport,
                               const struct bus_bridge_backend_config *config, uint64_t now_ns)
{
  const int handle = transport->operations->open(transport, &config->peer);
  if (handle < 0)
    return handle;
  begin_exchange(attempt, now_ns);
  attempt->connection = (uint32_t)handle;
  attempt->phase = BUS_BRIDGE_ATTEMPT_CONNECTING;
  attempt->reused = false;
  return BUS_OK;
}

int bus_bridge_attempt_prepare(struct bus_bridge_attempt *attempt, uint8_t kind,
                               size_t text_bytes_max, uint64_t wall_ns)
{
  return bus_llm_answer_begin(&attempt->answer, kind, text_bytes_max, wall_ns);
}

int bus_bridge_attempt_send(struct bus_bridge_attempt *attempt, struct bus_transport *transport,
                            const void *bytes, size_t size, uint64_t now_ns)
{
  const int error = transport->operations->send(transport, attempt->connection, bytes, size);
  if (error)
    return error;
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_WARM) {
    begin_exchange(attempt, now_ns);
    attempt->reused = true;
  }
  attempt->phase = BUS_BRIDGE_ATTEMPT_ASKED;
  attempt->sent_ns = now_ns;
  return BUS_OK;
}

uint32_t bus_bridge_attempt_take(struct bus_bridge_attempt *attempt, const void *bytes, size_t size,
                                 uint64_t now_ns)
{
  struct bus_llm_answer *answer = &attempt->answer;
  const size_t before = answer->text.size + answer->reasoning.size;
  const uint32_t verdict = bus_llm_answer_take(answer, bytes, size);
  /* Comments and empty pieces are no tokens: only what the model said moves the time-outs on. */
  if (answer->text.size + answer->reasoning.size != before ||
      answer->completion_tokens != attempt->tokens) {
    attempt->token_ns = now_ns;
    attempt->tokens = answer->completion_tokens;
  }
  if (answer->first_token && attempt->phase == BUS_BRIDGE_ATTEMPT_ASKED) {
    attempt->phase = BUS_BRIDGE_ATTEMPT_ANSWERED;
    attempt->first_ns = now_ns;
    attempt->token_ns = now_ns;
  }
  return verdict;
}

static void consider(uint64_t *due_ns, uint32_t *which, uint64_t from_ns, uint64_t timeout_ns,
                     uint32_t overdue)
{
  if (timeout_ns == 0 || from_ns > UINT64_MAX - timeout_ns || from_ns + timeout_ns >= *due_ns)
    return;
  *due_ns = from_ns + timeout_ns;
  *which = overdue;
}

static uint64_t first_due(const struct bus_bridge_attempt *attempt,
                          const struct bus_bridge_backend_config *config, uint32_t *which)
{
  uint64_t due_ns = UINT64_MAX;
  *which = BUS_BRIDGE_OVERDUE_NOT;
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_FREE)
    return due_ns;
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_WARM) {
    consider(&due_ns, which, attempt->begun_ns, config->idle_ns, BUS_BRIDGE_OVERDUE_IDLE);
    return due_ns;
  }
  if (attempt->phase == BUS_BRIDGE_ATTEMPT_CONNECTING)
    consider(&due_ns, which, attempt->begun_ns, config->peer.connect_timeout_ns,
             BUS_BRIDGE_OVERDUE_CONNECT);
  else if (attempt->phase == BUS_BRIDGE_ATTEMPT_ASKED)
    consider(&due_ns, which, attempt->sent_ns, config->first_token_timeout_ns,
             BUS_BRIDGE_OVERDUE_FIRST_TOKEN);
  else
    consider(&due_ns, which, attempt->token_ns, config->token_timeout_ns, BUS_BRIDGE_OVERDUE_TOKEN);
  uint64_t total_ns = config->total_timeout_ns;
  if (total_ns == 0 && attempt->canary)
    total_ns = CANARY_TIMEOUT_NS;
  consider(&due_ns, which, attempt->begun_ns, total_ns, BUS_BRIDGE_OVERDUE_TOTAL);
  return due_ns;
}

uint64_t bus_bridge_attempt_due_ns(const struct bus_bridge_attempt *attempt,
                                   const struct bus_bridge_backend_config *config)
{
  uint32_t which;
  return first_due(attempt, config, &which);
}

uint32_t bus_bridge_attempt_overdue(const struct bus_bridge_attempt *attempt,
                                    const struct bus_bridge_backend_config *config, uint64_t now_ns)
{
  uint32_t which;
  return first_due(attempt, config, &which) <= now_ns ? which : (uint32_t)BUS_BRIDGE_OVERDUE_NOT;
}

const char *bus_bridge_overdue_name(uint32_t overdue)
{
  switch (overdue) {
  case BUS_BRIDGE_OVERDUE_CONNECT:
    return "not connected in time";
  case BUS_BRIDGE_OVERDUE_FIRST_TOKEN:
    return "no first token in time";
  case BUS_BRIDGE_OVERDUE_TOKEN:
    return "no further token in time";
  case BUS_BRIDGE_OVERDUE_TOTAL:
    return "no whole answer in time";
  case BUS_BRIDGE_OVERDUE_IDLE:
    return "idle";
  default:
    return "in time";
  }
}

static void shrink(struct bus_bridge_attempt *attempt)
{
  if (attempt->answer.text.capacity > KEPT_BYTES_MAX ||
      attempt->answer.reasoning.capacity > KEPT_BYTES_MAX)
    bus_llm_answer_free(&attempt->answer);
}

void bus_bridge_attempt_finish(struct bus_bridge_attempt *attempt, struct bus_transport *transport,
                               const struct bus_bridge_backend_config *config, uint64_t now_ns)
{
  if (!attempt->answer.reusable || config->idle_ns == 0) {
    bus_bridge_attempt_close(attempt, transport);
    return;
  }
  attempt->phase = BUS_BRIDGE_ATTEMPT_WARM;
  attempt->begun_ns = now_ns;
  attempt->request = BUS_BRIDGE_NONE;
  attempt->canary = false;
  shrink(attempt);
}

void bus_bridge_attempt_close(struct bus_bridge_attempt *attempt, struct bus_transport *transport)
{
  if (attempt->phase != BUS_BRIDGE_ATTEMPT_FREE)
    transport->operations->close(transport, attempt->connection);
  attempt->phase = BUS_BRIDGE_ATTEMPT_FREE;
  attempt->request = BUS_BRIDGE_NONE;
  attempt->canary = false;
  shrink(attempt);
}
