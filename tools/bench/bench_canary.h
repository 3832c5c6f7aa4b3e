/* bench_canary.h: raw cache-line ping-pong between two cores: how fast the machine is just now. */
#ifndef TOOLS_BENCH_CANARY_H
#define TOOLS_BENCH_CANARY_H

/* One line each way between two pinned processes; the median of short runs. The mean round trip in
 * ns, or a negative error with a message. Takes some milliseconds. The caller ends up on
 * cores[0]. */
double bench_canary_ns(const int cores[2]);

#endif
