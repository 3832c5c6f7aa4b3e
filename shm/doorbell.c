#include "doorbell.h"

#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000u

static const uint32_t *bell_of(const struct bus_consumer *consumer)
{
  const void *header = consumer->slots - BUS_RING_HEADER_BYTES;
  return &((const struct bus_ring_header *)header)->bell;
}

void bus_doorbell_install(struct bus_producer *producer)
{
  uint32_t *bell = &producer->header->bell;
  BUS_STORE_RELEASE(bell, *bell | 1);
}

void bus_doorbell_wake(struct bus_producer *producer)
{
  uint32_t *bell = &producer->header->bell;
  BUS_STORE_RELEASE(bell, (*bell | 1) + 2); /* D4; odd for ever, so never the 0 of the silent */
  syscall(SYS_futex, bell, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void sleep_ns(uint64_t ns)
{
  struct timespec pause = {(time_t)(ns / NS_PER_S), (long)(ns % NS_PER_S)};
  nanosleep(&pause, NULL);
}

/* Sleeps while every bell has the value that was seen. False: the kernel cannot. */
static bool sleep_on_bells(const uint32_t *const *bells, const uint32_t *seen, uint32_t count,
                           uint64_t timeout_ns)
{
  struct timespec until;
  struct futex_waitv waiters[BUS_DOORBELL_RINGS_MAX];
  clock_gettime(CLOCK_MONOTONIC, &until);
  uint64_t ns = (uint64_t)until.tv_nsec + timeout_ns % NS_PER_S;
  until.tv_sec += (time_t)(timeout_ns / NS_PER_S + ns / NS_PER_S);
  until.tv_nsec = (long)(ns % NS_PER_S);
  for (uint32_t i = 0; i < count; i++)
    waiters[i] = (struct futex_waitv){
        .uaddr = (uintptr_t)bells[i], .val = seen[i], .flags = FUTEX_32 /* shared */};
  long status;
  if (count == 1) /* an absolute deadline on CLOCK_MONOTONIC, as futex_waitv has it */
    status = syscall(SYS_futex, bells[0], FUTEX_WAIT_BITSET, seen[0], &until, NULL,
                     FUTEX_BITSET_MATCH_ANY);
  else
    status = syscall(SYS_futex_waitv, waiters, count, 0, &until, CLOCK_MONOTONIC);
  return status >= 0 || errno == EAGAIN || errno == EINTR || errno == ETIMEDOUT;
}

static bool has_record(const struct bus_consumer *consumer)
{
  return bus_consumer_peek(consumer, 0) != NULL;
}

bool bus_doorbell_wait(struct bus_consumer *const *consumers, uint32_t count, uint64_t timeout_ns)
{
  const uint32_t *bells[BUS_DOORBELL_RINGS_MAX];
  uint32_t seen[BUS_DOORBELL_RINGS_MAX];
  bool found = false, slept = false;
  if (count > BUS_DOORBELL_RINGS_MAX)
    count = BUS_DOORBELL_RINGS_MAX;
  for (uint32_t i = 0; i < count; i++) {
    if (consumers[i]->published != consumers[i]->next)
      bus_consumer_publish(consumers[i]); /* the producer may be waiting for room */
    bells[i] = bell_of(consumers[i]);
    seen[i] = BUS_LOAD_ACQUIRE(bells[i]); /* D3 */
    if (seen[i] == 0 && timeout_ns > BUS_DOORBELL_SILENT_NS)
      timeout_ns = BUS_DOORBELL_SILENT_NS;
    BUS_STORE_RELAXED(&consumers[i]->position->waiting, (uint64_t)1);
  }
  __atomic_thread_fence(__ATOMIC_SEQ_CST); /* D2 */
  for (uint32_t i = 0; i < count && !found; i++)
    found = has_record(consumers[i]);
  if (!found) {
    slept = true;
    if (count == 0 || !sleep_on_bells(bells, seen, count, timeout_ns))
      sleep_ns(timeout_ns < BUS_DOORBELL_SILENT_NS ? timeout_ns : BUS_DOORBELL_SILENT_NS);
  }
  for (uint32_t i = 0; i < count; i++)
    BUS_STORE_RELAXED(&consumers[i]->position->waiting, (uint64_t)0);
  return slept;
}
