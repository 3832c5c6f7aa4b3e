/* A bridge's core between two clients with heap rings and three servers that do what the test says,
 * byte by byte, on a clock that the test moves. */
#ifndef SIGNALBUS_BRIDGE_CORE_FIXTURE_H
#define SIGNALBUS_BRIDGE_CORE_FIXTURE_H

#include "consumers/bridge_core.h"

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MS              ((uint64_t)1000000)
#define S               ((uint64_t)1000000000)
#define RECORD_BYTES    512u
#define SLOT_TEXT       (RECORD_BYTES - BUS_LLM_HEADER_BYTES - 8u)
#define DEPTH           64u
#define RING_BYTES      (BUS_RING_HEADER_BYTES + DEPTH * RECORD_BYTES)
#define TABLE_COUNT     8u
#define ENTRY_BYTES     1280u
#define BRIDGE_INSTANCE 5u
#define CONNECTIONS_MAX 256u
#define EVENTS_MAX      256u
#define TEXT_MAX        4096u

/* ---- the servers' side ---- */

struct fake_connection {
  const struct bus_transport_peer *peer;
  bool closed; /* by the bridge */
  char received[8192];
  size_t received_bytes;
  uint32_t requests;
};

struct fake_transport {
  struct bus_transport base;
  struct fake_connection connections[CONNECTIONS_MAX];
  uint32_t count;
  int open_error; /* what open refuses with */
  int send_error;
  struct bus_transport_event events[EVENTS_MAX];
  char *data[EVENTS_MAX]; /* of the events, and those that were given out */
  uint32_t event_count;
  char *given[EVENTS_MAX];
  uint32_t given_count;
  uint64_t waited_ns;
};

static int fake_open(struct bus_transport *transport, const struct bus_transport_peer *peer)
{
  struct fake_transport *fake = (struct fake_transport *)transport;
  if (fake->open_error)
    return bus_error_set(fake->open_error, "the test refuses");
  cr_assert_lt(fake->count, CONNECTIONS_MAX);
  fake->connections[fake->count].peer = peer;
  return (int)fake->count++;
}

static int fake_send(struct bus_transport *transport, uint32_t handle, const void *bytes,
                     size_t size)
{
  struct fake_transport *fake = (struct fake_transport *)transport;
  struct fake_connection *connection = &fake->connections[handle];
  cr_assert(!connection->closed);
  if (fake->send_error)
    return fake->send_error;
  cr_assert_leq(size, sizeof connection->received);
  memcpy(connection->received, bytes, size);
  connection->received_bytes = size;
  connection->requests++;
  return BUS_OK;
}

static void fake_close(struct bus_transport *transport, uint32_t handle)
{
  struct fake_transport *fake = (struct fake_transport *)transport;
  cr_assert(!fake->connections[handle].closed, "connection %u is closed twice", handle);
  fake->connections[handle].closed = true;
}

static int fake_poll(struct bus_transport *transport, struct bus_transport_event *events,
                     uint32_t count, uint64_t wait_ns)
{
  struct fake_transport *fake = (struct fake_transport *)transport;
  fake->waited_ns = wait_ns;
  for (uint32_t i = 0; i < fake->given_count; i++)
    free(fake->given[i]);
  const uint32_t taken = fake->event_count;
  cr_assert_leq(taken, count);
  memcpy(events, fake->events, taken * sizeof *events);
  memcpy(fake->given, fake->data, taken * sizeof fake->data[0]);
  fake->given_count = taken;
  fake->event_count = 0;
  return (int)taken;
}

static const struct bus_transport_operations fake_operations = {
    .name = "fake", .open = fake_open, .send = fake_send, .close = fake_close, .poll = fake_poll};

/* ---- the world ---- */

struct fake_client {
  char *requests_memory, *replies_memory;
  struct bus_position bridge_position, client_position;
  struct bus_producer submit;
  struct bus_consumer read;
  struct bus_consumer requests; /* the bridge's */
  struct bus_producer replies;
  uint64_t instance;
};

struct world {
  struct bus_bridge_config config;
  struct fake_transport transport;
  struct bus_bridge_meters meters;
  uint64_t finals[BUS_LLM_STATUS_COUNT];
  uint64_t partials_lost, retries, hedges, cancels_late, recovered, orphaned, invalid, in_flight;
  uint64_t sent[3], succeeded[3], failed[3], timed_out[3], abandoned[3], opened[3];
  uint64_t waiting[2], rejected[2];
  struct bus_histogram in_ns, out_ns;
  struct fake_client clients[2];
  struct bus_bridge_port ports[2];
  char *table;
  struct bus_bridge_core *core;
  uint64_t now;
  uint64_t clock; /* 0: the core gets none */
  uint64_t next_id;
  uint32_t epoch;
  void (*transition)(void *context);
};

/* What a client reads. */
struct answer {
  struct bus_llm_reply reply; /* of the first fragment */
  char text[TEXT_MAX + 1];
};

static const struct bus_entry ring_entry = {.type = BUS_OBJECT_RING,
                                            .record_size = RECORD_BYTES,
                                            .depth = DEPTH,
                                            .policy = BUS_POLICY_WAIT};

static void attach(struct world *world, uint32_t c)
{
  struct fake_client *client = &world->clients[c];
  bus_consumer_init(&client->requests, client->requests_memory, &ring_entry, client->instance,
                    &client->bridge_position, 0);
  world->ports[c].requests = &client->requests;
  world->ports[c].instance = client->instance;
  bus_producer_connect(&client->replies, &client->client_position, client->instance);
  bus_bridge_core_attached(world->core, c);
}

/* The client starts (again) with a new file. */
static void new_client(struct world *world, uint32_t c)
{
  struct fake_client *client = &world->clients[c];
  client->instance += 2;
  memset(client->requests_memory, 0, RING_BYTES);
  bus_ring_format(client->requests_memory, &ring_entry, 0);
  bus_producer_init(&client->submit, client->requests_memory, &ring_entry, client->instance);
  bus_producer_connect(&client->submit, &client->bridge_position, BRIDGE_INSTANCE);
  bus_consumer_init(&client->read, client->replies_memory, &ring_entry, BRIDGE_INSTANCE,
                    &client->client_position, 0);
}

static uint64_t read_clock(void *context)
{
  return ((struct world *)context)->clock;
}

/* The bridge starts, on whatever the table and the rings hold. */
static void start_bridge(struct world *world)
{
  world->epoch++;
  for (uint32_t c = 0; c < 2; c++) {
    struct fake_client *client = &world->clients[c];
    struct bus_bridge_port *port = &world->ports[c];
    bus_producer_init(&client->replies, client->replies_memory, &ring_entry, BRIDGE_INSTANCE);
    *port =
        (struct bus_bridge_port){.position = &client->bridge_position, .replies = &client->replies};
    strcpy(port->client, world->config.clients[c]);
  }
  const struct bus_bridge_core_options options = {
      .config = &world->config,
      .table = {.memory = world->table, .count = TABLE_COUNT, .entry_bytes = ENTRY_BYTES},
      .ports = world->ports,
      .transport = &world->transport.base,
      .meters = &world->meters,
      .random_seed = 7,
      .epoch = world->epoch,
      .clock = world->clock ? read_clock : NULL,
      .clock_context = world,
      .transition = world->transition,
      .transition_context = world,
  };
  cr_assert_eq(bus_bridge_core_new(&options, world->now, &world->core), BUS_OK, "%s",
               bus_error_message());
  for (uint32_t c = 0; c < 2; c++)
    attach(world, c);
}

static void configure(struct world *world)
{
  struct bus_bridge_config *config = &world->config;
  config->backend_count = 3;
  for (uint32_t b = 0; b < 3; b++) {
    struct bus_bridge_backend_config *backend = &config->backends[b];
    snprintf(backend->name, sizeof backend->name, "server%u", b);
    strcpy(backend->host, "localhost");
    strcpy(backend->path, "/v1");
    backend->concurrency = 2;
    backend->peer.connect_timeout_ns = S;
    backend->first_token_timeout_ns = 5 * S;
    backend->token_timeout_ns = 2 * S;
    backend->total_timeout_ns = 60 * S;
    backend->idle_ns = 30 * S;
    backend->failures_to_open = 3;
    backend->open_ns = 10 * S;
    backend->open_ns_max = 40 * S;
  }
  config->class_count = 2;
  strcpy(config->classes[0].name, "one"); /* server 0 alone */
  config->classes[0].backend_count = 1;
  strcpy(config->classes[1].name, "two"); /* servers 1 and 2 */
  config->classes[1].backend_count = 2;
  config->classes[1].backends[0].backend = 1;
  config->classes[1].backends[1].backend = 2;
  for (uint32_t c = 0; c < 2; c++) {
    config->classes[c].queue_max = 4;
    config->classes[c].tokens_max = 100;
    config->classes[c].retries_max = 1;
    for (uint32_t i = 0; i < 2; i++)
      config->classes[c].backends[i].weight = 1;
  }
  config->client_count = 2;
  strcpy(config->clients[0], "alice");
  strcpy(config->clients[1], "bob");
  config->requests_max = TABLE_COUNT;
  config->request_bytes_max = ENTRY_BYTES - BUS_BRIDGE_ENTRY_HEADER_BYTES;
  config->answer_bytes_max = 2000;
  config->record_bytes = RECORD_BYTES;
  config->reply_depth = DEPTH;
}

static void point_meters(struct world *world)
{
  struct bus_bridge_meters *meters = &world->meters;
  for (uint32_t i = 0; i < BUS_LLM_STATUS_COUNT; i++)
    meters->finals[i] = &world->finals[i];
  meters->partials_lost = &world->partials_lost;
  meters->retries = &world->retries;
  meters->hedges = &world->hedges;
  meters->cancels_late = &world->cancels_late;
  meters->recovered = &world->recovered;
  meters->orphaned = &world->orphaned;
  meters->requests_invalid = &world->invalid;
  meters->in_flight = &world->in_flight;
  meters->in_ns = &world->in_ns;
  meters->out_ns = &world->out_ns;
  for (uint32_t b = 0; b < 3; b++) {
    meters->backends[b].sent = &world->sent[b];
    meters->backends[b].succeeded = &world->succeeded[b];
    meters->backends[b].failed = &world->failed[b];
    meters->backends[b].timed_out = &world->timed_out[b];
    meters->backends[b].abandoned = &world->abandoned[b];
    meters->backends[b].opened = &world->opened[b];
  }
  for (uint32_t c = 0; c < 2; c++) {
    meters->classes[c].waiting = &world->waiting[c];
    meters->classes[c].rejected = &world->rejected[c];
  }
}

/* A world without a bridge: change world->config, then start_bridge. */
static struct world *make_world(void)
{
  struct world *world = calloc(1, sizeof *world);
  world->transport.base.operations = &fake_operations;
  world->now = 1000 * S;
  world->table = calloc(TABLE_COUNT, ENTRY_BYTES);
  configure(world);
  point_meters(world);
  for (uint32_t c = 0; c < 2; c++) {
    struct fake_client *client = &world->clients[c];
    client->requests_memory = aligned_alloc(128, RING_BYTES);
    client->replies_memory = aligned_alloc(128, RING_BYTES);
    memset(client->replies_memory, 0, RING_BYTES);
    bus_ring_format(client->replies_memory, &ring_entry, 0);
    client->instance = 100 + c;
    new_client(world, c);
  }
  return world;
}

static void free_world(struct world *world)
{
  bus_bridge_core_delete(world->core);
  for (uint32_t i = 0; i < world->transport.given_count; i++)
    free(world->transport.given[i]);
  for (uint32_t i = 0; i < world->transport.event_count; i++)
    free(world->transport.data[i]);
  for (uint32_t i = 0; i < world->transport.count; i++)
    cr_expect(world->transport.connections[i].closed, "connection %u is left open", i);
  for (uint32_t c = 0; c < 2; c++) {
    free(world->clients[c].requests_memory);
    free(world->clients[c].replies_memory);
  }
  free(world->table);
  free(world);
}

/* Steps until nothing is done any more. */
static void settle(struct world *world)
{
  int done;
  uint32_t steps = 0;
  do {
    done = bus_bridge_core_step(world->core, world->now, 0);
    cr_assert_geq(done, 0);
    cr_assert_lt(++steps, 1000, "never comes to rest");
  } while (done > 0);
}

static void pass(struct world *world, uint64_t ns)
{
  world->now += ns;
  settle(world);
}

/* ---- what clients do ---- */

static struct bus_llm_request question(struct world *world, const char *class_name, uint32_t flags)
{
  struct bus_llm_request request = {.id = ++world->next_id,
                                    .deadline_ns = world->now + 30 * S,
                                    .submitted_ns = world->now,
                                    .fragments = 1,
                                    .reply_slots = 4,
                                    .kind = BUS_LLM_CHAT,
                                    .flags = (uint8_t)flags,
                                    .temperature = -1};
  strcpy(request.class_name, class_name);
  return request;
}

static void submit(struct world *world, uint32_t c, struct bus_llm_request request,
                   const char *text)
{
  const uint32_t bytes = (uint32_t)strlen(text);
  request.text_bytes = bytes;
  request.fragments = (uint16_t)bus_llm_slots(bytes, RECORD_BYTES);
  for (uint32_t i = 0; i < request.fragments; i++) {
    request.fragment = (uint16_t)i;
    request.text_offset = i * SLOT_TEXT;
    const uint32_t rest = bytes - request.text_offset;
    request.fragment_bytes = rest < SLOT_TEXT ? rest : SLOT_TEXT;
    char *slot = bus_producer_reserve(&world->clients[c].submit);
    cr_assert_not_null(slot);
    memcpy(slot, &request, sizeof request);
    memcpy(slot + sizeof request, text + request.text_offset, request.fragment_bytes);
    bus_producer_commit(&world->clients[c].submit);
  }
}

/* Asks as the first client, lets the bridge come to rest; returns the id. */
static uint64_t ask(struct world *world, const char *class_name, uint32_t flags)
{
  const struct bus_llm_request request = question(world, class_name, flags);
  submit(world, 0, request, "hello");
  settle(world);
  return request.id;
}

static void cancel(struct world *world, uint32_t c, uint64_t id)
{
  struct bus_llm_request request = question(world, "", 0);
  request.id = id;
  request.kind = BUS_LLM_CANCEL;
  submit(world, c, request, "");
  settle(world);
}

/* The next reply of client `c`; false when there is none. */
static bool next_reply(struct world *world, uint32_t c, struct answer *answer)
{
  struct bus_consumer *read = &world->clients[c].read;
  uint32_t bytes = 0;
  for (uint32_t i = 0;; i++) {
    const char *slot = bus_consumer_poll(read);
    if (!slot) {
      cr_assert_eq(i, 0, "a reply without its end");
      return false;
    }
    struct bus_llm_reply reply;
    memcpy(&reply, slot, sizeof reply);
    if (i == 0)
      answer->reply = reply;
    cr_assert_eq(reply.fragment, i);
    cr_assert_leq(bytes + reply.fragment_bytes, TEXT_MAX);
    memcpy(answer->text + bytes, slot + sizeof reply, reply.fragment_bytes);
    bytes += reply.fragment_bytes;
    bus_consumer_release_batch(read, 1);
    if (i + 1 == reply.fragments)
      break;
  }
  answer->text[bytes] = 0;
  return true;
}

/* The final reply of `id` to the first client, which must be the next, with this status and text
 * (NULL: any). */
static struct bus_llm_reply expect_final(struct world *world, uint64_t id, uint32_t status,
                                         const char *text)
{
  struct answer answer;
  cr_assert(next_reply(world, 0, &answer), "no reply");
  cr_assert_eq(answer.reply.kind, BUS_LLM_FINAL);
  cr_assert_eq(answer.reply.id, id);
  cr_assert_eq(answer.reply.status, status, "status %u, not %u: %s", answer.reply.status, status,
               answer.text);
  if (text)
    cr_assert_str_eq(answer.text, text);
  return answer.reply;
}

static void expect_silence(struct world *world)
{
  struct answer answer;
  cr_assert(!next_reply(world, 0, &answer), "reply of kind %u, status %u", answer.reply.kind,
            answer.reply.status);
}

/* ---- what servers do ---- */

static void push_event(struct world *world, uint32_t type, uint32_t handle, int error,
                       const char *data)
{
  struct fake_transport *fake = &world->transport;
  cr_assert_lt(fake->event_count, EVENTS_MAX);
  char *copy = data ? strdup(data) : NULL;
  fake->data[fake->event_count] = copy;
  fake->events[fake->event_count++] = (struct bus_transport_event){.type = type,
                                                                   .connection = handle,
                                                                   .error = error,
                                                                   .data = copy,
                                                                   .size = data ? strlen(data) : 0};
}

static void data(struct world *world, uint32_t handle, const char *bytes)
{
  push_event(world, BUS_TRANSPORT_DATA, handle, 0, bytes);
}

/* The newest connection, which must be to server `b` and open. */
static uint32_t newest(struct world *world, uint32_t b)
{
  cr_assert_gt(world->transport.count, 0);
  const uint32_t handle = world->transport.count - 1;
  cr_assert_eq(world->transport.connections[handle].peer, &world->config.backends[b].peer,
               "the newest connection is to another server");
  cr_assert(!world->transport.connections[handle].closed);
  return handle;
}

/* As newest, connected and asked. */
static uint32_t accept_newest(struct world *world, uint32_t b)
{
  const uint32_t handle = newest(world, b);
  push_event(world, BUS_TRANSPORT_CONNECTED, handle, 0, NULL);
  settle(world);
  cr_assert_eq(world->transport.connections[handle].requests, 1);
  return handle;
}

static void piece(struct world *world, uint32_t handle, const char *format, ...)
{
  char event[2048], chunk[2100];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(event, sizeof event, format, arguments);
  va_end(arguments);
  snprintf(chunk, sizeof chunk, "%zx\r\n%s\r\n", strlen(event), event);
  data(world, handle, chunk);
}

static void head(struct world *world, uint32_t handle)
{
  data(world, handle,
       "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
}

static void token(struct world *world, uint32_t handle, const char *text)
{
  piece(world, handle, "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s\"}}]}\n\n",
        text);
}

static void finish(struct world *world, uint32_t handle)
{
  piece(world, handle,
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n"
        "data: [DONE]\n\n");
  data(world, handle, "0\r\n\r\n");
}

/* A whole answer of one token. */
static void answer(struct world *world, uint32_t handle, const char *text)
{
  head(world, handle);
  token(world, handle, text);
  finish(world, handle);
  settle(world);
}

static void status(struct world *world, uint32_t handle, const char *line, const char *headers)
{
  char bytes[512];
  const char *body = "{\"error\":{\"message\":\"the server said so\"}}";
  snprintf(bytes, sizeof bytes, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\n\r\n%s", line, headers,
           strlen(body), body);
  data(world, handle, bytes);
  settle(world);
}

static void broken(struct world *world, uint32_t handle, int error)
{
  push_event(world, BUS_TRANSPORT_FAILED, handle, error, NULL);
  settle(world);
}

static void closed(struct world *world, uint32_t handle)
{
  push_event(world, BUS_TRANSPORT_CLOSED, handle, 0, NULL);
  settle(world);
}

static bool is_closed(const struct world *world, uint32_t handle)
{
  return world->transport.connections[handle].closed;
}

#endif
