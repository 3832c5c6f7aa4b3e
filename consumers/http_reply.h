/* http_reply.h: the reply of an HTTP/1 server, taken apart as its bytes come, in whatever pieces.
 * Over llhttp, or over http-parser where the system has no llhttp: the same replies either way.
 *
 * Interim replies (1xx) are skipped. Bodies of all three kinds are known: with Content-Length,
 * chunked, and up to the end of the stream. */
#ifndef SIGNALBUS_HTTP_REPLY_H
#define SIGNALBUS_HTTP_REPLY_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

/* Of anything but the body: the header with interim replies before it; the frame between two pieces
 * of a chunked body; trailers. */
#define BUS_HTTP_REPLY_FRAME_BYTES_MAX 32768u

enum bus_http_reply_state {
  BUS_HTTP_REPLY_MORE = 0,    /* goes on */
  BUS_HTTP_REPLY_WHOLE = 1,   /* up to its last byte */
  BUS_HTTP_REPLY_CUT = 2,     /* the stream has ended before */
  BUS_HTTP_REPLY_REFUSED = 3, /* no HTTP, or nothing that a POST may get: `problem` says */
  BUS_HTTP_REPLY_STOPPED = 4  /* `body` returned false */
};

struct bus_http_reply {
  uint32_t state;               /* enum bus_http_reply_state */
  uint16_t status;              /* 200..599; 0: the final status line has not come */
  bool header_whole;            /* of the final reply; what follows is valid from then on */
  bool kept;                    /* the server keeps the connection once the reply is whole */
  const char *problem;          /* REFUSED: static text */
  char retry_after[64];         /* value of the header, "" when none or too long */
  char content_encoding[32];    /* likewise */
  char location[128];           /* likewise */
  struct bus_http_parse *parse; /* private to http_reply.c */
};

/* Makes one that gives the body's pieces to `body` until that returns false. Returns BUS_OK or
 * BUS_ERROR_NO_SPACE with a message. */
BUS_EXPORT int bus_http_reply_new(bool (*body)(void *context, const char *bytes, size_t size),
                                  struct bus_http_reply **reply);

/* For a reply, the first or another. `context` is for `body`. */
BUS_EXPORT void bus_http_reply_begin(struct bus_http_reply *reply, void *context);

/* Takes up to `size` bytes and returns how many: all while state is MORE. Those behind a WHOLE
 * reply are left. */
BUS_EXPORT size_t bus_http_reply_take(struct bus_http_reply *reply, const char *bytes, size_t size);

/* The stream has ended, in order or not (`broken`: what ends with the stream is then not whole).
 * The state is MORE no longer. */
BUS_EXPORT void bus_http_reply_end(struct bus_http_reply *reply, bool broken);

/* NULL is allowed. */
BUS_EXPORT void bus_http_reply_delete(struct bus_http_reply *reply);

/* "llhttp 8.1.0" or "http-parser 2.9.4": for logs. */
BUS_EXPORT const char *bus_http_reply_library(void);

BUS_END_DECLARATIONS

#endif
