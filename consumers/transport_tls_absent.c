/* Built without OpenSSL: nobody can make a struct bus_tls_client, so every peer is plain. */
#include "consumers/transport_tls.h"

int bus_tls_client_new(const char *authorities_path, struct bus_tls_client **client)
{
  (void)authorities_path;
  *client = NULL;
  return bus_error_set(BUS_ERROR_UNSUPPORTED,
                       "this program was built without TLS: install libssl-dev and build it with "
                       "-Dtls=enabled, or reach the server by http");
}

void bus_tls_client_free(struct bus_tls_client *client)
{
  (void)client;
}

int bus_transport_tls_new(struct bus_transport *inner, struct bus_transport **transport)
{
  *transport = inner;
  return BUS_OK;
}
