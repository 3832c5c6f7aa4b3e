/* model.h: the project's model file: a multilayer perceptron from a feature row to three logits.
 *
 * All fields are little-endian; floats are IEEE 754 binary32. The file is, without gaps:
 *
 *   offset  size  field
 *        0     8  magic           the bytes "BUSMODEL"
 *        8     4  version         u32, 1
 *       12     4  header_bytes    u32, 1536
 *       16     8  file_bytes      u64, the size of the whole file
 *       24     4  crc32           u32, zlib's crc32 over bytes 0..23 and 28..file_bytes-1
 *       28     4  inputs          u32, 1..256: floats in a feature row
 *       32     4  layers          u32, 1..16
 *       36     4  outputs         u32, 3: sell, flat, buy
 *       40    24  reserved0       zero
 *       64   512  layer[16]       32 bytes each, zero from layer `layers` on:
 *          +0  4    width         u32, 1..4096 outputs of the layer; 3 in the last
 *          +4  4    activation    u32, enum bus_activation
 *          +8  8    weights_offset  u64, bytes from the start of the file
 *         +16  8    bias_offset   u64, bytes from the start of the file
 *         +24  8    reserved0     zero
 *      576   960  provenance      text, NUL-terminated and zero after it: what the model was
 *                                 trained on. No control characters but the newline.
 *     1536     .  mean            f32[inputs]
 *        .     .  scale           f32[inputs]
 *   then for each layer, in order, at the offsets that its entry repeats:
 *        .     .  weights         f32[width][inputs of the layer], row by row: one row an output
 *        .     .  bias            f32[width]
 *
 * The inputs of layer 0 are `inputs`, those of layer i the width of layer i-1. Every float is
 * finite. A row x is inferred as in arithmetic.h: normalise (x[k] - mean[k]) * scale[k], clamped to
 * -8..8; each layer activation(weights * x + bias); softmax of the last layer's three outputs. */
#ifndef SIGNALBUS_KERNELS_MODEL_H
#define SIGNALBUS_KERNELS_MODEL_H

#include "shm/base.h"

#define BUS_MODEL_MAGIC            "BUSMODEL"
#define BUS_MODEL_VERSION          1u
#define BUS_MODEL_OUTPUTS          3u
#define BUS_MODEL_INPUTS_MAX       256u
#define BUS_MODEL_LAYERS_MAX       16u
#define BUS_MODEL_WIDTH_MAX        4096u
#define BUS_MODEL_PROVENANCE_BYTES 960u

enum bus_activation {
  BUS_ACTIVATION_NONE = 0,
  BUS_ACTIVATION_RELU = 1,
  BUS_ACTIVATION_TANH = 2,
  BUS_ACTIVATION_SIGMOID = 3
};
#define BUS_ACTIVATION_COUNT 4u

/* As they lie in the file. */
struct bus_model_file_layer {
  uint32_t width;
  uint32_t activation;
  uint64_t weights_offset;
  uint64_t bias_offset;
  uint64_t reserved0;
};

struct bus_model_file_header {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t file_bytes;
  uint32_t crc32;
  uint32_t inputs;
  uint32_t layers;
  uint32_t outputs;
  uint64_t reserved0[3];
  struct bus_model_file_layer layer[BUS_MODEL_LAYERS_MAX];
  char provenance[BUS_MODEL_PROVENANCE_BYTES];
};

#define BUS_MODEL_ASSERT_OFFSET(type, field, offset)                                               \
  BUS_STATIC_ASSERT(offsetof(struct type, field) == (offset), #type "." #field " moved")

BUS_MODEL_ASSERT_OFFSET(bus_model_file_layer, width, 0);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_layer, activation, 4);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_layer, weights_offset, 8);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_layer, bias_offset, 16);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_layer, reserved0, 24);
BUS_STATIC_ASSERT(sizeof(struct bus_model_file_layer) == 32, "a layer entry is half a line");
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, magic, 0);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, version, 8);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, header_bytes, 12);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, file_bytes, 16);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, crc32, 24);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, inputs, 28);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, layers, 32);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, outputs, 36);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, reserved0, 40);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, layer, 64);
BUS_MODEL_ASSERT_OFFSET(bus_model_file_header, provenance, 576);
BUS_STATIC_ASSERT(sizeof(struct bus_model_file_header) == 1536, "the header is 24 lines");
BUS_STATIC_ASSERT(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are read in place");

/* As they are used. */
struct bus_model_layer {
  uint32_t inputs; /* floats it reads */
  uint32_t width;  /* floats it writes */
  enum bus_activation activation;
  const float *weights; /* [width][inputs] */
  const float *bias;    /* [width] */
};

/* A loaded model is constant: any number of threads and engines may read it. */
struct bus_model {
  uint32_t inputs;      /* 1..256 */
  uint32_t layer_count; /* 1..16 */
  uint32_t crc32;       /* of the file; names the model in signals and logs */
  uint32_t parameters;  /* weights and biases */
  const float *mean;    /* [inputs] */
  const float *scale;   /* [inputs] */
  struct bus_model_layer layer[BUS_MODEL_LAYERS_MAX];
  char provenance[BUS_MODEL_PROVENANCE_BYTES];
};

/* Reads the model file at `path` into *model; the caller frees it with bus_model_free. Control
 * plane; any thread. The memory used is at most twice the file's size plus 4 KiB, whatever the
 * file says, and the size plus 4 KiB after the return.
 *
 * Returns BUS_OK, or a negative code and a message that names the path, what is wrong and what to
 * do; *model is NULL then. Reasons: BUS_ERROR_ABSENT, _DENIED, _IO (the file cannot be read),
 * _FORMAT (not a model file), _VERSION (another version of the format), _CORRUPT (truncated, longer
 * than it says, wrong CRC, fields that contradict each other, a number that is not finite),
 * _UNSUPPORTED (dimensions or activation out of range), _NO_SPACE (memory). */
int bus_model_load(const char *path, struct bus_model **model);

/* As bus_model_load, from `size` bytes in memory at any alignment, which are only read and may be
 * freed afterwards. Allocates at most `size` plus 4 KiB. */
int bus_model_parse(const void *bytes, size_t size, struct bus_model **model);

/* Frees a model that nobody reads any more. NULL is allowed. Engines opened from it do not need it.
 */
void bus_model_free(struct bus_model *model);

/* The low 16 bits of the file's CRC-32, as bus_signal.model carries them. Pure. */
uint16_t bus_model_id(const struct bus_model *model);

/* "none", "relu", "tanh", "sigmoid"; "unknown" for any other value. Static. Pure. */
const char *bus_activation_name(uint32_t activation);

#endif
