#include "tools/busctl_describe.h"

#include "shm/clock.h"
#include "shm/histogram.h"
#include "shm/options.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl top [--bus DIR] [--interval-ms MS] [--count N] [--once] [--json]\n"
    "\n"
    "Watches the bus: members, rates and fill of rings, latencies, counters that moved. Maps\n"
    "everything read-only. Ends on Ctrl-C.\n"
    "\n"
    "  --bus DIR         the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --interval-ms MS  between two views, 10..60000; default 500\n"
    "  --count N         end after N views; 0 (default): go on\n"
    "  --once            the same as --count 1\n"
    "  --json            one JSON object for each view, on a line of its own\n"
    "  --help            this text\n"
    "\n"
    "Rates are those of one interval, so the first view takes one interval to come.\n"
    "Exit status: 0 ok, 1 failed, 2 usage.\n";

/* Of "member/name [unit]". */
#define LABEL_BYTES (2u * BUS_NAME_BYTES + 20u)

/* One object of one member at one time. */
struct item {
  const struct busctl_file *file; /* of the present scan */
  struct bus_entry entry;
  uint64_t instance;
  char member[BUS_NAME_BYTES];
  union {
    struct busctl_ring ring;
    uint64_t counter;
    struct bus_histogram *histogram; /* owned */
  };
};

struct sample {
  uint64_t taken_ns;
  struct item *items;
  size_t count;
};

static void free_sample(struct sample *sample)
{
  for (size_t i = 0; i < sample->count; i++)
    if (sample->items[i].entry.type == BUS_OBJECT_HISTOGRAM)
      free(sample->items[i].histogram);
  free(sample->items);
  sample->items = NULL;
  sample->count = 0;
}

static bool read_item(const struct busctl_scan *scan, struct item *item)
{
  const void *memory = bus_neighbour_object(item->file->neighbour, &item->entry);
  switch (item->entry.type) {
  case BUS_OBJECT_RING:
    busctl_read_ring(scan, item->file, &item->entry, false, &item->ring);
    return true;
  case BUS_OBJECT_COUNTER:
    item->counter = BUS_LOAD_RELAXED((const uint64_t *)memory);
    return true;
  case BUS_OBJECT_HISTOGRAM:
    item->histogram = malloc(sizeof *item->histogram);
    if (item->histogram)
      bus_histogram_copy(item->histogram, memory);
    return item->histogram != NULL;
  default:
    return false;
  }
}

static int take_sample(const struct busctl_scan *scan, struct sample *sample)
{
  size_t room = 0;
  for (size_t i = 0; i < scan->count; i++)
    if (scan->files[i].neighbour)
      room += bus_neighbour_header(scan->files[i].neighbour)->entry_count;
  sample->count = 0;
  sample->taken_ns = bus_clock_monotonic_ns();
  sample->items = calloc(room + 1, sizeof *sample->items);
  if (!sample->items)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  for (size_t i = 0; i < scan->count; i++) {
    const struct busctl_file *file = &scan->files[i];
    const struct bus_entry *entry;
    for (uint32_t j = 0; file->neighbour && (entry = bus_neighbour_entry(file->neighbour, j));
         j++) {
      struct item *item = &sample->items[sample->count];
      item->file = file;
      item->entry = *entry;
      item->instance = bus_neighbour_header(file->neighbour)->instance;
      snprintf(item->member, sizeof item->member, "%.31s", file->name);
      sample->count += read_item(scan, item);
    }
  }
  return BUS_OK;
}

/* The same object in the sample before, or NULL. Directories keep their order, so the search begins
 * where the last one ended. */
static const struct item *find_before(const struct sample *before, const struct item *item,
                                      size_t *hint)
{
  for (size_t tries = 0; tries < before->count; tries++) {
    const struct item *other = &before->items[(*hint + tries) % before->count];
    if (other->instance != item->instance || other->entry.type != item->entry.type ||
        strcmp(other->entry.name, item->entry.name) ||
        strcmp(other->entry.peer, item->entry.peer) || strcmp(other->member, item->member))
      continue;
    *hint = (*hint + tries + 1) % before->count;
    return other;
  }
  return NULL;
}

/* A figure that fell was reset by a new owner: it counts from 0. */
static uint64_t rise(uint64_t now, uint64_t before)
{
  return now >= before ? now - before : now;
}

/* ---- as JSON ---- */

static double per_second(uint64_t count, double seconds)
{
  return seconds > 0 ? (double)count / seconds : 0;
}

static json_t *begin_object(const struct item *item)
{
  json_t *object = json_object();
  busctl_json_string(object, "member", item->member, sizeof item->member);
  busctl_json_string(object, "name", item->entry.name, sizeof item->entry.name);
  return object;
}

static json_t *show_ring(const struct item *now, const struct item *before, double seconds)
{
  struct busctl_ring old = before ? before->ring : now->ring;
  const struct busctl_ring *ring = &now->ring;
  json_t *object = begin_object(now);
  busctl_json_string(object, "consumer", now->entry.peer, sizeof now->entry.peer);
  busctl_json_number(object, "depth_records", now->entry.depth);
  busctl_json_set(object, "rate_records_per_s",
                  json_real(per_second(rise(ring->committed, old.committed), seconds)));
  busctl_json_set(object, "lag_records",
                  ring->lag_known ? json_integer((json_int_t)ring->lag) : json_null());
  busctl_json_set(object, "lag_percent",
                  ring->lag_known ? json_real(100.0 * (double)ring->lag / (double)now->entry.depth)
                                  : json_null());
  busctl_json_set(object, "dropped_records_per_s",
                  json_real(per_second(rise(ring->dropped, old.dropped), seconds)));
  busctl_json_set(object, "waits_per_s",
                  json_real(per_second(rise(ring->waits, old.waits), seconds)));
  return object;
}

/* What was recorded between the two; its maximum is known to its bucket only. */
static void subtract(struct bus_histogram *to, const struct bus_histogram *now,
                     const struct bus_histogram *before)
{
  memset(to, 0, sizeof *to);
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++) {
    to->buckets[i] = rise(now->buckets[i], before ? before->buckets[i] : 0);
    to->count += to->buckets[i];
    if (to->buckets[i])
      to->maximum = bus_histogram_bucket_high(i);
  }
  if (to->maximum > now->maximum)
    to->maximum = now->maximum;
}

static json_t *show_histogram(const struct item *now, const struct item *before)
{
  static struct bus_histogram interval; /* 18 KiB; one thread */
  json_t *object = begin_object(now);
  busctl_json_string(object, "unit", now->entry.unit, sizeof now->entry.unit);
  subtract(&interval, now->histogram, before ? before->histogram : NULL);
  busctl_json_set(object, "since_start", busctl_describe_quantiles(json_object(), now->histogram));
  busctl_json_set(object, "interval", busctl_describe_quantiles(json_object(), &interval));
  return object;
}

static json_t *show_counter(const struct item *now, const struct item *before, double seconds)
{
  json_t *object = begin_object(now);
  busctl_json_string(object, "unit", now->entry.unit, sizeof now->entry.unit);
  busctl_json_number(object, "value", now->counter);
  busctl_json_set(object, "change_per_s",
                  json_real(per_second(rise(now->counter, before ? before->counter : 0), seconds)));
  return object;
}

static json_t *show_members(const struct busctl_scan *scan)
{
  json_t *members = json_array();
  uint64_t now_ns = bus_clock_monotonic_ns();
  for (size_t i = 0; i < scan->count; i++) {
    const struct busctl_file *file = &scan->files[i];
    json_t *member = json_object();
    busctl_json_string(member, "name", file->name, sizeof file->name);
    if (file->neighbour) {
      busctl_json_string(member, "kind", file->live.kind, sizeof file->live.kind);
      busctl_json_string(member, "status", bus_neighbour_status_name(file->status), 32);
      busctl_json_string(member, "state", bus_state_name(file->live.state), 32);
      busctl_json_number(member, "pid", file->live.pid);
      busctl_json_number(member, "epoch", file->live.epoch);
      busctl_json_number(member, "heartbeat_age_ns",
                         now_ns > file->live.heartbeat_ns ? now_ns - file->live.heartbeat_ns : 0);
    } else {
      busctl_json_string(member, "status", bus_error_name(file->error), 32);
    }
    busctl_json_append(members, member);
  }
  return members;
}

static json_t *show(const struct busctl_scan *scan, const struct sample *now,
                    const struct sample *before)
{
  json_t *view = json_object(), *rings = json_array(), *histograms = json_array(),
         *counters = json_array();
  double seconds = (double)(now->taken_ns - before->taken_ns) / 1e9;
  size_t hint = 0;
  for (size_t i = 0; i < now->count; i++) {
    const struct item *item = &now->items[i], *old = find_before(before, item, &hint);
    if (item->entry.type == BUS_OBJECT_RING)
      busctl_json_append(rings, show_ring(item, old, seconds));
    else if (item->entry.type == BUS_OBJECT_HISTOGRAM)
      busctl_json_append(histograms, show_histogram(item, old));
    else if (!old || item->counter != old->counter)
      busctl_json_append(counters, show_counter(item, old, seconds));
  }
  busctl_json_string(view, "directory", scan->directory, sizeof scan->directory);
  busctl_json_number(view, "interval_ns", now->taken_ns - before->taken_ns);
  busctl_json_set(view, "members", show_members(scan));
  busctl_json_set(view, "rings", rings);
  busctl_json_set(view, "histograms", histograms);
  busctl_json_set(view, "counters_changed", counters);
  return view;
}

/* ---- as text, from the JSON ---- */

static double real_of(const json_t *object, const char *key)
{
  return json_number_value(json_object_get(object, key));
}

/* Where a view goes, and what it must fit into: on a terminal a longer line would wrap and a longer
 * view scroll, and the next one could not be drawn over it. */
struct page {
  bool terminal;
  int columns; /* of the terminal */
  int rows;
  int used;       /* rows so far, those that did not fit too */
  int name_width; /* of the first column */
};

/* Characters of well-formed UTF-8 are cut whole: `text` is sanitised. */
static size_t bytes_that_fit(const char *text, int columns)
{
  size_t bytes = 0;
  for (int column = 0; text[bytes]; column += (text[bytes] & 0xc0) != 0x80, bytes++)
    if (column == columns && (text[bytes] & 0xc0) != 0x80)
      break;
  return bytes;
}

static void line(struct page *page, const char *format, ...) BUS_PRINTF(2, 3);

static void line(struct page *page, const char *format, ...)
{
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  page->used++;
  if (!page->terminal)
    puts(text);
  else if (page->used < page->rows)
    printf("%.*s\033[K\n", (int)bytes_that_fit(text, page->columns), text);
}

/* "member/name [unit]", as the first column has it. */
static char *label(char *text, size_t size, const json_t *object)
{
  const char *unit = json_object_get(object, "value") ? "" : busctl_json_text(object, "unit");
  snprintf(text, size, *unit ? "%s/%s [%s]" : "%s/%s", busctl_json_text(object, "member"),
           busctl_json_text(object, "name"), unit);
  return text;
}

/* As wide as the longest label that is shown, so that the figures stand as far left as they can. */
static int widest_label(const json_t *view)
{
  static const char *const tables[] = {"rings", "histograms", "counters_changed"};
  char text[LABEL_BYTES];
  size_t width = strlen("COUNTER that changed"), index;
  json_t *object;
  for (size_t i = 0; i < BUS_COUNT_OF(tables); i++) {
    json_array_foreach(json_object_get(view, tables[i]), index, object)
    {
      size_t length = strlen(label(text, sizeof text, object));
      width = length > width ? length : width;
    }
  }
  json_array_foreach(json_object_get(view, "members"), index, object)
  {
    size_t length = strlen(busctl_json_text(object, "name"));
    width = length > width ? length : width;
  }
  return width < LABEL_BYTES ? (int)width : (int)LABEL_BYTES;
}

static void print_members(struct page *page, const json_t *view)
{
  size_t index;
  json_t *member;
  line(page, "%-*s %-11s %-8s %-5s %8s %6s %8s", page->name_width, "MEMBER", "KIND", "STATUS",
       "STATE", "PID", "EPOCH", "BEAT ms");
  json_array_foreach(json_object_get(view, "members"), index, member)
  {
    if (json_object_get(member, "kind"))
      line(page, "%-*s %-11s %-8s %-5s %8" PRId64 " %6" PRId64 " %8.1f", page->name_width,
           busctl_json_text(member, "name"), busctl_json_text(member, "kind"),
           busctl_json_text(member, "status"), busctl_json_text(member, "state"),
           busctl_json_integer(member, "pid"), busctl_json_integer(member, "epoch"),
           (double)busctl_json_integer(member, "heartbeat_age_ns") / 1e6);
    else
      line(page, "%-*s not a member: %s", page->name_width, busctl_json_text(member, "name"),
           busctl_json_text(member, "status"));
  }
}

static void print_rings(struct page *page, const json_t *view)
{
  size_t index;
  json_t *ring;
  char name[LABEL_BYTES], lag[48];
  line(page, "%-*s %11s %9s %6s %9s %8s", page->name_width, "RING", "records/s", "lag", "lag %",
       "dropped/s", "waits/s");
  json_array_foreach(json_object_get(view, "rings"), index, ring)
  {
    if (json_is_null(json_object_get(ring, "lag_records")))
      snprintf(lag, sizeof lag, "%9s %6s", "-", "-");
    else
      snprintf(lag, sizeof lag, "%9" PRId64 " %6.2f", busctl_json_integer(ring, "lag_records"),
               real_of(ring, "lag_percent"));
    line(page, "%-*s %11.0f %s %9.0f %8.0f", page->name_width, label(name, sizeof name, ring),
         real_of(ring, "rate_records_per_s"), lag, real_of(ring, "dropped_records_per_s"),
         real_of(ring, "waits_per_s"));
  }
}

static void print_histograms(struct page *page, const json_t *view)
{
  static const char *const spans[] = {"since_start", "interval"}, *const names[] = {"all", "now"};
  size_t index;
  json_t *histogram;
  char name[LABEL_BYTES];
  line(page, "%-*s %-4s %8s %8s %8s %8s %9s", page->name_width, "LATENCY", "span", "p50", "p90",
       "p99", "p99.9", "max");
  json_array_foreach(json_object_get(view, "histograms"), index, histogram)
  {
    for (size_t i = 0; i < BUS_COUNT_OF(spans); i++) {
      const json_t *span = json_object_get(histogram, spans[i]);
      line(page, "%-*s %-4s %8" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64 " %9" PRId64,
           page->name_width, i ? "" : label(name, sizeof name, histogram), names[i],
           busctl_json_integer(span, "p50"), busctl_json_integer(span, "p90"),
           busctl_json_integer(span, "p99"), busctl_json_integer(span, "p99_9"),
           busctl_json_integer(span, "maximum"));
    }
  }
}

static void print_counters(struct page *page, const json_t *view)
{
  size_t index;
  json_t *counter;
  char name[LABEL_BYTES];
  line(page, "%-*s %16s %12s %s", page->name_width, "COUNTER that changed", "value", "per s",
       "unit");
  json_array_foreach(json_object_get(view, "counters_changed"), index, counter)
  {
    line(page, "%-*s %16" PRId64 " %12.0f %s", page->name_width, label(name, sizeof name, counter),
         busctl_json_integer(counter, "value"), real_of(counter, "change_per_s"),
         busctl_json_text(counter, "unit"));
  }
}

static void print_view(const json_t *view, bool terminal)
{
  struct page page = {.terminal = terminal, .columns = 80, .rows = 24};
  struct winsize size;
  if (terminal && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col && size.ws_row) {
    page.columns = size.ws_col;
    page.rows = size.ws_row;
  }
  page.name_width = widest_label(view);
  if (terminal)
    fputs("\033[H", stdout);
  line(&page, "bus %s, %.0f ms", busctl_json_text(view, "directory"),
       (double)busctl_json_integer(view, "interval_ns") / 1e6);
  print_members(&page, view);
  print_rings(&page, view);
  print_histograms(&page, view);
  print_counters(&page, view);
  if (terminal && page.used >= page.rows) {
    char text[64];
    snprintf(text, sizeof text, "%d more lines: enlarge the window", page.used - page.rows + 1);
    printf("%.*s\033[K", (int)bytes_that_fit(text, page.columns), text);
  }
  if (terminal)
    fputs("\033[J", stdout);
}

/* ---- the loop ---- */

struct top {
  const char *directory;
  int64_t interval_ms;
  int64_t count; /* 0: no limit */
  bool as_json;
};

/* Until the interval is over or a signal asks for the end; a short sleep each, because the signal
 * may come just before it. */
static void wait_interval(uint64_t end_ns)
{
  for (uint64_t now_ns;
       !bus_loop_stop_requested() && (now_ns = bus_clock_monotonic_ns()) < end_ns;) {
    uint64_t rest_ns = end_ns - now_ns < 50000000 ? end_ns - now_ns : 50000000;
    struct timespec pause = {.tv_nsec = (long)rest_ns};
    nanosleep(&pause, NULL);
  }
}

static int print_sample(const struct top *top, const struct busctl_scan *scan,
                        const struct sample *now, const struct sample *before)
{
  json_t *view = show(scan, now, before);
  if (top->as_json) {
    json_dumpf(view, stdout, JSON_COMPACT);
    putchar('\n');
  } else {
    print_view(view, isatty(STDOUT_FILENO) && top->count != 1);
  }
  json_decref(view);
  if (fflush(stdout) == 0)
    return BUS_OK;
  return errno == EPIPE ? BUS_ERROR_AGAIN : bus_error_set_errno("standard output");
}

static int watch(const struct top *top, struct busctl_scan *scan)
{
  struct sample before = {0};
  int error = take_sample(scan, &before);
  if (!error && isatty(STDOUT_FILENO) && !top->as_json && top->count != 1)
    fputs("\033[2J", stdout);
  for (int64_t views = 0; !error && (top->count == 0 || views < top->count); views++) {
    struct sample now = {0};
    wait_interval(before.taken_ns + (uint64_t)top->interval_ms * 1000000u);
    if (bus_loop_stop_requested())
      break;
    error = busctl_scan_refresh(scan);
    if (!error)
      error = take_sample(scan, &now);
    if (!error)
      error = print_sample(top, scan, &now, &before);
    free_sample(&before);
    before = now;
  }
  free_sample(&before);
  return error == BUS_ERROR_AGAIN ? BUS_OK : error; /* whoever read has seen enough */
}

static int top_main(const struct top *top)
{
  struct busctl_scan scan;
  bus_loop_handle_signals();
  if (busctl_scan_open(&scan, top->directory) != BUS_OK)
    return busctl_fail("top");
  int status = watch(top, &scan) == BUS_OK ? BUSCTL_OK : busctl_fail("top");
  busctl_scan_close(&scan);
  return status;
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
