#include "tools/replay.h"

#include "tools/replay_rewrite.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char help[] = "Usage: bus-replay cut [OPTION].. CAPTURE NEW\n"
                           "\n"
                           "Writes a part of a capture to the new directory, as a capture. Records "
                           "keep their positions and\n"
                           "times. A cut by symbols leaves positions out; its description says so, "
                           "and no verb calls them\n"
                           "gaps.\n"
                           "\n" REPLAY_SELECT_HELP "  --help            this text\n"
                           "\n"
                           "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing in that "
                           "part, 4 damage was found\n"
                           "and named; what is whole was written.\n";

struct cut {
  struct bus_capture *capture;
  struct replay_selection selection;
  struct replay_output *output;
  struct replay_rewriter *rewriters; /* [streams] */
  char filtered[512];                /* the symbols, for the description */
  uint64_t gaps;
};

static int copy_events(struct cut *cut)
{
  struct replay_progress progress;
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  uint64_t done, total, events = 0;
  int status = bus_capture_merge_open(cut->capture, &cut->selection.range, &merge);
  replay_progress_begin(&progress, "cut");
  while (!status && (status = bus_capture_merge_next(merge, &event)) == 1) {
    cut->gaps += event.kind == BUS_CAPTURE_EVENT_GAP;
    status = replay_rewriter_take(&cut->rewriters[event.stream], &event);
    if (++events % 65536 == 0) {
      bus_capture_merge_progress(merge, &done, &total);
      replay_progress_show(&progress, done, total);
    }
  }
  replay_progress_end(&progress);
  bus_capture_merge_close(merge);
  return status;
}

static int cut_streams(struct cut *cut, const char *to)
{
  uint32_t streams = bus_capture_stream_count(cut->capture);
  cut->rewriters = calloc(streams ? streams : 1, sizeof *cut->rewriters);
  if (!cut->rewriters)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
  int error = replay_output_open(to, REPLAY_OUTPUT_SEGMENT_BYTES, &cut->output);
  if (error)
    return error;
  for (uint32_t i = 0; i < streams; i++)
    replay_rewriter_init(&cut->rewriters[i], cut->output, bus_capture_stream(cut->capture, i),
                         (cut->selection.symbols[i] || cut->selection.inputs[i]) ? cut->filtered
                                                                                 : NULL);
  error = copy_events(cut);
  for (uint32_t i = 0; i < streams; i++)
    replay_rewriter_free(&cut->rewriters[i]);
  uint64_t records = replay_output_records(cut->output);
  if (!error)
    error = replay_output_close(cut->output);
  else
    replay_output_abandon(cut->output);
  if (!error)
    printf("%" PRIu64 " records in %s\n", records, to);
  if (!error && records == 0)
    error = bus_error_set(BUS_ERROR_ABSENT,
                          "no record lies in that part; `bus-replay info %s` "
                          "shows what there is",
                          bus_capture_path(cut->capture));
  return error;
}

static int cut_main(const struct replay_select *select, const char *from, const char *to)
{
  struct cut cut = {0};
  int status = replay_open("cut", from, &cut.capture);
  if (status)
    return status;
  int error = replay_select_resolve(select, cut.capture, &cut.selection);
  if (!error) {
    snprintf(cut.filtered, sizeof cut.filtered, "symbols");
    for (size_t i = 0; i < select->symbol_count; i++) {
      size_t length = strlen(cut.filtered);
      snprintf(cut.filtered + length, sizeof cut.filtered - length, " %s", select->symbols[i]);
    }
    error = cut_streams(&cut, to);
    free(cut.rewriters);
    replay_selection_free(&cut.selection);
  }
  status = error ? replay_fail("cut") : cut.gaps ? REPLAY_GAPS : REPLAY_OK;
  return replay_close("cut", cut.capture, status);
}

int replay_cut(int argc, char **argv)
{
  static const struct option options[] = {
      REPLAY_SELECT_OPTIONS, {"help", no_argument, NULL, REPLAY_OPTION_HELP}, {NULL, 0, NULL, 0}};
  struct replay_select select = {0};
  struct replay_line line = {"cut", help, argc, argv, options, &select, false, 0};
  replay_line_next(&line); /* no option of its own: goes to the end */
  if (line.ended)
    return line.status;
  if (argc - optind != 2)
    return replay_usage_error("cut", "give a capture and a new directory");
  return cut_main(&select, argv[optind], argv[optind + 1]);
}
