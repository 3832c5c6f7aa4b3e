#include "producers/decimal.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

static int parse(const char *text, int exponent, int64_t *value)
{
  *value = 77;
  return bus_decimal_parse(text, strlen(text), exponent, value);
}

static void expect_value(const char *text, int exponent, int64_t expected)
{
  int64_t value;
  cr_expect_eq(parse(text, exponent, &value), BUS_OK, "\"%s\" 10^%d", text, exponent);
  cr_expect_eq(value, expected, "\"%s\" 10^%d: %ld", text, exponent, (long)value);
}

static void expect_error(const char *text, int exponent, int code)
{
  int64_t value;
  cr_expect_eq(parse(text, exponent, &value), code, "\"%s\" 10^%d", text, exponent);
  cr_expect_eq(value, 77, "\"%s\": the value was touched", text);
}

Test(decimal, reads_numbers)
{
  expect_value("61837.63000000", -8, 6183763000000);
  expect_value("0.00000001", -8, 1);
  expect_value("16.969", -8, 1696900000);
  expect_value("16.969", -3, 16969);
  expect_value("16.969000", -3, 16969);
  expect_value("7", 0, 7);
  expect_value("7.000", 0, 7);
  expect_value("-7.5", -1, -75);
  expect_value("0", -18, 0);
  expect_value("-0.0", -18, 0);
  expect_value("00012.5", -2, 1250);
  expect_value("1.123456789012345678", -18, 1123456789012345678);
}

Test(decimal, knows_its_limits)
{
  expect_value("9223372036854775807", 0, INT64_MAX);
  expect_value("-9223372036854775808", 0, INT64_MIN);
  expect_value("92233720368.54775807", -8, INT64_MAX);
  expect_value("9.223372036854775807", -18, INT64_MAX);
  expect_error("9223372036854775808", 0, BUS_ERROR_NO_SPACE);
  expect_error("-9223372036854775809", 0, BUS_ERROR_NO_SPACE);
  expect_error("92233720368.54775808", -8, BUS_ERROR_NO_SPACE);
  expect_error("100000000000", -8, BUS_ERROR_NO_SPACE);
  expect_error("18446744073709551616", 0, BUS_ERROR_NO_SPACE);
  expect_error("99999999999999999999999999999999", 0, BUS_ERROR_NO_SPACE);
  expect_error("184467440737.09551616", -8, BUS_ERROR_NO_SPACE);
}

Test(decimal, refuses_what_would_be_lost)
{
  expect_error("1.001", -2, BUS_ERROR_UNSUPPORTED);
  expect_error("0.000000001", -8, BUS_ERROR_UNSUPPORTED);
  expect_error("1.5", 0, BUS_ERROR_UNSUPPORTED);
  expect_value("1.00", 0, 1);
  expect_value("1.000000000000000000000", -18, 1000000000000000000);
}

Test(decimal, refuses_garbage)
{
  static const char *const garbage[] = {
      "",    "-",   ".",    "-.",          ".5",          "5.",        "+5",         "1e5",
      " 1",  "1 ",  "1,5",  "1.5.5",       "--1",         "abc",       "0x10",       "1.5x",
      "nan", "inf", "1.-5", "1.0000000,0", "1.00000000,", "1234567,9", "1.1234567:", "1.123456/8",
  };
  for (size_t i = 0; i < BUS_COUNT_OF(garbage); i++)
    expect_error(garbage[i], -8, BUS_ERROR_FORMAT);
  int64_t value = 77;
  cr_expect_eq(bus_decimal_parse("1\0002", 3, -8, &value), BUS_ERROR_FORMAT);
  cr_expect_eq(bus_decimal_parse("1", 1, 1, &value), BUS_ERROR_INVALID);
  cr_expect_eq(bus_decimal_parse("1", 1, -19, &value), BUS_ERROR_INVALID);
}

/* Every byte in every place of a number: only digits, and the point and sign where they belong. */
Test(decimal, accepts_digits_only)
{
  for (size_t place = 0; place < 14; place++)
    for (int c = 0; c < 256; c++) {
      char text[] = "61837.63012345";
      int64_t value;
      text[place] = (char)c;
      bool is_digit = c >= '0' && c <= '9';
      bool is_point = c == '.' && place == 5;
      bool is_sign = c == '-' && place == 0;
      int code = bus_decimal_parse(text, 14, -8, &value);
      bool is_plain = place == 5 ? is_point : is_digit || is_sign;
      if (place == 5 && is_digit)
        cr_expect_eq(code, BUS_ERROR_NO_SPACE); /* fourteen digits before the point */
      else
        cr_expect_eq(code == BUS_OK, is_plain, "place %zu byte %d", place, c);
    }
}

Test(decimal, agrees_with_printed_integers)
{
  uint64_t state = 88172645463325252ull;
  for (int i = 0; i < 200000; i++) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    int exponent = -(int)(state % 19);
    uint64_t unit = 1;
    for (int k = 0; k < -exponent; k++)
      unit *= 10;
    uint64_t magnitude = (state >> 1) >> (state >> 8) % 63;
    char text[64];
    if (exponent == 0)
      snprintf(text, sizeof text, "%lu", (unsigned long)magnitude);
    else
      snprintf(text, sizeof text, "%lu.%0*lu", (unsigned long)(magnitude / unit), -exponent,
               (unsigned long)(magnitude % unit));
    int64_t value;
    cr_assert_eq(parse(text, exponent, &value), BUS_OK, "%s", text);
    cr_assert_eq(value, (int64_t)magnitude, "%s", text);
  }
}
