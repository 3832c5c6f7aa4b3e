#include "tools/replay.h"

#include "tools/replay_statistics.h"

#include <inttypes.h>
#include <stdlib.h>

#define GAPS_SHOWN 20u

static const char help[] =
    "Usage: bus-replay stats [OPTION].. CAPTURE\n"
    "\n"
    "How the records came: rates, time from record to record, latencies of signals, gaps.\n"
    "\n" REPLAY_SELECT_HELP "  --svg FILE        plots: percentiles, rates and gaps over time\n"
    "  --json            one JSON object\n"
    "  --help            this text\n"
    "\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing, 4 damage was found and "
    "named.\n";

enum { OPTION_JSON = REPLAY_OPTION_OWN, OPTION_SVG };

static const struct option options[] = {REPLAY_SELECT_OPTIONS,
                                        {"svg", required_argument, NULL, OPTION_SVG},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        {"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                        {NULL, 0, NULL, 0}};

static const struct {
  const char *name;
  double quantile;
} points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};

static double seconds_of(const struct replay_stream_statistics *stream)
{
  return (double)(stream->last_ns - stream->first_ns) / 1e9;
}

/* Over the time from the first record to the last, so one record has none. */
static double rate_of(const struct replay_stream_statistics *stream)
{
  double seconds = seconds_of(stream);
  return seconds > 0 ? (double)(stream->records - 1) / seconds : 0;
}

static void print_percentiles(const char *name, const struct bus_histogram *histogram)
{
  if (histogram->count == 0)
    return;
  printf("    %-20s", name);
  for (size_t i = 0; i < BUS_COUNT_OF(points); i++)
    printf(" %11.2f", (double)bus_histogram_quantile(histogram, points[i].quantile) / 1e3);
  printf(" %11.2f\n", (double)histogram->maximum / 1e3);
}

static void print_text(const struct bus_capture *capture,
                       const struct replay_statistics *statistics)
{
  for (uint32_t i = 0; i < statistics->stream_count; i++) {
    const struct replay_stream_statistics *stream = &statistics->streams[i];
    if (stream->records == 0)
      continue;
    printf("%s: %" PRIu64 " records in %.3f s, %.1f records/s, busiest second %" PRIu64 "\n",
           bus_capture_stream(capture, i)->name, stream->records, seconds_of(stream),
           rate_of(stream), stream->busiest);
    printf("    %-20s %11s %11s %11s %11s %11s\n", "(us)", "p50", "p90", "p99", "p99.9", "max");
    print_percentiles("record to record", &stream->interval_ns);
    print_percentiles("queue", &stream->queue_ns);
    print_percentiles("inference", &stream->inference_ns);
    print_percentiles("receipt to signal", &stream->total_ns);
    if (stream->gaps)
      printf("    %" PRIu64 " gaps, %" PRIu64 " records are missing\n", stream->gaps, stream->lost);
  }
  for (uint32_t i = 0; i < statistics->gap_count && i < GAPS_SHOWN; i++) {
    const struct replay_gap *gap = &statistics->gaps[i];
    printf("gap at %+.3f s: %s %" PRIu64 "..%" PRIu64 "\n",
           (double)(int64_t)(gap->time_ns - statistics->begin_ns) / 1e9,
           bus_capture_stream(capture, gap->stream)->name, gap->first, gap->last);
  }
  if (statistics->gap_count > GAPS_SHOWN)
    puts("further gaps: see --json");
}

static json_t *describe_histogram(const struct bus_histogram *histogram)
{
  json_t *object = json_object();
  replay_json_set(object, "count", replay_json_u64(histogram->count));
  for (size_t i = 0; i < BUS_COUNT_OF(points); i++)
    replay_json_set(object, points[i].name,
                    replay_json_u64(bus_histogram_quantile(histogram, points[i].quantile)));
  replay_json_set(object, "max", replay_json_u64(histogram->maximum));
  return object;
}

static json_t *describe_stream(const struct bus_capture_stream *about,
                               const struct replay_stream_statistics *stream)
{
  json_t *object = json_object();
  replay_json_set(object, "name", replay_json_text(about->name));
  replay_json_set(object, "records", replay_json_u64(stream->records));
  replay_json_set(object, "first_time_ns", replay_json_u64(stream->first_ns));
  replay_json_set(object, "last_time_ns", replay_json_u64(stream->last_ns));
  replay_json_set(object, "records_per_second", json_real(rate_of(stream)));
  replay_json_set(object, "records_per_second_max", replay_json_u64(stream->busiest));
  replay_json_set(object, "gaps", replay_json_u64(stream->gaps));
  replay_json_set(object, "lost", replay_json_u64(stream->lost));
  replay_json_set(object, "interval_ns", describe_histogram(&stream->interval_ns));
  if (stream->total_ns.count) {
    replay_json_set(object, "queue_ns", describe_histogram(&stream->queue_ns));
    replay_json_set(object, "inference_ns", describe_histogram(&stream->inference_ns));
    replay_json_set(object, "total_ns", describe_histogram(&stream->total_ns));
  }
  return object;
}

static int print_json(const struct bus_capture *capture, const struct replay_statistics *statistics)
{
  json_t *object = json_object(), *streams = json_array(), *gaps = json_array();
  for (uint32_t i = 0; i < statistics->stream_count; i++)
    if (statistics->streams[i].records)
      json_array_append_new(
          streams, describe_stream(bus_capture_stream(capture, i), &statistics->streams[i]));
  for (uint32_t i = 0; i < statistics->gap_count; i++) {
    json_t *gap = json_object();
    replay_json_set(
        gap, "stream",
        replay_json_text(bus_capture_stream(capture, statistics->gaps[i].stream)->name));
    replay_json_set(gap, "time_ns", replay_json_u64(statistics->gaps[i].time_ns));
    replay_json_set(gap, "first", replay_json_u64(statistics->gaps[i].first));
    replay_json_set(gap, "last", replay_json_u64(statistics->gaps[i].last));
    json_array_append_new(gaps, gap);
  }
  replay_json_set(object, "capture", replay_json_text(bus_capture_path(capture)));
  replay_json_set(object, "begin_ns", replay_json_u64(statistics->begin_ns));
  replay_json_set(object, "end_ns", replay_json_u64(statistics->end_ns));
  replay_json_set(object, "streams", streams);
  replay_json_set(object, "gaps", gaps);
  return replay_json_print("stats", object);
}

static void show_progress(void *progress, uint64_t done, uint64_t total)
{
  replay_progress_show(progress, done, total);
}

static int report(struct bus_capture *capture, const struct replay_select *select,
                  const char *svg_path, bool as_json)
{
  struct replay_selection selection;
  struct replay_statistics statistics;
  struct replay_progress progress;
  const struct bus_capture_watcher watcher = {show_progress, &progress};
  if (replay_select_resolve(select, capture, &selection) != BUS_OK)
    return replay_fail("stats");
  replay_progress_begin(&progress, "stats");
  int error = replay_statistics_take(capture, &selection.range, &watcher, &statistics);
  replay_progress_end(&progress);
  if (!error && svg_path)
    error = replay_statistics_plot(capture, &statistics, svg_path);
  int status = error ? replay_fail("stats") : REPLAY_OK;
  if (!error && as_json)
    status = print_json(capture, &statistics);
  else if (!error)
    print_text(capture, &statistics);
  if (statistics.gap_count)
    status = replay_worse(status, REPLAY_GAPS);
  replay_statistics_free(&statistics);
  replay_selection_free(&selection);
  return status;
}

int replay_stats(int argc, char **argv)
{
  struct replay_select select = {0};
  struct bus_capture *capture;
  const char *svg_path = NULL;
  bool as_json = false;
  struct replay_line line = {"stats", help, argc, argv, options, &select, false, 0};
  for (int option; (option = replay_line_next(&line)) != 0;) {
    if (option == OPTION_SVG)
      svg_path = optarg;
    else
      as_json = true;
  }
  if (line.ended)
    return line.status;
  if (argc - optind != 1)
    return replay_usage_error("stats", "give one capture");
  int status = replay_open("stats", argv[optind], &capture);
  if (status)
    return status;
  status = report(capture, &select, svg_path, as_json);
  return replay_close("stats", capture, status);
}
