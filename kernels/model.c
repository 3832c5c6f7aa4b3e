#include "kernels/model.h"

#include "shm/error.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#define HEADER_BYTES  sizeof(struct bus_model_file_header)
#define CRC_OFFSET    offsetof(struct bus_model_file_header, crc32)
#define AFTER_CRC     (CRC_OFFSET + sizeof(uint32_t))
#define CONVERT_AGAIN "copy the file again or train the model again"

static const char *const activation_names[BUS_ACTIVATION_COUNT] = {"none", "relu", "tanh",
                                                                   "sigmoid"};

const char *bus_activation_name(uint32_t activation)
{
  return activation < BUS_ACTIVATION_COUNT ? activation_names[activation] : "unknown";
}

/* zlib's length is 32 bits wide, a file's is not. */
static uint32_t crc32_of(const uint8_t *bytes, size_t size)
{
  const size_t step_bytes = (size_t)1 << 30;
  uLong crc = crc32(0, bytes, (uInt)CRC_OFFSET);
  for (size_t at = AFTER_CRC; at < size;) {
    const size_t step = size - at < step_bytes ? size - at : step_bytes;
    crc = crc32(crc, bytes + at, (uInt)step);
    at += step;
  }
  return (uint32_t)crc;
}

/* What can be said of a file from its first bytes and its size, before the rest is read.
 * `present` bytes are at `bytes`; the file has `size`. */
static int check_identity(const void *bytes, size_t present, uint64_t size,
                          struct bus_model_file_header *header)
{
  if (present < sizeof header->magic || memcmp(bytes, BUS_MODEL_MAGIC, sizeof header->magic) != 0)
    return bus_error_set(BUS_ERROR_FORMAT,
                         "not a signal-bus model (its first 8 bytes are not \"" BUS_MODEL_MAGIC
                         "\"): name a file that tools/train_model.py wrote");
  if (present < HEADER_BYTES)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "truncated: %" PRIu64
                         " bytes, a model's header alone has %zu: " CONVERT_AGAIN,
                         size, HEADER_BYTES);
  memcpy(header, bytes, HEADER_BYTES);
  if (header->version != BUS_MODEL_VERSION)
    return bus_error_set(BUS_ERROR_VERSION,
                         "model format version %" PRIu32
                         ", this program reads version %u: write the "
                         "model again with the tools of this release",
                         header->version, BUS_MODEL_VERSION);
  if (header->header_bytes != HEADER_BYTES)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "header size %" PRIu32 ", version %u has %zu: " CONVERT_AGAIN,
                         header->header_bytes, BUS_MODEL_VERSION, HEADER_BYTES);
  if (header->file_bytes != size)
    return bus_error_set(
        BUS_ERROR_CORRUPT, "%s: %" PRIu64 " bytes, its header says %" PRIu64 ": " CONVERT_AGAIN,
        size < header->file_bytes ? "truncated" : "longer than a model", size, header->file_bytes);
  return BUS_OK;
}

static bool is_zero(const void *bytes, size_t size)
{
  const uint8_t *byte = bytes;
  for (size_t i = 0; i < size; i++) {
    if (byte[i] != 0)
      return false;
  }
  return true;
}

/* The text is printed by tools, so it must end and must not steer a terminal. */
static bool text_is_clean(const char *text, size_t size)
{
  const char *end = memchr(text, '\0', size);
  if (end == NULL)
    return false;
  for (const char *at = text; at < end; at++) {
    const unsigned char byte = (unsigned char)*at;
    if ((byte < 0x20 && byte != '\n') || byte == 0x7f)
      return false;
  }
  return is_zero(end, size - (size_t)(end - text));
}

static int check_range(const char *what, uint32_t layer, uint32_t value, uint32_t maximum)
{
  if (value >= 1 && value <= maximum)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_UNSUPPORTED,
                       "%s %" PRIu32 " (layer %" PRIu32 ") is outside 1..%" PRIu32
                       ": train a model within the range",
                       what, value, layer, maximum);
}

static int check_layer(const struct bus_model_file_header *header, uint32_t index, uint32_t inputs,
                       uint64_t *offset)
{
  const struct bus_model_file_layer *layer = &header->layer[index];
  const int error = check_range("width", index, layer->width, BUS_MODEL_WIDTH_MAX);
  if (error != BUS_OK)
    return error;
  if (layer->activation >= BUS_ACTIVATION_COUNT)
    return bus_error_set(BUS_ERROR_UNSUPPORTED,
                         "activation %" PRIu32 " of layer %" PRIu32
                         " is unknown: use none (0), relu (1), tanh (2) or sigmoid (3)",
                         layer->activation, index);
  const uint64_t bias_offset = *offset + (uint64_t)layer->width * inputs * sizeof(float);
  if (layer->weights_offset != *offset || layer->bias_offset != bias_offset ||
      layer->reserved0 != 0)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "layer %" PRIu32 " has weights at %" PRIu64 " and bias at %" PRIu64
                         ", its widths put them at %" PRIu64 " and %" PRIu64 ": " CONVERT_AGAIN,
                         index, layer->weights_offset, layer->bias_offset, *offset, bias_offset);
  *offset = bias_offset + (uint64_t)layer->width * sizeof(float);
  return BUS_OK;
}

/* The dimensions and everything that follows from them. No sum here can overflow 64 bits. */
static int check_layout(const struct bus_model_file_header *header, uint64_t size)
{
  int error = check_range("inputs", 0, header->inputs, BUS_MODEL_INPUTS_MAX);
  if (error == BUS_OK)
    error = check_range("layer count", 0, header->layers, BUS_MODEL_LAYERS_MAX);
  if (error != BUS_OK)
    return error;
  uint64_t offset = HEADER_BYTES + (uint64_t)2 * header->inputs * sizeof(float);
  uint32_t inputs = header->inputs;
  for (uint32_t i = 0; i < header->layers; i++) {
    error = check_layer(header, i, inputs, &offset);
    if (error != BUS_OK)
      return error;
    inputs = header->layer[i].width;
  }
  if (header->outputs != BUS_MODEL_OUTPUTS || inputs != BUS_MODEL_OUTPUTS)
    return bus_error_set(BUS_ERROR_UNSUPPORTED,
                         "%" PRIu32 " outputs from a last layer of width %" PRIu32
                         ": a signal needs exactly 3 (sell, flat, buy)",
                         header->outputs, inputs);
  if (offset != size)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "%" PRIu64 " bytes, its dimensions need %" PRIu64 ": " CONVERT_AGAIN, size,
                         offset);
  if (!is_zero(header->reserved0, sizeof header->reserved0) ||
      !is_zero(&header->layer[header->layers],
               (BUS_MODEL_LAYERS_MAX - header->layers) * sizeof header->layer[0]))
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "reserved or unused header fields are not zero: " CONVERT_AGAIN);
  if (!text_is_clean(header->provenance, sizeof header->provenance))
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "the provenance text has no end, or control characters: " CONVERT_AGAIN);
  return BUS_OK;
}

static void copy_layout(const struct bus_model_file_header *header, const float *numbers,
                        struct bus_model *model)
{
  model->inputs = header->inputs;
  model->layer_count = header->layers;
  model->crc32 = header->crc32;
  memcpy(model->provenance, header->provenance, sizeof model->provenance);
  model->mean = numbers;
  model->scale = numbers + header->inputs;
  numbers += (size_t)2 * header->inputs;
  uint32_t inputs = header->inputs;
  for (uint32_t i = 0; i < header->layers; i++) {
    struct bus_model_layer *layer = &model->layer[i];
    layer->inputs = inputs;
    layer->width = header->layer[i].width;
    layer->activation = (enum bus_activation)header->layer[i].activation;
    layer->weights = numbers;
    layer->bias = numbers + (size_t)layer->width * inputs;
    numbers = layer->bias + layer->width;
    model->parameters += layer->width * (inputs + 1);
    inputs = layer->width;
  }
}

int bus_model_parse(const void *bytes, size_t size, struct bus_model **model)
{
  struct bus_model_file_header header = {0};
  *model = NULL;
  int error = check_identity(bytes, size, size, &header);
  if (error != BUS_OK)
    return error;
  const uint32_t crc = crc32_of(bytes, size);
  if (crc != header.crc32)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "CRC-32 is %08" PRIx32 ", its header says %08" PRIx32 ": " CONVERT_AGAIN,
                         crc, header.crc32);
  error = check_layout(&header, size);
  if (error != BUS_OK)
    return error;

  /* check_layout proved that the rest of the file is whole floats. */
  const size_t number_bytes = size - HEADER_BYTES;
  struct bus_model *loaded = calloc(1, sizeof *loaded + number_bytes);
  if (loaded == NULL)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a model of %zu bytes: free some", size);
  float *numbers = (float *)(loaded + 1);
  memcpy(numbers, (const uint8_t *)bytes + HEADER_BYTES, number_bytes);
  for (size_t i = 0; i < number_bytes / sizeof(float); i++) {
    if (!isfinite(numbers[i])) {
      free(loaded);
      return bus_error_set(BUS_ERROR_CORRUPT,
                           "the number at byte %zu is NaN or infinite: train the model again with "
                           "a lower learning rate",
                           HEADER_BYTES + i * sizeof(float));
    }
  }
  copy_layout(&header, numbers, loaded);
  *model = loaded;
  return BUS_OK;
}

/* Reads exactly `size` bytes. */
static int read_whole(int file, uint8_t *bytes, size_t size)
{
  size_t done = 0;
  while (done < size) {
    const ssize_t got = pread(file, bytes + done, size - done, (off_t)done);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return bus_error_set_errno("read");
    if (got == 0)
      return bus_error_set(BUS_ERROR_CORRUPT, "truncated while it was read: " CONVERT_AGAIN);
    done += (size_t)got;
  }
  return BUS_OK;
}

static int load_open_file(int file, struct bus_model **model)
{
  struct stat status;
  struct bus_model_file_header header;
  uint8_t start[HEADER_BYTES];
  if (fstat(file, &status) != 0)
    return bus_error_set_errno("fstat");
  if (!S_ISREG(status.st_mode))
    return bus_error_set(BUS_ERROR_FORMAT, "not a regular file: name a model file");

  /* The header first: a large file that is no model must not be read into memory. */
  const size_t size = (size_t)status.st_size;
  const size_t present = size < HEADER_BYTES ? size : HEADER_BYTES;
  int error = read_whole(file, start, present);
  if (error == BUS_OK)
    error = check_identity(start, present, size, &header);
  if (error != BUS_OK)
    return error;
  uint8_t *bytes = malloc(size);
  if (bytes == NULL)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory to read %zu bytes: free some", size);
  error = read_whole(file, bytes, size);
  if (error == BUS_OK)
    error = bus_model_parse(bytes, size, model);
  free(bytes);
  return error;
}

int bus_model_load(const char *path, struct bus_model **model)
{
  *model = NULL;
  const int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  int error;
  if (file < 0) {
    error = bus_error_set_errno("cannot be opened (name a model file that this user may read)");
  } else {
    error = load_open_file(file, model);
    close(file);
  }
  return error == BUS_OK ? BUS_OK : bus_error_context(error, "model %s", path);
}

void bus_model_free(struct bus_model *model)
{
  free(model);
}

uint16_t bus_model_id(const struct bus_model *model)
{
  return (uint16_t)(model->crc32 & 0xffff);
}
