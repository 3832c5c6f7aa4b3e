#include "tools/replay_bus.h"

#include "shm/board.h"
#include "shm/histogram.h"
#include "shm/subscription.h"
#include "shm/symbols.h"

#include <stdlib.h>
#include <string.h>

#define STALL_NS        1000000000u
#define SYMBOLS_TABLE   "symbols"
#define OBJECTS_MAX     BUS_ENTRIES_MAX
#define COUNTER_RECORDS "records"

/* One member file. */
struct station {
  char name[BUS_NAME_BYTES];
  struct bus_member *member;
  struct bus_histogram *lateness_ns;
};

struct channel {
  struct station *station;
  struct bus_producer producer;
  struct bus_backlink backlink;
  char peer[BUS_NAME_BYTES];
  uint64_t first;
  uint64_t *records;
  struct bus_signal *boards[REPLAY_INPUTS_MAX]; /* NULL: none */
  uint32_t input_count;
  void *symbols[REPLAY_INPUTS_MAX];
  const struct bus_entry *symbols_entry[REPLAY_INPUTS_MAX];
  uint32_t table_count;
  uint32_t record_type;
};

struct replay_bus {
  struct station *stations;
  uint32_t station_count;
  struct channel *channels;
  uint32_t channel_count;
};

/* What bus_member_new is asked for: collected for one station. */
struct plan {
  struct bus_object_spec objects[OBJECTS_MAX];
  uint32_t count;
};

static bool has_consumer(const struct replay_channel *channel)
{
  return channel->peer && channel->peer[0] && channel->policy != BUS_POLICY_OVERWRITE;
}

static struct station *find_station(struct replay_bus *bus, const char *name)
{
  for (uint32_t i = 0; i < bus->station_count; i++)
    if (!strcmp(bus->stations[i].name, name))
      return &bus->stations[i];
  return NULL;
}

static int plan_object(struct plan *plan, const struct bus_object_spec *object)
{
  for (uint32_t i = 0; i < plan->count; i++)
    if (plan->objects[i].type == object->type && !strcmp(plan->objects[i].name, object->name) &&
        object->type != BUS_OBJECT_RING)
      return BUS_OK; /* two signals rings with the same input share its board */
  if (plan->count == OBJECTS_MAX)
    return bus_error_set(BUS_ERROR_NO_SPACE, "a member of the capture has more than %u objects",
                         OBJECTS_MAX);
  plan->objects[plan->count++] = *object;
  return BUS_OK;
}

static int plan_channel(struct plan *plan, const struct replay_channel *channel)
{
  const bool consumer = has_consumer(channel);
  const struct bus_object_spec ring = {.type = BUS_OBJECT_RING,
                                       .name = channel->ring,
                                       .peer = consumer ? channel->peer : NULL,
                                       .record_type = channel->record_type,
                                       .record_size = channel->record_size,
                                       .policy = consumer ? channel->policy : BUS_POLICY_OVERWRITE,
                                       .depth = channel->depth,
                                       .start_position = channel->first};
  int error = plan_object(plan, &ring);
  if (channel->record_type == BUS_RECORD_FEATURE && !error)
    error = plan_object(plan, &(struct bus_object_spec){.type = BUS_OBJECT_SYMBOLS,
                                                        .name = SYMBOLS_TABLE,
                                                        .depth = REPLAY_SYMBOLS_MAX});
  for (uint32_t i = 0; i < channel->input_count && !error; i++) {
    error = plan_object(plan, &(struct bus_object_spec){.type = BUS_OBJECT_BOARD,
                                                        .name = channel->inputs[i],
                                                        .record_type = BUS_RECORD_SIGNAL,
                                                        .record_size = sizeof(struct bus_signal),
                                                        .depth = REPLAY_SYMBOLS_MAX});
    if (!error)
      error = plan_object(plan, &(struct bus_object_spec){.type = BUS_OBJECT_SYMBOLS,
                                                          .name = channel->inputs[i],
                                                          .depth = REPLAY_SYMBOLS_MAX});
  }
  return error;
}

static int plan_own(struct plan *plan)
{
  static const struct bus_object_spec own[] = {
      {.type = BUS_OBJECT_HISTOGRAM, .name = "lateness_ns", .unit = "ns"},
      {.type = BUS_OBJECT_TEXT, .name = "source", .depth = 512},
      {.type = BUS_OBJECT_COUNTER, .name = COUNTER_RECORDS, .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "gap_records", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "slips", .unit = "slips"},
      {.type = BUS_OBJECT_COUNTER, .name = "slipped_ns", .unit = "ns"},
  };
  int error = BUS_OK;
  for (size_t i = 0; i < BUS_COUNT_OF(own) && !error; i++)
    error = plan_object(plan, &own[i]);
  return error;
}

static int open_station(struct station *station, const struct replay_bus_config *config,
                        const struct replay_channel *channels, uint32_t count)
{
  struct plan *plan = calloc(1, sizeof *plan);
  if (!plan)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  int error = BUS_OK;
  for (uint32_t i = 0; i < count && !error; i++)
    if (!strcmp(channels[i].member, station->name))
      error = plan_channel(plan, &channels[i]);
  if (!error)
    error = plan_own(plan);
  const struct bus_member_config file = {.directory = config->options.directory,
                                         .name = station->name,
                                         .kind = "replay",
                                         .objects = plan->objects,
                                         .object_count = plan->count,
                                         .takeover = BUS_TAKEOVER_NEVER,
                                         .mode = config->options.mode,
                                         .numa_node = config->options.numa_node,
                                         .core = config->options.core,
                                         .small_pages = config->options.small_pages};
  if (!error)
    error = bus_member_new(&file, &station->member);
  free(plan);
  if (error == BUS_ERROR_BUSY)
    return bus_error_context(error,
                             "--as %s=NAME plays it under another name, --stream leaves it "
                             "out",
                             station->name);
  if (error)
    return error;
  station->lateness_ns = bus_member_object(station->member, BUS_OBJECT_HISTOGRAM, "lateness_ns");
  bus_member_set_text(station->member, "source", "%s", config->source);
  return BUS_OK;
}

static int open_channel(struct replay_bus *bus, struct channel *channel,
                        const struct replay_bus_config *config, const struct replay_channel *spec)
{
  channel->station = find_station(bus, spec->member);
  struct bus_member *member = channel->station->member;
  const struct bus_entry *entry = bus_member_entry(member, BUS_OBJECT_RING, spec->ring);
  channel->record_type = spec->record_type;
  channel->first = spec->first;
  if (has_consumer(spec))
    snprintf(channel->peer, sizeof channel->peer, "%s", spec->peer);
  channel->records = bus_member_object(member, BUS_OBJECT_COUNTER, COUNTER_RECORDS);
  bus_producer_init(&channel->producer, bus_member_object(member, BUS_OBJECT_RING, spec->ring),
                    entry, bus_member_header(member)->instance);
  if (channel->producer.policy == BUS_POLICY_DROP_NEWEST)
    channel->producer.policy = BUS_POLICY_WAIT;
  channel->input_count = spec->input_count;
  for (uint32_t i = 0; i < spec->input_count; i++)
    channel->boards[i] = bus_member_object(member, BUS_OBJECT_BOARD, spec->inputs[i]);
  const bool features = spec->record_type == BUS_RECORD_FEATURE;
  channel->table_count = features ? 1 : spec->input_count;
  for (uint32_t i = 0; i < channel->table_count; i++) {
    const char *table = features ? SYMBOLS_TABLE : spec->inputs[i];
    channel->symbols[i] = bus_member_object(member, BUS_OBJECT_SYMBOLS, table);
    channel->symbols_entry[i] = bus_member_entry(member, BUS_OBJECT_SYMBOLS, table);
  }
  return bus_backlink_init(&channel->backlink, config->options.directory, spec->member, entry,
                           &channel->producer);
}

static int open_all(struct replay_bus *bus, const struct replay_bus_config *config,
                    const struct replay_channel *channels, uint32_t count)
{
  for (uint32_t i = 0; i < count; i++)
    if (!find_station(bus, channels[i].member)) {
      struct station *station = &bus->stations[bus->station_count++];
      snprintf(station->name, sizeof station->name, "%s", channels[i].member);
      int error = open_station(station, config, channels, count);
      if (error)
        return error;
    }
  for (uint32_t i = 0; i < count; i++) {
    int error = open_channel(bus, &bus->channels[i], config, &channels[i]);
    if (error)
      return error;
    bus->channel_count++;
  }
  return BUS_OK;
}

int replay_bus_open(const struct replay_bus_config *config, const struct replay_channel *channels,
                    uint32_t count, struct replay_bus **result)
{
  *result = NULL;
  struct replay_bus *bus = calloc(1, sizeof *bus);
  if (!bus)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  bus->stations = calloc(count, sizeof *bus->stations);
  bus->channels = calloc(count, sizeof *bus->channels);
  if (!bus->stations || !bus->channels) {
    free(bus->stations);
    free(bus->channels);
    free(bus);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  int error = open_all(bus, config, channels, count);
  if (error) {
    replay_bus_close(bus, BUS_STATE_FAIL);
    return error;
  }
  *result = bus;
  return BUS_OK;
}

int replay_bus_add_symbol(struct replay_bus *bus, uint32_t channel, uint32_t input,
                          const struct bus_symbol *symbol)
{
  struct channel *to = &bus->channels[channel];
  if (input >= to->table_count)
    return BUS_OK;
  int row = bus_symbols_add(to->symbols[input], to->symbols_entry[input], symbol);
  return row < 0 ? row : BUS_OK;
}

void replay_bus_run(struct replay_bus *bus)
{
  for (uint32_t i = 0; i < bus->channel_count; i++)
    bus_backlink_maintain(&bus->channels[i].backlink);
  for (uint32_t i = 0; i < bus->station_count; i++)
    bus_member_run(bus->stations[i].member);
}

struct bus_producer *replay_bus_producer(struct replay_bus *bus, uint32_t channel)
{
  return &bus->channels[channel].producer;
}

void replay_bus_show(struct replay_bus *bus, uint32_t channel, const void *record)
{
  struct channel *to = &bus->channels[channel];
  if (to->record_type != BUS_RECORD_SIGNAL)
    return;
  const struct bus_signal *signal = record;
  if (signal->source < to->input_count && signal->symbol < REPLAY_SYMBOLS_MAX)
    bus_board_write(&to->boards[signal->source][signal->symbol], signal);
}

void replay_bus_keep_house(struct replay_bus *bus, uint64_t now_ns)
{
  for (uint32_t i = 0; i < bus->station_count; i++) {
    bus_member_heartbeat(bus->stations[i].member, now_ns);
    uint64_t records = 0;
    for (uint32_t j = 0; j < bus->channel_count; j++)
      if (bus->channels[j].station == &bus->stations[i])
        records += bus->channels[j].producer.next - bus->channels[j].first;
    bus_counter_set(bus_member_object(bus->stations[i].member, BUS_OBJECT_COUNTER, COUNTER_RECORDS),
                    records);
  }
  for (uint32_t i = 0; i < bus->channel_count; i++) {
    bus_backlink_maintain(&bus->channels[i].backlink); /* an absent consumer may still come */
    bus_producer_report(&bus->channels[i].producer);
  }
}

enum replay_consumer replay_bus_consumer(const struct replay_bus *bus, uint32_t channel)
{
  const struct bus_backlink *backlink = &bus->channels[channel].backlink;
  if (!backlink->consumer[0])
    return REPLAY_CONSUMER_NONE;
  if (!backlink->neighbour)
    return REPLAY_CONSUMER_ABSENT;
  switch (bus_neighbour_status(backlink->neighbour, STALL_NS)) {
  case BUS_NEIGHBOUR_ALIVE:
  case BUS_NEIGHBOUR_STALLED:
    return REPLAY_CONSUMER_ALIVE;
  case BUS_NEIGHBOUR_DEAD:
    return REPLAY_CONSUMER_DEAD;
  default:
    return REPLAY_CONSUMER_ABSENT;
  }
}

const char *replay_bus_peer(const struct replay_bus *bus, uint32_t channel)
{
  return bus->channels[channel].peer;
}

uint64_t replay_bus_unread(struct replay_bus *bus, uint32_t channel)
{
  struct channel *of = &bus->channels[channel];
  if (!of->peer[0])
    return 0;
  if (of->producer.next != of->producer.consumed)
    bus_producer_refresh(&of->producer);
  return of->producer.next - of->producer.consumed;
}

struct bus_histogram *replay_bus_lateness(struct replay_bus *bus, uint32_t channel)
{
  return bus->channels[channel].station->lateness_ns;
}

uint64_t *replay_bus_counter(struct replay_bus *bus, uint32_t channel, const char *name)
{
  return bus_member_object(bus->channels[channel].station->member, BUS_OBJECT_COUNTER, name);
}

void replay_bus_add_lateness(const struct replay_bus *bus, struct bus_histogram *to)
{
  for (uint32_t i = 0; i < bus->station_count; i++)
    bus_histogram_add(to, bus->stations[i].lateness_ns);
}

void replay_bus_close(struct replay_bus *bus, uint32_t state)
{
  if (!bus)
    return;
  for (uint32_t i = 0; i < bus->channel_count; i++) {
    bus_producer_report(&bus->channels[i].producer);
    bus_backlink_close(&bus->channels[i].backlink);
  }
  for (uint32_t i = 0; i < bus->station_count; i++)
    bus_member_leave(bus->stations[i].member, state);
  free(bus->channels);
  free(bus->stations);
  free(bus);
}
