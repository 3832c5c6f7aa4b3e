#include "consumers/crc32c.h"

#include <string.h>

#if defined(__x86_64__)
#include <nmmintrin.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

#define POLYNOMIAL  0x82f63b78u /* reflected */
#define STRIP_BYTES ((size_t)1024)

/* slices[k][b]: the CRC of byte b followed by k zero bytes. shifts[s][k][b]: what byte k of a CRC,
 * having the value b, becomes over (s + 1) * STRIP_BYTES zero bytes: a CRC of one strip is moved
 * past the strips behind it. */
static uint32_t slices[8][256];
static uint32_t shifts[2][4][256];
static bool accelerated;

static uint32_t over_zeros(uint32_t crc, size_t count)
{
  for (size_t i = 0; i < count; i++)
    crc = slices[0][crc & 0xff] ^ (crc >> 8);
  return crc;
}

static void fill_shift(uint32_t table[4][256], size_t bytes)
{
  for (int k = 0; k < 4; k++) {
    table[k][0] = 0;
    for (uint32_t bit = 1; bit < 256; bit <<= 1) {
      uint32_t moved = over_zeros(bit << 8 * k, bytes);
      for (uint32_t below = 0; below < bit; below++) /* linear: the CRC of a sum is the sum */
        table[k][bit | below] = moved ^ table[k][below];
    }
  }
}

static bool has_instruction(void)
{
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2");
#elif defined(__aarch64__)
  return (getauxval(AT_HWCAP) & (1u << 7)) != 0; /* HWCAP_CRC32 */
#else
  return false;
#endif
}

/* Before main, so that any thread may compute at any time without asking. */
__attribute__((constructor)) static void fill_tables(void)
{
  for (uint32_t b = 0; b < 256; b++) {
    uint32_t crc = b;
    for (int i = 0; i < 8; i++)
      crc = crc & 1 ? POLYNOMIAL ^ (crc >> 1) : crc >> 1;
    slices[0][b] = crc;
  }
  for (int k = 1; k < 8; k++)
    for (int b = 0; b < 256; b++)
      slices[k][b] = over_zeros(slices[k - 1][b], 1);
  fill_shift(shifts[0], STRIP_BYTES);
  fill_shift(shifts[1], 2 * STRIP_BYTES);
  accelerated = has_instruction();
}

static uint64_t load_word(const unsigned char *at)
{
  uint64_t word;
  memcpy(&word, at, sizeof word);
  return word;
}

uint32_t bus_crc32c_portable(uint32_t crc, const void *bytes, size_t size)
{
  const unsigned char *at = bytes;
  crc = ~crc;
  for (; size >= 8; at += 8, size -= 8) {
    uint64_t word = load_word(at) ^ crc;
    crc = 0;
    for (int k = 0; k < 8; k++)
      crc ^= slices[7 - k][word >> 8 * k & 0xff];
  }
  for (; size > 0; at++, size--)
    crc = slices[0][(crc ^ *at) & 0xff] ^ (crc >> 8);
  return ~crc;
}

bool bus_crc32c_is_accelerated(void)
{
  return accelerated;
}

#if defined(__x86_64__) || defined(__aarch64__)

#if defined(__x86_64__)
#define WITH_INSTRUCTION __attribute__((target("sse4.2")))

WITH_INSTRUCTION static inline uint32_t take_word(uint32_t crc, uint64_t word)
{
  return (uint32_t)_mm_crc32_u64(crc, word);
}

WITH_INSTRUCTION static inline uint32_t take_byte(uint32_t crc, unsigned char byte)
{
  return _mm_crc32_u8(crc, byte);
}
#else
#define WITH_INSTRUCTION

static inline uint32_t take_word(uint32_t crc, uint64_t word)
{
  __asm__(".arch_extension crc\n\tcrc32cx %w0, %w0, %x1" : "+r"(crc) : "r"(word));
  return crc;
}

static inline uint32_t take_byte(uint32_t crc, unsigned char byte)
{
  __asm__(".arch_extension crc\n\tcrc32cb %w0, %w0, %w1" : "+r"(crc) : "r"((uint32_t)byte));
  return crc;
}
#endif

static inline uint32_t shifted(uint32_t table[4][256], uint32_t crc)
{
  return table[0][crc & 0xff] ^ table[1][crc >> 8 & 0xff] ^ table[2][crc >> 16 & 0xff] ^
         table[3][crc >> 24];
}

/* The instruction takes one word a cycle but its result three: three strips side by side. */
WITH_INSTRUCTION static uint32_t take_strips(uint32_t crc, const unsigned char *at)
{
  uint32_t second = 0, third = 0;
  for (size_t i = 0; i < STRIP_BYTES; i += 8) {
    crc = take_word(crc, load_word(at + i));
    second = take_word(second, load_word(at + STRIP_BYTES + i));
    third = take_word(third, load_word(at + 2 * STRIP_BYTES + i));
  }
  return shifted(shifts[1], crc) ^ shifted(shifts[0], second) ^ third;
}

WITH_INSTRUCTION static uint32_t crc_accelerated(uint32_t crc, const unsigned char *at, size_t size)
{
  crc = ~crc;
  for (; size >= 3 * STRIP_BYTES; at += 3 * STRIP_BYTES, size -= 3 * STRIP_BYTES)
    crc = take_strips(crc, at);
  for (; size >= 8; at += 8, size -= 8)
    crc = take_word(crc, load_word(at));
  for (; size > 0; at++, size--)
    crc = take_byte(crc, *at);
  return ~crc;
}

uint32_t bus_crc32c(uint32_t crc, const void *bytes, size_t size)
{
  return accelerated ? crc_accelerated(crc, bytes, size) : bus_crc32c_portable(crc, bytes, size);
}

#else

uint32_t bus_crc32c(uint32_t crc, const void *bytes, size_t size)
{
  return bus_crc32c_portable(crc, bytes, size);
}

#endif
