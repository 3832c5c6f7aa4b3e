/* transport.h: byte streams to servers, by whatever the system has: io_uring, epoll, TLS over
 * either, or a simulation. One thread; nothing blocks but `poll`, and that for `wait_ns` at most.
 *
 * A connection is named by a handle that is not used again for long (index and generation). Its
 * life: open -> one of CONNECTED or FAILED; then DATA any number of times; then CLOSED (the peer
 * ended the stream in order) or FAILED. After CLOSED or FAILED, and at any time before, the caller
 * closes it; after close no later poll speaks of that handle, but events of the same poll that were
 * given out already may: the caller skips those of handles that it has closed. */
#ifndef SIGNALBUS_TRANSPORT_H
#define SIGNALBUS_TRANSPORT_H

#include "shm/error.h"

#include <sys/socket.h>

BUS_BEGIN_DECLARATIONS

struct bus_tls_client; /* see transport_tls.h */

/* Whom to connect to. Must outlive the connection. */
struct bus_transport_peer {
  struct sockaddr_storage address;
  socklen_t address_bytes;
  uint64_t connect_timeout_ns;      /* after it the open FAILs with ETIMEDOUT; TLS: the handshake
                                       included */
  const struct bus_tls_client *tls; /* NULL: plain */
  char server_name[256];            /* TLS: whom the certificate must name */
};

enum bus_transport_event_type {
  BUS_TRANSPORT_CONNECTED = 1,
  BUS_TRANSPORT_DATA = 2,
  BUS_TRANSPORT_CLOSED = 3,
  BUS_TRANSPORT_FAILED = 4
};

struct bus_transport_event {
  uint32_t type;       /* enum bus_transport_event_type */
  uint32_t connection; /* handle */
  int32_t error;       /* FAILED: an errno; EPROTO: TLS refused */
  uint32_t reserved0;
  const void *data; /* DATA: valid until the next call of poll */
  size_t size;
};

struct bus_transport;

struct bus_transport_operations {
  const char *name; /* "io_uring", "epoll", ..: for logs */
  /* Begins to connect. Returns the handle, 0..2^31-1, or BUS_ERROR_NO_SPACE (too many connections)
   * or BUS_ERROR_IO, both with a message. Further failures come as FAILED. */
  int (*open)(struct bus_transport *transport, const struct bus_transport_peer *peer);
  /* Queues `size` bytes of a connected connection; they are copied. Returns BUS_OK or
   * BUS_ERROR_NO_SPACE. A stream that breaks is told by FAILED, not here. */
  int (*send)(struct bus_transport *transport, uint32_t connection, const void *bytes, size_t size);
  /* Ends it at once, whatever is under way, in either direction. */
  void (*close)(struct bus_transport *transport, uint32_t connection);
  /* Hands queued work to the system and takes up to `count` (1..) events. Waits `wait_ns` at most
   * for the first (0: not at all). Returns their number, or a negative error with a message when
   * the transport itself is broken. */
  int (*poll)(struct bus_transport *transport, struct bus_transport_event *events, uint32_t count,
              uint64_t wait_ns);
  /* Closes everything and frees it. */
  void (*destroy)(struct bus_transport *transport);
};

/* Each kind begins with it. */
struct bus_transport {
  const struct bus_transport_operations *operations;
};

/* With room for `connections_max` (1..65536) connections. Errors, with a message:
 * BUS_ERROR_UNSUPPORTED or BUS_ERROR_DENIED when this kernel or container has no io_uring (the
 * message says why), BUS_ERROR_NO_SPACE, BUS_ERROR_IO. */
BUS_EXPORT int bus_transport_uring_new(uint32_t connections_max, struct bus_transport **transport);
BUS_EXPORT int bus_transport_epoll_new(uint32_t connections_max, struct bus_transport **transport);

BUS_END_DECLARATIONS

#endif
