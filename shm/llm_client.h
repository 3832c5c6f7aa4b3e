/* llm_client.h: a member's side of the bridge to language models: requests out, replies in.
 *
 * Every request that was submitted ends in exactly one final reply. The bridge makes it, by the
 * deadline; where the bridge cannot, this library does, with LOCAL_TIMEOUT at deadline + grace. A
 * final that comes after that is counted as late and dropped.
 *
 * A client waits for nobody: the bridge may come later, die, come back, or get a new file, and so
 * may the client's. What the bridge writes is treated as hostile. One thread; nothing is allocated
 * after new but for attaching, in maintain. */
#ifndef SIGNALBUS_LLM_CLIENT_H
#define SIGNALBUS_LLM_CLIENT_H

#include "error.h"
#include "llm_record.h"
#include "member.h"

BUS_BEGIN_DECLARATIONS

#define BUS_LLM_CLIENT_OBJECTS         12u
#define BUS_LLM_CLIENT_OUTSTANDING_MAX 4096u
#define BUS_LLM_CLIENT_SEQUENCE_BITS   44u /* of an id; above them the member's epoch */

struct bus_llm_client;

/* All zero: the defaults. */
struct bus_llm_client_options {
  const char *bridge;        /* member; NULL: "bridge" */
  uint32_t record_bytes;     /* of a slot, as the bridge has it: a multiple of 64, 192..1 MiB;
                                0: BUS_LLM_RECORD_BYTES */
  uint32_t request_depth;    /* slots of the request ring, a power of two; 0: 64. A request takes
                                bus_llm_slots of them, all at once */
  uint32_t outstanding_max;  /* requests in flight, ..BUS_LLM_CLIENT_OUTSTANDING_MAX; 0: 16 */
  uint32_t answer_bytes_max; /* longest text of a final reply; 0: 256 KiB, or 1024 slots */
  uint64_t grace_ns;         /* how long after its deadline a final may come; 0: 2 s */
};

/* The objects of a client, to be put into its bus_member_config. */
struct bus_llm_client_objects {
  struct bus_object_spec specs[BUS_LLM_CLIENT_OBJECTS];
  char reply_ring[BUS_NAME_BYTES]; /* what a spec points to */
};

/* Fills `objects` for the member `name` (1..23 characters); it and options->bridge must outlive the
 * bus_member_new that gets them. Returns BUS_OK or BUS_ERROR_INVALID with a message. Pure. */
BUS_EXPORT int bus_llm_client_declare(const struct bus_llm_client_options *options,
                                      const char *name, struct bus_llm_client_objects *objects);

/* Makes a client of a member that has these objects, by the same options; the member must outlive
 * it. Attaches nothing yet. Returns BUS_OK, BUS_ERROR_INVALID or BUS_ERROR_NO_SPACE with a message.
 */
BUS_EXPORT int bus_llm_client_new(struct bus_member *member,
                                  const struct bus_llm_client_options *options,
                                  struct bus_llm_client **client);

/* As new, with a member of its own that has nothing else: `name` on the bus `directory` (NULL:
 * bus_directory_default()). It is running then; maintain gives its heartbeat. Errors as of
 * bus_member_new, too. */
BUS_EXPORT int bus_llm_client_open(const char *directory, const char *name,
                                   const struct bus_llm_client_options *options,
                                   struct bus_llm_client **client);

/* Detaches, and leaves a member of its own in order. What is outstanding is answered to nobody.
 * NULL is allowed. */
BUS_EXPORT void bus_llm_client_delete(struct bus_llm_client *client);

/* What to ask. All zero but what is said: kind, class_name, text, deadline_ns. */
struct bus_llm_ask {
  uint8_t kind;           /* BUS_LLM_CHAT, _COMPLETION or _EMBEDDING */
  uint8_t flags;          /* enum bus_llm_request_flag */
  const char *class_name; /* 1..23 characters */
  const char *text;       /* copied; no NUL needed */
  uint32_t text_bytes;
  uint32_t tokens_max;   /* 0: the class's limit */
  bool has_temperature;  /* false: the server's default */
  float temperature;     /* 0.. */
  uint64_t deadline_ns;  /* bus clock, later than now */
  uint32_t answer_bytes; /* room for the final's text; 0: answer_bytes_max */
  uint64_t context;      /* the caller's; comes back with each reply */
};

/* Sends the request, all of it or nothing, and gives it an id. Returns BUS_OK; BUS_ERROR_AGAIN when
 * there is no credit now: too many outstanding, no room for the final reply in the bridge's ring,
 * or none for the request in the own one; or BUS_ERROR_INVALID with a message. */
BUS_EXPORT int bus_llm_client_submit(struct bus_llm_client *client, const struct bus_llm_ask *ask,
                                     uint64_t now_ns, uint64_t *id);

/* Asks for request `id` to be given up. Its final reply comes all the same, CANCELLED or what it
 * was already. Returns BUS_OK; BUS_ERROR_ABSENT when it is not outstanding; BUS_ERROR_AGAIN when
 * the request ring is full. */
BUS_EXPORT int bus_llm_client_cancel(struct bus_llm_client *client, uint64_t id);

/* A partial or the final reply. */
struct bus_llm_client_reply {
  struct bus_llm_reply header; /* checked; text_bytes is that of `text`; LOCAL_TIMEOUT: only id,
                                  kind, status and done_ns */
  uint64_t context;            /* of the ask */
  uint64_t submitted_ns;
  const char *text; /* whole, with a NUL behind; valid until the next call of the client */
};

/* The next reply: partial ones of requests that are outstanding, as they come, and one final for
 * each. Returns 1 with *reply filled, or 0: nothing now. Looks at no more than a ring of slots, so
 * that a bridge that writes garbage holds no time-out up. */
BUS_EXPORT int bus_llm_client_poll(struct bus_llm_client *client, uint64_t now_ns,
                                   struct bus_llm_client_reply *reply);

/* Attaches to the bridge and lets go of it, as it comes, goes and is replaced. Housekeeping, every
 * 1 to 1000 ms. Returns BUS_OK when requests and replies can flow, or the negative reason why not
 * yet, with a message, as bus_subscription_maintain: call it again. System calls; maps, allocates.
 */
BUS_EXPORT int bus_llm_client_maintain(struct bus_llm_client *client);

/* For programs without a loop of their own: maintains and polls until there is a reply (1) or
 * `timeout_ns` have passed or bus_loop_stop_requested() (0). Sleeps in between, up to 50 us. */
BUS_EXPORT int bus_llm_client_wait(struct bus_llm_client *client, uint64_t timeout_ns,
                                   struct bus_llm_client_reply *reply);

/* Requests without their final reply so far. */
BUS_EXPORT uint32_t bus_llm_client_outstanding(const struct bus_llm_client *client);

/* English name of an enum bus_llm_status ("ok", "rejected-queue"), static; "?" when unknown. Pure.
 */
BUS_EXPORT const char *bus_llm_status_name(uint32_t status);

BUS_END_DECLARATIONS

#endif
