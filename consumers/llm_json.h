/* llm_json.h: what one JSON object of a server's answer says: a chunk of a stream, or a whole body.
 * The object is hostile: whatever it holds, the result is one of those below. */
#ifndef SIGNALBUS_LLM_JSON_H
#define SIGNALBUS_LLM_JSON_H

#include "consumers/byte_buffer.h"

BUS_BEGIN_DECLARATIONS

#define BUS_LLM_PROBLEM_BYTES 256u

/* All zero before the first parse. */
struct bus_llm_json {
  const char *text; /* of choice 0; NULL: it has none. Valid until the next parse or free */
  size_t text_bytes;
  const char *reasoning; /* likewise */
  size_t reasoning_bytes;
  const char *finish_reason; /* likewise */
  bool choice;               /* there is a choice 0 */
  bool error;                /* it is an error object: `problem` is what it says */
  bool masked;               /* text and reasoning may hold masked surrogates (surrogates.h) */
  bool usage;                /* the counts below were said */
  uint32_t prompt_tokens, completion_tokens;
  char problem[BUS_LLM_PROBLEM_BYTES]; /* one line of UTF-8 */

  struct json_t *root;                /* private */
  struct bus_byte_buffer mask_buffer; /* private */
};

/* Reads an object. Returns BUS_OK; BUS_ERROR_FORMAT when it is no JSON, BUS_ERROR_AGAIN when it is
 * the beginning of some, BUS_ERROR_INVALID when it is JSON of another shape: `problem` says what;
 * BUS_ERROR_NO_SPACE. */
BUS_EXPORT int bus_llm_json_parse(struct bus_llm_json *json, const char *bytes, size_t size);

/* Appends the parsed object's first embedding to `buffer` as little-endian float32, as many as
 * `limit` bytes hold. Returns BUS_OK; BUS_ERROR_INVALID with `problem`: there is none, or a number
 * that a float32 cannot hold; BUS_ERROR_NO_SPACE: there are more. */
BUS_EXPORT int bus_llm_json_embedding(struct bus_llm_json *json, struct bus_byte_buffer *buffer,
                                      size_t limit);

/* The parsed object is an error although nothing in it says so. */
BUS_EXPORT void bus_llm_json_take_error(struct bus_llm_json *json);

/* `problem` becomes one line of the `size` bytes of `text`, whatever they are. */
BUS_EXPORT void bus_llm_json_say(struct bus_llm_json *json, const char *text, size_t size);

BUS_EXPORT void bus_llm_json_free(struct bus_llm_json *json);

BUS_END_DECLARATIONS

#endif
