/* bridge.c: the lives of the bridge: its member file, starts, steps, kills and housekeeping.
 *
 * A kill at a transition: the callback copies the whole member file and marks the bridge doomed;
 * the network ignores what the step still does; when the step returns the core is deleted and the
 * copy put back. So the successor finds what a SIGKILL at that instruction would have left. */
#include "tests/bridge_sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define ENTRY_BYTES_MAX (BUS_BRIDGE_ENTRY_HEADER_BYTES + 640u)
#define RING_BYTES_MAX  (BUS_RING_HEADER_BYTES + 32u * 512u)

int sim_bridge_file_allocate(struct sim_world *world)
{
  struct sim_bridge_file *file = &world->file;
  size_t bytes = SIM_ENTRIES_MAX * ENTRY_BYTES_MAX + SIM_CLIENTS_MAX * RING_BYTES_MAX +
                 SIM_CLIENTS_MAX * sizeof(struct bus_position) +
                 SIM_COUNTER_COUNT * sizeof(uint64_t) + 1024;
  bytes = BUS_ALIGN_UP(bytes, 64);
  file->memory = aligned_alloc(64, bytes);
  file->snapshot = aligned_alloc(64, bytes);
  return file->memory && file->snapshot ? BUS_OK : BUS_ERROR_NO_SPACE;
}

static void point_meters(struct sim_world *world)
{
  struct bus_bridge_meters *meters = &world->meters;
  uint64_t *counters = world->file.counters;
  memset(meters, 0, sizeof *meters);
  for (uint32_t i = 0; i < SIM_CLASSES_MAX; i++) {
    meters->classes[i].accepted = &counters[SIM_COUNTER_ACCEPTED + i];
    meters->classes[i].rejected = &counters[SIM_COUNTER_REJECTED + i];
    meters->classes[i].waiting = &counters[SIM_COUNTER_WAITING + i];
  }
  for (uint32_t i = 0; i < SIM_BACKENDS_MAX; i++) {
    meters->backends[i].sent = &counters[SIM_COUNTER_SENT + i];
    meters->backends[i].in_flight = &counters[SIM_COUNTER_SERVER_IN_FLIGHT + i];
  }
  for (uint32_t i = 0; i < BUS_LLM_STATUS_COUNT; i++)
    meters->finals[i] = &counters[SIM_COUNTER_FINALS + i];
  meters->orphaned = &counters[SIM_COUNTER_ORPHANED];
  meters->in_flight = &counters[SIM_COUNTER_IN_FLIGHT];
  meters->hedges = &counters[SIM_COUNTER_HEDGES];
  meters->retries = &counters[SIM_COUNTER_RETRIES];
  meters->partials = &counters[SIM_COUNTER_PARTIALS];
  meters->partials_lost = &counters[SIM_COUNTER_PARTIALS_LOST];
  meters->requests_invalid = &counters[SIM_COUNTER_INVALID];
  meters->recovered = &counters[SIM_COUNTER_RECOVERED];
}

void sim_bridge_file_format(struct sim_world *world)
{
  struct sim_bridge_file *file = &world->file;
  const struct bus_bridge_config *config = &world->config;
  char *place = file->memory;
  file->table.memory = place;
  file->table.count = config->requests_max;
  file->table.entry_bytes =
      (uint32_t)BUS_ALIGN_UP(BUS_BRIDGE_ENTRY_HEADER_BYTES + config->request_bytes_max, 64u);
  place += (size_t)file->table.count * file->table.entry_bytes;
  size_t ring_bytes = BUS_RING_HEADER_BYTES + config->reply_depth * (size_t)config->record_bytes;
  for (uint32_t i = 0; i < config->client_count; i++, place += ring_bytes)
    file->rings[i] = place;
  file->positions = (struct bus_position *)(void *)place;
  place += SIM_CLIENTS_MAX * sizeof(struct bus_position);
  file->counters = (uint64_t *)(void *)place;
  place += SIM_COUNTER_COUNT * sizeof(uint64_t);
  file->bytes = (size_t)(place - file->memory);
  memset(file->memory, 0, file->bytes);
  world->bridge_instance = sim_random_next(&world->random) | 1;
  for (uint32_t i = 0; i < config->client_count; i++)
    bus_ring_format(file->rings[i], &world->reply_entry, 0);
  point_meters(world);
}

/* The client's ring is read from here on, when it has a file and goes by ours. */
static void attach(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  struct bus_bridge_port *port = &world->ports[index];
  if (port->requests && (!client->file || port->instance != client->instance)) {
    port->requests = NULL;
    bus_producer_connect(port->replies, NULL, 0);
    sim_log(world, "the file of client %u is gone", index);
  }
  if (!client->file || port->requests)
    return;
  struct bus_position *position = &world->file.positions[index];
  if (!bus_consumer_may_join(client->memory, client->instance, position, world->bridge_instance))
    return;
  bus_consumer_init(&world->port_consumers[index], client->memory, &world->request_entry,
                    client->instance, position, port->replies->next);
  const size_t ring_bytes =
      BUS_RING_HEADER_BYTES + world->request_entry.depth * world->request_entry.record_size;
  bus_producer_connect(port->replies,
                       (const struct bus_position *)(void *)(client->memory + ring_bytes),
                       client->instance);
  port->requests = &world->port_consumers[index];
  port->instance = client->instance;
  sim_log(world, "attached client %u, instance %llx", index, (unsigned long long)client->instance);
  bus_bridge_core_attached(world->core, index);
}

static void transition(void *context)
{
  struct sim_world *world = context;
  if (world->doomed)
    return;
  sim_watch_transition(world);
  if (world->kill_countdown == 0 || --world->kill_countdown > 0)
    return;
  world->doomed = true;
  memcpy(world->file.snapshot, world->file.memory, world->file.bytes);
  world->coverage.transition_kills++;
  world->coverage.start_kills += world->starting;
}

void sim_bridge_plan_kill(struct sim_world *world)
{
  world->kills_left--;
  if (sim_random_chance(&world->random, 75))
    world->kill_countdown = (uint32_t)sim_random_between(&world->random, 1, 40);
  else
    sim_world_schedule(world, &world->agenda,
                       world->now_ns + sim_random_between(&world->random, 1, 500) * SIM_MS,
                       SIM_EVENT_KILL, 0);
}

static void note_death(struct sim_world *world)
{
  world->coverage.kills++;
  world->meter_doubt++; /* one that was over */
  world->coverage.faults[SIM_FAULT_KILL]++;
  for (uint32_t i = 0; i < world->file.table.count; i++) {
    const struct bus_bridge_entry *entry = bus_bridge_table_at(&world->file.table, i);
    if (entry->state >= SIM_STATES)
      continue;
    world->coverage.killed_in[entry->state]++;
    world->meter_doubt += entry->state != BUS_BRIDGE_FREE;
    if (entry->state == BUS_BRIDGE_FREE || !entry->sent)
      continue;
    for (uint32_t c = 0; c < world->config.client_count; c++)
      if (strcmp(entry->client, world->config.clients[c]) == 0) {
        struct sim_request *request = sim_client_find(world, c, entry->request.id);
        if (request)
          request->sent_killed = true;
      }
  }
}

/* What was sent is on its way; nothing comes back. */
static void after_death(struct sim_world *world)
{
  bus_bridge_core_delete(world->core);
  world->core = NULL;
  if (world->doomed)
    memcpy(world->file.memory, world->file.snapshot, world->file.bytes);
  world->doomed = false;
  world->kill_countdown = 0;
  note_death(world);
  for (uint32_t i = 0; i < world->config.client_count; i++) {
    world->clients[i].reserve_debt = true;
    world->ports[i].requests = NULL;
  }
  sim_network_reset(world);
  for (uint32_t i = 0; i < world->config.client_count; i++)
    sim_replies_read(world, i);
  uint64_t pause = sim_random_chance(&world->random, 70)
                       ? sim_random_between(&world->random, 10, 5000) * SIM_US
                       : sim_random_between(&world->random, 10, 800) * SIM_MS;
  sim_world_schedule(world, &world->agenda, world->now_ns + pause, SIM_EVENT_START, 0);
  if (world->kills_left)
    sim_bridge_plan_kill(world);
}

void sim_bridge_attach(struct sim_world *world)
{
  if (!world->core)
    return;
  for (uint32_t i = 0; i < world->config.client_count && !world->doomed; i++)
    attach(world, i);
  if (world->doomed) {
    sim_log(world, "the bridge is killed while it attaches its clients");
    after_death(world);
    return;
  }
  sim_watch_transition(world);
}

void sim_bridge_kill(struct sim_world *world)
{
  if (!world->core)
    return;
  sim_log(world, "the bridge is killed between two steps");
  after_death(world);
}

static uint64_t clock_now(void *context)
{
  return ((const struct sim_world *)context)->now_ns;
}

void sim_bridge_start(struct sim_world *world)
{
  if (world->core)
    return;
  world->epoch++;
  world->started_ns = world->now_ns;
  world->idle_steps = 0;
  sim_watch_start(world);
  for (uint32_t i = 0; i < world->config.client_count; i++) {
    struct bus_bridge_port *port = &world->ports[i];
    memset(port, 0, sizeof *port);
    memcpy(port->client, world->config.clients[i], sizeof port->client);
    bus_producer_init(&world->port_producers[i], world->file.rings[i], &world->reply_entry,
                      world->bridge_instance);
    port->replies = &world->port_producers[i];
    port->position = &world->file.positions[i];
  }
  struct bus_bridge_core_options options = {
      .config = &world->config,
      .table = world->file.table,
      .ports = world->ports,
      .transport = &world->transport.base,
      .meters = &world->meters,
      .random_seed = sim_random_next(&world->random),
      .epoch = world->epoch,
      .clock = clock_now,
      .clock_context = world,
      .transition = transition,
      .transition_context = world,
  };
  sim_log(world, "the bridge starts, epoch %u", world->epoch);
  world->starting = true;
  int error = bus_bridge_core_new(&options, world->now_ns, &world->core);
  world->starting = false;
  if (error) {
    world->core = NULL;
    sim_fail(world, "start", "bus_bridge_core_new: %s", bus_error_message());
    return;
  }
  if (world->doomed) {
    sim_log(world, "the bridge is killed while it starts");
    after_death(world);
    return;
  }
  world->wake_ns = world->now_ns;
  if (sim_random_chance(&world->random, 70))
    sim_bridge_attach(world);
  else
    sim_world_schedule(world, &world->agenda,
                       world->now_ns + sim_random_between(&world->random, 1, 50) * SIM_MS,
                       SIM_EVENT_ATTACH, 0);
}

static void draw_lag(struct sim_world *world)
{
  uint64_t draw = sim_random_between(&world->random, 0, 99);
  world->lag_ns = draw < 60   ? sim_random_between(&world->random, 0, 20) * SIM_US
                  : draw < 97 ? sim_random_between(&world->random, 0, 200) * SIM_US
                              : sim_random_between(&world->random, 0, 2000) * SIM_US;
}

void sim_bridge_step(struct sim_world *world)
{
  world->steps++;
  world->wake_ns = UINT64_MAX;
  draw_lag(world);
  int done = bus_bridge_core_step(world->core, world->now_ns, 100 * SIM_US);
  if (world->doomed) {
    sim_log(world, "the bridge is killed at a transition");
    after_death(world);
    return;
  }
  if (done < 0) {
    sim_fail(world, "step", "bus_bridge_core_step returned %d: %s", done, bus_error_message());
    return;
  }
  sim_watch_transition(world);
  sim_watch_step(world);
  if (done > 0)
    world->wake_ns = world->now_ns;
  world->idle_steps = done == 0 && bus_bridge_core_next_ns(world->core) <= world->now_ns
                          ? world->idle_steps + 1
                          : 0;
  if (world->idle_steps > 100)
    sim_fail(world, "timer-stuck", "a timer is due and the step does nothing about it");
}
