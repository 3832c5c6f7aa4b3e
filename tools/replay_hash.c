#include "tools/replay.h"

#include "tools/replay_hash.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

static const char help[] =
    "Usage: bus-replay hash [OPTION].. CAPTURE\n"
    "\n"
    "XXH3-128 of the records of each stream and of all: equal for replays that did the same. Of\n"
    "signals the latencies, the batch and the engine do not count. Notes of gaps do not count in "
    "the\n"
    "hash of all.\n"
    "\n" REPLAY_SELECT_HELP
    "  --exact           everything but the stamp counts, and notes of gaps do\n"
    "  --no-time         without timestamps, for replays that were shifted\n"
    "  --json            one JSON object\n"
    "  --help            this text\n"
    "\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing, 4 damage was found and "
    "named.\n";

int replay_hash_init(struct replay_hash *hash, uint32_t record_type, uint32_t record_size,
                     uint32_t flags)
{
  *hash =
      (struct replay_hash){.record_type = record_type, .record_size = record_size, .flags = flags};
  hash->state = XXH3_createState();
  hash->batch = malloc(REPLAY_HASH_BATCH_BYTES + record_size);
  if (!hash->state || !hash->batch) {
    replay_hash_free(hash);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a hash");
  }
  XXH3_128bits_reset(hash->state);
  return BUS_OK;
}

static void flush(struct replay_hash *hash)
{
  XXH3_128bits_update(hash->state, hash->batch, hash->used);
  hash->used = 0;
}

void replay_hash_add(struct replay_hash *hash, const void *record)
{
  uint64_t position = bus_capture_record_position(record, hash->record_size);
  memcpy(hash->batch + hash->used, &position, sizeof position);
  hash->used += (uint32_t)sizeof position;
  hash->used += (uint32_t)bus_capture_canonical(hash->record_type, hash->record_size, record,
                                                hash->flags, hash->batch + hash->used);
  hash->records++;
  if (hash->used >= REPLAY_HASH_BATCH_BYTES)
    flush(hash);
}

void replay_hash_text(struct replay_hash *hash, char *text)
{
  flush(hash);
  XXH128_hash_t value = XXH3_128bits_digest(hash->state);
  snprintf(text, REPLAY_HASH_TEXT_BYTES, "%016" PRIx64 "%016" PRIx64, (uint64_t)value.high64,
           (uint64_t)value.low64);
}

void replay_hash_free(struct replay_hash *hash)
{
  XXH3_freeState(hash->state);
  free(hash->batch);
  hash->state = NULL;
  hash->batch = NULL;
}

struct hashing {
  struct bus_capture *capture;
  struct replay_selection selection;
  struct replay_progress progress;
  uint32_t flags;
  bool as_json;
  uint64_t gaps;
  XXH3_state_t *all; /* over (name, NUL, hash) of the streams */
  json_t *streams;
};

static int hash_records(struct hashing *hashing, uint32_t index, struct replay_hash *hash)
{
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  uint64_t done, total, events = 0;
  bool *only = calloc(bus_capture_stream_count(hashing->capture), sizeof *only);
  if (!only)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
  only[index] = true;
  struct bus_capture_range range = hashing->selection.range;
  range.streams = only;
  int status = bus_capture_merge_open(hashing->capture, &range, &merge);
  while (!status && (status = bus_capture_merge_next(merge, &event)) == 1) {
    status = BUS_OK;
    hashing->gaps += event.kind == BUS_CAPTURE_EVENT_GAP;
    if (event.kind == BUS_CAPTURE_EVENT_RECORD)
      replay_hash_add(hash, event.record);
    if (++events % 65536 == 0) {
      bus_capture_merge_progress(merge, &done, &total);
      replay_progress_show(&hashing->progress, done, total);
    }
  }
  bus_capture_merge_close(merge);
  free(only);
  return status;
}

static int hash_stream(struct hashing *hashing, uint32_t index)
{
  const struct bus_capture_stream *stream = bus_capture_stream(hashing->capture, index);
  struct replay_hash hash;
  char text[REPLAY_HASH_TEXT_BYTES];
  int error = replay_hash_init(&hash, stream->record_type, stream->record_size, hashing->flags);
  if (error)
    return error;
  error = hash_records(hashing, index, &hash);
  replay_hash_text(&hash, text);
  bool counts = stream->record_type != BUS_RECORD_GAP || hashing->flags & BUS_CAPTURE_EXACT;
  if (counts) {
    XXH3_128bits_update(hashing->all, stream->name, strlen(stream->name) + 1);
    XXH3_128bits_update(hashing->all, text, sizeof text);
  }
  if (hashing->as_json) {
    json_t *object = json_object();
    replay_json_set(object, "name", replay_json_text(stream->name));
    replay_json_set(object, "records", replay_json_u64(hash.records));
    replay_json_set(object, "xxh3_128", json_string(text));
    replay_json_set(object, "counts", json_boolean(counts));
    json_array_append_new(hashing->streams, object);
  } else if (!error) {
    printf("%s  %s  %" PRIu64 " records%s\n", text, stream->name, hash.records,
           counts ? "" : ", not in the hash of all");
  }
  replay_hash_free(&hash);
  return error;
}

static int hash_all(struct hashing *hashing)
{
  char text[REPLAY_HASH_TEXT_BYTES];
  int error = BUS_OK;
  replay_progress_begin(&hashing->progress, "hash");
  for (uint32_t i = 0; i < bus_capture_stream_count(hashing->capture) && !error; i++)
    if (!hashing->selection.range.streams || hashing->selection.range.streams[i])
      error = hash_stream(hashing, i);
  replay_progress_end(&hashing->progress);
  if (error)
    return replay_fail("hash");
  XXH128_hash_t value = XXH3_128bits_digest(hashing->all);
  snprintf(text, sizeof text, "%016" PRIx64 "%016" PRIx64, (uint64_t)value.high64,
           (uint64_t)value.low64);
  if (!hashing->as_json) {
    printf("%s  all\n", text);
    return REPLAY_OK;
  }
  json_t *object = json_object();
  replay_json_set(object, "capture", replay_json_text(bus_capture_path(hashing->capture)));
  replay_json_set(object, "exact", json_boolean(hashing->flags & BUS_CAPTURE_EXACT));
  replay_json_set(object, "time", json_boolean(!(hashing->flags & BUS_CAPTURE_NO_TIME)));
  replay_json_set(object, "streams", json_incref(hashing->streams));
  replay_json_set(object, "xxh3_128", json_string(text));
  replay_json_set(object, "gaps", replay_json_u64(hashing->gaps));
  replay_json_set(object, "damage_count",
                  replay_json_u64(bus_capture_damage_count(hashing->capture)));
  return replay_json_print("hash", object);
}

static int hash_main(struct hashing *hashing, const struct replay_select *select, const char *path)
{
  int status = replay_open("hash", path, &hashing->capture);
  if (status)
    return status;
  if (replay_select_resolve(select, hashing->capture, &hashing->selection) != BUS_OK) {
    status = replay_fail("hash");
    return replay_close("hash", hashing->capture, status);
  }
  hashing->all = XXH3_createState();
  hashing->streams = json_array();
  if (hashing->all && XXH3_128bits_reset(hashing->all) == XXH_OK)
    status = hash_all(hashing);
  else
    status = REPLAY_FAILED;
  if (hashing->gaps)
    status = replay_worse(status, REPLAY_GAPS);
  XXH3_freeState(hashing->all);
  json_decref(hashing->streams);
  replay_selection_free(&hashing->selection);
  return replay_close("hash", hashing->capture, status);
}

int replay_hash(int argc, char **argv)
{
  enum { JSON = REPLAY_OPTION_OWN, EXACT, NO_TIME };
  static const struct option options[] = {REPLAY_SELECT_OPTIONS,
                                          {"json", no_argument, NULL, JSON},
                                          {"exact", no_argument, NULL, EXACT},
                                          {"no-time", no_argument, NULL, NO_TIME},
                                          {"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                          {NULL, 0, NULL, 0}};
  struct replay_select select = {0};
  struct hashing hashing = {0};
  struct replay_line line = {"hash", help, argc, argv, options, &select, false, 0};
  for (int option; (option = replay_line_next(&line)) != 0;) {
    if (option == JSON)
      hashing.as_json = true;
    else
      hashing.flags |= option == EXACT ? BUS_CAPTURE_EXACT : BUS_CAPTURE_NO_TIME;
  }
  if (line.ended)
    return line.status;
  if (argc - optind != 1)
    return replay_usage_error("hash", "give one capture");
  return hash_main(&hashing, &select, argv[optind]);
}
