#include "tools/replay.h"

#include "shm/layout.h"

#include <inttypes.h>
#include <string.h>

static const char help[] =
    "Usage: bus-replay info [--json] CAPTURE\n"
    "\n"
    "Shows what was recorded: streams with their records, times, gaps, symbols, and what is known "
    "of\n"
    "the bus. Reads the headers of the blocks only; `bus-replay verify` checks everything.\n"
    "\n"
    "  --json  one JSON object\n"
    "  --help  this text\n"
    "\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing, 4 damage was found and "
    "named.\n";

/* ---- as JSON; the text is made from it ---- */

static json_t *describe_segment(const struct bus_capture_segment *segment)
{
  json_t *object = json_object();
  uint64_t bad = 0;
  for (uint64_t i = 0; i < segment->blocks; i++)
    bad += segment->states[i] == BUS_CAPTURE_BLOCK_BAD;
  replay_json_set(object, "path", replay_json_text(segment->path));
  replay_json_set(object, "bytes", replay_json_u64(segment->file_bytes));
  replay_json_set(object, "block_bytes", replay_json_u64(segment->shape.block_size));
  replay_json_set(object, "blocks", replay_json_u64(segment->blocks));
  replay_json_set(object, "blocks_damaged", replay_json_u64(bad));
  replay_json_set(object, "compressed", json_boolean(segment->compressed));
  replay_json_set(object, "unfinished", json_boolean(segment->unfinished));
  replay_json_set(object, "instance", replay_json_u64(segment->instance));
  return object;
}

static json_t *describe_stream(const struct bus_capture_stream *stream)
{
  json_t *object = json_object(), *segments = json_array();
  for (size_t i = 0; i < stream->segment_count; i++)
    json_array_append_new(segments, describe_segment(&stream->segments[i]));
  replay_json_set(object, "name", replay_json_text(stream->name));
  replay_json_set(object, "record_type",
                  replay_json_text(bus_record_type_name(stream->record_type)));
  replay_json_set(object, "record_bytes", replay_json_u64(stream->record_size));
  replay_json_set(object, "records", replay_json_u64(stream->records));
  replay_json_set(object, "lost", replay_json_u64(stream->lost));
  replay_json_set(object, "first_position", replay_json_u64(stream->first));
  replay_json_set(object, "last_position", replay_json_u64(stream->last));
  replay_json_set(object, "first_time_ns", replay_json_u64(stream->first_time_ns));
  replay_json_set(object, "last_time_ns", replay_json_u64(stream->last_time_ns));
  replay_json_set(object, "instance", replay_json_u64(stream->instance));
  replay_json_set(object, "bytes", replay_json_u64(stream->bytes));
  replay_json_set(object, "segments", segments);
  replay_json_set(object, "meta", json_incref(stream->meta));
  return object;
}

static json_t *describe(const struct bus_capture *capture)
{
  json_t *object = json_object(), *streams = json_array();
  uint64_t first_ns, last_ns;
  int64_t offset_ns;
  bus_capture_times(capture, &first_ns, &last_ns, &offset_ns);
  for (uint32_t i = 0; i < bus_capture_stream_count(capture); i++)
    json_array_append_new(streams, describe_stream(bus_capture_stream(capture, i)));
  replay_json_set(object, "capture", replay_json_text(bus_capture_path(capture)));
  replay_json_set(object, "first_time_ns", replay_json_u64(first_ns));
  replay_json_set(object, "last_time_ns", replay_json_u64(last_ns));
  replay_json_set(object, "realtime_offset_ns", json_integer(offset_ns));
  replay_json_set(object, "streams", streams);
  replay_json_set(object, "damage", replay_json_damages(capture));
  return object;
}

/* ---- as text ---- */

static void print_symbols(const struct bus_capture_stream *stream)
{
  size_t count = json_array_size(json_object_get(stream->meta, "symbols"));
  struct bus_symbol symbol;
  if (count == 0)
    return;
  printf("    symbols:");
  for (uint32_t i = 0; i < count && i < 16; i++)
    if (bus_capture_symbol(stream, i, &symbol) == BUS_OK) {
      json_t *clean = replay_json_text(symbol.name);
      printf(" %s", json_string_value(clean));
      json_decref(clean);
    }
  printf(count > 16 ? " and %zu more\n" : "\n", count - 16);
}

static void print_stream(const struct bus_capture_stream *stream, int64_t offset_ns)
{
  char first[40], last[40];
  uint64_t unfinished = 0, compressed = 0;
  for (size_t i = 0; i < stream->segment_count; i++) {
    unfinished += stream->segments[i].unfinished;
    compressed += stream->segments[i].compressed;
  }
  printf("  %s: %s of %" PRIu32 " bytes, %" PRIu64 " records", stream->name,
         bus_record_type_name(stream->record_type), stream->record_size, stream->records);
  if (stream->records)
    printf(", positions %" PRIu64 " to %" PRIu64, stream->first, stream->last);
  const char *filtered = bus_capture_meta_text(stream->meta, "filtered");
  if (stream->lost)
    printf(*filtered ? ", %" PRIu64 " left out" : ", %" PRIu64 " LOST", stream->lost);
  printf("\n    %zu segments, %.1f MB", stream->segment_count, (double)stream->bytes / 1e6);
  if (compressed)
    printf(", %" PRIu64 " compressed", compressed);
  if (unfinished)
    printf(", %" PRIu64 " unfinished (being written, or its recorder was killed)", unfinished);
  if (stream->records)
    printf("\n    %s to %s", replay_time_text(first, stream->first_time_ns, offset_ns),
           replay_time_text(last, stream->last_time_ns, offset_ns));
  putchar('\n');
  if (*filtered) {
    json_t *clean = replay_json_text(filtered);
    printf("    only a part: %s\n", json_string_value(clean));
    json_decref(clean);
  }
  print_symbols(stream);
}

static void print_capture(const struct bus_capture *capture)
{
  uint64_t first_ns, last_ns, records = 0;
  int64_t offset_ns;
  bus_capture_times(capture, &first_ns, &last_ns, &offset_ns);
  for (uint32_t i = 0; i < bus_capture_stream_count(capture); i++)
    records += bus_capture_stream(capture, i)->records;
  json_t *path = replay_json_text(bus_capture_path(capture));
  printf("capture %s: %u streams, %" PRIu64 " records, %.3f s\n", json_string_value(path),
         bus_capture_stream_count(capture), records, (double)(last_ns - first_ns) / 1e9);
  json_decref(path);
  for (uint32_t i = 0; i < bus_capture_stream_count(capture); i++)
    print_stream(bus_capture_stream(capture, i), offset_ns);
}

int replay_info(int argc, char **argv)
{
  static const struct option options[] = {{"json", no_argument, NULL, REPLAY_OPTION_OWN},
                                          {"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                          {NULL, 0, NULL, 0}};
  struct bus_capture *capture;
  bool as_json = false;
  struct replay_line line = {"info", help, argc, argv, options, NULL, false, 0};
  while (replay_line_next(&line) != 0)
    as_json = true;
  if (line.ended)
    return line.status;
  if (argc - optind != 1)
    return replay_usage_error("info", "give one capture");
  int status = replay_open("info", argv[optind], &capture);
  if (status)
    return status;
  if (as_json)
    status = replay_json_print("info", describe(capture));
  else
    print_capture(capture);
  for (uint32_t i = 0; i < bus_capture_stream_count(capture); i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(capture, i);
    if (stream->lost && !*bus_capture_meta_text(stream->meta, "filtered"))
      status = replay_worse(status, REPLAY_GAPS);
  }
  return replay_close("info", capture, status);
}
