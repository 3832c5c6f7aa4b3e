/* bench_ring.c: the bus's ring beside its peers and the limit of the machine, in one run. */
#include "shm/options.h"
#include "tools/bench/bench_machine.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_report.h"
#include "tools/bench/bench_trials.h"
#include "tools/bench/ring_loops.h"
#include "tools/bench/ring_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORK_NS             17.5 /* for each hungry message */
#define DEPTH_DEFAULT       4096u
#define RING_BYTES_MAX      ((uint64_t)4 << 20) /* of a ring whose depth nobody asked for */
#define TABLE_BYTES         16384u              /* of messages: at home in any first-level cache */
#define TABLE_COUNT_MIN     16u
#define DEPTH_OF_MANY       256u /* least depth of each of several rings */
#define QUICK_REPEAT        2u
#define QUICK_DIVISOR       16u
#define INTERVAL_DEFAULT_NS 1000u

/* What was asked for, beyond struct bench_options. */
static struct {
  bool sizes[RING_SIZES];
  bool workloads[RING_WORKLOADS];
  bool any_size, any_workload;
  uint64_t depth;       /* 0: by message size */
  uint64_t interval_ns; /* 0: INTERVAL_DEFAULT_NS */
  bool threads;
  bool tight;
  bool observer;
  bool quick;
  uint32_t rings[8];
  uint32_t ring_count;
} asked;

struct run {
  struct bench_report *report;
  struct bench_options options;
  struct ring_entry entries[RING_ENTRIES_MAX];
  uint32_t entry_count;
  uint64_t *tables[RING_SIZES];
  uint64_t table_masks[RING_SIZES];
  uint64_t work_steps;
  struct ring_trial *trial; /* shared */
  uint64_t observed, overrun;
};

/* ---- options ---- */

enum {
  OPTION_SIZE = BENCH_OPTION_OWN,
  OPTION_WORKLOAD,
  OPTION_DEPTH,
  OPTION_INTERVAL,
  OPTION_MODE,
  OPTION_WAIT,
  OPTION_OBSERVER,
  OPTION_RINGS,
  OPTION_QUICK
};

static bool is_power_of_two(uint64_t number)
{
  return number && (number & (number - 1)) == 0;
}

static int take_size(const char *word)
{
  for (int size = 0; size < RING_SIZES; size++) {
    char bytes[16];
    snprintf(bytes, sizeof bytes, "%u", ring_size_bytes((enum ring_size)size));
    if (!strcmp(word, bytes)) {
      asked.sizes[size] = asked.any_size = true;
      return BUS_OK;
    }
  }
  return bus_error_set(BUS_ERROR_INVALID, "message size '%s': use 8, 64, 128 or 16384", word);
}

static int take_workload(const char *word)
{
  for (int workload = 0; workload < RING_WORKLOADS; workload++)
    if (!strcmp(word, ring_workload_name((enum ring_workload)workload))) {
      asked.workloads[workload] = asked.any_workload = true;
      return BUS_OK;
    }
  return bus_error_set(BUS_ERROR_INVALID, "workload '%s': use saturated, hungry, rtt or paced",
                       word);
}

static int take_ring_count(const char *word)
{
  int64_t number = 0;
  int error = bus_parse_integer(word, 1, RING_RINGS_MAX, "rings", &number);
  if (!error && !is_power_of_two((uint64_t)number))
    error = bus_error_set(BUS_ERROR_INVALID, "rings %s: use powers of two", word);
  if (!error && asked.ring_count == BUS_COUNT_OF(asked.rings))
    error = bus_error_set(BUS_ERROR_INVALID, "more than %zu numbers of rings",
                          BUS_COUNT_OF(asked.rings));
  if (!error)
    asked.rings[asked.ring_count++] = (uint32_t)number;
  return error;
}

/* "A,B,C": `take` for each. */
static int take_list(const char *value, int (*take)(const char *word))
{
  char text[128];
  if (strlen(value) >= sizeof text)
    return bus_error_set(BUS_ERROR_INVALID, "'%.20s...' is too long a list", value);
  strcpy(text, value);
  char *rest = text;
  int error = BUS_OK;
  for (char *word; !error && (word = strsep(&rest, ",")) != NULL;)
    error = take(word);
  return error;
}

static int take_depth(const char *value)
{
  int64_t depth = 0;
  int error = bus_parse_integer(value, RING_DEPTH_MIN, RING_DEPTH_MAX, "depth", &depth);
  if (!error && !is_power_of_two((uint64_t)depth))
    error = bus_error_set(BUS_ERROR_INVALID, "depth %s: use a power of two", value);
  asked.depth = (uint64_t)depth;
  return error;
}

static int take_interval(const char *value)
{
  int64_t interval_ns = 0;
  int error = bus_parse_integer(value, 1, 1000000000, "interval", &interval_ns);
  asked.interval_ns = (uint64_t)interval_ns;
  return error;
}

static int take_option(int option, const char *value)
{
  switch (option) {
  case OPTION_SIZE:
    return take_list(value, take_size);
  case OPTION_WORKLOAD:
    return take_list(value, take_workload);
  case OPTION_DEPTH:
    return take_depth(value);
  case OPTION_INTERVAL:
    return take_interval(value);
  case OPTION_MODE:
    asked.threads = !strcmp(value, "threads");
    if (!asked.threads && strcmp(value, "processes") != 0)
      return bus_error_set(BUS_ERROR_INVALID, "mode '%s': use processes or threads", value);
    return BUS_OK;
  case OPTION_WAIT:
    asked.tight = !strcmp(value, "tight");
    if (!asked.tight && strcmp(value, "pause") != 0)
      return bus_error_set(BUS_ERROR_INVALID, "wait '%s': use pause or tight", value);
    return BUS_OK;
  case OPTION_OBSERVER:
    asked.observer = true;
    return BUS_OK;
  case OPTION_RINGS:
    return take_list(value, take_ring_count);
  case OPTION_QUICK:
    asked.quick = true;
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

/* ---- who takes part ---- */

static const struct ring_contestant *const contestants[] = {
    &ring_bus,
#ifdef BENCH_HAVE_CK
    &ring_ck,
#endif
#ifdef BENCH_HAVE_DPDK
    &ring_dpdk,         &ring_dpdk_burst,
#endif
#ifdef BENCH_HAVE_BOOST
    &ring_boost,
#endif
#ifdef BENCH_HAVE_READERWRITER
    &ring_readerwriter,
#endif
    &ring_lines,
};

static void add_entry(struct run *run, struct ring_entry entry)
{
  const struct ring_code *code = entry.contestant->code[entry.size];
  if (!code || !code->lead[entry.workload] || run->entry_count == RING_ENTRIES_MAX)
    return;
  char rings[16] = "";
  if (entry.rings > 1 || entry.contestant == &ring_bus_many)
    snprintf(rings, sizeof rings, ", %u rings", entry.rings);
  snprintf(entry.label, sizeof entry.label, "%s%s%s%s", entry.contestant->name, rings,
           entry.with_observer ? ", idle observer" : "", entry.between_threads ? ", threads" : "");
  run->entries[run->entry_count++] = entry;
}

/* Everybody in one workload at one size: these are measured next to each other. */
static void add_contest(struct run *run, struct ring_entry entry)
{
  bool threads_needed = false;
  for (size_t i = 0; i < BUS_COUNT_OF(contestants); i++) {
    entry.contestant = contestants[i];
    entry.between_threads = asked.threads || !contestants[i]->between_processes;
    threads_needed |= entry.between_threads;
    add_entry(run, entry);
  }
  entry.contestant = &ring_bus;
  entry.between_threads = threads_needed;
  if (threads_needed && !asked.threads)
    add_entry(run, entry);
  entry.between_threads = asked.threads;
  entry.with_observer = true;
  if (asked.observer)
    add_entry(run, entry);
  entry.with_observer = false;
  entry.contestant = &ring_bus_many;
  for (uint32_t i = 0; i < asked.ring_count && entry.workload != RING_ROUND_TRIP; i++) {
    entry.rings = asked.rings[i];
    add_entry(run, entry);
  }
}

static int add_entries(struct run *run)
{
  for (int size = 0; size < RING_SIZES; size++)
    for (int workload = 0; workload < RING_WORKLOADS; workload++)
      if ((asked.sizes[size] || !asked.any_size) &&
          (asked.workloads[workload] || !asked.any_workload))
        add_contest(run, (struct ring_entry){.size = (enum ring_size)size,
                                             .workload = (enum ring_workload)workload,
                                             .rings = 1});
  /* One size is plotted: 64 bytes where it is measured. */
  enum ring_size plotted = RING_SIZE_64;
  if (asked.any_size && !asked.sizes[RING_SIZE_64] && run->entry_count)
    plotted = run->entries[0].size;
  for (uint32_t i = 0; i < run->entry_count; i++) {
    struct ring_entry *entry = &run->entries[i];
    const char *workload = ring_workload_name(entry->workload);
    char name[128];
    snprintf(name, sizeof name, "%s, %s", entry->label, ring_size_name(entry->size));
    entry->group = bench_report_group(run->report, name);
    entry->measure = bench_report_measure(run->report, entry->group, workload, "ns",
                                          entry->workload == RING_PACED, entry->size == plotted);
    if (!entry->measure)
      return BUS_ERROR_NO_SPACE;
  }
  return BUS_OK;
}

/* ---- what is sent ---- */

static uint64_t next_random(uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  *state ^= *state << 17;
  return *state;
}

static int make_table(struct run *run, enum ring_size size)
{
  uint64_t bytes = ring_size_bytes(size), words = bytes / sizeof(uint64_t);
  uint64_t count = bytes > 64 ? TABLE_BYTES / bytes : 256;
  if (count < TABLE_COUNT_MIN)
    count = TABLE_COUNT_MIN;
  uint64_t all = (count + RING_BATCH_MAX) * bytes;
  uint64_t *table = aligned_alloc(BUS_FALSE_SHARING_BYTES, BUS_ALIGN_UP(all, (uint64_t)128));
  if (!table)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  uint64_t state = 88172645463325252u;
  for (uint64_t i = 0; i < count * words; i++)
    table[i] = (i + 1) % words == 0 ? i / words + 1 : next_random(&state);
  for (uint64_t i = count * words; i < (count + RING_BATCH_MAX) * words; i++)
    table[i] = table[i - count * words];
  run->tables[size] = table;
  run->table_masks[size] = count - 1;
  return BUS_OK;
}

static double work_ns(uint64_t steps)
{
  const uint32_t messages = 200000;
  uint64_t state = 1, start_ns = bench_now_ns();
  for (uint32_t i = 0; i < messages; i++)
    state = ring_work(state, steps);
  uint64_t end_ns = bench_now_ns();
  __asm__ volatile("" ::"r"(state));
  return (double)(end_ns - start_ns) / messages;
}

/* The number of steps that comes nearest to WORK_NS, each the best of several tries: what is in the
 * way can only make it slower. */
static void calibrate_work(struct run *run)
{
  double best = 0;
  for (uint64_t steps = 1; steps <= 200; steps++) {
    double ns = work_ns(steps);
    for (int i = 0; i < 6; i++) {
      double again = work_ns(steps);
      ns = again < ns ? again : ns;
    }
    if (steps > 1 && ns - WORK_NS > WORK_NS - best)
      break;
    best = ns;
    run->work_steps = steps;
    if (ns >= WORK_NS)
      break;
  }
  bench_report_note(run->report,
                    "work: %" PRIu64 " multiplications, %.1f ns, on each hungry message",
                    run->work_steps, best);
}

/* ---- measuring ---- */

static uint64_t depth_of(const struct ring_entry *entry)
{
  uint64_t depth = asked.depth ? asked.depth : DEPTH_DEFAULT;
  while (!asked.depth && depth * ring_size_bytes(entry->size) > RING_BYTES_MAX)
    depth /= 2;
  if (entry->rings > 1) { /* they share what one has: it is polling that is compared, not caches */
    depth /= entry->rings;
    depth = depth < DEPTH_OF_MANY ? DEPTH_OF_MANY : depth;
  }
  return depth;
}

/* Messages of a stream, or round trips in a run. */
static uint64_t count_of(const struct run *run, const struct ring_entry *entry)
{
  static const uint64_t counts[RING_WORKLOADS][RING_SIZES] = {
      [RING_SATURATED] = {8000000, 8000000, 4000000, 40000},
      [RING_HUNGRY] = {4000000, 4000000, 2000000, 40000},
      [RING_ROUND_TRIP] = {1000, 1000, 1000, 200},
      [RING_PACED] = {200000, 200000, 200000, 20000}};
  uint64_t count = counts[entry->workload][entry->size];
  if (run->options.count)
    return entry->workload == RING_ROUND_TRIP ? 1 + run->options.count / RING_RUNS
                                              : run->options.count;
  return asked.quick ? count / QUICK_DIVISOR : count;
}

static void describe_source(const struct run *run, const struct ring_entry *entry,
                            struct ring_source *source)
{
  uint64_t count = count_of(run, entry), warm = depth_of(entry) * entry->rings;
  if (warm > count && run->options.count)
    warm = count;
  source->table = run->tables[entry->size];
  source->mask = run->table_masks[entry->size];
  source->work_steps = run->work_steps;
  source->pauses = !asked.tight;
  source->interval_ns = run->options.interval_ns;
  if (entry->size == RING_SIZE_16384)
    source->interval_ns *= 10;
  source->run = count;
  source->warm = BUS_ALIGN_UP(warm, (uint64_t)RING_BATCH_MAX);
  source->all = source->warm + (entry->workload == RING_ROUND_TRIP
                                    ? RING_RUNS * count
                                    : BUS_ALIGN_UP(count, (uint64_t)RING_BATCH_MAX));
}

/* For bench_trials_run: entry n is group n. */
static int play(void *context, uint32_t group, uint32_t number)
{
  struct run *run = context;
  const struct ring_entry *entry = &run->entries[group];
  struct ring_trial *trial = run->trial;
  memset(trial, 0, sizeof *trial);
  describe_source(run, entry, &trial->source);
  trial->contestant = entry->contestant;
  trial->workload = entry->workload;
  trial->size = entry->size;
  trial->depth = depth_of(entry);
  trial->rings = entry->rings;
  trial->small_pages = run->options.small_pages;
  trial->between_threads = entry->between_threads;
  trial->with_observer = entry->with_observer;
  trial->cores[0] = run->options.cores[0];
  trial->cores[1] = run->options.cores[1];
  trial->directory = run->options.directory;
  int error = ring_trial_play(trial);
  if (error)
    return error;
  if (entry->workload == RING_PACED)
    entry->measure->histograms[number] = trial->latency_ns;
  else
    entry->measure->values[number] = trial->ns_per_message;
  run->observed += trial->observed;
  run->overrun += trial->overrun;
  return BUS_OK;
}

/* ---- the whole ---- */

static void add_notes(struct run *run)
{
  static const char *const missing[] = {
#ifndef BENCH_HAVE_CK
      "ck_ring (libck-dev)",
#endif
#ifndef BENCH_HAVE_DPDK
      "DPDK rte_ring (libdpdk-dev)",
#endif
#ifndef BENCH_HAVE_BOOST
      "boost spsc_queue (libboost-dev)",
#endif
#ifndef BENCH_HAVE_READERWRITER
      "moodycamel ReaderWriterQueue (libreaderwriterqueue-dev)",
#endif
      NULL};
  struct bench_report *report = run->report;
  struct ring_entry large = {.size = RING_SIZE_16384, .rings = 1};
  struct ring_entry small = {.size = RING_SIZE_64, .rings = 1};
  for (size_t i = 0; missing[i]; i++)
    bench_report_note(report, "absent %zu: %s was not there when bus-bench was built", i + 1,
                      missing[i]);
  bench_report_note(report, "depth: %" PRIu64 " messages, of 16 KiB %" PRIu64, depth_of(&small),
                    depth_of(&large));
  bench_report_note(
      report, "message: 8 of its bytes are its number, which is the bus's stamp; 8 B messages "
              "ride in 64-byte slots of the bus");
  bench_report_note(report,
                    "paced: a message each %" PRIu64 " ns, of 16 KiB each %" PRIu64
                    "; latency counts from when it was due",
                    run->options.interval_ns, 10 * run->options.interval_ns);
  if (asked.observer)
    bench_report_note(report,
                      "observer: looks at one record each ms, on the pair's own cores; it read "
                      "%" PRIu64 " records and was lapped by %" PRIu64,
                      run->observed, run->overrun);
  for (uint32_t i = 0; i < asked.ring_count; i++) {
    struct ring_entry many = {.size = RING_SIZE_64, .rings = asked.rings[i]};
    bench_report_note(report, "rings %u: %" PRIu64 " messages deep each", asked.rings[i],
                      depth_of(&many));
  }
}

static int measure_and_report(struct run *run)
{
  static const char *const members[] = {"leader", "follower"};
  int error = bench_machine_prepare(run->report, &run->options, 2);
  if (error)
    return error;
  run->options.directory = bench_directory_make(run->options.directory, members, 2);
  if (!run->options.directory)
    return BUS_ERROR_IO;
  for (int size = 0; size < RING_SIZES && !error; size++)
    error = make_table(run, (enum ring_size)size);
  if (error)
    return error;
  calibrate_work(run);
  const struct bench_trials trials = {.report = run->report,
                                      .options = &run->options,
                                      .core_count = 2,
                                      .run = play,
                                      .context = run};
  error = bench_trials_run(&trials);
  if (error)
    return error;
  add_notes(run);
  error = ring_report_compare(run->report, run->entries, run->entry_count);
  if (error)
    return error;
  bench_report_print_head(run->report);
  ring_report_print(run->report, run->entries, run->entry_count);
  return bench_report_write_files(run->report, &run->options);
}

static int run_ring(const struct bench_options *given)
{
  struct run *run = calloc(1, sizeof *run);
  if (!run)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  run->options = *given;
  run->options.interval_ns = asked.interval_ns ? asked.interval_ns : INTERVAL_DEFAULT_NS;
  if (asked.quick && run->options.repeat > QUICK_REPEAT)
    run->options.repeat = QUICK_REPEAT;
  run->report = bench_report_new("ring");
  run->trial = ring_trial_new();
  int error = run->report && run->trial ? bench_clock_init() : BUS_ERROR_NO_SPACE;
  if (!error) {
    bench_machine_describe(run->report);
    error = add_entries(run);
  }
  if (!error)
    error = measure_and_report(run);
  for (int size = 0; size < RING_SIZES; size++)
    free(run->tables[size]);
  bench_report_delete(run->report);
  free(run);
  return error;
}

static const struct option ring_options[] = {
    {"size", required_argument, NULL, OPTION_SIZE},
    {"workload", required_argument, NULL, OPTION_WORKLOAD},
    {"depth", required_argument, NULL, OPTION_DEPTH},
    {"mode", required_argument, NULL, OPTION_MODE},
    {"wait", required_argument, NULL, OPTION_WAIT},
    {"observer", no_argument, NULL, OPTION_OBSERVER},
    {"rings", required_argument, NULL, OPTION_RINGS},
    {"quick", no_argument, NULL, OPTION_QUICK},
    {"count", required_argument, NULL, BENCH_OPTION_COUNT},
    {"interval", required_argument, NULL, OPTION_INTERVAL},
    {"directory", required_argument, NULL, BENCH_OPTION_DIRECTORY},
    {"small-pages", no_argument, NULL, BENCH_OPTION_SMALL_PAGES},
    BENCH_COMMON_OPTIONS};

const struct bench bench_ring = {
    .name = "ring",
    .summary = "one message from process to process: this ring, its peers, the machine's limit",
    .help =
        "usage: bus-bench ring [options]\n"
        "\n"
        "Sends checked messages between two pinned processes, through two members of a bus of its\n"
        "own and through the peers that were there when this program was built (ck_ring, DPDK\n"
        "rte_ring, boost spsc_queue, moodycamel ReaderWriterQueue), in turns.\n"
        "\n"
        "  saturated           as fast as they will go\n"
        "  hungry              the producer works 17.5 ns on each message: the consumer waits\n"
        "  rtt                 a message and its answer\n"
        "  paced               a message each interval, latency from when it was due\n"
        "\n"
        "  --size LIST         of 8, 64, 128, 16384 bytes (default: all)\n"
        "  --workload LIST     of those above (default: all)\n"
        "  --depth N           messages in a ring, a power of two, 64..65536 (default 4096, and\n"
        "                      256 of 16384 bytes)\n"
        "  --mode MODE         processes (default; between threads only what has to be, beside "
        "the\n"
        "                      bus between threads), or threads\n"
        "  --wait HOW          between two attempts in vain: pause, as the members' run loops do\n"
        "                      (default), or tight\n"
        "  --observer          the bus also with a reader that looks once each millisecond\n"
        "  --rings LIST        the bus also with a consumer that polls so many rings, 1..64,\n"
        "                      powers of two, which messages of 64 bytes go round\n"
        "  --count N           messages of each measurement (default: by size and workload)\n"
        "  --interval N        between paced messages (default 1000; of 16384 bytes ten times)\n"
        "  --quick             a sixteenth of the messages and 2 repetitions: about 25 s\n"
        "  --cores A,B         producer and consumer (default: the first two allowed)\n"
        "  --directory DIR     where the bus is made (default /dev/shm)\n"
        "  --small-pages       do not ask for huge pages\n",
    .options = ring_options,
    .take_option = take_option,
    .run = run_ring};
