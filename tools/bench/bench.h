/* bench.h: what the benchmarks share: their options, and the table that bus-bench picks from. */
#ifndef TOOLS_BENCH_H
#define TOOLS_BENCH_H

#include "shm/base.h"
#include "shm/error.h"

#include <getopt.h>

#define BENCH_REPEAT_MAX   50
#define BENCH_CAPTURES_MAX 8

/* A capture file and the market whose messages it holds. */
struct bench_capture {
  const char *path;
  bool usdm;
};

/* Options of every benchmark; each uses the ones that its help names. */
struct bench_options {
  uint32_t repeat;
  const char *json_path; /* NULL: none */
  const char *svg_path;  /* NULL: none */
  const char *directory; /* where the temporary bus is made */
  struct bench_capture captures[BENCH_CAPTURES_MAX];
  uint32_t capture_count;
  const char *model_path;
  const char *engine_kind;
  int cores[2]; /* -1: chosen by the benchmark */
  uint64_t count;
  uint64_t interval_ns;
  uint32_t idle; /* enum bus_idle */
  uint32_t batch_max;
  uint32_t record_size;
  bool fifo; /* ask for SCHED_FIFO */
  bool small_pages;
  bool canary; /* watch the machine, and reject what was measured while it was not as usual */
};

/* Option numbers; a benchmark lists the ones that it takes. */
enum bench_option {
  BENCH_OPTION_REPEAT = 1,
  BENCH_OPTION_JSON,
  BENCH_OPTION_SVG,
  BENCH_OPTION_DIRECTORY,
  BENCH_OPTION_CAPTURE,
  BENCH_OPTION_MARKET,
  BENCH_OPTION_MODEL,
  BENCH_OPTION_ENGINE,
  BENCH_OPTION_CORES,
  BENCH_OPTION_COUNT,
  BENCH_OPTION_INTERVAL,
  BENCH_OPTION_IDLE,
  BENCH_OPTION_BATCH_MAX,
  BENCH_OPTION_RECORD_SIZE,
  BENCH_OPTION_NO_FIFO,
  BENCH_OPTION_NO_CANARY,
  BENCH_OPTION_SMALL_PAGES,
  BENCH_OPTION_HELP,
  BENCH_OPTION_VERSION,
  BENCH_OPTION_OWN /* and from here on: a benchmark's own, given to its take_option */
};

/* Fits in front of the terminator of a benchmark's own list. */
#define BENCH_COMMON_OPTIONS                                                                       \
  {"repeat", required_argument, NULL, BENCH_OPTION_REPEAT},                                        \
      {"json", required_argument, NULL, BENCH_OPTION_JSON},                                        \
      {"svg", required_argument, NULL, BENCH_OPTION_SVG},                                          \
      {"cores", required_argument, NULL, BENCH_OPTION_CORES},                                      \
      {"no-fifo", no_argument, NULL, BENCH_OPTION_NO_FIFO},                                        \
      {"no-canary", no_argument, NULL, BENCH_OPTION_NO_CANARY},                                    \
      {"help", no_argument, NULL, BENCH_OPTION_HELP},                                              \
      {"version", no_argument, NULL, BENCH_OPTION_VERSION},                                        \
  {                                                                                                \
    NULL, 0, NULL, 0                                                                               \
  }

struct bench {
  const char *name;
  const char *summary; /* one line */
  const char *help;    /* usage and the benchmark's own options */
  const struct option *options;
  uint64_t count_default; /* 0: the benchmark decides */
  /* Takes one of its own options. NULL: it has none. BUS_OK or BUS_ERROR_INVALID. */
  int (*take_option)(int option, const char *value);
  /* Measures and reports. BUS_OK or a negative error with a message. */
  int (*run)(const struct bench_options *options);
};

extern const struct bench bench_feed;
extern const struct bench bench_tick;
extern const struct bench bench_ring;
extern const struct bench bench_replay;
extern const struct bench bench_record;
extern const struct bench bench_bridge;

#endif
