/* bridge_load.h: asks the bridge the question of http_load.h over and over, as a client member. */
#ifndef TOOLS_BENCH_BRIDGE_LOAD_H
#define TOOLS_BENCH_BRIDGE_LOAD_H

#include "shm/histogram.h"

#include <stdint.h>

struct bridge_load;

/* Makes the member "bench" on the bus `directory`, and waits until the bridge "bridge" there takes
 * its requests (10 s at most). Returns BUS_OK or a negative error with a message. */
int bridge_load_new(const char *directory, struct bridge_load **result);
void bridge_load_delete(struct bridge_load *load);

/* As http_load_run: `requests` in all, `outstanding` (1..256) at a time, with a sleep of
 * `interval_ns` (below 1 s) after each answer. Polls, giving its core away between two polls. */
int bridge_load_run(struct bridge_load *load, uint32_t outstanding, uint64_t requests,
                    uint64_t interval_ns, struct bus_histogram *latency_ns, uint64_t *took_ns);

/* Copies a histogram of the bridge's member file; empty when there is none of that name. */
int bridge_load_read(struct bridge_load *load, const char *name, struct bus_histogram *copy);

#endif
