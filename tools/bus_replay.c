/* bus-replay: reads, proves, mends, cuts, compares and exports captures of a bus. See
 * tools/man/bus-replay.1. */
#include "tools/replay.h"

#include "tools/busctl.h"

#include <string.h>
#include <sys/resource.h>

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary;
} verbs[] = {
    {"info", replay_info, "what a capture holds"},
    {"play", replay_play, "puts its records back on a bus"},
    {"stats", replay_stats, "its rates, latencies and gaps, with plots"},
    {"verify", replay_verify, "check every byte of it"},
    {"recover", replay_recover, "save what is whole of a damaged one"},
    {"cut", replay_cut, "write a part of it: times, positions, streams, symbols"},
    {"merge", replay_merge, "join several"},
    {"diff", replay_diff, "the first record in which two differ"},
    {"hash", replay_hash, "a hash that is equal for replays that did the same"},
    {"export", replay_export, "write it as CSV, .npy, Arrow, Parquet or MCAP"},
};

static void print_help(FILE *out)
{
  fputs("Usage: bus-replay VERB [OPTION].. CAPTURE..\n\n", out);
  for (size_t i = 0; i < BUS_COUNT_OF(verbs); i++)
    fprintf(out, "  %-8s %s\n", verbs[i].name, verbs[i].summary);
  fputs(
      "\n"
      "CAPTURE is a directory that bus-record wrote, or one segment file of it.\n"
      "\n"
      "  --help     this text; behind a verb: its options\n"
      "  --version  of the program; in place of a verb\n"
      "\n"
      "Exit status: 0 ok, 1 failed, 2 usage, 3 positions are missing (diff: the captures differ),\n"
      "4 damage was found and named, 5 a consumer was lost.\n",
      out);
}

/* A segment each is open; a long capture has more than the usual 1024. */
static void allow_many_files(void)
{
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
  }
}

int main(int argc, char **argv)
{
  if (argc < 2) {
    print_help(stderr);
    return REPLAY_USAGE;
  }
  const char *verb = argv[1];
  if (!strcmp(verb, "--help") || !strcmp(verb, "-h")) {
    print_help(stdout);
    return REPLAY_OK;
  }
  if (!strcmp(verb, "--version")) {
    puts("bus-replay (signal-bus) " BUS_VERSION);
    return REPLAY_OK;
  }
  allow_many_files();
  for (size_t i = 0; i < BUS_COUNT_OF(verbs); i++)
    if (!strcmp(verb, verbs[i].name)) {
      static char title[64]; /* what getopt's messages begin with */
      snprintf(title, sizeof title, "bus-replay %s", verb);
      argv[1] = title;
      int status = verbs[i].run(argc - 1, argv + 1);
      /* A full disk or a closed pipe must not look like success. */
      if (fflush(stdout) != 0 && status == REPLAY_OK) {
        perror("bus-replay: standard output");
        status = REPLAY_FAILED;
      }
      return status;
    }
  char text[64];
  fprintf(stderr, "bus-replay: no verb '%s'\n",
          busctl_sanitise(text, sizeof text, verb, strlen(verb)));
  print_help(stderr);
  return REPLAY_USAGE;
}
