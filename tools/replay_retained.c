#include "tools/replay_retained.h"

#include <stdlib.h>

struct search {
  struct bus_capture *capture;
  const struct bus_capture_stream *stream;
  const struct bus_capture_range *range;
  struct replay_bus *bus;
  uint32_t channel;
  bool (*seen)[REPLAY_SYMBOLS_MAX]; /* [REPLAY_INPUTS_MAX] */
  void *block;
  uint64_t wanted; /* symbols in the tables; 0: unknown */
  uint64_t shown;
  uint64_t blocks;
};

static uint64_t count_symbols(struct bus_capture *capture, const struct bus_capture_stream *stream)
{
  struct bus_symbol symbol;
  uint64_t symbols = 0;
  for (uint32_t input = 0; input < REPLAY_INPUTS_MAX; input++) {
    int features = bus_capture_input(capture, stream, input);
    for (uint32_t row = 0; features >= 0 && row < REPLAY_SYMBOLS_MAX &&
                           bus_capture_symbol(bus_capture_stream(capture, (uint32_t)features), row,
                                              &symbol) == BUS_OK;
         row++)
      symbols++;
  }
  return symbols;
}

/* Newest first; the first of each symbol counts. */
static void show_block(struct search *search, const struct bus_capture_block *block)
{
  for (uint32_t i = block->count; i-- > 0;) {
    const struct bus_signal *signal =
        bus_capture_block_record(block, search->stream->record_size, i);
    if (signal->stamp - 1 >= search->range->from_position &&
        bus_capture_record_time(BUS_RECORD_SIGNAL, sizeof *signal, signal) >=
            search->range->from_ns)
      continue;
    if (signal->source >= REPLAY_INPUTS_MAX || signal->symbol >= REPLAY_SYMBOLS_MAX ||
        search->seen[signal->source][signal->symbol])
      continue;
    search->seen[signal->source][signal->symbol] = true;
    search->shown++;
    replay_bus_show(search->bus, search->channel, signal);
  }
}

static int search_segment(struct search *search, struct bus_capture_segment *segment)
{
  for (uint64_t i = segment->blocks; i-- > 0;) {
    const struct bus_capture_block *header = &segment->index[i];
    if (search->blocks == REPLAY_RETAINED_BLOCKS_MAX ||
        (search->wanted && search->shown >= search->wanted))
      return BUS_OK;
    if (segment->states[i] == BUS_CAPTURE_BLOCK_BAD || header->kind != BUS_CAPTURE_DATA ||
        (header->first_time_ns >= search->range->from_ns &&
         header->first >= search->range->from_position))
      continue;
    int status = bus_capture_read_block(search->capture, search->stream, segment, i, search->block);
    if (status == BUS_ERROR_CORRUPT)
      continue;
    if (status != BUS_OK)
      return status;
    search->blocks++;
    show_block(search, search->block);
  }
  return BUS_OK;
}

int64_t replay_retained_show(struct bus_capture *capture, uint32_t stream,
                             const struct bus_capture_range *range, struct replay_bus *bus,
                             uint32_t channel)
{
  struct search search = {.capture = capture,
                          .stream = bus_capture_stream(capture, stream),
                          .range = range,
                          .bus = bus,
                          .channel = channel};
  if (search.stream->record_type != BUS_RECORD_SIGNAL ||
      search.stream->record_size != sizeof(struct bus_signal) ||
      (range->from_ns == 0 && range->from_position == 0))
    return 0;
  search.wanted = count_symbols(capture, search.stream);
  search.seen = calloc(REPLAY_INPUTS_MAX, sizeof *search.seen);
  search.block = aligned_alloc(4096, BUS_CAPTURE_BLOCK_BYTES_MAX);
  int error = search.seen && search.block ? BUS_OK : BUS_ERROR_NO_SPACE;
  if (error)
    bus_error_set(error, "out of memory");
  for (size_t i = search.stream->segment_count; i-- > 0 && !error;)
    error = search_segment(&search, &search.stream->segments[i]);
  free(search.block);
  free(search.seen);
  return error ? error : (int64_t)search.shown;
}
