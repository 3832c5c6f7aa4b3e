/* transport_kinds.h: the kinds of transport that a test of transports runs on. */
#ifndef SIGNALBUS_TESTS_TRANSPORT_KINDS_H
#define SIGNALBUS_TESTS_TRANSPORT_KINDS_H

#include "consumers/transport_uring.h"
#include "tests/transport_server.h"

#include <poll.h>

struct kind {
  enum { EPOLL, URING, URING_PLAIN_FILES } base;
  bool tls;
};

/* io_uring is tested where it is: elsewhere its tests say so and pass, for epoll is what runs. */
static int kind_make(const struct kind *kind, uint32_t connections_max,
                     struct bus_transport **transport)
{
  const int error =
      kind->base == EPOLL
          ? bus_transport_epoll_new(connections_max, transport)
          : bus_transport_uring_new_with(connections_max, kind->base == URING, transport);
  if (error == BUS_ERROR_DENIED || error == BUS_ERROR_UNSUPPORTED)
    cr_skip_test("%s", bus_error_message());
  return error;
}

static SSL_CTX *kind_server_tls(const struct kind *kind)
{
  (void)kind;
  return NULL;
}

static const struct bus_tls_client *kind_client_tls(const struct kind *kind)
{
  (void)kind;
  return NULL;
}

static void kind_end(const struct kind *kind)
{
  (void)kind;
}

#define ON_KIND(suite, body, ...)                                                                  \
  Test(suite, body)                                                                                \
  {                                                                                                \
    body(&(const struct kind){__VA_ARGS__});                                                       \
  }
#define ON_ALL_KINDS(body)                                                                         \
  ON_KIND(epoll, body, EPOLL, false)                                                               \
  ON_KIND(uring, body, URING, false)                                                               \
  ON_KIND(uring_plain_files, body, URING_PLAIN_FILES, false)

#endif
