/* notify.h: tells the service manager (systemd, Type=notify) what this process does: ready, alive,
 * stopping. The documented datagram protocol of sd_notify(3), without its library: a message is
 * sent from housekeeping, where nothing may allocate, wait, or fail the member.
 *
 * A process that wants it calls bus_notify_open once; its run loop (loop.h) does the rest. Without
 * that call, or where nobody listens, everything here does nothing. One loop for each process. */
#ifndef SIGNALBUS_NOTIFY_H
#define SIGNALBUS_NOTIFY_H

#include "base.h"

BUS_BEGIN_DECLARATIONS

/* Takes $NOTIFY_SOCKET (an absolute path, or @NAME in the abstract namespace), $WATCHDOG_USEC and
 * $WATCHDOG_PID, and removes them from the environment, so that child processes do not speak for
 * this one. Returns BUS_OK, also when there is none, or BUS_ERROR_INVALID, BUS_ERROR_IO with a
 * message: the process can go on and is silent. Main thread, before others start. */
BUS_EXPORT int bus_notify_open(void);

/* Closes the socket; what follows is silent. Any state. */
BUS_EXPORT void bus_notify_close(void);

/* True between a bus_notify_open that found a socket and bus_notify_close. */
BUS_EXPORT bool bus_notify_is_open(void);

/* Longest time between two calls of bus_notify_alive that keeps the manager's watchdog quiet with a
 * margin, ns: a quarter of what it asked for. 0: it asked for none. */
BUS_EXPORT uint64_t bus_notify_interval_ns(void);

/* READY=1, once, with STATUS= the text of bus_notify_status. A message that the manager's full
 * socket refuses is sent again by the next bus_notify_alive. The thread that calls
 * bus_notify_alive.
 */
BUS_EXPORT void bus_notify_ready(void);

/* WATCHDOG=1 when a quarter of the manager's time has passed since the last, and what could not be
 * sent before. `now_ns` is CLOCK_MONOTONIC. Never from a hot path: a clock comparison, seldom a
 * system call that does not wait. */
BUS_EXPORT void bus_notify_alive(uint64_t now_ns);

/* STATUS=: one line for people, cut at 255 bytes; kept until it can be sent. Control characters
 * become blanks. The thread that calls bus_notify_alive. */
BUS_EXPORT void bus_notify_status(const char *format, ...) BUS_PRINTF(1, 2);

/* READY=1, and the end of the manager's watchdog: before this process executes a program that does
 * not speak the protocol. */
BUS_EXPORT void bus_notify_ready_without_watchdog(void);

/* STOPPING=1, once. */
BUS_EXPORT void bus_notify_stopping(void);

BUS_END_DECLARATIONS

#endif
