/* mlp.h: a model packed for one of the CPU paths, and the paths. Internal to kernels/.
 *
 * Weights are packed as [block][k][lane]: a block is `lanes` neighbouring outputs, so that one
 * vector load brings the k-th weight of each of them and the dot products run side by side without
 * adding up lanes. The last block is padded with zero weights and biases; its surplus outputs are
 * computed and never read. */
#ifndef SIGNALBUS_KERNELS_MLP_H
#define SIGNALBUS_KERNELS_MLP_H

#include "kernels/model.h"
#include "shm/base.h"
#include "shm/record.h"

struct bus_mlp_layer {
  uint32_t inputs; /* floats it reads of a row */
  uint32_t blocks; /* ceil(width / lanes) */
  enum bus_activation activation;
  const float *weights; /* [blocks][inputs][lanes], 64-byte aligned */
  const float *bias;    /* [blocks * lanes], 64-byte aligned */
};

struct bus_mlp {
  uint32_t inputs;
  uint32_t layer_count;
  const float *mean;  /* [inputs] */
  const float *scale; /* [inputs] */
  struct bus_mlp_layer layer[BUS_MODEL_LAYERS_MAX];
  /* Activations between layers: two buffers of batch_max rows, used in turn. A row is as long as
   * the widest layer in whole vectors, so padded outputs may be stored. 64-byte aligned. */
  float *scratch[2];
  size_t scratch_stride; /* floats, a multiple of 16 */
};

struct bus_mlp_path {
  const char *name;
  enum bus_engine_id id;
  uint32_t lanes; /* floats in a vector: 1, 8 or 16 */

  /* Infers `batch` rows. The caller keeps the limits that engine.h states. */
  void (*infer)(const struct bus_mlp *mlp, const float *inputs, size_t row_stride, uint32_t batch,
                float (*scores)[BUS_MODEL_OUTPUTS]);

  /* Applies an activation to values[count] in place, `count` a multiple of 16, NaN read as 0: the
   * same code as in infer, for the tests. */
  void (*activate)(enum bus_activation activation, float *values, size_t count);
};

extern const struct bus_mlp_path bus_mlp_scalar;
/* Only in builds for x86-64, and only to be called where the CPU supports them. */
extern const struct bus_mlp_path bus_mlp_avx2;
extern const struct bus_mlp_path bus_mlp_avx512;

#endif
