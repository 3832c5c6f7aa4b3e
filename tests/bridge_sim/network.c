/* network.c: the transport that the bridge is given, and the way to the servers and back. */
#include "tests/bridge_sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define INDEX_BITS 6u
BUS_STATIC_ASSERT(SIM_CONNECTIONS_MAX == 1u << INDEX_BITS, "a handle is an index and a generation");

static struct sim_world *world_of(struct bus_transport *transport)
{
  return ((struct sim_transport *)(void *)transport)->world;
}

static uint32_t handle_of(const struct sim_world *world, const struct sim_connection *connection)
{
  return (connection->generation << INDEX_BITS) | (uint32_t)(connection - world->connections);
}

/* NULL when it is closed, whoever has its place now. */
static struct sim_connection *find(struct sim_world *world, uint32_t handle)
{
  struct sim_connection *connection = &world->connections[handle & (SIM_CONNECTIONS_MAX - 1)];
  return connection->state != SIM_CONNECTION_FREE && connection->generation == handle >> INDEX_BITS
             ? connection
             : NULL;
}

static struct sim_event *to_bridge(struct sim_world *world, struct sim_connection *connection,
                                   uint64_t at_ns, uint32_t type)
{
  if (at_ns < connection->last_ns)
    at_ns = connection->last_ns;
  connection->last_ns = at_ns;
  struct sim_event *event =
      sim_world_schedule(world, &world->network, at_ns, SIM_EVENT_TRANSPORT, 0);
  event->connection = handle_of(world, connection);
  event->transport_type = type;
  return event;
}

void sim_network_deliver(struct sim_world *world, struct sim_connection *connection, uint64_t at_ns,
                         const char *data, size_t size)
{
  struct sim_event *event = to_bridge(world, connection, at_ns, BUS_TRANSPORT_DATA);
  event->data = data;
  event->size = size;
}

/* The stream ends at `at_ns` as the server sees it: in order, or by `error`. */
void sim_network_end(struct sim_world *world, struct sim_connection *connection, uint64_t at_ns,
                     int error)
{
  struct sim_event *event =
      to_bridge(world, connection, at_ns, error ? BUS_TRANSPORT_FAILED : BUS_TRANSPORT_CLOSED);
  event->error = error;
  connection->dead = true;
}

static void connect_outcome(struct sim_world *world, struct sim_connection *connection,
                            const struct bus_transport_peer *peer)
{
  struct sim_server *server = &world->servers[connection->backend];
  uint64_t at_ns = world->now_ns + 2 * server->latency_ns;
  bool fault = sim_random_chance(&world->random, server->connect_percent);
  bool refused = server->down || (fault && sim_random_chance(&world->random, 60));
  if (refused && !sim_random_chance(&world->random, 20)) {
    world->coverage.faults[SIM_FAULT_REFUSED]++;
    to_bridge(world, connection, at_ns, BUS_TRANSPORT_FAILED)->error = ECONNREFUSED;
    return;
  }
  if (refused || fault) {
    world->coverage.faults[SIM_FAULT_NO_CONNECT]++;
    to_bridge(world, connection, world->now_ns + peer->connect_timeout_ns, BUS_TRANSPORT_FAILED)
        ->error = ETIMEDOUT;
    return;
  }
  connection->stuck = server->stuck_until_ns > world->now_ns;
  to_bridge(world, connection, at_ns, BUS_TRANSPORT_CONNECTED);
}

static int transport_open(struct bus_transport *transport, const struct bus_transport_peer *peer)
{
  struct sim_world *world = world_of(transport);
  if (world->doomed)
    return bus_error_set(BUS_ERROR_IO, "this bridge is dead");
  uint32_t backend = SIM_NONE, open = 0, index = SIM_CONNECTIONS_MAX;
  for (uint32_t i = 0; i < world->config.backend_count; i++)
    if (peer == &world->config.backends[i].peer)
      backend = i;
  if (backend == SIM_NONE) {
    sim_fail(world, "peer", "a connection to nobody that is configured");
    return bus_error_set(BUS_ERROR_IO, "no such peer");
  }
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
    if (world->connections[i].state == SIM_CONNECTION_FREE)
      index = index == SIM_CONNECTIONS_MAX ? i : index;
    else
      open += world->connections[i].backend == backend;
  }
  /* One more than its requests: the canary's. */
  if (open > world->config.backends[backend].concurrency || index == SIM_CONNECTIONS_MAX) {
    sim_fail(world, "connection-limit",
             "%u connections to server %u are open and it takes %u requests", open + 1, backend,
             world->config.backends[backend].concurrency);
    return bus_error_set(BUS_ERROR_NO_SPACE, "too many connections");
  }
  struct sim_connection *connection = &world->connections[index];
  struct bus_byte_buffer out = connection->out;
  uint32_t generation = (connection->generation + 1) & 0xffffff;
  memset(connection, 0, sizeof *connection);
  connection->out = out;
  bus_byte_buffer_clear(&connection->out);
  connection->generation = generation;
  connection->state = SIM_CONNECTION_CONNECTING;
  connection->backend = backend;
  connection->attempt = SIM_NONE;
  connection->opened_ns = world->now_ns;
  connection->cut_ns = UINT64_MAX;
  connect_outcome(world, connection, peer);
  sim_log(world, "bridge opens #%u to server %u", handle_of(world, connection), backend);
  return (int)handle_of(world, connection);
}

static int transport_send(struct bus_transport *transport, uint32_t handle, const void *bytes,
                          size_t size)
{
  struct sim_world *world = world_of(transport);
  if (world->doomed)
    return BUS_OK;
  struct sim_connection *connection = find(world, handle);
  if (!connection || connection->state == SIM_CONNECTION_CONNECTING) {
    sim_fail(world, "send-state", "bytes are sent to connection #%u, which is not connected",
             handle);
    return BUS_ERROR_NO_SPACE;
  }
  if (connection->attempt != SIM_NONE) {
    sim_fail(world, "pipelined", "a second request on connection #%u before the first is answered",
             handle);
    return BUS_ERROR_NO_SPACE;
  }
  if (bus_byte_buffer_append(&connection->out, bytes, size, (size_t)1 << 20))
    return BUS_ERROR_NO_SPACE;
  uint32_t attempt = sim_server_recognise(world, connection);
  if (attempt == SIM_NONE)
    return BUS_OK;
  connection->attempt = attempt;
  connection->requests++;
  sim_watch_send(world, connection, attempt);
  struct sim_event *event = sim_world_schedule(
      world, &world->agenda, world->now_ns + world->servers[connection->backend].latency_ns,
      SIM_EVENT_ARRIVAL, attempt);
  event->connection = handle;
  return BUS_OK;
}

/* The bridge's view: nobody waits for this answer any more. */
static void leave_attempt(struct sim_world *world, struct sim_connection *connection)
{
  if (connection->attempt == SIM_NONE)
    return;
  struct sim_attempt *attempt = &world->attempts[connection->attempt];
  attempt->ended = true;
  if (attempt->request != SIM_NONE)
    world->requests[attempt->request].in_flight--;
  connection->attempt = SIM_NONE;
}

static void transport_close(struct bus_transport *transport, uint32_t handle)
{
  struct sim_world *world = world_of(transport);
  if (world->doomed)
    return;
  struct sim_connection *connection = find(world, handle);
  if (!connection) {
    sim_fail(world, "close-twice", "connection #%u is closed and is not open", handle);
    return;
  }
  sim_log(world, "bridge closes #%u", handle);
  leave_attempt(world, connection);
  connection->state = SIM_CONNECTION_FREE;
}

/* Server's view of a failed connect, for the check of the breaker. */
static void note_connect_failure(struct sim_world *world, struct sim_connection *connection)
{
  struct sim_server *server = &world->servers[connection->backend];
  const struct bus_bridge_backend_config *backend = &world->config.backends[connection->backend];
  server->connect_failures++;
  if (server->connect_failures < backend->failures_to_open)
    return;
  server->must_rest_since_ns = world->now_ns;
  server->must_rest_until_ns = world->now_ns + backend->open_ns - backend->open_ns / 4;
}

static void note_data(struct sim_world *world, struct sim_connection *connection, size_t size)
{
  struct sim_server *server = &world->servers[connection->backend];
  server->connect_failures = 0;
  server->must_rest_until_ns = 0;
  if (connection->attempt == SIM_NONE)
    return;
  struct sim_attempt *attempt = &world->attempts[connection->attempt];
  attempt->delivered += (uint32_t)size;
  if (attempt->request != SIM_NONE && world->requests[attempt->request].first_answer_ns == 0)
    world->requests[attempt->request].first_answer_ns = world->now_ns;
  if (attempt->delivered == attempt->response_bytes && attempt->whole)
    leave_attempt(world, connection);
}

/* Gives `from` out as `event`; false when nobody may see it. */
static bool give_out(struct sim_world *world, const struct sim_event *from,
                     struct bus_transport_event *event)
{
  struct sim_connection *connection = find(world, from->connection);
  if (!connection || connection->state == SIM_CONNECTION_ENDED || from->at_ns > connection->cut_ns)
    return false;
  memset(event, 0, sizeof *event);
  event->type = from->transport_type;
  event->connection = from->connection;
  event->error = from->error;
  event->data = from->data;
  event->size = from->size;
  sim_trace(world, from->transport_type * 7919 + from->size);
  sim_log(world, "network: #%u %s %zu bytes, error %d", from->connection,
          from->transport_type == BUS_TRANSPORT_DATA        ? "DATA"
          : from->transport_type == BUS_TRANSPORT_CONNECTED ? "CONNECTED"
          : from->transport_type == BUS_TRANSPORT_CLOSED    ? "CLOSED"
                                                            : "FAILED",
          from->size, from->error);
  switch (from->transport_type) {
  case BUS_TRANSPORT_CONNECTED:
    connection->state = SIM_CONNECTION_CONNECTED;
    break;
  case BUS_TRANSPORT_DATA:
    note_data(world, connection, from->size);
    break;
  default:
    if (connection->state == SIM_CONNECTION_CONNECTING)
      note_connect_failure(world, connection);
    leave_attempt(world, connection);
    connection->state = SIM_CONNECTION_ENDED;
  }
  return true;
}

static int transport_poll(struct bus_transport *transport, struct bus_transport_event *events,
                          uint32_t count, uint64_t wait_ns)
{
  (void)wait_ns; /* time goes on between steps only */
  struct sim_world *world = world_of(transport);
  if (world->doomed)
    return 0;
  uint32_t given = 0;
  struct sim_event event;
  while (given < count && sim_agenda_take(&world->network, world->now_ns, &event))
    given += give_out(world, &event, &events[given]);
  return (int)given;
}

static void transport_destroy(struct bus_transport *transport)
{
  (void)transport; /* a part of the world */
}

static const struct bus_transport_operations operations = {.name = "simulation",
                                                           .open = transport_open,
                                                           .send = transport_send,
                                                           .close = transport_close,
                                                           .poll = transport_poll,
                                                           .destroy = transport_destroy};

/* All connections are gone, as those of a killed process. */
void sim_network_reset(struct sim_world *world)
{
  world->transport.base.operations = &operations;
  world->transport.world = world;
  world->network.count = 0;
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
    struct sim_connection *connection = &world->connections[i];
    if (connection->state != SIM_CONNECTION_FREE && world->attempt_count)
      leave_attempt(world, connection);
    connection->state = SIM_CONNECTION_FREE;
    if (world->attempt_count == 0)
      connection->generation = 0;
  }
  for (uint32_t i = 0; i < SIM_BACKENDS_MAX; i++) {
    world->servers[i].connect_failures = 0;
    world->servers[i].must_rest_until_ns = 0;
  }
}

uint32_t sim_network_open_count(const struct sim_world *world)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++)
    count += world->connections[i].state != SIM_CONNECTION_FREE;
  return count;
}

/* The bytes of request `event->index` are at the server. */
void sim_network_arrival(struct sim_world *world, const struct sim_event *event)
{
  struct sim_connection *connection = find(world, event->connection);
  if (!connection || connection->attempt != event->index)
    return; /* the bridge has given it up */
  const struct sim_server *server = &world->servers[connection->backend];
  if (connection->dead) {
    world->coverage.faults[SIM_FAULT_IDLE_CLOSE]++;
    sim_network_end(world, connection, world->now_ns + server->latency_ns, ECONNRESET);
    return;
  }
  if (connection->stuck) {
    world->coverage.faults[SIM_FAULT_STUCK]++;
    return;
  }
  sim_server_answer(world, connection, event->index);
}

void sim_network_server_closes(struct sim_world *world, const struct sim_event *event)
{
  struct sim_connection *connection = find(world, event->connection);
  if (connection && !connection->dead && connection->attempt == SIM_NONE &&
      connection->requests == event->uses)
    sim_network_end(world, connection,
                    world->now_ns + world->servers[connection->backend].latency_ns, 0);
}

/* The server's process is gone: every connection is reset, some only now that something comes. */
void sim_network_server_down(struct sim_world *world, uint32_t backend)
{
  struct sim_server *server = &world->servers[backend];
  if (world->healed)
    return;
  bool stuck = sim_random_chance(&world->random, 25);
  if (stuck) {
    server->stuck_until_ns = world->now_ns + sim_random_between(&world->random, 10, 500) * SIM_MS;
    sim_log(world, "server %u accepts and reads nothing", backend);
    return;
  }
  server->down = true;
  sim_log(world, "server %u dies", backend);
  world->coverage.faults[SIM_FAULT_DEATH]++;
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
    struct sim_connection *connection = &world->connections[i];
    if (connection->state != SIM_CONNECTION_CONNECTED || connection->backend != backend ||
        connection->dead)
      continue;
    connection->last_ns = world->now_ns; /* what is later is not sent any more */
    connection->dead = true;
    struct sim_event *event =
        to_bridge(world, connection, world->now_ns + server->latency_ns, BUS_TRANSPORT_FAILED);
    event->error = ECONNRESET;
    connection->cut_ns = event->at_ns;
  }
}
