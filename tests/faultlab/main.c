/* faultlab: what the bus does when processes are killed, stopped, or lie. See README.md. */
#include "experiments.h"
#include "lab.h"
#include "trace.h"

#include <getopt.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct lab_experiment experiments[] = {
    {"snapshot-publish", "state after each instruction of publish", true, 400, snapshot_publish},
    {"snapshot-consume", "state after each instruction of consume", true, 400, snapshot_consume},
    {"kill-publish", "SIGKILL at each instruction of publish", true, 400, kill_publish},
    {"kill-consume", "SIGKILL at each instruction of consume", true, 400, kill_consume},
    {"kill-observe", "SIGKILL at each instruction of observe", true, 400, kill_observe},
    {"pairs-publish-consume", "both sides die, each pair of their states", true, 400,
     pairs_publish_consume},
    {"interleave-observe", "the producer laps an observer between any two instructions", true, 400,
     interleave_observe},
    {"interleave-publish", "the consumer makes room between any two instructions", true, 400,
     interleave_publish},
    {"truncate-instruction", "the file is cut at each instruction of a read", true, 400,
     truncate_instruction},
    {"snapshot-create", "state after each instruction of bus_member_new", true, 400,
     snapshot_create},
    {"snapshot-takeover", "state after each instruction of bus_member_new over a dead file", true,
     400, snapshot_takeover},
    {"snapshot-delete", "state after each instruction of bus_member_delete", true, 400,
     snapshot_delete},
    {"snapshot-attach", "state after each instruction of attaching, both sides", true, 400,
     snapshot_attach},
    {"kill-create", "SIGKILL all over bus_member_new", true, 400, kill_create},
    {"kill-takeover", "SIGKILL all over bus_member_new over a dead file", true, 400, kill_takeover},
    {"kill-delete", "SIGKILL all over bus_member_delete", true, 400, kill_delete},
    {"kill-attach", "SIGKILL all over attaching", true, 400, kill_attach},
    {"kill-skip", "SIGKILL at each instruction of a skip of lost records", true, 400, kill_skip},
    {"replace-consumer", "the consumer's file is made anew under a living producer", true, 400,
     replace_consumer},
    {"kill-storm", "SIGKILL at random, restart, go on", false, 900, kill_storm},
    {"stop-consumer-wait", "SIGSTOP of the consumer, policy wait", false, 400, stop_consumer_wait},
    {"stop-consumer-drop", "SIGSTOP of the consumer, policy drop-newest", false, 400,
     stop_consumer_drop},
    {"stop-observer-overwrite", "SIGSTOP of an observer, policy overwrite", false, 400,
     stop_observer_overwrite},
    {"stop-producer", "SIGSTOP of the producer", false, 400, stop_producer},
    {"truncate-boundary", "the file is cut at and near every page boundary", false, 400,
     truncate_boundary},
    {"truncate-random", "the file is cut anywhere at random moments", false, 400, truncate_random},
    {"wrong-size", "files of every wrong size", false, 400, wrong_size},
    {"wrong-field", "every wrong value of every field", false, 400, wrong_field},
    {"scribble-attached", "scribbling over a file while it is attached", false, 400,
     scribble_attached},
    {"scribble-takeover", "scribbling over dead files before they are continued", false, 400,
     scribble_takeover},
    {"scribble-live", "scribbling while a neighbour attaches", false, 400, scribble_live},
    {"lost-is-counted", "a lapped consumer, attached or away", false, 400, lost_is_counted},
};

static void usage(FILE *to)
{
  fputs(
      "usage: faultlab [--experiment NAME].. [--seed N] [--kills N] [--tap] [--list]\n"
      "\n"
      "Kills, stops, truncates and scribbles over members of a signal bus of its own in /dev/shm\n"
      "and checks that nothing is lost, repeated or torn. Output is TAP.\n"
      "\n"
      "  --experiment NAME  only this one (may be repeated; NAME* takes all that begin so)\n"
      "  --seed N           of everything random; the default is taken from the clock\n"
      "  --kills N          kills of the storm (100000)\n"
      "  --tap              exit with 0 instead of 77 when everything was skipped\n"
      "  --list             the experiments\n"
      "  --help             this\n"
      "\n"
      "exit: 0 all held, 1 one failed, 2 usage, 77 nothing could be run here\n",
      to);
}

struct options {
  const char *wanted[64];
  size_t wanted_count;
  bool tap;
};

static bool is_wanted(const struct options *options, const char *name)
{
  for (size_t i = 0; i < options->wanted_count; i++) {
    const char *wanted = options->wanted[i];
    size_t length = strlen(wanted);
    if (length > 0 && wanted[length - 1] == '*' ? !strncmp(wanted, name, length - 1)
                                                : !strcmp(wanted, name))
      return true;
  }
  return options->wanted_count == 0;
}

static void *shared_page(size_t size)
{
  void *page = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) {
    perror("faultlab: mmap");
    exit(1);
  }
  return page;
}

/* In a process group of its own: whatever it has forked goes with it. */
static int run_apart(const struct lab_experiment *experiment)
{
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    lab_random_seed(lab_seed);
    alarm(experiment->watchdog_s);
    lab_clean();
    experiment->run();
    _exit(0);
  }
  waitpid(pid, &status, 0);
  kill(-pid, SIGKILL);
  return status;
}

static bool run(const struct lab_experiment *experiment, unsigned number)
{
  memset(lab_verdict, 0, sizeof *lab_verdict);
  memset(lab_control, 0, sizeof *lab_control);
  int status = run_apart(experiment);
  char why[128] = "";
  if (WIFSIGNALED(status))
    snprintf(why, sizeof why,
             WTERMSIG(status) == SIGALRM ? "hung: the watchdog ended it after %d s"
                                         : "died of signal %d",
             WTERMSIG(status) == SIGALRM ? (int)experiment->watchdog_s : WTERMSIG(status));
  bool good = !lab_verdict->failed && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  printf("%s %u - %s: %s", good ? "ok" : "not ok", number, experiment->name, experiment->summary);
  if (good && lab_verdict->counts[0])
    printf(": %s", lab_verdict->counts);
  printf("\n");
  if (!good)
    printf("# %s%s%s\n# again: faultlab --experiment %s --seed %llu\n", lab_verdict->message,
           lab_verdict->failed && why[0] ? "; " : "", why, experiment->name,
           (unsigned long long)lab_seed);
  fflush(stdout);
  return good;
}

static int run_all(const struct options *options)
{
  unsigned count = 0, failed = 0, skipped = 0, number = 0;
  for (size_t i = 0; i < BUS_COUNT_OF(experiments); i++)
    count += is_wanted(options, experiments[i].name);
  if (count == 0) {
    fprintf(stderr, "faultlab: no such experiment; see --list\n");
    return 2;
  }
  const char *refused = trace_refused();
  printf("1..%u\n# seed %llu\n", count, (unsigned long long)lab_seed);
  for (size_t i = 0; i < BUS_COUNT_OF(experiments); i++) {
    if (!is_wanted(options, experiments[i].name))
      continue;
    number++;
    if (refused && experiments[i].traces) {
      printf("ok %u - %s # SKIP cannot trace: %s\n", number, experiments[i].name, refused);
      skipped++;
    } else if (!run(&experiments[i], number)) {
      failed++;
    }
  }
  if (failed)
    return 1;
  return skipped == count && !options->tap ? 77 : 0;
}

int main(int argc, char **argv)
{
  static const struct option long_options[] = {{"experiment", required_argument, NULL, 'e'},
                                               {"seed", required_argument, NULL, 's'},
                                               {"kills", required_argument, NULL, 'k'},
                                               {"tap", no_argument, NULL, 't'},
                                               {"list", no_argument, NULL, 'l'},
                                               {"help", no_argument, NULL, 'h'},
                                               {NULL, 0, NULL, 0}};
  struct options options = {0};
  lab_seed = bus_clock_monotonic_ns() % 1000000000u;
  for (int option; (option = getopt_long(argc, argv, "", long_options, NULL)) != -1;) {
    if (option == 'e' && options.wanted_count < BUS_COUNT_OF(options.wanted))
      options.wanted[options.wanted_count++] = optarg;
    else if (option == 's')
      lab_seed = strtoull(optarg, NULL, 0);
    else if (option == 'k')
      lab_kills = strtoull(optarg, NULL, 0);
    else if (option == 't')
      options.tap = true;
    else if (option == 'l')
      for (size_t i = 0; i < BUS_COUNT_OF(experiments); i++)
        printf("%-24s %s\n", experiments[i].name, experiments[i].summary);
    else
      usage(option == 'h' ? stdout : stderr);
    if (option == 'l' || option == 'h')
      return 0;
    if (option == '?')
      return 2;
  }
  lab_control = shared_page(sizeof *lab_control);
  lab_verdict = shared_page(sizeof *lab_verdict);
  snprintf(lab_directory, sizeof lab_directory, "/dev/shm/signalbus-faultlab-%d", (int)getpid());
  int status = run_all(&options);
  lab_remove();
  return status;
}
