/* Headers and blocks of captures are hostile input: whatever they hold, parsing stays inside of
 * them, and what is accepted is exactly what the builder makes. */
#include "consumers/capture_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 4096u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool condition, const char *what)
{
  if (condition)
    return;
  fprintf(stderr, "fuzz_capture_format: %s\n", what);
  abort();
}

/* The input laid over a good header: most of it stays good. */
static void fuzz_header(const uint8_t *data, size_t size)
{
  struct bus_capture_shape shape = {BUS_RECORD_RAW, 64, BLOCK_BYTES, 0, 7}, parsed;
  char header[BUS_CAPTURE_FILE_HEADER_BYTES], again[BUS_CAPTURE_FILE_HEADER_BYTES];
  shape.record_type = size > 1 ? data[1] % 7 : 0;
  shape.record_size = shape.record_type == BUS_RECORD_FEATURE       ? 128
                      : shape.record_type >= BUS_RECORD_LLM_REQUEST ? 192
                                                                    : 64;
  require(bus_capture_header_build(&shape, header) == BUS_OK, "a good shape is refused");
  size_t at = size > 3 ? (size_t)(data[2] | data[3] << 8) % sizeof header : 0;
  if (size > 4)
    memcpy(header + at, data + 4, size - 4 < sizeof header - at ? size - 4 : sizeof header - at);
  if (bus_capture_header_parse(header, &parsed) == BUS_OK) {
    require(bus_capture_header_build(&parsed, again) == BUS_OK, "a parsed shape is refused");
    require(!memcmp(header, again, sizeof header), "an accepted header is not the builder's");
  }
}

/* The input as a block, made to look sealed when it asks for that. */
static void fuzz_block(const uint8_t *data, size_t size)
{
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  struct bus_capture_shape shape = {size > 1 ? data[1] % 5 : 0, 64, BLOCK_BYTES, 0, 7};
  memset(block, 0, sizeof block);
  if (size > 4)
    memcpy(block, data + 4, size - 4 < sizeof block ? size - 4 : sizeof block);
  struct bus_capture_block header;
  memcpy(&header, block, sizeof header);
  if (size > 2 && data[2] & 1) {
    header.magic = BUS_CAPTURE_MAGIC;
    header.kind = 1 + (header.kind & 1);
    header.count = 1 + header.count % 63;
    memcpy(block, &header, sizeof header);
    if (data[2] & 2)
      bus_capture_block_seal(block, &shape);
    memcpy(&header, block, sizeof header);
    header.crc32c = bus_crc32c_portable(
        0, block + 8, 56 + (header.kind == BUS_CAPTURE_META ? header.count : header.count * 64u));
    memcpy(block, &header, sizeof header);
  }
  if (bus_capture_block_check(block, &shape, header.stream, header.number) == BUS_OK)
    require(header.count >= 1 && header.count <= BLOCK_BYTES - 64, "an impossible count");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct bus_capture_file_name parts;
  char name[256], again[BUS_CAPTURE_FILE_NAME_BYTES];
  if (size < 2)
    return 0;
  if (data[0] % 3 == 0) {
    fuzz_header(data, size);
  } else if (data[0] % 3 == 1) {
    fuzz_block(data, size);
  } else {
    snprintf(name, sizeof name, "%.*s", (int)(size - 1 < 255 ? size - 1 : 255), data + 1);
    if (bus_capture_file_name_parse(name, &parts)) {
      bus_capture_file_name_build(&parts, again);
      require(!strcmp(name, again), "a name is not what it was made of");
    }
  }
  return 0;
}
