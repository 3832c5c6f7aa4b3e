/* gap_probe: spins for some seconds and says how often, and for how long, it was not running.
 *
 * usage: gap_probe SECONDS [CPU]
 *
 * Prints one JSON object: "gaps" of 1 ms and more between two readings of the clock, "gap_ns_max",
 * "readings", "cpus" (that it may run on), "cpu" (where it ended). With CPU it pins itself. */
#define NS_PER_S 1000000000ull

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static int count_cpus(void)
{
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

int main(int argc, char **argv)
{
  if (argc < 2 || argc > 3) {
    fputs("usage: gap_probe SECONDS [CPU]\n", stderr);
    return 2;
  }
  if (argc == 3) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)strtoul(argv[2], NULL, 10), &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) {
      perror("gap_probe");
      return 1;
    }
  }
  uint64_t last = now_ns(), end = last + strtoull(argv[1], NULL, 10) * NS_PER_S;
  uint64_t gaps = 0, gap_ns_max = 0, readings = 0;
  while (last < end) {
    uint64_t now = now_ns(), gap = now - last;
    gaps += gap >= 1000000;
    if (gap > gap_ns_max)
      gap_ns_max = gap;
    last = now;
    readings++;
  }
  printf("{\"gaps\": %" PRIu64 ", \"gap_ns_max\": %" PRIu64 ", \"readings\": %" PRIu64
         ", \"cpus\": %d, \"cpu\": %d}\n",
         gaps, gap_ns_max, readings, count_cpus(), sched_getcpu());
  return 0;
}
