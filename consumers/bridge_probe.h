/* bridge_probe.h: asks a server for one token, as the bridge would: the only proof that it still
 * generates. For `bus-bridge --check --probe`; waits, so not for the run loop. */
#ifndef SIGNALBUS_BRIDGE_PROBE_H
#define SIGNALBUS_BRIDGE_PROBE_H

#include "consumers/bridge_config.h"

BUS_BEGIN_DECLARATIONS

struct bus_bridge_probe {
  bool answered;           /* a whole answer came */
  uint16_t http_status;    /* 0: none came */
  uint64_t connect_ns;     /* from the start until the connection stood; 0: it never did */
  uint64_t first_token_ns; /* from the request's sending; 0: none came */
  uint64_t total_ns;       /* from the start to the end */
  char text[64];           /* what came, cut; for people: no control characters */
  char reason[320];        /* why nothing came, "" when answered */
};

/* Connects to `backend`, asks, and waits for the answer: for the connection as long as
 * connect_timeout_ns, for the rest as long as first_token_timeout_ns, or 60 s where that is 0.
 * Returns BUS_OK, whatever the server did: see `probe`; else with a message the transport's error,
 * or BUS_ERROR_NO_SPACE. */
BUS_EXPORT int bus_bridge_probe(struct bus_transport *transport,
                                const struct bus_bridge_backend_config *backend,
                                struct bus_bridge_probe *probe);

BUS_END_DECLARATIONS

#endif
