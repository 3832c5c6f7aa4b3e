#include "consumers/capture_file.h"

#include "consumers/capture_shape.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <zstd.h>

#define FRAME_HEADER_BYTES_MAX 18u /* of zstd */

/* Unwritten blocks before a written one that are noted one by one; a sparse file could have
 * billions. */
#define HOLE_BLOCKS_MAX ((uint64_t)1 << 20)

/* ---- the index ---- */

static int push(struct bus_capture_segment *segment, const struct bus_capture_block *header,
                uint8_t state, uint64_t frame)
{
  if (segment->blocks == segment->blocks_allocated) {
    uint64_t wanted = segment->blocks ? segment->blocks * 2 : 64;
    void *index = realloc(segment->index, wanted * sizeof *segment->index);
    segment->index = index ? index : segment->index;
    void *states = realloc(segment->states, wanted);
    segment->states = states ? states : segment->states;
    void *frames = realloc(segment->frames, (wanted + 1) * sizeof *segment->frames);
    segment->frames = frames ? frames : segment->frames;
    if (!index || !states || !frames)
      return bus_error_set(BUS_ERROR_NO_SPACE, "%s: no memory for the index of %" PRIu64 " blocks",
                           segment->path, wanted);
    segment->blocks_allocated = wanted;
  }
  segment->index[segment->blocks] = *header;
  segment->states[segment->blocks] = state;
  segment->frames[segment->blocks++] = frame;
  return BUS_OK;
}

/* What can be said of a block by its header alone; the message is what is wrong. */
static int check_header(const struct bus_capture_segment *segment,
                        const struct bus_capture_block *header, uint32_t stream, uint64_t number)
{
  int error = bus_capture_block_check_header(header, &segment->shape);
  if (error)
    return error;
  if (header->number != (uint32_t)number || header->stream != stream)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "block %" PRIu32 " of stream %08" PRIx32 " in the place of %" PRIu64
                         " of %08" PRIx32,
                         header->number, header->stream, number, stream);
  if (header->kind == BUS_CAPTURE_DATA && header->last - header->first > UINT64_MAX / 2)
    return bus_error_set(BUS_ERROR_CORRUPT, "the last position is before the first");
  return BUS_OK;
}

static int add_block(struct bus_capture *capture, struct bus_capture_segment *segment,
                     const struct bus_capture_block *header, uint32_t stream, uint64_t frame)
{
  uint64_t number = segment->blocks;
  uint8_t state = BUS_CAPTURE_BLOCK_UNREAD;
  if (check_header(segment, header, stream, number) != BUS_OK) {
    state = BUS_CAPTURE_BLOCK_BAD;
    bus_capture_damaged(capture, segment->path, number, bus_capture_block_offset(segment, number),
                        "%s", bus_error_message());
  }
  return push(segment, header, state, frame);
}

/* ---- plain files ---- */

/* The block that holds the first byte that is stored at or behind block `number`; `blocks` when
 * there is none. Only holes are skipped, so zeros that are stored count. */
static uint64_t next_stored(const struct bus_capture_segment *segment, uint64_t number,
                            uint64_t blocks)
{
  off_t offset = (off_t)bus_capture_block_offset(segment, number);
  off_t data = lseek(segment->file, offset, SEEK_DATA);
  if (data < 0)
    return errno == ENXIO ? blocks : number;
  if (data < offset)
    return number;
  uint64_t block = ((uint64_t)data - BUS_CAPTURE_FILE_HEADER_BYTES) / segment->shape.block_size;
  return block < blocks ? block : blocks;
}

/* Blocks from segment->blocks to `number`-1 are zero, and one behind them is not. */
static int add_hole(struct bus_capture *capture, struct bus_capture_segment *segment,
                    uint64_t number)
{
  const struct bus_capture_block none = {0};
  uint64_t first = segment->blocks;
  bus_capture_damaged(capture, segment->path, first, bus_capture_block_offset(segment, first),
                      "%" PRIu64 " blocks are zero, but block %" PRIu64 " behind them is not",
                      number - first, number);
  while (segment->blocks < number) {
    int error = push(segment, &none, BUS_CAPTURE_BLOCK_BAD, 0);
    if (error)
      return error;
  }
  return BUS_OK;
}

static int index_plain(struct bus_capture *capture, struct bus_capture_segment *segment,
                       uint32_t stream)
{
  uint64_t room = (segment->file_bytes - BUS_CAPTURE_FILE_HEADER_BYTES) / segment->shape.block_size;
  for (uint64_t number = 0; number < room;) {
    struct bus_capture_block header;
    ssize_t got = bus_capture_read_at(segment->file, &header, sizeof header,
                                      bus_capture_block_offset(segment, number));
    if (got >= 0 && (size_t)got < sizeof header)
      break; /* it has shrunk: its size will be wrong at the next look */
    if (got < 0)
      memset(&header, 0xff, sizeof header); /* reading it again says why */
    if (bus_capture_is_zero(&header, sizeof header)) {
      uint64_t stored = next_stored(segment, number, room);
      number = stored > number ? stored : number + 1;
      continue;
    }
    if (number - segment->blocks > HOLE_BLOCKS_MAX) {
      bus_capture_damaged(capture, segment->path, number, bus_capture_block_offset(segment, number),
                          "behind %" PRIu64 " zero blocks; what is here is not read",
                          number - segment->blocks);
      break;
    }
    int error = number > segment->blocks ? add_hole(capture, segment, number) : BUS_OK;
    if (!error)
      error = add_block(capture, segment, &header, stream, 0);
    if (error)
      return error;
    number++;
  }
  segment->unfinished = segment->blocks < room;
  return BUS_OK;
}

/* A recorder closes a file in two steps, its size and its header: looks again between whole blocks.
 * True when both agree by then. */
static bool settles(struct bus_capture_segment *segment)
{
  const struct timespec pause = {.tv_nsec = 20000000};
  unsigned char header[BUS_CAPTURE_FILE_HEADER_BYTES];
  struct bus_capture_shape shape;
  struct stat status;
  if (segment->file_bytes % segment->shape.block_size !=
      BUS_CAPTURE_FILE_HEADER_BYTES % segment->shape.block_size)
    return false;
  nanosleep(&pause, NULL);
  if (fstat(segment->file, &status) != 0 ||
      bus_capture_read_at(segment->file, header, sizeof header, 0) != (ssize_t)sizeof header ||
      bus_capture_header_parse(header, &shape) != BUS_OK ||
      bus_capture_file_bytes(&shape) != (uint64_t)status.st_size)
    return false;
  segment->shape = shape;
  segment->file_bytes = (uint64_t)status.st_size;
  return true;
}

static void check_size(struct bus_capture *capture, struct bus_capture_segment *segment)
{
  uint64_t expected = bus_capture_file_bytes(&segment->shape);
  if (segment->file_bytes != expected && !settles(segment))
    bus_capture_damaged(capture, segment->path, BUS_CAPTURE_NO_BLOCK,
                        segment->file_bytes < expected ? segment->file_bytes : expected,
                        "the file has %" PRIu64 " bytes, its header says %" PRIu64
                        " blocks: %" PRIu64 " bytes",
                        segment->file_bytes, segment->shape.blocks, expected);
}

/* ---- compressed files: a frame for the header and for each block ---- */

struct frames {
  struct bus_capture_segment *segment;
  unsigned char *bytes;
  size_t room;
  size_t bytes_begin; /* of the file's bytes in `bytes` */
  uint64_t offset;    /* of the next frame in the file */
};

/* Loads the next frame; its size, 0 at the end of the file, or a negative error. */
static int64_t next_frame(struct frames *frames, size_t contents_max)
{
  uint64_t rest = frames->segment->file_bytes - frames->offset;
  size_t wanted = ZSTD_compressBound(contents_max) + FRAME_HEADER_BYTES_MAX;
  if (rest == 0)
    return 0;
  wanted = rest < wanted ? (size_t)rest : wanted;
  if (wanted > frames->room) {
    unsigned char *bytes = realloc(frames->bytes, wanted);
    if (!bytes)
      return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a compressed block of %zu bytes",
                           wanted);
    frames->bytes = bytes;
    frames->room = wanted;
  }
  ssize_t got = bus_capture_read_at(frames->segment->file, frames->bytes, wanted, frames->offset);
  if (got < 0)
    return bus_error_set_errno("reading");
  size_t size = ZSTD_findFrameCompressedSize(frames->bytes, (size_t)got);
  if (ZSTD_isError(size))
    return bus_error_set(BUS_ERROR_CORRUPT, "no whole zstd frame: %s", ZSTD_getErrorName(size));
  return (int64_t)size;
}

/* The first `size` bytes of what a frame holds. */
static int begin_frame(const void *frame, size_t frame_size, void *to, size_t size)
{
  ZSTD_DStream *stream = ZSTD_createDStream();
  if (!stream)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory to decompress");
  ZSTD_inBuffer in = {frame, frame_size, 0};
  ZSTD_outBuffer out = {to, size, 0};
  size_t rest = 1;
  while (rest != 0 && !ZSTD_isError(rest) && out.pos < out.size) {
    size_t before = in.pos + out.pos;
    rest = ZSTD_decompressStream(stream, &out, &in);
    if (in.pos + out.pos == before)
      break;
  }
  ZSTD_freeDStream(stream);
  if (ZSTD_isError(rest))
    return bus_error_set(BUS_ERROR_CORRUPT, "zstd: %s", ZSTD_getErrorName(rest));
  return out.pos == size ? BUS_OK : bus_error_set(BUS_ERROR_CORRUPT, "a zstd frame ends early");
}

/* Goes to the next thing that looks like a frame behind a bad one. */
static bool resume(struct frames *frames)
{
  static const unsigned char magic[] = {0x28, 0xb5, 0x2f, 0xfd};
  unsigned char bytes[65536];
  for (uint64_t offset = frames->offset + 1; offset < frames->segment->file_bytes;
       offset += sizeof bytes - sizeof magic + 1) {
    ssize_t got = bus_capture_read_at(frames->segment->file, bytes, sizeof bytes, offset);
    const unsigned char *at = got > 0 ? memmem(bytes, (size_t)got, magic, sizeof magic) : NULL;
    if (at) {
      frames->offset = offset + (uint64_t)(at - bytes);
      return true;
    }
    if (got < (ssize_t)sizeof bytes)
      break;
  }
  return false;
}

static int index_frames(struct bus_capture *capture, struct frames *frames, uint32_t stream)
{
  struct bus_capture_segment *segment = frames->segment;
  const struct bus_capture_block none = {0};
  int error = BUS_OK;
  bool resumed = false;
  while (!error) {
    struct bus_capture_block header = none;
    int64_t size = next_frame(frames, segment->shape.block_size);
    if (size == 0)
      break;
    if (size > 0)
      error = begin_frame(frames->bytes, (size_t)size, &header, sizeof header);
    if (error == BUS_ERROR_NO_SPACE || size == BUS_ERROR_NO_SPACE)
      return BUS_ERROR_NO_SPACE;
    if (size < 0 || error) {
      if (!resumed)
        bus_capture_damaged(capture, segment->path, segment->blocks,
                            bus_capture_block_offset(segment, segment->blocks), "%s",
                            bus_error_message());
      resumed = true;
      error = BUS_OK;
      if (!resume(frames))
        break;
      continue;
    }
    /* Behind damage the block itself says which one it is. */
    bool ahead = resumed && header.magic == BUS_CAPTURE_MAGIC && header.number > segment->blocks &&
                 header.number - segment->blocks < HOLE_BLOCKS_MAX;
    while (!error && ahead && segment->blocks < header.number)
      error = push(segment, &none, BUS_CAPTURE_BLOCK_BAD, frames->offset);
    if (!error)
      error = add_block(capture, segment, &header, stream, frames->offset);
    frames->offset += (uint64_t)size;
    if (!error)
      segment->frames[segment->blocks] = frames->offset;
    if ((uint64_t)size > segment->frames_bytes_max)
      segment->frames_bytes_max = (uint64_t)size;
    resumed = false;
  }
  if (!error && segment->blocks != segment->shape.blocks)
    bus_capture_damaged(capture, segment->path, BUS_CAPTURE_NO_BLOCK,
                        bus_capture_block_offset(segment, segment->blocks),
                        "%" PRIu64 " blocks in the file, its header says %" PRIu64, segment->blocks,
                        segment->shape.blocks);
  return error;
}

/* ---- the file's header ---- */

static int read_header(struct bus_capture *capture, struct bus_capture_segment *segment,
                       struct frames *frames, unsigned char *header)
{
  int64_t size = 0;
  int error = BUS_OK;
  if (segment->compressed) {
    size = next_frame(frames, BUS_CAPTURE_FILE_HEADER_BYTES);
    error = size > 0
                ? begin_frame(frames->bytes, (size_t)size, header, BUS_CAPTURE_FILE_HEADER_BYTES)
                : bus_error_set(BUS_ERROR_CORRUPT, "the compressed file has no whole header");
    frames->offset = size > 0 ? (uint64_t)size : 0;
  } else {
    ssize_t got = bus_capture_read_at(segment->file, header, BUS_CAPTURE_FILE_HEADER_BYTES, 0);
    if (got < 0)
      error = bus_error_set_errno("reading the header");
    else if (got < (ssize_t)BUS_CAPTURE_FILE_HEADER_BYTES)
      error =
          bus_error_set(BUS_ERROR_CORRUPT, "the file is cut: %" PRIu64 " bytes, a header has %u",
                        segment->file_bytes, BUS_CAPTURE_FILE_HEADER_BYTES);
  }
  if (!error)
    error = bus_capture_header_parse(header, &segment->shape);
  if (!error)
    return BUS_OK;
  segment->header_is_bad = true;
  bus_capture_damaged(capture, segment->path, BUS_CAPTURE_NO_BLOCK, 0, "%s", bus_error_message());
  return error == BUS_ERROR_NO_SPACE ? error : BUS_ERROR_CORRUPT;
}

/* ---- META ---- */

static int check_meta(const struct bus_capture_segment *segment, const char *name,
                      const json_t *meta)
{
  char stream[BUS_CAPTURE_STREAM_BYTES];
  snprintf(stream, sizeof stream, "%s.%s", bus_capture_meta_text(meta, "member"),
           bus_capture_meta_text(meta, "ring"));
  if (strcmp(stream, name) != 0)
    return bus_error_set(BUS_ERROR_CORRUPT, "it describes another stream than '%s'", name);
  if (bus_capture_meta_u64(meta, "record_size", 0) != segment->shape.record_size)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "it describes records of %" PRIu64 " bytes, not %" PRIu32,
                         bus_capture_meta_u64(meta, "record_size", 0), segment->shape.record_size);
  return BUS_OK;
}

static int read_metas(struct bus_capture *capture, const char *name,
                      struct bus_capture_segment *segment)
{
  const struct bus_capture_stream stream = {.id = bus_capture_stream_id(name)};
  void *block = NULL;
  int error = BUS_OK;
  for (uint64_t i = 0; i < segment->blocks && !error; i++) {
    if (segment->states[i] == BUS_CAPTURE_BLOCK_BAD || segment->index[i].kind != BUS_CAPTURE_META)
      continue;
    if (!block && posix_memalign(&block, 4096, segment->shape.block_size) != 0)
      return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a block");
    error = bus_capture_read_block(capture, &stream, segment, i, block);
    json_t *meta = NULL;
    if (!error)
      error = bus_capture_meta_parse((char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES,
                                     segment->index[i].count, &meta);
    if (!error)
      error = check_meta(segment, name, meta);
    if (!error) {
      json_decref(segment->meta);
      segment->meta = meta;
      segment->instance = bus_capture_meta_u64(meta, "instance", 0);
      continue;
    }
    json_decref(meta);
    if (error == BUS_ERROR_CORRUPT && segment->states[i] == BUS_CAPTURE_BLOCK_GOOD) {
      segment->states[i] = BUS_CAPTURE_BLOCK_BAD;
      bus_capture_damaged(capture, segment->path, i, bus_capture_block_offset(segment, i),
                          "description: %s", bus_error_message());
    }
    if (error == BUS_ERROR_CORRUPT)
      error = BUS_OK;
  }
  free(block);
  return error;
}

/* ---- opening, reading ---- */

static int open_file(struct bus_capture_segment *segment)
{
  struct stat status;
  segment->file = open(segment->path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (segment->file < 0)
    return bus_error_set_errno("%s: cannot be opened", segment->path);
  if (fstat(segment->file, &status) != 0)
    return bus_error_set_errno("%s: cannot be looked at", segment->path);
  if (!S_ISREG(status.st_mode))
    return bus_error_set(BUS_ERROR_INVALID, "%s: is not a file; move it away", segment->path);
  segment->file_bytes = (uint64_t)status.st_size;
  return BUS_OK;
}

int bus_capture_file_open(struct bus_capture *capture, const char *name,
                          const struct bus_capture_segment *hint,
                          struct bus_capture_segment *segment)
{
  unsigned char header[BUS_CAPTURE_FILE_HEADER_BYTES];
  struct frames frames = {.segment = segment};
  uint32_t stream = bus_capture_stream_id(name);
  int error = open_file(segment);
  if (error)
    return error;
  error = read_header(capture, segment, &frames, header);
  if (error == BUS_ERROR_CORRUPT) {
    if (segment->compressed)
      segment->shape = hint ? hint->shape : (struct bus_capture_shape){0};
    else
      bus_capture_find_shape(segment, stream, hint);
    error = BUS_OK;
  } else if (!error && !segment->compressed) {
    check_size(capture, segment);
  }
  if (!error && segment->shape.record_size) {
    if (segment->compressed)
      error = index_frames(capture, &frames, stream);
    else if (segment->file_bytes >= BUS_CAPTURE_FILE_HEADER_BYTES)
      error = index_plain(capture, segment, stream);
    if (!error)
      error = read_metas(capture, name, segment);
  }
  free(frames.bytes);
  return error;
}

void bus_capture_file_close(struct bus_capture_segment *segment)
{
  if (segment->file >= 0)
    close(segment->file);
  json_decref(segment->meta);
  free(segment->index);
  free(segment->states);
  free(segment->frames);
  free(segment->path);
  memset(segment, 0, sizeof *segment);
  segment->file = -1;
}

static int load_frame(struct bus_capture_segment *segment, uint64_t number, void *to)
{
  size_t size = (size_t)(segment->frames[number + 1] - segment->frames[number]);
  void *bytes = malloc(size ? size : 1);
  if (!bytes)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a compressed block");
  ssize_t got = bus_capture_read_at(segment->file, bytes, size, segment->frames[number]);
  size_t done = 0;
  int error = BUS_OK;
  if (got < 0)
    error = bus_error_set_errno("reading");
  else
    size = ZSTD_findFrameCompressedSize(bytes, (size_t)got); /* a bad one may lie behind it */
  if (!error)
    done = ZSTD_isError(size) ? size : ZSTD_decompress(to, segment->shape.block_size, bytes, size);
  if (!error && ZSTD_isError(done))
    error = bus_error_set(BUS_ERROR_CORRUPT, "zstd: %s", ZSTD_getErrorName(done));
  else if (!error && done != segment->shape.block_size)
    error = bus_error_set(BUS_ERROR_CORRUPT, "the frame holds %zu bytes, a block has %" PRIu32,
                          done, segment->shape.block_size);
  free(bytes);
  return error;
}

void bus_capture_file_prefetch(const struct bus_capture_segment *segment, uint64_t number,
                               uint64_t count)
{
  if (number >= segment->blocks)
    return;
  uint64_t end = number + count < segment->blocks ? number + count : segment->blocks;
  uint64_t from =
      segment->compressed ? segment->frames[number] : bus_capture_block_offset(segment, number);
  uint64_t to = segment->compressed ? segment->frames[end] : bus_capture_block_offset(segment, end);
  if (to > from)
    posix_fadvise(segment->file, (off_t)from, (off_t)(to - from), POSIX_FADV_WILLNEED);
}

int bus_capture_file_load(struct bus_capture_segment *segment, uint64_t number, void *to)
{
  if (segment->compressed)
    return load_frame(segment, number, to);
  ssize_t got = bus_capture_read_at(segment->file, to, segment->shape.block_size,
                                    bus_capture_block_offset(segment, number));
  if (got < 0)
    return bus_error_set(BUS_ERROR_IO, "reading: %s", strerror(errno));
  if (got != (ssize_t)segment->shape.block_size)
    return bus_error_set(BUS_ERROR_CORRUPT, "the file has become shorter");
  return BUS_OK;
}

static bool zero_up_to(struct bus_capture_segment *segment, uint64_t from, uint64_t *at)
{
  unsigned char bytes[65536];
  for (uint64_t offset = from; offset < segment->file_bytes;) {
    off_t data = lseek(segment->file, (off_t)offset, SEEK_DATA);
    if (data < 0 && errno == ENXIO)
      return true;
    offset = data > (off_t)offset ? (uint64_t)data : offset;
    ssize_t got = bus_capture_read_at(segment->file, bytes, sizeof bytes, offset);
    if (got > 0 && bus_capture_is_zero(bytes, (size_t)got)) {
      offset += (uint64_t)got;
      continue;
    }
    for (ssize_t i = 0; i < got && bytes[i] == 0; i++)
      offset++;
    *at = offset;
    return got == 0;
  }
  return true;
}

int bus_capture_check_tail(struct bus_capture *capture, struct bus_capture_segment *segment)
{
  uint64_t at = 0, from = bus_capture_block_offset(segment, segment->blocks);
  if (segment->compressed || segment->shape.record_size == 0 || zero_up_to(segment, from, &at))
    return BUS_OK;
  return bus_capture_damaged(capture, segment->path,
                             (at - BUS_CAPTURE_FILE_HEADER_BYTES) / segment->shape.block_size, at,
                             "bytes behind the last block are not zero");
}
