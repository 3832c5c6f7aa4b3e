#include "tools/replay_select.h"

#include "tests/bus_fixture.h"
#include "tests/replay_fixture.h"

static struct bus_capture *open_capture(void)
{
  struct replay_fixture fixture = {.directory = fixture_directory, .features = 100};
  struct bus_capture *capture;
  cr_assert_eq(replay_fixture_write(&fixture), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_OK, "%s", bus_error_message());
  return capture;
}

Test(replay_select, parses_durations)
{
  static const struct {
    const char *text;
    uint64_t ns;
  } good[] = {{"7ns", 7},         {"250us", 250000},    {"1.5s", 1500000000},  {"2", 2000000000},
              {"10ms", 10000000}, {"2m", 120000000000}, {"1h", 3600000000000}, {"0s", 0}};
  static const char *const bad[] = {"", "s", "-1s", "1x", "1 s", "1e30s", "nan", "inf", "0x"};
  uint64_t ns;
  for (size_t i = 0; i < BUS_COUNT_OF(good); i++) {
    cr_assert(replay_parse_duration(good[i].text, &ns), "%s", good[i].text);
    cr_assert_eq(ns, good[i].ns, "%s", good[i].text);
  }
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++)
    cr_assert_not(replay_parse_duration(bad[i], &ns), "%s", bad[i]);
}

Test(replay_select, finds_points, .init = fixture_create, .fini = fixture_remove)
{
  struct bus_capture *capture = open_capture();
  struct replay_selection selection;
  struct replay_select select = {.from = "seq:17", .until = "+50ms"};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_OK);
  cr_assert_eq(selection.range.from_position, 17);
  cr_assert_eq(selection.range.from_ns, 0);
  cr_assert_eq(selection.range.until_ns, REPLAY_FIXTURE_BEGIN_NS + 50 * REPLAY_FIXTURE_STEP_NS);
  cr_assert_not(selection.everything);
  replay_selection_free(&selection);
  /* The fixture's bus clock began 1.7e18 ns after 1970. */
  select = (struct replay_select){.from = "2023-11-14T22:30:00.000000123Z", .until = "77"};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_OK);
  cr_assert_eq(selection.range.from_ns, REPLAY_FIXTURE_BEGIN_NS + 123);
  cr_assert_eq(selection.range.until_ns, 77);
  replay_selection_free(&selection);
  select = (struct replay_select){.from = "seq:x"};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_ERROR_INVALID);
  bus_capture_close(capture);
}

Test(replay_select, finds_streams_and_symbols, .init = fixture_create, .fini = fixture_remove)
{
  struct bus_capture *capture = open_capture();
  struct replay_selection selection;
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  struct replay_select select = {.symbols = {"ETHUSDT"}, .symbol_count = 1};
  uint64_t counts[4] = {0};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_OK);
  cr_assert_eq(bus_capture_merge_open(capture, &selection.range, &merge), BUS_OK);
  while (bus_capture_merge_next(merge, &event) == 1)
    counts[event.stream] += event.kind == BUS_CAPTURE_EVENT_RECORD;
  bus_capture_merge_close(merge);
  cr_assert_eq(counts[0], 50); /* features */
  cr_assert_eq(counts[1], 50); /* signals, by the symbol of the input */
  cr_assert_eq(counts[2], 10); /* raw: has no symbol */
  replay_selection_free(&selection);
  select = (struct replay_select){.streams = {"feed", "gaps"}, .stream_count = 2};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_OK);
  cr_assert(selection.streams[0] && !selection.streams[1] && selection.streams[3]);
  replay_selection_free(&selection);
  select = (struct replay_select){.streams = {"x"}, .stream_count = 1};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_ERROR_ABSENT);
  select = (struct replay_select){.symbols = {"BTC"}, .symbol_count = 1};
  cr_assert_eq(replay_select_resolve(&select, capture, &selection), BUS_ERROR_ABSENT);
  bus_capture_close(capture);
}
