#include "tools/replay.h"

#include "tools/replay_fields.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: bus-replay diff [OPTION].. CAPTURE OTHER\n"
    "\n"
    "Compares two captures stream by stream, position by position, and shows the first record "
    "that\n"
    "differs, field by field. Of signals the latencies, the batch and the engine do not count; "
    "notes\n"
    "of gaps do not count.\n"
    "\n" REPLAY_SELECT_HELP
    "  --exact           everything but the stamp counts, and notes of gaps do\n"
    "  --no-time         timestamps do not count, for replays that were shifted\n"
    "  --json            one JSON object\n"
    "  --help            this text\n"
    "\n"
    "Exit status: 0 equal, 1 failed, 2 usage, 3 they differ, 4 damage was found and named.\n";

/* One stream of one capture. */
struct side {
  struct bus_capture *capture;
  struct replay_selection selection;
  bool *only;
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  bool has_record;
  uint64_t records;
  uint64_t instances; /* that have begun; a replay's instances have other numbers */
};

struct comparison {
  struct side sides[2];
  uint32_t flags;
  bool as_json;
  bool differs;
  json_t *streams;
  unsigned char *canonical[2];
};

static int next_record(struct side *side)
{
  int status;
  side->has_record = false;
  while ((status = bus_capture_merge_next(side->merge, &side->event)) == 1) {
    side->instances += side->event.kind == BUS_CAPTURE_EVENT_INSTANCE;
    if (side->event.kind != BUS_CAPTURE_EVENT_RECORD)
      continue;
    side->has_record = true;
    side->records++;
    return BUS_OK;
  }
  return status;
}

/* The stream like `wanted`, or -1. */
static int find_like(const struct side *side, const struct bus_capture_stream *wanted)
{
  for (uint32_t i = 0; i < bus_capture_stream_count(side->capture); i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(side->capture, i);
    if (!strcmp(stream->name, wanted->name) && stream->record_type == wanted->record_type &&
        stream->record_size == wanted->record_size)
      return (int)i;
  }
  return -1;
}

static int open_side(struct side *side, int stream)
{
  side->only = calloc(bus_capture_stream_count(side->capture), sizeof *side->only);
  if (!side->only)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
  side->only[stream] = true;
  struct bus_capture_range range = side->selection.range;
  range.streams = side->only;
  side->records = side->instances = 0;
  int error = bus_capture_merge_open(side->capture, &range, &side->merge);
  return error ? error : next_record(side);
}

static void close_side(struct side *side)
{
  bus_capture_merge_close(side->merge);
  free(side->only);
  side->merge = NULL;
  side->only = NULL;
}

/* ---- what is said about a stream ---- */

static void field_text(const struct replay_field *field, uint32_t index, const void *record,
                       char *text)
{
  if (replay_field_is_number(field))
    replay_field_print(field, index, record, NULL, text);
  else
    snprintf(text, REPLAY_FIELD_TEXT_BYTES, "%02x",
             ((const unsigned char *)record)[field->offset + index]);
}

/* The fields that differ, of the canonical forms. */
static json_t *describe_fields(const struct comparison *comparison,
                               const struct bus_capture_stream *stream)
{
  struct replay_field room[REPLAY_FIELDS_MAX];
  size_t count;
  const struct replay_field *fields =
      replay_fields(stream->record_type, stream->record_size, room, &count);
  json_t *array = json_array();
  for (size_t i = 0; i < count; i++)
    for (uint32_t j = 0; j < fields[i].count; j++) {
      uint32_t bytes = replay_field_bytes(fields[i].kind);
      size_t at = fields[i].offset + (size_t)j * bytes;
      char name[64], first[REPLAY_FIELD_TEXT_BYTES], second[REPLAY_FIELD_TEXT_BYTES];
      if (!memcmp(comparison->canonical[0] + at, comparison->canonical[1] + at, bytes))
        continue;
      field_text(&fields[i], j, comparison->canonical[0], first);
      field_text(&fields[i], j, comparison->canonical[1], second);
      snprintf(name, sizeof name, fields[i].count > 1 ? "%s[%" PRIu32 "]" : "%s", fields[i].name,
               j);
      json_array_append_new(
          array, json_pack("{s:s, s:s, s:s}", "field", name, "first", first, "second", second));
      if (fields[i].kind == REPLAY_FIELD_TEXT)
        break; /* the first byte that differs: behind it all may */
    }
  return array;
}

static void set_position(json_t *object, const char *key, const struct side *side)
{
  replay_json_set(object, key,
                  side->has_record ? replay_json_u64(side->event.position) : json_null());
}

static void report(struct comparison *comparison, const struct bus_capture_stream *stream,
                   const char *result, uint64_t equal, json_t *fields)
{
  const struct side *sides = comparison->sides;
  json_t *object = json_object();
  replay_json_set(object, "name", replay_json_text(stream->name));
  replay_json_set(object, "result", json_string(result));
  replay_json_set(object, "equal_records", replay_json_u64(equal));
  if (strcmp(result, "equal") != 0) {
    comparison->differs = true;
    set_position(object, "position", &sides[0]);
    set_position(object, "other_position", &sides[1]);
    if (fields)
      replay_json_set(object, "fields", fields);
  }
  json_array_append_new(comparison->streams, object);
}

static void print_position(const json_t *object, const char *key)
{
  const json_t *value = json_object_get(object, key);
  if (json_is_null(value))
    fputs("the end", stdout);
  else
    printf("position %" PRIu64, bus_capture_meta_u64(object, key, 0));
}

static void print_stream(const json_t *object)
{
  const char *result = bus_capture_meta_text(object, "result");
  size_t index;
  json_t *field;
  printf("%s: %s", bus_capture_meta_text(object, "name"), result);
  printf(", %" PRIu64 " equal records", bus_capture_meta_u64(object, "equal_records", 0));
  if (!strcmp(result, "other positions")) {
    fputs(", then ", stdout);
    print_position(object, "position");
    fputs(" against ", stdout);
    print_position(object, "other_position");
  } else if (!strcmp(result, "different")) {
    fputs(", then ", stdout);
    print_position(object, "position");
  }
  putchar('\n');
  json_array_foreach(json_object_get(object, "fields"), index, field)
  {
    printf("  %-20s %s | %s\n", bus_capture_meta_text(field, "field"),
           bus_capture_meta_text(field, "first"), bus_capture_meta_text(field, "second"));
  }
}

/* ---- comparing ---- */

static int compare_records(struct comparison *comparison, const struct bus_capture_stream *stream)
{
  struct side *sides = comparison->sides;
  const uint32_t size = stream->record_size;
  uint64_t equal = 0;
  for (;;) {
    if (!sides[0].has_record && !sides[1].has_record) {
      report(comparison, stream, "equal", equal, NULL);
      return BUS_OK;
    }
    if (sides[0].has_record != sides[1].has_record ||
        sides[0].event.position != sides[1].event.position ||
        sides[0].instances != sides[1].instances) {
      report(comparison, stream, "other positions", equal, NULL);
      return BUS_OK;
    }
    size_t bytes = 0;
    for (int i = 0; i < 2; i++)
      bytes = bus_capture_canonical(stream->record_type, size, sides[i].event.record,
                                    comparison->flags, comparison->canonical[i]);
    if (memcmp(comparison->canonical[0], comparison->canonical[1], bytes) != 0) {
      report(comparison, stream, "different", equal, describe_fields(comparison, stream));
      return BUS_OK;
    }
    equal++;
    for (int i = 0; i < 2; i++) {
      int error = next_record(&sides[i]);
      if (error)
        return error;
    }
  }
}

static bool counts(const struct comparison *comparison, const struct side *side, uint32_t index)
{
  const struct bus_capture_stream *stream = bus_capture_stream(side->capture, index);
  return (stream->record_type != BUS_RECORD_GAP || comparison->flags & BUS_CAPTURE_EXACT) &&
         (!side->selection.range.streams || side->selection.range.streams[index]);
}

static int compare_stream(struct comparison *comparison, uint32_t index)
{
  struct side *sides = comparison->sides;
  const struct bus_capture_stream *stream = bus_capture_stream(sides[0].capture, index);
  int other = find_like(&sides[1], stream);
  sides[0].has_record = sides[1].has_record = false;
  if (other < 0) {
    report(comparison, stream, "only in the first", 0, NULL);
    return BUS_OK;
  }
  for (int i = 0; i < 2; i++) {
    void *canonical = realloc(comparison->canonical[i], stream->record_size);
    if (!canonical)
      return bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
    comparison->canonical[i] = canonical;
    memset(canonical, 0, stream->record_size);
  }
  int error = open_side(&sides[0], (int)index);
  if (!error)
    error = open_side(&sides[1], other);
  if (!error)
    error = compare_records(comparison, stream);
  close_side(&sides[0]);
  close_side(&sides[1]);
  return error;
}

static int compare_all(struct comparison *comparison)
{
  struct side *sides = comparison->sides;
  int error = BUS_OK;
  for (uint32_t i = 0; i < bus_capture_stream_count(sides[0].capture) && !error; i++)
    if (counts(comparison, &sides[0], i))
      error = compare_stream(comparison, i);
  for (uint32_t i = 0; i < bus_capture_stream_count(sides[1].capture) && !error; i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(sides[1].capture, i);
    if (counts(comparison, &sides[1], i) && find_like(&sides[0], stream) < 0) {
      sides[0].has_record = sides[1].has_record = false;
      report(comparison, stream, "only in the second", 0, NULL);
    }
  }
  return error;
}

static int print(struct comparison *comparison)
{
  size_t index;
  json_t *stream;
  if (comparison->as_json)
    return replay_json_print(
        "diff", json_pack("{s:b, s:O, s:I, s:I}", "equal", !comparison->differs, "streams",
                          comparison->streams, "damage_count",
                          (json_int_t)bus_capture_damage_count(comparison->sides[0].capture),
                          "other_damage_count",
                          (json_int_t)bus_capture_damage_count(comparison->sides[1].capture)));
  json_array_foreach(comparison->streams, index, stream)
  {
    print_stream(stream);
  }
  return REPLAY_OK;
}

static int diff_main(struct comparison *comparison, const struct replay_select *select,
                     char **paths)
{
  int error = BUS_OK, status;
  comparison->streams = json_array();
  for (int i = 0; i < 2 && !error; i++) {
    struct side *side = &comparison->sides[i];
    error = bus_capture_open(paths[i], &side->capture);
    if (!error)
      error = replay_select_resolve(select, side->capture, &side->selection);
  }
  if (!error)
    error = compare_all(comparison);
  status = error ? replay_fail("diff") : print(comparison);
  if (comparison->differs)
    status = replay_worse(status, REPLAY_GAPS);
  for (int i = 0; i < 2; i++) {
    replay_selection_free(&comparison->sides[i].selection);
    free(comparison->canonical[i]);
    if (comparison->sides[i].capture)
      status = replay_close("diff", comparison->sides[i].capture, status);
  }
  json_decref(comparison->streams);
  return status;
}

int replay_diff(int argc, char **argv)
{
  enum { JSON = REPLAY_OPTION_OWN, EXACT, NO_TIME };
  static const struct option options[] = {REPLAY_SELECT_OPTIONS,
                                          {"json", no_argument, NULL, JSON},
                                          {"exact", no_argument, NULL, EXACT},
                                          {"no-time", no_argument, NULL, NO_TIME},
                                          {"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                          {NULL, 0, NULL, 0}};
  struct replay_select select = {0};
  struct comparison comparison = {.flags = 0};
  struct replay_line line = {"diff", help, argc, argv, options, &select, false, 0};
  for (int option; (option = replay_line_next(&line)) != 0;) {
    if (option == JSON)
      comparison.as_json = true;
    else
      comparison.flags |= option == EXACT ? BUS_CAPTURE_EXACT : BUS_CAPTURE_NO_TIME;
  }
  if (line.ended)
    return line.status;
  if (argc - optind != 2)
    return replay_usage_error("diff", "give two captures");
  return diff_main(&comparison, &select, argv + optind);
}
