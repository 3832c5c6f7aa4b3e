/* bench_canary.h: how fast the machine is just now, by work that is always the same. */
#ifndef TOOLS_BENCH_CANARY_H
#define TOOLS_BENCH_CANARY_H

/* For benchmarks of two cores: raw cache-line ping-pong, one line each way between two pinned
 * processes; the median of short runs. The mean round trip in ns, or a negative error with a
 * message. Takes some milliseconds. The caller ends up on cores[0]. */
double bench_canary_ns(const int cores[2]);

/* For benchmarks of one core: BENCH_CANARY_CHAIN multiplications, each of the product before it, on
 * the caller's core; the median of short runs, in ns. Moves with the core's frequency and with who
 * shares it. */
#define BENCH_CANARY_CHAIN 100
double bench_canary_core_ns(void);

#endif
