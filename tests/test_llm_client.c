#include "bus_fixture.h"

#include "shm/error.h"
#include "shm/llm_client.h"

TestSuite(llm_client, .init = fixture_create, .fini = fixture_remove, .timeout = 120);

#define RECORD_BYTES 192u /* 56 bytes of text */
#define ROOM         56u
#define REPLY_DEPTH  16u
#define GRACE_NS     1000u
#define ANSWER_BYTES (4 * ROOM)

static const struct bus_llm_client_options options = {.record_bytes = RECORD_BYTES,
                                                      .request_depth = 8,
                                                      .outstanding_max = 3,
                                                      .answer_bytes_max = ANSWER_BYTES,
                                                      .grace_ns = GRACE_NS};
static const struct bus_object_spec bridge_spec[] = {
    {.type = BUS_OBJECT_RING,
     .name = "replies.ask",
     .peer = "ask",
     .record_type = BUS_RECORD_LLM_REPLY,
     .record_size = RECORD_BYTES,
     .policy = BUS_POLICY_WAIT,
     .depth = REPLY_DEPTH},
    {.type = BUS_OBJECT_POSITION, .name = BUS_LLM_REQUEST_RING, .peer = "ask"}};

/* A bridge that has rings and no more: the test says what it writes. */
struct bridge {
  struct bus_member *member;
  struct bus_producer producer;
  struct bus_backlink backlink;
  struct bus_subscription requests;
};

static void bridge_start(struct bridge *bridge, uint32_t takeover)
{
  struct bus_member_config config = {.directory = fixture_directory,
                                     .name = "bridge",
                                     .kind = "test",
                                     .objects = bridge_spec,
                                     .object_count = 2,
                                     .takeover = takeover,
                                     .small_pages = true,
                                     .numa_node = -1,
                                     .core = -1};
  cr_assert_eq(bus_member_new(&config, &bridge->member), BUS_OK, "%s", bus_error_message());
  const struct bus_entry *entry = bus_member_entry(bridge->member, BUS_OBJECT_RING, "replies.ask");
  bus_producer_init(&bridge->producer,
                    bus_member_object(bridge->member, BUS_OBJECT_RING, "replies.ask"), entry,
                    bus_member_header(bridge->member)->instance);
  cr_assert_eq(
      bus_backlink_init(&bridge->backlink, fixture_directory, "bridge", entry, &bridge->producer),
      BUS_OK);
  cr_assert_eq(bus_subscription_init(&bridge->requests, fixture_directory, "ask",
                                     BUS_LLM_REQUEST_RING, BUS_RECORD_LLM_REQUEST, RECORD_BYTES,
                                     bridge->member),
               BUS_OK, "%s", bus_error_message());
  bus_member_run(bridge->member);
}

static void bridge_stop(struct bridge *bridge)
{
  bus_backlink_close(&bridge->backlink);
  bus_subscription_close(&bridge->requests);
  bus_member_leave(bridge->member, BUS_STATE_FAIL);
}

static void bridge_maintain(struct bridge *bridge)
{
  bus_backlink_maintain(&bridge->backlink);
  bus_subscription_maintain(&bridge->requests, 0);
}

static void meet(struct bridge *bridge, struct bus_llm_client *client)
{
  for (int i = 0; i < 3; i++) {
    bus_llm_client_maintain(client);
    bridge_maintain(bridge);
  }
  cr_assert_eq(bus_llm_client_maintain(client), BUS_OK, "%s", bus_error_message());
  cr_assert_not_null(bridge->requests.neighbour);
}

static struct bus_llm_client *client_start(void)
{
  struct bus_llm_client *client;
  cr_assert_eq(bus_llm_client_open(fixture_directory, "ask", &options, &client), BUS_OK, "%s",
               bus_error_message());
  return client;
}

/* The counter as everybody sees it. */
static uint64_t counter(const char *name)
{
  struct bus_neighbour *neighbour;
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "ask", true, &neighbour), BUS_OK);
  const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_COUNTER, name);
  cr_assert_not_null(entry, "%s", name);
  uint64_t value = *(const uint64_t *)bus_neighbour_object(neighbour, entry);
  bus_neighbour_detach(neighbour);
  return value;
}

/* The text that belongs to a seed: of 0..most bytes. */
static uint32_t make_text(uint64_t seed, uint32_t most, char *text)
{
  uint32_t size = (uint32_t)((seed * 0x9e3779b97f4a7c15ull) >> 33) % (most + 1);
  for (uint32_t i = 0; i < size; i++)
    text[i] = (char)('a' + (seed + i * 7) % 26);
  return size;
}

static int ask(struct bus_llm_client *client, uint64_t context, uint64_t now_ns,
               uint64_t deadline_ns, uint64_t *id)
{
  char text[4 * ROOM];
  struct bus_llm_ask request = {.kind = BUS_LLM_CHAT,
                                .flags = BUS_LLM_PARTIALS,
                                .class_name = "fast",
                                .text = text,
                                .text_bytes = make_text(context, sizeof text, text),
                                .deadline_ns = deadline_ns,
                                .context = context};
  return bus_llm_client_submit(client, &request, now_ns, id);
}

/* The next whole request, its text checked against what was asked; false: none. */
static bool bridge_take(struct bridge *bridge, struct bus_llm_request *first, char *text)
{
  struct bus_consumer *consumer = &bridge->requests.consumer;
  uint32_t fragments = 1;
  for (uint32_t i = 0; i < fragments; i++) {
    const struct bus_llm_request *request = bus_consumer_peek(consumer, i);
    if (!request) {
      cr_assert_eq(i, 0, "a request came in parts");
      return false;
    }
    if (i == 0)
      *first = *request;
    fragments = first->fragments;
    cr_assert_eq(request->id, first->id);
    cr_assert_eq(request->fragment, i);
    cr_assert_leq(request->fragment_bytes, ROOM);
    memcpy(text + request->text_offset, request + 1, request->fragment_bytes);
  }
  bus_consumer_release_batch(consumer, fragments);
  return true;
}

static bool put(struct bridge *bridge, const struct bus_llm_reply *header, const char *text)
{
  char *slot = bus_producer_reserve(&bridge->producer);
  if (!slot)
    return false;
  memcpy(slot, header, sizeof *header);
  if (text)
    memcpy(slot + BUS_LLM_HEADER_BYTES, text,
           header->fragment_bytes < ROOM ? header->fragment_bytes : ROOM);
  bus_producer_commit(&bridge->producer);
  return true;
}

static uint64_t bridge_room(struct bridge *bridge)
{
  bus_producer_refresh(&bridge->producer);
  return bridge->producer.limit - bridge->producer.next;
}

/* Fragments from..to-1 of the final reply of `id`. */
static void put_final(struct bridge *bridge, uint64_t id, uint32_t from, uint32_t to)
{
  char text[ANSWER_BYTES];
  struct bus_llm_reply header = {.id = id, .kind = BUS_LLM_FINAL, .status = BUS_LLM_OK};
  header.text_bytes = make_text(id, ANSWER_BYTES, text);
  header.fragments = (uint16_t)bus_llm_slots(header.text_bytes, RECORD_BYTES);
  memset(header.backend, 'x', sizeof header.backend); /* no NUL: hostile */
  for (uint32_t i = from; i < to && i < header.fragments; i++) {
    uint32_t rest = header.text_bytes - i * ROOM;
    header.fragment = (uint16_t)i;
    header.text_offset = i * ROOM;
    header.fragment_bytes = rest < ROOM ? rest : ROOM;
    cr_assert(put(bridge, &header, text + header.text_offset));
  }
}

static uint32_t final_slots(uint64_t id)
{
  char text[ANSWER_BYTES];
  return bus_llm_slots(make_text(id, ANSWER_BYTES, text), RECORD_BYTES);
}

static void expect_final(const struct bus_llm_client_reply *reply, uint64_t id)
{
  char text[ANSWER_BYTES];
  uint32_t size = make_text(id, ANSWER_BYTES, text);
  cr_assert_eq(reply->header.kind, BUS_LLM_FINAL);
  cr_assert_eq(reply->header.id, id);
  cr_assert_eq(reply->header.status, BUS_LLM_OK);
  cr_assert_eq(reply->header.text_bytes, size);
  cr_assert(!memcmp(reply->text, text, size));
  cr_assert_eq(reply->text[size], '\0');
  cr_assert_lt(strlen(reply->header.backend), BUS_LLM_NAME_BYTES);
}

Test(llm_client, asks_and_is_answered)
{
  struct bridge bridge;
  struct bus_llm_client *client = client_start();
  struct bus_llm_client_reply reply;
  struct bus_llm_request request;
  char text[4 * ROOM];
  uint64_t id;
  cr_assert_eq(ask(client, 7, 100, 200, &id), BUS_OK); /* before there is a bridge */
  cr_assert_lt(bus_llm_client_maintain(client), 0);
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  cr_assert(bridge_take(&bridge, &request, text));
  cr_assert_eq(request.id, id);
  cr_assert_eq(request.deadline_ns, 200);
  cr_assert_eq(request.submitted_ns, 100);
  cr_assert_eq(request.kind, BUS_LLM_CHAT);
  cr_assert_eq(request.reply_slots, 4);
  cr_assert_lt(request.temperature, 0.0f);
  cr_assert_str_eq(request.class_name, "fast");
  struct bus_llm_reply piece = {.id = id,
                                .kind = BUS_LLM_PARTIAL,
                                .fragments = 1,
                                .text_bytes = 3,
                                .fragment_bytes = 3,
                                .text_offset = 9};
  cr_assert(put(&bridge, &piece, "abc"));
  put_final(&bridge, id, 0, 4);
  cr_assert_eq(bus_llm_client_poll(client, 150, &reply), 1);
  cr_assert_eq(reply.header.kind, BUS_LLM_PARTIAL);
  cr_assert_eq(reply.header.text_offset, 9);
  cr_assert_str_eq(reply.text, "abc");
  cr_assert_eq(reply.context, 7);
  cr_assert_eq(bus_llm_client_outstanding(client), 1);
  cr_assert_eq(bus_llm_client_poll(client, 150, &reply), 1);
  expect_final(&reply, id);
  cr_assert_eq(reply.submitted_ns, 100);
  cr_assert_eq(bus_llm_client_outstanding(client), 0);
  cr_assert_eq(bus_llm_client_poll(client, 5000, &reply), 0);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

Test(llm_client, takes_no_more_than_it_has_room_for)
{
  struct bridge bridge;
  struct bus_llm_client *client = client_start();
  uint64_t ids[4];
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  struct bus_llm_ask request = {.kind = BUS_LLM_COMPLETION,
                                .class_name = "fast",
                                .text = "x",
                                .text_bytes = 1,
                                .deadline_ns = 200};
  for (int i = 0; i < 3; i++)
    cr_assert_eq(bus_llm_client_submit(client, &request, 100, &ids[i]), BUS_OK);
  cr_assert_eq(bus_llm_client_submit(client, &request, 100, &ids[3]), BUS_ERROR_AGAIN);
  put_final(&bridge, ids[1], 0, 4);
  struct bus_llm_client_reply reply;
  cr_assert_eq(bus_llm_client_poll(client, 150, &reply), 1);
  /* The ring has 8 slots and holds 3: this one takes 6, and none of them is written. */
  char text[6 * ROOM];
  memset(text, 'y', sizeof text);
  request.text = text;
  request.text_bytes = sizeof text;
  uint64_t before = counter("llm_submitted");
  cr_assert_eq(bus_llm_client_submit(client, &request, 100, &ids[3]), BUS_ERROR_AGAIN);
  cr_assert_eq(counter("llm_refused"), 2);
  cr_assert_eq(counter("llm_submitted"), before);
  struct bus_llm_request taken;
  for (int i = 0; i < 3; i++)
    cr_assert(bridge_take(&bridge, &taken, (char[4 * ROOM]){0}));
  cr_assert(!bridge_take(&bridge, &taken, (char[4 * ROOM]){0}));
  cr_assert_eq(bus_llm_client_submit(client, &request, 100, &ids[3]), BUS_OK);
  cr_assert(bridge_take(&bridge, &taken, (char[6 * ROOM]){0}));
  cr_assert_eq(taken.text_bytes, sizeof text);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

Test(llm_client, reserves_room_for_finals)
{
  struct bridge bridge;
  struct bus_llm_client_options wide = options;
  struct bus_llm_client *client;
  uint64_t id;
  wide.outstanding_max = 100;
  wide.request_depth = 128;
  cr_assert_eq(bus_llm_client_open(fixture_directory, "ask", &wide, &client), BUS_OK);
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  for (uint32_t i = 0; i < REPLY_DEPTH / 4; i++)
    cr_assert_eq(ask(client, i, 100, 200, &id), BUS_OK);
  cr_assert_eq(ask(client, 9, 100, 200, &id), BUS_ERROR_AGAIN);
  struct bus_llm_ask small = {.kind = BUS_LLM_CHAT,
                              .class_name = "fast",
                              .text = "",
                              .deadline_ns = 200,
                              .answer_bytes = 1};
  cr_assert_eq(bus_llm_client_submit(client, &small, 100, &id), BUS_ERROR_AGAIN);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

Test(llm_client, ends_by_itself_what_nobody_answers)
{
  struct bridge bridge;
  struct bus_llm_client *client = client_start();
  struct bus_llm_client_reply reply;
  uint64_t first, second, endless;
  cr_assert_eq(ask(client, 1, 100, 2000, &first), BUS_OK);
  cr_assert_eq(ask(client, 2, 100, 200, &second), BUS_OK);
  struct bus_llm_ask request = {
      .kind = BUS_LLM_CHAT, .class_name = "fast", .text = "", .deadline_ns = UINT64_MAX};
  cr_assert_eq(bus_llm_client_submit(client, &request, 100, &endless), BUS_OK);
  cr_assert_eq(bus_llm_client_poll(client, 200 + GRACE_NS - 1, &reply), 0);
  cr_assert_eq(bus_llm_client_poll(client, 200 + GRACE_NS, &reply), 1);
  cr_assert_eq(reply.header.id, second);
  cr_assert_eq(reply.header.kind, BUS_LLM_FINAL);
  cr_assert_eq(reply.header.status, BUS_LLM_LOCAL_TIMEOUT);
  cr_assert_eq(reply.context, 2);
  cr_assert_str_eq(reply.text, "");
  cr_assert_eq(bus_llm_client_poll(client, 200 + GRACE_NS, &reply), 0);
  /* The bridge does answer, too late for one of them. */
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  put_final(&bridge, second, 0, 4);
  put_final(&bridge, first, 0, 4);
  cr_assert_eq(bus_llm_client_poll(client, 9000, &reply), 1);
  expect_final(&reply, first);
  cr_assert_eq(counter("llm_late"), 1);
  cr_assert_eq(counter("llm_local_timeouts"), 1);
  cr_assert_eq(bus_llm_client_poll(client, UINT64_MAX - 1, &reply), 0);
  cr_assert_eq(bus_llm_client_outstanding(client), 1);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

/* While a final is half there another request times out: the half is not lost. */
Test(llm_client, a_time_out_leaves_the_final_of_another_request_whole)
{
  struct bridge bridge;
  struct bus_llm_client *client = client_start();
  struct bus_llm_client_reply reply;
  uint64_t ids[2] = {0, 0};
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  cr_assert_eq(ask(client, 1, 100, 200, &ids[0]), BUS_OK);
  do { /* until one has a long answer */
    struct bus_llm_request taken;
    if (ids[1])
      put_final(&bridge, ids[1], 0, 4), bus_llm_client_poll(client, 100, &reply);
    cr_assert_eq(ask(client, 2, 100, 9000, &ids[1]), BUS_OK);
    while (bridge_take(&bridge, &taken, (char[4 * ROOM]){0}))
      ;
  } while (final_slots(ids[1]) < 3);
  put_final(&bridge, ids[1], 0, 2);
  cr_assert_eq(bus_llm_client_poll(client, 5000, &reply), 1);
  cr_assert_eq(reply.header.id, ids[0]);
  cr_assert_eq(reply.header.status, BUS_LLM_LOCAL_TIMEOUT);
  put_final(&bridge, ids[1], 2, 4);
  cr_assert_eq(bus_llm_client_poll(client, 5000, &reply), 1);
  expect_final(&reply, ids[1]);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

Test(llm_client, takes_requests_back)
{
  struct bridge bridge;
  struct bus_llm_client *client = client_start();
  struct bus_llm_request request;
  char text[4 * ROOM];
  uint64_t id;
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  cr_assert_eq(bus_llm_client_cancel(client, 5), BUS_ERROR_ABSENT);
  cr_assert_eq(bus_llm_client_cancel(client, 0), BUS_ERROR_ABSENT);
  cr_assert_eq(ask(client, 1, 100, 200, &id), BUS_OK);
  cr_assert_eq(bus_llm_client_cancel(client, id), BUS_OK);
  cr_assert(bridge_take(&bridge, &request, text));
  cr_assert(bridge_take(&bridge, &request, text));
  cr_assert_eq(request.kind, BUS_LLM_CANCEL);
  cr_assert_eq(request.id, id);
  for (int i = 0; i < 8; i++)
    cr_assert_eq(bus_llm_client_cancel(client, id), BUS_OK);
  cr_assert_eq(bus_llm_client_cancel(client, id), BUS_ERROR_AGAIN);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

Test(llm_client, refuses_with_a_reason)
{
  struct bus_llm_client *client = client_start();
  const struct bus_llm_ask good = {
      .kind = BUS_LLM_CHAT, .class_name = "fast", .text = "", .deadline_ns = 200};
  struct bus_llm_ask bad[] = {good, good, good, good, good, good, good};
  bad[0].kind = BUS_LLM_CANCEL;
  bad[1].class_name = NULL;
  bad[2].class_name = "a name of 24 characters.";
  bad[3].deadline_ns = 100;
  bad[4].has_temperature = true;
  bad[4].temperature = -0.5f;
  bad[5].answer_bytes = ANSWER_BYTES + 1;
  bad[6].text_bytes = 8 * ROOM + 1;
  uint64_t id;
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    bus_error_clear();
    cr_assert_eq(bus_llm_client_submit(client, &bad[i], 100, &id), BUS_ERROR_INVALID, "%zu", i);
    cr_assert_str_neq(bus_error_message(), "");
  }
  cr_assert_eq(bus_llm_client_outstanding(client), 0);
  bus_llm_client_delete(client);
  static const struct bus_llm_client_options wrong[] = {
      {.record_bytes = 100},
      {.record_bytes = 128},
      {.bridge = "/"},
      {.outstanding_max = BUS_LLM_CLIENT_OUTSTANDING_MAX + 1},
      {.record_bytes = 192, .answer_bytes_max = 1025 * ROOM}};
  struct bus_llm_client_objects objects;
  for (size_t i = 0; i < BUS_COUNT_OF(wrong); i++)
    cr_assert_eq(bus_llm_client_declare(&wrong[i], "ask", &objects), BUS_ERROR_INVALID, "%zu", i);
  cr_assert_eq(bus_llm_client_declare(NULL, "a-name-of-24-characters.", &objects),
               BUS_ERROR_INVALID);
  cr_assert_eq(bus_llm_client_declare(NULL, "a-name-of-23-characters", &objects), BUS_OK);
  struct bus_member *member = fixture_member("other", bridge_spec, 2, 0);
  cr_assert_eq(bus_llm_client_new(member, &options, &client), BUS_ERROR_INVALID);
  bus_member_leave(member, BUS_STATE_HALT);
}

/* What an earlier life asked for is answered to nobody, and taken for nothing of this one's. */
Test(llm_client, ids_are_of_one_life)
{
  struct bridge bridge;
  struct bus_llm_client_reply reply;
  uint64_t ids[3];
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  for (int i = 0; i < 3; i++) {
    struct bus_llm_client *client = client_start();
    meet(&bridge, client);
    cr_assert_eq(ask(client, 1, 100, 200, &ids[i]), BUS_OK);
    for (int j = 0; j < i; j++) {
      cr_assert_neq(ids[i], ids[j]);
      put_final(&bridge, ids[j], 0, 4);
    }
    uint64_t before = counter("llm_late");
    cr_assert_eq(bus_llm_client_poll(client, 150, &reply), 0);
    cr_assert_eq(counter("llm_late"), before + (uint64_t)i);
    put_final(&bridge, ids[i] + 1, 0, 4); /* another place, in this life: never given out */
    put_final(&bridge, ids[i] + ((uint64_t)1 << 50), 0, 4);
    put_final(&bridge, ids[i] + ((uint64_t)1 << 12), 0, 4);
    before = counter("llm_invalid") + counter("llm_late");
    cr_assert_eq(bus_llm_client_poll(client, 150, &reply), 0);
    cr_assert_eq(counter("llm_invalid") + counter("llm_late"), before + 3);
    bus_llm_client_delete(client);
  }
  bridge_stop(&bridge);
}

Test(llm_client, names_statuses)
{
  cr_assert_str_eq(bus_llm_status_name(BUS_LLM_OK), "ok");
  cr_assert_str_eq(bus_llm_status_name(BUS_LLM_LOCAL_TIMEOUT), "local-timeout");
  cr_assert_str_eq(bus_llm_status_name(BUS_LLM_STATUS_COUNT), "?");
}

Test(llm_client, waits_for_a_reply)
{
  struct bridge bridge;
  struct bus_llm_client *client = client_start();
  struct bus_llm_client_reply reply;
  uint64_t id, now_ns = bus_clock_monotonic_ns();
  bridge_start(&bridge, BUS_TAKEOVER_ALWAYS);
  meet(&bridge, client);
  cr_assert_eq(ask(client, 1, now_ns, now_ns + 3600000000000u, &id), BUS_OK);
  cr_assert_eq(bus_llm_client_wait(client, 1000, &reply), 0);
  put_final(&bridge, id, 0, 4);
  cr_assert_eq(bus_llm_client_wait(client, 60000000000u, &reply), 1);
  expect_final(&reply, id);
  bus_llm_client_delete(client);
  bridge_stop(&bridge);
}

/* ---- against a model: a bridge that is killed anywhere, and one that lies ---- */

#define IDS_MAX 8192u

struct model {
  struct bridge bridge;
  struct bus_llm_client *client;
  uint64_t random;
  uint64_t now_ns;
  uint32_t count;
  struct {
    uint64_t id, deadline_ns;
    uint32_t finals;
    bool was_taken, was_sent; /* by the bridge; a whole final of it */
  } asked[IDS_MAX];
  uint32_t life_begin; /* asked by the client of now */
  uint64_t timeouts, answers;
};

static uint32_t draw(struct model *model, uint32_t below)
{
  model->random = model->random * 6364136223846793005ull + 1442695040888963407ull;
  return (uint32_t)(model->random >> 33) % below;
}

static void model_ask(struct model *model)
{
  uint64_t id, deadline_ns = model->now_ns + 1 + draw(model, 3000);
  cr_assert_lt(model->count, IDS_MAX);
  if (ask(model->client, model->count, model->now_ns, deadline_ns, &id) != BUS_OK)
    return;
  for (uint32_t i = 0; i < model->count; i++)
    cr_assert_neq(model->asked[i].id, id);
  model->asked[model->count].id = id;
  model->asked[model->count++].deadline_ns = deadline_ns;
}

static void model_poll(struct model *model)
{
  struct bus_llm_client_reply reply;
  while (bus_llm_client_poll(model->client, model->now_ns, &reply)) {
    cr_assert_geq(reply.context, model->life_begin);
    cr_assert_lt(reply.context, model->count);
    const uint64_t index = reply.context;
    cr_assert_eq(model->asked[index].id, reply.header.id);
    cr_assert_eq(model->asked[index].finals, 0);
    if (reply.header.kind == BUS_LLM_PARTIAL) {
      cr_assert_eq(strlen(reply.text), reply.header.text_bytes);
      continue;
    }
    model->asked[index].finals++;
    if (reply.header.status == BUS_LLM_LOCAL_TIMEOUT) {
      cr_assert_geq(model->now_ns, model->asked[index].deadline_ns + GRACE_NS);
      model->timeouts++;
      continue;
    }
    expect_final(&reply, reply.header.id);
    cr_assert(model->asked[index].was_sent);
    model->answers++;
  }
}

static void model_take(struct model *model)
{
  struct bus_llm_request request;
  char text[4 * ROOM], wanted[4 * ROOM];
  if (!model->bridge.requests.neighbour)
    return;
  while (bridge_take(&model->bridge, &request, text))
    for (uint32_t i = 0; i < model->count; i++)
      if (model->asked[i].id == request.id && request.kind != BUS_LLM_CANCEL) {
        cr_assert(!model->asked[i].was_taken);
        model->asked[i].was_taken = true;
        cr_assert_eq(request.text_bytes, make_text(i, sizeof wanted, wanted));
        cr_assert(!memcmp(text, wanted, request.text_bytes));
      }
}

/* Writes something about a request: right, broken off, doubled, in disorder, or false. */
static void model_answer(struct model *model)
{
  if (model->count == 0 || bridge_room(&model->bridge) < 9)
    return;
  uint32_t recent = model->count < 6 ? model->count : 6;
  uint32_t index = model->count - 1 - draw(model, recent);
  uint64_t id = model->asked[index].id;
  uint32_t slots = final_slots(id);
  struct bus_llm_reply header = {
      .id = id, .kind = BUS_LLM_PARTIAL, .fragments = 1, .text_bytes = 4, .fragment_bytes = 4};
  switch (draw(model, 9)) {
  case 0:
  case 1:
    model->asked[index].was_sent = true;
    put_final(&model->bridge, id, 0, slots);
    break;
  case 2: /* cut, and the whole of it from a successor */
    put_final(&model->bridge, id, 0, draw(model, slots));
    model->asked[index].was_sent = true;
    put_final(&model->bridge, id, 0, slots);
    break;
  case 3: /* cut for good */
    put_final(&model->bridge, id, 0, draw(model, slots));
    break;
  case 4: /* twice */
    model->asked[index].was_sent = true;
    put_final(&model->bridge, id, 0, slots);
    put_final(&model->bridge, id, 0, slots);
    break;
  case 5: /* the last fragment before the others; one missing */
    if (slots < 2)
      break;
    put(&model->bridge, &header, "abcd"); /* what stands before must not go on here */
    put_final(&model->bridge, id, slots - 1, slots);
    put_final(&model->bridge, id, 0, slots - 1);
    if (slots > 2)
      put_final(&model->bridge, id, slots - 1 + draw(model, 2) * 9, slots);
    else
      put_final(&model->bridge, id, 0, 1);
    if (slots > 2) /* it was whole, in order, if the last came */
      model->asked[index].was_sent = true;
    break;
  case 6:
    put(&model->bridge, &header, "abcd");
    break;
  case 7: /* sizes and places that cannot be */
    header.kind = (uint8_t)draw(model, 4);
    header.status = (uint8_t)(draw(model, 2) ? draw(model, 256) : BUS_LLM_LOCAL_TIMEOUT);
    header.fragment_bytes = draw(model, 2) ? UINT32_MAX - draw(model, 64) : ROOM + 1;
    header.text_offset = draw(model, 2) ? UINT32_MAX - draw(model, 64) : draw(model, 999);
    header.text_bytes = draw(model, 2) ? UINT32_MAX - draw(model, 64) : draw(model, 999);
    header.fragments = (uint16_t)draw(model, 65536);
    header.fragment = (uint16_t)draw(model, 65536);
    put(&model->bridge, &header, NULL);
    break;
  default: /* an id that nobody ever gives out: of another place, or far from all others */
    id ^= (uint64_t)1 << (draw(model, 2) ? draw(model, 12) : 36 + draw(model, 8));
    put_final(&model->bridge, id, 0, 4);
    break;
  }
}

static void model_upheaval(struct model *model)
{
  switch (draw(model, 4)) {
  case 0: /* the bridge dies, and goes on in its file or in a new one */
    bridge_stop(&model->bridge);
    bus_llm_client_maintain(model->client);
    model_poll(model);
    bridge_start(&model->bridge, draw(model, 2) ? BUS_TAKEOVER_ALWAYS : BUS_TAKEOVER_NEVER);
    break;
  case 1: /* the client; what it had asked ends with it */
    model_poll(model);
    bus_llm_client_delete(model->client);
    if (draw(model, 2))
      cr_assert_eq(bus_member_delete(fixture_directory, "ask"), BUS_OK);
    model->client = client_start();
    model->life_begin = model->count;
    break;
  default:
    break;
  }
  for (uint32_t i = draw(model, 4); i > 0; i--) {
    bus_llm_client_maintain(model->client);
    bridge_maintain(&model->bridge);
  }
}

static void model_run(uint64_t seed)
{
  static struct model model;
  memset(&model, 0, sizeof model);
  model.random = seed;
  model.now_ns = 1000;
  model.client = client_start();
  bridge_start(&model.bridge, BUS_TAKEOVER_NEVER);
  for (uint32_t step = 0; step < 6000; step++) {
    model.now_ns += draw(&model, 100);
    switch (draw(&model, 8)) {
    case 0:
    case 1:
      model_ask(&model);
      break;
    case 2:
      model_take(&model);
      break;
    case 3:
    case 4:
      model_answer(&model);
      break;
    case 5:
      if (model.count)
        bus_llm_client_cancel(model.client, model.asked[draw(&model, model.count)].id);
      break;
    case 6:
      if (draw(&model, 8) == 0)
        model_upheaval(&model);
      bus_llm_client_maintain(model.client);
      bridge_maintain(&model.bridge);
      break;
    default:
      model_poll(&model);
      break;
    }
  }
  model.now_ns += 100000;
  model_poll(&model);
  cr_assert_eq(bus_llm_client_outstanding(model.client), 0);
  for (uint32_t i = model.life_begin; i < model.count; i++)
    cr_assert_eq(model.asked[i].finals, 1, "seed %llu: request %u", (unsigned long long)seed, i);
  cr_assert_gt(model.answers, 50);
  cr_assert_gt(model.timeouts, 20);
  bus_llm_client_delete(model.client);
  bridge_stop(&model.bridge);
  cr_assert_eq(bus_member_delete(fixture_directory, "ask"), BUS_OK);
}

Test(llm_client, ends_every_request_once_whatever_the_bridge_does)
{
  for (uint64_t seed = 1; seed <= 40; seed++)
    model_run(seed);
}
