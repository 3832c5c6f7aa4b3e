/* replay_hash.h: what a deterministic replay must reproduce, in 128 bits. */
#ifndef SIGNALBUS_REPLAY_HASH_H
#define SIGNALBUS_REPLAY_HASH_H

#include "shm/base.h"

#define REPLAY_HASH_BATCH_BYTES 65536u
#define REPLAY_HASH_TEXT_BYTES  33u

/* XXH3-128 over (position u64, canonical bytes) of records of one type and size. */
struct replay_hash {
  void *state;
  unsigned char *batch;
  uint32_t used;
  uint32_t record_type;
  uint32_t record_size;
  uint32_t flags; /* enum bus_capture_canonical_flag */
  uint64_t records;
};

/* BUS_OK or BUS_ERROR_NO_SPACE. */
int replay_hash_init(struct replay_hash *hash, uint32_t record_type, uint32_t record_size,
                     uint32_t flags);

/* Adds a record whose position is its stamp - 1. */
void replay_hash_add(struct replay_hash *hash, const void *record);

/* Writes 32 hexadecimal digits and a NUL of all so far; more may be added. */
void replay_hash_text(struct replay_hash *hash, char *text);
void replay_hash_free(struct replay_hash *hash);

#endif
