/* top_bridge.h: what `top` shows of bridges to language models: their servers and classes. Internal
 * to signal-busctl; one thread. */
#ifndef SIGNALBUS_TOP_BRIDGE_H
#define SIGNALBUS_TOP_BRIDGE_H

#include "tools/top_view.h"

/* Appends a table of servers and one of classes, where the bus has a bridge; first cells are
 * `label_width` columns wide. */
void top_bridge_draw(struct top_page *page, const struct busctl_view *view,
                     const struct top_options *options, int label_width);

#endif
