#include "tools/replay.h"

#include "tools/replay_export.h"

#include <inttypes.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <unistd.h>

#define NPY_HEADER_BYTES 2048u

/* ---- csv: RFC 4180, a row for each record ---- */

static int begin_csv(struct replay_sheet *sheet)
{
  fputs("position,replay_time_ns", sheet->file);
  for (size_t i = 0; i < sheet->field_count; i++) {
    const struct replay_field *field = &sheet->fields[i];
    if (!replay_field_is_number(field) || field->count == 1)
      fprintf(sheet->file, ",%s", field->name);
    else
      for (uint32_t j = 0; j < field->count; j++)
        fprintf(sheet->file, ",%s_%" PRIu32, field->name, j);
    /* The name beside the number, where there is a table of them. */
    if (!strcmp(field->name, "symbol"))
      fputs(",symbol_name", sheet->file);
  }
  fputc('\n', sheet->file);
  return BUS_OK;
}

/* The symbol of a feature or a signal: BUS_OK or BUS_ERROR_ABSENT. */
static int find_symbol(const struct replay_sheet *sheet, const void *record,
                       struct bus_symbol *symbol)
{
  const struct bus_capture_stream *stream = sheet->stream;
  if (stream->record_type == BUS_RECORD_FEATURE &&
      stream->record_size == sizeof(struct bus_feature)) {
    struct bus_feature feature;
    memcpy(&feature, record, sizeof feature);
    return bus_capture_symbol(stream, feature.symbol, symbol);
  }
  if (stream->record_type == BUS_RECORD_SIGNAL &&
      stream->record_size == sizeof(struct bus_signal)) {
    struct bus_signal signal;
    memcpy(&signal, record, sizeof signal);
    int input = bus_capture_input(sheet->capture, stream, signal.source);
    return input < 0 ? input
                     : bus_capture_symbol(bus_capture_stream(sheet->capture, (uint32_t)input),
                                          signal.symbol, symbol);
  }
  return BUS_ERROR_ABSENT;
}

static void print_bytes(FILE *file, const unsigned char *bytes, uint32_t count)
{
  for (uint32_t i = 0; i < count; i++)
    fprintf(file, "%02x", bytes[i]);
}

/* Text of an exchange that may hold anything. */
static void print_quoted(FILE *file, const char *text)
{
  fputc('"', file);
  for (; *text; text++) {
    if (*text == '"')
      fputc('"', file);
    fputc(*text, file);
  }
  fputc('"', file);
}

/* Length of the UTF-8 character at the beginning of `size` bytes that may be printed as it is; 0:
 * it is none, or a control character but line feed and tab. */
static uint32_t printable(const unsigned char *text, uint32_t size)
{
  uint32_t length = text[0] < 0x80   ? 1
                    : text[0] < 0xc2 ? 0
                    : text[0] < 0xe0 ? 2
                    : text[0] < 0xf0 ? 3
                    : text[0] < 0xf5 ? 4
                                     : 0;
  if (length == 1)
    return (text[0] >= 0x20 && text[0] != 0x7f) || text[0] == '\n' || text[0] == '\t';
  for (uint32_t i = 1; i < length; i++)
    if (i >= size || (text[i] & 0xc0) != 0x80)
      return 0;
  return length;
}

/* Text of a message, or half a character of it, or an embedding: what is not printable as \xNN, and
 * a backslash as two, so that the bytes come back. */
static void print_escaped(FILE *file, const char *text, uint32_t size)
{
  const unsigned char *at = (const unsigned char *)text;
  fputc('"', file);
  for (uint32_t i = 0; i < size;) {
    uint32_t length = printable(at + i, size - i);
    if (length == 0)
      fprintf(file, "\\x%02x", at[i]);
    else if (at[i] == '"' || at[i] == '\\')
      fprintf(file, "%c%c", at[i], at[i]);
    else
      fwrite(at + i, 1, length, file);
    i += length ? length : 1;
  }
  fputc('"', file);
}

static void print_text(const struct replay_sheet *sheet, const struct replay_field *field,
                       const void *record)
{
  uint32_t size;
  const char *text = replay_field_text(field, sheet->stream->record_type,
                                       sheet->stream->record_size, record, &size);
  print_escaped(sheet->file, text, size);
}

static int record_csv(struct replay_sheet *sheet, const struct bus_capture_event *event)
{
  char text[REPLAY_FIELD_TEXT_BYTES];
  struct bus_symbol symbol;
  bool known = find_symbol(sheet, event->record, &symbol) == BUS_OK;
  fprintf(sheet->file, "%" PRIu64 ",%" PRIu64, event->position, event->time_ns);
  for (size_t i = 0; i < sheet->field_count; i++) {
    const struct replay_field *field = &sheet->fields[i];
    if (field->kind == REPLAY_FIELD_BYTES) {
      fputc(',', sheet->file);
      print_bytes(sheet->file, (const unsigned char *)event->record + field->offset, field->count);
      continue;
    }
    if (!replay_field_is_number(field)) {
      fputc(',', sheet->file);
      print_text(sheet, field, event->record);
      continue;
    }
    for (uint32_t j = 0; j < field->count; j++) {
      size_t length =
          replay_field_print(field, j, event->record, known && !sheet->raw ? &symbol : NULL, text);
      fputc(',', sheet->file);
      fwrite(text, 1, length, sheet->file);
    }
    if (strcmp(field->name, "symbol") != 0)
      continue;
    fputc(',', sheet->file);
    if (known)
      print_quoted(sheet->file, symbol.name);
  }
  if (fputc('\n', sheet->file) == EOF)
    return bus_error_set_errno("%s: cannot be written", sheet->path);
  return BUS_OK;
}

static int end_csv(struct replay_sheet *sheet)
{
  (void)sheet;
  return BUS_OK;
}

const struct replay_exporter replay_exporter_csv = {"csv", "csv", begin_csv, record_csv, end_csv};

/* ---- npy: the records as they are, one behind the other ---- */

static int write_npy_header(struct replay_sheet *sheet)
{
  char header[NPY_HEADER_BYTES], *at = header + 10;
  const char *end = header + sizeof header;
  memset(header, ' ', sizeof header);
  memcpy(header, "\x93NUMPY\x01\x00", 8);
  header[8] = (char)((NPY_HEADER_BYTES - 10) & 0xff);
  header[9] = (char)((NPY_HEADER_BYTES - 10) >> 8);
  at += snprintf(at, (size_t)(end - at), "{'descr': [");
  for (size_t i = 0; i < sheet->field_count; i++) {
    const struct replay_field *field = &sheet->fields[i];
    const char *type = replay_field_numpy(field->kind);
    if (!replay_field_is_number(field))
      at += snprintf(at, (size_t)(end - at), "('%s', '%s%" PRIu32 "'), ", field->name, type,
                     field->count);
    else if (field->count > 1)
      at += snprintf(at, (size_t)(end - at), "('%s', '%s', (%" PRIu32 ",)), ", field->name, type,
                     field->count);
    else
      at += snprintf(at, (size_t)(end - at), "('%s', '%s'), ", field->name, type);
  }
  at += snprintf(at, (size_t)(end - at),
                 "('stamp', '<u8')], 'fortran_order': False, 'shape': (%" PRIu64 ",), }",
                 sheet->records);
  *at = ' '; /* the NUL */
  header[sizeof header - 1] = '\n';
  if (fwrite(header, 1, sizeof header, sheet->file) != sizeof header)
    return bus_error_set_errno("%s: cannot be written", sheet->path);
  return BUS_OK;
}

static int record_npy(struct replay_sheet *sheet, const struct bus_capture_event *event)
{
  if (fwrite(event->record, sheet->stream->record_size, 1, sheet->file) != 1)
    return bus_error_set_errno("%s: cannot be written", sheet->path);
  return BUS_OK;
}

/* Now the number of records is known. */
static int end_npy(struct replay_sheet *sheet)
{
  if (fseek(sheet->file, 0, SEEK_SET) != 0)
    return bus_error_set_errno("%s: cannot be written", sheet->path);
  return write_npy_header(sheet);
}

const struct replay_exporter replay_exporter_npy = {"npy", "npy", write_npy_header, record_npy,
                                                    end_npy};

const struct replay_exporter *replay_exporter_find(const char *format)
{
  static const struct replay_exporter *const exporters[] = {&replay_exporter_csv,
                                                            &replay_exporter_npy};
  for (size_t i = 0; i < BUS_COUNT_OF(exporters); i++)
    if (!strcmp(exporters[i]->format, format))
      return exporters[i];
  return NULL;
}

/* ---- the Python package ---- */

bool replay_export_is_python(const char *format)
{
  return !strcmp(format, "arrow") || !strcmp(format, "parquet") || !strcmp(format, "mcap");
}

/* True when that Python can import the exporter. */
static bool has_package(const char *python)
{
  static const char *const probe =
      "import importlib.util as u, sys; "
      "sys.exit(0 if u.find_spec('signalbus') and u.find_spec('signalbus.export') else 1)";
  const char *arguments[] = {python, "-c", probe, NULL};
  posix_spawn_file_actions_t actions;
  pid_t pid;
  int status = 1;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
  if (posix_spawnp(&pid, python, &actions, NULL, (char *const *)(uintptr_t)arguments, environ) == 0)
    waitpid(pid, &status, 0);
  posix_spawn_file_actions_destroy(&actions);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

int replay_export_by_python(const char *format, const struct replay_select *select, bool raw,
                            const char *capture, const char *directory)
{
  const char *arguments[16 + 4 * REPLAY_SELECT_NAMES_MAX];
  const char *python = getenv("SIGNAL_BUS_PYTHON");
  size_t count = 0;
  python = python && *python ? python : "python3";
  if (!has_package(python)) {
    fprintf(stderr,
            "bus-replay export: --format %s needs the Python package signalbus, which %s has not; "
            "from the source directory:\n"
            "  python3 -m venv VENV && VENV/bin/pip install './tools/python[export]'\n"
            "and then: SIGNAL_BUS_PYTHON=VENV/bin/python bus-replay export ..\n",
            format, python);
    return REPLAY_FAILED;
  }
  const char *const fixed[] = {python, "-m", "signalbus.export", "--format", format};
  for (size_t i = 0; i < BUS_COUNT_OF(fixed); i++)
    arguments[count++] = fixed[i];
  if (raw)
    arguments[count++] = "--raw";
  if (select->from) {
    arguments[count++] = "--from";
    arguments[count++] = select->from;
  }
  if (select->until) {
    arguments[count++] = "--until";
    arguments[count++] = select->until;
  }
  for (size_t i = 0; i < select->stream_count; i++) {
    arguments[count++] = "--stream";
    arguments[count++] = select->streams[i];
  }
  for (size_t i = 0; i < select->symbol_count; i++) {
    arguments[count++] = "--symbol";
    arguments[count++] = select->symbols[i];
  }
  arguments[count++] = capture;
  arguments[count++] = directory;
  arguments[count] = NULL;
  execvp(python, (char *const *)(uintptr_t)arguments);
  perror("bus-replay export: python3");
  return REPLAY_FAILED;
}
