/* record.h: the records that travel on the bus. This is the ABI: every offset is asserted here and
 * listed for other languages in shm/ABI.md.
 *
 * All fields are little-endian. Every record fills whole 64-byte lines and ends with its stamp,
 * which belongs to the ring or board: a producer fills the fields before it and never touches the
 * stamp. */
#ifndef SIGNALBUS_RECORD_H
#define SIGNALBUS_RECORD_H

#include "base.h"

BUS_BEGIN_DECLARATIONS

/* What a ring's slots hold; stored in the ring's directory entry. */
enum bus_record_type {
  BUS_RECORD_RAW = 0,         /* bytes; only the stamp is defined */
  BUS_RECORD_FEATURE = 1,     /* struct bus_feature */
  BUS_RECORD_SIGNAL = 2,      /* struct bus_signal */
  BUS_RECORD_GAP = 3,         /* struct bus_gap */
  BUS_RECORD_LLM_REQUEST = 4, /* struct bus_llm_request and text, see llm_record.h */
  BUS_RECORD_LLM_REPLY = 5    /* struct bus_llm_reply and text */
};

/* bus_feature.flags */
enum bus_feature_flag {
  BUS_FEATURE_VALID = 1 << 0,    /* both sides known, the x[] may be used */
  BUS_FEATURE_SNAPSHOT = 1 << 1, /* the book was just rebuilt from a snapshot */
  BUS_FEATURE_RESYNC = 1 << 2,   /* updates were lost: levels below the best are not trusted yet */
  BUS_FEATURE_STALE = 1 << 3,    /* no update for longer than the feed's limit */
  BUS_FEATURE_CROSSED = 1 << 4,  /* best bid >= best ask */
  BUS_FEATURE_TRADE = 1 << 5     /* a trade caused this record */
};

/* bus_feature.trigger: what kind of message caused the record. */
enum bus_trigger {
  BUS_TRIGGER_NONE = 0,
  BUS_TRIGGER_BOOK_TICKER = 1,
  BUS_TRIGGER_DEPTH = 2,
  BUS_TRIGGER_TRADE = 3,
  BUS_TRIGGER_SNAPSHOT = 4
};

#define BUS_FEATURE_INPUTS 16

/* One market-data tick of one symbol, with the inputs a model reads.
 * Prices and sizes are integers in units of the symbol's exponents: value = field * 10^exponent. */
struct bus_feature {
  uint64_t timestamp_ns;       /* bus clock when the feed had the whole message */
  int64_t bid_price;           /* best bid, 0 when that side is empty */
  int64_t ask_price;           /* best ask, 0 when that side is empty */
  int64_t bid_size;            /* size at the best bid */
  int64_t ask_size;            /* size at the best ask */
  int32_t exchange_delay_us;   /* receive time - exchange time; signed, because clocks differ;
                                  INT32_MIN when the message carries no exchange time */
  int32_t book_imbalance;      /* (bid_size-ask_size)/(bid_size+ask_size) in Q30: -2^30..2^30 */
  uint32_t update;             /* low 32 bits of the exchange's update id or trade id */
  uint16_t symbol;             /* index into the feed's symbol table */
  uint8_t trigger;             /* enum bus_trigger */
  uint8_t flags;               /* enum bus_feature_flag */
  float x[BUS_FEATURE_INPUTS]; /* see producers/features.h for each one's formula and unit */
  uint64_t stamp;              /* owned by the ring */
};

/* bus_signal.flags */
enum bus_signal_flag {
  BUS_SIGNAL_VALID = 1 << 0,  /* direction, confidence and score may be acted on */
  BUS_SIGNAL_STALE = 1 << 1,  /* made from a feature that carried STALE, RESYNC or CROSSED */
  BUS_SIGNAL_BATCHED = 1 << 2 /* the tick waited for others of its batch */
};

/* bus_signal.engine */
enum bus_engine_id {
  BUS_ENGINE_NONE = 0,
  BUS_ENGINE_SCALAR = 1,
  BUS_ENGINE_AVX2 = 2,
  BUS_ENGINE_AVX512 = 3,
  BUS_ENGINE_CUDA = 4
};

/* What the model says about one tick. */
struct bus_signal {
  uint64_t timestamp_ns;     /* timestamp_ns of the feature: age = now - this */
  uint64_t feature_position; /* position of that feature in its ring */
  int64_t target_price;  /* where to trade, in the symbol's price units: the best ask to buy, the
                            best bid to sell, the mid when flat; 0 when not VALID */
  float score[3];        /* probabilities of sell, flat, buy; sum 1 */
  uint32_t queue_ns;     /* feature's timestamp_ns to the start of inference; saturates */
  uint32_t inference_ns; /* start to end of the batch's inference; saturates */
  uint16_t batch;        /* number of ticks inferred together, 1.. */
  uint16_t source;       /* which input ring of the inference member, 0.. */
  uint16_t symbol;       /* as in the feature */
  uint16_t model;        /* low 16 bits of the model file's CRC-32 */
  int8_t direction;      /* -1 sell, 0 flat, +1 buy */
  uint8_t confidence;    /* 0..100, the winning score in percent, rounded to nearest */
  uint8_t engine;        /* enum bus_engine_id */
  uint8_t flags;         /* enum bus_signal_flag */
  uint64_t stamp;        /* owned by the ring or the board */
};

/* bus_gap.cause: why a recorder has no record of these positions. */
enum bus_gap_cause {
  BUS_GAP_OVERRUN = 1,     /* overwritten before they were read */
  BUS_GAP_DISK_FULL = 2,   /* read, but there was no room to write them to */
  BUS_GAP_WRITE_ERROR = 3, /* read, but the file system refused them */
  BUS_GAP_REPLACED = 4,    /* the producer's file was replaced before they were read */
  BUS_GAP_STOPPED = 5      /* committed while no recorder was running */
};

/* A recorder's note that positions of a ring are missing in its capture. */
struct bus_gap {
  uint64_t time_ns;      /* bus clock when it was noticed */
  uint64_t first;        /* first missing position */
  uint64_t last;         /* last missing position; the count is last - first + 1 */
  uint64_t instance;     /* of the producer's file that the positions count in */
  uint32_t stream;       /* which ring: FNV-1a of "member.ring", low 32 bits */
  uint8_t cause;         /* enum bus_gap_cause */
  uint8_t reserved0[19]; /* 0 */
  uint64_t stamp;        /* owned by the ring */
};

/* One row of a feed's symbol table. */
struct bus_symbol {
  char name[20];         /* as the exchange writes it, NUL-terminated */
  int8_t price_exponent; /* -18..0 */
  int8_t size_exponent;  /* -18..0 */
  uint16_t reserved0;    /* 0 */
  int64_t tick_size;     /* smallest price step in price units, 0 when unknown */
};

#define BUS_ASSERT_OFFSET(type, field, offset)                                                     \
  BUS_STATIC_ASSERT(offsetof(struct type, field) == (offset), #type "." #field " moved")

BUS_ASSERT_OFFSET(bus_feature, timestamp_ns, 0);
BUS_ASSERT_OFFSET(bus_feature, bid_price, 8);
BUS_ASSERT_OFFSET(bus_feature, ask_price, 16);
BUS_ASSERT_OFFSET(bus_feature, bid_size, 24);
BUS_ASSERT_OFFSET(bus_feature, ask_size, 32);
BUS_ASSERT_OFFSET(bus_feature, exchange_delay_us, 40);
BUS_ASSERT_OFFSET(bus_feature, book_imbalance, 44);
BUS_ASSERT_OFFSET(bus_feature, update, 48);
BUS_ASSERT_OFFSET(bus_feature, symbol, 52);
BUS_ASSERT_OFFSET(bus_feature, trigger, 54);
BUS_ASSERT_OFFSET(bus_feature, flags, 55);
BUS_ASSERT_OFFSET(bus_feature, x, 56);
BUS_ASSERT_OFFSET(bus_feature, stamp, 120);
BUS_STATIC_ASSERT(sizeof(struct bus_feature) == 128, "bus_feature is two lines");

BUS_ASSERT_OFFSET(bus_signal, timestamp_ns, 0);
BUS_ASSERT_OFFSET(bus_signal, feature_position, 8);
BUS_ASSERT_OFFSET(bus_signal, target_price, 16);
BUS_ASSERT_OFFSET(bus_signal, score, 24);
BUS_ASSERT_OFFSET(bus_signal, queue_ns, 36);
BUS_ASSERT_OFFSET(bus_signal, inference_ns, 40);
BUS_ASSERT_OFFSET(bus_signal, batch, 44);
BUS_ASSERT_OFFSET(bus_signal, source, 46);
BUS_ASSERT_OFFSET(bus_signal, symbol, 48);
BUS_ASSERT_OFFSET(bus_signal, model, 50);
BUS_ASSERT_OFFSET(bus_signal, direction, 52);
BUS_ASSERT_OFFSET(bus_signal, confidence, 53);
BUS_ASSERT_OFFSET(bus_signal, engine, 54);
BUS_ASSERT_OFFSET(bus_signal, flags, 55);
BUS_ASSERT_OFFSET(bus_signal, stamp, 56);
BUS_STATIC_ASSERT(sizeof(struct bus_signal) == 64, "bus_signal is one line");

BUS_ASSERT_OFFSET(bus_gap, time_ns, 0);
BUS_ASSERT_OFFSET(bus_gap, first, 8);
BUS_ASSERT_OFFSET(bus_gap, last, 16);
BUS_ASSERT_OFFSET(bus_gap, instance, 24);
BUS_ASSERT_OFFSET(bus_gap, stream, 32);
BUS_ASSERT_OFFSET(bus_gap, cause, 36);
BUS_ASSERT_OFFSET(bus_gap, reserved0, 37);
BUS_ASSERT_OFFSET(bus_gap, stamp, 56);
BUS_STATIC_ASSERT(sizeof(struct bus_gap) == 64, "bus_gap is one line");

BUS_ASSERT_OFFSET(bus_symbol, name, 0);
BUS_ASSERT_OFFSET(bus_symbol, price_exponent, 20);
BUS_ASSERT_OFFSET(bus_symbol, size_exponent, 21);
BUS_ASSERT_OFFSET(bus_symbol, reserved0, 22);
BUS_ASSERT_OFFSET(bus_symbol, tick_size, 24);
BUS_STATIC_ASSERT(sizeof(struct bus_symbol) == 32, "bus_symbol is half a line");

BUS_END_DECLARATIONS

#endif
