/* The reference path: arithmetic.h, row by row. Everything else must give its bits. */
#include "kernels/arithmetic.h"
#include "kernels/mlp.h"

static float activate_one(enum bus_activation activation, float x)
{
  switch (activation) {
  case BUS_ACTIVATION_RELU:
    return bus_arithmetic_relu(x);
  case BUS_ACTIVATION_TANH:
    return bus_arithmetic_tanh(x);
  case BUS_ACTIVATION_SIGMOID:
    return bus_arithmetic_sigmoid(x);
  case BUS_ACTIVATION_NONE:
    break;
  }
  return x;
}

static void activate(enum bus_activation activation, float *values, size_t count)
{
  for (size_t i = 0; i < count; i++)
    values[i] = activate_one(activation, bus_arithmetic_number(values[i]));
}

static void infer_row(const struct bus_mlp *mlp, const float *row, float scores[BUS_MODEL_OUTPUTS])
{
  const float *x = mlp->scratch[0];
  for (uint32_t k = 0; k < mlp->inputs; k++)
    mlp->scratch[0][k] = bus_arithmetic_normalise(row[k], mlp->mean[k], mlp->scale[k]);
  for (uint32_t i = 0; i < mlp->layer_count; i++) {
    const struct bus_mlp_layer *layer = &mlp->layer[i];
    float *y = mlp->scratch[(i + 1) % 2];
    for (uint32_t j = 0; j < layer->blocks; j++) {
      const float sum = bus_arithmetic_dot(layer->weights + (size_t)j * layer->inputs, x,
                                           layer->inputs, layer->bias[j]);
      y[j] = activate_one(layer->activation, sum);
    }
    x = y;
  }
  bus_arithmetic_softmax3(x, scores);
}

static void infer(const struct bus_mlp *mlp, const float *inputs, size_t row_stride, uint32_t batch,
                  float (*scores)[BUS_MODEL_OUTPUTS])
{
  for (uint32_t i = 0; i < batch; i++)
    infer_row(mlp, inputs + i * row_stride, scores[i]);
}

const struct bus_mlp_path bus_mlp_scalar = {
    .name = "scalar", .id = BUS_ENGINE_SCALAR, .lanes = 1, .infer = infer, .activate = activate};
