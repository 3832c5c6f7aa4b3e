#include "kernels/engine_cpu.h"
#include "shm/error.h"
#include "tests/model_builder.h"

#include <criterion/criterion.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <math.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GOLDEN 0x7d2adee1u

static const char *const vector_paths[] = {"avx2", "avx512"};

/* Scores of one row and an engine, computed from the model as its header describes it, in double:
 * shares nothing with the engines. Only for tame numbers. */
static void infer_in_double(const struct bus_model *model, const float *row, double scores[3])
{
  static double x[BUS_MODEL_WIDTH_MAX], y[BUS_MODEL_WIDTH_MAX];
  for (uint32_t k = 0; k < model->inputs; k++)
    x[k] = fmin(fmax(((double)row[k] - (double)model->mean[k]) * (double)model->scale[k], -8), 8);
  for (uint32_t i = 0; i < model->layer_count; i++) {
    const struct bus_model_layer *layer = &model->layer[i];
    for (uint32_t j = 0; j < layer->width; j++) {
      y[j] = (double)layer->bias[j];
      for (uint32_t k = 0; k < layer->inputs; k++)
        y[j] += (double)layer->weights[j * layer->inputs + k] * x[k];
      if (layer->activation == BUS_ACTIVATION_RELU)
        y[j] = fmax(y[j], 0);
      else if (layer->activation == BUS_ACTIVATION_TANH)
        y[j] = tanh(y[j]);
      else if (layer->activation == BUS_ACTIVATION_SIGMOID)
        y[j] = 1 / (1 + exp(-y[j]));
    }
    memcpy(x, y, layer->width * sizeof x[0]);
  }
  const double sum = exp(x[0]) + exp(x[1]) + exp(x[2]);
  for (int i = 0; i < 3; i++)
    scores[i] = exp(x[i]) / sum;
}

static struct bus_model *build(const struct model_shape *shape, uint64_t seed, float gain)
{
  size_t size;
  uint8_t *bytes = model_build(shape, seed, gain, &size);
  struct bus_model *model;
  cr_assert_eq(bus_model_parse(bytes, size, &model), BUS_OK, "%s", bus_error_message());
  free(bytes);
  return model;
}

static struct model_shape random_shape(uint64_t *seed)
{
  struct model_shape shape = {.inputs = 1 + random_below(seed, 40)};
  shape.layers = 1 + random_below(seed, 4);
  if (random_below(seed, 20) == 0)
    shape.layers = BUS_MODEL_LAYERS_MAX;
  if (random_below(seed, 20) == 0)
    shape.inputs = BUS_MODEL_INPUTS_MAX;
  for (uint32_t i = 0; i < shape.layers; i++) {
    shape.width[i] = i + 1 == shape.layers ? 3 : 1 + random_below(seed, 150);
    shape.activation[i] = random_below(seed, BUS_ACTIVATION_COUNT);
  }
  return shape;
}

static struct bus_engine *open_engine(const char *kind, const struct bus_model *model,
                                      uint32_t batch_max)
{
  const struct bus_engine_config config = {.batch_max = batch_max};
  struct bus_engine *engine;
  cr_assert_eq(bus_engine_open(kind, model, &config, &engine), BUS_OK, "%s", bus_error_message());
  return engine;
}

static struct bus_engine_result infer(struct bus_engine *engine, const float *rows, size_t stride,
                                      uint32_t batch)
{
  struct bus_engine_result result;
  cr_assert_eq(bus_engine_submit(engine, rows, stride, batch, 1), BUS_OK);
  cr_assert_eq(bus_engine_poll(engine, &result), 1);
  return result;
}

Test(engine_cpu, scalar_path_agrees_with_double)
{
  uint64_t seed = 5;
  for (int round = 0; round < 60; round++) {
    const struct model_shape shape = random_shape(&seed);
    struct bus_model *model = build(&shape, random_bits(&seed), 1.0f);
    struct bus_engine *engine = open_engine("scalar", model, 1);
    for (int i = 0; i < 4; i++) {
      float row[BUS_MODEL_INPUTS_MAX];
      double want[3];
      for (uint32_t k = 0; k < shape.inputs; k++)
        row[k] = 3.0f * random_number(&seed);
      const struct bus_engine_result got = infer(engine, row, 0, 1);
      infer_in_double(model, row, want);
      for (int k = 0; k < 3; k++)
        cr_assert_float_eq((double)got.scores[0][k], want[k], 2e-4, "%g, not %g",
                           (double)got.scores[0][k], want[k]);
    }
    bus_engine_close(engine);
    bus_model_free(model);
  }
}

/* One random model; every path, batch size and input kind must give the scalar path's bits. */
static void compare_paths(uint64_t *seed, float gain, bool wild)
{
  const struct model_shape shape = random_shape(seed);
  struct bus_model *model = build(&shape, random_bits(seed), gain);
  const size_t stride = shape.inputs + random_below(seed, 5);
  float *rows = malloc(BUS_ENGINE_BATCH_MAX * stride * sizeof *rows);
  for (size_t i = 0; i < BUS_ENGINE_BATCH_MAX * stride; i++)
    rows[i] = wild ? random_float(seed) : 4.0f * random_number(seed);

  struct bus_engine *scalar = open_engine("scalar", model, BUS_ENGINE_BATCH_MAX);
  const struct bus_engine_result want = infer(scalar, rows, stride, BUS_ENGINE_BATCH_MAX);
  for (uint32_t i = 0; i < BUS_ENGINE_BATCH_MAX; i++) {
    for (int k = 0; k < 3; k++)
      cr_assert(want.scores[i][k] >= 0.0f && want.scores[i][k] <= 1.0f);
  }
  for (size_t p = 0; p < BUS_COUNT_OF(vector_paths); p++) {
    if (bus_engine_cpu_path(vector_paths[p]) == NULL)
      continue;
    struct bus_engine *engine = open_engine(vector_paths[p], model, BUS_ENGINE_BATCH_MAX);
    for (uint32_t batch = 1; batch <= BUS_ENGINE_BATCH_MAX; batch++) {
      const uint32_t first = random_below(seed, BUS_ENGINE_BATCH_MAX - batch + 1);
      const struct bus_engine_result got = infer(engine, rows + first * stride, stride, batch);
      cr_assert_eq(memcmp(got.scores, want.scores[first], batch * sizeof got.scores[0]), 0,
                   "%s differs from scalar in a batch of %u: %s", vector_paths[p], batch,
                   engine->describe);
    }
    bus_engine_close(engine);
  }
  bus_engine_close(scalar);
  free(rows);
  bus_model_free(model);
}

Test(engine_cpu, all_paths_give_the_same_bits)
{
  uint64_t seed = 11;
  for (int round = 0; round < 60; round++)
    compare_paths(&seed, 1.0f, false);
}

Test(engine_cpu, all_paths_give_the_same_bits_for_any_input)
{
  uint64_t seed = 12;
  for (int round = 0; round < 40; round++)
    compare_paths(&seed, 1.0f, true);
}

/* Weights so large or so small that sums become infinite, NaN or denormal. */
Test(engine_cpu, all_paths_give_the_same_bits_for_any_weights)
{
  static const float gains[] = {1e38f, 1e37f, 1e19f, 1e10f, 1e-10f, 1e-20f, 1e-38f, 1e-43f};
  uint64_t seed = 13;
  for (size_t round = 0; round < 6 * BUS_COUNT_OF(gains); round++)
    compare_paths(&seed, gains[round % BUS_COUNT_OF(gains)], round % 2 != 0);
}

Test(engine_cpu, all_paths_give_the_same_bits_for_a_wide_layer)
{
  const struct model_shape shape = {
      256, 2, {BUS_MODEL_WIDTH_MAX, 3}, {BUS_ACTIVATION_TANH, BUS_ACTIVATION_NONE}};
  struct bus_model *model = build(&shape, 3, 1.0f);
  float rows[2 * 256];
  uint64_t seed = 3;
  for (size_t i = 0; i < BUS_COUNT_OF(rows); i++)
    rows[i] = random_number(&seed);
  struct bus_engine *scalar = open_engine("scalar", model, 3);
  struct bus_engine *fast = open_engine("auto", model, 3);
  const struct bus_engine_result want = infer(scalar, rows, 128, 3);
  const struct bus_engine_result got = infer(fast, rows, 128, 3);
  cr_assert_arr_eq(got.scores, want.scores, 3 * sizeof want.scores[0]);
  bus_engine_close(scalar);
  bus_engine_close(fast);
  bus_model_free(model);
}

Test(engine_cpu, activations_give_the_same_bits_for_floats_of_all_kinds)
{
  enum { COUNT = 1024 };
  const uint32_t step = 4001;
  float input[COUNT], want[COUNT], got[COUNT];
  for (uint32_t a = 0; a < BUS_ACTIVATION_COUNT; a++) {
    uint64_t bits = 0;
    while (bits < UINT64_C(1) << 32) {
      for (int i = 0; i < COUNT; i++, bits += step) {
        const uint32_t word = (uint32_t)bits;
        memcpy(&input[i], &word, sizeof word);
      }
      memcpy(want, input, sizeof want);
      bus_mlp_scalar.activate((enum bus_activation)a, want, COUNT);
      for (size_t p = 0; p < BUS_COUNT_OF(vector_paths); p++) {
        const struct bus_mlp_path *path = bus_engine_cpu_path(vector_paths[p]);
        if (path == NULL)
          continue;
        memcpy(got, input, sizeof got);
        path->activate((enum bus_activation)a, got, COUNT);
        cr_assert_eq(memcmp(got, want, sizeof got), 0, "%s of %s, near %08x",
                     bus_activation_name(a), path->name, (uint32_t)bits);
      }
    }
  }
}

Test(engine_cpu, reads_nothing_beyond_a_row)
{
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  uint8_t *memory =
      mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cr_assert_neq(memory, MAP_FAILED);
  cr_assert_eq(mprotect(memory + page, page, PROT_NONE), 0);
  for (uint32_t inputs = 1; inputs <= 40; inputs++) {
    const struct model_shape shape = {inputs, 1, {3}, {BUS_ACTIVATION_NONE}};
    struct bus_model *model = build(&shape, inputs, 1.0f);
    const float *row = (const float *)(const void *)(memory + page) - inputs;
    for (size_t p = 0; p < BUS_COUNT_OF(vector_paths); p++) {
      if (bus_engine_cpu_path(vector_paths[p]) == NULL)
        continue;
      struct bus_engine *engine = open_engine(vector_paths[p], model, 2);
      infer(engine, row, 0, 2);
      bus_engine_close(engine);
    }
    bus_model_free(model);
  }
  munmap(memory, 2 * page);
}

/* In a child that the kernel kills at the first system call but read, write, exit and sigreturn: an
 * allocation that needs memory would be one as well. */
static void infer_without_system_calls(struct bus_engine *engine, const float *rows)
{
  struct bus_engine_result result;
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0)
    syscall(SYS_exit, 77);
  for (uint32_t i = 0; i < 1000; i++) {
    const uint32_t batch = 1 + i % BUS_ENGINE_BATCH_MAX;
    if (bus_engine_submit(engine, rows, 16, batch, i) != BUS_OK ||
        bus_engine_poll(engine, &result) != 1)
      syscall(SYS_exit, 1);
  }
  syscall(SYS_exit, 0);
}

Test(engine_cpu, infers_without_allocating_or_entering_the_kernel)
{
  static const char *const kinds[] = {"scalar", "avx2", "avx512"};
  static float rows[BUS_ENGINE_BATCH_MAX * 16];
  const struct model_shape shape = {
      16, 3, {32, 16, 3}, {BUS_ACTIVATION_RELU, BUS_ACTIVATION_TANH, BUS_ACTIVATION_NONE}};
  struct bus_model *model = build(&shape, 1, 1.0f);
  for (size_t i = 0; i < BUS_COUNT_OF(kinds); i++) {
    if (bus_engine_cpu_path(kinds[i]) == NULL)
      continue;
    struct bus_engine *engine = open_engine(kinds[i], model, BUS_ENGINE_BATCH_MAX);
    const size_t allocated_bytes = mallinfo2().uordblks;
    infer(engine, rows, 16, BUS_ENGINE_BATCH_MAX);
    infer(engine, rows, 16, 1);
    cr_assert_eq(mallinfo2().uordblks, allocated_bytes);

    int status;
    const pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0)
      infer_without_system_calls(engine, rows);
    cr_assert_eq(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77)
      cr_skip_test("no seccomp here");
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s: status %x", kinds[i], status);
    bus_engine_close(engine);
  }
  bus_model_free(model);
}

/* The definition of the arithmetic must not change unnoticed: a replay compares against it. */
Test(engine_cpu, gives_the_golden_bits)
{
  static const char *const kinds[] = {"scalar", "auto"};
  const struct model_shape shape = {
      16,
      4,
      {33, 17, 9, 3},
      {BUS_ACTIVATION_RELU, BUS_ACTIVATION_TANH, BUS_ACTIVATION_SIGMOID, BUS_ACTIVATION_NONE}};
  struct bus_model *model = build(&shape, 2024, 2.0f);
  float rows[BUS_ENGINE_BATCH_MAX * 16];
  uint64_t seed = 2025;
  for (size_t i = 0; i < BUS_COUNT_OF(rows); i++)
    rows[i] = 4.0f * random_number(&seed);
  for (size_t i = 0; i < BUS_COUNT_OF(kinds); i++) {
    struct bus_engine *engine = open_engine(kinds[i], model, BUS_ENGINE_BATCH_MAX);
    const struct bus_engine_result result = infer(engine, rows, 16, BUS_ENGINE_BATCH_MAX);
    const uint32_t hash =
        (uint32_t)crc32(0, (const void *)result.scores, sizeof(float) * 3 * BUS_ENGINE_BATCH_MAX);
    cr_assert_eq(hash, GOLDEN, "%s: hash %08x", engine->name, hash);
    bus_engine_close(engine);
  }
  bus_model_free(model);
}

Test(engine_cpu, knows_its_names)
{
  cr_assert(bus_engine_cpu_knows("auto") && bus_engine_cpu_knows("avx512"));
  cr_assert_not(bus_engine_cpu_knows("cuda"));
  cr_assert_not(bus_engine_cpu_knows(""));
  cr_assert_eq(bus_engine_cpu_path("scalar"), &bus_mlp_scalar);
  cr_assert_null(bus_engine_cpu_path("auto"));
}
