#include "consumers/capture_meta.h"

#include "shm/symbols.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

/* Numbers that JSON's doubles would round. */
static void set_wide(json_t *object, const char *key, uint64_t value)
{
  json_object_set_new(object, key, json_sprintf("%" PRIu64, value));
}

/* Text of a stranger: what is no UTF-8 is left out. */
static void set_text(json_t *object, const char *key, const char *text, size_t size)
{
  json_t *string = json_stringn(text, strnlen(text, size));
  json_object_set_new(object, key, string ? string : json_string("?"));
}

static json_t *symbol_rows(const struct bus_neighbour *neighbour, const struct bus_entry *table)
{
  const void *memory = bus_neighbour_object(neighbour, table);
  json_t *rows = json_array();
  struct bus_symbol symbol;
  for (uint32_t i = 0; bus_symbols_get(memory, table, i, &symbol) == BUS_OK; i++) {
    json_t *row = json_object();
    set_text(row, "name", symbol.name, sizeof symbol.name);
    json_object_set_new(row, "price_exponent", json_integer(symbol.price_exponent));
    json_object_set_new(row, "size_exponent", json_integer(symbol.size_exponent));
    json_object_set_new(row, "tick_size", json_sprintf("%" PRId64, symbol.tick_size));
    json_array_append_new(rows, row);
  }
  return rows;
}

/* "symbols": the member's only table, or the first; with more, all of them by name too. */
static void add_symbols(json_t *meta, const struct bus_neighbour *neighbour)
{
  const struct bus_entry *entry;
  json_t *tables = json_object();
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++) {
    if (entry->type != BUS_OBJECT_SYMBOLS)
      continue;
    json_t *rows = symbol_rows(neighbour, entry);
    if (!json_object_get(meta, "symbols"))
      json_object_set(meta, "symbols", rows);
    json_object_set_new(tables, entry->name, rows);
  }
  if (json_object_size(tables) > 1)
    json_object_set(meta, "symbol_tables", tables);
  json_decref(tables);
}

static void add_inputs(json_t *meta, const struct bus_neighbour *neighbour)
{
  const struct bus_entry *entry;
  json_t *inputs = json_array();
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++)
    if (entry->type == BUS_OBJECT_POSITION)
      json_array_append_new(inputs,
                            json_pack("{s:s, s:s}", "member", entry->peer, "ring", entry->name));
  json_object_set_new(meta, "inputs", inputs);
}

static void add_texts(json_t *meta, const struct bus_neighbour *neighbour)
{
  const struct bus_entry *entry;
  json_t *texts = json_object();
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++)
    if (entry->type == BUS_OBJECT_TEXT) {
      char copy[4096]; /* the owner may write meanwhile */
      size_t size = entry->depth < sizeof copy ? (size_t)entry->depth : sizeof copy;
      memcpy(copy, bus_neighbour_object(neighbour, entry), size);
      set_text(texts, entry->name, copy, size);
    }
  json_object_set_new(meta, "texts", texts);
}

static void add_machine(json_t *meta, const struct bus_meta_times *times)
{
  struct utsname system;
  if (uname(&system) == 0) {
    set_text(meta, "host", system.nodename, sizeof system.nodename);
    set_text(meta, "machine", system.machine, sizeof system.machine);
  }
  json_object_set_new(meta, "byte_order", json_string("little"));
  json_object_set_new(meta, "realtime_offset_ns",
                      json_sprintf("%" PRId64, times->realtime_offset_ns));
  set_wide(meta, "created_realtime_ns", times->created_realtime_ns);
  json_object_set_new(meta, "recorder", json_string("signal-bus " BUS_VERSION));
}

static void add_member(json_t *meta, const struct bus_neighbour *neighbour)
{
  const struct bus_member_header *header = bus_neighbour_header(neighbour);
  struct bus_member_header live;
  bus_neighbour_live(neighbour, &live);
  set_text(meta, "member", header->name, sizeof header->name);
  set_text(meta, "kind", header->kind, sizeof header->kind);
  set_wide(meta, "instance", header->instance);
  set_wide(meta, "epoch", live.epoch);
  set_text(meta, "boot_id", header->boot_id, sizeof header->boot_id);
  set_wide(meta, "identity", header->identity);
}

static void add_ring(json_t *meta, const struct bus_entry *entry, uint32_t block_size)
{
  struct bus_capture_shape shape = {entry->record_type, entry->record_size, block_size, 0, 0};
  unsigned char header[BUS_CAPTURE_FILE_HEADER_BYTES] = {0};
  bus_capture_header_build(&shape, header);
  set_text(meta, "ring", entry->name, sizeof entry->name);
  json_object_set_new(meta, "record_type", json_string(bus_record_type_name(entry->record_type)));
  json_object_set_new(meta, "record_size", json_integer(entry->record_size));
  json_object_set_new(meta, "depth", json_integer((json_int_t)entry->depth));
  json_object_set_new(meta, "policy", json_string(bus_policy_name(entry->policy)));
  set_text(meta, "peer", entry->peer, sizeof entry->peer);
  json_object_set_new(meta, "schema_hash",
                      json_sprintf("%016" PRIx64, bus_layout_hash_bytes(0xcbf29ce484222325ull,
                                                                        header, sizeof header)));
}

char *bus_meta_compose(const struct bus_neighbour *neighbour, const struct bus_entry *entry,
                       const struct bus_meta_times *times, uint32_t block_size, size_t most)
{
  static const char *const optional[] = {"texts", "symbol_tables", "symbols", "inputs"};
  json_t *meta =
      json_pack("{s:s, s:i}", "format", "signal-bus capture", "version", BUS_CAPTURE_VERSION);
  if (!meta)
    return NULL;
  add_member(meta, neighbour);
  add_ring(meta, entry, block_size);
  add_machine(meta, times);
  add_symbols(meta, neighbour);
  add_inputs(meta, neighbour);
  add_texts(meta, neighbour);
  char *text = json_dumps(meta, JSON_COMPACT);
  for (size_t i = 0; text && strlen(text) > most && i < BUS_COUNT_OF(optional); i++) {
    json_t *omitted = json_object_get(meta, "omitted");
    if (!omitted)
      json_object_set_new(meta, "omitted", omitted = json_array());
    if (json_object_del(meta, optional[i]) == 0)
      json_array_append_new(omitted, json_string(optional[i]));
    free(text);
    text = json_dumps(meta, JSON_COMPACT);
  }
  json_decref(meta);
  return text;
}
