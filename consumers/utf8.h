/* utf8.h: what is UTF-8 and what is not. Pure; any thread. */
#ifndef SIGNALBUS_UTF8_H
#define SIGNALBUS_UTF8_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

/* Bytes at the beginning of `text` that are whole, valid characters: `size` when all are. No
 * overlong forms, no surrogates, nothing above U+10FFFF; NUL is a character as any other. */
BUS_EXPORT size_t bus_utf8_valid_bytes(const char *text, size_t size);

/* The largest number of bytes, `limit` at most, that valid `text` of `size` bytes can be cut to
 * without cutting a character. */
BUS_EXPORT size_t bus_utf8_cut_bytes(const char *text, size_t size, size_t limit);

/* Writes `character` (0..0x10FFFF, no surrogate) and returns how many bytes it took, 1..4. */
BUS_EXPORT size_t bus_utf8_put(char bytes[4], uint32_t character);

BUS_END_DECLARATIONS

#endif
