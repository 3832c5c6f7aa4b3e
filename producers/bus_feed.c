/* bus-feed: market data in, feature records out. */
#include "producers/feed_member.h"
#include "producers/source_capture.h"
#include "producers/source_synthetic.h"
#include "shm/error.h"
#include "shm/log.h"
#include "shm/notify.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "bus-feed: turns market data into feature records on the signal bus\n"
    "\n"
    "usage: bus-feed [--capture FILE | --synthetic] [options]\n"
    "\n"
    "sources\n"
    "  --synthetic         a seeded exchange that speaks like Binance (default)\n"
    "  --seed N            its seed (default 1)\n"
    "  --symbols N         its symbols, 1..16 (default 4)\n"
    "  --messages N        ends after N messages (default: no end)\n"
    "  --interval-us N     mean time between its events when calm (default 1000)\n"
    "  --capture FILE      recorded Binance streams: lines `<ns> <json>`, plain or gzip\n"
    "  --market MARKET     spot (default) or usdm\n"
    "  --symbol NAME[:P[:S]]  a symbol and its price and size exponents (default -8:-8); may be\n"
    "                      repeated; others are learnt as they appear\n"
    "  --speed X           1 real time by the lines' own stamps (default), 10 ten times as fast,\n"
    "                      max: without pacing\n"
    "  --seconds N         ends after N seconds\n"
    "  --stale-ms N        records without a book update for longer are flagged (default 5000)\n"
    "ring\n"
    "  --ring-depth N      records, a power of two (default 16384)\n"
    "  --policy POLICY     when the consumer is that far behind: wait (default), drop-newest, or\n"
    "                      overwrite (no reliable consumer, observers only)\n"
    "  --consumer NAME     the reliable consumer (default infer)\n"
    "  --doorbell          wake a consumer that sleeps (--idle doorbell): for quiet markets and "
    "few\n"
    "                      cores; costs a fence for each record\n"
    "  --timestamps WHICH  live (default): bus clock at receipt; capture: the lines' own stamps\n"
    "offline\n"
    "  --output FILE       no bus: writes the records, 128 bytes each, to FILE as fast as "
    "possible\n"
    "member\n" BUS_MEMBER_OPTIONS_HELP "other\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 done or stopped, 1 failed, 2 usage\n";

struct arguments {
  struct bus_feed_member_config config;
  struct bus_source_synthetic_config synthetic;
  struct bus_symbol symbols[64];
  const char *capture;
  const char *output;
  char source_text[512];
};

enum {
  OPTION_SEED = 1,
  OPTION_SYMBOLS,
  OPTION_MESSAGES,
  OPTION_INTERVAL,
  OPTION_CAPTURE,
  OPTION_SYNTHETIC,
  OPTION_MARKET,
  OPTION_SYMBOL,
  OPTION_SPEED,
  OPTION_SECONDS,
  OPTION_STALE,
  OPTION_DEPTH,
  OPTION_POLICY,
  OPTION_CONSUMER,
  OPTION_DOORBELL,
  OPTION_TIMESTAMPS,
  OPTION_OUTPUT,
  OPTION_HELP,
  OPTION_VERSION
};

static const struct option options[] = {BUS_MEMBER_OPTIONS,
                                        {"seed", required_argument, NULL, OPTION_SEED},
                                        {"symbols", required_argument, NULL, OPTION_SYMBOLS},
                                        {"messages", required_argument, NULL, OPTION_MESSAGES},
                                        {"interval-us", required_argument, NULL, OPTION_INTERVAL},
                                        {"capture", required_argument, NULL, OPTION_CAPTURE},
                                        {"synthetic", no_argument, NULL, OPTION_SYNTHETIC},
                                        {"market", required_argument, NULL, OPTION_MARKET},
                                        {"symbol", required_argument, NULL, OPTION_SYMBOL},
                                        {"speed", required_argument, NULL, OPTION_SPEED},
                                        {"seconds", required_argument, NULL, OPTION_SECONDS},
                                        {"stale-ms", required_argument, NULL, OPTION_STALE},
                                        {"ring-depth", required_argument, NULL, OPTION_DEPTH},
                                        {"policy", required_argument, NULL, OPTION_POLICY},
                                        {"consumer", required_argument, NULL, OPTION_CONSUMER},
                                        {"doorbell", no_argument, NULL, OPTION_DOORBELL},
                                        {"timestamps", required_argument, NULL, OPTION_TIMESTAMPS},
                                        {"output", required_argument, NULL, OPTION_OUTPUT},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {NULL, 0, NULL, 0}};

static int take_number(const char *value, int64_t minimum, int64_t maximum, const char *what,
                       uint64_t *number)
{
  int64_t parsed = 0;
  int error = bus_parse_integer(value, minimum, maximum, what, &parsed);
  *number = (uint64_t)parsed;
  return error;
}

/* The index of `value` among `count` words; BUS_ERROR_INVALID with a message when it is none. */
static int take_word(const char *value, const char *const *words, size_t count, const char *what)
{
  for (size_t i = 0; i < count; i++)
    if (!strcmp(value, words[i]))
      return (int)i;
  return bus_error_set(BUS_ERROR_INVALID, "%s '%s' is not known; see --help", what, value);
}

static int take_symbol(struct arguments *arguments, const char *value)
{
  struct bus_feed_config *feed = &arguments->config.feed;
  char name[32];
  int price_exponent = feed->price_exponent, size_exponent = feed->size_exponent;
  int fields = sscanf(value, "%31[^:]:%d:%d", name, &price_exponent, &size_exponent);
  if (fields < 1 || strlen(name) >= sizeof arguments->symbols[0].name || price_exponent < -18 ||
      price_exponent > 0 || size_exponent < -18 || size_exponent > 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "symbol '%s': use NAME:PRICE_EXPONENT:SIZE_EXPONENT, a name of up to 19 "
                         "characters and exponents -18..0",
                         value);
  if (feed->symbol_count == BUS_COUNT_OF(arguments->symbols))
    return bus_error_set(BUS_ERROR_INVALID, "more than %u symbols named", feed->symbol_count);
  struct bus_symbol *symbol = &arguments->symbols[feed->symbol_count++];
  strcpy(symbol->name, name);
  symbol->price_exponent = (int8_t)price_exponent;
  symbol->size_exponent = (int8_t)size_exponent;
  return BUS_OK;
}

static int take_speed(struct arguments *arguments, const char *value)
{
  char *end;
  double speed = strtod(value, &end);
  if (!strcmp(value, "max"))
    speed = 0;
  else if (*end || end == value || !(speed >= 0.001 && speed <= 1e6))
    return bus_error_set(BUS_ERROR_INVALID, "speed '%s': use 0.001 to 1000000, or max", value);
  arguments->config.speed = speed;
  return BUS_OK;
}

static int take_source_option(struct arguments *arguments, int option, const char *value)
{
  static const char *const markets[] = {"spot", "usdm"};
  uint64_t number = 0;
  int error = BUS_OK;
  switch (option) {
  case OPTION_SEED:
    return take_number(value, 0, INT64_MAX, "seed", &arguments->synthetic.seed);
  case OPTION_SYMBOLS:
    error = take_number(value, 1, BUS_SOURCE_SYNTHETIC_SYMBOLS_MAX, "symbols", &number);
    arguments->synthetic.symbols = (uint32_t)number;
    return error;
  case OPTION_MESSAGES:
    return take_number(value, 0, INT64_MAX, "messages", &arguments->synthetic.lines);
  case OPTION_INTERVAL:
    error = take_number(value, 1, 1000000, "interval", &number);
    arguments->synthetic.mean_interval_ns = (uint32_t)number * 1000u;
    return error;
  case OPTION_CAPTURE:
    arguments->capture = value;
    return BUS_OK;
  case OPTION_SYNTHETIC:
    arguments->capture = NULL;
    return BUS_OK;
  case OPTION_MARKET:
    error = take_word(value, markets, BUS_COUNT_OF(markets), "market");
    if (error >= 0)
      arguments->config.feed.market = arguments->synthetic.market = (enum bus_market)error;
    return error < 0 ? error : BUS_OK;
  default:
    return 1;
  }
}

static int take_option(struct arguments *arguments, int option, const char *value)
{
  static const char *const policies[] = {"", "wait", "drop-newest", "overwrite"};
  static const char *const timestamps[] = {"live", "capture"};
  struct bus_feed_member_config *config = &arguments->config;
  int error = BUS_OK;
  uint64_t number = 0;
  switch (option) {
  case OPTION_SYMBOL:
    return take_symbol(arguments, value);
  case OPTION_SPEED:
    return take_speed(arguments, value);
  case OPTION_SECONDS:
    return take_number(value, 0, 1000000000, "seconds", &config->seconds);
  case OPTION_STALE:
    error = take_number(value, 1, 86400000, "stale limit", &number);
    config->feed.stale_ns = number * 1000000u;
    return error;
  case OPTION_DEPTH:
    return take_number(value, 4, 1 << 30, "ring depth", &config->ring_depth);
  case OPTION_POLICY:
    error = take_word(value, policies, BUS_COUNT_OF(policies), "policy");
    config->policy = (uint32_t)error;
    return error < 0 ? error : BUS_OK;
  case OPTION_CONSUMER:
    config->consumer = value;
    return BUS_OK;
  case OPTION_DOORBELL:
    config->doorbell = true;
    return BUS_OK;
  case OPTION_TIMESTAMPS:
    error = take_word(value, timestamps, BUS_COUNT_OF(timestamps), "timestamps");
    config->capture_timestamps = error == 1;
    return error < 0 ? error : BUS_OK;
  case OPTION_OUTPUT:
    arguments->output = value;
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "unknown option; see --help");
  }
}

/* 0: go on; 1: done (help, version); negative: wrong usage. */
static int parse(struct arguments *arguments, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == OPTION_HELP || option == OPTION_VERSION) {
      fputs(option == OPTION_HELP ? help : "bus-feed (signal-bus) " BUS_VERSION "\n", stdout);
      return 1;
    }
    int taken = option == '?' ? bus_error_set(BUS_ERROR_INVALID, "see --help")
                              : bus_member_options_take(&arguments->config.options, option, optarg);
    if (taken == 0 && (taken = take_source_option(arguments, option, optarg)) == 1)
      taken = take_option(arguments, option, optarg);
    if (taken < 0)
      return taken;
  }
  if (optind < argc)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s'; see --help", argv[optind]);
  if (arguments->config.policy == BUS_POLICY_OVERWRITE)
    arguments->config.consumer = NULL;
  return 0;
}

static uint64_t mix(uint64_t hash, uint64_t value)
{
  return bus_layout_hash_bytes(hash, &value, sizeof value);
}

/* Opens the source and describes it, for people and for the takeover. */
static struct bus_source *open_source(struct arguments *arguments)
{
  struct bus_feed_member_config *config = &arguments->config;
  uint64_t hash = mix(mix(0xcbf29ce484222325ull, config->feed.market), config->capture_timestamps);
  for (uint32_t i = 0; i < config->feed.symbol_count; i++)
    hash = bus_layout_hash_bytes(hash, &arguments->symbols[i], sizeof arguments->symbols[i]);
  struct bus_source *source;
  if (arguments->capture) {
    struct stat status = {0};
    stat(arguments->capture, &status);
    hash = bus_layout_hash_bytes(hash, arguments->capture, strlen(arguments->capture));
    hash = mix(mix(hash, (uint64_t)status.st_size), (uint64_t)status.st_mtime);
    snprintf(arguments->source_text, sizeof arguments->source_text, "capture %s",
             arguments->capture);
    source = bus_source_capture_open(arguments->capture);
  } else {
    hash = mix(mix(hash, arguments->synthetic.seed), arguments->synthetic.symbols);
    hash = mix(mix(hash, arguments->synthetic.lines), arguments->synthetic.mean_interval_ns);
    snprintf(arguments->source_text, sizeof arguments->source_text,
             "synthetic exchange, seed %" PRIu64 ", %u symbols", arguments->synthetic.seed,
             arguments->synthetic.symbols);
    source = bus_source_synthetic_open(&arguments->synthetic);
  }
  config->source = source;
  config->source_text = arguments->source_text;
  config->source_identity = hash;
  return source;
}

static void report(const char *source_text, const struct bus_feed_counters *counters)
{
  uint64_t values[BUS_FEED_COUNTER_COUNT];
  char text[BUS_FEED_COUNTER_COUNT * 64];
  size_t length = 0;
  memcpy(values, counters, sizeof values);
  text[0] = '\0';
  for (size_t i = 0; i < BUS_FEED_COUNTER_COUNT; i++)
    if (values[i])
      length += (size_t)snprintf(text + length, sizeof text - length, " %s %" PRIu64,
                                 bus_feed_counter_descriptions[i].name, values[i]);
  bus_log(BUS_LOG_INFO, "bus-feed: %s:%s", source_text, text);
}

static int run(struct arguments *arguments)
{
  struct bus_feed_counters counters = {0};
  if (arguments->output) {
    int64_t records = bus_feed_write_file(arguments->config.source, &arguments->config.feed,
                                          arguments->output, &counters);
    report(arguments->source_text, &counters);
    return records < 0 ? (int)records : BUS_OK;
  }
  struct bus_feed_member *member;
  int error = bus_feed_member_new(&arguments->config, &member);
  if (error)
    return error;
  error = bus_feed_member_run(member);
  bus_feed_member_copy_counters(member, &counters);
  report(arguments->source_text, &counters);
  bus_feed_member_delete(member);
  return error;
}

int main(int argc, char **argv)
{
  static struct arguments arguments;
  bus_member_options_init(&arguments.config.options, "feed");
  bus_feed_config_defaults(&arguments.config.feed);
  bus_source_synthetic_defaults(&arguments.synthetic);
  arguments.config.feed.symbols = arguments.symbols;
  arguments.config.speed = 1;
  arguments.config.ring_depth = 16384;
  arguments.config.policy = BUS_POLICY_WAIT;
  arguments.config.consumer = "infer";
  int parsed = parse(&arguments, argc, argv);
  if (parsed != 0) {
    if (parsed < 0)
      bus_log(BUS_LOG_ERROR, "bus-feed: %s", bus_error_message());
    return parsed < 0 ? 2 : 0;
  }
  bus_loop_handle_signals();
  if (bus_notify_open() != BUS_OK)
    bus_log(BUS_LOG_WARNING, "bus-feed: %s", bus_error_message());
  struct bus_source *source = open_source(&arguments);
  int error = source ? run(&arguments) : BUS_ERROR_INVALID;
  if (error)
    bus_log(BUS_LOG_ERROR, "bus-feed: %s", bus_error_message());
  bus_source_close(source);
  return error ? 1 : 0;
}
