/* The same replies over llhttp and over http-parser: where both are there, this is built over each.
 */
#include "consumers/http_reply.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct outcome {
  uint32_t state;
  uint16_t status;
  bool kept;
  size_t left; /* bytes not taken */
  char body[256];
  char retry_after[64];
};

struct sink {
  char text[256];
  size_t size;
};

static bool take_body(void *context, const char *bytes, size_t size)
{
  struct sink *sink = context;
  if (sink->size + size < sizeof sink->text)
    memcpy(sink->text + sink->size, bytes, size);
  sink->size += size;
  return !memchr(bytes, '!', size);
}

static struct outcome run(const char *bytes, size_t size, size_t piece, bool end, bool broken)
{
  struct bus_http_reply *reply;
  struct sink sink = {.text = ""};
  struct outcome outcome = {.left = size};
  cr_assert_eq(bus_http_reply_new(take_body, &reply), BUS_OK);
  bus_http_reply_begin(reply, &sink);
  for (size_t at = 0; at < size && reply->state == BUS_HTTP_REPLY_MORE; at += piece) {
    size_t count = size - at < piece ? size - at : piece;
    char *copy = malloc(count);
    memcpy(copy, bytes + at, count);
    outcome.left -= bus_http_reply_take(reply, copy, count);
    free(copy);
  }
  if (end)
    bus_http_reply_end(reply, broken);
  outcome.state = reply->state;
  outcome.status = reply->status;
  outcome.kept = reply->kept;
  memcpy(outcome.body, sink.text, sizeof outcome.body);
  strcpy(outcome.retry_after, reply->retry_after);
  bus_http_reply_delete(reply);
  return outcome;
}

/* In pieces of every size; all must agree. */
static struct outcome reply_of(const char *bytes, bool end, bool broken)
{
  const size_t size = strlen(bytes);
  struct outcome first = run(bytes, size, size ? size : 1, end, broken);
  for (size_t piece = 1; piece < size; piece++) {
    struct outcome other = run(bytes, size, piece, end, broken);
    cr_assert_eq(other.state, first.state, "in pieces of %zu: %u, else %u", piece, other.state,
                 first.state);
    cr_assert_eq(other.status, first.status);
    cr_assert_eq(other.kept, first.kept);
    cr_assert_str_eq(other.body, first.body);
    cr_assert_str_eq(other.retry_after, first.retry_after);
  }
  return first;
}

Test(http_reply, a_body_with_content_length)
{
  struct outcome is =
      reply_of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP", false, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_WHOLE);
  cr_assert_eq(is.status, 200);
  cr_assert(is.kept);
  cr_assert_eq(is.left, 4);
  cr_assert_str_eq(is.body, "hello");
  is = reply_of("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", true, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_CUT);
  cr_assert_not(is.kept);
}

Test(http_reply, a_chunked_body_with_extensions_and_trailers)
{
  struct outcome is = reply_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nRetry-After: 7\r\n\r\n",
                               false, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_WHOLE);
  cr_assert(is.kept);
  cr_assert_eq(is.left, 0);
  cr_assert_str_eq(is.body, "abc0123456789");
  cr_assert_str_eq(is.retry_after, "", "a trailer is no header");
  is = reply_of("HTTP/1.1 200 OK\r\nRetry-After: 5 \r\nTransfer-Encoding: chunked\r\n\r\n"
                "0\r\nRetry-After: 7\r\n\r\n",
                false, false);
  cr_assert_str_eq(is.retry_after, "5");
  is = reply_of("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", true, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_CUT);
}

Test(http_reply, a_body_that_the_end_of_the_stream_ends)
{
  struct outcome is = reply_of("HTTP/1.0 200 OK\r\n\r\nhello", true, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_WHOLE);
  cr_assert_not(is.kept);
  cr_assert_str_eq(is.body, "hello");
  is = reply_of("HTTP/1.0 200 OK\r\n\r\nhello", true, true);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_CUT, "a reset is no end");
}

Test(http_reply, who_keeps_the_connection)
{
  static const struct {
    const char *header;
    bool kept;
  } cases[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", true},
      {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", false},
      {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", false},
      {"HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", true},
      {"HTTP/1.1 204 No Content\r\n\r\n", true},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    struct outcome is = reply_of(cases[i].header, false, false);
    cr_assert_eq(is.state, BUS_HTTP_REPLY_WHOLE, "case %zu", i);
    cr_assert_eq(is.kept, cases[i].kept, "case %zu", i);
  }
}

Test(http_reply, interim_replies_are_skipped)
{
  struct outcome is = reply_of("HTTP/1.1 100 Continue\r\nRetry-After: 1\r\n\r\n"
                               "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
                               "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                               false, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_WHOLE);
  cr_assert_eq(is.status, 200);
  cr_assert_str_eq(is.body, "ok");
  cr_assert_str_eq(is.retry_after, "", "it was the interim reply's");
  is = reply_of("HTTP/1.1 100 Continue\r\n\r\n", true, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_CUT);
  cr_assert_eq(is.status, 0);
}

Test(http_reply, an_empty_stream_is_cut_with_status_zero)
{
  struct outcome is = reply_of("", true, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_CUT);
  cr_assert_eq(is.status, 0);
  is = reply_of("HTTP/1.1 20", true, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_CUT);
}

Test(http_reply, what_is_no_reply_is_refused)
{
  static const char *const bad[] = {
      "SSH-2.0-OpenSSH_9.2\r\n",
      "GET / HTTP/1.1\r\n\r\n",
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
      "HTTP/1.1 abc OK\r\n\r\n",
      "HTTP/1.1 700 What\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nx",
      "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
      "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFFF\r\n",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct outcome is = reply_of(bad[i], false, false);
    cr_assert_eq(is.state, BUS_HTTP_REPLY_REFUSED, "case %zu: %s", i, bad[i]);
  }
}

Test(http_reply, the_taker_can_stop)
{
  struct outcome is = reply_of("HTTP/1.1 200 OK\r\n\r\nabc!", false, false);
  cr_assert_eq(is.state, BUS_HTTP_REPLY_STOPPED);
}

/* `lead`, then `filler` for ever. */
static void expect_refused(const char *lead, const char *filler)
{
  struct bus_http_reply *reply;
  struct sink sink = {.text = ""};
  size_t taken = strlen(lead);
  cr_assert_eq(bus_http_reply_new(take_body, &reply), BUS_OK);
  bus_http_reply_begin(reply, &sink);
  bus_http_reply_take(reply, lead, strlen(lead));
  while (reply->state == BUS_HTTP_REPLY_MORE && taken < 1u << 20) {
    bus_http_reply_take(reply, filler, strlen(filler));
    taken += strlen(filler);
  }
  cr_assert_eq(reply->state, BUS_HTTP_REPLY_REFUSED, "%s", filler);
  cr_assert_not_null(reply->problem);
  cr_assert_leq(taken, BUS_HTTP_REPLY_FRAME_BYTES_MAX + 1024, "%zu", taken);
  bus_http_reply_delete(reply);
}

Test(http_reply, nothing_but_a_body_may_go_on_for_ever)
{
  static const char chunked[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  char trailers[128];
  snprintf(trailers, sizeof trailers, "%s0\r\n", chunked);
  expect_refused("HTTP/1.1 200 OK\r\n", "X-Header: value\r\n");
  expect_refused("HTTP/1.1 200 OK\r\nX: ", "aaaaaaaaaaaaaaaa");
  expect_refused("HTTP/1.1 200 ", "OK OK OK OK");
  expect_refused("", "HTTP/1.1 100 Continue\r\n\r\n");
  expect_refused(trailers, "X-Trailer: value\r\n");
}

Test(http_reply, a_long_body_is_no_frame)
{
  struct bus_http_reply *reply;
  struct sink sink = {.text = ""};
  static const char chunk[] = "8\r\n01234567\r\n";
  static const char header[] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  cr_assert_eq(bus_http_reply_new(take_body, &reply), BUS_OK);
  bus_http_reply_begin(reply, &sink);
  bus_http_reply_take(reply, header, sizeof header - 1);
  for (int i = 0; i < 100000; i++)
    bus_http_reply_take(reply, chunk, sizeof chunk - 1);
  cr_assert_eq(reply->state, BUS_HTTP_REPLY_MORE);
  cr_assert_eq(sink.size, 800000);
  bus_http_reply_take(reply, "0\r\n\r\n", 5);
  cr_assert_eq(reply->state, BUS_HTTP_REPLY_WHOLE);
  bus_http_reply_delete(reply);
}

Test(http_reply, says_what_it_is_built_over)
{
  cr_assert(!strncmp(bus_http_reply_library(), "llhttp ", 7) ||
            !strncmp(bus_http_reply_library(), "http-parser ", 12));
}
