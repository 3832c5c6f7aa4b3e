/* capture_fixture.h: a capture directory of a test's own, a staging without a bus, and a reader
 * that checks every byte of what was written. */
#ifndef TESTS_CAPTURE_FIXTURE_H
#define TESTS_CAPTURE_FIXTURE_H

#include "consumers/capture_segment.h"
#include "consumers/capture_writer.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIXTURE_BLOCK_BYTES 4096u
#define FIXTURE_CAPACITY    63u
#define FIXTURE_BLOCKS      16u

static char fixture_output[256];
static struct bus_staging fixture_staging;
static void *fixture_memory;

static inline void fixture_output_create(const char *below)
{
  snprintf(fixture_output, sizeof fixture_output, "%s/signalbus-capture-%d", below, (int)getpid());
  cr_assert_eq(mkdir(fixture_output, 0750), 0, "%s: %s", fixture_output, strerror(errno));
}

static inline void fixture_output_remove(void)
{
  char path[512];
  DIR *directory = opendir(fixture_output);
  for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL;) {
    snprintf(path, sizeof path, "%s/%.200s", fixture_output, entry->d_name);
    unlink(path);
  }
  if (directory)
    closedir(directory);
  rmdir(fixture_output);
}

/* A staging in private memory, in place of the one before. */
static inline void fixture_staging_create(uint32_t block_size, uint64_t depth)
{
  const struct bus_entry entry = {
      .type = BUS_OBJECT_STAGING, .record_size = block_size, .depth = depth};
  size_t bytes = (size_t)bus_layout_object_bytes(&entry);
  free(fixture_memory);
  fixture_memory = aligned_alloc(4096, bytes);
  cr_assert_not_null(fixture_memory);
  memset(fixture_memory, 0, bytes);
  bus_staging_init(&fixture_staging, fixture_memory, &entry);
}

static inline uint32_t fixture_stream(const char *member, uint64_t instance, uint64_t start)
{
  int index = bus_staging_stream_new(&fixture_staging);
  cr_assert_geq(index, 0);
  struct bus_staging_stream *stream = &fixture_staging.streams[index];
  snprintf(stream->member, sizeof stream->member, "%s", member);
  snprintf(stream->ring, sizeof stream->ring, "ring");
  stream->instance = instance;
  stream->record_size = 64;
  stream->durable = start;
  stream->used = 1;
  return (uint32_t)index;
}

/* Stages the record of `position`; false when the staging is full. */
static inline bool fixture_put(struct bus_staging_filler *filler, uint64_t position)
{
  uint64_t *record = bus_staging_reserve(filler, 1);
  if (!record)
    return false;
  for (int i = 0; i < 7; i++)
    record[i] = position * 31 + (uint64_t)i;
  record[7] = position + 1;
  bus_staging_commit(filler);
  return true;
}

struct fixture_capture {
  uint64_t records;
  uint64_t next; /* position behind the last */
  uint64_t lost;
  uint32_t files;
  uint32_t metas;
  uint32_t blocks;
};

/* Reads the segments of "member.ring" in order, checks every block, and that positions ascend. */
static inline void fixture_read(const char *stream, struct fixture_capture *capture)
{
  static _Alignas(64) unsigned char block[FIXTURE_BLOCK_BYTES];
  memset(capture, 0, sizeof *capture);
  struct bus_capture_file_name parts = {.segment = 0};
  snprintf(parts.stream, sizeof parts.stream, "%s", stream);
  for (uint32_t missing = 0; missing < 1000; parts.segment++) {
    char name[BUS_CAPTURE_FILE_NAME_BYTES], path[512];
    bus_capture_file_name_build(&parts, name);
    snprintf(path, sizeof path, "%s/%s", fixture_output, name);
    int fd = open(path, O_RDONLY);
    if (fd < 0) {
      missing++;
      continue;
    }
    struct bus_capture_shape shape;
    struct stat status;
    cr_assert_eq(read(fd, block, sizeof block), (ssize_t)sizeof block);
    cr_assert_eq(bus_capture_header_parse(block, &shape), BUS_OK, "%s: %s", path,
                 bus_error_message());
    cr_assert_eq(fstat(fd, &status), 0);
    cr_assert_eq((uint64_t)status.st_size, bus_capture_file_bytes(&shape), "%s", path);
    for (uint32_t i = 0; i < shape.blocks; i++) {
      struct bus_capture_block header;
      cr_assert_eq(read(fd, block, sizeof block), (ssize_t)sizeof block);
      cr_assert_eq(bus_capture_block_check(block, &shape, bus_capture_stream_id(stream), i), BUS_OK,
                   "%s, block %u: %s", path, i, bus_error_message());
      memcpy(&header, block, sizeof header);
      cr_assert_eq(i == 0, header.kind == BUS_CAPTURE_META && i == 0);
      capture->metas += header.kind == BUS_CAPTURE_META;
      capture->lost += header.lost;
      capture->blocks++;
      for (uint32_t j = 0; header.kind == BUS_CAPTURE_DATA && j < header.count; j++) {
        const void *record = bus_capture_block_record(block, 64, j);
        uint64_t words[8];
        memcpy(words, record, sizeof words);
        cr_assert_geq(words[7] - 1, capture->next, "a record twice, or out of order");
        cr_assert_eq(words[3], (words[7] - 1) * 31 + 3, "position %llu holds another record",
                     (unsigned long long)(words[7] - 1));
        capture->next = words[7];
        capture->records++;
      }
    }
    capture->files++;
    close(fd);
  }
}

#endif
