/* main.c: runs seeds on all cores, adds up what was seen, shows the first run that fails. */
#include "tests/bridge_sim/sim.h"

#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MAX       64u
#define TAIL_LINES     80
#define COVERAGE_SEEDS 1000u /* so many must meet everything that there is to meet */
#define AGAIN_EVERY    64u   /* each such run is repeated, and must be the same */
#define SECONDS_MAX    5 /* of CPU time for so many runs, a tenth of a second's work: it hangs */
#define TIMER_EVERY    64u

/* What a worker tells its parent, in shared memory. */
struct result {
  struct sim_coverage coverage;
  uint64_t seed; /* under way */
  bool failed;
  char failure[40];
  char text[400];
};

struct options {
  uint64_t seeds, from, seed;
  bool single, verbose, json, tap;
  uint32_t jobs;
};

static void add_coverage(struct sim_coverage *to, const struct sim_coverage *from)
{
  uint64_t *sums = (uint64_t *)(void *)to;
  const uint64_t *counts = (const uint64_t *)(const void *)from;
  for (size_t i = 0; i < sizeof *to / sizeof *sums; i++)
    sums[i] += counts[i];
}

/* The process's own CPU time, whatever else the machine does: SIGVTALRM ends it. */
static void limit_time(void)
{
  const struct itimerval limit = {.it_value.tv_sec = SECONDS_MAX};
  setitimer(ITIMER_VIRTUAL, &limit, NULL);
}

static void work(const struct options *options, uint32_t job, struct result *result)
{
  struct sim_world *world = sim_world_new();
  if (!world)
    _exit(2);
  for (uint64_t i = job; i < options->seeds; i += options->jobs) {
    if (i / options->jobs % TIMER_EVERY == 0)
      limit_time();
    result->seed = options->from + i;
    bool good = sim_world_run(world, result->seed, NULL);
    if (good && i % AGAIN_EVERY == 0) {
      uint64_t trace = world->trace;
      good = sim_world_run(world, result->seed, NULL);
      if (trace != world->trace)
        sim_fail(world, "determinism", "the same seed makes another run the second time");
      good = good && trace == world->trace;
    }
    add_coverage(&result->coverage, &world->coverage);
    if (good)
      continue;
    memcpy(result->failure, world->failure, sizeof result->failure);
    memcpy(result->text, world->failure_text, sizeof result->text);
    result->failed = true;
    break;
  }
  sim_world_delete(world);
}

/* Runs `seed` again and prints the end of its log. */
static void show(uint64_t seed, bool all)
{
  struct sim_world *world = sim_world_new();
  char *text = NULL;
  size_t size = 0;
  FILE *log = open_memstream(&text, &size);
  if (!world || !log)
    return;
  sim_world_run(world, seed, log);
  fclose(log);
  const char *start = text + size;
  for (int lines = 0; start > text && (all || lines <= TAIL_LINES); start--)
    lines += start < text + size && start[-1] == '\n';
  for (const char *line = start; *line;) {
    size_t length = strcspn(line, "\n");
    printf("# %.*s\n", (int)length, line);
    line += length + (line[length] == '\n');
  }
  free(text);
  sim_world_delete(world);
}

/* A child that shows `seed`: it may crash again. */
static void show_apart(uint64_t seed)
{
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    limit_time();
    show(seed, false);
    fflush(stdout);
    _exit(0);
  }
  if (child > 0)
    waitpid(child, NULL, 0);
}

/* Forks the workers. Returns the failed result of the smallest seed, or NULL. */
static struct result *run_all(const struct options *options, struct result *results)
{
  pid_t children[JOBS_MAX];
  for (uint32_t job = 0; job < options->jobs; job++) {
    fflush(stdout);
    children[job] = fork();
    if (children[job] == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      work(options, job, &results[job]);
      _exit(0);
    }
  }
  struct result *first = NULL;
  for (uint32_t job = 0; job < options->jobs; job++) {
    int status = 0;
    struct result *result = &results[job];
    if (children[job] < 0 || waitpid(children[job], &status, 0) < 0 || status != 0) {
      const bool hung = WIFSIGNALED(status) && WTERMSIG(status) == SIGVTALRM;
      snprintf(result->failure, sizeof result->failure, "%s", hung ? "hang" : "crash");
      snprintf(result->text, sizeof result->text, "the worker ended with wait status %d", status);
      result->failed = true;
    }
    if (result->failed && (!first || result->seed < first->seed))
      first = result;
  }
  return first;
}

static const char *const status_names[BUS_LLM_STATUS_COUNT] = {
    "PENDING",   "OK",          "LENGTH",         "REJECTED_QUEUE", "REJECTED_DEADLINE",
    "EXPIRED",   "CANCELLED",   "BACKEND_DOWN",   "UPSTREAM_4XX",   "UPSTREAM_5XX",
    "TRUNCATED", "BAD_REQUEST", "BRIDGE_RESTART", "LOCAL_TIMEOUT"};

static const char *const fault_names[SIM_FAULT_COUNT] = {
    "none",         "reset",   "cut",          "zero_bytes",   "garbage",
    "broken_event", "429",     "503",          "500",          "400",
    "slow_first",   "stall",   "silent",       "stream_error", "no_done",
    "no_finish",    "refused", "no_connect",   "death",        "stuck",
    "idle_close",   "kill",    "client_death", "client_new",   "hostile"};

static const char *const state_names[SIM_STATES] = {"FREE", "CLAIMED",    "DISPATCHED",
                                                    "DONE", "PUBLISHING", "PUBLISHED"};

/* Transitions of a life in order, and of a successor's recovery. */
static const uint8_t expected[][2] = {
    {BUS_BRIDGE_FREE, BUS_BRIDGE_CLAIMED},          {BUS_BRIDGE_CLAIMED, BUS_BRIDGE_DISPATCHED},
    {BUS_BRIDGE_CLAIMED, BUS_BRIDGE_DONE},          {BUS_BRIDGE_CLAIMED, BUS_BRIDGE_FREE},
    {BUS_BRIDGE_DISPATCHED, BUS_BRIDGE_DONE},       {BUS_BRIDGE_DISPATCHED, BUS_BRIDGE_FREE},
    {BUS_BRIDGE_DONE, BUS_BRIDGE_PUBLISHING},       {BUS_BRIDGE_PUBLISHING, BUS_BRIDGE_PUBLISHED},
    {BUS_BRIDGE_PUBLISHING, BUS_BRIDGE_DISPATCHED}, {BUS_BRIDGE_PUBLISHING, BUS_BRIDGE_FREE},
    {BUS_BRIDGE_PUBLISHED, BUS_BRIDGE_FREE}};

/* Prints what was never met; returns how much. */
static uint32_t missing(const struct sim_coverage *coverage)
{
  uint32_t count = 0;
  for (uint32_t i = BUS_LLM_OK; i < BUS_LLM_STATUS_COUNT; i++)
    if (coverage->statuses[i] == 0)
      printf("# never seen: status %s\n", status_names[i]), count++;
  for (uint32_t i = 0; i < SIM_FAULT_COUNT; i++)
    if (coverage->faults[i] == 0)
      printf("# never seen: fault %s\n", fault_names[i]), count++;
  for (uint32_t i = BUS_BRIDGE_CLAIMED; i < SIM_STATES; i++)
    if (coverage->killed_in[i] == 0)
      printf("# never seen: a kill in state %s\n", state_names[i]), count++;
  for (uint32_t i = 0; i < BUS_COUNT_OF(expected); i++)
    if (coverage->transitions[expected[i][0]][expected[i][1]] == 0)
      printf("# never seen: %s -> %s\n", state_names[expected[i][0]], state_names[expected[i][1]]),
          count++;
  if (coverage->start_kills == 0 || coverage->hedged == 0 || coverage->partials == 0)
    printf("# never seen: a kill while starting, a hedge or a partial reply\n"), count++;
  return count;
}

static void print_json(const struct sim_coverage *coverage)
{
  printf("{\"runs\": %llu, \"requests\": %llu, \"accepted\": %llu, \"attempts\": %llu, "
         "\"canaries\": %llu, \"hedged\": %llu, \"partials\": %llu, \"local_timeouts\": %llu, "
         "\"steps\": %llu,\n \"kills\": %llu, \"kills_at_transitions\": %llu, "
         "\"kills_while_starting\": %llu,\n \"statuses\": {",
         (unsigned long long)coverage->runs, (unsigned long long)coverage->requests,
         (unsigned long long)coverage->accepted, (unsigned long long)coverage->attempts,
         (unsigned long long)coverage->canaries, (unsigned long long)coverage->hedged,
         (unsigned long long)coverage->partials, (unsigned long long)coverage->local_timeouts,
         (unsigned long long)coverage->steps, (unsigned long long)coverage->kills,
         (unsigned long long)coverage->transition_kills, (unsigned long long)coverage->start_kills);
  for (uint32_t i = BUS_LLM_OK; i < BUS_LLM_STATUS_COUNT; i++)
    printf("%s\"%s\": %llu", i > BUS_LLM_OK ? ", " : "", status_names[i],
           (unsigned long long)coverage->statuses[i]);
  printf("},\n \"faults\": {");
  for (uint32_t i = 0; i < SIM_FAULT_COUNT; i++)
    printf("%s\"%s\": %llu", i ? ", " : "", fault_names[i],
           (unsigned long long)coverage->faults[i]);
  printf("},\n \"killed_in\": {");
  for (uint32_t i = 0; i < SIM_STATES; i++)
    printf("%s\"%s\": %llu", i ? ", " : "", state_names[i],
           (unsigned long long)coverage->killed_in[i]);
  printf("},\n \"transitions\": {");
  const char *separator = "";
  for (uint32_t from = 0; from < SIM_STATES; from++)
    for (uint32_t to = 0; to < SIM_STATES; to++)
      if (coverage->transitions[from][to]) {
        printf("%s\"%s -> %s\": %llu", separator, state_names[from], state_names[to],
               (unsigned long long)coverage->transitions[from][to]);
        separator = ", ";
      }
  printf("}}\n");
}

static int run_one(const struct options *options)
{
  struct sim_world *world = sim_world_new();
  if (!world)
    return 2;
  const bool good = sim_world_run(world, options->seed, options->verbose ? stdout : NULL);
  if (good)
    printf("seed %llu: every invariant held\n", (unsigned long long)options->seed);
  else
    printf("seed %llu: BROKEN %s: %s\n", (unsigned long long)options->seed, world->failure,
           world->failure_text);
  if (options->json)
    print_json(&world->coverage);
  sim_world_delete(world);
  return good ? 0 : 1;
}

static int run_many(const struct options *options)
{
  struct result *results = mmap(NULL, JOBS_MAX * sizeof *results, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (results == MAP_FAILED)
    return 2;
  if (options->tap)
    printf("1..2\n");
  struct result *failed = run_all(options, results);
  struct sim_coverage sum = {0};
  for (uint32_t job = 0; job < options->jobs; job++)
    add_coverage(&sum, &results[job].coverage);
  if (failed) {
    show_apart(failed->seed);
    printf("# BROKEN %s: %s\n# again: bridge_sim --seed %llu --verbose\n", failed->failure,
           failed->text, (unsigned long long)failed->seed);
  }
  const bool all = options->seeds >= COVERAGE_SEEDS && !failed;
  const uint32_t unseen = all ? missing(&sum) : 0;
  if (options->tap)
    printf("%s 1 - every invariant holds in %llu runs (%llu requests, %llu kills)\n"
           "%s 2 - every status, fault and transition was met%s\n",
           failed ? "not ok" : "ok", (unsigned long long)sum.runs, (unsigned long long)sum.requests,
           (unsigned long long)sum.kills, unseen ? "not ok" : "ok",
           all ? "" : " # SKIP too few runs");
  else if (!failed)
    printf("# %llu runs, %llu requests, %llu kills: every invariant held\n",
           (unsigned long long)sum.runs, (unsigned long long)sum.requests,
           (unsigned long long)sum.kills);
  if (options->json)
    print_json(&sum);
  munmap(results, JOBS_MAX * sizeof *results);
  return failed || unseen ? 1 : 0;
}

int main(int argument_count, char **arguments)
{
  static const struct option names[] = {
      {"seeds", required_argument, NULL, 'n'}, {"from", required_argument, NULL, 'f'},
      {"seed", required_argument, NULL, 's'},  {"jobs", required_argument, NULL, 'j'},
      {"verbose", no_argument, NULL, 'v'},     {"json", no_argument, NULL, 'J'},
      {"tap", no_argument, NULL, 't'},         {NULL, 0, NULL, 0}};
  long cores = sysconf(_SC_NPROCESSORS_ONLN);
  struct options options = {.seeds = 1000, .from = 1, .jobs = cores > 0 ? (uint32_t)cores : 1};
  int name;
  while ((name = getopt_long(argument_count, arguments, "", names, NULL)) != -1) {
    switch (name) {
    case 'n':
      options.seeds = strtoull(optarg, NULL, 0);
      break;
    case 'f':
      options.from = strtoull(optarg, NULL, 0);
      break;
    case 's':
      options.seed = strtoull(optarg, NULL, 0);
      options.single = true;
      break;
    case 'j':
      options.jobs = (uint32_t)strtoul(optarg, NULL, 0);
      break;
    case 'v':
      options.verbose = true;
      break;
    case 'J':
      options.json = true;
      break;
    case 't':
      options.tap = true;
      break;
    default:
      fprintf(stderr, "usage: bridge_sim [--seeds N] [--from S] [--jobs N] [--json] [--tap]\n"
                      "       bridge_sim --seed S [--verbose] [--json]\n");
      return 2;
    }
  }
  if (options.jobs == 0 || options.jobs > JOBS_MAX)
    options.jobs = JOBS_MAX;
  return options.single ? run_one(&options) : run_many(&options);
}
