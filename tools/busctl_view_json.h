/* busctl_view_json.h: a view of the bus as JSON, for `top --json` and the page of `metrics`. */
#ifndef SIGNALBUS_BUSCTL_VIEW_JSON_H
#define SIGNALBUS_BUSCTL_VIEW_JSON_H

#include "tools/busctl_describe.h"
#include "tools/busctl_sample.h"

/* {"directory", "interval_ns", "members": [..], "rings": [..], "positions": [..], "histograms":
 * [..], "counters_changed": [..]}: a new object, the caller's. signal-busctl(1) lists the keys. */
json_t *busctl_view_json(const struct busctl_view *view);

#endif
