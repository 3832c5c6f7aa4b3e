/* spawn.h: runs a member's command as a child process, pinned, in a process group of its own, and
 * tells at once when it could not be run. Internal to the supervisor. */
#ifndef SIGNALBUS_SPAWN_H
#define SIGNALBUS_SPAWN_H

#include "tools/bus_config.h"

#include <signal.h>
#include <sys/types.h>

struct bus_spawner {
  const char *directory; /* of the bus */
  int null_fd;           /* the children's standard input */
  sigset_t mask;         /* the children's signal mask: the caller's at bus_spawner_init */
};

/* Prepares, and sets SIGNAL_BUS in this process's environment, which children inherit. The process
 * must have one thread. Errors: BUS_ERROR_IO, BUS_ERROR_NO_SPACE. */
int bus_spawner_init(struct bus_spawner *spawner, const char *directory);

/* Starts `member`: BUS_OK when its program is running as process *pid, the leader of its own group.
 * On error, with a message, *pid is 0 and no child is left: BUS_ERROR_FORMAT (the command),
 * BUS_ERROR_ABSENT and BUS_ERROR_DENIED (the program), BUS_ERROR_IO and others by errno (core,
 * NUMA node, fork). */
int bus_spawn(const struct bus_spawner *spawner, const struct bus_config_member *member,
              pid_t *pid);

/* Makes this process the member: sets SIGNAL_BUS, pins, executes its command, with /dev/null as
 * standard input; pid, process group, environment and signal mask stay. The process must have one
 * thread. Returns only when it could not, with the errors of bus_spawn; it may then be pinned. */
int bus_spawn_exec(const char *directory, const struct bus_config_member *member);

/* Frees what bus_spawner_init took. A zeroed spawner is allowed. */
void bus_spawner_close(struct bus_spawner *spawner);

#endif
