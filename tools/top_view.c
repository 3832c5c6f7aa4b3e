#include "tools/top_view.h"

#include "tools/top_bridge.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define BAR_COLUMNS 10
/* Of "member/name [unit]". */
#define LABEL_BYTES (2u * BUS_NAME_BYTES + 20u)

const char *top_order_name(enum top_order order)
{
  static const char *const names[] = {"name", "rate", "delay"};
  return names[order];
}

const char *top_span_name(enum top_span span)
{
  static const char *const names[] = {"interval", "total", "both"};
  return names[span];
}

char *top_bar(char *text, double share, int width, bool blocks)
{
  static const char *const eighths[] = {"",       "\u258f", "\u258e", "\u258d",
                                        "\u258c", "\u258b", "\u258a", "\u2589"};
  share = share > 0 ? share : 0;
  share = share < 1 ? share : 1;
  int parts = (int)(share * width * 8 + 0.5);
  /* What is not empty shows. */
  parts = share > 0 && parts == 0 ? 1 : parts;
  char *at = text;
  int column = 0;
  for (; column < parts / 8; column++)
    at = stpcpy(at, blocks ? "\u2588" : "#");
  if (parts % 8) {
    at = stpcpy(at, blocks ? eighths[parts % 8] : parts % 8 >= 4 ? "#" : "-");
    column++;
  }
  for (; column < width; column++)
    at = stpcpy(at, blocks ? "\u00b7" : ".");
  return text;
}

static char *label(char *text, const struct busctl_change *change)
{
  const char *of = change->item->unit; /* durations are shown with theirs */
  bool unit = change->item->type == BUS_OBJECT_HISTOGRAM && of[0] && strcmp(of, "ns");
  snprintf(text, LABEL_BYTES, unit ? "%.31s/%.31s [%.15s]" : "%.31s/%.31s", change->member->name,
           change->item->name, of);
  return text;
}

/* ---- rows and their order ---- */

struct rows {
  const struct busctl_change **at;
  size_t count;
};

struct order {
  double (*of)(const struct busctl_change *); /* NULL: as in the files */
};

static double rate_of(const struct busctl_change *change)
{
  switch (change->item->type) {
  case BUS_OBJECT_RING:
    return change->ring.records_per_s;
  case BUS_OBJECT_HISTOGRAM:
    return (double)change->interval->count;
  case BUS_OBJECT_COUNTER:
    return change->counter_per_s;
  default:
    return change->lost_per_s;
  }
}

static double delay_of(const struct busctl_change *change)
{
  switch (change->item->type) {
  case BUS_OBJECT_RING:
    return change->item->ring.lag_known ? (double)change->item->ring.lag : 0;
  case BUS_OBJECT_HISTOGRAM:
    return (double)bus_histogram_quantile(change->interval, 0.99);
  case BUS_OBJECT_COUNTER:
    return (double)change->item->counter;
  default:
    return (double)change->item->lost;
  }
}

static int compare_rows(const void *left, const void *right, void *context)
{
  const struct busctl_change *a = *(const struct busctl_change *const *)left;
  const struct busctl_change *b = *(const struct busctl_change *const *)right;
  const struct order *order = context;
  double first = order->of ? order->of(a) : 0, second = order->of ? order->of(b) : 0;
  if (first != second)
    return first < second ? 1 : -1;
  return a < b ? -1 : a > b; /* they lie in the order of the files */
}

/* Those of a type, which `wanted` (NULL: all) wants; free `at`. */
static struct rows select_rows(const struct busctl_view *view, enum bus_object_type type,
                               bool (*wanted)(const struct busctl_change *), enum top_order order)
{
  struct order falling = {order == TOP_BY_RATE ? rate_of : order == TOP_BY_DELAY ? delay_of : NULL};
  struct rows rows = {.at = calloc(view->now->item_count + 1, sizeof(void *))};
  for (size_t i = 0; rows.at && i < view->now->item_count; i++)
    if (view->changes[i].item->type == type && (!wanted || wanted(&view->changes[i])))
      rows.at[rows.count++] = &view->changes[i];
  if (rows.count > 1)
    qsort_r(rows.at, rows.count, sizeof(void *), compare_rows, &falling);
  return rows;
}

static bool has_changed(const struct busctl_change *change)
{
  return change->changed;
}

static bool has_lost(const struct busctl_change *change)
{
  return change->item->lost > 0;
}

/* As wide as the widest first cell, so that the figures stand as far left as they can, but not
 * wider than two fifths of a terminal. */
static int label_columns(const struct top_page *page, const struct busctl_view *view)
{
  char text[LABEL_BYTES];
  size_t width = strlen("COUNTER that changed");
  for (size_t i = 0; i < view->now->item_count; i++) {
    const struct busctl_change *change = &view->changes[i];
    size_t length = change->item->type == BUS_OBJECT_POSITION ||
                            (change->item->type == BUS_OBJECT_COUNTER && !change->changed)
                        ? 0
                        : strlen(label(text, change));
    width = length > width ? length : width;
  }
  for (size_t i = 0; i < view->now->member_count; i++) {
    size_t length = strlen(view->now->members[i].name);
    width = length > width ? length : width;
  }
  width = width < LABEL_BYTES ? width : LABEL_BYTES;
  if (page->width > 0 && (int)width > page->width * 2 / 5)
    return page->width * 2 / 5 > 12 ? page->width * 2 / 5 : 12;
  return (int)width;
}

/* ---- tables ---- */

static enum top_style status_style(enum bus_neighbour_status status)
{
  return status == BUS_NEIGHBOUR_ALIVE     ? TOP_GOOD
         : status == BUS_NEIGHBOUR_STALLED ? TOP_WARN
                                           : TOP_BAD;
}

static void draw_number(struct top_page *page, int64_t number)
{
  if (number < 0)
    top_page_cell(page, TOP_DIM, "-");
  else
    top_page_cell(page, TOP_PLAIN, "%" PRId64, number);
}

static void draw_members(struct top_page *page, const struct busctl_view *view, int label_width)
{
  const struct top_column columns[] = {{"MEMBER", -label_width, 0},
                                       {"KIND", -11, 5},
                                       {"STATUS", -8, 0},
                                       {"STATE", -5, 3},
                                       {"PID", 8, 6},
                                       {"EPOCH", 6, 2},
                                       {"BEAT", 7, 1},
                                       {"CORE", 4, 4},
                                       {"MEMORY", -11, 7}};
  char beat[32];
  top_page_table(page, columns, BUS_COUNT_OF(columns));
  for (size_t i = 0; i < view->now->member_count; i++) {
    const struct busctl_member *member = &view->now->members[i];
    if (!member->attached) {
      top_page_line(page, TOP_DIM, "%.*s not a member: %s",
                    (int)top_text_bytes(member->name, (size_t)label_width), member->name,
                    bus_error_name(member->error));
      continue;
    }
    enum top_style style = status_style(member->status);
    top_page_row(page);
    top_page_cell(page, TOP_PLAIN, "%s", member->name);
    top_page_cell(page, TOP_PLAIN, "%s", member->kind);
    top_page_cell(page, style, "%s", bus_neighbour_status_name(member->status));
    top_page_cell(page, member->state == BUS_STATE_RUN ? TOP_PLAIN : TOP_WARN, "%s",
                  bus_state_name(member->state));
    top_page_cell(page, TOP_PLAIN, "%u", member->pid);
    top_page_cell(page, TOP_PLAIN, "%" PRIu64, member->epoch);
    top_page_cell(page, style == TOP_GOOD ? TOP_PLAIN : style, "%s",
                  top_duration(beat, sizeof beat, member->heartbeat_age_ns));
    draw_number(page, member->core);
    top_page_cell(page, TOP_PLAIN, "%s", bus_backing_name(member->backing));
  }
}

static void draw_count(struct top_page *page, bool total, uint64_t count, double per_s,
                       enum top_style alert)
{
  double figure = total ? (double)count : per_s;
  top_page_cell(page, figure > 0 ? alert : TOP_PLAIN, "%.0f", figure);
}

static void draw_ring(struct top_page *page, const struct busctl_change *change,
                      const struct top_options *options)
{
  const struct busctl_ring *ring = &change->item->ring;
  bool total = options->span == TOP_TOTAL;
  double share = ring->lag_known ? (double)ring->lag / (double)ring->depth : 0;
  enum top_style style = share >= 0.9 ? TOP_BAD : share >= 0.5 ? TOP_WARN : TOP_BAR;
  char text[LABEL_BYTES], bar[4 * BAR_COLUMNS + 1], age[32] = "-";
  top_page_row(page);
  top_page_cell(page, TOP_PLAIN, "%s", label(text, change));
  draw_count(page, total, ring->committed, change->ring.records_per_s, TOP_PLAIN);
  if (ring->lag_known) {
    top_page_cell(page, style, "%s", top_bar(bar, share, BAR_COLUMNS, options->blocks));
    top_page_cell(page, style == TOP_BAR ? TOP_PLAIN : style, "%.2f", 100 * share);
    top_page_cell(page, TOP_PLAIN, "%" PRIu64, ring->lag);
  } else {
    top_page_cell(page, TOP_DIM, "no reader");
    top_page_cell(page, TOP_DIM, "-");
    top_page_cell(page, TOP_DIM, "-");
  }
  if (ring->age_known)
    top_duration(age, sizeof age, ring->newest_age_ns);
  top_page_cell(page, TOP_PLAIN, "%s", age);
  draw_count(page, total, ring->dropped, change->ring.dropped_per_s, TOP_BAD);
  draw_count(page, total, ring->waits, change->ring.waits_per_s, TOP_WARN);
  top_page_cell(page, TOP_PLAIN, "%" PRIu64, ring->depth);
}

static void draw_rings(struct top_page *page, const struct busctl_view *view,
                       const struct top_options *options, int label_width)
{
  bool total = options->span == TOP_TOTAL;
  const struct top_column columns[] = {{"RING", -label_width, 0},
                                       {total ? "records" : "records/s", 11, 0},
                                       {"used", -BAR_COLUMNS, 3},
                                       {"used %", 6, 5},
                                       {"lag", 8, 1},
                                       {"newest", 7, 4},
                                       {total ? "dropped" : "dropped/s", 9, 2},
                                       {total ? "waits" : "waits/s", 9, 6},
                                       {"depth", 8, 7}};
  struct rows rows = select_rows(view, BUS_OBJECT_RING, NULL, options->order);
  top_page_table(page, columns, BUS_COUNT_OF(columns));
  for (size_t i = 0; i < rows.count; i++)
    draw_ring(page, rows.at[i], options);
  free(rows.at);
}

static void draw_losses(struct top_page *page, const struct busctl_view *view,
                        const struct top_options *options, int label_width)
{
  static const char title[] = "READER that lost";
  const struct top_column columns[] = {
      {title, -label_width, 0}, {"records", 11, 0}, {"lost/s", 9, 1}, {"of", -32, 2}};
  struct rows rows = select_rows(view, BUS_OBJECT_POSITION, has_lost, options->order);
  if (rows.count > 0)
    top_page_table(page, columns, BUS_COUNT_OF(columns));
  for (size_t i = 0; i < rows.count; i++) {
    const struct busctl_change *change = rows.at[i];
    top_page_row(page);
    top_page_cell(page, TOP_PLAIN, "%s", change->member->name);
    top_page_cell(page, TOP_WARN, "%" PRIu64, change->item->lost);
    top_page_cell(page, change->lost_per_s > 0 ? TOP_BAD : TOP_PLAIN, "%.0f", change->lost_per_s);
    top_page_cell(page, TOP_PLAIN, "%s/%s", change->item->peer, change->item->name);
  }
  free(rows.at);
}

static void draw_figure(struct top_page *page, const struct busctl_item *item, uint64_t figure)
{
  char text[32];
  if (!strcmp(item->unit, "ns"))
    top_page_cell(page, TOP_PLAIN, "%s", top_duration(text, sizeof text, figure));
  else
    top_page_cell(page, TOP_PLAIN, "%" PRIu64, figure);
}

static void draw_histogram(struct top_page *page, const struct busctl_change *change, bool total,
                           bool labelled)
{
  static const double quantiles[] = {0.5, 0.9, 0.99, 0.999};
  const struct bus_histogram *histogram = total ? change->item->histogram : change->interval;
  char text[LABEL_BYTES];
  top_page_row(page);
  top_page_cell(page, TOP_PLAIN, "%s", labelled ? label(text, change) : "");
  top_page_cell(page, TOP_DIM, "%s", total ? "all" : "now");
  for (size_t i = 0; i < BUS_COUNT_OF(quantiles); i++)
    draw_figure(page, change->item, bus_histogram_quantile(histogram, quantiles[i]));
  draw_figure(page, change->item, histogram->count ? histogram->maximum : 0);
  top_page_cell(page, TOP_PLAIN, "%" PRIu64, histogram->count);
}

static void draw_histograms(struct top_page *page, const struct busctl_view *view,
                            const struct top_options *options, int label_width)
{
  const struct top_column columns[] = {{"LATENCY", -label_width, 0},
                                       {"span", -4, 4},
                                       {"p50", 8, 0},
                                       {"p90", 8, 3},
                                       {"p99", 8, 1},
                                       {"p99.9", 8, 5},
                                       {"max", 9, 2},
                                       {"count", 11, 6}};
  struct rows rows = select_rows(view, BUS_OBJECT_HISTOGRAM, NULL, options->order);
  top_page_table(page, columns, BUS_COUNT_OF(columns));
  for (size_t i = 0; i < rows.count; i++) {
    if (options->span != TOP_INTERVAL)
      draw_histogram(page, rows.at[i], true, true);
    if (options->span != TOP_TOTAL)
      draw_histogram(page, rows.at[i], false, options->span != TOP_BOTH);
  }
  free(rows.at);
}

static void draw_counters(struct top_page *page, const struct busctl_view *view,
                          const struct top_options *options, int label_width)
{
  const struct top_column columns[] = {{"COUNTER that changed", -label_width, 0},
                                       {"value", 16, 0},
                                       {"per s", 12, 1},
                                       {"unit", -15, 2}};
  struct rows rows = select_rows(view, BUS_OBJECT_COUNTER, has_changed, options->order);
  char text[LABEL_BYTES];
  top_page_table(page, columns, BUS_COUNT_OF(columns));
  for (size_t i = 0; i < rows.count; i++) {
    top_page_row(page);
    top_page_cell(page, TOP_PLAIN, "%s", label(text, rows.at[i]));
    top_page_cell(page, TOP_PLAIN, "%" PRIu64, rows.at[i]->item->counter);
    if (!busctl_item_has_rate(rows.at[i]->item))
      top_page_cell(page, TOP_DIM, "-");
    else
      top_page_cell(page, TOP_PLAIN, "%.0f", rows.at[i]->counter_per_s);
    top_page_cell(page, TOP_DIM, "%s", rows.at[i]->item->unit);
  }
  free(rows.at);
}

void top_view_draw(struct top_page *page, const struct busctl_view *view,
                   const struct top_options *options)
{
  int label_width = label_columns(page, view);
  draw_members(page, view, label_width);
  draw_rings(page, view, options, label_width);
  draw_losses(page, view, options, label_width);
  top_bridge_draw(page, view, options, label_width);
  draw_histograms(page, view, options, label_width);
  draw_counters(page, view, options, label_width);
}
