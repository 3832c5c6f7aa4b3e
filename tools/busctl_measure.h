/* busctl_measure.h: doctor --measure: runs the measurement, shows it as text, JSON and SVG.
 * Internal to signal-busctl. */
#ifndef SIGNALBUS_BUSCTL_MEASURE_H
#define SIGNALBUS_BUSCTL_MEASURE_H

#include "tools/busctl_describe.h"
#include "tools/ops/system_files.h"

#define BUSCTL_MEASURE_SECONDS_MAX 86400

/* Measures CPU `cpu` for `seconds` (1..BUSCTL_MEASURE_SECONDS_MAX), with progress on a terminal;
 * `ordinary` forgoes real-time priority; SIGINT and SIGTERM end it early, with what was measured.
 * Returns the description, the caller's, or NULL with a message. */
json_t *busctl_measure(const struct ops_system *system, int cpu, int64_t seconds, bool ordinary);

/* The same as a plot and tables on stdout. */
void busctl_measure_print(const json_t *measure);

/* And as a picture. BUS_OK or an error with a message. */
int busctl_measure_write_svg(const json_t *measure, const char *path);

#endif
