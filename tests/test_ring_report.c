#include "tools/bench/ring_report.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TRIALS 3u

static const struct ring_contestant slow_peer = {.name = "slow peer"};
static const struct ring_contestant absent_peer = {.name = "absent peer"};
static struct bench_report *report;
static struct ring_entry entries[3];

static void add_entry(uint32_t index, const struct ring_contestant *contestant, double ns,
                      bool rejected)
{
  struct ring_entry *entry = &entries[index];
  *entry = (struct ring_entry){.contestant = contestant, .size = RING_SIZE_64, .rings = 1};
  entry->workload = RING_HUNGRY;
  strcpy(entry->label, contestant->name);
  entry->group = bench_report_group(report, contestant->name);
  entry->measure = bench_report_measure(report, entry->group, "hungry", "ns", false, false);
  struct bench_group *group = &report->groups[entry->group];
  group->trial_count = TRIALS;
  for (uint32_t i = 0; i < TRIALS; i++) {
    entry->measure->values[i] = ns;
    group->trials[i].rejected = rejected;
  }
}

static const struct bench_measure *find_measure(const char *name)
{
  for (uint32_t i = 0; i < report->measure_count; i++)
    if (!strcmp(report->measures[i].name, name))
      return &report->measures[i];
  return NULL;
}

static void set_up(void)
{
  report = bench_report_new("test");
}

static void tear_down(void)
{
  bench_report_delete(report);
}

TestSuite(ring_report, .init = set_up, .fini = tear_down);

Test(ring_report, a_peer_of_which_no_trial_counts_is_not_the_best_peer)
{
  add_entry(0, &ring_bus, 20, false);
  add_entry(1, &absent_peer, 1, true);
  add_entry(2, &slow_peer, 30, false);
  cr_assert_eq(ring_report_compare(report, entries, 3), BUS_OK);
  const struct bench_measure *ratio = find_measure("64 B, hungry: best peer / bus");
  cr_assert(ratio);
  cr_assert_float_eq(ratio->values[0], 1.5, 1e-9);
}

/* What ring_report_print writes, terminated. */
static void print_table(uint32_t count, char *text, size_t size)
{
  FILE *file = tmpfile();
  int standard_output = dup(STDOUT_FILENO);
  cr_assert(file && standard_output >= 0);
  fflush(stdout);
  dup2(fileno(file), STDOUT_FILENO);
  ring_report_print(report, entries, count);
  fflush(stdout);
  dup2(standard_output, STDOUT_FILENO);
  close(standard_output);
  rewind(file);
  text[fread(text, 1, size - 1, file)] = '\0';
  fclose(file);
}

Test(ring_report, without_a_trial_that_counts_the_table_says_rejected)
{
  char text[4096];
  add_entry(0, &ring_bus, 20, true);
  add_entry(1, &slow_peer, 30, false);
  print_table(2, text, sizeof text);
  cr_assert(strstr(text, "rejected"), "%s", text);
  cr_assert_not(strstr(text, "inf"), "%s", text);
  cr_assert(strstr(text, "30.0"), "%s", text);
  cr_assert_not(strstr(text, " 0.0"), "%s", text);
}
