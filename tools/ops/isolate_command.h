/* isolate_command.h: runs a program on isolated CPUs: joins, pins, gives root away, execs. */
#ifndef SIGNALBUS_OPS_ISOLATE_COMMAND_H
#define SIGNALBUS_OPS_ISOLATE_COMMAND_H

#include "tools/ops/isolate_plan.h"

struct ops_command {
  char **argv;     /* ends with NULL */
  char path[4096]; /* what to exec */
  bool drops;      /* root is given away */
  uid_t uid;
  gid_t gid;
  char user[64]; /* "" when the uid has no name */
  char home[512];
  bool hold_latency; /* keep /dev/cpu_dma_latency open at 0 as long as it runs */
};

/* Finds the program and the user before anything is changed. `user` NULL: who called sudo
 * (SUDO_UID, SUDO_GID), or nobody else. Returns BUS_OK, BUS_ERROR_ABSENT, BUS_ERROR_DENIED or
 * BUS_ERROR_INVALID with a message. */
int ops_command_init(struct ops_command *command, char **argv, const char *user);

/* Becomes the program. Returns only when that fails, with a negative error. */
int ops_command_exec(struct ops_isolation *run, const struct ops_command *command);

#endif
