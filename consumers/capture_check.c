#include "consumers/capture_check.h"

#include <inttypes.h>

/* What is known of the block before. */
struct chain {
  bool known;
  uint64_t last;
  uint64_t instance;
};

/* What must hold between a block and the one before it in the same instance. */
static void check_chain(struct bus_capture *capture, const struct bus_capture_view *view,
                        const struct chain *chain)
{
  const struct bus_capture_block *block = view->block;
  uint64_t offset = BUS_CAPTURE_FILE_HEADER_BYTES + view->number * view->segment->shape.block_size;
  uint64_t inside = block->last - block->first + 1 - block->count;
  if (!chain->known)
    return;
  if ((int64_t)(block->first - chain->last) <= 0)
    bus_capture_damaged(capture, view->segment->path, view->number, offset,
                        "position %" PRIu64 " after %" PRIu64 " of the block before", block->first,
                        chain->last);
  else if (block->lost != block->first - chain->last - 1 + inside)
    bus_capture_damaged(capture, view->segment->path, view->number, offset,
                        "it says that %" PRIu64 " positions are lost, but %" PRIu64 " are missing",
                        block->lost, block->first - chain->last - 1 + inside);
}

static int check_stream(struct bus_capture *capture, uint32_t index,
                        struct bus_capture_checked *checked,
                        const struct bus_capture_watcher *watcher)
{
  const struct bus_capture_stream *stream = bus_capture_stream(capture, index);
  bool filtered = *bus_capture_meta_text(stream->meta, "filtered");
  struct chain chain = {.known = false};
  struct bus_capture_cursor *cursor;
  struct bus_capture_view view;
  int status = bus_capture_cursor_open(capture, index, &cursor);
  if (status)
    return status;
  while ((status = bus_capture_cursor_next(cursor, &view)) == 1) {
    checked->bytes += view.segment->shape.block_size;
    if (watcher)
      watcher->show(watcher->context, checked->bytes, checked->bytes_total);
    if (view.segment->instance != chain.instance) {
      chain.instance = view.segment->instance;
      chain.known = false;
    }
    if (!view.block) {
      checked->blocks_bad++;
      chain.known = false;
      continue;
    }
    checked->blocks++;
    if (view.block->kind != BUS_CAPTURE_DATA)
      continue;
    check_chain(capture, &view, &chain);
    chain.last = view.block->last;
    chain.known = true;
    checked->records += view.block->count;
    checked->lost += filtered ? 0 : view.block->lost;
  }
  bus_capture_cursor_close(cursor);
  for (size_t i = 0; i < stream->segment_count && status == 0; i++) {
    status = bus_capture_check_tail(capture, &stream->segments[i]);
    status = status == BUS_ERROR_CORRUPT ? BUS_OK : status;
    checked->unfinished += stream->segments[i].unfinished;
  }
  return status;
}

int bus_capture_check(struct bus_capture *capture, const struct bus_capture_watcher *watcher,
                      struct bus_capture_checked *checked)
{
  int error = BUS_OK;
  *checked = (struct bus_capture_checked){.bytes_total = bus_capture_blocks_bytes(capture)};
  for (uint32_t i = 0; i < bus_capture_stream_count(capture) && !error; i++)
    error = check_stream(capture, i, checked, watcher);
  return error;
}
