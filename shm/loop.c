#include "loop.h"

#include "error.h"
#include "notify.h"

#include <inttypes.h>
#include <numa.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define SPIN_POLLS       2000u
#define YIELD_POLLS      2100u
#define BACKOFF_SLEEP_NS 50000L
#define TOOL_SLEEP_NS    200000L

static volatile sig_atomic_t stop_requested;

/* Defined by jemalloc where it is linked. */
extern int mallctl(const char *name, void *old, size_t *old_size, void *new_value, size_t new_size)
    __attribute__((weak));

int bus_idle_parse(const char *text)
{
  for (uint32_t i = BUS_IDLE_SPIN; i <= BUS_IDLE_DOORBELL; i++)
    if (text && !strcmp(text, bus_idle_name(i)))
      return (int)i;
  return bus_error_set(BUS_ERROR_INVALID,
                       "idle strategy '%s': use spin, backoff, sleep or doorbell",
                       text ? text : "");
}

const char *bus_idle_name(uint32_t strategy)
{
  static const char *const names[] = {"?", "spin", "backoff", "sleep", "doorbell"};
  return strategy < BUS_COUNT_OF(names) ? names[strategy] : "?";
}

static void sleep_ns(long ns)
{
  struct timespec pause = {0, ns};
  nanosleep(&pause, NULL);
}

void bus_idler_wait(struct bus_idler *idler)
{
  idler->empty_polls++;
  if (idler->strategy == BUS_IDLE_SLEEP) {
    sleep_ns(TOOL_SLEEP_NS);
  } else if (idler->strategy == BUS_IDLE_SPIN || idler->empty_polls < SPIN_POLLS) {
    bus_cpu_relax();
  } else if (idler->empty_polls < YIELD_POLLS) {
    sched_yield();
  } else {
    idler->empty_polls = YIELD_POLLS;
    sleep_ns(BACKOFF_SLEEP_NS);
  }
}

static void on_stop_signal(int number)
{
  (void)number;
  stop_requested = 1;
}

void bus_loop_handle_signals(void)
{
  struct sigaction action = {0};
  action.sa_handler = on_stop_signal; /* no SA_RESTART: a sleeping loop wakes up */
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, NULL);
  sigaction(SIGTERM, &action, NULL);
  action.sa_handler = SIG_IGN;
  sigaction(SIGPIPE, &action, NULL);
}

bool bus_loop_stop_requested(void)
{
  return stop_requested != 0;
}

void bus_loop_request_stop(void)
{
  stop_requested = 1;
}

uint64_t bus_allocated_bytes(void)
{
  uint64_t bytes = 0;
  size_t size = sizeof bytes;
  if (mallctl && mallctl("thread.allocated", &bytes, &size, NULL, 0) == 0)
    return bytes;
  return 0;
}

int bus_pin_thread(int core)
{
  cpu_set_t set;
  if (core < 0 || core >= CPU_SETSIZE)
    return bus_error_set(BUS_ERROR_INVALID, "core %d: use 0..%ld", core,
                         sysconf(_SC_NPROCESSORS_CONF) - 1);
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  if (sched_setaffinity(0, sizeof set, &set) != 0)
    return bus_error_set_errno(
        "pinning to core %d (this machine has 0..%ld; the process may be confined by a cpuset)",
        core, sysconf(_SC_NPROCESSORS_CONF) - 1);
  return BUS_OK;
}

static uint64_t *find_counter(struct bus_member *member, const char *name)
{
  return member ? bus_member_object(member, BUS_OBJECT_COUNTER, name) : NULL;
}

int bus_loop_init(struct bus_loop *loop, struct bus_member *member, uint32_t idle, int core,
                  int numa_node)
{
  memset(loop, 0, sizeof *loop);
  int error = core >= 0 ? bus_pin_thread(core) : BUS_OK;
  if (!error)
    error = bus_clock_init(&loop->clock, 10);
  if (error)
    return error;
  if (numa_node >= 0 && numa_available() >= 0)
    numa_set_preferred(numa_node);
  prctl(PR_SET_TIMERSLACK, 1ul); /* sleeps end when they should, not 50 us later */
  loop->member = member;
  loop->idler.strategy = idle ? idle : BUS_IDLE_BACKOFF;
  loop->housekeeping_interval_ns = 10000000u;
  loop->cycle_budget_ns = 100000u;
  loop->cycle_ns_max = find_counter(member, "cycle_ns_max");
  loop->cycles_over_budget = find_counter(member, "cycles_over_budget");
  loop->allocated_bytes = find_counter(member, "allocated_bytes");
  loop->random = bus_clock_ticks() | 1;
  return BUS_OK;
}

/* xorshift64 (Marsaglia 2003): so that the members of a bus do not keep house in step. */
static uint64_t next_random(struct bus_loop *loop)
{
  loop->random ^= loop->random << 13;
  loop->random ^= loop->random >> 7;
  loop->random ^= loop->random << 17;
  return loop->random;
}

/* What the work functions allocated: everything since the start but what housekeeping did, which
 * maps neighbours as they come. */
static void publish_allocations(struct bus_loop *loop, uint64_t total_bytes)
{
  if (loop->allocated_bytes)
    bus_counter_set(loop->allocated_bytes, total_bytes - loop->allocated_bytes_elsewhere);
}

int bus_loop_keep_house(struct bus_loop *loop, const struct bus_loop_operations *operations,
                        void *context)
{
  uint64_t interval_ns = loop->housekeeping_interval_ns;
  loop->next_housekeeping_ns =
      loop->now_ns + interval_ns * 3 / 4 + next_random(loop) % (interval_ns / 2 + 1);
  bus_clock_anchor(&loop->clock);
  uint64_t before_bytes = bus_allocated_bytes();
  if (loop->member)
    bus_member_heartbeat(loop->member, loop->now_ns);
  bus_notify_alive(loop->now_ns);
  int error = operations->housekeeping ? operations->housekeeping(context, loop) : BUS_OK;
  uint64_t after_bytes = bus_allocated_bytes();
  loop->allocated_bytes_elsewhere += after_bytes - before_bytes;
  publish_allocations(loop, after_bytes);
  return error;
}

static void account_cycle(struct bus_loop *loop, uint64_t end_ns)
{
  uint64_t cycle_ns = end_ns - loop->now_ns;
  if ((int64_t)cycle_ns < 0)
    return; /* the clock stepped back to CLOCK_MONOTONIC within this cycle */
  if (loop->cycle_ns_max && cycle_ns > *loop->cycle_ns_max)
    bus_counter_set(loop->cycle_ns_max, cycle_ns);
  if (loop->cycles_over_budget && cycle_ns > loop->cycle_budget_ns)
    bus_counter_add(loop->cycles_over_budget, 1);
}

/* After a cycle that found nothing. */
static void idle(struct bus_loop *loop, const struct bus_loop_operations *operations, void *context)
{
  struct bus_idler *idler = &loop->idler;
  if (idler->strategy != BUS_IDLE_DOORBELL || !operations->sleep ||
      idler->empty_polls < SPIN_POLLS) {
    bus_idler_wait(idler);
    return;
  }
  int64_t left_ns = (int64_t)(loop->next_housekeeping_ns - loop->now_ns);
  operations->sleep(context, left_ns > 0 ? (uint64_t)left_ns : 0);
}

static void tell_ready(const struct bus_loop *loop)
{
  if (loop->member)
    bus_notify_status("member %s of %s, epoch %" PRIu64, bus_member_header(loop->member)->name,
                      bus_member_directory(loop->member), bus_member_header(loop->member)->epoch);
  bus_notify_ready();
}

int bus_loop_run(struct bus_loop *loop, const struct bus_loop_operations *operations, void *context)
{
  int result = BUS_OK;
  loop->allocated_bytes_elsewhere = bus_allocated_bytes();
  loop->now_ns = bus_clock_now_ns(&loop->clock);
  tell_ready(loop);
  while (!bus_loop_stop_requested()) {
    if ((int64_t)(loop->now_ns - loop->next_housekeeping_ns) >= 0) {
      result = bus_loop_keep_house(loop, operations, context);
      if (result != BUS_OK)
        break;
      loop->now_ns = bus_clock_now_ns(&loop->clock);
    }
    result = operations->work(context, loop);
    if (result < 0)
      break;
    uint64_t end_ns = bus_clock_now_ns(&loop->clock);
    if (result > 0) {
      account_cycle(loop, end_ns);
      bus_idler_reset(&loop->idler);
    } else {
      idle(loop, operations, context);
      if (loop->idler.empty_polls >= SPIN_POLLS)
        end_ns = bus_clock_now_ns(&loop->clock);
    }
    loop->now_ns = end_ns;
  }
  publish_allocations(loop, bus_allocated_bytes());
  bus_notify_stopping();
  return result == BUS_ERROR_AGAIN || result > 0 ? BUS_OK : result;
}
