/* clock.h: the bus clock: nanoseconds on the CLOCK_MONOTONIC time line, read from the time-stamp
 * counter where that is invariant.
 *
 * Every process calibrates for itself; because each keeps re-anchoring to CLOCK_MONOTONIC
 * (bus_clock_anchor, called by the run loop), stamps of two processes agree to well under a
 * microsecond however long they run. A clock is read and anchored by one thread. */
#ifndef SIGNALBUS_CLOCK_H
#define SIGNALBUS_CLOCK_H

#include "base.h"

#include <time.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

BUS_BEGIN_DECLARATIONS

enum bus_clock_source { BUS_CLOCK_MONOTONIC = 0, BUS_CLOCK_TSC = 1 };

struct bus_clock {
  uint64_t anchor_ticks;
  uint64_t anchor_ns;       /* bus time at anchor_ticks */
  uint64_t ns_per_tick_q32; /* nanoseconds per tick, 32 fractional bits */
  uint64_t first_ticks;     /* start of the baseline that the rate is measured over */
  uint64_t first_ns;
  uint32_t source; /* enum bus_clock_source */
  uint32_t reserved0;
};

/* Measures the counter against CLOCK_MONOTONIC for `calibration_ms` (1..1000; 10 is good for 10
 * ppm, later anchors refine it). Falls back to CLOCK_MONOTONIC when the counter is not invariant,
 * or when the environment has SIGNAL_BUS_CLOCK=monotonic. Returns BUS_OK or BUS_ERROR_INVALID. */
BUS_EXPORT int bus_clock_init(struct bus_clock *clock, uint32_t calibration_ms);

/* Ties the clock to CLOCK_MONOTONIC again; call it every 1 to 1000 ms from the thread that reads
 * the clock. Time never runs backwards over an anchor: a clock that is ahead is slowed until it
 * agrees. Only where it is ahead by 1 ms or more (a paused machine) it is set back. */
BUS_EXPORT void bus_clock_anchor(struct bus_clock *clock);

/* True when this CPU's counter runs at one rate in all power states (CPUID 8000_0007h EDX bit 8, or
 * ARM's generic timer). Any thread. */
BUS_EXPORT bool bus_clock_counter_is_invariant(void);

/* CLOCK_REALTIME - CLOCK_MONOTONIC now, ns: add it to a bus time to get wall-clock time. It changes
 * whenever the wall clock is set. Any thread. */
BUS_EXPORT int64_t bus_clock_realtime_offset_ns(void);

/* CLOCK_MONOTONIC from the kernel, ns. Any thread. */
static BUS_ALWAYS_INLINE uint64_t bus_clock_monotonic_ns(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The CPU's counter as it is, in ticks of a length that differs between machines. Not fenced, as
 * described at bus_clock_now_ns. Any thread. */
static BUS_ALWAYS_INLINE uint64_t bus_clock_ticks(void)
{
#if defined(__x86_64__)
  return __rdtsc();
#elif defined(__aarch64__)
  uint64_t ticks;
  __asm__ volatile("mrs %0, cntvct_el0" : "=r"(ticks));
  return ticks;
#else
  return bus_clock_monotonic_ns();
#endif
}

/* Bus time in ns at `ticks`, which must not be before the clock's last anchor. Only for a clock
 * with source BUS_CLOCK_TSC, by its thread. */
static BUS_ALWAYS_INLINE uint64_t bus_clock_ns_at(const struct bus_clock *clock, uint64_t ticks)
{
  __extension__ typedef unsigned __int128 wide;
  return clock->anchor_ns +
         (uint64_t)(((wide)(ticks - clock->anchor_ticks) * clock->ns_per_tick_q32) >> 32);
}

/* Bus time in ns, by the clock's thread. About 9 ns with the TSC, 19 ns with CLOCK_MONOTONIC. The
 * counter is read without a fence: earlier loads and stores may still be under way, which blurs a
 * stamp by tens of ns. */
static BUS_ALWAYS_INLINE uint64_t bus_clock_now_ns(const struct bus_clock *clock)
{
  if (BUS_UNLIKELY(clock->source != BUS_CLOCK_TSC))
    return bus_clock_monotonic_ns();
  return bus_clock_ns_at(clock, bus_clock_ticks());
}

BUS_END_DECLARATIONS

#endif
