/* model_builder.h: makes model files in memory for tests. */
#ifndef SIGNALBUS_TESTS_MODEL_BUILDER_H
#define SIGNALBUS_TESTS_MODEL_BUILDER_H

#include "kernels/model.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

/* splitmix64: small, and good enough to choose tests. */
static inline uint64_t random_bits(uint64_t *state)
{
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static inline uint32_t random_below(uint64_t *state, uint32_t limit)
{
  return (uint32_t)((random_bits(state) >> 32) * limit >> 32);
}

/* -1..1 */
static inline float random_number(uint64_t *state)
{
  return (float)((double)(random_bits(state) >> 11) * 0x1p-52 - 1.0);
}

/* Any bit pattern: NaN, infinite, denormal and huge numbers are as likely as others. */
static inline float random_float(uint64_t *state)
{
  static const uint32_t special[] = {0x00000000u, 0x80000000u, 0x00000001u, 0x807fffffu,
                                     0x7f800000u, 0xff800000u, 0x7fc00000u, 0xffc12345u,
                                     0x7f800001u, 0x7f7fffffu, 0xff7fffffu, 0x00800000u};
  const uint64_t bits = random_bits(state);
  uint32_t word = (uint32_t)bits;
  if (bits >> 62 == 0)
    word = special[(bits >> 32) % (sizeof special / sizeof special[0])];
  float number;
  memcpy(&number, &word, sizeof number);
  return number;
}

struct model_shape {
  uint32_t inputs;
  uint32_t layers;
  uint32_t width[BUS_MODEL_LAYERS_MAX];
  uint32_t activation[BUS_MODEL_LAYERS_MAX];
};

/* Writes the CRC that belongs to the bytes. */
static inline void model_seal(uint8_t *bytes, size_t size)
{
  uLong crc = crc32(0, bytes, 24);
  crc = crc32(crc, bytes + 28, (uInt)(size - 28));
  const uint32_t stored = (uint32_t)crc;
  memcpy(bytes + 24, &stored, sizeof stored);
}

/* Random weights of size about 1/sqrt(inputs), times `gain`. The caller frees the bytes. */
static inline uint8_t *model_build(const struct model_shape *shape, uint64_t seed, float gain,
                                   size_t *size)
{
  struct bus_model_file_header header = {.version = BUS_MODEL_VERSION,
                                         .header_bytes = sizeof header,
                                         .inputs = shape->inputs,
                                         .layers = shape->layers,
                                         .outputs = 3};
  memcpy(header.magic, BUS_MODEL_MAGIC, sizeof header.magic);
  strcpy(header.provenance, "random weights\nfor a test");
  uint64_t offset = sizeof header + (uint64_t)2 * shape->inputs * sizeof(float);
  uint32_t inputs = shape->inputs;
  for (uint32_t i = 0; i < shape->layers; i++) {
    header.layer[i].width = shape->width[i];
    header.layer[i].activation = shape->activation[i];
    header.layer[i].weights_offset = offset;
    header.layer[i].bias_offset = offset + (uint64_t)shape->width[i] * inputs * sizeof(float);
    offset = header.layer[i].bias_offset + shape->width[i] * sizeof(float);
    inputs = shape->width[i];
  }
  header.file_bytes = offset;
  *size = (size_t)offset;
  uint8_t *bytes = malloc(*size);
  if (bytes == NULL)
    abort();
  memcpy(bytes, &header, sizeof header);
  float *number = (float *)(void *)(bytes + sizeof header);
  for (uint32_t k = 0; k < shape->inputs; k++)
    *number++ = random_number(&seed);
  for (uint32_t k = 0; k < shape->inputs; k++)
    *number++ = 0.1f + random_number(&seed) * random_number(&seed);
  inputs = shape->inputs;
  for (uint32_t i = 0; i < shape->layers; i++) {
    float root = 1.0f;
    while (root * root < (float)inputs)
      root *= 1.25f;
    for (uint32_t k = 0; k < shape->width[i] * (inputs + 1); k++)
      *number++ = random_number(&seed) * gain * 2.0f / root;
    inputs = shape->width[i];
  }
  model_seal(bytes, *size);
  return bytes;
}

#endif
