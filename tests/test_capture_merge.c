#include "consumers/capture_merge.h"

#include "tests/bus_fixture.h"
#include "tests/capture_fixture.h"

static struct bus_capture *open_capture(const struct capture_fixture *fixture)
{
  struct bus_capture *capture;
  cr_assert_eq(capture_fixture_write(fixture), BUS_OK, "%s", bus_error_message());
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
  struct capture_fixture fixture = {
      .directory = fixture_directory, .features = 1000, .segment_bytes = 5 * 4096, .first = 77};
  struct bus_capture *capture = open_capture(&fixture);
  struct seen seen = walk(capture, &all);
  cr_assert_eq(bus_capture_stream_count(capture), 4);
  cr_assert_gt(bus_capture_stream(capture, 0)->segment_count, 3);
  cr_assert_eq(seen.records, 2200);
  cr_assert_eq(seen.gaps, 0);
  cr_assert_eq(seen.first_ns, CAPTURE_FIXTURE_BEGIN_NS);
  bus_capture_close(capture);
}

Test(capture_merge, tells_gaps_where_they_are, .init = fixture_create, .fini = fixture_remove)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct capture_fixture fixture = {
      .directory = fixture_directory, .features = 1000, .gap_at = 505};
  struct bus_capture *capture = open_capture(&fixture);
  struct seen seen = walk(capture, &all);
  cr_assert_eq(seen.gaps, 4);
  cr_assert_eq(seen.missing, 10 + 10 + 1 + 1);
  bus_capture_close(capture);
}

/* Halves of a capture, cut anywhere in time or position, are together the whole. */
Test(capture_merge, ranges_tile, .init = fixture_create, .fini = fixture_remove)
{
  struct capture_fixture fixture = {
      .directory = fixture_directory, .features = 1000, .segment_bytes = 4 * 4096};
  struct bus_capture *capture = open_capture(&fixture);
  for (uint32_t i = 0; i <= 1000; i += 37) {
    struct bus_capture_range before = BUS_CAPTURE_RANGE_ALL, behind = BUS_CAPTURE_RANGE_ALL;
    before.until_ns = behind.from_ns =
        CAPTURE_FIXTURE_BEGIN_NS + i * CAPTURE_FIXTURE_STEP_NS + (i % 3) * 400;
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
  struct capture_fixture fixture = {.directory = fixture_directory, .features = 100};
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
