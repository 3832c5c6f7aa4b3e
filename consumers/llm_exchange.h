/* llm_exchange.h: one question to an OpenAI-compatible server, as bytes; and what its answer's
 * bytes say. No sockets, no clocks: bytes in, verdict out.
 *
 * HTTP is parsed by llhttp (or http-parser), JSON by jansson. What servers do that the standard
 * does not say is listed at the code that copes with it: llm_question.c asks, llm_answer.c and
 * llm_json.c understand. */
#ifndef SIGNALBUS_LLM_EXCHANGE_H
#define SIGNALBUS_LLM_EXCHANGE_H

#include "consumers/byte_buffer.h"
#include "shm/llm_record.h"

BUS_BEGIN_DECLARATIONS

/* Who the server is: what may be sent to it, and how to read it. */
enum bus_llm_flavor {
  BUS_LLM_FLAVOR_OPENAI = 0, /* the common denominator */
  BUS_LLM_FLAVOR_MLX = 1,    /* mlx_lm.server: no model, no seed, no stream_options but
                                include_usage; HTTP/1.0 */
  BUS_LLM_FLAVOR_VLLM = 2,
  BUS_LLM_FLAVOR_LLAMA = 3, /* llama-server and llama-cpp-python's */
  BUS_LLM_FLAVOR_OLLAMA = 4
};

/* "openai", "mlx", .. -> enum bus_llm_flavor, BUS_ERROR_INVALID with a message; and back. */
BUS_EXPORT int bus_llm_flavor_parse(const char *text);
BUS_EXPORT const char *bus_llm_flavor_name(uint32_t flavor);

/* Where a request goes; the strings outlive the call. */
struct bus_llm_endpoint {
  const char *host;  /* the Host header: name, and :port where it is not the default */
  const char *path;  /* before "/chat/completions": "/v1" usually */
  const char *model; /* "": not sent */
  /* Whole value of the header, "Bearer x". NULL or "": "Bearer none" is sent, because some servers
   * want one whatever it says. */
  const char *authorization;
  uint32_t flavor; /* enum bus_llm_flavor */
};

/* What is asked. */
struct bus_llm_question {
  uint8_t kind;        /* BUS_LLM_CHAT, _COMPLETION or _EMBEDDING */
  uint8_t flags;       /* BUS_LLM_MESSAGES counts */
  uint32_t tokens_max; /* 0: not sent */
  float temperature;   /* negative: not sent; not a number: refused */
  const char *text;    /* UTF-8, no NUL needed; may be empty, but for MESSAGES */
  size_t text_bytes;
};

/* Writes the whole HTTP/1.1 request (POST, Content-Length, Authorization, never Expect, never
 * chunked, always streaming but for embeddings) to the empty buffer `request`. Returns BUS_OK;
 * BUS_ERROR_INVALID with a message when the text is not UTF-8 or, with MESSAGES, not a JSON array
 * of messages, when the server has nothing of the kind (embeddings of mlx), or when a string of the
 * endpoint would break the header; BUS_ERROR_NO_SPACE. After an error the buffer is empty. */
BUS_EXPORT int bus_llm_question_write(struct bus_byte_buffer *request,
                                      const struct bus_llm_endpoint *endpoint,
                                      const struct bus_llm_question *question);

/* How an answer stands.
 *
 * What a finish_reason means: "length" is LENGTH; "content_filter" is 4XX, for asking the same
 * again would end the same; "error", "abort", "cancelled" are STREAM_ERROR; every other ("stop",
 * "tool_calls", "eos", ..) says that the model ended by itself: OK. */
enum bus_llm_verdict {
  BUS_LLM_VERDICT_MORE = 0,   /* goes on */
  BUS_LLM_VERDICT_OK = 1,     /* finish_reason and [DONE] and no error; or a whole JSON body */
  BUS_LLM_VERDICT_LENGTH = 2, /* as OK, the model was cut by its token limit */
  BUS_LLM_VERDICT_4XX = 3,    /* http_status says, 3xx included; 2xx: withheld by a content filter.
                                 error_text: what the server said */
  BUS_LLM_VERDICT_5XX = 4,
  BUS_LLM_VERDICT_STREAM_ERROR = 5, /* an error within a stream that had begun with 200 */
  BUS_LLM_VERDICT_GARBAGE = 6,      /* no HTTP, no JSON, or more than the limits allow */
  BUS_LLM_VERDICT_TRUNCATED = 7,    /* ended before it was whole; also with zero bytes */
  BUS_LLM_VERDICT_FULL = 8          /* text_bytes_max reached: the text up to there is there */
};

/* One answer under way. Read the fields, call the functions. It stays where it is from begin on. */
struct bus_llm_answer {
  uint32_t verdict;                          /* enum bus_llm_verdict */
  uint16_t http_status;                      /* 0: no status line yet */
  bool reusable;                             /* whole, and the server keeps the connection */
  bool first_token;                          /* text or reasoning has come */
  struct bus_byte_buffer text;               /* the answer so far (UTF-8); embedding: float32 */
  struct bus_byte_buffer reasoning;          /* kept apart; at most text_bytes_max, then cut */
  uint32_t prompt_tokens, completion_tokens; /* 0: not said; completion: else the chunks counted */
  uint32_t retry_after_ms; /* of Retry-After, in seconds or a date; capped at one day */
  char error_text[256];    /* UTF-8, one line: of the server's error object, or what makes it
                              GARBAGE; "" when none */
  uint64_t bytes;          /* taken in */
  uint32_t comments;       /* SSE comments: signs of life that are no tokens */
  size_t text_bytes_max;
  uint8_t kind;
  struct bus_llm_parser *parser; /* private to llm_answer.c */
};

/* Prepares for an answer to a question of `kind`; keeps the buffers of an earlier one. `wall_ns`:
 * CLOCK_REALTIME, for Retry-After dates. All zero before the first call. Returns BUS_OK or
 * BUS_ERROR_NO_SPACE. */
BUS_EXPORT int bus_llm_answer_begin(struct bus_llm_answer *answer, uint8_t kind,
                                    size_t text_bytes_max, uint64_t wall_ns);

/* Takes what the socket gave; returns answer->verdict. Once it is not MORE, further bytes are
 * ignored (and make `reusable` false).
 *
 * Where the server keeps the connection, OK comes with the end of the HTTP message, which many
 * servers send right after [DONE] in a packet of its own: `reusable` is then true. A caller that
 * will wait no longer (a time-out) calls end, which says OK when only that was missing. */
BUS_EXPORT uint32_t bus_llm_answer_take(struct bus_llm_answer *answer, const void *bytes,
                                        size_t size);

/* The stream has ended, in order or not (`broken`); returns the verdict, never MORE. */
BUS_EXPORT uint32_t bus_llm_answer_end(struct bus_llm_answer *answer, bool broken);

/* Frees all of it. */
BUS_EXPORT void bus_llm_answer_free(struct bus_llm_answer *answer);

BUS_END_DECLARATIONS

#endif
