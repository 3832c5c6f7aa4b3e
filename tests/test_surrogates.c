#include "consumers/surrogates.h"
#include "consumers/utf8.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <string.h>

static int mask(const char *json, char *masked)
{
  struct bus_byte_buffer buffer = {0};
  int count = bus_surrogates_mask(&buffer, json, strlen(json));
  if (buffer.size)
    memcpy(masked, buffer.bytes, buffer.size);
  masked[buffer.size] = 0;
  bus_byte_buffer_free(&buffer);
  return count;
}

Test(surrogates, only_lone_halves_are_masked)
{
  static const struct {
    const char *json, *masked;
    int count;
  } cases[] = {
      {"plain", "plain", 0},
      {"\\ud83d\\ude00", "\\ud83d\\ude00", 0},
      {"\\uD83D", "\xf4\x8f\xa0\xbd", 1},
      {"a\\uDE00b",
       "a\xf4\x8f\xb8\x80"
       "b",
       1},
      {"\\ude00\\ud83d", "\xf4\x8f\xb8\x80\xf4\x8f\xa0\xbd", 2},
      {"\\ud83d\\ud83d\\ude00", "\xf4\x8f\xa0\xbd\\ud83d\\ude00", 1},
      {"\\\\ud83d", "\\\\ud83d", 0},
      {"\\u00e9\\n\\\"", "\\u00e9\\n\\\"", 0},
      {"\\ud8", "\\ud8", 0},
      {"\\ud83dx", "\xf4\x8f\xa0\xbdx", 1},
      {"\\", "\\", 0},
  };
  char masked[64];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    cr_assert_eq(mask(cases[i].json, masked), cases[i].count, "%s", cases[i].json);
    cr_assert_str_eq(masked, cases[i].masked, "%s", cases[i].json);
  }
}

static void append(struct bus_byte_buffer *buffer, const char *json, uint32_t *half)
{
  char masked[64];
  bool any = mask(json, masked) > 0;
  cr_assert_eq(bus_surrogates_append(buffer, masked, strlen(masked), 1000, any, half), BUS_OK);
}

Test(surrogates, halves_of_two_texts_are_joined)
{
  struct bus_byte_buffer buffer = {0};
  uint32_t half = 0;
  append(&buffer, "a\\ud83d", &half);
  append(&buffer, "", &half);
  append(&buffer, "\\ude00b", &half);
  cr_assert_eq(half, 0);
  cr_assert_eq(buffer.size, 6);
  cr_assert_eq(memcmp(buffer.bytes,
                      "a\xf0\x9f\x98\x80"
                      "b",
                      6),
               0);
  bus_byte_buffer_free(&buffer);
}

Test(surrogates, a_half_that_stays_alone_is_replaced)
{
  struct bus_byte_buffer buffer = {0};
  uint32_t half = 0;
  append(&buffer, "\\ud83d", &half);
  append(&buffer, "b", &half);
  append(&buffer, "\\ude00", &half);
  append(&buffer, "\\ud83d\\ud83e", &half);
  append(&buffer, "\\ude00", &half);
  const char expected[] = "\xef\xbf\xbd"
                          "b\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\xa8\x80";
  cr_assert_eq(buffer.size, sizeof expected - 1);
  cr_assert_eq(memcmp(buffer.bytes, expected, buffer.size), 0);
  cr_assert_eq(half, 0);
  bus_byte_buffer_free(&buffer);
}

Test(surrogates, the_limit_cuts_no_character)
{
  for (size_t limit = 0; limit <= 6; limit++) {
    struct bus_byte_buffer buffer = {0};
    uint32_t half = 0;
    const char text[] = "a\xf0\x9f\x98\x80"
                        "b";
    int error = bus_surrogates_append(&buffer, text, 6, limit, false, &half);
    cr_assert_eq(error, limit < 6 ? BUS_ERROR_NO_SPACE : BUS_OK);
    cr_assert_eq(buffer.size, limit < 1 ? 0 : limit < 5 ? 1 : limit);
    bus_byte_buffer_free(&buffer);
  }
}
