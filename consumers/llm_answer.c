/* The answer's side of llm_exchange.h.
 *
 * What servers do that the standard does not say:
 * - mlx_lm.server ends streams with the connection and has no other mark: only [DONE] says that an
 *   answer is whole. It closes without a byte where a type of the request is wrong.
 * - vLLM sends an error in the middle of a stream and [DONE] behind it, as if all were well.
 * - Some servers ignore "stream" and send one JSON body; what the body begins with tells, because
 *   not all say the right Content-Type.
 * - Some send the last chunk of the HTTP message in a packet of its own: see bus_llm_answer_take.
 */
#include "consumers/llm_exchange.h"

#include "consumers/http_reply.h"
#include "consumers/llm_json.h"
#include "consumers/retry_after.h"
#include "consumers/sse.h"
#include "consumers/surrogates.h"
#include "shm/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DONE                 "[DONE]"
#define ERROR_BODY_BYTES_MAX ((size_t)64 << 10)
#define KEPT_BYTES_MAX       ((size_t)64 << 10)

enum body_mode {
  BODY_UNKNOWN = 0, /* nothing but white space has come */
  BODY_EVENTS = 1,
  BODY_JSON = 2
};

struct bus_llm_parser {
  struct bus_http_reply *http;
  struct bus_sse sse;
  struct bus_llm_json json;
  struct bus_byte_buffer body; /* of JSON, or of an error */
  size_t body_bytes_max;
  uint64_t wall_ns;
  uint64_t chunks; /* with text or reasoning */
  uint32_t mode;   /* enum body_mode */
  bool odd;        /* the body begins as no stream of events does */
  uint32_t finish; /* verdict that the finish_reason asks for; MORE: none came */
  bool done;       /* [DONE] came, and finish_reason before it */
  bool usage;      /* the server counted the tokens */
  bool reasoning_cut;
  uint32_t text_half, reasoning_half; /* see surrogates.h */
};

static bool decide(struct bus_llm_answer *answer, uint32_t verdict)
{
  answer->verdict = verdict;
  return false;
}

static bool decide_garbage(struct bus_llm_answer *answer, const char *problem)
{
  snprintf(answer->error_text, sizeof answer->error_text, "%s", problem);
  return decide(answer, BUS_LLM_VERDICT_GARBAGE);
}

static bool is_success(const struct bus_llm_answer *answer)
{
  return answer->http_status / 100 == 2;
}

static uint32_t finish_verdict(const char *reason)
{
  static const struct {
    const char *reason;
    uint32_t verdict;
  } known[] = {
      {"stop", BUS_LLM_VERDICT_OK},
      {"length", BUS_LLM_VERDICT_LENGTH},
      {"content_filter", BUS_LLM_VERDICT_4XX},
      {"error", BUS_LLM_VERDICT_STREAM_ERROR},
      {"abort", BUS_LLM_VERDICT_STREAM_ERROR},
      {"cancelled", BUS_LLM_VERDICT_STREAM_ERROR},
  };
  for (size_t i = 0; i < BUS_COUNT_OF(known); i++)
    if (!strcmp(reason, known[i].reason))
      return known[i].verdict;
  return BUS_LLM_VERDICT_OK;
}

/* Reasoning is of less worth than the answer: what is too long of it is left out. */
static void take_reasoning(struct bus_llm_answer *answer, const struct bus_llm_json *json)
{
  struct bus_llm_parser *parser = answer->parser;
  if (!parser->reasoning_cut && json->reasoning_bytes)
    parser->reasoning_cut = bus_surrogates_append(&answer->reasoning, json->reasoning,
                                                  json->reasoning_bytes, answer->text_bytes_max,
                                                  json->masked, &parser->reasoning_half) != BUS_OK;
}

static void take_usage(struct bus_llm_answer *answer, const struct bus_llm_json *json)
{
  struct bus_llm_parser *parser = answer->parser;
  if (json->usage) {
    parser->usage = true;
    answer->prompt_tokens = json->prompt_tokens;
    answer->completion_tokens = json->completion_tokens;
  } else if (!parser->usage && parser->mode == BODY_EVENTS) {
    answer->completion_tokens = parser->chunks < UINT32_MAX ? (uint32_t)parser->chunks : UINT32_MAX;
  }
}

/* A chunk, or a whole body, that is no error. Returns whether to go on. */
static bool take_piece(struct bus_llm_answer *answer)
{
  struct bus_llm_parser *parser = answer->parser;
  const struct bus_llm_json *json = &parser->json;
  if (json->text_bytes || json->reasoning_bytes) {
    parser->chunks++;
    answer->first_token = true;
  }
  take_usage(answer, json);
  take_reasoning(answer, json);
  if (bus_surrogates_append(&answer->text, json->text, json->text_bytes, answer->text_bytes_max,
                            json->masked, &parser->text_half))
    return decide(answer, BUS_LLM_VERDICT_FULL);
  if (!json->finish_reason)
    return true;
  parser->finish = finish_verdict(json->finish_reason);
  if (parser->finish == BUS_LLM_VERDICT_OK || parser->finish == BUS_LLM_VERDICT_LENGTH)
    return true;
  snprintf(answer->error_text, sizeof answer->error_text, "the server ended with finish_reason %s",
           json->finish_reason);
  return decide(answer, parser->finish);
}

static bool decide_error(struct bus_llm_answer *answer)
{
  memcpy(answer->error_text, answer->parser->json.problem, sizeof answer->error_text);
  return decide(answer, BUS_LLM_VERDICT_STREAM_ERROR);
}

/* Writes what still waits for another half: none comes any more. */
static bool end_text(struct bus_llm_answer *answer)
{
  struct bus_llm_parser *parser = answer->parser;
  static const char replacement[] = "\xef\xbf\xbd";
  uint32_t none = 0;
  if (parser->reasoning_half && !parser->reasoning_cut)
    bus_surrogates_append(&answer->reasoning, replacement, 3, answer->text_bytes_max, false, &none);
  if (!parser->text_half)
    return true;
  parser->text_half = 0;
  if (bus_surrogates_append(&answer->text, replacement, 3, answer->text_bytes_max, false, &none))
    return decide(answer, BUS_LLM_VERDICT_FULL);
  return true;
}

/* [DONE]: the answer is whole where a finish_reason came. Returns whether to go on to the end of
 * the HTTP message, which is worth it where the connection lives on. */
static bool take_done(struct bus_llm_answer *answer)
{
  struct bus_llm_parser *parser = answer->parser;
  if (parser->finish == BUS_LLM_VERDICT_MORE)
    return decide(answer, BUS_LLM_VERDICT_TRUNCATED);
  if (!end_text(answer))
    return false;
  parser->done = true;
  return parser->http->kept || decide(answer, parser->finish);
}

static bool take_event(void *context, const char *data, size_t size, bool error)
{
  struct bus_llm_answer *answer = context;
  struct bus_llm_parser *parser = answer->parser;
  while (size > 0 && (data[size - 1] == ' ' || data[size - 1] == '\n'))
    size--;
  if (parser->done || size == 0)
    return true;
  if (size == strlen(DONE) && !memcmp(data, DONE, size))
    return take_done(answer);
  int result = bus_llm_json_parse(&parser->json, data, size);
  if (error && result != BUS_OK)
    bus_llm_json_say(&parser->json, data, size);
  else if (error && !parser->json.error)
    bus_llm_json_take_error(&parser->json);
  if (error || (!result && parser->json.error))
    return decide_error(answer);
  return result ? decide_garbage(answer, parser->json.problem) : take_piece(answer);
}

/* The body as a whole. A server that dies in the middle of one that nothing delimits ends the
 * stream in order: where JSON has only begun it was cut, whatever HTTP says. */
static void take_whole_json(struct bus_llm_answer *answer, bool cut)
{
  struct bus_llm_parser *parser = answer->parser;
  int error = bus_llm_json_parse(&parser->json, parser->body.bytes, parser->body.size);
  if (!error && parser->json.error) {
    decide_error(answer);
    return;
  }
  if (!error && answer->kind == BUS_LLM_EMBEDDING) {
    take_usage(answer, &parser->json);
    error = bus_llm_json_embedding(&parser->json, &answer->text, answer->text_bytes_max);
    answer->first_token = answer->text.size > 0;
    if (error == BUS_ERROR_NO_SPACE)
      decide(answer, BUS_LLM_VERDICT_FULL);
    else if (error)
      bus_byte_buffer_clear(&answer->text); /* half a vector is none */
    parser->finish = BUS_LLM_VERDICT_OK;
  } else if (!error && !parser->json.choice) {
    decide_garbage(answer, "there is no choice in the answer");
  } else if (!error && take_piece(answer) && end_text(answer) &&
             parser->finish == BUS_LLM_VERDICT_MORE) {
    parser->finish = BUS_LLM_VERDICT_OK; /* a whole body needs no reason to be whole */
  }
  if (answer->verdict != BUS_LLM_VERDICT_MORE)
    return;
  if (error && (cut || error == BUS_ERROR_AGAIN))
    decide(answer, BUS_LLM_VERDICT_TRUNCATED);
  else if (error)
    decide_garbage(answer, parser->json.problem);
  else
    decide(answer, parser->finish);
}

static void decide_by_status(struct bus_llm_answer *answer)
{
  struct bus_llm_parser *parser = answer->parser;
  struct bus_llm_json *json = &parser->json;
  if (bus_llm_json_parse(json, parser->body.size ? parser->body.bytes : "", parser->body.size))
    bus_llm_json_say(json, parser->body.bytes, parser->body.size);
  else if (!json->error)
    bus_llm_json_take_error(json);
  if (answer->http_status / 100 == 3)
    snprintf(answer->error_text, sizeof answer->error_text,
             "the server sends us to %s: configure that address", parser->http->location);
  else
    memcpy(answer->error_text, json->problem, sizeof answer->error_text);
  decide(answer, answer->http_status < 500 ? BUS_LLM_VERDICT_4XX : BUS_LLM_VERDICT_5XX);
}

static bool take_events(struct bus_llm_answer *answer, const char *bytes, size_t size)
{
  struct bus_llm_parser *parser = answer->parser;
  int error = bus_sse_take(&parser->sse, bytes, size);
  answer->comments =
      parser->sse.comments < UINT32_MAX ? (uint32_t)parser->sse.comments : UINT32_MAX;
  if (error == BUS_ERROR_NO_SPACE)
    decide_garbage(answer, "a line or an event of the stream is longer than 1 MiB");
  return !error;
}

/* A piece of the body; returns whether to go on. */
static bool take_body(void *context, const char *bytes, size_t size)
{
  struct bus_llm_answer *answer = context;
  struct bus_llm_parser *parser = answer->parser;
  answer->http_status = parser->http->status;
  if (!is_success(answer)) {
    const size_t room = ERROR_BODY_BYTES_MAX - parser->body.size;
    const size_t taken = size < room ? size : room;
    if (bus_byte_buffer_append(&parser->body, bytes, taken, ERROR_BODY_BYTES_MAX) || taken < size)
      decide_by_status(answer);
    return answer->verdict == BUS_LLM_VERDICT_MORE;
  }
  const char *encoding = parser->http->content_encoding;
  if (encoding[0] && strcmp(encoding, "identity") != 0)
    return decide_garbage(answer, "the body is compressed, which nobody asked for");
  while (parser->mode == BODY_UNKNOWN && size > 0) {
    if (!strchr(" \t\r\n", *bytes) || !*bytes) {
      parser->mode = *bytes == '{' || *bytes == '[' || answer->kind == BUS_LLM_EMBEDDING
                         ? BODY_JSON
                         : BODY_EVENTS;
      parser->odd = parser->mode == BODY_EVENTS && !strchr(":deir\xef", *bytes);
      break;
    }
    bytes++;
    size--;
  }
  if (parser->mode == BODY_EVENTS)
    return take_events(answer, bytes, size);
  if (bus_byte_buffer_append(&parser->body, bytes, size, parser->body_bytes_max))
    return decide_garbage(answer, "the body is longer than any answer that is wanted");
  return true;
}

/* The HTTP message is whole, or (`cut`) its stream has ended before. */
static void end_message(struct bus_llm_answer *answer, bool cut)
{
  struct bus_llm_parser *parser = answer->parser;
  if (answer->verdict != BUS_LLM_VERDICT_MORE)
    return;
  if (answer->http_status && !is_success(answer)) {
    decide_by_status(answer);
    return;
  }
  if (parser->mode == BODY_JSON) {
    take_whole_json(answer, cut);
    return;
  }
  if (parser->mode == BODY_EVENTS && !parser->done)
    bus_sse_end(&parser->sse, DONE);
  if (answer->verdict != BUS_LLM_VERDICT_MORE)
    return;
  if (parser->done)
    decide(answer, parser->finish);
  else if (parser->odd && !cut && !parser->sse.events && !parser->sse.comments)
    decide_garbage(answer, "the body is neither JSON nor a stream of events");
  else
    decide(answer, BUS_LLM_VERDICT_TRUNCATED);
}

static void take_state(struct bus_llm_answer *answer)
{
  struct bus_llm_parser *parser = answer->parser;
  struct bus_http_reply *http = parser->http;
  answer->http_status = http->status;
  if (http->header_whole && http->retry_after[0])
    answer->retry_after_ms = bus_retry_after_ms(http->retry_after, parser->wall_ns);
  if (answer->verdict != BUS_LLM_VERDICT_MORE || http->state == BUS_HTTP_REPLY_MORE)
    return;
  if (http->state == BUS_HTTP_REPLY_WHOLE)
    end_message(answer, false);
  else if (http->state == BUS_HTTP_REPLY_CUT || parser->done ||
           (answer->http_status && !is_success(answer)))
    end_message(answer, true);
  else
    decide_garbage(answer, http->problem);
}

static struct bus_llm_parser *parser_new(void)
{
  struct bus_llm_parser *parser = calloc(1, sizeof *parser);
  if (!parser || bus_http_reply_new(take_body, &parser->http)) {
    free(parser);
    return NULL;
  }
  parser->sse.event = take_event;
  return parser;
}

int bus_llm_answer_begin(struct bus_llm_answer *answer, uint8_t kind, size_t text_bytes_max,
                         uint64_t wall_ns)
{
  struct bus_llm_parser *parser = answer->parser ? answer->parser : parser_new();
  if (!parser)
    return bus_error_set(BUS_ERROR_NO_SPACE, "there is no memory for an answer");
  struct bus_byte_buffer text = answer->text, reasoning = answer->reasoning;
  memset(answer, 0, sizeof *answer);
  answer->text = text;
  answer->reasoning = reasoning;
  bus_byte_buffer_clear(&answer->text);
  bus_byte_buffer_clear(&answer->reasoning);
  answer->kind = kind;
  answer->text_bytes_max = text_bytes_max;
  answer->parser = parser;

  bus_http_reply_begin(parser->http, answer);
  bus_sse_clear(&parser->sse);
  parser->sse.context = answer;
  bus_llm_json_free(&parser->json);
  if (parser->body.capacity > KEPT_BYTES_MAX)
    bus_byte_buffer_free(&parser->body);
  bus_byte_buffer_clear(&parser->body);
  /* A character takes up to six bytes as an escape, a float32 up to 24 as decimal digits. */
  parser->body_bytes_max =
      ((size_t)64 << 10) + (text_bytes_max < SIZE_MAX / 16 ? text_bytes_max * 8 : SIZE_MAX / 2);
  parser->wall_ns = wall_ns;
  parser->chunks = 0;
  parser->mode = BODY_UNKNOWN;
  parser->finish = BUS_LLM_VERDICT_MORE;
  parser->odd = parser->done = parser->usage = parser->reasoning_cut = false;
  parser->text_half = parser->reasoning_half = 0;
  return BUS_OK;
}

uint32_t bus_llm_answer_take(struct bus_llm_answer *answer, const void *bytes, size_t size)
{
  struct bus_llm_parser *parser = answer->parser;
  if (answer->verdict != BUS_LLM_VERDICT_MORE) {
    answer->reusable = answer->reusable && size == 0;
    return answer->verdict;
  }
  answer->bytes += size;
  const size_t taken = bus_http_reply_take(parser->http, bytes, size);
  take_state(answer);
  const bool whole =
      answer->verdict == BUS_LLM_VERDICT_OK || answer->verdict == BUS_LLM_VERDICT_LENGTH ||
      answer->verdict == BUS_LLM_VERDICT_4XX || answer->verdict == BUS_LLM_VERDICT_5XX;
  answer->reusable =
      whole && parser->http->state == BUS_HTTP_REPLY_WHOLE && parser->http->kept && taken == size;
  if (answer->verdict != BUS_LLM_VERDICT_MORE)
    bus_llm_json_free(&parser->json);
  return answer->verdict;
}

uint32_t bus_llm_answer_end(struct bus_llm_answer *answer, bool broken)
{
  answer->reusable = false;
  if (answer->verdict == BUS_LLM_VERDICT_MORE) {
    bus_http_reply_end(answer->parser->http, broken);
    take_state(answer);
    bus_llm_json_free(&answer->parser->json);
  }
  return answer->verdict;
}

void bus_llm_answer_free(struct bus_llm_answer *answer)
{
  if (answer->parser) {
    bus_http_reply_delete(answer->parser->http);
    bus_sse_free(&answer->parser->sse);
    bus_llm_json_free(&answer->parser->json);
    bus_byte_buffer_free(&answer->parser->body);
    free(answer->parser);
  }
  bus_byte_buffer_free(&answer->text);
  bus_byte_buffer_free(&answer->reasoning);
  memset(answer, 0, sizeof *answer);
}
