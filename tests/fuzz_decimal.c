#include "producers/decimal.h"
#include "shm/error.h"

#include <stdlib.h>

/* The value must be what it is by plain long multiplication. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  if (size == 0)
    return 0;
  int exponent = -(int)(data[0] % 19);
  const char *text = (const char *)data + 1;
  size_t length = size - 1;
  int64_t value;
  if (bus_decimal_parse(text, length, exponent, &value) != BUS_OK)
    return 0;
  __int128 expected = 0;
  int places = -1;
  for (size_t i = text[0] == '-'; i < length; i++) {
    if (text[i] == '.') {
      places = 0;
      continue;
    }
    if (text[i] < '0' || text[i] > '9')
      abort();
    if (places >= 0 && places++ >= -exponent)
      continue;
    expected = expected * 10 + (text[i] - '0');
  }
  for (int i = places < 0 ? 0 : places; i < -exponent; i++)
    expected *= 10;
  if (value != (text[0] == '-' ? -expected : expected))
    abort();
  return 0;
}
