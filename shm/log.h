/* log.h: lines for people on standard error. Set-up, housekeeping and the end of a process; never a
 * hot path: a line is a system call. */
#ifndef SIGNALBUS_LOG_H
#define SIGNALBUS_LOG_H

#include "base.h"

BUS_BEGIN_DECLARATIONS

/* As in syslog(3). */
enum bus_log_priority {
  BUS_LOG_ERROR = 3,
  BUS_LOG_WARNING = 4,
  BUS_LOG_NOTICE = 5,
  BUS_LOG_INFO = 6
};

/* True when standard error is the journal's stream: $JOURNAL_STREAM names its device and inode. */
BUS_EXPORT bool bus_log_goes_to_journal(void);

/* Writes one line, cut at 2047 bytes, in one system call; the newline is added. Under the journal
 * it begins with "<N>", by which journald knows its priority; line breaks inside become blanks, so
 * that no part of it is taken for a message of its own. Any thread. */
BUS_EXPORT void bus_log(enum bus_log_priority priority, const char *format, ...) BUS_PRINTF(2, 3);

BUS_END_DECLARATIONS

#endif
