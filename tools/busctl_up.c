#include "tools/busctl.h"

#include "shm/log.h"
#include "shm/member.h"
#include "shm/notify.h"
#include "shm/options.h"
#include "tools/supervisor.h"

#include <limits.h>
#include <stdlib.h>

static const char help[] =
    "Usage: signal-busctl up CONF [--bus DIR] [--wait-ready SEC]\n"
    "\n"
    "Starts the members that the INI file CONF lists, in its order, pinned, restarts those that\n"
    "die, and stops them in reverse order on SIGINT, SIGTERM or SIGHUP (a second one kills them\n"
    "at once). Stays in the foreground until all have ended.\n"
    "\n"
    "  --bus DIR         the bus; default: directory= in [bus], else $SIGNAL_BUS, else\n"
    "                    /dev/shm/signals\n"
    "  --wait-ready SEC  give up when not all members have started after SEC seconds (1..86400)\n"
    "  --help            this text\n"
    "\n"
    "The keys of CONF are in signal-busctl(1).\n"
    "Exit status: 0 every member ended in order, 1 failed, 2 usage.\n";

struct up {
  const char *file;
  const char *directory; /* NULL: not given */
  int64_t wait_ready_s;
};

static int bring_up(const struct up *up, struct bus_config *config)
{
  if (bus_config_read(up->file, config) != BUS_OK)
    return busctl_fail("up");
  char file[PATH_MAX]; /* absolute: `info` names it to people who stand elsewhere */
  struct bus_supervisor_options options = {.directory = up->directory,
                                           .config_file =
                                               realpath(up->file, file) ? file : up->file,
                                           .start_timeout_s = (int)up->wait_ready_s,
                                           .log = stderr};
  if (!options.directory)
    options.directory = config->directory[0] ? config->directory : bus_directory_default();
  bool made;
  if (config->create && busctl_make_directory(options.directory, 0, NULL, &made) != BUS_OK)
    return busctl_fail("up");
  if (bus_notify_open() != BUS_OK)
    bus_log(BUS_LOG_WARNING, "signal-busctl up: %s", bus_error_message());
  return bus_supervisor_run(config, &options) == BUS_OK ? BUSCTL_OK : busctl_fail("up");
}

int busctl_up(int argc, char **argv)
{
  static const struct option options[] = {
      {"wait-ready", required_argument, NULL, BUSCTL_OPTION_OWN}, BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {.argc = argc,
                             .argv = argv,
                             .verb = "up",
                             .help = help,
                             .options = options,
                             .operands_max = 1};
  struct up up = {0};
  while (busctl_line_next(&line))
    if (bus_parse_integer(optarg, 1, 86400, "--wait-ready", &up.wait_ready_s) != BUS_OK)
      busctl_line_refuse(&line);
  if (line.ended)
    return line.status;
  if (!line.operand)
    return busctl_usage_error("up", "give one configuration file");
  up.file = line.operand;
  up.directory = line.directory;
  struct bus_config *config = malloc(sizeof *config);
  if (!config) {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    return busctl_fail("up");
  }
  int status = bring_up(&up, config);
  free(config);
  return status;
}
