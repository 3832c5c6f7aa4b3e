/* bench_lines.h: exchange messages in memory, so that neither a disk nor zlib is measured. */
#ifndef TOOLS_BENCH_LINES_H
#define TOOLS_BENCH_LINES_H

#include "producers/feed.h"
#include "tools/bench/bench.h"

/* Lines of the synthetic exchange when no capture is named. */
#define BENCH_SYNTHETIC_LINES 200000u

struct bench_lines {
  char name[64]; /* for people: the file's name, or "synthetic" */
  bool usdm;
  char *bytes;
  size_t size;
  uint64_t *ends; /* line i is bytes[ends[i-1]..ends[i]) */
  uint64_t count;
  uint64_t load_ns; /* reading and decompressing, or making up */
};

/* Reads the first `limit` lines (0: all) of a capture; with `capture` NULL `limit` lines (0:
 * BENCH_SYNTHETIC_LINES) of the synthetic exchange. Returns BUS_OK or a negative error; free with
 * bench_lines_free in either case. */
int bench_lines_load(struct bench_lines *lines, const struct bench_capture *capture,
                     uint64_t limit);
void bench_lines_free(struct bench_lines *lines);

static BUS_ALWAYS_INLINE const char *bench_lines_at(const struct bench_lines *lines, uint64_t index,
                                                    size_t *length)
{
  uint64_t start = index ? lines->ends[index - 1] : 0;
  *length = (size_t)(lines->ends[index] - start);
  return lines->bytes + start;
}

/* A feed for these lines whose records go to `sink`; NULL with a message. */
struct bus_feed *bench_lines_feed(const struct bench_lines *lines,
                                  const struct bus_feed_sink *sink);

/* The first records, `limit` at most, that the lines make and that are VALID. The caller frees
 * *features. Returns how many, or a negative error. */
int64_t bench_lines_features(const struct bench_lines *lines, uint64_t limit,
                             struct bus_feature **features);

#endif
