/* bridge_member.h: the bridge as a member of the bus: its file, its rings, its run loop. What
 * happens to a request is decided in bridge_core.h.
 *
 * The file holds, for each client, the reply ring "replies.CLIENT", whose reliable consumer that
 * client is, and the position in its ring "llm.requests"; the table "requests" of what is under
 * way (bridge_table.h); the meters (bridge_meters.h); and the text "bridge", for people. A killed
 * bridge is followed by one that takes the file over. One with other clients, servers, classes or
 * sizes makes a new file: what was under way then ends as LOCAL_TIMEOUT, in the client's library.
 *
 * Keys are in private memory only: neither the file nor a log has them. */
#ifndef SIGNALBUS_BRIDGE_MEMBER_H
#define SIGNALBUS_BRIDGE_MEMBER_H

#include "consumers/bridge_core.h"
#include "shm/options.h"

BUS_BEGIN_DECLARATIONS

#define BUS_BRIDGE_TABLE_NAME "requests"
#define BUS_BRIDGE_TEXT_NAME  "bridge"

struct bus_bridge_options {
  struct bus_member_options member;
  const struct bus_bridge_config *config; /* copied */
  const char *transport;                  /* see bus_transport_new */
};

struct bus_bridge;

/* Opens the transport and creates (or takes over) the member; a successor settles what its
 * predecessor left. Returns BUS_OK, or with a message an error of bus_transport_new,
 * bus_member_new or bus_bridge_core_new. One thread creates, runs and deletes it. */
int bus_bridge_new(const struct bus_bridge_options *options, struct bus_bridge **result);

/* Runs until a signal asks to stop. BUS_OK or a negative error (the transport broke). */
int bus_bridge_run(struct bus_bridge *bridge);

/* Several lines for the log: the transport and why it was taken, servers, classes, clients. Valid
 * as long as the bridge. */
const char *bus_bridge_describe(const struct bus_bridge *bridge);

/* Leaves the bus and frees. What is under way stays in the file, for a successor. NULL is allowed.
 */
void bus_bridge_delete(struct bus_bridge *bridge);

BUS_END_DECLARATIONS

#endif
