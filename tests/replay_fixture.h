/* replay_fixture.h: small captures for tests, made through replay_output.h. */
#ifndef TESTS_REPLAY_FIXTURE_H
#define TESTS_REPLAY_FIXTURE_H

#include "tools/replay_output.h"

#include <string.h>

#define REPLAY_FIXTURE_BEGIN_NS ((uint64_t)1000000000000)
#define REPLAY_FIXTURE_STEP_NS  ((uint64_t)1000000)

struct replay_fixture {
  const char *directory;
  uint32_t features;      /* of feed.features; each has a signal of infer.signals, and each 10th
                             a note of record.gaps and 64 bytes of raw.data */
  uint32_t block_size;    /* 0: 4096 */
  uint64_t segment_bytes; /* 0: one segment for each stream */
  uint32_t gap_at;        /* 10 features are missing from there on; 0: none */
  uint64_t first;         /* position of the first feature */
  float score;            /* of all signals: what two captures may differ in */
  bool other_latencies;   /* queue_ns, inference_ns and batch as another run would have them */
};

/* BUS_OK, or a negative error with a message. */
int replay_fixture_write(const struct replay_fixture *fixture);

/* Feature `index` of a fixture, as it is written, with the stamp for `position`. */
void replay_fixture_feature(uint32_t index, uint64_t position, struct bus_feature *feature);

#endif
