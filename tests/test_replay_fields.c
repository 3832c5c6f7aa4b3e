#include "shm/llm_record.h"
#include "tools/replay_fields.h"

#include <criterion/criterion.h>
#include <string.h>

static const char *decimal(int64_t value, int exponent)
{
  static char text[REPLAY_FIELD_TEXT_BYTES];
  size_t length = replay_print_decimal(value, exponent, text);
  cr_assert_eq(length, strlen(text));
  return text;
}

Test(replay_fields, prints_decimal_numbers_exactly)
{
  cr_assert_str_eq(decimal(0, 0), "0");
  cr_assert_str_eq(decimal(0, -2), "0.00");
  cr_assert_str_eq(decimal(5, -2), "0.05");
  cr_assert_str_eq(decimal(-5, -2), "-0.05");
  cr_assert_str_eq(decimal(123456, -2), "1234.56");
  cr_assert_str_eq(decimal(-123456, 0), "-123456");
  cr_assert_str_eq(decimal(INT64_MAX, -18), "9.223372036854775807");
  cr_assert_str_eq(decimal(INT64_MIN, -18), "-9.223372036854775808");
  cr_assert_str_eq(decimal(INT64_MIN, 0), "-9223372036854775808");
}

/* The fields of each known type fill the record up to its stamp, without a hole. */
Test(replay_fields, fill_the_records)
{
  static const struct {
    uint32_t type;
    uint32_t size;
  } types[] = {
      {BUS_RECORD_FEATURE, 128},     {BUS_RECORD_SIGNAL, 64},       {BUS_RECORD_GAP, 64},
      {BUS_RECORD_RAW, 192},         {BUS_RECORD_SIGNAL, 128},      {99, 64},
      {BUS_RECORD_LLM_REQUEST, 192}, {BUS_RECORD_LLM_REPLY, 16384}, {BUS_RECORD_LLM_REPLY, 128}};
  for (size_t i = 0; i < BUS_COUNT_OF(types); i++) {
    struct replay_field room[REPLAY_FIELDS_MAX];
    size_t count;
    const struct replay_field *fields = replay_fields(types[i].type, types[i].size, room, &count);
    uint32_t end = 0;
    for (size_t j = 0; j < count; j++) {
      cr_assert_eq(fields[j].offset, end, "%s", fields[j].name);
      end += fields[j].count * replay_field_bytes(fields[j].kind);
    }
    cr_assert_eq(end, types[i].size - 8);
  }
}

Test(replay_fields, print_what_the_record_holds)
{
  struct bus_signal signal = {.target_price = -12345,
                              .score = {0.1f, 0.25f, 1.0f},
                              .queue_ns = UINT32_MAX,
                              .direction = -1,
                              .feature_position = UINT64_MAX,
                              .flags = 255};
  static const struct {
    const char *name;
    uint32_t index;
    const char *text;
  } expected[] = {{"target_price", 0, "-12.345"},
                  {"score", 0, "0.100000001"},
                  {"score", 2, "1"},
                  {"queue_ns", 0, "4294967295"},
                  {"direction", 0, "-1"},
                  {"feature_position", 0, "18446744073709551615"},
                  {"flags", 0, "255"}};
  struct bus_symbol symbol = {.price_exponent = -3};
  struct replay_field room[REPLAY_FIELDS_MAX];
  size_t count, found = 0;
  const struct replay_field *fields = replay_fields(BUS_RECORD_SIGNAL, sizeof signal, room, &count);
  for (size_t i = 0; i < BUS_COUNT_OF(expected); i++)
    for (size_t j = 0; j < count; j++)
      if (!strcmp(fields[j].name, expected[i].name)) {
        char text[REPLAY_FIELD_TEXT_BYTES];
        replay_field_print(&fields[j], expected[i].index, &signal, &symbol, text);
        cr_assert_str_eq(text, expected[i].text);
        found++;
      }
  cr_assert_eq(found, BUS_COUNT_OF(expected));
}

Test(replay_fields, the_text_of_a_message_ends_where_its_header_says)
{
  char slot[192];
  struct bus_llm_reply reply = {.fragment_bytes = 5, .backend = "mac"};
  struct replay_field room[REPLAY_FIELDS_MAX];
  size_t count;
  uint32_t size;
  memset(slot, 'z', sizeof slot);
  memcpy(slot, &reply, sizeof reply);
  const struct replay_field *fields = replay_fields(BUS_RECORD_LLM_REPLY, 192, room, &count);
  const char *text = replay_field_text(&fields[count - 1], BUS_RECORD_LLM_REPLY, 192, slot, &size);
  cr_assert_eq(text, slot + BUS_LLM_HEADER_BYTES);
  cr_assert_eq(size, 5);
  cr_assert_str_eq(fields[count - 3].name, "backend");
  replay_field_text(&fields[count - 3], BUS_RECORD_LLM_REPLY, 192, slot, &size);
  cr_assert_eq(size, 3);
  reply.fragment_bytes = UINT32_MAX; /* hostile: no further than the slot */
  memset(reply.backend, 'y', sizeof reply.backend);
  memcpy(slot, &reply, sizeof reply);
  replay_field_text(&fields[count - 1], BUS_RECORD_LLM_REPLY, 192, slot, &size);
  cr_assert_eq(size, 56);
  replay_field_text(&fields[count - 3], BUS_RECORD_LLM_REPLY, 192, slot, &size);
  cr_assert_eq(size, BUS_LLM_NAME_BYTES);
}
