#include "consumers/capture_segment.h"

#include "shm/member.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALLOCATE_BYTES   ((uint64_t)64 << 20)
#define SCRATCH_WAIT_NS  1000000000u
#define SCRATCH_ATTEMPTS 8u
#define NAME_ATTEMPTS    1000u

static struct bus_staging_stream *shared_stream(const struct bus_writer *writer, uint32_t stream)
{
  return &writer->config.staging->streams[stream];
}

void bus_segment_stream_name(const struct bus_staging_stream *stream, char *name)
{
  snprintf(name, BUS_CAPTURE_STREAM_BYTES, "%.31s.%.31s", stream->member, stream->ring);
}

struct bus_capture_shape bus_segment_shape(const struct bus_writer *writer, uint32_t stream,
                                           uint64_t blocks)
{
  const struct bus_staging_stream *shared = shared_stream(writer, stream);
  return (struct bus_capture_shape){.record_type = shared->record_type,
                                    .record_size = shared->record_size,
                                    .block_size = writer->config.staging->block_size,
                                    .blocks = blocks};
}

static uint32_t blocks_max(const struct bus_writer *writer)
{
  uint64_t bytes = writer->config.segment_bytes;
  uint64_t blocks =
      bytes > BUS_CAPTURE_FILE_HEADER_BYTES
          ? (bytes - BUS_CAPTURE_FILE_HEADER_BYTES) / writer->config.staging->block_size
          : 0;
  if (blocks > UINT32_MAX - 1)
    blocks = UINT32_MAX - 1;
  return blocks < 2 ? 2 : (uint32_t)blocks; /* META and data */
}

static void set_path(struct bus_writer *writer, uint32_t stream, uint32_t segment)
{
  struct bus_capture_file_name parts = {.segment = segment};
  char name[BUS_CAPTURE_FILE_NAME_BYTES];
  bus_segment_stream_name(shared_stream(writer, stream), parts.stream);
  bus_capture_file_name_build(&parts, name);
  snprintf(writer->streams[stream].path, sizeof writer->streams[stream].path, "%.400s/%s",
           writer->config.directory, name);
}

static int refuse(int system_error)
{
  errno = system_error;
  return BUS_ERROR_IO;
}

int bus_segment_write_scratch(struct bus_writer *writer, uint32_t stream, uint32_t bytes,
                              uint64_t offset)
{
  struct bus_disk *disk = writer->config.disk;
  uint32_t written = 0;
  for (uint32_t attempt = 0; attempt < SCRATCH_ATTEMPTS; attempt++) {
    int error;
    writer->scratch_done.tag = 0;
    while ((error = disk->submit(disk, writer->streams[stream].fd,
                                 (unsigned char *)writer->scratch + written, bytes - written,
                                 offset + written, BUS_SEGMENT_SCRATCH)) == -EAGAIN)
      bus_writer_reap(writer, SCRATCH_WAIT_NS);
    if (error)
      return refuse(-error);
    while (writer->scratch_done.tag != BUS_SEGMENT_SCRATCH)
      bus_writer_reap(writer, SCRATCH_WAIT_NS);
    if (writer->scratch_done.result < 0)
      return refuse((int)-writer->scratch_done.result);
    if (writer->scratch_done.result >= (int64_t)(bytes - written)) {
      bus_counter_add(writer->counters.bytes, bytes);
      return BUS_OK;
    }
    bus_counter_add(writer->counters.errors, 1);
    written += (uint32_t)writer->scratch_done.result & ~(BUS_DISK_ALIGNMENT - 1);
  }
  return refuse(EIO);
}

static int write_header(struct bus_writer *writer, uint32_t stream, uint64_t blocks)
{
  struct bus_capture_shape shape = bus_segment_shape(writer, stream, blocks);
  if (bus_capture_header_build(&shape, writer->scratch) != BUS_OK)
    return refuse(EINVAL);
  return bus_segment_write_scratch(writer, stream, BUS_CAPTURE_FILE_HEADER_BYTES, 0);
}

/* The text of the housekeeping's making, or, for a stream whose member was gone before this process
 * started, what its entry says. Returns its version. */
static uint64_t compose_meta(struct bus_writer *writer, uint32_t stream, char *text, uint32_t *size)
{
  const struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_meta *meta = &writer->metas[stream];
  const uint32_t most = writer->config.staging->block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES;
  uint64_t version = 0;
  pthread_mutex_lock(&writer->lock);
  if (meta->text && meta->serial == shared->serial && meta->size > 0 && meta->size <= most) {
    memcpy(text, meta->text, meta->size);
    *size = (uint32_t)meta->size;
    version = meta->version;
  }
  pthread_mutex_unlock(&writer->lock);
  if (version == 0)
    *size = (uint32_t)snprintf(
        text, most,
        "{\"format\": \"signal-bus capture\", \"version\": %d, \"member\": \"%.31s\", \"ring\": "
        "\"%.31s\", \"record_type\": \"%s\", \"record_size\": %" PRIu32 ", \"depth\": %" PRIu64
        ", \"instance\": \"%" PRIu64 "\"}",
        BUS_CAPTURE_VERSION, shared->member, shared->ring,
        bus_record_type_name(shared->record_type), shared->record_size, shared->depth,
        shared->instance);
  return version;
}

static bool meta_is_due(struct bus_writer *writer, uint32_t stream)
{
  const struct bus_writer_meta *meta = &writer->metas[stream];
  pthread_mutex_lock(&writer->lock);
  bool due = meta->text && meta->serial == shared_stream(writer, stream)->serial &&
             meta->version != writer->streams[stream].meta_version;
  pthread_mutex_unlock(&writer->lock);
  return due;
}

/* META at the end of the segment. */
static int write_meta(struct bus_writer *writer, uint32_t stream)
{
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_stream *own = &writer->streams[stream];
  struct bus_capture_shape shape = bus_segment_shape(writer, stream, 0);
  struct bus_capture_block header = {.kind = BUS_CAPTURE_META,
                                     .number = shared->blocks,
                                     .stream = own->stream_id,
                                     .first_time_ns = bus_clock_monotonic_ns()};
  header.last_time_ns = header.first_time_ns;
  uint64_t version =
      compose_meta(writer, stream, (char *)writer->scratch + sizeof header, &header.count);
  memcpy(writer->scratch, &header, sizeof header);
  bus_capture_block_seal(writer->scratch, &shape);
  int error = bus_segment_write_scratch(writer, stream, shape.block_size,
                                        BUS_CAPTURE_FILE_HEADER_BYTES +
                                            (uint64_t)shared->blocks * shape.block_size);
  if (error)
    return error;
  own->meta_version = version;
  BUS_STORE_RELEASE(&shared->blocks, shared->blocks + 1);
  return BUS_OK;
}

/* Room on the disk for blocks up to `blocks`, some ahead of need. */
static int allocate(struct bus_writer *writer, uint32_t stream, uint64_t blocks)
{
  struct bus_writer_stream *own = &writer->streams[stream];
  struct bus_disk *disk = writer->config.disk;
  const uint64_t block_size = writer->config.staging->block_size;
  uint64_t needed = BUS_CAPTURE_FILE_HEADER_BYTES + blocks * block_size;
  uint64_t whole = BUS_CAPTURE_FILE_HEADER_BYTES + blocks_max(writer) * block_size;
  if (needed <= own->allocated)
    return BUS_OK;
  uint64_t ahead = needed + (block_size * 8 > ALLOCATE_BYTES ? block_size * 8 : ALLOCATE_BYTES);
  uint64_t end = ahead < whole ? ahead : whole;
  if (end < needed)
    end = needed;
  int error = disk->allocate(disk, own->fd, own->allocated, end - own->allocated);
  if (error == -ENOSPC || error == -EDQUOT) { /* what is left of a nearly full disk */
    end = needed;
    error = disk->allocate(disk, own->fd, own->allocated, end - own->allocated);
  }
  if (error == -EOPNOTSUPP) {
    own->allocated = UINT64_MAX; /* the file stays sparse: a full disk shows when it is written */
    return BUS_OK;
  }
  if (error)
    return refuse(-error);
  own->allocated = end;
  return BUS_OK;
}

/* The number behind the highest that a segment of this stream has in the directory. */
static int next_number(const struct bus_writer *writer, uint32_t stream, uint32_t *number)
{
  char name[BUS_CAPTURE_STREAM_BYTES];
  struct bus_capture_file_name parts;
  DIR *directory = opendir(writer->config.directory);
  if (!directory)
    return BUS_ERROR_IO;
  bus_segment_stream_name(shared_stream(writer, stream), name);
  *number = 0;
  for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
    if (bus_capture_file_name_parse(entry->d_name, &parts) && !strcmp(parts.stream, name) &&
        parts.segment >= *number && parts.segment < UINT32_MAX)
      *number = parts.segment + 1;
  closedir(directory);
  return BUS_OK;
}

static int create_file(struct bus_writer *writer, uint32_t stream)
{
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_stream *own = &writer->streams[stream];
  struct bus_disk *disk = writer->config.disk;
  uint32_t number = shared->segment + 1;
  if (!shared->has_segment && next_number(writer, stream, &number) != BUS_OK)
    return BUS_ERROR_IO;
  for (uint32_t attempt = 0; attempt < NAME_ATTEMPTS; attempt++, number++) {
    set_path(writer, stream, number);
    BUS_STORE_RELAXED(&shared->segment, number);
    BUS_STORE_RELAXED(&shared->blocks, 0u);
    BUS_STORE_RELEASE(&shared->segment_state, (uint32_t)BUS_SEGMENT_CREATING);
    BUS_STORE_RELEASE(&shared->has_segment, 1u);
    int fd = disk->open(disk, own->path, O_CREAT | O_EXCL);
    if (fd >= 0) {
      own->fd = fd;
      own->allocated = 0;
      own->meta_version = 0;
      bus_counter_add(writer->counters.buffered, disk->buffered);
      return BUS_OK;
    }
    if (fd != -EEXIST) {
      BUS_STORE_RELEASE(&shared->segment_state, (uint32_t)BUS_SEGMENT_CLOSED);
      return refuse(-fd);
    }
  }
  BUS_STORE_RELEASE(&shared->segment_state, (uint32_t)BUS_SEGMENT_CLOSED);
  return refuse(EEXIST);
}

static void forget_file(struct bus_writer *writer, uint32_t stream, bool remove)
{
  struct bus_writer_stream *own = &writer->streams[stream];
  if (own->fd >= 0)
    close(own->fd);
  own->fd = -1;
  if (remove)
    unlink(own->path);
  BUS_STORE_RELEASE(&shared_stream(writer, stream)->segment_state, (uint32_t)BUS_SEGMENT_CLOSED);
}

static int create(struct bus_writer *writer, uint32_t stream, uint64_t now_ns)
{
  struct bus_writer_stream *own = &writer->streams[stream];
  struct bus_disk *disk = writer->config.disk;
  int error = create_file(writer, stream);
  if (error)
    return error;
  struct bus_capture_shape shape = bus_segment_shape(writer, stream, blocks_max(writer));
  error = disk->resize(disk, own->fd, bus_capture_file_bytes(&shape));
  if (error)
    error = refuse(-error);
  if (!error)
    error = allocate(writer, stream, 2);
  if (!error)
    error = write_header(writer, stream, shape.blocks);
  if (!error)
    error = write_meta(writer, stream);
  if (error) {
    int saved = errno;
    forget_file(writer, stream, true);
    return refuse(saved);
  }
  own->opened_ns = now_ns;
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  BUS_STORE_RELEASE(&shared->rotate, 0u);
  BUS_STORE_RELEASE(&shared->segment_state, (uint32_t)BUS_SEGMENT_OPEN);
  return BUS_OK;
}

/* ---- a predecessor's segment ---- */

/* Whether the open file is a segment of the size that it was created with, or of `blocks` blocks.
 */
static bool is_own_segment(struct bus_writer *writer, uint32_t stream)
{
  struct bus_capture_shape shape, wanted = bus_segment_shape(writer, stream, 0);
  const struct bus_writer_stream *own = &writer->streams[stream];
  struct stat status;
  return fstat(own->fd, &status) == 0 &&
         pread(own->fd, writer->scratch, BUS_CAPTURE_FILE_HEADER_BYTES, 0) ==
             (ssize_t)BUS_CAPTURE_FILE_HEADER_BYTES &&
         bus_capture_header_parse(writer->scratch, &shape) == BUS_OK &&
         shape.record_type == wanted.record_type && shape.record_size == wanted.record_size &&
         shape.block_size == wanted.block_size &&
         shape.blocks >= shared_stream(writer, stream)->blocks;
}

/* Whether the open file is one that its creator did not come to put records into. */
static bool is_only_begun(struct bus_writer *writer, uint32_t stream)
{
  struct bus_capture_shape shape = bus_segment_shape(writer, stream, blocks_max(writer));
  const int fd = writer->streams[stream].fd;
  const unsigned char *scratch = writer->scratch;
  struct stat status;
  if (fstat(fd, &status) != 0)
    return false;
  if (status.st_size == 0)
    return true;
  return (uint64_t)status.st_size == bus_capture_file_bytes(&shape) &&
         pread(fd, writer->scratch, BUS_DISK_ALIGNMENT,
               (off_t)(BUS_CAPTURE_FILE_HEADER_BYTES + shape.block_size)) ==
             (ssize_t)BUS_DISK_ALIGNMENT &&
         scratch[0] == 0 && !memcmp(scratch, scratch + 1, BUS_DISK_ALIGNMENT - 1);
}

/* Goes on with the segment that the process before this one had open. What cannot be gone on with
 * is left as it is (a file that was only begun is removed), and the next segment takes over. */
static void reopen(struct bus_writer *writer, uint32_t stream, uint64_t now_ns)
{
  struct bus_staging *staging = writer->config.staging;
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_stream *own = &writer->streams[stream];
  bool creating = shared->segment_state == BUS_SEGMENT_CREATING;
  set_path(writer, stream, shared->segment);
  own->fd = writer->config.disk->open(writer->config.disk, own->path, 0);
  if (own->fd < 0) {
    own->fd = -1;
    forget_file(writer, stream, false);
    return;
  }
  if (creating || !is_own_segment(writer, stream)) {
    forget_file(writer, stream, creating && is_only_begun(writer, stream));
    return;
  }
  for (uint32_t i = 0; i < staging->depth; i++) {
    const struct bus_staging_block *block = &staging->blocks[i];
    if (BUS_LOAD_ACQUIRE(&block->state) != BUS_STAGING_FREE && block->stream == stream &&
        block->number != BUS_STAGING_NO_PLACE && block->segment == shared->segment &&
        block->number >= shared->blocks)
      shared->blocks = block->number + 1;
  }
  own->allocated = 0; /* what is allocated already stays so */
  own->meta_version = 0;
  own->opened_ns = now_ns;
}

int bus_segment_resume(struct bus_writer *writer, uint32_t stream, uint64_t now_ns)
{
  if (writer->streams[stream].fd < 0 &&
      shared_stream(writer, stream)->segment_state != BUS_SEGMENT_CLOSED)
    reopen(writer, stream, now_ns);
  return writer->streams[stream].fd >= 0;
}

/* ---- the life of a segment ---- */

int bus_segment_make_ready(struct bus_writer *writer, uint32_t stream, uint64_t now_ns)
{
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_stream *own = &writer->streams[stream];
  bool meta = own->fd >= 0 && meta_is_due(writer, stream);
  if (own->fd >= 0 && (shared->blocks + meta >= blocks_max(writer) ||
                       (writer->config.segment_ns && shared->blocks > 1 &&
                        now_ns - own->opened_ns >= writer->config.segment_ns))) {
    if (own->under_way > 0)
      return BUS_ERROR_AGAIN;
    int error = bus_segment_close(writer, stream);
    if (error)
      return error;
    meta = false;
  }
  int error = own->fd < 0 ? create(writer, stream, now_ns) : BUS_OK;
  if (!error)
    error = allocate(writer, stream, (uint64_t)shared->blocks + 1 + meta);
  if (!error && meta)
    error = write_meta(writer, stream);
  return error;
}

static bool holds_records(const struct bus_writer *writer, uint32_t stream)
{
  const struct bus_staging_stream *shared = shared_stream(writer, stream);
  return shared->blocks > 1;
}

/* What became known after the last block, as symbols that came with the first records. A disk that
 * refuses it keeps the segment as it is. */
static void write_last_meta(struct bus_writer *writer, uint32_t stream)
{
  uint32_t blocks = shared_stream(writer, stream)->blocks;
  if (blocks < blocks_max(writer) && meta_is_due(writer, stream) &&
      allocate(writer, stream, (uint64_t)blocks + 1) == BUS_OK)
    write_meta(writer, stream);
}

int bus_segment_close(struct bus_writer *writer, uint32_t stream)
{
  struct bus_staging_stream *shared = shared_stream(writer, stream);
  struct bus_writer_stream *own = &writer->streams[stream];
  struct bus_disk *disk = writer->config.disk;
  if (own->fd < 0)
    reopen(writer, stream, 0);
  if (own->fd < 0)
    return BUS_OK;
  if (!holds_records(writer, stream)) {
    forget_file(writer, stream, true);
    return BUS_OK;
  }
  write_last_meta(writer, stream);
  struct bus_capture_shape shape = bus_segment_shape(writer, stream, shared->blocks);
  /* A kill between the two leaves a file that is longer than its header says, by zeros. */
  int error = BUS_ERROR_IO;
  for (uint32_t attempt = 0; error && attempt < BUS_WRITER_ATTEMPTS; attempt++)
    error = write_header(writer, stream, shape.blocks);
  if (!error) {
    error = disk->resize(disk, own->fd, bus_capture_file_bytes(&shape));
    error = error ? refuse(-error) : BUS_OK;
  }
  int saved = errno;
  forget_file(writer, stream, false);
  bus_counter_add(writer->counters.segments, 1);
  if (!error && writer->config.closed)
    writer->config.closed(writer->config.context, own->path);
  return error ? refuse(saved) : BUS_OK;
}
