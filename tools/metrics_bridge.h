/* metrics_bridge.h: what Prometheus hears of the servers and classes of bridges, each with a label
 * of its own. Internal to signal-busctl; one thread. */
#ifndef SIGNALBUS_METRICS_BRIDGE_H
#define SIGNALBUS_METRICS_BRIDGE_H

#include "tools/busctl_sample.h"

#include <stdio.h>

/* Writes the families signalbus_llm_.., nothing where there is no bridge. */
void metrics_bridge_write(FILE *file, const struct busctl_sample *sample);

#endif
