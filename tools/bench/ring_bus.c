/* The signal bus's own ring, between two members made and attached as every member is: the leader's
 * file holds the ring, the follower's file its position, and each maps the other's read-only. */
#include "shm/member.h"
#include "shm/subscription.h"
#include "tools/bench/ring_loops.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static const char *const role_names[] = {"leader", "follower"};

/* One member with the rings that it writes and those that it reads. */
struct party {
  struct bus_producer producers[RING_RINGS_MAX];
  struct bus_member *member;
  struct bus_backlink backlinks[RING_RINGS_MAX];
  struct bus_subscription subscriptions[RING_RINGS_MAX];
  char names[2][RING_RINGS_MAX][BUS_NAME_BYTES]; /* of the rings, by role of the writer */
};

/* What ring_bus_many polls. */
struct sweep {
  struct bus_consumer *consumers[RING_RINGS_MAX];
  uint32_t ring; /* polled next */
  uint32_t mask; /* rings - 1 */
};

/* What ring_bus_many sends to: message n to ring n & mask. */
struct spray {
  struct bus_producer *producers;
  uint64_t mask;
};

struct party_memory {
  struct party party;
  struct sweep sweep;
  struct spray spray;
};

static uint32_t record_size(const struct ring_trial *trial)
{
  uint32_t bytes = ring_size_bytes(trial->size);
  return bytes < BUS_CACHE_LINE_BYTES ? BUS_CACHE_LINE_BYTES : bytes;
}

/* Does `role` write rings in this workload? */
static bool sends(const struct ring_trial *trial, enum ring_role role)
{
  return role == RING_LEADER || trial->workload == RING_ROUND_TRIP;
}

static int new_member(struct party *party, const struct ring_side *side)
{
  const struct ring_trial *trial = side->trial;
  struct bus_object_spec objects[2 * RING_RINGS_MAX];
  uint32_t count = 0;
  for (uint32_t ring = 0; ring < trial->rings; ring++) {
    for (int writer = RING_LEADER; writer <= RING_FOLLOWER; writer++) {
      if (!sends(trial, (enum ring_role)writer))
        continue;
      snprintf(party->names[writer][ring], BUS_NAME_BYTES, "%s%u", role_names[writer], ring);
      objects[count++] = writer == (int)side->role
                             ? (struct bus_object_spec){.type = BUS_OBJECT_RING,
                                                        .name = party->names[writer][ring],
                                                        .peer = role_names[!writer],
                                                        .record_type = BUS_RECORD_RAW,
                                                        .record_size = record_size(trial),
                                                        .policy = BUS_POLICY_WAIT,
                                                        .depth = trial->depth}
                             : (struct bus_object_spec){.type = BUS_OBJECT_POSITION,
                                                        .name = party->names[writer][ring],
                                                        .peer = role_names[writer]};
    }
  }
  struct bus_member_config config = {.directory = trial->directory,
                                     .name = role_names[side->role],
                                     .kind = "bench",
                                     .objects = objects,
                                     .object_count = count,
                                     .takeover = BUS_TAKEOVER_NEVER,
                                     .numa_node = -1,
                                     .core = -1,
                                     .small_pages = trial->small_pages};
  int error = bus_member_new(&config, &party->member);
  if (!error)
    bus_member_run(party->member);
  return error;
}

static int describe_ties(struct party *party, const struct ring_side *side)
{
  const struct ring_trial *trial = side->trial;
  const char *peer = role_names[!side->role];
  int error = BUS_OK;
  for (uint32_t i = 0; i < trial->rings && !error; i++) {
    if (sends(trial, side->role)) {
      const char *name = party->names[side->role][i];
      const struct bus_entry *entry = bus_member_entry(party->member, BUS_OBJECT_RING, name);
      bus_producer_init(&party->producers[i],
                        bus_member_object(party->member, BUS_OBJECT_RING, name), entry,
                        bus_member_header(party->member)->instance);
      error = bus_backlink_init(&party->backlinks[i], trial->directory, role_names[side->role],
                                entry, &party->producers[i]);
    }
    if (!error && sends(trial, (enum ring_role) !side->role)) {
      const char *name = party->names[!side->role][i];
      error = bus_subscription_init(&party->subscriptions[i], trial->directory, peer, name,
                                    BUS_RECORD_RAW, record_size(trial), party->member);
    }
  }
  return error;
}

static bool is_waiting(int status)
{
  return status == BUS_ERROR_ABSENT || status == BUS_ERROR_NOT_READY;
}

/* Attaches everything that is there by now: BUS_OK, BUS_ERROR_ABSENT to try again, or an error. */
static int attach(struct party *party, const struct ring_side *side)
{
  const struct ring_trial *trial = side->trial;
  for (uint32_t i = 0; i < trial->rings; i++) {
    int status = BUS_OK;
    if (sends(trial, side->role))
      status = bus_backlink_maintain(&party->backlinks[i]);
    if (status >= 0 && sends(trial, (enum ring_role) !side->role))
      status = bus_subscription_maintain(&party->subscriptions[i], 0);
    if (status < 0)
      return is_waiting(status) ? BUS_ERROR_ABSENT : status;
  }
  return BUS_OK;
}

static int attach_all(struct party *party, struct ring_side *side)
{
  for (;;) {
    int error = attach(party, side);
    if (error != BUS_ERROR_ABSENT)
      return error;
    if (ring_has_to_stop(side))
      return BUS_ERROR_AGAIN;
    struct timespec pause = {0, 100000};
    nanosleep(&pause, NULL);
  }
}

static void close_party(struct ring_side *side)
{
  struct party_memory *memory = side->owned;
  if (!memory)
    return;
  for (uint32_t i = 0; i < side->trial->rings; i++) {
    bus_subscription_close(&memory->party.subscriptions[i]);
    bus_backlink_close(&memory->party.backlinks[i]);
  }
  bus_member_leave(memory->party.member, BUS_STATE_HALT);
  free(memory);
  side->owned = NULL;
}

static int open_party(struct ring_side *side)
{
  struct party_memory *memory =
      aligned_alloc(BUS_FALSE_SHARING_BYTES, BUS_ALIGN_UP(sizeof *memory, 128u));
  if (!memory)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  *memory = (struct party_memory){0};
  side->owned = memory;
  int error = new_member(&memory->party, side);
  if (!error)
    error = describe_ties(&memory->party, side);
  if (!error)
    error = attach_all(&memory->party, side);
  side->tx = memory->party.producers;
  side->rx = &memory->party.subscriptions[0].consumer;
  return error;
}

static int open_sweep(struct ring_side *side)
{
  int error = open_party(side);
  struct party_memory *memory = side->owned;
  if (error)
    return error;
  uint32_t rings = side->trial->rings;
  for (uint32_t i = 0; i < rings; i++)
    memory->sweep.consumers[i] = &memory->party.subscriptions[i].consumer;
  memory->sweep.mask = rings - 1;
  memory->spray.producers = memory->party.producers;
  memory->spray.mask = rings - 1;
  side->tx = &memory->spray;
  side->rx = &memory->sweep;
  return BUS_OK;
}

/* ---- the measured operations ---- */

static BUS_ALWAYS_INLINE uint64_t publish(struct bus_producer *producer, const uint64_t *message,
                                          uint64_t words)
{
  void *slot = bus_producer_reserve(producer);
  if (!slot)
    return 0;
  /* The number of a message is its stamp; where there is but one word it is sent as well. */
  memcpy(slot, message, (words > 1 ? words - 1 : 1) * sizeof *message);
  bus_producer_commit(producer);
  return 1;
}

static BUS_ALWAYS_INLINE uint64_t consume(struct bus_consumer *consumer, struct ring_check *check,
                                          uint64_t words)
{
  const void *slot = bus_consumer_poll(consumer);
  if (!slot)
    return 0;
  ring_check_message(check, slot, words, words > 1 ? consumer->next + 1 : ring_table_last(check));
  bus_consumer_release(consumer);
  check->next++;
  return 1;
}

/* Ring after ring, once around at most: as in a member's loop, what was in vain is a whole round.
 */
static BUS_ALWAYS_INLINE uint64_t sweep(struct sweep *sweep, struct ring_check *check,
                                        uint64_t words)
{
  for (uint32_t polled = 0; polled <= sweep->mask; polled++) {
    struct bus_consumer *consumer = sweep->consumers[sweep->ring];
    sweep->ring = (sweep->ring + 1) & sweep->mask;
    if (consume(consumer, check, words))
      return 1;
  }
  return 0;
}

#define DEFINE_SIZE(words)                                                                         \
  static BUS_ALWAYS_INLINE uint64_t push_##words(void *tx, const uint64_t *messages,               \
                                                 uint64_t number, uint64_t count)                  \
  {                                                                                                \
    (void)number, (void)count;                                                                     \
    return publish(tx, messages, words);                                                           \
  }                                                                                                \
  static BUS_ALWAYS_INLINE uint64_t pop_##words(void *rx, struct ring_check *check)                \
  {                                                                                                \
    return consume(rx, check, words);                                                              \
  }                                                                                                \
  static const struct ring_ops ops_##words = {words, 1, push_##words, pop_##words};                \
  RING_DEFINE_CODE(code_##words, ops_##words)

DEFINE_SIZE(1)
DEFINE_SIZE(8)
DEFINE_SIZE(16)
DEFINE_SIZE(2048)

static BUS_ALWAYS_INLINE uint64_t push_round(void *tx, const uint64_t *messages, uint64_t number,
                                             uint64_t count)
{
  const struct spray *spray = tx;
  (void)count;
  return publish(&spray->producers[number & spray->mask], messages, 8);
}

static BUS_ALWAYS_INLINE uint64_t pop_round(void *rx, struct ring_check *check)
{
  return sweep(rx, check, 8);
}

static const struct ring_ops ops_round = {8, 1, push_round, pop_round};
RING_DEFINE_CODE(code_round, ops_round)

const struct ring_contestant ring_bus = {.name = "signal-bus",
                                         .between_processes = true,
                                         .open = open_party,
                                         .close = close_party,
                                         .code = {&code_1, &code_8, &code_16, &code_2048}};

const struct ring_contestant ring_bus_many = {.name = "signal-bus",
                                              .between_processes = true,
                                              .open = open_sweep,
                                              .close = close_party,
                                              .code = {NULL, &code_round, NULL, NULL}};

int ring_bus_observe(struct ring_trial *trial)
{
  static bus_word record[BUS_RECORD_BYTES_MAX / sizeof(bus_word)];
  struct bus_subscription subscription;
  int error = bus_subscription_init(&subscription, trial->directory, role_names[RING_LEADER],
                                    "leader0", BUS_RECORD_RAW, record_size(trial), NULL);
  while (!error && !BUS_LOAD_ACQUIRE(&trial->done) && !bench_stopped()) {
    if (!subscription.neighbour) {
      int status = bus_subscription_maintain(&subscription, 0);
      if (status < 0 && !is_waiting(status))
        error = status;
      BUS_STORE_RELEASE(&trial->observer_ready, status == 1);
    } else {
      if (bus_observer_poll(&subscription.observer, record) == 1)
        trial->observed++;
      trial->overrun = subscription.observer.lost;
    }
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
  }
  bus_subscription_close(&subscription);
  return error;
}
