/* bridge_attempt.h: one connection to a server, with one exchange at a time: connect, send, the
 * answer, the time-outs of each phase; then it waits, warm, for the next. Private memory, one
 * thread. */
#ifndef SIGNALBUS_BRIDGE_ATTEMPT_H
#define SIGNALBUS_BRIDGE_ATTEMPT_H

#include "consumers/bridge_backend.h"

BUS_BEGIN_DECLARATIONS

enum bus_bridge_attempt_phase {
  BUS_BRIDGE_ATTEMPT_FREE = 0,       /* no connection */
  BUS_BRIDGE_ATTEMPT_CONNECTING = 1, /* nothing sent */
  BUS_BRIDGE_ATTEMPT_ASKED = 2,      /* sent, no token yet */
  BUS_BRIDGE_ATTEMPT_ANSWERED = 3,   /* tokens come */
  BUS_BRIDGE_ATTEMPT_WARM = 4        /* connected, nothing under way */
};

/* bus_bridge_attempt_overdue */
enum bus_bridge_overdue {
  BUS_BRIDGE_OVERDUE_NOT = 0,
  BUS_BRIDGE_OVERDUE_CONNECT = 1,
  BUS_BRIDGE_OVERDUE_FIRST_TOKEN = 2,
  BUS_BRIDGE_OVERDUE_TOKEN = 3,
  BUS_BRIDGE_OVERDUE_TOTAL = 4,
  BUS_BRIDGE_OVERDUE_IDLE = 5 /* WARM: kept long enough */
};

struct bus_bridge_attempt {
  uint32_t phase;      /* enum bus_bridge_attempt_phase */
  uint32_t connection; /* the transport's handle; not when FREE */
  uint32_t backend;    /* index; fixed */
  uint32_t request;    /* whose it is; BUS_BRIDGE_NONE: nobody's, or a canary */
  uint32_t number;     /* which attempt of its request, 1.. */
  uint32_t tokens;     /* completion_tokens when last looked */
  bool canary;
  bool reused;       /* the connection has served an exchange before */
  bool settled;      /* counted as succeeded or failed */
  uint64_t begun_ns; /* connect, or send where it was warm; WARM: since when */
  uint64_t sent_ns;  /* 0: not yet */
  uint64_t first_ns; /* first token; 0: not yet */
  uint64_t token_ns; /* last token */
  uint64_t hedge_ns; /* when a second server is to be asked; UINT64_MAX: never */
  uint64_t end_ns;   /* estimate, as the backend was told */
  struct bus_bridge_work work;
  size_t text_told; /* of the text and the reasoning: offered as partial replies */
  size_t reasoning_told;
  struct bus_llm_answer answer;
  uint32_t newer, older; /* neighbours in the backend's list of free or of warm ones */
};

/* FREE -> CONNECTING. Returns BUS_OK or the transport's error, with its message: still FREE. */
BUS_EXPORT int bus_bridge_attempt_connect(struct bus_bridge_attempt *attempt,
                                          struct bus_transport *transport,
                                          const struct bus_bridge_backend_config *config,
                                          uint64_t now_ns);

/* Prepares for the answer to a question of `kind`: before send, which must not fail for this.
 * Returns BUS_OK or BUS_ERROR_NO_SPACE. */
BUS_EXPORT int bus_bridge_attempt_prepare(struct bus_bridge_attempt *attempt, uint8_t kind,
                                          size_t text_bytes_max, uint64_t wall_ns);

/* CONNECTING (and connected) or WARM, and prepared -> ASKED. Returns BUS_OK or
 * BUS_ERROR_NO_SPACE: nothing was sent. */
BUS_EXPORT int bus_bridge_attempt_send(struct bus_bridge_attempt *attempt,
                                       struct bus_transport *transport, const void *bytes,
                                       size_t size, uint64_t now_ns);

/* Takes bytes of the answer in ASKED or ANSWERED. Returns the verdict (enum bus_llm_verdict). */
BUS_EXPORT uint32_t bus_bridge_attempt_take(struct bus_bridge_attempt *attempt, const void *bytes,
                                            size_t size, uint64_t now_ns);

/* When the first of its time-outs falls due, UINT64_MAX: none; and which one is over at `now_ns`
 * (enum bus_bridge_overdue). */
BUS_EXPORT uint64_t bus_bridge_attempt_due_ns(const struct bus_bridge_attempt *attempt,
                                              const struct bus_bridge_backend_config *config);
BUS_EXPORT uint32_t bus_bridge_attempt_overdue(const struct bus_bridge_attempt *attempt,
                                               const struct bus_bridge_backend_config *config,
                                               uint64_t now_ns);

/* English, for people: "no first token in time". */
BUS_EXPORT const char *bus_bridge_overdue_name(uint32_t overdue);

/* The exchange is over: -> WARM when the server keeps the connection and this side may (the answer
 * was whole, idle_ns is not 0), else closed and FREE. Large buffers are given back. */
BUS_EXPORT void bus_bridge_attempt_finish(struct bus_bridge_attempt *attempt,
                                          struct bus_transport *transport,
                                          const struct bus_bridge_backend_config *config,
                                          uint64_t now_ns);

/* Closes whatever is under way: -> FREE. */
BUS_EXPORT void bus_bridge_attempt_close(struct bus_bridge_attempt *attempt,
                                         struct bus_transport *transport);

BUS_END_DECLARATIONS

#endif
