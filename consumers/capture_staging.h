/* capture_staging.h: a recorder's blocks between the rings and the disk, in its own member file.
 *
 * Records are copied from a ring straight into the block of the capture that will be written, in
 * shared memory: whatever kills the recorder, its successor writes these blocks and goes on behind
 * the last record in them. Two threads of the recorder share the object: the poller fills blocks,
 * the writer writes and frees them. A block goes round:
 *
 *   FREE -> FILLING (poller) -> FULL (poller) -> FREE (writer, when it is on disk)
 *
 * Orderings: `state` and `count` are stored with release after what they announce, and loaded with
 * acquire before it is read; so is the state of a stream. */
#ifndef SIGNALBUS_CAPTURE_STAGING_H
#define SIGNALBUS_CAPTURE_STAGING_H

#include "consumers/capture_format.h"
#include "shm/layout.h"

BUS_BEGIN_DECLARATIONS

#define BUS_STAGING_STREAMS_MAX 128u
#define BUS_STAGING_BLOCKS_MAX  1024u
#define BUS_STAGING_NO_PLACE    UINT32_MAX

enum bus_staging_block_state {
  BUS_STAGING_FREE = 0,
  BUS_STAGING_FILLING = 1,
  BUS_STAGING_FULL = 2 /* complete; waits for the disk, or is on its way */
};

enum bus_staging_segment_state {
  BUS_SEGMENT_CLOSED = 0,
  BUS_SEGMENT_OPEN = 1,
  BUS_SEGMENT_CREATING = 2 /* its file may exist and hold nothing yet */
};

/* One ring of one instance of its member's file. A replaced file is another stream. */
struct bus_staging_stream {
  char member[BUS_NAME_BYTES];
  char ring[BUS_NAME_BYTES];
  uint64_t instance;
  uint64_t serial;  /* streams of one name follow each other by it */
  uint64_t durable; /* writer: position behind the last record on disk; poller, first: the start */
  uint64_t written; /* writer: blocks up to here are on disk; the sequence of the next */
  uint64_t depth;
  uint32_t used;  /* 0: free. Stored last by the poller; taken back by the writer */
  uint32_t ended; /* poller: no more records will come */
  uint32_t record_type;
  uint32_t record_size;
  uint32_t segment;       /* writer: its number, valid unless CLOSED; then that of the last */
  uint32_t segment_state; /* writer: enum bus_staging_segment_state */
  uint32_t blocks;        /* writer: blocks used in it */
  uint32_t rotate;        /* writer: asks the poller to complete the block it fills */
  uint32_t has_segment;   /* writer: `segment` was used at least once */
  uint8_t reserved0[116];
};
BUS_STATIC_ASSERT(sizeof(struct bus_staging_stream) == 256, "streams fill their table");

struct bus_staging_block {
  uint32_t state; /* enum bus_staging_block_state */
  uint32_t stream;
  uint64_t sequence; /* of the block in its stream, 0.. */
  uint64_t first_seen_ns;
  uint64_t last_seen_ns;
  uint32_t count;   /* poller: whole records in it */
  uint32_t segment; /* writer: its place on disk, once it has one: it is written there again ... */
  uint32_t number;  /* ... until it is complete; BUS_STAGING_NO_PLACE: none */
  uint8_t reserved0[20];
};
BUS_STATIC_ASSERT(sizeof(struct bus_staging_block) == 64, "blocks fill their table");

/* A process's view of the object. */
struct bus_staging {
  struct bus_staging_stream *streams; /* [BUS_STAGING_STREAMS_MAX] */
  struct bus_staging_block *blocks;   /* [depth] */
  unsigned char *data;
  uint32_t block_size;
  uint32_t depth;
};

/* The place where the poller puts the next record of a stream; private to it. */
struct bus_staging_filler {
  struct bus_staging *staging;
  struct bus_staging_block *block; /* NULL: none */
  unsigned char *record;           /* where the next one goes */
  uint64_t sequence;               /* of the block to come */
  uint32_t stream;
  uint32_t record_size;
  uint32_t capacity;
  uint32_t hint; /* where the search for a free block begins */
};

/* `memory` is the owner's STAGING object, `entry` its entry. */
void bus_staging_init(struct bus_staging *staging, void *memory, const struct bus_entry *entry);

/* After a takeover, before either thread starts: what the predecessor was filling counts as full,
 * and what makes no sense is given up. Returns the number of records that wait for the disk. */
uint64_t bus_staging_recover(struct bus_staging *staging);

/* The bytes of a block: a struct bus_capture_block and records. */
static inline unsigned char *bus_staging_data(const struct bus_staging *staging, uint32_t block)
{
  return staging->data + (size_t)block * staging->block_size;
}

/* The index of a new stream, which the caller fills and then announces by storing `used`; negative
 * (BUS_ERROR_NO_SPACE with a message) when all are taken. Its serial is above all others. The
 * poller. */
int bus_staging_stream_new(struct bus_staging *staging);

/* Position behind the last record of this stream, staged or on disk. The poller, before it fills;
 * the writer must not run. */
uint64_t bus_staging_stream_next(const struct bus_staging *staging, uint32_t stream);

/* Starts filling `stream`. The poller. */
void bus_staging_filler_init(struct bus_staging_filler *filler, struct bus_staging *staging,
                             uint32_t stream);

/* Takes a free block; false when there is none: the disk is behind. The poller. */
bool bus_staging_filler_begin(struct bus_staging_filler *filler, uint64_t now_ns);

/* Completes the block that is being filled, if it holds anything. The poller. */
void bus_staging_filler_finish(struct bus_staging_filler *filler);

/* Blocks that are not free. Any thread. */
uint32_t bus_staging_blocks_used(const struct bus_staging *staging);

/* Where the next record goes, or NULL as bus_staging_filler_begin. The poller. */
static BUS_ALWAYS_INLINE void *bus_staging_reserve(struct bus_staging_filler *filler,
                                                   uint64_t now_ns)
{
  if (BUS_UNLIKELY(!filler->block) && !bus_staging_filler_begin(filler, now_ns))
    return NULL;
  return filler->record;
}

/* The record there is whole. The poller. */
static BUS_ALWAYS_INLINE void bus_staging_commit(struct bus_staging_filler *filler)
{
  uint32_t count = filler->block->count + 1;
  filler->record += filler->record_size;
  BUS_STORE_RELEASE(&filler->block->count, count);
  if (BUS_UNLIKELY(count == filler->capacity))
    bus_staging_filler_finish(filler);
}

BUS_END_DECLARATIONS

#endif
