#include "consumers/transport.h"

#include <stdio.h>
#include <string.h>

int bus_transport_new(const char *kind, uint32_t connections_max, struct bus_transport **transport,
                      char *reason, size_t reason_bytes)
{
  reason[0] = '\0';
  *transport = NULL;
  if (strcmp(kind, "epoll") == 0)
    return bus_transport_epoll_new(connections_max, transport);
  if (strcmp(kind, "io_uring") == 0)
    return bus_transport_uring_new(connections_max, transport);
  if (strcmp(kind, "auto") != 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "there is no transport \"%s\": choose auto, io_uring or epoll", kind);
  const int error = bus_transport_uring_new(connections_max, transport);
  if (!error || error == BUS_ERROR_INVALID)
    return error;
  snprintf(reason, reason_bytes, "using epoll: %s", bus_error_message());
  return bus_transport_epoll_new(connections_max, transport);
}
