#include "tools/busctl_sample.h"
#include "tools/busctl_view_json.h"
#include "tools/top_screen.h"
#include "tools/top_view.h"

#include "shm/clock.h"
#include "shm/options.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl top [--bus DIR] [--interval-ms MS] [--count N] [--once] [--json]\n"
    "\n"
    "Watches the bus: members, rates and fill of rings, latencies, counters that moved. Maps\n"
    "everything read-only. On a terminal it takes keys; h shows them. Ends on q or Ctrl-C.\n"
    "\n"
    "  --bus DIR         the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --interval-ms MS  between two views, 10..60000; default 500\n"
    "  --count N         end after N views; 0 (default): go on\n"
    "  --once            one view as text; the same as --count 1\n"
    "  --json            one JSON object for each view, on a line of its own\n"
    "  --help            this text\n"
    "\n"
    "Rates are those of one interval, so the first view takes one interval to come.\n"
    "Exit status: 0 ok, 1 failed, 2 usage.\n";

#define NS_PER_MS 1000000u

static const char *const keys_help[] = {
    "q               end",
    "up, down, k, j  a line up or down; page up, page down, home, end",
    "s               sort by name, by rate, by delay: rings by lag, latencies by p99",
    "t               figures of the last interval, or in total since the start",
    "p, space        pause: the view stays, the bus goes on",
    "h, ?            this text, and back",
    "",
    "used    how much of the ring its reader has not read yet; it holds the producer back at 100 %",
    "newest  age of what the newest record is about",
    "dropped records that were refused because the ring was full",
    "waits   times that the producer found the ring full",
    "BEAT    age of the member's last heartbeat; stalled from 1 s on"};

struct top {
  const char *directory;
  int64_t interval_ms;
  int64_t count; /* 0: no limit */
  bool as_json;
};

/* The last two samples and what lies between. */
struct pair {
  struct busctl_sample now;
  struct busctl_sample before;
  struct busctl_view view;
};

static void close_pair(struct pair *pair)
{
  busctl_view_free(&pair->view);
  busctl_sample_free(&pair->now);
  busctl_sample_free(&pair->before);
}

/* The first time `before` is what is there now, which gives no rates yet. */
static int advance(struct pair *pair, struct busctl_scan *scan)
{
  struct busctl_sample next;
  int error = busctl_scan_refresh(scan);
  if (!error)
    error = busctl_sample_take(&next, scan);
  if (error)
    return error;
  busctl_view_free(&pair->view);
  busctl_sample_free(&pair->before);
  pair->before = pair->now;
  pair->now = next;
  bool first = pair->before.taken_ns == 0;
  return busctl_view_make(&pair->view, &pair->now, first ? &pair->now : &pair->before);
}

/* Until the interval is over or a signal asks for the end; a short sleep each, because the signal
 * may come just before it. */
static void wait_until(uint64_t end_ns)
{
  for (uint64_t now_ns;
       !bus_loop_stop_requested() && (now_ns = bus_clock_monotonic_ns()) < end_ns;) {
    uint64_t rest_ns = end_ns - now_ns < 50 * NS_PER_MS ? end_ns - now_ns : 50 * NS_PER_MS;
    struct timespec pause = {.tv_nsec = (long)rest_ns};
    nanosleep(&pause, NULL);
  }
}

/* ---- as lines ---- */

static void print_text(const struct busctl_view *view)
{
  struct top_page page = {0};
  struct top_options options = {.span = TOP_BOTH};
  printf("bus %s, %.0f ms\n", view->now->directory, (double)view->interval_ns / NS_PER_MS);
  top_view_draw(&page, view, &options);
  top_page_print(&page, stdout);
  top_page_free(&page);
}

static int print_view(const struct top *top, const struct busctl_view *view)
{
  if (top->as_json) {
    json_t *object = busctl_view_json(view);
    json_dumpf(object, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(object);
  } else {
    print_text(view);
  }
  if (fflush(stdout) == 0)
    return BUS_OK;
  return errno == EPIPE ? BUS_ERROR_AGAIN : bus_error_set_errno("standard output");
}

static int print_views(const struct top *top, struct busctl_scan *scan)
{
  struct pair pair = {0};
  int error = advance(&pair, scan);
  for (int64_t views = 0; !error && (top->count == 0 || views < top->count); views++) {
    wait_until(pair.now.taken_ns + (uint64_t)top->interval_ms * NS_PER_MS);
    if (bus_loop_stop_requested())
      break;
    error = advance(&pair, scan);
    if (!error)
      error = print_view(top, &pair.view);
  }
  close_pair(&pair);
  return error == BUS_ERROR_AGAIN ? BUS_OK : error; /* whoever read has seen enough */
}

/* ---- on a terminal ---- */

struct live {
  struct pair pair;
  struct top_page page;
  struct top_options options;
  size_t first; /* line of the page that is wanted at the top ... */
  size_t shown; /* ... and the one that is there: the page may be too short for a moment */
  bool paused;
  bool help;
};

static void show_head(const struct live *live, char *head, size_t size)
{
  const struct busctl_sample *now = &live->pair.now;
  size_t members = 0, alive = 0;
  for (size_t i = 0; i < now->member_count; i++) {
    members += now->members[i].attached;
    alive += now->members[i].attached && now->members[i].status == BUS_NEIGHBOUR_ALIVE;
  }
  snprintf(head, size, "bus %s  %zu of %zu members alive  %.0f ms%s", now->directory, alive,
           members, (double)live->pair.view.interval_ns / NS_PER_MS,
           live->paused ? "  PAUSED" : "");
}

/* Draws what is known now, from the top line on, as far as the page goes. */
static void show(struct live *live)
{
  char head[400], foot[200];
  size_t body = (size_t)top_screen_body_rows();
  top_page_clear(&live->page, top_screen_columns());
  if (live->help)
    for (size_t i = 0; i < BUS_COUNT_OF(keys_help); i++)
      top_page_paragraph(&live->page, keys_help[i]);
  else
    top_view_draw(&live->page, &live->pair.view, &live->options);
  size_t end = live->page.count > body ? live->page.count - body : 0;
  live->shown = live->first < end ? live->first : end;
  show_head(live, head, sizeof head);
  size_t last = live->shown + body < live->page.count ? live->shown + body : live->page.count;
  snprintf(foot, sizeof foot, "q quit  h %s  s sort: %s  t figures: %s  p %s  lines %zu-%zu of %zu",
           live->help ? "back" : "help", top_order_name(live->options.order),
           top_span_name(live->options.span), live->paused ? "go on" : "pause", live->shown + 1,
           last, live->page.count);
  top_screen_show(&live->page, live->shown, head, foot);
}

static void move_by(struct live *live, int64_t lines)
{
  int64_t first = (int64_t)live->shown + lines;
  live->first = first > 0 ? (size_t)first : 0;
}

/* Returns whether to go on. */
static bool take_key(struct live *live, enum top_key key)
{
  int page = top_screen_body_rows();
  switch (key) {
  case TOP_KEY_QUIT:
    return false;
  case TOP_KEY_UP:
  case TOP_KEY_DOWN:
    move_by(live, key == TOP_KEY_UP ? -1 : 1);
    break;
  case TOP_KEY_PAGE_UP:
  case TOP_KEY_PAGE_DOWN:
    move_by(live, key == TOP_KEY_PAGE_UP ? -page : page);
    break;
  case TOP_KEY_HOME:
    live->first = 0;
    break;
  case TOP_KEY_END:
    live->first = live->page.count;
    break;
  case TOP_KEY_SORT:
    live->options.order = (live->options.order + 1) % TOP_ORDERS;
    break;
  case TOP_KEY_SPAN:
    live->options.span = live->options.span == TOP_TOTAL ? TOP_INTERVAL : TOP_TOTAL;
    break;
  case TOP_KEY_PAUSE:
    live->paused = !live->paused;
    break;
  case TOP_KEY_HELP:
    live->help = !live->help;
    live->first = 0;
    break;
  default:
    break;
  }
  return true;
}

/* Takes keys until the next view is due. Returns whether to go on. */
static bool take_keys(struct live *live, uint64_t end_ns)
{
  for (;;) {
    uint64_t now_ns = bus_clock_monotonic_ns();
    if (bus_loop_stop_requested())
      return false;
    if (now_ns >= end_ns && !live->paused)
      return true;
    int64_t rest_ms = live->paused ? 50 : (int64_t)((end_ns - now_ns) / NS_PER_MS) + 1;
    enum top_key key = top_screen_key(rest_ms < 50 ? (int)rest_ms : 50);
    if (key == TOP_KEY_NONE)
      continue;
    if (!take_key(live, key))
      return false;
    show(live);
  }
}

static int watch(const struct top *top, struct busctl_scan *scan)
{
  struct live live = {.options.blocks = top_screen_has_blocks()};
  int error = advance(&live.pair, scan);
  for (int64_t views = 0; !error; views++) {
    show(&live);
    if (top->count && views >= top->count)
      break;
    if (!take_keys(&live, live.pair.now.taken_ns + (uint64_t)top->interval_ms * NS_PER_MS))
      break;
    error = advance(&live.pair, scan);
  }
  close_pair(&live.pair);
  top_page_free(&live.page);
  return error;
}

static int top_main(const struct top *top)
{
  struct busctl_scan scan;
  bus_loop_handle_signals();
  if (busctl_scan_open(&scan, top->directory) != BUS_OK)
    return busctl_fail("top");
  bool terminal = isatty(STDOUT_FILENO) && !top->as_json && top->count != 1;
  int error = terminal ? top_screen_open() : BUS_OK;
  if (!error && terminal) {
    error = watch(top, &scan);
    top_screen_close();
  } else if (!error) {
    error = print_views(top, &scan);
  }
  busctl_scan_close(&scan);
  return error ? busctl_fail("top") : BUSCTL_OK;
}

int busctl_top(int argc, char **argv)
{
  enum { INTERVAL = BUSCTL_OPTION_OWN, COUNT, ONCE, JSON };
  static const struct option options[] = {{"interval-ms", required_argument, NULL, INTERVAL},
                                          {"count", required_argument, NULL, COUNT},
                                          {"once", no_argument, NULL, ONCE},
                                          {"json", no_argument, NULL, JSON},
                                          BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {
      .argc = argc, .argv = argv, .verb = "top", .help = help, .options = options};
  struct top top = {.interval_ms = 500};
  for (int option; (option = busctl_line_next(&line)) != 0;) {
    int error = BUS_OK;
    if (option == INTERVAL)
      error = bus_parse_integer(optarg, 10, 60000, "--interval-ms", &top.interval_ms);
    else if (option == COUNT)
      error = bus_parse_integer(optarg, 0, 1000000000, "--count", &top.count);
    else if (option == ONCE)
      top.count = 1;
    else
      top.as_json = true;
    if (error)
      busctl_line_refuse(&line);
  }
  top.directory = line.directory;
  return line.ended ? line.status : top_main(&top);
}
