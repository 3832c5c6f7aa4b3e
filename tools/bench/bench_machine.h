/* bench_machine.h: which machine the figures are from. */
#ifndef TOOLS_BENCH_MACHINE_H
#define TOOLS_BENCH_MACHINE_H

#include "tools/bench/bench_report.h"

/* Adds notes: CPU, kernel, clock, compiler. Once for each report, after bench_clock_init. */
void bench_machine_describe(struct bench_report *report);

/* Picks `needed` cores, waits for its turn, pins to the first, goes real time if asked and allowed,
 * and adds a note that says so. BUS_OK or an error. */
int bench_machine_prepare(struct bench_report *report, struct bench_options *options, int needed);

#endif
