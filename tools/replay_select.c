#include "tools/replay_select.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SYMBOLS 65536u

int replay_select_take(struct replay_select *select, int option, const char *value)
{
  switch (option) {
  case REPLAY_OPTION_FROM:
    select->from = value;
    return 1;
  case REPLAY_OPTION_UNTIL:
    select->until = value;
    return 1;
  case REPLAY_OPTION_STREAM:
    if (select->stream_count == REPLAY_SELECT_NAMES_MAX)
      return bus_error_set(BUS_ERROR_INVALID, "--stream: at most %u", REPLAY_SELECT_NAMES_MAX);
    select->streams[select->stream_count++] = value;
    return 1;
  case REPLAY_OPTION_SYMBOL:
    if (select->symbol_count == REPLAY_SELECT_NAMES_MAX)
      return bus_error_set(BUS_ERROR_INVALID, "--symbol: at most %u", REPLAY_SELECT_NAMES_MAX);
    select->symbols[select->symbol_count++] = value;
    return 1;
  default:
    return 0;
  }
}

/* ---- points ---- */

bool replay_parse_duration(const char *text, uint64_t *ns)
{
  static const struct {
    const char *name;
    double ns;
  } units[] = {{"ns", 1},   {"us", 1e3},   {"ms", 1e6}, {"s", 1e9},
               {"m", 60e9}, {"h", 3600e9}, {"", 1e9}};
  char *end;
  if (!isdigit((unsigned char)*text) && *text != '.')
    return false;
  double value = strtod(text, &end);
  for (size_t i = 0; i < BUS_COUNT_OF(units); i++)
    if (!strcmp(end, units[i].name) && value * units[i].ns < 9e18) {
      *ns = (uint64_t)(value * units[i].ns + 0.5);
      return true;
    }
  return false;
}

/* "2026-11-24T18:00:00[.frac]Z" to ns since 1970. */
static bool parse_date(const char *text, int64_t *ns)
{
  struct tm parts = {0};
  const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &parts);
  if (!rest)
    rest = strptime(text, "%Y-%m-%d %H:%M:%S", &parts);
  if (!rest)
    return false;
  int64_t fraction = 0, unit = 100000000;
  if (*rest == '.')
    for (rest++; isdigit((unsigned char)*rest); rest++, unit /= 10)
      fraction += (*rest - '0') * unit;
  if (strcmp(rest, "Z") != 0 && *rest)
    return false;
  *ns = (int64_t)timegm(&parts) * 1000000000 + fraction;
  return true;
}

static bool parse_number(const char *text, uint64_t *value)
{
  char *end;
  errno = 0;
  *value = strtoull(text, &end, 10);
  return isdigit((unsigned char)*text) && !*end && errno == 0;
}

static int parse_point(const char *option, const char *text, const struct bus_capture *capture,
                       uint64_t *time_ns, uint64_t *position)
{
  uint64_t first_ns, last_ns, ns;
  int64_t offset_ns, date_ns;
  bus_capture_times(capture, &first_ns, &last_ns, &offset_ns);
  if (!strncmp(text, "seq:", 4) && parse_number(text + 4, position))
    return BUS_OK;
  if (*text == '+' && replay_parse_duration(text + 1, &ns)) {
    *time_ns = first_ns + ns;
    return BUS_OK;
  }
  if (*text == '-' && replay_parse_duration(text + 1, &ns)) {
    /* As far before the end, so that -0s still holds the last record. */
    *time_ns = last_ns > ns ? last_ns - ns : 0;
    return BUS_OK;
  }
  if (parse_number(text, time_ns))
    return BUS_OK;
  if (!parse_date(text, &date_ns))
    return bus_error_set(BUS_ERROR_INVALID,
                         "%s '%s': use seq:N, +5s, -5s, 2026-11-24T18:00:00Z or nanoseconds of the "
                         "bus clock",
                         option, text);
  if (offset_ns == 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "%s '%s': this capture does not say what time of day it was; use +5s or "
                         "nanoseconds of the bus clock",
                         option, text);
  *time_ns = date_ns > offset_ns ? (uint64_t)(date_ns - offset_ns) : 0;
  return BUS_OK;
}

/* ---- names ---- */

static bool wants(void *context, uint32_t stream, const void *record)
{
  const struct replay_selection *selection = context;
  if (selection->symbols[stream]) {
    struct bus_feature feature;
    memcpy(&feature, record, sizeof feature);
    return selection->symbols[stream][feature.symbol];
  }
  if (selection->inputs[stream]) {
    struct bus_signal signal;
    memcpy(&signal, record, sizeof signal);
    int32_t input = selection->inputs[stream][signal.source];
    return input >= 0 && selection->symbols[input] && selection->symbols[input][signal.symbol];
  }
  return true;
}

static bool is_feature(const struct bus_capture_stream *stream)
{
  return stream->record_type == BUS_RECORD_FEATURE &&
         stream->record_size == sizeof(struct bus_feature);
}

static bool is_signal(const struct bus_capture_stream *stream)
{
  return stream->record_type == BUS_RECORD_SIGNAL &&
         stream->record_size == sizeof(struct bus_signal);
}

static int resolve_stream_symbols(const struct replay_select *select,
                                  const struct bus_capture *capture, uint32_t index,
                                  struct replay_selection *selection, bool *found)
{
  const struct bus_capture_stream *stream = bus_capture_stream(capture, index);
  struct bus_symbol symbol;
  if (is_feature(stream)) {
    uint8_t *wanted = selection->symbols[index] = calloc(SYMBOLS, 1);
    for (uint32_t i = 0; wanted && i < SYMBOLS; i++) {
      if (i >= json_array_size(json_object_get(stream->meta, "symbols")))
        break;
      bool known = bus_capture_symbol(stream, i, &symbol) == BUS_OK;
      for (size_t j = 0; known && j < select->symbol_count; j++)
        if (!strcmp(symbol.name, select->symbols[j]))
          wanted[i] = found[j] = true;
    }
    return wanted ? BUS_OK : BUS_ERROR_NO_SPACE;
  }
  if (is_signal(stream)) {
    int32_t *inputs = selection->inputs[index] = calloc(SYMBOLS, sizeof *inputs);
    for (uint32_t i = 0; inputs && i < SYMBOLS; i++)
      inputs[i] = i < json_array_size(json_object_get(stream->meta, "inputs"))
                      ? bus_capture_input(capture, stream, i)
                      : -1;
    return inputs ? BUS_OK : BUS_ERROR_NO_SPACE;
  }
  return BUS_OK;
}

static int resolve_symbols(const struct replay_select *select, const struct bus_capture *capture,
                           struct replay_selection *selection)
{
  bool found[REPLAY_SELECT_NAMES_MAX] = {false};
  for (uint32_t i = 0; i < selection->stream_count; i++)
    if (resolve_stream_symbols(select, capture, i, selection, found) != BUS_OK)
      return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for symbols");
  for (size_t i = 0; i < select->symbol_count; i++)
    if (!found[i])
      return bus_error_set(BUS_ERROR_ABSENT,
                           "--symbol %s: no stream of features has that symbol; bus-replay info "
                           "lists them",
                           select->symbols[i]);
  selection->range.wants = wants;
  selection->range.context = selection;
  return BUS_OK;
}

static int resolve_streams(const struct replay_select *select, const struct bus_capture *capture,
                           struct replay_selection *selection)
{
  for (size_t i = 0; i < select->stream_count; i++) {
    int index = bus_capture_find_stream(capture, select->streams[i]);
    if (index < 0)
      return bus_error_context(index, "--stream");
    /* Streams of one name, where the records changed their size, belong together. */
    const char *name = bus_capture_stream(capture, (uint32_t)index)->name;
    for (uint32_t j = 0; j < selection->stream_count; j++)
      if (!strcmp(bus_capture_stream(capture, j)->name, name))
        selection->streams[j] = true;
  }
  selection->range.streams = selection->streams;
  return BUS_OK;
}

int replay_select_resolve(const struct replay_select *select, const struct bus_capture *capture,
                          struct replay_selection *selection)
{
  static const struct bus_capture_range all = BUS_CAPTURE_RANGE_ALL;
  uint32_t count = bus_capture_stream_count(capture);
  size_t room = count ? count : 1;
  memset(selection, 0, sizeof *selection);
  selection->range = all;
  selection->stream_count = count;
  selection->everything =
      !select->from && !select->until && !select->stream_count && !select->symbol_count;
  selection->streams = calloc(room, sizeof *selection->streams);
  selection->symbols = calloc(room, sizeof *selection->symbols);
  selection->inputs = calloc(room, sizeof *selection->inputs);
  int error = BUS_OK;
  if (!selection->streams || !selection->symbols || !selection->inputs)
    error = bus_error_set(BUS_ERROR_NO_SPACE, "no memory for %u streams", count);
  if (!error && select->from)
    error = parse_point("--from", select->from, capture, &selection->range.from_ns,
                        &selection->range.from_position);
  if (!error && select->until)
    error = parse_point("--until", select->until, capture, &selection->range.until_ns,
                        &selection->range.until_position);
  if (!error && select->stream_count)
    error = resolve_streams(select, capture, selection);
  if (!error && select->symbol_count)
    error = resolve_symbols(select, capture, selection);
  if (error)
    replay_selection_free(selection);
  return error;
}

void replay_selection_free(struct replay_selection *selection)
{
  for (uint32_t i = 0; i < selection->stream_count; i++) {
    if (selection->symbols)
      free(selection->symbols[i]);
    if (selection->inputs)
      free(selection->inputs[i]);
  }
  free(selection->symbols);
  free(selection->inputs);
  free(selection->streams);
  memset(selection, 0, sizeof *selection);
}
