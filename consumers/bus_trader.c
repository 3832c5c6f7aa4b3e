/* bus-trader: the sample trading process. It maps the bus read-only, follows the signals, shows the
 * latest of each symbol, and measures what a trader feels: tick received -> signal visible.
 *
 * The part that a real trading process would copy is follow(): one poll, one record, act. */
#include "consumers/latency_report.h"
#include "shm/board.h"
#include "shm/error.h"
#include "shm/log.h"
#include "shm/notify.h"
#include "shm/options.h"
#include "shm/subscription.h"
#include "shm/symbols.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SIGNALS_PER_CYCLE 256
#define TABLE_ROWS        24

static const char help[] =
    "bus-trader: follows the signals of the bus and measures their latency\n"
    "\n"
    "usage: bus-trader [options]\n"
    "\n"
    "  --infer NAME        the member whose signals are followed (default infer)\n"
    "  --feed NAME         ends when this feed has ended and its last signal is here (one that "
    "ended\n"
    "                      before does not count, but with --from-oldest)\n"
    "  --count N           ends after N signals\n"
    "  --seconds N         ends after N seconds\n"
    "  --from-oldest       starts with the oldest signal in the ring, not with the next one\n"
    "  --table WHEN        live table: auto (default: on a terminal), always, never\n"
    "  --output FILE       writes the signals, 64 bytes each, to FILE\n"
    "  --json FILE         writes the latency report as JSON\n"
    "  --hgrm FILE         writes the end-to-end distribution for HdrHistogram's plotters, in us\n"
    "  --observe-only      does not become a member: writes nothing to the bus at all\n"
    "member\n" BUS_MEMBER_OPTIONS_HELP "other\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 done or stopped, 1 failed, 2 usage, 3 signals were missed (overrun)\n";

enum stage { STAGE_QUEUE, STAGE_INFERENCE, STAGE_DELIVERY, STAGE_TOTAL, STAGE_COUNT };

static const char *const stage_counters[STAGE_COUNT] = {"queue_ns", "inference_ns", "delivery_ns",
                                                        "total_ns"};

struct trader {
  struct bus_member_options options;
  const char *infer_name;
  const char *feed_name;
  const char *output_path;
  const char *json_path;
  const char *hgrm_path;
  uint64_t count_max;
  uint64_t seconds;
  bool observe_only;
  bool from_oldest;
  bool table;
  bool table_begun;
  struct bus_member *member;
  struct bus_loop loop;
  struct bus_subscription signals;
  struct bus_neighbour *feed;
  uint64_t old_feed_instance; /* a feed that had ended before this process started */
  struct bus_histogram *stages[STAGE_COUNT];
  struct bus_histogram own_stages[STAGE_COUNT]; /* without a member file */
  uint64_t *signals_counter;
  uint64_t *signals_lost;
  uint64_t *directions[3];
  uint64_t own_counters[5];
  uint64_t started_ns;
  uint64_t last_table_ns;
  uint64_t last_table_signals;
  FILE *output;
  bool output_failed;
};

/* ---- hot path ---- */

static void measure(struct trader *trader, const struct bus_signal *signal)
{
  uint64_t now_ns = bus_clock_now_ns(&trader->loop.clock);
  int64_t total_ns = (int64_t)(now_ns - signal->timestamp_ns);
  if (total_ns < 0)
    total_ns = 0; /* clocks of two processes agree to tens of ns */
  int64_t delivery_ns = total_ns - (int64_t)signal->queue_ns - (int64_t)signal->inference_ns;
  bus_histogram_record(trader->stages[STAGE_QUEUE], signal->queue_ns);
  bus_histogram_record(trader->stages[STAGE_INFERENCE], signal->inference_ns);
  bus_histogram_record(trader->stages[STAGE_DELIVERY], delivery_ns > 0 ? (uint64_t)delivery_ns : 0);
  bus_histogram_record(trader->stages[STAGE_TOTAL], (uint64_t)total_ns);
}

/* One signal. A real trader decides here; this one counts. Returns 1, 0 or BUS_ERROR_OVERRUN. */
static int follow(struct trader *trader)
{
  struct bus_signal signal = {0};
  int status = bus_observer_poll(&trader->signals.observer, &signal);
  if (status != 1)
    return status;
  measure(trader, &signal);
  bus_counter_add(trader->signals_counter, 1);
  if (signal.direction >= -1 && signal.direction <= 1)
    bus_counter_add(trader->directions[signal.direction + 1], 1);
  if (trader->output && fwrite(&signal, sizeof signal, 1, trader->output) != 1)
    trader->output_failed = true;
  return 1;
}

static int work(void *context, struct bus_loop *loop)
{
  struct trader *trader = context;
  int done = 0;
  (void)loop;
  if (!trader->signals.neighbour)
    return 0;
  while (done < SIGNALS_PER_CYCLE) {
    int status = follow(trader);
    if (status == 0)
      break;
    done++;
    if (trader->count_max && *trader->signals_counter >= trader->count_max)
      return BUS_ERROR_AGAIN;
  }
  return done;
}

/* ---- the live table ---- */

static double scaled(int64_t value, int exponent)
{
  return (double)value * pow(10.0, exponent);
}

static void print_board(const struct bus_neighbour *infer, const struct bus_entry *board,
                        uint64_t now_ns, int *rows)
{
  static const char *const names[] = {"sell", "flat", "buy"};
  const struct bus_entry *symbols = bus_neighbour_find(infer, BUS_OBJECT_SYMBOLS, board->name);
  if (!symbols || board->record_size != sizeof(struct bus_signal))
    return;
  const void *table = bus_neighbour_object(infer, symbols);
  const struct bus_signal *slots = bus_neighbour_object(infer, board);
  struct bus_symbol symbol;
  struct bus_signal signal;
  for (uint32_t i = 0; i < board->depth && *rows < TABLE_ROWS; i++) {
    if (bus_symbols_get(table, symbols, i, &symbol) != BUS_OK)
      break;
    if (bus_board_read(&slots[i], &signal) != 1 || signal.direction < -1 || signal.direction > 1)
      continue;
    for (char *c = symbol.name; *c; c++) /* from a neighbour: nothing that steers the terminal */
      if (*c < ' ' || *c > '~')
        *c = '?';
    printf("  %-12s %-10s %-4s %3u %%  target %15.8f  age %8.1f ms%s\033[K\n", symbol.name,
           board->name, names[signal.direction + 1], signal.confidence,
           scaled(signal.target_price, symbol.price_exponent),
           (double)(int64_t)(now_ns - signal.timestamp_ns) / 1e6,
           signal.flags & BUS_SIGNAL_VALID ? "" : "  (not valid)");
    ++*rows;
  }
}

static void print_table(struct trader *trader)
{
  const struct bus_histogram *total = trader->stages[STAGE_TOTAL];
  uint64_t now_ns = trader->loop.now_ns, signals = *trader->signals_counter;
  double seconds = (double)(now_ns - trader->last_table_ns) / 1e9;
  /* Drawn over the one before: clearing each time would flicker, and some terminals keep what was
   * cleared in their history. */
  printf("%s\033[Hbus %s\033[K\n%" PRIu64 " signals, %.0f/s, %" PRIu64
         " lost\033[K\ntick -> signal: p50 %.1f us, p99 %.1f us\033[K\n\033[K\n",
         trader->table_begun ? "" : "\033[H\033[2J", trader->options.directory, signals,
         (double)(signals - trader->last_table_signals) / seconds, *trader->signals_lost,
         (double)bus_histogram_quantile(total, 0.5) / 1e3,
         (double)bus_histogram_quantile(total, 0.99) / 1e3);
  if (!trader->signals.neighbour)
    printf("  waiting: %s\033[K\n", bus_error_message());
  int rows = 0;
  const struct bus_entry *entry;
  for (uint32_t i = 0; trader->signals.neighbour &&
                       (entry = bus_neighbour_entry(trader->signals.neighbour, i)) != NULL;
       i++)
    if (entry->type == BUS_OBJECT_BOARD)
      print_board(trader->signals.neighbour, entry, now_ns, &rows);
  fputs("\033[K\n\033[J", stdout); /* what comes after the last table stands apart */
  fflush(stdout);
  trader->table_begun = true;
  trader->last_table_ns = now_ns;
  trader->last_table_signals = signals;
}

/* ---- housekeeping ---- */

static bool feed_has_ended(const struct bus_neighbour *feed)
{
  struct bus_member_header live;
  bus_neighbour_live(feed, &live);
  return live.state == BUS_STATE_HALT || live.state == BUS_STATE_FAIL;
}

/* A feed that ended before this process came is not the one to wait for, unless its old signals are
 * wanted too. */
static void note_old_feed(struct trader *trader)
{
  struct bus_neighbour *feed;
  if (!trader->feed_name || trader->from_oldest ||
      bus_neighbour_attach(trader->options.directory, trader->feed_name, true, &feed) != BUS_OK)
    return;
  if (feed_has_ended(feed))
    trader->old_feed_instance = bus_neighbour_header(feed)->instance;
  bus_neighbour_detach(feed);
}

/* True when the feed left in order and everything it published has come through. */
static bool feed_is_finished(struct trader *trader)
{
  struct bus_neighbour *infer = trader->signals.neighbour;
  if (!infer)
    return false;
  if (trader->feed && bus_neighbour_status(trader->feed, UINT64_MAX) == BUS_NEIGHBOUR_GONE) {
    bus_neighbour_detach(trader->feed);
    trader->feed = NULL;
  }
  if (!trader->feed && bus_neighbour_attach(trader->options.directory, trader->feed_name, true,
                                            &trader->feed) != BUS_OK)
    return false;
  if (!feed_has_ended(trader->feed) ||
      bus_neighbour_header(trader->feed)->instance == trader->old_feed_instance)
    return false;
  const struct bus_entry *ring = bus_neighbour_find(trader->feed, BUS_OBJECT_RING, "features");
  const struct bus_entry *entry;
  const struct bus_position *position = NULL;
  for (uint32_t i = 0; (entry = bus_neighbour_entry(infer, i)) != NULL; i++)
    if (entry->type == BUS_OBJECT_POSITION && !strcmp(entry->peer, trader->feed_name))
      position = bus_neighbour_object(infer, entry);
  if (!ring || !position ||
      BUS_LOAD_ACQUIRE(&position->ring_instance) != bus_neighbour_header(trader->feed)->instance)
    return false;
  uint64_t features = bus_ring_head(bus_neighbour_object(trader->feed, ring), ring);
  if (BUS_LOAD_ACQUIRE(&position->position) != features)
    return false;
  const struct bus_entry *signals = bus_neighbour_find(infer, BUS_OBJECT_RING, "signals");
  return signals && trader->signals.observer.next ==
                        bus_ring_head(bus_neighbour_object(infer, signals), signals);
}

static int housekeeping(void *context, struct bus_loop *loop)
{
  struct trader *trader = context;
  bus_subscription_maintain(&trader->signals, 0);
  bus_counter_set(trader->signals_lost,
                  trader->signals.lost_before + trader->signals.observer.lost);
  if (trader->table && loop->now_ns - trader->last_table_ns > 250000000u)
    print_table(trader);
  if (trader->output_failed)
    return bus_error_set_errno("%s: writing signals", trader->output_path);
  if (trader->seconds && loop->now_ns - trader->started_ns > trader->seconds * 1000000000u)
    return BUS_ERROR_AGAIN;
  if (trader->feed_name && feed_is_finished(trader))
    return BUS_ERROR_AGAIN;
  return BUS_OK;
}

/* ---- set-up and report ---- */

static int join_bus(struct trader *trader)
{
  const struct bus_object_spec objects[] = {
      {.type = BUS_OBJECT_HISTOGRAM, .name = "queue_ns", .unit = "ns"},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "inference_ns", .unit = "ns"},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "delivery_ns", .unit = "ns"},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "total_ns", .unit = "ns"},
      BUS_LOOP_OBJECTS,
      {.type = BUS_OBJECT_COUNTER, .name = "signals", .unit = "signals"},
      {.type = BUS_OBJECT_COUNTER, .name = "signals_lost", .unit = "signals"},
      {.type = BUS_OBJECT_COUNTER, .name = "sells", .unit = "signals"},
      {.type = BUS_OBJECT_COUNTER, .name = "flats", .unit = "signals"},
      {.type = BUS_OBJECT_COUNTER, .name = "buys", .unit = "signals"},
  };
  struct bus_member_config file = {.directory = trader->options.directory,
                                   .name = trader->options.name,
                                   .kind = "trader",
                                   .objects = objects,
                                   .object_count = BUS_COUNT_OF(objects),
                                   .takeover = BUS_TAKEOVER_NEVER,
                                   .mode = trader->options.mode,
                                   .numa_node = trader->options.numa_node,
                                   .core = trader->options.core,
                                   .small_pages = trader->options.small_pages};
  return bus_member_new(&file, &trader->member);
}

/* The buffer is given now: stdio would allocate one in the middle of the work. */
static int open_output(struct trader *trader)
{
  static char buffer[1 << 16];
  trader->output = fopen(trader->output_path, "wbe");
  if (!trader->output)
    return bus_error_set_errno("%s: creating", trader->output_path);
  setvbuf(trader->output, buffer, _IOFBF, sizeof buffer);
  return BUS_OK;
}

static int set_up(struct trader *trader)
{
  static const char *const counters[] = {"signals", "signals_lost", "sells", "flats", "buys"};
  uint64_t **places[] = {&trader->signals_counter, &trader->signals_lost, &trader->directions[0],
                         &trader->directions[1], &trader->directions[2]};
  int error = trader->observe_only ? BUS_OK : join_bus(trader);
  if (error)
    return error;
  for (size_t i = 0; i < BUS_COUNT_OF(counters); i++)
    *places[i] = trader->member ? bus_member_object(trader->member, BUS_OBJECT_COUNTER, counters[i])
                                : &trader->own_counters[i];
  for (size_t i = 0; i < STAGE_COUNT; i++)
    trader->stages[i] =
        trader->member ? bus_member_object(trader->member, BUS_OBJECT_HISTOGRAM, stage_counters[i])
                       : &trader->own_stages[i];
  error = bus_subscription_init(&trader->signals, trader->options.directory, trader->infer_name,
                                "signals", BUS_RECORD_SIGNAL, sizeof(struct bus_signal), NULL);
  trader->signals.from_oldest = trader->from_oldest;
  note_old_feed(trader);
  if (!error && trader->output_path)
    error = open_output(trader);
  if (!error)
    error = bus_loop_init(&trader->loop, trader->member, trader->options.idle, trader->options.core,
                          trader->options.numa_node);
  trader->started_ns = trader->last_table_ns = bus_clock_now_ns(&trader->loop.clock);
  return error;
}

static int write_file(const char *path, const struct bus_latency_stage *stages, size_t count,
                      const struct bus_histogram *hgrm)
{
  FILE *file = fopen(path, "we");
  if (!file)
    return bus_error_set_errno("%s: creating", path);
  if (hgrm)
    bus_histogram_write_hgrm(hgrm, file, 1000.0);
  else
    bus_latency_report_json(file, stages, count);
  return fclose(file) == 0 ? BUS_OK : bus_error_set_errno("%s: writing", path);
}

/* The feed's own share of the way, from the feed's file; empty when there is none. */
static void copy_feed_stage(const struct trader *trader, struct bus_histogram *copy)
{
  const char *name = trader->feed_name ? trader->feed_name : "feed";
  struct bus_neighbour *feed;
  memset(copy, 0, sizeof *copy);
  if (bus_neighbour_attach(trader->options.directory, name, true, &feed) != BUS_OK)
    return;
  const struct bus_entry *entry = bus_neighbour_find(feed, BUS_OBJECT_HISTOGRAM, "decode_ns");
  if (entry)
    bus_histogram_copy(copy, bus_neighbour_object(feed, entry));
  bus_neighbour_detach(feed);
}

static int report(struct trader *trader)
{
  static struct bus_histogram decode;
  copy_feed_stage(trader, &decode);
  const struct bus_latency_stage stages[] = {
      {"tick received -> feature published", &decode},
      {"tick received -> inference starts", trader->stages[STAGE_QUEUE]},
      {"inference", trader->stages[STAGE_INFERENCE]},
      {"inference ends -> signal visible", trader->stages[STAGE_DELIVERY]},
      {"tick received -> signal visible", trader->stages[STAGE_TOTAL]},
  };
  printf("%" PRIu64 " signals: %" PRIu64 " buy, %" PRIu64 " flat, %" PRIu64 " sell; %" PRIu64
         " lost to overruns\n\n",
         *trader->signals_counter, *trader->directions[2], *trader->directions[1],
         *trader->directions[0], *trader->signals_lost);
  bus_latency_report_text(stdout, stages, BUS_COUNT_OF(stages));
  int error = BUS_OK;
  if (trader->json_path)
    error = write_file(trader->json_path, stages, BUS_COUNT_OF(stages), NULL);
  if (!error && trader->hgrm_path)
    error = write_file(trader->hgrm_path, NULL, 0, trader->stages[STAGE_TOTAL]);
  return error;
}

static void clean_up(struct trader *trader, int error)
{
  bus_subscription_close(&trader->signals);
  bus_neighbour_detach(trader->feed);
  bus_member_leave(trader->member, error ? BUS_STATE_FAIL : BUS_STATE_HALT);
}

/* ---- options ---- */

enum {
  OPTION_INFER = 1,
  OPTION_FEED,
  OPTION_COUNT,
  OPTION_SECONDS,
  OPTION_FROM_OLDEST,
  OPTION_TABLE,
  OPTION_OUTPUT,
  OPTION_JSON,
  OPTION_HGRM,
  OPTION_OBSERVE_ONLY,
  OPTION_HELP,
  OPTION_VERSION
};

static const struct option options[] = {BUS_MEMBER_OPTIONS,
                                        {"infer", required_argument, NULL, OPTION_INFER},
                                        {"feed", required_argument, NULL, OPTION_FEED},
                                        {"count", required_argument, NULL, OPTION_COUNT},
                                        {"seconds", required_argument, NULL, OPTION_SECONDS},
                                        {"from-oldest", no_argument, NULL, OPTION_FROM_OLDEST},
                                        {"table", required_argument, NULL, OPTION_TABLE},
                                        {"output", required_argument, NULL, OPTION_OUTPUT},
                                        {"json", required_argument, NULL, OPTION_JSON},
                                        {"hgrm", required_argument, NULL, OPTION_HGRM},
                                        {"observe-only", no_argument, NULL, OPTION_OBSERVE_ONLY},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {NULL, 0, NULL, 0}};

static int take_number(const char *value, const char *what, uint64_t *number)
{
  int64_t parsed = 0;
  int error = bus_parse_integer(value, 0, 1000000000000, what, &parsed);
  *number = (uint64_t)parsed;
  return error;
}

static int take_option(struct trader *trader, int option, const char *value)
{
  switch (option) {
  case OPTION_INFER:
    trader->infer_name = value;
    return BUS_OK;
  case OPTION_FEED:
    trader->feed_name = value;
    return BUS_OK;
  case OPTION_COUNT:
    return take_number(value, "count", &trader->count_max);
  case OPTION_SECONDS:
    return take_number(value, "seconds", &trader->seconds);
  case OPTION_FROM_OLDEST:
    trader->from_oldest = true;
    return BUS_OK;
  case OPTION_TABLE:
    if (strcmp(value, "auto") && strcmp(value, "always") && strcmp(value, "never"))
      return bus_error_set(BUS_ERROR_INVALID, "table '%s': use auto, always or never", value);
    trader->table = value[1] == 'l' || (value[1] == 'u' && isatty(STDOUT_FILENO));
    return BUS_OK;
  case OPTION_OUTPUT:
    trader->output_path = value;
    return BUS_OK;
  case OPTION_JSON:
    trader->json_path = value;
    return BUS_OK;
  case OPTION_HGRM:
    trader->hgrm_path = value;
    return BUS_OK;
  case OPTION_OBSERVE_ONLY:
    trader->observe_only = true;
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

static int parse(struct trader *trader, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == OPTION_HELP || option == OPTION_VERSION) {
      fputs(option == OPTION_HELP ? help : "bus-trader (signal-bus) " BUS_VERSION "\n", stdout);
      return 1;
    }
    int taken = bus_member_options_take(&trader->options, option, optarg);
    if (taken == 0)
      taken = take_option(trader, option, optarg);
    if (taken < 0)
      return taken;
  }
  if (optind < argc)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s'; see --help", argv[optind]);
  return 0;
}

int main(int argc, char **argv)
{
  static const struct bus_loop_operations operations = {work, housekeeping, NULL};
  static struct trader trader;
  static char output_buffer[1 << 16]; /* so that printing in the loop allocates nothing */
  setvbuf(stdout, output_buffer, _IOFBF, sizeof output_buffer);
  bus_member_options_init(&trader.options, "trader");
  trader.infer_name = "infer";
  trader.table = isatty(STDOUT_FILENO);
  int parsed = parse(&trader, argc, argv);
  if (parsed != 0) {
    if (parsed < 0)
      bus_log(BUS_LOG_ERROR, "bus-trader: %s", bus_error_message());
    return parsed < 0 ? 2 : 0;
  }
  bus_loop_handle_signals();
  if (bus_notify_open() != BUS_OK)
    bus_log(BUS_LOG_WARNING, "bus-trader: %s", bus_error_message());
  int error = set_up(&trader);
  if (!error) {
    bus_subscription_maintain(&trader.signals, 0);
    if (trader.member)
      bus_member_run(trader.member);
    error = bus_loop_run(&trader.loop, &operations, &trader);
    if (trader.output && fclose(trader.output) != 0 && !error)
      error = bus_error_set_errno("%s: writing signals", trader.output_path);
    int reported = report(&trader);
    error = error ? error : reported;
  }
  if (error)
    bus_log(BUS_LOG_ERROR, "bus-trader: %s", bus_error_message());
  bool missed = !error && *trader.signals_lost > 0;
  clean_up(&trader, error);
  return error ? 1 : missed ? 3 : 0;
}
