/* bridge_backend.h: how one server stands, and which server of a class is next. No clocks, no
 * sockets: what happens is told. Private memory, one thread.
 *
 * The breaker: `failures_to_open` failures in a row open it, and nobody asks the server any more.
 * After a while, which doubles each time (75..125 % of it, so that bridges do not knock together),
 * one canary may pass; its success closes the breaker, its failure opens it again. */
#ifndef SIGNALBUS_BRIDGE_BACKEND_H
#define SIGNALBUS_BRIDGE_BACKEND_H

#include "consumers/bridge_config.h"
#include "consumers/bridge_queue.h"

BUS_BEGIN_DECLARATIONS

enum bus_bridge_breaker {
  BUS_BRIDGE_BREAKER_CLOSED = 0,
  BUS_BRIDGE_BREAKER_OPEN = 1,
  BUS_BRIDGE_BREAKER_CANARY = 2
};

struct bus_bridge_backend {
  const struct bus_bridge_backend_config *config;
  uint32_t breaker;   /* enum bus_bridge_breaker */
  uint32_t failures;  /* in a row */
  uint32_t in_flight; /* requests; a canary is none */
  uint64_t tokens_in_flight;
  uint64_t ends_sum_ns;     /* of the estimated ends of what is in flight; wraps, like its terms */
  uint64_t paused_until_ns; /* by Retry-After */
  uint64_t open_until_ns;
  uint64_t open_ns; /* how long the next time */
  uint64_t life_ns; /* when the server last showed life, or a canary was begun */
  uint64_t random;
  char reason[160]; /* of the last failure */
};

BUS_EXPORT void bus_bridge_backend_init(struct bus_bridge_backend *backend,
                                        const struct bus_bridge_backend_config *config,
                                        uint64_t random_seed, uint64_t now_ns);

/* Whether it answers as far as is known (the breaker is closed), and whether it may be asked now. A
 * request larger than tokens_in_flight_max is taken when nothing else is in flight. */
BUS_EXPORT bool bus_bridge_backend_up(const struct bus_bridge_backend *backend);
BUS_EXPORT bool bus_bridge_backend_has_room(const struct bus_bridge_backend *backend, bool urgent,
                                            struct bus_bridge_work work, uint64_t now_ns);

/* A request begins, and is over: the same `work` and `end_ns`, the estimate when it was taken. */
BUS_EXPORT void bus_bridge_backend_take(struct bus_bridge_backend *backend,
                                        struct bus_bridge_work work, uint64_t end_ns);
BUS_EXPORT void bus_bridge_backend_give(struct bus_bridge_backend *backend,
                                        struct bus_bridge_work work, uint64_t end_ns);

/* The server asked for a pause: until `until_ns`, if that is later than what it asked before. */
BUS_EXPORT void bus_bridge_backend_pause(struct bus_bridge_backend *backend, uint64_t until_ns);

/* An attempt went well; true when that closed the breaker. */
BUS_EXPORT bool bus_bridge_backend_succeeded(struct bus_bridge_backend *backend, uint64_t now_ns);

/* An attempt or canary failed by the server's fault; true when that opened the breaker (again). */
BUS_EXPORT bool bus_bridge_backend_failed(struct bus_bridge_backend *backend, uint64_t now_ns,
                                          bool canary, const char *reason);

/* When a canary is due, UINT64_MAX: never. */
BUS_EXPORT uint64_t bus_bridge_backend_canary_ns(const struct bus_bridge_backend *backend);

/* A canary begins. */
BUS_EXPORT void bus_bridge_backend_canary(struct bus_bridge_backend *backend, uint64_t now_ns);

/* How long `work` takes one request of this server; 0 when its speed is not known. */
BUS_EXPORT uint64_t bus_bridge_backend_work_ns(const struct bus_bridge_backend *backend,
                                               struct bus_bridge_work work);

/* How work is shared out among the servers of a class. All zero at first. */
struct bus_bridge_share {
  uint64_t pass[BUS_BRIDGE_BACKENDS_MAX]; /* by place in the class: work had, by weight */
  uint64_t last_pass;
};

/* The place in `class_config` of the server to ask: of those that have room the one with the least
 * in flight for its weight, then the one that had the least so far for its weight, then the first.
 * Those whose bit (by index in `backends`) is in `without` do not count. BUS_BRIDGE_NONE: none has
 * room. Changes nothing. */
BUS_EXPORT uint32_t bus_bridge_backend_choose(const struct bus_bridge_backend *backends,
                                              const struct bus_bridge_class_config *class_config,
                                              const struct bus_bridge_share *share, bool urgent,
                                              struct bus_bridge_work work, uint32_t without,
                                              uint64_t now_ns);

/* Notes that the server at `place` was asked. */
BUS_EXPORT void bus_bridge_share_note(struct bus_bridge_share *share,
                                      const struct bus_bridge_class_config *class_config,
                                      uint32_t place);

/* When `work` would be done, with `ahead` waiting before it for the servers of the class: the
 * earliest of the servers that are up. 0: not known, as the speed of one of them is not. */
BUS_EXPORT uint64_t bus_bridge_backend_done_ns(const struct bus_bridge_backend *backends,
                                               const struct bus_bridge_class_config *class_config,
                                               struct bus_bridge_work ahead, bool urgent,
                                               struct bus_bridge_work work, uint64_t now_ns);

BUS_END_DECLARATIONS

#endif
