#include "tools/bench/bench_canary.h"

#include "tools/bench/bench_process.h"

#include <stdlib.h>
#include <sys/mman.h>

#define RUNS        31u
#define TRIPS       500u
#define STOP        UINT64_MAX
#define CHECK_EVERY 0xfffffu /* empty polls, some ms */
#define CHAINS      1000u

struct lines {
  uint64_t ping;
  uint8_t reserved0[BUS_FALSE_SHARING_BYTES - sizeof(uint64_t)];
  uint64_t pong;
  uint8_t reserved1[BUS_FALSE_SHARING_BYTES - sizeof(uint64_t)];
};

static int echo(void *context)
{
  struct lines *lines = context;
  for (uint64_t last = 0; !bench_stopped();) {
    uint64_t ping = BUS_LOAD_ACQUIRE(&lines->ping);
    if (ping == STOP)
      break;
    if (ping != last)
      BUS_STORE_RELEASE(&lines->pong, last = ping);
  }
  return BUS_OK;
}

static bool trip(struct lines *lines, uint64_t number, pid_t *child)
{
  BUS_STORE_RELEASE(&lines->ping, number);
  for (uint64_t polls = 1; BUS_LOAD_ACQUIRE(&lines->pong) != number; polls++)
    if ((polls & CHECK_EVERY) == 0 && (bench_stopped() || !bench_child_is_running(child)))
      return false;
  return true;
}

static int compare(const void *left, const void *right)
{
  double a = *(const double *)left, b = *(const double *)right;
  return (a > b) - (a < b);
}

static double measure(struct lines *lines, pid_t *child)
{
  double runs[RUNS];
  uint64_t number = 1;
  for (uint32_t run = 0; run < RUNS; run++) {
    uint64_t start_ns = bench_now_ns();
    for (uint32_t i = 0; i < TRIPS; i++)
      if (!trip(lines, number++, child))
        return bench_stopped() ? bench_stop_error()
                               : bus_error_set(BUS_ERROR_IO, "the canary's child has ended");
    runs[run] = (double)(bench_now_ns() - start_ns) / TRIPS;
  }
  qsort(runs, RUNS, sizeof runs[0], compare);
  return runs[RUNS / 2];
}

double bench_canary_core_ns(void)
{
  double runs[RUNS];
  uint64_t product = 1;
  for (uint32_t run = 0; run < RUNS; run++) {
    uint64_t start_ns = bench_now_ns();
    for (uint32_t i = 0; i < CHAINS * BENCH_CANARY_CHAIN; i++) {
      product *= 0x9e3779b97f4a7c15u;
      __asm__ volatile("" : "+r"(product)); /* the compiler must not see through the chain */
    }
    runs[run] = (double)(bench_now_ns() - start_ns) / CHAINS;
  }
  qsort(runs, RUNS, sizeof runs[0], compare);
  return runs[RUNS / 2];
}

double bench_canary_ns(const int cores[2])
{
  struct lines *lines =
      mmap(NULL, sizeof *lines, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (lines == MAP_FAILED)
    return bus_error_set_errno("memory for the canary");
  pid_t child = bench_fork(cores[1], cores[0], echo, lines);
  double result = child > 0 ? measure(lines, &child) : (double)child;
  BUS_STORE_RELEASE(&lines->ping, STOP);
  bench_reap(&child, false);
  munmap(lines, sizeof *lines);
  return result;
}
