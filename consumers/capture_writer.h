/* capture_writer.h: takes the full blocks of a staging to segments on disk.
 *
 * One thread steps the writer; it may wait for the disk as long as it likes, the poller goes on
 * filling. Blocks of a stream are written side by side and freed in order: what is free is on disk,
 * and so is all before it. Each block has its place (segment and number) in shared memory before
 * its write begins, so that a successor writes it there again. */
#ifndef SIGNALBUS_CAPTURE_WRITER_H
#define SIGNALBUS_CAPTURE_WRITER_H

#include "consumers/capture_disk.h"
#include "consumers/capture_staging.h"
#include "shm/histogram.h"

#include <pthread.h>

BUS_BEGIN_DECLARATIONS

#define BUS_WRITER_ATTEMPTS                                                                        \
  3u /* at a block that the file system refuses, each in a new segment                             \
      */

struct bus_writer_config {
  const char *directory; /* exists */
  struct bus_staging *staging;
  struct bus_disk *disk;
  uint64_t segment_bytes; /* most of a segment's file */
  uint64_t segment_ns;    /* a segment this old ends at the next block; 0: never */
  uint64_t flush_ns;      /* blocks that are being filled are written this often; 0: never */
  /* Called with the path of each segment that is complete. May be NULL. */
  void (*closed)(void *context, const char *path);
  void *context;
};

/* Where the writer counts; in the member's file, or private. None is NULL. */
struct bus_writer_counters {
  uint64_t *records;  /* on disk */
  uint64_t *blocks;   /* complete blocks on disk */
  uint64_t *bytes;    /* of them, and of META blocks and flushes */
  uint64_t *segments; /* closed */
  uint64_t *lost;     /* positions that are missing before and inside of blocks on disk */
  uint64_t *flushes;  /* blocks written before they were complete */
  uint64_t *errors;   /* refused, failed and short writes */
  uint64_t *buffered; /* segments opened without O_DIRECT */
  struct bus_histogram *write_ns; /* from the submission to the completion of a block */
};

/* The writer's private notes on a stream. */
struct bus_writer_stream {
  int fd; /* -1: no open segment */
  char path[512];
  uint64_t opened_ns;
  uint64_t allocated; /* bytes of the file that have room on disk */
  uint64_t sequence;  /* of the next block to submit */
  uint64_t expected;  /* position behind the last one submitted */
  uint64_t serial;    /* which stream this is about; 0: none */
  uint32_t under_way;
  uint32_t attempts;
  int error; /* errno of a failed write: the stream waits until nothing is under way */
  uint32_t stream_id;
  uint64_t meta_version; /* in the open segment */
};

/* What a META block of a stream says, handed over by the poller's housekeeping. */
struct bus_writer_meta {
  char *text;
  size_t size;
  uint64_t version;
  uint64_t serial; /* of the stream that it is about */
};

struct bus_writer {
  struct bus_writer_config config;
  struct bus_writer_counters counters;
  struct bus_writer_stream streams[BUS_STAGING_STREAMS_MAX];
  struct {
    uint64_t submitted_ns;
    uint64_t lost;
    uint32_t written; /* bytes, after short writes */
    uint32_t flushed; /* records that a flush has written */
    bool done;
  } blocks[BUS_STAGING_BLOCKS_MAX];
  pthread_mutex_t lock; /* of `metas` alone */
  struct bus_writer_meta metas[BUS_STAGING_STREAMS_MAX];
  void *scratch; /* block_size bytes, aligned */
  struct bus_disk_completion scratch_done;
  uint64_t flushed_ns;
  uint64_t retry_ns; /* full or broken: not before */
  int failure; /* why the last attempt failed: BUS_ERROR_NO_SPACE, BUS_ERROR_IO; else BUS_OK */
  char failure_message[512];
};

/* Prepares `writer` over a staging that was recovered. Returns BUS_OK, or BUS_ERROR_NO_SPACE with a
 * message. `config` and `counters` are copied. */
int bus_writer_init(struct bus_writer *writer, const struct bus_writer_config *config,
                    const struct bus_writer_counters *counters);

/* Hands over the text of a stream's META blocks, up to block_size - 64 bytes; it is copied. A text
 * that differs from the one before goes into the segment at its next block. The poller's
 * housekeeping. */
void bus_writer_set_meta(struct bus_writer *writer, uint32_t stream, const char *text, size_t size);

/* Reaps, submits, flushes, rotates, retires. Waits up to `wait_ns` for the disk when nothing else
 * is to be done. Returns the number of things done; BUS_ERROR_NO_SPACE when the disk is full or
 * BUS_ERROR_IO when it refuses BUS_WRITER_ATTEMPTS times, with a message: the segment at fault is
 * closed behind its last good block, nothing is lost, and a later call tries again (at most once a
 * second). The writer's thread. */
int bus_writer_step(struct bus_writer *writer, uint64_t now_ns, uint64_t wait_ns);

/* True when no complete block waits for the disk. The writer's thread. */
bool bus_writer_is_idle(const struct bus_writer *writer);

/* Waits for what is under way and closes all segments. The writer's thread, at the end. */
int bus_writer_finish(struct bus_writer *writer);

/* Frees what init took. The disk stays the caller's. */
void bus_writer_close(struct bus_writer *writer);

BUS_END_DECLARATIONS

#endif
