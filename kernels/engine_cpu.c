#include "kernels/engine_cpu.h"

#include "kernels/arithmetic.h"
#include "shm/error.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Widest vector, in floats: every array is padded to whole ones and starts on one. */
#define VECTOR_FLOATS    16u
#define VECTOR_ALIGNMENT (VECTOR_FLOATS * sizeof(float))

struct engine_cpu {
  struct bus_engine base;
  const struct bus_mlp_path *path;
  struct bus_mlp mlp;
  uint64_t ticket;
  uint32_t batch; /* of the result that waits for poll, 0: none */
  float scores[BUS_ENGINE_BATCH_MAX][BUS_MODEL_OUTPUTS];
  float *memory; /* one allocation: mean, scale, weights, biases, scratch */
};

#if defined(__x86_64__)
static bool has_avx2(void)
{
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
  return __builtin_cpu_supports("avx512f");
}
#endif

static bool has_scalar(void)
{
  return true;
}

/* Fastest first. The __builtin_cpu_supports() tests include the operating system's support for the
 * registers. */
static const struct {
  const char *name;
  const struct bus_mlp_path *path; /* NULL: not in this build */
  bool (*is_supported)(void);
} paths[] = {
#if defined(__x86_64__)
    {"avx512", &bus_mlp_avx512, has_avx512},
    {"avx2", &bus_mlp_avx2, has_avx2},
#else
    {"avx512", NULL, NULL},
    {"avx2", NULL, NULL},
#endif
    {"scalar", &bus_mlp_scalar, has_scalar},
};

bool bus_engine_cpu_knows(const char *kind)
{
  for (size_t i = 0; i < BUS_COUNT_OF(paths); i++) {
    if (strcmp(kind, paths[i].name) == 0)
      return true;
  }
  return strcmp(kind, "auto") == 0;
}

const struct bus_mlp_path *bus_engine_cpu_path(const char *name)
{
  for (size_t i = 0; i < BUS_COUNT_OF(paths); i++) {
    if (strcmp(name, paths[i].name) == 0 && paths[i].path != NULL && paths[i].is_supported())
      return paths[i].path;
  }
  return NULL;
}

static const struct bus_mlp_path *choose_path(const char *kind)
{
  if (strcmp(kind, "auto") != 0)
    return bus_engine_cpu_path(kind);
  for (size_t i = 0; i < BUS_COUNT_OF(paths); i++) {
    const struct bus_mlp_path *path = bus_engine_cpu_path(paths[i].name);
    if (path != NULL)
      return path;
  }
  return NULL;
}

/* Gives out parts of the engine's memory, or only measures when `memory` is NULL. Cannot overflow:
 * a model is below 2^31 floats. */
struct arena {
  float *memory;
  size_t used; /* floats */
};

static float *take(struct arena *arena, size_t count)
{
  float *part = arena->memory == NULL ? NULL : arena->memory + arena->used;
  arena->used += BUS_ALIGN_UP(count, (size_t)VECTOR_FLOATS);
  return part;
}

/* [width][inputs] -> [block][k][lane]. The destination is zero, so padding needs no writing. */
static void pack_weights(const struct bus_model_layer *layer, uint32_t lanes, float *weights)
{
  for (uint32_t j = 0; j < layer->width; j++) {
    float *lane = weights + (size_t)(j / lanes) * layer->inputs * lanes + j % lanes;
    for (uint32_t k = 0; k < layer->inputs; k++)
      lane[(size_t)k * lanes] = layer->weights[(size_t)j * layer->inputs + k];
  }
}

static void place_layer(const struct bus_model_layer *layer, uint32_t lanes, struct arena *arena,
                        struct bus_mlp_layer *packed)
{
  packed->inputs = layer->inputs;
  packed->blocks = (layer->width + lanes - 1) / lanes;
  packed->activation = layer->activation;
  float *weights = take(arena, (size_t)packed->blocks * lanes * layer->inputs);
  float *bias = take(arena, (size_t)packed->blocks * lanes);
  if (arena->memory != NULL) {
    pack_weights(layer, lanes, weights);
    memcpy(bias, layer->bias, layer->width * sizeof(float));
  }
  packed->weights = weights;
  packed->bias = bias;
}

/* Lays `model` out in the arena. Called twice: to measure, and to fill. */
static void place_model(const struct bus_model *model, uint32_t lanes, uint32_t batch_max,
                        struct arena *arena, struct bus_mlp *mlp)
{
  uint32_t widest = model->inputs;
  mlp->inputs = model->inputs;
  mlp->layer_count = model->layer_count;
  float *mean = take(arena, model->inputs);
  float *scale = take(arena, model->inputs);
  if (arena->memory != NULL) {
    memcpy(mean, model->mean, model->inputs * sizeof(float));
    memcpy(scale, model->scale, model->inputs * sizeof(float));
  }
  mlp->mean = mean;
  mlp->scale = scale;
  for (uint32_t i = 0; i < model->layer_count; i++) {
    place_layer(&model->layer[i], lanes, arena, &mlp->layer[i]);
    if (model->layer[i].width > widest)
      widest = model->layer[i].width;
  }
  /* One line more than needed: rows a power of two apart would share the cache's sets. */
  mlp->scratch_stride = BUS_ALIGN_UP((size_t)widest, (size_t)VECTOR_FLOATS) + VECTOR_FLOATS;
  for (int i = 0; i < 2; i++)
    mlp->scratch[i] = take(arena, batch_max * mlp->scratch_stride);
}

static void cpu_close(struct bus_engine *engine)
{
  struct engine_cpu *cpu = (struct engine_cpu *)engine;
  free(cpu->memory);
  free(cpu);
}

static void describe(struct engine_cpu *cpu, const struct bus_model *model, size_t memory_bytes)
{
  char *text = cpu->base.describe;
  const size_t size = sizeof cpu->base.describe;
  int length = snprintf(text, size, "%s: MLP %u", cpu->path->name, model->inputs);
  for (uint32_t i = 0; i < model->layer_count && length > 0 && (size_t)length < size; i++)
    length += snprintf(text + length, size - (size_t)length, "-%u", model->layer[i].width);
  if (length > 0 && (size_t)length < size)
    snprintf(text + length, size - (size_t)length, ", %u parameters, batch 1..%u, %zu KiB",
             model->parameters, cpu->base.batch_max, (memory_bytes + 1023) / 1024);
}

static int cpu_open(const char *kind, const struct bus_model *model,
                    const struct bus_engine_config *config, struct bus_engine **engine)
{
  *engine = NULL;
  const struct bus_mlp_path *path = choose_path(kind);
  if (path == NULL)
    return bus_error_set(BUS_ERROR_UNSUPPORTED,
                         "engine \"%s\": this CPU, its operating system or this build cannot run "
                         "it: use \"auto\"",
                         kind);

  struct engine_cpu *cpu = calloc(1, sizeof *cpu);
  if (cpu == NULL)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for an engine: free some");
  struct arena arena = {NULL, 0};
  place_model(model, path->lanes, config->batch_max, &arena, &cpu->mlp);
  const size_t memory_bytes = arena.used * sizeof(float);
  cpu->memory = aligned_alloc(VECTOR_ALIGNMENT, memory_bytes);
  if (cpu->memory == NULL) {
    free(cpu);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for an engine of %zu bytes: free some",
                         memory_bytes);
  }
  /* Also touches every page now, so that no inference meets a page fault. */
  memset(cpu->memory, 0, memory_bytes);
  arena = (struct arena){cpu->memory, 0};
  place_model(model, path->lanes, config->batch_max, &arena, &cpu->mlp);

  cpu->path = path;
  cpu->base = (struct bus_engine){.operations = &bus_engine_cpu_operations,
                                  .id = path->id,
                                  .inputs = model->inputs,
                                  .batch_max = config->batch_max,
                                  .model_id = bus_model_id(model),
                                  .name = path->name};
  describe(cpu, model, memory_bytes);
  *engine = &cpu->base;
  return BUS_OK;
}

static int cpu_submit(struct bus_engine *engine, const float *inputs, size_t row_stride,
                      uint32_t batch, uint64_t ticket)
{
  struct engine_cpu *cpu = (struct engine_cpu *)engine;
  if (BUS_UNLIKELY(cpu->batch != 0))
    return BUS_ERROR_AGAIN;
  if (BUS_UNLIKELY(batch < 1 || batch > engine->batch_max))
    return BUS_ERROR_INVALID;
  cpu->path->infer(&cpu->mlp, inputs, row_stride, batch, cpu->scores);
  cpu->ticket = ticket;
  cpu->batch = batch;
  return BUS_OK;
}

static int cpu_poll(struct bus_engine *engine, struct bus_engine_result *result)
{
  struct engine_cpu *cpu = (struct engine_cpu *)engine;
  if (cpu->batch == 0)
    return 0;
  *result =
      (struct bus_engine_result){.ticket = cpu->ticket, .batch = cpu->batch, .scores = cpu->scores};
  cpu->batch = 0;
  return 1;
}

const struct bus_engine_operations bus_engine_cpu_operations = {
    .kinds = "auto, scalar, avx2, avx512",
    .open = cpu_open,
    .submit = cpu_submit,
    .poll = cpu_poll,
    .close = cpu_close,
};
