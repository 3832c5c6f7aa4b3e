/* retry_after.h: what the HTTP header Retry-After says. Pure; any thread. */
#ifndef SIGNALBUS_RETRY_AFTER_H
#define SIGNALBUS_RETRY_AFTER_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

#define BUS_RETRY_AFTER_MS_MAX 86400000u /* a day: nobody waits longer */

/* `value`: seconds ("30", also "0.5"), or a date in any of HTTP's three forms ("Wed, 21 Oct 2015
 * 07:28:00 GMT", "Wednesday, 21-Oct-15 07:28:00 GMT", "Wed Oct 21 07:28:00 2015"), which is taken
 * from `wall_ns`, CLOCK_REALTIME. Returns milliseconds, at most BUS_RETRY_AFTER_MS_MAX; 0 for what
 * is past or cannot be read. */
BUS_EXPORT uint32_t bus_retry_after_ms(const char *value, uint64_t wall_ns);

BUS_END_DECLARATIONS

#endif
