/* gateway.h: the programs that stand between client and server in `bus-bench bridge`: started with
 * a configuration made for the run, waited for, and ended with it. */
#ifndef TOOLS_BENCH_GATEWAY_H
#define TOOLS_BENCH_GATEWAY_H

#include "shm/base.h"

#include <stdint.h>
#include <sys/types.h>

/* What all gateways of a run share. */
struct gateway_place {
  const char *directory; /* for configurations and logs; exists */
  uint16_t server_port;  /* of the server behind, on 127.0.0.1 */
  int core;              /* where a child starts */
  int parent_core;
};

struct gateway {
  pid_t pid;     /* 0: not running */
  uint16_t port; /* on 127.0.0.1 */
};

/* nginx as a plain reverse proxy: one worker, keep-alive on both sides, nothing buffered, no log.
 * `program`: "nginx" or a path. Returns BUS_OK, BUS_ERROR_ABSENT when there is no such program, or
 * another negative error with a message. */
int gateway_start_nginx(const struct gateway_place *place, const char *program,
                        struct gateway *gateway);

/* The LiteLLM proxy, one worker, one model named "double". As above; takes some 15 seconds. */
int gateway_start_litellm(const struct gateway_place *place, const char *program,
                          struct gateway *gateway);

/* bus-bridge on the bus `place->directory`, with the member "bench" as its only client. `transport`
 * and `idle` as its options say. It is ready when its member file says so: the caller attaches. */
int gateway_start_bridge(const struct gateway_place *place, const char *program,
                         const char *transport, const char *idle, struct gateway *gateway);

/* Ends it. */
void gateway_stop(struct gateway *gateway);

/* Removes what the gateways of a run left in the directory. */
void gateway_clean(const struct gateway_place *place);

#endif
