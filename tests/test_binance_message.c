#include "producers/binance_message.h"
#include "tests/producer_fixture.h"

#include <jansson.h>

#define LEVELS 4096u

static struct bus_binance_level levels[LEVELS];
static struct bus_binance_message message;

static int parse_bytes(const char *json, size_t length)
{
  return bus_binance_parse(json, length, levels, LEVELS, &message);
}

static int parse(const char *json)
{
  struct guard guard = guard_new(strlen(json) + 1);
  int code = parse_bytes(guard_put(&guard, json, strlen(json)), strlen(json));
  guard_free(&guard);
  return code;
}

static void expect_kind(const char *json, enum bus_binance_kind kind)
{
  int code = parse(json);
  cr_expect_eq(code, BUS_OK, "%s", json);
  if (code == BUS_OK)
    cr_expect_eq(message.kind, kind, "%s: kind %d", json, (int)message.kind);
}

static void expect_garbage(const char *json)
{
  cr_expect_eq(parse(json), BUS_ERROR_FORMAT, "%s", json);
}

#define TICKER                                                                                     \
  "\"u\":400900217,\"s\":\"BNBUSDT\",\"b\":\"25.35\",\"B\":\"31.21\",\"a\":\"25.36\",\"A\":\"40."  \
  "66\""

Test(binance_message, tells_kinds_apart)
{
  expect_kind("{" TICKER "}", BUS_BINANCE_BOOK_TICKER);
  expect_kind("{\"e\":\"bookTicker\"," TICKER "}", BUS_BINANCE_BOOK_TICKER);
  expect_kind("{\"stream\":\"bnbusdt@bookTicker\",\"data\":{" TICKER "}}", BUS_BINANCE_BOOK_TICKER);
  expect_kind("{\"data\":{" TICKER "},\"stream\":\"bnbusdt@bookTicker\"}", BUS_BINANCE_BOOK_TICKER);
  expect_kind("{\"e\":\"aggTrade\",\"E\":1,\"s\":\"A\",\"a\":26129,\"p\":\"0.1\",\"q\":\"4.7\","
              "\"f\":27781,\"l\":27781,\"T\":2,\"m\":true,\"M\":true}",
              BUS_BINANCE_AGGREGATE_TRADE);
  cr_expect_eq(message.trade_id, 26129);
  cr_expect(message.buyer_is_maker);
  cr_expect_eq(message.transaction_time_ms, 2);
  expect_kind(
      "{\"e\":\"trade\",\"E\":1,\"s\":\"A\",\"t\":12,\"p\":\"0.1\",\"q\":\"4\",\"m\":false}",
      BUS_BINANCE_TRADE);
  cr_expect_eq(message.trade_id, 12);
  cr_expect_not(message.buyer_is_maker);
  expect_kind("{\"e\":\"serverShutdown\",\"E\":1770123456789}", BUS_BINANCE_SERVER_SHUTDOWN);
  expect_kind("{\"event\":{\"e\":\"serverShutdown\",\"E\":1}}", BUS_BINANCE_SERVER_SHUTDOWN);
  expect_kind("{\"lastUpdateId\":1,\"bids\":[],\"asks\":[[\"1\",\"2\"]]}", BUS_BINANCE_SNAPSHOT);
  cr_expect(message.bid_count == 0 && message.ask_count == 1);
  expect_kind("{\"stream\":\"a@depth5\",\"data\":{\"lastUpdateId\":1,\"bids\":[],\"asks\":[]}}",
              BUS_BINANCE_OTHER);
  expect_kind("{\"result\":null,\"id\":1}", BUS_BINANCE_OTHER);
  expect_kind("{}", BUS_BINANCE_OTHER);
  expect_kind("{\"e\":\"kline\",\"s\":\"A\",\"k\":{\"t\":1,\"x\":[1,{\"a\":[]}]}}",
              BUS_BINANCE_OTHER);
  expect_kind("{\"e\":\"24hrTicker\",\"s\":\"A\",\"p\":\"1\",\"b\":\"1\",\"u\":-1.5e3}",
              BUS_BINANCE_OTHER);
}

Test(binance_message, takes_any_order_and_white_space)
{
  expect_kind(" {\n\t\"a\" : [ [ \"2\" , \"3\" ] , [ \"4\",\"5\" , [] ] ] , \"b\" : [ ] ,"
              " \"x\" : { \"b\" : [ { } , null , -1.5E+3 , \"\\u00e9\\\"\" ] } , \"pu\" : 7 ,"
              " \"u\" : 18446744073709551615 , \"U\" : 8 , \"s\" : \"ETHUSDT\" ,"
              " \"E\" : 123456789 , \"e\" : \"depthUpdate\" } \r\n",
              BUS_BINANCE_DEPTH);
  cr_assert(message.ask_count == 2 && message.bid_count == 0);
  cr_expect(message.has_previous_update && message.previous_update == 7);
  cr_expect_eq(message.last_update, UINT64_MAX);
  cr_expect_eq(message.first_update, 8);
  cr_expect(message.has_event_time && message.event_time_ms == 123456789);
  cr_expect_eq(levels[1].price_length, 1);
}

Test(binance_message, refuses_garbage)
{
  static const char *const garbage[] = {
      "",
      " ",
      "x",
      "[]",
      "null",
      "{",
      "}",
      "{\"a\"}",
      "{\"a\":}",
      "{\"a\":1,}",
      "{,}",
      "{\"a\":1 \"b\":2}",
      "{\"x\":01}",
      "{\"x\":-}",
      "{\"x\":1.}",
      "{\"x\":1e}",
      "{\"x\":.5}",
      "{\"x\":+5}",
      "{\"x\":tru}",
      "{\"x\":nul}",
      "{\"x\":\"\\x\"}",
      "{\"x\":\"\\u12g4\"}",
      "{\"x\":\"a\nb\"}",
      "{\"x\":[1,]}",
      "{\"x\":[1 2]}",
      "{\"x\":{\"y\":1,}}",
      "{} {}",
      "{}x",
      "{\"b\":[[\"1\"]]}",
      "{\"b\":[[1,2]]}",
      "{\"b\":[\"1\",\"2\"]}",
      "{\"b\":[[\"1\",\"2\"],]}",
      "{\"b\":[[\"1\",\"2\"][\"1\",\"2\"]]}",
      "{\"e\":\"depthUpdate\",\"s\":\"A\",\"U\":1,\"u\":1,\"b\":[]}",
      "{\"e\":\"depthUpdate\",\"s\":\"A\",\"U\":1,\"u\":99999999999999999999,\"b\":[],\"a\":[]}",
      "{\"e\":\"depthUpdate\",\"s\":\"A\",\"U\":1,\"u\":-1,\"b\":[],\"a\":[]}",
      "{\"e\":\"depthUpdate\",\"s\":\"A\",\"U\":1.0,\"u\":1,\"b\":[],\"a\":[]}",
      "{\"e\":\"bookTicker\",\"u\":1,\"s\":\"A\",\"b\":\"1\",\"B\":\"1\",\"a\":\"1\"}",
      "{\"e\":\"trade\",\"s\":\"A\",\"t\":1,\"p\":\"1\",\"q\":\"1\"}",
      "{\"e\":\"trade\",\"s\":\"A\",\"t\":1,\"p\":1,\"q\":\"1\",\"m\":true}",
      "{\"lastUpdateId\":1,\"bids\":[]}",
      "{\"e\":\"tr\\u0061de\"}",
  };
  for (size_t i = 0; i < BUS_COUNT_OF(garbage); i++)
    expect_garbage(garbage[i]);
}

Test(binance_message, bounds_nesting_and_levels)
{
  char text[200000];
  for (int depth = 1; depth < 90000; depth = depth < 40 ? depth + 1 : depth * 2) {
    size_t used = (size_t)sprintf(text, "{\"x\":");
    memset(text + used, '[', (size_t)depth);
    memset(text + used + depth, ']', (size_t)depth);
    used += 2 * (size_t)depth;
    text[used++] = '}';
    bool is_allowed = depth + 1 <= BUS_BINANCE_DEPTH_MAX;
    cr_expect_eq(parse_bytes(text, used), is_allowed ? BUS_OK : BUS_ERROR_FORMAT, "depth %d",
                 depth);
  }
  static const char two[] =
      "{\"lastUpdateId\":1,\"bids\":[[\"1\",\"2\"]],\"asks\":[[\"1\",\"2\"]]}";
  cr_expect_eq(bus_binance_parse(two, sizeof two - 1, levels, 2, &message), BUS_OK);
  cr_expect_eq(bus_binance_parse(two, sizeof two - 1, levels, 1, &message), BUS_ERROR_NO_SPACE);
  cr_expect_eq(bus_binance_parse(two, sizeof two - 1, levels, 0, &message), BUS_ERROR_NO_SPACE);
}

static void compare_text(const json_t *event, const char *key, struct bus_text text)
{
  const json_t *value = json_object_get(event, key);
  cr_assert(json_is_string(value), "%s", key);
  cr_assert_eq(json_string_length(value), text.length, "%s", key);
  cr_assert_eq(memcmp(json_string_value(value), text.text, text.length), 0, "%s", key);
}

static void compare_id(const json_t *event, const char *key, uint64_t id)
{
  const json_t *value = json_object_get(event, key);
  cr_assert(json_is_integer(value), "%s", key);
  cr_assert_eq((uint64_t)json_integer_value(value), id, "%s", key);
}

static void compare_levels(const json_t *event, const char *key,
                           const struct bus_binance_level *side, uint32_t count)
{
  const json_t *array = json_object_get(event, key);
  cr_assert_eq(json_array_size(array), count);
  for (uint32_t i = 0; i < count; i++) {
    const json_t *level = json_array_get(array, i);
    const json_t *price = json_array_get(level, 0);
    const json_t *size = json_array_get(level, 1);
    cr_assert_eq(json_string_length(price), side[i].price_length);
    cr_assert_eq(json_string_length(size), side[i].size_length);
    cr_assert_eq(memcmp(json_string_value(price), side[i].price, side[i].price_length), 0);
    cr_assert_eq(memcmp(json_string_value(size), side[i].size, side[i].size_length), 0);
  }
}

static void compare_event(const json_t *event)
{
  const json_t *kind = json_object_get(event, "e");
  const json_t *time = json_object_get(event, "E");
  const char *name = kind == NULL ? "" : json_string_value(kind);
  cr_assert_eq(message.has_event_time, time != NULL);
  if (time != NULL)
    compare_id(event, "E", message.event_time_ms);
  if (json_object_get(event, "T") != NULL)
    compare_id(event, "T", message.transaction_time_ms);
  if (strcmp(name, "depthUpdate") == 0) {
    cr_assert_eq(message.kind, BUS_BINANCE_DEPTH);
    compare_text(event, "s", message.symbol);
    compare_id(event, "U", message.first_update);
    compare_id(event, "u", message.last_update);
    cr_assert_eq(message.has_previous_update, json_object_get(event, "pu") != NULL);
    if (message.has_previous_update)
      compare_id(event, "pu", message.previous_update);
    compare_levels(event, "b", message.bids, message.bid_count);
    compare_levels(event, "a", message.asks, message.ask_count);
  } else if (strcmp(name, "trade") == 0) {
    cr_assert_eq(message.kind, BUS_BINANCE_TRADE);
    compare_text(event, "s", message.symbol);
    compare_id(event, "t", message.trade_id);
    compare_text(event, "p", message.price);
    compare_text(event, "q", message.size);
    cr_assert_eq(message.buyer_is_maker, json_is_true(json_object_get(event, "m")));
  } else if (json_object_get(event, "lastUpdateId") != NULL) {
    cr_assert_eq(message.kind, BUS_BINANCE_SNAPSHOT);
    compare_id(event, "lastUpdateId", message.last_update);
    compare_levels(event, "bids", message.bids, message.bid_count);
    compare_levels(event, "asks", message.asks, message.ask_count);
  } else {
    cr_assert_eq(message.kind, BUS_BINANCE_BOOK_TICKER);
    compare_text(event, "s", message.symbol);
    compare_id(event, "u", message.last_update);
    compare_text(event, "b", message.bid_price);
    compare_text(event, "B", message.bid_size);
    compare_text(event, "a", message.ask_price);
    compare_text(event, "A", message.ask_size);
  }
}

static void compare_capture(const char *name)
{
  struct lines lines = read_lines(data_path(name));
  struct guard guard = guard_new(BUS_SOURCE_CAPTURE_LINE_BYTES_MAX);
  for (size_t i = 0; i < lines.count; i++) {
    size_t length;
    const char *json = json_of(&lines, i, &length);
    json_t *root = json_loadb(json, length, 0, NULL);
    cr_assert_not_null(root, "line %zu", i);
    cr_assert_eq(parse_bytes(guard_put(&guard, json, length), length), BUS_OK, "line %zu", i);
    const json_t *data = json_object_get(root, "data");
    if (data != NULL)
      compare_text(root, "stream", message.stream);
    compare_event(data != NULL ? data : root);
    json_decref(root);
  }
  cr_log_info("%s: %zu lines agree with jansson", name, lines.count);
  guard_free(&guard);
  free_lines(&lines);
}

Test(binance_message, agrees_with_jansson_on_real_spot)
{
  compare_capture(SPOT_CAPTURE);
}

Test(binance_message, agrees_with_jansson_on_real_futures)
{
  compare_capture(USDM_CAPTURE);
}

/* A cut message is never accepted, and nothing behind the cut is read. */
static void cut_capture(const char *name)
{
  struct lines lines = read_lines(data_path(name));
  struct guard guard = guard_new(BUS_SOURCE_CAPTURE_LINE_BYTES_MAX);
  for (size_t i = 0; i < 60; i++) {
    size_t length;
    const char *json = json_of(&lines, i, &length);
    size_t step = length > 4096 ? 61 : 1;
    for (size_t cut = 0; cut < length; cut += step)
      cr_assert_eq(parse_bytes(guard_put(&guard, json, cut), cut), BUS_ERROR_FORMAT,
                   "line %zu cut at %zu", i, cut);
  }
  guard_free(&guard);
  free_lines(&lines);
}

Test(binance_message, refuses_every_truncation)
{
  cut_capture(SPOT_CAPTURE);
  cut_capture(USDM_CAPTURE);
}

/* One byte changed: whatever we accept, jansson accepts too. */
Test(binance_message, accepts_no_more_than_jansson_on_damage)
{
  struct lines lines = read_lines(data_path(SPOT_CAPTURE));
  struct guard guard = guard_new(8192);
  static const char bytes[] = "\"\\{}[],:0-. tfn\n\x01";
  size_t accepted = 0;
  for (size_t i = 1; i < 5; i++) {
    size_t length;
    const char *json = json_of(&lines, i, &length);
    for (size_t place = 0; place < length && length < 4096; place++)
      for (size_t k = 0; k < sizeof bytes - 1; k++) {
        char *copy = (char *)guard_put(&guard, json, length);
        copy[place] = bytes[k];
        if (parse_bytes(copy, length) != BUS_OK)
          continue;
        json_t *root = json_loadb(copy, length, JSON_DECODE_INT_AS_REAL, NULL);
        cr_assert_not_null(root, "accepted: %.*s", (int)length, copy);
        json_decref(root);
        accepted++;
      }
  }
  cr_assert_gt(accepted, 0);
  guard_free(&guard);
  free_lines(&lines);
}
