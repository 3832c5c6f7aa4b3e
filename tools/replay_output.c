#include "tools/replay_output.h"

#include "consumers/capture_reader.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct stream {
  char name[BUS_CAPTURE_STREAM_BYTES];
  uint32_t id;
  struct bus_capture_shape shape; /* blocks: of the present segment */
  uint32_t capacity;
  uint32_t segment; /* the next one's number */
  int file;         /* -1: no segment is open */
  char *meta;       /* text */
  size_t meta_size;
  unsigned char *block;            /* the one that is being filled, its payload */
  struct bus_capture_block header; /* and its header */
  uint64_t expected;               /* the next position if nothing is missing */
  bool expected_known;
};

struct replay_output {
  char *directory;
  uint64_t segment_bytes;
  struct stream *streams;
  int stream_count;
  uint64_t records;
  uint64_t blocks;
};

/* ---- files ---- */

static void segment_path(const struct replay_output *output, const struct stream *stream,
                         char *path, size_t size, const char *suffix)
{
  char name[BUS_CAPTURE_FILE_NAME_BYTES];
  struct bus_capture_file_name parts = {.segment = stream->segment};
  memcpy(parts.stream, stream->name, sizeof parts.stream);
  bus_capture_file_name_build(&parts, name);
  snprintf(path, size, "%s/%s%s", output->directory, name, suffix);
}

static int write_at(const struct replay_output *output, const struct stream *stream,
                    const void *bytes, size_t size, uint64_t offset)
{
  for (size_t done = 0; done < size;) {
    ssize_t part =
        pwrite(stream->file, (const char *)bytes + done, size - done, (off_t)(offset + done));
    if (part < 0 && errno == EINTR)
      continue;
    if (part <= 0) {
      errno = part == 0 ? ENOSPC : errno;
      return bus_error_set_errno("%s: %s cannot be written (make room, or write elsewhere)",
                                 output->directory, stream->name);
    }
    done += (size_t)part;
  }
  return BUS_OK;
}

/* Seals and writes the block in hand, if there is something in it. */
static int flush(struct replay_output *output, struct stream *stream)
{
  if (stream->header.count == 0)
    return BUS_OK;
  stream->header.number = (uint32_t)stream->shape.blocks;
  stream->header.stream = stream->id;
  memcpy(stream->block, &stream->header, sizeof stream->header);
  bus_capture_block_seal(stream->block, &stream->shape);
  int error = write_at(output, stream, stream->block, stream->shape.block_size,
                       bus_capture_file_bytes(&stream->shape));
  stream->shape.blocks++;
  output->blocks += stream->header.kind == BUS_CAPTURE_DATA;
  memset(&stream->header, 0, sizeof stream->header);
  return error;
}

static int put_meta(struct replay_output *output, struct stream *stream)
{
  int error = flush(output, stream);
  if (error)
    return error;
  stream->header.kind = BUS_CAPTURE_META;
  stream->header.count = (uint32_t)stream->meta_size;
  memcpy(stream->block + BUS_CAPTURE_BLOCK_HEADER_BYTES, stream->meta, stream->meta_size);
  return flush(output, stream);
}

static int close_segment(struct replay_output *output, struct stream *stream)
{
  char header[BUS_CAPTURE_FILE_HEADER_BYTES], from[4096], to[4096];
  if (stream->file < 0)
    return BUS_OK;
  int error = flush(output, stream);
  if (!error)
    error = bus_capture_header_build(&stream->shape, header);
  if (!error)
    error = write_at(output, stream, header, sizeof header, 0);
  if (!error && fdatasync(stream->file) != 0)
    error = bus_error_set_errno("%s: %s cannot be written", output->directory, stream->name);
  if (close(stream->file) != 0 && !error)
    error = bus_error_set_errno("%s: %s cannot be written", output->directory, stream->name);
  stream->file = -1;
  segment_path(output, stream, from, sizeof from, ".partial");
  segment_path(output, stream, to, sizeof to, "");
  if (!error && rename(from, to) != 0)
    error = bus_error_set_errno("%s: cannot be renamed to %s", from, to);
  stream->segment++;
  return error;
}

/* Opens a segment when none is, with the description first. */
static int need_segment(struct replay_output *output, struct stream *stream)
{
  char path[4096];
  if (stream->file >= 0)
    return BUS_OK;
  if (!stream->meta)
    return bus_error_set(BUS_ERROR_INVALID, "%s has records before it is described", stream->name);
  segment_path(output, stream, path, sizeof path, ".partial");
  stream->file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  if (stream->file < 0)
    return bus_error_set_errno("%s: cannot be made", path);
  stream->shape.blocks = 0;
  return put_meta(output, stream);
}

static int rotate_when_full(struct replay_output *output, struct stream *stream)
{
  uint64_t bytes = bus_capture_file_bytes(&stream->shape);
  return stream->file >= 0 && bytes >= output->segment_bytes ? close_segment(output, stream)
                                                             : BUS_OK;
}

/* ---- opening ---- */

static int check_empty(const char *directory)
{
  DIR *list = opendir(directory);
  if (!list)
    return bus_error_set_errno("%s: cannot be read", directory);
  bool empty = true;
  for (struct dirent *entry; empty && (entry = readdir(list)) != NULL;)
    empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
  closedir(list);
  return empty ? BUS_OK
               : bus_error_set(BUS_ERROR_BUSY, "%s: is not empty; name a new directory", directory);
}

int replay_output_open(const char *directory, uint64_t segment_bytes, struct replay_output **out)
{
  *out = NULL;
  if (mkdir(directory, 0750) != 0) {
    if (errno != EEXIST)
      return bus_error_set_errno("%s: cannot be made", directory);
    int error = check_empty(directory);
    if (error)
      return error;
  }
  struct replay_output *output = calloc(1, sizeof *output);
  if (!output || !(output->directory = strdup(directory))) {
    free(output);
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: no memory", directory);
  }
  output->segment_bytes = segment_bytes;
  *out = output;
  return BUS_OK;
}

/* The ring's records or the blocks change: a new segment, for a file has one shape. */
static int reshape(struct replay_output *output, struct stream *stream,
                   const struct bus_capture_shape *shape)
{
  void *block = NULL;
  int error = bus_capture_shape_check(shape);
  if (!error)
    error = close_segment(output, stream);
  if (!error && posix_memalign(&block, 4096, shape->block_size) != 0)
    error = bus_error_set(BUS_ERROR_NO_SPACE, "no memory for stream %s", stream->name);
  if (error)
    return error;
  free(stream->block);
  stream->block = block;
  stream->expected_known &= stream->shape.record_size == shape->record_size;
  stream->shape = *shape;
  stream->capacity = bus_capture_capacity(shape->record_size, shape->block_size);
  return BUS_OK;
}

int replay_output_stream(struct replay_output *output, const char *name,
                         const struct bus_capture_shape *shape)
{
  for (int i = 0; i < output->stream_count; i++)
    if (!strcmp(output->streams[i].name, name)) {
      const struct bus_capture_shape *have = &output->streams[i].shape;
      bool same = have->record_size == shape->record_size &&
                  have->record_type == shape->record_type && have->block_size == shape->block_size;
      int error = same ? BUS_OK : reshape(output, &output->streams[i], shape);
      return error ? error : i;
    }
  int error = bus_capture_shape_check(shape);
  if (error)
    return error;
  struct stream *streams =
      realloc(output->streams, ((size_t)output->stream_count + 1) * sizeof *streams);
  output->streams = streams ? streams : output->streams;
  void *block = NULL;
  if (!streams || posix_memalign(&block, 4096, shape->block_size) != 0)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for stream %s", name);
  struct stream *stream = &streams[output->stream_count];
  memset(stream, 0, sizeof *stream);
  snprintf(stream->name, sizeof stream->name, "%s", name);
  stream->id = bus_capture_stream_id(name);
  stream->shape = *shape;
  stream->capacity = bus_capture_capacity(shape->record_size, shape->block_size);
  stream->file = -1;
  stream->block = block;
  return output->stream_count++;
}

/* ---- writing ---- */

int replay_output_meta(struct replay_output *output, int index, const json_t *meta)
{
  struct stream *stream = &output->streams[index];
  char *text = json_dumps(meta, JSON_COMPACT | JSON_SORT_KEYS);
  size_t room = stream->shape.block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES;
  if (!text)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for the description of %s", stream->name);
  if (stream->meta && !strcmp(stream->meta, text)) {
    free(text);
    return BUS_OK;
  }
  if (strlen(text) > room) {
    int error = bus_error_set(BUS_ERROR_NO_SPACE,
                              "%s: its description has %zu bytes, blocks of %" PRIu32
                              " bytes hold %zu: record with larger blocks",
                              stream->name, strlen(text), stream->shape.block_size, room);
    free(text);
    return error;
  }
  free(stream->meta);
  stream->meta = text;
  stream->meta_size = strlen(text);
  return stream->file >= 0 ? put_meta(output, stream) : need_segment(output, stream);
}

int replay_output_rotate(struct replay_output *output, int index, bool new_instance)
{
  struct stream *stream = &output->streams[index];
  if (new_instance)
    stream->expected_known = false;
  return close_segment(output, stream);
}

int replay_output_record(struct replay_output *output, int index, const void *record,
                         uint64_t time_ns)
{
  struct stream *stream = &output->streams[index];
  struct bus_capture_block *header = &stream->header;
  uint32_t size = stream->shape.record_size;
  uint64_t position = bus_capture_record_position(record, size);
  int error = BUS_OK;
  /* Positions within a block ascend. */
  if (header->count == stream->capacity || (header->count && position < stream->expected))
    error = flush(output, stream);
  if (!error && header->count == 0)
    error = rotate_when_full(output, stream);
  if (!error)
    error = need_segment(output, stream);
  if (error)
    return error;
  if (header->count == 0) {
    header->kind = BUS_CAPTURE_DATA;
    header->first_time_ns = time_ns;
  }
  if (stream->expected_known && position > stream->expected)
    header->lost += position - stream->expected;
  memcpy(stream->block + BUS_CAPTURE_BLOCK_HEADER_BYTES + (size_t)header->count * size, record,
         size);
  header->count++;
  header->last_time_ns = time_ns;
  stream->expected = position + 1;
  stream->expected_known = true;
  output->records++;
  return BUS_OK;
}

int replay_output_block(struct replay_output *output, int index, const void *block)
{
  struct stream *stream = &output->streams[index];
  struct bus_capture_block from;
  memcpy(&from, block, sizeof from);
  if (from.kind != BUS_CAPTURE_DATA || from.count > stream->capacity)
    return bus_error_set(BUS_ERROR_INVALID, "%s: a block that does not fit", stream->name);
  int error = flush(output, stream);
  if (!error)
    error = rotate_when_full(output, stream);
  if (!error)
    error = need_segment(output, stream);
  if (error)
    return error;
  uint64_t inside = from.last - from.first + 1 - from.count;
  stream->header = from;
  if (stream->expected_known)
    stream->header.lost =
        inside + (from.first > stream->expected ? from.first - stream->expected : 0);
  memcpy(stream->block + BUS_CAPTURE_BLOCK_HEADER_BYTES,
         (const char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES,
         (size_t)from.count * stream->shape.record_size);
  stream->expected = from.last + 1;
  stream->expected_known = true;
  output->records += from.count;
  return flush(output, stream);
}

/* ---- the end ---- */

void replay_output_abandon(struct replay_output *output)
{
  if (!output)
    return;
  for (int i = 0; i < output->stream_count; i++) {
    if (output->streams[i].file >= 0)
      close(output->streams[i].file);
    free(output->streams[i].block);
    free(output->streams[i].meta);
  }
  free(output->streams);
  free(output->directory);
  free(output);
}

int replay_output_close(struct replay_output *output)
{
  int error = BUS_OK;
  for (int i = 0; i < output->stream_count && !error; i++)
    error = close_segment(output, &output->streams[i]);
  replay_output_abandon(output);
  return error;
}

uint64_t replay_output_records(const struct replay_output *output)
{
  return output->records;
}

uint64_t replay_output_blocks(const struct replay_output *output)
{
  return output->blocks;
}
