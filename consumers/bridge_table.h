/* bridge_table.h: every request that the bridge has taken and not answered, in its member file, so
 * that a killed bridge loses none and answers none twice.
 *
 * One writer, and no reader but its successor: after a kill all stores of the dead process are
 * there, so plain program order is enough; `state` is stored with release to hold the compiler, and
 * always last.
 *
 *   FREE -> CLAIMED      the request is copied here; only then is it released in its ring. When the
 *                        kill comes between, the successor finds its position here and skips it.
 *   -> DISPATCHED        before the first byte can reach a server.
 *   -> DONE              the outcome is decided; its text is in private memory and dies with it.
 *   -> PUBLISHING        reply_position and reply_slots_used say where the final reply will stand,
 *                        before its first slot is committed.
 *   -> PUBLISHED -> FREE the last slot is committed.
 *
 * Recovery: CLAIMED, and DISPATCHED or DONE where `sent` is false, go on as new. Where it may have
 * been sent: again when idempotent and in time, else BRIDGE_RESTART. PUBLISHING: the ring's head
 * tells whether the whole reply is there: then it is over; if not the client throws the beginning
 * away when the next fragment 0 comes, and it is treated as DISPATCHED. Cancels are noted in
 * `cancelled` before they are released in their ring. */
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
  uint8_t reserved0[48];
  struct bus_llm_request request; /* as of its first fragment */
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

/* Checks what a predecessor left: an entry whose fields cannot be (state, sizes, name, kind) is set
 * FREE and counted in *damaged: the file may have been written by anything. O(count). */
BUS_EXPORT void bus_bridge_table_check(const struct bus_bridge_table *table, uint32_t *damaged);

BUS_END_DECLARATIONS

#endif
