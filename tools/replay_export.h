/* replay_export.h: the formats of `bus-replay export`. */
#ifndef SIGNALBUS_REPLAY_EXPORT_H
#define SIGNALBUS_REPLAY_EXPORT_H

#include "consumers/capture_merge.h"
#include "tools/replay_fields.h"
#include "tools/replay_select.h"

#include <stdio.h>

/* One stream's file. */
struct replay_sheet {
  const struct bus_capture *capture;
  const struct bus_capture_stream *stream;
  char path[4096];
  FILE *file;
  bool raw;
  struct replay_field room[REPLAY_FIELDS_MAX];
  const struct replay_field *fields;
  size_t field_count;
  uint64_t records;
};

/* How a format is written. Each returns BUS_OK or a negative error with a message. */
struct replay_exporter {
  const char *format;
  const char *suffix;
  int (*begin)(struct replay_sheet *sheet);
  int (*record)(struct replay_sheet *sheet, const struct bus_capture_event *event);
  int (*end)(struct replay_sheet *sheet); /* sheet->records are written */
};

extern const struct replay_exporter replay_exporter_csv;
extern const struct replay_exporter replay_exporter_npy;

/* NULL: this program does not write that format. */
const struct replay_exporter *replay_exporter_find(const char *format);

/* True when the Python package writes that format. */
bool replay_export_is_python(const char *format);

/* Runs `python3 -m signalbus.export` (or $SIGNAL_BUS_PYTHON's) in place of this program; returns an
 * enum replay_exit only when that cannot be. */
int replay_export_by_python(const char *format, const struct replay_select *select, bool raw,
                            const char *capture, const char *directory);

#endif
