/* bridge_table.h: every request that the bridge has taken and not answered, in its member file, so
 * that a killed bridge loses none and answers none twice.
 *
 * One writer, and no reader but its successor: after a kill all stores of the dead process are
 * there, so plain program order is enough; `state` is stored with release to hold the compiler, and
 * always last.
 *
 *   FREE -> CLAIMED      the request is copied here; only then is it released in its ring. When the
 *                        kill comes between, the successor finds its end here and moves its own
 *                        read position, which lies in the same file, before it answers anything:
 *                        the client's file may be out of reach until after the answer is out and
 *                        the entry FREE again, and then nothing would tell that it was taken.
 *   -> DISPATCHED        before the first byte can reach a server.
 *   -> DONE              the outcome is decided; its text is in private memory and dies with it.
 *   -> PUBLISHING        reply_position and reply_slots_used say where the final reply will stand,
 *                        before its first slot is committed. Until it is PUBLISHED nothing else is
 *                        committed to that ring.
 *   -> PUBLISHED -> FREE the last slot is committed.
 *
 * Recovery, all of it before anything is taken or published: CLAIMED, and DISPATCHED or DONE where
 * `sent` is false, go on as new. Where it may have been sent: again when idempotent and in time,
 * else BRIDGE_RESTART. PUBLISHING: when the ring's head is just behind the last slot, the reply is
 * whole and it is over; if not the client throws the beginning away when the next fragment 0 comes,
 * and it is treated as DISPATCHED. The beginning takes room in the ring until the client has read
 * it; since no final reply takes more than half of the ring, the next one fits when it has. Cancels
 * are noted in `cancelled` before they are released in their ring.
 *
 * The table and the reply rings are in one file: when that is replaced both are new, and what was
 * in flight ends as LOCAL_TIMEOUT. The next bridge may then be given requests that the last one has
 * answered already (a client learns late how far its ring was read), so a client ignores replies
 * to ids that it does not wait for. */
#ifndef SIGNALBUS_BRIDGE_TABLE_H
#define SIGNALBUS_BRIDGE_TABLE_H

#include "shm/error.h"
#include "shm/llm_record.h"

BUS_BEGIN_DECLARATIONS

enum bus_bridge_state {
  BUS_BRIDGE_FREE = 0,
  BUS_BRIDGE_CLAIMED = 1,
  BUS_BRIDGE_DISPATCHED = 2,
  BUS_BRIDGE_DONE = 3,
  BUS_BRIDGE_PUBLISHING = 4,
  BUS_BRIDGE_PUBLISHED = 5
};

#define BUS_BRIDGE_ENTRY_HEADER_BYTES 256u

struct bus_bridge_entry {
  uint32_t state;                  /* enum bus_bridge_state */
  uint32_t cancelled;              /* 1: the client has taken it back */
  uint32_t sent;                   /* 1: a byte of it may have reached a server */
  uint32_t attempts;               /* begun, over all lives */
  char client[BUS_LLM_NAME_BYTES]; /* member */
  uint64_t client_instance;        /* of its file */
  uint64_t request_end;            /* position after its last fragment, in that file's ring */
  uint64_t accepted_ns;            /* bus clock */
  uint64_t reply_position;         /* PUBLISHING */
  uint32_t reply_slots_used;       /* PUBLISHING */
  uint32_t text_bytes;             /* of `text` */
  uint32_t refused;                /* 1: what was asked cannot be; BAD_REQUEST is the answer */
  uint8_t reserved0[44];
  struct bus_llm_request request; /* as of its first fragment; reply_slots: what is reserved */
  char text[];                    /* text_bytes, to the end of the element */
};
BUS_STATIC_ASSERT(sizeof(struct bus_bridge_entry) == BUS_BRIDGE_ENTRY_HEADER_BYTES,
                  "the text starts on a line");

/* The table: `count` elements of `entry_bytes` (a multiple of 64, more than the header). */
struct bus_bridge_table {
  char *memory;
  uint32_t count;
  uint32_t entry_bytes;
};

static BUS_ALWAYS_INLINE struct bus_bridge_entry *
bus_bridge_table_at(const struct bus_bridge_table *table, uint32_t index)
{
  return (struct bus_bridge_entry *)(void *)(table->memory + (size_t)index * table->entry_bytes);
}

static BUS_ALWAYS_INLINE uint32_t bus_bridge_table_text_max(const struct bus_bridge_table *table)
{
  return table->entry_bytes - BUS_BRIDGE_ENTRY_HEADER_BYTES;
}

/* Moves entry to `state`, last of all stores so far. */
static BUS_ALWAYS_INLINE void bus_bridge_entry_set(struct bus_bridge_entry *entry, uint32_t state)
{
  BUS_STORE_RELEASE(&entry->state, state);
}

/* True when `request` can be done as far as it says itself: kind, terminated name, a temperature
 * that is a number. Pure. */
BUS_EXPORT bool bus_bridge_request_is_valid(const struct bus_llm_request *request);

/* Checks what a predecessor left: an entry whose fields cannot be (state, sizes, names, kind where
 * not refused) is set FREE and counted in *damaged: the file may have been written by anything.
 * O(count). */
BUS_EXPORT void bus_bridge_table_check(const struct bus_bridge_table *table, uint32_t *damaged);

BUS_END_DECLARATIONS

#endif
