#include "tools/replay_statistics.h"

#include "tools/svg_plot.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_NS      1000000000u
#define PROGRESS_EVERY 65536u

static uint32_t part_of(const struct replay_statistics *statistics, uint64_t time_ns)
{
  const uint64_t span_ns = statistics->end_ns - statistics->begin_ns;
  if (time_ns <= statistics->begin_ns || span_ns == 0)
    return 0;
  double part = (double)(time_ns - statistics->begin_ns) / (double)span_ns;
  uint32_t index = part < 1 ? (uint32_t)(part * REPLAY_STATISTICS_PARTS) : UINT32_MAX;
  return index < REPLAY_STATISTICS_PARTS ? index : REPLAY_STATISTICS_PARTS - 1;
}

static void count_second(struct replay_stream_statistics *stream, uint64_t time_ns)
{
  if (time_ns - stream->second_ns >= SECOND_NS) {
    stream->second_ns += (time_ns - stream->second_ns) / SECOND_NS * SECOND_NS;
    stream->in_second = 0;
  }
  if (++stream->in_second > stream->busiest)
    stream->busiest = stream->in_second;
}

static void take_record(struct replay_statistics *statistics,
                        const struct bus_capture_stream *about,
                        const struct bus_capture_event *event)
{
  struct replay_stream_statistics *stream = &statistics->streams[event->stream];
  if (stream->records++ == 0)
    stream->first_ns = stream->second_ns = event->time_ns;
  else
    bus_histogram_record(&stream->interval_ns, event->time_ns - stream->last_ns);
  stream->last_ns = event->time_ns;
  stream->rates[part_of(statistics, event->time_ns)]++;
  count_second(stream, event->time_ns);
  if (about->record_type != BUS_RECORD_SIGNAL || about->record_size != sizeof(struct bus_signal))
    return;
  struct bus_signal signal;
  memcpy(&signal, event->record, sizeof signal);
  bus_histogram_record(&stream->queue_ns, signal.queue_ns);
  bus_histogram_record(&stream->inference_ns, signal.inference_ns);
  bus_histogram_record(&stream->total_ns, (uint64_t)signal.queue_ns + signal.inference_ns);
}

static void take_gap(struct replay_statistics *statistics, const struct bus_capture_stream *about,
                     const struct bus_capture_event *event)
{
  struct replay_stream_statistics *stream = &statistics->streams[event->stream];
  const uint64_t missing = event->last - event->position + 1;
  if (*bus_capture_meta_text(about->meta, "filtered"))
    return;
  stream->gaps++;
  stream->lost += missing;
  stream->losses[part_of(statistics, event->time_ns)] += (double)missing;
  if (statistics->gap_count < REPLAY_STATISTICS_GAPS_MAX)
    statistics->gaps[statistics->gap_count++] =
        (struct replay_gap){event->stream, event->time_ns, event->position, event->last};
}

/* Counts become rates. */
static void close_parts(struct replay_statistics *statistics)
{
  double part_s =
      (double)(statistics->end_ns - statistics->begin_ns) / 1e9 / REPLAY_STATISTICS_PARTS;
  for (uint32_t i = 0; i < statistics->stream_count; i++)
    for (uint32_t j = 0; j < REPLAY_STATISTICS_PARTS; j++)
      statistics->streams[i].rates[j] = part_s > 0 ? statistics->streams[i].rates[j] / part_s : 0;
}

static int read_all(struct bus_capture *capture, const struct bus_capture_range *range,
                    const struct bus_capture_watcher *watcher, struct replay_statistics *statistics)
{
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  uint64_t events = 0, done, total;
  int status = bus_capture_merge_open(capture, range, &merge);
  if (status)
    return status;
  while ((status = bus_capture_merge_next(merge, &event)) == 1) {
    const struct bus_capture_stream *about = bus_capture_stream(capture, event.stream);
    if (event.kind == BUS_CAPTURE_EVENT_RECORD)
      take_record(statistics, about, &event);
    else if (event.kind == BUS_CAPTURE_EVENT_GAP)
      take_gap(statistics, about, &event);
    if (watcher && ++events % PROGRESS_EVERY == 0) {
      bus_capture_merge_progress(merge, &done, &total);
      watcher->show(watcher->context, done, total);
    }
  }
  bus_capture_merge_close(merge);
  return status;
}

int replay_statistics_take(struct bus_capture *capture, const struct bus_capture_range *range,
                           const struct bus_capture_watcher *watcher,
                           struct replay_statistics *statistics)
{
  int64_t offset_ns;
  memset(statistics, 0, sizeof *statistics);
  statistics->stream_count = bus_capture_stream_count(capture);
  statistics->streams = calloc(statistics->stream_count + 1, sizeof *statistics->streams);
  statistics->gaps = calloc(REPLAY_STATISTICS_GAPS_MAX, sizeof *statistics->gaps);
  if (!statistics->streams || !statistics->gaps)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for %u streams", statistics->stream_count);
  bus_capture_times(capture, &statistics->begin_ns, &statistics->end_ns, &offset_ns);
  if (range->from_ns > statistics->begin_ns)
    statistics->begin_ns = range->from_ns;
  if (range->until_ns < statistics->end_ns)
    statistics->end_ns = range->until_ns;
  if (statistics->end_ns < statistics->begin_ns)
    statistics->end_ns = statistics->begin_ns;
  int error = read_all(capture, range, watcher, statistics);
  close_parts(statistics);
  return error;
}

void replay_statistics_free(struct replay_statistics *statistics)
{
  free(statistics->streams);
  free(statistics->gaps);
  memset(statistics, 0, sizeof *statistics);
}

/* ---- the picture ---- */

#define CURVES_MAX 30u

struct picture {
  struct svg_curve curves[CURVES_MAX];
  char labels[CURVES_MAX][BUS_CAPTURE_STREAM_BYTES + 24];
  uint32_t curve_count;
  struct svg_series rates[CURVES_MAX];
  struct svg_series losses[CURVES_MAX];
  uint32_t rate_count;
  uint32_t loss_count;
};

static void add_curve(struct picture *picture, const char *stream, const char *what,
                      uint32_t colour, uint32_t dash, const struct bus_histogram *histogram)
{
  const uint32_t at = picture->curve_count;
  if (at == CURVES_MAX || histogram->count == 0)
    return;
  snprintf(picture->labels[at], sizeof picture->labels[at], "%s: %s", stream, what);
  picture->curves[at] = (struct svg_curve){picture->labels[at], colour, dash, histogram};
  picture->curve_count++;
}

static void collect(struct picture *picture, const struct bus_capture *capture,
                    const struct replay_statistics *statistics)
{
  for (uint32_t i = 0; i < statistics->stream_count; i++) {
    const struct replay_stream_statistics *stream = &statistics->streams[i];
    const char *name = bus_capture_stream(capture, i)->name;
    if (stream->records == 0)
      continue;
    add_curve(picture, name, "interval", i, 0, &stream->interval_ns);
    add_curve(picture, name, "queue", i, 1, &stream->queue_ns);
    add_curve(picture, name, "inference", i, 2, &stream->inference_ns);
    add_curve(picture, name, "receipt to signal", i, 3, &stream->total_ns);
    if (picture->rate_count < CURVES_MAX)
      picture->rates[picture->rate_count++] = (struct svg_series){name, i, 0, stream->rates};
    if (picture->loss_count < CURVES_MAX && stream->lost)
      picture->losses[picture->loss_count++] = (struct svg_series){name, i, 0, stream->losses};
  }
}

int replay_statistics_plot(const struct bus_capture *capture,
                           const struct replay_statistics *statistics, const char *path)
{
  struct picture *picture = calloc(1, sizeof *picture);
  if (!picture)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  collect(picture, capture, statistics);
  double seconds = (double)(statistics->end_ns - statistics->begin_ns) / 1e9;
  if (!(seconds > 0))
    seconds = 1e-9;
  char note[96];
  snprintf(note, sizeof note, "%u streams over %.3f s", statistics->stream_count, seconds);
  struct svg_plot plot;
  int error = svg_plot_open(&plot, path, picture->loss_count ? 3 : 2, "bus-replay stats", note);
  if (!error) {
    svg_plot_percentiles(&plot, picture->curves, picture->curve_count);
    svg_plot_series(&plot, "records/s", seconds, REPLAY_STATISTICS_PARTS, picture->rates,
                    picture->rate_count);
    if (picture->loss_count)
      svg_plot_series(&plot, "missing records", seconds, REPLAY_STATISTICS_PARTS, picture->losses,
                      picture->loss_count);
    error = svg_plot_close(&plot);
  }
  free(picture);
  return error;
}
