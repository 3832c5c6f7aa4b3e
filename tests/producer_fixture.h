/* What the tests of producers share: the real captures, a sink that keeps records, a counter of
 * allocations, and text that ends where memory ends. Include in one file of a program. */
#ifndef PRODUCER_FIXTURE_H
#define PRODUCER_FIXTURE_H

#include "producers/source_capture.h"
#include "shm/error.h"
#include "shm/record.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SPOT_CAPTURE "binance/spot_btcusdt_20240808.gz"
#define USDM_CAPTURE "binance/usdm_ethusdt_20240808.gz"

/* The path of a data file; the test is skipped, saying so, when it is not there. */
static inline const char *data_path(const char *name)
{
  static char path[4096];
  const char *directory = getenv("BUS_TEST_DATA");
  snprintf(path, sizeof path, "%s/%s", directory != NULL ? directory : "../shared/data", name);
  if (access(path, R_OK) != 0) {
    fprintf(stderr, "SKIPPED: no test data at %s (set BUS_TEST_DATA)\n", path);
    cr_skip_test("no test data at %s (set BUS_TEST_DATA)", path);
  }
  return path;
}

/* All lines of a file, in memory. */
struct lines {
  char *text;
  size_t *start;
  size_t *length;
  size_t count;
};

static inline struct lines read_lines(const char *path)
{
  struct bus_source *source = bus_source_capture_open(path);
  cr_assert_not_null(source, "%s", bus_error_message());
  struct lines lines = {malloc((size_t)32 << 20), malloc(sizeof(size_t) * 100000),
                        malloc(sizeof(size_t) * 100000), 0};
  size_t used = 0;
  const char *line;
  size_t length;
  int code;
  while ((code = bus_source_next(source, &line, &length)) == 1) {
    cr_assert(lines.count < 100000 && used + length < (size_t)32 << 20);
    memcpy(lines.text + used, line, length);
    lines.start[lines.count] = used;
    lines.length[lines.count++] = length;
    used += length;
  }
  cr_assert_eq(code, 0, "%s", bus_error_message());
  bus_source_close(source);
  return lines;
}

static inline void free_lines(struct lines *lines)
{
  free(lines->text);
  free(lines->start);
  free(lines->length);
}

/* The JSON after the time stamp of line `i`. */
static inline const char *json_of(const struct lines *lines, size_t i, size_t *length)
{
  const char *line = lines->text + lines->start[i];
  const char *space = memchr(line, ' ', lines->length[i]);
  *length = lines->length[i] - (size_t)(space + 1 - line);
  return space + 1;
}

/* Copies of text whose last byte is the last that may be read: one more is a fault. */
struct guard {
  char *memory;
  size_t bytes;
};

static inline struct guard guard_new(size_t bytes)
{
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  struct guard guard = {NULL, (bytes + page - 1) / page * page};
  guard.memory =
      mmap(NULL, guard.bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  cr_assert_neq(guard.memory, MAP_FAILED);
  cr_assert_eq(mprotect(guard.memory + guard.bytes, page, PROT_NONE), 0);
  return guard;
}

static inline const char *guard_put(const struct guard *guard, const char *text, size_t length)
{
  char *to = guard->memory + guard->bytes - length;
  memcpy(to, text, length);
  return to;
}

static inline void guard_free(struct guard *guard)
{
  munmap(guard->memory, guard->bytes + (size_t)sysconf(_SC_PAGESIZE));
}

/* Takes records, the last `capacity` of which are kept. */
struct record_sink {
  struct bus_feature *records;
  size_t capacity;
  size_t count;
  size_t refuse_from; /* from this record on there is no room */
};

static inline struct bus_feature *sink_reserve(void *context)
{
  struct record_sink *sink = context;
  return sink->count >= sink->refuse_from ? NULL : &sink->records[sink->count % sink->capacity];
}

static inline void sink_commit(void *context)
{
  ((struct record_sink *)context)->count++;
}

static inline struct record_sink sink_new(size_t capacity)
{
  struct record_sink sink = {calloc(capacity, sizeof(struct bus_feature)), capacity, 0, SIZE_MAX};
  cr_assert_not_null(sink.records);
  return sink;
}

static inline const struct bus_feature *sink_last(const struct record_sink *sink)
{
  cr_assert_gt(sink->count, 0);
  return &sink->records[(sink->count - 1) % sink->capacity];
}

#if defined(__has_feature)
#define FIXTURE_HAS_FEATURE(feature) __has_feature(feature)
#else
#define FIXTURE_HAS_FEATURE(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) ||                               \
    FIXTURE_HAS_FEATURE(address_sanitizer) || FIXTURE_HAS_FEATURE(thread_sanitizer)
#define CAN_COUNT_ALLOCATIONS 0 /* the sanitizer's own malloc is in the way */
static size_t allocation_count __attribute__((unused));
#else
#define CAN_COUNT_ALLOCATIONS 1
static size_t allocation_count __attribute__((unused));

void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t count, size_t bytes);
void *__libc_realloc(void *memory, size_t bytes);

void *malloc(size_t bytes)
{
  __atomic_fetch_add(&allocation_count, 1, __ATOMIC_RELAXED);
  return __libc_malloc(bytes);
}

void *calloc(size_t count, size_t bytes)
{
  __atomic_fetch_add(&allocation_count, 1, __ATOMIC_RELAXED);
  return __libc_calloc(count, bytes);
}

void *realloc(void *memory, size_t bytes)
{
  __atomic_fetch_add(&allocation_count, 1, __ATOMIC_RELAXED);
  return __libc_realloc(memory, bytes);
}
#endif

#endif
