#include "consumers/capture_staging.h"

#include <string.h>

#define STREAMS_OFFSET 4096u
#define BLOCKS_OFFSET  (STREAMS_OFFSET + BUS_STAGING_STREAMS_MAX * 256u)
BUS_STATIC_ASSERT(BLOCKS_OFFSET + BUS_STAGING_BLOCKS_MAX * 64u <= BUS_STAGING_HEADER_BYTES,
                  "the tables fit before the blocks");

void bus_staging_init(struct bus_staging *staging, void *memory, const struct bus_entry *entry)
{
  unsigned char *base = memory;
  staging->streams = (struct bus_staging_stream *)(void *)(base + STREAMS_OFFSET);
  staging->blocks = (struct bus_staging_block *)(void *)(base + BLOCKS_OFFSET);
  staging->data = base + BUS_STAGING_HEADER_BYTES;
  staging->block_size = entry->record_size;
  staging->depth = (uint32_t)entry->depth;
}

/* A predecessor's stream that this process can go on with. */
static bool stream_is_sound(const struct bus_staging *staging,
                            const struct bus_staging_stream *stream)
{
  return memchr(stream->member, '\0', sizeof stream->member) &&
         memchr(stream->ring, '\0', sizeof stream->ring) &&
         bus_layout_name_is_valid(stream->member) && bus_layout_name_is_valid(stream->ring) &&
         bus_capture_capacity(stream->record_size, staging->block_size) > 0;
}

static bool block_is_sound(const struct bus_staging *staging, uint32_t index)
{
  const struct bus_staging_block *block = &staging->blocks[index];
  if (block->state > BUS_STAGING_FULL || block->stream >= BUS_STAGING_STREAMS_MAX)
    return false;
  const struct bus_staging_stream *stream = &staging->streams[block->stream];
  return stream->used && block->count > 0 && block->sequence >= stream->written &&
         block->count <= bus_capture_capacity(stream->record_size, staging->block_size);
}

uint64_t bus_staging_recover(struct bus_staging *staging)
{
  uint64_t records = 0;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++)
    if (staging->streams[i].used && !stream_is_sound(staging, &staging->streams[i]))
      staging->streams[i].used = 0;
  for (uint32_t i = 0; i < staging->depth; i++) {
    struct bus_staging_block *block = &staging->blocks[i];
    if (block->state != BUS_STAGING_FREE && block_is_sound(staging, i)) {
      block->state = BUS_STAGING_FULL;
      records += block->count;
    } else {
      block->state = BUS_STAGING_FREE;
    }
  }
  return records;
}

int bus_staging_stream_new(struct bus_staging *staging)
{
  uint64_t serial = 0;
  int found = -1;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    if (staging->streams[i].serial > serial)
      serial = staging->streams[i].serial;
    if (found < 0 && !BUS_LOAD_ACQUIRE(&staging->streams[i].used))
      found = (int)i;
  }
  if (found < 0)
    return bus_error_set(BUS_ERROR_NO_SPACE,
                         "%u rings are being recorded, there is room for no more; choose with "
                         "--ring, or start another recorder",
                         BUS_STAGING_STREAMS_MAX);
  memset(&staging->streams[found], 0, sizeof staging->streams[found]);
  staging->streams[found].serial = serial + 1;
  return found;
}

uint64_t bus_staging_stream_next(const struct bus_staging *staging, uint32_t stream)
{
  uint64_t next = staging->streams[stream].durable;
  const uint32_t size = staging->streams[stream].record_size;
  for (uint32_t i = 0; i < staging->depth; i++) {
    const struct bus_staging_block *block = &staging->blocks[i];
    if (block->state == BUS_STAGING_FREE || block->stream != stream || block->count == 0)
      continue;
    const void *last =
        bus_capture_block_record(bus_staging_data(staging, i), size, block->count - 1);
    uint64_t behind = bus_capture_record_position(last, size) + 1;
    if ((int64_t)(behind - next) > 0)
      next = behind;
  }
  return next;
}

void bus_staging_filler_init(struct bus_staging_filler *filler, struct bus_staging *staging,
                             uint32_t stream)
{
  memset(filler, 0, sizeof *filler);
  filler->staging = staging;
  filler->stream = stream;
  filler->record_size = staging->streams[stream].record_size;
  filler->capacity = bus_capture_capacity(filler->record_size, staging->block_size);
  filler->sequence = BUS_LOAD_ACQUIRE(&staging->streams[stream].written);
  for (uint32_t i = 0; i < staging->depth; i++)
    if (BUS_LOAD_ACQUIRE(&staging->blocks[i].state) != BUS_STAGING_FREE &&
        staging->blocks[i].stream == stream && staging->blocks[i].sequence >= filler->sequence)
      filler->sequence = staging->blocks[i].sequence + 1;
}

bool bus_staging_filler_begin(struct bus_staging_filler *filler, uint64_t now_ns)
{
  struct bus_staging *staging = filler->staging;
  for (uint32_t tried = 0; tried < staging->depth; tried++) {
    uint32_t at = filler->hint;
    filler->hint = at + 1 == staging->depth ? 0 : at + 1;
    struct bus_staging_block *block = &staging->blocks[at];
    if (BUS_LOAD_ACQUIRE(&block->state) != BUS_STAGING_FREE)
      continue;
    block->stream = filler->stream;
    block->sequence = filler->sequence++;
    block->first_seen_ns = block->last_seen_ns = now_ns;
    block->count = 0;
    block->number = BUS_STAGING_NO_PLACE;
    filler->block = block;
    filler->record = bus_staging_data(staging, at) + BUS_CAPTURE_BLOCK_HEADER_BYTES;
    BUS_STORE_RELEASE(&block->state, (uint32_t)BUS_STAGING_FILLING);
    return true;
  }
  return false;
}

void bus_staging_filler_finish(struct bus_staging_filler *filler)
{
  if (!filler->block || filler->block->count == 0)
    return;
  BUS_STORE_RELEASE(&filler->block->state, (uint32_t)BUS_STAGING_FULL);
  filler->block = NULL;
}

uint32_t bus_staging_blocks_used(const struct bus_staging *staging)
{
  uint32_t used = 0;
  for (uint32_t i = 0; i < staging->depth; i++)
    used += BUS_LOAD_RELAXED(&staging->blocks[i].state) != BUS_STAGING_FREE;
  return used;
}
