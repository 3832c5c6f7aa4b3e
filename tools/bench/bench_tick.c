/* bench_tick.c: feature published -> signal visible, over the real bus and the real bus-infer.
 *
 * Two processes that spin, each on a core of its own: this one is the feed and the trader, the
 * other is the inference member. The feed publishes a tick when it is due, then looks for the
 * signal; both times are readings of one clock. */
#include "tools/bench/bench_lines.h"
#include "tools/bench/bench_machine.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_trials.h"

#include "consumers/decision.h"
#include "consumers/infer_member.h"
#include "shm/subscription.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEED         "feed"
#define INFER        "infer"
#define FEATURE_RING "features"
#define RING_DEPTH   16384u
#define SYMBOLS_MAX  256u
#define TICKS_PREPARED                                                                             \
  4096u /* different ticks, used in turn: they fit into the second-level cache */
#define WARM_UP_TICKS  2000u
#define CHECK_EVERY    0xfffffu /* empty polls, some ms */
#define HOUSE_EVERY_NS 10000000u
#define SETTLE_NS      5000u /* after housekeeping, before the next tick is due */
#define ENGINES_MAX    4u

/* One engine with all that is measured of it. */
struct variant {
  char kind[16];
  enum bus_engine_id id;
  struct bench_measure *tick_ns;
  struct bench_measure *due_ns;
  struct bench_measure *queue_ns;
  struct bench_measure *inference_ns;
  struct bench_measure *rest_ns;
  struct bench_measure *batch;
};

struct run {
  struct bench_report *report;
  const struct bench_options *options;
  const char *directory;
  struct bench_lines lines;
  struct bus_feature *features; /* the ticks */
  struct bus_signal *expected;  /* what each must become */
  uint64_t prepared;            /* of both */
  struct variant variants[ENGINES_MAX];
  uint32_t variant_count;
};

/* The bus of one trial, as this process sees it. */
struct link {
  const struct run *run;
  const struct variant *variant;
  struct bus_member *member;
  struct bus_producer producer;
  struct bus_backlink backlink;
  struct bus_subscription subscription; /* to the signals */
  pid_t child;
  uint64_t next; /* number of the next tick to publish */
  uint64_t next_housekeeping_ns;
  /* Of the ticks under way: */
  uint64_t published_ns[BUS_ENGINE_BATCH_MAX];
  uint64_t visible_ns[BUS_ENGINE_BATCH_MAX];
  struct bus_signal signals[BUS_ENGINE_BATCH_MAX];
  uint64_t batch_sum;
};

/* ---- the inference member, in its own process ---- */

static int run_infer(void *context)
{
  const struct link *link = context;
  const struct bench_options *options = link->run->options;
  struct bus_infer_config config = {.feeds = {FEED},
                                    .feed_count = 1,
                                    .model_path = options->model_path,
                                    .engine_kind = link->variant->kind,
                                    .batch_max = options->batch_max,
                                    .ring_depth = RING_DEPTH,
                                    .symbols_max = SYMBOLS_MAX};
  bus_member_options_init(&config.options, INFER);
  config.options.directory = link->run->directory;
  config.options.core = options->cores[1];
  config.options.idle = options->idle;
  config.options.small_pages = options->small_pages;
  struct bus_infer *infer;
  int error = bus_infer_new(&config, &infer);
  if (error)
    return error;
  error = bus_infer_run(infer);
  bus_infer_delete(infer);
  return error;
}

/* ---- feed and trader ---- */

static int open_feed(struct link *link)
{
  const struct bus_object_spec objects[] = {
      {.type = BUS_OBJECT_RING,
       .name = FEATURE_RING,
       .peer = INFER,
       .record_type = BUS_RECORD_FEATURE,
       .record_size = sizeof(struct bus_feature),
       .policy = BUS_POLICY_WAIT,
       .depth = RING_DEPTH},
      {.type = BUS_OBJECT_SYMBOLS, .name = "symbols", .depth = SYMBOLS_MAX}};
  struct bus_member_config config = {.directory = link->run->directory,
                                     .name = FEED,
                                     .kind = "feed",
                                     .objects = objects,
                                     .object_count = BUS_COUNT_OF(objects),
                                     .takeover = BUS_TAKEOVER_NEVER,
                                     .numa_node = -1,
                                     .core = link->run->options->cores[0],
                                     .small_pages = link->run->options->small_pages};
  int error = bus_member_new(&config, &link->member);
  if (error)
    return error;
  const struct bus_entry *entry = bus_member_entry(link->member, BUS_OBJECT_RING, FEATURE_RING);
  bus_producer_init(&link->producer, bus_member_object(link->member, BUS_OBJECT_RING, FEATURE_RING),
                    entry, bus_member_header(link->member)->instance);
  error = bus_backlink_init(&link->backlink, link->run->directory, FEED, entry, &link->producer);
  if (!error)
    error = bus_subscription_init(&link->subscription, link->run->directory, INFER, BUS_INFER_RING,
                                  BUS_RECORD_SIGNAL, sizeof(struct bus_signal), NULL);
  link->subscription.from_oldest = true;
  bus_member_run(link->member);
  return error;
}

static int infer_ended(void)
{
  return bus_error_set(BUS_ERROR_IO, "the inference process has ended; its message is above");
}

/* Waits until both sides are attached to each other. */
static int attach(struct link *link)
{
  while (!bench_stopped()) {
    bus_member_heartbeat(link->member, bench_now_ns());
    if (bus_backlink_maintain(&link->backlink) >= 0 &&
        bus_subscription_maintain(&link->subscription, 0) >= 0)
      return BUS_OK;
    if (!bench_child_is_running(&link->child))
      return infer_ended();
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
  }
  return bench_stop_error();
}

static void close_link(struct link *link)
{
  bench_reap(&link->child, true);
  bus_subscription_close(&link->subscription);
  bus_backlink_close(&link->backlink);
  bus_member_leave(link->member, BUS_STATE_HALT);
  bench_directory_clear();
}

/* What members do every 10 ms; between ticks, so that it is in none. */
static int keep_house(struct link *link, uint64_t now_ns)
{
  link->next_housekeeping_ns = now_ns + HOUSE_EVERY_NS;
  bus_clock_anchor(&bench_clock); /* or queue_ns would show how far two clocks have drifted apart */
  bus_member_heartbeat(link->member, now_ns);
  bus_producer_report(&link->producer);
  if (bus_backlink_maintain(&link->backlink) != 0 ||
      bus_subscription_maintain(&link->subscription, 0) != 0)
    return bench_child_is_running(&link->child)
               ? bus_error_context(BUS_ERROR_IO, "the inference member was lost")
               : infer_ended();
  return bench_stop_error();
}

/* Publishes tick `number` of the trial as the `index`th of its batch. There is always room: what
 * was published before is answered. */
static BUS_ALWAYS_INLINE bool publish(struct link *link, uint64_t number, uint32_t index)
{
  bus_word *slot = (bus_word *)bus_producer_reserve(&link->producer);
  if (BUS_UNLIKELY(!slot))
    return false;
  const struct run *run = link->run;
  const bus_word *from = (const bus_word *)&run->features[number % run->prepared];
  for (uint64_t i = 1; i < sizeof(struct bus_feature) / sizeof(bus_word) - 1; i++)
    BUS_STORE_RELAXED(&slot[i], from[i]);
  uint64_t now_ns = bench_now_ns();
  BUS_STORE_RELAXED(&slot[0], now_ns); /* timestamp_ns */
  link->published_ns[index] = now_ns;
  bus_producer_commit(&link->producer);
  return true;
}

/* Spins until the signal of the `index`th tick of the batch is here. */
static BUS_ALWAYS_INLINE int await_signal(struct link *link, uint32_t index)
{
  int status;
  for (uint64_t polls = 1;
       (status = bus_observer_poll(&link->subscription.observer, &link->signals[index])) == 0;
       polls++)
    if (BUS_UNLIKELY((polls & CHECK_EVERY) == 0)) {
      if (bench_stopped())
        return bench_stop_error();
      if (!bench_child_is_running(&link->child))
        return infer_ended();
    }
  link->visible_ns[index] = bench_now_ns();
  return status == 1 ? BUS_OK : bus_error_set(status, "signals were lost");
}

static bool same_bits(const float *left, const float *right)
{
  uint32_t a[3], b[3];
  memcpy(a, left, sizeof a);
  memcpy(b, right, sizeof b);
  return a[0] == b[0] && a[1] == b[1] && a[2] == b[2];
}

/* Every bit that the tick determines. */
static int check_signal(const struct link *link, uint64_t number, uint32_t index)
{
  const struct bus_signal *signal = &link->signals[index];
  const struct bus_signal *expected = &link->run->expected[number % link->run->prepared];
  const uint8_t flags = BUS_SIGNAL_VALID | BUS_SIGNAL_STALE;
  if (signal->feature_position == number && signal->timestamp_ns == link->published_ns[index] &&
      signal->target_price == expected->target_price && same_bits(signal->score, expected->score) &&
      signal->symbol == expected->symbol && signal->source == 0 &&
      signal->model == expected->model && signal->direction == expected->direction &&
      signal->confidence == expected->confidence && signal->engine == link->variant->id &&
      (signal->flags & flags) == (expected->flags & flags))
    return BUS_OK;
  return bus_error_set(BUS_ERROR_CORRUPT,
                       "the signal of tick %" PRIu64 " is wrong: position %" PRIu64
                       ", direction %d, confidence %u, where %d and %u were expected",
                       number, signal->feature_position, signal->direction, signal->confidence,
                       expected->direction, expected->confidence);
}

static void record(const struct variant *variant, uint32_t trial, const struct bus_signal *signal,
                   uint64_t due_ns, uint64_t visible_ns)
{
  uint64_t tick_ns = visible_ns - signal->timestamp_ns;
  uint64_t stages_ns = (uint64_t)signal->queue_ns + signal->inference_ns;
  bus_histogram_record(&variant->tick_ns->histograms[trial], tick_ns);
  bus_histogram_record(&variant->due_ns->histograms[trial], visible_ns - due_ns);
  bus_histogram_record(&variant->queue_ns->histograms[trial], signal->queue_ns);
  bus_histogram_record(&variant->inference_ns->histograms[trial], signal->inference_ns);
  /* The stages were timed by the other process's clock, which may be some ns apart. */
  bus_histogram_record(&variant->rest_ns->histograms[trial],
                       tick_ns > stages_ns ? tick_ns - stages_ns : 0);
}

/* Publishes `count` ticks that are due now and takes their signals. `trial` < 0: records nothing.
 */
static int exchange(struct link *link, uint32_t count, uint64_t due_ns, int trial)
{
  const uint64_t first = link->next;
  link->next += count;
  for (uint32_t i = 0; i < count; i++)
    if (!publish(link, first + i, i))
      return bus_error_set(BUS_ERROR_IO, "the feature ring is full");
  for (uint32_t i = 0; i < count; i++) {
    int error = await_signal(link, i);
    if (error)
      return error;
  }
  for (uint32_t i = 0; i < count; i++) {
    int error = check_signal(link, first + i, i);
    if (error)
      return error;
    if (trial < 0)
      continue;
    record(link->variant, (uint32_t)trial, &link->signals[i], due_ns, link->visible_ns[i]);
    link->batch_sum += link->signals[i].batch;
  }
  return BUS_OK;
}

/* `count` ticks at the asked rate. */
static int pace(struct link *link, uint64_t count, int trial)
{
  const struct bench_options *options = link->run->options;
  uint64_t due_ns = bench_now_ns();
  int error = BUS_OK;
  for (uint64_t done = 0; done < count && !error;) {
    uint64_t left = count - done;
    uint32_t batch = left < options->batch_max ? (uint32_t)left : options->batch_max;
    uint64_t now_ns = bench_now_ns();
    if ((int64_t)(now_ns - link->next_housekeeping_ns) >= 0) {
      error = keep_house(link, now_ns);
      due_ns = bench_now_ns() + SETTLE_NS;
    }
    while ((int64_t)(bench_now_ns() - due_ns) < 0)
      bus_cpu_relax();
    if (!error)
      error = exchange(link, batch, due_ns, trial);
    done += batch;
    /* Without an interval a tick is due when the one before is answered. */
    due_ns = options->interval_ns ? due_ns + options->interval_ns : bench_now_ns();
  }
  return error;
}

static int run_trial(void *context, uint32_t group, uint32_t trial)
{
  struct run *run = context;
  const struct variant *variant = &run->variants[group];
  struct link link = {.run = run, .variant = variant};
  int error = open_feed(&link);
  if (!error) {
    link.child = bench_fork(run->options->cores[1], run->options->cores[0], run_infer, &link);
    error = link.child > 0 ? attach(&link) : (int)link.child;
  }
  if (!error)
    error = pace(&link, WARM_UP_TICKS, -1);
  if (!error)
    error = pace(&link, run->options->count, (int)trial);
  variant->batch->values[trial] = (double)link.batch_sum / (double)run->options->count;
  close_link(&link);
  return error;
}

/* ---- set-up ---- */

static int add_variant(struct run *run, const char *kind, enum bus_engine_id id)
{
  struct variant *variant = &run->variants[run->variant_count++];
  snprintf(variant->kind, sizeof variant->kind, "%s", kind);
  variant->id = id;
  struct bench_report *report = run->report;
  uint32_t group = bench_report_group(report, kind);
  const struct {
    struct bench_measure **measure;
    const char *name;
    bool plotted;
  } histograms[] = {{&variant->tick_ns, "published -> visible", true},
                    {&variant->queue_ns, "  published -> taken", true},
                    {&variant->inference_ns, "  inference", true},
                    {&variant->rest_ns, "  inferred -> visible", true},
                    {&variant->due_ns, "due -> visible", false}};
  for (size_t i = 0; i < BUS_COUNT_OF(histograms); i++) {
    *histograms[i].measure =
        bench_report_measure(report, group, histograms[i].name, "ns", true, histograms[i].plotted);
    if (!*histograms[i].measure)
      return BUS_ERROR_NO_SPACE;
  }
  variant->batch =
      bench_report_measure(report, group, "ticks inferred together", "ticks", false, false);
  return variant->batch ? BUS_OK : BUS_ERROR_NO_SPACE;
}

/* The engines asked for; with "all" those that this CPU runs. */
static int add_variants(struct run *run, const struct bus_model *model)
{
  static const char *const all[] = {"scalar", "avx2", "avx512"};
  const bool every = !strcmp(run->options->engine_kind, "all");
  const uint32_t count = every ? BUS_COUNT_OF(all) : 1;
  for (uint32_t i = 0; i < count; i++) {
    const char *kind = every ? all[i] : run->options->engine_kind;
    struct bus_engine_config config = {.batch_max = 1};
    struct bus_engine *engine;
    int error = bus_engine_open(kind, model, &config, &engine);
    if (error == BUS_ERROR_UNSUPPORTED && every)
      continue;
    if (error)
      return error;
    error = add_variant(run, engine->name, engine->id);
    bench_report_note(run->report, "engine %s: %s", engine->name, engine->describe);
    bus_engine_close(engine);
    if (error)
      return error;
  }
  return BUS_OK;
}

static int expect_signal(struct bus_engine *engine, const struct bus_feature *feature,
                         struct bus_signal *expected)
{
  const struct bus_tick tick = {.bid_price = feature->bid_price,
                                .ask_price = feature->ask_price,
                                .symbol = feature->symbol,
                                .flags = feature->flags};
  struct bus_engine_result result;
  if (bus_engine_submit(engine, feature->x, BUS_FEATURE_INPUTS, 1, 0) != BUS_OK ||
      bus_engine_poll(engine, &result) != 1)
    return bus_error_set(BUS_ERROR_IO, "the scalar engine failed");
  bus_decision_fill(expected, &tick, result.scores[0]);
  expected->model = engine->model_id;
  return BUS_OK;
}

/* What bus-infer must make of each tick, by the reference path. */
static int expect_signals(struct run *run, const struct bus_model *model)
{
  struct bus_engine_config config = {.batch_max = 1};
  struct bus_engine *engine;
  int error = bus_engine_open("scalar", model, &config, &engine);
  if (error)
    return error;
  for (uint64_t i = 0; i < run->prepared && !error; i++)
    error = expect_signal(engine, &run->features[i], &run->expected[i]);
  bus_engine_close(engine);
  return error;
}

static int prepare_ticks(struct run *run)
{
  const struct bench_options *options = run->options;
  const struct bench_capture *capture = options->capture_count ? &options->captures[0] : NULL;
  if (options->capture_count > 1)
    return bus_error_set(BUS_ERROR_INVALID, "one capture at most: its ticks are used in turn");
  int error = bench_lines_load(&run->lines, capture, 4 * TICKS_PREPARED);
  if (error)
    return error;
  int64_t made = bench_lines_features(&run->lines, TICKS_PREPARED, &run->features);
  if (made <= 0)
    return (int)made;
  run->prepared = (uint64_t)made;
  run->expected = calloc(TICKS_PREPARED, sizeof *run->expected);
  return run->expected ? BUS_OK : bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
}

static int prepare_model(struct run *run)
{
  struct bus_model *model;
  int error = bus_model_load(run->options->model_path, &model);
  if (error)
    return bus_error_context(error, "name one with --model");
  if (model->inputs != BUS_FEATURE_INPUTS)
    error = bus_error_set(BUS_ERROR_UNSUPPORTED, "%s: reads %u inputs, a feature record has %d",
                          run->options->model_path, model->inputs, BUS_FEATURE_INPUTS);
  if (!error)
    error = add_variants(run, model);
  if (!error)
    error = expect_signals(run, model);
  const char *slash = strrchr(run->options->model_path, '/');
  bench_report_note(run->report, "model: %.100s, crc32 %08x",
                    slash ? slash + 1 : run->options->model_path, model->crc32);
  bus_model_free(model);
  return error;
}

static void add_notes(struct run *run)
{
  const struct bench_options *options = run->options;
  bench_report_note(run->report,
                    "ticks: %" PRIu64 " a repetition, %u at a time every %" PRIu64 " ns; %" PRIu64
                    " different ones of %s",
                    options->count, options->batch_max, options->interval_ns, run->prepared,
                    run->lines.name);
  bench_report_note(run->report, "members: rings of %u records in %s; bus-infer idles by %s",
                    RING_DEPTH, options->directory, bus_idle_name(options->idle));
  bench_report_note(run->report,
                    "check: every signal is what the scalar engine makes of its tick, bit by bit");
}

static int measure_and_report(struct run *run, struct bench_options *options)
{
  static const char *const members[] = {FEED, INFER};
  int error = bench_machine_prepare(run->report, options, 2);
  if (error)
    return error;
  run->directory = bench_directory_make(options->directory, members, BUS_COUNT_OF(members));
  if (!run->directory)
    return BUS_ERROR_IO;
  add_notes(run);
  struct bench_trials trials = {
      .report = run->report, .options = options, .core_count = 2, .run = run_trial, .context = run};
  error = bench_trials_run(&trials);
  return error ? error : bench_report_write(run->report, options);
}

static int run_tick(const struct bench_options *given)
{
  struct bench_options options = *given;
  struct run run = {.options = &options, .report = bench_report_new("tick")};
  int error = run.report ? bench_clock_init() : BUS_ERROR_NO_SPACE;
  if (!error) {
    bench_machine_describe(run.report);
    error = prepare_ticks(&run);
  }
  if (!error)
    error = prepare_model(&run);
  if (!error)
    error = measure_and_report(&run, &options);
  bench_lines_free(&run.lines);
  free(run.features);
  free(run.expected);
  bench_report_delete(run.report);
  return error;
}

static const struct option tick_options[] = {
    {"capture", required_argument, NULL, BENCH_OPTION_CAPTURE},
    {"market", required_argument, NULL, BENCH_OPTION_MARKET},
    {"model", required_argument, NULL, BENCH_OPTION_MODEL},
    {"engine", required_argument, NULL, BENCH_OPTION_ENGINE},
    {"idle", required_argument, NULL, BENCH_OPTION_IDLE},
    {"interval", required_argument, NULL, BENCH_OPTION_INTERVAL},
    {"batch", required_argument, NULL, BENCH_OPTION_BATCH_MAX},
    {"count", required_argument, NULL, BENCH_OPTION_COUNT},
    {"directory", required_argument, NULL, BENCH_OPTION_DIRECTORY},
    {"small-pages", no_argument, NULL, BENCH_OPTION_SMALL_PAGES},
    BENCH_COMMON_OPTIONS};

const struct bench bench_tick = {
    .name = "tick",
    .summary = "feature published -> signal visible, through the real inference member",
    .help =
        "usage: bus-bench tick [options]\n"
        "\n"
        "Publishes feature records at a fixed rate into a ring of a member file; bus-infer's\n"
        "member, in a process and on a core of its own, turns them into signals, which the\n"
        "publishing process takes from the signal ring. The time of a tick is from just before\n"
        "its record is committed until its signal has been read; every signal is checked.\n"
        "\n"
        "  --engine KIND       auto (default), scalar, avx2, avx512, or all that this CPU runs\n"
        "  --idle STRATEGY     of bus-infer: spin (default), backoff or sleep\n"
        "  --interval N        ns between ticks (default 10000); 0: the next one is published "
        "when\n"
        "                      the one before is answered\n"
        "  --batch N           ticks published at once, and inferred together at most, 1..64\n"
        "                      (default 1)\n"
        "  --count N           ticks in each repetition (default 50000)\n"
        "  --model FILE        the model (default " BUS_DEFAULT_MODEL ")\n"
        "  --capture FILE      recorded Binance streams that the ticks are made from (default: "
        "the\n"
        "                      synthetic exchange)\n"
        "  --market MARKET     of the capture: spot (default) or usdm\n"
        "  --directory DIR     where the bus is made for the time of the run (default /dev/shm)\n"
        "  --small-pages       do not ask for huge pages\n"
        "  --cores A,B         the feed's and trader's core, and bus-infer's (default: the first "
        "two\n"
        "                      allowed)\n",
    .options = tick_options,
    .count_default = 50000,
    .run = run_tick};
