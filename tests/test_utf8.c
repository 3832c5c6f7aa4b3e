#include "consumers/utf8.h"

#include <criterion/criterion.h>
#include <string.h>

static size_t valid(const char *text)
{
  return bus_utf8_valid_bytes(text, strlen(text));
}

Test(utf8, takes_what_the_standard_takes)
{
  static const char *const good[] = {"", "plain ASCII of more than eight bytes", "\xc2\x80\xdf\xbf",
                                     "\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbf",
                                     "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"};
  for (size_t i = 0; i < sizeof good / sizeof *good; i++)
    cr_assert_eq(valid(good[i]), strlen(good[i]), "text %zu", i);
  cr_assert_eq(bus_utf8_valid_bytes("a\0b", 3), 3);
}

Test(utf8, refuses_what_the_standard_refuses_and_says_where)
{
  static const struct {
    const char *text;
    size_t valid;
  } bad[] = {
      {"ab\x80", 2},       /* no beginning */
      {"12345678\xff", 8}, /* behind a run of ASCII */
      {"\xc0\xaf", 0},     /* overlong */
      {"\xc1\xbf", 0},     /* overlong */
      {"\xe0\x9f\xbf", 0}, /* overlong */
      {"\xf0\x8f\xbf\xbf", 0} /* overlong */,
      {"\xed\xa0\x80", 0}, /* a surrogate */
      {"\xed\xbf\xbf", 0}, /* a surrogate */
      {"\xf4\x90\x80\x80", 0} /* above U+10FFFF */,
      {"\xf5\x80\x80\x80", 0},
      {"a\xc3", 1},         /* cut */
      {"a\xe2\x82", 1},     /* cut */
      {"a\xf0\x9f\x98", 1}, /* cut */
      {"a\xe2\x41\x80", 1},
      {"a\xf0\x9f\x98\x41", 1},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    cr_assert_eq(valid(bad[i].text), bad[i].valid, "text %zu", i);
}

Test(utf8, every_character_is_written_and_read_back)
{
  char bytes[4];
  for (uint32_t character = 0; character <= 0x10ffff; character++) {
    size_t size = bus_utf8_put(bytes, character);
    bool surrogate = character >= 0xd800 && character <= 0xdfff;
    cr_assert_eq(bus_utf8_valid_bytes(bytes, size), surrogate ? 0 : size, "U+%X", character);
  }
}

Test(utf8, is_never_cut_within_a_character)
{
  const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
  static const size_t cuts[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 10};
  for (size_t limit = 0; limit < sizeof cuts / sizeof *cuts; limit++)
    cr_assert_eq(bus_utf8_cut_bytes(text, sizeof text - 1, limit), cuts[limit], "%zu", limit);
}
