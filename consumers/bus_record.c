/* bus-record: writes what the rings of the bus carry to disk, as blocks that numpy opens at once.
 * It observes: nobody on the bus waits for it, or for its disk. */
#include "consumers/record_member.h"
#include "shm/options.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_LOST  3
#define EXIT_FULL  4
#define EXIT_WRITE 5

static const char help[] =
    "bus-record: records the rings of the bus to disk\n"
    "\n"
    "usage: bus-record [options] [--output DIR]\n"
    "\n"
    "  --output DIR        directory of the capture (default capture); made when missing\n"
    "  --ring MEMBER.RING  record this ring, may be repeated (default: every ring of every "
    "member,\n"
    "                      new ones too)\n"
    "  --from-oldest       begin with the oldest record in each ring (default)\n"
    "  --from-now          begin with the next record to come\n"
    "  --loss WHAT         when this process is too slow: count (default: records are overwritten\n"
    "                      and counted), block (be the consumer that the rings of --ring name:\n"
    "                      their producers wait; for offline use)\n"
    "  --duration SECONDS  end by itself\n"
    "files\n"
    "  --segment-bytes N   a new file at this size (default 1073741824)\n"
    "  --segment-seconds N a new file at this age (default 0: never)\n"
    "  --block-size N      bytes of a block, a multiple of 4096 up to 16 MiB (default 1048576)\n"
    "  --staging-blocks N  blocks between the rings and the disk, 4..1024 (default 64)\n"
    "  --flush SECONDS     write blocks that are not full this often (default 1; 0: never)\n"
    "  --zstd LEVEL        compress complete files, 1..19, or off (default off)\n"
    "  --on-full WHAT      when the disk is full or fails: exit (default), or wait, and try again\n"
    "  --io HOW            uring (default), or pwrite\n"
    "member\n" BUS_MEMBER_OPTIONS_HELP "other\n"
    "  --json              print the final report as JSON\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 done or stopped, 1 failed, 2 usage, 3 records are missing in the capture,\n"
    "4 the disk is full, 5 the disk failed; after 4 and 5 what was read stays staged in the\n"
    "member's file, for the next start\n";

struct program {
  struct bus_member_options options;
  struct bus_record_config config;
  struct bus_recorder *recorder;
  uint64_t duration_ns;
  uint64_t ends_ns;
  bool json;
};

static int housekeeping(void *context, struct bus_loop *loop)
{
  struct program *program = context;
  if (program->duration_ns && (int64_t)(loop->now_ns - program->ends_ns) >= 0)
    return BUS_ERROR_AGAIN;
  return bus_recorder_keep_house(program->recorder, loop);
}

static int work(void *context, struct bus_loop *loop)
{
  struct program *program = context;
  return bus_recorder_work(program->recorder, loop);
}

/* ---- options ---- */

enum {
  OPTION_OUTPUT = 1,
  OPTION_RING,
  OPTION_FROM_OLDEST,
  OPTION_FROM_NOW,
  OPTION_LOSS,
  OPTION_DURATION,
  OPTION_SEGMENT_BYTES,
  OPTION_SEGMENT_SECONDS,
  OPTION_BLOCK_SIZE,
  OPTION_STAGING_BLOCKS,
  OPTION_FLUSH,
  OPTION_ZSTD,
  OPTION_ON_FULL,
  OPTION_IO,
  OPTION_JSON,
  OPTION_HELP,
  OPTION_VERSION
};

static const struct option options[] = {
    BUS_MEMBER_OPTIONS,
    {"output", required_argument, NULL, OPTION_OUTPUT},
    {"ring", required_argument, NULL, OPTION_RING},
    {"from-oldest", no_argument, NULL, OPTION_FROM_OLDEST},
    {"from-now", no_argument, NULL, OPTION_FROM_NOW},
    {"loss", required_argument, NULL, OPTION_LOSS},
    {"duration", required_argument, NULL, OPTION_DURATION},
    {"segment-bytes", required_argument, NULL, OPTION_SEGMENT_BYTES},
    {"segment-seconds", required_argument, NULL, OPTION_SEGMENT_SECONDS},
    {"block-size", required_argument, NULL, OPTION_BLOCK_SIZE},
    {"staging-blocks", required_argument, NULL, OPTION_STAGING_BLOCKS},
    {"flush", required_argument, NULL, OPTION_FLUSH},
    {"zstd", required_argument, NULL, OPTION_ZSTD},
    {"on-full", required_argument, NULL, OPTION_ON_FULL},
    {"io", required_argument, NULL, OPTION_IO},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0}};

static int take_integer(const char *value, int64_t minimum, int64_t maximum, const char *what,
                        uint64_t *number)
{
  int64_t parsed = 0;
  int error = bus_parse_integer(value, minimum, maximum, what, &parsed);
  if (!error)
    *number = (uint64_t)parsed;
  return error;
}

static int take_seconds(const char *value, const char *what, uint64_t *ns)
{
  char *end;
  double seconds = strtod(value, &end);
  if (end == value || *end || !(seconds >= 0) || seconds > 1e8)
    return bus_error_set(BUS_ERROR_INVALID, "%s '%s': seconds, 0 to 100000000", what, value);
  *ns = (uint64_t)(seconds * 1e9);
  return BUS_OK;
}

static int take_choice(const char *value, const char *what, const char *no, const char *yes,
                       bool *choice)
{
  if (strcmp(value, no) != 0 && strcmp(value, yes) != 0)
    return bus_error_set(BUS_ERROR_INVALID, "%s '%s': use %s or %s", what, value, no, yes);
  *choice = !strcmp(value, yes);
  return BUS_OK;
}

/* MEMBER.RING, split at the last dot that leaves two names. */
static int take_ring(struct bus_record_config *config, const char *value)
{
  const char *dot = strrchr(value, '.');
  if (config->ring_count == BUS_RECORD_RINGS_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "at most %u rings may be named", BUS_RECORD_RINGS_MAX);
  struct bus_record_ring *ring = &config->rings[config->ring_count];
  if (!dot || (size_t)(dot - value) >= sizeof ring->member || strlen(dot + 1) >= sizeof ring->ring)
    return bus_error_set(BUS_ERROR_INVALID, "ring '%s': use MEMBER.RING, as in feed.features",
                         value);
  snprintf(ring->member, sizeof ring->member, "%.*s", (int)(dot - value), value);
  snprintf(ring->ring, sizeof ring->ring, "%s", dot + 1);
  if (!bus_layout_name_is_valid(ring->member) || !bus_layout_name_is_valid(ring->ring))
    return bus_error_set(BUS_ERROR_INVALID, "ring '%s': use MEMBER.RING, as in feed.features",
                         value);
  config->ring_count++;
  return BUS_OK;
}

static int take_size(struct bus_record_config *config, int option, const char *value)
{
  uint64_t number = 0;
  int error = option == OPTION_BLOCK_SIZE
                  ? take_integer(value, BUS_CAPTURE_BLOCK_BYTES_MIN, BUS_CAPTURE_BLOCK_BYTES_MAX,
                                 "block size", &number)
                  : take_integer(value, 4, BUS_STAGING_BLOCKS_MAX, "staging blocks", &number);
  if (error)
    return error;
  if (option == OPTION_STAGING_BLOCKS)
    config->staging_blocks = (uint32_t)number;
  else if (number % BUS_CAPTURE_BLOCK_BYTES_MIN)
    return bus_error_set(BUS_ERROR_INVALID, "block size %" PRIu64 ": use a multiple of 4096",
                         number);
  else
    config->block_size = (uint32_t)number;
  return BUS_OK;
}

static int take_file_option(struct program *program, int option, const char *value)
{
  struct bus_record_config *config = &program->config;
  uint64_t level = 0;
  int error = BUS_OK;
  switch (option) {
  case OPTION_SEGMENT_BYTES:
    return take_integer(value, 8192, (int64_t)1 << 44, "segment bytes", &config->segment_bytes);
  case OPTION_SEGMENT_SECONDS:
    return take_seconds(value, "segment seconds", &config->segment_ns);
  case OPTION_BLOCK_SIZE:
  case OPTION_STAGING_BLOCKS:
    return take_size(config, option, value);
  case OPTION_FLUSH:
    return take_seconds(value, "flush", &config->flush_ns);
  case OPTION_ZSTD:
    if (strcmp(value, "off") != 0)
      error = take_integer(value, 1, 19, "zstd level (or off)", &level);
    config->zstd_level = (int)level;
    return error;
  case OPTION_ON_FULL:
    return take_choice(value, "on full", "exit", "wait", &config->wait_when_full);
  case OPTION_IO:
    return take_choice(value, "io", "uring", "pwrite", &config->no_queue);
  default:
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

static int take_option(struct program *program, int option, const char *value)
{
  switch (option) {
  case OPTION_OUTPUT:
    program->config.output = value;
    return BUS_OK;
  case OPTION_RING:
    return take_ring(&program->config, value);
  case OPTION_FROM_OLDEST:
  case OPTION_FROM_NOW:
    program->config.from_now = option == OPTION_FROM_NOW;
    return BUS_OK;
  case OPTION_LOSS:
    return take_choice(value, "loss", "count", "block", &program->config.block);
  case OPTION_DURATION:
    return take_seconds(value, "duration", &program->duration_ns);
  case OPTION_JSON:
    program->json = true;
    return BUS_OK;
  default:
    return take_file_option(program, option, value);
  }
}

static int check(struct program *program)
{
  struct bus_record_config *config = &program->config;
  if (config->block && config->ring_count == 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "--loss block: name the rings with --ring, and start their producers with "
                         "--consumer %s",
                         program->options.name);
  config->directory = program->options.directory;
  config->name = program->options.name;
  config->mode = program->options.mode;
  config->numa_node = program->options.numa_node;
  config->core = program->options.core;
  config->small_pages = program->options.small_pages;
  return BUS_OK;
}

static int parse(struct program *program, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == OPTION_HELP || option == OPTION_VERSION) {
      fputs(option == OPTION_HELP ? help : "bus-record (signal-bus) " BUS_VERSION "\n", stdout);
      return 1;
    }
    int taken = bus_member_options_take(&program->options, option, optarg);
    if (taken == 0)
      taken = take_option(program, option, optarg);
    if (taken < 0)
      return taken;
  }
  if (optind < argc)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s'; see --help", argv[optind]);
  return check(program);
}

/* ---- the run ---- */

static void report(const struct program *program, const struct bus_record_totals *totals)
{
  if (program->json)
    printf("{\"records\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"segments\": %" PRIu64
           ", \"missing\": %" PRIu64 ", \"staged\": %" PRIu64 "}\n",
           totals->records, totals->bytes, totals->segments, totals->missing, totals->staged);
  else
    printf("%" PRIu64 " records, %.1f MB in %" PRIu64 " files of %s; %" PRIu64 " records missing\n",
           totals->records, (double)totals->bytes * 1e-6, totals->segments, program->config.output,
           totals->missing);
}

/* An empty capture needs a reason. */
static void explain_nothing(const struct program *program, const struct bus_record_totals *totals)
{
  const char *bus =
      program->options.directory ? program->options.directory : bus_directory_default();
  if (totals->records > 0)
    return;
  if (totals->rings == 0 && program->config.ring_count > 0)
    fprintf(stderr,
            "bus-record: none of the rings that --ring names was on the bus %s; `signal-busctl "
            "info` shows what is there\n",
            bus);
  else if (totals->rings == 0)
    fprintf(stderr, "bus-record: the bus %s had no ring; is it that of the producers (--bus)?\n",
            bus);
  else if (totals->resumed > 0)
    fprintf(stderr,
            "bus-record: nothing new: %s goes on where the recorder before this one stopped; "
            "give another --output to record all again\n",
            program->config.output);
  else
    fprintf(stderr, "bus-record: %" PRIu32 " rings of the bus %s, and no record in them%s\n",
            totals->rings, bus, program->config.from_now ? " since the start (--from-now)" : "");
}

/* Returns the exit status. */
static int run(struct program *program)
{
  static const struct bus_loop_operations operations = {work, housekeeping, NULL};
  struct bus_loop loop;
  struct bus_record_totals totals;
  int error = bus_recorder_new(&program->config, &program->recorder);
  if (error) {
    fprintf(stderr, "bus-record: %s\n", bus_error_message());
    return 1;
  }
  error = bus_loop_init(&loop, program->recorder->member, program->options.idle,
                        program->options.core, program->options.numa_node);
  program->ends_ns = bus_clock_monotonic_ns() + program->duration_ns;
  if (!error) {
    bus_member_run(program->recorder->member);
    error = bus_loop_run(&loop, &operations, program);
  }
  if (error)
    fprintf(stderr, "bus-record: %s\n", bus_error_message());
  int failure =
      bus_recorder_close(program->recorder, error ? BUS_STATE_FAIL : BUS_STATE_HALT, &totals);
  report(program, &totals);
  if (!error && !failure)
    explain_nothing(program, &totals);
  if (totals.staged > 0)
    fprintf(stderr,
            "bus-record: %" PRIu64 " records stay staged in the file of member '%s'; make room and "
            "start again with the same options to write them\n",
            totals.staged, program->config.name);
  if (error == BUS_ERROR_NO_SPACE || failure == BUS_ERROR_NO_SPACE)
    return EXIT_FULL;
  if (failure)
    return EXIT_WRITE;
  return error ? 1 : totals.missing > 0 ? EXIT_LOST : 0;
}

int main(int argc, char **argv)
{
  static struct program program;
  bus_member_options_init(&program.options, "record");
  program.config.output = "capture";
  program.config.block_size = BUS_CAPTURE_BLOCK_BYTES_DEFAULT;
  program.config.staging_blocks = 64;
  program.config.segment_bytes = (uint64_t)1 << 30;
  program.config.flush_ns = 1000000000u;
  int parsed = parse(&program, argc, argv);
  if (parsed != 0) {
    if (parsed < 0)
      fprintf(stderr, "bus-record: %s\n", bus_error_message());
    return parsed < 0 ? 2 : 0;
  }
  bus_loop_handle_signals();
  return run(&program);
}
