/* replay_statistics.h: how a capture's records came: rates, distances, latencies, gaps. */
#ifndef TOOLS_REPLAY_STATISTICS_H
#define TOOLS_REPLAY_STATISTICS_H

#include "consumers/capture_check.h"
#include "consumers/capture_merge.h"
#include "shm/histogram.h"

/* Equal parts of the time, for plots. */
#define REPLAY_STATISTICS_PARTS 200u

/* Gaps that are kept; further ones are only counted. */
#define REPLAY_STATISTICS_GAPS_MAX 1000u

/* One stream. Durations by record times (capture_format.h), within the range. */
struct replay_stream_statistics {
  uint64_t records;
  uint64_t lost; /* records that are missing */
  uint64_t gaps;
  uint64_t first_ns; /* time of the first record; valid when records > 0, as the next */
  uint64_t last_ns;  /* of the last */
  uint64_t busiest;  /* most records in a whole second since the first record */
  struct bus_histogram interval_ns;       /* from a record to the next */
  struct bus_histogram queue_ns;          /* signals: feature's receipt to the start of inference */
  struct bus_histogram inference_ns;      /* signals: start to end of inference */
  struct bus_histogram total_ns;          /* signals: feature's receipt to the end of inference */
  double rates[REPLAY_STATISTICS_PARTS];  /* records/s in each part of the time */
  double losses[REPLAY_STATISTICS_PARTS]; /* missing records in each */
  uint64_t second_ns;                     /* the second that is counted now began here, with ... */
  uint64_t in_second;                     /* ... as many records so far */
};

struct replay_gap {
  uint32_t stream; /* index */
  uint64_t time_ns;
  uint64_t first; /* positions that are missing */
  uint64_t last;
};

struct replay_statistics {
  uint64_t begin_ns; /* what is divided into parts */
  uint64_t end_ns;
  uint32_t stream_count;
  struct replay_stream_statistics *streams; /* [stream_count] */
  struct replay_gap *gaps;                  /* [gap_count], at most REPLAY_STATISTICS_GAPS_MAX */
  uint32_t gap_count;
};

/* Reads what `range` selects. Returns BUS_OK, or a negative error with a message: those of
 * bus_capture_merge_open and _next. `watcher` may be NULL. *statistics is the caller's to free,
 * also after an error. Positions that an earlier cut left out on purpose are no gaps. */
int replay_statistics_take(struct bus_capture *capture, const struct bus_capture_range *range,
                           const struct bus_capture_watcher *watcher,
                           struct replay_statistics *statistics);
void replay_statistics_free(struct replay_statistics *statistics);

/* Percentiles, rates and gaps as SVG at `path`. BUS_OK or an error with a message. */
int replay_statistics_plot(const struct bus_capture *capture,
                           const struct replay_statistics *statistics, const char *path);

#endif
