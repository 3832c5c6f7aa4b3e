/* engine.h: what runs a model. One interface for the CPU engines and, later, for a GPU.
 *
 * An engine is asynchronous by contract: submit hands over a batch, poll brings its scores back. A
 * CPU engine computes inside submit, so that the next poll has the result; a caller must not rely
 * on that. An engine belongs to one thread: open, submit, poll and close are called by the same
 * one. submit and poll allocate nothing, take no lock, and a CPU engine enters no system call.
 *
 * Every engine gives the same bits for the same model and row (see arithmetic.h), in a batch of
 * any size. */
#ifndef SIGNALBUS_KERNELS_ENGINE_H
#define SIGNALBUS_KERNELS_ENGINE_H

#include "shm/base.h"
#include "shm/record.h"
#include "kernels/model.h"

#define BUS_ENGINE_BATCH_MAX      64u
#define BUS_ENGINE_DESCRIBE_BYTES 160u

struct bus_engine_config {
  uint32_t batch_max; /* largest batch that submit will take, 1..64 */
};

/* What poll brings. */
struct bus_engine_result {
  uint64_t ticket; /* as given to submit */
  uint32_t batch;  /* rows, as given to submit */
  uint32_t reserved0;
  const float (*scores)[BUS_MODEL_OUTPUTS]; /* [batch][3] probabilities of sell, flat, buy; owned by
                                               the engine, valid until the next submit or close */
};

struct bus_engine;

struct bus_engine_operations {
  const char *kinds; /* the names it is opened by, for messages */
  int (*open)(const char *kind, const struct bus_model *model,
              const struct bus_engine_config *config, struct bus_engine **engine);
  int (*submit)(struct bus_engine *engine, const float *inputs, size_t row_stride, uint32_t batch,
                uint64_t ticket);
  int (*poll)(struct bus_engine *engine, struct bus_engine_result *result);
  void (*close)(struct bus_engine *engine);
};

/* The part that every engine begins with. Read-only to callers. */
struct bus_engine {
  const struct bus_engine_operations *operations;
  enum bus_engine_id id;
  uint32_t inputs;                          /* floats that are read of each row */
  uint32_t batch_max;                       /* 1..64 */
  uint16_t model_id;                        /* bus_model_id of its model */
  const char *name;                         /* "scalar", "avx2", "avx512" */
  char describe[BUS_ENGINE_DESCRIBE_BYTES]; /* one line for a log: path, shape, memory */
};

/* Opens an engine of `kind` for `model`; the caller closes it with bus_engine_close. `model` is
 * only read, and may be freed afterwards. Control plane; allocates everything the engine will ever
 * use: the weights once more, each layer's width rounded up to whole vectors (16 floats
 * at most), and batch_max rows of the widest layer twice.
 *
 * kind: "auto" (the fastest that this CPU and operating system support), "scalar", "avx2" or
 * "avx512".
 *
 * Returns BUS_OK, or a negative code and a message; *engine is NULL then. BUS_ERROR_INVALID:
 * unknown kind, or batch_max outside 1..64. BUS_ERROR_UNSUPPORTED: this CPU or this build cannot
 * run that kind. BUS_ERROR_NO_SPACE: no memory. */
int bus_engine_open(const char *kind, const struct bus_model *model,
                    const struct bus_engine_config *config, struct bus_engine **engine);

/* Hands over `batch` rows (1..batch_max). Row i is the engine->inputs floats from
 * inputs + i * row_stride; row_stride is in floats and may be 0 (the same row again). With
 * row_stride = sizeof(struct bus_feature) / sizeof(float), rows are read where they lie in a
 * feature ring. Rows need no more than float alignment and may be overwritten once submit has
 * returned.
 *
 * Returns BUS_OK, BUS_ERROR_AGAIN when the engine still holds a result that was not polled, or
 * BUS_ERROR_INVALID when batch is out of range. Sets no message. */
static BUS_ALWAYS_INLINE int bus_engine_submit(struct bus_engine *engine, const float *inputs,
                                               size_t row_stride, uint32_t batch, uint64_t ticket)
{
  return engine->operations->submit(engine, inputs, row_stride, batch, ticket);
}

/* Returns 1 and fills *result, 0 when there is none yet, or a negative code when the engine has
 * failed and must be closed (a CPU engine never does). Results come in the order of submission. */
static BUS_ALWAYS_INLINE int bus_engine_poll(struct bus_engine *engine,
                                             struct bus_engine_result *result)
{
  return engine->operations->poll(engine, result);
}

/* Frees the engine and everything it lent out. NULL is allowed. The engine's thread. */
void bus_engine_close(struct bus_engine *engine);

#endif
