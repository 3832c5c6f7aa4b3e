/* bridge_core.h: the bridge itself, as a step function over ports, a transport, a clock and
 * randomness that are all given to it: the same seed and the same events make the same run.
 *
 * One request: claimed from its port -> admitted or rejected -> waits in its class (urgent first,
 * then earliest deadline) -> an attempt on a server of the class -> retried, hedged -> decided ->
 * final reply. Every request that was claimed ends in exactly one final reply, at its deadline at
 * the latest, unless its client's file is gone.
 *
 * What may be asked twice (IDEMPOTENT) is retried; anything else only while no byte was sent, or
 * after a 429 or 503, which say that nothing was done. It also gets no connection that was idle for
 * a second: the server may be closing it. Where no answer came, the text of BAD_REQUEST,
 * UPSTREAM_4XX and UPSTREAM_5XX says why. */
#ifndef SIGNALBUS_BRIDGE_CORE_H
#define SIGNALBUS_BRIDGE_CORE_H

#include "consumers/bridge_config.h"
#include "consumers/bridge_meters.h"
#include "consumers/bridge_port.h"

BUS_BEGIN_DECLARATIONS

struct bus_bridge_core;

struct bus_bridge_core_options {
  const struct bus_bridge_config *config;
  struct bus_bridge_table table;
  struct bus_bridge_port *ports; /* config->client_count of them; their consumers and producers are
                                    kept attached by the caller */
  struct bus_transport *transport;
  const struct bus_bridge_meters *meters;
  uint64_t random_seed;
  uint32_t epoch; /* this life's, into replies */
  /* Wall clock - bus clock, for Retry-After dates. */
  int64_t realtime_offset_ns;
  /* Bus clock, read where a step's own time is too coarse: after its wait, and for what the bridge
   * itself takes (in_ns, out_ns). NULL: the step's time is the only one, and neither is measured.
   */
  uint64_t (*clock)(void *context);
  void *clock_context;
  /* Called after each change of the table or commit to a reply ring, for tests that kill or look
   * there; may be NULL. The ports are given it by bus_bridge_core_new. */
  void (*transition)(void *context);
  void *transition_context;
};

/* Connections that a core with this configuration has open at most: what its transport must have
 * room for. Pure. */
BUS_EXPORT uint32_t bus_bridge_core_connections(const struct bus_bridge_config *config);

/* Settles what a predecessor left in the table, then is ready to step. `options` is copied; what it
 * points to must outlive the core. Returns BUS_OK or BUS_ERROR_NO_SPACE, BUS_ERROR_INVALID with a
 * message. */
BUS_EXPORT int bus_bridge_core_new(const struct bus_bridge_core_options *options, uint64_t now_ns,
                                   struct bus_bridge_core **core);

/* Does everything that can be done now: events of the transport (waiting `wait_ns` at most for the
 * first), timers, intake, dispatch, replies. Returns the number of things done, 0 when there was
 * nothing, or the transport's error. `now_ns`: bus clock, never backwards. Does not wait past its
 * own next timer. */
BUS_EXPORT int bus_bridge_core_step(struct bus_bridge_core *core, uint64_t now_ns,
                                    uint64_t wait_ns);

/* When the next timer falls due, bus clock; UINT64_MAX: none. For sleepers and simulations. */
BUS_EXPORT uint64_t bus_bridge_core_next_ns(const struct bus_bridge_core *core);

/* Port `index` has a consumer again, of file `ports[index].instance`: entries of that client with
 * another instance are dropped. Call it before the next step. */
BUS_EXPORT void bus_bridge_core_attached(struct bus_bridge_core *core, uint32_t index);

/* Frees private memory and closes the connections; the table keeps what is in flight, for a
 * successor: nothing is answered. NULL is allowed. */
BUS_EXPORT void bus_bridge_core_delete(struct bus_bridge_core *core);

/* A server as it stands, for people: "closed", "open", "canary"; and its requests in flight. */
struct bus_bridge_backend_view {
  uint32_t breaker; /* 0 closed, 1 open, 2 canary */
  uint32_t in_flight;
  uint64_t open_until_ns;
  char reason[160]; /* of the last failure, "" when none */
};
BUS_EXPORT void bus_bridge_core_backend(const struct bus_bridge_core *core, uint32_t index,
                                        struct bus_bridge_backend_view *view);

BUS_END_DECLARATIONS

#endif
