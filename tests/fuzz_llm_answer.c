/* What a server sends is hostile: whatever it is, and in whatever pieces it comes, the answer is
 * the same, stays inside of its limits, and is UTF-8. */
#include "consumers/llm_exchange.h"
#include "consumers/utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WALL_NS (1445412480u * UINT64_C(1000000000))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
  if (condition)
    return;
  fprintf(stderr, "fuzz_llm_answer: %s\n", what);
  abort();
}

static void check(const struct bus_llm_answer *answer, uint32_t verdict)
{
  require(verdict == answer->verdict, "the verdict returned is not the one kept");
  require(verdict >= BUS_LLM_VERDICT_OK && verdict <= BUS_LLM_VERDICT_FULL,
          "no verdict at the end");
  require(answer->text.size <= answer->text_bytes_max, "a text beyond its limit");
  require(answer->reasoning.size <= answer->text_bytes_max, "a reasoning beyond its limit");
  require(memchr(answer->error_text, 0, sizeof answer->error_text) != NULL, "a text without end");
  size_t bytes = strlen(answer->error_text);
  require(bus_utf8_valid_bytes(answer->error_text, bytes) == bytes, "an error that is no UTF-8");
  if (answer->kind == BUS_LLM_EMBEDDING)
    require(answer->text.size % 4 == 0, "half a float");
  else
    require(bus_utf8_valid_bytes(answer->text.bytes, answer->text.size) == answer->text.size,
            "a text that is no UTF-8");
}

static void run(struct bus_llm_answer *answer, uint8_t options, const uint8_t *data, size_t size,
                size_t piece)
{
  const uint8_t kind = 1 + options % 3;
  require(bus_llm_answer_begin(answer, kind, options & 4 ? 16 : 4096, WALL_NS) == 0, "no memory");
  for (size_t at = 0; at < size; at += piece) {
    size_t count = size - at < piece ? size - at : piece;
    char *copy = malloc(count); /* of its own size: what reads beyond it is seen */
    require(copy != NULL, "no memory");
    memcpy(copy, data + at, count);
    uint32_t verdict = bus_llm_answer_take(answer, copy, count);
    require(verdict == answer->verdict, "the verdict returned is not the one kept");
    free(copy);
  }
  check(answer, bus_llm_answer_end(answer, options & 8));
}

static bool same(const struct bus_byte_buffer *a, const struct bus_byte_buffer *b)
{
  return a->size == b->size && (a->size == 0 || !memcmp(a->bytes, b->bytes, a->size));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static const char events[] = "HTTP/1.0 200 OK\r\n\r\n";
  static struct bus_llm_answer whole, pieces; /* used again, as the bridge does */
  if (size < 2)
    return 0;
  const uint8_t options = data[0];
  const size_t piece = 1 + data[1] % 9;
  /* Half of the inputs begin behind a header: bytes need not be wasted on it. */
  const size_t header_bytes = options & 16 ? sizeof events - 1 : 0;
  uint8_t *stream = malloc(header_bytes + size);
  require(stream != NULL, "no memory");
  memcpy(stream, events, header_bytes);
  memcpy(stream + header_bytes, data + 2, size - 2);
  const size_t bytes = header_bytes + size - 2;
  run(&whole, options, stream, bytes, bytes ? bytes : 1);
  run(&pieces, options, stream, bytes, piece);
  free(stream);
  require(whole.verdict == pieces.verdict, "the pieces change the verdict");
  require(whole.http_status == pieces.http_status, "the pieces change the status");
  require(same(&whole.text, &pieces.text), "the pieces change the text");
  require(same(&whole.reasoning, &pieces.reasoning), "the pieces change the reasoning");
  require(!strcmp(whole.error_text, pieces.error_text), "the pieces change the error");
  require(whole.retry_after_ms == pieces.retry_after_ms, "the pieces change Retry-After");
  return 0;
}
