#include "consumers/crc32c.h"

#include <criterion/criterion.h>
#include <string.h>

static void expect(const void *bytes, size_t size, uint32_t crc)
{
  cr_assert_eq(bus_crc32c(0, bytes, size), crc, "%08x", bus_crc32c(0, bytes, size));
  cr_assert_eq(bus_crc32c_portable(0, bytes, size), crc);
}

/* RFC 3720, B.4, and the check value of the CRC catalogues. */
Test(crc32c, agrees_with_published_vectors)
{
  unsigned char bytes[32];
  expect("123456789", 9, 0xe3069283u);
  expect("", 0, 0);
  memset(bytes, 0, sizeof bytes);
  expect(bytes, sizeof bytes, 0x8a9136aau);
  memset(bytes, 0xff, sizeof bytes);
  expect(bytes, sizeof bytes, 0x62a8ab43u);
  for (unsigned char i = 0; i < 32; i++)
    bytes[i] = i;
  expect(bytes, sizeof bytes, 0x46dd794eu);
  for (unsigned char i = 0; i < 32; i++)
    bytes[i] = (unsigned char)(31 - i);
  expect(bytes, sizeof bytes, 0x113fdb5cu);
}

/* One bit at a time: what the definition says, with no table in common. */
static uint32_t by_definition(const unsigned char *bytes, size_t size)
{
  uint32_t crc = UINT32_MAX;
  for (size_t i = 0; i < size; i++) {
    crc ^= bytes[i];
    for (int bit = 0; bit < 8; bit++)
      crc = crc & 1 ? 0x82f63b78u ^ (crc >> 1) : crc >> 1;
  }
  return ~crc;
}

Test(crc32c, every_length_and_alignment_has_one_result)
{
  static unsigned char bytes[20000];
  uint64_t random = 7;
  for (size_t i = 0; i < sizeof bytes; i++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    bytes[i] = (unsigned char)(random >> 56);
  }
  for (size_t size = 0; size < 9500; size += size < 300 ? 1 : 61)
    for (size_t start = 0; start < 3; start++) {
      uint32_t crc = by_definition(bytes + start, size);
      cr_assert_eq(bus_crc32c(0, bytes + start, size), crc, "size %zu from %zu", size, start);
      cr_assert_eq(bus_crc32c_portable(0, bytes + start, size), crc);
    }
}

Test(crc32c, goes_on_where_it_stopped)
{
  static unsigned char bytes[7000];
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = (unsigned char)(i * 31 >> 2);
  uint32_t whole = by_definition(bytes, sizeof bytes);
  for (size_t cut = 0; cut <= sizeof bytes; cut += 7) {
    uint32_t first = bus_crc32c(0, bytes, cut);
    cr_assert_eq(bus_crc32c(first, bytes + cut, sizeof bytes - cut), whole, "cut at %zu", cut);
    first = bus_crc32c_portable(0, bytes, cut);
    cr_assert_eq(bus_crc32c_portable(first, bytes + cut, sizeof bytes - cut), whole);
  }
}

#if defined(__x86_64__)
Test(crc32c, uses_the_instruction_where_there_is_one)
{
  cr_assert_eq(bus_crc32c_is_accelerated(), __builtin_cpu_supports("sse4.2") != 0);
}
#endif
