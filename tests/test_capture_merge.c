#include "consumers/capture_merge.h"

#include "tests/bus_fixture.h"
#include "tests/replay_fixture.h"

static struct bus_capture *open_capture(const struct replay_fixture *fixture)
{
  struct bus_capture *capture;
  cr_assert_eq(replay_fixture_write(fixture), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(bus_capture_open(fixture->directory, &capture), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(bus_capture_damage_count(capture), 0, "%s",
               bus_capture_damage(capture, 0) ? bus_capture_damage(capture, 0)->what : "");
  return capture;
}

struct seen {
  uint64_t records;
  uint64_t gaps;
  uint64_t missing;
  uint64_t metas;
  uint64_t first_ns;
  uint64_t last_ns;
  uint64_t features; /* the next one's index */
};

/* All events of a range, with the order checked. */
static struct seen walk(struct bus_capture *capture, const struct bus_capture_range *range)
{
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  struct seen seen = {0};
  uint64_t features_end = 0;
  int status;
  cr_assert_eq(bus_capture_merge_open(capture, range, &merge), BUS_OK);
  while ((status = bus_capture_merge_next(merge, &event)) == 1) {
    if (event.kind == BUS_CAPTURE_EVENT_GAP) {
      seen.gaps++;
      seen.missing += event.last - event.position + 1;
    }
    seen.metas += event.kind == BUS_CAPTURE_EVENT_META;
    if (event.kind != BUS_CAPTURE_EVENT_RECORD)
      continue;
    const struct bus_capture_stream *stream = bus_capture_stream(capture, event.stream);
    cr_assert_geq(event.time_ns, seen.last_ns);
    cr_assert_eq(bus_capture_record_position(event.record, stream->record_size), event.position);
    cr_assert_eq((uintptr_t)event.record % 64, 0);
    if (stream->record_type == BUS_RECORD_FEATURE)
      features_end = event.position + 1;
    if (stream->record_type == BUS_RECORD_SIGNAL && !range->streams && !range->from_ns)
      cr_assert_lt(event.position, features_end, "a signal before its feature");
    seen.first_ns = seen.first_ns ? seen.first_ns : event.time_ns;
    seen.last_ns = event.time_ns;
    seen.records++;
  }
  cr_assert_eq(status, 0);
  bus_capture_merge_close(merge);
  return seen;
}

Test(capture_merge, gives_all_streams_in_one_order, .init = fixture_create, .fini = fixture_remove)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct replay_fixture fixture = {
      .directory = fixture_directory, .features = 1000, .segment_bytes = 5 * 4096, .first = 77};
  struct bus_capture *capture = open_capture(&fixture);
  struct seen seen = walk(capture, &all);
  cr_assert_eq(bus_capture_stream_count(capture), 4);
  cr_assert_gt(bus_capture_stream(capture, 0)->segment_count, 3);
  cr_assert_eq(seen.records, 2200);
  cr_assert_eq(seen.gaps, 0);
  cr_assert_eq(seen.first_ns, REPLAY_FIXTURE_BEGIN_NS);
  bus_capture_close(capture);
}

Test(capture_merge, tells_gaps_where_they_are, .init = fixture_create, .fini = fixture_remove)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct replay_fixture fixture = {.directory = fixture_directory, .features = 1000, .gap_at = 505};
  struct bus_capture *capture = open_capture(&fixture);
  struct seen seen = walk(capture, &all);
  cr_assert_eq(seen.gaps, 4);
  cr_assert_eq(seen.missing, 10 + 10 + 1 + 1);
  bus_capture_close(capture);
}

/* Halves of a capture, cut anywhere in time or position, are together the whole. */
Test(capture_merge, ranges_tile, .init = fixture_create, .fini = fixture_remove)
{
  struct replay_fixture fixture = {
      .directory = fixture_directory, .features = 1000, .segment_bytes = 4 * 4096};
  struct bus_capture *capture = open_capture(&fixture);
  for (uint32_t i = 0; i <= 1000; i += 37) {
    struct bus_capture_range before = BUS_CAPTURE_RANGE_ALL, behind = BUS_CAPTURE_RANGE_ALL;
    before.until_ns = behind.from_ns =
        REPLAY_FIXTURE_BEGIN_NS + i * REPLAY_FIXTURE_STEP_NS + (i % 3) * 400;
    cr_assert_eq(walk(capture, &before).records + walk(capture, &behind).records, 2200);
    struct bus_capture_range low = BUS_CAPTURE_RANGE_ALL, high = BUS_CAPTURE_RANGE_ALL;
    low.until_position = high.from_position = i;
    cr_assert_eq(walk(capture, &low).records + walk(capture, &high).records, 2200);
    cr_assert_eq(walk(capture, &low).gaps + walk(capture, &high).gaps, 0);
  }
  bus_capture_close(capture);
}

Test(capture_merge, takes_the_streams_that_are_wanted, .init = fixture_create,
     .fini = fixture_remove)
{
  struct replay_fixture fixture = {.directory = fixture_directory, .features = 100};
  struct bus_capture *capture = open_capture(&fixture);
  bool streams[4] = {false};
  struct bus_capture_range range = BUS_CAPTURE_RANGE_ALL;
  range.streams = streams;
  cr_assert_eq(walk(capture, &range).records, 0);
  int index = bus_capture_find_stream(capture, "signals");
  cr_assert_geq(index, 0);
  streams[index] = true;
  cr_assert_eq(walk(capture, &range).records, 100);
  bus_capture_close(capture);
}

static void append(struct replay_output *output, int stream, uint32_t begin, uint32_t end,
                   uint64_t first)
{
  for (uint32_t i = begin; i < end; i++) {
    struct bus_feature feature;
    replay_fixture_feature(i, first + i - begin, &feature);
    cr_assert_eq(replay_output_record(output, stream, &feature, 0), BUS_OK);
  }
}

static json_t *describe(const char *instance)
{
  return json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:s}", "format", "signal-bus capture", "version",
                   1, "member", "feed", "ring", "features", "record_type", "feature", "record_size",
                   128, "instance", instance);
}

/* The ring was replaced: its positions start anew, which is no gap. */
Test(capture_merge, tells_a_new_instance, .init = fixture_create, .fini = fixture_remove)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct bus_capture_shape shape = {
      .record_type = BUS_RECORD_FEATURE, .record_size = 128, .block_size = 4096};
  static const char *const instances[] = {"11", "18446744073709551615"};
  struct replay_output *output;
  struct bus_capture *capture;
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  uint64_t told = 0, records = 0;
  cr_assert_eq(replay_output_open(fixture_directory, UINT64_MAX, &output), BUS_OK);
  int stream = replay_output_stream(output, "feed.features", &shape);
  for (uint32_t i = 0; i < 2; i++) {
    json_t *meta = describe(instances[i]);
    cr_assert_eq(replay_output_rotate(output, stream, true), BUS_OK);
    cr_assert_eq(replay_output_meta(output, stream, meta), BUS_OK);
    json_decref(meta);
    append(output, stream, i * 100, i * 100 + 100, i ? 7 : 500);
  }
  cr_assert_eq(replay_output_close(output), BUS_OK);
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_OK);
  cr_assert_eq(bus_capture_merge_open(capture, &all, &merge), BUS_OK);
  while (bus_capture_merge_next(merge, &event) == 1) {
    cr_assert_neq(event.kind, BUS_CAPTURE_EVENT_GAP);
    if (event.kind == BUS_CAPTURE_EVENT_INSTANCE) {
      cr_assert_eq(records, 100);
      told++;
    }
    if (event.kind != BUS_CAPTURE_EVENT_RECORD)
      continue;
    cr_assert_eq(event.instance, records < 100 ? 11 : UINT64_MAX);
    cr_assert_eq(event.position, records < 100 ? 500 + records : 7 + records - 100);
    records++;
  }
  cr_assert_eq(told, 1);
  cr_assert_eq(records, 200);
  bus_capture_merge_close(merge);
  cr_assert_eq(bus_capture_damage_count(capture), 0);
  bus_capture_close(capture);
}

/* A record that is older than the one before it keeps its place and counts as old as that. */
Test(capture_merge, keeps_a_streams_own_order, .init = fixture_create, .fini = fixture_remove)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct bus_capture_shape shape = {
      .record_type = BUS_RECORD_FEATURE, .record_size = 128, .block_size = 4096};
  struct replay_output *output;
  struct bus_capture *capture;
  cr_assert_eq(replay_output_open(fixture_directory, UINT64_MAX, &output), BUS_OK);
  int stream = replay_output_stream(output, "feed.features", &shape);
  json_t *meta = describe("1");
  cr_assert_eq(replay_output_meta(output, stream, meta), BUS_OK);
  json_decref(meta);
  for (uint32_t i = 0; i < 200; i++)
    append(output, stream, i % 2 ? 200 - i : i, (i % 2 ? 200 - i : i) + 1, i);
  cr_assert_eq(replay_output_close(output), BUS_OK);
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_OK);
  struct seen seen = walk(capture, &all);
  cr_assert_eq(seen.records, 200);
  cr_assert_eq(seen.gaps, 0);
  bus_capture_close(capture);
}
