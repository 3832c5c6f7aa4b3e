#include "producers/binance_message.h"
#include "shm/error.h"

#include <stdlib.h>

static void check(const char *json, size_t size, const char *text, size_t length)
{
  if (length > 0 && (text < json || text + length > json + size))
    abort();
}

/* Whatever is accepted lies within the message. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static struct bus_binance_level levels[64];
  const char *json = (const char *)data;
  struct bus_binance_message message;
  if (bus_binance_parse(json, size, levels, 64, &message) != BUS_OK)
    return 0;
  check(json, size, message.symbol.text, message.symbol.length);
  check(json, size, message.stream.text, message.stream.length);
  check(json, size, message.price.text, message.price.length);
  check(json, size, message.ask_size.text, message.ask_size.length);
  for (uint32_t i = 0; i < message.bid_count; i++) {
    check(json, size, message.bids[i].price, message.bids[i].price_length);
    check(json, size, message.bids[i].size, message.bids[i].size_length);
  }
  for (uint32_t i = 0; i < message.ask_count; i++) {
    check(json, size, message.asks[i].price, message.asks[i].price_length);
    check(json, size, message.asks[i].size, message.asks[i].size_length);
  }
  return 0;
}
