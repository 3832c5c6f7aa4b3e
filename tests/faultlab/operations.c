#include "operations.h"

#include "lab.h"

static uint64_t word_of(uint64_t position, uint64_t author, uint64_t index)
{
  if (index == 0)
    return position;
  if (index == 1)
    return author;
  return (position + author * 0x9e3779b97f4a7c15u + index) * 0xbf58476d1ce4e5b9u | 1;
}

void record_fill_some(void *record, uint64_t position, uint64_t author, uint64_t words)
{
  bus_word *to = record;
  for (uint64_t i = 0; i < words; i++)
    BUS_STORE_RELAXED(&to[i], word_of(position, author, i));
}

void record_fill(void *record, uint64_t position, uint64_t author, uint32_t record_size)
{
  record_fill_some(record, position, author, record_size / 8 - 1);
}

bool record_is_whole(const void *record, uint64_t position, uint32_t record_size)
{
  const bus_word *from = record;
  uint64_t author = BUS_LOAD_RELAXED(&from[1]);
  bool whole = author != 0;
  for (uint64_t i = 0; i < record_size / 8 - 1; i++)
    whole &= BUS_LOAD_RELAXED(&from[i]) == word_of(position, author, i);
  return whole;
}

/* The control words bracket what really happened: begun before the first store into the slot,
 * committed after the stamp. */
bool op_publish(struct bus_producer *producer, uint64_t author)
{
  void *slot = bus_producer_reserve(producer);
  if (!slot) {
    BUS_STORE_RELEASE(&lab_control->refused, lab_control->refused + 1);
    return false;
  }
  BUS_STORE_RELEASE(&lab_control->begun, producer->next + 1);
  record_fill(slot, producer->next, author, (uint32_t)producer->record_size);
  uint64_t position = bus_producer_commit(producer);
  BUS_STORE_RELEASE(&lab_control->committed, position + 1);
  return true;
}

bool op_publish_copy(struct bus_producer *producer, uint64_t author)
{
  static _Alignas(64) unsigned char record[4096];
  record_fill(record, producer->next, author, (uint32_t)producer->record_size);
  if (producer->next + 1 > lab_control->begun)
    BUS_STORE_RELEASE(&lab_control->begun, producer->next + 1);
  if (bus_producer_publish(producer, record) != BUS_OK) {
    BUS_STORE_RELEASE(&lab_control->refused, lab_control->refused + 1);
    return false;
  }
  BUS_STORE_RELEASE(&lab_control->committed, producer->next);
  return true;
}

void *op_reserve(struct bus_producer *producer)
{
  return bus_producer_reserve(producer);
}

void op_commit(struct bus_producer *producer)
{
  bus_producer_commit(producer);
}

const void *op_poll(struct bus_consumer *consumer)
{
  return bus_consumer_poll(consumer);
}

const void *op_peek(struct bus_consumer *consumer, uint64_t ahead)
{
  return bus_consumer_peek(consumer, ahead);
}

void op_release(struct bus_consumer *consumer)
{
  bus_consumer_release(consumer);
}

void op_release_batch(struct bus_consumer *consumer, uint64_t count)
{
  bus_consumer_release_batch(consumer, count);
}

int op_observe(struct bus_observer *observer, void *record)
{
  return bus_observer_poll(observer, record);
}
