/* bridge_endpoint.h: where a server is, and the key that opens it: URLs, host names, key files.
 * Start-up only; one thread. No message holds a key, nor a URL, which might. */
#ifndef SIGNALBUS_BRIDGE_ENDPOINT_H
#define SIGNALBUS_BRIDGE_ENDPOINT_H

#include "consumers/bridge_config.h"

BUS_BEGIN_DECLARATIONS

/* Takes "http[s]://HOST[:PORT][/PATH]" apart, into tls, port, host, path, peer.server_name and,
 * where HOST is a numeric address ([..] around IPv6), peer.address. Without a path it is "/v1"; a
 * lone "/" means none. Returns BUS_OK or BUS_ERROR_FORMAT with a message. Pure. */
BUS_EXPORT int bus_bridge_url_parse(const char *url, struct bus_bridge_backend_config *backend);

/* Finds peer.address where the URL gave a name. Asks the network; may take seconds. Returns BUS_OK
 * or BUS_ERROR_ABSENT with a message. */
BUS_EXPORT int bus_bridge_host_resolve(struct bus_bridge_backend_config *backend);

/* Fills `authorization` from api_key_file or api_key_env; with neither "Bearer none": some servers
 * want the header and take any. The file must be a regular one that belongs to this user or root,
 * that others cannot read and the group cannot write. Errors, with a message: BUS_ERROR_ABSENT,
 * BUS_ERROR_DENIED, BUS_ERROR_INVALID (empty, too long, or bytes that no header may hold),
 * BUS_ERROR_IO. */
BUS_EXPORT int bus_bridge_key_read(struct bus_bridge_backend_config *backend);

/* Whether the key would cross a network unencrypted: there is one, and the server is neither https
 * nor on this machine. Pure. */
BUS_EXPORT bool bus_bridge_key_is_exposed(const struct bus_bridge_backend_config *backend);

BUS_END_DECLARATIONS

#endif
