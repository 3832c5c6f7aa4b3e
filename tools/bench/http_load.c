#include "tools/bench/http_load.h"

#include "consumers/llm_exchange.h"
#include "consumers/transport.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/llm_double.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECTIONS_MAX 256u
#define EVENTS          64u
#define FAILURES_MAX    100u

struct lane {
  int connection; /* -1: none */
  uint64_t sent_ns;
  struct bus_llm_answer answer;
  bool asking;
};

struct run {
  const struct http_load *load;
  struct bus_transport *transport;
  struct bus_transport_peer peer;
  struct bus_byte_buffer question;
  struct lane lanes[CONNECTIONS_MAX];
  struct bus_histogram *latency_ns;
  uint64_t begun, done, failures;
};

static int ask(struct run *run, struct lane *lane)
{
  if (run->begun == run->load->requests)
    return BUS_OK;
  run->begun++;
  lane->asking = true;
  int error = bus_llm_answer_begin(&lane->answer, BUS_LLM_CHAT, 4096, 0);
  lane->sent_ns = bench_now_ns();
  if (!error)
    error = run->transport->operations->send(run->transport, (uint32_t)lane->connection,
                                             run->question.bytes, run->question.size);
  return error;
}

static int connect_lane(struct run *run, struct lane *lane)
{
  lane->connection = run->transport->operations->open(run->transport, &run->peer);
  return lane->connection < 0 ? lane->connection : BUS_OK;
}

/* The connection is over; what was asked on it is asked again on a new one. */
static int reconnect(struct run *run, struct lane *lane)
{
  run->transport->operations->close(run->transport, (uint32_t)lane->connection);
  lane->connection = -1;
  if (lane->asking) {
    lane->asking = false;
    run->begun--;
    if (++run->failures > FAILURES_MAX)
      return bus_error_set(BUS_ERROR_IO, "port %u closes connections unanswered", run->load->port);
  }
  return run->begun < run->load->requests ? connect_lane(run, lane) : BUS_OK;
}

static int finish(struct run *run, struct lane *lane)
{
  const struct bus_llm_answer *answer = &lane->answer;
  lane->asking = false;
  if (answer->verdict != BUS_LLM_VERDICT_OK || answer->text.size != strlen(LLM_DOUBLE_TEXT) ||
      memcmp(answer->text.bytes, LLM_DOUBLE_TEXT, answer->text.size) != 0)
    return bus_error_set(BUS_ERROR_FORMAT,
                         "port %u: verdict %u, HTTP status %u, %zu bytes of text: %s",
                         run->load->port, answer->verdict, answer->http_status, answer->text.size,
                         answer->error_text);
  bus_histogram_record(run->latency_ns, bench_now_ns() - lane->sent_ns);
  run->done++;
  return answer->reusable ? ask(run, lane) : reconnect(run, lane);
}

static struct lane *lane_of(struct run *run, uint32_t connection)
{
  for (uint32_t i = 0; i < run->load->connections; i++)
    if (run->lanes[i].connection == (int)connection)
      return &run->lanes[i];
  return NULL;
}

static int take_event(struct run *run, const struct bus_transport_event *event)
{
  struct lane *lane = lane_of(run, event->connection);
  if (!lane)
    return BUS_OK;
  switch (event->type) {
  case BUS_TRANSPORT_CONNECTED:
    return ask(run, lane);
  case BUS_TRANSPORT_DATA:
    return lane->asking && bus_llm_answer_take(&lane->answer, event->data, event->size) !=
                               BUS_LLM_VERDICT_MORE
               ? finish(run, lane)
               : BUS_OK;
  default:
    if (lane->asking && lane->answer.bytes > 0) {
      bus_llm_answer_end(&lane->answer, event->type == BUS_TRANSPORT_FAILED);
      return finish(run, lane);
    }
    return reconnect(run, lane);
  }
}

static int follow(struct run *run)
{
  struct bus_transport_event events[EVENTS];
  int error = BUS_OK;
  for (uint32_t i = 0; i < run->load->connections && !error; i++)
    error = connect_lane(run, &run->lanes[i]);
  while (!error && run->done < run->load->requests && !bench_stopped()) {
    int count = run->transport->operations->poll(run->transport, events, EVENTS, 0);
    if (count < 0)
      return count;
    if (count == 0)
      sched_yield(); /* as the bridge's client does: nobody's waking up is measured */
    for (int i = 0; i < count && !error; i++)
      error = take_event(run, &events[i]);
  }
  return error ? error : bench_stop_error();
}

static int prepare(struct run *run)
{
  char host[32];
  struct sockaddr_in *address = (struct sockaddr_in *)&run->peer.address;
  address->sin_family = AF_INET;
  address->sin_port = htons(run->load->port);
  address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  run->peer.address_bytes = sizeof *address;
  run->peer.connect_timeout_ns = 5000000000u;
  snprintf(host, sizeof host, "127.0.0.1:%u", run->load->port);
  const struct bus_llm_endpoint endpoint = {.host = host,
                                            .path = "/v1",
                                            .model = run->load->model,
                                            .authorization = run->load->authorization};
  const struct bus_llm_question question = {.kind = BUS_LLM_CHAT,
                                            .tokens_max = LOAD_TOKENS_MAX,
                                            .temperature = -1,
                                            .text = LOAD_PROMPT,
                                            .text_bytes = strlen(LOAD_PROMPT)};
  int error = bus_llm_question_write(&run->question, &endpoint, &question);
  for (uint32_t i = 0; i < CONNECTIONS_MAX; i++)
    run->lanes[i].connection = -1;
  return error ? error : bus_transport_epoll_new(CONNECTIONS_MAX, &run->transport);
}

int http_load_run(const struct http_load *load, struct bus_histogram *latency_ns, uint64_t *took_ns)
{
  struct run *run = calloc(1, sizeof *run);
  if (!run)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  run->load = load;
  run->latency_ns = latency_ns;
  int error = prepare(run);
  const uint64_t start_ns = bench_now_ns();
  if (!error)
    error = follow(run);
  *took_ns = bench_now_ns() - start_ns;
  for (uint32_t i = 0; i < CONNECTIONS_MAX; i++)
    bus_llm_answer_free(&run->lanes[i].answer);
  if (run->transport)
    run->transport->operations->destroy(run->transport);
  bus_byte_buffer_free(&run->question);
  free(run);
  return error;
}
