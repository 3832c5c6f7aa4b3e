#include "tools/replay_pacer.h"

#include <criterion/criterion.h>
#include <string.h>

#define DEPTH 4

/* A clock that moves by `step_ns` with each reading, and by `oversleep_ns` more with each sleep. */
struct fake_clock {
  uint64_t now_ns;
  uint64_t step_ns;
  uint64_t oversleep_ns;
  uint64_t interrupt_ns; /* a signal ends the sleep then; 0: none */
  uint64_t sleeps;
  uint64_t slept_until_ns;
};

static struct fake_clock fake;
static struct bus_histogram lateness;
static struct replay_pacer pacer;
static struct {
  struct bus_ring_header header;
  unsigned char slots[DEPTH][64];
} ring __attribute__((aligned(128)));
static struct bus_producer producer;

static uint64_t fake_now_ns(void *context)
{
  struct fake_clock *clock = context;
  return clock->now_ns += clock->step_ns;
}

static void fake_sleep_until(void *context, uint64_t deadline_ns)
{
  struct fake_clock *clock = context;
  clock->sleeps++;
  clock->slept_until_ns = deadline_ns;
  if (clock->interrupt_ns)
    clock->now_ns = clock->interrupt_ns;
  else
    clock->now_ns = deadline_ns + clock->oversleep_ns;
}

static void begin(double speed)
{
  static const struct bus_entry entry = {
      .depth = DEPTH, .record_size = 64, .policy = BUS_POLICY_OVERWRITE};
  bus_ring_format(&ring, &entry, 0);
  bus_producer_init(&producer, &ring, &entry, 1);
  fake = (struct fake_clock){.now_ns = 5000000000u, .step_ns = 10, .oversleep_ns = 40000};
  memset(&lateness, 0, sizeof lateness);
  const struct replay_pacer_clock clock = {NULL, fake_now_ns, fake_sleep_until, &fake};
  replay_pacer_init(&pacer, &clock, speed);
}

/* One record through the pacer; what it was late. */
static uint64_t play(uint64_t record_ns)
{
  uint64_t due_ns = replay_pacer_due_ns(&pacer, record_ns);
  while (!replay_pacer_wait(&pacer, due_ns, fake.now_ns + 10000000u))
    ;
  cr_assert_not_null(bus_producer_reserve(&producer));
  uint64_t position = producer.next;
  uint64_t late_ns = replay_pacer_release(&pacer, due_ns, &producer, &lateness);
  cr_assert_eq(producer.next, position + 1);
  return late_ns;
}

Test(replay_pacer, deadlines_are_distances_divided_by_the_speed)
{
  static const double speeds[] = {1, 10, 0.5};
  for (size_t i = 0; i < BUS_COUNT_OF(speeds); i++) {
    begin(speeds[i]);
    replay_pacer_start(&pacer, 777);
    uint64_t start_ns = fake.now_ns;
    cr_assert_eq(replay_pacer_due_ns(&pacer, 777), start_ns);
    cr_assert_eq(replay_pacer_due_ns(&pacer, 777 + 1000000),
                 start_ns + (uint64_t)(1000000 / speeds[i]));
    cr_assert_eq(replay_pacer_due_ns(&pacer, 5), start_ns, "a record before the first one");
  }
}

Test(replay_pacer, the_far_future_does_not_wrap)
{
  static const double speeds[] = {1, 1e-3, 1e6};
  for (size_t i = 0; i < BUS_COUNT_OF(speeds); i++) {
    begin(speeds[i]);
    replay_pacer_start(&pacer, 1);
    cr_assert_geq(replay_pacer_due_ns(&pacer, UINT64_MAX), fake.now_ns);
    cr_assert_leq(replay_pacer_due_ns(&pacer, UINT64_MAX), (uint64_t)INT64_MAX);
  }
}

Test(replay_pacer, a_year_keeps_its_nanoseconds_at_the_recorded_speed)
{
  begin(1);
  replay_pacer_start(&pacer, 3);
  const uint64_t year_ns = 31556952ull * 1000000000u;
  cr_assert_eq(replay_pacer_due_ns(&pacer, 3 + year_ns + 7), fake.now_ns + year_ns + 7);
}

Test(replay_pacer, sleeps_until_the_spin_and_wakes_in_time)
{
  begin(1);
  replay_pacer_start(&pacer, 0);
  uint64_t due_ns = replay_pacer_due_ns(&pacer, 1000000);
  cr_assert(replay_pacer_wait(&pacer, due_ns, UINT64_MAX));
  cr_assert_eq(fake.sleeps, 1);
  cr_assert_eq(fake.slept_until_ns, due_ns - REPLAY_PACER_RELEASE_NS - REPLAY_PACER_SPIN_NS);
  cr_assert_lt(fake.now_ns, due_ns + fake.step_ns);
  due_ns = replay_pacer_due_ns(&pacer, 1000000 + REPLAY_PACER_SPIN_NS / 2);
  cr_assert(replay_pacer_wait(&pacer, due_ns, UINT64_MAX));
  cr_assert_eq(fake.sleeps, 1, "too near to sleep");
}

Test(replay_pacer, comes_back_for_housekeeping)
{
  begin(1);
  replay_pacer_start(&pacer, 0);
  uint64_t due_ns = replay_pacer_due_ns(&pacer, 3600000000000u);
  uint64_t until_ns = fake.now_ns + 10000000;
  cr_assert(!replay_pacer_wait(&pacer, due_ns, until_ns));
  cr_assert_geq(fake.now_ns, until_ns);
  cr_assert_lt(fake.now_ns, until_ns + 1000);
}

Test(replay_pacer, a_signal_ends_the_wait)
{
  begin(1);
  replay_pacer_start(&pacer, 0);
  fake.interrupt_ns = fake.now_ns + 500;
  cr_assert(!replay_pacer_wait(&pacer, replay_pacer_due_ns(&pacer, 1000000000), UINT64_MAX));
  cr_assert_lt(fake.now_ns, pacer.start_ns + 1000);
}

Test(replay_pacer, no_drift_builds_up_from_small_lateness)
{
  begin(1);
  replay_pacer_start(&pacer, 0);
  uint64_t start_ns = pacer.start_ns;
  for (uint64_t i = 1; i <= 10000; i++) {
    uint64_t late_ns = play(i * 300000);
    cr_assert_leq(late_ns, 2 * fake.step_ns);
    cr_assert_leq(fake.now_ns, start_ns + i * 300000 + 2 * fake.step_ns);
  }
  cr_assert_eq(pacer.slips, 0);
  cr_assert_eq(lateness.count, 10000);
  cr_assert_leq(bus_histogram_quantile(&lateness, 0.5), 2 * fake.step_ns);
}

Test(replay_pacer, a_stop_moves_the_schedule_and_makes_no_burst)
{
  begin(1);
  replay_pacer_start(&pacer, 0);
  for (uint64_t i = 1; i <= 10; i++)
    play(i * 1000000);
  fake.now_ns += 50000000; /* stopped for 50 records */
  uint64_t late_ns = play(11 * 1000000);
  cr_assert_gt(late_ns, 48000000);
  cr_assert_eq(pacer.slips, 1);
  cr_assert_eq(pacer.slipped_ns, late_ns);
  uint64_t before_ns = fake.now_ns;
  for (uint64_t i = 12; i <= 20; i++) {
    cr_assert_leq(play(i * 1000000), 2 * fake.step_ns, "record %lu", (unsigned long)i);
    cr_assert_geq(fake.now_ns - before_ns, 1000000 - 100, "a burst at record %lu",
                  (unsigned long)i);
    before_ns = fake.now_ns;
  }
  cr_assert_eq(lateness.maximum, late_ns);
}

Test(replay_pacer, a_speed_beyond_the_machine_slows_down_evenly)
{
  begin(1000);
  fake.step_ns = 5000; /* each reading, so each record, takes longer than the schedule gives it */
  replay_pacer_start(&pacer, 0);
  for (uint64_t i = 1; i <= 1000; i++)
    cr_assert_leq(play(i * 1000000), REPLAY_PACER_SLIP_NS + 4 * fake.step_ns);
  cr_assert_gt(pacer.slips, 10);
  cr_assert_lt(pacer.slips, 1000);
}
