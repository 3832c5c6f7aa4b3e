#include "tools/busctl.h"

#include "shm/log.h"
#include "shm/member.h"
#include "shm/notify.h"
#include "tools/spawn.h"

#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: signal-busctl run SECTION CONF [--bus DIR]\n"
    "\n"
    "Becomes one member of the INI file CONF, the one of its [SECTION]: pins this process, "
    "prefers\n"
    "the memory of its NUMA node, and executes its command in the foreground, with the same pid.\n"
    "For a service manager, which then starts, watches and stops it (signal-bus(7)); the keys\n"
    "restart, restart_backoff_ms, start_timeout_ms, stop_timeout_ms and essential are for `up`\n"
    "alone. With start_wait=none the manager is told that the program is ready at once, and not "
    "to\n"
    "expect signs of life.\n"
    "\n"
    "  --bus DIR  the bus; default: directory= in [bus], else $SIGNAL_BUS, else\n"
    "             /dev/shm/signals\n"
    "  --help     this text\n"
    "\n"
    "Exit status: the program's own; 1 when it cannot be executed, 2 usage.\n";

/* NULL with a message that lists what there is. */
static const struct bus_config_member *find_section(const struct bus_config *config,
                                                    const char *name, const char *file)
{
  char known[512] = "";
  size_t length = 0;
  for (uint32_t i = 0; i < config->member_count; i++) {
    const char *other = config->members[i].name;
    if (!strcmp(other, name))
      return &config->members[i];
    if (length < sizeof known)
      length +=
          (size_t)snprintf(known + length, sizeof known - length, "%s%s", i ? ", " : "", other);
  }
  bus_error_set(BUS_ERROR_ABSENT, "%s: no section [%s]; there are: %s", file, name, known);
  return NULL;
}

static int run(const char *name, const char *file, const char *directory, struct bus_config *config)
{
  bool made;
  if (bus_config_read(file, config) != BUS_OK)
    return busctl_fail("run");
  const struct bus_config_member *member = find_section(config, name, file);
  if (!member)
    return busctl_fail("run");
  if (!directory)
    directory = config->directory[0] ? config->directory : bus_directory_default();
  if (config->create && busctl_make_directory(directory, 0, NULL, &made) != BUS_OK)
    return busctl_fail("run");
  if (member->start_wait == BUS_START_WAIT_NONE) {
    if (bus_notify_open() != BUS_OK)
      bus_log(BUS_LOG_WARNING, "signal-busctl run: %s", bus_error_message());
    bus_notify_ready_without_watchdog();
    bus_notify_close();
  }
  bus_spawn_exec(directory, member);
  return busctl_fail("run");
}

int busctl_run(int argc, char **argv)
{
  static const struct option options[] = {BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {.argc = argc,
                             .argv = argv,
                             .verb = "run",
                             .help = help,
                             .options = options,
                             .operands_max = argc}; /* too many or too few: one message, below */
  busctl_line_next(&line);                          /* no option of its own: goes to the end */
  if (line.ended)
    return line.status;
  if (argc - optind != 2)
    return busctl_usage_error("run", "give a section and a configuration file");
  struct bus_config *config = malloc(sizeof *config);
  if (!config) {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    return busctl_fail("run");
  }
  int status = run(argv[optind], argv[optind + 1], line.directory, config);
  free(config);
  return status;
}
