#include "tools/bench/bench_lines.h"

#include "producers/source_capture.h"
#include "producers/source_synthetic.h"
#include "tools/bench/bench_process.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Makes room for one more element of `size` bytes, doubling. */
static bool grow(void **array, uint64_t *capacity, uint64_t needed, size_t size)
{
  if (needed <= *capacity)
    return true;
  uint64_t larger = *capacity ? *capacity * 2 : 65536;
  while (larger < needed)
    larger *= 2;
  void *moved = realloc(*array, larger * size);
  if (!moved)
    return false;
  *array = moved;
  *capacity = larger;
  return true;
}

static int copy_lines(struct bench_lines *lines, struct bus_source *source, uint64_t limit)
{
  uint64_t byte_capacity = 0, line_capacity = 0;
  const char *line;
  size_t length;
  int result = 0;
  while (lines->count < limit && (result = bus_source_next(source, &line, &length)) > 0) {
    void *bytes = lines->bytes, *ends = lines->ends;
    bool roomy = grow(&bytes, &byte_capacity, lines->size + length, 1) &&
                 grow(&ends, &line_capacity, lines->count + 1, sizeof *lines->ends);
    lines->bytes = bytes;
    lines->ends = ends;
    if (!roomy)
      return bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", lines->name);
    memcpy(lines->bytes + lines->size, line, length);
    lines->size += length;
    lines->ends[lines->count++] = lines->size;
    if (bench_stopped())
      return bench_stop_error();
  }
  return result < 0 ? result : BUS_OK;
}

static struct bus_source *open_source(struct bench_lines *lines,
                                      const struct bench_capture *capture, uint64_t limit)
{
  if (!capture) {
    struct bus_source_synthetic_config synthetic;
    bus_source_synthetic_defaults(&synthetic);
    synthetic.lines = limit;
    snprintf(lines->name, sizeof lines->name, "synthetic");
    return bus_source_synthetic_open(&synthetic);
  }
  const char *slash = strrchr(capture->path, '/');
  snprintf(lines->name, sizeof lines->name, "%.60s", slash ? slash + 1 : capture->path);
  lines->usdm = capture->usdm;
  return bus_source_capture_open(capture->path);
}

int bench_lines_load(struct bench_lines *lines, const struct bench_capture *capture, uint64_t limit)
{
  memset(lines, 0, sizeof *lines);
  if (limit == 0)
    limit = capture ? UINT64_MAX : BENCH_SYNTHETIC_LINES;
  uint64_t start_ns = bench_now_ns();
  struct bus_source *source = open_source(lines, capture, limit);
  if (!source)
    return BUS_ERROR_IO; /* with its message */
  int error = copy_lines(lines, source, limit);
  bus_source_close(source);
  lines->load_ns = bench_now_ns() - start_ns;
  if (!error && lines->count == 0)
    error = bus_error_set(BUS_ERROR_FORMAT, "%s: holds no line", lines->name);
  return error;
}

void bench_lines_free(struct bench_lines *lines)
{
  free(lines->bytes);
  free(lines->ends);
  lines->bytes = NULL;
  lines->ends = NULL;
}

struct bus_feed *bench_lines_feed(const struct bench_lines *lines, const struct bus_feed_sink *sink)
{
  struct bus_feed_config config;
  bus_feed_config_defaults(&config);
  config.market = lines->usdm ? BUS_MARKET_USDM : BUS_MARKET_SPOT;
  config.sink = *sink;
  return bus_feed_new(&config);
}

struct table {
  struct bus_feature *features;
  uint64_t count;
};

static struct bus_feature *reserve(void *context)
{
  struct table *table = context;
  return &table->features[table->count];
}

static void commit(void *context)
{
  struct table *table = context;
  if (table->features[table->count].flags & BUS_FEATURE_VALID)
    table->count++;
}

int64_t bench_lines_features(const struct bench_lines *lines, uint64_t limit,
                             struct bus_feature **features)
{
  struct table table = {.features = calloc(limit + 1, sizeof *table.features)};
  struct bus_feed_sink sink = {reserve, commit, &table};
  struct bus_feed *feed = table.features ? bench_lines_feed(lines, &sink) : NULL;
  *features = table.features;
  if (!feed)
    return table.features ? BUS_ERROR_INVALID : bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  for (uint64_t i = 0; i < lines->count && table.count < limit; i++) {
    size_t length;
    const char *line = bench_lines_at(lines, i, &length);
    bus_feed_line(feed, line, length, 0);
  }
  bus_feed_delete(feed);
  if (table.count == 0)
    return bus_error_set(BUS_ERROR_FORMAT,
                         "%s: makes no valid feature; is it a capture of this --market?",
                         lines->name);
  return (int64_t)table.count;
}
