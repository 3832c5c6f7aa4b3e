/* What servers write that the standard does not say:
 * - Errors: {"error": {"message", "type", "code"}} with a code that is a number (vLLM), a string or
 *   null (Ollama); {"error": "text"} (mlx_lm.server); {"object": "error", "message"} (older vLLM);
 *   {"detail": ..} (whatever is made with FastAPI).
 * - Reasoning is in "reasoning" (mlx_lm.server, vLLM) or "reasoning_content" (llama-server, older
 *   vLLM), or in both at once, the same text twice.
 * - The chunk with the usage has no choices; others have "usage": null.
 * - A stream's chunk may hold "message" instead of "delta" where the server ignored `stream`. */
#include "consumers/llm_json.h"

#include "consumers/surrogates.h"
#include "consumers/utf8.h"
#include "shm/error.h"

#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A value takes far more memory than its text: where there are many, they are counted first. */
#define COUNTED_BYTES_MIN 16384u
#define CONTAINERS_MAX    4096u
#define COMMAS_MAX        131072u
#define KEPT_BYTES_MAX    65536u

static int say(struct bus_llm_json *json, int code, const char *format, ...) BUS_PRINTF(3, 4);

static int say(struct bus_llm_json *json, int code, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(json->problem, sizeof json->problem, format, arguments);
  va_end(arguments);
  return code;
}

void bus_llm_json_say(struct bus_llm_json *json, const char *text, size_t size)
{
  size_t at = 0, put = 0;
  while (at < size) {
    size_t valid = bus_utf8_valid_bytes(text + at, size - at);
    size_t fits = bus_utf8_cut_bytes(text + at, valid, sizeof json->problem - 1 - put);
    memcpy(json->problem + put, text + at, fits);
    put += fits;
    at += valid;
    if (fits < valid || put == sizeof json->problem - 1)
      break;
    if (at < size) {
      json->problem[put++] = '?';
      at++;
    }
  }
  for (size_t i = 0; i < put; i++)
    if ((unsigned char)json->problem[i] < ' ' || json->problem[i] == 0x7f)
      json->problem[i] = ' ';
  json->problem[put] = 0;
}

static bool has_too_many_values(const char *bytes, size_t size)
{
  size_t containers = 0, commas = 0;
  bool in_string = false;
  for (size_t i = 0; i < size; i++) {
    if (in_string && bytes[i] == '\\')
      i++;
    else if (bytes[i] == '"')
      in_string = !in_string;
    else if (!in_string && (bytes[i] == '{' || bytes[i] == '['))
      containers++;
    else if (!in_string && bytes[i] == ',')
      commas++;
  }
  return containers > CONTAINERS_MAX || commas > COMMAS_MAX;
}

static const json_t *get(const json_t *object, const char *key)
{
  const json_t *value = json_object_get(object, key);
  return json_is_null(value) ? NULL : value;
}

static void say_value(struct bus_llm_json *json, const json_t *value)
{
  char *dump = json_is_string(value) ? NULL : json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
  if (dump)
    bus_llm_json_say(json, dump, strlen(dump));
  else if (json_is_string(value))
    bus_llm_json_say(json, json_string_value(value), json_string_length(value));
  free(dump);
}

/* `error`: the error object, or what stands in its place. */
static void take_error(struct bus_llm_json *json, const json_t *error)
{
  const json_t *message = get(error, "message"), *code = get(error, "code");
  char text[48] = "";
  json->error = true;
  if (!message)
    message = get(error, "detail");
  say_value(json, message ? message : error);
  if (json_is_number(code))
    snprintf(text, sizeof text, " (code %.0f)", json_number_value(code));
  else if (json_is_string(code) && json_string_length(code))
    snprintf(text, sizeof text, " (code %.32s)", json_string_value(code));
  if (message && text[0]) {
    char whole[BUS_LLM_PROBLEM_BYTES + sizeof text];
    int bytes = snprintf(whole, sizeof whole, "%s%s", json->problem, text);
    bus_llm_json_say(json, whole, (size_t)bytes);
  }
}

void bus_llm_json_take_error(struct bus_llm_json *json)
{
  take_error(json, json->root);
}

static uint32_t count_of(const json_t *value)
{
  double number = json_number_value(value);
  return number >= 0 && number <= UINT32_MAX ? (uint32_t)number : 0;
}

static int take_string(struct bus_llm_json *json, const json_t *object, const char *key,
                       const char **text, size_t *bytes)
{
  const json_t *value = get(object, key);
  if (!value)
    return BUS_OK;
  if (!json_is_string(value))
    return say(json, BUS_ERROR_INVALID, "\"%s\" of the choice is no string", key);
  *text = json_string_value(value);
  if (bytes)
    *bytes = json_string_length(value);
  return BUS_OK;
}

static int take_choice(struct bus_llm_json *json, const json_t *choice)
{
  const json_t *message = get(choice, "delta");
  size_t bytes;
  json->choice = true;
  if (!message)
    message = get(choice, "message");
  int error = take_string(json, choice, "finish_reason", &json->finish_reason, &bytes);
  if (!error)
    error = take_string(json, choice, "text", &json->text, &json->text_bytes);
  if (!error && message && !json_is_object(message))
    error = say(json, BUS_ERROR_INVALID, "the message of the choice is no object");
  if (!error)
    error = take_string(json, message, "content", &json->text, &json->text_bytes);
  if (!error)
    error = take_string(json, message, "reasoning", &json->reasoning, &json->reasoning_bytes);
  if (!error && !json->reasoning_bytes)
    error =
        take_string(json, message, "reasoning_content", &json->reasoning, &json->reasoning_bytes);
  return error;
}

static int take_root(struct bus_llm_json *json)
{
  const json_t *error = get(json->root, "error"), *object = get(json->root, "object");
  const json_t *choices = get(json->root, "choices"), *usage = get(json->root, "usage");
  if (!json_is_object(json->root))
    return say(json, BUS_ERROR_INVALID, "the JSON is no object");
  if ((error && !json_is_false(error)) ||
      (json_is_string(object) && !strcmp(json_string_value(object), "error"))) {
    take_error(json, error ? error : json->root);
    return BUS_OK;
  }
  if (json_is_object(usage)) {
    json->usage = true;
    json->prompt_tokens = count_of(get(usage, "prompt_tokens"));
    json->completion_tokens = count_of(get(usage, "completion_tokens"));
  }
  if (choices && !json_is_array(choices))
    return say(json, BUS_ERROR_INVALID, "\"choices\" is no array");
  for (size_t i = 0; i < json_array_size(choices); i++) {
    const json_t *choice = json_array_get(choices, i);
    if (!json_is_object(choice))
      return say(json, BUS_ERROR_INVALID, "a choice is no object");
    if (json_number_value(get(choice, "index")) == 0) /* one was asked for */
      return take_choice(json, choice);
  }
  return BUS_OK;
}

static void forget(struct bus_llm_json *json)
{
  if (json->mask_buffer.capacity > KEPT_BYTES_MAX)
    bus_byte_buffer_free(&json->mask_buffer);
  struct bus_byte_buffer kept = json->mask_buffer;
  json_decref(json->root);
  memset(json, 0, sizeof *json);
  json->mask_buffer = kept;
}

int bus_llm_json_parse(struct bus_llm_json *json, const char *bytes, size_t size)
{
  /* Integers as doubles: those that are no int64 are none of ours. */
  const size_t flags = JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL | JSON_DECODE_ANY;
  json_error_t where;
  forget(json);
  if (size > COUNTED_BYTES_MIN && has_too_many_values(bytes, size))
    return say(json, BUS_ERROR_INVALID, "the JSON has more values than any answer should");
  json->root = json_loadb(bytes, size, flags, &where);
  if (!json->root) {
    bus_byte_buffer_clear(&json->mask_buffer);
    int halves = bus_surrogates_mask(&json->mask_buffer, bytes, size);
    if (halves < 0)
      return halves;
    json->masked = halves > 0;
    if (json->masked)
      json->root = json_loadb(json->mask_buffer.bytes, json->mask_buffer.size, flags, &where);
  }
  if (json->root)
    return take_root(json);
  char text[sizeof where.text + 64];
  int length = snprintf(text, sizeof text, "no JSON: %s, at byte %d", where.text, where.position);
  bus_llm_json_say(json, text, (size_t)length);
  return json_error_code(&where) == json_error_premature_end_of_input ? BUS_ERROR_AGAIN
                                                                      : BUS_ERROR_FORMAT;
}

static int append_float(struct bus_llm_json *json, struct bus_byte_buffer *buffer, float value,
                        size_t limit)
{
  uint32_t bits;
  unsigned char bytes[4];
  if (!isfinite(value))
    return say(json, BUS_ERROR_INVALID, "the embedding has a number that is not finite");
  memcpy(&bits, &value, sizeof bits);
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (unsigned char)(bits >> 8 * i);
  return bus_byte_buffer_append(buffer, bytes, sizeof bytes, limit);
}

static int append_numbers(struct bus_llm_json *json, const json_t *array,
                          struct bus_byte_buffer *buffer, size_t limit)
{
  int error = BUS_OK;
  for (size_t i = 0; !error && i < json_array_size(array); i++) {
    const json_t *number = json_array_get(array, i);
    if (json_is_array(number)) /* llama-server and llama-cpp-python without pooling */
      return say(json, BUS_ERROR_INVALID,
                 "the embedding is a vector for each token: start the server with a pooling type");
    if (!json_is_number(number) || !(fabs(json_number_value(number)) <= (double)FLT_MAX))
      return say(json, BUS_ERROR_INVALID, "value %zu of the embedding is no float32", i);
    error = append_float(json, buffer, (float)json_number_value(number), limit);
  }
  return error;
}

static int base64_value(unsigned char digit)
{
  if (digit >= 'A' && digit <= 'Z')
    return digit - 'A';
  if (digit >= 'a' && digit <= 'z')
    return digit - 'a' + 26;
  if (digit >= '0' && digit <= '9')
    return digit - '0' + 52;
  return digit == '+' ? 62 : digit == '/' ? 63 : -1;
}

/* Base64 of little-endian float32. */
static int append_base64(struct bus_llm_json *json, const char *text, size_t size,
                         struct bus_byte_buffer *buffer, size_t limit)
{
  uint32_t bits = 0, bit_count = 0, word = 0, word_bytes = 0;
  int error = BUS_OK;
  while (size > 0 && text[size - 1] == '=')
    size--;
  for (size_t i = 0; !error && i < size; i++) {
    int digit = base64_value((unsigned char)text[i]);
    if (digit < 0)
      return say(json, BUS_ERROR_INVALID, "the embedding is neither numbers nor base64");
    bits = bits << 6 | (uint32_t)digit;
    bit_count += 6;
    if (bit_count < 8)
      continue;
    bit_count -= 8;
    word |= (bits >> bit_count & 0xff) << 8 * word_bytes++;
    if (word_bytes == sizeof word) {
      float value;
      memcpy(&value, &word, sizeof value);
      error = append_float(json, buffer, value, limit);
      word = word_bytes = 0;
    }
  }
  if (!error && word_bytes)
    error = say(json, BUS_ERROR_INVALID, "the embedding's base64 is no whole number of float32");
  return error;
}

int bus_llm_json_embedding(struct bus_llm_json *json, struct bus_byte_buffer *buffer, size_t limit)
{
  const json_t *embedding = get(json_array_get(get(json->root, "data"), 0), "embedding");
  if (json_is_string(embedding) && json_string_length(embedding))
    return append_base64(json, json_string_value(embedding), json_string_length(embedding), buffer,
                         limit);
  if (json_array_size(embedding) == 0)
    return say(json, BUS_ERROR_INVALID, "there is no \"data\"[0].\"embedding\" in the answer");
  return append_numbers(json, embedding, buffer, limit);
}

void bus_llm_json_free(struct bus_llm_json *json)
{
  forget(json);
  bus_byte_buffer_free(&json->mask_buffer);
}
