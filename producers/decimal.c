#include "producers/decimal.h"

#include "producers/swar.h"
#include "shm/error.h"

static const uint64_t power_of_ten[] = {
    1ull,
    10ull,
    100ull,
    1000ull,
    10000ull,
    100000ull,
    1000000ull,
    10000000ull,
    100000000ull,
    1000000000ull,
    10000000000ull,
    100000000000ull,
    1000000000000ull,
    10000000000000ull,
    100000000000000ull,
    1000000000000000ull,
    10000000000000000ull,
    100000000000000000ull,
    1000000000000000000ull,
};

BUS_STATIC_ASSERT(BUS_COUNT_OF(power_of_ten) == 1 - BUS_DECIMAL_EXPONENT_MIN, "one per exponent");

/* The digits after the point. Returns false when there is none or something else among them. */
static bool read_fraction(const char *at, const char *end, unsigned places, uint64_t *fraction,
                          bool *lossy)
{
  uint64_t value = 0;
  unsigned have = 0;
  if (at == end)
    return false;
  /* Spot prices and sizes always have eight places. */
  if (places >= 8 && end - at >= 8) {
    uint64_t word = bus_swar_load(at);
    if (!bus_swar_is_digits(word))
      return false;
    value = bus_swar_digits_value(word);
    have = 8;
    at += 8;
  }
  for (; at < end; at++) {
    unsigned digit = (unsigned char)*at - (unsigned)'0';
    if (digit > 9)
      return false;
    if (have < places) {
      value = value * 10 + digit;
      have++;
    } else if (digit != 0) {
      *lossy = true;
    }
  }
  *fraction = value * power_of_ten[places - have];
  return true;
}

int bus_decimal_parse(const char *text, size_t length, int exponent, int64_t *value)
{
  if (exponent < BUS_DECIMAL_EXPONENT_MIN || exponent > 0)
    return BUS_ERROR_INVALID;
  unsigned places = (unsigned)-exponent;
  const char *at = text;
  const char *end = text + length;
  bool negative = length > 0 && *at == '-';
  if (negative)
    at++;

  const char *start = at;
  uint64_t magnitude = 0;
  bool overflow = false;
  for (; at < end; at++) {
    unsigned digit = (unsigned char)*at - (unsigned)'0';
    if (digit > 9)
      break;
    overflow |= magnitude > (UINT64_MAX - 9) / 10;
    magnitude = magnitude * 10 + digit;
  }
  if (at == start)
    return BUS_ERROR_FORMAT;

  uint64_t fraction = 0;
  bool lossy = false;
  if (at < end && (*at != '.' || !read_fraction(at + 1, end, places, &fraction, &lossy)))
    return BUS_ERROR_FORMAT;
  overflow |= __builtin_mul_overflow(magnitude, power_of_ten[places], &magnitude);
  overflow |= __builtin_add_overflow(magnitude, fraction, &magnitude);
  if (overflow || magnitude > (uint64_t)INT64_MAX + negative)
    return BUS_ERROR_NO_SPACE;
  if (lossy)
    return BUS_ERROR_UNSUPPORTED;
  *value = (int64_t)(negative ? 0 - magnitude : magnitude);
  return BUS_OK;
}
