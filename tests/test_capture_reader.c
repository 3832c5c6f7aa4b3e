#include "consumers/capture_reader.h"

#include "tests/bus_fixture.h"
#include "tests/replay_fixture.h"

static json_t *parse(const char *text)
{
  json_t *meta = NULL;
  int error = bus_capture_meta_parse(text, strlen(text), &meta);
  cr_assert_eq(error == BUS_OK, meta != NULL);
  return meta;
}

#define HEAD "{\"format\":\"signal-bus capture\",\"version\":1"

Test(capture_reader, refuses_descriptions_that_are_none)
{
  static const char duplicate[] = HEAD ",\"version\":1}", behind[] = HEAD "} x";
  static const char newer[] = "{\"format\":\"signal-bus capture\",\"version\":2}";
  static const char foreign[] = "{\"format\":\"x\",\"version\":1}";
  const char *const bad[] = {"", "1", "[]", "{}", "{", HEAD, duplicate, behind, newer, foreign};
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++)
    cr_assert_null(parse(bad[i]), "%s", bad[i]);
}

Test(capture_reader, takes_numbers_as_text_too)
{
  json_t *meta = parse(HEAD ",\"a\":5,\"b\":\"18446744073709551615\",\"c\":-3,\"d\":\"-9\","
                            "\"e\":\"18446744073709551616\",\"f\":\"x\",\"g\":1.5,\"h\":\"\"}");
  cr_assert_eq(bus_capture_meta_u64(meta, "a", 1), 5);
  cr_assert_eq(bus_capture_meta_u64(meta, "b", 1), UINT64_MAX);
  cr_assert_eq(bus_capture_meta_u64(meta, "c", 1), 1);
  cr_assert_eq(bus_capture_meta_i64(meta, "c", 1), -3);
  cr_assert_eq(bus_capture_meta_i64(meta, "d", 1), -9);
  static const char *const none[] = {"e", "f", "g", "h", "i"};
  for (size_t i = 0; i < BUS_COUNT_OF(none); i++)
    cr_assert_eq(bus_capture_meta_u64(meta, none[i], 77), 77, "%s", none[i]);
  cr_assert_str_eq(bus_capture_meta_text(meta, "a"), "");
  json_decref(meta);
}

Test(capture_reader, symbols_have_exponents_in_range)
{
  struct bus_symbol symbol;
  struct bus_capture_stream stream = {
      .meta = parse(HEAD ",\"symbols\":[{\"name\":\"A\",\"price_exponent\":-2,\"size_exponent\":0,"
                         "\"tick_size\":5},{\"name\":\"B\",\"price_exponent\":-99,"
                         "\"size_exponent\":0},7]}")};
  cr_assert_eq(bus_capture_symbol(&stream, 0, &symbol), BUS_OK);
  cr_assert_str_eq(symbol.name, "A");
  cr_assert_eq(symbol.tick_size, 5);
  for (uint32_t i = 1; i < 5; i++)
    cr_assert_eq(bus_capture_symbol(&stream, i, &symbol), BUS_ERROR_ABSENT);
  json_decref(stream.meta);
}

Test(capture_reader, opens_directories_and_single_files, .init = fixture_create,
     .fini = fixture_remove)
{
  struct replay_fixture fixture = {.directory = fixture_directory, .features = 100, .gap_at = 30};
  struct bus_capture *capture;
  uint64_t first_ns, last_ns;
  int64_t offset_ns;
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_ERROR_ABSENT);
  cr_assert_eq(bus_capture_open(fixture_path("none"), &capture), BUS_ERROR_ABSENT);
  cr_assert_eq(replay_fixture_write(&fixture), BUS_OK);
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_OK);
  const struct bus_capture_stream *stream = bus_capture_stream(capture, 0);
  cr_assert_str_eq(stream->name, "feed.features");
  cr_assert_str_eq(stream->ring, "features");
  cr_assert_eq(stream->records, 90);
  cr_assert_eq(stream->lost, 10);
  cr_assert_eq(stream->instance, 18000000000000000001u);
  bus_capture_times(capture, &first_ns, &last_ns, &offset_ns);
  cr_assert_eq(first_ns, REPLAY_FIXTURE_BEGIN_NS);
  cr_assert_eq(offset_ns, 1700000000000000000);
  cr_assert_null(bus_capture_stream(capture, 4));
  cr_assert_eq(bus_capture_find_stream(capture, "infer"), 1);
  cr_assert_eq(bus_capture_find_stream(capture, "nothing"), BUS_ERROR_ABSENT);
  cr_assert_eq(bus_capture_input(capture, bus_capture_stream(capture, 1), 0), 0);
  bus_capture_close(capture);
  cr_assert_eq(bus_capture_open(fixture_path("infer.signals.000000.npy"), &capture), BUS_OK);
  cr_assert_eq(bus_capture_stream_count(capture), 1);
  bus_capture_close(capture);
}

/* What is no file is refused, and what a link leads to nowhere too. */
Test(capture_reader, refuses_what_is_no_file, .init = fixture_create, .fini = fixture_remove)
{
  struct bus_capture *capture;
  cr_assert_eq(mkfifo(fixture_path("a.b.000000.npy"), 0600), 0);
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_ERROR_INVALID);
  unlink(fixture_path("a.b.000000.npy"));
  cr_assert_eq(symlink("/nonexistent", fixture_path("a.b.000000.npy")), 0);
  cr_assert_eq(bus_capture_open(fixture_directory, &capture), BUS_ERROR_ABSENT);
}
