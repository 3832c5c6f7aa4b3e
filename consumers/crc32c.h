/* crc32c.h: CRC-32C (Castagnoli; iSCSI, RFC 3720), by the CPU's instruction where it has one. */
#ifndef SIGNALBUS_CRC32C_H
#define SIGNALBUS_CRC32C_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

/* CRC-32C of `size` bytes, going on from `crc`, the result for the bytes before them (0 to start):
 * crc32c(crc32c(0, a), b) is that of a followed by b. SSE4.2 or ARMv8's CRC instruction, three
 * streams at a time, else the portable one. Any thread. */
uint32_t bus_crc32c(uint32_t crc, const void *bytes, size_t size);

/* The same by tables alone, on any CPU. */
uint32_t bus_crc32c_portable(uint32_t crc, const void *bytes, size_t size);

/* True when bus_crc32c has an instruction for it here. */
bool bus_crc32c_is_accelerated(void);

BUS_END_DECLARATIONS

#endif
