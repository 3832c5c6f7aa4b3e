#include "shm/clock.h"
#include "shm/error.h"

#include <criterion/criterion.h>
#include <stdlib.h>

Test(clock, refuses_bad_parameters)
{
  struct bus_clock clock;
  cr_assert_eq(bus_clock_init(NULL, 10), BUS_ERROR_INVALID);
  cr_assert_eq(bus_clock_init(&clock, 0), BUS_ERROR_INVALID);
  cr_assert_eq(bus_clock_init(&clock, 1001), BUS_ERROR_INVALID);
}

Test(clock, follows_the_kernel_and_never_runs_backwards_over_anchors)
{
  struct bus_clock clock;
  cr_assert_eq(bus_clock_init(&clock, 5), BUS_OK);
  uint64_t last_ns = bus_clock_now_ns(&clock);
  for (int i = 0; i < 200000; i++) {
    if (i % 100 == 0)
      bus_clock_anchor(&clock);
    uint64_t now_ns = bus_clock_now_ns(&clock);
    cr_assert_geq((int64_t)(now_ns - last_ns), 0);
    last_ns = now_ns;
  }
  bus_clock_anchor(&clock);
  uint64_t before_ns = bus_clock_monotonic_ns();
  uint64_t bus_ns = bus_clock_now_ns(&clock);
  uint64_t after_ns = bus_clock_monotonic_ns();
  /* Wide: this process may be descheduled between the readings. */
  cr_assert_gt(bus_ns + 100000u, before_ns);
  cr_assert_lt(bus_ns, after_ns + 100000u);
}

Test(clock, slows_down_when_ahead_and_steps_when_far_ahead)
{
  struct bus_clock clock;
  cr_assert_eq(bus_clock_init(&clock, 5), BUS_OK);
  if (clock.source != BUS_CLOCK_TSC)
    cr_skip_test("the time-stamp counter is not invariant here");
  uint64_t rate = clock.ns_per_tick_q32;
  clock.anchor_ns += 500000u; /* half a millisecond ahead */
  uint64_t promised_ns = bus_clock_now_ns(&clock);
  bus_clock_anchor(&clock);
  cr_assert_geq(bus_clock_now_ns(&clock), promised_ns);
  cr_assert_lt(clock.ns_per_tick_q32, rate);
  clock.anchor_ns += 10000000000u; /* ten seconds ahead */
  bus_clock_anchor(&clock);
  cr_assert_lt(bus_clock_now_ns(&clock), promised_ns + 5000000000u);
}

Test(clock, falls_back_on_request)
{
  struct bus_clock clock;
  setenv("SIGNAL_BUS_CLOCK", "monotonic", 1);
  cr_assert_eq(bus_clock_init(&clock, 1), BUS_OK);
  cr_assert_eq(clock.source, BUS_CLOCK_MONOTONIC);
  uint64_t before_ns = bus_clock_monotonic_ns();
  cr_assert_geq(bus_clock_now_ns(&clock), before_ns);
  bus_clock_anchor(&clock);
}
