/* feed_member.h: a feed on the bus: source -> feed -> feature ring, with its counters.
 *
 * The member's file holds the ring, the symbol table, the feed's counters, and the histogram of the
 * time from "line received" to "record committed". A feed that was killed and is started again on
 * the same source reads it from its start without publishing, until it is past the newest record in
 * the ring, and goes on from there: every record once. */
#ifndef SIGNALBUS_FEED_MEMBER_H
#define SIGNALBUS_FEED_MEMBER_H

#include "producers/feed.h"
#include "producers/source.h"
#include "shm/options.h"
#include "shm/subscription.h"

BUS_BEGIN_DECLARATIONS

#define BUS_FEED_RING "features"

struct bus_feed_member_config {
  struct bus_member_options options;
  struct bus_feed_config feed; /* its sink is set here */
  struct bus_source *source;   /* owned by the caller */
  const char *source_text;     /* for people: "synthetic, seed 1", a path, .. */
  uint64_t source_identity;    /* equal for the same input: then a killed feed resumes */
  double speed; /* by the lines' own stamps: 1 real time, 2 twice as fast; 0: no pacing */
  bool capture_timestamps; /* records carry the line's time instead of the bus clock */
  uint64_t ring_depth;     /* a power of two, 4..2^30 */
  uint32_t policy;         /* enum bus_policy */
  const char *consumer;    /* the reliable consumer; NULL with OVERWRITE */
  bool doorbell;           /* wake a sleeping consumer: for quiet markets and few cores */
  uint64_t seconds;        /* ends after this long; 0: when the source does */
};

struct bus_feed_member;

/* Creates the member and the feed; nothing flows yet. Returns BUS_OK, or with a message a negative
 * error: those of bus_member_new, BUS_ERROR_INVALID for a parameter, BUS_ERROR_NO_SPACE. One thread
 * creates, runs and deletes it. */
int bus_feed_member_new(const struct bus_feed_member_config *config,
                        struct bus_feed_member **result);

/* Runs until the source ends or a signal asks to stop. Returns BUS_OK or the source's error; the
 * member's state says the same (HALT, FAIL). */
int bus_feed_member_run(struct bus_feed_member *member);

/* What the feed has counted so far, oversize lines of the source included. The member's thread. */
void bus_feed_member_copy_counters(const struct bus_feed_member *member,
                                   struct bus_feed_counters *counters);

/* Leaves the bus and frees everything but the source. NULL is allowed. */
void bus_feed_member_delete(struct bus_feed_member *member);

/* Reads all of `source` through a feed and writes the records (128 bytes each, timestamp_ns the
 * line's time, stamp counting from 1) to the file `path`, with no bus. `config` is the feed's
 * configuration without its sink. Counters are copied to *counters. Returns the number of records
 * or a negative error. */
int64_t bus_feed_write_file(struct bus_source *source, const struct bus_feed_config *config,
                            const char *path, struct bus_feed_counters *counters);

BUS_END_DECLARATIONS

#endif
