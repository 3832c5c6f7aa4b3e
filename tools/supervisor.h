/* supervisor.h: starts the members of a bus, keeps them running, stops them in order.
 *
 * One thread, no shared state: children are processes of their own, each in its own process group,
 * and get SIGTERM from the kernel when the supervisor dies, however it dies. The supervisor is
 * itself the bus member "busctl", whose counters say how often each member was started and
 * restarted, and whose texts say what each does now; that also keeps a second supervisor off the
 * same bus. */
#ifndef SIGNALBUS_SUPERVISOR_H
#define SIGNALBUS_SUPERVISOR_H

#include "tools/bus_config.h"

#include <stdio.h>

#define BUS_SUPERVISOR_MEMBER "busctl"
#define BUS_SUPERVISOR_KIND   "supervisor"

/* The text "state.NAME" tells what member NAME does; one that is to be started again begins with
 * "restart". */
#define BUS_SUPERVISOR_TEXT_PREFIX "state."
#define BUS_SUPERVISOR_TEXT_BYTES  192

/* A member that has run this long starts again with its first backoff. */
#define BUS_SUPERVISOR_SETTLED_NS 10000000000u

struct bus_supervisor_options {
  const char *directory;   /* of the bus; it must exist */
  const char *config_file; /* its name, for people */
  int start_timeout_s;     /* 1..86400: all members together must have started by then; 0: only each
                              member's start_timeout_ms counts */
  FILE *log;               /* gets a line for each start, exit, restart and stop */
};

/* Starts the members of `config` in order and returns when all have ended: of their own, because an
 * essential one did, because one could not be started, or after SIGINT, SIGTERM or SIGHUP, which
 * stop them in reverse order (a second signal kills them at once). Blocks those signals and SIGCHLD
 * in the calling thread, which must be the process's only one, and sets SIGNAL_BUS in the
 * environment.
 *
 * Returns BUS_OK when each member ended with status 0 (or by the SIGTERM that stopped it), or, with
 * a message, BUS_ERROR_BUSY when another supervisor runs this bus, BUS_ERROR_IO when a member
 * failed or could not be started, and whatever bus_member_new returns. */
int bus_supervisor_run(const struct bus_config *config,
                       const struct bus_supervisor_options *options);

#endif
