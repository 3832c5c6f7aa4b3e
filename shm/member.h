/* member.h: the owner's side of a member file: one process, one file, one writer.
 *
 * A member declares the objects it wants; bus_member_new creates the file, or takes over the one
 * that its predecessor left behind, and holds an exclusive lock on it until the process ends. The
 * kernel frees that lock however the process ends, so "locked" is what "alive" means on the bus.
 *
 * The lock is an open-file-description lock (fcntl F_OFD_SETLK), not flock: neighbours can ask
 * whether it is held (F_OFD_GETLK) without taking it, so that a probe never makes an owner's start
 * fail. */
#ifndef SIGNALBUS_MEMBER_H
#define SIGNALBUS_MEMBER_H

#include "clock.h"
#include "layout.h"

#include <sys/types.h>

BUS_BEGIN_DECLARATIONS

struct bus_member;

/* An object that a member asks for; unused fields are 0 or NULL. */
struct bus_object_spec {
  uint32_t type;    /* enum bus_object_type */
  const char *name; /* by bus_layout_name_is_valid; unique within type and peer; position: the
                       ring's name */
  const char *peer; /* ring: its reliable consumer (NULL with OVERWRITE); position: the producer */
  const char *unit; /* counter, histogram */
  uint32_t record_type;    /* ring, board */
  uint32_t record_size;    /* ring, board: 64..1 MiB, a multiple of 64 */
  uint32_t policy;         /* ring */
  uint64_t depth;          /* ring: a power of two, 4..2^30; board, symbols, text: elements */
  uint64_t start_position; /* ring: first position of a new one, beyond that of the config */
};

/* When an existing file is continued instead of being made anew. */
enum bus_takeover {
  BUS_TAKEOVER_ALWAYS = 0,
  BUS_TAKEOVER_AFTER_CRASH = 1, /* not when the last owner left in order */
  BUS_TAKEOVER_NEVER = 2
};

struct bus_member_config {
  const char *directory; /* NULL: bus_directory_default() */
  const char *name;
  const char *kind; /* "feed", "infer", ..: at most 15 characters */
  const struct bus_object_spec *objects;
  uint32_t object_count;
  uint32_t takeover;       /* enum bus_takeover */
  uint64_t identity;       /* what it works on: a file with another identity is not taken over */
  mode_t mode;             /* 0: 0640. Never writable by others than the owner */
  int numa_node;           /* -1: anywhere */
  int core;                /* -1: not pinned; only recorded, the run loop pins */
  bool small_pages;        /* do not ask for huge pages */
  uint64_t start_position; /* first position of new rings; 0 but in tests of the wrap */
};

/* $SIGNAL_BUS, else "/dev/shm/signals". Any thread, as long as none changes the environment. */
BUS_EXPORT const char *bus_directory_default(void);

/* When process `pid` started, in ticks since boot (field 22 of /proc/PID/stat), 0 when there is
 * none: with the pid it names a process for good. Any thread. */
BUS_EXPORT uint64_t bus_process_start_ticks(pid_t pid);

/* Alignment of the file's map, bytes. Pure. */
BUS_EXPORT size_t bus_member_align(void);

/* Bytes that the member's file needs before rounding to pages, 0 (with a message) when a parameter
 * is out of range. Pure. */
BUS_EXPORT uint64_t bus_member_footprint(const struct bus_member_config *config);

/* Creates or takes over the member's file, in state BOOT. After a takeover rings, positions,
 * counters and histograms hold what the last owner left. On success `*member` belongs to the
 * calling thread until bus_member_leave. Errors: BUS_ERROR_INVALID, BUS_ERROR_ABSENT (no bus
 * directory), BUS_ERROR_DENIED, BUS_ERROR_BUSY (a live process owns it; the message names its pid),
 * BUS_ERROR_NO_SPACE, BUS_ERROR_CORRUPT (the path is not a regular file of ours), BUS_ERROR_IO. */
BUS_EXPORT int bus_member_new(const struct bus_member_config *config, struct bus_member **member);

/* Declares the member ready (state RUN) and beats once. Everything written before is visible to
 * whoever sees the state (release; pairs with an acquire load of it). The owner's thread. */
BUS_EXPORT void bus_member_run(struct bus_member *member);

/* Writes the heartbeat, bus time in ns (release), and the offset to the wall clock before it. The
 * run loop does it at every housekeeping; the owner's thread only. */
BUS_EXPORT void bus_member_heartbeat(struct bus_member *member, uint64_t now_ns);

/* Sets the final state (BUS_STATE_HALT or BUS_STATE_FAIL), unmaps and unlocks. The file stays, so
 * that readers can finish and a successor can continue. Everything that was lent out (entries,
 * objects, header) is gone. NULL is allowed. The owner's thread. */
BUS_EXPORT void bus_member_leave(struct bus_member *member, uint32_t state);

/* Removes the file of a member that no process owns: zeroes its magic, so that attached neighbours
 * notice, then unlinks it. `directory` must not be NULL. Any thread. Returns BUS_OK, or with a
 * message BUS_ERROR_BUSY when it is alive, BUS_ERROR_ABSENT, BUS_ERROR_DENIED, BUS_ERROR_CORRUPT
 * when the file is not a member's, BUS_ERROR_INVALID when the name is none. */
BUS_EXPORT int bus_member_delete(const char *directory, const char *name);

/* True when this process continued a predecessor's file. Any thread, as long as the member is not
 * left; the same holds for the functions that follow. */
BUS_EXPORT bool bus_member_is_successor(const struct bus_member *member);

/* The header in the shared file, the bus directory, and the path of the file; valid until
 * bus_member_leave. */
BUS_EXPORT const struct bus_member_header *bus_member_header(const struct bus_member *member);
BUS_EXPORT const char *bus_member_path(const struct bus_member *member);
BUS_EXPORT const char *bus_member_directory(const struct bus_member *member);

/* The directory entry of an own object, NULL if there is none of that type and name (the first, if
 * several differ by peer). The entry is private memory, valid until bus_member_leave. */
BUS_EXPORT const struct bus_entry *bus_member_entry(const struct bus_member *member, uint32_t type,
                                                    const char *name);

/* The memory of an own object, writable, aligned to 128 bytes (a counter: to 8); NULL as above. */
BUS_EXPORT void *bus_member_object(const struct bus_member *member, uint32_t type,
                                   const char *name);

/* The own POSITION object for `ring` of `producer`, or NULL. */
BUS_EXPORT struct bus_position *bus_member_position(const struct bus_member *member,
                                                    const char *producer, const char *ring);

/* Replaces an own TEXT, cut to its size; readers may see it half-changed. Does nothing when there
 * is none of that name. The owner's thread, in set-up and housekeeping. */
BUS_EXPORT void bus_member_set_text(struct bus_member *member, const char *name, const char *format,
                                    ...) BUS_PRINTF(3, 4);

/* Counters: the word of a COUNTER object, from bus_member_object; wraps. The owner's thread only;
 * about 1 ns. Relaxed: readers load it whole, in no order relative to other words. */
static BUS_ALWAYS_INLINE void bus_counter_add(uint64_t *counter, uint64_t increment)
{
  BUS_STORE_RELAXED(counter, *counter + increment);
}

static BUS_ALWAYS_INLINE void bus_counter_set(uint64_t *counter, uint64_t value)
{
  BUS_STORE_RELAXED(counter, value);
}

BUS_END_DECLARATIONS

#endif
