/* source_capture.h: lines from a capture file, plain or gzip. */
#ifndef SIGNALBUS_SOURCE_CAPTURE_H
#define SIGNALBUS_SOURCE_CAPTURE_H

#include "producers/source.h"

BUS_BEGIN_DECLARATIONS

#define BUS_SOURCE_CAPTURE_LINE_BYTES_MAX ((size_t)512 << 10)

/* Opens `path` and reads its first part, so that what zlib allocates is allocated now. Lines longer
 * than BUS_SOURCE_CAPTURE_LINE_BYTES_MAX are skipped and counted; empty lines are skipped.
 *
 * Returns NULL with a message when the file is absent, may not be read, or is damaged at its
 * start. Later damage (a truncated or corrupt gzip stream) makes next() return BUS_ERROR_FORMAT,
 * after the whole lines before it. bus_source_close() closes it. */
struct bus_source *bus_source_capture_open(const char *path);

BUS_END_DECLARATIONS

#endif
