/* transport.h: byte streams to servers, by whatever the system has: io_uring, epoll, TLS over
 * either, or a simulation. One thread; nothing blocks but `poll`, and that for `wait_ns` at most.
 *
 * A connection is named by a handle that is not used again for long: an index in its low 16 bits,
 * which no other open connection has, and a generation. Its life: open -> one of CONNECTED or
 * FAILED; then DATA any number of times; then CLOSED (the peer ended the stream in order) or
 * FAILED. After CLOSED or FAILED, and at any time before, the caller closes it; after close no
 * later poll speaks of that handle, but events of the same poll that were given out already may:
 * the caller skips those of handles that it has closed.
 *
 * What a peer sent before its connection broke comes as DATA before the FAILED. */
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
                                       included. 0: only after the system's own time-out */
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

/* Bytes of one connection that may wait to be sent. */
#define BUS_TRANSPORT_UNSENT_BYTES_MAX ((size_t)64 << 20)

struct bus_transport_operations {
  const char *name; /* "io_uring", "epoll", ..: for logs */
  /* Begins to connect. Returns the handle, 0..2^31-1, or with a message BUS_ERROR_NO_SPACE (too
   * many connections), BUS_ERROR_IO, or BUS_ERROR_UNSUPPORTED (a TLS peer, and this transport has
   * none). Further failures come as FAILED. */
  int (*open)(struct bus_transport *transport, const struct bus_transport_peer *peer);
  /* Queues `size` bytes of a connected connection; they are copied. Returns BUS_OK or
   * BUS_ERROR_NO_SPACE (memory, or more than BUS_TRANSPORT_UNSENT_BYTES_MAX would wait): then none
   * was queued. A stream that breaks is told by FAILED, not here; after CLOSED or FAILED bytes are
   * dropped. */
  int (*send)(struct bus_transport *transport, uint32_t connection, const void *bytes, size_t size);
  /* Aborts it, whatever is under way, in either direction; the peer sees that at the next poll at
   * the latest. */
  void (*close)(struct bus_transport *transport, uint32_t connection);
  /* Hands queued work to the system and takes up to `count` (1..) events. Waits `wait_ns` at most
   * for the first (0: not at all). Returns their number, or a negative error with a message when
   * the transport itself is broken. */
  int (*poll)(struct bus_transport *transport, struct bus_transport_event *events, uint32_t count,
              uint64_t wait_ns);
  /* Closes everything and frees it. */
  void (*destroy)(struct bus_transport *transport);
  /* Why a connection FAILED, for people, where an errno says too little; "" when it does not. Valid
   * until the connection is closed. May be NULL: ask by bus_transport_reason. */
  const char *(*reason)(const struct bus_transport *transport, uint32_t connection);
};

/* Each kind begins with it. */
struct bus_transport {
  const struct bus_transport_operations *operations;
};

/* Why `connection` FAILED: the kind's own words, or "". Valid until the connection is closed. */
static BUS_ALWAYS_INLINE const char *bus_transport_reason(const struct bus_transport *transport,
                                                          uint32_t connection)
{
  return transport->operations->reason ? transport->operations->reason(transport, connection) : "";
}

/* With room for `connections_max` (1..65536) connections; used by the thread that makes it. Errors,
 * with a message: BUS_ERROR_INVALID; BUS_ERROR_UNSUPPORTED or BUS_ERROR_DENIED when this kernel or
 * container has no io_uring (the message says why); BUS_ERROR_NO_SPACE, BUS_ERROR_IO. */
BUS_EXPORT int bus_transport_uring_new(uint32_t connections_max, struct bus_transport **transport);
BUS_EXPORT int bus_transport_epoll_new(uint32_t connections_max, struct bus_transport **transport);

/* The one that `kind` names: "io_uring", "epoll", or "auto": io_uring, else epoll. `reason` gets
 * why "auto" took epoll, for the log, or "" (cut at `reason_bytes`, 1..). Errors as above, and
 * BUS_ERROR_INVALID for another kind. */
BUS_EXPORT int bus_transport_new(const char *kind, uint32_t connections_max,
                                 struct bus_transport **transport, char *reason,
                                 size_t reason_bytes);

BUS_END_DECLARATIONS

#endif
