#include "tools/replay.h"

#include "shm/clock.h"
#include "tools/busctl.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DAMAGES_SHOWN    20u
#define PROGRESS_STEP_NS 100000000u

int replay_usage_error(const char *verb, const char *format, ...)
{
  char text[1024], clean[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  busctl_sanitise(clean, sizeof clean, text, sizeof text);
  fprintf(stderr, "bus-replay %s: %s (see: bus-replay %s --help)\n", verb, clean, verb);
  return REPLAY_USAGE;
}

static int end_line(struct replay_line *line, int status)
{
  line->ended = true;
  line->status = status;
  return 0;
}

int replay_line_next(struct replay_line *line)
{
  while (!line->ended) {
    int option = getopt_long(line->argc, line->argv, "h", line->options, NULL);
    if (option == -1)
      return 0;
    if (option == '?') /* getopt has said what is wrong */
      return end_line(line, REPLAY_USAGE);
    if (option == REPLAY_OPTION_HELP) {
      fputs(line->help, stdout);
      return end_line(line, REPLAY_OK);
    }
    int taken = line->select ? replay_select_take(line->select, option, optarg) : 0;
    if (taken < 0)
      return end_line(line, replay_usage_error(line->verb, "%s", bus_error_message()));
    if (taken == 0)
      return option;
  }
  return 0;
}

int replay_fail(const char *verb)
{
  char text[1024];
  busctl_sanitise(text, sizeof text, bus_error_message(), sizeof text);
  fprintf(stderr, "bus-replay %s: %s\n", verb, text);
  return REPLAY_FAILED;
}

int replay_open(const char *verb, const char *path, struct bus_capture **capture)
{
  return bus_capture_open(path, capture) == BUS_OK ? REPLAY_OK : replay_fail(verb);
}

int replay_worse(int a, int b)
{
  static const int ranks[] = {[REPLAY_OK] = 0,   [REPLAY_FAILED] = 4,  [REPLAY_USAGE] = 5,
                              [REPLAY_GAPS] = 1, [REPLAY_CORRUPT] = 3, [REPLAY_LOST] = 2};
  return ranks[a] >= ranks[b] ? a : b;
}

int replay_close(const char *verb, struct bus_capture *capture, int status)
{
  uint64_t count = bus_capture_damage_count(capture);
  const struct bus_capture_damage *damage;
  for (uint64_t i = 0; i < DAMAGES_SHOWN && (damage = bus_capture_damage(capture, i)) != NULL;
       i++) {
    char path[512], what[sizeof damage->what], place[48] = "";
    if (damage->block != BUS_CAPTURE_NO_BLOCK)
      snprintf(place, sizeof place, "block %" PRIu64 ", ", damage->block);
    fprintf(stderr, "bus-replay %s: damaged: %s: %sbyte %" PRIu64 ": %s\n", verb,
            busctl_sanitise(path, sizeof path, damage->path ? damage->path : "?",
                            damage->path ? strlen(damage->path) : 1),
            place, damage->offset, busctl_sanitise(what, sizeof what, damage->what, sizeof what));
  }
  if (count > DAMAGES_SHOWN)
    fprintf(stderr, "bus-replay %s: damaged: %" PRIu64 " more places\n", verb,
            count - DAMAGES_SHOWN);
  if (count && strcmp(verb, "recover") != 0)
    fprintf(stderr, "bus-replay %s: `bus-replay recover %s NEW` saves what is whole\n", verb,
            bus_capture_path(capture));
  bus_capture_close(capture);
  return count ? replay_worse(status, REPLAY_CORRUPT) : status;
}

/* ---- JSON ---- */

void replay_json_set(json_t *object, const char *key, json_t *value)
{
  if (json_object_set_new(object, key, value) != 0) {
    fputs("bus-replay: out of memory\n", stderr);
    exit(REPLAY_FAILED);
  }
}

json_t *replay_json_u64(uint64_t value)
{
  char text[24];
  if (value <= (uint64_t)1 << 53)
    return json_integer((json_int_t)value);
  snprintf(text, sizeof text, "%" PRIu64, value);
  return json_string(text);
}

json_t *replay_json_text(const char *text)
{
  char clean[4096];
  return json_string(busctl_sanitise(clean, sizeof clean, text, strlen(text)));
}

int replay_json_print(const char *verb, json_t *object)
{
  int error = json_dumpf(object, stdout, JSON_INDENT(2));
  json_decref(object);
  if (error || putchar('\n') == EOF || fflush(stdout) != 0) {
    fprintf(stderr, "bus-replay %s: standard output cannot be written\n", verb);
    return REPLAY_FAILED;
  }
  return REPLAY_OK;
}

json_t *replay_json_damages(const struct bus_capture *capture)
{
  json_t *array = json_array();
  const struct bus_capture_damage *damage;
  for (uint64_t i = 0; (damage = bus_capture_damage(capture, i)) != NULL; i++) {
    json_t *object = json_object();
    replay_json_set(object, "path", replay_json_text(damage->path ? damage->path : "?"));
    replay_json_set(object, "block",
                    damage->block == BUS_CAPTURE_NO_BLOCK ? json_null()
                                                          : replay_json_u64(damage->block));
    replay_json_set(object, "offset_bytes", replay_json_u64(damage->offset));
    replay_json_set(object, "what", replay_json_text(damage->what));
    json_array_append_new(array, object);
  }
  return array;
}

char *replay_time_text(char *text, uint64_t time_ns, int64_t realtime_offset_ns)
{
  int64_t realtime_ns = (int64_t)(time_ns + (uint64_t)realtime_offset_ns);
  time_t seconds = (time_t)(realtime_ns / 1000000000);
  struct tm parts;
  if (time_ns == 0 || realtime_offset_ns == 0 || realtime_ns < 0 || !gmtime_r(&seconds, &parts)) {
    snprintf(text, 40, "%" PRIu64 " ns", time_ns);
    return text;
  }
  size_t length = strftime(text, 40, "%Y-%m-%dT%H:%M:%S", &parts);
  snprintf(text + length, 40 - length, ".%09dZ", (int)(realtime_ns % 1000000000));
  return text;
}

/* ---- progress ---- */

void replay_progress_begin(struct replay_progress *progress, const char *what)
{
  progress->what = what;
  progress->begun_ns = isatty(STDERR_FILENO) ? bus_clock_monotonic_ns() : 0;
  progress->shown_ns = progress->begun_ns;
}

void replay_progress_show(struct replay_progress *progress, uint64_t done, uint64_t total)
{
  if (!progress->begun_ns)
    return;
  uint64_t now_ns = bus_clock_monotonic_ns();
  if (now_ns - progress->shown_ns < PROGRESS_STEP_NS)
    return;
  progress->shown_ns = now_ns;
  double share = total ? (double)done / (double)total : 0;
  double seconds = (double)(now_ns - progress->begun_ns) / 1e9;
  char bar[31];
  memset(bar, '.', sizeof bar - 1);
  memset(bar, '#', (size_t)(share < 1 ? share * (sizeof bar - 1) : sizeof bar - 1));
  bar[sizeof bar - 1] = '\0';
  fprintf(stderr, "\r%s [%s] %3.0f %%, %.1f MB/s, %.0f s left \033[K", progress->what, bar,
          100 * share, (double)done / 1e6 / seconds,
          share > 0 ? seconds * (1 - share) / share : 0.0);
}

void replay_progress_end(struct replay_progress *progress)
{
  if (progress->begun_ns && progress->shown_ns != progress->begun_ns)
    fputs("\r\033[K", stderr);
  progress->begun_ns = 0;
}
