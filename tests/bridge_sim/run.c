#include "tests/bridge_sim/sim.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far more than any run needs: one that comes here does not end by itself. */
#define STEPS_MAX 100000u

struct sim_world *sim_world_new(void)
{
  struct sim_world *world = calloc(1, sizeof *world);
  if (!world)
    return NULL;
  world->arena = malloc(SIM_ARENA_BYTES);
  if (!world->arena || sim_bridge_file_allocate(world)) {
    sim_world_delete(world);
    return NULL;
  }
  for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++) {
    world->clients[i].memory = aligned_alloc(64, SIM_CLIENT_FILE_BYTES);
    if (!world->clients[i].memory) {
      sim_world_delete(world);
      return NULL;
    }
  }
  return world;
}

void sim_world_delete(struct sim_world *world)
{
  if (!world)
    return;
  for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++)
    free(world->clients[i].memory);
  for (uint32_t i = 0; i < SIM_CONNECTIONS_MAX; i++)
    bus_byte_buffer_free(&world->connections[i].out);
  free(world->file.memory);
  free(world->file.snapshot);
  free(world->arena);
  free(world);
}

void sim_fail(struct sim_world *world, const char *invariant, const char *format, ...)
{
  if (world->failure[0])
    return;
  snprintf(world->failure, sizeof world->failure, "%s", invariant);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(world->failure_text, sizeof world->failure_text, format, arguments);
  va_end(arguments);
  sim_log(world, "BROKEN %s: %s", world->failure, world->failure_text);
}

void sim_log(struct sim_world *world, const char *format, ...)
{
  if (!world->log)
    return;
  fprintf(world->log, "%14.6f ms  ", (double)world->now_ns / 1e6);
  va_list arguments;
  va_start(arguments, format);
  vfprintf(world->log, format, arguments);
  va_end(arguments);
  fputc('\n', world->log);
}

void *sim_world_allocate(struct sim_world *world, size_t bytes)
{
  bytes = BUS_ALIGN_UP(bytes, 16);
  if (bytes > SIM_ARENA_BYTES - world->arena_used) {
    sim_fail(world, "simulation", "the run needs more memory than the simulation has");
    world->arena_used = 0; /* overwrites what the failed run wrote: nobody looks any more */
  }
  void *memory = world->arena + world->arena_used;
  world->arena_used += bytes;
  return memory;
}

static bool earlier(const struct sim_event *a, const struct sim_event *b)
{
  return a->at_ns < b->at_ns || (a->at_ns == b->at_ns && a->sequence < b->sequence);
}

struct sim_event *sim_world_schedule(struct sim_world *world, struct sim_agenda *agenda,
                                     uint64_t at_ns, uint32_t type, uint32_t index)
{
  static struct sim_event spare;
  if (agenda->count == SIM_EVENTS_MAX) {
    sim_fail(world, "simulation", "more events than the simulation has room for");
    return &spare;
  }
  struct sim_event event = {
      .at_ns = at_ns, .sequence = world->sequence++, .type = type, .index = index};
  uint32_t place = agenda->count++;
  while (place > 0 && earlier(&event, &agenda->events[(place - 1) / 2])) {
    agenda->events[place] = agenda->events[(place - 1) / 2];
    place = (place - 1) / 2;
  }
  agenda->events[place] = event;
  return &agenda->events[place];
}

bool sim_agenda_take(struct sim_agenda *agenda, uint64_t now_ns, struct sim_event *event)
{
  if (agenda->count == 0 || agenda->events[0].at_ns > now_ns)
    return false;
  *event = agenda->events[0];
  struct sim_event last = agenda->events[--agenda->count];
  uint32_t place = 0;
  for (;;) {
    uint32_t child = 2 * place + 1;
    if (child >= agenda->count)
      break;
    if (child + 1 < agenda->count && earlier(&agenda->events[child + 1], &agenda->events[child]))
      child++;
    if (!earlier(&agenda->events[child], &last))
      break;
    agenda->events[place] = agenda->events[child];
    place = child;
  }
  agenda->events[place] = last;
  return true;
}

uint64_t sim_agenda_next_ns(const struct sim_agenda *agenda)
{
  return agenda->count ? agenda->events[0].at_ns : UINT64_MAX;
}

static void heal(struct sim_world *world)
{
  world->healed = true;
  world->kill_countdown = 0;
  world->kills_left = 0;
  sim_log(world, "no more faults from here on");
  for (uint32_t i = 0; i < world->config.backend_count; i++) {
    world->servers[i].down = false;
    world->servers[i].fault_percent = 0;
    world->servers[i].connect_percent = 0;
    world->servers[i].stuck_until_ns = 0;
  }
}

static void happen(struct sim_world *world, const struct sim_event *event)
{
  sim_trace(world, event->type * 131 + event->index);
  switch (event->type) {
  case SIM_EVENT_ARRIVAL:
    sim_network_arrival(world, event);
    break;
  case SIM_EVENT_CLIENT:
    sim_client_act(world, event->index);
    break;
  case SIM_EVENT_SERVER_DOWN:
    sim_network_server_down(world, event->index);
    break;
  case SIM_EVENT_SERVER_UP:
    sim_log(world, "server %u is back", event->index);
    world->servers[event->index].down = false;
    break;
  case SIM_EVENT_KILL:
    if (!world->healed)
      sim_bridge_kill(world);
    break;
  case SIM_EVENT_START:
    sim_bridge_start(world);
    break;
  case SIM_EVENT_ATTACH:
    sim_bridge_attach(world);
    break;
  case SIM_EVENT_HEAL:
    heal(world);
    break;
  case SIM_EVENT_PROBE:
    world->probed = true;
    for (uint32_t i = 0; i < world->config.client_count; i++)
      sim_client_probe(world, i);
    break;
  default:
    sim_network_server_closes(world, event);
  }
}

/* When the bridge, being alive, steps next. */
static uint64_t next_step_ns(const struct sim_world *world)
{
  if (!world->core)
    return UINT64_MAX;
  uint64_t next = sim_agenda_next_ns(&world->network);
  uint64_t timer = bus_bridge_core_next_ns(world->core);
  next = timer < next ? timer : next;
  next = world->wake_ns < next ? world->wake_ns : next;
  if (next == UINT64_MAX)
    return next;
  next += world->lag_ns;
  return next < world->now_ns ? world->now_ns : next;
}

/* Everything that was asked has its answer, and nothing more is planned. */
static bool finished(const struct sim_world *world)
{
  if (!world->probed || !world->core)
    return false;
  for (uint32_t i = 0; i < world->request_count; i++) {
    const struct sim_request *request = &world->requests[i];
    const struct sim_client *client = &world->clients[request->client];
    if (request->instance == client->instance && client->file && !request->given_up &&
        !request->read)
      return false;
  }
  for (uint32_t i = 0; i < world->file.table.count; i++)
    if (bus_bridge_table_at(&world->file.table, i)->state != BUS_BRIDGE_FREE)
      return false;
  return true;
}

static void reset(struct sim_world *world, uint64_t seed, FILE *log)
{
  world->seed = seed;
  world->log = log;
  world->now_ns = SIM_S; /* 0 means "never" in replies */
  world->sequence = 0;
  world->random.state = seed * 0x2545f4914f6cdd1dull + 1;
  world->trace = seed;
  world->failure[0] = world->failure_text[0] = '\0';
  world->arena_used = 0;
  world->network.count = world->agenda.count = 0;
  world->attempt_count = world->request_count = 0;
  world->hostile_messages = world->claims = world->meter_doubt = 0;
  world->healed = world->probed = false;
  world->core = NULL;
  world->doomed = world->starting = false;
  world->kill_countdown = 0;
  world->epoch = 0;
  world->steps = 0;
  world->wake_ns = UINT64_MAX;
  world->lag_ns = 0;
  memset(world->servers, 0, sizeof world->servers);
  memset(&world->coverage, 0, sizeof world->coverage);
  for (uint32_t i = 0; i < SIM_CLIENTS_MAX; i++) {
    struct sim_client *client = &world->clients[i];
    char *memory = client->memory;
    memset(client, 0, offsetof(struct sim_client, checked));
    client->checked.active = false;
    client->memory = memory;
    client->writing = SIM_NONE;
  }
  sim_network_reset(world);
}

bool sim_world_run(struct sim_world *world, uint64_t seed, FILE *log)
{
  reset(world, seed, log);
  sim_plan_draw(world);
  sim_bridge_file_format(world);
  sim_bridge_start(world);
  while (!world->failure[0] && !finished(world)) {
    uint64_t step_ns = next_step_ns(world);
    uint64_t event_ns = sim_agenda_next_ns(&world->agenda);
    uint64_t next_ns = step_ns < event_ns ? step_ns : event_ns;
    if (next_ns >= world->end_ns || world->steps > STEPS_MAX)
      break;
    struct sim_event event;
    if (event_ns <= step_ns) {
      world->now_ns = event_ns > world->now_ns ? event_ns : world->now_ns;
      sim_agenda_take(&world->agenda, event_ns, &event);
      happen(world, &event);
      if (world->wake_ns == UINT64_MAX)
        world->wake_ns = world->now_ns;
    } else {
      world->now_ns = step_ns;
      sim_bridge_step(world);
    }
  }
  sim_watch_end(world);
  world->coverage.runs = 1;
  world->coverage.steps = world->steps;
  world->coverage.requests = world->request_count;
  return world->failure[0] == '\0';
}
