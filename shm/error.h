/* error.h: error codes and the message that explains the last refusal.
 *
 * Hot-path functions return codes only. Control-plane functions (create, attach, open) return a
 * negative code AND leave a message, per thread, that names what was refused, its path, owner or
 * value, and the next step. */
#ifndef SIGNALBUS_ERROR_H
#define SIGNALBUS_ERROR_H

#include "base.h"

BUS_BEGIN_DECLARATIONS

enum bus_error {
  BUS_OK = 0,
  BUS_ERROR_INVALID = -1,     /* a parameter is out of range */
  BUS_ERROR_ABSENT = -2,      /* no such file, member, ring or symbol (yet) */
  BUS_ERROR_NOT_READY = -3,   /* the member's file exists, its owner is still formatting it */
  BUS_ERROR_VERSION = -4,     /* written by an incompatible version of the ABI */
  BUS_ERROR_DEAD_OWNER = -5,  /* complete, but no process owns it any more */
  BUS_ERROR_DENIED = -6,      /* permission, ownership or mode */
  BUS_ERROR_BUSY = -7,        /* another live process owns it */
  BUS_ERROR_CORRUPT = -8,     /* contents contradict themselves */
  BUS_ERROR_NO_SPACE = -9,    /* memory, disk or a fixed table is full */
  BUS_ERROR_IO = -10,         /* the system refused; errno is in the message */
  BUS_ERROR_AGAIN = -11,      /* nothing now; the same call may succeed later */
  BUS_ERROR_OVERRUN = -12,    /* the producer has lapped this reader */
  BUS_ERROR_FORMAT = -13,     /* input that is not what it should be */
  BUS_ERROR_UNSUPPORTED = -14 /* valid, but not supported here */
};

/* Returns a static English name for `code` (any value), e.g. "denied". Any thread. */
BUS_EXPORT const char *bus_error_name(int code);

/* Replaces the calling thread's message. `code` is a negative enum bus_error; it is returned, so
 * that `return bus_error_set(...)` reads well. Messages are cut at 1023 bytes. Does not allocate.
 */
BUS_EXPORT int bus_error_set(int code, const char *format, ...) BUS_PRINTF(2, 3);

/* As bus_error_set, with ": strerror(errno)" appended; the code is chosen from errno (ENOENT:
 * absent, EACCES/EPERM/EROFS: denied, ENOSPC/ENOMEM/EDQUOT: no space, EAGAIN: again, others: io).
 */
BUS_EXPORT int bus_error_set_errno(const char *format, ...) BUS_PRINTF(1, 2);

/* Puts "context: " before the calling thread's present message and returns `code` unchanged. The
 * whole is cut at 1023 bytes. */
BUS_EXPORT int bus_error_context(int code, const char *format, ...) BUS_PRINTF(2, 3);

/* The calling thread's last message, "" if none. Valid until the thread's next failing call. */
BUS_EXPORT const char *bus_error_message(void);

/* Forgets the calling thread's message. */
BUS_EXPORT void bus_error_clear(void);

BUS_END_DECLARATIONS

#endif
