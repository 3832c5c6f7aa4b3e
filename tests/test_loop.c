#include "bus_fixture.h"

#include "shm/error.h"

#include <signal.h>

TestSuite(loop, .init = fixture_create, .fini = fixture_remove, .timeout = 60);

struct script {
  int work_calls;
  int housekeeping_calls;
  int end_after;
  int end_with;
};

static int work(void *context, struct bus_loop *loop)
{
  struct script *script = context;
  (void)loop;
  if (++script->work_calls == script->end_after)
    return script->end_with;
  return script->work_calls % 2;
}

static int housekeeping(void *context, struct bus_loop *loop)
{
  (void)loop;
  ((struct script *)context)->housekeeping_calls++;
  return BUS_OK;
}

static const struct bus_loop_operations operations = {work, housekeeping, NULL};

Test(loop, runs_beats_and_ends)
{
  const struct bus_object_spec objects[] = {BUS_LOOP_OBJECTS};
  struct bus_member *member = fixture_member("m", objects, BUS_COUNT_OF(objects), 0);
  struct bus_loop loop;
  const uint32_t strategies[] = {BUS_IDLE_SPIN, BUS_IDLE_BACKOFF, BUS_IDLE_SLEEP,
                                 BUS_IDLE_DOORBELL};
  for (size_t i = 0; i < BUS_COUNT_OF(strategies); i++) {
    struct script script = {.end_after = 500, .end_with = BUS_ERROR_AGAIN};
    cr_assert_eq(bus_loop_init(&loop, member, strategies[i], 0, -1), BUS_OK, "%s",
                 bus_error_message());
    loop.housekeeping_interval_ns = 1000;
    loop.cycle_budget_ns = 0;
    cr_assert_eq(bus_loop_run(&loop, &operations, &script), BUS_OK);
    cr_assert_eq(script.work_calls, 500);
    cr_assert_gt(script.housekeeping_calls, 1);
  }
  cr_assert_gt(*loop.cycle_ns_max, 0);
  cr_assert_gt(*loop.cycles_over_budget, 0);
  cr_assert_gt(bus_member_header(member)->heartbeat_ns, 0);
  struct script failing = {.end_after = 3, .end_with = BUS_ERROR_CORRUPT};
  cr_assert_eq(bus_loop_run(&loop, &operations, &failing), BUS_ERROR_CORRUPT);
  bus_member_leave(member, BUS_STATE_HALT);
}

/* Asked to sleep only after long idling, and never past the next housekeeping. */
static int sleeps;

static int find_nothing(void *context, struct bus_loop *loop)
{
  (void)context, (void)loop;
  return sleeps < 3 ? 0 : BUS_ERROR_AGAIN;
}

static void count_sleeps(void *context, uint64_t timeout_ns)
{
  (void)context;
  cr_assert_leq(timeout_ns, 12500000);
  sleeps++;
}

Test(loop, sleeps_at_the_doorbell)
{
  static const struct bus_loop_operations sleeper = {find_nothing, NULL, count_sleeps};
  struct bus_loop loop;
  cr_assert_eq(bus_loop_init(&loop, NULL, BUS_IDLE_DOORBELL, -1, -1), BUS_OK);
  cr_assert_eq(bus_loop_run(&loop, &sleeper, NULL), BUS_OK);
  cr_assert_eq(sleeps, 3);
}

Test(loop, ends_on_a_signal)
{
  struct bus_loop loop;
  struct script script = {0};
  cr_assert_eq(bus_loop_init(&loop, NULL, 0, -1, -1), BUS_OK);
  bus_loop_handle_signals();
  raise(SIGTERM);
  cr_assert(bus_loop_stop_requested());
  cr_assert_eq(bus_loop_run(&loop, &operations, &script), BUS_OK);
  cr_assert_eq(script.work_calls, 0);
}

Test(loop, parses_strategies_and_refuses_cores_that_are_not_there)
{
  cr_assert_eq(bus_idle_parse("spin"), BUS_IDLE_SPIN);
  cr_assert_eq(bus_idle_parse("backoff"), BUS_IDLE_BACKOFF);
  cr_assert_eq(bus_idle_parse("sleep"), BUS_IDLE_SLEEP);
  cr_assert_eq(bus_idle_parse("doorbell"), BUS_IDLE_DOORBELL);
  cr_assert_eq(bus_idle_parse("nap"), BUS_ERROR_INVALID);
  cr_assert_eq(bus_idle_parse(NULL), BUS_ERROR_INVALID);
  cr_assert_eq(bus_pin_thread(-1), BUS_ERROR_INVALID);
  cr_assert_lt(bus_pin_thread(1023), 0);
}
