#include "consumers/capture_format.h"

#include "shm/layout.h"
#include "shm/llm_record.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NPY_PREFIX       "\x93NUMPY\x01\x00"
#define NPY_PREFIX_BYTES 10u /* with the length of the text, u16 */
#define RECORDS_TEXT     "('records', ["
#define PADDING_TEXT     "('padding', '|V"
#define SHAPE_TEXT       "'shape': ("

static const char block_fields[] =
    "('magic', '<u4'), ('crc32c', '<u4'), ('kind', '<u4'), ('count', '<u4'), ('first', '<u8'), "
    "('last', '<u8'), ('first_time_ns', '<u8'), ('last_time_ns', '<u8'), ('number', '<u4'), "
    "('stream', '<u4'), ('lost', '<u8'), ";

static const char feature_fields[] =
    "('timestamp_ns', '<u8'), ('bid_price', '<i8'), ('ask_price', '<i8'), ('bid_size', '<i8'), "
    "('ask_size', '<i8'), ('exchange_delay_us', '<i4'), ('book_imbalance', '<i4'), "
    "('update', '<u4'), ('symbol', '<u2'), ('trigger', '|u1'), ('flags', '|u1'), "
    "('x', '<f4', (16,))";

static const char signal_fields[] =
    "('timestamp_ns', '<u8'), ('feature_position', '<u8'), ('target_price', '<i8'), "
    "('score', '<f4', (3,)), ('queue_ns', '<u4'), ('inference_ns', '<u4'), ('batch', '<u2'), "
    "('source', '<u2'), ('symbol', '<u2'), ('model', '<u2'), ('direction', '|i1'), "
    "('confidence', '|u1'), ('engine', '|u1'), ('flags', '|u1')";

static const char gap_fields[] =
    "('time_ns', '<u8'), ('first', '<u8'), ('last', '<u8'), ('instance', '<u8'), "
    "('stream', '<u4'), ('cause', '|u1'), ('reserved0', '|V19')";

static const char llm_request_fields[] =
    "('id', '<u8'), ('deadline_ns', '<u8'), ('submitted_ns', '<u8'), ('text_bytes', '<u4'), "
    "('fragment_bytes', '<u4'), ('text_offset', '<u4'), ('tokens_max', '<u4'), "
    "('fragment', '<u2'), ('fragments', '<u2'), ('reply_slots', '<u2'), ('kind', '|u1'), "
    "('flags', '|u1'), ('temperature', '<f4'), ('client_epoch', '<u4'), "
    "('class_name', '|S24'), ('reserved0', '|V48')";

static const char llm_reply_fields[] =
    "('id', '<u8'), ('accepted_ns', '<u8'), ('sent_ns', '<u8'), ('first_ns', '<u8'), "
    "('done_ns', '<u8'), ('text_bytes', '<u4'), ('fragment_bytes', '<u4'), "
    "('text_offset', '<u4'), ('prompt_tokens', '<u4'), ('completion_tokens', '<u4'), "
    "('epoch', '<u4'), ('retry_after_ms', '<u4'), ('fragment', '<u2'), ('fragments', '<u2'), "
    "('http_status', '<u2'), ('kind', '|u1'), ('status', '|u1'), ('flags', '|u1'), "
    "('attempt', '|u1'), ('reserved0', '<u2'), ('backend', '|S24'), ('reserved1', '|V24')";

/* Of messages: behind the header, text up to the stamp. */
#define TEXT_FIELD        ", ('text', '|V"
#define MESSAGE_BYTES_MIN (BUS_LLM_HEADER_BYTES + BUS_CACHE_LINE_BYTES)
#define TIMES_MAX         4u

/* The types whose fields are known, at the size they have; size 0: a header, and text that fills
 * whatever size the ring has. */
static const struct known {
  uint32_t type;
  uint32_t size;
  const char *fields;
  uint32_t times; /* the moments in it, whose offsets follow; the first is when it happened */
  uint32_t time_offsets[TIMES_MAX];
} known[] = {{BUS_RECORD_FEATURE, sizeof(struct bus_feature), feature_fields, 1, {0}},
             {BUS_RECORD_SIGNAL, sizeof(struct bus_signal), signal_fields, 1, {0}},
             {BUS_RECORD_GAP, sizeof(struct bus_gap), gap_fields, 1, {0}},
             {BUS_RECORD_LLM_REQUEST,
              0,
              llm_request_fields,
              2,
              {offsetof(struct bus_llm_request, submitted_ns),
               offsetof(struct bus_llm_request, deadline_ns)}},
             {BUS_RECORD_LLM_REPLY,
              0,
              llm_reply_fields,
              4,
              {offsetof(struct bus_llm_reply, done_ns), offsetof(struct bus_llm_reply, accepted_ns),
               offsetof(struct bus_llm_reply, sent_ns), offsetof(struct bus_llm_reply, first_ns)}}};

static const struct known *find_known(uint32_t type, uint32_t size)
{
  for (size_t i = 0; i < BUS_COUNT_OF(known); i++)
    if (known[i].type == type &&
        (known[i].size ? known[i].size == size : size >= MESSAGE_BYTES_MIN))
      return &known[i];
  return NULL;
}

/* ---- the file's header ---- */

uint32_t bus_capture_capacity(uint32_t record_size, uint32_t block_size)
{
  if (record_size < BUS_CACHE_LINE_BYTES || record_size > BUS_RECORD_BYTES_MAX ||
      record_size % BUS_CACHE_LINE_BYTES || block_size < BUS_CAPTURE_BLOCK_BYTES_MIN ||
      block_size > BUS_CAPTURE_BLOCK_BYTES_MAX || block_size % BUS_CAPTURE_BLOCK_BYTES_MIN)
    return 0;
  return (block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES) / record_size;
}

int bus_capture_shape_check(const struct bus_capture_shape *shape)
{
  if (bus_capture_capacity(shape->record_size, shape->block_size) == 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "blocks of %u bytes for records of %u: use blocks of 4096 to %u bytes, a "
                         "multiple of 4096, with room for a record, and records of 64 to %u, a "
                         "multiple of 64",
                         shape->block_size, shape->record_size, BUS_CAPTURE_BLOCK_BYTES_MAX,
                         BUS_RECORD_BYTES_MAX);
  if (shape->blocks > BUS_CAPTURE_BLOCKS_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "%" PRIu64 " blocks in one segment: at most %" PRIu64,
                         shape->blocks, BUS_CAPTURE_BLOCKS_MAX);
  return BUS_OK;
}

/* The text is far below 4096 bytes for every shape; what would not fit would be cut. */
BUS_PRINTF(3, 4)
static size_t append(char *text, size_t length, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  int added = vsnprintf(text + length, BUS_CAPTURE_FILE_HEADER_BYTES - length, format, arguments);
  va_end(arguments);
  return length + (added > 0 ? (size_t)added : 0);
}

static size_t append_record(char *text, size_t length, const struct bus_capture_shape *shape)
{
  const struct known *type = find_known(shape->record_type, shape->record_size);
  uint32_t bytes = shape->record_size - (uint32_t)sizeof(uint64_t);
  if (type && type->size)
    return append(text, length, "%s", type->fields);
  if (type)
    return append(text, length, "%s" TEXT_FIELD "%" PRIu32 "')", type->fields,
                  bytes - BUS_LLM_HEADER_BYTES);
  if (shape->record_type == BUS_RECORD_RAW)
    return append(text, length, "('bytes', '|V%" PRIu32 "')", bytes);
  return append(text, length, "('type%" PRIu32 "', '|V%" PRIu32 "')", shape->record_type, bytes);
}

int bus_capture_header_build(const struct bus_capture_shape *shape, void *header)
{
  int error = bus_capture_shape_check(shape);
  if (error)
    return error;
  char text[BUS_CAPTURE_FILE_HEADER_BYTES];
  uint32_t capacity = bus_capture_capacity(shape->record_size, shape->block_size);
  uint32_t padding =
      shape->block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES - capacity * shape->record_size;
  size_t length = append(text, NPY_PREFIX_BYTES, "{'descr': [%s%s", block_fields, RECORDS_TEXT);
  length = append_record(text, length, shape);
  length = append(text, length, ", ('stamp', '<u8')], (%" PRIu32 ",))", capacity);
  if (padding > 0)
    length = append(text, length, ", %s%" PRIu32 "')", PADDING_TEXT, padding);
  length = append(text, length, "], 'fortran_order': False, %s%" PRIu64 ",), }", SHAPE_TEXT,
                  shape->blocks);
  memcpy(text, NPY_PREFIX, NPY_PREFIX_BYTES - 2);
  const uint32_t text_bytes = BUS_CAPTURE_FILE_HEADER_BYTES - NPY_PREFIX_BYTES;
  text[8] = (char)(text_bytes & 0xff);
  text[9] = (char)(text_bytes >> 8);
  memset(text + length, ' ', BUS_CAPTURE_FILE_HEADER_BYTES - length - 1);
  text[BUS_CAPTURE_FILE_HEADER_BYTES - 1] = '\n';
  memcpy(header, text, sizeof text);
  return BUS_OK;
}

/* The decimal number behind the first `before` from `text` on; false when there is none. */
static bool find_number(const char *text, const char *before, uint64_t maximum, uint64_t *value,
                        const char **after)
{
  const char *at = strstr(text, before);
  if (!at)
    return false;
  at += strlen(before);
  if (*at < '0' || *at > '9')
    return false;
  for (*value = 0; *at >= '0' && *at <= '9' && *value <= maximum; at++)
    *value = *value * 10 + (uint64_t)(*at - '0');
  *after = at;
  return *value <= maximum;
}

/* Type and size of the records, from the text behind RECORDS_TEXT. */
static bool find_record(const char *text, struct bus_capture_shape *shape)
{
  uint64_t type = BUS_RECORD_RAW, bytes;
  const char *at = text;
  for (size_t i = 0; i < BUS_COUNT_OF(known); i++)
    if (!strncmp(text, known[i].fields, strlen(known[i].fields))) {
      shape->record_type = known[i].type;
      shape->record_size = known[i].size;
      if (known[i].size)
        return true;
      at = text + strlen(known[i].fields); /* what is wrong there the comparison will find */
      if (!find_number(at, TEXT_FIELD, BUS_RECORD_BYTES_MAX, &bytes, &at))
        return false;
      shape->record_size = (uint32_t)(bytes + BUS_LLM_HEADER_BYTES + sizeof(uint64_t));
      return true;
    }
  if (!strncmp(text, "('type", 6) && !find_number(text, "('type", UINT32_MAX, &type, &at))
    return false;
  if (!find_number(at, "', '|V", BUS_RECORD_BYTES_MAX, &bytes, &at))
    return false;
  shape->record_type = (uint32_t)type;
  shape->record_size = (uint32_t)(bytes + sizeof(uint64_t));
  return true;
}

int bus_capture_header_parse(const void *header, struct bus_capture_shape *shape)
{
  char text[BUS_CAPTURE_FILE_HEADER_BYTES + 1], built[BUS_CAPTURE_FILE_HEADER_BYTES];
  memset(shape, 0, sizeof *shape);
  memcpy(text, header, BUS_CAPTURE_FILE_HEADER_BYTES);
  text[BUS_CAPTURE_FILE_HEADER_BYTES] = '\0';
  if (memcmp(text, NPY_PREFIX, NPY_PREFIX_BYTES - 2) != 0)
    return bus_error_set(BUS_ERROR_CORRUPT, "not a .npy file of version 1.0");
  /* A search stops at the first NUL; one inside the text fails the comparison below. */
  const char *at = strstr(text + NPY_PREFIX_BYTES, RECORDS_TEXT);
  uint64_t capacity, padding = 0, blocks;
  const char *after;
  if (!at || !find_record(at + strlen(RECORDS_TEXT), shape) ||
      !find_number(at, "], (", BUS_CAPTURE_BLOCK_BYTES_MAX, &capacity, &at) ||
      !find_number(at, SHAPE_TEXT, BUS_CAPTURE_BLOCKS_MAX, &blocks, &after))
    return bus_error_set(BUS_ERROR_CORRUPT, "the .npy header is not that of a capture");
  if (strstr(at, PADDING_TEXT) &&
      !find_number(at, PADDING_TEXT, BUS_CAPTURE_BLOCK_BYTES_MAX, &padding, &after))
    return bus_error_set(BUS_ERROR_CORRUPT, "the .npy header is not that of a capture");
  uint64_t block_size = BUS_CAPTURE_BLOCK_HEADER_BYTES + capacity * shape->record_size + padding;
  shape->block_size = block_size <= BUS_CAPTURE_BLOCK_BYTES_MAX ? (uint32_t)block_size : 0;
  shape->blocks = blocks;
  if (bus_capture_header_build(shape, built) != BUS_OK)
    return bus_error_context(BUS_ERROR_CORRUPT, "the .npy header is damaged");
  for (size_t i = 0; i < sizeof built; i++)
    if (built[i] != text[i])
      return bus_error_set(BUS_ERROR_CORRUPT, "the .npy header is damaged at byte %zu", i);
  return BUS_OK;
}

/* ---- blocks ---- */

static size_t payload_bytes(const struct bus_capture_block *header, uint32_t record_size)
{
  return header->kind == BUS_CAPTURE_META ? header->count : (size_t)header->count * record_size;
}

static uint32_t block_crc(const void *block, size_t payload)
{
  const size_t skipped = offsetof(struct bus_capture_block, kind);
  return bus_crc32c(0, (const unsigned char *)block + skipped,
                    BUS_CAPTURE_BLOCK_HEADER_BYTES - skipped + payload);
}

void bus_capture_block_seal(void *block, const struct bus_capture_shape *shape)
{
  /* Through a copy: the header is summed up as bytes. */
  struct bus_capture_block header;
  memcpy(&header, block, sizeof header);
  size_t payload = payload_bytes(&header, shape->record_size);
  header.magic = BUS_CAPTURE_MAGIC;
  header.crc32c = 0;
  if (header.kind == BUS_CAPTURE_DATA) {
    const void *first = bus_capture_block_record(block, shape->record_size, 0);
    const void *last = bus_capture_block_record(block, shape->record_size, header.count - 1);
    header.first = bus_capture_record_position(first, shape->record_size);
    header.last = bus_capture_record_position(last, shape->record_size);
    if (bus_capture_has_time(shape->record_type, shape->record_size)) {
      header.first_time_ns = bus_capture_record_time(shape->record_type, shape->record_size, first);
      header.last_time_ns = bus_capture_record_time(shape->record_type, shape->record_size, last);
    }
  } else {
    header.first = header.last = header.lost = 0;
  }
  memset((unsigned char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES + payload, 0,
         shape->block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES - payload);
  memcpy(block, &header, sizeof header);
  header.crc32c = block_crc(block, payload);
  memcpy(block, &header, sizeof header);
}

bool bus_capture_is_zero(const void *bytes, size_t size)
{
  const unsigned char *at = bytes;
  return size == 0 || (at[0] == 0 && !memcmp(at, at + 1, size - 1));
}

int bus_capture_block_check_header(const struct bus_capture_block *header,
                                   const struct bus_capture_shape *shape)
{
  uint32_t most = header->kind == BUS_CAPTURE_DATA
                      ? bus_capture_capacity(shape->record_size, shape->block_size)
                      : shape->block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES;
  if (header->magic != BUS_CAPTURE_MAGIC)
    return bus_error_set(BUS_ERROR_CORRUPT, "magic %08" PRIx32 ", a block has %08" PRIx32,
                         header->magic, BUS_CAPTURE_MAGIC);
  if (header->kind != BUS_CAPTURE_DATA && header->kind != BUS_CAPTURE_META)
    return bus_error_set(BUS_ERROR_CORRUPT, "unknown kind %" PRIu32, header->kind);
  if (header->count == 0 || header->count > most)
    return bus_error_set(BUS_ERROR_CORRUPT, "count %" PRIu32 ", possible are 1..%" PRIu32,
                         header->count, most);
  return BUS_OK;
}

static int check_records(const void *block, const struct bus_capture_block *header,
                         const struct bus_capture_shape *shape)
{
  const uint32_t size = shape->record_size;
  const unsigned char *record = bus_capture_block_record(block, size, 0);
  const void *last = bus_capture_block_record(block, size, header->count - 1);
  uint64_t position = bus_capture_record_position(record, size);
  if (position != header->first || bus_capture_record_position(last, size) != header->last)
    return bus_error_set(BUS_ERROR_CORRUPT, "positions of first and last differ from the header");
  for (uint32_t i = 1; i < header->count; i++) {
    record += size;
    uint64_t next = bus_capture_record_position(record, size);
    if ((int64_t)(next - position) <= 0)
      return bus_error_set(BUS_ERROR_CORRUPT,
                           "record %" PRIu32 ": position %" PRIu64 " after %" PRIu64, i, next,
                           position);
    position = next;
  }
  if (header->lost < header->last - header->first + 1 - header->count)
    return bus_error_set(BUS_ERROR_CORRUPT, "fewer lost positions than are missing inside");
  if (bus_capture_has_time(shape->record_type, size) &&
      (bus_capture_record_time(shape->record_type, size,
                               bus_capture_block_record(block, size, 0)) != header->first_time_ns ||
       bus_capture_record_time(shape->record_type, size, last) != header->last_time_ns))
    return bus_error_set(BUS_ERROR_CORRUPT, "times of first and last differ from the header");
  return BUS_OK;
}

int bus_capture_block_check(const void *block, const struct bus_capture_shape *shape,
                            uint32_t stream, uint32_t number)
{
  struct bus_capture_block header;
  memcpy(&header, block, sizeof header);
  if (bus_capture_is_zero(block, sizeof header) && bus_capture_is_zero(block, shape->block_size))
    return bus_error_set(BUS_ERROR_ABSENT, "not written");
  int error = bus_capture_block_check_header(&header, shape);
  if (error)
    return error;
  size_t payload = payload_bytes(&header, shape->record_size);
  uint32_t crc = block_crc(block, payload);
  if (crc != header.crc32c)
    return bus_error_set(BUS_ERROR_CORRUPT, "CRC-32C %08" PRIx32 ", the block says %08" PRIx32, crc,
                         header.crc32c);
  if (header.number != number || header.stream != stream)
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "block %" PRIu32 " of stream %08" PRIx32 " in the place of %" PRIu32
                         " of %08" PRIx32,
                         header.number, header.stream, number, stream);
  if (header.kind == BUS_CAPTURE_DATA)
    error = check_records(block, &header, shape);
  else if (header.first || header.last || header.lost)
    error = bus_error_set(BUS_ERROR_CORRUPT, "positions in a block of text");
  if (!error &&
      !bus_capture_is_zero((const unsigned char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES + payload,
                           shape->block_size - BUS_CAPTURE_BLOCK_HEADER_BYTES - payload))
    error = bus_error_set(BUS_ERROR_CORRUPT, "bytes behind the payload are not zero");
  return error;
}

/* ---- records ---- */

bool bus_capture_has_time(uint32_t record_type, uint32_t record_size)
{
  return find_known(record_type, record_size) != NULL;
}

uint64_t bus_capture_record_time(uint32_t record_type, uint32_t record_size, const void *record)
{
  const struct known *type = find_known(record_type, record_size);
  if (!type)
    return 0;
  uint64_t time_ns;
  memcpy(&time_ns, (const unsigned char *)record + type->time_offsets[0], sizeof time_ns);
  if (record_type == BUS_RECORD_SIGNAL) {
    struct bus_signal signal;
    memcpy(&signal, record, sizeof signal);
    time_ns += (uint64_t)signal.queue_ns + signal.inference_ns;
  }
  return time_ns;
}

void bus_capture_record_shift(uint32_t record_type, uint32_t record_size, uint64_t shift_ns,
                              void *record)
{
  const struct known *type = find_known(record_type, record_size);
  for (uint32_t i = 0; type && i < type->times; i++) {
    unsigned char *at = (unsigned char *)record + type->time_offsets[i];
    uint64_t time_ns;
    memcpy(&time_ns, at, sizeof time_ns);
    /* 0 in a message: never; the largest: no deadline. */
    if (type->size == 0 && (time_ns == 0 || time_ns == UINT64_MAX))
      continue;
    time_ns += shift_ns;
    memcpy(at, &time_ns, sizeof time_ns);
  }
}

uint32_t bus_capture_text_bytes(uint32_t record_type, uint32_t record_size, const void *record)
{
  const struct known *type = find_known(record_type, record_size);
  if (!type || type->size)
    return 0;
  uint32_t bytes, room = bus_llm_slot_text_bytes(record_size);
  size_t offset = record_type == BUS_RECORD_LLM_REQUEST
                      ? offsetof(struct bus_llm_request, fragment_bytes)
                      : offsetof(struct bus_llm_reply, fragment_bytes);
  memcpy(&bytes, (const unsigned char *)record + offset, sizeof bytes);
  return bytes < room ? bytes : room;
}

size_t bus_capture_canonical(uint32_t record_type, uint32_t record_size, const void *record,
                             uint32_t flags, void *canonical)
{
  size_t bytes = record_size - sizeof(uint64_t);
  memcpy(canonical, record, bytes);
  const struct known *type = find_known(record_type, record_size);
  if (!type)
    return bytes;
  if (record_type == BUS_RECORD_SIGNAL && !(flags & BUS_CAPTURE_EXACT)) {
    struct bus_signal signal;
    memcpy(&signal, record, sizeof signal);
    signal.queue_ns = signal.inference_ns = 0;
    signal.batch = 0;
    signal.engine = 0;
    signal.flags &= (uint8_t)~BUS_SIGNAL_BATCHED;
    memcpy(canonical, &signal, bytes);
  }
  if (type->size == 0 && !(flags & BUS_CAPTURE_EXACT)) { /* what an earlier lap left in the slot */
    uint32_t text = bus_capture_text_bytes(record_type, record_size, record);
    memset((unsigned char *)canonical + BUS_LLM_HEADER_BYTES + text, 0,
           bytes - BUS_LLM_HEADER_BYTES - text);
  }
  for (uint32_t i = 0; i < type->times && flags & BUS_CAPTURE_NO_TIME; i++)
    memset((unsigned char *)canonical + type->time_offsets[i], 0, sizeof(uint64_t));
  return bytes;
}

/* ---- names ---- */

uint32_t bus_capture_stream_id(const char *stream)
{
  return (uint32_t)bus_layout_hash_bytes(0xcbf29ce484222325ull, stream, strlen(stream));
}

void bus_capture_file_name_build(const struct bus_capture_file_name *parts, char *name)
{
  snprintf(name, BUS_CAPTURE_FILE_NAME_BYTES, "%.63s.%06" PRIu32 ".npy%s", parts->stream,
           parts->segment, parts->compressed ? ".zst" : "");
}

bool bus_capture_file_name_parse(const char *name, struct bus_capture_file_name *parts)
{
  memset(parts, 0, sizeof *parts);
  size_t length = strlen(name);
  if (length > 4 && !strcmp(name + length - 4, ".zst")) {
    parts->compressed = true;
    length -= 4;
  }
  if (length < 4 || strncmp(name + length - 4, ".npy", 4) != 0)
    return false;
  length -= 4;
  size_t digits = 0;
  while (digits < length && name[length - digits - 1] >= '0' && name[length - digits - 1] <= '9')
    digits++;
  size_t stream = length - digits;
  if (digits < 6 || digits > 10 || (digits > 6 && name[stream] == '0') || stream < 4 ||
      name[stream - 1] != '.' || stream - 1 >= sizeof parts->stream)
    return false;
  uint64_t segment = 0;
  for (size_t i = stream; i < length; i++)
    segment = segment * 10 + (uint64_t)(name[i] - '0');
  memcpy(parts->stream, name, stream - 1);
  parts->segment = (uint32_t)segment;
  return segment <= UINT32_MAX && parts->stream[0] != '.' && strchr(parts->stream, '.') != NULL &&
         !strchr(parts->stream, '/');
}

const char *bus_gap_cause_name(uint32_t cause)
{
  static const char *const names[] = {NULL,          "overrun",  "disk-full",
                                      "write-error", "replaced", "stopped"};
  return cause < BUS_COUNT_OF(names) && names[cause] ? names[cause] : "?";
}
