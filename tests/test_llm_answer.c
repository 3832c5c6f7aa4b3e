#include "consumers/llm_exchange.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Wed, 21 Oct 2015 07:28:00 GMT */
#define WALL_NS   (1445412480u * UINT64_C(1000000000))
#define TEXT_MAX  ((size_t)1 << 20)

#define EVENTS_10 "HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\n\r\n"
#define JSON_10   "HTTP/1.0 200 OK\r\nContent-type: application/json\r\n\r\n"
#define DELTA(content)                                                                             \
  "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"" content      \
  "\"},"                                                                                           \
  "\"finish_reason\":null}]}\n\n"
#define FINISH(reason)                                                                             \
  "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"" reason "\"}]}\n\n"
#define USAGE                                                                                      \
  "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":34,"                \
  "\"total_tokens\":46}}\n\n"
#define DONE "data: [DONE]\n\n"

enum ending { STAYS_OPEN, CLOSES, BREAKS };

/* The caller frees it. */
static struct bus_llm_answer *run(uint8_t kind, size_t text_max, const char *bytes, size_t size,
                                  size_t piece, enum ending ending)
{
  struct bus_llm_answer *answer = calloc(1, sizeof *answer);
  cr_assert_eq(bus_llm_answer_begin(answer, kind, text_max, WALL_NS), BUS_OK);
  for (size_t at = 0; at < size; at += piece) {
    size_t count = size - at < piece ? size - at : piece;
    char *copy = malloc(count); /* of its own size: what reads beyond it is seen */
    memcpy(copy, bytes + at, count);
    cr_assert_eq(bus_llm_answer_take(answer, copy, count), answer->verdict);
    free(copy);
  }
  if (ending != STAYS_OPEN)
    cr_assert_eq(bus_llm_answer_end(answer, ending == BREAKS), answer->verdict);
  return answer;
}

static void drop(struct bus_llm_answer *answer)
{
  bus_llm_answer_free(answer);
  free(answer);
}

static struct bus_llm_answer *answer_of(uint8_t kind, const char *bytes, size_t size,
                                        enum ending ending)
{
  struct bus_llm_answer *answer = run(kind, TEXT_MAX, bytes, size, size ? size : 1, ending);
  for (size_t piece = 1; piece < size; piece = piece < 10 ? piece + 1 : piece * 2) {
    struct bus_llm_answer *other = run(kind, TEXT_MAX, bytes, size, piece, ending);
    cr_assert_eq(other->verdict, answer->verdict, "in pieces of %zu", piece);
    cr_assert_eq(other->http_status, answer->http_status);
    cr_assert_eq(other->text.size, answer->text.size);
    cr_assert(answer->text.size == 0 ||
              !memcmp(other->text.bytes, answer->text.bytes, answer->text.size));
    cr_assert_eq(other->reasoning.size, answer->reasoning.size);
    cr_assert_str_eq(other->error_text, answer->error_text);
    cr_assert_eq(other->completion_tokens, answer->completion_tokens);
    cr_assert_eq(other->retry_after_ms, answer->retry_after_ms);
    drop(other);
  }
  return answer;
}

/* Runs the bytes in pieces of many sizes; checks verdict and text. */
static struct bus_llm_answer *expect_bytes(uint8_t kind, const char *bytes, size_t size,
                                           enum ending ending, uint32_t verdict, const char *text)
{
  struct bus_llm_answer *answer = answer_of(kind, bytes, size, ending);
  cr_assert_eq(answer->verdict, verdict, "verdict %u: %s", answer->verdict, answer->error_text);
  cr_assert_eq(answer->text.size, strlen(text), "%.*s", (int)answer->text.size, answer->text.bytes);
  cr_assert(!answer->text.size || !memcmp(answer->text.bytes, text, answer->text.size));
  return answer;
}

static struct bus_llm_answer *expect(const char *bytes, enum ending ending, uint32_t verdict,
                                     const char *text)
{
  return expect_bytes(BUS_LLM_CHAT, bytes, strlen(bytes), ending, verdict, text);
}

Test(llm_answer, http10_stream_delimited_by_close_is_whole_at_done)
{
  struct bus_llm_answer *is =
      expect(EVENTS_10 ": keepalive 1/2\n\n" DELTA("Hel") ": keepalive 2/2\n\n" DELTA("lo")
                 FINISH("stop") USAGE DONE,
             STAYS_OPEN, BUS_LLM_VERDICT_OK, "Hello");
  cr_assert_eq(is->http_status, 200);
  cr_assert_eq(is->comments, 2);
  cr_assert_eq(is->prompt_tokens, 12);
  cr_assert_eq(is->completion_tokens, 34);
  cr_assert(is->first_token);
  cr_assert_not(is->reusable);
  drop(is);
}

Test(llm_answer, http10_stream_without_done_is_truncated)
{
  drop(expect(EVENTS_10 DELTA("Hel"), CLOSES, BUS_LLM_VERDICT_TRUNCATED, "Hel"));
  drop(expect(EVENTS_10 DELTA("Hel") FINISH("stop") USAGE, CLOSES, BUS_LLM_VERDICT_TRUNCATED,
              "Hel"));
  drop(expect(EVENTS_10 DELTA("Hel") FINISH("stop") USAGE, BREAKS, BUS_LLM_VERDICT_TRUNCATED,
              "Hel"));
  drop(expect(EVENTS_10 DELTA("Hel") "data: {\"cho", CLOSES, BUS_LLM_VERDICT_TRUNCATED, "Hel"));
  drop(expect(EVENTS_10 "data: {\"cho", CLOSES, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect(EVENTS_10 ": keepalive 1/2\n\n", CLOSES, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect(EVENTS_10 DELTA("Hel") FINISH("stop"), STAYS_OPEN, BUS_LLM_VERDICT_MORE, "Hel"));
}

Test(llm_answer, done_without_finish_reason_is_truncated)
{
  drop(expect(EVENTS_10 DELTA("Hel") DONE, STAYS_OPEN, BUS_LLM_VERDICT_TRUNCATED, "Hel"));
}

Test(llm_answer, done_needs_no_empty_line_behind_it)
{
  drop(expect(EVENTS_10 DELTA("x") FINISH("stop") "data: [DONE]", CLOSES, BUS_LLM_VERDICT_OK, "x"));
  drop(
      expect(EVENTS_10 DELTA("x") FINISH("stop") "data:[DONE]\n", BREAKS, BUS_LLM_VERDICT_OK, "x"));
  drop(expect(EVENTS_10 DELTA("x") FINISH("stop") "data: [DON", CLOSES, BUS_LLM_VERDICT_TRUNCATED,
              "x"));
}

Test(llm_answer, zero_bytes_and_a_close_are_truncated)
{
  struct bus_llm_answer *is = expect("", CLOSES, BUS_LLM_VERDICT_TRUNCATED, "");
  cr_assert_eq(is->http_status, 0);
  cr_assert_eq(is->bytes, 0);
  drop(is);
  drop(expect("", BREAKS, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect("HTTP/1.1 200", CLOSES, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect(EVENTS_10, CLOSES, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", STAYS_OPEN, BUS_LLM_VERDICT_TRUNCATED,
              ""));
}

static void expect_finish(const char *reason, uint32_t verdict)
{
  char stream[1024];
  int size = snprintf(stream, sizeof stream,
                      "%sdata: {\"choices\":[{\"delta\":{},\"finish_reason\":\"%s\"}]}\n\n%s",
                      EVENTS_10 DELTA("x"), reason, DONE);
  struct bus_llm_answer *is =
      expect_bytes(BUS_LLM_CHAT, stream, (size_t)size, STAYS_OPEN, verdict, "x");
  if (verdict != BUS_LLM_VERDICT_OK && verdict != BUS_LLM_VERDICT_LENGTH)
    cr_assert_not_null(strstr(is->error_text, reason));
  drop(is);
}

Test(llm_answer, what_finish_reasons_mean)
{
  expect_finish("stop", BUS_LLM_VERDICT_OK);
  expect_finish("length", BUS_LLM_VERDICT_LENGTH);
  expect_finish("tool_calls", BUS_LLM_VERDICT_OK);
  expect_finish("eos", BUS_LLM_VERDICT_OK);
  expect_finish("content_filter", BUS_LLM_VERDICT_4XX);
  expect_finish("abort", BUS_LLM_VERDICT_STREAM_ERROR);
  expect_finish("error", BUS_LLM_VERDICT_STREAM_ERROR);
}

static void expect_reasoning(const char *delta)
{
  char stream[1024];
  int size = snprintf(stream, sizeof stream, "%sdata: {\"choices\":[{\"delta\":{%s}}]}\n\n%s",
                      EVENTS_10, delta, DELTA("x") FINISH("stop") DONE);
  struct bus_llm_answer *is =
      expect_bytes(BUS_LLM_CHAT, stream, (size_t)size, STAYS_OPEN, BUS_LLM_VERDICT_OK, "x");
  cr_assert_eq(is->reasoning.size, 3, "%s", delta);
  cr_assert_eq(memcmp(is->reasoning.bytes, "hmm", 3), 0);
  cr_assert_eq(is->completion_tokens, 2, "without a usage the chunks are counted");
  drop(is);
}

Test(llm_answer, reasoning_by_either_name_and_by_both)
{
  expect_reasoning("\"reasoning\":\"hmm\"");
  expect_reasoning("\"reasoning_content\":\"hmm\",\"content\":null");
  expect_reasoning("\"reasoning\":\"hmm\",\"reasoning_content\":\"hmm\"");
  expect_reasoning("\"reasoning\":null,\"reasoning_content\":\"hmm\"");
}

Test(llm_answer, an_error_in_the_stream_before_done_is_an_error)
{
  struct bus_llm_answer *is =
      expect(EVENTS_10 DELTA("x") "data: {\"error\":{\"message\":\"out of memory\",\"type\":\"x\","
                                  "\"param\":null,\"code\":500}}\n\n" DONE,
             STAYS_OPEN, BUS_LLM_VERDICT_STREAM_ERROR, "x");
  cr_assert_str_eq(is->error_text, "out of memory (code 500)");
  cr_assert_not(is->reusable);
  drop(is);
}

Test(llm_answer, errors_in_the_stream_of_every_form)
{
  static const struct {
    const char *event, *text;
  } cases[] = {
      {"data: {\"error\":\"text\"}\n\n", "text"},
      {"data: {\"error\":\"\"}\n\n", ""},
      {"data: {\"error\":{\"message\":\"m\",\"code\":\"rate_limit\"}}\n\n", "m (code rate_limit)"},
      {"data: {\"error\":{\"message\":\"m\",\"code\":null}}\n\n", "m"},
      {"data: {\"error\":{\"why\":5}}\n\n", "{\"why\":5.0}"},
      {"data: {\"error\":true}\n\n", "true"},
      {"data: {\"object\":\"error\",\"message\":\"m\",\"code\":40}\n\n", "m (code 40)"},
      {"error: {\"code\":500,\"message\":\"m\"}\n\n", "m (code 500)"},
      {"error: it broke\n\n", "it broke"},
      {"event: error\ndata: {\"message\":\"m\"}\n\n", "m"},
      {"data: {\"error\":\"a\\nb\\u0000c\"}\n\n", "a b c"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char stream[512];
    int size = snprintf(stream, sizeof stream, "%s%s", EVENTS_10 FINISH("stop"), cases[i].event);
    struct bus_llm_answer *is = expect_bytes(BUS_LLM_CHAT, stream, (size_t)size, STAYS_OPEN,
                                             BUS_LLM_VERDICT_STREAM_ERROR, "");
    cr_assert_str_eq(is->error_text, cases[i].text, "%s", is->error_text);
    drop(is);
  }
}

static void expect_status(const char *head, const char *body, uint32_t verdict, uint16_t status,
                          const char *error_text, uint32_t retry_after_ms)
{
  char reply[1024];
  int size = snprintf(reply, sizeof reply, "%s\r\nContent-Length: %zu\r\n\r\n%s", head,
                      strlen(body), body);
  struct bus_llm_answer *is =
      expect_bytes(BUS_LLM_CHAT, reply, (size_t)size, STAYS_OPEN, verdict, "");
  cr_assert_eq(is->http_status, status);
  cr_assert_str_eq(is->error_text, error_text, "%s", is->error_text);
  cr_assert_eq(is->retry_after_ms, retry_after_ms, "%u", is->retry_after_ms);
  drop(is);
}

Test(llm_answer, statuses_and_what_the_server_says_with_them)
{
  expect_status("HTTP/1.0 404 Not Found", "{\"error\": \"no such repository\"}",
                BUS_LLM_VERDICT_4XX, 404, "no such repository", 0);
  expect_status("HTTP/1.0 411 Length Required", "", BUS_LLM_VERDICT_4XX, 411, "", 0);
  expect_status("HTTP/1.1 400 Bad Request",
                "{\"error\":{\"message\":\"too long\",\"type\":\"x\",\"param\":null,\"code\":400}}",
                BUS_LLM_VERDICT_4XX, 400, "too long (code 400)", 0);
  expect_status("HTTP/1.1 422 No", "{\"detail\":[{\"msg\":\"field\"}]}", BUS_LLM_VERDICT_4XX, 422,
                "[{\"msg\":\"field\"}]", 0);
  expect_status("HTTP/1.1 499 Cancelled", "{\"error\":{\"message\":\"m\",\"code\":null}}",
                BUS_LLM_VERDICT_4XX, 499, "m", 0);
  expect_status(
      "HTTP/1.1 503 Service Unavailable",
      "{\"error\":{\"code\":503,\"message\":\"Loading model\",\"type\":\"unavailable_error\"}}",
      BUS_LLM_VERDICT_5XX, 503, "Loading model (code 503)", 0);
  expect_status("HTTP/1.1 502 Bad Gateway", "<html>\r\n<b>nginx</b>\xff</html>",
                BUS_LLM_VERDICT_5XX, 502, "<html>  <b>nginx</b>?</html>", 0);
  expect_status("HTTP/1.1 500 Oops", "[5]", BUS_LLM_VERDICT_5XX, 500, "[5]", 0);
  expect_status("HTTP/1.1 307 Moved\r\nLocation: http://x/", "", BUS_LLM_VERDICT_4XX, 307,
                "the server sends us to http://x/: configure that address", 0);
}

Test(llm_answer, retry_after_in_seconds_and_as_a_date)
{
  expect_status("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7", "", BUS_LLM_VERDICT_4XX, 429,
                "", 7000);
  expect_status("HTTP/1.1 503 Busy\r\nretry-after:  Wed, 21 Oct 2015 07:28:09 GMT ",
                "{\"error\":\"busy\"}", BUS_LLM_VERDICT_5XX, 503, "busy", 9000);
  expect_status("HTTP/1.1 503 Busy\r\nRetry-After: 999999", "", BUS_LLM_VERDICT_5XX, 503, "",
                86400000);
}

Test(llm_answer, a_status_counts_although_its_body_is_cut)
{
  struct bus_llm_answer *is = expect("HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\nbusy", BREAKS,
                                     BUS_LLM_VERDICT_5XX, "");
  cr_assert_str_eq(is->error_text, "busy");
  drop(is);
  drop(expect("HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\nxyz", STAYS_OPEN,
              BUS_LLM_VERDICT_4XX, ""));
}

Test(llm_answer, an_error_body_without_end_is_cut)
{
  const char head[] = "HTTP/1.0 500 Oops\r\n\r\n";
  struct bus_llm_answer answer = {0};
  char filler[1000];
  memset(filler, 'x', sizeof filler);
  cr_assert_eq(bus_llm_answer_begin(&answer, BUS_LLM_CHAT, 100, WALL_NS), BUS_OK);
  bus_llm_answer_take(&answer, head, sizeof head - 1);
  for (int i = 0; i < 65; i++)
    cr_assert_eq(bus_llm_answer_take(&answer, filler, sizeof filler), BUS_LLM_VERDICT_MORE);
  cr_assert_eq(bus_llm_answer_take(&answer, filler, sizeof filler), BUS_LLM_VERDICT_5XX);
  cr_assert_eq(strlen(answer.error_text), 255);
  bus_llm_answer_free(&answer);
}

/* The stream as one chunk, without the last one. */
static size_t chunked(char *reply, size_t room, const char *header, const char *events)
{
  return (size_t)snprintf(reply, room,
                          "HTTP/1.1 200 OK\r\n%sTransfer-Encoding: chunked\r\n\r\n%zx\r\n%s\r\n",
                          header, strlen(events), events);
}

Test(llm_answer, a_kept_connection_is_reusable_when_the_last_chunk_came)
{
  char reply[1024];
  size_t size = chunked(reply, sizeof reply, "", DELTA("x") FINISH("stop") DONE);
  struct bus_llm_answer *is =
      expect_bytes(BUS_LLM_CHAT, reply, size, STAYS_OPEN, BUS_LLM_VERDICT_MORE, "x");
  drop(is);
  is = expect_bytes(BUS_LLM_CHAT, reply, size, BREAKS, BUS_LLM_VERDICT_OK, "x");
  cr_assert_not(is->reusable);
  drop(is);
  strcpy(reply + size, "0\r\n\r\n");
  is = expect_bytes(BUS_LLM_CHAT, reply, size + 5, STAYS_OPEN, BUS_LLM_VERDICT_OK, "x");
  cr_assert(is->reusable);
  cr_assert_eq(bus_llm_answer_take(is, "H", 1), BUS_LLM_VERDICT_OK);
  cr_assert_not(is->reusable, "nobody knows what the bytes behind belong to");
  drop(is);
  strcpy(reply + size, "0\r\n\r\nHTTP");
  is = run(BUS_LLM_CHAT, TEXT_MAX, reply, size + 9, size + 9, STAYS_OPEN);
  cr_assert_eq(is->verdict, BUS_LLM_VERDICT_OK);
  cr_assert_not(is->reusable);
  drop(is);
  strcpy(reply + size, "garbage");
  drop(expect_bytes(BUS_LLM_CHAT, reply, size + 7, STAYS_OPEN, BUS_LLM_VERDICT_OK, "x"));
}

Test(llm_answer, a_connection_that_will_be_closed_is_not_waited_for)
{
  char reply[1024];
  size_t size =
      chunked(reply, sizeof reply, "Connection: close\r\n", DELTA("x") FINISH("stop") DONE);
  struct bus_llm_answer *is =
      expect_bytes(BUS_LLM_CHAT, reply, size, STAYS_OPEN, BUS_LLM_VERDICT_OK, "x");
  cr_assert_not(is->reusable);
  drop(is);
}

Test(llm_answer, chunks_may_cut_events_anywhere)
{
  static const char events[] =
      DELTA("\xe2\x82\xac \xf0\x9f\x98\x80 \\ud83d\\ude00") FINISH("stop") DONE;
  char reply[8192] = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
  size_t size = strlen(reply);
  for (size_t i = 0; i < sizeof events - 1; i++)
    size += (size_t)sprintf(reply + size, "1\r\n%c\r\n", events[i]);
  size += (size_t)sprintf(reply + size, "0\r\n\r\n");
  struct bus_llm_answer *is =
      expect_bytes(BUS_LLM_CHAT, reply, size, STAYS_OPEN, BUS_LLM_VERDICT_OK,
                   "\xe2\x82\xac \xf0\x9f\x98\x80 \xf0\x9f\x98\x80");
  cr_assert(is->reusable);
  drop(is);
}

Test(llm_answer, halves_of_a_surrogate_pair_in_two_chunks_are_joined)
{
  drop(expect(EVENTS_10 DELTA("a\\ud83d") DELTA("\\ude00b") FINISH("stop") DONE, STAYS_OPEN,
              BUS_LLM_VERDICT_OK,
              "a\xf0\x9f\x98\x80"
              "b"));
  drop(expect(EVENTS_10 DELTA("a\\ud83d") DELTA("b") FINISH("stop") DONE, STAYS_OPEN,
              BUS_LLM_VERDICT_OK,
              "a\xef\xbf\xbd"
              "b"));
  drop(expect(EVENTS_10 DELTA("a\\ud83d") FINISH("stop") DONE, STAYS_OPEN, BUS_LLM_VERDICT_OK,
              "a\xef\xbf\xbd"));
}

Test(llm_answer, interim_replies_are_skipped)
{
  drop(expect("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" EVENTS_10 DELTA("x")
                  FINISH("stop") DONE,
              STAYS_OPEN, BUS_LLM_VERDICT_OK, "x"));
  drop(expect("HTTP/1.1 100 Continue\r\n\r\n", CLOSES, BUS_LLM_VERDICT_TRUNCATED, ""));
}

Test(llm_answer, line_ends_marks_and_comments_as_the_standard_has_them)
{
#define PIECE "data:{\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}"
  drop(expect(EVENTS_10 "\xef\xbb\xbf" PIECE "\r\n\r\ndata:[DONE]\r\n\r\n", STAYS_OPEN,
              BUS_LLM_VERDICT_OK, "x"));
  drop(expect(EVENTS_10 PIECE "\r\rdata:[DONE]\r\r", STAYS_OPEN, BUS_LLM_VERDICT_OK, "x"));
  drop(expect(EVENTS_10 ":\nid: 1\n" PIECE "\n: between\n\ndata:\n\ndata:[DONE]\n\n", STAYS_OPEN,
              BUS_LLM_VERDICT_OK, "x"));
  drop(expect(EVENTS_10
              "data: {\"choices\":\ndata: [{\"text\":\"x\",\"finish_reason\":\"stop\"}]}\n\n" DONE,
              STAYS_OPEN, BUS_LLM_VERDICT_OK, "x"));
#undef PIECE
}

Test(llm_answer, nul_is_a_character_of_the_text)
{
  struct bus_llm_answer *is =
      answer_of(BUS_LLM_CHAT, EVENTS_10 DELTA("a\\u0000b") FINISH("stop") DONE,
                sizeof(EVENTS_10 DELTA("a\\u0000b") FINISH("stop") DONE) - 1, STAYS_OPEN);
  cr_assert_eq(is->verdict, BUS_LLM_VERDICT_OK);
  cr_assert_eq(is->text.size, 3);
  cr_assert_eq(memcmp(is->text.bytes, "a\0b", 3), 0);
  drop(is);
}

Test(llm_answer, other_choices_than_the_first_are_left_out)
{
  drop(expect(EVENTS_10 "data: {\"choices\":[{\"index\":1,\"delta\":{\"content\":\"no\"}},"
                        "{\"index\":0,\"delta\":{\"content\":\"x\"}}],\"usage\":null}\n\n" FINISH(
                            "stop") DONE,
              STAYS_OPEN, BUS_LLM_VERDICT_OK, "x"));
}

Test(llm_answer, completions_stream_their_text)
{
  const char stream[] =
      EVENTS_10 "data: {\"choices\":[{\"text\":\"ab\",\"finish_reason\":null}]}\n\n"
                "data: {\"choices\":[{\"text\":\"c\",\"finish_reason\":\"length\"}]}\n\n" DONE;
  drop(expect_bytes(BUS_LLM_COMPLETION, stream, sizeof stream - 1, STAYS_OPEN,
                    BUS_LLM_VERDICT_LENGTH, "abc"));
}

#define BODY                                                                                       \
  "{\"choices\":[{\"message\":{\"role\":\"assistant\",\"content\":\"Hello\",\"reasoning_"          \
  "content\":\"hm\"},"                                                                             \
  "\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}"

Test(llm_answer, a_json_body_is_taken_where_a_stream_was_asked_for)
{
  struct bus_llm_answer *is = expect(JSON_10 BODY "\n", CLOSES, BUS_LLM_VERDICT_OK, "Hello");
  cr_assert_eq(is->prompt_tokens, 3);
  cr_assert_eq(is->completion_tokens, 2);
  cr_assert_eq(is->reasoning.size, 2);
  cr_assert(is->first_token);
  drop(is);
  char reply[1024];
  int size = snprintf(reply, sizeof reply, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n \n%s",
                      strlen(BODY) + 2, BODY);
  is = expect_bytes(BUS_LLM_CHAT, reply, (size_t)size, STAYS_OPEN, BUS_LLM_VERDICT_OK, "Hello");
  cr_assert(is->reusable);
  drop(is);
}

Test(llm_answer, json_bodies_that_are_no_answer)
{
  drop(expect(JSON_10 "{\"choices\":[{\"message\":", CLOSES, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect(JSON_10 "{\"choices\":[{\"message\":x", CLOSES, BUS_LLM_VERDICT_GARBAGE, ""));
  drop(expect(JSON_10 "{\"choices\":[{\"message\":", BREAKS, BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{\"choices\":[", CLOSES,
              BUS_LLM_VERDICT_TRUNCATED, ""));
  drop(expect(JSON_10 "{\"choices\":[]}", CLOSES, BUS_LLM_VERDICT_GARBAGE, ""));
  drop(expect(JSON_10 "{}", CLOSES, BUS_LLM_VERDICT_GARBAGE, ""));
  drop(expect(JSON_10 "[]", CLOSES, BUS_LLM_VERDICT_GARBAGE, ""));
  drop(expect(JSON_10 BODY " x", CLOSES, BUS_LLM_VERDICT_GARBAGE, ""));
  struct bus_llm_answer *is =
      expect(JSON_10 "{\"error\":\"model gone\"}", CLOSES, BUS_LLM_VERDICT_STREAM_ERROR, "");
  cr_assert_str_eq(is->error_text, "model gone");
  drop(is);
  drop(expect(JSON_10
              "{\"choices\":[{\"message\":{\"content\":\"x\"},\"finish_reason\":\"length\"}]}",
              CLOSES, BUS_LLM_VERDICT_LENGTH, "x"));
  drop(expect(JSON_10 "{\"choices\":[{\"message\":{\"content\":\"x\"}}]}", BREAKS,
              BUS_LLM_VERDICT_OK, "x"));
}

Test(llm_answer, garbage)
{
  static const char *const bad[] = {
      "SSH-2.0-OpenSSH_9.2p1\r\n",
      "\x16\x03\x01",
      "HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n",
      "HTTP/1.0 200 OK\r\nContent-Encoding: gzip\r\n\r\nxyz",
      EVENTS_10 "data: hello\n\n",
      EVENTS_10 "data: 5\n\n",
      EVENTS_10 "data: {\"choices\":5}\n\n",
      EVENTS_10 "data: {\"choices\":[5]}\n\n",
      EVENTS_10 "data: {\"choices\":[{\"delta\":5}]}\n\n",
      EVENTS_10 "data: {\"choices\":[{\"delta\":{\"content\":5}}]}\n\n",
      EVENTS_10 "data: {\"choices\":[{\"delta\":{},\"finish_reason\":5}]}\n\n",
      EVENTS_10 "data: {\"choices\":[{\"delta\":{\"content\":\"\xff\"}}]}\n\n",
      EVENTS_10 "data: {\"choices\":[{\"delta\":{\"content\":\"\xed\xa0\x80\"}}]}\n\n",
      EVENTS_10 "data: {\"choices\":[{\"delta\":{\"content\":\"a\tb\"}}]}\n\n",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct bus_llm_answer *is = expect(bad[i], STAYS_OPEN, BUS_LLM_VERDICT_GARBAGE, "");
    cr_assert_gt(strlen(is->error_text), 5, "case %zu says why", i);
    drop(is);
  }
  drop(expect("HTTP/1.0 200 OK\r\n\r\n<html>\nLog in, please\n</html>\n", CLOSES,
              BUS_LLM_VERDICT_GARBAGE, ""));
}

/* `piece` again and again behind `head`, until there is a verdict or a limit is passed by far. */
static void expect_bounded(const char *head, const char *piece, size_t text_max, uint32_t verdict)
{
  struct bus_llm_answer answer = {0};
  static char block[65536];
  const size_t piece_bytes = strlen(piece), count = sizeof block / piece_bytes;
  for (size_t i = 0; i < count; i++)
    memcpy(block + i * piece_bytes, piece, piece_bytes);
  cr_assert_eq(bus_llm_answer_begin(&answer, BUS_LLM_CHAT, text_max, WALL_NS), BUS_OK);
  bus_llm_answer_take(&answer, head, strlen(head));
  while (answer.verdict == BUS_LLM_VERDICT_MORE && answer.bytes < (size_t)8 << 20)
    bus_llm_answer_take(&answer, block, count * piece_bytes);
  cr_assert_eq(answer.verdict, verdict, "%s: %u %s", head, answer.verdict, answer.error_text);
  cr_assert_leq(answer.text.capacity, 2 * text_max + 256);
  cr_assert_leq(answer.reasoning.capacity, 2 * text_max + 256);
  bus_llm_answer_free(&answer);
}

Test(llm_answer, nothing_grows_for_ever)
{
  expect_bounded(EVENTS_10, "xxxxxxxx", 1000, BUS_LLM_VERDICT_GARBAGE);
  expect_bounded(EVENTS_10 "data: {\"choices\":\"", "xxxxxxxx", 1000, BUS_LLM_VERDICT_GARBAGE);
  expect_bounded(EVENTS_10, "data: x\n", 1000, BUS_LLM_VERDICT_GARBAGE);
  expect_bounded(EVENTS_10 ":", "xxxxxxxx", 1000, BUS_LLM_VERDICT_GARBAGE);
  expect_bounded(JSON_10 "{\"x\":\"", "xxxxxxxx", 1000, BUS_LLM_VERDICT_GARBAGE);
  expect_bounded("HTTP/1.1 200 OK\r\n", "X: y\r\n", 1000, BUS_LLM_VERDICT_GARBAGE);
  expect_bounded(EVENTS_10, DELTA("0123456789"), 1000, BUS_LLM_VERDICT_FULL);
  expect_bounded(EVENTS_10, "data: {\"choices\":[{\"delta\":{\"reasoning\":\"0123456789\"}}]}\n\n",
                 1000, BUS_LLM_VERDICT_MORE);
}

Test(llm_answer, json_nested_for_ever_is_garbage)
{
  static char event[900000];
  for (int form = 0; form < 2; form++) {
    struct bus_llm_answer answer = {0};
    cr_assert_eq(bus_llm_answer_begin(&answer, BUS_LLM_CHAT, 1000, WALL_NS), BUS_OK);
    size_t size = form ? 3000 : sizeof event; /* more values, or more depth, than is read */
    memset(event, '[', size);
    bus_llm_answer_take(&answer, EVENTS_10 "data: ", sizeof(EVENTS_10 "data: ") - 1);
    bus_llm_answer_take(&answer, event, size);
    cr_assert_eq(bus_llm_answer_take(&answer, "\n\n", 2), BUS_LLM_VERDICT_GARBAGE);
    bus_llm_answer_free(&answer);
  }
}

Test(llm_answer, the_limit_of_the_text_cuts_no_character)
{
  const char stream[] = EVENTS_10 DELTA("abc") DELTA("d\xf0\x9f\x98\x80") FINISH("stop") DONE;
  for (size_t limit = 4; limit <= 8; limit++) {
    struct bus_llm_answer *is =
        run(BUS_LLM_CHAT, limit, stream, sizeof stream - 1, 1000, STAYS_OPEN);
    cr_assert_eq(is->verdict, limit < 8 ? BUS_LLM_VERDICT_FULL : BUS_LLM_VERDICT_OK);
    cr_assert_eq(is->text.size, limit < 8 ? 4 : 8);
    drop(is);
  }
}

Test(llm_answer, a_mebibyte_in_one_chunk_and_in_one_body)
{
  size_t room = TEXT_MAX * 2, size;
  char *reply = malloc(room);
  for (int form = 0; form < 2; form++) {
    const size_t text = TEXT_MAX - 1000;
    size = (size_t)sprintf(reply, "%s",
                           form ? JSON_10 "{\"choices\":[{\"message\":{\"content\":\""
                                : EVENTS_10 "data: {\"choices\":[{\"delta\":{\"content\":\"");
    memset(reply + size, 'x', text);
    size += text;
    size +=
        (size_t)sprintf(reply + size, "\"},\"finish_reason\":\"stop\"}]}\n\n%s", form ? "" : DONE);
    struct bus_llm_answer *is = run(BUS_LLM_CHAT, TEXT_MAX, reply, size, 4096, CLOSES);
    cr_assert_eq(is->verdict, BUS_LLM_VERDICT_OK, "%s", is->error_text);
    cr_assert_eq(is->text.size, text);
    drop(is);
  }
  free(reply);
}

static struct bus_llm_answer *expect_embedding(const char *embedding, uint32_t verdict,
                                               size_t text_max)
{
  char reply[1024];
  int size = snprintf(reply, sizeof reply,
                      JSON_10
                      "{\"data\":[{\"index\":0,\"embedding\":%s}],\"usage\":{\"prompt_tokens\":5}}",
                      embedding);
  struct bus_llm_answer *is = run(BUS_LLM_EMBEDDING, text_max, reply, (size_t)size, 7, CLOSES);
  cr_assert_eq(is->verdict, verdict, "%s: %u %s", embedding, is->verdict, is->error_text);
  return is;
}

Test(llm_answer, embeddings_of_numbers_and_of_base64)
{
  static const unsigned char floats[] = {0,    0,    0x80, 0x3f, 0, 0,
                                         0x20, 0xc0, 0,    0,    0, 0}; /* 1, -2.5, 0 */
  static const char *const forms[] = {"[1, -2.5, 0e0]", "\"AACAPwAAIMAAAAAA\""};
  for (int i = 0; i < 2; i++) {
    struct bus_llm_answer *is = expect_embedding(forms[i], BUS_LLM_VERDICT_OK, TEXT_MAX);
    cr_assert_eq(is->text.size, sizeof floats);
    cr_assert_eq(memcmp(is->text.bytes, floats, sizeof floats), 0);
    cr_assert_eq(is->prompt_tokens, 5);
    drop(is);
  }
  struct bus_llm_answer *is = expect_embedding("\"AACAPw==\"", BUS_LLM_VERDICT_OK, TEXT_MAX);
  cr_assert_eq(is->text.size, 4);
  drop(is);
  is = expect_embedding("[1,2,3]", BUS_LLM_VERDICT_FULL, 10);
  cr_assert_eq(is->text.size, 8);
  drop(is);
}

Test(llm_answer, embeddings_that_are_none)
{
  static const char *const bad[] = {"[]",
                                    "[1, \"x\"]",
                                    "[1, 1e39]",
                                    "[-1e39]",
                                    "[NaN]",
                                    "[1e999]",
                                    "5",
                                    "null",
                                    "\"\"",
                                    "\"AAA\"",
                                    "\"AACA!w==\"",
                                    "\"AADAfw==\"" /* NaN */,
                                    "\"AACAfw==\"" /* infinity */,
                                    "[[1]]"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct bus_llm_answer *is = expect_embedding(bad[i], BUS_LLM_VERDICT_GARBAGE, TEXT_MAX);
    cr_assert_eq(is->text.size, 0);
    cr_assert_gt(strlen(is->error_text), 5);
    drop(is);
  }
}

Test(llm_answer, an_embedding_of_each_token_says_what_the_server_needs)
{
  struct bus_llm_answer *is = expect_embedding("[[1,2],[3,4]]", BUS_LLM_VERDICT_GARBAGE, TEXT_MAX);
  cr_assert_not_null(strstr(is->error_text, "pooling"));
  drop(is);
}

Test(llm_answer, an_answer_is_used_again_for_the_next)
{
  struct bus_llm_answer answer = {0};
  static const char broken[] =
      EVENTS_10 "data: {\"choices\":[{\"delta\":{\"content\":\"old\\ud83d\"}}]}\n\ndata: {";
  static const char good[] = EVENTS_10 DELTA("new") FINISH("stop") USAGE DONE;
  for (int i = 0; i < 3; i++) {
    cr_assert_eq(bus_llm_answer_begin(&answer, BUS_LLM_CHAT, TEXT_MAX, WALL_NS), BUS_OK);
    bus_llm_answer_take(&answer, broken, sizeof broken - 1);
    cr_assert_eq(bus_llm_answer_end(&answer, true), BUS_LLM_VERDICT_TRUNCATED);
    cr_assert_eq(bus_llm_answer_begin(&answer, BUS_LLM_CHAT, TEXT_MAX, WALL_NS), BUS_OK);
    cr_assert_eq(answer.text.size, 0);
    cr_assert_eq(answer.verdict, BUS_LLM_VERDICT_MORE);
    cr_assert_eq(bus_llm_answer_take(&answer, good, sizeof good - 1), BUS_LLM_VERDICT_OK);
    cr_assert_eq(answer.text.size, 3);
    cr_assert_eq(answer.bytes, sizeof good - 1);
  }
  bus_llm_answer_free(&answer);
  bus_llm_answer_free(&answer);
}
