#include "llm_client.h"

#include "histogram.h"
#include "loop.h"
#include "subscription.h"

#include <stdlib.h>
#include <string.h>

#define DEFAULT_BRIDGE       "bridge"
#define DEFAULT_DEPTH        64u
#define DEFAULT_OUTSTANDING  16u
#define DEFAULT_ANSWER_BYTES (256u << 10)
#define DEFAULT_GRACE_NS     2000000000u
#define MAINTAIN_INTERVAL_NS 10000000u
/* An id: the epoch, then a generation that is new with each request, then the request's place. */
#define INDEX_BITS 12u
BUS_STATIC_ASSERT(1u << INDEX_BITS == BUS_LLM_CLIENT_OUTSTANDING_MAX, "a place fits an id");
BUS_STATIC_ASSERT(INDEX_BITS + 32 == BUS_LLM_CLIENT_SEQUENCE_BITS, "and a generation of 32 bits");

/* A request in flight; id 0: free. */
struct outstanding {
  uint64_t id;
  uint64_t context;
  uint64_t submitted_ns;
  uint64_t timeout_ns; /* deadline + grace */
  uint32_t reply_slots;
  uint32_t next_free;
};

struct bus_llm_client {
  struct bus_member *member;
  bool owns_member;
  struct bus_subscription replies;
  struct bus_backlink backlink;
  struct bus_producer requests;
  struct bus_llm_client_options options; /* no defaults left to fill in */
  uint64_t epoch_bits;                   /* of ids of this life */
  uint32_t first_generation, generation;

  struct outstanding *table; /* [outstanding_max] */
  uint32_t first_free;       /* outstanding_max: none */
  uint32_t count;
  uint64_t reserved_slots;  /* of finals outstanding */
  uint64_t next_timeout_ns; /* the earliest, or earlier */

  /* The message that is being taken, header of its fragment 0; assembled bytes are in `text`. */
  struct bus_llm_reply message;
  bool assembling;
  uint32_t next_fragment;
  uint32_t assembled;
  char *text;
  uint32_t text_capacity; /* without the NUL */

  uint64_t maintained_ns; /* by wait */
  struct bus_idler idler;

  uint64_t *submitted, *refused, *finals, *partials, *local_timeouts, *late, *invalid, *broken,
      *in_flight;
  struct bus_histogram *total_ns;
};

const char *bus_llm_status_name(uint32_t status)
{
  static const char *const names[] = {
      "pending",   "ok",          "length",         "rejected-queue", "rejected-deadline",
      "expired",   "cancelled",   "backend-down",   "upstream-4xx",   "upstream-5xx",
      "truncated", "bad-request", "bridge-restart", "local-timeout"};
  BUS_STATIC_ASSERT(BUS_COUNT_OF(names) == BUS_LLM_STATUS_COUNT, "a name for each");
  return status < BUS_COUNT_OF(names) ? names[status] : "?";
}

/* ---- set-up ---- */

static struct bus_llm_client_options complete(const struct bus_llm_client_options *given)
{
  struct bus_llm_client_options options = {0};
  if (given)
    options = *given;
  if (!options.bridge)
    options.bridge = DEFAULT_BRIDGE;
  if (!options.record_bytes)
    options.record_bytes = BUS_LLM_RECORD_BYTES;
  if (!options.request_depth)
    options.request_depth = DEFAULT_DEPTH;
  if (!options.outstanding_max)
    options.outstanding_max = DEFAULT_OUTSTANDING;
  if (!options.answer_bytes_max) {
    uint64_t most = (uint64_t)BUS_LLM_FRAGMENTS_MAX * bus_llm_slot_text_bytes(options.record_bytes);
    options.answer_bytes_max = most < DEFAULT_ANSWER_BYTES ? (uint32_t)most : DEFAULT_ANSWER_BYTES;
  }
  if (!options.grace_ns)
    options.grace_ns = DEFAULT_GRACE_NS;
  return options;
}

static int check(const struct bus_llm_client_options *options, const char *name)
{
  if (!name || !bus_layout_name_is_valid(name) || strlen(name) > BUS_LLM_CLIENT_NAME_MAX)
    return bus_error_set(BUS_ERROR_INVALID,
                         "client name '%s': 1..%u characters of A-Za-z0-9._-, no dot first",
                         name ? name : "", BUS_LLM_CLIENT_NAME_MAX);
  if (!bus_layout_name_is_valid(options->bridge))
    return bus_error_set(BUS_ERROR_INVALID, "bridge '%s' is no member name", options->bridge);
  if (options->record_bytes % BUS_CACHE_LINE_BYTES || options->record_bytes < 192 ||
      options->record_bytes > BUS_RECORD_BYTES_MAX)
    return bus_error_set(BUS_ERROR_INVALID,
                         "record_bytes %u: a multiple of 64, 192..%u, and the bridge's",
                         options->record_bytes, BUS_RECORD_BYTES_MAX);
  if (options->outstanding_max > BUS_LLM_CLIENT_OUTSTANDING_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "outstanding_max %u: at most %u",
                         options->outstanding_max, BUS_LLM_CLIENT_OUTSTANDING_MAX);
  uint32_t slots = bus_llm_slots(options->answer_bytes_max, options->record_bytes);
  if (slots > BUS_LLM_FRAGMENTS_MAX)
    return bus_error_set(BUS_ERROR_INVALID,
                         "answer_bytes_max %u takes %u slots of %u bytes, at most %u are possible",
                         options->answer_bytes_max, slots, options->record_bytes,
                         BUS_LLM_FRAGMENTS_MAX);
  return BUS_OK;
}

static void name_reply_ring(const char *client, char *ring)
{
  size_t prefix = strlen(BUS_LLM_REPLY_RING_PREFIX);
  memcpy(ring, BUS_LLM_REPLY_RING_PREFIX, prefix);
  memcpy(ring + prefix, client, strlen(client) + 1); /* check() saw that it fits */
}

int bus_llm_client_declare(const struct bus_llm_client_options *given, const char *name,
                           struct bus_llm_client_objects *objects)
{
  const struct bus_llm_client_options options = complete(given);
  int error = check(&options, name);
  if (error)
    return error;
  name_reply_ring(name, objects->reply_ring);
  const struct bus_object_spec specs[] = {
      {.type = BUS_OBJECT_RING,
       .name = BUS_LLM_REQUEST_RING,
       .peer = options.bridge,
       .record_type = BUS_RECORD_LLM_REQUEST,
       .record_size = options.record_bytes,
       .policy = BUS_POLICY_WAIT,
       .depth = options.request_depth},
      {.type = BUS_OBJECT_POSITION, .name = objects->reply_ring, .peer = options.bridge},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_submitted", .unit = "requests"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_refused", .unit = "requests"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_finals", .unit = "replies"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_partials", .unit = "replies"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_local_timeouts", .unit = "requests"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_late", .unit = "replies"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_invalid", .unit = "fragments"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_broken", .unit = "replies"},
      {.type = BUS_OBJECT_COUNTER, .name = "llm_in_flight", .unit = "requests"},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "llm_total_ns", .unit = "ns"}};
  BUS_STATIC_ASSERT(BUS_COUNT_OF(specs) == BUS_LLM_CLIENT_OBJECTS, "as the header says");
  memcpy(objects->specs, specs, sizeof specs);
  return BUS_OK;
}

/* False when the member lacks one: it was not made with the declared objects. */
static bool find_meters(struct bus_llm_client *client)
{
  const struct {
    uint64_t **counter;
    const char *name;
  } counters[] = {{&client->submitted, "llm_submitted"},
                  {&client->refused, "llm_refused"},
                  {&client->finals, "llm_finals"},
                  {&client->partials, "llm_partials"},
                  {&client->local_timeouts, "llm_local_timeouts"},
                  {&client->late, "llm_late"},
                  {&client->invalid, "llm_invalid"},
                  {&client->broken, "llm_broken"},
                  {&client->in_flight, "llm_in_flight"}};
  bool found = true;
  for (size_t i = 0; i < BUS_COUNT_OF(counters); i++) {
    *counters[i].counter = bus_member_object(client->member, BUS_OBJECT_COUNTER, counters[i].name);
    found = found && *counters[i].counter;
  }
  client->total_ns = bus_member_object(client->member, BUS_OBJECT_HISTOGRAM, "llm_total_ns");
  return found && client->total_ns;
}

static int begin(struct bus_llm_client *client)
{
  const struct bus_llm_client_options *options = &client->options;
  const struct bus_member_header *header = bus_member_header(client->member);
  const char *directory = bus_member_directory(client->member);
  const struct bus_entry *entry =
      bus_member_entry(client->member, BUS_OBJECT_RING, BUS_LLM_REQUEST_RING);
  char ring[BUS_NAME_BYTES];
  if (!entry || entry->record_size != options->record_bytes || !find_meters(client))
    return bus_error_set(BUS_ERROR_INVALID,
                         "%s: lacks the objects of bus_llm_client_declare by these options",
                         bus_member_path(client->member));
  name_reply_ring(header->name, ring);
  int error = bus_subscription_init(&client->replies, directory, options->bridge, ring,
                                    BUS_RECORD_LLM_REPLY, options->record_bytes, client->member);
  if (error)
    return error;
  bus_producer_init(&client->requests,
                    bus_member_object(client->member, BUS_OBJECT_RING, BUS_LLM_REQUEST_RING), entry,
                    header->instance);
  bus_counter_set(client->in_flight, 0); /* a predecessor's are answered to nobody */
  client->epoch_bits = header->epoch << BUS_LLM_CLIENT_SEQUENCE_BITS;
  /* The epoch begins anew when the file was deleted; what the bridge still has for an earlier file
   * must not look like an answer to this one's. */
  client->first_generation = client->generation = (uint32_t)bus_layout_hash_bytes(
      0xcbf29ce484222325ull, &header->instance, sizeof header->instance);
  return bus_backlink_init(&client->backlink, directory, header->name, entry, &client->requests);
}

int bus_llm_client_new(struct bus_member *member, const struct bus_llm_client_options *given,
                       struct bus_llm_client **result)
{
  const struct bus_llm_client_options options = complete(given);
  int error = check(&options, bus_member_header(member)->name);
  if (error)
    return error;
  struct bus_llm_client *client = calloc(1, sizeof *client);
  if (!client)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a client");
  client->member = member;
  client->options = options;
  client->idler.strategy = BUS_IDLE_BACKOFF;
  client->next_timeout_ns = UINT64_MAX;
  client->text_capacity = bus_llm_slots(options.answer_bytes_max, options.record_bytes) *
                          bus_llm_slot_text_bytes(options.record_bytes);
  client->text = malloc((size_t)client->text_capacity + 1);
  client->table = calloc(options.outstanding_max, sizeof *client->table);
  if (!client->text || !client->table) {
    bus_llm_client_delete(client);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for answers of %u bytes",
                         options.answer_bytes_max);
  }
  error = begin(client);
  if (error) {
    bus_llm_client_delete(client);
    return error;
  }
  client->options.bridge = client->replies.member;            /* a copy that stays */
  memset(client->text, 0, (size_t)client->text_capacity + 1); /* its pages are there from now on */
  for (uint32_t i = 0; i < options.outstanding_max; i++)
    client->table[i].next_free = i + 1;
  *result = client;
  return BUS_OK;
}

int bus_llm_client_open(const char *directory, const char *name,
                        const struct bus_llm_client_options *options,
                        struct bus_llm_client **client)
{
  struct bus_llm_client_objects objects;
  struct bus_member *member;
  int error = bus_llm_client_declare(options, name, &objects);
  if (error)
    return error;
  const struct bus_member_config config = {.directory = directory,
                                           .name = name,
                                           .kind = "llm-client",
                                           .objects = objects.specs,
                                           .object_count = BUS_LLM_CLIENT_OBJECTS,
                                           .small_pages = true,
                                           .numa_node = -1,
                                           .core = -1};
  error = bus_member_new(&config, &member);
  if (error)
    return error;
  error = bus_llm_client_new(member, options, client);
  if (error) {
    bus_member_leave(member, BUS_STATE_FAIL);
    return error;
  }
  (*client)->owns_member = true;
  bus_member_run(member);
  return BUS_OK;
}

void bus_llm_client_delete(struct bus_llm_client *client)
{
  if (!client)
    return;
  bus_subscription_close(&client->replies);
  bus_backlink_close(&client->backlink);
  if (client->owns_member)
    bus_member_leave(client->member, BUS_STATE_HALT);
  free(client->table);
  free(client->text);
  free(client);
}

/* ---- requests ---- */

static int check_ask(const struct bus_llm_client *client, const struct bus_llm_ask *ask,
                     uint64_t now_ns)
{
  if (ask->kind < BUS_LLM_CHAT || ask->kind > BUS_LLM_EMBEDDING)
    return bus_error_set(BUS_ERROR_INVALID,
                         "request kind %u: use BUS_LLM_CHAT, _COMPLETION or "
                         "_EMBEDDING",
                         ask->kind);
  if (!ask->class_name || !ask->class_name[0] || strlen(ask->class_name) >= BUS_LLM_NAME_BYTES)
    return bus_error_set(BUS_ERROR_INVALID, "class '%s': 1..%u characters",
                         ask->class_name ? ask->class_name : "", BUS_LLM_NAME_BYTES - 1);
  if (ask->deadline_ns <= now_ns)
    return bus_error_set(BUS_ERROR_INVALID, "the deadline has passed");
  if (ask->has_temperature && !(ask->temperature >= 0.0f))
    return bus_error_set(BUS_ERROR_INVALID, "temperature %g: 0 or more", (double)ask->temperature);
  if (ask->answer_bytes > client->text_capacity)
    return bus_error_set(BUS_ERROR_INVALID,
                         "answer_bytes %u: the client holds %u; raise its "
                         "answer_bytes_max",
                         ask->answer_bytes, client->text_capacity);
  uint32_t slots = bus_llm_slots(ask->text_bytes, client->options.record_bytes);
  if (slots > BUS_LLM_FRAGMENTS_MAX || slots > client->requests.depth)
    return bus_error_set(BUS_ERROR_INVALID,
                         "a text of %u bytes takes %u slots, the request ring "
                         "has %u; raise the client's request_depth",
                         ask->text_bytes, slots, (unsigned)client->requests.depth);
  return BUS_OK;
}

/* Whether the request ring takes `slots` now. */
static bool has_room(struct bus_producer *producer, uint32_t slots)
{
  if (producer->limit - producer->next >= slots)
    return true;
  bus_producer_refresh(producer);
  return producer->limit - producer->next >= slots;
}

/* Room for the final in the bridge's ring: a ring that is not known yet is big enough, the bridge
 * takes no request whose reply it cannot hold. */
static bool has_reply_room(const struct bus_llm_client *client, uint32_t slots)
{
  uint64_t depth = client->replies.consumer.depth;
  return depth == 0 || client->count == 0 || client->reserved_slots + slots <= depth;
}

static void write_fragments(struct bus_llm_client *client, struct bus_llm_request *request,
                            const char *text)
{
  const uint32_t room = bus_llm_slot_text_bytes(client->options.record_bytes);
  for (uint32_t i = 0; i < request->fragments; i++) {
    unsigned char *slot = bus_producer_reserve(&client->requests); /* has_room said yes */
    uint32_t rest = request->text_bytes - request->text_offset;
    request->fragment = (uint16_t)i;
    request->fragment_bytes = rest < room ? rest : room;
    memcpy(slot, request, sizeof *request);
    if (request->fragment_bytes)
      memcpy(slot + BUS_LLM_HEADER_BYTES, text + request->text_offset, request->fragment_bytes);
    bus_producer_commit(&client->requests);
    request->text_offset += request->fragment_bytes;
  }
  bus_producer_report(&client->requests);
}

static struct outstanding *take_place(struct bus_llm_client *client)
{
  uint32_t index = client->first_free;
  struct outstanding *entry = &client->table[index];
  client->first_free = entry->next_free;
  entry->id = client->epoch_bits | (uint64_t)client->generation++ << INDEX_BITS | index;
  client->count++;
  bus_counter_set(client->in_flight, client->count);
  return entry;
}

static void give_place_back(struct bus_llm_client *client, struct outstanding *entry)
{
  client->reserved_slots -= entry->reply_slots;
  client->count--;
  bus_counter_set(client->in_flight, client->count);
  entry->id = 0;
  entry->next_free = client->first_free;
  client->first_free = (uint32_t)(entry - client->table);
}

int bus_llm_client_submit(struct bus_llm_client *client, const struct bus_llm_ask *ask,
                          uint64_t now_ns, uint64_t *id)
{
  const struct bus_llm_client_options *options = &client->options;
  int error = check_ask(client, ask, now_ns);
  if (error)
    return error;
  uint32_t answer_bytes = ask->answer_bytes ? ask->answer_bytes : options->answer_bytes_max;
  uint32_t slots = bus_llm_slots(ask->text_bytes, options->record_bytes);
  uint32_t reply_slots = bus_llm_slots(answer_bytes, options->record_bytes);
  if (client->count == options->outstanding_max || !has_reply_room(client, reply_slots) ||
      !has_room(&client->requests, slots)) {
    bus_counter_add(client->refused, 1);
    return BUS_ERROR_AGAIN;
  }
  struct outstanding *entry = take_place(client);
  entry->context = ask->context;
  entry->submitted_ns = now_ns;
  entry->reply_slots = reply_slots;
  entry->timeout_ns = ask->deadline_ns + options->grace_ns;
  if (entry->timeout_ns < ask->deadline_ns)
    entry->timeout_ns = UINT64_MAX; /* no deadline to speak of */
  client->reserved_slots += reply_slots;
  if (entry->timeout_ns < client->next_timeout_ns)
    client->next_timeout_ns = entry->timeout_ns;
  struct bus_llm_request request = {.id = entry->id,
                                    .deadline_ns = ask->deadline_ns,
                                    .submitted_ns = now_ns,
                                    .text_bytes = ask->text_bytes,
                                    .tokens_max = ask->tokens_max,
                                    .fragments = (uint16_t)slots,
                                    .reply_slots = (uint16_t)reply_slots,
                                    .kind = ask->kind,
                                    .flags = ask->flags,
                                    .temperature = ask->has_temperature ? ask->temperature : -1.0f,
                                    .client_epoch =
                                        (uint32_t)bus_member_header(client->member)->epoch};
  strcpy(request.class_name, ask->class_name);
  write_fragments(client, &request, ask->text);
  bus_counter_add(client->submitted, 1);
  *id = entry->id;
  return BUS_OK;
}

/* The request of that id, or NULL. */
static struct outstanding *find(const struct bus_llm_client *client, uint64_t id)
{
  uint32_t index = (uint32_t)id & (BUS_LLM_CLIENT_OUTSTANDING_MAX - 1);
  if (id == 0 || index >= client->options.outstanding_max || client->table[index].id != id)
    return NULL;
  return &client->table[index];
}

int bus_llm_client_cancel(struct bus_llm_client *client, uint64_t id)
{
  const struct outstanding *entry = find(client, id);
  if (!entry)
    return BUS_ERROR_ABSENT;
  if (!has_room(&client->requests, 1))
    return BUS_ERROR_AGAIN;
  struct bus_llm_request request = {.id = id,
                                    .submitted_ns = entry->submitted_ns,
                                    .fragments = 1,
                                    .reply_slots = 1,
                                    .kind = BUS_LLM_CANCEL,
                                    .client_epoch =
                                        (uint32_t)bus_member_header(client->member)->epoch};
  write_fragments(client, &request, "");
  return BUS_OK;
}

/* ---- replies ---- */

/* Whether this client, or an earlier life of it, gave that id out. */
static bool was_given_out(const struct bus_llm_client *client, uint64_t id)
{
  uint64_t epoch_bits = id >> BUS_LLM_CLIENT_SEQUENCE_BITS << BUS_LLM_CLIENT_SEQUENCE_BITS;
  uint32_t generation = (uint32_t)(id >> INDEX_BITS);
  if (epoch_bits != client->epoch_bits)
    return epoch_bits < client->epoch_bits;
  return generation - client->first_generation < client->generation - client->first_generation;
}

/* A message that broke off: its producer was killed, or writes nonsense. */
static void drop_assembly(struct bus_llm_client *client)
{
  if (client->assembling)
    bus_counter_add(client->broken, 1);
  client->assembling = false;
}

static bool header_is_possible(const struct bus_llm_client *client,
                               const struct bus_llm_reply *header)
{
  const uint32_t room = bus_llm_slot_text_bytes(client->options.record_bytes);
  if (header->fragment_bytes > room || header->fragments == 0 ||
      header->fragment >= header->fragments || header->fragments > BUS_LLM_FRAGMENTS_MAX)
    return false;
  if (header->kind == BUS_LLM_PARTIAL)
    return header->fragments == 1 && header->fragment_bytes == header->text_bytes &&
           header->text_bytes <= client->text_capacity;
  return header->kind == BUS_LLM_FINAL && header->status > BUS_LLM_PENDING &&
         header->status < BUS_LLM_LOCAL_TIMEOUT && header->text_bytes <= client->text_capacity &&
         header->text_offset <= header->text_bytes &&
         header->fragment_bytes <= header->text_bytes - header->text_offset;
}

/* Whether the fragment goes on where the message stands. */
static bool continues(const struct bus_llm_client *client, const struct bus_llm_reply *header)
{
  const struct bus_llm_reply *message = &client->message;
  return client->assembling && header->id == message->id && header->kind == message->kind &&
         header->status == message->status && header->text_bytes == message->text_bytes &&
         header->fragments == message->fragments && header->fragment == client->next_fragment &&
         header->text_offset == client->assembled;
}

/* Takes one fragment in; true when a message is whole: client->message and client->text. */
static bool take_fragment(struct bus_llm_client *client, const unsigned char *slot)
{
  struct bus_llm_reply header; /* once; the bridge may write to the slot meanwhile */
  memcpy(&header, slot, sizeof header);
  header.backend[sizeof header.backend - 1] = '\0';
  bool possible = header_is_possible(client, &header);
  if (possible && header.fragment == 0 &&
      (header.kind == BUS_LLM_PARTIAL || header.text_offset == 0)) {
    drop_assembly(client);
    client->assembling = true;
    client->assembled = client->next_fragment = 0;
    client->message = header;
  } else if (!possible || !continues(client, &header)) {
    drop_assembly(client);
    bus_counter_add(client->invalid, 1);
    return false;
  }
  memcpy(client->text + client->assembled, slot + BUS_LLM_HEADER_BYTES, header.fragment_bytes);
  client->assembled += header.fragment_bytes;
  if (++client->next_fragment < header.fragments)
    return false;
  client->assembling = false;
  if (client->assembled == header.text_bytes)
    return true;
  bus_counter_add(client->invalid, 1);
  return false;
}

static void end_request(struct bus_llm_client *client, struct outstanding *entry, uint64_t now_ns)
{
  bus_counter_add(client->finals, 1);
  bus_histogram_record(client->total_ns,
                       now_ns > entry->submitted_ns ? now_ns - entry->submitted_ns : 0);
  give_place_back(client, entry);
}

/* The message is whole: true when somebody waits for it. */
static bool deliver(struct bus_llm_client *client, uint64_t now_ns,
                    struct bus_llm_client_reply *reply)
{
  struct outstanding *entry = find(client, client->message.id);
  if (!entry) {
    bool known = was_given_out(client, client->message.id);
    bus_counter_add(known ? client->late : client->invalid, 1);
    return false;
  }
  *reply = (struct bus_llm_client_reply){.header = client->message,
                                         .context = entry->context,
                                         .submitted_ns = entry->submitted_ns,
                                         .text = client->text};
  client->text[client->message.text_bytes] = '\0';
  if (client->message.kind == BUS_LLM_FINAL)
    end_request(client, entry, now_ns);
  else
    bus_counter_add(client->partials, 1);
  return true;
}

/* Ends the request that has waited longest beyond its time-out; false when there is none. */
static bool time_out(struct bus_llm_client *client, uint64_t now_ns,
                     struct bus_llm_client_reply *reply)
{
  struct outstanding *first = NULL;
  uint64_t next_ns = UINT64_MAX;
  if (now_ns < client->next_timeout_ns)
    return false;
  for (uint32_t i = 0; i < client->options.outstanding_max; i++) {
    struct outstanding *entry = &client->table[i];
    if (!entry->id)
      continue;
    if (!first || entry->timeout_ns < first->timeout_ns) {
      next_ns = first ? first->timeout_ns : next_ns;
      first = entry;
    } else if (entry->timeout_ns < next_ns)
      next_ns = entry->timeout_ns;
  }
  if (!first || first->timeout_ns > now_ns) {
    client->next_timeout_ns = first ? first->timeout_ns : UINT64_MAX;
    return false;
  }
  client->next_timeout_ns = next_ns;
  /* Not through `text`: the final of another one may be half assembled there. */
  *reply = (struct bus_llm_client_reply){.header = {.id = first->id,
                                                    .done_ns = now_ns,
                                                    .fragments = 1,
                                                    .kind = BUS_LLM_FINAL,
                                                    .status = BUS_LLM_LOCAL_TIMEOUT},
                                         .context = first->context,
                                         .submitted_ns = first->submitted_ns,
                                         .text = ""};
  bus_counter_add(client->local_timeouts, 1);
  end_request(client, first, now_ns);
  return true;
}

int bus_llm_client_poll(struct bus_llm_client *client, uint64_t now_ns,
                        struct bus_llm_client_reply *reply)
{
  struct bus_consumer *consumer = &client->replies.consumer;
  const uint64_t slots_max = client->replies.neighbour ? consumer->depth : 0;
  for (uint64_t i = 0; i < slots_max; i++) {
    const unsigned char *slot = bus_consumer_poll(consumer);
    if (!slot)
      break;
    bool whole = take_fragment(client, slot);
    bus_consumer_release(consumer);
    if (!whole)
      continue;
    bus_consumer_publish(consumer); /* the bridge may count on the room */
    if (deliver(client, now_ns, reply))
      return 1;
  }
  return time_out(client, now_ns, reply) ? 1 : 0;
}

/* ---- upkeep ---- */

int bus_llm_client_maintain(struct bus_llm_client *client)
{
  if (client->owns_member)
    bus_member_heartbeat(client->member, bus_clock_monotonic_ns());
  int attached = bus_subscription_maintain(&client->replies, 0);
  if (attached != 0)
    drop_assembly(client); /* another ring, or none: nothing goes on */
  /* Whatever came of that: the bridge attaches only to a client that has linked itself. */
  int linked = bus_backlink_maintain(&client->backlink);
  return linked < 0 ? linked : attached < 0 ? attached : BUS_OK;
}

int bus_llm_client_wait(struct bus_llm_client *client, uint64_t timeout_ns,
                        struct bus_llm_client_reply *reply)
{
  const uint64_t begin_ns = bus_clock_monotonic_ns();
  for (;;) {
    uint64_t now_ns = bus_clock_monotonic_ns();
    if (now_ns - client->maintained_ns >= MAINTAIN_INTERVAL_NS) {
      bus_llm_client_maintain(client);
      client->maintained_ns = now_ns;
    }
    if (bus_llm_client_poll(client, now_ns, reply)) {
      bus_idler_reset(&client->idler);
      return 1;
    }
    if (now_ns - begin_ns >= timeout_ns || bus_loop_stop_requested())
      return 0;
    bus_idler_wait(&client->idler);
  }
}

uint32_t bus_llm_client_outstanding(const struct bus_llm_client *client)
{
  return client->count;
}
