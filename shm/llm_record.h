/* llm_record.h: questions to language models, and their answers, as records of rings. Part of the
 * ABI: every offset is asserted here and listed in shm/ABI.md.
 *
 * A message is one or more slots ("fragments") that follow each other in its ring: a header of 128
 * bytes, then bytes of the text, up to the stamp that ends the slot. A client owns one request
 * ring, "llm.requests", whose reliable consumer is the bridge; the bridge owns one reply ring for
 * each client, "replies.CLIENT", whose reliable consumer is that client. */
#ifndef SIGNALBUS_LLM_RECORD_H
#define SIGNALBUS_LLM_RECORD_H

#include "base.h"

BUS_BEGIN_DECLARATIONS

#define BUS_LLM_REQUEST_RING      "llm.requests"
#define BUS_LLM_REPLY_RING_PREFIX "replies."
#define BUS_LLM_CLIENT_NAME_MAX   23u /* characters: the prefix and it are a ring's name */
#define BUS_LLM_HEADER_BYTES      128u
#define BUS_LLM_RECORD_BYTES      16384u /* usual size of a slot of either ring */
#define BUS_LLM_FRAGMENTS_MAX     1024u
#define BUS_LLM_NAME_BYTES        24u

/* bus_llm_request.kind */
enum bus_llm_kind {
  BUS_LLM_CHAT = 1,       /* text: what the user says; with MESSAGES a JSON array of messages */
  BUS_LLM_COMPLETION = 2, /* text: the beginning that the model goes on with */
  BUS_LLM_EMBEDDING = 3,  /* text: what to embed; the answer is float32, little-endian */
  BUS_LLM_CANCEL = 4      /* no text: takes request `id` back */
};

/* bus_llm_request.flags */
enum bus_llm_request_flag {
  BUS_LLM_PARTIALS = 1 << 0,   /* send pieces as they come */
  BUS_LLM_IDEMPOTENT = 1 << 1, /* asking twice does no harm: may be retried, hedged, restarted */
  BUS_LLM_URGENT = 1 << 2,     /* before all that is not, and may use the reserve */
  BUS_LLM_MESSAGES = 1 << 3    /* chat: the text is a JSON array of {"role", "content"} */
};

/* One fragment of a request. */
struct bus_llm_request {
  uint64_t id;             /* the client's, unique over its lives; not 0. CANCEL: whose */
  uint64_t deadline_ns;    /* bus clock: the final answer is of no use after it */
  uint64_t submitted_ns;   /* bus clock */
  uint32_t text_bytes;     /* of the whole message */
  uint32_t fragment_bytes; /* of it in this slot */
  uint32_t text_offset;    /* where in the message those are */
  uint32_t tokens_max;     /* of the answer; 0: the class's limit */
  uint16_t fragment;       /* 0..fragments-1 */
  uint16_t fragments;      /* 1..BUS_LLM_FRAGMENTS_MAX */
  uint16_t reply_slots;    /* room that the client holds free for the final answer, 1.. */
  uint8_t kind;            /* enum bus_llm_kind */
  uint8_t flags;           /* enum bus_llm_request_flag */
  float temperature;       /* negative: the server's default */
  uint32_t client_epoch;   /* the client's, for people */
  char class_name[BUS_LLM_NAME_BYTES]; /* what it is routed by; NUL-terminated */
  uint8_t reserved0[48];               /* 0; the text follows */
};

/* bus_llm_reply.kind */
enum bus_llm_reply_kind {
  BUS_LLM_PARTIAL = 1, /* a piece of the answer; lossy: left out where there is no room */
  BUS_LLM_FINAL = 2    /* the only one of its request; carries the whole text */
};

/* bus_llm_reply.status: how the request ended. */
enum bus_llm_status {
  BUS_LLM_PENDING = 0, /* only in partial replies */
  BUS_LLM_OK = 1,
  BUS_LLM_LENGTH = 2,            /* cut: by tokens_max, or by reply_slots (flag CUT) */
  BUS_LLM_REJECTED_QUEUE = 3,    /* too many are waiting */
  BUS_LLM_REJECTED_DEADLINE = 4, /* could not be done in time, by the estimate */
  BUS_LLM_EXPIRED = 5,           /* the deadline passed; the text so far */
  BUS_LLM_CANCELLED = 6,
  BUS_LLM_BACKEND_DOWN = 7, /* no server of the class can be reached */
  BUS_LLM_UPSTREAM_4XX = 8,
  BUS_LLM_UPSTREAM_5XX = 9,    /* also: an error within the stream, an answer that is none */
  BUS_LLM_TRUNCATED = 10,      /* the server stopped in the middle; the text so far */
  BUS_LLM_BAD_REQUEST = 11,    /* refused by the bridge: class, kind, size, JSON, UTF-8 */
  BUS_LLM_BRIDGE_RESTART = 12, /* the bridge died meanwhile, and asking again was not allowed */
  BUS_LLM_LOCAL_TIMEOUT = 13   /* made by the client library: no answer by deadline + grace */
};
#define BUS_LLM_STATUS_COUNT 14u

/* bus_llm_reply.flags */
enum bus_llm_reply_flag {
  BUS_LLM_REASONING = 1 << 0, /* partial: the text is the model's reasoning, not its answer */
  BUS_LLM_CUT = 1 << 1,       /* final: the answer is longer than reply_slots hold */
  BUS_LLM_HEDGED = 1 << 2,    /* final: a second server was asked */
  BUS_LLM_LOST = 1 << 3       /* final: at least one partial reply was left out */
};

/* One fragment of a reply. */
struct bus_llm_reply {
  uint64_t id;
  uint64_t accepted_ns;       /* bus clock: when the bridge took the request */
  uint64_t sent_ns;           /* when the server was asked (the attempt that counts); 0: never */
  uint64_t first_ns;          /* when its first token came; 0: never */
  uint64_t done_ns;           /* when this reply was decided */
  uint32_t text_bytes;        /* of the whole message */
  uint32_t fragment_bytes;    /* of it in this slot */
  uint32_t text_offset;       /* final: of the fragment in the message; partial: of the piece in
                                 the answer so far */
  uint32_t prompt_tokens;     /* as the server counted; 0: it did not say */
  uint32_t completion_tokens; /* likewise */
  uint32_t epoch;             /* the bridge's */
  uint32_t retry_after_ms;    /* the server's wish; 0: none */
  uint16_t fragment;          /* 0..fragments-1 */
  uint16_t fragments;         /* partial: 1 */
  uint16_t http_status;       /* 0: none came */
  uint8_t kind;               /* enum bus_llm_reply_kind */
  uint8_t status;             /* enum bus_llm_status */
  uint8_t flags;              /* enum bus_llm_reply_flag */
  uint8_t attempt;    /* 1..: a piece of a new attempt begins the answer anew; 0: never sent */
  uint16_t reserved0; /* 0 */
  char backend[BUS_LLM_NAME_BYTES]; /* who answered; NUL-terminated */
  uint8_t reserved1[24];            /* 0; the text follows */
};

#define BUS_LLM_ASSERT(type, field, offset)                                                        \
  BUS_STATIC_ASSERT(offsetof(struct type, field) == (offset), #type "." #field " moved")

BUS_LLM_ASSERT(bus_llm_request, id, 0);
BUS_LLM_ASSERT(bus_llm_request, deadline_ns, 8);
BUS_LLM_ASSERT(bus_llm_request, submitted_ns, 16);
BUS_LLM_ASSERT(bus_llm_request, text_bytes, 24);
BUS_LLM_ASSERT(bus_llm_request, fragment_bytes, 28);
BUS_LLM_ASSERT(bus_llm_request, text_offset, 32);
BUS_LLM_ASSERT(bus_llm_request, tokens_max, 36);
BUS_LLM_ASSERT(bus_llm_request, fragment, 40);
BUS_LLM_ASSERT(bus_llm_request, fragments, 42);
BUS_LLM_ASSERT(bus_llm_request, reply_slots, 44);
BUS_LLM_ASSERT(bus_llm_request, kind, 46);
BUS_LLM_ASSERT(bus_llm_request, flags, 47);
BUS_LLM_ASSERT(bus_llm_request, temperature, 48);
BUS_LLM_ASSERT(bus_llm_request, client_epoch, 52);
BUS_LLM_ASSERT(bus_llm_request, class_name, 56);
BUS_LLM_ASSERT(bus_llm_request, reserved0, 80);
BUS_STATIC_ASSERT(sizeof(struct bus_llm_request) == BUS_LLM_HEADER_BYTES, "two lines, then text");

BUS_LLM_ASSERT(bus_llm_reply, id, 0);
BUS_LLM_ASSERT(bus_llm_reply, accepted_ns, 8);
BUS_LLM_ASSERT(bus_llm_reply, sent_ns, 16);
BUS_LLM_ASSERT(bus_llm_reply, first_ns, 24);
BUS_LLM_ASSERT(bus_llm_reply, done_ns, 32);
BUS_LLM_ASSERT(bus_llm_reply, text_bytes, 40);
BUS_LLM_ASSERT(bus_llm_reply, fragment_bytes, 44);
BUS_LLM_ASSERT(bus_llm_reply, text_offset, 48);
BUS_LLM_ASSERT(bus_llm_reply, prompt_tokens, 52);
BUS_LLM_ASSERT(bus_llm_reply, completion_tokens, 56);
BUS_LLM_ASSERT(bus_llm_reply, epoch, 60);
BUS_LLM_ASSERT(bus_llm_reply, retry_after_ms, 64);
BUS_LLM_ASSERT(bus_llm_reply, fragment, 68);
BUS_LLM_ASSERT(bus_llm_reply, fragments, 70);
BUS_LLM_ASSERT(bus_llm_reply, http_status, 72);
BUS_LLM_ASSERT(bus_llm_reply, kind, 74);
BUS_LLM_ASSERT(bus_llm_reply, status, 75);
BUS_LLM_ASSERT(bus_llm_reply, flags, 76);
BUS_LLM_ASSERT(bus_llm_reply, attempt, 77);
BUS_LLM_ASSERT(bus_llm_reply, reserved0, 78);
BUS_LLM_ASSERT(bus_llm_reply, backend, 80);
BUS_LLM_ASSERT(bus_llm_reply, reserved1, 104);
BUS_STATIC_ASSERT(sizeof(struct bus_llm_reply) == BUS_LLM_HEADER_BYTES, "two lines, then text");

/* Bytes of text that a slot of `record_size` bytes (a ring's: 192..1 MiB) holds. Pure. */
static BUS_ALWAYS_INLINE uint32_t bus_llm_slot_text_bytes(uint32_t record_size)
{
  return record_size - BUS_LLM_HEADER_BYTES - (uint32_t)sizeof(uint64_t);
}

/* Slots that a message of `text_bytes` takes, 1 at least. Pure. */
static BUS_ALWAYS_INLINE uint32_t bus_llm_slots(uint32_t text_bytes, uint32_t record_size)
{
  uint32_t room = bus_llm_slot_text_bytes(record_size);
  return text_bytes <= room ? 1 : (uint32_t)(((uint64_t)text_bytes + room - 1) / room);
}

BUS_END_DECLARATIONS

#endif
