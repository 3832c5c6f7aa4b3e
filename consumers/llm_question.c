/* The request's side of llm_exchange.h.
 *
 * What servers want that the standard does not say:
 * - mlx_lm.server loads another model when one is named, drains its batch for a seed, and loses
 *   [DONE] when stream_options has no include_usage: nothing of these is sent to it.
 * - It answers 411 to a chunked request and never answers Expect: the length is always said.
 * - It notices that nobody wants an answer any more at its next streamed write: always stream.
 * - Some servers refuse a request without Authorization even where any value does. */
#include "consumers/llm_exchange.h"

#include "consumers/utf8.h"
#include "shm/error.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MODEL_BYTES_MAX   255u
#define ANY_AUTHORIZATION "Bearer none"

/* What stands before and behind the text in the JSON body. */
struct frame {
  char before[6 * MODEL_BYTES_MAX + 128]; /* a control character of the name takes six bytes */
  char after[192];
  size_t before_bytes, after_bytes;
};

static const char *const flavor_names[] = {
    [BUS_LLM_FLAVOR_OPENAI] = "openai", [BUS_LLM_FLAVOR_MLX] = "mlx",
    [BUS_LLM_FLAVOR_VLLM] = "vllm",     [BUS_LLM_FLAVOR_LLAMA] = "llama",
    [BUS_LLM_FLAVOR_OLLAMA] = "ollama",
};

int bus_llm_flavor_parse(const char *text)
{
  for (size_t i = 0; i < BUS_COUNT_OF(flavor_names); i++)
    if (!strcmp(text, flavor_names[i]))
      return (int)i;
  return bus_error_set(BUS_ERROR_INVALID,
                       "no kind of server is called '%.40s': it is openai, mlx, vllm, llama or "
                       "ollama; where unsure openai, which sends what all of them take",
                       text);
}

const char *bus_llm_flavor_name(uint32_t flavor)
{
  return flavor < BUS_COUNT_OF(flavor_names) ? flavor_names[flavor] : "unknown";
}

/* Writes `byte` as it stands in a JSON string to `escaped`; returns how many bytes that took. */
static size_t escape_byte(char escaped[6], unsigned char byte)
{
  static const char digits[] = "0123456789abcdef";
  static const char short_forms[0x20] = {
      ['\b'] = 'b', ['\t'] = 't', ['\n'] = 'n', ['\f'] = 'f', ['\r'] = 'r'};
  if (byte == '"' || byte == '\\' || (byte < 0x20 && short_forms[byte])) {
    escaped[0] = '\\';
    escaped[1] = byte < 0x20 ? short_forms[byte] : (char)byte;
    return 2;
  }
  if (byte >= 0x20) {
    escaped[0] = (char)byte;
    return 1;
  }
  memcpy(escaped, "\\u00", 4);
  escaped[4] = digits[byte >> 4];
  escaped[5] = digits[byte & 15];
  return 6;
}

static bool is_plain(unsigned char byte)
{
  return byte >= 0x20 && byte != '"' && byte != '\\';
}

static size_t escaped_bytes(const char *text, size_t size)
{
  char escaped[6];
  size_t bytes = 0;
  for (size_t i = 0; i < size; i++)
    bytes += is_plain((unsigned char)text[i]) ? 1 : escape_byte(escaped, (unsigned char)text[i]);
  return bytes;
}

static int append_escaped(struct bus_byte_buffer *buffer, const char *text, size_t size)
{
  int error = BUS_OK;
  size_t at = 0;
  while (!error && at < size) {
    size_t end = at;
    while (end < size && is_plain((unsigned char)text[end]))
      end++;
    error = bus_byte_buffer_append(buffer, text + at, end - at, SIZE_MAX);
    at = end;
    if (!error && at < size) {
      char escaped[6];
      size_t bytes = escape_byte(escaped, (unsigned char)text[at++]);
      error = bus_byte_buffer_append(buffer, escaped, bytes, SIZE_MAX);
    }
  }
  return error;
}

/* A control character here would be the end of the header and the beginning of another. */
static int check_header_string(const char *what, const char *text, bool spaces)
{
  for (size_t i = 0; text[i]; i++) {
    unsigned char byte = (unsigned char)text[i];
    if (byte >= 0x7f || byte < ' ' || (byte == ' ' && !spaces))
      return bus_error_set(
          BUS_ERROR_INVALID, "%s of the server has a byte 0x%02x at place %zu: only %s go there",
          what, byte, i, spaces ? "printable ASCII characters" : "those without spaces");
  }
  return BUS_OK;
}

static int check_endpoint(const struct bus_llm_endpoint *endpoint)
{
  int error = check_header_string("the host", endpoint->host, false);
  if (!error && !endpoint->host[0])
    error = bus_error_set(BUS_ERROR_INVALID, "the host of the server is empty");
  if (!error)
    error = check_header_string("the path", endpoint->path, false);
  if (!error && endpoint->path[0] && endpoint->path[0] != '/')
    error = bus_error_set(BUS_ERROR_INVALID, "the path '%.100s' of the server begins with no '/'",
                          endpoint->path);
  if (!error && endpoint->authorization)
    error = check_header_string("the authorization", endpoint->authorization, true);
  size_t model_bytes = strlen(endpoint->model);
  if (!error && (model_bytes > MODEL_BYTES_MAX ||
                 bus_utf8_valid_bytes(endpoint->model, model_bytes) != model_bytes))
    error = bus_error_set(BUS_ERROR_INVALID,
                          "the model '%.60s' is no name of UTF-8 and %u bytes at most",
                          endpoint->model, MODEL_BYTES_MAX);
  return error;
}

/* Content is a string, or an array of parts, which are objects. */
static bool is_content(const json_t *content)
{
  size_t index;
  json_t *part;
  if (json_is_string(content))
    return true;
  if (!json_is_array(content))
    return false;
  json_array_foreach(content, index, part)
  {
    if (!json_is_object(part))
      return false;
  }
  return true;
}

/* The text goes out as it came, so it must be whole and mean one thing: what reads it twice must
 * not read two different roles. */
static int check_messages(const char *text, size_t size)
{
  json_error_t where;
  json_t *messages = json_loadb(
      text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &where);
  if (!messages)
    return bus_error_set(BUS_ERROR_INVALID, "the messages are no JSON: %s, at byte %d", where.text,
                         where.position);
  int error = BUS_OK;
  if (!json_is_array(messages) || json_array_size(messages) == 0)
    error = bus_error_set(BUS_ERROR_INVALID,
                          "the messages are no JSON array with at least one message");
  for (size_t i = 0; !error && i < json_array_size(messages); i++) {
    const json_t *message = json_array_get(messages, i);
    if (!json_is_object(message) || !json_is_string(json_object_get(message, "role")) ||
        !is_content(json_object_get(message, "content")))
      error =
          bus_error_set(BUS_ERROR_INVALID,
                        "message %zu is no object with a string \"role\" and a \"content\" that "
                        "is a string or an array of objects",
                        i);
  }
  json_decref(messages);
  return error;
}

static int check_question(const struct bus_llm_endpoint *endpoint,
                          const struct bus_llm_question *question)
{
  size_t valid = bus_utf8_valid_bytes(question->text, question->text_bytes);
  if (valid != question->text_bytes)
    return bus_error_set(BUS_ERROR_INVALID, "the text is no UTF-8 at byte %zu of %zu", valid,
                         question->text_bytes);
  if (!isfinite(question->temperature))
    return bus_error_set(BUS_ERROR_INVALID,
                         "the temperature is no number: give 0 or more, or -1 for the server's");
  switch (question->kind) {
  case BUS_LLM_CHAT:
    return question->flags & BUS_LLM_MESSAGES ? check_messages(question->text, question->text_bytes)
                                              : BUS_OK;
  case BUS_LLM_COMPLETION:
    return BUS_OK;
  case BUS_LLM_EMBEDDING:
    if (endpoint->flavor == BUS_LLM_FLAVOR_MLX)
      return bus_error_set(BUS_ERROR_INVALID,
                           "mlx_lm.server makes no embeddings: route the class to another server");
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "a request of kind %u cannot be asked of a server",
                         question->kind);
  }
}

static const char *text_key(const struct bus_llm_question *question, bool verbatim)
{
  if (question->kind == BUS_LLM_EMBEDDING)
    return "\"input\":\"";
  if (question->kind == BUS_LLM_COMPLETION)
    return "\"prompt\":\"";
  return verbatim ? "\"messages\":" : "\"messages\":[{\"role\":\"user\",\"content\":\"";
}

static void put(char *bytes, size_t *size, const char *text)
{
  size_t length = strlen(text);
  memcpy(bytes + *size, text, length);
  *size += length;
}

static void put_before(struct frame *frame, const struct bus_llm_endpoint *endpoint,
                       const struct bus_llm_question *question, bool verbatim)
{
  put(frame->before, &frame->before_bytes, "{");
  if (endpoint->model[0] && endpoint->flavor != BUS_LLM_FLAVOR_MLX) {
    put(frame->before, &frame->before_bytes, "\"model\":\"");
    for (const char *at = endpoint->model; *at; at++)
      frame->before_bytes += escape_byte(frame->before + frame->before_bytes, (unsigned char)*at);
    put(frame->before, &frame->before_bytes, "\",");
  }
  put(frame->before, &frame->before_bytes, text_key(question, verbatim));
}

static void put_after(struct frame *frame, const struct bus_llm_question *question, bool verbatim)
{
  char number[48];
  if (!verbatim)
    put(frame->after, &frame->after_bytes, question->kind == BUS_LLM_CHAT ? "\"}]" : "\"");
  if (question->kind != BUS_LLM_EMBEDDING) {
    if (question->tokens_max) {
      snprintf(number, sizeof number, ",\"max_tokens\":%u", question->tokens_max);
      put(frame->after, &frame->after_bytes, number);
    }
    if (question->temperature >= 0) {
      /* The shortest form that is the same float: 0.7, not 0.699999988. */
      int digits = 5;
      do
        snprintf(number, sizeof number, "%.*g", ++digits, (double)fabsf(question->temperature));
      while (digits < 9 && strtof(number, NULL) != question->temperature);
      put(frame->after, &frame->after_bytes, ",\"temperature\":");
      put(frame->after, &frame->after_bytes, number);
    }
    put(frame->after, &frame->after_bytes,
        ",\"stream\":true,\"stream_options\":{\"include_usage\":true}");
  }
  put(frame->after, &frame->after_bytes, "}");
}

static int write_header(struct bus_byte_buffer *request, const struct bus_llm_endpoint *endpoint,
                        uint8_t kind, size_t body_bytes)
{
  static const char *const paths[] = {[BUS_LLM_CHAT] = "/chat/completions",
                                      [BUS_LLM_COMPLETION] = "/completions",
                                      [BUS_LLM_EMBEDDING] = "/embeddings"};
  const char *authorization = endpoint->authorization && endpoint->authorization[0]
                                  ? endpoint->authorization
                                  : ANY_AUTHORIZATION;
  /* Nothing here undoes compression, which some proxies do unasked. */
  return bus_byte_buffer_print(request, SIZE_MAX,
                               "POST %s%s HTTP/1.1\r\n"
                               "Host: %s\r\n"
                               "User-Agent: signal-bus/" BUS_VERSION "\r\n"
                               "Accept: %s\r\n"
                               "Accept-Encoding: identity\r\n"
                               "Authorization: %s\r\n"
                               "Content-Type: application/json\r\n"
                               "Content-Length: %zu\r\n\r\n",
                               endpoint->path, paths[kind], endpoint->host,
                               kind == BUS_LLM_EMBEDDING ? "application/json"
                                                         : "text/event-stream, application/json",
                               authorization, body_bytes);
}

int bus_llm_question_write(struct bus_byte_buffer *request, const struct bus_llm_endpoint *endpoint,
                           const struct bus_llm_question *question)
{
  struct frame frame;
  const bool verbatim = question->kind == BUS_LLM_CHAT && question->flags & BUS_LLM_MESSAGES;
  int error = check_endpoint(endpoint);
  if (!error)
    error = check_question(endpoint, question);
  if (error)
    return error;
  frame.before_bytes = frame.after_bytes = 0;
  put_before(&frame, endpoint, question, verbatim);
  put_after(&frame, question, verbatim);
  const size_t text_bytes =
      verbatim ? question->text_bytes : escaped_bytes(question->text, question->text_bytes);
  error = write_header(request, endpoint, question->kind,
                       frame.before_bytes + text_bytes + frame.after_bytes);
  if (!error)
    error = bus_byte_buffer_append(request, frame.before, frame.before_bytes, SIZE_MAX);
  if (!error)
    error = verbatim
                ? bus_byte_buffer_append(request, question->text, question->text_bytes, SIZE_MAX)
                : append_escaped(request, question->text, question->text_bytes);
  if (!error)
    error = bus_byte_buffer_append(request, frame.after, frame.after_bytes, SIZE_MAX);
  if (error) {
    bus_byte_buffer_clear(request);
    return bus_error_set(error, "there is no memory for a request of %zu bytes of text",
                         question->text_bytes);
  }
  return BUS_OK;
}
