#include "tools/replay.h"

#include "tools/replay_export.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "Usage: bus-replay export --format FORMAT [OPTION].. CAPTURE NEW\n"
    "\n"
    "Writes the records for other programs: a file for each stream in the new directory.\n"
    "\n"
    "  --format FORMAT   csv, npy (a plain array, for numpy.load), or, by the Python package\n"
    "                    signalbus, arrow, parquet, mcap\n"
    "  --raw             csv: prices and sizes as the integers that they are, not as decimal\n"
    "                    numbers in the symbol's exponents\n" REPLAY_SELECT_HELP
    "  --help            this text\n"
    "\n"
    "NEW - with csv and one stream: standard output.\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing, 4 damage was found and named;\n"
    "what is whole was written.\n";

struct export
{
  struct bus_capture *capture;
  struct replay_selection selection;
  const struct replay_exporter *exporter;
  const char *directory;
  bool raw;
  struct replay_sheet *sheets; /* [streams] */
  uint64_t gaps;
  uint64_t records;
};

static int make_directory(const char *path)
{
  if (mkdir(path, 0750) == 0 || errno == EEXIST)
    return BUS_OK;
  return bus_error_set_errno("%s: cannot be made", path);
}

static int open_sheet(struct export *export, uint32_t index)
{
  struct replay_sheet *sheet = &export->sheets[index];
  sheet->capture = export->capture;
  sheet->stream = bus_capture_stream(export->capture, index);
  sheet->raw = export->raw;
  sheet->fields = replay_fields(sheet->stream->record_type, sheet->stream->record_size, sheet->room,
                                &sheet->field_count);
  if (!strcmp(export->directory, "-")) {
    sheet->file = stdout;
    snprintf(sheet->path, sizeof sheet->path, "standard output");
  } else {
    /* Two streams of one name differ in their records. */
    bool again = index > 0 &&
                 !strcmp(sheet->stream->name, bus_capture_stream(export->capture, index - 1)->name);
    char size[16] = "";
    if (again)
      snprintf(size, sizeof size, ".%" PRIu32, sheet->stream->record_size);
    snprintf(sheet->path, sizeof sheet->path, "%s/%s%s.%s", export->directory, sheet->stream->name,
             size, export->exporter->suffix);
    sheet->file = fopen(sheet->path, "wxe");
    if (!sheet->file)
      return bus_error_set_errno("%s: cannot be made", sheet->path);
    setvbuf(sheet->file, NULL, _IOFBF, (size_t)1 << 20);
  }
  return export->exporter->begin(sheet);
}

static int close_sheet(struct export *export, struct replay_sheet *sheet, int error)
{
  if (!sheet->file)
    return error;
  if (!error)
    error = export->exporter->end(sheet);
  export->records += sheet->records;
  bool failed = ferror(sheet->file) || fflush(sheet->file) != 0;
  if (failed && !error)
    error = bus_error_set_errno("%s: cannot be written", sheet->path);
  if (sheet->file != stdout && fclose(sheet->file) != 0 && !error)
    error = bus_error_set_errno("%s: cannot be written", sheet->path);
  sheet->file = NULL;
  return error;
}

static int export_events(struct export *export)
{
  struct replay_progress progress;
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  uint64_t done, total, events = 0;
  int status = bus_capture_merge_open(export->capture, &export->selection.range, &merge);
  replay_progress_begin(&progress, "export");
  while (!status && (status = bus_capture_merge_next(merge, &event)) == 1) {
    struct replay_sheet *sheet = &export->sheets[event.stream];
    status = BUS_OK;
    export->gaps += event.kind == BUS_CAPTURE_EVENT_GAP;
    if (event.kind == BUS_CAPTURE_EVENT_RECORD) {
      status = export->exporter->record(sheet, &event);
      sheet->records++;
    }
    if (++events % 65536 == 0) {
      bus_capture_merge_progress(merge, &done, &total);
      replay_progress_show(&progress, done, total);
    }
  }
  replay_progress_end(&progress);
  bus_capture_merge_close(merge);
  return status;
}

static int export_streams(struct export *export)
{
  uint32_t streams = bus_capture_stream_count(export->capture), wanted = 0;
  const bool *selected = export->selection.range.streams;
  bool to_stdout = !strcmp(export->directory, "-");
  for (uint32_t i = 0; i < streams; i++)
    wanted += !selected || selected[i];
  if (to_stdout && wanted != 1)
    return bus_error_set(BUS_ERROR_INVALID,
                         "%" PRIu32 " streams cannot go to standard output; choose one with "
                         "--stream, or name a directory",
                         wanted);
  export->sheets = calloc(streams ? streams : 1, sizeof *export->sheets);
  if (!export->sheets)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory");
  int error = to_stdout ? BUS_OK : make_directory(export->directory);
  for (uint32_t i = 0; i < streams && !error; i++)
    if (!selected || selected[i])
      error = open_sheet(export, i);
  if (!error)
    error = export_events(export);
  for (uint32_t i = 0; i < streams; i++)
    error = close_sheet(export, &export->sheets[i], error);
  free(export->sheets);
  if (!error && !to_stdout)
    printf("%" PRIu64 " records in %s\n", export->records, export->directory);
  return error;
}

static int export_main(struct export *export, const struct replay_select *select, const char *path)
{
  int status = replay_open("export", path, &export->capture);
  if (status)
    return status;
  int error = replay_select_resolve(select, export->capture, &export->selection);
  if (!error) {
    error = export_streams(export);
    replay_selection_free(&export->selection);
  }
  status = error ? replay_fail("export") : export->gaps ? REPLAY_GAPS : REPLAY_OK;
  return replay_close("export", export->capture, status);
}

int replay_export(int argc, char **argv)
{
  enum { FORMAT = REPLAY_OPTION_OWN, RAW };
  static const struct option options[] = {REPLAY_SELECT_OPTIONS,
                                          {"format", required_argument, NULL, FORMAT},
                                          {"raw", no_argument, NULL, RAW},
                                          {"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                          {NULL, 0, NULL, 0}};
  struct replay_select select = {0};
  struct export export = {.raw = false};
  const char *format = NULL;
  struct replay_line line = {"export", help, argc, argv, options, &select, false, 0};
  for (int option; (option = replay_line_next(&line)) != 0;) {
    if (option == FORMAT)
      format = optarg;
    else
      export.raw = true;
  }
  if (line.ended)
    return line.status;
  if (argc - optind != 2)
    return replay_usage_error("export", "give a capture and a new directory");
  if (!format)
    return replay_usage_error("export", "--format is missing: csv, npy, arrow, parquet or mcap");
  export.directory = argv[optind + 1];
  export.exporter = replay_exporter_find(format);
  if (export.exporter && (strcmp(export.directory, "-") != 0 || !strcmp(format, "csv")))
    return export_main(&export, &select, argv[optind]);
  if (export.exporter)
    return replay_usage_error("export", "only csv goes to standard output");
  if (!replay_export_is_python(format))
    return replay_usage_error("export", "no format '%s': csv, npy, arrow, parquet or mcap", format);
  return replay_export_by_python(format, &select, export.raw, argv[optind], export.directory);
}
