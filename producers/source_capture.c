#include "producers/source_capture.h"

#include "shm/error.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <zlib.h>

/* Twice the line limit, so that a line that fits is never cut by the end of the buffer. */
#define BUFFER_BYTES ((size_t)1 << 20)
#define ZLIB_BYTES   (128u << 10)

struct capture {
  struct bus_source source; /* first: the interface is cast back */
  gzFile file;
  char *path;
  size_t start;     /* the next line begins here in `buffer` */
  size_t searched;  /* no newline from `start` up to here */
  size_t filled;    /* the end of what was read */
  bool is_skipping; /* in the middle of a line that is too long */
  bool is_at_end;
  int failure; /* told when the lines before it have been given out */
  char *buffer;
};

/* Why zlib stopped; leaves the message. */
static int explain_failure(struct capture *capture)
{
  int zlib_code = Z_OK;
  const char *reason = gzerror(capture->file, &zlib_code);
  if (zlib_code == Z_OK)
    return BUS_OK;
  if (zlib_code == Z_ERRNO)
    return bus_error_set_errno("capture %s: read", capture->path);
  if (zlib_code == Z_BUF_ERROR)
    return bus_error_set(BUS_ERROR_FORMAT,
                         "capture %s: the gzip stream ends too early: the file is truncated; copy "
                         "it again, or salvage it with `gzip -dc FILE > PLAIN`",
                         capture->path);
  return bus_error_set(
      BUS_ERROR_FORMAT,
      "capture %s: damaged gzip data (%s): copy it again; `gzip -t FILE` checks it", capture->path,
      reason);
}

/* Moves the unfinished line to the front and reads on behind it. */
static void refill(struct capture *capture)
{
  size_t left = capture->filled - capture->start;
  memmove(capture->buffer, capture->buffer + capture->start, left);
  capture->searched -= capture->start;
  capture->start = 0;
  capture->filled = left;
  size_t room = BUFFER_BYTES - left;
  int got = gzread(capture->file, capture->buffer + left, (unsigned)room);
  if (got > 0)
    capture->filled += (size_t)got;
  if (got < 0 || (size_t)got < room) {
    capture->is_at_end = true;
    capture->failure = explain_failure(capture);
  }
}

/* Gives out the line that ends before `stop`; false when it is to be skipped. */
static bool take_line(struct capture *capture, size_t stop, const char **line, size_t *length)
{
  size_t start = capture->start;
  bool was_skipping = capture->is_skipping;
  capture->is_skipping = false;
  capture->start = stop < capture->filled ? stop + 1 : stop;
  capture->searched = capture->start;
  if (was_skipping || stop == start)
    return false;
  if (stop - start > BUS_SOURCE_CAPTURE_LINE_BYTES_MAX) {
    capture->source.oversize_lines++;
    return false;
  }
  *line = capture->buffer + start;
  *length = stop - start;
  return true;
}

/* What remains at the end of the file, which needs no newline. */
static int take_last(struct capture *capture, const char **line, size_t *length)
{
  if (capture->failure != BUS_OK) /* what is left of a cut line is no line */
    return explain_failure(capture);
  if (capture->start == capture->filled)
    return 0;
  return take_line(capture, capture->filled, line, length) ? 1 : 0;
}

static int capture_next(struct bus_source *source, const char **line, size_t *length)
{
  struct capture *capture = (struct capture *)source;
  for (;;) {
    const char *from = capture->buffer + capture->searched;
    const char *newline = memchr(from, '\n', capture->filled - capture->searched);
    if (newline != NULL) {
      if (take_line(capture, (size_t)(newline - capture->buffer), line, length))
        return 1;
      continue;
    }
    capture->searched = capture->filled;
    if (capture->is_at_end)
      return take_last(capture, line, length);
    if (capture->filled - capture->start > BUS_SOURCE_CAPTURE_LINE_BYTES_MAX) {
      if (!capture->is_skipping)
        source->oversize_lines++;
      capture->is_skipping = true;
      capture->start = capture->filled;
    }
    refill(capture);
  }
}

static uint64_t capture_consumed_bytes(struct bus_source *source)
{
  z_off_t offset = gzoffset(((struct capture *)source)->file);
  return offset > 0 ? (uint64_t)offset : 0;
}

static void capture_close(struct bus_source *source)
{
  struct capture *capture = (struct capture *)source;
  if (capture->file != NULL)
    gzclose_r(capture->file);
  free(capture->buffer);
  free(capture->path);
  free(capture);
}

static int start(struct capture *capture)
{
  struct stat status;
  errno = 0;
  capture->file = gzopen(capture->path, "rbe");
  if (capture->file == NULL) {
    if (errno == 0)
      errno = ENOMEM;
    return bus_error_set_errno("capture %s: open", capture->path);
  }
  if (gzbuffer(capture->file, ZLIB_BYTES) != 0)
    return bus_error_set(BUS_ERROR_NO_SPACE, "capture %s: no memory to read it", capture->path);
  if (stat(capture->path, &status) == 0 && S_ISREG(status.st_mode))
    capture->source.total_bytes = (uint64_t)status.st_size;
  explicit_bzero(capture->buffer, BUFFER_BYTES);
  refill(capture);
  if (capture->failure != BUS_OK && capture->filled == 0)
    return capture->failure;
  return BUS_OK;
}

struct bus_source *bus_source_capture_open(const char *path)
{
  struct capture *capture = calloc(1, sizeof *capture);
  if (capture == NULL) {
    bus_error_set_errno("capture %s: %zu bytes", path, sizeof *capture);
    return NULL;
  }
  capture->source.next = capture_next;
  capture->source.consumed_bytes = capture_consumed_bytes;
  capture->source.close = capture_close;
  capture->path = strdup(path);
  capture->buffer = malloc(BUFFER_BYTES);
  int code;
  if (capture->path == NULL || capture->buffer == NULL)
    code = bus_error_set_errno("capture %s: %zu bytes", path, BUFFER_BYTES);
  else
    code = start(capture);
  if (code != BUS_OK) {
    capture_close(&capture->source);
    return NULL;
  }
  return &capture->source;
}
