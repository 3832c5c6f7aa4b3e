/* record_member.h: the recorder: follows rings as an observer, stages what it reads in its own
 * member file, and has it written.
 *
 * Threads: the poller (the run loop's thread) reads rings and fills blocks: it allocates nothing,
 * and enters the kernel only to keep house. The writer waits for the disk. A third one, of lowest
 * priority, compresses. Nobody on the bus waits for any of them, but with `block` the producers of
 * the rings that name this member as their consumer. */
#ifndef SIGNALBUS_RECORD_MEMBER_H
#define SIGNALBUS_RECORD_MEMBER_H

#include "consumers/capture_cold.h"
#include "consumers/capture_meta.h"
#include "consumers/capture_writer.h"
#include "shm/loop.h"
#include "shm/subscription.h"

BUS_BEGIN_DECLARATIONS

#define BUS_RECORD_RINGS_MAX   64u
#define BUS_RECORD_MEMBERS_MAX 128u

struct bus_record_ring {
  char member[BUS_NAME_BYTES];
  char ring[BUS_NAME_BYTES];
};

struct bus_record_config {
  const char *directory; /* of the bus */
  const char *name;
  const char *output; /* directory of the capture; made when it is missing */
  struct bus_record_ring rings[BUS_RECORD_RINGS_MAX];
  uint32_t ring_count; /* 0: every ring of every member */
  uint32_t block_size;
  uint32_t staging_blocks;
  uint64_t segment_bytes;
  uint64_t segment_ns; /* 0: never by age */
  uint64_t flush_ns;   /* 0: only complete blocks */
  int zstd_level;      /* 0: segments stay as they are */
  bool block;          /* be the reliable consumer of `rings` */
  bool from_now;       /* begin with the next record of a ring, not with the oldest */
  bool wait_when_full; /* go on when the disk is full or fails, and try again each second */
  bool no_queue;       /* pwrite in place of io_uring */
  mode_t mode;
  int numa_node;
  int core;
  bool small_pages;
};

/* A member that is attached; its rings' sources share the map. */
struct bus_record_neighbour {
  char name[BUS_NAME_BYTES];
  struct bus_neighbour *neighbour; /* NULL: unused */
  bool gone;                       /* drain, then detach */
};

/* A ring that is being recorded; its index is that of its stream in the staging. */
struct bus_record_source {
  bool active;
  bool drained;                    /* the last poll found nothing */
  struct bus_neighbour *neighbour; /* of its member; shared by its rings. Not with `reliable` */
  const struct bus_entry *entry;
  struct bus_subscription *reliable; /* NULL: observed */
  struct bus_observer observer;
  struct bus_staging_filler filler;
  uint64_t next; /* reliable: position behind the last one staged */
  uint32_t stream_id;
  uint8_t held_up_by; /* enum bus_gap_cause of the disk, since the last record; 0: by nothing */
  struct bus_meta_times began;
};

struct bus_record_counters {
  uint64_t *records;
  uint64_t *records_lost;
  uint64_t *gaps;
  uint64_t *streams;
  uint64_t *staging_blocks_max;
  uint64_t *staging_full;
};

/* What this process did. */
struct bus_record_totals {
  uint64_t records; /* on disk, those that a predecessor had staged included */
  uint64_t bytes;
  uint64_t segments;
  uint64_t gaps;    /* of those records: in its own ring `gaps` */
  uint64_t missing; /* positions that are missing before or between them */
  uint64_t staged;  /* read, and not on disk: for the next start */
  uint32_t rings;   /* of other members that were recorded ... */
  uint32_t resumed; /* ... of them from where the recorder before this one stopped */
};

struct bus_recorder {
  struct bus_record_config config;
  char output[400];  /* the whole path */
  bool other_output; /* than that of the process before */
  struct bus_member *member;
  struct bus_staging staging;
  struct bus_producer gaps;
  struct bus_writer writer;
  struct bus_disk *disk;
  struct bus_cold *cold;
  pthread_t thread;
  bool thread_runs;
  bool stop;         /* atomic: the writer writes what is staged, and ends */
  int32_t failure;   /* atomic: why the writer writes nothing now, or BUS_OK */
  bool pressed;      /* some ring found no free block */
  bool refused_ring; /* said once */
  bool refused_member;
  uint32_t rings_found;   /* of other members */
  uint32_t rings_resumed; /* of them: from where the process before this one stopped */
  struct bus_record_neighbour neighbours[BUS_RECORD_MEMBERS_MAX];
  struct bus_record_source sources[BUS_STAGING_STREAMS_MAX];
  uint32_t sources_end; /* no source at or behind it is active */
  struct bus_subscription reliable[BUS_RECORD_RINGS_MAX];
  int reliable_stream[BUS_RECORD_RINGS_MAX];
  bool recovered[BUS_STAGING_STREAMS_MAX]; /* streams of the process before */
  uint64_t resume[BUS_STAGING_STREAMS_MAX];
  uint64_t scanned_ns;
  uint64_t described_ns;
  struct bus_record_totals before; /* the counters when this process began */
  struct bus_record_counters counters;
};

/* Becomes a member, takes up what a killed predecessor staged, opens the disk and starts the
 * threads. Errors, with a message: those of bus_member_new; BUS_ERROR_BUSY too when a predecessor's
 * records wait for other options than these; BUS_ERROR_IO, BUS_ERROR_DENIED (the output). */
int bus_recorder_new(const struct bus_record_config *config, struct bus_recorder **recorder);

/* Reads from every ring what there is, up to a limit. Returns the number of records. The loop's
 * work function; `context` is the recorder. */
int bus_recorder_work(void *context, struct bus_loop *loop);

/* Looks for new members and rings, follows replaced ones, counts. The loop's housekeeping. Returns
 * BUS_OK, or why the writer gave up: BUS_ERROR_NO_SPACE or BUS_ERROR_IO with a message. */
int bus_recorder_keep_house(void *context, struct bus_loop *loop);

/* Reads what there is, has everything written, closes the segments, leaves the bus with this state,
 * and frees. Returns BUS_OK or the writer's error with a message: then what could not be written
 * stays staged for the next start. */
int bus_recorder_close(struct bus_recorder *recorder, uint32_t state,
                       struct bus_record_totals *totals);

BUS_END_DECLARATIONS

#endif
