#include "producers/binance_message.h"

#include "producers/swar.h"
#include "shm/error.h"

/* Every reader below takes the place to read at and the end of the message, and returns the place
 * after what it read, or NULL when that is not what it should be. Passing the place by value keeps
 * it in a register. */

/* Keys: a single character stands for itself; the others follow. */
enum key {
  KEY_UNKNOWN = 0,
  KEY_PREVIOUS = 128,
  KEY_DATA,
  KEY_STREAM,
  KEY_LAST_UPDATE,
  KEY_BIDS,
  KEY_ASKS,
};

/* What has been seen, to tell kinds apart and to refuse incomplete messages. */
enum seen {
  SEEN_BID_TEXT = 1 << 0,
  SEEN_BID_SIZE = 1 << 1,
  SEEN_ASK_TEXT = 1 << 2,
  SEEN_ASK_SIZE = 1 << 3,
  SEEN_BIDS = 1 << 4,
  SEEN_ASKS = 1 << 5,
  SEEN_FIRST = 1 << 6,
  SEEN_LAST = 1 << 7,
  SEEN_PREVIOUS = 1 << 8,
  SEEN_SNAPSHOT_ID = 1 << 9,
  SEEN_SYMBOL = 1 << 10,
  SEEN_TRADE_ID = 1 << 11,
  SEEN_AGGREGATE_ID = 1 << 12,
  SEEN_PRICE = 1 << 13,
  SEEN_SIZE = 1 << 14,
  SEEN_MAKER = 1 << 15,
  SEEN_EVENT_TIME = 1 << 16,
};

enum {
  NEEDED_DEPTH = SEEN_BIDS | SEEN_ASKS | SEEN_FIRST | SEEN_LAST | SEEN_SYMBOL,
  NEEDED_BOOK_TICKER =
      SEEN_BID_TEXT | SEEN_BID_SIZE | SEEN_ASK_TEXT | SEEN_ASK_SIZE | SEEN_LAST | SEEN_SYMBOL,
  NEEDED_TRADE = SEEN_TRADE_ID | SEEN_PRICE | SEEN_SIZE | SEEN_MAKER | SEEN_SYMBOL,
  NEEDED_AGGREGATE = SEEN_AGGREGATE_ID | SEEN_PRICE | SEEN_SIZE | SEEN_MAKER | SEEN_SYMBOL,
  NEEDED_SNAPSHOT = SEEN_BIDS | SEEN_ASKS | SEEN_SNAPSHOT_ID,
};

struct scan {
  struct bus_binance_message *message;
  struct bus_binance_level *levels;
  uint32_t level_capacity;
  uint32_t level_count;
  uint32_t seen;
  bool is_full;
  struct bus_text event;
  uint64_t aggregate_id;
};

static const char *skip_value(const char *at, const char *end, int depth);
static const char *read_object(struct scan *scan, const char *at, const char *end, int depth);

static BUS_ALWAYS_INLINE const char *skip_space(const char *at, const char *end)
{
  while (at < end && (*at == ' ' || *at == '\n' || *at == '\t' || *at == '\r'))
    at++;
  return at;
}

/* The place after `wanted`, which white space may precede. */
static BUS_ALWAYS_INLINE const char *expect(const char *at, const char *end, char wanted)
{
  if (BUS_LIKELY(at < end && *at == wanted))
    return at + 1;
  at = skip_space(at, end);
  return at < end && *at == wanted ? at + 1 : NULL;
}

static bool is_hexadecimal(char c)
{
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* The place after the escape sequence that starts at `at`, which is a backslash. */
static const char *skip_escape(const char *at, const char *end)
{
  if (end - at < 2)
    return NULL;
  if (at[1] != 'u')
    return memchr("\"\\/bfnrt", at[1], 8) != NULL ? at + 2 : NULL;
  if (end - at < 6)
    return NULL;
  for (int i = 2; i < 6; i++)
    if (!is_hexadecimal(at[i]))
      return NULL;
  return at + 6;
}

/* The first byte from `at` on that is a quote, a backslash or a control character; NULL if none. */
static BUS_ALWAYS_INLINE const char *find_string_stop(const char *at, const char *end)
{
  while (end - at >= 8) {
    uint64_t stops = bus_swar_string_stops(bus_swar_load(at));
    if (stops != 0)
      return at + (__builtin_ctzll(stops) >> 3);
    at += 8;
  }
  for (; at < end; at++)
    if (*at == '"' || *at == '\\' || (unsigned char)*at < ' ')
      return at;
  return NULL;
}

/* `at` is after the opening quote; returns the place after the closing one. */
static const char *skip_string(const char *at, const char *end)
{
  while ((at = find_string_stop(at, end)) != NULL && *at != '"') {
    if (*at != '\\')
      return NULL;
    at = skip_escape(at, end);
    if (at == NULL)
      return NULL;
  }
  return at == NULL ? NULL : at + 1;
}

/* As skip_string, and says where the text was. */
static BUS_ALWAYS_INLINE const char *read_string(const char *at, const char *end,
                                                 struct bus_text *text)
{
  const char *stop = find_string_stop(at, end);
  if (BUS_UNLIKELY(stop == NULL))
    return NULL;
  const char *after = BUS_LIKELY(*stop == '"') ? stop + 1 : skip_string(stop, end);
  if (BUS_UNLIKELY(after == NULL))
    return NULL;
  text->text = at;
  text->length = (uint32_t)(after - 1 - at);
  return after;
}

static const char *skip_digits(const char *at, const char *end)
{
  const char *start = at;
  while (at < end && *at >= '0' && *at <= '9')
    at++;
  return at == start ? NULL : at;
}

/* The rest of a number from its point or exponent on. */
static const char *skip_fraction(const char *at, const char *end)
{
  if (at < end && *at == '.') {
    at = skip_digits(at + 1, end);
    if (at == NULL)
      return NULL;
  }
  if (at < end && (*at == 'e' || *at == 'E')) {
    at++;
    if (at < end && (*at == '+' || *at == '-'))
      at++;
    at = skip_digits(at, end);
  }
  return at;
}

static const char *skip_number(const char *at, const char *end)
{
  if (at < end && *at == '-')
    at++;
  const char *digits_end = skip_digits(at, end);
  if (digits_end == NULL || (*at == '0' && digits_end - at > 1))
    return NULL;
  return skip_fraction(digits_end, end);
}

/* A number; `*is_id` says whether it is an integer that fits `*value`. */
static const char *read_number(const char *at, const char *end, uint64_t *value, bool *is_id)
{
  const char *start = at;
  uint64_t sum = 0;
  if (end - at >= 8 && bus_swar_is_digits(bus_swar_load(at))) {
    sum = bus_swar_digits_value(bus_swar_load(at));
    at += 8;
  }
  for (; at < end; at++) {
    unsigned digit = (unsigned char)*at - (unsigned)'0';
    if (digit > 9)
      break;
    if (__builtin_mul_overflow(sum, 10u, &sum) || __builtin_add_overflow(sum, digit, &sum)) {
      *is_id = false;
      return skip_number(start, end);
    }
  }
  if (at == start || (*start == '0' && at - start > 1) ||
      (at < end && (*at == '.' || *at == 'e' || *at == 'E'))) {
    *is_id = false;
    return skip_number(start, end);
  }
  *value = sum;
  *is_id = true;
  return at;
}

static const char *skip_literal(const char *at, const char *end)
{
  if (end - at >= 4 && (memcmp(at, "true", 4) == 0 || memcmp(at, "null", 4) == 0))
    return at + 4;
  if (end - at >= 5 && memcmp(at, "false", 5) == 0)
    return at + 5;
  return NULL;
}

/* Members of an object or elements of an array, from after the opening bracket on. */
static const char *skip_container(const char *at, const char *end, char close, int depth)
{
  if (depth > BUS_BINANCE_DEPTH_MAX)
    return NULL;
  const char *after = expect(at, end, close);
  if (after != NULL)
    return after;
  for (;;) {
    if (close == '}') {
      at = expect(at, end, '"');
      if (at == NULL || (at = skip_string(at, end)) == NULL || (at = expect(at, end, ':')) == NULL)
        return NULL;
    }
    at = skip_value(at, end, depth);
    if (at == NULL)
      return NULL;
    after = expect(at, end, close);
    if (after != NULL)
      return after;
    at = expect(at, end, ',');
    if (at == NULL)
      return NULL;
  }
}

static const char *skip_value(const char *at, const char *end, int depth)
{
  at = skip_space(at, end);
  if (at == end)
    return NULL;
  switch (*at) {
  case '"':
    return skip_string(at + 1, end);
  case '{':
    return skip_container(at + 1, end, '}', depth + 1);
  case '[':
    return skip_container(at + 1, end, ']', depth + 1);
  case 't':
  case 'f':
  case 'n':
    return skip_literal(at, end);
  default:
    return skip_number(at, end);
  }
}

/* One level, from after its opening bracket on. Elements after the size are skipped: old versions
 * of the API sent an empty array there. */
static BUS_ALWAYS_INLINE const char *read_level(const char *at, const char *end, int depth,
                                                struct bus_binance_level *level)
{
  struct bus_text price;
  struct bus_text size;
  if ((at = expect(at, end, '"')) == NULL || (at = read_string(at, end, &price)) == NULL ||
      (at = expect(at, end, ',')) == NULL || (at = expect(at, end, '"')) == NULL ||
      (at = read_string(at, end, &size)) == NULL)
    return NULL;
  level->price = price.text;
  level->size = size.text;
  level->price_length = price.length;
  level->size_length = size.length;
  const char *after;
  while ((after = expect(at, end, ']')) == NULL) {
    at = expect(at, end, ',');
    if (at == NULL || (at = skip_value(at, end, depth)) == NULL)
      return NULL;
  }
  return after;
}

/* An array of levels, from after its opening bracket on. */
static const char *read_levels(struct scan *scan, const char *at, const char *end, int depth,
                               const struct bus_binance_level **levels, uint32_t *count)
{
  uint32_t first = scan->level_count;
  uint32_t used = first;
  const char *after = expect(at, end, ']');
  while (after == NULL) {
    if ((at = expect(at, end, '[')) == NULL)
      return NULL;
    if (used == scan->level_capacity) {
      scan->is_full = true;
      return NULL;
    }
    at = read_level(at, end, depth + 2, &scan->levels[used]);
    if (at == NULL)
      return NULL;
    used++;
    after = expect(at, end, ']');
    if (after == NULL && (at = expect(at, end, ',')) == NULL)
      return NULL;
  }
  scan->level_count = used;
  *levels = scan->levels + first;
  *count = used - first;
  return after;
}

static BUS_ALWAYS_INLINE bool text_is(struct bus_text text, const char *wanted, size_t length)
{
  return text.length == length && memcmp(text.text, wanted, length) == 0;
}

#define TEXT_IS(text, literal) text_is((text), (literal), sizeof(literal) - 1)

static BUS_ALWAYS_INLINE int key_of(struct bus_text name)
{
  if (BUS_LIKELY(name.length == 1))
    return (unsigned char)name.text[0] < 128 ? name.text[0] : KEY_UNKNOWN;
  if (TEXT_IS(name, "pu"))
    return KEY_PREVIOUS;
  if (TEXT_IS(name, "data") || TEXT_IS(name, "event"))
    return KEY_DATA;
  if (TEXT_IS(name, "stream"))
    return KEY_STREAM;
  if (TEXT_IS(name, "bids"))
    return KEY_BIDS;
  if (TEXT_IS(name, "asks"))
    return KEY_ASKS;
  if (TEXT_IS(name, "lastUpdateId"))
    return KEY_LAST_UPDATE;
  return KEY_UNKNOWN;
}

/* Names are compared as bytes, so one that is written with escapes is refused. */
static bool take_name(struct bus_text *to, struct bus_text text)
{
  *to = text;
  return memchr(text.text, '\\', text.length) == NULL;
}

/* Returns false when the text cannot be used. */
static BUS_ALWAYS_INLINE bool take_string(struct scan *scan, int key, struct bus_text text)
{
  struct bus_binance_message *message = scan->message;
  switch (key) {
  case 'e':
    return take_name(&scan->event, text);
  case 's':
    scan->seen |= SEEN_SYMBOL;
    return take_name(&message->symbol, text);
  case KEY_STREAM:
    return take_name(&message->stream, text);
  case 'b':
    scan->seen |= SEEN_BID_TEXT;
    message->bid_price = text;
    return true;
  case 'B':
    scan->seen |= SEEN_BID_SIZE;
    message->bid_size = text;
    return true;
  case 'a':
    scan->seen |= SEEN_ASK_TEXT;
    message->ask_price = text;
    return true;
  case 'A':
    scan->seen |= SEEN_ASK_SIZE;
    message->ask_size = text;
    return true;
  case 'p':
    scan->seen |= SEEN_PRICE;
    message->price = text;
    return true;
  case 'q':
    scan->seen |= SEEN_SIZE;
    message->size = text;
    return true;
  default:
    return true;
  }
}

static BUS_ALWAYS_INLINE void take_id(struct scan *scan, int key, uint64_t value)
{
  struct bus_binance_message *message = scan->message;
  switch (key) {
  case 'E':
    scan->seen |= SEEN_EVENT_TIME;
    message->event_time_ms = value;
    break;
  case 'T':
    message->transaction_time_ms = value;
    break;
  case 'U':
    scan->seen |= SEEN_FIRST;
    message->first_update = value;
    break;
  case 'u':
    scan->seen |= SEEN_LAST;
    message->last_update = value;
    break;
  case KEY_LAST_UPDATE:
    scan->seen |= SEEN_SNAPSHOT_ID;
    message->last_update = value;
    break;
  case KEY_PREVIOUS:
    scan->seen |= SEEN_PREVIOUS;
    message->previous_update = value;
    break;
  case 't':
    scan->seen |= SEEN_TRADE_ID;
    message->trade_id = value;
    break;
  case 'a':
    scan->seen |= SEEN_AGGREGATE_ID;
    scan->aggregate_id = value;
    break;
  default:
    break;
  }
}

static const char *read_array(struct scan *scan, int key, const char *at, const char *end,
                              int depth)
{
  struct bus_binance_message *message = scan->message;
  if (key == 'b' || key == KEY_BIDS) {
    scan->seen |= SEEN_BIDS;
    return read_levels(scan, at, end, depth, &message->bids, &message->bid_count);
  }
  if (key == 'a' || key == KEY_ASKS) {
    scan->seen |= SEEN_ASKS;
    return read_levels(scan, at, end, depth, &message->asks, &message->ask_count);
  }
  return skip_container(at, end, ']', depth + 1);
}

/* A member's value. A known key whose value has another type than expected counts as absent. */
static BUS_ALWAYS_INLINE const char *read_value(struct scan *scan, int key, const char *at,
                                                const char *end, int depth)
{
  if (BUS_UNLIKELY(at == end || (unsigned char)*at <= ' '))
    at = skip_space(at, end);
  if (BUS_UNLIKELY(at == end))
    return NULL;
  struct bus_text text;
  uint64_t value;
  bool is_id;
  switch (*at) {
  case '"':
    at = read_string(at + 1, end, &text);
    return at != NULL && take_string(scan, key, text) ? at : NULL;
  case '[':
    return read_array(scan, key, at + 1, end, depth);
  case '{':
    if (key == KEY_DATA && depth == 1)
      return read_object(scan, at + 1, end, depth + 1);
    return skip_container(at + 1, end, '}', depth + 1);
  case 't':
  case 'f':
  case 'n':
    if (key == 'm' && *at != 'n') {
      scan->seen |= SEEN_MAKER;
      scan->message->buyer_is_maker = *at == 't';
    }
    return skip_literal(at, end);
  default:
    at = read_number(at, end, &value, &is_id);
    if (at != NULL && is_id)
      take_id(scan, key, value);
    return at;
  }
}

/* The members of the envelope (depth 1) or of the event, from after the opening brace on. */
static const char *read_object(struct scan *scan, const char *at, const char *end, int depth)
{
  const char *after = expect(at, end, '}');
  while (after == NULL) {
    struct bus_text name;
    if ((at = expect(at, end, '"')) == NULL || (at = read_string(at, end, &name)) == NULL ||
        (at = expect(at, end, ':')) == NULL ||
        (at = read_value(scan, key_of(name), at, end, depth)) == NULL)
      return NULL;
    if (BUS_LIKELY(at < end && *at == ',')) {
      at++;
      continue;
    }
    after = expect(at, end, '}');
    if (after == NULL && (at = expect(at, end, ',')) == NULL)
      return NULL;
  }
  return after;
}

/* Partial book streams (btcusdt@depth20) look like snapshots, but hold only the first levels. */
static bool is_partial_depth(struct bus_text stream)
{
  const char *at = stream.length > 0 ? memchr(stream.text, '@', stream.length) : NULL;
  return at != NULL && stream.text + stream.length - at >= 6 && memcmp(at, "@depth", 6) == 0;
}

/* Decides the kind; returns the bits that must have been seen for it. */
static uint32_t classify(struct scan *scan)
{
  struct bus_binance_message *message = scan->message;
  struct bus_text event = scan->event;
  if (event.length == 0) {
    if ((scan->seen & NEEDED_BOOK_TICKER) == NEEDED_BOOK_TICKER)
      message->kind = BUS_BINANCE_BOOK_TICKER;
    else if ((scan->seen & SEEN_SNAPSHOT_ID) != 0 && !is_partial_depth(message->stream))
      message->kind = BUS_BINANCE_SNAPSHOT;
    return message->kind == BUS_BINANCE_SNAPSHOT ? NEEDED_SNAPSHOT : 0;
  }
  if (TEXT_IS(event, "bookTicker")) {
    message->kind = BUS_BINANCE_BOOK_TICKER;
    return NEEDED_BOOK_TICKER;
  }
  if (TEXT_IS(event, "depthUpdate")) {
    message->kind = BUS_BINANCE_DEPTH;
    return NEEDED_DEPTH;
  }
  if (TEXT_IS(event, "trade")) {
    message->kind = BUS_BINANCE_TRADE;
    return NEEDED_TRADE;
  }
  if (TEXT_IS(event, "aggTrade")) {
    message->kind = BUS_BINANCE_AGGREGATE_TRADE;
    message->trade_id = scan->aggregate_id;
    return NEEDED_AGGREGATE;
  }
  if (TEXT_IS(event, "serverShutdown"))
    message->kind = BUS_BINANCE_SERVER_SHUTDOWN;
  return 0;
}

int bus_binance_parse(const char *json, size_t length, struct bus_binance_level *levels,
                      uint32_t level_capacity, struct bus_binance_message *message)
{
  const char *end = json + length;
  struct scan scan = {.message = message, .levels = levels, .level_capacity = level_capacity};
  memset(message, 0, sizeof *message);
  if (length > UINT32_MAX)
    return BUS_ERROR_FORMAT;
  const char *at = expect(json, end, '{');
  if (at != NULL)
    at = read_object(&scan, at, end, 1);
  if (at == NULL)
    return scan.is_full ? BUS_ERROR_NO_SPACE : BUS_ERROR_FORMAT;
  if (skip_space(at, end) != end)
    return BUS_ERROR_FORMAT;
  uint32_t needed = classify(&scan);
  if ((scan.seen & needed) != needed)
    return BUS_ERROR_FORMAT;
  message->has_event_time = (scan.seen & SEEN_EVENT_TIME) != 0;
  message->has_previous_update = (scan.seen & SEEN_PREVIOUS) != 0;
  return BUS_OK;
}
