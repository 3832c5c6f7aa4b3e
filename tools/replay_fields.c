#include "tools/replay_fields.h"

#include "shm/llm_record.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define FIELD(type, name, kind, scale)                                                             \
  {                                                                                                \
#name, offsetof(struct type, name), 1, REPLAY_FIELD_##kind, REPLAY_SCALE_##scale               \
  }
#define ARRAY(type, name, kind, count)                                                             \
  {                                                                                                \
#name, offsetof(struct type, name), count, REPLAY_FIELD_##kind, REPLAY_SCALE_NONE              \
  }

static const struct replay_field feature_fields[] = {
    FIELD(bus_feature, timestamp_ns, U64, NONE),   FIELD(bus_feature, bid_price, I64, PRICE),
    FIELD(bus_feature, ask_price, I64, PRICE),     FIELD(bus_feature, bid_size, I64, SIZE),
    FIELD(bus_feature, ask_size, I64, SIZE),       FIELD(bus_feature, exchange_delay_us, I32, NONE),
    FIELD(bus_feature, book_imbalance, I32, NONE), FIELD(bus_feature, update, U32, NONE),
    FIELD(bus_feature, symbol, U16, NONE),         FIELD(bus_feature, trigger, U8, NONE),
    FIELD(bus_feature, flags, U8, NONE),           ARRAY(bus_feature, x, F32, BUS_FEATURE_INPUTS),
};

static const struct replay_field signal_fields[] = {
    FIELD(bus_signal, timestamp_ns, U64, NONE),  FIELD(bus_signal, feature_position, U64, NONE),
    FIELD(bus_signal, target_price, I64, PRICE), ARRAY(bus_signal, score, F32, 3),
    FIELD(bus_signal, queue_ns, U32, NONE),      FIELD(bus_signal, inference_ns, U32, NONE),
    FIELD(bus_signal, batch, U16, NONE),         FIELD(bus_signal, source, U16, NONE),
    FIELD(bus_signal, symbol, U16, NONE),        FIELD(bus_signal, model, U16, NONE),
    FIELD(bus_signal, direction, I8, NONE),      FIELD(bus_signal, confidence, U8, NONE),
    FIELD(bus_signal, engine, U8, NONE),         FIELD(bus_signal, flags, U8, NONE),
};

static const struct replay_field gap_fields[] = {
    FIELD(bus_gap, time_ns, U64, NONE),   FIELD(bus_gap, first, U64, NONE),
    FIELD(bus_gap, last, U64, NONE),      FIELD(bus_gap, instance, U64, NONE),
    FIELD(bus_gap, stream, U32, NONE),    FIELD(bus_gap, cause, U8, NONE),
    ARRAY(bus_gap, reserved0, BYTES, 19),
};

static const struct replay_field llm_request_fields[] = {
    FIELD(bus_llm_request, id, U64, NONE),
    FIELD(bus_llm_request, deadline_ns, U64, NONE),
    FIELD(bus_llm_request, submitted_ns, U64, NONE),
    FIELD(bus_llm_request, text_bytes, U32, NONE),
    FIELD(bus_llm_request, fragment_bytes, U32, NONE),
    FIELD(bus_llm_request, text_offset, U32, NONE),
    FIELD(bus_llm_request, tokens_max, U32, NONE),
    FIELD(bus_llm_request, fragment, U16, NONE),
    FIELD(bus_llm_request, fragments, U16, NONE),
    FIELD(bus_llm_request, reply_slots, U16, NONE),
    FIELD(bus_llm_request, kind, U8, NONE),
    FIELD(bus_llm_request, flags, U8, NONE),
    FIELD(bus_llm_request, temperature, F32, NONE),
    FIELD(bus_llm_request, client_epoch, U32, NONE),
    ARRAY(bus_llm_request, class_name, NAME, BUS_LLM_NAME_BYTES),
    ARRAY(bus_llm_request, reserved0, BYTES, 48),
};

static const struct replay_field llm_reply_fields[] = {
    FIELD(bus_llm_reply, id, U64, NONE),
    FIELD(bus_llm_reply, accepted_ns, U64, NONE),
    FIELD(bus_llm_reply, sent_ns, U64, NONE),
    FIELD(bus_llm_reply, first_ns, U64, NONE),
    FIELD(bus_llm_reply, done_ns, U64, NONE),
    FIELD(bus_llm_reply, text_bytes, U32, NONE),
    FIELD(bus_llm_reply, fragment_bytes, U32, NONE),
    FIELD(bus_llm_reply, text_offset, U32, NONE),
    FIELD(bus_llm_reply, prompt_tokens, U32, NONE),
    FIELD(bus_llm_reply, completion_tokens, U32, NONE),
    FIELD(bus_llm_reply, epoch, U32, NONE),
    FIELD(bus_llm_reply, retry_after_ms, U32, NONE),
    FIELD(bus_llm_reply, fragment, U16, NONE),
    FIELD(bus_llm_reply, fragments, U16, NONE),
    FIELD(bus_llm_reply, http_status, U16, NONE),
    FIELD(bus_llm_reply, kind, U8, NONE),
    FIELD(bus_llm_reply, status, U8, NONE),
    FIELD(bus_llm_reply, flags, U8, NONE),
    FIELD(bus_llm_reply, attempt, U8, NONE),
    FIELD(bus_llm_reply, reserved0, U16, NONE),
    ARRAY(bus_llm_reply, backend, NAME, BUS_LLM_NAME_BYTES),
    ARRAY(bus_llm_reply, reserved1, BYTES, 24),
};
BUS_STATIC_ASSERT(BUS_COUNT_OF(llm_request_fields) < REPLAY_FIELDS_MAX &&
                      BUS_COUNT_OF(llm_reply_fields) < REPLAY_FIELDS_MAX,
                  "and the text");

/* Size 0: of a message; text follows. */
static const struct {
  uint32_t type;
  uint32_t size;
  const struct replay_field *fields;
  size_t count;
} known[] = {
    {BUS_RECORD_FEATURE, sizeof(struct bus_feature), feature_fields, BUS_COUNT_OF(feature_fields)},
    {BUS_RECORD_SIGNAL, sizeof(struct bus_signal), signal_fields, BUS_COUNT_OF(signal_fields)},
    {BUS_RECORD_GAP, sizeof(struct bus_gap), gap_fields, BUS_COUNT_OF(gap_fields)},
    {BUS_RECORD_LLM_REQUEST, 0, llm_request_fields, BUS_COUNT_OF(llm_request_fields)},
    {BUS_RECORD_LLM_REPLY, 0, llm_reply_fields, BUS_COUNT_OF(llm_reply_fields)},
};

static const struct {
  uint32_t bytes;
  const char *numpy;
} kinds[] = {
    [REPLAY_FIELD_U8] = {1, "|u1"},   [REPLAY_FIELD_I8] = {1, "|i1"},
    [REPLAY_FIELD_U16] = {2, "<u2"},  [REPLAY_FIELD_U32] = {4, "<u4"},
    [REPLAY_FIELD_I32] = {4, "<i4"},  [REPLAY_FIELD_U64] = {8, "<u8"},
    [REPLAY_FIELD_I64] = {8, "<i8"},  [REPLAY_FIELD_F32] = {4, "<f4"},
    [REPLAY_FIELD_BYTES] = {1, "|V"}, [REPLAY_FIELD_NAME] = {1, "|S"},
    [REPLAY_FIELD_TEXT] = {1, "|V"},
};

const struct replay_field *replay_fields(uint32_t record_type, uint32_t record_size,
                                         struct replay_field *room, size_t *count)
{
  for (size_t i = 0; i < BUS_COUNT_OF(known); i++) {
    if (known[i].type != record_type)
      continue;
    *count = known[i].count;
    if (known[i].size == record_size)
      return known[i].fields;
    if (known[i].size || record_size < BUS_LLM_HEADER_BYTES + BUS_CACHE_LINE_BYTES)
      continue;
    memcpy(room, known[i].fields, known[i].count * sizeof *room);
    room[(*count)++] = (struct replay_field){.name = "text",
                                             .offset = BUS_LLM_HEADER_BYTES,
                                             .count = bus_llm_slot_text_bytes(record_size),
                                             .kind = REPLAY_FIELD_TEXT};
    return room;
  }
  *room = (struct replay_field){.name = "bytes",
                                .count = record_size - (uint32_t)sizeof(uint64_t),
                                .kind = REPLAY_FIELD_BYTES};
  *count = 1;
  return room;
}

const char *replay_field_text(const struct replay_field *field, uint32_t record_type,
                              uint32_t record_size, const void *record, uint32_t *size)
{
  const char *text = (const char *)record + field->offset;
  *size = field->kind == REPLAY_FIELD_TEXT
              ? bus_capture_text_bytes(record_type, record_size, record)
              : (uint32_t)strnlen(text, field->count);
  return text;
}

bool replay_field_is_number(const struct replay_field *field)
{
  return field->kind < REPLAY_FIELD_BYTES;
}

uint32_t replay_field_bytes(enum replay_field_kind kind)
{
  return kinds[kind].bytes;
}

const char *replay_field_numpy(enum replay_field_kind kind)
{
  return kinds[kind].numpy;
}

size_t replay_print_decimal(int64_t value, int exponent, char *text)
{
  char digits[24];
  /* The magnitude of INT64_MIN is not an int64_t. */
  uint64_t magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
  int fraction = -exponent;
  int length = snprintf(digits, sizeof digits, "%0*" PRIu64, fraction + 1, magnitude);
  int whole = length - fraction;
  return (size_t)snprintf(text, REPLAY_FIELD_TEXT_BYTES, "%s%.*s%s%s", value < 0 ? "-" : "", whole,
                          digits, fraction ? "." : "", digits + whole);
}

static int64_t load_integer(const struct replay_field *field, const unsigned char *at)
{
  int64_t value = 0; /* little-endian, as the records are */
  uint32_t bytes = kinds[field->kind].bytes;
  memcpy(&value, at, bytes);
  if (field->kind == REPLAY_FIELD_I8)
    return (int8_t)value;
  if (field->kind == REPLAY_FIELD_I32)
    return (int32_t)value;
  return value;
}

size_t replay_field_print(const struct replay_field *field, uint32_t index, const void *record,
                          const struct bus_symbol *symbol, char *text)
{
  const unsigned char *at =
      (const unsigned char *)record + field->offset + (size_t)index * kinds[field->kind].bytes;
  if (field->kind == REPLAY_FIELD_F32) {
    float value;
    memcpy(&value, at, sizeof value);
    return (size_t)snprintf(text, REPLAY_FIELD_TEXT_BYTES, "%.9g", (double)value);
  }
  int64_t value = load_integer(field, at);
  if (field->kind == REPLAY_FIELD_U64)
    return (size_t)snprintf(text, REPLAY_FIELD_TEXT_BYTES, "%" PRIu64, (uint64_t)value);
  int exponent = 0;
  if (symbol && field->scale == REPLAY_SCALE_PRICE)
    exponent = symbol->price_exponent;
  if (symbol && field->scale == REPLAY_SCALE_SIZE)
    exponent = symbol->size_exponent;
  return replay_print_decimal(value, exponent, text);
}
