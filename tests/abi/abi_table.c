/* Prints the tables of shm/ABI.md, each between its markers, from the headers themselves: offsets,
 * sizes and types come from the compiler, and a struct with a field that is not listed here fails.
 * check_abi.py compares the output with the document. */
#include "shm/histogram.h"
#include "shm/layout.h"
#include "shm/llm_record.h"
#include "shm/record.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

struct field {
  const char *name;
  size_t offset;
  size_t size;
  const char *type;
  size_t type_size;
  const char *unit;
  const char *meaning;
};

/* The type's name for other languages; an array decays to a pointer to its element. */
#define TYPE_NAME(value)                                                                           \
  _Generic((value), uint64_t                                                                       \
           : "u64", int64_t                                                                        \
           : "i64", uint32_t                                                                       \
           : "u32", int32_t                                                                        \
           : "i32", uint16_t                                                                       \
           : "u16", uint8_t                                                                        \
           : "u8", int8_t                                                                          \
           : "i8", float                                                                           \
           : "f32", char *                                                                         \
           : "char", float *                                                                       \
           : "f32", uint8_t *                                                                      \
           : "u8", uint64_t *                                                                      \
           : "u64")
#define TYPE_SIZE(value)                                                                           \
  _Generic((value), char * : 1u, float * : 4u, uint8_t * : 1u, uint64_t * : 8u, default            \
           : sizeof(value))
#define MEMBER(type, field) (((struct type *)NULL)->field)
#define FIELD(type, field, unit, meaning)                                                          \
  {                                                                                                \
#field, offsetof(struct type, field), sizeof MEMBER(type, field),                              \
        TYPE_NAME(MEMBER(type, field)), TYPE_SIZE(MEMBER(type, field)), unit, meaning              \
  }

/* An enum's list is expanded twice: into rows, and into a switch that the compiler refuses to build
 * when an enumerator is missing. */
struct row {
  const char *name;
  long long value;
  const char *meaning;
};
#define ENUM_ROW(name, meaning) {#name, name, meaning},
#define ENUM_CASE(name, meaning)                                                                   \
  case name:                                                                                       \
    return true;
#define ENUM(type, list)                                                                           \
  static bool type##_is_listed(enum type value)                                                    \
  {                                                                                                \
    switch (value) {                                                                               \
      list(ENUM_CASE)                                                                              \
    }                                                                                              \
    return false;                                                                                  \
  }                                                                                                \
  static const struct row type##_rows[] = {list(ENUM_ROW)};

#define MEMBER_STATES(X)                                                                           \
  X(BUS_STATE_BOOT, "being set up or resumed: objects may not be complete")                        \
  X(BUS_STATE_RUN, "running")                                                                      \
  X(BUS_STATE_HALT, "left in order; what was committed stays readable")                            \
  X(BUS_STATE_FAIL, "gave up; its log says why")
ENUM(bus_member_state, MEMBER_STATES)

#define BACKINGS(X)                                                                                \
  X(BUS_BACKING_SMALL_PAGES, "4 KiB pages of tmpfs")                                               \
  X(BUS_BACKING_TRANSPARENT_HUGE, "tmpfs, collapsed into 2 MiB pages")                             \
  X(BUS_BACKING_HUGETLB, "hugetlbfs")
ENUM(bus_backing, BACKINGS)

#define OBJECT_TYPES(X)                                                                            \
  X(BUS_OBJECT_RING, "ring header and slots")                                                      \
  X(BUS_OBJECT_POSITION, "a reliable consumer's place in another member's ring")                   \
  X(BUS_OBJECT_COUNTER, "one u64")                                                                 \
  X(BUS_OBJECT_HISTOGRAM, "log-linear histogram")                                                  \
  X(BUS_OBJECT_BOARD, "latest record for each symbol")                                             \
  X(BUS_OBJECT_SYMBOLS, "symbol table")                                                            \
  X(BUS_OBJECT_TEXT, "NUL-terminated UTF-8, for people")                                           \
  X(BUS_OBJECT_STAGING, "a recorder's blocks on their way to disk: its own business")              \
  X(BUS_OBJECT_TABLE, "elements that the owner keeps for its successor: its own business")
ENUM(bus_object_type, OBJECT_TYPES)

#define POLICIES(X)                                                                                \
  X(BUS_POLICY_WAIT, "the producer waits: nothing is lost")                                        \
  X(BUS_POLICY_DROP_NEWEST, "the new record is dropped and counted in `dropped`")                  \
  X(BUS_POLICY_OVERWRITE, "nobody holds the producer back; readers are observers")
ENUM(bus_policy, POLICIES)

#define RECORD_TYPES(X)                                                                            \
  X(BUS_RECORD_RAW, "bytes; only the stamp is defined")                                            \
  X(BUS_RECORD_FEATURE, "bus_feature, 128 bytes")                                                  \
  X(BUS_RECORD_SIGNAL, "bus_signal, 64 bytes")                                                     \
  X(BUS_RECORD_GAP, "bus_gap, 64 bytes")                                                           \
  X(BUS_RECORD_LLM_REQUEST, "bus_llm_request, 128 bytes, and text")                                \
  X(BUS_RECORD_LLM_REPLY, "bus_llm_reply, 128 bytes, and text")
ENUM(bus_record_type, RECORD_TYPES)

#define FEATURE_FLAGS(X)                                                                           \
  X(BUS_FEATURE_VALID, "both sides known, `x` may be used")                                        \
  X(BUS_FEATURE_SNAPSHOT, "the book was just rebuilt from a snapshot")                             \
  X(BUS_FEATURE_RESYNC, "updates were lost: levels below the best are not trusted yet")            \
  X(BUS_FEATURE_STALE, "no update for longer than the feed's limit")                               \
  X(BUS_FEATURE_CROSSED, "best bid >= best ask")                                                   \
  X(BUS_FEATURE_TRADE, "a trade caused this record")
ENUM(bus_feature_flag, FEATURE_FLAGS)

#define TRIGGERS(X)                                                                                \
  X(BUS_TRIGGER_NONE, "unknown")                                                                   \
  X(BUS_TRIGGER_BOOK_TICKER, "best bid and ask")                                                   \
  X(BUS_TRIGGER_DEPTH, "order book update")                                                        \
  X(BUS_TRIGGER_TRADE, "trade")                                                                    \
  X(BUS_TRIGGER_SNAPSHOT, "order book snapshot")
ENUM(bus_trigger, TRIGGERS)

#define SIGNAL_FLAGS(X)                                                                            \
  X(BUS_SIGNAL_VALID, "direction, confidence and score may be acted on")                           \
  X(BUS_SIGNAL_STALE, "made from a feature that carried STALE, RESYNC or CROSSED")                 \
  X(BUS_SIGNAL_BATCHED, "the tick waited for others of its batch")
ENUM(bus_signal_flag, SIGNAL_FLAGS)

#define ENGINES(X)                                                                                 \
  X(BUS_ENGINE_NONE, "unknown")                                                                    \
  X(BUS_ENGINE_SCALAR, "CPU, plain C")                                                             \
  X(BUS_ENGINE_AVX2, "CPU, AVX2 and FMA")                                                          \
  X(BUS_ENGINE_AVX512, "CPU, AVX-512")                                                             \
  X(BUS_ENGINE_CUDA, "GPU; the scores have the same bits as the CPU's")
ENUM(bus_engine_id, ENGINES)

#define GAP_CAUSES(X)                                                                              \
  X(BUS_GAP_OVERRUN, "overwritten before they were read")                                          \
  X(BUS_GAP_DISK_FULL, "read, but there was no room to write them to")                             \
  X(BUS_GAP_WRITE_ERROR, "read, but the file system refused them")                                 \
  X(BUS_GAP_REPLACED, "the producer's file was replaced before they were read")                    \
  X(BUS_GAP_STOPPED, "committed while no recorder was running")
ENUM(bus_gap_cause, GAP_CAUSES)

#define LLM_KINDS(X)                                                                               \
  X(BUS_LLM_CHAT, "what the user says; with MESSAGES a JSON array of messages")                    \
  X(BUS_LLM_COMPLETION, "the beginning that the model goes on with")                               \
  X(BUS_LLM_EMBEDDING, "what to embed; the answer is f32, little-endian")                          \
  X(BUS_LLM_CANCEL, "no text: takes request `id` back")
ENUM(bus_llm_kind, LLM_KINDS)

#define LLM_REQUEST_FLAGS(X)                                                                       \
  X(BUS_LLM_PARTIALS, "send pieces of the answer as they come")                                    \
  X(BUS_LLM_IDEMPOTENT, "asking twice does no harm: may be retried, hedged, restarted")            \
  X(BUS_LLM_URGENT, "before all that is not, and may use the reserve")                             \
  X(BUS_LLM_MESSAGES, "chat: the text is a JSON array of {role, content}")
ENUM(bus_llm_request_flag, LLM_REQUEST_FLAGS)

#define LLM_REPLY_KINDS(X)                                                                         \
  X(BUS_LLM_PARTIAL, "a piece of the answer; left out where there is no room")                     \
  X(BUS_LLM_FINAL, "the only one of its request; carries the whole text")
ENUM(bus_llm_reply_kind, LLM_REPLY_KINDS)

#define LLM_STATUSES(X)                                                                            \
  X(BUS_LLM_PENDING, "not ended: in partial replies only")                                         \
  X(BUS_LLM_OK, "the whole answer")                                                                \
  X(BUS_LLM_LENGTH, "the answer was cut, by `tokens_max` or by `reply_slots` (flag CUT)")          \
  X(BUS_LLM_REJECTED_QUEUE, "too many are waiting")                                                \
  X(BUS_LLM_REJECTED_DEADLINE, "could not be done in time, by the estimate")                       \
  X(BUS_LLM_EXPIRED, "the deadline passed; the text so far")                                       \
  X(BUS_LLM_CANCELLED, "taken back by the client")                                                 \
  X(BUS_LLM_BACKEND_DOWN, "no server of the class can be reached")                                 \
  X(BUS_LLM_UPSTREAM_4XX, "the server refused it")                                                 \
  X(BUS_LLM_UPSTREAM_5XX, "the server failed, or its answer is none")                              \
  X(BUS_LLM_TRUNCATED, "the server stopped in the middle; the text so far")                        \
  X(BUS_LLM_BAD_REQUEST, "refused by the bridge: class, kind, size, JSON, UTF-8")                  \
  X(BUS_LLM_BRIDGE_RESTART, "the bridge died meanwhile, and asking again was not allowed")         \
  X(BUS_LLM_LOCAL_TIMEOUT, "made by the client library, never in a ring")
ENUM(bus_llm_status, LLM_STATUSES)

#define LLM_REPLY_FLAGS(X)                                                                         \
  X(BUS_LLM_REASONING, "partial: the model's reasoning, not its answer")                           \
  X(BUS_LLM_CUT, "final: the answer is longer than `reply_slots` hold")                            \
  X(BUS_LLM_HEDGED, "final: a second server was asked")                                            \
  X(BUS_LLM_LOST, "final: at least one partial reply was left out")
ENUM(bus_llm_reply_flag, LLM_REPLY_FLAGS)

static const struct field member_header_fields[] = {
    FIELD(bus_member_header, magic, "", "stored last, with release; 0: being created, or deleted"),
    FIELD(bus_member_header, abi_version, "", "see Constants"),
    FIELD(bus_member_header, header_size, "bytes", "512"),
    FIELD(bus_member_header, file_size, "bytes", "size of the whole file"),
    FIELD(bus_member_header, layout_hash, "", "see Layout hash"),
    FIELD(bus_member_header, name, "", "the file's name, NUL-terminated"),
    FIELD(bus_member_header, kind, "", "what it is (`feed`, `infer`, ..), NUL-terminated"),
    FIELD(bus_member_header, boot_id, "", "/proc/sys/kernel/random/boot_id, NUL-terminated"),
    FIELD(bus_member_header, entry_count, "", "entries in the directory, 0..512"),
    FIELD(bus_member_header, entry_size, "bytes", "128"),
    FIELD(bus_member_header, entry_offset, "bytes", "512"),
    FIELD(bus_member_header, instance, "",
          "this file's life, odd: kept by a takeover, new with a new file"),
    FIELD(bus_member_header, identity, "",
          "what the member works on; a successor with another one makes a new file"),
    FIELD(bus_member_header, created_realtime_ns, "ns, UTC", "when the file was made"),
    FIELD(bus_member_header, pid, "", "owner; for people, liveness is the lock"),
    FIELD(bus_member_header, backing, "", "enum bus_backing"),
    FIELD(bus_member_header, process_start_ticks, "clock ticks", "field 22 of /proc/PID/stat"),
    FIELD(bus_member_header, epoch, "", "1, and 1 more for each process that owned the name"),
    FIELD(bus_member_header, numa_node, "", "-1: not placed"),
    FIELD(bus_member_header, core, "", "-1: not pinned"),
    FIELD(bus_member_header, huge_bytes, "bytes", "how much of the file is in huge pages"),
    FIELD(bus_member_header, reserved0, "", "0"),
    FIELD(bus_member_header, state, "", "enum bus_member_state; live"),
    FIELD(bus_member_header, reserved1, "", "0"),
    FIELD(bus_member_header, heartbeat_ns, "ns, bus clock", "last sign of life; live"),
    FIELD(bus_member_header, realtime_offset_ns, "ns", "CLOCK_REALTIME - bus clock; live"),
    FIELD(bus_member_header, reserved2, "", "0"),
};

static const struct field entry_fields[] = {
    FIELD(bus_entry, name, "", "NUL-terminated, unique within type and peer"),
    FIELD(bus_entry, peer, "", "ring: reliable consumer or empty; position: producer; else empty"),
    FIELD(bus_entry, unit, "", "counter, histogram: unit of the value, NUL-terminated; else empty"),
    FIELD(bus_entry, type, "", "enum bus_object_type"),
    FIELD(bus_entry, record_type, "", "ring, board: enum bus_record_type; else 0"),
    FIELD(bus_entry, record_size, "bytes", "ring, board: one slot; else 0"),
    FIELD(bus_entry, policy, "", "ring: enum bus_policy; else 0"),
    FIELD(bus_entry, depth, "elements", "slots, rows; text: bytes; else 1"),
    FIELD(bus_entry, offset, "bytes", "of the object, from the start of the file"),
    FIELD(bus_entry, size, "bytes", "of the object; see Sizes and limits"),
    FIELD(bus_entry, reserved0, "", "0"),
};

static const struct field position_fields[] = {
    FIELD(bus_position, position, "records", "everything before it has been consumed"),
    FIELD(bus_position, ring_instance, "",
          "`instance` of the producer's file that `position` counts in; 0: none yet"),
    FIELD(bus_position, lost, "records", "overwritten before they were read"),
    FIELD(bus_position, output_floor, "",
          "the consumer's own: where its output stood when it joined that instance"),
    FIELD(bus_position, waiting, "", "1 while the consumer may be asleep at the bell"),
    FIELD(bus_position, skip_to, "position", "where the last skip of lost records went"),
    FIELD(bus_position, skip_lost, "records", "what `lost` is after that skip"),
    FIELD(bus_position, reserved0, "", "0"),
};

static const struct field ring_header_fields[] = {
    FIELD(bus_ring_header, depth, "slots", "as in the directory; use the directory's"),
    FIELD(bus_ring_header, record_size, "bytes", "as in the directory; use the directory's"),
    FIELD(bus_ring_header, record_type, "", "as in the directory; use the directory's"),
    FIELD(bus_ring_header, first, "position", "of the first record ever written to this ring"),
    FIELD(bus_ring_header, reserved0, "", "0"),
    FIELD(bus_ring_header, sequence, "position", "next record; written lazily, for people"),
    FIELD(bus_ring_header, dropped, "records", "refused by DROP_NEWEST"),
    FIELD(bus_ring_header, waits, "", "times that the ring was found full"),
    FIELD(bus_ring_header, positions_rejected, "", "impossible consumer positions, ignored"),
    FIELD(bus_ring_header, bell, "", "0: this producer never rings; else odd, moved by each ring"),
    FIELD(bus_ring_header, reserved1, "", "0"),
    FIELD(bus_ring_header, consumer_instance, "",
          "`instance` of the file whose position holds this producer back; 0: none"),
    FIELD(bus_ring_header, consumed, "position",
          "the producer has accepted all before it as consumed"),
    FIELD(bus_ring_header, reserved2, "", "0"),
};

static const struct field feature_fields[] = {
    FIELD(bus_feature, timestamp_ns, "ns, bus clock", "when the feed had the whole message"),
    FIELD(bus_feature, bid_price, "price units", "best bid, 0: that side is empty"),
    FIELD(bus_feature, ask_price, "price units", "best ask, 0: that side is empty"),
    FIELD(bus_feature, bid_size, "size units", "size at the best bid"),
    FIELD(bus_feature, ask_size, "size units", "size at the best ask"),
    FIELD(bus_feature, exchange_delay_us, "us",
          "receive time - exchange time, signed; -2^31: the message has no exchange time"),
    FIELD(bus_feature, book_imbalance, "Q30",
          "(bid_size-ask_size)/(bid_size+ask_size), -2^30..2^30"),
    FIELD(bus_feature, update, "", "low 32 bits of the exchange's update or trade id"),
    FIELD(bus_feature, symbol, "", "row of the feed's symbol table"),
    FIELD(bus_feature, trigger, "", "enum bus_trigger"),
    FIELD(bus_feature, flags, "", "enum bus_feature_flag, or-ed"),
    FIELD(bus_feature, x, "", "model inputs; formulas and units in producers/features.h"),
    FIELD(bus_feature, stamp, "", "the ring's"),
};

static const struct field signal_fields[] = {
    FIELD(bus_signal, timestamp_ns, "ns, bus clock", "timestamp_ns of the feature: its age"),
    FIELD(bus_signal, feature_position, "position", "of that feature in its ring"),
    FIELD(bus_signal, target_price, "price units",
          "best ask to buy, best bid to sell, mid when flat; 0 when not VALID"),
    FIELD(bus_signal, score, "", "probabilities of sell, flat, buy"),
    FIELD(bus_signal, queue_ns, "ns", "feature's timestamp to the start of inference; saturates"),
    FIELD(bus_signal, inference_ns, "ns", "of the whole batch; saturates"),
    FIELD(bus_signal, batch, "", "ticks inferred together, 1.."),
    FIELD(bus_signal, source, "", "which input ring of the inference member, 0.."),
    FIELD(bus_signal, symbol, "", "as in the feature"),
    FIELD(bus_signal, model, "", "low 16 bits of the model file's CRC-32"),
    FIELD(bus_signal, direction, "", "-1 sell, 0 flat, +1 buy"),
    FIELD(bus_signal, confidence, "percent", "0..100, the winning score, rounded"),
    FIELD(bus_signal, engine, "", "enum bus_engine_id"),
    FIELD(bus_signal, flags, "", "enum bus_signal_flag, or-ed"),
    FIELD(bus_signal, stamp, "", "the ring's or the board's"),
};

static const struct field gap_fields[] = {
    FIELD(bus_gap, time_ns, "ns, bus clock", "when it was noticed"),
    FIELD(bus_gap, first, "position", "first missing"),
    FIELD(bus_gap, last, "position", "last missing; the count is last - first + 1"),
    FIELD(bus_gap, instance, "", "of the producer's file that the positions count in"),
    FIELD(bus_gap, stream, "", "which ring: FNV-1a of \"member.ring\", low 32 bits"),
    FIELD(bus_gap, cause, "", "enum bus_gap_cause"),
    FIELD(bus_gap, reserved0, "", "0"),
    FIELD(bus_gap, stamp, "", "the ring's"),
};

static const struct field llm_request_fields[] = {
    FIELD(bus_llm_request, id, "",
          "the client's, unique over its lives, not 0; CANCEL: of what is taken back"),
    FIELD(bus_llm_request, deadline_ns, "ns, bus clock", "the final reply is of no use after it"),
    FIELD(bus_llm_request, submitted_ns, "ns, bus clock", "when it was asked"),
    FIELD(bus_llm_request, text_bytes, "bytes", "text of the whole message"),
    FIELD(bus_llm_request, fragment_bytes, "bytes", "of it in this slot"),
    FIELD(bus_llm_request, text_offset, "bytes", "where in the message those are"),
    FIELD(bus_llm_request, tokens_max, "tokens", "of the answer; 0: the class's limit"),
    FIELD(bus_llm_request, fragment, "", "0..`fragments` - 1"),
    FIELD(bus_llm_request, fragments, "", "slots of the message, 1..1024"),
    FIELD(bus_llm_request, reply_slots, "slots", "room held free for the final reply, 1.."),
    FIELD(bus_llm_request, kind, "", "enum bus_llm_kind"),
    FIELD(bus_llm_request, flags, "", "enum bus_llm_request_flag, or-ed"),
    FIELD(bus_llm_request, temperature, "", "negative: the server's default"),
    FIELD(bus_llm_request, client_epoch, "", "the client's; for people"),
    FIELD(bus_llm_request, class_name, "", "what it is routed by, NUL-terminated"),
    FIELD(bus_llm_request, reserved0, "", "0; the text follows"),
};

static const struct field llm_reply_fields[] = {
    FIELD(bus_llm_reply, id, "", "of the request"),
    FIELD(bus_llm_reply, accepted_ns, "ns, bus clock", "when the bridge took the request"),
    FIELD(bus_llm_reply, sent_ns, "ns, bus clock", "when the server was asked; 0: never"),
    FIELD(bus_llm_reply, first_ns, "ns, bus clock", "when its first token came; 0: never"),
    FIELD(bus_llm_reply, done_ns, "ns, bus clock", "when this reply was decided"),
    FIELD(bus_llm_reply, text_bytes, "bytes", "text of the whole message"),
    FIELD(bus_llm_reply, fragment_bytes, "bytes", "of it in this slot"),
    FIELD(bus_llm_reply, text_offset, "bytes",
          "final: where in the message those are; partial: where in the answer so far"),
    FIELD(bus_llm_reply, prompt_tokens, "tokens", "as the server counted; 0: it did not say"),
    FIELD(bus_llm_reply, completion_tokens, "tokens", "likewise"),
    FIELD(bus_llm_reply, epoch, "", "the bridge's"),
    FIELD(bus_llm_reply, retry_after_ms, "ms", "the server's wish; 0: none"),
    FIELD(bus_llm_reply, fragment, "", "0..`fragments` - 1"),
    FIELD(bus_llm_reply, fragments, "", "slots of the message; partial: 1"),
    FIELD(bus_llm_reply, http_status, "", "0: none came"),
    FIELD(bus_llm_reply, kind, "", "enum bus_llm_reply_kind"),
    FIELD(bus_llm_reply, status, "", "enum bus_llm_status"),
    FIELD(bus_llm_reply, flags, "", "enum bus_llm_reply_flag, or-ed"),
    FIELD(bus_llm_reply, attempt, "",
          "1..: a piece of a new attempt begins the answer anew; 0: never sent"),
    FIELD(bus_llm_reply, reserved0, "", "0"),
    FIELD(bus_llm_reply, backend, "", "who answered, NUL-terminated"),
    FIELD(bus_llm_reply, reserved1, "", "0; the text follows"),
};

static const struct field symbol_fields[] = {
    FIELD(bus_symbol, name, "", "as the exchange writes it, NUL-terminated"),
    FIELD(bus_symbol, price_exponent, "", "-18..0: price = field * 10^exponent"),
    FIELD(bus_symbol, size_exponent, "", "-18..0"),
    FIELD(bus_symbol, reserved0, "", "0"),
    FIELD(bus_symbol, tick_size, "price units", "smallest price step, 0: unknown"),
};

static const struct field histogram_fields[] = {
    FIELD(bus_histogram, count, "", "values recorded; written last"),
    FIELD(bus_histogram, sum, "entry's unit", "of the values; wraps"),
    FIELD(bus_histogram, minimum, "entry's unit", "valid when count > 0"),
    FIELD(bus_histogram, maximum, "entry's unit", "exact"),
    FIELD(bus_histogram, reserved0, "", "0"),
    FIELD(bus_histogram, buckets, "", "values in each bucket"),
};

static int failures;

/* The fields must fill the struct without a gap: what is not listed is a mistake. */
static void check_struct(const char *name, const struct field *fields, size_t count, size_t size)
{
  size_t end = 0;
  for (size_t i = 0; i < count; end = fields[i].offset + fields[i].size, i++) {
    if (fields[i].offset == end)
      continue;
    fprintf(stderr, "abi_table: %s: nothing listed for bytes %zu..%zu\n", name, end,
            fields[i].offset);
    failures++;
  }
  if (end != size) {
    fprintf(stderr, "abi_table: %s: %zu of %zu bytes listed\n", name, end, size);
    failures++;
  }
}

static void print_struct(const char *name, const struct field *fields, size_t count, size_t size)
{
  check_struct(name, fields, count, size);
  printf("<!-- abi:%s -->\n", name);
  printf("| offset | size | type | field | unit | meaning |\n|---:|---:|---|---|---|---|\n");
  for (size_t i = 0; i < count; i++) {
    const struct field *field = &fields[i];
    char type[32];
    if (field->size > field->type_size)
      snprintf(type, sizeof type, "%s[%zu]", field->type, field->size / field->type_size);
    else
      snprintf(type, sizeof type, "%s", field->type);
    printf("| %zu | %zu | %s | `%s` | %s | %s |\n", field->offset, field->size, type, field->name,
           field->unit, field->meaning);
  }
  printf("| %zu | | | | | end |\n<!-- /abi -->\n", size);
}

static void print_enum(const char *name, const struct row *rows, size_t count)
{
  printf("<!-- abi:%s -->\n| value | name | meaning |\n|---:|---|---|\n", name);
  for (size_t i = 0; i < count; i++)
    printf("| %lld | `%s` | %s |\n", rows[i].value, rows[i].name, rows[i].meaning);
  printf("<!-- /abi -->\n");
}

static void print_constants(void)
{
  printf("<!-- abi:constants -->\n| name | value |\n|---|---|\n");
  printf("| `BUS_MAGIC` | 0x%016" PRIx64 ", the bytes `", (uint64_t)BUS_MAGIC);
  for (int i = 0; i < 8; i++)
    putchar((int)(BUS_MAGIC >> 8 * i & 0xff));
  printf("` |\n");
  printf("| `BUS_ABI_VERSION` | %u |\n", BUS_ABI_VERSION);
  printf("| `BUS_NAME_BYTES` | %u |\n", BUS_NAME_BYTES);
  printf("| `BUS_HEADER_BYTES` | %u |\n", BUS_HEADER_BYTES);
  printf("| `BUS_ENTRY_BYTES` | %u |\n", BUS_ENTRY_BYTES);
  printf("| `BUS_ENTRIES_MAX` | %u |\n", BUS_ENTRIES_MAX);
  printf("| `BUS_RING_HEADER_BYTES` | %u |\n", BUS_RING_HEADER_BYTES);
  printf("| `BUS_FILE_BYTES_MAX` | %" PRIu64 " |\n", (uint64_t)BUS_FILE_BYTES_MAX);
  printf("| `BUS_RING_DEPTH_MAX` | %" PRIu64 " |\n", (uint64_t)BUS_RING_DEPTH_MAX);
  printf("| `BUS_RECORD_BYTES_MAX` | %u |\n", BUS_RECORD_BYTES_MAX);
  printf("| `BUS_STAGING_HEADER_BYTES` | %" PRIu64 " |\n", BUS_STAGING_HEADER_BYTES);
  printf("| `BUS_FEATURE_INPUTS` | %d |\n", BUS_FEATURE_INPUTS);
  printf("| `BUS_HISTOGRAM_BUCKETS` | %u |\n", BUS_HISTOGRAM_BUCKETS);
  printf("| `BUS_LLM_HEADER_BYTES` | %u |\n", BUS_LLM_HEADER_BYTES);
  printf("| `BUS_LLM_FRAGMENTS_MAX` | %u |\n<!-- /abi -->\n", BUS_LLM_FRAGMENTS_MAX);
}

static uint64_t object_bytes(uint32_t type, uint32_t record_size, uint64_t depth)
{
  struct bus_entry entry = {.type = type,
                            .record_type = type == BUS_OBJECT_BOARD ? BUS_RECORD_SIGNAL : 0,
                            .record_size = record_size,
                            .depth = depth,
                            .policy = BUS_POLICY_WAIT};
  return bus_layout_object_bytes(&entry);
}

static void print_sizes(void)
{
  static const struct {
    uint32_t type, record_size;
    uint64_t depth;
  } cases[] = {{BUS_OBJECT_RING, 64, 4},      {BUS_OBJECT_RING, 128, 16384},
               {BUS_OBJECT_POSITION, 0, 1},   {BUS_OBJECT_COUNTER, 0, 1},
               {BUS_OBJECT_HISTOGRAM, 0, 1},  {BUS_OBJECT_BOARD, 64, 256},
               {BUS_OBJECT_SYMBOLS, 0, 1024}, {BUS_OBJECT_TEXT, 0, 512},
               {BUS_OBJECT_STAGING, 4096, 8}, {BUS_OBJECT_TABLE, 4096, 16}};
  printf(
      "<!-- abi:object_sizes -->\n| type | record_size | depth | size |\n|---|---:|---:|---:|\n");
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++)
    printf("| %s | %u | %" PRIu64 " | %" PRIu64 " |\n", bus_object_type_name(cases[i].type),
           cases[i].record_size, cases[i].depth,
           object_bytes(cases[i].type, cases[i].record_size, cases[i].depth));
  printf("<!-- /abi -->\n");
}

static void print_buckets(void)
{
  static const uint64_t values[] = {0,    1,     127,     128,        129,
                                    130,  255,   256,     1000,       4095,
                                    4096, 65535, 1000000, 1000000000, ((uint64_t)1 << 41) - 1};
  printf("<!-- abi:histogram_buckets -->\n| value | bucket | lowest | highest |\n"
         "|---:|---:|---:|---:|\n");
  for (size_t i = 0; i < BUS_COUNT_OF(values); i++) {
    uint32_t bucket = bus_histogram_bucket(values[i]);
    printf("| %" PRIu64 " | %" PRIu32 " | %" PRIu64 " | %" PRIu64 " |\n", values[i], bucket,
           bus_histogram_bucket_low(bucket), bus_histogram_bucket_high(bucket));
  }
  printf("<!-- /abi -->\n");
}

static void print_hash_vectors(void)
{
  const uint64_t basis = 0xcbf29ce484222325ull;
  struct bus_member_header header = {.abi_version = 1,
                                     .file_size = 4096,
                                     .name = "feed",
                                     .kind = "test",
                                     .entry_count = 1,
                                     .identity = 7};
  struct bus_entry entry = {.name = "messages",
                            .unit = "messages",
                            .type = BUS_OBJECT_COUNTER,
                            .depth = 1,
                            .offset = 1024,
                            .size = 8};
  printf("<!-- abi:hash_vectors -->\n| input | hash |\n|---|---|\n");
  printf("| no bytes | %016" PRIx64 " |\n", bus_layout_hash_bytes(basis, "", 0));
  printf("| the byte `a` | %016" PRIx64 " |\n", bus_layout_hash_bytes(basis, "a", 1));
  printf("| `foobar` | %016" PRIx64 " |\n", bus_layout_hash_bytes(basis, "foobar", 6));
  printf("| abi_version 1, file_size 4096, name `feed`, kind `test`, identity 7, one entry: "
         "counter `messages`, unit `messages`, depth 1, offset 1024, size 8 | %016" PRIx64 " |\n",
         bus_layout_hash(&header, &entry));
  printf("<!-- /abi -->\n");
}

#define PRINT_STRUCT(type, fields)                                                                 \
  print_struct(#type, fields, BUS_COUNT_OF(fields), sizeof(struct type))
#define PRINT_ENUM(type) print_enum(#type, type##_rows, BUS_COUNT_OF(type##_rows))

int main(void)
{
  print_constants();
  PRINT_STRUCT(bus_member_header, member_header_fields);
  PRINT_STRUCT(bus_entry, entry_fields);
  PRINT_STRUCT(bus_ring_header, ring_header_fields);
  PRINT_STRUCT(bus_position, position_fields);
  PRINT_STRUCT(bus_histogram, histogram_fields);
  PRINT_STRUCT(bus_gap, gap_fields);
  PRINT_STRUCT(bus_llm_request, llm_request_fields);
  PRINT_STRUCT(bus_llm_reply, llm_reply_fields);
  PRINT_STRUCT(bus_symbol, symbol_fields);
  PRINT_STRUCT(bus_feature, feature_fields);
  PRINT_STRUCT(bus_signal, signal_fields);
  PRINT_ENUM(bus_member_state);
  PRINT_ENUM(bus_backing);
  PRINT_ENUM(bus_object_type);
  PRINT_ENUM(bus_policy);
  PRINT_ENUM(bus_record_type);
  PRINT_ENUM(bus_feature_flag);
  PRINT_ENUM(bus_trigger);
  PRINT_ENUM(bus_signal_flag);
  PRINT_ENUM(bus_engine_id);
  PRINT_ENUM(bus_gap_cause);
  PRINT_ENUM(bus_llm_kind);
  PRINT_ENUM(bus_llm_request_flag);
  PRINT_ENUM(bus_llm_reply_kind);
  PRINT_ENUM(bus_llm_status);
  PRINT_ENUM(bus_llm_reply_flag);
  print_sizes();
  print_buckets();
  print_hash_vectors();
  bool listed =
      bus_member_state_is_listed(BUS_STATE_RUN) && bus_backing_is_listed(BUS_BACKING_HUGETLB) &&
      bus_object_type_is_listed(BUS_OBJECT_RING) && bus_policy_is_listed(BUS_POLICY_WAIT) &&
      bus_record_type_is_listed(BUS_RECORD_RAW) && bus_feature_flag_is_listed(BUS_FEATURE_VALID) &&
      bus_trigger_is_listed(BUS_TRIGGER_NONE) && bus_signal_flag_is_listed(BUS_SIGNAL_VALID) &&
      bus_engine_id_is_listed(BUS_ENGINE_NONE) && bus_gap_cause_is_listed(BUS_GAP_OVERRUN) &&
      bus_llm_kind_is_listed(BUS_LLM_CHAT) && bus_llm_request_flag_is_listed(BUS_LLM_PARTIALS) &&
      bus_llm_reply_kind_is_listed(BUS_LLM_FINAL) && bus_llm_status_is_listed(BUS_LLM_OK) &&
      bus_llm_reply_flag_is_listed(BUS_LLM_CUT);
  return failures || !listed ? EXIT_FAILURE : EXIT_SUCCESS;
}
