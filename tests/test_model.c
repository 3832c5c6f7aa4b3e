#include "kernels/model.h"
#include "shm/error.h"
#include "shm/record.h"
#include "tests/model_builder.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <unistd.h>

static const struct model_shape small = {3, 2, {5, 3}, {BUS_ACTIVATION_RELU, BUS_ACTIVATION_NONE}};

static void expect_refusal(const uint8_t *bytes, size_t size, int code, const char *part)
{
  struct bus_model *model = (struct bus_model *)&small;
  const int error = bus_model_parse(bytes, size, &model);
  cr_assert_eq(error, code, "%s: %s", bus_error_name(error), bus_error_message());
  cr_assert_null(model);
  cr_assert_not_null(strstr(bus_error_message(), part), "\"%s\" is not in: %s", part,
                     bus_error_message());
}

/* Sets a field of an otherwise good model, seals it and expects a refusal. */
static void refuse_change(size_t offset, const void *value, size_t value_bytes, int code,
                          const char *part)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 1, 1.0f, &size);
  memcpy(bytes + offset, value, value_bytes);
  model_seal(bytes, size);
  expect_refusal(bytes, size, code, part);
  free(bytes);
}

static void refuse_u32(size_t offset, uint32_t value, int code, const char *part)
{
  refuse_change(offset, &value, sizeof value, code, part);
}

Test(model, reads_what_was_built)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 7, 1.0f, &size);
  struct bus_model *model;
  cr_assert_eq(bus_model_parse(bytes, size, &model), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(model->inputs, 3);
  cr_assert_eq(model->layer_count, 2);
  cr_assert_eq(model->layer[0].width, 5);
  cr_assert_eq(model->layer[0].activation, BUS_ACTIVATION_RELU);
  cr_assert_eq(model->layer[1].inputs, 5);
  cr_assert_eq(model->parameters, 5 * 4 + 3 * 6);
  cr_assert_str_eq(model->provenance, "random weights\nfor a test");
  uint32_t crc;
  memcpy(&crc, bytes + 24, sizeof crc);
  cr_assert_eq(bus_model_id(model), crc & 0xffff);
  const float *numbers = (const float *)(const void *)(bytes + 1536);
  cr_assert_arr_eq(model->mean, numbers, 3 * sizeof(float));
  cr_assert_arr_eq(model->scale, numbers + 3, 3 * sizeof(float));
  cr_assert_arr_eq(model->layer[0].weights, numbers + 6, 15 * sizeof(float));
  cr_assert_arr_eq(model->layer[0].bias, numbers + 21, 5 * sizeof(float));
  cr_assert_arr_eq(model->layer[1].bias, numbers + 41, 3 * sizeof(float));
  cr_assert_eq(1536 + 44 * sizeof(float), size);
  bus_model_free(model);
  bus_model_free(NULL);
  free(bytes);
}

Test(model, reads_at_any_alignment)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 7, 1.0f, &size);
  uint8_t *moved = malloc(size + 1);
  memcpy(moved + 1, bytes, size);
  struct bus_model *model;
  cr_assert_eq(bus_model_parse(moved + 1, size, &model), BUS_OK);
  bus_model_free(model);
  free(moved);
  free(bytes);
}

Test(model, refuses_every_truncation)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 1, 1.0f, &size);
  for (size_t length = 0; length < size; length++) {
    /* A copy of exactly that length, so that a sanitizer sees a read beyond it. */
    uint8_t *cut = malloc(length + (length == 0));
    memcpy(cut, bytes, length);
    if (length < 8)
      expect_refusal(cut, length, BUS_ERROR_FORMAT, "not a signal-bus model");
    else
      expect_refusal(cut, length, BUS_ERROR_CORRUPT, "truncated");
    free(cut);
  }
  free(bytes);
}

Test(model, refuses_every_flipped_bit)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 1, 1.0f, &size);
  struct bus_model *model;
  for (size_t bit = 0; bit < size * 8; bit++) {
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    cr_assert_lt(bus_model_parse(bytes, size, &model), 0, "bit %zu", bit);
    cr_assert_null(model);
    bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
  }
  cr_assert_eq(bus_model_parse(bytes, size, &model), BUS_OK);
  bus_model_free(model);
  free(bytes);
}

Test(model, says_what_is_wrong)
{
  refuse_change(0, "BUSMODEX", 8, BUS_ERROR_FORMAT, "not a signal-bus model");
  refuse_u32(8, 77, BUS_ERROR_VERSION, "version 77, this program reads version 1");
  refuse_u32(12, 1537, BUS_ERROR_CORRUPT, "header size 1537");
  refuse_u32(16, 1600, BUS_ERROR_CORRUPT, "longer than a model");
  refuse_u32(28, 0, BUS_ERROR_UNSUPPORTED, "inputs 0");
  refuse_u32(28, 257, BUS_ERROR_UNSUPPORTED, "inputs 257");
  refuse_u32(28, 4, BUS_ERROR_CORRUPT, "its widths put them at");
  refuse_u32(32, 0, BUS_ERROR_UNSUPPORTED, "layer count 0");
  refuse_u32(32, 17, BUS_ERROR_UNSUPPORTED, "layer count 17");
  refuse_u32(32, 1, BUS_ERROR_UNSUPPORTED, "last layer of width 5");
  refuse_u32(36, 2, BUS_ERROR_UNSUPPORTED, "2 outputs");
  refuse_u32(40, 1, BUS_ERROR_CORRUPT, "reserved");
  refuse_u32(64, 0, BUS_ERROR_UNSUPPORTED, "width 0");
  refuse_u32(64, 4097, BUS_ERROR_UNSUPPORTED, "width 4097");
  refuse_u32(68, 4, BUS_ERROR_UNSUPPORTED, "activation 4");
  refuse_u32(72, 0, BUS_ERROR_CORRUPT, "layer 0 has weights at 0");
  refuse_u32(64 + 88, 1, BUS_ERROR_CORRUPT, "reserved");
  refuse_u32(88, 1, BUS_ERROR_CORRUPT, "layer 0");
  refuse_u32(576, 0x1b, BUS_ERROR_CORRUPT, "provenance");
  refuse_u32(576 + 100, 'x', BUS_ERROR_CORRUPT, "provenance");
  char full[960];
  memset(full, 'x', sizeof full);
  refuse_change(576, full, sizeof full, BUS_ERROR_CORRUPT, "provenance");
  const float bad[] = {NAN, INFINITY, -INFINITY};
  for (int i = 0; i < 3; i++) {
    refuse_change(1536, &bad[i], 4, BUS_ERROR_CORRUPT, "byte 1536 is NaN or infinite");
    refuse_change(1536 + 43 * 4, &bad[i], 4, BUS_ERROR_CORRUPT, "byte 1708 is NaN or infinite");
  }
}

Test(model, prints_both_checksums)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 1, 1.0f, &size);
  uint32_t stored;
  memcpy(&stored, bytes + 24, sizeof stored);
  bytes[size - 1] ^= 1;
  char text[40];
  snprintf(text, sizeof text, "its header says %08x", stored);
  expect_refusal(bytes, size, BUS_ERROR_CORRUPT, text);
  free(bytes);
}

Test(model, refuses_a_longer_file)
{
  size_t size;
  uint8_t *bytes = model_build(&small, 1, 1.0f, &size);
  uint8_t *longer = calloc(1, size + 4);
  memcpy(longer, bytes, size);
  expect_refusal(longer, size + 4, BUS_ERROR_CORRUPT, "longer");
  const uint64_t file_bytes = size + 4;
  memcpy(longer + 16, &file_bytes, sizeof file_bytes);
  model_seal(longer, size + 4);
  expect_refusal(longer, size + 4, BUS_ERROR_CORRUPT, "its dimensions need");
  free(longer);
  free(bytes);
}

static void write_file(const char *path, const uint8_t *bytes, size_t size)
{
  FILE *file = fopen(path, "wb");
  cr_assert_not_null(file);
  cr_assert_eq(fwrite(bytes, 1, size, file), size);
  cr_assert_eq(fclose(file), 0);
}

Test(model, loads_from_a_file_and_names_its_path)
{
  char path[] = "/tmp/signal-bus-test-model-XXXXXX";
  const int file = mkstemp(path);
  cr_assert_geq(file, 0);
  close(file);
  size_t size;
  uint8_t *bytes = model_build(&small, 1, 1.0f, &size);
  struct bus_model *model;
  write_file(path, bytes, size);
  cr_assert_eq(bus_model_load(path, &model), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(model->layer[1].width, 3);
  bus_model_free(model);

  const size_t lengths[] = {0, 4, 100, 1535, 1536, size - 1};
  for (size_t i = 0; i < BUS_COUNT_OF(lengths); i++) {
    write_file(path, bytes, lengths[i]);
    cr_assert_eq(bus_model_load(path, &model),
                 lengths[i] < 8 ? BUS_ERROR_FORMAT : BUS_ERROR_CORRUPT, "%zu", lengths[i]);
    cr_assert_null(model);
    cr_assert_not_null(strstr(bus_error_message(), path));
  }
  unlink(path);
  cr_assert_eq(bus_model_load(path, &model), BUS_ERROR_ABSENT);
  cr_assert_not_null(strstr(bus_error_message(), path));
  cr_assert_eq(bus_model_load("/tmp", &model), BUS_ERROR_FORMAT);
  free(bytes);
}

Test(model, shipped_model_loads_and_fits_the_features)
{
  if (access(DEFAULT_MODEL, F_OK) != 0)
    cr_skip_test("%s is not there", DEFAULT_MODEL);
  struct bus_model *model;
  cr_assert_eq(bus_model_load(DEFAULT_MODEL, &model), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(model->inputs, BUS_FEATURE_INPUTS);
  cr_assert_gt(strlen(model->provenance), 0);
  bus_model_free(model);
}

Test(model, names_activations)
{
  cr_assert_str_eq(bus_activation_name(BUS_ACTIVATION_SIGMOID), "sigmoid");
  cr_assert_str_eq(bus_activation_name(4), "unknown");
}
