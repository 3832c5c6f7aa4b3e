/* capture_format.h: what a capture is made of, byte by byte.
 *
 * A capture is a directory. Each recorded ring, a stream, has files MEMBER.RING.SEGMENT.npy:
 *
 *   0      a .npy header (version 1.0) of exactly 4096 bytes, a pure function of the file's shape
 *   4096   blocks of `block_size` bytes: struct bus_capture_block, then records as they stood in
 *          the ring (DATA) or JSON text (META), then zeros
 *
 * so that numpy.load(path, mmap_mode="r")["records"] works at once, on a file that is being written
 * too: blocks that are not there yet are zero. Every byte is checked by something: the header is
 * built again and compared, a block has a CRC and its tail is zero. Files are hostile input.
 * Everything here is little-endian, and pure unless it says otherwise. */
#ifndef SIGNALBUS_CAPTURE_FORMAT_H
#define SIGNALBUS_CAPTURE_FORMAT_H

#include "consumers/crc32c.h"
#include "shm/error.h"
#include "shm/record.h"

BUS_BEGIN_DECLARATIONS

#define BUS_CAPTURE_VERSION             1
#define BUS_CAPTURE_MAGIC               0x314b4253u /* "SBK1" */
#define BUS_CAPTURE_FILE_HEADER_BYTES   4096u
#define BUS_CAPTURE_BLOCK_HEADER_BYTES  64u
#define BUS_CAPTURE_BLOCK_BYTES_MIN     4096u
#define BUS_CAPTURE_BLOCK_BYTES_MAX     (16u << 20)
#define BUS_CAPTURE_BLOCK_BYTES_DEFAULT (1u << 20)
#define BUS_CAPTURE_BLOCKS_MAX          ((uint64_t)1 << 32)
#define BUS_CAPTURE_STREAM_BYTES        (2 * BUS_NAME_BYTES) /* "member.ring" */
#define BUS_CAPTURE_FILE_NAME_BYTES     (BUS_CAPTURE_STREAM_BYTES + 24)

enum bus_capture_block_kind {
  BUS_CAPTURE_DATA = 1, /* records */
  BUS_CAPTURE_META = 2  /* JSON text that describes the stream; first in each segment */
};

struct bus_capture_block {
  uint32_t magic;         /* BUS_CAPTURE_MAGIC; 0: not written yet */
  uint32_t crc32c;        /* of bytes 8..63 and the payload */
  uint32_t kind;          /* enum bus_capture_block_kind */
  uint32_t count;         /* DATA: records, 1..capacity; META: bytes of text, 1.. */
  uint64_t first;         /* position of the first record; META: 0 */
  uint64_t last;          /* position of the last record; META: 0 */
  uint64_t first_time_ns; /* record time of the first and ... */
  uint64_t last_time_ns;  /* ... last record; types without one: when the recorder saw them */
  uint32_t number;        /* of the block in its segment, 0.. */
  uint32_t stream;        /* bus_capture_stream_id */
  uint64_t lost;          /* positions missing between the block before and this one's first,
                             and inside of this one; META: 0 */
};

BUS_ASSERT_OFFSET(bus_capture_block, magic, 0);
BUS_ASSERT_OFFSET(bus_capture_block, crc32c, 4);
BUS_ASSERT_OFFSET(bus_capture_block, kind, 8);
BUS_ASSERT_OFFSET(bus_capture_block, count, 12);
BUS_ASSERT_OFFSET(bus_capture_block, first, 16);
BUS_ASSERT_OFFSET(bus_capture_block, last, 24);
BUS_ASSERT_OFFSET(bus_capture_block, first_time_ns, 32);
BUS_ASSERT_OFFSET(bus_capture_block, last_time_ns, 40);
BUS_ASSERT_OFFSET(bus_capture_block, number, 48);
BUS_ASSERT_OFFSET(bus_capture_block, stream, 52);
BUS_ASSERT_OFFSET(bus_capture_block, lost, 56);
BUS_STATIC_ASSERT(sizeof(struct bus_capture_block) == BUS_CAPTURE_BLOCK_HEADER_BYTES,
                  "the payload follows at 64");

/* What a segment's header says. */
struct bus_capture_shape {
  uint32_t record_type; /* enum bus_record_type; others are kept as bytes */
  uint32_t record_size; /* 64..1 MiB, a multiple of 64 */
  uint32_t block_size;  /* 4 KiB..16 MiB, a multiple of 4 KiB, with room for a record */
  uint32_t reserved0;
  uint64_t blocks; /* 0..2^32 */
};

/* ---- the file ---- */

/* Records that fit a block, 0 when the sizes are out of range. */
uint32_t bus_capture_capacity(uint32_t record_size, uint32_t block_size);

/* BUS_OK, or BUS_ERROR_INVALID with a message. */
int bus_capture_shape_check(const struct bus_capture_shape *shape);

/* Writes the 4096 bytes of a .npy header. Returns as bus_capture_shape_check. */
int bus_capture_header_build(const struct bus_capture_shape *shape, void *header);

/* Takes the shape out of 4096 bytes and compares all of them with what bus_capture_header_build
 * makes of it. Returns BUS_OK, or BUS_ERROR_CORRUPT with a message that lacks the path. */
int bus_capture_header_parse(const void *header, struct bus_capture_shape *shape);

/* Bytes of a file of this shape. */
static inline uint64_t bus_capture_file_bytes(const struct bus_capture_shape *shape)
{
  return BUS_CAPTURE_FILE_HEADER_BYTES + shape->blocks * shape->block_size;
}

/* ---- blocks; `block` is block_size bytes, aligned to 8 ---- */

/* Completes a block whose kind, count, number, stream and lost are set and whose payload is there:
 * magic, first, last, the times (of types that have one; else the caller's stay), zeros behind the
 * payload, and the CRC, last. A DATA block holds 1..capacity records, a META block 1..block_size-64
 * bytes of text. */
void bus_capture_block_seal(void *block, const struct bus_capture_shape *shape);

/* Checks a block: magic, kind, count, CRC, number and stream, positions ascending and as in its
 * header, times, zeros behind the payload. Returns BUS_OK; BUS_ERROR_ABSENT (with a message) when
 * all of it is zero, so never written; or BUS_ERROR_CORRUPT with a message that lacks path and
 * place. */
int bus_capture_block_check(const void *block, const struct bus_capture_shape *shape,
                            uint32_t stream, uint32_t number);

/* The part of bus_capture_block_check that the header alone shows: magic, kind, count. Returns
 * BUS_OK or BUS_ERROR_CORRUPT with a message that lacks path and place. */
int bus_capture_block_check_header(const struct bus_capture_block *header,
                                   const struct bus_capture_shape *shape);

/* True when all of them are, also when there are none. */
bool bus_capture_is_zero(const void *bytes, size_t size);

/* Record `index` of a DATA block; its payload. */
static inline const void *bus_capture_block_record(const void *block, uint32_t record_size,
                                                   uint32_t index)
{
  return (const unsigned char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES +
         (size_t)index * record_size;
}

/* Position of a record, from its stamp. */
static inline uint64_t bus_capture_record_position(const void *record, uint32_t record_size)
{
  const unsigned char *stamp = (const unsigned char *)record + record_size - sizeof(uint64_t);
  uint64_t value;
  __builtin_memcpy(&value, stamp, sizeof value);
  return value - 1;
}

/* ---- records ---- */

/* The time that a record stands for, ns of the recording machine's bus clock: a feature's receipt,
 * a signal's completion, a gap's notice, a request's submission, when a reply was decided. 0:
 * records of this type (or size) carry none. */
uint64_t bus_capture_record_time(uint32_t record_type, uint32_t record_size, const void *record);

/* True when records of this type and size carry a time. */
bool bus_capture_has_time(uint32_t record_type, uint32_t record_size);

/* Adds `shift_ns` (wraps) to every moment in a record, but to those of a message that stand for
 * never.
 */
void bus_capture_record_shift(uint32_t record_type, uint32_t record_size, uint64_t shift_ns,
                              void *record);

/* How much text a request or reply carries behind its header of BUS_LLM_HEADER_BYTES, never more
 * than there is room; other types: 0. */
uint32_t bus_capture_text_bytes(uint32_t record_type, uint32_t record_size, const void *record);

enum bus_capture_canonical_flag {
  BUS_CAPTURE_EXACT = 1 << 0,  /* everything but the stamp */
  BUS_CAPTURE_NO_TIME = 1 << 1 /* without timestamps, for replays that were shifted */
};

/* Copies what a deterministic replay of the same input must reproduce: all but the stamp; of a
 * signal also without queue_ns, inference_ns, batch, engine and the BATCHED flag; of requests and
 * replies without what lies behind their text. What is left out is zero. `canonical` takes
 * record_size - 8 bytes, which is returned. */
size_t bus_capture_canonical(uint32_t record_type, uint32_t record_size, const void *record,
                             uint32_t flags, void *canonical);

/* ---- names ---- */

/* FNV-1a of "member.ring", its low 32 bits. */
uint32_t bus_capture_stream_id(const char *stream);

struct bus_capture_file_name {
  char stream[BUS_CAPTURE_STREAM_BYTES]; /* "member.ring" */
  uint32_t segment;                      /* 0.. */
  bool compressed;                       /* .npy.zst */
};

/* Writes "member.ring.SEGMENT.npy" or "...npy.zst", the segment in at least six digits, into
 * BUS_CAPTURE_FILE_NAME_BYTES. */
void bus_capture_file_name_build(const struct bus_capture_file_name *parts, char *name);

/* The reverse. Returns false when `name` (no directory) is not that of a segment. */
bool bus_capture_file_name_parse(const char *name, struct bus_capture_file_name *parts);

/* "overrun", "disk-full", ...; static, "?" when unknown. */
const char *bus_gap_cause_name(uint32_t cause);

BUS_END_DECLARATIONS

#endif
