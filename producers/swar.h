/* swar.h: eight bytes of text at a time in one 64-bit register (little-endian CPUs). */
#ifndef SIGNALBUS_SWAR_H
#define SIGNALBUS_SWAR_H

#include "shm/base.h"

#include <string.h>

#define BUS_SWAR_ONES  0x0101010101010101ull
#define BUS_SWAR_HIGHS 0x8080808080808080ull

BUS_STATIC_ASSERT(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the records are little-endian");

/* The eight bytes at `text`; the first one is the lowest. */
static BUS_ALWAYS_INLINE uint64_t bus_swar_load(const char *text)
{
  uint64_t word;
  memcpy(&word, text, sizeof word);
  return word;
}

/* Whether all eight bytes are '0'..'9': the high half must be 3, and must still be 3 after adding
 * 6, which carries 10..15 into it. */
static BUS_ALWAYS_INLINE bool bus_swar_is_digits(uint64_t word)
{
  uint64_t halves = word & 0xF0F0F0F0F0F0F0F0ull;
  uint64_t raised = (word + 0x0606060606060606ull) & 0xF0F0F0F0F0F0F0F0ull;
  return (halves | raised >> 4) == 0x3333333333333333ull;
}

/* The value of eight digits: pairs, then fours, then all eight, one multiplication each. */
static BUS_ALWAYS_INLINE uint64_t bus_swar_digits_value(uint64_t word)
{
  word &= 0x0F0F0F0F0F0F0F0Full;
  word = (word * (10 * (1 << 8) + 1) >> 8) & 0x00FF00FF00FF00FFull;
  word = (word * (100 * (1 << 16) + 1) >> 16) & 0x0000FFFF0000FFFFull;
  return word * (10000 * (1ull << 32) + 1) >> 32;
}

/* A mask whose lowest set bit is in the first byte that ends a plain run of JSON string text: a
 * quote, a backslash or a control character; 0 when none of the eight is one. Bits above the lowest
 * may be wrong, because borrows run upwards. */
static BUS_ALWAYS_INLINE uint64_t bus_swar_string_stops(uint64_t word)
{
  uint64_t quote = word ^ (BUS_SWAR_ONES * '"');
  uint64_t escape = word ^ (BUS_SWAR_ONES * '\\');
  uint64_t stops = (quote - BUS_SWAR_ONES) & ~quote;
  stops |= (escape - BUS_SWAR_ONES) & ~escape;
  stops |= (word - BUS_SWAR_ONES * ' ') & ~word;
  return stops & BUS_SWAR_HIGHS;
}

#endif
