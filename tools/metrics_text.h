/* metrics_text.h: a sample of the bus in Prometheus's text format, version 0.0.4. Internal to
 * signal-busctl; one thread. */
#ifndef SIGNALBUS_METRICS_TEXT_H
#define SIGNALBUS_METRICS_TEXT_H

#include "tools/busctl_sample.h"

/* Writes all metrics; signal-busctl-metrics(1) lists them. `sample` NULL: the bus cannot be read,
 * which is a metric too; `directory` names it. `age_ns`: of the sample. Names come from whoever
 * wrote the files: two objects of a member that would make one series are written once, the first.
 */
void metrics_text_write(FILE *file, const char *directory, const struct busctl_sample *sample,
                        uint64_t age_ns);

#endif
