/* neighbour.h: another member's file, mapped read-only.
 *
 * Attaching copies the header and the directory once, checks the copies, and from then on uses only
 * them: whatever the owner does to its file afterwards, offsets and sizes stay what was checked. */
#ifndef SIGNALBUS_NEIGHBOUR_H
#define SIGNALBUS_NEIGHBOUR_H

#include "layout.h"

BUS_BEGIN_DECLARATIONS

struct bus_neighbour;

enum bus_neighbour_status {
  BUS_NEIGHBOUR_ALIVE = 1,   /* locked, heartbeat recent */
  BUS_NEIGHBOUR_STALLED = 2, /* locked, heartbeat old: stopped or starved, not dead */
  BUS_NEIGHBOUR_DEAD = 3,    /* nobody holds the lock; what it committed stays readable */
  BUS_NEIGHBOUR_GONE = 4     /* the file was deleted, replaced or truncated: detach, attach again */
};

/* Attaches to member `name` of the bus `directory` (NULL: bus_directory_default()). `allow_dead`
 * also accepts a file that no process owns. Any thread; the handle then belongs to one thread.
 * Returns BUS_OK or, each with a message that says what to do: BUS_ERROR_ABSENT (no such file),
 * BUS_ERROR_NOT_READY (being created: empty, not all of it allocated, or no magic),
 * BUS_ERROR_VERSION (prints both), BUS_ERROR_DEAD_OWNER, BUS_ERROR_DENIED (not readable, or its
 * owner or mode would let a stranger pose as this member), BUS_ERROR_CORRUPT, BUS_ERROR_IO. */
BUS_EXPORT int bus_neighbour_attach(const char *directory, const char *name, bool allow_dead,
                                    struct bus_neighbour **neighbour);

/* Unmaps; entries and objects of it are gone. NULL is allowed. The handle's thread. */
BUS_EXPORT void bus_neighbour_detach(struct bus_neighbour *neighbour);

/* How it is now; a system call or two, for housekeeping. `stall_ns`: age of the heartbeat from
 * which a living member counts as stalled, on the bus clock. Does not fail. The handle's thread. */
BUS_EXPORT enum bus_neighbour_status bus_neighbour_status(const struct bus_neighbour *neighbour,
                                                          uint64_t stall_ns);

/* English name of a status, static; "?" when unknown. */
BUS_EXPORT const char *bus_neighbour_status_name(enum bus_neighbour_status status);

/* The checked copy made at attach time, valid until the detach; live fields (state, heartbeat) are
 * in bus_neighbour_live. */
BUS_EXPORT const struct bus_member_header *
bus_neighbour_header(const struct bus_neighbour *neighbour);

/* Copies the header as it is now, unchecked, for its live fields (pid, epoch, state, heartbeat):
 * each word whole, the words slightly apart in time. Never use its sizes or names. */
BUS_EXPORT void bus_neighbour_live(const struct bus_neighbour *neighbour,
                                   struct bus_member_header *now);

/* Directory entry `index`, 0..entry_count-1 (of the copy), or NULL. */
BUS_EXPORT const struct bus_entry *bus_neighbour_entry(const struct bus_neighbour *neighbour,
                                                       uint32_t index);

/* The entry of that type and name (NULL: the first of that type), or NULL. */
BUS_EXPORT const struct bus_entry *bus_neighbour_find(const struct bus_neighbour *neighbour,
                                                      uint32_t type, const char *name);

/* Memory of the object that `entry`, which must be from bus_neighbour_entry or _find of this
 * neighbour, describes: entry->size bytes, read-only, hostile. Valid until the detach. */
BUS_EXPORT const void *bus_neighbour_object(const struct bus_neighbour *neighbour,
                                            const struct bus_entry *entry);

/* Calls `visit` for the name of each file in the bus directory that could be a member's, sorted;
 * stops when it returns non-zero and returns that, else BUS_OK. `directory` NULL:
 * bus_directory_default(). Errors, with a message: BUS_ERROR_ABSENT, BUS_ERROR_DENIED,
 * BUS_ERROR_IO. Allocates. Any thread. */
BUS_EXPORT int bus_directory_visit(const char *directory,
                                   int (*visit)(const char *name, void *context), void *context);

BUS_END_DECLARATIONS

#endif
