#include "clock.h"

#include "error.h"

#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

bool bus_clock_counter_is_invariant(void)
{
#if defined(__x86_64__)
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(0x80000007u, &eax, &ebx, &ecx, &edx))
    return false;
  return (edx >> 8) & 1u;
#elif defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

int64_t bus_clock_realtime_offset_ns(void)
{
  struct timespec now;
  uint64_t monotonic_ns = bus_clock_monotonic_ns();
  clock_gettime(CLOCK_REALTIME, &now);
  return (int64_t)((uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec - monotonic_ns);
}

/* A clock that is further ahead (the machine was paused, or the counter jumped) steps back at once:
 * for a latency a wrong clock is worse than one step. */
#define STEP_LIMIT_NS 1000000u

/* Reads both clocks as close together as it can: of several tries the one with the smallest
 * bracket. */
static void read_pair(uint64_t *ticks, uint64_t *ns)
{
  uint64_t best_bracket = UINT64_MAX;
  for (int attempt = 0; attempt < 5; attempt++) {
    uint64_t before = bus_clock_ticks();
    uint64_t now_ns = bus_clock_monotonic_ns();
    uint64_t after = bus_clock_ticks();
    if (after - before < best_bracket) {
      best_bracket = after - before;
      *ticks = before + (after - before) / 2;
      *ns = now_ns;
    }
  }
}

static uint64_t rate_q32(uint64_t ns, uint64_t ticks)
{
  __extension__ typedef unsigned __int128 wide;
  return ticks ? (uint64_t)(((wide)ns << 32) / ticks) : 0;
}

int bus_clock_init(struct bus_clock *clock, uint32_t calibration_ms)
{
  if (!clock || calibration_ms < 1 || calibration_ms > 1000)
    return bus_error_set(BUS_ERROR_INVALID, "clock calibration of %u ms: use 1 to 1000",
                         calibration_ms);
  memset(clock, 0, sizeof *clock);
  const char *wish = getenv("SIGNAL_BUS_CLOCK");
  if (!bus_clock_counter_is_invariant() || (wish && !strcmp(wish, "monotonic"))) {
    clock->source = BUS_CLOCK_MONOTONIC;
    return BUS_OK;
  }
  read_pair(&clock->first_ticks, &clock->first_ns);
  struct timespec pause = {calibration_ms / 1000, (long)(calibration_ms % 1000) * 1000000L};
  nanosleep(&pause, NULL);
  read_pair(&clock->anchor_ticks, &clock->anchor_ns);
  clock->ns_per_tick_q32 =
      rate_q32(clock->anchor_ns - clock->first_ns, clock->anchor_ticks - clock->first_ticks);
  clock->source = clock->ns_per_tick_q32 ? BUS_CLOCK_TSC : BUS_CLOCK_MONOTONIC;
  return BUS_OK;
}

void bus_clock_anchor(struct bus_clock *clock)
{
  if (clock->source != BUS_CLOCK_TSC)
    return;
  uint64_t ticks = 0, now_ns = 0;
  read_pair(&ticks, &now_ns);
  uint64_t mapped_ns = bus_clock_ns_at(clock, ticks);
  uint64_t since_anchor_ns = mapped_ns - clock->anchor_ns;
  uint64_t true_rate = rate_q32(now_ns - clock->first_ns, ticks - clock->first_ticks);
  uint64_t rate = true_rate;
  clock->anchor_ticks = ticks;
  clock->anchor_ns = now_ns;
  if (mapped_ns > now_ns && mapped_ns - now_ns < STEP_LIMIT_NS) {
    /* Ahead: keep the time that was already handed out, and lose the surplus over a period as long
     * as the last one, but never run slower than 99 %. */
    uint64_t ahead_ns = mapped_ns - now_ns;
    uint64_t period_ns = since_anchor_ns > 1000000u ? since_anchor_ns : 1000000u;
    uint64_t slow_down = (uint64_t)((double)true_rate * ((double)ahead_ns / (double)period_ns));
    rate = true_rate - (slow_down < true_rate / 100 ? slow_down : true_rate / 100);
    clock->anchor_ns = mapped_ns;
  }
  clock->ns_per_tick_q32 = rate;
}
