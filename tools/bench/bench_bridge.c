/* bench_bridge.c: what the bridge adds to a question's way to a language model, beside a plain
 * proxy and another gateway, all to the same server, which answers at once. */
#include "shm/options.h"
#include "tools/bench/bench_machine.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/bench_trials.h"
#include "tools/bench/bridge_load.h"
#include "tools/bench/gateway.h"
#include "tools/bench/http_load.h"
#include "tools/bench/llm_double.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT_DEFAULT 2000u
#define SLOW_SHARE    20u /* a path that takes milliseconds is asked so many times less */
#define CROWD         64u
#define CROWD_FACTOR  10u /* questions of the crowd for each single one */
#define WARM_UP       100u

#define ASLEEP_NS     5000000u /* the bridge has stopped spinning long before */

enum way {
  WAY_DIRECT,
  WAY_NGINX,
  WAY_LITELLM,
  WAY_SPIN,
  WAY_EPOLL,
  WAY_BACKOFF,
  WAY_ASLEEP,
  WAY_COUNT
};

static const struct {
  const char *name;
  const char *transport; /* of the bridge; NULL: HTTP */
  const char *idle;
  uint64_t interval_ns; /* between an answer and the next question */
} ways[WAY_COUNT] = {
    [WAY_DIRECT] = {"straight to the server", NULL, NULL, 0},
    [WAY_NGINX] = {"nginx", NULL, NULL, 0},
    [WAY_LITELLM] = {"LiteLLM", NULL, NULL, 0},
    [WAY_SPIN] = {"bus-bridge, spinning", "io_uring", "spin", 0},
    [WAY_EPOLL] = {"bus-bridge, spinning, epoll", "epoll", "spin", 0},
    [WAY_BACKOFF] = {"bus-bridge, backing off", "io_uring", "backoff", 0},
    [WAY_ASLEEP] = {"bus-bridge, asleep before each", "io_uring", "backoff", ASLEEP_NS},
};

/* Own options. */
static const char *nginx_program = "nginx";
static const char *litellm_program = "litellm";
static const char *bridge_program; /* NULL: beside this one */

struct group {
  enum way way;
  struct bench_measure *answer;
  struct bench_measure *rate;
  struct bench_measure *in; /* of the bridge */
  struct bench_measure *out;
};

struct run {
  struct bench_report *report;
  const struct bench_options *options;
  struct gateway_place place;
  struct gateway gateways[WAY_COUNT];
  struct group groups[WAY_COUNT];
  uint32_t group_count;
  pid_t server;
  int listener;
  char bridge[512];
  uint64_t count;
};

/* ---- one trial ---- */

static int ask_http(struct run *run, struct group *group, uint32_t trial)
{
  const enum way way = group->way;
  const uint64_t count = way == WAY_LITELLM ? run->count / SLOW_SHARE + 1 : run->count;
  struct http_load load = {.port =
                               way == WAY_DIRECT ? run->place.server_port : run->gateways[way].port,
                           .authorization = "Bearer none",
                           .model = "double",
                           .connections = 1,
                           .requests = way == WAY_LITELLM ? 5 : WARM_UP};
  struct bus_histogram *scratch = calloc(1, sizeof *scratch);
  uint64_t took_ns;
  int error = scratch ? http_load_run(&load, scratch, &took_ns) : BUS_ERROR_NO_SPACE;
  load.requests = count;
  if (!error)
    error = http_load_run(&load, &group->answer->histograms[trial], &took_ns);
  load.connections = CROWD;
  load.requests = count * CROWD_FACTOR;
  if (!error)
    error = http_load_run(&load, scratch, &took_ns);
  if (!error)
    group->rate->values[trial] = (double)load.requests * 1e9 / (double)took_ns;
  free(scratch);
  return error;
}

static int ask_loaded_bridge(struct run *run, struct group *group, struct bridge_load *load,
                             struct bus_histogram *scratch, uint32_t trial)
{
  uint64_t took_ns;
  int error = bridge_load_run(load, 1, WARM_UP, 0, scratch, &took_ns);
  if (!error)
    error = bridge_load_run(load, 1, run->count, ways[group->way].interval_ns,
                            &group->answer->histograms[trial], &took_ns);
  if (!error)
    error = bridge_load_read(load, "in_ns", &group->in->histograms[trial]);
  if (!error)
    error = bridge_load_read(load, "out_ns", &group->out->histograms[trial]);
  const uint64_t crowd = run->count * CROWD_FACTOR;
  if (!error)
    error = bridge_load_run(load, CROWD, crowd, 0, scratch, &took_ns);
  if (!error)
    group->rate->values[trial] = (double)crowd * 1e9 / (double)took_ns;
  return error;
}

static int ask_bridge(struct run *run, struct group *group, uint32_t trial)
{
  const enum way way = group->way;
  struct bridge_load *load = NULL;
  struct bus_histogram *scratch = calloc(1, sizeof *scratch);
  int error = scratch ? gateway_start_bridge(&run->place, run->bridge, ways[way].transport,
                                             ways[way].idle, &run->gateways[way])
                      : BUS_ERROR_NO_SPACE;
  if (!error)
    error = bridge_load_new(run->place.directory, &load);
  if (!error)
    error = ask_loaded_bridge(run, group, load, scratch, trial);
  bridge_load_delete(load);
  gateway_stop(&run->gateways[way]);
  bench_directory_clear();
  free(scratch);
  return error ? bus_error_context(error, "%s", ways[way].name) : BUS_OK;
}

static int measure_trial(void *context, uint32_t index, uint32_t trial)
{
  struct run *run = context;
  struct group *group = &run->groups[index];
  return ways[group->way].transport ? ask_bridge(run, group, trial) : ask_http(run, group, trial);
}

/* ---- set-up ---- */

static int serve(void *context)
{
  struct run *run = context;
  alarm(0); /* it outlives the repetition that it is started in */
  return llm_double_serve(run->listener);
}

static int add_group(struct run *run, enum way way)
{
  struct group *group = &run->groups[run->group_count++];
  struct bench_report *report = run->report;
  uint32_t at = bench_report_group(report, ways[way].name);
  group->way = way;
  group->answer = bench_report_measure(report, at, "question to whole answer", "ns", true, true);
  group->rate = bench_report_measure(report, at, "64 at a time", "answers/s", false, false);
  if (!group->answer || !group->rate)
    return BUS_ERROR_NO_SPACE;
  if (!ways[way].transport)
    return BUS_OK;
  group->in = bench_report_measure(report, at, "ring to socket", "ns", true, false);
  group->out = bench_report_measure(report, at, "socket to ring", "ns", true, false);
  return group->in && group->out ? BUS_OK : BUS_ERROR_NO_SPACE;
}

/* A peer that is not installed is left out, aloud. */
static int add_peer(struct run *run, enum way way, int started)
{
  if (started == BUS_ERROR_ABSENT) {
    bench_report_note(run->report, "%s: left out: %s", ways[way].name, bus_error_message());
    return BUS_OK;
  }
  return started ? started : add_group(run, way);
}

static int start_all(struct run *run)
{
  run->listener = llm_double_listen(&run->place.server_port);
  if (run->listener < 0)
    return run->listener;
  /* Client and server share a core, so that whatever stands between them has the other alone. */
  pid_t server = bench_fork(run->place.parent_core, run->place.parent_core, serve, run);
  if (server < 0)
    return (int)server;
  run->server = server;
  int error = add_group(run, WAY_DIRECT);
  if (!error)
    error = add_peer(run, WAY_NGINX,
                     gateway_start_nginx(&run->place, nginx_program, &run->gateways[WAY_NGINX]));
  if (!error && strcmp(litellm_program, "none") != 0)
    error =
        add_peer(run, WAY_LITELLM,
                 gateway_start_litellm(&run->place, litellm_program, &run->gateways[WAY_LITELLM]));
  for (int way = WAY_SPIN; way < WAY_COUNT && !error; way++)
    error = add_group(run, (enum way)way);
  return error;
}

/* Where meson builds it, and where it is installed. */
static void find_bridge(struct run *run)
{
  char self[400];
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  self[length > 0 ? length : 0] = '\0';
  char *slash = strrchr(self, '/');
  if (slash)
    *slash = '\0';
  snprintf(run->bridge, sizeof run->bridge, "%s/bus-bridge", self);
  if (access(run->bridge, X_OK) != 0)
    snprintf(run->bridge, sizeof run->bridge, "%s/../../consumers/bus-bridge", self);
  if (bridge_program)
    snprintf(run->bridge, sizeof run->bridge, "%.500s", bridge_program);
}

/* ---- the report ---- */

static void add_notes(struct run *run)
{
  struct bench_summary direct, summary;
  bench_report_summarize(run->report, run->groups[0].answer, &direct);
  for (uint32_t i = 1; i < run->group_count; i++) {
    const struct group *group = &run->groups[i];
    bench_report_summarize(run->report, group->answer, &summary);
    bench_report_note(run->report, "adds: %s: %.1f us at the median", ways[group->way].name,
                      (summary.p50 - direct.p50) / 1e3);
  }
}

static int measure_all(struct run *run, struct bench_options *options)
{
  static const char *const members[] = {"bench", "bridge"};
  options->fifo = false; /* the server and the other gateways share the cores */
  int error = bench_machine_prepare(run->report, options, 2);
  run->place.directory = error ? NULL : bench_directory_make("/dev/shm", members, 2);
  if (!run->place.directory)
    return error ? error : BUS_ERROR_IO;
  run->options = options;
  run->count = options->count;
  run->place.parent_core = options->cores[0];
  run->place.core = options->cores[1];
  find_bridge(run);
  struct bench_trials trials = {.report = run->report,
                                .options = options,
                                .core_count = 2,
                                .run = measure_trial,
                                .context = run};
  error = start_all(run);
  if (!error)
    error = bench_trials_run(&trials);
  for (int way = 0; way < WAY_COUNT; way++)
    gateway_stop(&run->gateways[way]);
  bench_reap(&run->server, true);
  gateway_clean(&run->place);
  if (error)
    return error;
  add_notes(run);
  return bench_report_write(run->report, options);
}

static int run_bridge(const struct bench_options *given)
{
  struct bench_options options = *given;
  struct run *run = calloc(1, sizeof *run);
  if (!run)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  run->report = bench_report_new("bridge");
  int error = run->report ? bench_clock_init() : BUS_ERROR_NO_SPACE;
  if (!error) {
    run->report->canary = "raw lines between the two cores";
    bench_machine_describe(run->report);
    error = measure_all(run, &options);
  }
  bench_report_delete(run->report);
  free(run);
  return error;
}

/* ---- options ---- */

enum { OPTION_NGINX = BENCH_OPTION_OWN, OPTION_LITELLM, OPTION_BRIDGE };

static int take_option(int option, const char *value)
{
  *(option == OPTION_NGINX     ? &nginx_program
    : option == OPTION_LITELLM ? &litellm_program
                               : &bridge_program) = value;
  return BUS_OK;
}

static const struct option bridge_options[] = {
    {"nginx", required_argument, NULL, OPTION_NGINX},
    {"litellm", required_argument, NULL, OPTION_LITELLM},
    {"bridge", required_argument, NULL, OPTION_BRIDGE},
    {"count", required_argument, NULL, BENCH_OPTION_COUNT},
    BENCH_COMMON_OPTIONS};

const struct bench bench_bridge = {
    .name = "bridge",
    .summary = "what the bridge adds to a question, beside nginx and LiteLLM",
    .help =
        "usage: bus-bench bridge [--count N] [options]\n"
        "\n"
        "Asks a server on this machine that answers at once: straight, through nginx as a plain\n"
        "proxy, through LiteLLM, and through the bus and bus-bridge; one question at a time, then\n"
        "64 at a time. What a way takes beyond the straight one is what its gateway adds. Client\n"
        "and server share one core, the gateway has the other.\n"
        "\n"
        "  --count N           single questions of a repetition (default 2000; LiteLLM 1/20 of\n"
        "                      it); ten times as many 64 at a time\n"
        "  --nginx PROGRAM     default nginx\n"
        "  --litellm PROGRAM   default litellm; 'none' leaves it out\n"
        "  --bridge PROGRAM    default: bus-bridge beside this program\n"
        "  --cores A,B         of client and server, and of the gateway (default: the first two)\n",
    .options = bridge_options,
    .count_default = COUNT_DEFAULT,
    .take_option = take_option,
    .run = run_bridge};
