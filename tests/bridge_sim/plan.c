/* plan.c: what the seed makes of the configuration, the faults and the clients. */
#include "tests/bridge_sim/sim.h"

#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static uint64_t between(struct sim_world *world, uint64_t low, uint64_t high)
{
  return sim_random_between(&world->random, low, high);
}

static bool chance(struct sim_world *world, uint32_t percent)
{
  return sim_random_chance(&world->random, percent);
}

static void draw_backend(struct sim_world *world, uint32_t index)
{
  struct bus_bridge_backend_config *backend = &world->config.backends[index];
  memset(backend, 0, sizeof *backend);
  snprintf(backend->name, sizeof backend->name, "server%u", index);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = (in_port_t)(8000 + index)};
  memcpy(&backend->peer.address, &address, sizeof address);
  backend->peer.address_bytes = sizeof address;
  backend->peer.connect_timeout_ns = between(world, 5, 200) * SIM_MS;
  snprintf(backend->host, sizeof backend->host, "server%u:%u", index, 8000 + index);
  snprintf(backend->path, sizeof backend->path, "/v1");
  snprintf(backend->authorization, sizeof backend->authorization, "Bearer key%u", index);
  backend->flavor = (uint32_t)between(world, BUS_LLM_FLAVOR_OPENAI, BUS_LLM_FLAVOR_OLLAMA);
  if (backend->flavor != BUS_LLM_FLAVOR_MLX)
    snprintf(backend->model, sizeof backend->model, "model%u", index);
  backend->concurrency = (uint32_t)between(world, 1, 4);
  if (backend->concurrency > 1 && chance(world, 40))
    backend->urgent_reserve = (uint32_t)between(world, 1, backend->concurrency - 1);
  backend->tokens_in_flight_max = chance(world, 15) ? (uint32_t)between(world, 200, 2000) : 0;
  if (chance(world, 20)) {
    backend->prefill_tokens_per_s = (double)between(world, 500, 50000);
    backend->decode_tokens_per_s = (double)between(world, 50, 2000);
  }
  backend->first_token_timeout_ns = chance(world, 60) ? between(world, 30, 400) * SIM_MS : 0;
  backend->token_timeout_ns = chance(world, 60) ? between(world, 30, 200) * SIM_MS : 0;
  backend->total_timeout_ns = chance(world, 30) ? between(world, 200, 1500) * SIM_MS : 0;
  backend->idle_ns = chance(world, 70) ? between(world, 5, 500) * SIM_MS : 0;
  backend->failures_to_open = (uint32_t)between(world, 1, 4);
  backend->open_ns = between(world, 5, 150) * SIM_MS;
  backend->open_ns_max = backend->open_ns * between(world, 1, 8);
  backend->canary_interval_ns = chance(world, 30) ? between(world, 300, 6000) * SIM_MS : 0;
}

static void draw_class(struct sim_world *world, uint32_t index)
{
  struct bus_bridge_config *config = &world->config;
  struct bus_bridge_class_config *class = &config->classes[index];
  memset(class, 0, sizeof *class);
  snprintf(class->name, sizeof class->name, "class%u", index);
  uint32_t first = (uint32_t)between(world, 0, config->backend_count - 1);
  class->backend_count = (uint32_t)between(world, 1, config->backend_count);
  for (uint32_t i = 0; i < class->backend_count; i++) {
    class->backends[i].backend = (first + i) % config->backend_count;
    class->backends[i].weight = (uint32_t)between(world, 1, 5);
  }
  class->queue_max = (uint32_t)between(world, 0, 9) < 3 ? (uint32_t)between(world, 1, 3) : 16;
  class->tokens_max = chance(world, 50) ? (uint32_t)between(world, 4, 64) : 0;
  class->retries_max = (uint32_t)between(world, 0, 3);
  if (class->backend_count > 1 && chance(world, 50)) {
    class->hedge_after_ns = between(world, 5, 100) * SIM_MS;
    class->hedge_percent = (uint32_t)between(world, 0, 4) * 25;
  }
}

static void draw_config(struct sim_world *world)
{
  struct bus_bridge_config *config = &world->config;
  config->backend_count = (uint32_t)between(world, 1, SIM_BACKENDS_MAX);
  config->class_count = (uint32_t)between(world, 1, SIM_CLASSES_MAX);
  config->client_count = (uint32_t)between(world, 1, SIM_CLIENTS_MAX);
  for (uint32_t i = 0; i < config->backend_count; i++)
    draw_backend(world, i);
  for (uint32_t i = 0; i < config->class_count; i++)
    draw_class(world, i);
  for (uint32_t i = 0; i < config->client_count; i++)
    snprintf(config->clients[i], sizeof config->clients[i], "client%u", i);
  config->requests_max = (uint32_t)between(world, 2, SIM_ENTRIES_MAX);
  config->request_bytes_max = 64 * (uint32_t)between(world, 3, 10);
  config->answer_bytes_max = chance(world, 10) ? (uint32_t)between(world, 16, 64) : 8192;
  config->record_bytes = 64 * (uint32_t)between(world, 3, 8);
  config->reply_depth = 1u << between(world, 3, 5);
  struct bus_entry reply = {.type = BUS_OBJECT_RING,
                            .record_size = config->record_bytes,
                            .policy = BUS_POLICY_WAIT,
                            .depth = config->reply_depth};
  world->reply_entry = reply;
  reply.depth = 1ull << between(world, 3, 5);
  world->request_entry = reply;
}

static void draw_servers(struct sim_world *world)
{
  for (uint32_t i = 0; i < world->config.backend_count; i++) {
    struct sim_server *server = &world->servers[i];
    server->latency_ns = between(world, 20, 500) * SIM_US;
    server->keeps_alive = chance(world, 70);
    if (world->faultless)
      continue;
    server->fault_percent = chance(world, 30) ? 0 : (uint32_t)between(world, 5, 90);
    server->connect_percent = chance(world, 60) ? 0 : (uint32_t)between(world, 5, 100);
    uint64_t at = world->now_ns;
    for (uint32_t deaths = chance(world, 60) ? 0 : (uint32_t)between(world, 1, 3); deaths;
         deaths--) {
      at += between(world, 1, 700) * SIM_MS;
      sim_world_schedule(world, &world->agenda, at, SIM_EVENT_SERVER_DOWN, i);
      at += between(world, 1, 400) * SIM_MS;
      sim_world_schedule(world, &world->agenda, at, SIM_EVENT_SERVER_UP, i);
    }
  }
  for (uint32_t i = SIM_FAULT_RESET; i <= SIM_FAULT_NO_FINISH; i++)
    world->fault_weights[i] = (uint32_t)between(world, 0, 4);
  world->fault_weights[SIM_FAULT_CUT]++; /* so that they are never all 0 */
}

static void draw_clients(struct sim_world *world)
{
  for (uint32_t i = 0; i < world->config.client_count; i++) {
    struct sim_client *client = &world->clients[i];
    client->polite = chance(world, 75);
    client->hostile = !world->faultless && chance(world, 20);
    client->left = (uint32_t)between(world, 1, 16 / world->config.client_count + 2);
    client->deaths_left =
        world->faultless || chance(world, 60) ? 0 : (uint32_t)between(world, 1, 2);
    client->read_interval_ns = chance(world, 60) ? 50 * SIM_US : between(world, 1, 400) * SIM_MS;
    client->next_submit_ns = world->now_ns + between(world, 0, 50) * SIM_MS;
    sim_client_create_file(world, i);
    sim_world_schedule(world, &world->agenda, world->now_ns, SIM_EVENT_CLIENT, i);
  }
}

void sim_plan_draw(struct sim_world *world)
{
  world->faultless = chance(world, 12);
  draw_config(world);
  draw_servers(world);
  draw_clients(world);
  world->kills_left = world->faultless || chance(world, 40) ? 0 : (uint32_t)between(world, 1, 5);
  world->heal_ns = world->now_ns + between(world, 500, 2500) * SIM_MS;
  /* By then every deadline is over, and every breaker has tried a canary since. */
  uint64_t rest_ns = 0;
  for (uint32_t i = 0; i < world->config.backend_count; i++) {
    uint64_t open_ns = world->config.backends[i].open_ns_max;
    rest_ns = open_ns > rest_ns ? open_ns : rest_ns;
  }
  world->probe_ns = world->heal_ns + 3 * rest_ns + 30 * SIM_S;
  world->end_ns = world->probe_ns + 200 * SIM_S;
  sim_world_schedule(world, &world->agenda, world->heal_ns, SIM_EVENT_HEAL, 0);
  sim_world_schedule(world, &world->agenda, world->probe_ns, SIM_EVENT_PROBE, 0);
  if (world->kills_left)
    sim_bridge_plan_kill(world);
}
