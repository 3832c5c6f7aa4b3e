#include "consumers/capture_reader.h"

#include "consumers/capture_file.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SEGMENTS_MAX  1000000u
#define OPEN_TRIES    3
#define LIVE_TRIES    3
#define LIVE_PAUSE_NS 20000000

struct bus_capture {
  char *path;
  struct bus_capture_stream *streams;
  uint32_t stream_count;
  struct bus_capture_damage damages[BUS_CAPTURE_DAMAGES_KEPT];
  uint64_t damage_count;
};

/* ---- damage ---- */

int bus_capture_damaged(struct bus_capture *capture, const char *path, uint64_t block,
                        uint64_t offset, const char *format, ...)
{
  struct bus_capture_damage *damage = &capture->damages[capture->damage_count];
  if (capture->damage_count++ >= BUS_CAPTURE_DAMAGES_KEPT)
    return BUS_ERROR_CORRUPT;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(damage->what, sizeof damage->what, format, arguments);
  va_end(arguments);
  damage->path = strdup(path);
  damage->block = block;
  damage->offset = offset;
  return BUS_ERROR_CORRUPT;
}

uint64_t bus_capture_damage_count(const struct bus_capture *capture)
{
  return capture->damage_count;
}

const struct bus_capture_damage *bus_capture_damage(const struct bus_capture *capture,
                                                    uint64_t index)
{
  return index < capture->damage_count && index < BUS_CAPTURE_DAMAGES_KEPT
             ? &capture->damages[index]
             : NULL;
}

/* ---- META ---- */

int bus_capture_meta_parse(const char *text, size_t size, json_t **meta)
{
  json_error_t error;
  *meta = json_loadb(text, size, JSON_REJECT_DUPLICATES, &error);
  if (!*meta)
    return bus_error_set(BUS_ERROR_CORRUPT, "not JSON: %s (byte %d)", error.text, error.position);
  const char *format = bus_capture_meta_text(*meta, "format");
  uint64_t version = bus_capture_meta_u64(*meta, "version", 0);
  int status = BUS_OK;
  if (!json_is_object(*meta) || strcmp(format, "signal-bus capture") != 0)
    status = bus_error_set(BUS_ERROR_CORRUPT, "it is not that of a capture");
  else if (version != BUS_CAPTURE_VERSION)
    status = bus_error_set(BUS_ERROR_CORRUPT,
                           "version %" PRIu64 ", this program reads version %d: use one that is as "
                           "new as the recorder",
                           version, BUS_CAPTURE_VERSION);
  if (status) {
    json_decref(*meta);
    *meta = NULL;
  }
  return status;
}

const char *bus_capture_meta_text(const json_t *meta, const char *key)
{
  const char *text = json_string_value(json_object_get(meta, key));
  return text ? text : "";
}

uint64_t bus_capture_meta_u64(const json_t *meta, const char *key, uint64_t otherwise)
{
  const json_t *value = json_object_get(meta, key);
  if (json_is_integer(value))
    return json_integer_value(value) >= 0 ? (uint64_t)json_integer_value(value) : otherwise;
  const char *text = json_string_value(value);
  if (!text || *text < '0' || *text > '9')
    return otherwise;
  char *end;
  errno = 0;
  unsigned long long number = strtoull(text, &end, 10);
  return errno || *end ? otherwise : number;
}

int64_t bus_capture_meta_i64(const json_t *meta, const char *key, int64_t otherwise)
{
  const json_t *value = json_object_get(meta, key);
  if (json_is_integer(value))
    return json_integer_value(value);
  const char *text = json_string_value(value);
  if (!text || !*text)
    return otherwise;
  char *end;
  errno = 0;
  long long number = strtoll(text, &end, 10);
  return errno || *end ? otherwise : number;
}

int bus_capture_symbol(const struct bus_capture_stream *stream, uint32_t index,
                       struct bus_symbol *symbol)
{
  const json_t *row = json_array_get(json_object_get(stream->meta, "symbols"), index);
  memset(symbol, 0, sizeof *symbol);
  int64_t price = bus_capture_meta_i64(row, "price_exponent", 1);
  int64_t size = bus_capture_meta_i64(row, "size_exponent", 1);
  if (!json_is_object(row) || price < -18 || price > 0 || size < -18 || size > 0)
    return BUS_ERROR_ABSENT;
  snprintf(symbol->name, sizeof symbol->name, "%s", bus_capture_meta_text(row, "name"));
  symbol->price_exponent = (int8_t)price;
  symbol->size_exponent = (int8_t)size;
  symbol->tick_size = bus_capture_meta_i64(row, "tick_size", 0);
  return BUS_OK;
}

int bus_capture_input(const struct bus_capture *capture, const struct bus_capture_stream *stream,
                      uint32_t source)
{
  const json_t *input = json_array_get(json_object_get(stream->meta, "inputs"), source);
  char name[BUS_CAPTURE_STREAM_BYTES];
  snprintf(name, sizeof name, "%s.%s", bus_capture_meta_text(input, "member"),
           bus_capture_meta_text(input, "ring"));
  for (uint32_t i = 0; i < capture->stream_count; i++)
    if (!strcmp(capture->streams[i].name, name))
      return (int)i;
  return BUS_ERROR_ABSENT;
}

/* ---- blocks ---- */

int bus_capture_read_block(struct bus_capture *capture, const struct bus_capture_stream *stream,
                           struct bus_capture_segment *segment, uint64_t number, void *to)
{
  if (segment->states[number] == BUS_CAPTURE_BLOCK_BAD)
    return BUS_ERROR_CORRUPT;
  /* The last block of a segment that is being written is written again when there is more for it.
   */
  bool live = segment->unfinished && number + 1 == segment->blocks;
  const struct timespec pause = {.tv_nsec = LIVE_PAUSE_NS};
  int error = BUS_ERROR_CORRUPT;
  for (int i = 0; i < (live ? LIVE_TRIES : 1) && error == BUS_ERROR_CORRUPT; i++) {
    if (i > 0)
      nanosleep(&pause, NULL);
    error = bus_capture_file_load(segment, number, to);
    if (!error)
      error = bus_capture_block_check(to, &segment->shape, stream->id, (uint32_t)number);
  }
  if (error == BUS_ERROR_NO_SPACE)
    return error;
  struct bus_capture_block header;
  memcpy(&header, to, sizeof header);
  /* A file that is being written changes: its last block grows. */
  if (!error && header.kind != segment->index[number].kind)
    error = bus_error_set(BUS_ERROR_CORRUPT, "it changes while it is read");
  if (!error) {
    segment->index[number] = header;
    segment->states[number] = BUS_CAPTURE_BLOCK_GOOD;
    return BUS_OK;
  }
  segment->states[number] = BUS_CAPTURE_BLOCK_BAD;
  return bus_capture_damaged(capture, segment->path, number,
                             bus_capture_block_offset(segment, number), "%s%s", bus_error_message(),
                             live ? " (the last block of an unfinished segment)" : "");
}

/* ---- streams ---- */

/* A file that belongs to the capture, before it is opened. */
struct candidate {
  struct bus_capture_file_name name;
  char *path;
};

static int compare_candidates(const void *a, const void *b)
{
  const struct candidate *left = a, *right = b;
  int order = strcmp(left->name.stream, right->name.stream);
  if (order == 0)
    order = (left->name.segment > right->name.segment) - (left->name.segment < right->name.segment);
  return order ? order : left->name.compressed - right->name.compressed;
}

static void add_to_stream(struct bus_capture_stream *stream,
                          const struct bus_capture_segment *segment)
{
  for (uint64_t i = 0; i < segment->blocks; i++) {
    const struct bus_capture_block *block = &segment->index[i];
    if (segment->states[i] == BUS_CAPTURE_BLOCK_BAD || block->kind != BUS_CAPTURE_DATA)
      continue;
    if (stream->records == 0) {
      stream->first = block->first;
      stream->first_time_ns = block->first_time_ns;
    }
    stream->last = block->last;
    if (block->last_time_ns > stream->last_time_ns)
      stream->last_time_ns = block->last_time_ns;
    stream->blocks++;
    stream->records += block->count;
    stream->lost += block->lost;
  }
  stream->bytes += segment->file_bytes;
  if (segment->meta) {
    json_decref(stream->meta);
    stream->meta = json_incref(segment->meta);
    stream->instance = segment->instance;
    snprintf(stream->member, sizeof stream->member, "%s",
             bus_capture_meta_text(stream->meta, "member"));
    snprintf(stream->ring, sizeof stream->ring, "%s", bus_capture_meta_text(stream->meta, "ring"));
  }
}

/* The stream for records like these, made when there is none; NULL: no memory. */
static struct bus_capture_stream *get_stream(struct bus_capture *capture, const char *name,
                                             const struct bus_capture_shape *shape)
{
  for (uint32_t i = 0; i < capture->stream_count; i++) {
    struct bus_capture_stream *stream = &capture->streams[i];
    if (!strcmp(stream->name, name) && stream->record_type == shape->record_type &&
        stream->record_size == shape->record_size)
      return stream;
  }
  struct bus_capture_stream *streams =
      realloc(capture->streams, (capture->stream_count + 1) * sizeof *streams);
  if (!streams)
    return NULL;
  capture->streams = streams;
  struct bus_capture_stream *stream = &streams[capture->stream_count++];
  memset(stream, 0, sizeof *stream);
  snprintf(stream->name, sizeof stream->name, "%s", name);
  stream->id = bus_capture_stream_id(name);
  stream->record_type = shape->record_type;
  stream->record_size = shape->record_size;
  stream->meta = json_object();
  return stream;
}

static int add_segment(struct bus_capture *capture, struct candidate *candidate)
{
  const struct bus_capture_segment *hint = NULL;
  struct bus_capture_segment segment = {.file = -1,
                                        .number = candidate->name.segment,
                                        .compressed = candidate->name.compressed,
                                        .path = candidate->path};
  candidate->path = NULL;
  for (uint32_t i = 0; i < capture->stream_count; i++)
    if (!strcmp(capture->streams[i].name, candidate->name.stream))
      hint = &capture->streams[i].segments[capture->streams[i].segment_count - 1];
  int error = bus_capture_file_open(capture, candidate->name.stream, hint, &segment);
  if (hint && hint->number + 1 < segment.number)
    bus_capture_damaged(capture, segment.path, BUS_CAPTURE_NO_BLOCK, 0,
                        "segments %" PRIu32 " to %" PRIu32 " before it are missing",
                        hint->number + 1, segment.number - 1);
  if (error || segment.shape.record_size == 0) {
    bus_capture_file_close(&segment);
    return error;
  }
  struct bus_capture_stream *stream = get_stream(capture, candidate->name.stream, &segment.shape);
  void *segments =
      stream ? realloc(stream->segments, (stream->segment_count + 1) * sizeof *stream->segments)
             : NULL;
  if (!segments) {
    bus_capture_file_close(&segment);
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: no memory", capture->path);
  }
  stream->segments = segments;
  stream->segments[stream->segment_count++] = segment;
  add_to_stream(stream, &segment);
  return BUS_OK;
}

/* ---- opening ---- */

struct candidates {
  struct candidate *items;
  size_t count;
};

static int add_candidate(struct candidates *candidates, const char *directory, const char *file)
{
  struct candidate candidate = {.path = NULL};
  if (!bus_capture_file_name_parse(file, &candidate.name))
    return BUS_OK;
  if (candidates->count == SEGMENTS_MAX)
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: more than %u segments", directory, SEGMENTS_MAX);
  void *items = realloc(candidates->items, (candidates->count + 1) * sizeof *candidates->items);
  candidates->items = items ? items : candidates->items;
  if (!items || asprintf(&candidate.path, "%s%s%s", directory, *directory ? "/" : "", file) < 0)
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: no memory", directory);
  candidates->items[candidates->count++] = candidate;
  return BUS_OK;
}

static int list_directory(struct candidates *candidates, const char *path)
{
  DIR *directory = opendir(path);
  if (!directory)
    return bus_error_set_errno("%s: cannot be read", path);
  int error = BUS_OK;
  for (struct dirent *entry; !error && (entry = readdir(directory)) != NULL;)
    error = add_candidate(candidates, path, entry->d_name);
  closedir(directory);
  if (!error && candidates->count == 0)
    error = bus_error_set(BUS_ERROR_ABSENT,
                          "%s: no segment of a capture in it (MEMBER.RING.000000.npy); is it the "
                          "directory that bus-record wrote to?",
                          path);
  return error;
}

static int list_path(struct candidates *candidates, const char *path)
{
  struct stat status;
  if (stat(path, &status) != 0)
    return bus_error_set_errno("%s: no capture there", path);
  if (S_ISDIR(status.st_mode))
    return list_directory(candidates, path);
  const char *slash = strrchr(path, '/');
  char directory[PATH_MAX] = "";
  if (slash)
    snprintf(directory, sizeof directory, "%.*s", (int)(slash - path), path);
  int error =
      add_candidate(candidates, slash && !*directory ? "/." : directory, slash ? slash + 1 : path);
  if (!error && candidates->count == 0)
    error = bus_error_set(BUS_ERROR_ABSENT,
                          "%s: not named like a segment of a capture, MEMBER.RING.000000.npy or "
                          ".npy.zst",
                          path);
  return error;
}

/* A file and its compressed form are the same segment: the compressor stopped in between. */
static int add_segments(struct bus_capture *capture, struct candidates *candidates)
{
  int error = BUS_OK;
  if (candidates->count == 0)
    return BUS_OK;
  qsort(candidates->items, candidates->count, sizeof *candidates->items, compare_candidates);
  for (size_t i = 0; i < candidates->count && !error; i++) {
    const struct candidate *before = i > 0 ? &candidates->items[i - 1] : NULL;
    struct candidate *candidate = &candidates->items[i];
    if (before && candidate->name.compressed &&
        !strcmp(before->name.stream, candidate->name.stream) &&
        before->name.segment == candidate->name.segment)
      continue;
    error = add_segment(capture, candidate);
  }
  return error;
}

static int try_open(const char *path, struct bus_capture **out)
{
  struct candidates candidates = {0};
  struct bus_capture *capture = calloc(1, sizeof *capture);
  *out = NULL;
  if (!capture || !(capture->path = strdup(path))) {
    free(capture);
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: no memory", path);
  }
  int error = list_path(&candidates, path);
  if (!error)
    error = add_segments(capture, &candidates);
  for (size_t i = 0; i < candidates.count; i++)
    free(candidates.items[i].path);
  free(candidates.items);
  if (error)
    bus_capture_close(capture);
  else
    *out = capture;
  return error;
}

int bus_capture_open(const char *path, struct bus_capture **out)
{
  int error = BUS_ERROR_ABSENT;
  /* A recorder that compresses takes files away which were in the list. */
  for (int i = 0; i < OPEN_TRIES && error == BUS_ERROR_ABSENT; i++)
    error = try_open(path, out);
  return error;
}

void bus_capture_close(struct bus_capture *capture)
{
  if (!capture)
    return;
  for (uint32_t i = 0; i < capture->stream_count; i++) {
    struct bus_capture_stream *stream = &capture->streams[i];
    for (size_t j = 0; j < stream->segment_count; j++)
      bus_capture_file_close(&stream->segments[j]);
    free(stream->segments);
    json_decref(stream->meta);
  }
  for (uint64_t i = 0; i < capture->damage_count && i < BUS_CAPTURE_DAMAGES_KEPT; i++)
    free(capture->damages[i].path);
  free(capture->streams);
  free(capture->path);
  free(capture);
}

/* ---- looking at it ---- */

const char *bus_capture_path(const struct bus_capture *capture)
{
  return capture->path;
}

uint32_t bus_capture_stream_count(const struct bus_capture *capture)
{
  return capture->stream_count;
}

const struct bus_capture_stream *bus_capture_stream(const struct bus_capture *capture,
                                                    uint32_t index)
{
  return index < capture->stream_count ? &capture->streams[index] : NULL;
}

int bus_capture_find_stream(const struct bus_capture *capture, const char *name)
{
  int found = BUS_ERROR_ABSENT;
  for (uint32_t i = 0; i < capture->stream_count; i++) {
    const struct bus_capture_stream *stream = &capture->streams[i];
    if (!strcmp(stream->name, name))
      return (int)i;
    if (strcmp(stream->ring, name) != 0 && strcmp(stream->member, name) != 0)
      continue;
    if (found >= 0)
      return bus_error_set(BUS_ERROR_INVALID, "'%s' is more than one stream: %s and %s", name,
                           capture->streams[found].name, stream->name);
    found = (int)i;
  }
  if (found < 0)
    return bus_error_set(BUS_ERROR_ABSENT, "%s: no stream '%s'; bus-replay info lists them",
                         capture->path, name);
  return found;
}

void bus_capture_times(const struct bus_capture *capture, uint64_t *first_ns, uint64_t *last_ns,
                       int64_t *offset_ns)
{
  *first_ns = *last_ns = 0;
  *offset_ns = 0;
  for (uint32_t i = 0; i < capture->stream_count; i++) {
    const struct bus_capture_stream *stream = &capture->streams[i];
    if (stream->first_time_ns && (*first_ns == 0 || stream->first_time_ns < *first_ns))
      *first_ns = stream->first_time_ns;
    if (stream->last_time_ns > *last_ns)
      *last_ns = stream->last_time_ns;
    if (*offset_ns == 0)
      *offset_ns = bus_capture_meta_i64(stream->meta, "realtime_offset_ns", 0);
  }
}

uint64_t bus_capture_blocks_bytes(const struct bus_capture *capture)
{
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < capture->stream_count; i++)
    for (size_t j = 0; j < capture->streams[i].segment_count; j++) {
      const struct bus_capture_segment *segment = &capture->streams[i].segments[j];
      bytes += segment->blocks * segment->shape.block_size;
    }
  return bytes;
}
