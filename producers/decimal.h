/* decimal.h: decimal text to integer, without floating point on the way. */
#ifndef SIGNALBUS_DECIMAL_H
#define SIGNALBUS_DECIMAL_H

#include "shm/base.h"

BUS_BEGIN_DECLARATIONS

#define BUS_DECIMAL_EXPONENT_MIN (-18)

/* Reads the `length` characters at `text` (no NUL needed), `[-]digits[.digits]`, as an integer in
 * units of 10^exponent: "61837.63" with exponent -8 is 6183763000000. `exponent` is -18..0.
 * Any thread; does not allocate and leaves no message.
 *
 * Returns BUS_OK and stores the value, or stores nothing and returns BUS_ERROR_INVALID (exponent
 * out of range), BUS_ERROR_FORMAT (empty, or not a decimal number), BUS_ERROR_NO_SPACE (does not
 * fit an int64_t) or BUS_ERROR_UNSUPPORTED (non-zero digits below the unit would be lost). */
int bus_decimal_parse(const char *text, size_t length, int exponent, int64_t *value);

BUS_END_DECLARATIONS

#endif
