#include "tools/replay.h"

#include "tools/replay_player.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RENAMES_MAX 64u

static const char help[] =
    "Usage: bus-replay play [OPTION].. CAPTURE\n"
    "\n"
    "Puts the records of a capture back on a bus: a member for each that was recorded, with the "
    "same\n"
    "rings, consumers, positions and symbol tables, so that consumers read it as the original.\n"
    "Streams of gap records are left out unless --stream names them.\n"
    "\n"
    "what\n" REPLAY_SELECT_HELP "how fast\n"
    "  --speed X         as recorded (1, the default), 10 ten times as fast; 0.001 to 1000000\n"
    "  --max             as fast as it goes\n"
    "  --lockstep        each record when reliable consumers have taken the one before\n"
    "  --step            by lines on standard input: empty for a record, a number, or q to end\n"
    "  --loop N          plays it N times; 0: without end (default 1)\n"
    "  --shift-now       timestamps in the records become those of now, moved by one constant\n"
    "where to\n"
    "  --bus DIR         the bus (default $SIGNAL_BUS, else /dev/shm/signals)\n"
    "  --as MEMBER=NAME  a recorded member under another name; repeatable\n"
    "  --consumer WHICH  wait: for the recorded reliable consumers (default); none: for nobody,\n"
    "                    every ring overwrites its oldest records\n"
    "  --consumer-timeout S\n"
    "                    gives up when a consumer that is waited for is away for S seconds\n"
    "                    (default 0: waits for ever)\n"
    "  --core N          pin to core N (default: not pinned)\n"
    "  --numa-node N     place the members' files on node N\n"
    "  --mode OCTAL      mode of the members' files (default 0640)\n"
    "  --small-pages     do not ask for huge pages\n"
    "other\n"
    "  --json            what came out of it as one JSON object\n"
    "  --help            this text\n"
    "\n"
    "Exit status: 0 played or stopped, 1 failed, 2 usage, 3 the capture has gaps, 4 it is "
    "damaged,\n"
    "5 a consumer did not come back. Gaps and damage are named, the rest is played.\n";

enum {
  OPTION_SPEED = REPLAY_OPTION_OWN,
  OPTION_MAX,
  OPTION_LOCKSTEP,
  OPTION_STEP,
  OPTION_LOOP,
  OPTION_SHIFT,
  OPTION_AS,
  OPTION_CONSUMER,
  OPTION_TIMEOUT,
  OPTION_JSON
};

static const struct option options[] = {
    REPLAY_SELECT_OPTIONS,
    {"speed", required_argument, NULL, OPTION_SPEED},
    {"max", no_argument, NULL, OPTION_MAX},
    {"lockstep", no_argument, NULL, OPTION_LOCKSTEP},
    {"step", no_argument, NULL, OPTION_STEP},
    {"loop", required_argument, NULL, OPTION_LOOP},
    {"shift-now", no_argument, NULL, OPTION_SHIFT},
    {"bus", required_argument, NULL, BUS_OPTION_BUS},
    {"as", required_argument, NULL, OPTION_AS},
    {"consumer", required_argument, NULL, OPTION_CONSUMER},
    {"consumer-timeout", required_argument, NULL, OPTION_TIMEOUT},
    {"core", required_argument, NULL, BUS_OPTION_CORE},
    {"numa-node", required_argument, NULL, BUS_OPTION_NUMA_NODE},
    {"mode", required_argument, NULL, BUS_OPTION_MODE},
    {"small-pages", no_argument, NULL, BUS_OPTION_SMALL_PAGES},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, REPLAY_OPTION_HELP},
    {NULL, 0, NULL, 0}};

struct rename {
  char from[BUS_NAME_BYTES];
  const char *to;
  bool used;
};

struct arguments {
  struct replay_player_config config;
  struct replay_select select;
  struct rename renames[RENAMES_MAX];
  size_t rename_count;
  bool paced; /* how fast was said */
  bool as_json;
  const char *path;
};

static int take_number(const char *text, double minimum, double maximum, const char *what,
                       double *value)
{
  char *end;
  double parsed = strtod(text, &end);
  if (end == text || *end || !isfinite(parsed) || parsed < minimum || parsed > maximum)
    return bus_error_set(BUS_ERROR_INVALID, "%s '%s': use %g to %g", what, text, minimum, maximum);
  *value = parsed;
  return BUS_OK;
}

static int take_pace(struct arguments *arguments, enum replay_pace pace)
{
  if (arguments->paced)
    return bus_error_set(BUS_ERROR_INVALID,
                         "use one of --speed, --max, --lockstep and --step, once");
  arguments->paced = true;
  arguments->config.pace = pace;
  return BUS_OK;
}

static int take_rename(struct arguments *arguments, const char *text)
{
  const char *to = strchr(text, '=');
  size_t length = to ? (size_t)(to - text) : 0;
  if (length == 0 || length >= BUS_NAME_BYTES || !bus_layout_name_is_valid(to + 1))
    return bus_error_set(BUS_ERROR_INVALID,
                         "--as '%s': use MEMBER=NAME, names of 1 to 31 of A-Za-z0-9._-", text);
  if (arguments->rename_count == RENAMES_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "--as: more than %u names", RENAMES_MAX);
  struct rename *rename = &arguments->renames[arguments->rename_count++];
  memcpy(rename->from, text, length);
  rename->to = to + 1;
  return BUS_OK;
}

static int take_consumer(struct arguments *arguments, const char *text)
{
  arguments->config.no_consumer = !strcmp(text, "none");
  if (!arguments->config.no_consumer && strcmp(text, "wait") != 0)
    return bus_error_set(BUS_ERROR_INVALID, "--consumer '%s': use wait or none", text);
  return BUS_OK;
}

static int take_option(struct arguments *arguments, int option, const char *value)
{
  struct replay_player_config *config = &arguments->config;
  int64_t passes = 0;
  double seconds = 0;
  int error;
  switch (option) {
  case OPTION_SPEED:
    error = take_pace(arguments, REPLAY_PACE_SPEED);
    return error ? error : take_number(value, 0.001, 1e6, "--speed", &config->speed);
  case OPTION_MAX:
    return take_pace(arguments, REPLAY_PACE_MAX);
  case OPTION_LOCKSTEP:
    return take_pace(arguments, REPLAY_PACE_LOCKSTEP);
  case OPTION_STEP:
    return take_pace(arguments, REPLAY_PACE_STEP);
  case OPTION_LOOP:
    error = bus_parse_integer(value, 0, INT64_MAX, "--loop", &passes);
    config->passes = (uint64_t)passes;
    return error;
  case OPTION_SHIFT:
    config->shift_to_now = true;
    return BUS_OK;
  case OPTION_AS:
    return take_rename(arguments, value);
  case OPTION_CONSUMER:
    return take_consumer(arguments, value);
  case OPTION_TIMEOUT:
    error = take_number(value, 0, 1e9, "--consumer-timeout", &seconds);
    config->consumer_timeout_ns = (uint64_t)(seconds * 1e9);
    return error;
  case OPTION_JSON:
    arguments->as_json = true;
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "unknown option");
  }
}

/* REPLAY_OK: go on; -1: help was given; else REPLAY_USAGE. */
static int parse(struct arguments *arguments, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
    if (option == REPLAY_OPTION_HELP) {
      fputs(help, stdout);
      return -1;
    }
    if (option == '?')
      return REPLAY_USAGE;
    int taken = replay_select_take(&arguments->select, option, optarg);
    if (taken == 0)
      taken = bus_member_options_take(&arguments->config.bus.options, option, optarg);
    if (taken == 0)
      taken = take_option(arguments, option, optarg);
    if (taken < 0)
      return replay_usage_error("play", "%s", bus_error_message());
  }
  if (argc - optind != 1)
    return replay_usage_error("play", "give one capture");
  arguments->path = argv[optind];
  return REPLAY_OK;
}

/* ---- report ---- */

static void print_result(const struct replay_player_result *result, enum replay_pace pace)
{
  const struct bus_histogram *late = &result->lateness_ns;
  const double seconds = (double)result->elapsed_ns / 1e9;
  printf("%" PRIu64 " records in %.3f s, %.0f records/s", result->records, seconds,
         seconds > 0 ? (double)result->records / seconds : 0.0);
  if (result->passes > 1)
    printf(", %" PRIu64 " passes", result->passes);
  if (result->retained)
    printf("; %" PRIu64 " signals retained from before", result->retained);
  if (result->interrupted)
    printf("; stopped");
  putchar('\n');
  if (pace == REPLAY_PACE_SPEED && late->count > 0)
    printf("lateness: p50 %" PRIu64 " ns, p90 %" PRIu64 " ns, p99 %" PRIu64 " ns, p99.9 %" PRIu64
           " ns, max %" PRIu64 " ns; moved %" PRIu64 " times by %.3f ms in all\n",
           bus_histogram_quantile(late, 0.5), bus_histogram_quantile(late, 0.9),
           bus_histogram_quantile(late, 0.99), bus_histogram_quantile(late, 0.999), late->maximum,
           result->slips, (double)result->slipped_ns / 1e6);
  if (result->gaps)
    printf("gaps: %" PRIu64 ", in which %" PRIu64 " records are missing\n", result->gaps,
           result->gap_records);
}

static int print_json(const struct replay_player_result *result, enum replay_pace pace)
{
  const struct bus_histogram *late = &result->lateness_ns;
  json_t *object = json_object();
  replay_json_set(object, "records", replay_json_u64(result->records));
  replay_json_set(object, "passes", replay_json_u64(result->passes));
  replay_json_set(object, "elapsed_ns", replay_json_u64(result->elapsed_ns));
  replay_json_set(object, "retained", replay_json_u64(result->retained));
  replay_json_set(object, "gaps", replay_json_u64(result->gaps));
  replay_json_set(object, "gap_records", replay_json_u64(result->gap_records));
  replay_json_set(object, "damaged_blocks", replay_json_u64(result->damages));
  replay_json_set(object, "lost_consumer", json_boolean(result->lost_consumer));
  replay_json_set(object, "interrupted", json_boolean(result->interrupted));
  if (pace == REPLAY_PACE_SPEED) {
    static const struct {
      const char *name;
      double quantile;
    } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}};
    json_t *lateness = json_object();
    for (size_t i = 0; i < BUS_COUNT_OF(points); i++)
      replay_json_set(lateness, points[i].name,
                      replay_json_u64(bus_histogram_quantile(late, points[i].quantile)));
    replay_json_set(lateness, "max", replay_json_u64(late->maximum));
    replay_json_set(object, "lateness_ns", lateness);
    replay_json_set(object, "slips", replay_json_u64(result->slips));
    replay_json_set(object, "slipped_ns", replay_json_u64(result->slipped_ns));
  }
  return replay_json_print("play", object);
}

/* ---- run ---- */

static const char *name_on_bus(struct arguments *arguments, const char *member)
{
  for (size_t i = 0; i < arguments->rename_count; i++)
    if (!strcmp(arguments->renames[i].from, member)) {
      arguments->renames[i].used = true;
      return arguments->renames[i].to;
    }
  return member;
}

/* Names of the members, and streams of gaps left out unless they were asked for. */
static int choose_streams(struct arguments *arguments, const struct bus_capture *capture,
                          struct replay_selection *selection, const char **members)
{
  for (uint32_t i = 0; i < selection->stream_count; i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(capture, i);
    members[i] = name_on_bus(arguments, stream->member);
    if (!arguments->select.stream_count)
      selection->streams[i] = stream->record_type != BUS_RECORD_GAP;
  }
  for (size_t i = 0; i < arguments->rename_count; i++)
    if (!arguments->renames[i].used)
      return bus_error_set(BUS_ERROR_ABSENT,
                           "--as: no member '%s' was recorded; bus-replay info "
                           "lists them",
                           arguments->renames[i].from);
  selection->range.streams = selection->streams;
  return BUS_OK;
}

static int judge(const struct replay_player_result *result, int error)
{
  int status = error || result->lost_consumer ? replay_fail("play") : REPLAY_OK;
  if (!error && result->lost_consumer)
    status = REPLAY_LOST;
  if (result->gaps)
    status = replay_worse(status, REPLAY_GAPS);
  if (result->damages)
    status = replay_worse(status, REPLAY_CORRUPT);
  return status;
}

static int play(const struct replay_player_config *config, bool as_json)
{
  static struct replay_player_result result; /* holds a histogram */
  struct replay_player *player;
  if (replay_player_new(config, &player) != BUS_OK)
    return replay_fail("play");
  int error = replay_player_run(player);
  replay_player_result(player, &result);
  int status = judge(&result, error);
  if (as_json)
    status = replay_worse(status, print_json(&result, config->pace));
  else
    print_result(&result, config->pace);
  replay_player_delete(player);
  return status;
}

static int choose_and_play(struct arguments *arguments, struct bus_capture *capture,
                           const char **members)
{
  struct replay_player_config config = arguments->config;
  struct replay_selection selection;
  char source[512];
  if (replay_select_resolve(&arguments->select, capture, &selection) != BUS_OK)
    return replay_fail("play");
  int status = REPLAY_OK;
  if (choose_streams(arguments, capture, &selection, members) != BUS_OK)
    status = replay_fail("play");
  snprintf(source, sizeof source, "replay of %s", arguments->path);
  config.capture = capture;
  config.range = selection.range;
  config.members = members;
  config.bus.source = source;
  if (status == REPLAY_OK)
    status = play(&config, arguments->as_json);
  replay_selection_free(&selection);
  return status;
}

static int open_and_play(struct arguments *arguments)
{
  struct bus_capture *capture;
  int status = replay_open("play", arguments->path, &capture);
  if (status)
    return status;
  const char **members = calloc(bus_capture_stream_count(capture) + 1, sizeof *members);
  if (members) {
    status = choose_and_play(arguments, capture, members);
  } else {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    status = replay_fail("play");
  }
  free(members);
  return replay_close("play", capture, status);
}

int replay_play(int argc, char **argv)
{
  static struct arguments arguments;
  bus_member_options_init(&arguments.config.bus.options, "");
  arguments.config.pace = REPLAY_PACE_SPEED;
  arguments.config.speed = 1;
  arguments.config.passes = 1;
  arguments.config.show_progress = isatty(STDERR_FILENO);
  int status = parse(&arguments, argc, argv);
  if (status)
    return status < 0 ? REPLAY_OK : status;
  bus_loop_handle_signals();
  return open_and_play(&arguments);
}
