/* codegen.c: each hot operation in a function of its own, for check_codegen.py, which reads the
 * instructions that the compiler made of the orderings. Built for arm64, never run.
 *
 * CODEGEN_MUTANT drops one ordering, to show that the check sees it. */
#include "shm/base.h"

#if CODEGEN_MUTANT == 1
#undef BUS_STORE_RELEASE
#define BUS_STORE_RELEASE BUS_STORE_RELAXED
#elif CODEGEN_MUTANT == 2
#undef BUS_LOAD_ACQUIRE
#define BUS_LOAD_ACQUIRE BUS_LOAD_RELAXED
#elif CODEGEN_MUTANT == 3
#undef BUS_FENCE_RELEASE
#define BUS_FENCE_RELEASE() __asm__ volatile("" ::: "memory")
#elif CODEGEN_MUTANT == 4
#undef BUS_FENCE_ACQUIRE
#define BUS_FENCE_ACQUIRE() __asm__ volatile("" ::: "memory")
#endif

#include "shm/board.h"
#include "shm/doorbell.h"
#include "shm/ring.h"

int codegen_publish(struct bus_producer *producer, const void *record);
int codegen_publish(struct bus_producer *producer, const void *record)
{
  return bus_producer_publish(producer, record);
}

const void *codegen_poll(struct bus_consumer *consumer);
const void *codegen_poll(struct bus_consumer *consumer)
{
  return bus_consumer_poll(consumer);
}

void codegen_release(struct bus_consumer *consumer);
void codegen_release(struct bus_consumer *consumer)
{
  bus_consumer_release(consumer);
}

int codegen_observe(struct bus_observer *observer, void *record);
int codegen_observe(struct bus_observer *observer, void *record)
{
  return bus_observer_poll(observer, record);
}

void codegen_board_write(struct bus_signal *slot, const struct bus_signal *signal);
void codegen_board_write(struct bus_signal *slot, const struct bus_signal *signal)
{
  bus_board_write(slot, signal);
}

int codegen_board_read(const struct bus_signal *slot, struct bus_signal *signal);
int codegen_board_read(const struct bus_signal *slot, struct bus_signal *signal)
{
  return bus_board_read(slot, signal);
}

void codegen_doorbell(struct bus_producer *producer);
void codegen_doorbell(struct bus_producer *producer)
{
  bus_doorbell_ring(producer);
}
