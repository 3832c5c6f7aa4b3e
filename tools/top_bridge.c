#include "tools/top_bridge.h"

#include "tools/bridge_view.h"

#include <inttypes.h>

/* What is drawn of: the view, and whether its totals or its rates are wanted. */
struct drawing {
  struct top_page *page;
  const struct busctl_view *view;
  bool total;
};

static const struct busctl_change *change_of(const struct drawing *drawing,
                                             const struct busctl_item *item)
{
  return &drawing->view->changes[item - drawing->view->now->items];
}

static void draw_level(const struct drawing *drawing, const struct busctl_item *item)
{
  top_page_cell(drawing->page, TOP_PLAIN, "%" PRIu64, item->counter);
}

/* `alert` is the style of what is not 0. */
static void draw_events(const struct drawing *drawing, const struct busctl_item *item,
                        enum top_style alert)
{
  double figure = drawing->total ? (double)item->counter : change_of(drawing, item)->counter_per_s;
  top_page_cell(drawing->page, figure > 0 ? alert : TOP_PLAIN,
                drawing->total || figure >= 100 || figure <= 0 ? "%.0f" : "%.2f", figure);
}

static void draw_quantile(const struct drawing *drawing, const struct busctl_item *item,
                          double quantile)
{
  const struct bus_histogram *histogram =
      drawing->total ? item->histogram : change_of(drawing, item)->interval;
  char text[32];
  if (histogram->count)
    top_page_cell(drawing->page, TOP_PLAIN, "%s",
                  top_duration(text, sizeof text, bus_histogram_quantile(histogram, quantile)));
  else
    top_page_cell(drawing->page, TOP_DIM, "-");
}

static void draw_server(const struct drawing *drawing, const struct bridge_server *server)
{
  uint64_t breaker = server->breaker->counter;
  top_page_row(drawing->page);
  top_page_cell(drawing->page, TOP_PLAIN, "%.31s/%.31s", server->member->name, server->name);
  top_page_cell(drawing->page,
                breaker == 0   ? TOP_GOOD
                : breaker == 1 ? TOP_BAD
                               : TOP_WARN,
                "%s", bridge_breaker_name(breaker));
  draw_level(drawing, server->in_flight);
  draw_events(drawing, server->succeeded, TOP_PLAIN);
  draw_events(drawing, server->tokens, TOP_PLAIN);
  draw_quantile(drawing, server->first_token_ns, 0.5);
  draw_quantile(drawing, server->first_token_ns, 0.99);
  draw_events(drawing, server->failed, TOP_BAD);
  draw_events(drawing, server->timed_out, TOP_WARN);
  draw_events(drawing, server->abandoned, TOP_PLAIN);
}

static void draw_servers(const struct drawing *drawing, int label_width)
{
  const bool total = drawing->total;
  const struct top_column columns[] = {{"SERVER", -label_width, 0},
                                       {"breaker", -7, 0},
                                       {"busy", 5, 1},
                                       {total ? "answers" : "answers/s", 9, 5},
                                       {total ? "tokens" : "tokens/s", 10, 2},
                                       {"1st p50", 8, 4},
                                       {"1st p99", 8, 6},
                                       {total ? "failed" : "failed/s", 8, 3},
                                       {total ? "timeouts" : "timeout/s", 9, 7},
                                       {total ? "left" : "left/s", 7, 8}};
  struct bridge_server server;
  for (size_t at = 0, rows = 0; bridge_next_server(drawing->view->now, &at, &server); rows++) {
    if (rows == 0)
      top_page_table(drawing->page, columns, BUS_COUNT_OF(columns));
    draw_server(drawing, &server);
  }
}

static void draw_classes(const struct drawing *drawing, int label_width)
{
  const bool total = drawing->total;
  const struct top_column columns[] = {{"CLASS", -label_width, 0},
                                       {"waiting", 7, 0},
                                       {total ? "accepted" : "accepted/s", 10, 1},
                                       {total ? "rejected" : "rejected/s", 10, 2},
                                       {"wait p50", 8, 5},
                                       {"wait p99", 8, 4},
                                       {"all p50", 8, 6},
                                       {"all p99", 8, 3}};
  struct bridge_class class;
  for (size_t at = 0, rows = 0; bridge_next_class(drawing->view->now, &at, &class); rows++) {
    if (rows == 0)
      top_page_table(drawing->page, columns, BUS_COUNT_OF(columns));
    top_page_row(drawing->page);
    top_page_cell(drawing->page, TOP_PLAIN, "%.31s/%.31s", class.member->name, class.name);
    draw_level(drawing, class.waiting);
    draw_events(drawing, class.accepted, TOP_PLAIN);
    draw_events(drawing, class.rejected, TOP_WARN);
    draw_quantile(drawing, class.queue_ns, 0.5);
    draw_quantile(drawing, class.queue_ns, 0.99);
    draw_quantile(drawing, class.total_ns, 0.5);
    draw_quantile(drawing, class.total_ns, 0.99);
  }
}

void top_bridge_draw(struct top_page *page, const struct busctl_view *view,
                     const struct top_options *options, int label_width)
{
  const struct drawing drawing = {page, view, options->span == TOP_TOTAL};
  draw_servers(&drawing, label_width);
  draw_classes(&drawing, label_width);
}
