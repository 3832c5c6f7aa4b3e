/* bridge_transport.h: the transport of a bridge: what the system has, and TLS over it where a
 * server wants that. */
#ifndef SIGNALBUS_BRIDGE_TRANSPORT_H
#define SIGNALBUS_BRIDGE_TRANSPORT_H

#include "consumers/bridge_config.h"

BUS_BEGIN_DECLARATIONS

/* All zero: not open. */
struct bus_bridge_transport {
  struct bus_transport *transport;
  const char *kind;                                            /* "io_uring", "epoll" */
  bool tls;                                                    /* over it */
  char reason[256];                                            /* why "auto" took epoll, or "" */
  struct bus_tls_client *authorities[BUS_BRIDGE_BACKENDS_MAX]; /* by server; NULL: plain */
};

/* Opens the transport that `kind` names (see bus_transport_new) with room for `connections_max`,
 * and sets peer.tls of each server of `config` that wants TLS; it must stay where it is until the
 * close. Errors, with a message: those of bus_transport_new, bus_tls_client_new and
 * bus_transport_tls_new. */
BUS_EXPORT int bus_bridge_transport_open(struct bus_bridge_transport *transport, const char *kind,
                                         uint32_t connections_max,
                                         struct bus_bridge_config *config);

/* "transport epoll (why not io_uring)" and a line's end, into at most `size` bytes. */
BUS_EXPORT void bus_bridge_transport_print(const struct bus_bridge_transport *transport, char *text,
                                           size_t size);

/* Closes everything. */
BUS_EXPORT void bus_bridge_transport_close(struct bus_bridge_transport *transport);

BUS_END_DECLARATIONS

#endif
