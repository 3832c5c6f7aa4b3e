/* replay_fields.h: the fields of the known record types, by name, for people and other programs. */
#ifndef SIGNALBUS_REPLAY_FIELDS_H
#define SIGNALBUS_REPLAY_FIELDS_H

#include "consumers/capture_reader.h"

#define REPLAY_FIELD_TEXT_BYTES 48u
#define REPLAY_FIELDS_MAX       32u

enum replay_field_kind {
  REPLAY_FIELD_U8,
  REPLAY_FIELD_I8,
  REPLAY_FIELD_U16,
  REPLAY_FIELD_U32,
  REPLAY_FIELD_I32,
  REPLAY_FIELD_U64,
  REPLAY_FIELD_I64,
  REPLAY_FIELD_F32,
  REPLAY_FIELD_BYTES, /* `count` of them */
  REPLAY_FIELD_NAME,  /* text up to a NUL, in `count` bytes */
  REPLAY_FIELD_TEXT   /* the text of a message, of which replay_field_text knows the length */
};

/* What scales an integer: the exponents of the record's symbol. */
enum replay_field_scale { REPLAY_SCALE_NONE, REPLAY_SCALE_PRICE, REPLAY_SCALE_SIZE };

struct replay_field {
  const char *name;
  uint32_t offset;
  uint32_t count; /* 1, or the elements of an array */
  enum replay_field_kind kind;
  enum replay_field_scale scale;
};

/* The fields before the stamp, *count of them. A type that is not known, or not of that size, has
 * one: its bytes. `room` is for REPLAY_FIELDS_MAX of them, where they depend on the size. */
const struct replay_field *replay_fields(uint32_t record_type, uint32_t record_size,
                                         struct replay_field *room, size_t *count);

/* The bytes of a NAME or TEXT field that count, of a record of that type and size: *size of them.
 */
const char *replay_field_text(const struct replay_field *field, uint32_t record_type,
                              uint32_t record_size, const void *record, uint32_t *size);

/* Whether an element has a decimal text: all but BYTES, NAME and TEXT. */
bool replay_field_is_number(const struct replay_field *field);

/* Bytes of one element. */
uint32_t replay_field_bytes(enum replay_field_kind kind);

/* numpy's name of the element's type, "<u8". */
const char *replay_field_numpy(enum replay_field_kind kind);

/* Element `index` of a field as decimal text; floats so that the same bits come back. With a
 * `symbol`, prices and sizes as decimal numbers in its exponents. For numbers. Returns the
 * length; `text` takes REPLAY_FIELD_TEXT_BYTES. */
size_t replay_field_print(const struct replay_field *field, uint32_t index, const void *record,
                          const struct bus_symbol *symbol, char *text);

/* `value` * 10^exponent as decimal text, exponent -18..0. As above. */
size_t replay_print_decimal(int64_t value, int exponent, char *text);

#endif
