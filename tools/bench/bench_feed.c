/* bench_feed.c: what one Binance message costs on one core: decode, book, features, ring slot. */
#include "tools/bench/bench_lines.h"
#include "tools/bench/bench_machine.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_trials.h"

#include "shm/ring.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RING_DEPTH 16384u /* as bus-feed has by default */

enum kind { KIND_DEPTH, KIND_BOOK_TICKER, KIND_TRADE, KIND_SNAPSHOT, KIND_OTHER, KIND_COUNT };

static const char *const kind_names[KIND_COUNT] = {"depth", "bookTicker", "trade", "snapshot",
                                                   "other"};

/* One input with all that is measured on it. */
struct input {
  struct bench_lines lines;
  uint32_t group;
  struct bench_measure *mean_ns;
  struct bench_measure *single_ns;
  struct bench_measure *kinds_ns[KIND_COUNT];
  struct bus_feed_counters counters; /* of the last repetition */
};

struct run {
  struct bench_report *report;
  struct input inputs[BENCH_CAPTURES_MAX];
  uint32_t input_count;
  void *ring;
  struct bus_entry ring_entry;
  struct bus_producer producer;
};

static struct bus_feature *reserve(void *context)
{
  return bus_producer_reserve(context);
}

static void commit(void *context)
{
  bus_producer_commit(context);
}

/* A feed that starts afresh on an empty ring. */
static struct bus_feed *new_feed(struct run *run, const struct input *input)
{
  bus_ring_format(run->ring, &run->ring_entry, 0);
  bus_producer_init(&run->producer, run->ring, &run->ring_entry, 1);
  struct bus_feed_sink sink = {reserve, commit, &run->producer};
  return bench_lines_feed(&input->lines, &sink);
}

/* The whole input at full speed between two clock readings. As in bus-feed each message has the
 * time of its receipt read from the clock, which is part of its cost. */
static int measure_mean(struct run *run, struct input *input, double *mean_ns)
{
  struct bus_feed *feed = new_feed(run, input);
  if (!feed)
    return BUS_ERROR_NO_SPACE;
  const struct bench_lines *lines = &input->lines;
  uint64_t start_ns = bench_now_ns();
  for (uint64_t i = 0; i < lines->count; i++) {
    size_t length;
    const char *line = bench_lines_at(lines, i, &length);
    bus_feed_line(feed, line, length, bench_now_ns());
  }
  uint64_t end_ns = bench_now_ns();
  input->counters = *bus_feed_counters(feed);
  bus_feed_delete(feed);
  *mean_ns = (double)(end_ns - start_ns) / (double)lines->count;
  return BUS_OK;
}

/* Waits for everything before it, so that a reading belongs to its message alone. */
static BUS_ALWAYS_INLINE uint64_t fenced_now_ns(void)
{
#if defined(__x86_64__)
  __builtin_ia32_lfence();
  uint64_t now_ns = bench_now_ns();
  __builtin_ia32_lfence();
  return now_ns;
#else
  __asm__ volatile("" ::: "memory");
  return bench_now_ns();
#endif
}

/* What a message was, by the counter that it moved. */
static enum kind kind_of(const struct bus_feed_counters *before,
                         const struct bus_feed_counters *after)
{
  if (after->book_tickers + after->book_tickers_stale !=
      before->book_tickers + before->book_tickers_stale)
    return KIND_BOOK_TICKER;
  if (after->trades != before->trades)
    return KIND_TRADE;
  if (after->snapshots + after->snapshots_refused != before->snapshots + before->snapshots_refused)
    return KIND_SNAPSHOT;
  if (after->depth_applied + after->depth_held + after->depth_stale !=
      before->depth_applied + before->depth_held + before->depth_stale)
    return KIND_DEPTH;
  return KIND_OTHER;
}

static int measure_single(struct run *run, struct input *input, uint32_t trial)
{
  struct bus_feed *feed = new_feed(run, input);
  if (!feed)
    return BUS_ERROR_NO_SPACE;
  const struct bench_lines *lines = &input->lines;
  const struct bus_feed_counters *counters = bus_feed_counters(feed);
  struct bus_feed_counters before = *counters;
  for (uint64_t i = 0; i < lines->count; i++) {
    size_t length;
    const char *line = bench_lines_at(lines, i, &length);
    uint64_t start_ns = fenced_now_ns();
    bus_feed_line(feed, line, length, start_ns);
    uint64_t took_ns = fenced_now_ns() - start_ns;
    enum kind kind = kind_of(&before, counters);
    before = *counters;
    bus_histogram_record(&input->single_ns->histograms[trial], took_ns);
    bus_histogram_record(&input->kinds_ns[kind]->histograms[trial], took_ns);
  }
  bus_feed_delete(feed);
  return BUS_OK;
}

static int measure_trial(void *context, uint32_t group, uint32_t trial)
{
  struct run *run = context;
  struct input *input = &run->inputs[group]; /* groups are made in the order of the inputs */
  int error = measure_mean(run, input, &input->mean_ns->values[trial]);
  bench_breathe();
  return error ? error : measure_single(run, input, trial);
}

static int measure_all(struct run *run, const struct bench_options *options)
{
  double ignored;
  for (uint32_t i = 0; i < run->input_count; i++) { /* warms the caches and the allocator up */
    int error = measure_mean(run, &run->inputs[i], &ignored);
    if (error)
      return error;
  }
  struct bench_trials trials = {.report = run->report,
                                .options = options,
                                .core_count = 1,
                                .run = measure_trial,
                                .context = run};
  return bench_trials_run(&trials);
}

static int add_measures(struct run *run, struct input *input)
{
  struct bench_report *report = run->report;
  input->group = bench_report_group(report, input->lines.name);
  input->mean_ns = bench_report_measure(report, input->group, "mean of all messages", "ns/message",
                                        false, false);
  input->single_ns =
      bench_report_measure(report, input->group, "single messages", "ns", true, true);
  if (!input->mean_ns || !input->single_ns)
    return BUS_ERROR_NO_SPACE;
  for (int i = 0; i < KIND_COUNT; i++) {
    char name[64];
    snprintf(name, sizeof name, "  %s", kind_names[i]);
    input->kinds_ns[i] = bench_report_measure(report, input->group, name, "ns", true, false);
    if (!input->kinds_ns[i])
      return BUS_ERROR_NO_SPACE;
  }
  return BUS_OK;
}

static int load_inputs(struct run *run, const struct bench_options *options)
{
  run->input_count = options->capture_count ? options->capture_count : 1;
  for (uint32_t i = 0; i < run->input_count; i++) {
    struct input *input = &run->inputs[i];
    int error = bench_lines_load(
        &input->lines, options->capture_count ? &options->captures[i] : NULL, options->count);
    if (!error)
      error = add_measures(run, input);
    if (error)
      return error;
  }
  return BUS_OK;
}

static int make_ring(struct run *run)
{
  run->ring_entry = (struct bus_entry){.name = "features",
                                       .type = BUS_OBJECT_RING,
                                       .record_type = BUS_RECORD_FEATURE,
                                       .record_size = sizeof(struct bus_feature),
                                       .policy = BUS_POLICY_OVERWRITE,
                                       .depth = RING_DEPTH};
  run->ring_entry.size = bus_layout_object_bytes(&run->ring_entry);
  run->ring = aligned_alloc(4096, BUS_ALIGN_UP(run->ring_entry.size, (uint64_t)4096));
  if (!run->ring)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  memset(run->ring, 0, run->ring_entry.size);
  return BUS_OK;
}

/* What the table does not say by itself. */
static void add_input_notes(struct run *run)
{
  for (uint32_t i = 0; i < run->input_count; i++) {
    const struct input *input = &run->inputs[i];
    const struct bus_feed_counters *counters = &input->counters;
    struct bench_summary summary;
    bench_report_summarize(run->report, input->mean_ns, &summary);
    bench_report_note(run->report,
                      "input %u: %s, %s: %" PRIu64 " lines of %.0f bytes on average, %" PRIu64
                      " messages, %" PRIu64 " records, %" PRIu64 " refused",
                      i + 1, input->lines.name, input->lines.usdm ? "USD-M" : "spot",
                      input->lines.count, (double)input->lines.size / (double)input->lines.count,
                      counters->messages, counters->records,
                      counters->garbage_lines + counters->oversize_lines);
    bench_report_note(
        run->report,
        "speed %u: %.0f messages/s, %.0f MB/s; reading it in took %.0f ms more, which "
        "is in no figure",
        i + 1, 1e9 / summary.median,
        (double)input->lines.size * 1e3 / (double)input->lines.count / summary.median,
        (double)input->lines.load_ns / 1e6);
  }
}

/* How many messages of each kind, and what part of the time they take. */
static void add_share_notes(struct run *run)
{
  for (uint32_t i = 0; i < run->input_count; i++) {
    char text[200] = "";
    struct bus_histogram all, part;
    bench_report_merge(run->report, run->inputs[i].single_ns, &all);
    for (int kind = 0; kind < KIND_COUNT; kind++) {
      bench_report_merge(run->report, run->inputs[i].kinds_ns[kind], &part);
      size_t used = strlen(text);
      if (part.count)
        snprintf(text + used, sizeof text - used, "%s%s %.1f %% (%.1f %%)", used ? ", " : "",
                 kind_names[kind], 100.0 * (double)part.count / (double)all.count,
                 100.0 * (double)part.sum / (double)all.sum);
    }
    bench_report_note(run->report, "share %u: of messages (of time): %s", i + 1, text);
  }
}

static int measure_and_report(struct run *run, struct bench_options *options)
{
  int error = bench_machine_prepare(run->report, options, 1);
  if (!error)
    error = make_ring(run);
  if (!error)
    error = measure_all(run, options);
  if (error)
    return error;
  add_input_notes(run);
  add_share_notes(run);
  bench_report_note(run->report, "timing: the means are of passes without a clock around each "
                                 "message; single messages are of a pass apart");
  return bench_report_write(run->report, options);
}

static int run_feed(const struct bench_options *given)
{
  struct bench_options options = *given;
  struct run *run = calloc(1, sizeof *run);
  if (!run)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  run->report = bench_report_new("feed");
  int error = run->report ? bench_clock_init() : BUS_ERROR_NO_SPACE;
  if (!error) {
    run->report->canary = "100 multiplications, each of the product before it";
    bench_machine_describe(run->report);
    error = load_inputs(run, &options);
  }
  if (!error)
    error = measure_and_report(run, &options);
  for (uint32_t i = 0; i < run->input_count; i++)
    bench_lines_free(&run->inputs[i].lines);
  free(run->ring);
  bench_report_delete(run->report);
  free(run);
  return error;
}

static const struct option feed_options[] = {
    {"capture", required_argument, NULL, BENCH_OPTION_CAPTURE},
    {"market", required_argument, NULL, BENCH_OPTION_MARKET},
    {"count", required_argument, NULL, BENCH_OPTION_COUNT},
    BENCH_COMMON_OPTIONS};

const struct bench bench_feed = {
    .name = "feed",
    .summary = "decoding, book and features: ns for one Binance message on one core",
    .help = "usage: bus-bench feed [--capture FILE [--market spot|usdm]]... [options]\n"
            "\n"
            "Pushes a whole capture, read into memory before, through a feed into a private ring\n"
            "of 16384 records, and tells the mean time of a message; then once more with a clock\n"
            "around each message, for the percentiles.\n"
            "\n"
            "  --capture FILE      recorded Binance streams, plain or gzip (default: 200000 lines "
            "of the\n"
            "                      synthetic exchange); may be repeated\n"
            "  --market MARKET     of the capture before it: spot (default) or usdm\n"
            "  --count N           takes the first N lines of each input only\n"
            "  --cores A           the core (default: the first allowed)\n",
    .options = feed_options,
    .run = run_feed};
