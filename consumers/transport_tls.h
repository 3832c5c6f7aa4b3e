/* transport_tls.h: TLS over another transport. Connections to peers without TLS pass through it
 * untouched.
 *
 * A server must prove its name: an unknown authority, another name, an expired certificate make the
 * open FAIL with EPROTO, and bus_transport_reason says what was wrong. A stream that ends without
 * the peer's close_notify FAILs with EPROTO too: anybody on the way could have cut it. Closing
 * sends no close_notify; it aborts, as over the other transports. */
#ifndef SIGNALBUS_TRANSPORT_TLS_H
#define SIGNALBUS_TRANSPORT_TLS_H

#include "consumers/transport.h"

BUS_BEGIN_DECLARATIONS

/* Whom to trust: the certificates of `authorities_path` (PEM) alone, or with NULL the system's.
 * Serves any number of connections of one thread, and must outlive them. Errors, with a message:
 * BUS_ERROR_ABSENT, BUS_ERROR_DENIED, BUS_ERROR_FORMAT (no certificate in it), BUS_ERROR_NO_SPACE;
 * BUS_ERROR_UNSUPPORTED when this program was built without TLS. */
BUS_EXPORT int bus_tls_client_new(const char *authorities_path, struct bus_tls_client **client);
BUS_EXPORT void bus_tls_client_free(struct bus_tls_client *client);

/* Wraps `inner`, which belongs to the new transport: destroying that destroys it. Its
 * operations->name is "tls". Returns BUS_OK, or BUS_ERROR_NO_SPACE with a message; then `inner`
 * stays the caller's. Built without TLS it gives `inner` itself: no peer can ask for TLS then.
 *
 * Beside what transport.h says: open returns BUS_ERROR_INVALID for a TLS peer without server_name,
 * and a send that returns BUS_ERROR_NO_SPACE breaks its connection, which FAILs with ENOBUFS. */
BUS_EXPORT int bus_transport_tls_new(struct bus_transport *inner, struct bus_transport **transport);

BUS_END_DECLARATIONS

#endif
