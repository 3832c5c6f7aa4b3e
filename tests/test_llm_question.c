#include "consumers/llm_exchange.h"
#include "consumers/utf8.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct bus_llm_endpoint endpoint_of(uint32_t flavor)
{
  return (struct bus_llm_endpoint){.host = "mac.local:8080",
                                   .path = "/v1",
                                   .model = "llama-70b",
                                   .authorization = "Bearer secret",
                                   .flavor = flavor};
}

static struct bus_llm_question question_of(uint8_t kind, const char *text, size_t size)
{
  return (struct bus_llm_question){
      .kind = kind, .tokens_max = 64, .temperature = 0.7f, .text = text, .text_bytes = size};
}

/* Checks the request line, what every header must have and must not have, and that the length is
 * right; returns the body as JSON. */
static json_t *body_of(const struct bus_byte_buffer *request, const char *first_line)
{
  char *text = calloc(1, request->size + 1);
  memcpy(text, request->bytes, request->size);
  char *body = strstr(text, "\r\n\r\n");
  cr_assert_not_null(body);
  body[2] = 0;
  body += 4;
  cr_assert(!strncmp(text, first_line, strlen(first_line)), "%s", text);
  cr_assert_not_null(strstr(text, "\r\nHost: "));
  cr_assert_not_null(strstr(text, "\r\nAuthorization: Bearer "));
  cr_assert_not_null(strstr(text, "\r\nContent-Type: application/json\r\n"));
  cr_assert_null(strcasestr(text, "expect:"));
  cr_assert_null(strcasestr(text, "transfer-encoding:"));
  const char *length = strstr(text, "\r\nContent-Length: ");
  cr_assert_not_null(length);
  const size_t size = request->size - (size_t)(body - text);
  cr_assert_eq(strtoul(length + 18, NULL, 10), size);
  json_error_t error;
  json_t *json = json_loadb(body, size, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &error);
  cr_assert_not_null(json, "%s at %d", error.text, error.position);
  free(text);
  return json;
}

static json_t *ask(const struct bus_llm_endpoint *endpoint, const struct bus_llm_question *question,
                   const char *first_line)
{
  struct bus_byte_buffer request = {0};
  cr_assert_eq(bus_llm_question_write(&request, endpoint, question), BUS_OK, "%s",
               bus_error_message());
  json_t *json = body_of(&request, first_line);
  bus_byte_buffer_free(&request);
  return json;
}

static void expect_json(json_t *is, const char *expected)
{
  json_t *wanted = json_loads(expected, 0, NULL);
  char *dump = json_dumps(is, JSON_SORT_KEYS);
  cr_assert_not_null(wanted);
  cr_assert(json_equal(is, wanted), "%s", dump);
  free(dump);
  json_decref(wanted);
  json_decref(is);
}

Test(llm_question, chat)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_VLLM);
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, "hello", 5);
  expect_json(
      ask(&endpoint, &question, "POST /v1/chat/completions HTTP/1.1\r\nHost: mac.local:8080\r\n"),
      "{\"model\":\"llama-70b\",\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],"
      "\"max_tokens\":64,\"temperature\":0.7,\"stream\":true,"
      "\"stream_options\":{\"include_usage\":true}}");
}

Test(llm_question, mlx_is_sent_neither_model_nor_seed_nor_empty_stream_options)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_MLX);
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, "hello", 5);
  expect_json(ask(&endpoint, &question, "POST /v1/chat/completions HTTP/1.1\r\n"),
              "{\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"max_tokens\":64,"
              "\"temperature\":0.7,\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

Test(llm_question, completion_without_limits)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_LLAMA);
  struct bus_llm_question question = question_of(BUS_LLM_COMPLETION, "", 0);
  endpoint.model = "";
  endpoint.path = "";
  question.tokens_max = 0;
  question.temperature = -1;
  expect_json(ask(&endpoint, &question, "POST /completions HTTP/1.1\r\n"),
              "{\"prompt\":\"\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}");
}

Test(llm_question, embedding_is_not_streamed)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OLLAMA);
  struct bus_llm_question question = question_of(BUS_LLM_EMBEDDING, "x", 1);
  expect_json(ask(&endpoint, &question, "POST /v1/embeddings HTTP/1.1\r\n"),
              "{\"model\":\"llama-70b\",\"input\":\"x\"}");
}

Test(llm_question, mlx_has_no_embeddings)
{
  struct bus_byte_buffer request = {0};
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_MLX);
  struct bus_llm_question question = question_of(BUS_LLM_EMBEDDING, "x", 1);
  cr_assert_eq(bus_llm_question_write(&request, &endpoint, &question), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "embeddings"));
  cr_assert_eq(request.size, 0);
}

Test(llm_question, something_stands_in_for_a_key_that_is_not_given)
{
  static const char *const none[] = {NULL, ""};
  for (int i = 0; i < 2; i++) {
    struct bus_byte_buffer request = {0};
    struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
    struct bus_llm_question question = question_of(BUS_LLM_CHAT, "x", 1);
    endpoint.authorization = none[i];
    cr_assert_eq(bus_llm_question_write(&request, &endpoint, &question), BUS_OK);
    cr_assert_not_null(
        memmem(request.bytes, request.size, "\r\nAuthorization: Bearer none\r\n", 29));
    bus_byte_buffer_free(&request);
  }
}

static const char *content_of(json_t *json, size_t *size)
{
  json_t *message = json_array_get(json_object_get(json, "messages"), 0);
  json_t *content = json_object_get(message, "content");
  *size = json_string_length(content);
  return json_string_value(content);
}

static void expect_round_trip(const char *text, size_t bytes)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, text, bytes);
  size_t size;
  json_t *json = ask(&endpoint, &question, "POST ");
  const char *content = content_of(json, &size);
  cr_assert_eq(size, bytes);
  cr_assert_eq(memcmp(content, text, bytes), 0);
  json_decref(json);
}

Test(llm_question, every_control_character_comes_through)
{
  char text[0x82];
  for (size_t i = 0; i < 0x80; i++)
    text[i] = (char)i; /* NUL too */
  text[0x80] = '"';
  text[0x81] = '\\';
  expect_round_trip(text, sizeof text);
}

Test(llm_question, ten_thousand_random_texts_come_through)
{
  static char text[4096];
  srand(1);
  for (int run = 0; run < 10000; run++) {
    size_t size = 0, wanted = (size_t)rand() % (sizeof text - 4);
    while (size < wanted) {
      static const uint32_t bounds[] = {0x20, 0x80, 0x800, 0x10000, 0x110000};
      uint32_t character = (uint32_t)rand() % bounds[rand() % 5];
      if (character < 0xd800 || character > 0xdfff)
        size += bus_utf8_put(text + size, character);
    }
    expect_round_trip(text, size);
  }
}

static void expect_refusal(const struct bus_llm_endpoint *endpoint,
                           const struct bus_llm_question *question, const char *message)
{
  struct bus_byte_buffer request = {0};
  bus_error_clear();
  cr_assert_eq(bus_llm_question_write(&request, endpoint, question), BUS_ERROR_INVALID, "%s",
               message);
  cr_assert_not_null(strstr(bus_error_message(), message), "%s", bus_error_message());
  cr_assert_eq(request.size, 0);
  bus_byte_buffer_free(&request);
}

Test(llm_question, text_that_is_no_utf8_is_refused)
{
  static const char *const bad[] = {"ab\xff", "ab\xc0\xaf", "ab\xed\xa0\x80", "ab\xf4\x90\x80\x80",
                                    "ab\xe2\x82"};
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct bus_llm_question question = question_of(BUS_LLM_CHAT, bad[i], strlen(bad[i]));
    expect_refusal(&endpoint, &question, "no UTF-8 at byte 2");
  }
}

Test(llm_question, a_temperature_that_is_no_number_is_refused)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, "x", 1);
  question.temperature = NAN;
  expect_refusal(&endpoint, &question, "temperature");
  question.temperature = INFINITY;
  expect_refusal(&endpoint, &question, "temperature");
}

Test(llm_question, every_temperature_is_sent_exactly)
{
  static const float temperatures[] = {0, -0.0f, 0.1f, 0.7f, 1.0f / 3, 1e-30f, 16777216.0f};
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++) {
    struct bus_llm_question question = question_of(BUS_LLM_CHAT, "x", 1);
    question.temperature = temperatures[i];
    json_t *json = ask(&endpoint, &question, "POST ");
    cr_assert_eq((float)json_number_value(json_object_get(json, "temperature")), temperatures[i]);
    json_decref(json);
  }
}

Test(llm_question, other_kinds_are_refused)
{
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  struct bus_llm_question question = question_of(BUS_LLM_CANCEL, "x", 1);
  expect_refusal(&endpoint, &question, "kind 4");
}

Test(llm_question, messages_go_out_as_they_came)
{
  static const char *const good[] = {"[{\"role\":\"system\",\"content\":\"be \\u00e9 \\u0000 "
                                     "brief\"},{\"role\":\"user\",\"content\":\"hi\"}]",
                                     " [ "
                                     "{\"content\":[{\"type\":\"text\",\"text\":\"x\"}],\"role\":"
                                     "\"user\",\"n\":18446744073709551615} ] ",
                                     "[{\"role\":\"user\",\"content\":[]}]"};
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_MLX);
  for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
    struct bus_byte_buffer request = {0};
    struct bus_llm_question question = question_of(BUS_LLM_CHAT, good[i], strlen(good[i]));
    char wanted[256];
    question.flags = BUS_LLM_MESSAGES;
    cr_assert_eq(bus_llm_question_write(&request, &endpoint, &question), BUS_OK, "%s",
                 bus_error_message());
    int size = snprintf(wanted, sizeof wanted, "{\"messages\":%s,\"max_tokens\"", good[i]);
    cr_assert_not_null(memmem(request.bytes, request.size, wanted, (size_t)size));
    bus_byte_buffer_free(&request);
  }
}

Test(llm_question, what_are_no_messages_is_refused)
{
  static const struct {
    const char *text, *message;
  } bad[] = {
      {"", "no JSON"},
      {"hello", "no JSON"},
      {"[{\"role\":\"user\",\"content\":\"x\"}", "no JSON"},
      {"[{\"role\":\"user\",\"content\":\"x\"}] x", "no JSON"},
      {"[{\"role\":\"user\",\"role\":\"system\",\"content\":\"x\"}]", "no JSON"},
      {"[{\"role\":\"user\",\"content\":\"\\ud800\"}]", "no JSON"},
      {"{\"role\":\"user\",\"content\":\"x\"}", "no JSON array"},
      {"[]", "at least one"},
      {"[5]", "message 0"},
      {"[{\"role\":\"user\",\"content\":\"x\"},{\"role\":\"user\"}]", "message 1"},
      {"[{\"role\":5,\"content\":\"x\"}]", "message 0"},
      {"[{\"content\":\"x\"}]", "message 0"},
      {"[{\"role\":\"user\",\"content\":5}]", "message 0"},
      {"[{\"role\":\"user\",\"content\":[5]}]", "message 0"},
  };
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    struct bus_llm_question question = question_of(BUS_LLM_CHAT, bad[i].text, strlen(bad[i].text));
    question.flags = BUS_LLM_MESSAGES;
    expect_refusal(&endpoint, &question, bad[i].message);
  }
}

Test(llm_question, messages_nested_for_ever_are_refused)
{
  static char deep[1 << 20];
  memset(deep, '[', sizeof deep);
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, deep, sizeof deep);
  question.flags = BUS_LLM_MESSAGES;
  expect_refusal(&endpoint, &question, "no JSON");
}

Test(llm_question, nothing_of_the_endpoint_breaks_the_header)
{
  static const char *const bad[] = {"a\r\nX: y", "a\nb", "a b", "a\x7f", "\xc3\xa9", "a\tb"};
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, "x", 1);
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    char path[32];
    struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
    endpoint.host = bad[i];
    expect_refusal(&endpoint, &question, "the host");
    endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
    snprintf(path, sizeof path, "/%s", bad[i]);
    endpoint.path = path;
    expect_refusal(&endpoint, &question, "the path");
    if (strcmp(bad[i], "a b") != 0) {
      endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
      endpoint.authorization = bad[i];
      expect_refusal(&endpoint, &question, "the authorization");
    }
  }
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  endpoint.host = "";
  expect_refusal(&endpoint, &question, "empty");
  endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  endpoint.path = "v1";
  expect_refusal(&endpoint, &question, "'/'");
}

Test(llm_question, a_key_is_in_no_message)
{
  struct bus_byte_buffer request = {0};
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, "x", 1);
  endpoint.authorization = "Bearer sk-secret\n";
  cr_assert_eq(bus_llm_question_write(&request, &endpoint, &question), BUS_ERROR_INVALID);
  cr_assert_null(strstr(bus_error_message(), "sk-"));
}

Test(llm_question, models_have_any_name_up_to_255_bytes)
{
  char name[257];
  struct bus_llm_question question = question_of(BUS_LLM_CHAT, "x", 1);
  struct bus_llm_endpoint endpoint = endpoint_of(BUS_LLM_FLAVOR_OPENAI);
  memset(name, 1, 255);
  name[255] = 0;
  endpoint.model = name;
  json_t *json = ask(&endpoint, &question, "POST ");
  cr_assert_str_eq(json_string_value(json_object_get(json, "model")), name);
  json_decref(json);
  memset(name, 'x', 256);
  name[256] = 0;
  expect_refusal(&endpoint, &question, "the model");
  endpoint.model = "a\xff";
  expect_refusal(&endpoint, &question, "the model");
}

Test(llm_question, flavors_have_names)
{
  for (int flavor = BUS_LLM_FLAVOR_OPENAI; flavor <= BUS_LLM_FLAVOR_OLLAMA; flavor++)
    cr_assert_eq(bus_llm_flavor_parse(bus_llm_flavor_name((uint32_t)flavor)), flavor);
  cr_assert_eq(bus_llm_flavor_parse("gpt"), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "ollama"));
  cr_assert_str_eq(bus_llm_flavor_name(99), "unknown");
}
