#include "consumers/byte_buffer.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <string.h>

Test(byte_buffer, grows_up_to_its_limit_and_keeps_what_is_there)
{
  struct bus_byte_buffer buffer = {0};
  cr_assert_eq(bus_byte_buffer_append(&buffer, "abc", 3, 5), BUS_OK);
  cr_assert_eq(bus_byte_buffer_append(&buffer, "def", 3, 5), BUS_ERROR_NO_SPACE);
  cr_assert_eq(bus_byte_buffer_append(&buffer, "de", 2, 5), BUS_OK);
  cr_assert_eq(buffer.size, 5);
  cr_assert_eq(memcmp(buffer.bytes, "abcde", 5), 0);
  char many[10000];
  memset(many, 'x', sizeof many);
  cr_assert_eq(bus_byte_buffer_append(&buffer, many, sizeof many, 1 << 20), BUS_OK);
  cr_assert_eq(buffer.size, 10005);
  cr_assert_eq(memcmp(buffer.bytes, "abcdex", 6), 0);
  cr_assert_eq(bus_byte_buffer_append(&buffer, many, SIZE_MAX, SIZE_MAX - 1), BUS_ERROR_NO_SPACE);
  bus_byte_buffer_free(&buffer);
  cr_assert_null(buffer.bytes);
}

Test(byte_buffer, prints_and_consumes)
{
  struct bus_byte_buffer buffer = {0};
  cr_assert_eq(bus_byte_buffer_print(&buffer, 100, "%d-%s", 42, "x"), BUS_OK);
  cr_assert_eq(bus_byte_buffer_print(&buffer, 100, "%s", ""), BUS_OK);
  cr_assert_eq(buffer.size, 4);
  bus_byte_buffer_consume(&buffer, 3);
  cr_assert_eq(buffer.size, 1);
  cr_assert_eq(buffer.bytes[0], 'x');
  bus_byte_buffer_consume(&buffer, 1);
  cr_assert_eq(buffer.size, 0);
  bus_byte_buffer_append(&buffer, "y", 1, 1);
  bus_byte_buffer_clear(&buffer);
  cr_assert_eq(buffer.size, 0);
  bus_byte_buffer_free(&buffer);
}

Test(byte_buffer, prints_nothing_beyond_the_limit)
{
  struct bus_byte_buffer buffer = {0};
  cr_assert_eq(bus_byte_buffer_print(&buffer, 3, "abcd"), BUS_ERROR_NO_SPACE);
  cr_assert_eq(buffer.size, 0);
  bus_byte_buffer_free(&buffer);
}
