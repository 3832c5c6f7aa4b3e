#include "consumers/capture_cursor.h"

#include "consumers/capture_file.h"

#include <stdlib.h>

/* So far ahead of the block that is read the next ones are asked for. */
#define AHEAD_BYTES ((uint64_t)4 << 20)

struct bus_capture_cursor {
  struct bus_capture *capture;
  const struct bus_capture_stream *stream;
  size_t segment;
  uint64_t number; /* of the next block */
  uint64_t asked;  /* blocks of the segment up to here are on their way */
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
  cursor->asked = 0;
}

/* So that reading, checking and using a block overlaps with fetching the next ones from the disk.
 * Through the page cache, for a capture is read again and again: cached it gives many times what
 * O_DIRECT can, and cold about as much as the disk has. */
static void read_ahead(struct bus_capture_cursor *cursor, const struct bus_capture_segment *segment)
{
  uint64_t ahead = AHEAD_BYTES / segment->shape.block_size;
  ahead = ahead > 1 ? ahead : 1;
  if (cursor->asked > cursor->number + ahead / 2)
    return;
  uint64_t from = cursor->asked > cursor->number ? cursor->asked : cursor->number;
  cursor->asked = cursor->number + ahead;
  bus_capture_file_prefetch(segment, from, cursor->asked - from);
}

int bus_capture_cursor_next(struct bus_capture_cursor *cursor, struct bus_capture_view *view)
{
  const struct bus_capture_stream *stream = cursor->stream;
  while (cursor->segment < stream->segment_count &&
         cursor->number >= stream->segments[cursor->segment].blocks) {
    cursor->segment++;
    cursor->number = 0;
    cursor->asked = 0;
  }
  if (cursor->segment >= stream->segment_count)
    return 0;
  view->segment = &stream->segments[cursor->segment];
  view->number = cursor->number++;
  view->block = cursor->buffer;
  read_ahead(cursor, view->segment);
  int error =
      bus_capture_read_block(cursor->capture, stream, view->segment, view->number, cursor->buffer);
  if (error == BUS_ERROR_CORRUPT)
    view->block = NULL;
  return error && error != BUS_ERROR_CORRUPT ? error : 1;
}
