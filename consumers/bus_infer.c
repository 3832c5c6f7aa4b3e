/* bus-infer: feature records in, signals out. */
#include "consumers/infer_member.h"
#include "shm/error.h"
#include "shm/log.h"
#include "shm/notify.h"

#include <stdio.h>
#include <string.h>

static const char help[] =
    "bus-infer: runs a model on feature rings and publishes signals\n"
    "\n"
    "usage: bus-infer [--feed NAME]... [--model FILE] [options]\n"
    "\n"
    "  --feed NAME         a member whose feature ring is read (default feed); may be repeated, "
    "and\n"
    "                      need not be there yet\n"
    "  --model FILE        the model (default " BUS_DEFAULT_MODEL ")\n"
    "  --engine KIND       auto (default: the fastest that this CPU runs), scalar, avx2, avx512\n"
    "  --batch-max N       ticks inferred together, 1..64 (default 16)\n"
    "  --batch-wait-us N   how long the oldest tick waits for others (default 0: not at all)\n"
    "  --ring-depth N      signals, a power of two (default 16384)\n"
    "  --symbols-max N     symbols of each feed on its board (default 256)\n"
    "  --consumer NAME     a reliable consumer that holds the signals back (default: observers "
    "only)\n"
    "member\n" BUS_MEMBER_OPTIONS_HELP "other\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 stopped, 1 failed, 2 usage\n";

enum {
  OPTION_FEED = 1,
  OPTION_MODEL,
  OPTION_ENGINE,
  OPTION_BATCH_MAX,
  OPTION_BATCH_WAIT,
  OPTION_DEPTH,
  OPTION_SYMBOLS,
  OPTION_CONSUMER,
  OPTION_HELP,
  OPTION_VERSION
};

static const struct option options[] = {
    BUS_MEMBER_OPTIONS,
    {"feed", required_argument, NULL, OPTION_FEED},
    {"model", required_argument, NULL, OPTION_MODEL},
    {"engine", required_argument, NULL, OPTION_ENGINE},
    {"batch-max", required_argument, NULL, OPTION_BATCH_MAX},
    {"batch-wait-us", required_argument, NULL, OPTION_BATCH_WAIT},
    {"ring-depth", required_argument, NULL, OPTION_DEPTH},
    {"symbols-max", required_argument, NULL, OPTION_SYMBOLS},
    {"consumer", required_argument, NULL, OPTION_CONSUMER},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0}};

static int take_feed(struct bus_infer_config *config, const char *name)
{
  for (uint32_t i = 0; i < config->feed_count; i++)
    if (!strcmp(config->feeds[i], name))
      return bus_error_set(BUS_ERROR_INVALID, "feed '%s' is named twice", name);
  if (config->feed_count == BUS_INFER_SOURCES_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "more than %u feeds", BUS_INFER_SOURCES_MAX);
  config->feeds[config->feed_count++] = name;
  return BUS_OK;
}

static int take_option(struct bus_infer_config *config, int option, const char *value)
{
  int64_t number = 0;
  int error = BUS_OK;
  switch (option) {
  case OPTION_FEED:
    return take_feed(config, value);
  case OPTION_MODEL:
    config->model_path = value;
    return BUS_OK;
  case OPTION_ENGINE:
    config->engine_kind = value;
    return BUS_OK;
  case OPTION_BATCH_MAX:
    error = bus_parse_integer(value, 1, BUS_ENGINE_BATCH_MAX, "batch size", &number);
    config->batch_max = (uint32_t)number;
    return error;
  case OPTION_BATCH_WAIT:
    error = bus_parse_integer(value, 0, 1000000, "batch wait", &number);
    config->batch_wait_ns = (uint64_t)number * 1000u;
    return error;
  case OPTION_DEPTH:
    error = bus_parse_integer(value, 1024, 1 << 30, "ring depth", &number);
    config->ring_depth = (uint64_t)number;
    return error;
  case OPTION_SYMBOLS:
    error = bus_parse_integer(value, 1, 65535, "symbols", &number);
    config->symbols_max = (uint32_t)number;
    return error;
  case OPTION_CONSUMER:
    config->consumer = value;
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

/* 0: go on; 1: done (help, version); negative: wrong usage. */
static int parse(struct bus_infer_config *config, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == OPTION_HELP || option == OPTION_VERSION) {
      fputs(option == OPTION_HELP ? help : "bus-infer (signal-bus) " BUS_VERSION "\n", stdout);
      return 1;
    }
    int taken = bus_member_options_take(&config->options, option, optarg);
    if (taken == 0)
      taken = take_option(config, option, optarg);
    if (taken < 0)
      return taken;
  }
  if (optind < argc)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s'; see --help", argv[optind]);
  return config->feed_count ? 0 : take_feed(config, "feed");
}

int main(int argc, char **argv)
{
  struct bus_infer_config config = {.model_path = BUS_DEFAULT_MODEL,
                                    .engine_kind = "auto",
                                    .batch_max = 16,
                                    .ring_depth = 16384,
                                    .symbols_max = 256};
  bus_member_options_init(&config.options, "infer");
  int parsed = parse(&config, argc, argv);
  if (parsed != 0) {
    if (parsed < 0)
      bus_log(BUS_LOG_ERROR, "bus-infer: %s", bus_error_message());
    return parsed < 0 ? 2 : 0;
  }
  bus_loop_handle_signals();
  if (bus_notify_open() != BUS_OK)
    bus_log(BUS_LOG_WARNING, "bus-infer: %s", bus_error_message());
  struct bus_infer *infer;
  int error = bus_infer_new(&config, &infer);
  if (!error) {
    bus_log(BUS_LOG_INFO, "bus-infer: %s", bus_infer_describe(infer));
    error = bus_infer_run(infer);
  }
  if (error)
    bus_log(BUS_LOG_ERROR, "bus-infer: %s", bus_error_message());
  if (infer)
    bus_infer_delete(infer);
  return error ? 1 : 0;
}
