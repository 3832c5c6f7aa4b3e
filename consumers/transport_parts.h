/* transport_parts.h: what the kinds of transport have in common: handles, time-outs, sockets. Not
 * for their users. One thread. */
#ifndef SIGNALBUS_TRANSPORT_PARTS_H
#define SIGNALBUS_TRANSPORT_PARTS_H

#include "consumers/transport.h"

BUS_BEGIN_DECLARATIONS

#define BUS_TRANSPORT_CONNECTIONS_MAX 65536u

/* A handle is an index (its low 16 bits) and a generation. Indices are given out in the order in
 * which they came back, so that a handle comes again only after 2^15 uses of its index. */
struct bus_transport_slots {
  uint32_t open_max;
  uint32_t open_count; /* taken and not retired */
  uint32_t capacity;
  uint32_t free_count;
  uint32_t free_first;
  uint32_t *free_queue; /* of `capacity` indices, from free_first, wrapping */
  uint32_t *handles;    /* each index's handle, with OPEN where it is in use */
};

/* For `open_max` (1..65536) connections, and up to `spare` that are retired and not yet given back.
 * BUS_OK, or with a message BUS_ERROR_INVALID or BUS_ERROR_NO_SPACE; after an error nothing is to
 * be freed. */
BUS_EXPORT int bus_transport_slots_init(struct bus_transport_slots *slots, uint32_t open_max,
                                        uint32_t spare);
BUS_EXPORT void bus_transport_slots_free(struct bus_transport_slots *slots);

/* A handle, or BUS_ERROR_NO_SPACE with a message. */
BUS_EXPORT int bus_transport_slots_take(struct bus_transport_slots *slots);

/* The index of an open handle, -1 of any other number. */
BUS_EXPORT int bus_transport_slots_find(const struct bus_transport_slots *slots, uint32_t handle);

/* The handle of an index that is in use. */
BUS_EXPORT uint32_t bus_transport_slots_handle(const struct bus_transport_slots *slots,
                                               uint32_t index);

/* From now on the index's handle is not found. */
BUS_EXPORT void bus_transport_slots_retire(struct bus_transport_slots *slots, uint32_t index);

/* A retired index may be taken again. */
BUS_EXPORT void bus_transport_slots_give(struct bus_transport_slots *slots, uint32_t index);

/* Time-outs of indices, one each. Few run at a time (connections being made), so they lie unsorted
 * and are looked through when the earliest is due. */
struct bus_transport_timers {
  uint32_t count;
  uint32_t capacity;
  uint64_t earliest_ns; /* no time-out is due before it; UINT64_MAX: there is none */
  uint32_t *indices;    /* of the `count` that run */
  uint32_t *places;     /* of each index: where in `indices`, or UINT32_MAX */
  uint64_t *due_ns;     /* of each index that runs */
};

BUS_EXPORT int bus_transport_timers_init(struct bus_transport_timers *timers, uint32_t capacity);
BUS_EXPORT void bus_transport_timers_free(struct bus_transport_timers *timers);

/* Starts, moves or (clear) stops the time-out of `index`. */
BUS_EXPORT void bus_transport_timers_set(struct bus_transport_timers *timers, uint32_t index,
                                         uint64_t due_ns);
BUS_EXPORT void bus_transport_timers_clear(struct bus_transport_timers *timers, uint32_t index);

/* Stops one time-out that is due at `now_ns` and returns its index; -1: none is. */
BUS_EXPORT int bus_transport_timers_take(struct bus_transport_timers *timers, uint64_t now_ns);

/* `wait_ns`, or less when a time-out is due before. */
BUS_EXPORT uint64_t bus_transport_timers_wait_ns(const struct bus_transport_timers *timers,
                                                 uint64_t wait_ns);

/* CLOCK_MONOTONIC now + `timeout_ns`, at most UINT64_MAX. */
BUS_EXPORT uint64_t bus_transport_due_ns(uint64_t timeout_ns);

/* A socket to connect to `peer`, that sends small parts at once and notices a dead host while
 * nothing is sent. `flags`: SOCK_NONBLOCK, or 0 for io_uring, which does not wait on a socket with
 * that flag. Returns the file descriptor, or with a message BUS_ERROR_NO_SPACE, BUS_ERROR_IO,
 * BUS_ERROR_DENIED, or BUS_ERROR_UNSUPPORTED when the peer wants TLS. */
BUS_EXPORT int bus_transport_socket(const struct bus_transport_peer *peer, int flags);

BUS_END_DECLARATIONS

#endif
