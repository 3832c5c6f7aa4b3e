#include "consumers/capture_cursor.h"

#include <stdlib.h>

struct bus_capture_cursor {
  struct bus_capture *capture;
  const struct bus_capture_stream *stream;
  size_t segment;
  uint64_t number; /* of the next block */
  void *buffer;
};

int bus_capture_cursor_open(struct bus_capture *capture, uint32_t stream,
                            struct bus_capture_cursor **out)
{
  const struct bus_capture_stream *of = bus_capture_stream(capture, stream);
  *out = NULL;
  if (!of)
    return bus_error_set(BUS_ERROR_INVALID, "no stream %u", stream);
  uint32_t bytes = 0;
  for (size_t i = 0; i < of->segment_count; i++)
    if (of->segments[i].shape.block_size > bytes)
      bytes = of->segments[i].shape.block_size;
  struct bus_capture_cursor *cursor = calloc(1, sizeof *cursor);
  if (!cursor || posix_memalign(&cursor->buffer, 4096, bytes) != 0) {
    free(cursor);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory to read %s", of->name);
  }
  cursor->capture = capture;
  cursor->stream = of;
  *out = cursor;
  return BUS_OK;
}

void bus_capture_cursor_close(struct bus_capture_cursor *cursor)
{
  if (!cursor)
    return;
  free(cursor->buffer);
  free(cursor);
}

void bus_capture_cursor_seek(struct bus_capture_cursor *cursor, size_t segment, uint64_t number)
{
  cursor->segment = segment;
  cursor->number = number;
}

int bus_capture_cursor_next(struct bus_capture_cursor *cursor, struct bus_capture_view *view)
{
  const struct bus_capture_stream *stream = cursor->stream;
  while (cursor->segment < stream->segment_count &&
         cursor->number >= stream->segments[cursor->segment].blocks) {
    cursor->segment++;
    cursor->number = 0;
  }
  if (cursor->segment >= stream->segment_count)
    return 0;
  view->segment = &stream->segments[cursor->segment];
  view->number = cursor->number++;
  view->block = cursor->buffer;
  int error =
      bus_capture_read_block(cursor->capture, stream, view->segment, view->number, cursor->buffer);
  if (error == BUS_ERROR_CORRUPT)
    view->block = NULL;
  return error && error != BUS_ERROR_CORRUPT ? error : 1;
}
