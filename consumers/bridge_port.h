/* bridge_port.h: the bridge's side of one client: requests in, replies out, with the room that is
 * held free for final replies. No clocks and no system calls. One thread.
 *
 * What the client's ring holds is hostile: every fragment is checked against the one before it and
 * against the limits, and a message that does not add up is skipped and counted. */
#ifndef SIGNALBUS_BRIDGE_PORT_H
#define SIGNALBUS_BRIDGE_PORT_H

#include "consumers/bridge_table.h"
#include "shm/ring.h"

BUS_BEGIN_DECLARATIONS

struct bus_bridge_port {
  char client[BUS_LLM_NAME_BYTES];
  struct bus_consumer *requests; /* NULL: not attached now */
  struct bus_position *position; /* of the request ring, in the bridge's own file: always there */
  uint64_t instance;             /* of the client's file; 0: never seen */
  struct bus_producer *replies;  /* always there; policy WAIT */
  uint64_t reserved_slots;       /* for final replies of entries in the table */
  uint64_t invalid;              /* fragments skipped */
  /* Called after each store of a state or of the read position and each commit, for tests that kill
   * or look there; may be NULL. */
  void (*transition)(void *context);
  void *transition_context;
  /* For the functions below only: how far the message at the read position is gathered. */
  uint64_t gather_instance;
  uint64_t gather_position;
  uint32_t gathered;       /* fragments checked */
  uint32_t gathered_bytes; /* of text in them */
  struct bus_llm_request first;
};

/* What bus_bridge_port_take found. */
enum bus_bridge_intake {
  BUS_BRIDGE_INTAKE_NONE = 0,    /* nothing whole yet, or no room for its reply: later */
  BUS_BRIDGE_INTAKE_REQUEST = 1, /* claimed */
  BUS_BRIDGE_INTAKE_CANCEL = 2   /* request->id, request->class unused: still in the ring */
};

/* Looks at the next message of the client. A whole request is copied into `entry` (FREE, its index
 * the caller's), whose state becomes CLAIMED, and only then released in the ring: `reply_slots` of
 * room are reserved, or nothing is taken while there are not so many (reply_slots is first brought
 * into 1..half of the ring's depth, BUS_LLM_FRAGMENTS_MAX at most). A request whose text exceeds
 * the entry, whose kind or name is wrong is claimed too, with `refused` set and *valid false: the
 * caller answers BAD_REQUEST. A CANCEL is copied to *request and stays until
 * bus_bridge_port_cancel_done. Fragments that make no message are skipped and counted. `entry`
 * NULL: no entry is free; only cancels are taken. accepted_ns is set to now.
 */
BUS_EXPORT uint32_t bus_bridge_port_take(struct bus_bridge_port *port,
                                         const struct bus_bridge_table *table,
                                         struct bus_bridge_entry *entry, uint64_t now_ns,
                                         struct bus_llm_request *request, bool *valid);

/* Releases the CANCEL that take returned, after the entry was marked. */
BUS_EXPORT void bus_bridge_port_cancel_done(struct bus_bridge_port *port);

/* Publishes a partial reply: `reply` filled but for kind, text_bytes and the fragments' fields (its
 * text_offset is where the piece stands in the answer so far), `text` its piece. Takes no reserved
 * room and leaves an eighth of the ring free beside it; a piece longer than a slot goes out in
 * several partial replies, each of whole UTF-8 characters. Returns BUS_OK, or BUS_ERROR_AGAIN when
 * there is no room: nothing was published. */
BUS_EXPORT int bus_bridge_port_partial(struct bus_bridge_port *port,
                                       const struct bus_llm_reply *reply, const char *text,
                                       uint32_t text_bytes);

/* Publishes the final reply of `entry` (DONE): text longer than its reply_slots hold is cut behind
 * a whole UTF-8 character (flag CUT; OK becomes LENGTH). `reply` is filled but for id, kind, and
 * the fields of text and fragments. DONE -> PUBLISHING -> slots -> PUBLISHED -> FREE, and the
 * reserved room is given back. Returns BUS_OK, or BUS_ERROR_AGAIN when the ring has no room (a
 * client that does not read and a restart in between): nothing was changed. */
BUS_EXPORT int bus_bridge_port_final(struct bus_bridge_port *port, struct bus_bridge_entry *entry,
                                     const struct bus_llm_reply *reply, const char *text,
                                     uint32_t text_bytes);

/* Recovery, with the port's producer initialised, its consumer attached or not: for every entry of
 * this client that is not FREE, before anything is taken from this port or published to it. Moves
 * the read position past the entry's request, where the predecessor had not come to that; settles
 * PUBLISHING and PUBLISHED: FREE when the reply is whole in the ring (returns true), else
 * DISPATCHED. Reserves room again for what remains. Killed, it is done again from the start. */
BUS_EXPORT bool bus_bridge_port_recover(struct bus_bridge_port *port,
                                        struct bus_bridge_entry *entry);

/* Drops an entry whose client's file is gone: FREE, room given back, no reply. */
BUS_EXPORT void bus_bridge_port_drop(struct bus_bridge_port *port, struct bus_bridge_entry *entry);

BUS_END_DECLARATIONS

#endif
