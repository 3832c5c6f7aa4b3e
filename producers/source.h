/* source.h: where a feed's lines come from: one line is `<receive time in ns> <JSON>`. */
#ifndef SIGNALBUS_SOURCE_H
#define SIGNALBUS_SOURCE_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

/* Each kind of source puts this first in its own struct. One thread uses a source. */
struct bus_source {
  /* Points `*line` at the next line, without its newline and not NUL-terminated; valid until the
   * next call. Returns 1, 0 at the end, or a negative enum bus_error with a message. Does not
   * allocate. */
  int (*next)(struct bus_source *source, const char **line, size_t *length);
  /* Bytes of the input used up so far, and of all of it (0 when it has no end). May call the
   * kernel: for progress reports, not for every line. */
  uint64_t (*consumed_bytes)(struct bus_source *source);
  uint64_t total_bytes;
  uint64_t oversize_lines; /* lines beyond the limit, skipped */
  void (*close)(struct bus_source *source);
};

/* See `next` in the struct. */
static inline int bus_source_next(struct bus_source *source, const char **line, size_t *length)
{
  return source->next(source, line, length);
}

/* Closes and frees the source, whatever its kind. NULL is allowed. */
static inline void bus_source_close(struct bus_source *source)
{
  if (source != NULL)
    source->close(source);
}

BUS_END_DECLARATIONS

#endif
