/* top_view.h: what `top` shows of a bus: the lines, from a view of it. Internal to signal-busctl;
 * one thread. */
#ifndef SIGNALBUS_TOP_VIEW_H
#define SIGNALBUS_TOP_VIEW_H

#include "tools/busctl_sample.h"
#include "tools/top_page.h"

/* What the figures are of. */
enum top_span { TOP_INTERVAL, TOP_TOTAL, TOP_BOTH, TOP_SPANS };

/* Order of rows: as in the files; by rate; by how far behind or slow; each falling. */
enum top_order { TOP_BY_NAME, TOP_BY_RATE, TOP_BY_DELAY, TOP_ORDERS };

struct top_options {
  enum top_span span; /* TOP_BOTH: of latencies; else as TOP_INTERVAL */
  enum top_order order;
  bool blocks; /* bars are drawn with Unicode's block elements */
};

/* "name", "rate", "delay"; "interval", "total", "both". Static. */
const char *top_order_name(enum top_order order);
const char *top_span_name(enum top_span span);

/* Appends the tables: members, rings, records that readers lost, servers and
 * classes of bridges, latencies, counters that changed.
 */
void top_view_draw(struct top_page *page, const struct busctl_view *view,
                   const struct top_options *options);

/* A bar of `width` (1..32) columns that is filled to `share` (0..1; else cut). Returns `text`,
 * which has room for 4 * width + 1 bytes. Pure. */
char *top_bar(char *text, double share, int width, bool blocks);

#endif
