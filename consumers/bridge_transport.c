#include "consumers/bridge_transport.h"

#include "consumers/transport_tls.h"

#include <stdio.h>
#include <string.h>

static int open_authorities(struct bus_bridge_transport *transport,
                            struct bus_bridge_config *config)
{
  for (uint32_t i = 0; i < config->backend_count; i++) {
    struct bus_bridge_backend_config *backend = &config->backends[i];
    if (!backend->tls)
      continue;
    int error = bus_tls_client_new(backend->ca_file[0] ? backend->ca_file : NULL,
                                   &transport->authorities[i]);
    if (error)
      return bus_error_context(error, "[backend %s]", backend->name);
    backend->peer.tls = transport->authorities[i];
    transport->tls = true;
  }
  return BUS_OK;
}

int bus_bridge_transport_open(struct bus_bridge_transport *transport, const char *kind,
                              uint32_t connections_max, struct bus_bridge_config *config)
{
  memset(transport, 0, sizeof *transport);
  int error = bus_transport_new(kind, connections_max, &transport->transport, transport->reason,
                                sizeof transport->reason);
  if (error)
    return error;
  transport->kind = transport->transport->operations->name;
  error = open_authorities(transport, config);
  struct bus_transport *wrapped = NULL;
  if (!error && transport->tls)
    error = bus_transport_tls_new(transport->transport, &wrapped);
  if (wrapped)
    transport->transport = wrapped;
  if (error)
    bus_bridge_transport_close(transport);
  return error;
}

void bus_bridge_transport_print(const struct bus_bridge_transport *transport, char *text,
                                size_t size)
{
  snprintf(text, size, "transport %s%s%s%s%s\n", transport->kind, transport->tls ? ", TLS" : "",
           transport->reason[0] ? " (" : "", transport->reason, transport->reason[0] ? ")" : "");
}

void bus_bridge_transport_close(struct bus_bridge_transport *transport)
{
  if (transport->transport)
    transport->transport->operations->destroy(transport->transport);
  for (uint32_t i = 0; i < BUS_BRIDGE_BACKENDS_MAX; i++)
    if (transport->authorities[i])
      bus_tls_client_free(transport->authorities[i]);
  memset(transport, 0, sizeof *transport);
}
