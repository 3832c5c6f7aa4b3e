#include "tools/replay_pacer.h"

/* As far as a deadline is set into the future. */
#define FAR_NS ((uint64_t)INT64_MAX)

void replay_pacer_init(struct replay_pacer *pacer, const struct replay_pacer_clock *clock,
                       double speed)
{
  *pacer = (struct replay_pacer){.clock = *clock, .speed = speed};
}

static BUS_ALWAYS_INLINE uint64_t now_ns(const struct replay_pacer *pacer)
{
  if (BUS_LIKELY(pacer->clock.bus != NULL))
    return bus_clock_now_ns(pacer->clock.bus);
  return pacer->clock.now_ns(pacer->clock.context);
}

void replay_pacer_start(struct replay_pacer *pacer, uint64_t record_ns)
{
  pacer->first_record_ns = record_ns;
  pacer->start_ns = now_ns(pacer);
}

uint64_t replay_pacer_due_ns(const struct replay_pacer *pacer, uint64_t record_ns)
{
  if (record_ns <= pacer->first_record_ns)
    return pacer->start_ns;
  uint64_t distance_ns = record_ns - pacer->first_record_ns;
  if (pacer->speed != 1.0) {
    double scaled_ns = (double)distance_ns / pacer->speed;
    distance_ns = scaled_ns < (double)FAR_NS ? (uint64_t)scaled_ns : FAR_NS;
  }
  if (distance_ns > FAR_NS - pacer->start_ns) /* bus clocks count from the machine's start */
    return FAR_NS;
  return pacer->start_ns + distance_ns;
}

bool replay_pacer_wait(const struct replay_pacer *pacer, uint64_t due_ns, uint64_t until_ns)
{
  const uint64_t ready_ns = due_ns > REPLAY_PACER_RELEASE_NS ? due_ns - REPLAY_PACER_RELEASE_NS : 0;
  const uint64_t end_ns = ready_ns < until_ns ? ready_ns : until_ns;
  uint64_t now = now_ns(pacer);
  if (now + REPLAY_PACER_SPIN_NS < end_ns) {
    uint64_t wake_ns = end_ns - REPLAY_PACER_SPIN_NS;
    pacer->clock.sleep_until(pacer->clock.context, wake_ns);
    now = now_ns(pacer);
    if (now < wake_ns)
      return false; /* a signal: the caller looks what it was */
  }
  while (now < end_ns) {
    bus_cpu_relax();
    now = now_ns(pacer);
  }
  return now >= ready_ns;
}

/* The spin, the commit and the reading after it stand together, so that none of them waits for its
 * instructions: after a sleep, whatever else ran on the core is what its caches hold. */
uint64_t replay_pacer_release(struct replay_pacer *pacer, uint64_t due_ns,
                              struct bus_producer *producer, struct bus_histogram *lateness_ns)
{
  bus_prefetch_for_write(producer);
  while (now_ns(pacer) < due_ns)
    ;
  bus_producer_commit(producer);
  const uint64_t now = now_ns(pacer);
  uint64_t late_ns = now > due_ns ? now - due_ns : 0;
  bus_histogram_record(lateness_ns, late_ns);
  if (BUS_UNLIKELY(late_ns > REPLAY_PACER_SLIP_NS)) {
    pacer->start_ns += late_ns;
    pacer->slips++;
    pacer->slipped_ns += late_ns;
  }
  return late_ns;
}
