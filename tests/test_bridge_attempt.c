#include "consumers/bridge_attempt.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#define S ((uint64_t)1000000000)

/* One connection, which takes what it is given. */
struct fake {
  struct bus_transport base;
  int open_result, send_result;
  uint32_t closes;
  char sent[64];
};

static int fake_open(struct bus_transport *transport, const struct bus_transport_peer *peer)
{
  (void)peer;
  return ((struct fake *)transport)->open_result;
}

static int fake_send(struct bus_transport *transport, uint32_t connection, const void *bytes,
                     size_t size)
{
  struct fake *fake = (struct fake *)transport;
  cr_assert_eq(connection, (uint32_t)fake->open_result);
  if (!fake->send_result)
    memcpy(fake->sent, bytes, size);
  return fake->send_result;
}

static void fake_close(struct bus_transport *transport, uint32_t connection)
{
  struct fake *fake = (struct fake *)transport;
  cr_assert_eq(connection, (uint32_t)fake->open_result);
  fake->closes++;
}

static const struct bus_transport_operations fake_operations = {
    .name = "fake", .open = fake_open, .send = fake_send, .close = fake_close};

static struct fake make_fake(void)
{
  return (struct fake){.base = {&fake_operations}, .open_result = 7};
}

static const struct bus_bridge_backend_config config = {
    .peer.connect_timeout_ns = S,
    .first_token_timeout_ns = 10 * S,
    .token_timeout_ns = 2 * S,
    .total_timeout_ns = 60 * S,
    .idle_ns = 30 * S,
};

static uint32_t take(struct bus_bridge_attempt *attempt, const char *bytes, uint64_t now_ns)
{
  return bus_bridge_attempt_take(attempt, bytes, strlen(bytes), now_ns);
}

static void connect_and_send(struct bus_bridge_attempt *attempt, struct fake *fake)
{
  cr_assert_eq(bus_bridge_attempt_connect(attempt, &fake->base, &config, 100 * S), BUS_OK);
  cr_assert_eq(bus_bridge_attempt_prepare(attempt, BUS_LLM_CHAT, 1000, 0), BUS_OK);
  cr_assert_eq(bus_bridge_attempt_send(attempt, &fake->base, "GET", 4, 101 * S), BUS_OK);
  cr_assert_str_eq(fake->sent, "GET");
}

#define HEAD      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

#define TOKEN     "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"}}]}\n\n"
#define LAST      "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
#define TOKEN_END "data: [DONE]\n\n"

Test(bridge_attempt, has_a_time_out_for_each_phase)
{
  struct fake fake = make_fake();
  struct bus_bridge_attempt attempt = {0};
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &config), UINT64_MAX);
  connect_and_send(&attempt, &fake);
  attempt.phase = BUS_BRIDGE_ATTEMPT_CONNECTING;
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &config), 101 * S);
  cr_assert_eq(bus_bridge_attempt_overdue(&attempt, &config, 101 * S), BUS_BRIDGE_OVERDUE_CONNECT);
  attempt.phase = BUS_BRIDGE_ATTEMPT_ASKED;
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &config), 111 * S);
  cr_assert_eq(take(&attempt, HEAD "\r\n", 105 * S), BUS_LLM_VERDICT_MORE);
  cr_assert_eq(take(&attempt, ": keepalive\n\n", 106 * S), BUS_LLM_VERDICT_MORE);
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &config), 111 * S);
  cr_assert_eq(bus_bridge_attempt_overdue(&attempt, &config, 111 * S - 1), BUS_BRIDGE_OVERDUE_NOT);
  cr_assert_eq(bus_bridge_attempt_overdue(&attempt, &config, 111 * S),
               BUS_BRIDGE_OVERDUE_FIRST_TOKEN);
  take(&attempt, TOKEN, 107 * S);
  cr_assert_eq(attempt.phase, BUS_BRIDGE_ATTEMPT_ANSWERED);
  cr_assert_eq(attempt.first_ns, 107 * S);
  take(&attempt, TOKEN, 108 * S);
  take(&attempt, ": keepalive\n\n", 109 * S);
  cr_assert_eq(attempt.first_ns, 107 * S);
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &config), 110 * S);
  cr_assert_eq(bus_bridge_attempt_overdue(&attempt, &config, 110 * S), BUS_BRIDGE_OVERDUE_TOKEN);
  for (uint64_t now_ns = 109 * S; now_ns < 160 * S; now_ns += S)
    take(&attempt, TOKEN, now_ns);
  cr_assert_eq(bus_bridge_attempt_overdue(&attempt, &config, 160 * S), BUS_BRIDGE_OVERDUE_TOTAL);
  cr_assert_str_eq(bus_bridge_overdue_name(BUS_BRIDGE_OVERDUE_TOTAL), "no whole answer in time");
  bus_bridge_attempt_close(&attempt, &fake.base);
  bus_llm_answer_free(&attempt.answer);
}

Test(bridge_attempt, ends_a_canary_where_there_are_no_time_outs)
{
  const struct bus_bridge_backend_config patient = {0};
  struct bus_bridge_attempt attempt = {.phase = BUS_BRIDGE_ATTEMPT_ASKED, .begun_ns = S};
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &patient), UINT64_MAX);
  attempt.canary = true;
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &patient), 31 * S);
}

Test(bridge_attempt, keeps_a_connection_that_the_server_keeps)
{
  struct fake fake = make_fake();
  struct bus_bridge_attempt attempt = {0};
  connect_and_send(&attempt, &fake);
  cr_assert(!attempt.reused);
  char head[200];
  snprintf(head, sizeof head, HEAD "Content-Length: %zu\r\n\r\n", strlen(TOKEN LAST TOKEN_END));
  take(&attempt, head, 102 * S);
  cr_assert_eq(take(&attempt, TOKEN LAST TOKEN_END, 102 * S), BUS_LLM_VERDICT_OK);
  bus_bridge_attempt_finish(&attempt, &fake.base, &config, 103 * S);
  cr_assert_eq(attempt.phase, BUS_BRIDGE_ATTEMPT_WARM);
  cr_assert_eq(bus_bridge_attempt_due_ns(&attempt, &config), 133 * S);
  cr_assert_eq(bus_bridge_attempt_overdue(&attempt, &config, 133 * S), BUS_BRIDGE_OVERDUE_IDLE);
  bus_bridge_attempt_prepare(&attempt, BUS_LLM_CHAT, 1000, 0);
  cr_assert_eq(bus_bridge_attempt_send(&attempt, &fake.base, "AGAIN", 6, 110 * S), BUS_OK);
  cr_assert(attempt.reused);
  cr_assert_eq(attempt.begun_ns, 110 * S);
  cr_assert_eq(attempt.first_ns, 0);
  /* What ends with the connection cannot be kept. */
  take(&attempt, HEAD "\r\n" TOKEN LAST TOKEN_END, 111 * S);
  cr_assert_eq(bus_llm_answer_end(&attempt.answer, false), BUS_LLM_VERDICT_OK);
  bus_bridge_attempt_finish(&attempt, &fake.base, &config, 112 * S);
  cr_assert_eq(attempt.phase, BUS_BRIDGE_ATTEMPT_FREE);
  cr_assert_eq(fake.closes, 1);
  bus_bridge_attempt_close(&attempt, &fake.base); /* FREE: nothing to close */
  cr_assert_eq(fake.closes, 1);
  bus_llm_answer_free(&attempt.answer);
}

Test(bridge_attempt, gives_large_buffers_back)
{
  struct fake fake = make_fake();
  struct bus_bridge_attempt attempt = {0};
  cr_assert_eq(bus_bridge_attempt_connect(&attempt, &fake.base, &config, S), BUS_OK);
  bus_bridge_attempt_prepare(&attempt, BUS_LLM_CHAT, 1 << 20, 0);
  bus_bridge_attempt_send(&attempt, &fake.base, "GET", 4, S);
  take(&attempt, HEAD "\r\n", S);
  for (uint32_t i = 0; i < 70000; i++)
    take(&attempt, TOKEN, S);
  cr_assert_gt(attempt.answer.text.capacity, 65536);
  bus_bridge_attempt_close(&attempt, &fake.base);
  cr_assert_eq(attempt.answer.text.capacity, 0);
}

Test(bridge_attempt, is_as_it_was_when_the_transport_refuses)
{
  struct fake fake = make_fake();
  struct bus_bridge_attempt attempt = {0};
  fake.open_result = BUS_ERROR_NO_SPACE;
  cr_assert_eq(bus_bridge_attempt_connect(&attempt, &fake.base, &config, S), BUS_ERROR_NO_SPACE);
  cr_assert_eq(attempt.phase, BUS_BRIDGE_ATTEMPT_FREE);
  fake.open_result = 7;
  cr_assert_eq(bus_bridge_attempt_connect(&attempt, &fake.base, &config, S), BUS_OK);
  fake.send_result = BUS_ERROR_NO_SPACE;
  cr_assert_eq(bus_bridge_attempt_send(&attempt, &fake.base, "GET", 4, S), BUS_ERROR_NO_SPACE);
  cr_assert_eq(attempt.phase, BUS_BRIDGE_ATTEMPT_CONNECTING);
  cr_assert_eq(attempt.sent_ns, 0);
  bus_bridge_attempt_close(&attempt, &fake.base);
}
