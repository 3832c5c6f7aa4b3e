/* signal-busctl: makes, starts, shows and stops a signal bus. See tools/man/signal-busctl.1. */
#include "tools/busctl.h"

#include <string.h>

static const struct {
  const char *name;
  int (*run)(int argc, char **argv);
  const char *summary;
} verbs[] = {
    {"create", busctl_create, "make the bus directory"},
    {"destroy", busctl_destroy, "delete the files of its members and the directory"},
    {"info", busctl_info, "list members, rings, counters, latencies"},
    {"top", busctl_top, "watch them live"},
    {"metrics", busctl_metrics, "serve them to Prometheus and to browsers"},
    {"up", busctl_up, "start the members of a configuration file and keep them running"},
    {"run", busctl_run, "be one member of a configuration file, for a service manager"},
    {"down", busctl_down, "stop what `up` started"},
    {"isolate", busctl_isolate, "keep everybody else off some CPUs"},
    {"release", busctl_release, "give them back, as they were found"},
    {"doctor", busctl_doctor, "check the machine, and print what puts it right"},
    {"hugepages", busctl_hugepages, "reserve huge pages and put the bus on them"},
};

/* systemd's busctl inspects D-Bus; its verbs must never seem to work here. */
static const char *const systemd_verbs[] = {"list", "status", "monitor",      "capture",
                                            "tree", "call",   "introspect",   "emit",
                                            "wait", "help",   "get-property", "set-property"};

static void print_help(FILE *out)
{
  fputs("Usage: signal-busctl VERB [OPTION]..\n\n", out);
  for (size_t i = 0; i < BUS_COUNT_OF(verbs); i++)
    fprintf(out, "  %-9s %s\n", verbs[i].name, verbs[i].summary);
  fputs(
      "\n"
      "Options of every verb\n"
      "  --bus DIR  the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
      "  --help     the verb's own options\n"
      "\n"
      "  --version  of the program; in place of a verb, as --help\n"
      "\n"
      "Exit status: 0 ok, 1 failed, 2 usage, 3 done, but something is not in order and was named.\n"
      "Not to be confused with systemd's busctl, which inspects D-Bus.\n",
      out);
}

static int refuse(const char *verb)
{
  char text[64];
  for (size_t i = 0; i < BUS_COUNT_OF(systemd_verbs); i++)
    if (!strcmp(verb, systemd_verbs[i])) {
      fprintf(
          stderr,
          "signal-busctl: '%s' is a verb of systemd's busctl (D-Bus); run: /usr/bin/busctl %s\n",
          verb, verb);
      return BUSCTL_USAGE;
    }
  busctl_sanitise(text, sizeof text, verb, strlen(verb));
  fprintf(stderr, "signal-busctl: no verb '%s'\n", text);
  print_help(stderr);
  return BUSCTL_USAGE;
}

int main(int argc, char **argv)
{
  if (argc < 2) {
    print_help(stderr);
    return BUSCTL_USAGE;
  }
  const char *verb = argv[1];
  if (!strcmp(verb, "--help") || !strcmp(verb, "-h")) {
    print_help(stdout);
    return BUSCTL_OK;
  }
  if (!strcmp(verb, "--version")) {
    puts("signal-busctl (signal-bus) " BUS_VERSION);
    return BUSCTL_OK;
  }
  for (size_t i = 0; i < BUS_COUNT_OF(verbs); i++)
    if (!strcmp(verb, verbs[i].name)) {
      static char title[64]; /* what getopt's messages begin with */
      snprintf(title, sizeof title, "signal-busctl %s", verb);
      argv[1] = title;
      int status = verbs[i].run(argc - 1, argv + 1);
      /* A full disk or a closed pipe must not look like success. */
      if (fflush(stdout) != 0 && status == BUSCTL_OK) {
        perror("signal-busctl: standard output");
        status = BUSCTL_FAILED;
      }
      return status;
    }
  return refuse(verb);
}
