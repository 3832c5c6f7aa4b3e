#include "consumers/sse.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every event as "data|", an error as "!data|". */
struct sink {
  char text[4096];
  size_t size;
  uint32_t stop_after; /* events; 0: never */
};

static bool take(void *context, const char *data, size_t size, bool error)
{
  struct sink *sink = context;
  if (sink->size + size + 3 < sizeof sink->text)
    sink->size +=
        (size_t)sprintf(sink->text + sink->size, "%s%.*s|", error ? "!" : "", (int)size, data);
  return sink->stop_after == 0 || --sink->stop_after > 0;
}

/* Whatever the pieces, the same events come out. */
static void expect(const char *stream, size_t size, const char *events, uint64_t comments)
{
  for (size_t piece = 1; piece <= size; piece++) {
    struct sink sink = {.text = ""};
    struct bus_sse sse = {.event = take, .context = &sink};
    for (size_t at = 0; at < size; at += piece) {
      size_t bytes = size - at < piece ? size - at : piece;
      char *copy = malloc(bytes); /* of its own size: what reads beyond it is seen */
      memcpy(copy, stream + at, bytes);
      cr_assert_eq(bus_sse_take(&sse, copy, bytes), BUS_OK);
      free(copy);
    }
    cr_assert_str_eq(sink.text, events, "in pieces of %zu", piece);
    cr_assert_eq(sse.comments, comments);
    bus_sse_free(&sse);
  }
}

#define EXPECT(stream, events, comments) expect(stream, sizeof(stream) - 1, events, comments)

Test(sse, lines_end_in_newline_return_or_both)
{
  EXPECT("data: a\n\ndata: b\n\n", "a|b|", 0);
  EXPECT("data: a\r\n\r\ndata: b\r\n\r\n", "a|b|", 0);
  EXPECT("data: a\r\rdata: b\r\r", "a|b|", 0);
  EXPECT("data: a\r\n\ndata: b\n\r\ndata: c\r\r\n", "a|b|c|", 0);
}

Test(sse, a_byte_order_mark_is_skipped_once)
{
  EXPECT("\xef\xbb\xbf"
         "data: a\n\n",
         "a|", 0);
  EXPECT("\xef\xbb"
         "data: a\n\ndata: b\n\n",
         "b|", 0);
  EXPECT("\xef\xbb\xbf\xef\xbb\xbf"
         "data: a\n\ndata: b\n\n",
         "b|", 0);
}

Test(sse, several_lines_of_data_are_one_event)
{
  EXPECT("data: a\ndata: b\ndata:\ndata: c\n\n", "a\nb\n\nc|", 0);
}

Test(sse, one_space_behind_the_colon_is_none_of_the_data)
{
  EXPECT("data:a\n\ndata: b\n\ndata:  c\n\ndata:\td\n\n", "a|b| c|\td|", 0);
}

Test(sse, comments_between_are_counted)
{
  EXPECT(": keepalive 1/2\n\ndata: a\n: keepalive 2/2\ndata: b\n\n:\n\n", "a\nb|", 3);
}

Test(sse, other_fields_and_events_without_data_are_none)
{
  EXPECT("id: 5\nretry: 10\nevent: x\n\ndata: a\nfoo\nfoo: bar\nDATA: no\n\n\n\n", "a|", 0);
  EXPECT("data\n\n", "|", 0);
}

Test(sse, errors_by_name_and_by_field)
{
  EXPECT("event: error\ndata: a\n\ndata: b\n\n", "!a|b|", 0);
  EXPECT("error: {}\n\ndata: b\n\n", "!{}|b|", 0);
  EXPECT("event: error\nevent: message\ndata: a\n\n", "a|", 0);
  EXPECT("event: error\n\ndata: a\n\n", "a|", 0);
}

Test(sse, an_event_without_its_empty_line_is_none_but_for_the_text_asked_for)
{
  static const struct {
    const char *stream, *events;
  } cases[] = {{"data: [DONE]", "[DONE]|"},  {"data: [DONE]\n", "[DONE]|"},
               {"data: [DON", ""},           {"data: a\ndata: [DONE]", ""},
               {"data: a\n\ndata: b", "a|"}, {"data: [DONE]\n\n", "[DONE]|"},
               {"data:[DONE]\r", "[DONE]|"}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct sink sink = {.text = ""};
    struct bus_sse sse = {.event = take, .context = &sink};
    cr_assert_eq(bus_sse_take(&sse, cases[i].stream, strlen(cases[i].stream)), BUS_OK);
    cr_assert_eq(bus_sse_end(&sse, "[DONE]"), BUS_OK);
    cr_assert_str_eq(sink.text, cases[i].events, "%s", cases[i].stream);
    bus_sse_free(&sse);
  }
}

Test(sse, the_taker_can_stop)
{
  struct sink sink = {.text = "", .stop_after = 2};
  struct bus_sse sse = {.event = take, .context = &sink};
  const char stream[] = "data: a\n\ndata: b\n\ndata: c\n\n";
  cr_assert_eq(bus_sse_take(&sse, stream, sizeof stream - 1), BUS_ERROR_AGAIN);
  cr_assert_str_eq(sink.text, "a|b|");
  bus_sse_clear(&sse);
  cr_assert_eq(sse.events, 0);
  cr_assert_eq(bus_sse_take(&sse, stream, 9), BUS_OK);
  cr_assert_str_eq(sink.text, "a|b|a|");
  bus_sse_free(&sse);
}

static int take_many(struct bus_sse *sse, const char *bytes, size_t size, size_t total)
{
  int error = BUS_OK;
  for (size_t taken = 0; !error && taken < total; taken += size)
    error = bus_sse_take(sse, bytes, size);
  return error;
}

Test(sse, lines_and_events_have_a_longest)
{
  struct sink sink = {.text = ""};
  struct bus_sse sse = {.event = take, .context = &sink};
  static char x[4096];
  memset(x, 'x', sizeof x);
  cr_assert_eq(take_many(&sse, x, sizeof x, BUS_SSE_BYTES_MAX), BUS_OK);
  cr_assert_eq(bus_sse_take(&sse, "x", 1), BUS_ERROR_NO_SPACE);
  cr_assert_leq(sse.line.capacity, 2 * BUS_SSE_BYTES_MAX);
  bus_sse_clear(&sse);
  cr_assert_eq(sse.line.capacity, 0, "large buffers are given back");
  cr_assert_eq(take_many(&sse, "data: 8 bytes\n", 14, 3 * BUS_SSE_BYTES_MAX), BUS_ERROR_NO_SPACE);
  cr_assert_leq(sse.data.capacity, 2 * BUS_SSE_BYTES_MAX);
  bus_sse_free(&sse);
  cr_assert_str_eq(sink.text, "");
}

/* A search for the other kind of line end behind each line would take minutes. */
Test(sse, many_short_lines_cost_no_more_than_their_bytes, .timeout = 60)
{
  struct sink sink = {.text = ""};
  struct bus_sse sse = {.event = take, .context = &sink};
  const size_t size = (size_t)32 << 20;
  char *returns = malloc(size);
  memset(returns, '\r', size);
  cr_assert_eq(bus_sse_take(&sse, returns, size), BUS_OK);
  memset(returns, '\n', size);
  cr_assert_eq(bus_sse_take(&sse, returns, size), BUS_OK);
  free(returns);
  bus_sse_free(&sse);
}
