#include "tools/replay.h"

#include "tools/replay_rewrite.h"

#include <inttypes.h>

static const char help[] =
    "Usage: bus-replay recover CAPTURE NEW\n"
    "\n"
    "Writes all that is whole to the new directory: every undamaged block, before and behind "
    "damage,\n"
    "in segments that are complete. CAPTURE stays as it is.\n"
    "\n"
    "  --help  this text\n"
    "\n"
    "Exit status: 0 nothing was damaged, 1 failed, 2 usage, 4 damage was found and named; what is\n"
    "whole was saved.\n";

struct recovery {
  struct bus_capture *capture;
  struct replay_output *output;
  struct replay_progress progress;
  uint64_t bytes;
  uint64_t bytes_total;
  uint64_t blocks_bad;
};

static int take_block(struct recovery *recovery, const struct bus_capture_stream *stream,
                      const struct bus_capture_view *view, int to, bool *described)
{
  json_t *meta = NULL;
  int error;
  if (view->block->kind == BUS_CAPTURE_META) {
    error = bus_capture_meta_parse((const char *)view->block + BUS_CAPTURE_BLOCK_HEADER_BYTES,
                                   view->block->count, &meta);
    if (error == BUS_ERROR_CORRUPT)
      return BUS_OK; /* noted when the capture was opened */
    if (!error)
      error = replay_output_meta(recovery->output, to, meta);
    json_decref(meta);
    *described = true;
    return error;
  }
  if (!*described) {
    /* The segment has lost its description. */
    meta = replay_description(stream, view->segment);
    error = replay_output_meta(recovery->output, to, meta);
    json_decref(meta);
    *described = true;
    if (error)
      return error;
  }
  return replay_output_block(recovery->output, to, view->block);
}

static int recover_stream(struct recovery *recovery, uint32_t index)
{
  const struct bus_capture_stream *stream = bus_capture_stream(recovery->capture, index);
  const struct bus_capture_segment *segment = NULL;
  struct bus_capture_cursor *cursor;
  struct bus_capture_view view;
  bool described = false;
  int to = replay_output_stream(recovery->output, stream->name, &stream->segments[0].shape);
  if (to < 0)
    return to;
  int status = bus_capture_cursor_open(recovery->capture, index, &cursor);
  while (!status && (status = bus_capture_cursor_next(cursor, &view)) == 1) {
    recovery->bytes += view.segment->shape.block_size;
    replay_progress_show(&recovery->progress, recovery->bytes, recovery->bytes_total);
    status = BUS_OK;
    if (view.segment != segment) {
      status = replay_output_rotate(recovery->output, to,
                                    segment && segment->instance != view.segment->instance);
      if (!status)
        to = replay_output_stream(recovery->output, stream->name, &view.segment->shape);
      status = to < 0 ? to : status;
      segment = view.segment;
      described = false;
    }
    if (!view.block)
      recovery->blocks_bad++;
    else if (!status)
      status = take_block(recovery, stream, &view, to, &described);
  }
  bus_capture_cursor_close(cursor);
  return status;
}

static int recover_all(struct recovery *recovery)
{
  int error = BUS_OK;
  recovery->bytes_total = bus_capture_blocks_bytes(recovery->capture);
  replay_progress_begin(&recovery->progress, "recover");
  for (uint32_t i = 0; i < bus_capture_stream_count(recovery->capture) && !error; i++)
    error = recover_stream(recovery, i);
  replay_progress_end(&recovery->progress);
  return error;
}

int replay_recover(int argc, char **argv)
{
  static const struct option options[] = {{"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                          {NULL, 0, NULL, 0}};
  struct recovery recovery = {.capture = NULL};
  struct replay_line line = {"recover", help, argc, argv, options, NULL, false, 0};
  replay_line_next(&line); /* no option of its own: goes to the end */
  if (line.ended)
    return line.status;
  if (argc - optind != 2)
    return replay_usage_error("recover", "give a capture and a new directory");
  int status = replay_open("recover", argv[optind], &recovery.capture);
  if (status)
    return status;
  int error = replay_output_open(argv[optind + 1], REPLAY_OUTPUT_SEGMENT_BYTES, &recovery.output);
  if (!error) {
    error = recover_all(&recovery);
    uint64_t records = replay_output_records(recovery.output);
    uint64_t blocks = replay_output_blocks(recovery.output);
    if (!error)
      error = replay_output_close(recovery.output);
    else
      replay_output_abandon(recovery.output);
    if (!error)
      printf("saved %" PRIu64 " records in %" PRIu64 " blocks to %s; %" PRIu64
             " blocks are damaged\n",
             records, blocks, argv[optind + 1], recovery.blocks_bad);
  }
  status = error ? replay_fail("recover") : REPLAY_OK;
  return replay_close("recover", recovery.capture, status);
}
