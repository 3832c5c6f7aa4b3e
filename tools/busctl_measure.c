#include "tools/busctl_measure.h"

#include "shm/base.h"
#include "tools/ops/gaps.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BAR_COLUMNS    40
#define INTERRUPTS_MAX 12 /* rows of the table; the JSON has all */
#define SVG_WIDTH      960.0
#define SVG_ROW        22.0
#define SVG_LEFT       180.0
#define SVG_RIGHT      140.0
#define SVG_TOP        90.0

static volatile sig_atomic_t interrupted;

static void interrupt(int number)
{
  (void)number;
  interrupted = 1;
}

struct progress {
  int cpu;
  int64_t seconds;
  bool shown;
};

static int watch(const struct ops_gaps *gaps, void *context)
{
  const struct progress *progress = context;
  if (progress->shown) {
    fprintf(stderr, "\rCPU %d: %.1f of %" PRId64 " s, longest gap %.1f us ", progress->cpu,
            (double)BUS_LOAD_RELAXED(&gaps->elapsed_ns) / 1e9, progress->seconds,
            (double)BUS_LOAD_RELAXED(&gaps->ns_max) / 1e3);
    fflush(stderr);
  }
  return interrupted;
}

/* ---- what was measured, as JSON ---- */

static json_t *describe_buckets(const struct ops_gaps *gaps)
{
  json_t *buckets = json_array();
  for (int i = 0; i < OPS_GAPS_BUCKETS; i++) {
    if (!gaps->buckets[i])
      continue;
    json_t *bucket = json_object();
    busctl_json_number(bucket, "ns_min", i ? (uint64_t)1 << i : 0);
    busctl_json_number(bucket, "ns_max", ((uint64_t)2 << i) - 1);
    busctl_json_number(bucket, "count", gaps->buckets[i]);
    busctl_json_append(buckets, bucket);
  }
  return buckets;
}

static json_t *describe_worst(const struct ops_gaps *gaps)
{
  json_t *worst = json_array();
  for (uint32_t i = 0; i < gaps->worst_count; i++) {
    json_t *gap = json_object();
    busctl_json_number(gap, "ns", gaps->worst[i].ns);
    busctl_json_number(gap, "at_ns", gaps->worst[i].at_ns);
    busctl_json_append(worst, gap);
  }
  return worst;
}

static json_t *describe_interrupts(const struct ops_interrupts *interrupts)
{
  json_t *rows = json_array();
  for (int i = 0; i < interrupts->count; i++) {
    const struct ops_interrupt *interrupt_row = &interrupts->rows[i];
    json_t *row = json_object();
    busctl_json_string(row, "irq", interrupt_row->name, sizeof interrupt_row->name);
    busctl_json_string(row, "name", interrupt_row->label, sizeof interrupt_row->label);
    busctl_json_number(row, "count", interrupt_row->count);
    busctl_json_append(rows, row);
  }
  return rows;
}

static json_t *describe(const struct ops_gaps *gaps, int cpu, int64_t seconds)
{
  json_t *object = json_object();
  uint64_t measured_ns = gaps->elapsed_ns - gaps->paused_ns;
  double percent = measured_ns ? 100.0 * (double)gaps->stolen_ns / (double)measured_ns : 0;
  busctl_json_signed(object, "cpu", cpu);
  busctl_json_signed(object, "asked_seconds", seconds);
  busctl_json_number(object, "elapsed_ns", gaps->elapsed_ns);
  busctl_json_number(object, "measured_ns", measured_ns);
  busctl_json_set(object, "real_time", json_boolean(gaps->real_time));
  busctl_json_set(object, "joined_cgroup", json_boolean(gaps->joined));
  busctl_json_number(object, "readings", gaps->readings);
  busctl_json_number(object, "threshold_ns", OPS_GAPS_THRESHOLD_NS);
  busctl_json_number(object, "gaps", gaps->count);
  busctl_json_number(object, "gaps_1ms", gaps->count_1ms);
  busctl_json_number(object, "gap_ns_max", gaps->ns_max);
  busctl_json_number(object, "stolen_ns", gaps->stolen_ns);
  busctl_json_set(object, "stolen_percent", json_real(percent));
  busctl_json_number(object, "switches_involuntary", gaps->switches_involuntary);
  busctl_json_set(object, "buckets", describe_buckets(gaps));
  busctl_json_set(object, "worst", describe_worst(gaps));
  return object;
}

/* Null where the kernel does not count. */
static void add_counts(json_t *object, const struct ops_system *system, int cpu,
                       struct ops_interrupts *before, bool interrupts_known,
                       uint64_t schedules_before, bool schedules_known)
{
  static struct ops_interrupts after;
  uint64_t schedules;
  interrupts_known = interrupts_known && ops_interrupts_read(system, cpu, &after) == BUS_OK;
  if (interrupts_known)
    ops_interrupts_since(&after, before);
  busctl_json_set(object, "interrupts",
                  interrupts_known ? describe_interrupts(&after) : json_null());
  if (schedules_known && ops_schedules_read(system, cpu, &schedules) == BUS_OK)
    busctl_json_number(object, "schedules", schedules - schedules_before);
  else
    busctl_json_set(object, "schedules", json_null());
}

json_t *busctl_measure(const struct ops_system *system, int cpu, int64_t seconds, bool ordinary)
{
  static struct ops_interrupts before;
  struct progress progress = {cpu, seconds, isatty(STDERR_FILENO) == 1};
  struct sigaction action = {.sa_handler = interrupt}, old_interrupt, old_terminate;
  struct ops_gaps gaps;
  uint64_t schedules = 0;
  bool interrupts_known = ops_interrupts_read(system, cpu, &before) == BUS_OK;
  bool schedules_known = ops_schedules_read(system, cpu, &schedules) == BUS_OK;
  sigaction(SIGINT, &action, &old_interrupt);
  sigaction(SIGTERM, &action, &old_terminate);
  int error = ops_gaps_measure(system, cpu, (uint64_t)seconds * 1000000000u, !ordinary, watch,
                               &progress, &gaps);
  sigaction(SIGINT, &old_interrupt, NULL);
  sigaction(SIGTERM, &old_terminate, NULL);
  if (progress.shown)
    fputs("\r\033[K", stderr);
  if (error)
    return NULL;
  json_t *object = describe(&gaps, cpu, seconds);
  add_counts(object, system, cpu, &before, interrupts_known, schedules, schedules_known);
  return object;
}

/* ---- text ---- */

static const char *format_ns(double ns, char text[32])
{
  if (ns < 1e3)
    snprintf(text, 32, "%.0f ns", ns);
  else if (ns < 1e6)
    snprintf(text, 32, "%.1f us", ns / 1e3);
  else if (ns < 1e9)
    snprintf(text, 32, "%.1f ms", ns / 1e6);
  else
    snprintf(text, 32, "%.1f s", ns / 1e9);
  return text;
}

/* 0..1, on a log scale: a single gap among 10^9 is still seen. */
static double share(int64_t count, int64_t most)
{
  return most > 0 ? log10((double)count + 1) / log10((double)most + 1) : 0;
}

static int64_t find_most(const json_t *buckets)
{
  size_t index;
  json_t *bucket;
  int64_t most = 0;
  json_array_foreach(buckets, index, bucket)
  {
    int64_t count = busctl_json_integer(bucket, "count");
    most = count > most ? count : most;
  }
  return most;
}

static void print_plot(const json_t *buckets)
{
  size_t index;
  json_t *bucket;
  int64_t most = find_most(buckets);
  puts("\n  between two readings          count  (bars: log scale)");
  json_array_foreach(buckets, index, bucket)
  {
    char low[32], high[32], bar[BAR_COLUMNS + 1];
    int64_t count = busctl_json_integer(bucket, "count");
    int columns = (int)lround(share(count, most) * BAR_COLUMNS);
    memset(bar, '#', sizeof bar);
    bar[columns < 1 ? 1 : columns] = '\0';
    printf("  %9s - %9s %12" PRId64 "  %s\n",
           format_ns((double)busctl_json_integer(bucket, "ns_min"), low),
           format_ns((double)busctl_json_integer(bucket, "ns_max") + 1, high), count, bar);
  }
}

static void print_interrupts(const json_t *measure)
{
  size_t index;
  json_t *row;
  const json_t *rows = json_object_get(measure, "interrupts");
  if (json_is_null(rows)) {
    puts("  interrupts there: not counted by this kernel");
    return;
  }
  puts("\n  interrupts there");
  json_array_foreach(rows, index, row)
  {
    if (index == INTERRUPTS_MAX) {
      printf("    and %zu more kinds\n", json_array_size(rows) - index);
      break;
    }
    printf("    %10" PRId64 "  %s %s\n", busctl_json_integer(row, "count"),
           busctl_json_text(row, "irq"), busctl_json_text(row, "name"));
  }
  if (!json_is_null(json_object_get(measure, "schedules")))
    printf("  the scheduler ran %" PRId64 " times there\n",
           busctl_json_integer(measure, "schedules"));
}

static void format_title(const json_t *measure, char *text, size_t size)
{
  snprintf(text, size, "CPU %" PRId64 ", %.1f s, %s", busctl_json_integer(measure, "cpu"),
           (double)busctl_json_integer(measure, "measured_ns") / 1e9,
           json_is_true(json_object_get(measure, "real_time")) ? "SCHED_FIFO 1"
                                                               : "ordinary scheduling");
}

static void format_summary(const json_t *measure, char *text, size_t size)
{
  char longest[32];
  snprintf(text, size,
           "%.4f %% taken away in %" PRId64 " gaps of 1 us and more, %" PRId64
           " of 1 ms and more; longest %s",
           json_real_value(json_object_get(measure, "stolen_percent")),
           busctl_json_integer(measure, "gaps"), busctl_json_integer(measure, "gaps_1ms"),
           format_ns((double)busctl_json_integer(measure, "gap_ns_max"), longest));
}

void busctl_measure_print(const json_t *measure)
{
  char title[128], summary[256];
  size_t index;
  json_t *gap;
  format_title(measure, title, sizeof title);
  format_summary(measure, summary, sizeof summary);
  printf("\n%s%s\n  %s\n", title,
         json_is_true(json_object_get(measure, "joined_cgroup")) ? ", inside the CPU's cgroup" : "",
         summary);
  printf("  %" PRId64 " readings; preempted %" PRId64 " times\n",
         busctl_json_integer(measure, "readings"),
         busctl_json_integer(measure, "switches_involuntary"));
  print_plot(json_object_get(measure, "buckets"));
  if (json_array_size(json_object_get(measure, "worst")))
    puts("\n  longest gaps, and when they began");
  json_array_foreach(json_object_get(measure, "worst"), index, gap)
  {
    char text[32];
    printf("    %10s  at %.6f s\n", format_ns((double)busctl_json_integer(gap, "ns"), text),
           (double)busctl_json_integer(gap, "at_ns") / 1e9);
  }
  print_interrupts(measure);
}

/* ---- SVG: nothing in it but numbers and our own words ---- */

static void write_bar(FILE *file, const json_t *bucket, int64_t most, size_t row)
{
  char low[32], high[32];
  int64_t count = busctl_json_integer(bucket, "count");
  bool gap = busctl_json_integer(bucket, "ns_max") >= OPS_GAPS_THRESHOLD_NS;
  double y = SVG_TOP + (double)row * SVG_ROW;
  double width = share(count, most) * (SVG_WIDTH - SVG_LEFT - SVG_RIGHT);
  width = width < 1 ? 1 : width;
  fprintf(file,
          "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%s - %s</text>\n"
          "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n"
          "<text x=\"%.1f\" y=\"%.1f\">%" PRId64 "</text>\n",
          SVG_LEFT - 10, y + 15, format_ns((double)busctl_json_integer(bucket, "ns_min"), low),
          format_ns((double)busctl_json_integer(bucket, "ns_max") + 1, high), SVG_LEFT, y + 2,
          width, SVG_ROW - 4, gap ? "#d55e00" : "#0072b2", SVG_LEFT + width + 6, y + 15, count);
}

int busctl_measure_write_svg(const json_t *measure, const char *path)
{
  char title[128], summary[256];
  size_t index;
  json_t *bucket;
  const json_t *buckets = json_object_get(measure, "buckets");
  int64_t most = find_most(buckets);
  double height = SVG_TOP + (double)json_array_size(buckets) * SVG_ROW + 40;
  FILE *file = fopen(path, "we");
  if (!file)
    return bus_error_set_errno("%s: creating", path);
  format_title(measure, title, sizeof title);
  format_summary(measure, summary, sizeof summary);
  fprintf(file,
          "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"
          "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
          "height=\"%.0f\" font-family=\"sans-serif\" font-size=\"12\" fill=\"#222222\">\n"
          "<rect width=\"100%%\" height=\"100%%\" fill=\"#ffffff\"/>\n"
          "<text x=\"20\" y=\"30\" font-size=\"18\">signal-busctl doctor: %s</text>\n"
          "<text x=\"20\" y=\"52\">%s</text>\n"
          "<text x=\"20\" y=\"74\">time between two readings of the clock; bars on a log "
          "scale</text>\n",
          SVG_WIDTH, height, SVG_WIDTH, height, title, summary);
  json_array_foreach(buckets, index, bucket)
  {
    write_bar(file, bucket, most, index);
  }
  fputs("</svg>\n", file);
  bool failed = ferror(file) != 0;
  if (fclose(file) != 0 || failed)
    return bus_error_set_errno("%s: writing", path);
  return BUS_OK;
}
