#include "consumers/bridge_member.h"

#include "consumers/bridge_transport.h"
#include "shm/doorbell.h"
#include "shm/log.h"
#include "shm/subscription.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define TEXT_BYTES       8192u
#define TEXT_INTERVAL_NS 500000000u
#define SPIN_STEPS       2000u /* that find nothing, before it waits */
#define BACKOFF_WAIT_NS  50000u
#define LONG_WAIT_NS     200000u /* requests come by rings, which wake nobody */
#define OWN_OBJECTS      8u
#define OBJECTS_MAX      (BUS_BRIDGE_METERS_MAX + 2 * BUS_BRIDGE_CLIENTS_MAX + OWN_OBJECTS)
#define RING_NAME_BYTES  (BUS_LLM_NAME_BYTES + sizeof BUS_LLM_REPLY_RING_PREFIX)

BUS_STATIC_ASSERT(OBJECTS_MAX <= BUS_ENTRIES_MAX, "a full configuration fits a member's directory");
BUS_STATIC_ASSERT(sizeof BUS_LLM_REPLY_RING_PREFIX + BUS_LLM_CLIENT_NAME_MAX <= BUS_NAME_BYTES,
                  "a reply ring's name is a name");

/* One client: the two rings between it and the bridge. */
struct client {
  struct bus_subscription requests;
  struct bus_producer replies;
  struct bus_backlink backlink;
  char ring[RING_NAME_BYTES]; /* of the replies */
  uint64_t rung;              /* position up to which the client was woken */
  int refusal;                /* last one that was logged: a negative enum bus_error; 0: none */
};

struct bus_bridge {
  struct bus_bridge_config config;
  struct bus_member_options options;
  struct bus_member *member;
  struct bus_bridge_transport transport;
  struct bus_bridge_core *core;
  struct bus_bridge_meters meters;
  struct bus_loop loop;
  struct client clients[BUS_BRIDGE_CLIENTS_MAX];
  struct bus_bridge_port ports[BUS_BRIDGE_CLIENTS_MAX];
  uint64_t *clients_attached;
  uint32_t idle;        /* enum bus_idle: how this program waits, not its loop */
  uint32_t empty_steps; /* in a row */
  bool waiting;         /* within a step that may wait */
  uint64_t next_text_ns;
  char describe[TEXT_BYTES];
  int result;
};

/* ---- the cycle ---- */

/* How long a step may wait for the first event of a socket. The loop itself never sleeps: that
 * would leave the sockets alone meanwhile. */
static uint64_t wait_ns(const struct bus_bridge *bridge)
{
  if (bridge->idle == BUS_IDLE_SLEEP && bridge->empty_steps)
    return LONG_WAIT_NS;
  if (bridge->idle == BUS_IDLE_SPIN || bridge->empty_steps < SPIN_STEPS)
    return 0;
  return bridge->idle == BUS_IDLE_BACKOFF ? BACKOFF_WAIT_NS : LONG_WAIT_NS;
}

/* The core reads the clock when its wait is over: there the cycle's work begins. */
static uint64_t read_clock(void *context)
{
  struct bus_bridge *bridge = context;
  uint64_t now_ns = bus_clock_now_ns(&bridge->loop.clock);
  if (bridge->waiting)
    bridge->loop.now_ns = now_ns;
  bridge->waiting = false;
  return now_ns;
}

static void wake_clients(struct bus_bridge *bridge)
{
  for (uint32_t i = 0; i < bridge->config.client_count; i++) {
    struct client *client = &bridge->clients[i];
    if (client->replies.next == client->rung)
      continue;
    client->rung = client->replies.next;
    bus_doorbell_ring(&client->replies);
  }
}

static int work(void *context, struct bus_loop *loop)
{
  struct bus_bridge *bridge = context;
  uint64_t wait = wait_ns(bridge);
  bridge->waiting = wait > 0;
  int done = bus_bridge_core_step(bridge->core, loop->now_ns, wait);
  bridge->waiting = false;
  if (done < 0)
    return done;
  bridge->empty_steps = done ? 0 : bridge->empty_steps + (bridge->empty_steps < SPIN_STEPS);
  if (done)
    wake_clients(bridge);
  return done;
}

/* ---- housekeeping ---- */

/* Says once why a client that is there cannot be read; waiting for one that is not is no news. */
static void log_refusal(struct bus_bridge *bridge, struct client *client, int status)
{
  bool refused = status < 0 && status != BUS_ERROR_ABSENT && status != BUS_ERROR_NOT_READY;
  if (refused && status != client->refusal)
    bus_log(BUS_LOG_WARNING, "bus-bridge: %s: %s", bridge->options.name, bus_error_message());
  client->refusal = refused ? status : 0;
}

static bool maintain_client(struct bus_bridge *bridge, uint32_t index)
{
  struct client *client = &bridge->clients[index];
  struct bus_bridge_port *port = &bridge->ports[index];
  int status = bus_subscription_maintain(&client->requests, client->replies.next);
  log_refusal(bridge, client, status);
  port->requests = status >= 0 ? &client->requests.consumer : NULL;
  if (status == 1) {
    port->instance = client->requests.position->ring_instance;
    bus_bridge_core_attached(bridge->core, index);
  }
  bus_backlink_maintain(&client->backlink);
  bus_producer_report(&client->replies);
  return status >= 0;
}

static const char *breaker_name(uint32_t breaker)
{
  static const char *const names[] = {"closed", "open", "canary"};
  return breaker < BUS_COUNT_OF(names) ? names[breaker] : "?";
}

/* What a person sees in `signal-busctl info` and in a dump of the file: on one line. */
static void write_text(struct bus_bridge *bridge)
{
  char text[TEXT_BYTES];
  bus_bridge_transport_print(&bridge->transport, text, sizeof text);
  size_t length = strcspn(text, "\n");
  for (uint32_t i = 0; i < bridge->config.backend_count && length < sizeof text; i++) {
    struct bus_bridge_backend_view view;
    bus_bridge_core_backend(bridge->core, i, &view);
    length += (size_t)snprintf(text + length, sizeof text - length, "; %s %s: %s, %u in flight%s%s",
                               bridge->config.backends[i].name, bridge->config.backends[i].host,
                               breaker_name(view.breaker), view.in_flight,
                               view.reason[0] ? "; last failure: " : "", view.reason);
  }
  bus_member_set_text(bridge->member, BUS_BRIDGE_TEXT_NAME, "%s", text);
}

static int housekeeping(void *context, struct bus_loop *loop)
{
  struct bus_bridge *bridge = context;
  uint64_t attached = 0;
  for (uint32_t i = 0; i < bridge->config.client_count; i++)
    attached += maintain_client(bridge, i);
  bus_counter_set(bridge->clients_attached, attached);
  if (loop->now_ns >= bridge->next_text_ns) {
    bridge->next_text_ns = loop->now_ns + TEXT_INTERVAL_NS;
    write_text(bridge);
  }
  return BUS_OK;
}

/* ---- set-up ---- */

static uint32_t entry_bytes(const struct bus_bridge_config *config)
{
  return (BUS_BRIDGE_ENTRY_HEADER_BYTES + config->request_bytes_max + 63u) & ~63u;
}

static uint32_t list_objects(struct bus_bridge *bridge, struct bus_object_spec *objects,
                             struct bus_bridge_meter_name *names)
{
  const struct bus_bridge_config *config = &bridge->config;
  const struct bus_object_spec own[] = {
      {.type = BUS_OBJECT_TABLE,
       .name = BUS_BRIDGE_TABLE_NAME,
       .record_size = entry_bytes(config),
       .depth = config->requests_max},
      {.type = BUS_OBJECT_TEXT, .name = BUS_BRIDGE_TEXT_NAME, .depth = TEXT_BYTES},
      BUS_LOOP_OBJECTS,
      {.type = BUS_OBJECT_COUNTER, .name = "clients_attached", .unit = "clients"},
  };
  BUS_STATIC_ASSERT(BUS_COUNT_OF(own) <= OWN_OBJECTS, "OBJECTS_MAX counts them");
  uint32_t count = bus_bridge_meters_list(config, objects, names);
  for (uint32_t i = 0; i < BUS_COUNT_OF(own); i++)
    objects[count++] = own[i];
  for (uint32_t i = 0; i < config->client_count; i++) {
    struct client *client = &bridge->clients[i];
    strcpy(stpcpy(client->ring, BUS_LLM_REPLY_RING_PREFIX), config->clients[i]);
    objects[count++] = (struct bus_object_spec){.type = BUS_OBJECT_RING,
                                                .name = client->ring,
                                                .peer = config->clients[i],
                                                .record_type = BUS_RECORD_LLM_REPLY,
                                                .record_size = config->record_bytes,
                                                .policy = BUS_POLICY_WAIT,
                                                .depth = config->reply_depth};
    objects[count++] = (struct bus_object_spec){
        .type = BUS_OBJECT_POSITION, .name = BUS_LLM_REQUEST_RING, .peer = config->clients[i]};
  }
  return count;
}

/* Names and sizes of all objects decide already whether a file is taken over; the identity adds
 * what they do not tell: how much of an entry is text, and the order of clients. */
static uint64_t identity(const struct bus_bridge_config *config)
{
  static const char kind[] = "bridge";
  uint64_t hash = bus_layout_hash_bytes(0xcbf29ce484222325u, kind, sizeof kind);
  hash = bus_layout_hash_bytes(hash, &config->request_bytes_max, sizeof config->request_bytes_max);
  for (uint32_t i = 0; i < config->client_count; i++)
    hash = bus_layout_hash_bytes(hash, config->clients[i], strlen(config->clients[i]) + 1);
  return hash;
}

static int join_bus(struct bus_bridge *bridge)
{
  struct bus_object_spec *objects = calloc(OBJECTS_MAX, sizeof *objects);
  struct bus_bridge_meter_name *names = calloc(BUS_BRIDGE_METERS_MAX, sizeof *names);
  int error = BUS_OK;
  if (!objects || !names) {
    error = bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  } else {
    const struct bus_member_options *options = &bridge->options;
    struct bus_member_config file = {.directory = options->directory,
                                     .name = options->name,
                                     .kind = "bridge",
                                     .objects = objects,
                                     .object_count = list_objects(bridge, objects, names),
                                     .takeover = BUS_TAKEOVER_ALWAYS,
                                     .identity = identity(&bridge->config),
                                     .mode = options->mode,
                                     .numa_node = options->numa_node,
                                     .core = options->core,
                                     .small_pages = options->small_pages};
    error = bus_member_new(&file, &bridge->member);
  }
  free(objects);
  free(names);
  return error;
}

static int open_client(struct bus_bridge *bridge, uint32_t index)
{
  struct client *client = &bridge->clients[index];
  struct bus_bridge_port *port = &bridge->ports[index];
  const char *name = bridge->config.clients[index];
  const struct bus_entry *entry = bus_member_entry(bridge->member, BUS_OBJECT_RING, client->ring);
  bus_producer_init(&client->replies,
                    bus_member_object(bridge->member, BUS_OBJECT_RING, client->ring), entry,
                    bus_member_header(bridge->member)->instance);
  bus_doorbell_install(&client->replies);
  client->rung = client->replies.next;
  snprintf(port->client, sizeof port->client, "%s", name);
  port->position = bus_member_position(bridge->member, name, BUS_LLM_REQUEST_RING);
  port->instance = port->position->ring_instance;
  port->replies = &client->replies;
  int error = bus_backlink_init(&client->backlink, bridge->options.directory, bridge->options.name,
                                entry, &client->replies);
  if (!error)
    error = bus_subscription_init(&client->requests, bridge->options.directory, name,
                                  BUS_LLM_REQUEST_RING, BUS_RECORD_LLM_REQUEST,
                                  bridge->config.record_bytes, bridge->member);
  return error;
}

static int open_core(struct bus_bridge *bridge)
{
  uint64_t seed = bus_clock_ticks();
  if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed)
    seed ^= bridge->loop.random; /* only who waits how long depends on it */
  struct bus_bridge_core_options options = {
      .config = &bridge->config,
      .table = {bus_member_object(bridge->member, BUS_OBJECT_TABLE, BUS_BRIDGE_TABLE_NAME),
                bridge->config.requests_max, entry_bytes(&bridge->config)},
      .ports = bridge->ports,
      .transport = bridge->transport.transport,
      .meters = &bridge->meters,
      .random_seed = seed,
      .epoch = (uint32_t)bus_member_header(bridge->member)->epoch,
      .realtime_offset_ns = bus_clock_realtime_offset_ns(),
      .clock = read_clock,
      .clock_context = bridge};
  return bus_bridge_core_new(&options, bus_clock_now_ns(&bridge->loop.clock), &bridge->core);
}

static void describe(struct bus_bridge *bridge)
{
  bus_bridge_transport_print(&bridge->transport, bridge->describe, sizeof bridge->describe);
  size_t length = strlen(bridge->describe);
  bus_bridge_config_print(&bridge->config, bridge->describe + length,
                          sizeof bridge->describe - length);
}

static int set_up(struct bus_bridge *bridge, const char *transport)
{
  int error = bus_bridge_transport_open(
      &bridge->transport, transport, bus_bridge_core_connections(&bridge->config), &bridge->config);
  if (!error)
    error = join_bus(bridge);
  for (uint32_t i = 0; i < bridge->config.client_count && !error; i++)
    error = open_client(bridge, i);
  if (!error)
    error = bus_loop_init(&bridge->loop, bridge->member, BUS_IDLE_SPIN, bridge->options.core,
                          bridge->options.numa_node);
  if (error)
    return error;
  bus_bridge_meters_find(&bridge->config, bridge->member, &bridge->meters);
  bridge->clients_attached =
      bus_member_object(bridge->member, BUS_OBJECT_COUNTER, "clients_attached");
  error = open_core(bridge);
  if (error)
    return error;
  describe(bridge);
  write_text(bridge);
  return BUS_OK;
}

int bus_bridge_new(const struct bus_bridge_options *options, struct bus_bridge **result)
{
  *result = NULL;
  struct bus_bridge *bridge = calloc(1, sizeof *bridge);
  if (!bridge)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  bridge->config = *options->config;
  bridge->options = options->member;
  bridge->idle = options->member.idle ? options->member.idle : BUS_IDLE_BACKOFF;
  int error = set_up(bridge, options->transport);
  if (error) {
    bridge->result = error;
    bus_bridge_delete(bridge);
    return error;
  }
  *result = bridge;
  return BUS_OK;
}

int bus_bridge_run(struct bus_bridge *bridge)
{
  static const struct bus_loop_operations operations = {work, housekeeping, NULL};
  bus_member_run(bridge->member);
  bridge->result = bus_loop_run(&bridge->loop, &operations, bridge);
  housekeeping(bridge, &bridge->loop);
  return bridge->result;
}

const char *bus_bridge_describe(const struct bus_bridge *bridge)
{
  return bridge->describe;
}

void bus_bridge_delete(struct bus_bridge *bridge)
{
  if (!bridge)
    return;
  bus_bridge_core_delete(bridge->core);
  bus_bridge_transport_close(&bridge->transport);
  for (uint32_t i = 0; i < bridge->config.client_count; i++) {
    bus_subscription_close(&bridge->clients[i].requests);
    bus_backlink_close(&bridge->clients[i].backlink);
  }
  bus_member_leave(bridge->member, bridge->result == BUS_OK ? BUS_STATE_HALT : BUS_STATE_FAIL);
  explicit_bzero(bridge, sizeof *bridge); /* it held keys */
  free(bridge);
}
