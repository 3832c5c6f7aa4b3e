/* fault_guard.h: survives a neighbour that truncates its file.
 *
 * Reading a mapped page that is no longer in the file raises SIGBUS. For the ranges registered here
 * the handler puts zero pages in place and sets a flag, so the reader sees "no magic, no stamps"
 * and drops the neighbour in its housekeeping. Other SIGBUS go to the handler that was there
 * before. */
#ifndef SIGNALBUS_FAULT_GUARD_H
#define SIGNALBUS_FAULT_GUARD_H

#include "base.h"

BUS_BEGIN_DECLARATIONS

/* Guards `size` bytes at the page-aligned `base`; `*hit` becomes 1 when they were replaced.
 * Installs the handler at the first call. Any thread. Returns BUS_OK, or BUS_ERROR_NO_SPACE when
 * 1024 ranges are guarded already. */
BUS_EXPORT int bus_fault_guard_add(void *base, size_t size, uint32_t *hit);

/* Forgets the range at `base`, if there is one. Any thread. */
BUS_EXPORT void bus_fault_guard_remove(void *base);

BUS_END_DECLARATIONS

#endif
