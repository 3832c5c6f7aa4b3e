/* Any bytes as a model file. What is accepted must also run: in every engine of this machine, with
 * the same bits. */
#include "kernels/engine.h"
#include "tests/model_builder.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

/* A mutation never keeps the CRC, and rarely the size: most inputs are sealed again, and now and
 * then one starts from a good model, so that the code behind the checks is reached. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned int seed)
{
  uint64_t state = seed;
  if (random_below(&state, 16) == 0) {
    struct model_shape shape = {.inputs = 1 + random_below(&state, 20),
                                .layers = 1 + random_below(&state, 3)};
    for (uint32_t i = 0; i < shape.layers; i++) {
      shape.width[i] = i + 1 == shape.layers ? 3 : 1 + random_below(&state, 20);
      shape.activation[i] = random_below(&state, BUS_ACTIVATION_COUNT);
    }
    size_t built_bytes;
    uint8_t *built = model_build(&shape, state, 1.0f, &built_bytes);
    if (built_bytes <= size_max) {
      memcpy(data, built, built_bytes);
      size = built_bytes;
    }
    free(built);
  }
  if (random_below(&state, 8) != 0)
    size = LLVMFuzzerMutate(data, size, size_max);
  if (size < 32 || random_below(&state, 8) == 0)
    return size;
  if (random_below(&state, 2) == 0) {
    const uint64_t file_bytes = size;
    memcpy(data + 16, &file_bytes, sizeof file_bytes);
  }
  model_seal(data, size);
  return size;
}

static void infer(const char *kind, const struct bus_model *model, float scores[2][3])
{
  const struct bus_engine_config config = {.batch_max = 2};
  struct bus_engine *engine;
  struct bus_engine_result result;
  float rows[2 * BUS_MODEL_INPUTS_MAX];
  uint64_t state = model->crc32;
  for (size_t i = 0; i < BUS_COUNT_OF(rows); i++)
    rows[i] = i % 3 == 0 ? random_float(&state) : random_number(&state);
  if (bus_engine_open(kind, model, &config, &engine) != 0)
    return; /* not on this CPU */
  if (bus_engine_submit(engine, rows, model->inputs, 2, 1) != 0 ||
      bus_engine_poll(engine, &result) != 1)
    abort();
  memcpy(scores, result.scores, 2 * sizeof scores[0]);
  bus_engine_close(engine);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct bus_model *model;
  if (size > 1 << 20 || bus_model_parse(data, size, &model) != 0)
    return 0;
  float want[2][3];
  infer("scalar", model, want);
  for (int i = 0; i < 2; i++) {
    for (int k = 0; k < 3; k++) {
      if (!(want[i][k] >= 0.0f && want[i][k] <= 1.0f))
        abort();
    }
  }
  static const char *const kinds[] = {"avx2", "avx512"};
  for (size_t i = 0; i < BUS_COUNT_OF(kinds); i++) {
    float got[2][3];
    memcpy(got, want, sizeof got);
    infer(kinds[i], model, got);
    if (memcmp(got, want, sizeof got) != 0)
      abort();
  }
  bus_model_free(model);
  return 0;
}
