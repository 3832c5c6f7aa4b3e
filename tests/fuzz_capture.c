/* Any bytes as a capture's segment: first as a file with a right header (its shape comes from the
 * input) and blocks made of the input, opened, checked, merged and written anew; and as the text of
 * a META block. CRCs are made right for every other input, or nothing would get behind them. */
#include "consumers/capture_check.h"
#include "consumers/capture_merge.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define NAME       "m.r"
#define FILE_NAME  "m.r.000000.npy"
#define BLOCK_SIZE 4096u
#define BLOCKS_MAX 4u
#define REQUIRE(condition)                                                                         \
  do {                                                                                             \
    if (!(condition))                                                                              \
      __builtin_trap();                                                                            \
  } while (0)

static char directory[64];
static char path[128];
static volatile uint64_t sink;

static void remove_directory(void)
{
  unlink(path);
  rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
  (void)argc;
  (void)argv;
  snprintf(directory, sizeof directory, "/dev/shm/signalbus-fuzz-capture-%d", (int)getpid());
  snprintf(path, sizeof path, "%s/" FILE_NAME, directory);
  REQUIRE(mkdir(directory, 0700) == 0);
  atexit(remove_directory);
  return 0;
}

static void try_meta(const uint8_t *data, size_t size)
{
  json_t *meta;
  if (bus_capture_meta_parse((const char *)data, size, &meta) != BUS_OK)
    return;
  struct bus_capture_stream stream = {.meta = meta};
  struct bus_symbol symbol;
  for (uint32_t i = 0; i < 4; i++)
    sink += bus_capture_symbol(&stream, i, &symbol) == BUS_OK ? (uint64_t)symbol.name[0] : 0;
  sink += bus_capture_meta_u64(meta, "instance", 1) +
          (uint64_t)bus_capture_meta_i64(meta, "realtime_offset_ns", 0);
  json_decref(meta);
}

/* Each block is the start of the input's next part: kind, count and so on as they come, sealed. */
static void fill_block(unsigned char *block, const struct bus_capture_shape *shape,
                       const uint8_t *data, size_t size, uint32_t number, bool sealed)
{
  memset(block, 0, BLOCK_SIZE);
  memcpy(block, data, size < BLOCK_SIZE ? size : BLOCK_SIZE);
  if (!sealed || size < BUS_CAPTURE_BLOCK_HEADER_BYTES)
    return;
  struct bus_capture_block header;
  memcpy(&header, block, sizeof header);
  header.number = number;
  header.stream = bus_capture_stream_id(NAME);
  header.kind = header.kind % 2 ? BUS_CAPTURE_DATA : BUS_CAPTURE_META;
  uint32_t most = header.kind == BUS_CAPTURE_DATA
                      ? bus_capture_capacity(shape->record_size, BLOCK_SIZE)
                      : BLOCK_SIZE - BUS_CAPTURE_BLOCK_HEADER_BYTES;
  header.count = 1 + header.count % most;
  memcpy(block, &header, sizeof header);
  bus_capture_block_seal(block, shape);
}

static void use(struct bus_capture *capture)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  struct bus_capture_range part = {
      .from_ns = 1000, .until_ns = UINT64_MAX / 2, .from_position = 3, .until_position = 1u << 20};
  struct bus_capture_checked checked;
  struct bus_capture_event event;
  REQUIRE(bus_capture_check(capture, NULL, &checked) == BUS_OK);
  REQUIRE(checked.blocks_bad == 0 || bus_capture_damage_count(capture) > 0);
  for (int i = 0; i < 2; i++) {
    struct bus_capture_merge *merge;
    uint64_t time_ns = 0;
    int status = bus_capture_merge_open(capture, i ? &part : &all, &merge);
    while (!status && (status = bus_capture_merge_next(merge, &event)) == 1) {
      REQUIRE(event.time_ns >= time_ns);
      time_ns = event.time_ns;
      if (event.kind == BUS_CAPTURE_EVENT_RECORD) {
        const struct bus_capture_stream *stream = bus_capture_stream(capture, event.stream);
        for (uint32_t j = 0; j < stream->record_size; j++)
          sink += ((const unsigned char *)event.record)[j];
      }
      if (event.kind == BUS_CAPTURE_EVENT_GAP)
        REQUIRE(event.last >= event.position);
      status = BUS_OK;
    }
    REQUIRE(status == 0);
    bus_capture_merge_close(merge);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static const uint32_t sizes[] = {64, 128, 192, 1024};
  unsigned char header[BUS_CAPTURE_FILE_HEADER_BYTES];
  static unsigned char block[BLOCK_SIZE] __attribute__((aligned(4096)));
  struct bus_capture *capture;
  if (size < 4)
    return 0;
  try_meta(data, size);
  uint32_t blocks = data[0] % (BLOCKS_MAX + 1);
  struct bus_capture_shape shape = {.record_type = data[1] % 5,
                                    .record_size = sizes[data[2] % BUS_COUNT_OF(sizes)],
                                    .block_size = BLOCK_SIZE,
                                    .blocks = blocks};
  bool sealed = data[3] & 1, spoiled = data[3] & 2;
  data += 4;
  size -= 4;
  REQUIRE(bus_capture_header_build(&shape, header) == BUS_OK);
  if (spoiled && size > 2)
    header[(data[0] | data[1] << 8) % sizeof header] ^= data[2];
  int file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  REQUIRE(file >= 0 && pwrite(file, header, sizeof header, 0) == (ssize_t)sizeof header);
  size_t part = blocks ? size / blocks : 0;
  for (uint32_t i = 0; i < blocks; i++) {
    fill_block(block, &shape, data + i * part, part, i, sealed);
    REQUIRE(pwrite(file, block, BLOCK_SIZE, BUS_CAPTURE_FILE_HEADER_BYTES + i * BLOCK_SIZE) ==
            (ssize_t)BLOCK_SIZE);
  }
  if (size > 0 && data[size - 1] == 0xff) /* cut short */
    REQUIRE(ftruncate(file, (off_t)(size * 7 % (4096 + blocks * BLOCK_SIZE + 1))) == 0);
  close(file);
  REQUIRE(bus_capture_open(directory, &capture) == BUS_OK);
  use(capture);
  bus_capture_close(capture);
  return 0;
}
