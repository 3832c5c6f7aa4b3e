/* clang-format off */
/* options.h: the command-line options that every member program has, for getopt_long.
 *
 *   static const struct option options[] = {
 *       BUS_MEMBER_OPTIONS, {"model", required_argument, NULL, 'm'}, {NULL, 0, NULL, 0}};
 *   while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
 *     if ((taken = bus_member_options_take(&common, option, optarg)) == 0)
 *       switch (option) { the program's own }
 *
 * All of it for the main thread, before members exist. */
/* clang-format on */
#ifndef SIGNALBUS_OPTIONS_H
#define SIGNALBUS_OPTIONS_H

#include "loop.h"

#include <getopt.h>

BUS_BEGIN_DECLARATIONS

struct bus_member_options {
  const char *directory;
  const char *name;
  int core;      /* -1: not pinned */
  int numa_node; /* -1: anywhere */
  uint32_t idle; /* enum bus_idle */
  mode_t mode;   /* of the member's file */
  bool small_pages;
};

enum {
  BUS_OPTION_BUS = 0x1000,
  BUS_OPTION_NAME,
  BUS_OPTION_CORE,
  BUS_OPTION_NUMA_NODE,
  BUS_OPTION_IDLE,
  BUS_OPTION_MODE,
  BUS_OPTION_SMALL_PAGES
};

#define BUS_MEMBER_OPTIONS                                                                         \
  {"bus", required_argument, NULL, BUS_OPTION_BUS},                                                \
      {"name", required_argument, NULL, BUS_OPTION_NAME},                                          \
      {"core", required_argument, NULL, BUS_OPTION_CORE},                                          \
      {"numa-node", required_argument, NULL, BUS_OPTION_NUMA_NODE},                                \
      {"idle", required_argument, NULL, BUS_OPTION_IDLE},                                          \
      {"mode", required_argument, NULL, BUS_OPTION_MODE},                                          \
  {                                                                                                \
    "small-pages", no_argument, NULL, BUS_OPTION_SMALL_PAGES                                       \
  }

#define BUS_MEMBER_OPTIONS_HELP                                                                    \
  "  --bus DIR           the bus (default $SIGNAL_BUS, else /dev/shm/signals)\n"                   \
  "  --name NAME         this member's name on it\n"                                               \
  "  --core N            pin to core N (default: not pinned)\n"                                    \
  "  --numa-node N       place the member's file on node N\n"                                      \
  "  --idle STRATEGY     when there is nothing to do: spin, backoff (default), sleep, doorbell\n"  \
  "  --mode OCTAL        mode of the member's file (default 0640)\n"                               \
  "  --small-pages       do not ask for huge pages\n"

/* Defaults, with this member name, which is kept, not copied: as are the values of the options. */
BUS_EXPORT void bus_member_options_init(struct bus_member_options *options, const char *name);

/* Takes one option. Returns 1 when it was one of the above, 0 when not, BUS_ERROR_INVALID with a
 * message when its value is wrong. */
BUS_EXPORT int bus_member_options_take(struct bus_member_options *options, int option,
                                       const char *value);

/* Parses a whole decimal number in minimum..maximum into *value; `what` names it in the message.
 * Returns BUS_OK, or BUS_ERROR_INVALID and leaves *value alone. */
BUS_EXPORT int bus_parse_integer(const char *text, int64_t minimum, int64_t maximum,
                                 const char *what, int64_t *value);

BUS_END_DECLARATIONS

#endif
