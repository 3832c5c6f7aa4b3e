/* http_load.h: asks an HTTP server the same question over and over, for the paths that bus-bench
 * compares the bridge with: straight to the server, and through other gateways. It uses the
 * bridge's own transport (epoll) and parser, so that what differs between the paths is the gateway.
 */
#ifndef TOOLS_BENCH_HTTP_LOAD_H
#define TOOLS_BENCH_HTTP_LOAD_H

#include "shm/histogram.h"

#include <stdint.h>

/* The prompt of every question of the benchmark, and the limit of its answer. */
#define LOAD_PROMPT                                                                                \
  "BTCUSDT: bid 64123.4, ask 64123.5, imbalance 0.31. One word: buy, hold or sell?"
#define LOAD_TOKENS_MAX 4u

struct http_load {
  uint16_t port;             /* on 127.0.0.1 */
  const char *authorization; /* header's value */
  const char *model;
  uint32_t connections; /* questions at a time, 1..256 */
  uint64_t requests;    /* how many in all */
};

/* Runs it; records each question's time, sent to whole answer, in `latency_ns`, and the whole run's
 * in *took_ns. A connection that the server closes is opened anew. Returns BUS_OK or a negative
 * error with a message: an answer that is not the double's is one. */
int http_load_run(const struct http_load *load, struct bus_histogram *latency_ns,
                  uint64_t *took_ns);

#endif
