#include "tools/busctl.h"
#include "tools/ops/isolate.h"
#include "tools/ops/isolate_command.h"
#include "tools/ops/isolate_report.h"

#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: signal-busctl isolate --cpus LIST [OPTION].. [-- CMD [ARG]..]\n"
    "\n"
    "Keeps everybody else off the CPUs in LIST, until `release` puts back what was found. Prints\n"
    "every change. Run it as root; anybody may use --dry-run.\n"
    "\n"
    "  --cpus LIST              the CPUs, as 2-3,8; never CPU 0\n"
    "  --name N                 the isolation's name; default bus\n"
    "  --irqs move|keep         move interrupts away; default move\n"
    "  --kthreads move|keep     move the kernel's threads away; default move\n"
    "  --wq                     move the kernel's workqueues away\n"
    "  --sysctl                 settings that keep the kernel quiet; --dry-run lists them\n"
    "  --siblings include|ignore\n"
    "                           CPUs that share a core with those named: isolate them too, or\n"
    "                           leave them; default: leave them, with a warning\n"
    "  --cpu-dma-latency        no deep sleep: of every CPU while CMD runs, or without CMD of "
    "those\n"
    "                           in LIST until release\n"
    "  --strict                 a warning is a failure\n"
    "  --user NAME              runs CMD as that user; default: who called sudo, else root\n"
    "  --dry-run                list the changes, make none\n"
    "  --json                   report as JSON\n"
    "  --help                   this text\n"
    "\n"
    "CMD joins the isolation, is pinned to its CPUs, and replaces this program.\n"
    "Exit status: 0 isolated, 1 failed and rolled back, 2 usage, 3 isolated, with warnings,\n"
    "4 not permitted, 5 conflict, 6 not supported here, 7 failed and not all rolled back.\n";

enum isolate_option {
  OPTION_CPUS = BUSCTL_OPTION_OWN,
  OPTION_NAME,
  OPTION_IRQS,
  OPTION_KTHREADS,
  OPTION_WQ,
  OPTION_SYSCTL,
  OPTION_SIBLINGS,
  OPTION_LATENCY,
  OPTION_STRICT,
  OPTION_USER,
  OPTION_DRY_RUN,
  OPTION_JSON
};

static const struct option option_table[] = {
    {"cpus", required_argument, NULL, OPTION_CPUS},
    {"name", required_argument, NULL, OPTION_NAME},
    {"irqs", required_argument, NULL, OPTION_IRQS},
    {"kthreads", required_argument, NULL, OPTION_KTHREADS},
    {"wq", no_argument, NULL, OPTION_WQ},
    {"sysctl", no_argument, NULL, OPTION_SYSCTL},
    {"siblings", required_argument, NULL, OPTION_SIBLINGS},
    {"cpu-dma-latency", no_argument, NULL, OPTION_LATENCY},
    {"strict", no_argument, NULL, OPTION_STRICT},
    {"user", required_argument, NULL, OPTION_USER},
    {"dry-run", no_argument, NULL, OPTION_DRY_RUN},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, BUSCTL_OPTION_HELP},
    {NULL, 0, NULL, 0},
};

struct isolate {
  struct ops_isolate_options options;
  const char *user;
  bool cpus_given;
  bool json;
};

/* One of two words; -1 for others. */
static int parse_word(const char *text, const char *first, const char *second)
{
  return !strcmp(text, first) ? 0 : !strcmp(text, second) ? 1 : -1;
}

static int take_words(struct isolate *isolate, int option)
{
  bool siblings = option == OPTION_SIBLINGS;
  const char *first = siblings ? "include" : "move", *second = siblings ? "ignore" : "keep";
  int word = parse_word(optarg, first, second);
  if (word < 0)
    return busctl_usage_error("isolate", "'%s' is neither %s nor %s", optarg, first, second);
  if (siblings)
    isolate->options.siblings = word == 0 ? OPS_SIBLINGS_INCLUDE : OPS_SIBLINGS_IGNORE;
  else if (option == OPTION_IRQS)
    isolate->options.irqs_move = word == 0;
  else
    isolate->options.kthreads_move = word == 0;
  return BUSCTL_OK;
}

static int take_name(struct isolate *isolate)
{
  if (!ops_isolation_name_valid(optarg))
    return busctl_usage_error("isolate",
                              "--name takes 1 to 32 letters, digits, '_', '-', '.' (not first); "
                              "'house' is taken");
  strcpy(isolate->options.name, optarg);
  return BUSCTL_OK;
}

static int take_option(struct isolate *isolate, int option)
{
  switch (option) {
  case OPTION_CPUS:
    isolate->cpus_given = true;
    return ops_cpu_list_parse(&isolate->options.cpus, optarg, "--cpus") == BUS_OK
               ? BUSCTL_OK
               : busctl_usage_error("isolate", "%s", bus_error_message());
  case OPTION_NAME:
    return take_name(isolate);
  case OPTION_IRQS:
  case OPTION_KTHREADS:
  case OPTION_SIBLINGS:
    return take_words(isolate, option);
  case OPTION_WQ:
    isolate->options.workqueues = true;
    return BUSCTL_OK;
  case OPTION_SYSCTL:
    isolate->options.settings = true;
    return BUSCTL_OK;
  case OPTION_LATENCY:
    isolate->options.cpu_dma_latency = true;
    return BUSCTL_OK;
  case OPTION_STRICT:
    isolate->options.strict = true;
    return BUSCTL_OK;
  case OPTION_USER:
    isolate->user = optarg;
    return BUSCTL_OK;
  case OPTION_DRY_RUN:
    isolate->options.dry_run = true;
    return BUSCTL_OK;
  case OPTION_JSON:
    isolate->json = true;
    return BUSCTL_OK;
  default:
    return BUSCTL_USAGE;
  }
}

/* The report; CMD's standard output is CMD's. */
static int report(const struct ops_isolation *run, const struct isolate *isolate, int code)
{
  FILE *out = isolate->options.has_command && !isolate->options.dry_run ? stderr : stdout;
  if (code != OPS_EXIT_OK && code != OPS_EXIT_WARNINGS)
    busctl_fail("isolate");
  if (!isolate->json)
    ops_report_text(run, "isolate", code, out);
  else if (ops_report_json(run, "isolate", code, out) != BUS_OK)
    return busctl_fail("isolate");
  fflush(out);
  return code;
}

static int run_isolation(const struct isolate *isolate, struct ops_command *command)
{
  struct ops_system system;
  if (ops_system_init(&system, NULL) != BUS_OK)
    return busctl_fail("isolate");
  struct ops_isolation *run = malloc(sizeof *run);
  if (!run) {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    return busctl_fail("isolate");
  }
  ops_isolation_init(run, &system);
  run->options = isolate->options;
  int code = report(run, isolate, ops_isolate(run));
  if ((code == OPS_EXIT_OK || code == OPS_EXIT_WARNINGS) && command && !run->options.dry_run) {
    command->hold_latency = run->options.cpu_dma_latency;
    if (ops_command_exec(run, command) != BUS_OK) {
      busctl_fail("isolate");
      fprintf(stderr,
              "signal-busctl isolate: the isolation stays; signal-busctl release --name %s "
              "ends it\n",
              run->options.name);
      code = OPS_EXIT_FAILED;
    }
  }
  ops_isolation_free(run);
  free(run);
  return code;
}

int busctl_isolate(int argc, char **argv)
{
  struct isolate isolate = {.options = {.name = "bus", .irqs_move = true, .kthreads_move = true}};
  struct ops_command command;
  int option, status;
  /* '+': what follows CMD is CMD's. */
  while ((option = getopt_long(argc, argv, "+h", option_table, NULL)) != -1) {
    if (option == BUSCTL_OPTION_HELP) {
      fputs(help, stdout);
      return BUSCTL_OK;
    }
    if ((status = take_option(&isolate, option)) != BUSCTL_OK)
      return status;
  }
  if (!isolate.cpus_given)
    return busctl_usage_error("isolate", "give the CPUs: --cpus LIST");
  isolate.options.has_command = optind < argc;
  if (isolate.options.has_command && strcmp(argv[optind - 1], "--") != 0)
    return busctl_usage_error("isolate", "'%s' is one argument too many; a command comes after --",
                              argv[optind]);
  if (isolate.user && !isolate.options.has_command)
    return busctl_usage_error("isolate", "--user is for a command: -- CMD");
  if (isolate.options.has_command &&
      ops_command_init(&command, argv + optind, isolate.user) != BUS_OK)
    return busctl_usage_error("isolate", "%s", bus_error_message());
  return run_isolation(&isolate, isolate.options.has_command ? &command : NULL);
}
