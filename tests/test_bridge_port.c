/* One client and one bridge on shared memory. The client checks each final reply: whole, of one
 * life of the bridge, and the only one of its request. */
#include "consumers/bridge_port.h"

#include <criterion/criterion.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define RECORD_BYTES    192u
#define SLOT_TEXT       (RECORD_BYTES - BUS_LLM_HEADER_BYTES - 8u)
#define DEPTH           8u
#define TABLE_COUNT     3u
#define ENTRY_BYTES     448u
#define RING_BYTES      (BUS_RING_HEADER_BYTES + DEPTH * RECORD_BYTES)
#define MEMORY_BYTES    (TABLE_COUNT * ENTRY_BYTES + 2 * RING_BYTES + 2 * 128u)
#define BRIDGE_INSTANCE 5u
#define CLIENT_INSTANCE 6u
#define TEXT_MAX        300u

static const struct bus_entry ring_entry = {.type = BUS_OBJECT_RING,
                                            .record_size = RECORD_BYTES,
                                            .depth = DEPTH,
                                            .policy = BUS_POLICY_WAIT};

struct world {
  uint64_t random;
  uint32_t life;   /* of the bridge: its replies' epoch */
  uint32_t nested; /* kills within kills */
  char *memory;
  struct bus_bridge_table table;
  char *reply_ring, *request_ring;
  struct bus_position *bridge_position, *client_position;
  /* The bridge's private memory. */
  struct bus_bridge_port port;
  struct bus_consumer requests;
  struct bus_producer replies;
  /* The client's. */
  struct bus_producer submit;
  struct bus_consumer read;
  uint64_t id;       /* of the message that is being submitted, or the last one */
  uint32_t fragment; /* of it, to submit next; 0: none begun */
  uint8_t *answered; /* by id */
  struct bus_llm_reply first;
  uint32_t fragments; /* of the reply that is being read */
  char text[TEXT_MAX];
};

static uint64_t next_random(struct world *world)
{
  uint64_t x = world->random;
  x ^= x << 13;
  x ^= x >> 7;
  x ^= x << 17;
  return world->random = x;
}

static char letter(uint64_t id, uint32_t life, uint32_t at)
{
  return (char)('a' + (id * 31 + life * 7u + at) % 26);
}

static uint32_t request_bytes(uint64_t id)
{
  return (uint32_t)(id * 37 % 240); /* some do not fit in the entry */
}

static uint32_t reply_bytes(uint64_t id, uint32_t life)
{
  return (uint32_t)((id * 41 + life * 11u) % TEXT_MAX);
}

static uint16_t reply_slots(uint64_t id)
{
  return (uint16_t)(id % 6); /* 1..4 is what the bridge makes of it */
}

/* ---- the client ---- */

static void client_start(struct world *world)
{
  bus_producer_init(&world->submit, world->request_ring, &ring_entry, CLIENT_INSTANCE);
  bus_producer_connect(&world->submit, world->bridge_position, BRIDGE_INSTANCE);
  bus_consumer_init(&world->read, world->reply_ring, &ring_entry, BRIDGE_INSTANCE,
                    world->client_position, 0);
}

/* Submits a fragment as it is given; the text is its own. */
static bool submit_fragment(struct world *world, const struct bus_llm_request *request)
{
  char *slot = bus_producer_reserve(&world->submit);
  if (!slot)
    return false;
  memcpy(slot, request, sizeof *request);
  for (uint32_t i = 0; i < request->fragment_bytes && i < SLOT_TEXT; i++)
    slot[BUS_LLM_HEADER_BYTES + i] = letter(request->id, 0, request->text_offset + i);
  bus_producer_commit(&world->submit);
  return true;
}

static struct bus_llm_request request_fragment(uint64_t id, uint32_t text_bytes, uint32_t fragment)
{
  struct bus_llm_request request = {.id = id, .text_bytes = text_bytes, .kind = BUS_LLM_CHAT};
  request.fragment = (uint16_t)fragment;
  request.fragments = (uint16_t)bus_llm_slots(text_bytes, RECORD_BYTES);
  request.text_offset = fragment * SLOT_TEXT;
  const uint32_t rest = text_bytes - request.text_offset;
  request.fragment_bytes = rest < SLOT_TEXT ? rest : SLOT_TEXT;
  request.reply_slots = reply_slots(id);
  strcpy(request.class_name, "any");
  return request;
}

/* Submits one fragment more. */
static bool client_submit(struct world *world)
{
  const uint64_t id = world->fragment ? world->id : world->id + 1;
  struct bus_llm_request request = request_fragment(id, request_bytes(id), world->fragment);
  if (!submit_fragment(world, &request))
    return false;
  world->id = id;
  world->fragment = request.fragment + 1u == request.fragments ? 0 : world->fragment + 1;
  return true;
}

static void check_final(struct world *world)
{
  const struct bus_llm_reply *reply = &world->first;
  const uint32_t whole = reply_bytes(reply->id, reply->epoch);
  uint32_t slots = reply_slots(reply->id);
  slots = slots < 1 ? 1 : slots > DEPTH / 2 ? DEPTH / 2 : slots;
  const bool cut = whole > slots * SLOT_TEXT;
  cr_assert_eq(reply->text_bytes, cut ? slots * SLOT_TEXT : whole);
  cr_assert_eq(!!(reply->flags & BUS_LLM_CUT), cut);
  cr_assert_eq(reply->status, cut ? BUS_LLM_LENGTH : BUS_LLM_OK);
  for (uint32_t i = 0; i < reply->text_bytes; i++)
    cr_assert_eq(world->text[i], letter(reply->id, reply->epoch, i));
  cr_assert(reply->id >= 1 && reply->id <= world->id);
  cr_assert_eq(world->answered[reply->id], 0, "request %lu is answered twice",
               (unsigned long)reply->id);
  world->answered[reply->id] = 1;
}

/* Reads one slot: a fragment 0 throws away what was begun. */
static bool client_read(struct world *world)
{
  struct bus_llm_reply reply;
  const char *slot = bus_consumer_poll(&world->read);
  if (!slot)
    return false;
  memcpy(&reply, slot, sizeof reply);
  if (reply.fragment == 0) {
    world->first = reply;
    world->fragments = 0;
  }
  cr_assert_eq(reply.id, world->first.id);
  cr_assert_eq(reply.epoch, world->first.epoch);
  cr_assert_eq(reply.fragment, world->fragments);
  if (reply.kind == BUS_LLM_FINAL) {
    cr_assert_leq(reply.text_offset + reply.fragment_bytes, TEXT_MAX);
    memcpy(world->text + reply.text_offset, slot + BUS_LLM_HEADER_BYTES, reply.fragment_bytes);
  }
  world->fragments++;
  bus_consumer_release_batch(&world->read, 1);
  if (reply.kind == BUS_LLM_FINAL && world->fragments == reply.fragments)
    check_final(world);
  return true;
}

/* ---- the bridge ---- */

static void bridge_attach(struct world *world)
{
  bus_consumer_init(&world->requests, world->request_ring, &ring_entry, CLIENT_INSTANCE,
                    world->bridge_position, 0);
  bus_producer_connect(&world->replies, world->client_position, CLIENT_INSTANCE);
  world->port.requests = &world->requests;
  world->port.instance = CLIENT_INSTANCE;
}

static void bridge_start(struct world *world, void (*transition)(void *))
{
  uint32_t damaged;
  bus_producer_init(&world->replies, world->reply_ring, &ring_entry, BRIDGE_INSTANCE);
  memset(&world->port, 0, sizeof world->port);
  strcpy(world->port.client, "trader");
  world->port.replies = &world->replies;
  world->port.position = world->bridge_position;
  world->port.transition = transition;
  world->port.transition_context = world;
  bus_bridge_table_check(&world->table, &damaged);
  cr_assert_eq(damaged, 0);
  for (uint32_t i = 0; i < TABLE_COUNT; i++)
    bus_bridge_port_recover(&world->port, bus_bridge_table_at(&world->table, i));
}

static struct bus_bridge_entry *free_entry(struct world *world)
{
  for (uint32_t i = 0; i < TABLE_COUNT; i++) {
    struct bus_bridge_entry *entry = bus_bridge_table_at(&world->table, i);
    if (entry->state == BUS_BRIDGE_FREE)
      return entry;
  }
  return NULL;
}

static uint32_t bridge_take(struct world *world)
{
  struct bus_llm_request request;
  bool valid;
  struct bus_bridge_entry *entry = free_entry(world);
  uint32_t found = bus_bridge_port_take(&world->port, &world->table, entry, 9, &request, &valid);
  if (found == BUS_BRIDGE_INTAKE_CANCEL)
    bus_bridge_port_cancel_done(&world->port);
  if (found == BUS_BRIDGE_INTAKE_REQUEST) {
    cr_assert_eq(valid, request.text_bytes <= ENTRY_BYTES - BUS_BRIDGE_ENTRY_HEADER_BYTES);
    for (uint32_t i = 0; i < entry->text_bytes; i++)
      cr_assert_eq(entry->text[i], letter(request.id, 0, i));
  }
  return found;
}

/* One step of one entry on its way. */
static void bridge_step(struct world *world, struct bus_bridge_entry *entry)
{
  char text[TEXT_MAX];
  struct bus_llm_reply reply = {.id = entry->request.id, .epoch = world->life};
  if (entry->state == BUS_BRIDGE_CLAIMED || entry->state == BUS_BRIDGE_DISPATCHED) {
    bus_bridge_entry_set(entry, entry->state + 1);
    if (world->port.transition)
      world->port.transition(world);
  } else if (entry->state == BUS_BRIDGE_DONE) {
    const uint32_t bytes = reply_bytes(reply.id, world->life);
    for (uint32_t i = 0; i < bytes; i++)
      text[i] = letter(reply.id, world->life, i);
    reply.status = BUS_LLM_OK;
    bus_bridge_port_final(&world->port, entry, &reply, text, bytes);
  }
}

static void bridge_partial(struct world *world, const struct bus_bridge_entry *entry)
{
  const struct bus_llm_reply reply = {.id = entry->request.id, .epoch = world->life};
  if (entry->state == BUS_BRIDGE_DISPATCHED)
    bus_bridge_port_partial(&world->port, &reply, "a piece", 7);
}

/* ---- the world ---- */

static void world_map(struct world *world, char *memory)
{
  world->memory = memory;
  world->table = (struct bus_bridge_table){memory, TABLE_COUNT, ENTRY_BYTES};
  world->reply_ring = memory + TABLE_COUNT * ENTRY_BYTES;
  world->request_ring = world->reply_ring + RING_BYTES;
  world->bridge_position = (struct bus_position *)(void *)(world->request_ring + RING_BYTES);
  world->client_position = world->bridge_position + 1;
}

static void world_open(struct world *world, char *memory, uint8_t *answered, uint64_t start)
{
  memset(world, 0, sizeof *world);
  world->random = start * 2 + 0x9e3779b97f4a7c15u;
  world->answered = answered;
  world_map(world, memory);
  memset(memory, 0, MEMORY_BYTES);
  bus_ring_format(world->reply_ring, &ring_entry, start);
  bus_ring_format(world->request_ring, &ring_entry, 0 - start);
  client_start(world);
}

static char *heap(void)
{
  char *memory = aligned_alloc(128, BUS_ALIGN_UP((size_t)MEMORY_BYTES, (size_t)128));
  cr_assert_not_null(memory);
  return memory;
}

/* Everything that was submitted whole is answered once. The client's file may come late. */
static void world_finish(struct world *world, bool late)
{
  bool busy = true;
  for (uint32_t round = 0; busy && round < 1000; round++) {
    if (!late || round == 8)
      if (!world->port.requests)
        bridge_attach(world);
    while (world->fragment && client_submit(world))
      ;
    while (client_read(world))
      ;
    busy = bridge_take(world) != BUS_BRIDGE_INTAKE_NONE || world->fragment || round < 16;
    for (uint32_t i = 0; i < TABLE_COUNT; i++) {
      struct bus_bridge_entry *entry = bus_bridge_table_at(&world->table, i);
      busy |= entry->state != BUS_BRIDGE_FREE;
      bridge_step(world, entry);
    }
  }
  cr_assert_not(busy, "something is never answered");
  while (client_read(world))
    ;
  for (uint64_t id = 1; id <= world->id; id++)
    cr_assert_eq(world->answered[id], 1, "request %lu is lost", (unsigned long)id);
  cr_assert_eq(world->port.reserved_slots, 0);
  cr_assert_eq(world->port.invalid, 0);
}

#define IDS_MAX 64u

/* Kills the bridge here and lets a successor finish, on copies of all memory. */
static void kill_here(void *context)
{
  struct world *world = context;
  uint8_t answered[IDS_MAX];
  if (world->nested == 3 || (world->nested && next_random(world) % 16))
    return;
  struct world copy = *world;
  world_map(&copy, heap());
  memcpy(copy.memory, world->memory, MEMORY_BYTES);
  memcpy(answered, world->answered, sizeof answered);
  copy.answered = answered;
  copy.nested++;
  copy.life++;
  client_start(&copy);
  const bool late = next_random(world) % 2;
  bridge_start(&copy, kill_here);
  world_finish(&copy, late);
  free(copy.memory);
}

Test(bridge_port, a_kill_at_any_step_loses_no_request_and_answers_none_twice, .timeout = 250)
{
  for (uint64_t seed = 0; seed < 2000; seed++) {
    struct world world;
    uint8_t answered[IDS_MAX] = {0};
    char *memory = heap();
    world_open(&world, memory, answered, seed % 3 ? seed : 0 - seed % 50);
    bridge_start(&world, kill_here);
    bridge_attach(&world);
    for (uint32_t step = 0; step < 60; step++) {
      struct bus_bridge_entry *entry =
          bus_bridge_table_at(&world.table, next_random(&world) % TABLE_COUNT);
      switch (next_random(&world) % 6) {
      case 0:
      case 1:
        client_submit(&world);
        break;
      case 2:
        client_read(&world);
        break;
      case 3:
        bridge_take(&world);
        break;
      case 4:
        bridge_partial(&world, entry);
        break;
      default:
        bridge_step(&world, entry);
      }
    }
    world_finish(&world, false);
    free(memory);
  }
}

/* ---- a real process, really killed ---- */

#define LIVES    2000u
#define KILL_IDS ((size_t)1 << 22)

static void bridge_run_for_ever(struct world *world)
{
  bridge_start(world, NULL);
  bridge_attach(world);
  for (;;) {
    bridge_take(world);
    for (uint32_t i = 0; i < TABLE_COUNT; i++) {
      bridge_partial(world, bus_bridge_table_at(&world->table, i));
      bridge_step(world, bus_bridge_table_at(&world->table, i));
    }
  }
}

Test(bridge_port, a_process_killed_at_random_instants_loses_nothing, .timeout = 250)
{
  struct world world;
  char *memory =
      mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  uint8_t *answered = calloc(KILL_IDS, 1);
  cr_assert(memory != MAP_FAILED && answered);
  world_open(&world, memory, answered, 1);
  for (; world.life < LIVES; world.life++) {
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0)
      bridge_run_for_ever(&world);
    /* So many slots are read from this life, then so many steps more. */
    uint64_t wanted = next_random(&world) % 8, steps = next_random(&world) % 300;
    while (wanted || steps--) {
      if (world.id < KILL_IDS - 1)
        client_submit(&world);
      if (client_read(&world))
        wanted -= wanted > 0;
      steps += wanted > 0;
      cr_assert_eq(waitpid(child, NULL, WNOHANG), 0, "the bridge died by itself");
    }
    kill(child, SIGKILL);
    cr_assert_eq(waitpid(child, NULL, 0), child);
  }
  bridge_start(&world, NULL);
  world_finish(&world, true);
  cr_assert_gt(world.id, LIVES / 10);
  munmap(memory, MEMORY_BYTES);
  free(answered);
}

/* ---- clients that break the rules ---- */

static struct world world;
static uint8_t answers[IDS_MAX];

static void open_fresh(void)
{
  world_open(&world, heap(), answers, 0);
  bridge_start(&world, NULL);
  bridge_attach(&world);
}

static void close_fresh(void)
{
  free(world.memory);
}

static void must_submit(struct bus_llm_request request)
{
  cr_assert(submit_fragment(&world, &request));
}

Test(bridge_port, skips_what_can_never_be_whole, .init = open_fresh, .fini = close_fresh)
{
  must_submit(request_fragment(1, 150, 0)); /* the client dies in the middle of three */
  must_submit(request_fragment(1, 150, 1));
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_NONE);
  cr_assert_eq(world.bridge_position->position, 0); /* nothing is taken before it is whole */
  must_submit(request_fragment(2, 10, 0));          /* its successor goes on */
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
  cr_assert_eq(bus_bridge_table_at(&world.table, 0)->request.id, 2);
  cr_assert_eq(world.port.invalid, 2);
  cr_assert_eq(world.bridge_position->position, 3);
  must_submit(request_fragment(3, 150, 1));                     /* a tail alone */
  must_submit(request_fragment(4, SLOT_TEXT * (DEPTH + 1), 0)); /* more than the ring holds */
  must_submit(request_fragment(4, SLOT_TEXT * (DEPTH + 1), 1));
  must_submit(request_fragment(0, 10, 0));
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_NONE);
  cr_assert_eq(world.port.invalid, 6);
  cr_assert_eq(world.bridge_position->position, 7);
}

Test(bridge_port, a_message_of_the_whole_ring_is_taken, .init = open_fresh, .fini = close_fresh)
{
  for (uint32_t i = 0; i < DEPTH; i++) {
    cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_NONE);
    must_submit(request_fragment(1, SLOT_TEXT * DEPTH, i));
  }
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
  const struct bus_bridge_entry *entry = bus_bridge_table_at(&world.table, 0);
  cr_assert(entry->refused && entry->text_bytes == 0); /* the entry is smaller */
}

Test(bridge_port, refuses_each_header_that_contradicts_itself, .init = open_fresh,
     .fini = close_fresh)
{
#define SKIPPED(change)                                                                            \
  do {                                                                                             \
    const uint64_t before = world.port.invalid;                                                    \
    struct bus_llm_request request = request_fragment(1, 10, 0);                                   \
    change;                                                                                        \
    must_submit(request);                                                                          \
    cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_NONE, #change);                            \
    cr_assert_eq(world.port.invalid, before + 1, #change);                                         \
  } while (0)
  SKIPPED(request.id = 0);
  SKIPPED(request.fragments = 0);
  SKIPPED(request.fragments = UINT16_MAX);
  SKIPPED(request.fragment = 1);
  SKIPPED(request.text_offset = 1);
  SKIPPED(request.fragment_bytes = 9);
  SKIPPED(request.text_bytes = UINT32_MAX);
  SKIPPED(request.fragment_bytes = request.text_bytes = SLOT_TEXT + 1);
  SKIPPED(request.fragment_bytes = request.text_bytes = UINT32_MAX);
  SKIPPED(request.fragments = 2);
  SKIPPED((request.fragments = 2, request.fragment_bytes = 0));
  SKIPPED((request = request_fragment(1, 60, 0), request.kind = BUS_LLM_CANCEL));
#undef SKIPPED
}

Test(bridge_port, claims_what_it_answers_with_bad_request, .init = open_fresh, .fini = close_fresh)
{
  struct bus_llm_request request, taken;
  bool valid = true;
  for (uint32_t i = 0; i < TABLE_COUNT; i++) {
    struct bus_bridge_entry *entry = bus_bridge_table_at(&world.table, i);
    request = request_fragment(1 + i, 10, 0);
    if (i == 0)
      request.kind = 99;
    else if (i == 1)
      memset(request.class_name, 'x', sizeof request.class_name);
    else
      request.temperature = NAN;
    must_submit(request);
    cr_assert_eq(bus_bridge_port_take(&world.port, &world.table, entry, 9, &taken, &valid),
                 BUS_BRIDGE_INTAKE_REQUEST);
    cr_assert(!valid && entry->refused == 1 && entry->accepted_ns == 9);
    cr_assert_eq(entry->request.class_name[BUS_LLM_NAME_BYTES - 1], 0);
  }
  uint32_t damaged;
  bus_bridge_table_check(&world.table, &damaged);
  cr_assert_eq(damaged, 0);
}

Test(bridge_port, a_text_that_changes_after_the_check_is_not_used, .init = open_fresh,
     .fini = close_fresh)
{
  struct bus_llm_request taken;
  bool valid;
  must_submit(request_fragment(1, 100, 0));
  must_submit(request_fragment(1, 100, 1));
  cr_assert_eq(bus_bridge_port_take(&world.port, &world.table, NULL, 9, &taken, &valid),
               BUS_BRIDGE_INTAKE_NONE); /* gathered; no entry is free */
  struct bus_llm_request *second =
      (void *)(world.request_ring + BUS_RING_HEADER_BYTES + RECORD_BYTES);
  second->fragment_bytes = UINT32_MAX;
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_NONE);
  cr_assert_eq(world.port.invalid, 2);
  cr_assert_eq(bus_bridge_table_at(&world.table, 0)->state, BUS_BRIDGE_FREE);
}

Test(bridge_port, a_cancel_stays_until_it_is_noted, .init = open_fresh, .fini = close_fresh)
{
  struct bus_llm_request request = {.id = 8, .kind = BUS_LLM_CANCEL, .fragments = 1}, taken;
  bool valid;
  must_submit(request);
  must_submit(request_fragment(9, 10, 0));
  bus_bridge_port_cancel_done(&world.port); /* none was returned: nothing is released */
  for (int i = 0; i < 2; i++) {
    cr_assert_eq(bus_bridge_port_take(&world.port, &world.table, NULL, 9, &taken, &valid),
                 BUS_BRIDGE_INTAKE_CANCEL);
    cr_assert_eq(taken.id, 8);
  }
  bus_bridge_port_cancel_done(&world.port);
  bus_bridge_port_cancel_done(&world.port);
  cr_assert_eq(world.bridge_position->position, 1);
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
}

Test(bridge_port, partial_replies_leave_the_reserved_room, .init = open_fresh, .fini = close_fresh)
{
  struct bus_llm_request request = request_fragment(4, 10, 0); /* four slots for its reply */
  struct bus_llm_reply reply = {.id = 4, .text_offset = 100};
  char text[SLOT_TEXT + 3];
  memset(text, 'x', sizeof text);
  memcpy(text + SLOT_TEXT - 1, "\xe2\x82\xac", 3); /* would be cut behind its first byte */
  must_submit(request);
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
  cr_assert_eq(bus_bridge_port_partial(&world.port, &reply, text, sizeof text), BUS_OK);
  cr_assert_eq(world.replies.next, 2);
  const struct bus_llm_reply *pieces[2] = {bus_consumer_peek(&world.read, 0),
                                           bus_consumer_peek(&world.read, 1)};
  cr_assert_eq(pieces[0]->fragment_bytes, SLOT_TEXT - 1);
  cr_assert_eq(pieces[1]->fragment_bytes, 4);
  cr_assert_eq(pieces[1]->text_offset, 100 + SLOT_TEXT - 1);
  cr_assert_eq(bus_bridge_port_partial(&world.port, &reply, text, sizeof text), BUS_ERROR_AGAIN);
  cr_assert_eq(bus_bridge_port_partial(&world.port, &reply, NULL, 0), BUS_OK);
  cr_assert_eq(bus_bridge_port_partial(&world.port, &reply, NULL, 0), BUS_ERROR_AGAIN);
  cr_assert_eq(world.replies.next, 3);      /* 4 reserved and an eighth of 8 are free */
  must_submit(request_fragment(10, 10, 0)); /* wants four more */
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_NONE);
  bus_consumer_release_batch(&world.read, 3);
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
}

Test(bridge_port, a_successor_reserves_the_room_again, .init = open_fresh, .fini = close_fresh)
{
  must_submit(request_fragment(4, 10, 0));
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
  bridge_start(&world, NULL);
  cr_assert_eq(world.port.reserved_slots, 4);
  bus_bridge_table_at(&world.table, 0)->request.reply_slots = UINT16_MAX; /* nonsense in the file */
  bridge_start(&world, NULL);
  cr_assert_eq(world.port.reserved_slots, DEPTH / 2);
}

Test(bridge_port, drops_what_nobody_waits_for, .init = open_fresh, .fini = close_fresh)
{
  struct bus_bridge_entry *entry = bus_bridge_table_at(&world.table, 0);
  must_submit(request_fragment(3, 10, 0));
  cr_assert_eq(bridge_take(&world), BUS_BRIDGE_INTAKE_REQUEST);
  cr_assert_eq(world.port.reserved_slots, 3);
  bus_bridge_port_drop(&world.port, entry);
  bus_bridge_port_drop(&world.port, entry);
  cr_assert_eq(entry->state, BUS_BRIDGE_FREE);
  cr_assert_eq(world.port.reserved_slots, 0);
}

static bool scribbling;

static void *scribble(void *argument)
{
  uint64_t random = 88172645463325252u;
  (void)argument;
  while (BUS_LOAD_RELAXED(&scribbling)) {
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    /* Any word of the lengths, counts and kind of any slot. */
    char *slot = world.request_ring + BUS_RING_HEADER_BYTES + random % DEPTH * RECORD_BYTES;
    uint64_t *word = (void *)(slot + 24 + (random >> 8) % 3 * 8);
    BUS_STORE_RELAXED(word, random >> 20 & (random & 4096 ? 0x0000003f0000003fu : UINT64_MAX));
  }
  return NULL;
}

Test(bridge_port, fields_that_change_under_the_reader_do_no_harm, .init = open_fresh,
     .fini = close_fresh)
{
  pthread_t thread;
  struct bus_llm_request request;
  bool valid;
  scribbling = true;
  cr_assert_eq(pthread_create(&thread, NULL, scribble, NULL), 0);
  uint64_t submitted = 0;
  for (uint32_t i = 0; i < 300000; i++) {
    request = request_fragment(1 + i / 2, 100, i % 2);
    submitted += submit_fragment(&world, &request);
    struct bus_bridge_entry *entry = free_entry(&world);
    uint32_t found = bus_bridge_port_take(&world.port, &world.table, entry, 9, &request, &valid);
    if (found == BUS_BRIDGE_INTAKE_CANCEL)
      bus_bridge_port_cancel_done(&world.port);
    if (found == BUS_BRIDGE_INTAKE_REQUEST) {
      uint32_t damaged;
      bus_bridge_table_check(&world.table, &damaged);
      cr_assert_eq(damaged, 0);
      bus_bridge_port_drop(&world.port, entry);
    }
  }
  BUS_STORE_RELAXED(&scribbling, false);
  pthread_join(thread, NULL);
  cr_assert_gt(submitted, 1000);
  cr_assert_eq(world.port.reserved_slots, 0);
}
