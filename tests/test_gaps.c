#include "tools/ops/gaps.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <string.h>

static struct ops_gaps gaps;
static struct ops_interrupts now, before;

Test(gaps, each_gap_falls_into_its_power_of_two)
{
  static const struct {
    uint64_t ns;
    int bucket;
  } cases[] = {{0, 0},
               {1, 0},
               {2, 1},
               {3, 1},
               {4, 2},
               {1023, 9},
               {1024, 10},
               {((uint64_t)1 << 47) - 1, 46},
               {(uint64_t)1 << 47, 47},
               {UINT64_MAX, 47}};
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    struct ops_gaps one = {0};
    ops_gaps_record(&one, 0, cases[i].ns);
    cr_assert_eq(one.buckets[cases[i].bucket], 1, "%llu ns", (unsigned long long)cases[i].ns);
    cr_assert_eq(one.readings, 1);
  }
}

Test(gaps, short_ones_are_no_loss)
{
  ops_gaps_record(&gaps, 0, OPS_GAPS_THRESHOLD_NS - 1);
  cr_assert(gaps.count == 0 && gaps.stolen_ns == 0 && gaps.worst_count == 0);
  ops_gaps_record(&gaps, 0, OPS_GAPS_THRESHOLD_NS);
  ops_gaps_record(&gaps, 0, 999999);
  ops_gaps_record(&gaps, 0, 1000000);
  cr_assert(gaps.count == 3 && gaps.count_1ms == 1 && gaps.ns_max == 1000000);
  cr_assert_eq(gaps.stolen_ns, OPS_GAPS_THRESHOLD_NS + 999999 + 1000000);
}

/* Against sorting them all. */
Test(gaps, the_longest_are_kept_in_order)
{
  uint64_t all[200], seed = 12345;
  for (uint32_t i = 0; i < 200; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    all[i] = OPS_GAPS_THRESHOLD_NS + (seed >> 40);
    ops_gaps_record(&gaps, i, all[i]);
  }
  cr_assert_eq(gaps.worst_count, OPS_GAPS_WORST);
  for (uint32_t i = 0; i < OPS_GAPS_WORST; i++) {
    uint32_t larger = 0;
    for (uint32_t j = 0; j < 200; j++)
      larger += all[j] > gaps.worst[i].ns;
    cr_assert_leq(larger, i);
    cr_assert_eq(all[gaps.worst[i].at_ns], gaps.worst[i].ns);
    cr_assert(i == 0 || gaps.worst[i - 1].ns >= gaps.worst[i].ns);
  }
}

static int parse(struct ops_interrupts *interrupts, const char *text, int cpu)
{
  char copy[1024];
  strcpy(copy, text);
  return ops_interrupts_parse(interrupts, copy, cpu);
}

Test(gaps, reads_a_cpu_s_column)
{
  static const char text[] = "           CPU0       CPU2       \n"
                             " 24:          1          7  IO-APIC   5-edge      ACPI:Ged\n"
                             "LOC:   23112916   22825029   Local timer interrupts\n"
                             "ERR:          0\n"
                             "nonsense\n"
                             ":  1 2\n"
                             "a-name-that-is-too-long: 1 2\n";
  cr_assert_eq(parse(&now, text, 2), BUS_OK);
  cr_assert_eq(now.count, 2);
  cr_assert_str_eq(now.rows[0].name, "24");
  cr_assert_str_eq(now.rows[0].label, "IO-APIC   5-edge      ACPI:Ged");
  cr_assert(now.rows[0].count == 7 && now.rows[1].count == 22825029);
  cr_assert_eq(parse(&now, text, 0), BUS_OK);
  cr_assert(now.count == 3 && now.rows[0].count == 1 && now.rows[2].count == 0);
  cr_assert_eq(parse(&now, text, 1), BUS_ERROR_FORMAT);
  cr_assert_eq(parse(&now, "", 0), BUS_ERROR_FORMAT);
}

Test(gaps, what_came_meanwhile_is_left_the_most_frequent_first)
{
  parse(&before, "CPU0\n 1: 5 a\n 2: 9 b\n 3: 4 c\nLOC: 100 d\n", 0);
  parse(&now, "CPU0\n 1: 6 a\n 2: 9 b\n 4: 2 new\nLOC: 150 d\n", 0);
  ops_interrupts_since(&now, &before);
  cr_assert_eq(now.count, 3);
  cr_assert(!strcmp(now.rows[0].name, "LOC") && now.rows[0].count == 50);
  cr_assert(!strcmp(now.rows[1].name, "4") && now.rows[1].count == 2);
  cr_assert(!strcmp(now.rows[2].name, "1") && now.rows[2].count == 1);
}

static int stop_at_once(const struct ops_gaps *seen, void *context)
{
  (void)seen;
  ++*(int *)context;
  return 1;
}

Test(gaps, measures_a_cpu_and_stops_when_told)
{
  struct ops_system system;
  int calls = 0;
  cr_assert_eq(ops_system_init(&system, NULL), BUS_OK);
  int error =
      ops_gaps_measure(&system, sched_getcpu(), 600000000000u, true, stop_at_once, &calls, &gaps);
  cr_assert_eq(error, BUS_OK, "%s", bus_error_message());
  cr_assert(calls > 0 && gaps.elapsed_ns < 600000000000u);
  uint64_t sum = 0;
  for (int i = 0; i < OPS_GAPS_BUCKETS; i++)
    sum += gaps.buckets[i];
  cr_assert_eq(sum, gaps.readings);
}

Test(gaps, a_cpu_that_is_not_there_is_refused)
{
  struct ops_system system;
  cr_assert_eq(ops_system_init(&system, NULL), BUS_OK);
  cr_assert_lt(ops_gaps_measure(&system, 1023, 1, true, NULL, NULL, &gaps), 0);
  cr_assert(strstr(bus_error_message(), "CPU 1023"), "%s", bus_error_message());
}

/* With and without real-time priority: the pauses are for the one that has it. */
Test(gaps, only_real_time_pauses)
{
  struct ops_system system;
  cr_assert_eq(ops_system_init(&system, NULL), BUS_OK);
  cr_assert_eq(ops_gaps_measure(&system, sched_getcpu(), 10000000, false, NULL, NULL, &gaps),
               BUS_OK, "%s", bus_error_message());
  cr_assert(!gaps.real_time && gaps.paused_ns == 0 && gaps.elapsed_ns >= 10000000);
  cr_assert_eq(ops_gaps_measure(&system, sched_getcpu(), 10000000, true, NULL, NULL, &gaps),
               BUS_OK);
  cr_assert_lt(gaps.paused_ns, gaps.elapsed_ns);
}
