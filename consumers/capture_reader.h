/* capture_reader.h: a capture, opened: its streams, segments and blocks, and all damage in it.
 *
 *   struct bus_capture *capture;
 *   if (bus_capture_open(path, &capture)) ...
 *   for (i = 0; i < bus_capture_stream_count(capture); i++) bus_capture_stream(capture, i)->..
 *
 * and then capture_cursor.h for one stream's blocks, capture_merge.h for the records of all of them
 * in order. Opening reads the header of every block, which is the index, and every META block.
 *
 * Captures are hostile input. Damage does not end the reading: it is noted with path, block and
 * byte offset, and what lies before and behind it is used. Whoever reads asks for
 * bus_capture_damage_count at the end and must not call it a success when there is any.
 *
 * A file is read into private memory, never mapped, so it may change or shrink meanwhile. One
 * thread for each capture. */
#ifndef SIGNALBUS_CAPTURE_READER_H
#define SIGNALBUS_CAPTURE_READER_H

#include "consumers/capture_format.h"

#include <jansson.h>

BUS_BEGIN_DECLARATIONS

#define BUS_CAPTURE_DAMAGES_KEPT 1000u /* further ones are only counted */
#define BUS_CAPTURE_NO_BLOCK     UINT64_MAX

/* One place that is not as it was written. */
struct bus_capture_damage {
  char *path;
  uint64_t block; /* in the file, 0..; BUS_CAPTURE_NO_BLOCK: the file's header, or the whole file */
  uint64_t offset; /* bytes from the file's start; in a .zst: of the file that it holds */
  char what[224];
};

enum bus_capture_block_state {
  BUS_CAPTURE_BLOCK_UNREAD = 0, /* only its header was looked at */
  BUS_CAPTURE_BLOCK_GOOD = 1,   /* wholly checked */
  BUS_CAPTURE_BLOCK_BAD = 2     /* in the damages */
};

/* One file. */
struct bus_capture_segment {
  char *path;
  uint32_t number;
  int file;
  bool compressed;
  bool header_is_bad;             /* `shape` was found in other ways */
  bool unfinished;                /* not closed: it is being written, or its writer was killed */
  struct bus_capture_shape shape; /* `blocks`: as the header says; used ones: see below */
  uint64_t file_bytes;            /* as stored */
  uint64_t blocks;                /* written ones; bad ones in between count */
  uint64_t blocks_allocated;      /* that much of the array below is allocated */
  struct bus_capture_block
      *index;                /* [blocks]: their headers; those of bad ones are not to be used */
  uint8_t *states;           /* [blocks]: enum bus_capture_block_state */
  uint64_t *frames;          /* compressed: [blocks + 1] where each block's frame begins */
  uint64_t frames_bytes_max; /* compressed: of the largest */
  json_t *meta;              /* the newest META in it; NULL: none is whole */
  uint64_t instance;         /* from it; 0: unknown */
};

/* One recorded ring, with one record type and size. */
struct bus_capture_stream {
  char name[BUS_CAPTURE_STREAM_BYTES]; /* "member.ring" */
  char member[BUS_NAME_BYTES];         /* from the META; "" when there is none */
  char ring[BUS_NAME_BYTES];
  uint32_t id;
  uint32_t record_type;
  uint32_t record_size;
  struct bus_capture_segment *segments; /* by number */
  size_t segment_count;
  json_t *meta;      /* the newest; an empty object when none is whole */
  uint64_t instance; /* from it */
  uint64_t bytes;    /* of its files, as stored */
  /* By the headers of its blocks that are not bad: */
  uint64_t blocks;  /* DATA blocks */
  uint64_t records; /* in them */
  uint64_t lost;    /* positions missing between and in them */
  uint64_t first;   /* position of the first record, valid when records > 0 */
  uint64_t last;
  uint64_t first_time_ns; /* bus clock of the recording machine; 0: none */
  uint64_t last_time_ns;  /* the greatest */
};

struct bus_capture;

/* Opens a directory, or one segment file. Returns BUS_OK even when there is damage; else
 * BUS_ERROR_ABSENT (no such path, or no segment in it), BUS_ERROR_DENIED, BUS_ERROR_IO,
 * BUS_ERROR_NO_SPACE (memory, open files) with a message. *out is the caller's to close, NULL after
 * an error. */
int bus_capture_open(const char *path, struct bus_capture **out);
void bus_capture_close(struct bus_capture *capture); /* NULL is ignored */

const char *bus_capture_path(const struct bus_capture *capture);

/* Streams, by name; pointers are good until the capture is closed. */
uint32_t bus_capture_stream_count(const struct bus_capture *capture);
const struct bus_capture_stream *bus_capture_stream(const struct bus_capture *capture,
                                                    uint32_t index);

/* Index of the stream of that name ("member.ring"), or of the only one whose ring or member is
 * called so; BUS_ERROR_ABSENT or BUS_ERROR_INVALID (several) with a message. */
int bus_capture_find_stream(const struct bus_capture *capture, const char *name);

/* First and last record time of all streams, ns; *offset_ns is CLOCK_REALTIME minus the bus clock
 * when it was recorded. All 0 when unknown. */
void bus_capture_times(const struct bus_capture *capture, uint64_t *first_ns, uint64_t *last_ns,
                       int64_t *offset_ns);

/* Bytes of all written blocks, uncompressed: what there is to read. */
uint64_t bus_capture_blocks_bytes(const struct bus_capture *capture);

/* ---- META ---- */

/* The integer at `key`, which may be written as a string; `otherwise` when there is none or it does
 * not fit. */
uint64_t bus_capture_meta_u64(const json_t *meta, const char *key, uint64_t otherwise);
int64_t bus_capture_meta_i64(const json_t *meta, const char *key, int64_t otherwise);

/* The string at `key`, "" when there is none. UTF-8, but nobody vouches for what it says. */
const char *bus_capture_meta_text(const json_t *meta, const char *key);

/* Symbol `index` of the stream's table, its newest state: BUS_OK, or BUS_ERROR_ABSENT without a
 * message. The exponents are within -18..0. */
int bus_capture_symbol(const struct bus_capture_stream *stream, uint32_t index,
                       struct bus_symbol *symbol);

/* The stream that input `source` of a signal stream was: its index, or BUS_ERROR_ABSENT without a
 * message. */
int bus_capture_input(const struct bus_capture *capture, const struct bus_capture_stream *stream,
                      uint32_t source);

/* Parses the text of a META block into a new object. BUS_OK, or BUS_ERROR_CORRUPT with a message
 * that lacks path and place. Pure. */
int bus_capture_meta_parse(const char *text, size_t size, json_t **meta);

/* ---- blocks ---- */

/* Reads block `number` of a segment into `to` (shape.block_size bytes, aligned to 4096) and checks
 * it. Returns BUS_OK; BUS_ERROR_CORRUPT (noted as damage, the first time); BUS_ERROR_IO or
 * BUS_ERROR_NO_SPACE with a message. A read error of the disk (EIO) is damage too. */
int bus_capture_read_block(struct bus_capture *capture, const struct bus_capture_stream *stream,
                           struct bus_capture_segment *segment, uint64_t number, void *to);

/* Looks at what nothing else reads: that a segment is zero behind its last block. Adds damage;
 * returns BUS_OK, BUS_ERROR_IO or BUS_ERROR_NO_SPACE. */
int bus_capture_check_tail(struct bus_capture *capture, struct bus_capture_segment *segment);

/* ---- damage ---- */

/* Notes damage; returns BUS_ERROR_CORRUPT. */
int bus_capture_damaged(struct bus_capture *capture, const char *path, uint64_t block,
                        uint64_t offset, const char *format, ...) BUS_PRINTF(5, 6);

uint64_t bus_capture_damage_count(const struct bus_capture *capture);

/* Damage 0..min(count, BUS_CAPTURE_DAMAGES_KEPT)-1, in the order of its discovery. */
const struct bus_capture_damage *bus_capture_damage(const struct bus_capture *capture,
                                                    uint64_t index);

BUS_END_DECLARATIONS

#endif
