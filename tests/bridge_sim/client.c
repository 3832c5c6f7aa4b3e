/* client.c: clients that ask, take back, read when they like, die and return. */
#include "tests/bridge_sim/sim.h"

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

static struct bus_position *own_position(const struct sim_world *world,
                                         const struct sim_client *client)
{
  const size_t ring_bytes =
      BUS_RING_HEADER_BYTES + world->request_entry.depth * world->request_entry.record_size;
  return (struct bus_position *)(void *)(client->memory + ring_bytes);
}

/* A process opens its file: its producer goes by the bridge's position. */
static void come_alive(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  client->alive = true;
  client->joined = false;
  bus_producer_init(&client->producer, client->memory, &world->request_entry, client->instance);
  bus_producer_connect(&client->producer, &world->file.positions[index], world->bridge_instance);
}

void sim_client_create_file(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  const size_t bytes = BUS_RING_HEADER_BYTES +
                       world->request_entry.depth * world->request_entry.record_size +
                       sizeof(struct bus_position);
  memset(client->memory, 0, bytes);
  client->instance = sim_random_next(&world->random) | 1;
  client->file = true;
  client->outstanding_slots = 0;
  bus_ring_format(client->memory, &world->request_entry, 0);
}

struct sim_request *sim_client_find(struct sim_world *world, uint32_t client, uint64_t id)
{
  uint64_t index = (id & 0xffff) - 1;
  if (index >= world->request_count || world->requests[index].id != id ||
      world->requests[index].client != client)
    return NULL;
  return &world->requests[index];
}

/* ---- asking ---- */

static void draw_text(struct sim_world *world, struct sim_request *request, uint32_t index)
{
  char *content = sim_world_allocate(world, 2048);
  uint32_t size = (uint32_t)snprintf(content, 2048, "#%u#", index);
  uint64_t more = chance(world, 15) ? between(world, 0, 400) : between(world, 0, 60);
  for (uint64_t i = 0; i < more && size < world->config.request_bytes_max / 2; i++) {
    if (chance(world, 5)) {
      memcpy(content + size, "\xe2\x82\xac", 3);
      size += 3;
    } else {
      content[size++] = (char)between(world, 32, 126);
    }
  }
  if (request->flags & BUS_LLM_MESSAGES) /* what needs escapes there is left out */
    for (uint32_t i = 0; i < size; i++)
      if (content[i] == '"' || content[i] == '\\')
        content[i] = '.';
  request->content = request->text = content;
  request->content_bytes = request->text_bytes = size;
  if (request->flags & BUS_LLM_MESSAGES) {
    char *text = sim_world_allocate(world, size + 64);
    request->text_bytes = (uint32_t)snprintf(
        text, size + 64, "[{\"role\":\"user\",\"content\":\"%.*s\"}]", (int)size, content);
    request->text = text;
  }
}

/* Makes it one that must be refused. */
static void spoil(struct sim_world *world, struct sim_request *request)
{
  uint32_t most =
      (uint32_t)world->request_entry.depth * bus_llm_slot_text_bytes(world->config.record_bytes);
  most = most < 1024 ? most : 1024;
  request->bad = true;
  char *text = sim_world_allocate(world, 2048);
  memcpy(text, request->text, request->text_bytes);
  request->text = text;
  switch (between(world, 0, 4)) {
  case 0:
    request->class_index = SIM_NONE;
    break;
  case 1:
    text[request->text_bytes - 1] = (char)0xff; /* no UTF-8 */
    break;
  case 2:
    request->kind = 77;
    break;
  case 3:
    request->flags |= BUS_LLM_MESSAGES;
    request->kind = BUS_LLM_CHAT;
    memcpy(text, "{}", 2);
    request->text_bytes = 2;
    break;
  default:
    if (most <= world->config.request_bytes_max + 64) { /* such a one does not fit in the ring */
      request->class_index = SIM_NONE;
      break;
    }
    memset(text + request->text_bytes, 'x', most - request->text_bytes);
    request->text_bytes = most; /* more than the bridge takes */
  }
}

static bool class_has_mlx(const struct sim_world *world, uint32_t index)
{
  const struct bus_bridge_class_config *class = &world->config.classes[index];
  for (uint32_t i = 0; i < class->backend_count; i++)
    if (world->config.backends[class->backends[i].backend].flavor == BUS_LLM_FLAVOR_MLX)
      return true;
  return false;
}

static void draw_request(struct sim_world *world, uint32_t client, struct sim_request *request,
                         uint32_t index)
{
  request->class_index = (uint32_t)between(world, 0, world->config.class_count - 1);
  request->kind = (uint8_t)(chance(world, 80)   ? BUS_LLM_CHAT
                            : chance(world, 60) ? BUS_LLM_COMPLETION
                                                : BUS_LLM_EMBEDDING);
  request->doubtful =
      request->kind == BUS_LLM_EMBEDDING && class_has_mlx(world, request->class_index);
  request->flags = (uint8_t)((chance(world, 60) ? BUS_LLM_PARTIALS : 0) |
                             (chance(world, 65) ? BUS_LLM_IDEMPOTENT : 0) |
                             (chance(world, 25) ? BUS_LLM_URGENT : 0));
  if (request->kind == BUS_LLM_CHAT && chance(world, 20))
    request->flags |= BUS_LLM_MESSAGES;
  request->deadline_ns =
      world->now_ns +
      (chance(world, 20) ? between(world, 1, 60) : between(world, 100, 2500)) * SIM_MS;
  request->tokens_max = chance(world, 50) ? 0 : (uint32_t)between(world, 1, 30);
  request->reply_slots = (uint32_t)between(world, 1, world->config.reply_depth / 4);
  draw_text(world, request, index);
  if (!world->faultless && chance(world, 6))
    spoil(world, request);
  (void)client;
}

static struct sim_request *new_request(struct sim_world *world, uint32_t client)
{
  if (world->request_count == SIM_REQUESTS_MAX) {
    sim_fail(world, "simulation", "more requests than the simulation has room for");
    return &world->requests[0];
  }
  uint32_t index = world->request_count++;
  struct sim_request *request = &world->requests[index];
  memset(request, 0, sizeof *request);
  request->id = (sim_random_next(&world->random) << 16) | (index + 1);
  request->client = client;
  request->instance = world->clients[client].instance;
  draw_request(world, client, request, index);
  request->timeout_ns = request->deadline_ns + 50 * SIM_MS;
  request->submitted_ns = world->now_ns;
  return request;
}

/* Writes as many fragments of the request under way as the ring takes, sometimes one alone. */
static void write_on(struct sim_world *world, struct sim_client *client)
{
  struct sim_request *request = &world->requests[client->writing];
  const uint32_t room = bus_llm_slot_text_bytes(world->config.record_bytes);
  const uint32_t fragments = bus_llm_slots(request->text_bytes, world->config.record_bytes);
  do {
    struct bus_llm_request *slot = bus_producer_reserve(&client->producer);
    if (!slot)
      return;
    uint32_t left = request->text_bytes - client->written_bytes;
    memset(slot, 0, sizeof *slot);
    slot->id = request->id;
    slot->deadline_ns = request->deadline_ns;
    slot->submitted_ns = request->submitted_ns;
    slot->text_bytes = request->text_bytes;
    slot->text_offset = client->written_bytes;
    slot->fragment_bytes = left < room ? left : room;
    slot->fragment = (uint16_t)(client->written_bytes / room);
    slot->fragments = (uint16_t)fragments;
    slot->reply_slots = (uint16_t)request->reply_slots;
    slot->tokens_max = request->tokens_max;
    slot->kind = request->kind;
    slot->flags = request->flags;
    slot->temperature = -1.0f;
    snprintf(slot->class_name, sizeof slot->class_name, "class%d", (int)request->class_index);
    memcpy((char *)slot + BUS_LLM_HEADER_BYTES, request->text + client->written_bytes,
           slot->fragment_bytes);
    client->written_bytes += slot->fragment_bytes;
    bus_producer_commit(&client->producer);
    if (client->written_bytes == request->text_bytes) {
      request->written = true;
      client->writing = SIM_NONE;
      return;
    }
  } while (!chance(world, 10));
}

static void start_request(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  struct sim_request *request = new_request(world, index);
  client->writing = (uint32_t)(request - world->requests);
  client->written_bytes = 0;
  client->left -= client->left > 0;
  client->outstanding_slots += request->reply_slots;
  sim_log(world,
          "client %u asks request %u: kind %u flags %u class %d, %u bytes, %u slots, in %.3f ms%s",
          index, client->writing, request->kind, request->flags, (int)request->class_index,
          request->text_bytes, request->reply_slots,
          (double)(request->deadline_ns - world->now_ns) / 1e6, request->bad ? ", bad" : "");
}

static void take_back(struct sim_world *world, struct sim_client *client, uint64_t id)
{
  struct bus_llm_request *slot = bus_producer_reserve(&client->producer);
  if (!slot)
    return;
  memset(slot, 0, sizeof *slot);
  slot->id = id;
  slot->fragments = 1;
  slot->kind = BUS_LLM_CANCEL;
  bus_producer_commit(&client->producer);
  uint32_t index = (uint32_t)(client - world->clients);
  struct sim_request *request = sim_client_find(world, index, id);
  if (request && request->cancelled_ns == 0)
    request->cancelled_ns = world->now_ns;
  sim_log(world, "client %u takes request %u back", index,
          request ? (uint32_t)(request - world->requests) : SIM_NONE);
}

static void maybe_take_back(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  uint32_t at = (uint32_t)between(world, 0, world->request_count - 1);
  const struct sim_request *request = &world->requests[at];
  if (request->client == index && request->instance == client->instance && request->written &&
      !world->faultless)
    take_back(world, client, request->id);
}

/* Fragments that are no part of any message, and now and then one that is. */
static void babble(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  for (uint64_t count = between(world, 1, 4); count; count--) {
    struct bus_llm_request *slot = bus_producer_reserve(&client->producer);
    if (!slot)
      return;
    uint64_t *words = (uint64_t *)(void *)slot;
    for (uint32_t i = 0; i < world->config.record_bytes / 8 - 1; i++)
      words[i] = sim_random_next(&world->random);
    if (chance(world, 70)) { /* nearly right */
      slot->kind = (uint8_t)between(world, 0, 5);
      slot->fragments = (uint16_t)between(world, 0, 3);
      slot->fragment = (uint16_t)between(world, 0, 2);
      slot->text_bytes = (uint32_t)between(world, 0, 300);
      slot->fragment_bytes = (uint32_t)between(world, 0, world->config.record_bytes);
      slot->text_offset = chance(world, 60) ? 0 : (uint32_t)between(world, 0, 300);
      slot->reply_slots = (uint16_t)between(world, 0, 65535);
      slot->deadline_ns = world->now_ns + between(world, 0, 300) * SIM_MS;
      if (chance(world, 50))
        snprintf(slot->class_name, sizeof slot->class_name, "class0");
      if (chance(world, 10)) /* an id of somebody's question */
        slot->id = world->request_count ? world->requests[0].id : 0;
    }
    /* What it says must not be taken for a question of ours at the servers; and the ids of ours
     * are not to be answered for it. */
    if (slot->id == 0 || slot->kind != BUS_LLM_CANCEL)
      slot->id |= 1ull << 63 | 0xffff;
    else if (world->request_count && slot->id == world->requests[0].id)
      world->requests[0].cancelled_ns = world->now_ns;
    ((char *)slot)[BUS_LLM_HEADER_BYTES] = SIM_HOSTILE_BYTE;
    bus_producer_commit(&client->producer);
    world->hostile_messages++;
    world->coverage.faults[SIM_FAULT_HOSTILE]++;
  }
}

/* ---- reading ---- */

/* Slots of the message that begins at the next one: 1 where it is none or the beginning of one that
 * was broken off; 0 while it is not all there. */
static uint64_t message_slots(const struct bus_consumer *consumer,
                              const struct bus_llm_reply *first)
{
  if (first->kind != BUS_LLM_FINAL || first->fragment != 0)
    return 1;
  for (uint64_t i = 1; i < first->fragments; i++) {
    const struct bus_llm_reply *next = bus_consumer_peek(consumer, i);
    if (!next)
      return 0;
    if (next->kind != BUS_LLM_FINAL || next->id != first->id || next->fragment != i)
      return 1;
  }
  return first->fragments;
}

static void take_final(struct sim_world *world, uint32_t index, const struct bus_llm_reply *reply)
{
  struct sim_client *client = &world->clients[index];
  struct sim_request *request = sim_client_find(world, index, reply->id);
  if (!request || request->instance != client->instance || request->read)
    return;
  request->read = true;
  if (!request->timed_out)
    client->outstanding_slots -= request->reply_slots;
}

static void read_replies(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  struct bus_position *position = own_position(world, client);
  if (!client->joined) {
    if (world->core && !bus_consumer_may_join(world->file.rings[index], world->bridge_instance,
                                              position, client->instance))
      return;
    bus_consumer_init(&client->consumer, world->file.rings[index], &world->reply_entry,
                      world->bridge_instance, position, 0);
    client->joined = true;
  }
  uint64_t limit = chance(world, 70) ? UINT64_MAX : between(world, 1, 4);
  const struct bus_llm_reply *reply;
  while (limit-- && (reply = bus_consumer_poll(&client->consumer))) {
    const uint64_t slots = message_slots(&client->consumer, reply);
    if (slots == 0)
      break;
    if (reply->kind == BUS_LLM_FINAL && slots == reply->fragments)
      take_final(world, index, reply);
    for (uint64_t i = 0; i < slots; i++)
      bus_consumer_release(&client->consumer);
  }
  if (position->lost)
    sim_fail(world, "overwritten", "%llu replies were overwritten before client %u read them",
             (unsigned long long)position->lost, index);
}

static void note_timeouts(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  for (uint32_t i = 0; i < world->request_count; i++) {
    struct sim_request *request = &world->requests[i];
    if (request->client != index || request->instance != client->instance || request->read ||
        request->timed_out || world->now_ns < request->timeout_ns)
      continue;
    request->timed_out = true;
    client->outstanding_slots -= request->reply_slots;
    world->coverage.local_timeouts++;
    world->coverage.statuses[BUS_LLM_LOCAL_TIMEOUT]++;
  }
}

/* ---- living and dying ---- */

static void die(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  client->alive = false;
  client->deaths_left--;
  client->dead_until_ns = world->now_ns + between(world, 1, 400) * SIM_MS;
  if (client->writing != SIM_NONE) {
    world->requests[client->writing].given_up = true;
    client->outstanding_slots -= world->requests[client->writing].reply_slots;
    client->writing = SIM_NONE;
  }
  if (client->joined && chance(world, 50)) /* what its last poll had not said yet */
    bus_consumer_publish(&client->consumer);
  if (chance(world, 40)) {
    client->file = false;
    world->coverage.faults[SIM_FAULT_CLIENT_NEW]++;
  } else {
    world->coverage.faults[SIM_FAULT_CLIENT_DEATH]++;
  }
  sim_log(world, "client %u dies%s", index, client->file ? "" : ", its file is deleted");
  /* The bridge's housekeeping notices before the memory is used anew. */
  sim_bridge_attach(world);
}

static void come_back(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  if (!client->file)
    sim_client_create_file(world, index);
  come_alive(world, index);
  sim_log(world, "client %u is there", index);
  if (chance(world, 60) || !world->core)
    sim_bridge_attach(world);
  else
    sim_world_schedule(world, &world->agenda, world->now_ns + between(world, 1, 50) * SIM_MS,
                       SIM_EVENT_ATTACH, 0);
}

static bool may_submit(const struct sim_world *world, const struct sim_client *client)
{
  return client->left && client->writing == SIM_NONE && world->now_ns >= client->next_submit_ns &&
         world->request_count < SIM_REQUESTS_MAX - SIM_CLIENTS_MAX * SIM_CLASSES_MAX * 2 &&
         !world->probed &&
         (!client->polite || client->outstanding_slots < world->config.reply_depth / 2);
}

void sim_client_act(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  uint64_t next_ns = world->now_ns + between(world, 1, 40) * SIM_MS;
  if (world->healed)
    client->read_interval_ns = SIM_MS;
  if (!client->alive) {
    if (world->now_ns >= client->dead_until_ns)
      come_back(world, index);
  } else if (client->deaths_left && !world->healed && chance(world, 4)) {
    die(world, index);
  } else {
    if (client->hostile && !world->healed && client->writing == SIM_NONE && chance(world, 15))
      babble(world, index);
    if (may_submit(world, client)) {
      start_request(world, index);
      client->next_submit_ns =
          world->now_ns + (chance(world, 50) ? 0 : between(world, 0, 100) * SIM_MS);
    }
    if (client->writing != SIM_NONE)
      write_on(world, client);
    if (client->writing == SIM_NONE && world->request_count && !world->healed && chance(world, 4))
      maybe_take_back(world, index);
    if (world->now_ns >= client->next_read_ns) {
      read_replies(world, index);
      client->next_read_ns = world->now_ns + client->read_interval_ns;
    }
    note_timeouts(world, index);
  }
  bool hurry = client->alive && client->writing != SIM_NONE;
  if (hurry)
    next_ns = world->now_ns + between(world, 1, 200) * 5 * SIM_US;
  else if (world->healed && client->left == 0 && !world->probed &&
           world->now_ns > world->heal_ns + 4 * SIM_S)
    next_ns = world->probe_ns; /* nothing happens until then */
  sim_world_schedule(world, &world->agenda, next_ns, SIM_EVENT_CLIENT, index);
}

/* A question that must be answered: everybody is well again. */
void sim_client_probe(struct sim_world *world, uint32_t index)
{
  struct sim_client *client = &world->clients[index];
  if (!client->alive || client->writing != SIM_NONE) {
    sim_fail(world, "stuck-client", "client %u could not write its last request", index);
    return;
  }
  if (world->request_count == SIM_REQUESTS_MAX)
    return;
  struct sim_request *request = new_request(world, index);
  request->probe = true;
  request->bad = false;
  request->kind = BUS_LLM_CHAT;
  request->doubtful = false;
  request->flags &= (uint8_t)~BUS_LLM_MESSAGES;
  request->class_index = index % world->config.class_count;
  request->deadline_ns = world->now_ns + 60 * SIM_S;
  request->timeout_ns = request->deadline_ns + SIM_S;
  draw_text(world, request, (uint32_t)(request - world->requests));
  client->writing = (uint32_t)(request - world->requests);
  client->written_bytes = 0;
  client->outstanding_slots += request->reply_slots;
  sim_log(world, "client %u probes with request %u", index, client->writing);
}
