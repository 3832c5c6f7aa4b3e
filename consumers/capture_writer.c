#include "consumers/capture_writer.h"

#include "consumers/capture_segment.h"
#include "shm/clock.h"
#include "shm/member.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_NS 1000000000u

int bus_writer_init(struct bus_writer *writer, const struct bus_writer_config *config,
                    const struct bus_writer_counters *counters)
{
  memset(writer, 0, sizeof *writer);
  writer->config = *config;
  writer->counters = *counters;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++)
    writer->streams[i].fd = -1;
  if (pthread_mutex_init(&writer->lock, NULL) != 0)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  writer->scratch = aligned_alloc(BUS_DISK_ALIGNMENT, config->staging->block_size);
  if (!writer->scratch)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  return BUS_OK;
}

void bus_writer_close(struct bus_writer *writer)
{
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++)
    free(writer->metas[i].text);
  pthread_mutex_destroy(&writer->lock);
  free(writer->scratch);
  writer->scratch = NULL;
}

void bus_writer_set_meta(struct bus_writer *writer, uint32_t stream, const char *text, size_t size)
{
  struct bus_writer_meta *meta = &writer->metas[stream];
  const uint64_t serial = writer->config.staging->streams[stream].serial;
  if (meta->serial == serial && meta->size == size && !memcmp(meta->text, text, size))
    return; /* only this thread writes it */
  char *copy = malloc(size + 1);
  if (!copy)
    return; /* the segment keeps what it has */
  memcpy(copy, text, size);
  pthread_mutex_lock(&writer->lock);
  free(meta->text);
  meta->text = copy;
  meta->size = size;
  meta->serial = serial;
  meta->version++;
  pthread_mutex_unlock(&writer->lock);
}

/* ---- streams ---- */

static struct bus_staging_stream *shared_stream(const struct bus_writer *writer, uint32_t stream)
{
  return &writer->config.staging->streams[stream];
}

/* Takes up a stream that is new to this writer. */
static void meet(struct bus_writer *writer, uint32_t stream)
{
  struct bus_writer_stream *own = &writer->streams[stream];
  const struct bus_staging_stream *shared = shared_stream(writer, stream);
  char name[BUS_CAPTURE_STREAM_BYTES];
  if (own->serial == shared->serial)
    return;
  memset(own, 0, sizeof *own);
  own->fd = -1;
  own->serial = shared->serial;
  own->sequence = shared->written;
  own->expected = shared->durable;
  bus_segment_stream_name(shared, name);
  own->stream_id = bus_capture_stream_id(name);
}

/* A replaced member's ring goes on in the segments that follow those of its predecessor's. */
static bool has_predecessor(const struct bus_writer *writer, uint32_t stream)
{
  const struct bus_staging_stream *shared = shared_stream(writer, stream);
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    const struct bus_staging_stream *other = shared_stream(writer, i);
    if (i != stream && BUS_LOAD_ACQUIRE(&other->used) && other->serial < shared->serial &&
        !strcmp(other->member, shared->member) && !strcmp(other->ring, shared->ring))
      return true;
  }
  return false;
}

/* ---- writing one block ---- */

static int fail(struct bus_writer *writer, uint32_t stream, int system_error)
{
  struct bus_writer_stream *own = &writer->streams[stream];
  if (!own->error)
    own->error = system_error;
  bus_counter_add(writer->counters.errors, 1);
  return BUS_ERROR_AGAIN;
}

/* The header of a DATA block whose `count` records stand behind it. Returns how many positions are
 * missing. */
static uint64_t prepare_block(const struct bus_writer *writer, uint32_t index, void *data,
                              uint32_t count)
{
  const struct bus_staging_block *block = &writer->config.staging->blocks[index];
  const struct bus_writer_stream *own = &writer->streams[block->stream];
  const uint32_t size = shared_stream(writer, block->stream)->record_size;
  uint64_t first = bus_capture_record_position(bus_capture_block_record(data, size, 0), size);
  uint64_t last =
      bus_capture_record_position(bus_capture_block_record(data, size, count - 1), size);
  uint64_t lost = last + 1 - own->expected - count;
  struct bus_capture_block header = {.kind = BUS_CAPTURE_DATA,
                                     .count = count,
                                     .first = first,
                                     .last = last,
                                     .first_time_ns = block->first_seen_ns,
                                     .last_time_ns = block->last_seen_ns,
                                     .number = block->number,
                                     .stream = own->stream_id,
                                     .lost = (int64_t)lost > 0 ? lost : 0};
  if (header.lost < last - first + 1 - count)
    header.lost = last - first + 1 - count;
  memcpy(data, &header, sizeof header);
  struct bus_capture_shape shape = bus_segment_shape(writer, block->stream, 0);
  bus_capture_block_seal(data, &shape);
  return header.lost;
}

static uint64_t block_offset(const struct bus_writer *writer, uint32_t number)
{
  return BUS_CAPTURE_FILE_HEADER_BYTES + (uint64_t)number * writer->config.staging->block_size;
}

/* Gives the block its place in an open segment. BUS_ERROR_AGAIN: not now. */
static int place(struct bus_writer *writer, uint32_t index, uint64_t now_ns)
{
  struct bus_staging_block *block = &writer->config.staging->blocks[index];
  struct bus_staging_stream *shared = shared_stream(writer, block->stream);
  if (bus_segment_resume(writer, block->stream, now_ns) && block->number != BUS_STAGING_NO_PLACE &&
      block->segment == shared->segment)
    return BUS_OK;
  int error = bus_segment_make_ready(writer, block->stream, now_ns);
  if (error)
    return error < 0 && error != BUS_ERROR_AGAIN ? fail(writer, block->stream, errno) : error;
  BUS_STORE_RELAXED(&block->segment, shared->segment);
  BUS_STORE_RELEASE(&block->number, shared->blocks);
  BUS_STORE_RELEASE(&shared->blocks, shared->blocks + 1);
  return BUS_OK;
}

static int submit_block(struct bus_writer *writer, uint32_t index, uint64_t now_ns)
{
  struct bus_staging *staging = writer->config.staging;
  struct bus_staging_block *block = &staging->blocks[index];
  struct bus_writer_stream *own = &writer->streams[block->stream];
  int error = place(writer, index, now_ns);
  if (error)
    return error;
  unsigned char *data = bus_staging_data(staging, index);
  const uint32_t size = shared_stream(writer, block->stream)->record_size;
  uint64_t lost = prepare_block(writer, index, data, block->count);
  writer->blocks[index].lost = lost;
  writer->blocks[index].written = 0;
  writer->blocks[index].done = false;
  writer->blocks[index].submitted_ns = now_ns;
  error = writer->config.disk->submit(writer->config.disk, own->fd, data, staging->block_size,
                                      block_offset(writer, block->number), index);
  if (error == -EAGAIN)
    return BUS_ERROR_AGAIN;
  if (error)
    return fail(writer, block->stream, -error);
  own->under_way++;
  own->sequence++;
  own->expected =
      bus_capture_record_position(bus_capture_block_record(data, size, block->count - 1), size) + 1;
  return BUS_OK;
}

/* ---- completions ---- */

/* Frees the blocks of a stream that are on disk, in their order. */
static void free_in_order(struct bus_writer *writer, uint32_t stream)
{
  struct bus_staging *staging = writer->config.staging;
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  bool progress = true;
  while (progress) {
    progress = false;
    for (uint32_t i = 0; i < staging->depth; i++) {
      struct bus_staging_block *block = &staging->blocks[i];
      if (!writer->blocks[i].done || block->stream != stream || block->sequence != shared->written)
        continue;
      const uint32_t size = shared->record_size;
      const void *last =
          bus_capture_block_record(bus_staging_data(staging, i), size, block->count - 1);
      bus_counter_add(writer->counters.records, block->count);
      bus_counter_add(writer->counters.blocks, 1);
      bus_counter_add(writer->counters.bytes, staging->block_size);
      bus_counter_add(writer->counters.lost, writer->blocks[i].lost);
      writer->blocks[i].done = false;
      writer->blocks[i].flushed = 0;
      writer->streams[stream].attempts = 0;
      BUS_STORE_RELEASE(&shared->durable, bus_capture_record_position(last, size) + 1);
      BUS_STORE_RELEASE(&shared->written, shared->written + 1);
      BUS_STORE_RELEASE(&block->state, (uint32_t)BUS_STAGING_FREE);
      progress = true;
    }
  }
}

/* The rest of a block of which the file system took only a part. */
static void go_on(struct bus_writer *writer, uint32_t index, int64_t result)
{
  struct bus_staging *staging = writer->config.staging;
  struct bus_staging_block *block = &staging->blocks[index];
  struct bus_writer_stream *own = &writer->streams[block->stream];
  bus_counter_add(writer->counters.errors, 1);
  uint32_t more = (uint32_t)result & ~(BUS_DISK_ALIGNMENT - 1);
  if (more == 0 || own->error) {
    if (!own->error)
      own->error = EIO; /* a write of nothing, again and again */
    own->under_way--;
    return;
  }
  writer->blocks[index].written += more;
  uint32_t written = writer->blocks[index].written;
  int error = writer->config.disk->submit(
      writer->config.disk, own->fd, bus_staging_data(staging, index) + written,
      staging->block_size - written, block_offset(writer, block->number) + written, index);
  if (error) {
    fail(writer, block->stream, -error);
    own->under_way--;
  }
}

static void complete(struct bus_writer *writer, const struct bus_disk_completion *completion)
{
  if (completion->tag == BUS_SEGMENT_SCRATCH) {
    writer->scratch_done = *completion;
    return;
  }
  uint32_t index = (uint32_t)completion->tag;
  struct bus_staging_block *block = &writer->config.staging->blocks[index];
  struct bus_writer_stream *own = &writer->streams[block->stream];
  uint32_t wanted = writer->config.staging->block_size - writer->blocks[index].written;
  if (completion->result >= 0 && completion->result < (int64_t)wanted) {
    go_on(writer, index, completion->result);
    return;
  }
  own->under_way--;
  if (completion->result < 0) {
    fail(writer, block->stream, (int)-completion->result);
    return;
  }
  bus_histogram_record(writer->counters.write_ns,
                       bus_clock_monotonic_ns() - writer->blocks[index].submitted_ns);
  writer->blocks[index].done = true;
  free_in_order(writer, block->stream);
}

uint32_t bus_writer_reap(struct bus_writer *writer, uint64_t wait_ns)
{
  struct bus_disk_completion completions[BUS_DISK_QUEUE];
  uint32_t count =
      writer->config.disk->reap(writer->config.disk, completions, BUS_DISK_QUEUE, wait_ns);
  for (uint32_t i = 0; i < count; i++)
    complete(writer, &completions[i]);
  return count;
}

/* ---- failures ---- */

static int report(struct bus_writer *writer, uint32_t stream, int system_error, uint64_t now_ns)
{
  const struct bus_writer_stream *own = &writer->streams[stream];
  bool full = system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG;
  writer->failure = full ? BUS_ERROR_NO_SPACE : BUS_ERROR_IO;
  writer->retry_ns = now_ns + RETRY_NS;
  snprintf(writer->failure_message, sizeof writer->failure_message, "%.300s: %s",
           own->path[0] ? own->path : writer->config.directory, strerror(system_error));
  return bus_error_set(writer->failure, "%s", writer->failure_message);
}

/* Nothing of the stream is under way any more: its segment ends before the first block that is not
 * complete on disk; that one and those behind it will go into a new segment. */
static int cut_segment(struct bus_writer *writer, uint32_t stream)
{
  struct bus_staging *staging = writer->config.staging;
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_stream *own = &writer->streams[stream];
  for (uint32_t i = 0; i < staging->depth; i++) {
    struct bus_staging_block *block = &staging->blocks[i];
    if (BUS_LOAD_ACQUIRE(&block->state) == BUS_STAGING_FREE || block->stream != stream)
      continue;
    if (block->number != BUS_STAGING_NO_PLACE && block->segment == shared->segment &&
        block->number < shared->blocks)
      BUS_STORE_RELEASE(&shared->blocks, block->number);
    BUS_STORE_RELEASE(&block->number, BUS_STAGING_NO_PLACE);
    writer->blocks[i].done = false;
    writer->blocks[i].flushed = 0;
  }
  own->sequence = shared->written;
  own->expected = shared->durable;
  own->error = 0;
  return own->fd >= 0 ? bus_segment_close(writer, stream) : BUS_OK;
}

static int recover_stream(struct bus_writer *writer, uint32_t stream, uint64_t now_ns)
{
  struct bus_writer_stream *own = &writer->streams[stream];
  int system_error = own->error;
  bool full = system_error == ENOSPC || system_error == EDQUOT || system_error == EFBIG;
  cut_segment(writer, stream);
  own->attempts++;
  if (!full && own->attempts < BUS_WRITER_ATTEMPTS)
    return BUS_OK;
  own->attempts = 0;
  return report(writer, stream, system_error, now_ns);
}

/* ---- the step ---- */

/* Submits the complete blocks of all streams as far as they follow each other. */
static int submit_full(struct bus_writer *writer, uint64_t now_ns)
{
  struct bus_staging *staging = writer->config.staging;
  int done = 0;
  for (bool progress = true; progress;) {
    progress = false;
    for (uint32_t i = 0; i < staging->depth; i++) {
      struct bus_staging_block *block = &staging->blocks[i];
      if (BUS_LOAD_ACQUIRE(&block->state) != BUS_STAGING_FULL)
        continue;
      meet(writer, block->stream);
      struct bus_writer_stream *own = &writer->streams[block->stream];
      if (block->sequence != own->sequence || own->error ||
          (own->fd < 0 && has_predecessor(writer, block->stream)))
        continue;
      int error = submit_block(writer, i, now_ns);
      if (error && error != BUS_ERROR_AGAIN)
        return error;
      if (!error) {
        progress = true;
        done++;
      }
    }
  }
  return done;
}

/* Writes what is in the block that is being filled, through a copy. */
static int flush_block(struct bus_writer *writer, uint32_t index, uint64_t now_ns)
{
  struct bus_staging *staging = writer->config.staging;
  struct bus_staging_block *block = &staging->blocks[index];
  meet(writer, block->stream);
  struct bus_writer_stream *own = &writer->streams[block->stream];
  uint32_t count = BUS_LOAD_ACQUIRE(&block->count);
  if (count == 0 || count == writer->blocks[index].flushed || own->error ||
      block->sequence != own->sequence || (own->fd < 0 && has_predecessor(writer, block->stream)) ||
      place(writer, index, now_ns) != BUS_OK)
    return 0;
  memcpy(writer->scratch, bus_staging_data(staging, index),
         BUS_CAPTURE_BLOCK_HEADER_BYTES +
             (size_t)count * shared_stream(writer, block->stream)->record_size);
  prepare_block(writer, index, writer->scratch, count);
  if (bus_segment_write_scratch(writer, block->stream, staging->block_size,
                                block_offset(writer, block->number)) != BUS_OK) {
    fail(writer, block->stream, errno);
    return 0;
  }
  writer->blocks[index].flushed = count;
  bus_counter_add(writer->counters.flushes, 1);
  return 1;
}

static int flush_all(struct bus_writer *writer, uint64_t now_ns)
{
  int done = 0;
  if (writer->config.flush_ns == 0 || now_ns - writer->flushed_ns < writer->config.flush_ns)
    return 0;
  writer->flushed_ns = now_ns;
  for (uint32_t i = 0; i < writer->config.staging->depth; i++)
    if (BUS_LOAD_ACQUIRE(&writer->config.staging->blocks[i].state) == BUS_STAGING_FILLING)
      done += flush_block(writer, i, now_ns);
  return done;
}

static bool has_blocks(const struct bus_writer *writer, uint32_t stream)
{
  const struct bus_staging *staging = writer->config.staging;
  for (uint32_t i = 0; i < staging->depth; i++)
    if (BUS_LOAD_ACQUIRE(&staging->blocks[i].state) != BUS_STAGING_FREE &&
        staging->blocks[i].stream == stream)
      return true;
  return false;
}

/* Failures, segments that have become old, streams that have ended. */
static int tend_streams(struct bus_writer *writer, uint64_t now_ns)
{
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    struct bus_staging_stream *shared = shared_stream(writer, i);
    if (!BUS_LOAD_ACQUIRE(&shared->used))
      continue;
    meet(writer, i);
    struct bus_writer_stream *own = &writer->streams[i];
    if (own->error && own->under_way == 0) {
      int error = recover_stream(writer, i, now_ns);
      if (error)
        return error;
    }
    if (own->fd >= 0 && writer->config.segment_ns &&
        now_ns - own->opened_ns >= writer->config.segment_ns)
      BUS_STORE_RELEASE(&shared->rotate, 1u);
    if (BUS_LOAD_ACQUIRE(&shared->ended) && own->under_way == 0 && !has_blocks(writer, i)) {
      if (own->fd >= 0 || shared->segment_state != BUS_SEGMENT_CLOSED)
        bus_segment_close(writer, i);
      own->serial = 0;
      BUS_STORE_RELEASE(&shared->used, 0u);
    }
  }
  return BUS_OK;
}

int bus_writer_step(struct bus_writer *writer, uint64_t now_ns, uint64_t wait_ns)
{
  int done = (int)bus_writer_reap(writer, 0);
  int error = tend_streams(writer, now_ns);
  if (error)
    return error;
  if (writer->failure && writer->retry_ns && (int64_t)(now_ns - writer->retry_ns) < 0)
    return done;
  writer->failure = BUS_OK;
  int submitted = submit_full(writer, now_ns);
  if (submitted < 0)
    return submitted;
  done += submitted + flush_all(writer, now_ns);
  if (done == 0 && wait_ns > 0)
    done = (int)bus_writer_reap(writer, wait_ns);
  return done;
}

bool bus_writer_is_idle(const struct bus_writer *writer)
{
  const struct bus_staging *staging = writer->config.staging;
  for (uint32_t i = 0; i < staging->depth; i++)
    if (BUS_LOAD_ACQUIRE(&staging->blocks[i].state) == BUS_STAGING_FULL)
      return false;
  return true;
}

int bus_writer_finish(struct bus_writer *writer)
{
  int result = BUS_OK;
  for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++) {
    struct bus_staging_stream *shared = shared_stream(writer, i);
    if (!BUS_LOAD_ACQUIRE(&shared->used))
      continue;
    meet(writer, i);
    while (writer->streams[i].under_way > 0)
      bus_writer_reap(writer, RETRY_NS);
    bus_segment_resume(writer, i, 0);
    int error = cut_segment(writer, i);
    result = result ? result : error;
  }
  return result;
}
