#include "tools/replay.h"

#include "tools/replay_rewrite.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: bus-replay merge [OPTION].. CAPTURE.. NEW\n"
    "\n"
    "Joins captures to one: of other rings, of other times, or of the same. A record that several\n"
    "have (same stream, instance and position) is written once; where they contradict each other\n"
    "that of the first capture is written and the place is named.\n"
    "\n" REPLAY_SELECT_HELP "  --help            this text\n"
    "\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing in the result, 4 damage was "
    "found\n"
    "and named, or the captures contradict each other.\n";

#define CAPTURES_MAX    256
#define CONFLICTS_SHOWN 20u

/* The same stream in one of the captures. */
struct source {
  struct bus_capture *capture;
  struct replay_selection selection;
  bool *only;
  struct bus_capture_merge *merge;
  struct bus_capture_event event; /* the next record's, when there is one */
  bool has_record;
  uint32_t record_size;
  json_t *meta; /* what describes the next record */
  bool meta_is_new;
};

struct joining {
  struct source *sources;
  int source_count;
  struct replay_output *output;
  struct replay_progress progress;
  uint64_t duplicates;
  uint64_t conflicts;
  uint64_t gaps;
  uint64_t records;
};

/* ---- one source ---- */

static int next_record(struct source *source)
{
  int status;
  source->has_record = false;
  while ((status = bus_capture_merge_next(source->merge, &source->event)) == 1) {
    const struct bus_capture_event *event = &source->event;
    if (event->kind == BUS_CAPTURE_EVENT_META || event->kind == BUS_CAPTURE_EVENT_INSTANCE) {
      json_decref(source->meta);
      source->meta = json_deep_copy(event->meta);
      source->meta_is_new = true;
    }
    if (event->kind == BUS_CAPTURE_EVENT_RECORD) {
      source->has_record = true;
      return BUS_OK;
    }
  }
  return status;
}

static int open_source(struct source *source, const struct bus_capture_stream *wanted)
{
  uint32_t streams = bus_capture_stream_count(source->capture);
  source->only = calloc(streams ? streams : 1, sizeof *source->only);
  if (!source->only)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
  source->record_size = wanted->record_size;
  for (uint32_t i = 0; i < streams; i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(source->capture, i);
    const bool *selected = source->selection.range.streams;
    source->only[i] = (!selected || selected[i]) && !strcmp(stream->name, wanted->name) &&
                      stream->record_type == wanted->record_type &&
                      stream->record_size == wanted->record_size;
  }
  struct bus_capture_range range = source->selection.range;
  range.streams = source->only;
  int error = bus_capture_merge_open(source->capture, &range, &source->merge);
  return error ? error : next_record(source);
}

static void close_source(struct source *source)
{
  bus_capture_merge_close(source->merge);
  json_decref(source->meta);
  free(source->only);
  source->merge = NULL;
  source->meta = NULL;
  source->only = NULL;
  source->meta_is_new = false;
}

/* ---- all sources of one stream ---- */

static bool comes_before(const struct source *a, const struct source *b)
{
  return a->event.instance == b->event.instance ? a->event.position < b->event.position
                                                : a->event.time_ns < b->event.time_ns;
}

/* The source with the next record: an instance is finished before another begins. NULL at the end.
 */
static struct source *choose(struct joining *joining, uint64_t instance, bool begun)
{
  struct source *best = NULL;
  bool best_stays = false;
  for (int i = 0; i < joining->source_count; i++) {
    struct source *source = &joining->sources[i];
    if (!source->has_record)
      continue;
    bool stays = begun && source->event.instance == instance;
    if (!best || (stays && !best_stays) || (stays == best_stays && comes_before(source, best))) {
      best = source;
      best_stays = stays;
    }
  }
  return best;
}

/* Passes over the records of the others that are the chosen one again. */
static int drop_duplicates(struct joining *joining, const struct source *chosen,
                           const struct bus_capture_event *event, const char *stream)
{
  for (int i = 0; i < joining->source_count; i++) {
    struct source *source = &joining->sources[i];
    if (source == chosen || !source->has_record || source->event.instance != event->instance ||
        source->event.position != event->position)
      continue;
    joining->duplicates++;
    if (memcmp(source->event.record, event->record, chosen->record_size) != 0 &&
        joining->conflicts++ < CONFLICTS_SHOWN)
      fprintf(stderr,
              "bus-replay merge: contradiction: %s, position %" PRIu64 ": %s differs from %s\n",
              stream, event->position, bus_capture_path(source->capture),
              bus_capture_path(chosen->capture));
    int error = next_record(source);
    if (error)
      return error;
  }
  return BUS_OK;
}

static int join_records(struct joining *joining, struct replay_rewriter *rewriter)
{
  struct source *before = NULL, *chosen;
  uint64_t instance = 0, expected = 0;
  int error = BUS_OK;
  while (!error && (chosen = choose(joining, instance, before != NULL)) != NULL) {
    const struct bus_capture_event *event = &chosen->event;
    bool replaced = before && event->instance != instance;
    if (chosen->meta && (chosen != before || chosen->meta_is_new || replaced)) {
      json_decref(rewriter->meta);
      rewriter->meta = json_incref(chosen->meta);
      chosen->meta_is_new = false;
    }
    rewriter->rotate |= replaced;
    if (before && !replaced && event->position > expected && !rewriter->filtered)
      joining->gaps++;
    instance = event->instance;
    expected = event->position + 1;
    before = chosen;
    if (++joining->records % 65536 == 0)
      replay_progress_show(&joining->progress, joining->records, 0);
    error = replay_rewriter_take(rewriter, event);
    if (!error)
      error = drop_duplicates(joining, chosen, event, rewriter->stream->name);
    if (!error)
      error = next_record(chosen);
  }
  return error;
}

static int join_stream(struct joining *joining, const struct bus_capture_stream *stream)
{
  struct replay_rewriter rewriter;
  int error = BUS_OK;
  replay_rewriter_init(&rewriter, joining->output, stream, NULL);
  for (int i = 0; i < joining->source_count && !error; i++)
    error = open_source(&joining->sources[i], stream);
  if (!error)
    error = join_records(joining, &rewriter);
  for (int i = 0; i < joining->source_count; i++)
    close_source(&joining->sources[i]);
  replay_rewriter_free(&rewriter);
  return error;
}

/* True when an earlier capture has the stream too, so that it is done. */
static bool is_done(const struct joining *joining, int source, const struct bus_capture_stream *of)
{
  for (int i = 0; i < source; i++)
    for (uint32_t j = 0; j < bus_capture_stream_count(joining->sources[i].capture); j++) {
      const struct bus_capture_stream *stream = bus_capture_stream(joining->sources[i].capture, j);
      if (!strcmp(stream->name, of->name) && stream->record_type == of->record_type &&
          stream->record_size == of->record_size)
        return true;
    }
  return false;
}

static int join_all(struct joining *joining)
{
  int error = BUS_OK;
  replay_progress_begin(&joining->progress, "merge");
  for (int i = 0; i < joining->source_count; i++)
    for (uint32_t j = 0; j < bus_capture_stream_count(joining->sources[i].capture) && !error; j++) {
      const struct bus_capture_stream *stream = bus_capture_stream(joining->sources[i].capture, j);
      if (!is_done(joining, i, stream))
        error = join_stream(joining, stream);
    }
  replay_progress_end(&joining->progress);
  return error;
}

static int open_all(struct joining *joining, const struct replay_select *select, char **paths)
{
  for (int i = 0; i < joining->source_count; i++) {
    struct source *source = &joining->sources[i];
    int error = bus_capture_open(paths[i], &source->capture);
    if (!error)
      error = replay_select_resolve(select, source->capture, &source->selection);
    if (error)
      return error;
  }
  return BUS_OK;
}

static int merge_main(const struct replay_select *select, char **paths, int count, const char *to)
{
  struct joining joining = {.source_count = count};
  joining.sources = calloc((size_t)count, sizeof *joining.sources);
  int error = joining.sources ? open_all(&joining, select, paths)
                              : bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
  if (!error)
    error = replay_output_open(to, REPLAY_OUTPUT_SEGMENT_BYTES, &joining.output);
  if (!error)
    error = join_all(&joining);
  if (!error) {
    uint64_t records = replay_output_records(joining.output);
    error = replay_output_close(joining.output);
    if (!error)
      printf("%" PRIu64 " records in %s; %" PRIu64 " were there twice, %" PRIu64
             " contradict each other\n",
             records, to, joining.duplicates, joining.conflicts);
  } else {
    replay_output_abandon(joining.output);
  }
  int status = error ? replay_fail("merge") : REPLAY_OK;
  if (joining.gaps)
    status = replay_worse(status, REPLAY_GAPS);
  if (joining.conflicts)
    status = replay_worse(status, REPLAY_CORRUPT);
  for (int i = 0; joining.sources && i < count; i++) {
    replay_selection_free(&joining.sources[i].selection);
    if (joining.sources[i].capture)
      status = replay_close("merge", joining.sources[i].capture, status);
  }
  free(joining.sources);
  return status;
}

int replay_merge(int argc, char **argv)
{
  static const struct option options[] = {
      REPLAY_SELECT_OPTIONS, {"help", no_argument, NULL, REPLAY_OPTION_HELP}, {NULL, 0, NULL, 0}};
  struct replay_select select = {0};
  struct replay_line line = {"merge", help, argc, argv, options, &select, false, 0};
  replay_line_next(&line); /* no option of its own: goes to the end */
  if (line.ended)
    return line.status;
  int captures = argc - optind - 1;
  if (captures < 1 || captures > CAPTURES_MAX)
    return replay_usage_error("merge", "give 1 to %d captures and a new directory", CAPTURES_MAX);
  return merge_main(&select, argv + optind, captures, argv[argc - 1]);
}
