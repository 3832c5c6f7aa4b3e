/* watch.c: the invariants that the table, the servers and the counters show. */
#include "tests/bridge_sim/sim.h"

#include <string.h>

/* From when something is due to when it must be done, the bridge being awake: steps are late by
 * 2 ms at most, and a few of them may be needed. */
#define GRACE_NS (10 * SIM_MS)

static uint32_t client_of(const struct sim_world *world, const struct bus_bridge_entry *entry)
{
  for (uint32_t i = 0; i < world->config.client_count; i++)
    if (strcmp(entry->client, world->config.clients[i]) == 0)
      return i;
  return SIM_NONE;
}

/* Steps that the life of an entry may take; a successor may take others while it starts. */
static bool is_legal(uint32_t from, uint32_t to, bool starting)
{
  static const uint8_t legal[SIM_STATES] = {
      [BUS_BRIDGE_FREE] = 1 << BUS_BRIDGE_CLAIMED,
      [BUS_BRIDGE_CLAIMED] = 1 << BUS_BRIDGE_DISPATCHED | 1 << BUS_BRIDGE_DONE,
      [BUS_BRIDGE_DISPATCHED] = 1 << BUS_BRIDGE_DONE,
      [BUS_BRIDGE_DONE] =
          1 << BUS_BRIDGE_PUBLISHING | 1 << BUS_BRIDGE_DISPATCHED, /* after a restart */
      [BUS_BRIDGE_PUBLISHING] = 1 << BUS_BRIDGE_PUBLISHED,
      [BUS_BRIDGE_PUBLISHED] = 1 << BUS_BRIDGE_FREE};
  if (from >= SIM_STATES || to >= SIM_STATES)
    return false;
  return starting || (legal[from] >> to & 1) || to == BUS_BRIDGE_FREE;
}

static void note_claim(struct sim_world *world, uint32_t index,
                       const struct bus_bridge_entry *entry)
{
  uint32_t client = client_of(world, entry);
  struct sim_request *request =
      client == SIM_NONE ? NULL : sim_client_find(world, client, entry->request.id);
  world->owners[index] = SIM_NONE;
  world->claims++;
  if (!request) {
    if (world->hostile_messages == 0)
      sim_fail(world, "claim", "an entry for a request that nobody made");
    return;
  }
  world->owners[index] = (uint32_t)(request - world->requests);
  if (request->accepted)
    sim_fail(world, "claimed-twice", "request %u is claimed a second time", world->owners[index]);
  if (!request->written)
    sim_fail(world, "claim", "request %u is claimed before it is whole", world->owners[index]);
  if (entry->request.deadline_ns != request->deadline_ns ||
      entry->client_instance != request->instance)
    sim_fail(world, "claim", "request %u is not what was asked", world->owners[index]);
  request->accepted = true;
  request->accepted_ns = world->now_ns;
  world->coverage.accepted++;
  if (request->class_index < SIM_CLASSES_MAX)
    world->life_accepted[request->class_index]++;
}

/* The entry is FREE: its final reply is in the ring, or its client's file is gone. */
static void note_release(struct sim_world *world, uint32_t index)
{
  if (world->owners[index] == SIM_NONE)
    return;
  struct sim_request *request = &world->requests[world->owners[index]];
  world->owners[index] = SIM_NONE;
  sim_replies_read(world, request->client);
  if (request->finals)
    return;
  request->dropped = true;
  const struct sim_client *client = &world->clients[request->client];
  if (client->file && request->instance == client->instance)
    sim_fail(world, "lost", "request %u is forgotten without a final reply",
             (uint32_t)(request - world->requests));
}

void sim_watch_transition(struct sim_world *world)
{
  for (uint32_t i = 0; i < world->file.table.count; i++) {
    const struct bus_bridge_entry *entry = bus_bridge_table_at(&world->file.table, i);
    const uint32_t from = world->states[i], to = entry->state;
    if (to != BUS_BRIDGE_FREE && entry->cancelled && world->owners[i] != SIM_NONE) {
      struct sim_request *request = &world->requests[world->owners[i]];
      if (!request->marked_cancelled && request->cancelled_ns == 0)
        sim_fail(world, "cancel", "request %u is cancelled by nobody", world->owners[i]);
      if (!request->marked_cancelled)
        request->marked_cancelled_ns = world->now_ns;
      request->marked_cancelled = true;
    }
    if (from == to)
      continue;
    world->states[i] = to;
    sim_trace(world, i * 64 + from * 8 + to);
    sim_log(world, "entry %u (request %d): %u -> %u", i, (int)world->owners[i], from, to);
    if (!is_legal(from, to, world->starting))
      sim_fail(world, "transition", "entry %u goes from state %u to %u", i, from, to);
    else
      world->coverage.transitions[from][to]++;
    if (from == BUS_BRIDGE_FREE)
      note_claim(world, i, entry);
    if (to == BUS_BRIDGE_FREE)
      note_release(world, i);
  }
}

/* Before a core is made. */
void sim_watch_start(struct sim_world *world)
{
  world->recovered = 0;
  memset(world->life_accepted, 0, sizeof world->life_accepted);
  memset(world->life_hedges, 0, sizeof world->life_hedges);
  memset(world->breaker_since_ns, 0, sizeof world->breaker_since_ns);
  for (uint32_t i = 0; i < SIM_ENTRIES_MAX; i++) {
    if (world->epoch == 1) {
      world->states[i] = BUS_BRIDGE_FREE;
      world->owners[i] = SIM_NONE;
    }
    if (i >= world->file.table.count || world->states[i] == BUS_BRIDGE_FREE)
      continue;
    world->recovered++;
    if (world->owners[i] != SIM_NONE &&
        world->requests[world->owners[i]].class_index < SIM_CLASSES_MAX)
      world->life_accepted[world->requests[world->owners[i]].class_index]++;
  }
}

/* ---- what servers are asked ---- */

static bool may_serve(const struct sim_world *world, const struct sim_request *request,
                      uint32_t backend)
{
  const struct bus_bridge_class_config *class = &world->config.classes[request->class_index];
  for (uint32_t i = 0; i < class->backend_count; i++)
    if (class->backends[i].backend == backend)
      return true;
  return false;
}

static void watch_hedge(struct sim_world *world, struct sim_request *request, uint32_t index)
{
  const struct bus_bridge_class_config *class = &world->config.classes[request->class_index];
  uint32_t *hedges = &world->life_hedges[request->class_index];
  ++*hedges;
  world->coverage.hedged++;
  if (request->in_flight > 2)
    sim_fail(world, "attempts", "request %u is under way %u times", index, request->in_flight);
  else if (!(request->flags & BUS_LLM_IDEMPOTENT) || class->hedge_after_ns == 0)
    sim_fail(world, "hedge-forbidden", "request %u is asked at two servers", index);
  else if (world->now_ns < request->begun_ns + class->hedge_after_ns)
    sim_fail(world, "hedge-early", "request %u is hedged too early", index);
  else if ((uint64_t)*hedges * 100 >
           (uint64_t) class->hedge_percent * world->life_accepted[request->class_index])
    sim_fail(world, "hedge-budget", "%u hedges of %u requests, %u percent are allowed", *hedges,
             world->life_accepted[request->class_index], class->hedge_percent);
}

static void watch_server(struct sim_world *world, const struct sim_connection *connection,
                         const struct sim_request *request, uint32_t index)
{
  const uint32_t b = connection->backend;
  const struct bus_bridge_backend_config *backend = &world->config.backends[b];
  uint32_t under_way = 0, common = 0;
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
    const struct sim_connection *other = &world->connections[i];
    if (other->state == SIM_CONNECTION_FREE || other->backend != b || other->attempt == SIM_NONE)
      continue;
    const struct sim_attempt *attempt = &world->attempts[other->attempt];
    if (attempt->request == SIM_NONE)
      continue;
    under_way++;
    common += !(world->requests[attempt->request].flags & BUS_LLM_URGENT);
  }
  if (under_way > backend->concurrency)
    sim_fail(world, "concurrency", "server %u has %u requests, and takes %u", b, under_way,
             backend->concurrency);
  if (!(request->flags & BUS_LLM_URGENT) && common > backend->concurrency - backend->urgent_reserve)
    sim_fail(world, "urgent-reserve",
             "server %u has %u requests that are not urgent, %u - %u are allowed", b, common,
             backend->concurrency, backend->urgent_reserve);
  struct bus_bridge_backend_view view;
  bus_bridge_core_backend(world->core, b, &view);
  const uint64_t begun_ns = connection->requests > 1 ? world->now_ns : connection->opened_ns;
  if (view.breaker != 0 && world->breaker_since_ns[b] && begun_ns > world->breaker_since_ns[b])
    sim_fail(world, "breaker-open", "request %u is sent to server %u, whose breaker is open", index,
             b);
  const struct sim_server *server = &world->servers[b];
  if (begun_ns < server->must_rest_until_ns && begun_ns > server->must_rest_since_ns)
    sim_fail(world, "breaker-late", "request %u is sent to server %u after %u failed connects",
             index, b, server->connect_failures);
}

static const struct bus_bridge_entry *entry_of(const struct sim_world *world, uint32_t request)
{
  for (uint32_t i = 0; i < world->file.table.count; i++)
    if (world->owners[i] == request)
      return bus_bridge_table_at(&world->file.table, i);
  return NULL;
}

/* Earlier attempts, of epoch `epoch` on. 429 and 503 say that nothing was done: such an attempt
 * does not count as asked. */
static uint32_t asked_before(const struct sim_world *world, uint32_t request, uint32_t attempt,
                             uint32_t epoch)
{
  uint32_t count = 0;
  for (uint32_t i = 0; i < attempt; i++) {
    const struct sim_attempt *other = &world->attempts[i];
    const bool refused = other->status == 429 || other->status == 503;
    count +=
        other->request == request && other->epoch >= epoch && !(refused && other->delivered > 0);
  }
  return count;
}

void sim_watch_send(struct sim_world *world, struct sim_connection *connection, uint32_t attempt)
{
  const struct sim_attempt *sent = &world->attempts[attempt];
  sim_trace(world, attempt * 31 + connection->backend);
  sim_log(world, "bridge asks server %u by #%u: attempt %u, request %d", connection->backend,
          (connection->generation << 6) | (uint32_t)(connection - world->connections), attempt,
          (int)sent->request);
  world->coverage.attempts++;
  if (sent->request == SIM_NONE) {
    world->coverage.canaries += !sent->hostile;
    return;
  }
  const uint32_t index = sent->request;
  struct sim_request *request = &world->requests[index];
  request->in_flight++;
  request->sends++;
  const struct bus_bridge_entry *entry = entry_of(world, index);
  if (!entry || request->finals) {
    sim_fail(world, "sent-after-final", "request %u is sent and is over", index);
    return;
  }
  if (entry->state != BUS_BRIDGE_DISPATCHED || !entry->sent)
    sim_fail(world, "sent-unnoted", "request %u is sent, and a successor would not know", index);
  if (world->now_ns >= request->deadline_ns)
    sim_fail(world, "sent-late", "request %u is sent after its deadline", index);
  if (request->marked_cancelled)
    sim_fail(world, "sent-cancelled", "request %u is sent though it was taken back", index);
  if (!(request->flags & BUS_LLM_IDEMPOTENT) && asked_before(world, index, attempt, 1))
    sim_fail(world, "asked-twice", "request %u is sent again and is not idempotent", index);
  if (request->class_index == SIM_NONE || !may_serve(world, request, connection->backend)) {
    sim_fail(world, "wrong-server", "request %u goes to a server that its class has not", index);
    return;
  }
  watch_server(world, connection, request, index);
  if (request->in_flight > 1)
    watch_hedge(world, request, index);
  request->begun_ns = connection->requests > 1 ? world->now_ns : connection->opened_ns;
  const uint32_t retries = world->config.classes[request->class_index].retries_max;
  const uint32_t before = asked_before(world, index, attempt, world->epoch);
  if (before > 2 * (retries + 1)) /* each may be hedged, and one kept connection may have broken */
    sim_fail(world, "retries", "request %u is sent %u times, %u retries are allowed", index,
             before + 1, retries);
}

/* ---- after each step ---- */

static uint64_t free_slots(const struct sim_world *world, uint32_t client)
{
  const struct bus_producer *producer = &world->port_producers[client];
  return producer->limit - producer->next;
}

static void watch_reserve(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  uint64_t reserved = 0;
  for (uint32_t i = 0; i < world->file.table.count; i++) {
    const struct bus_bridge_entry *entry = bus_bridge_table_at(&world->file.table, i);
    if (entry->state != BUS_BRIDGE_FREE && client_of(world, entry) == index)
      reserved += entry->request.reply_slots;
  }
  if (reserved != world->ports[index].reserved_slots)
    sim_fail(world, "reserve-sum", "client %u: %llu slots are held, its requests have %llu", index,
             (unsigned long long)world->ports[index].reserved_slots, (unsigned long long)reserved);
  const uint64_t room = free_slots(world, index);
  if (room >= reserved)
    client->reserve_debt = false;
  else if (!client->reserve_debt)
    sim_fail(world, "reserve", "client %u: %llu slots are free, %llu are held for final replies",
             index, (unsigned long long)room, (unsigned long long)reserved);
}

/* A request whose end is due has it, or there is no room for it in the ring. */
static void watch_due(struct sim_world *world, uint32_t entry_index)
{
  if (world->owners[entry_index] == SIM_NONE)
    return;
  const struct sim_request *request = &world->requests[world->owners[entry_index]];
  uint64_t due_ns = request->deadline_ns;
  if (request->marked_cancelled && request->marked_cancelled_ns < due_ns)
    due_ns = request->marked_cancelled_ns;
  if (due_ns < world->started_ns)
    due_ns = world->started_ns;
  if (due_ns < request->accepted_ns)
    due_ns = request->accepted_ns;
  struct sim_client *client = &world->clients[request->client];
  if (client->reserve_debt)
    client->debt_ns = world->now_ns;
  if (due_ns < client->debt_ns)
    due_ns = client->debt_ns;
  if (world->now_ns > due_ns + GRACE_NS)
    sim_fail(world, "late-final", "request %u was due %llu us ago and has no final reply",
             world->owners[entry_index], (unsigned long long)((world->now_ns - due_ns) / SIM_US));
}

static void watch_upstream(struct sim_world *world)
{
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++) {
    const struct sim_connection *connection = &world->connections[i];
    if (connection->state == SIM_CONNECTION_FREE || connection->attempt == SIM_NONE)
      continue;
    const uint32_t request = world->attempts[connection->attempt].request;
    if (request != SIM_NONE &&
        (world->requests[request].finals || world->requests[request].dropped))
      sim_fail(world, "still-asked", "request %u is over, and server %u still works on it", request,
               connection->backend);
  }
}

/* Claimed = finals + in flight + orphaned. A final is counted when it is decided, so a kill may
 * leave one counted twice for each request under way. */
static void watch_meters(struct sim_world *world)
{
  const uint64_t *counters = world->file.counters;
  uint64_t admitted = 0;
  uint64_t ended = counters[SIM_COUNTER_ORPHANED];
  for (uint32_t i = 0; i < SIM_CLASSES_MAX; i++)
    admitted += counters[SIM_COUNTER_ACCEPTED + i] + counters[SIM_COUNTER_REJECTED + i];
  for (uint32_t i = 0; i < BUS_LLM_STATUS_COUNT; i++)
    ended += counters[SIM_COUNTER_FINALS + i];
  uint64_t in_flight = 0, decided = 0;
  for (uint32_t i = 0; i < world->file.table.count; i++) {
    in_flight += world->states[i] != BUS_BRIDGE_FREE;
    decided += world->states[i] == BUS_BRIDGE_DONE; /* counted, and waiting for room */
  }
  ended += in_flight - decided;
  const uint64_t apart = world->claims > ended ? world->claims - ended : ended - world->claims;
  if (counters[SIM_COUNTER_IN_FLIGHT] != in_flight)
    sim_fail(world, "meter-in-flight", "%llu requests are in flight, the counter says %llu",
             (unsigned long long)in_flight, (unsigned long long)counters[SIM_COUNTER_IN_FLIGHT]);
  if (apart > world->meter_doubt || admitted > world->claims + world->meter_doubt)
    sim_fail(world, "meters",
             "%llu requests claimed, %llu ended or in flight, %llu admitted or rejected",
             (unsigned long long)world->claims, (unsigned long long)ended,
             (unsigned long long)admitted);
}

void sim_watch_step(struct sim_world *world)
{
  for (uint32_t i = 0; i < world->config.client_count; i++) {
    sim_replies_read(world, i);
    watch_reserve(world, i);
  }
  for (uint32_t i = 0; i < world->file.table.count; i++)
    watch_due(world, i);
  watch_upstream(world);
  watch_meters(world);
  for (uint32_t i = 0; i < world->config.backend_count; i++) {
    struct bus_bridge_backend_view view;
    bus_bridge_core_backend(world->core, i, &view);
    if (view.breaker == 0)
      world->breaker_since_ns[i] = 0;
    else if (world->breaker_since_ns[i] == 0)
      world->breaker_since_ns[i] = world->now_ns;
  }
}

/* ---- at the end ---- */

static void watch_outcomes(struct sim_world *world)
{
  for (uint32_t i = 0; i < world->request_count && !world->failure[0]; i++) {
    const struct sim_request *request = &world->requests[i];
    const struct sim_client *client = &world->clients[request->client];
    if (request->instance != client->instance || !client->file || request->given_up)
      continue;
    if (!request->accepted)
      sim_fail(world, "starved", "request %u was never taken from its ring", i);
    else if (request->finals == 0)
      sim_fail(world, "unanswered", "request %u has no final reply", i);
    else if (!request->read)
      sim_fail(world, "unread", "request %u: its client has not come to its final reply", i);
    else if (request->probe && request->final_status != BUS_LLM_OK &&
             request->final_status != BUS_LLM_LENGTH &&
             request->final_status != BUS_LLM_REJECTED_QUEUE)
      sim_fail(world, "no-recovery", "all servers are well, and request %u ends with status %u", i,
               request->final_status);
  }
}

void sim_watch_end(struct sim_world *world)
{
  if (!world->failure[0])
    watch_outcomes(world);
  if (!world->failure[0] && !world->core)
    sim_fail(world, "simulation", "the run ends without a bridge");
  bus_bridge_core_delete(world->core);
  world->core = NULL;
  uint32_t open = sim_network_open_count(world);
  if (open)
    sim_fail(world, "connection-leak", "%u connections are open after the core is gone", open);
}
