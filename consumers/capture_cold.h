/* capture_cold.h: compresses segments that are complete, in a thread of the lowest priority.
 *
 * MEMBER.RING.SEGMENT.npy becomes .npy.zst: one zstd frame for the header and one for each block,
 * so that a reader finds a block by counting frames. The file is replaced when the compressed one
 * is whole and on disk; whatever goes wrong, the segment stays as it was. */
#ifndef SIGNALBUS_CAPTURE_COLD_H
#define SIGNALBUS_CAPTURE_COLD_H

#include "consumers/capture_format.h"

BUS_BEGIN_DECLARATIONS

struct bus_cold;

struct bus_cold_counters {
  uint64_t *compressed; /* segments */
  uint64_t *failed;     /* segments that stay as they are */
  uint64_t *bytes;      /* of the compressed files */
};

/* Starts the thread. `level`: zstd's, 1..19. Returns BUS_OK, or a negative error with a message. */
int bus_cold_new(int level, const struct bus_cold_counters *counters, struct bus_cold **cold);

/* Puts a segment into the queue; one that finds it full stays as it is, counted. Any one thread. */
void bus_cold_add(struct bus_cold *cold, const char *path);

/* Waits until the queue is empty, and ends the thread. NULL is allowed. */
void bus_cold_close(struct bus_cold *cold);

/* What the thread does with one file. Returns BUS_OK, or a negative error with a message. `bytes`
 * is the size of the compressed file. Any thread. */
int bus_cold_compress(const char *path, int level, uint64_t *bytes);

BUS_END_DECLARATIONS

#endif
