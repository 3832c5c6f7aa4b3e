#include "kernels/engine.h"
#include "shm/error.h"
#include "tests/model_builder.h"

#include <criterion/criterion.h>

static struct bus_model *build(const struct model_shape *shape, uint64_t seed)
{
  size_t size;
  uint8_t *bytes = model_build(shape, seed, 1.0f, &size);
  struct bus_model *model;
  cr_assert_eq(bus_model_parse(bytes, size, &model), BUS_OK, "%s", bus_error_message());
  free(bytes);
  return model;
}

static const struct model_shape usual = {
    16, 3, {32, 16, 3}, {BUS_ACTIVATION_RELU, BUS_ACTIVATION_RELU, BUS_ACTIVATION_NONE}};

Test(engine, opens_the_best_or_the_named_path)
{
  struct bus_model *model = build(&usual, 1);
  const struct bus_engine_config config = {.batch_max = 64};
  struct bus_engine *engine;
  cr_assert_eq(bus_engine_open("auto", model, &config, &engine), BUS_OK);
  cr_assert_neq(engine->id, BUS_ENGINE_NONE);
  cr_assert_eq(engine->inputs, 16);
  cr_assert_eq(engine->batch_max, 64);
  cr_assert_eq(engine->model_id, bus_model_id(model));
  cr_assert_not_null(strstr(engine->describe, "MLP 16-32-16-3"), "%s", engine->describe);
  bus_engine_close(engine);
  cr_assert_eq(bus_engine_open("scalar", model, &config, &engine), BUS_OK);
  cr_assert_eq(engine->id, BUS_ENGINE_SCALAR);
  cr_assert_str_eq(engine->name, "scalar");
  bus_engine_close(engine);
  bus_engine_close(NULL);
  bus_model_free(model);
}

Test(engine, refuses_with_a_reason)
{
  struct bus_model *model = build(&usual, 1);
  struct bus_engine_config config = {.batch_max = 1};
  struct bus_engine *engine;
  cr_assert_eq(bus_engine_open("cuda", model, &config, &engine), BUS_ERROR_UNSUPPORTED);
  cr_assert_not_null(strstr(bus_error_message(), "CPU engines only"));
  cr_assert_null(engine);
  cr_assert_eq(bus_engine_open("abacus", model, &config, &engine), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "\"abacus\""));
  for (uint32_t batch_max = 0; batch_max <= 65; batch_max += 65) {
    config.batch_max = batch_max;
    cr_assert_eq(bus_engine_open("auto", model, &config, &engine), BUS_ERROR_INVALID);
    cr_assert_null(engine);
  }
  bus_model_free(model);
}

Test(engine, opens_every_known_kind_or_says_that_it_cannot)
{
  static const char *const kinds[] = {"scalar", "avx2", "avx512"};
  struct bus_model *model = build(&usual, 1);
  const struct bus_engine_config config = {.batch_max = 4};
  for (size_t i = 0; i < BUS_COUNT_OF(kinds); i++) {
    struct bus_engine *engine;
    const int error = bus_engine_open(kinds[i], model, &config, &engine);
    if (error == BUS_OK)
      cr_assert_str_eq(engine->name, kinds[i]);
    else
      cr_assert_eq(error, BUS_ERROR_UNSUPPORTED);
    bus_engine_close(engine);
  }
  bus_model_free(model);
}

Test(engine, keeps_the_contract_of_submit_and_poll)
{
  struct bus_model *model = build(&usual, 1);
  const struct bus_engine_config config = {.batch_max = 8};
  struct bus_engine *engine;
  cr_assert_eq(bus_engine_open("auto", model, &config, &engine), BUS_OK);
  bus_model_free(model); /* the engine does not need it any more */

  struct bus_engine_result result;
  float rows[8 * 16] = {0};
  cr_assert_eq(bus_engine_poll(engine, &result), 0);
  cr_assert_eq(bus_engine_submit(engine, rows, 16, 0, 1), BUS_ERROR_INVALID);
  cr_assert_eq(bus_engine_submit(engine, rows, 16, 9, 1), BUS_ERROR_INVALID);
  cr_assert_eq(bus_engine_submit(engine, rows, 16, 8, 42), BUS_OK);
  cr_assert_eq(bus_engine_submit(engine, rows, 16, 8, 43), BUS_ERROR_AGAIN);
  cr_assert_eq(bus_engine_poll(engine, &result), 1);
  cr_assert_eq(result.ticket, 42);
  cr_assert_eq(result.batch, 8);
  for (uint32_t i = 0; i < result.batch; i++) {
    const float sum = result.scores[i][0] + result.scores[i][1] + result.scores[i][2];
    cr_assert_float_eq(sum, 1.0f, 1e-6f);
    cr_assert_arr_eq(result.scores[i], result.scores[0], sizeof result.scores[0]);
  }
  cr_assert_eq(bus_engine_poll(engine, &result), 0);
  cr_assert_eq(bus_engine_submit(engine, rows, 0, 1, 44), BUS_OK);
  cr_assert_eq(bus_engine_poll(engine, &result), 1);
  cr_assert_eq(result.ticket, 44);
  bus_engine_close(engine);
}
