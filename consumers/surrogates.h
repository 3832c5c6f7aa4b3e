/* surrogates.h: characters that a server has cut in two.
 *
 * JSON writes a character above U+FFFF as two escapes, "\uD83D\uDE00". Servers that escape token by
 * token send the first in one chunk and the second in the next; each chunk alone is then no JSON to
 * a strict reader. Here the halves are masked before the chunk is read, as characters of a private
 * area that no text uses (U+10F800 to U+10FFFF), and joined again when its text is appended. A half
 * that stays alone becomes U+FFFD. */
#ifndef SIGNALBUS_SURROGATES_H
#define SIGNALBUS_SURROGATES_H

#include "consumers/byte_buffer.h"

BUS_BEGIN_DECLARATIONS

/* Copies JSON to the empty buffer `masked` with each lone half masked. Returns how many there were,
 * or BUS_ERROR_NO_SPACE. */
BUS_EXPORT int bus_surrogates_mask(struct bus_byte_buffer *masked, const char *json, size_t size);

/* Appends UTF-8 to `buffer`, up to `limit` bytes in it, never half a character. `half`: what waits
 * for its other half, 0 at first; `masked`: the text comes from masked JSON. Returns BUS_OK, or
 * BUS_ERROR_NO_SPACE when not all of it found room. */
BUS_EXPORT int bus_surrogates_append(struct bus_byte_buffer *buffer, const char *text, size_t size,
                                     size_t limit, bool masked, uint32_t *half);

BUS_END_DECLARATIONS

#endif
