#include "consumers/bridge_probe.h"

#include "shm/clock.h"

#include <stdio.h>
#include <string.h>

#define EVENTS            16u
#define WAIT_NS           100000000u
#define ANSWER_TIMEOUT_NS 60000000000u
#define ANSWER_BYTES_MAX  4096u

static const char question_text[] = "Reply with the word ready.";

/* One probe under way. */
struct exchange {
  struct bus_transport *transport;
  const struct bus_bridge_backend_config *backend;
  struct bus_bridge_probe *probe;
  struct bus_byte_buffer request;
  struct bus_llm_answer answer;
  uint32_t connection;
  uint64_t started_ns;
  uint64_t sent_ns; /* 0: not yet */
  bool over;
};

static void fail(struct exchange *exchange, const char *reason)
{
  snprintf(exchange->probe->reason, sizeof exchange->probe->reason, "%s", reason);
  exchange->over = true;
}

static int write_request(struct exchange *exchange)
{
  const struct bus_bridge_backend_config *backend = exchange->backend;
  const struct bus_llm_endpoint endpoint = {backend->host, backend->path, backend->model,
                                            backend->authorization, backend->flavor};
  const struct bus_llm_question question = {.kind = BUS_LLM_CHAT,
                                            .tokens_max = 1,
                                            .temperature = -1,
                                            .text = question_text,
                                            .text_bytes = sizeof question_text - 1};
  int error = bus_llm_question_write(&exchange->request, &endpoint, &question);
  if (!error)
    error =
        bus_llm_answer_begin(&exchange->answer, BUS_LLM_CHAT, ANSWER_BYTES_MAX,
                             bus_clock_monotonic_ns() + (uint64_t)bus_clock_realtime_offset_ns());
  return error;
}

/* The answer is over: well, or not. */
static void judge(struct exchange *exchange)
{
  const struct bus_llm_answer *answer = &exchange->answer;
  struct bus_bridge_probe *probe = exchange->probe;
  exchange->over = true;
  switch (answer->verdict) {
  case BUS_LLM_VERDICT_OK:
  case BUS_LLM_VERDICT_LENGTH:
  case BUS_LLM_VERDICT_FULL:
    probe->answered = true;
    return;
  case BUS_LLM_VERDICT_TRUNCATED:
    snprintf(probe->reason, sizeof probe->reason,
             answer->bytes ? "the answer broke off after %llu bytes"
                           : "the server closed without a byte (%llu)",
             (unsigned long long)answer->bytes);
    return;
  case BUS_LLM_VERDICT_GARBAGE:
    fail(exchange, "what came is no answer of a language model's server");
    return;
  default:
    snprintf(probe->reason, sizeof probe->reason, "refused with HTTP status %u: %s",
             answer->http_status, answer->error_text);
  }
}

static void take_event(struct exchange *exchange, const struct bus_transport_event *event)
{
  struct bus_bridge_probe *probe = exchange->probe;
  uint64_t now_ns = bus_clock_monotonic_ns();
  if (event->connection != exchange->connection || exchange->over)
    return;
  if (event->type == BUS_TRANSPORT_CONNECTED) {
    probe->connect_ns = now_ns - exchange->started_ns;
    exchange->sent_ns = now_ns;
    if (exchange->transport->operations->send(exchange->transport, exchange->connection,
                                              exchange->request.bytes, exchange->request.size))
      fail(exchange, bus_error_message());
  } else if (event->type == BUS_TRANSPORT_DATA) {
    bus_llm_answer_take(&exchange->answer, event->data, event->size);
    if (exchange->answer.first_token && !probe->first_token_ns)
      probe->first_token_ns = now_ns - exchange->sent_ns;
    if (exchange->answer.verdict != BUS_LLM_VERDICT_MORE)
      judge(exchange);
  } else if (!exchange->sent_ns) {
    const char *why = bus_transport_reason(exchange->transport, exchange->connection);
    snprintf(probe->reason, sizeof probe->reason, "cannot connect: %s",
             why[0] ? why : strerror(event->error));
    exchange->over = true;
  } else {
    bus_llm_answer_end(&exchange->answer, event->type == BUS_TRANSPORT_FAILED);
    judge(exchange);
  }
}

static int wait_for_answer(struct exchange *exchange)
{
  struct bus_transport_event events[EVENTS];
  uint64_t timeout_ns = exchange->backend->first_token_timeout_ns;
  if (!timeout_ns)
    timeout_ns = ANSWER_TIMEOUT_NS;
  timeout_ns += exchange->backend->peer.connect_timeout_ns;
  while (!exchange->over) {
    int count = exchange->transport->operations->poll(exchange->transport, events, EVENTS, WAIT_NS);
    if (count < 0)
      return count;
    for (int i = 0; i < count; i++)
      take_event(exchange, &events[i]);
    if (!exchange->over && bus_clock_monotonic_ns() - exchange->started_ns > timeout_ns)
      fail(exchange, exchange->sent_ns ? "no token came in time (first_token_ms)"
                                       : "no connection came in time (connect_ms)");
  }
  return BUS_OK;
}

/* What the server said, on one line. */
static void keep_text(struct exchange *exchange)
{
  const struct bus_byte_buffer *from =
      exchange->answer.text.size ? &exchange->answer.text : &exchange->answer.reasoning;
  char *text = exchange->probe->text;
  size_t length =
      from->size < sizeof exchange->probe->text - 1 ? from->size : sizeof exchange->probe->text - 1;
  for (size_t i = 0; i < length; i++) {
    unsigned char c = (unsigned char)from->bytes[i];
    text[i] = (char)(c < ' ' || c >= 0x7f ? ' ' : c);
  }
  text[length] = 0;
}

int bus_bridge_probe(struct bus_transport *transport,
                     const struct bus_bridge_backend_config *backend,
                     struct bus_bridge_probe *probe)
{
  memset(probe, 0, sizeof *probe);
  struct exchange exchange = {.transport = transport,
                              .backend = backend,
                              .probe = probe,
                              .started_ns = bus_clock_monotonic_ns()};
  int error = write_request(&exchange);
  int connection = error ? error : transport->operations->open(transport, &backend->peer);
  if (connection < 0 && !error) /* this server cannot be asked; others may */
    fail(&exchange, bus_error_message());
  exchange.connection = (uint32_t)connection;
  if (!error)
    error = wait_for_answer(&exchange);
  probe->http_status = exchange.answer.http_status;
  probe->total_ns = bus_clock_monotonic_ns() - exchange.started_ns;
  keep_text(&exchange);
  if (connection >= 0)
    transport->operations->close(transport, exchange.connection);
  bus_llm_answer_free(&exchange.answer);
  if (exchange.request.size) /* it holds the key */
    explicit_bzero(exchange.request.bytes, exchange.request.size);
  bus_byte_buffer_free(&exchange.request);
  return error;
}
