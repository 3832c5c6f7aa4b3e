#include "tools/busctl_describe.h"

#include "shm/board.h"
#include "shm/clock.h"
#include "shm/symbols.h"
#include "tools/supervisor.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_BYTES_MAX 4096u

/* jansson takes NULL for a failed allocation and passes it on: one check covers them all. */
void busctl_json_set(json_t *object, const char *key, json_t *value)
{
  if (json_object_set_new(object, key, value) != 0) {
    fputs("signal-busctl: out of memory\n", stderr);
    exit(BUSCTL_FAILED);
  }
}

void busctl_json_append(json_t *array, json_t *value)
{
  if (json_array_append_new(array, value) != 0) {
    fputs("signal-busctl: out of memory\n", stderr);
    exit(BUSCTL_FAILED);
  }
}

void busctl_json_string(json_t *object, const char *key, const char *value, size_t size)
{
  char text[TEXT_BYTES_MAX];
  busctl_json_set(object, key, json_string(busctl_sanitise(text, sizeof text, value, size)));
}

void busctl_json_signed(json_t *object, const char *key, int64_t value)
{
  busctl_json_set(object, key, json_integer(value));
}

void busctl_json_number(json_t *object, const char *key, uint64_t value)
{
  busctl_json_set(object, key, json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value));
}

const char *busctl_json_text(const json_t *object, const char *key)
{
  const char *text = json_string_value(json_object_get(object, key));
  return text ? text : "";
}

int64_t busctl_json_integer(const json_t *object, const char *key)
{
  return json_integer_value(json_object_get(object, key));
}

static void set_name(json_t *object, const char *key, const char *name)
{
  busctl_json_string(object, key, name, BUS_NAME_BYTES);
}

static json_t *describe_ring(const struct busctl_scan *scan, const struct busctl_file *file,
                             const struct bus_entry *entry)
{
  struct busctl_ring ring;
  json_t *object = json_object();
  busctl_read_ring(scan, file, entry, true, &ring);
  set_name(object, "name", entry->name);
  set_name(object, "record_type", bus_record_type_name(entry->record_type));
  busctl_json_number(object, "record_bytes", entry->record_size);
  busctl_json_number(object, "depth_records", entry->depth);
  set_name(object, "policy", bus_policy_name(entry->policy));
  set_name(object, "consumer", entry->peer);
  busctl_json_number(object, "head_position", ring.head);
  busctl_json_number(object, "committed_records", ring.committed);
  if (ring.lag_known)
    busctl_json_number(object, "lag_records", ring.lag);
  else
    busctl_json_set(object, "lag_records", json_null());
  busctl_json_number(object, "dropped_records", ring.dropped);
  busctl_json_number(object, "waits", ring.waits);
  busctl_json_number(object, "positions_rejected", ring.positions_rejected);
  return object;
}

static json_t *describe_position(const struct busctl_file *file, const struct bus_entry *entry)
{
  const struct bus_position *position = bus_neighbour_object(file->neighbour, entry);
  json_t *object = json_object();
  set_name(object, "producer", entry->peer);
  set_name(object, "ring", entry->name);
  busctl_json_set(object, "joined", json_boolean(BUS_LOAD_RELAXED(&position->ring_instance) != 0));
  busctl_json_number(object, "position", BUS_LOAD_RELAXED(&position->position));
  busctl_json_number(object, "lost_records", BUS_LOAD_RELAXED(&position->lost));
  return object;
}

static json_t *describe_counter(const struct busctl_file *file, const struct bus_entry *entry)
{
  const uint64_t *counter = bus_neighbour_object(file->neighbour, entry);
  json_t *object = json_object();
  set_name(object, "name", entry->name);
  busctl_json_string(object, "unit", entry->unit, sizeof entry->unit);
  busctl_json_number(object, "value", BUS_LOAD_RELAXED(counter));
  return object;
}

json_t *busctl_describe_quantiles(json_t *object, const struct bus_histogram *histogram)
{
  busctl_json_number(object, "count", histogram->count);
  busctl_json_number(object, "p50", bus_histogram_quantile(histogram, 0.5));
  busctl_json_number(object, "p90", bus_histogram_quantile(histogram, 0.9));
  busctl_json_number(object, "p99", bus_histogram_quantile(histogram, 0.99));
  busctl_json_number(object, "p99_9", bus_histogram_quantile(histogram, 0.999));
  busctl_json_number(object, "maximum", histogram->count ? histogram->maximum : 0);
  return object;
}

static json_t *describe_histogram(const struct busctl_file *file, const struct bus_entry *entry)
{
  static struct bus_histogram copy; /* 18 KiB; one thread */
  json_t *object = json_object();
  bus_histogram_copy(&copy, bus_neighbour_object(file->neighbour, entry));
  set_name(object, "name", entry->name);
  busctl_json_string(object, "unit", entry->unit, sizeof entry->unit);
  return busctl_describe_quantiles(object, &copy);
}

static json_t *describe_signal(uint64_t slot, const struct bus_signal *signal)
{
  uint64_t now_ns = bus_clock_monotonic_ns();
  json_t *object = json_object();
  busctl_json_number(object, "symbol", slot);
  busctl_json_signed(object, "direction", signal->direction);
  busctl_json_number(object, "confidence_percent", signal->confidence);
  busctl_json_signed(object, "target_price", signal->target_price);
  busctl_json_set(object, "valid", json_boolean(signal->flags & BUS_SIGNAL_VALID));
  busctl_json_number(object, "age_ns",
                     now_ns > signal->timestamp_ns ? now_ns - signal->timestamp_ns : 0);
  return object;
}

static json_t *describe_board(const struct busctl_file *file, const struct bus_entry *entry)
{
  json_t *object = json_object(), *signals = json_array();
  set_name(object, "name", entry->name);
  set_name(object, "record_type", bus_record_type_name(entry->record_type));
  busctl_json_number(object, "slots", entry->depth);
  if (entry->record_type == BUS_RECORD_SIGNAL && entry->record_size == sizeof(struct bus_signal)) {
    const struct bus_signal *slots = bus_neighbour_object(file->neighbour, entry);
    struct bus_signal signal;
    for (uint64_t i = 0; i < entry->depth; i++)
      if (bus_board_read(&slots[i], &signal) == 1)
        busctl_json_append(signals, describe_signal(i, &signal));
  }
  busctl_json_set(object, "signals", signals);
  return object;
}

static void describe_symbols(const struct busctl_file *file, const struct bus_entry *entry,
                             json_t *array)
{
  const void *memory = bus_neighbour_object(file->neighbour, entry);
  uint32_t count = bus_symbols_count(memory, entry);
  for (uint32_t i = 0; i < count; i++) {
    struct bus_symbol symbol;
    if (bus_symbols_get(memory, entry, i, &symbol) != BUS_OK)
      continue;
    json_t *object = json_object();
    set_name(object, "table", entry->name);
    busctl_json_number(object, "symbol", i);
    busctl_json_string(object, "name", symbol.name, sizeof symbol.name);
    busctl_json_signed(object, "price_exponent", symbol.price_exponent);
    busctl_json_signed(object, "size_exponent", symbol.size_exponent);
    busctl_json_signed(object, "tick_size", symbol.tick_size);
    busctl_json_append(array, object);
  }
}

static json_t *describe_text(const struct busctl_file *file, const struct bus_entry *entry)
{
  json_t *object = json_object();
  set_name(object, "name", entry->name);
  busctl_json_string(object, "text", bus_neighbour_object(file->neighbour, entry),
                     (size_t)entry->depth);
  return object;
}

static void describe_objects(const struct busctl_scan *scan, const struct busctl_file *file,
                             json_t *member)
{
  static const char *const keys[] = {"",           "rings",  "positions", "counters",
                                     "histograms", "boards", "symbols",   "texts"};
  for (size_t type = BUS_OBJECT_RING; type < BUS_COUNT_OF(keys); type++) {
    json_t *array = json_array();
    const struct bus_entry *entry;
    for (uint32_t i = 0; (entry = bus_neighbour_entry(file->neighbour, i)) != NULL; i++) {
      if (entry->type != type)
        continue;
      if (type == BUS_OBJECT_RING)
        busctl_json_append(array, describe_ring(scan, file, entry));
      else if (type == BUS_OBJECT_POSITION)
        busctl_json_append(array, describe_position(file, entry));
      else if (type == BUS_OBJECT_COUNTER)
        busctl_json_append(array, describe_counter(file, entry));
      else if (type == BUS_OBJECT_HISTOGRAM)
        busctl_json_append(array, describe_histogram(file, entry));
      else if (type == BUS_OBJECT_BOARD)
        busctl_json_append(array, describe_board(file, entry));
      else if (type == BUS_OBJECT_SYMBOLS)
        describe_symbols(file, entry, array);
      else
        busctl_json_append(array, describe_text(file, entry));
    }
    busctl_json_set(member, keys[type], array);
  }
}

/* A text of the supervisor's file, sanitised; "" when there is none. */
static void supervisor_text(const struct busctl_file *supervisor, const char *name, char *text,
                            size_t size)
{
  const struct bus_entry *entry =
      supervisor ? bus_neighbour_find(supervisor->neighbour, BUS_OBJECT_TEXT, name) : NULL;
  text[0] = '\0';
  if (entry)
    busctl_sanitise(text, size, bus_neighbour_object(supervisor->neighbour, entry),
                    (size_t)entry->depth);
}

/* Nobody holds the file: who starts the member again, or how to. */
static void advise_dead(const struct busctl_scan *scan, const struct busctl_file *file, char *text,
                        size_t size)
{
  const struct busctl_file *supervisor = busctl_scan_member(scan, BUS_SUPERVISOR_MEMBER);
  char name[BUS_NAME_BYTES + 16], state[BUS_SUPERVISOR_TEXT_BYTES], conf[512];
  snprintf(name, sizeof name, BUS_SUPERVISOR_TEXT_PREFIX "%.31s", file->name);
  supervisor_text(supervisor, name, state, sizeof state);
  supervisor_text(supervisor, "config", conf, sizeof conf);
  const char *how = file->live.state == BUS_STATE_HALT   ? "it ended in order"
                    : file->live.state == BUS_STATE_FAIL ? "it gave up; its log says why"
                                                         : "it died without leaving the bus";
  bool supervised = supervisor && busctl_file_lives(supervisor) && state[0];
  if (supervised && !strncmp(state, "restart", 7))
    snprintf(text, size, "%s; the supervisor (pid %u) starts it again: %s", how,
             supervisor->live.pid, state);
  else if (supervised)
    snprintf(text, size,
             "%s, and the supervisor (pid %u) leaves it (%s): signal-busctl down --bus %s, then "
             "signal-busctl up %s --bus %s",
             how, supervisor->live.pid, state, scan->directory, conf, scan->directory);
  else if (state[0] || file == supervisor)
    snprintf(text, size,
             "%s; start the bus again: signal-busctl up %s --bus %s; or delete it: "
             "signal-busctl destroy --bus %s",
             how, conf[0] ? conf : "CONF", scan->directory, scan->directory);
  else
    snprintf(text, size,
             "%s; start it again with --name %.31s --bus %s, or delete what is dead: "
             "signal-busctl destroy --force --bus %s",
             how, file->name, scan->directory, scan->directory);
}

/* What whoever runs the bus does next about a member that is not well; null when it is. */
static json_t *next_step(const struct busctl_scan *scan, const struct busctl_file *file)
{
  char text[2048] = "";
  if (file->status == BUS_NEIGHBOUR_DEAD)
    advise_dead(scan, file, text, sizeof text);
  else if (file->status == BUS_NEIGHBOUR_STALLED)
    snprintf(text, sizeof text,
             "pid %u holds the file and does not beat: stopped by a signal or a debugger, or "
             "without CPU time; see: ps -o pid,stat,wchan,cmd -p %u",
             file->live.pid, file->live.pid);
  else if (file->status == BUS_NEIGHBOUR_GONE)
    snprintf(text, sizeof text, "the file was deleted or replaced meanwhile; look again");
  return text[0] ? json_string(text) : json_null();
}

json_t *busctl_describe_member(const struct busctl_scan *scan, const struct busctl_file *file)
{
  const struct bus_member_header *live = &file->live;
  uint64_t now_ns = bus_clock_monotonic_ns();
  json_t *member = json_object();
  set_name(member, "name", file->name);
  busctl_json_string(member, "kind", live->kind, sizeof live->kind);
  set_name(member, "status", bus_neighbour_status_name(file->status));
  set_name(member, "state", bus_state_name(live->state));
  busctl_json_number(member, "pid", live->pid);
  busctl_json_number(member, "epoch", live->epoch);
  busctl_json_number(member, "heartbeat_age_ns",
                     now_ns > live->heartbeat_ns ? now_ns - live->heartbeat_ns : 0);
  busctl_json_signed(member, "core", live->core);
  busctl_json_signed(member, "numa_node", live->numa_node);
  set_name(member, "backing", bus_backing_name(live->backing));
  busctl_json_number(member, "huge_kib", live->huge_bytes / 1024);
  busctl_json_number(member, "file_bytes", file->file_bytes);
  busctl_json_set(member, "next_step", next_step(scan, file));
  describe_objects(scan, file, member);
  return member;
}

json_t *busctl_describe_bus(const struct busctl_scan *scan, const char *only)
{
  json_t *bus = json_object(), *members = json_array(), *problems = json_array();
  busctl_json_string(bus, "directory", scan->directory, sizeof scan->directory);
  for (size_t i = 0; i < scan->count; i++) {
    const struct busctl_file *file = &scan->files[i];
    if (only && strcmp(file->name, only))
      continue;
    if (file->neighbour) {
      busctl_json_append(members, busctl_describe_member(scan, file));
      continue;
    }
    json_t *problem = json_object();
    busctl_json_string(problem, "file", file->name, sizeof file->name);
    busctl_json_string(problem, "error", bus_error_name(file->error), 64);
    busctl_json_string(problem, "reason", file->reason, sizeof file->reason);
    busctl_json_append(problems, problem);
  }
  busctl_json_set(bus, "members", members);
  busctl_json_set(bus, "problems", problems);
  return bus;
}

int busctl_json_print(const json_t *object)
{
  if (json_dumpf(object, stdout, JSON_INDENT(2)) == 0 && putchar('\n') != EOF)
    return BUSCTL_OK;
  fputs("signal-busctl: writing JSON failed\n", stderr);
  return BUSCTL_FAILED;
}
