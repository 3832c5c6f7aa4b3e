#include "tools/replay_rewrite.h"

#include "shm/layout.h"

#include <stdio.h>
#include <string.h>

json_t *replay_description(const struct bus_capture_stream *stream,
                           const struct bus_capture_segment *segment)
{
  if (segment && segment->meta)
    return json_incref(segment->meta);
  if (json_object_size(stream->meta) > 0)
    return json_incref(stream->meta);
  /* Names may hold dots; the last one is as good a guess as any. */
  const char *dot = strrchr(stream->name, '.');
  char member[BUS_CAPTURE_STREAM_BYTES];
  snprintf(member, sizeof member, "%.*s", (int)(dot - stream->name), stream->name);
  return json_pack("{s:s, s:i, s:s, s:s, s:s, s:i}", "format", "signal-bus capture", "version",
                   BUS_CAPTURE_VERSION, "member", member, "ring", dot + 1, "record_type",
                   bus_record_type_name(stream->record_type), "record_size",
                   (int)stream->record_size);
}

struct bus_capture_shape replay_shape(const struct bus_capture_stream *stream)
{
  struct bus_capture_shape shape = stream->segments[0].shape;
  for (size_t i = 1; i < stream->segment_count; i++)
    if (stream->segments[i].shape.block_size > shape.block_size)
      shape.block_size = stream->segments[i].shape.block_size;
  return shape;
}

void replay_rewriter_init(struct replay_rewriter *rewriter, struct replay_output *output,
                          const struct bus_capture_stream *stream, const char *filtered)
{
  *rewriter =
      (struct replay_rewriter){.output = output, .stream = stream, .to = -1, .filtered = filtered};
}

void replay_rewriter_free(struct replay_rewriter *rewriter)
{
  json_decref(rewriter->meta);
  rewriter->meta = NULL;
}

static int describe(struct replay_rewriter *rewriter)
{
  int error = BUS_OK;
  if (rewriter->to < 0) {
    struct bus_capture_shape shape = replay_shape(rewriter->stream);
    rewriter->to = replay_output_stream(rewriter->output, rewriter->stream->name, &shape);
    if (rewriter->to < 0)
      return rewriter->to;
    if (!rewriter->meta)
      rewriter->meta = replay_description(rewriter->stream, NULL);
  }
  if (rewriter->rotate)
    error = replay_output_rotate(rewriter->output, rewriter->to, true);
  rewriter->rotate = false;
  if (!rewriter->meta || error)
    return error;
  json_t *meta = json_copy(rewriter->meta);
  if (rewriter->filtered && json_object_set_new(meta, "filtered", json_string(rewriter->filtered)))
    error = bus_error_set(BUS_ERROR_NO_SPACE, "no memory for a description");
  if (!error)
    error = replay_output_meta(rewriter->output, rewriter->to, meta);
  json_decref(meta);
  json_decref(rewriter->meta);
  rewriter->meta = NULL;
  return error;
}

int replay_rewriter_take(struct replay_rewriter *rewriter, const struct bus_capture_event *event)
{
  if (event->kind == BUS_CAPTURE_EVENT_META || event->kind == BUS_CAPTURE_EVENT_INSTANCE) {
    rewriter->rotate |= event->kind == BUS_CAPTURE_EVENT_INSTANCE;
    json_decref(rewriter->meta);
    rewriter->meta = json_deep_copy(event->meta);
    return BUS_OK;
  }
  if (event->kind != BUS_CAPTURE_EVENT_RECORD)
    return BUS_OK;
  if (BUS_UNLIKELY(rewriter->to < 0 || rewriter->rotate || rewriter->meta)) {
    int error = describe(rewriter);
    if (error)
      return error;
  }
  return replay_output_record(rewriter->output, rewriter->to, event->record, event->time_ns);
}
