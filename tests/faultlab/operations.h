/* operations.h: the operations under test, each a real function, and the records they carry.
 *
 * The inline functions of ring.h are compiled in operations.c alone, so that a mutant needs only
 * that file and the library compiled anew.
 *
 * A record of position n, written by author a: words n, a, and words mixed from both, so that any
 * word of another record, or a word not yet written, is seen. */
#ifndef FAULTLAB_OPERATIONS_H
#define FAULTLAB_OPERATIONS_H

#include "shm/signalbus.h"

void record_fill(void *record, uint64_t position, uint64_t author, uint32_t record_size);
/* `words` of them only: a write that was interrupted. */
void record_fill_some(void *record, uint64_t position, uint64_t author, uint64_t words);
bool record_is_whole(const void *record, uint64_t position, uint32_t record_size);
static inline uint64_t record_author(const void *record)
{
  return ((const uint64_t *)record)[1];
}

/* The next record, filled in place; false when the ring is full. */
bool op_publish(struct bus_producer *producer, uint64_t author);
/* The same through bus_producer_publish. */
bool op_publish_copy(struct bus_producer *producer, uint64_t author);
void *op_reserve(struct bus_producer *producer);
void op_commit(struct bus_producer *producer);
const void *op_poll(struct bus_consumer *consumer);
const void *op_peek(struct bus_consumer *consumer, uint64_t ahead);
void op_release(struct bus_consumer *consumer);
void op_release_batch(struct bus_consumer *consumer, uint64_t count);
int op_observe(struct bus_observer *observer, void *record);

#endif
