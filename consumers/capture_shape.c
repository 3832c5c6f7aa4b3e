#include "consumers/capture_shape.h"

#include "shm/layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t bus_capture_read_at(int file, void *to, size_t size, uint64_t offset)
{
  size_t done = 0;
  while (done < size) {
    ssize_t part = pread(file, (char *)to + done, size - done, (off_t)(offset + done));
    if (part < 0 && errno == EINTR)
      continue;
    if (part < 0)
      return -1;
    if (part == 0)
      break;
    done += (size_t)part;
  }
  return (ssize_t)done;
}

/* The number of the record type of that name; RAW when none has it. */
static uint32_t record_type_of(const char *name)
{
  for (uint32_t type = 0; type < 64; type++)
    if (!strcmp(name, bus_record_type_name(type)))
      return type;
  return BUS_RECORD_RAW;
}

/* Block size of a plain file without a header: where its second block stands, else its only one. */
static uint32_t find_block_size(const struct bus_capture_segment *segment, uint32_t stream)
{
  uint64_t behind = segment->file_bytes - BUS_CAPTURE_FILE_HEADER_BYTES;
  for (uint32_t size = BUS_CAPTURE_BLOCK_BYTES_MIN;
       size <= BUS_CAPTURE_BLOCK_BYTES_MAX && size < behind; size += BUS_CAPTURE_BLOCK_BYTES_MIN) {
    struct bus_capture_block header;
    ssize_t got = bus_capture_read_at(segment->file, &header, sizeof header,
                                      (uint64_t)BUS_CAPTURE_FILE_HEADER_BYTES + size);
    if (got == (ssize_t)sizeof header && header.magic == BUS_CAPTURE_MAGIC && header.number == 1 &&
        header.stream == stream)
      return size;
  }
  return behind <= BUS_CAPTURE_BLOCK_BYTES_MAX ? (uint32_t)behind : 0;
}

void bus_capture_find_shape(struct bus_capture_segment *segment, uint32_t stream,
                            const struct bus_capture_segment *hint)
{
  struct bus_capture_shape *shape = &segment->shape;
  struct bus_capture_block header;
  memset(shape, 0, sizeof *shape);
  if (segment->file_bytes < BUS_CAPTURE_FILE_HEADER_BYTES + BUS_CAPTURE_BLOCK_BYTES_MIN)
    return;
  ssize_t got =
      bus_capture_read_at(segment->file, &header, sizeof header, BUS_CAPTURE_FILE_HEADER_BYTES);
  json_t *meta = NULL;
  if (got == (ssize_t)sizeof header && header.magic == BUS_CAPTURE_MAGIC &&
      header.kind == BUS_CAPTURE_META && header.count <= BUS_CAPTURE_BLOCK_BYTES_MAX) {
    char *text = malloc((size_t)header.count + 1);
    if (text &&
        bus_capture_read_at(segment->file, text, header.count,
                            BUS_CAPTURE_FILE_HEADER_BYTES + sizeof header) ==
            (ssize_t)header.count &&
        bus_capture_meta_parse(text, header.count, &meta) == BUS_OK) {
      shape->record_type = record_type_of(bus_capture_meta_text(meta, "record_type"));
      uint64_t size = bus_capture_meta_u64(meta, "record_size", 0);
      shape->record_size = size <= BUS_RECORD_BYTES_MAX ? (uint32_t)size : 0;
      shape->block_size = find_block_size(segment, stream);
    }
    free(text);
    json_decref(meta);
  }
  if (bus_capture_shape_check(shape) != BUS_OK) {
    memset(shape, 0, sizeof *shape);
    if (hint)
      *shape = hint->shape;
  }
  if (shape->record_size)
    shape->blocks = (segment->file_bytes - BUS_CAPTURE_FILE_HEADER_BYTES) / shape->block_size;
}
