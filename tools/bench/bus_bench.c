/* bus-bench: the program behind every figure of speed: picks a benchmark by name and runs it. */
#include "shm/loop.h"
#include "shm/options.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_report.h"

#include <stdio.h>
#include <string.h>

static const struct bench *const benches[] = {&bench_feed,   &bench_tick,   &bench_ring,
                                              &bench_record, &bench_replay, &bench_bridge};

static const char common_help[] =
    "\n"
    "every benchmark\n"
    "  --repeat N          repetitions that count, 1..50 (default 5); a repetition around which "
    "the\n"
    "                      machine was not as usual is done again, N times more at most\n"
    "  --json FILE         everything measured, for programs\n"
    "  --svg FILE          a plot of percentiles\n"
    "  --no-fifo           do not ask for real-time scheduling (SCHED_FIFO)\n"
    "  --no-canary         do not watch the machine: every repetition counts\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 measured, 1 failed, 2 usage\n";

static void print_help(void)
{
  fputs("bus-bench: measures the bus on this machine\n"
        "\n"
        "usage: bus-bench BENCHMARK [options]\n"
        "       bus-bench BENCHMARK --help\n"
        "\n",
        stdout);
  for (size_t i = 0; i < BUS_COUNT_OF(benches); i++)
    printf("  %-10s %s\n", benches[i]->name, benches[i]->summary);
  fputs(common_help, stdout);
}

static int take_integer(const char *value, int64_t minimum, int64_t maximum, const char *what,
                        uint64_t *number)
{
  int64_t parsed = 0;
  int error = bus_parse_integer(value, minimum, maximum, what, &parsed);
  *number = (uint64_t)parsed;
  return error;
}

/* "A" or "A,B". */
static int take_cores(struct bench_options *options, const char *value)
{
  char first[16];
  const char *comma = strchr(value, ',');
  size_t length = comma ? (size_t)(comma - value) : strlen(value);
  int64_t cores[2] = {0, -1};
  if (length >= sizeof first)
    return bus_error_set(BUS_ERROR_INVALID, "cores '%s': use A or A,B", value);
  memcpy(first, value, length);
  first[length] = '\0';
  int error = bus_parse_integer(first, 0, 1 << 20, "core", &cores[0]);
  if (!error && comma)
    error = bus_parse_integer(comma + 1, 0, 1 << 20, "core", &cores[1]);
  options->cores[0] = (int)cores[0];
  options->cores[1] = (int)cores[1];
  return error;
}

static int take_capture(struct bench_options *options, const char *path)
{
  if (options->capture_count == BENCH_CAPTURES_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "more than %d captures", BENCH_CAPTURES_MAX);
  options->captures[options->capture_count++] = (struct bench_capture){.path = path};
  return BUS_OK;
}

static int take_market(struct bench_options *options, const char *market)
{
  bool usdm = !strcmp(market, "usdm");
  if (!usdm && strcmp(market, "spot") != 0)
    return bus_error_set(BUS_ERROR_INVALID, "market '%s': use spot or usdm", market);
  if (options->capture_count == 0)
    return bus_error_set(BUS_ERROR_INVALID, "--market is of the --capture before it");
  options->captures[options->capture_count - 1].usdm = usdm;
  return BUS_OK;
}

static int take_number(struct bench_options *options, int option, const char *value)
{
  uint64_t number = 0;
  int error;
  switch (option) {
  case BENCH_OPTION_REPEAT:
    error = take_integer(value, 1, BENCH_REPEAT_MAX, "repetitions", &number);
    options->repeat = (uint32_t)number;
    return error;
  case BENCH_OPTION_COUNT:
    return take_integer(value, 1, INT64_C(1000000000000), "count", &options->count);
  case BENCH_OPTION_INTERVAL:
    return take_integer(value, 0, 1000000000, "interval", &options->interval_ns);
  case BENCH_OPTION_BATCH_MAX:
    error = take_integer(value, 1, 64, "batch", &number);
    options->batch_max = (uint32_t)number;
    return error;
  case BENCH_OPTION_RECORD_SIZE:
    error = take_integer(value, 64, 1 << 20, "record size", &number);
    options->record_size = (uint32_t)number;
    return error;
  case BENCH_OPTION_IDLE:
    error = bus_idle_parse(value);
    options->idle = error > 0 ? (uint32_t)error : 0;
    return error > 0 ? BUS_OK : error;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

static int take_option(struct bench_options *options, int option, const char *value)
{
  switch (option) {
  case BENCH_OPTION_JSON:
    options->json_path = value;
    return BUS_OK;
  case BENCH_OPTION_SVG:
    options->svg_path = value;
    return BUS_OK;
  case BENCH_OPTION_DIRECTORY:
    options->directory = value;
    return BUS_OK;
  case BENCH_OPTION_CAPTURE:
    return take_capture(options, value);
  case BENCH_OPTION_MARKET:
    return take_market(options, value);
  case BENCH_OPTION_MODEL:
    options->model_path = value;
    return BUS_OK;
  case BENCH_OPTION_ENGINE:
    options->engine_kind = value;
    return BUS_OK;
  case BENCH_OPTION_CORES:
    return take_cores(options, value);
  case BENCH_OPTION_NO_FIFO:
    options->fifo = false;
    return BUS_OK;
  case BENCH_OPTION_NO_CANARY:
    options->canary = false;
    return BUS_OK;
  case BENCH_OPTION_SMALL_PAGES:
    options->small_pages = true;
    return BUS_OK;
  default:
    return take_number(options, option, value);
  }
}

/* 0: go on; 1: done (help, version); negative: wrong usage. */
static int parse(const struct bench *bench, struct bench_options *options, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "", bench->options, NULL)) != -1) {
    if (option == BENCH_OPTION_HELP) {
      printf("%s%s", bench->help, common_help);
      return 1;
    }
    if (option == BENCH_OPTION_VERSION) {
      puts("bus-bench (signal-bus) " BUS_VERSION);
      return 1;
    }
    int error = option >= BENCH_OPTION_OWN && bench->take_option
                    ? bench->take_option(option, optarg)
                    : take_option(options, option, optarg);
    if (error)
      return error;
  }
  if (optind < argc)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s'; see --help", argv[optind]);
  return 0;
}

static const struct bench *find(const char *name)
{
  for (size_t i = 0; i < BUS_COUNT_OF(benches); i++)
    if (!strcmp(benches[i]->name, name))
      return benches[i];
  return NULL;
}

static int fail(int status)
{
  fprintf(stderr, "bus-bench: %s\n", bus_error_message());
  return status;
}

int main(int argc, char **argv)
{
  const char *name = argc > 1 ? argv[1] : "";
  if (!strcmp(name, "--help") || !strcmp(name, "--version")) {
    if (!strcmp(name, "--help"))
      print_help();
    else
      puts("bus-bench (signal-bus) " BUS_VERSION);
    return 0;
  }
  const struct bench *bench = find(name);
  if (!bench) {
    bus_error_set(BUS_ERROR_INVALID, "no benchmark '%s': see bus-bench --help for their names",
                  name);
    return fail(2);
  }
  struct bench_options options = {.repeat = 5,
                                  .directory = "/dev/shm",
                                  .model_path = BUS_DEFAULT_MODEL,
                                  .engine_kind = "auto",
                                  .cores = {-1, -1},
                                  .count = bench->count_default,
                                  .interval_ns = 10000,
                                  .idle = BUS_IDLE_SPIN,
                                  .batch_max = 1,
                                  .fifo = true,
                                  .canary = true};
  argv[1] = argv[0]; /* what getopt puts before its own messages */
  int parsed = parse(bench, &options, argc - 1, argv + 1);
  if (parsed != 0)
    return parsed < 0 ? fail(2) : 0;
  bench_process_init();
  int error = bench_report_check_outputs(&options);
  if (!error)
    error = bench->run(&options);
  return error ? fail(1) : 0;
}
