#include "tools/busctl.h"
#include "tools/ops/isolate.h"
#include "tools/ops/isolate_report.h"

#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: signal-busctl release [--name N] [--dry-run] [--json]\n"
    "\n"
    "Puts back what `isolate` found, in reverse order. What somebody else has changed since is "
    "left\n"
    "alone and named. Run it as root.\n"
    "\n"
    "  --name N   the isolation's name; default bus\n"
    "  --dry-run  list what would be put back, change nothing\n"
    "  --json     report as JSON\n"
    "  --help     this text\n"
    "\n"
    "Exit status: 0 released, or there was nothing, 1 failed, 2 usage, 3 released, but something "
    "had\n"
    "been changed since, 4 not permitted, 5 conflict, 7 not all restored: run it again.\n";

enum release_option { OPTION_NAME = BUSCTL_OPTION_OWN, OPTION_DRY_RUN, OPTION_JSON };

static const struct option option_table[] = {
    {"name", required_argument, NULL, OPTION_NAME},
    {"dry-run", no_argument, NULL, OPTION_DRY_RUN},
    {"json", no_argument, NULL, OPTION_JSON},
    {"help", no_argument, NULL, BUSCTL_OPTION_HELP},
    {NULL, 0, NULL, 0},
};

static int run_release(const struct ops_isolate_options *options, bool json)
{
  struct ops_system system;
  if (ops_system_init(&system, NULL) != BUS_OK)
    return busctl_fail("release");
  struct ops_isolation *run = malloc(sizeof *run);
  if (!run) {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    return busctl_fail("release");
  }
  ops_isolation_init(run, &system);
  run->options = *options;
  int code = ops_release(run);
  if (code != OPS_EXIT_OK && code != OPS_EXIT_WARNINGS)
    busctl_fail("release");
  if (!json)
    ops_report_text(run, "release", code, stdout);
  else if (ops_report_json(run, "release", code, stdout) != BUS_OK)
    code = busctl_fail("release");
  ops_isolation_free(run);
  free(run);
  return code;
}

int busctl_release(int argc, char **argv)
{
  struct ops_isolate_options options = {.name = "bus"};
  bool json = false;
  int option;
  while ((option = getopt_long(argc, argv, "h", option_table, NULL)) != -1) {
    switch (option) {
    case OPTION_NAME:
      if (!ops_isolation_name_valid(optarg))
        return busctl_usage_error("release", "--name '%s' is no isolation's name", optarg);
      strcpy(options.name, optarg);
      break;
    case OPTION_DRY_RUN:
      options.dry_run = true;
      break;
    case OPTION_JSON:
      json = true;
      break;
    case BUSCTL_OPTION_HELP:
      fputs(help, stdout);
      return BUSCTL_OK;
    default:
      return BUSCTL_USAGE;
    }
  }
  if (optind < argc)
    return busctl_usage_error("release", "'%s' is one argument too many", argv[optind]);
  return run_release(&options, json);
}
