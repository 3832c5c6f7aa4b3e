/* Each rule of the bridge, one by one. */
#include "tests/bridge_core_fixture.h"

#include <errno.h>

/* ---- there and back ---- */

Test(bridge_core, carries_a_request_to_a_server_and_the_answer_back)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  cr_assert_eq(world->in_flight, 1);
  const uint32_t handle = accept_newest(world, 0);
  cr_assert_not_null(strstr(world->transport.connections[handle].received, "hello"));
  cr_assert_not_null(strstr(world->transport.connections[handle].received, "\"max_tokens\":100"));
  world->now += MS;
  head(world, handle);
  token(world, handle, "Good ");
  settle(world);
  world->now += MS;
  token(world, handle, "day");
  finish(world, handle);
  settle(world);
  const struct bus_llm_reply reply = expect_final(world, id, BUS_LLM_OK, "Good day");
  cr_assert_eq(reply.accepted_ns, 1000 * S);
  cr_assert_eq(reply.sent_ns, 1000 * S);
  cr_assert_eq(reply.first_ns, 1000 * S + MS);
  cr_assert_eq(reply.done_ns, 1000 * S + 2 * MS);
  cr_assert_eq(reply.attempt, 1);
  cr_assert_eq(reply.http_status, 200);
  cr_assert_eq(reply.epoch, 1);
  cr_assert_eq(reply.completion_tokens, 2);
  cr_assert_str_eq(reply.backend, "server0");
  expect_silence(world);
  cr_assert_eq(world->in_flight, 0);
  cr_assert_eq(world->finals[BUS_LLM_OK], 1);
  cr_assert_eq(world->succeeded[0], 1);
  free_world(world);
}

Test(bridge_core, uses_a_kept_connection_again_until_it_was_idle_too_long)
{
  struct world *world = make_world();
  start_bridge(world);
  uint64_t id = ask(world, "one", BUS_LLM_IDEMPOTENT);
  const uint32_t handle = accept_newest(world, 0);
  answer(world, handle, "first");
  expect_final(world, id, BUS_LLM_OK, "first");
  id = ask(world, "one", BUS_LLM_IDEMPOTENT);
  cr_assert_eq(world->transport.count, 1);
  cr_assert_eq(world->transport.connections[handle].requests, 2);
  answer(world, handle, "second");
  expect_final(world, id, BUS_LLM_OK, "second");
  cr_assert_eq(bus_bridge_core_next_ns(world->core), world->now + 30 * S);
  pass(world, 30 * S - 1);
  cr_assert(!is_closed(world, handle));
  pass(world, 1);
  cr_assert(is_closed(world, handle));
  cr_assert_eq(bus_bridge_core_next_ns(world->core), UINT64_MAX);
  free_world(world);
}

Test(bridge_core, skips_events_of_connections_that_it_has_closed)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  data(world, handle, "SSH-2.0-OpenSSH_9.2\r\n");
  data(world, handle, "more of it");
  push_event(world, BUS_TRANSPORT_CLOSED, handle, 0, NULL);
  settle(world);
  expect_final(world, id, BUS_LLM_UPSTREAM_5XX, NULL);
  expect_silence(world);
  free_world(world);
}

/* ---- admission ---- */

Test(bridge_core, refuses_what_cannot_be_asked)
{
  struct world *world = make_world();
  start_bridge(world);
  uint64_t id = ask(world, "three", 0);
  expect_final(world, id, BUS_LLM_BAD_REQUEST, "no such class");
  struct bus_llm_request request = question(world, "one", 0);
  request.kind = 77;
  submit(world, 0, request, "x");
  settle(world);
  expect_final(world, request.id, BUS_LLM_BAD_REQUEST, NULL);
  request = question(world, "one", 0);
  submit(world, 0, request, "caf\xe9");
  settle(world);
  expect_final(world, request.id, BUS_LLM_BAD_REQUEST, NULL);
  request = question(world, "two", BUS_LLM_MESSAGES);
  submit(world, 0, request, "{\"role\": \"user\"}");
  settle(world);
  expect_final(world, request.id, BUS_LLM_BAD_REQUEST, NULL);
  char text[ENTRY_BYTES];
  memset(text, 'a', sizeof text - 1);
  text[sizeof text - 1] = 0;
  request = question(world, "one", 0);
  submit(world, 0, request, text);
  settle(world);
  expect_final(world, request.id, BUS_LLM_BAD_REQUEST, NULL);
  cr_assert_eq(world->transport.count, 0);
  cr_assert_eq(world->finals[BUS_LLM_BAD_REQUEST], 5);
  cr_assert_eq(world->in_flight, 0);
  free_world(world);
}

Test(bridge_core, asks_a_server_that_can_where_another_of_the_class_cannot)
{
  struct world *world = make_world();
  world->config.backends[1].flavor = BUS_LLM_FLAVOR_MLX; /* which has no embeddings */
  start_bridge(world);
  struct bus_llm_request request = question(world, "two", 0);
  request.kind = BUS_LLM_EMBEDDING;
  submit(world, 0, request, "x");
  settle(world);
  accept_newest(world, 2);
  /* And when that one is down nobody waits for it, nor behind those who do. */
  for (int i = 0; i < 3; i++) {
    submit(world, 0, question(world, "two", 0), "y");
    settle(world);
  }
  free_world(world);
}

Test(bridge_core, answers_expired_to_what_comes_too_late)
{
  struct world *world = make_world();
  start_bridge(world);
  struct bus_llm_request request = question(world, "one", 0);
  request.deadline_ns = world->now;
  submit(world, 0, request, "x");
  settle(world);
  expect_final(world, request.id, BUS_LLM_EXPIRED, "");
  cr_assert_eq(world->transport.count, 0);
  free_world(world);
}

Test(bridge_core, rejects_when_too_many_wait)
{
  struct world *world = make_world();
  world->config.classes[0].queue_max = 1;
  start_bridge(world);
  for (int i = 0; i < 3; i++)
    ask(world, "one", 0);
  cr_assert_eq(world->waiting[0], 1);
  expect_silence(world);
  const uint64_t id = ask(world, "one", 0);
  expect_final(world, id, BUS_LLM_REJECTED_QUEUE, "");
  cr_assert_eq(world->rejected[0], 1);
  cr_assert_eq(world->transport.count, 2);
  free_world(world);
}

Test(bridge_core, takes_what_can_begin_at_once_without_a_queue)
{
  struct world *world = make_world();
  world->config.classes[0].queue_max = 0;
  start_bridge(world);
  for (int i = 0; i < 3; i++) /* in one step */
    submit(world, 0, question(world, "one", 0), "x");
  settle(world);
  cr_assert_eq(world->transport.count, 2);
  expect_final(world, 3, BUS_LLM_REJECTED_QUEUE, "");
  expect_silence(world);
  free_world(world);
}

Test(bridge_core, keeps_one_entry_for_rejecting)
{
  struct world *world = make_world();
  world->config.classes[0].queue_max = 100;
  start_bridge(world);
  for (uint32_t i = 0; i < TABLE_COUNT - 1; i++)
    ask(world, "one", 0);
  expect_silence(world);
  const uint64_t id = ask(world, "one", 0);
  expect_final(world, id, BUS_LLM_REJECTED_QUEUE, "");
  cr_assert_eq(world->in_flight, TABLE_COUNT - 1);
  cancel(world, 0, 5);
  expect_final(world, 5, BUS_LLM_CANCELLED, "");
  ask(world, "one", 0);
  expect_silence(world);
  free_world(world);
}

Test(bridge_core, rejects_what_no_server_can_do_in_time)
{
  struct world *world = make_world();
  world->config.backends[0].prefill_tokens_per_s = 42;
  world->config.backends[0].decode_tokens_per_s = 7;
  start_bridge(world);
  /* 2 tokens of prompt and 70 of answer: 10.05 s. */
  struct bus_llm_request request = question(world, "one", 0);
  request.tokens_max = 70;
  request.deadline_ns = world->now + 10 * S;
  submit(world, 0, request, "hello");
  settle(world);
  expect_final(world, request.id, BUS_LLM_REJECTED_DEADLINE, "");
  for (int i = 0; i < 2; i++) {
    request.id = ++world->next_id;
    request.deadline_ns = world->now + 11 * S;
    submit(world, 0, request, "hello");
  }
  settle(world);
  cr_assert_eq(world->transport.count, 2);
  /* Both slots are taken for 10 s: the next is through after 20. */
  request.id = ++world->next_id;
  request.deadline_ns = world->now + 19 * S;
  submit(world, 0, request, "hello");
  settle(world);
  expect_final(world, request.id, BUS_LLM_REJECTED_DEADLINE, "");
  request.id = ++world->next_id;
  request.deadline_ns = world->now + 21 * S;
  submit(world, 0, request, "hello");
  settle(world);
  expect_silence(world);
  cr_assert_eq(world->waiting[0], 1);
  /* What is before it counts, what is behind it does not. */
  request.id = ++world->next_id;
  request.deadline_ns = world->now + 22 * S;
  submit(world, 0, request, "hello");
  settle(world);
  expect_final(world, request.id, BUS_LLM_REJECTED_DEADLINE, "");
  request.id = ++world->next_id;
  request.deadline_ns = world->now + 20500 * MS;
  submit(world, 0, request, "hello");
  settle(world);
  expect_silence(world);
  cr_assert_eq(world->rejected[0], 3);
  free_world(world);
}

/* ---- whose turn it is ---- */

Test(bridge_core, serves_urgent_ones_first_and_then_by_deadline)
{
  struct world *world = make_world();
  world->config.backends[0].concurrency = 1;
  world->config.backends[0].idle_ns = 0;
  start_bridge(world);
  ask(world, "one", 0);
  uint32_t handle = accept_newest(world, 0);
  const uint64_t late[] = {25, 20, 20, 28};
  for (uint32_t i = 0; i < 4; i++) {
    struct bus_llm_request request = question(world, "one", i == 3 ? BUS_LLM_URGENT : 0);
    request.deadline_ns = world->now + late[i] * S;
    submit(world, 0, request, "x");
  }
  settle(world);
  const uint64_t order[] = {1, 5, 3, 4, 2};
  for (uint32_t i = 0; i < 5; i++) {
    answer(world, handle, "x");
    expect_final(world, order[i], BUS_LLM_OK, "x");
    if (i < 4)
      handle = accept_newest(world, 0);
  }
  free_world(world);
}

Test(bridge_core, keeps_slots_for_urgent_ones)
{
  struct world *world = make_world();
  world->config.backends[0].urgent_reserve = 1;
  start_bridge(world);
  ask(world, "one", 0);
  ask(world, "one", 0);
  cr_assert_eq(world->transport.count, 1);
  ask(world, "one", BUS_LLM_URGENT);
  cr_assert_eq(world->transport.count, 2);
  free_world(world);
}

Test(bridge_core, takes_from_all_clients_in_turn)
{
  struct world *world = make_world();
  world->config.classes[0].queue_max = 1;
  start_bridge(world);
  for (int i = 0; i < 10; i++)
    submit(world, 0, question(world, "one", 0), "x");
  submit(world, 1, question(world, "one", 0), "x");
  settle(world);
  /* Bob's one was second: it began, and is not among what was rejected. */
  struct answer reply;
  cr_assert(!next_reply(world, 1, &reply));
  free_world(world);
}

Test(bridge_core, spreads_work_by_what_is_in_flight)
{
  struct world *world = make_world();
  start_bridge(world);
  for (int i = 0; i < 4; i++) {
    ask(world, "two", 0);
    accept_newest(world, i % 2 ? 2 : 1);
  }
  free_world(world);
}

/* ---- time-outs ---- */

Test(bridge_core, ends_every_phase_in_time)
{
  struct world *world = make_world();
  world->config.classes[0].retries_max = 0;
  world->config.backends[0].failures_to_open = 100;
  world->config.backends[0].total_timeout_ns = 9 * S;
  start_bridge(world);
  /* Connect: asked elsewhere, which is the same server here. */
  uint64_t id = ask(world, "one", 0);
  const uint32_t silent = newest(world, 0);
  pass(world, S);
  cr_assert(is_closed(world, silent));
  uint32_t handle = accept_newest(world, 0);
  /* First token; a comment is none. */
  head(world, handle);
  piece(world, handle, ": keepalive 1/2\n\n");
  pass(world, 5 * S - 1);
  expect_silence(world);
  pass(world, 1);
  cr_assert(is_closed(world, handle));
  expect_final(world, id, BUS_LLM_TRUNCATED, "");
  /* The next token. */
  id = ask(world, "one", 0);
  handle = accept_newest(world, 0);
  head(world, handle);
  token(world, handle, "a");
  settle(world);
  pass(world, 2 * S - 1);
  token(world, handle, "b");
  settle(world);
  pass(world, 2 * S - 1);
  piece(world, handle, ": keepalive 2/2\n\n");
  settle(world);
  expect_silence(world);
  pass(world, 1);
  expect_final(world, id, BUS_LLM_TRUNCATED, "ab");
  /* All of it. */
  id = ask(world, "one", 0);
  handle = accept_newest(world, 0);
  head(world, handle);
  for (int i = 0; i < 9; i++) {
    expect_silence(world);
    token(world, handle, "c");
    pass(world, S);
  }
  expect_final(world, id, BUS_LLM_TRUNCATED, "ccccccccc");
  cr_assert_eq(world->timed_out[0], 4);
  free_world(world);
}

Test(bridge_core, needs_no_end_of_a_message_whose_text_is_whole)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  head(world, handle);
  token(world, handle, "whole");
  piece(world, handle,
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
        "data: [DONE]\n\n");
  settle(world);
  expect_silence(world);
  pass(world, 2 * S);
  expect_final(world, id, BUS_LLM_OK, "whole");
  cr_assert(is_closed(world, handle));
  cr_assert_eq(world->timed_out[0], 0);
  free_world(world);
}

Test(bridge_core, lets_the_deadline_beat_everything)
{
  struct world *world = make_world();
  world->config.backends[0].first_token_timeout_ns = 0;
  world->config.backends[0].token_timeout_ns = 0;
  start_bridge(world);
  const uint64_t id = ask(world, "one", BUS_LLM_IDEMPOTENT);
  const uint32_t handle = accept_newest(world, 0);
  head(world, handle);
  token(world, handle, "so far");
  pass(world, 30 * S - 1);
  expect_silence(world);
  finish(world, handle); /* comes with the deadline, and is too late */
  pass(world, 1);
  const struct bus_llm_reply reply = expect_final(world, id, BUS_LLM_EXPIRED, "so far");
  cr_assert_eq(reply.done_ns, 1030 * S);
  cr_assert(is_closed(world, handle));
  cr_assert_eq(world->abandoned[0], 1);
  free_world(world);
}

Test(bridge_core, believes_what_came_while_it_was_stopped)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  world->now += 20 * S; /* far beyond the first token's time */
  answer(world, handle, "there all the time");
  expect_final(world, id, BUS_LLM_OK, "there all the time");
  free_world(world);
}

Test(bridge_core, expires_what_waits)
{
  struct world *world = make_world();
  start_bridge(world);
  for (int i = 0; i < 3; i++) {
    ask(world, "one", 0);
    if (i < 2)
      accept_newest(world, 0);
  }
  world->config.backends[0].first_token_timeout_ns = 0;
  world->config.backends[0].total_timeout_ns = 0;
  pass(world, 30 * S);
  for (uint64_t id = 1; id <= 3; id++)
    expect_final(world, id, BUS_LLM_EXPIRED, "");
  cr_assert_eq(world->waiting[0], 0);
  free_world(world);
}

/* ---- failures and retries ---- */

Test(bridge_core, asks_elsewhere_whatever_failed_before_it_was_sent)
{
  struct world *world = make_world();
  world->config.classes[1].retries_max = 0;
  start_bridge(world);
  const uint64_t id = ask(world, "two", 0);
  broken(world, newest(world, 1), ECONNREFUSED);
  const uint32_t handle = accept_newest(world, 2);
  answer(world, handle, "from the other");
  const struct bus_llm_reply reply = expect_final(world, id, BUS_LLM_OK, "from the other");
  cr_assert_eq(reply.attempt, 2);
  cr_assert_eq(world->failed[1], 1);
  cr_assert_eq(world->retries, 1);
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 1, &view);
  cr_assert_str_eq(view.reason, strerror(ECONNREFUSED));
  free_world(world);
}

Test(bridge_core, retries_only_what_may_be_asked_twice)
{
  struct world *world = make_world();
  start_bridge(world);
  uint64_t id = ask(world, "two", 0);
  uint32_t handle = accept_newest(world, 1);
  broken(world, handle, ECONNRESET);
  expect_final(world, id, BUS_LLM_TRUNCATED, "");
  id = ask(world, "two", BUS_LLM_IDEMPOTENT | BUS_LLM_PARTIALS);
  handle = accept_newest(world, 2);
  head(world, handle);
  token(world, handle, "half");
  settle(world);
  broken(world, handle, ECONNRESET);
  handle = accept_newest(world, 1); /* another one */
  head(world, handle);
  token(world, handle, "all");
  settle(world);
  struct answer partial;
  cr_assert(next_reply(world, 0, &partial));
  cr_assert_str_eq(partial.text, "half");
  cr_assert_eq(partial.reply.attempt, 1);
  cr_assert(next_reply(world, 0, &partial));
  cr_assert_str_eq(partial.text, "all");
  cr_assert_eq(partial.reply.attempt, 2);
  cr_assert_eq(partial.reply.text_offset, 0);
  status(world, handle, "junk", "");
  /* retries_max is 1. */
  const struct bus_llm_reply reply = expect_final(world, id, BUS_LLM_UPSTREAM_5XX, "all");
  cr_assert_eq(reply.attempt, 2);
  cr_assert_eq(world->retries, 1);
  free_world(world);
}

Test(bridge_core, tells_each_kind_of_failure)
{
  static const struct {
    const char *line;
    uint32_t status;
    uint16_t http_status;
  } cases[] = {{"404 Not Found", BUS_LLM_UPSTREAM_4XX, 404},
               {"400 Bad Request", BUS_LLM_UPSTREAM_4XX, 400},
               {"500 Internal Server Error", BUS_LLM_UPSTREAM_5XX, 500}};
  struct world *world = make_world();
  start_bridge(world);
  for (uint32_t i = 0; i < 3; i++) {
    const uint64_t id = ask(world, "one", 0);
    const uint32_t handle = i == 0 ? accept_newest(world, 0) : newest(world, 0);
    status(world, handle, cases[i].line, "");
    const struct bus_llm_reply reply =
        expect_final(world, id, cases[i].status, "the server said so");
    cr_assert_eq(reply.http_status, cases[i].http_status);
  }
  /* A 4xx is final even where asking again is allowed. */
  uint64_t id = ask(world, "one", BUS_LLM_IDEMPOTENT);
  status(world, newest(world, 0), "404 Not Found", "");
  expect_final(world, id, BUS_LLM_UPSTREAM_4XX, NULL);
  /* An error within the stream; an end in the middle. */
  id = ask(world, "one", 0);
  uint32_t handle = newest(world, 0);
  head(world, handle);
  token(world, handle, "some");
  piece(world, handle, "data: {\"error\":{\"message\":\"out of memory\"}}\n\ndata: [DONE]\n\n");
  data(world, handle, "0\r\n\r\n");
  settle(world);
  expect_final(world, id, BUS_LLM_UPSTREAM_5XX, "some");
  id = ask(world, "one", 0);
  handle = world->transport.connections[handle].closed ? accept_newest(world, 0) : handle;
  head(world, handle);
  token(world, handle, "some");
  settle(world);
  closed(world, handle);
  expect_final(world, id, BUS_LLM_TRUNCATED, "some");
  free_world(world);
}

Test(bridge_core, forgives_a_kept_connection_that_was_closed_meanwhile)
{
  struct world *world = make_world();
  world->config.classes[0].retries_max = 0;
  world->config.backends[0].failures_to_open = 1;
  start_bridge(world);
  ask(world, "one", BUS_LLM_IDEMPOTENT);
  uint32_t handle = accept_newest(world, 0);
  answer(world, handle, "x");
  expect_final(world, 1, BUS_LLM_OK, "x");
  const uint64_t id = ask(world, "one", BUS_LLM_IDEMPOTENT);
  cr_assert_eq(world->transport.connections[handle].requests, 2);
  broken(world, handle, ECONNRESET);
  handle = accept_newest(world, 0);
  answer(world, handle, "again");
  expect_final(world, id, BUS_LLM_OK, "again");
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_eq(view.breaker, 0);
  free_world(world);
}

Test(bridge_core, sends_what_may_not_be_repeated_on_fresh_connections)
{
  struct world *world = make_world();
  start_bridge(world);
  ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  answer(world, handle, "x");
  expect_final(world, 1, BUS_LLM_OK, "x");
  pass(world, S);
  ask(world, "one", 0);
  cr_assert_eq(world->transport.count, 2);
  cr_assert(!is_closed(world, handle));
  /* But where it is still warm it is used, and what it breaks is not repeated. */
  uint32_t other = accept_newest(world, 0);
  answer(world, other, "y");
  expect_final(world, 2, BUS_LLM_OK, "y");
  const uint64_t id = ask(world, "one", 0);
  cr_assert_eq(world->transport.connections[other].requests, 2);
  closed(world, other);
  expect_final(world, id, BUS_LLM_TRUNCATED, "");
  free_world(world);
}

Test(bridge_core, closes_a_kept_connection_that_speaks_or_ends_by_itself)
{
  struct world *world = make_world();
  start_bridge(world);
  ask(world, "one", 0);
  ask(world, "one", 0);
  push_event(world, BUS_TRANSPORT_CONNECTED, 0, 0, NULL);
  push_event(world, BUS_TRANSPORT_CONNECTED, 1, 0, NULL);
  settle(world);
  answer(world, 0, "x");
  answer(world, 1, "x");
  data(world, 0, "HTTP/1.1 408 Request Timeout\r\n\r\n");
  closed(world, 1);
  cr_assert(is_closed(world, 0));
  cr_assert(is_closed(world, 1));
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_str_eq(view.reason, "");
  free_world(world);
}

/* ---- servers that refuse ---- */

Test(bridge_core, waits_as_long_as_a_server_asks)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  status(world, handle, "429 Too Many Requests", "Retry-After: 3\r\n");
  expect_silence(world);
  cr_assert_eq(world->waiting[0], 1);
  pass(world, 3 * S - 1);
  cr_assert_eq(world->waiting[0], 1);
  pass(world, 1);
  cr_assert_eq(world->waiting[0], 0);
  answer(world, accept_newest(world, 0), "at last");
  expect_final(world, id, BUS_LLM_OK, "at last");
  free_world(world);
}

Test(bridge_core, asks_another_when_one_refuses)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "two", 0);
  status(world, accept_newest(world, 1), "503 Service Unavailable", "");
  answer(world, accept_newest(world, 2), "gladly");
  expect_final(world, id, BUS_LLM_OK, "gladly");
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 1, &view);
  cr_assert_eq(view.breaker, 0);
  free_world(world);
}

Test(bridge_core, tells_how_long_to_wait_where_the_deadline_comes_first)
{
  struct world *world = make_world();
  start_bridge(world);
  uint64_t id = ask(world, "one", BUS_LLM_IDEMPOTENT);
  status(world, accept_newest(world, 0), "503 Service Unavailable", "Retry-After: 60\r\n");
  const struct bus_llm_reply reply = expect_final(world, id, BUS_LLM_UPSTREAM_5XX, NULL);
  cr_assert_eq(reply.retry_after_ms, 60000);
  cr_assert_eq(reply.http_status, 503);
  free_world(world);
}

/* ---- the breaker ---- */

static void refuse_until_open(struct world *world, uint32_t b, uint32_t times)
{
  for (uint32_t i = 0; i < times; i++)
    broken(world, newest(world, b), ECONNREFUSED);
}

Test(bridge_core, leaves_a_dead_server_alone_and_tries_it_with_a_canary)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  refuse_until_open(world, 0, 3);
  expect_final(world, id, BUS_LLM_BACKEND_DOWN, NULL);
  cr_assert_eq(world->opened[0], 1);
  const uint64_t at_once = ask(world, "one", BUS_LLM_IDEMPOTENT);
  expect_final(world, at_once, BUS_LLM_BACKEND_DOWN, "");
  cr_assert_eq(world->rejected[0], 1);
  cr_assert_eq(world->transport.count, 3);
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_eq(view.breaker, 1);
  cr_assert(view.open_until_ns >= world->now + 7500 * MS &&
            view.open_until_ns <= world->now + 12500 * MS);
  cr_assert_eq(bus_bridge_core_next_ns(world->core), view.open_until_ns);
  /* The canary finds it dead: twice as long. */
  pass(world, view.open_until_ns - world->now);
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_eq(view.breaker, 2);
  broken(world, newest(world, 0), ECONNREFUSED);
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert(view.open_until_ns >= world->now + 15 * S && view.open_until_ns <= world->now + 25 * S);
  /* The next one finds it alive. */
  pass(world, view.open_until_ns - world->now);
  const uint32_t handle = accept_newest(world, 0);
  cr_assert_not_null(strstr(world->transport.connections[handle].received, "\"max_tokens\":1"));
  cr_assert_not_null(strstr(world->transport.connections[handle].received, "ping"));
  const uint64_t meanwhile = ask(world, "one", 0);
  expect_final(world, meanwhile, BUS_LLM_BACKEND_DOWN, "");
  answer(world, handle, "pong");
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_eq(view.breaker, 0);
  const uint64_t again = ask(world, "one", BUS_LLM_IDEMPOTENT);
  answer(world, newest(world, 0), "back");
  expect_final(world, again, BUS_LLM_OK, "back");
  expect_silence(world);
  free_world(world);
}

Test(bridge_core, tells_all_that_wait_when_the_last_server_is_gone)
{
  struct world *world = make_world();
  world->config.backends[0].failures_to_open = 2;
  start_bridge(world);
  for (int i = 0; i < 5; i++)
    ask(world, "one", 0);
  push_event(world, BUS_TRANSPORT_FAILED, 0, ECONNREFUSED, NULL);
  push_event(world, BUS_TRANSPORT_FAILED, 1, ECONNREFUSED, NULL);
  settle(world);
  cr_assert_eq(world->finals[BUS_LLM_BACKEND_DOWN], 5);
  cr_assert_eq(world->in_flight, 0);
  cr_assert_eq(world->transport.count, 2);
  free_world(world);
}

Test(bridge_core, sends_a_canary_where_nothing_was_heard_for_long)
{
  struct world *world = make_world();
  world->config.backends[0].canary_interval_ns = 20 * S;
  world->config.backends[0].failures_to_open = 1;
  start_bridge(world);
  pass(world, 20 * S);
  uint32_t handle = accept_newest(world, 0);
  answer(world, handle, "pong");
  cr_assert_eq(world->succeeded[0], 1);
  pass(world, 20 * S);
  cr_assert_eq(world->transport.connections[handle].requests, 2);
  /* Alive, but its mind is dead: no token comes. */
  pass(world, 5 * S);
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_eq(view.breaker, 1);
  cr_assert_str_eq(view.reason, "no first token in time");
  cr_assert_eq(world->in_flight, 0);
  free_world(world);
}

/* ---- hedging ---- */

static struct world *make_hedging_world(void)
{
  struct world *world = make_world();
  world->config.classes[1].hedge_after_ns = S;
  world->config.classes[1].hedge_percent = 100;
  start_bridge(world);
  return world;
}

Test(bridge_core, asks_a_second_server_when_no_token_comes)
{
  struct world *world = make_hedging_world();
  const uint64_t id = ask(world, "two", BUS_LLM_IDEMPOTENT);
  const uint32_t slow = accept_newest(world, 1);
  pass(world, S - 1);
  cr_assert_eq(world->transport.count, 1);
  pass(world, 1);
  const uint32_t quick = accept_newest(world, 2);
  cr_assert_eq(world->hedges, 1);
  head(world, quick);
  token(world, quick, "quick");
  settle(world);
  cr_assert(is_closed(world, slow));
  cr_assert_eq(world->abandoned[1], 1);
  finish(world, quick);
  settle(world);
  const struct bus_llm_reply reply = expect_final(world, id, BUS_LLM_OK, "quick");
  cr_assert_eq(reply.flags & BUS_LLM_HEDGED, BUS_LLM_HEDGED);
  cr_assert_str_eq(reply.backend, "server2");
  cr_assert_eq(world->failed[1], 0);
  free_world(world);
}

Test(bridge_core, goes_on_with_one_when_the_other_fails)
{
  struct world *world = make_hedging_world();
  const uint64_t id = ask(world, "two", BUS_LLM_IDEMPOTENT);
  const uint32_t first = accept_newest(world, 1);
  pass(world, S);
  const uint32_t second = accept_newest(world, 2);
  broken(world, first, ECONNRESET);
  expect_silence(world);
  head(world, second);
  token(world, second, "half");
  settle(world);
  broken(world, second, ECONNRESET); /* the winner fails: retried as usual */
  expect_silence(world);
  cr_assert_eq(world->retries, 1);
  answer(world, accept_newest(world, 1), "whole");
  expect_final(world, id, BUS_LLM_OK, "whole");
  free_world(world);
}

Test(bridge_core, hedges_no_more_than_is_allowed)
{
  struct world *world = make_world();
  world->config.classes[1].hedge_after_ns = S;
  world->config.classes[1].hedge_percent = 50;
  start_bridge(world);
  ask(world, "two", BUS_LLM_IDEMPOTENT);
  accept_newest(world, 1);
  pass(world, S);
  cr_assert_eq(world->hedges, 0); /* one of one would be 100 % */
  ask(world, "two", 0);           /* may not be hedged, but counts */
  accept_newest(world, 2);
  pass(world, S);
  cr_assert_eq(world->hedges, 1);
  free_world(world);
}

/* ---- cancels ---- */

Test(bridge_core, cancels_in_every_phase)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t asked = ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  const uint64_t connecting = ask(world, "one", 0);
  const uint32_t other = newest(world, 0);
  const uint64_t waiting = ask(world, "one", 0);
  head(world, handle);
  token(world, handle, "so far");
  settle(world);
  cancel(world, 0, waiting);
  expect_final(world, waiting, BUS_LLM_CANCELLED, "");
  cancel(world, 0, connecting);
  expect_final(world, connecting, BUS_LLM_CANCELLED, "");
  cr_assert(is_closed(world, other));
  cancel(world, 0, asked);
  expect_final(world, asked, BUS_LLM_CANCELLED, "so far");
  cr_assert(is_closed(world, handle));
  cr_assert_eq(world->cancels_late, 0);
  cancel(world, 0, asked);
  cr_assert_eq(world->cancels_late, 1);
  expect_silence(world);
  free_world(world);
}

Test(bridge_core, lets_nobody_cancel_for_another)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", 0);
  cancel(world, 1, id);
  expect_silence(world);
  cr_assert_eq(world->cancels_late, 1);
  free_world(world);
}

/* ---- answers that are long, replies that find no room ---- */

Test(bridge_core, cuts_an_answer_that_is_too_long)
{
  struct world *world = make_world();
  start_bridge(world);
  struct bus_llm_request request = question(world, "one", 0);
  request.reply_slots = 1;
  submit(world, 0, request, "x");
  settle(world);
  const uint32_t handle = accept_newest(world, 0);
  char words[201];
  memset(words, 'w', sizeof words - 1);
  words[sizeof words - 1] = 0;
  head(world, handle);
  token(world, handle, words);
  token(world, handle, words);
  settle(world);
  const struct bus_llm_reply reply = expect_final(world, request.id, BUS_LLM_LENGTH, NULL);
  cr_assert_eq(reply.flags & BUS_LLM_CUT, BUS_LLM_CUT);
  cr_assert_eq(reply.text_bytes, SLOT_TEXT);
  cr_assert(is_closed(world, handle));
  cr_assert_eq(world->succeeded[0], 1);
  free_world(world);
}

/* Answers `count` requests of one slot each without the client reading. */
static void fill_replies(struct world *world, uint32_t c, uint32_t count)
{
  for (uint32_t i = 0; i < count; i++) {
    struct bus_llm_request request = question(world, "none", 0);
    request.reply_slots = 1;
    submit(world, c, request, "x");
    settle(world);
  }
}

Test(bridge_core, leaves_out_partial_replies_where_there_is_no_room)
{
  struct world *world = make_world();
  start_bridge(world);
  struct bus_llm_request request = question(world, "one", BUS_LLM_PARTIALS);
  submit(world, 0, request, "x");
  settle(world);
  const uint32_t handle = accept_newest(world, 0);
  fill_replies(world, 0, DEPTH - 4 - DEPTH / 8);
  head(world, handle);
  token(world, handle, "no room");
  settle(world);
  cr_assert_eq(world->partials_lost, 1);
  finish(world, handle);
  settle(world);
  struct answer reply;
  for (uint32_t i = 0; i < DEPTH - 4 - DEPTH / 8; i++)
    cr_assert(next_reply(world, 0, &reply));
  cr_assert_eq(expect_final(world, request.id, BUS_LLM_OK, "no room").flags, BUS_LLM_LOST);
  free_world(world);
}

Test(bridge_core, tells_reasoning_apart)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t id = ask(world, "one", BUS_LLM_PARTIALS);
  const uint32_t handle = accept_newest(world, 0);
  head(world, handle);
  piece(world, handle, "data: {\"choices\":[{\"index\":0,\"delta\":{\"reasoning\":\"hm\"}}]}\n\n");
  token(world, handle, "yes");
  settle(world);
  struct answer partial;
  cr_assert(next_reply(world, 0, &partial));
  cr_assert_eq(partial.reply.flags, BUS_LLM_REASONING);
  cr_assert_eq(partial.reply.id, id);
  cr_assert_eq(partial.reply.status, BUS_LLM_PENDING);
  cr_assert_str_eq(partial.text, "hm");
  cr_assert(next_reply(world, 0, &partial));
  cr_assert_eq(partial.reply.flags, 0);
  cr_assert_str_eq(partial.text, "yes");
  finish(world, handle);
  settle(world);
  expect_final(world, id, BUS_LLM_OK, "yes");
  free_world(world);
}

Test(bridge_core, tries_final_replies_without_room_again)
{
  struct world *world = make_world();
  start_bridge(world);
  uint64_t ids[2];
  uint32_t handles[2];
  for (uint32_t i = 0; i < 2; i++) {
    ids[i] = ask(world, "one", 0);
    handles[i] = accept_newest(world, 0);
  }
  /* Room is reserved, so it takes a foreign hand to fill the ring. */
  while (bus_producer_reserve(&world->clients[0].replies)) {
    char *slot = bus_producer_reserve(&world->clients[0].replies);
    memset(slot, 0, sizeof(struct bus_llm_reply));
    ((struct bus_llm_reply *)(void *)slot)->fragments = 1;
    bus_producer_commit(&world->clients[0].replies);
  }
  answer(world, handles[0], "first");
  answer(world, handles[1], "second");
  cr_assert_eq(world->in_flight, 2);
  pass(world, 60 * S); /* nothing falls due for what is decided */
  cancel(world, 0, ids[0]);
  cr_assert_eq(world->cancels_late, 1);
  struct answer reply;
  for (uint32_t i = 0; i < DEPTH; i++)
    cr_assert(next_reply(world, 0, &reply));
  settle(world);
  expect_final(world, ids[0], BUS_LLM_OK, "first");
  expect_final(world, ids[1], BUS_LLM_OK, "second");
  cr_assert_eq(world->in_flight, 0);
  free_world(world);
}

/* ---- clients that go, bridges that die ---- */

Test(bridge_core, drops_what_a_client_asked_that_is_gone)
{
  struct world *world = make_world();
  start_bridge(world);
  ask(world, "one", 0);
  const uint32_t handle = accept_newest(world, 0);
  ask(world, "one", 0);
  ask(world, "one", 0);
  cr_assert_eq(world->in_flight, 3);
  new_client(world, 0);
  attach(world, 0);
  cr_assert(is_closed(world, handle));
  cr_assert_eq(world->in_flight, 0);
  cr_assert_eq(world->orphaned, 3);
  cr_assert_eq(world->ports[0].reserved_slots, 0);
  settle(world);
  expect_silence(world);
  const uint64_t id = ask(world, "one", 0);
  answer(world, accept_newest(world, 0), "new life");
  expect_final(world, id, BUS_LLM_OK, "new life");
  free_world(world);
}

/* The bridge dies; the next one starts. */
static void restart(struct world *world)
{
  bus_bridge_core_delete(world->core);
  start_bridge(world);
  settle(world);
}

Test(bridge_core, goes_on_after_a_restart)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t sent_once = ask(world, "one", 0);
  accept_newest(world, 0);
  const uint64_t sent_idempotent = ask(world, "one", BUS_LLM_IDEMPOTENT);
  accept_newest(world, 0);
  const uint64_t waiting = ask(world, "one", 0);
  const uint64_t connecting = ask(world, "two", 0);
  newest(world, 1);
  const uint32_t before = world->transport.count;
  restart(world);
  cr_assert_eq(world->recovered, 4);
  const struct bus_llm_reply reply = expect_final(world, sent_once, BUS_LLM_BRIDGE_RESTART, "");
  cr_assert_eq(reply.epoch, 2);
  expect_silence(world);
  cr_assert_eq(world->transport.count, before + 3);
  for (uint32_t i = before; i < before + 3; i++) {
    push_event(world, BUS_TRANSPORT_CONNECTED, i, 0, NULL);
    settle(world);
    answer(world, i, "after all");
  }
  uint64_t answered = 0;
  struct answer final;
  while (next_reply(world, 0, &final)) {
    cr_assert_eq(final.reply.status, BUS_LLM_OK);
    answered += final.reply.id;
  }
  cr_assert_eq(answered, sent_idempotent + waiting + connecting);
  free_world(world);
}

Test(bridge_core, ends_after_a_restart_what_is_over)
{
  struct world *world = make_world();
  start_bridge(world);
  const uint64_t late = ask(world, "one", 0); /* never sent */
  const uint64_t sent = ask(world, "two", BUS_LLM_IDEMPOTENT);
  accept_newest(world, 1);
  struct bus_bridge_entry *entry = NULL;
  const struct bus_bridge_table table = {world->table, TABLE_COUNT, ENTRY_BYTES};
  struct bus_llm_request request = question(world, "two", 0);
  request.deadline_ns += 100 * S;
  submit(world, 0, request, "x");
  settle(world);
  for (uint32_t i = 0; i < TABLE_COUNT; i++) {
    if (bus_bridge_table_at(&table, i)->request.id == request.id)
      entry = bus_bridge_table_at(&table, i);
  }
  cr_assert_not_null(entry);
  entry->cancelled = 1; /* noted, and then the kill came */
  world->now += 30 * S;
  restart(world);
  uint32_t statuses[4] = {0};
  struct answer final;
  while (next_reply(world, 0, &final))
    statuses[final.reply.id] = final.reply.status;
  cr_assert_eq(statuses[late], BUS_LLM_EXPIRED);
  cr_assert_eq(statuses[sent], BUS_LLM_BRIDGE_RESTART);
  cr_assert_eq(statuses[request.id], BUS_LLM_CANCELLED);
  cr_assert_eq(world->in_flight, 0);
  free_world(world);
}

Test(bridge_core, drops_after_a_restart_what_clients_asked_that_are_gone)
{
  struct world *world = make_world();
  start_bridge(world);
  ask(world, "one", 0);
  submit(world, 1, question(world, "one", 0), "x");
  settle(world);
  new_client(world, 0);                      /* another file of the first client */
  strcpy(world->config.clients[1], "carol"); /* and the second is no client any more */
  restart(world);
  cr_assert_eq(world->orphaned, 2);
  cr_assert_eq(world->in_flight, 0);
  expect_silence(world);
  free_world(world);
}

Test(bridge_core, stores_that_it_sends_before_it_sends)
{
  struct world *world = make_world();
  start_bridge(world);
  ask(world, "one", 0);
  const struct bus_bridge_table table = {world->table, TABLE_COUNT, ENTRY_BYTES};
  const struct bus_bridge_entry *entry = bus_bridge_table_at(&table, 0);
  cr_assert_eq(entry->state, BUS_BRIDGE_DISPATCHED);
  cr_assert_eq(entry->sent, 0);
  cr_assert_eq(entry->attempts, 1);
  const uint32_t handle = accept_newest(world, 0);
  cr_assert_eq(entry->sent, 1);
  status(world, handle, "429 Too Many Requests", "");
  cr_assert_eq(entry->sent, 0); /* the server has nothing of it: it goes on as new */
  free_world(world);
}

/* ---- what is measured, what is refused ---- */

Test(bridge_core, measures_what_it_takes_itself)
{
  struct world *world = make_world();
  world->clock = world->now;
  start_bridge(world);
  ask(world, "one", BUS_LLM_IDEMPOTENT);
  cr_assert_eq(world->in_ns.count, 0);
  const uint32_t handle = accept_newest(world, 0);
  answer(world, handle, "x");
  cr_assert_eq(world->out_ns.count, 1);
  world->clock = world->now + 20000;
  ask(world, "one", BUS_LLM_IDEMPOTENT); /* neither queued nor connected */
  cr_assert_eq(world->in_ns.count, 1);
  cr_assert_eq(world->in_ns.maximum, 20000);
  free_world(world);
}

Test(bridge_core, waits_no_longer_than_to_its_next_timer)
{
  struct world *world = make_world();
  start_bridge(world);
  cr_assert_eq(bus_bridge_core_step(world->core, world->now, 3 * S), 0);
  cr_assert_eq(world->transport.waited_ns, 3 * S);
  ask(world, "one", 0);
  cr_assert_eq(bus_bridge_core_step(world->core, world->now, 3 * S), 0);
  cr_assert_eq(world->transport.waited_ns, S); /* connect */
  free_world(world);
}

Test(bridge_core, waits_when_there_are_no_connections)
{
  struct world *world = make_world();
  start_bridge(world);
  world->transport.open_error = BUS_ERROR_NO_SPACE;
  const uint64_t id = ask(world, "one", 0);
  expect_silence(world);
  world->transport.open_error = 0;
  pass(world, 10 * MS);
  answer(world, accept_newest(world, 0), "x");
  expect_final(world, id, BUS_LLM_OK, "x");
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, 0, &view);
  cr_assert_eq(view.breaker, 0);
  /* A transport that cannot reach the server at all is as good as a dead server. */
  world->transport.open_error = BUS_ERROR_IO;
  const uint64_t other = ask(world, "two", 0);
  expect_final(world, other, BUS_LLM_BACKEND_DOWN, NULL);
  free_world(world);
}

Test(bridge_core, refuses_a_configuration_that_cannot_be)
{
  struct world *world = make_world();
  struct bus_bridge_core_options options = {
      .config = &world->config,
      .table = {.memory = world->table, .count = TABLE_COUNT, .entry_bytes = ENTRY_BYTES},
      .ports = world->ports,
      .transport = &world->transport.base,
      .meters = &world->meters,
  };
  cr_assert_eq(bus_bridge_core_connections(&world->config), 9);
  world->config.classes[1].backends[1].backend = 3;
  cr_assert_eq(bus_bridge_core_new(&options, 1, &world->core), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "class two"));
  world->config.classes[1].backends[1].backend = 2;
  world->config.backends[0].urgent_reserve = 2;
  cr_assert_eq(bus_bridge_core_new(&options, 1, &world->core), BUS_ERROR_INVALID);
  world->config.backends[0].urgent_reserve = 0;
  world->config.backends[0].concurrency = UINT32_MAX;
  cr_assert_eq(bus_bridge_core_new(&options, 1, &world->core), BUS_ERROR_INVALID);
  world->config.backends[0].concurrency = 65536;
  cr_assert_eq(bus_bridge_core_new(&options, 1, &world->core), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "65543 connections"));
  world->config.backends[0].concurrency = 2;
  options.table.count = 1;
  cr_assert_eq(bus_bridge_core_new(&options, 1, &world->core), BUS_ERROR_INVALID);
  options.table.count = TABLE_COUNT;
  world->config.class_count = 17;
  cr_assert_eq(bus_bridge_core_new(&options, 1, &world->core), BUS_ERROR_INVALID);
  free_world(world);
}
