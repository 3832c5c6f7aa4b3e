#include "tools/bench/ring_report.h"

#include <stdio.h>
#include <string.h>

const char *ring_size_name(enum ring_size size)
{
  static const char *const names[RING_SIZES] = {"8 B", "64 B", "128 B", "16 KiB"};
  return names[size];
}

const char *ring_workload_name(enum ring_workload workload)
{
  static const char *const names[RING_WORKLOADS] = {"saturated", "hungry", "rtt", "paced"};
  return names[workload];
}

/* The figure that entries are compared by: ns for a message or trip, of paced ones the p50. 0 when
 * no trial counts. */
static double figure(const struct bench_report *report, const struct ring_entry *entry)
{
  struct bench_summary summary;
  bench_report_summarize(report, entry->measure, &summary);
  return entry->measure->histograms ? summary.p50 : summary.median;
}

static bool is_bus(const struct ring_entry *entry)
{
  return entry->contestant == &ring_bus || entry->contestant == &ring_bus_many;
}

static bool is_peer(const struct ring_entry *entry)
{
  return !is_bus(entry) && !entry->contestant->is_limit;
}

/* The plain signal-bus entry that `entry` is to be compared with, NULL for none. */
static const struct ring_entry *own(const struct ring_entry *entries, uint32_t count,
                                    const struct ring_entry *entry)
{
  for (uint32_t i = 0; i < count; i++)
    if (entries[i].contestant == &ring_bus && !entries[i].with_observer &&
        entries[i].size == entry->size && entries[i].workload == entry->workload &&
        entries[i].between_threads == entry->between_threads)
      return &entries[i];
  return NULL;
}

static const struct ring_entry *best_peer(const struct bench_report *report,
                                          const struct ring_entry *entries, uint32_t count,
                                          const struct ring_entry *bus)
{
  const struct ring_entry *best = NULL;
  for (uint32_t i = 0; i < count; i++)
    if (is_peer(&entries[i]) && own(entries, count, &entries[i]) == bus &&
        figure(report, &entries[i]) > 0 &&
        (!best || figure(report, &entries[i]) < figure(report, best)))
      best = &entries[i];
  return best;
}

/* Nothing is added for what has no trial that counts. */
static int add_ratio(struct bench_report *report, uint32_t group, const char *name, double over,
                     double under)
{
  if (!(over > 0 && under > 0))
    return BUS_OK;
  struct bench_measure *measure = bench_report_measure(report, group, name, "ratio", false, false);
  if (!measure)
    return BUS_ERROR_NO_SPACE;
  measure->values[0] = over / under;
  return BUS_OK;
}

/* Everything that is told about one plain signal-bus entry. */
static int compare_one(struct bench_report *report, uint32_t group,
                       const struct ring_entry *entries, uint32_t count,
                       const struct ring_entry *bus)
{
  char name[64], place[40];
  double own_ns = figure(report, bus);
  snprintf(place, sizeof place, "%s, %s%s", ring_size_name(bus->size),
           ring_workload_name(bus->workload), bus->between_threads ? ", threads" : "");
  const struct ring_entry *best = best_peer(report, entries, count, bus);
  int error = BUS_OK;
  if (best) {
    snprintf(name, sizeof name, "%s: best peer / bus", place);
    error = add_ratio(report, group, name, figure(report, best), own_ns);
  }
  for (uint32_t i = 0; i < count && !error; i++) {
    const struct ring_entry *entry = &entries[i];
    if (entry == bus || is_peer(entry) || own(entries, count, entry) != bus)
      continue;
    if (entry->contestant->is_limit) {
      snprintf(name, sizeof name, "%s: bus / limit", place);
      error = add_ratio(report, group, name, own_ns, figure(report, entry));
    } else {
      if (entry->with_observer)
        snprintf(name, sizeof name, "%s: observed / alone", place);
      else
        snprintf(name, sizeof name, "%s: %u rings / bus", place, entry->rings);
      error = add_ratio(report, group, name, figure(report, entry), own_ns);
    }
  }
  return error;
}

int ring_report_compare(struct bench_report *report, const struct ring_entry *entries,
                        uint32_t count)
{
  uint32_t group = bench_report_group(report, "comparison");
  report->groups[group].trial_count = 1;
  int error = BUS_OK;
  for (uint32_t i = 0; i < count && !error; i++)
    if (own(entries, count, &entries[i]) == &entries[i])
      error = compare_one(report, group, entries, count, &entries[i]);
  return error;
}

/* ---- the table ---- */

static const struct ring_entry *find(const struct ring_entry *entries, uint32_t count,
                                     const char *label, enum ring_size size,
                                     enum ring_workload workload)
{
  for (uint32_t i = 0; i < count; i++)
    if (entries[i].size == size && entries[i].workload == workload &&
        !strcmp(entries[i].label, label))
      return &entries[i];
  return NULL;
}

static void print_cell(const struct bench_report *report, const struct ring_entry *entries,
                       uint32_t count, const struct ring_entry *entry)
{
  if (!entry) {
    printf(" %9s %6s", "-", "");
    return;
  }
  double ns = figure(report, entry);
  const struct ring_entry *bus = own(entries, count, entry);
  if (!(ns > 0)) { /* the canary spoke against every trial */
    printf(" %9s %6s", "rejected", "");
    return;
  }
  printf(" %9.*f", ns < 100 ? 1 : 0, ns);
  if (bus && bus != entry && figure(report, bus) > 0)
    printf(" x%-5.2f", ns / figure(report, bus));
  else
    printf(" %6s", "");
}

static void print_row(const struct bench_report *report, const struct ring_entry *entries,
                      uint32_t count, const struct ring_entry *first)
{
  printf("%-40s", first->label);
  for (int workload = 0; workload < RING_WORKLOADS; workload++)
    print_cell(report, entries, count,
               find(entries, count, first->label, first->size, (enum ring_workload)workload));
  const struct ring_entry *paced = find(entries, count, first->label, first->size, RING_PACED);
  struct bench_summary summary = {0};
  if (paced)
    bench_report_summarize(report, paced->measure, &summary);
  if (summary.count > 0)
    printf(" %7.0f %7.0f", summary.p90, summary.p99);
  putchar('\n');
}

void ring_report_print(const struct bench_report *report, const struct ring_entry *entries,
                       uint32_t count)
{
  for (int size = 0; size < RING_SIZES; size++) {
    bool headed = false;
    for (uint32_t i = 0; i < count; i++) {
      const struct ring_entry *entry = &entries[i];
      if ((int)entry->size != size)
        continue;
      bool is_first = true;
      for (uint32_t j = 0; j < i; j++)
        if (entries[j].size == entry->size && !strcmp(entries[j].label, entry->label))
          is_first = false;
      if (!is_first)
        continue;
      if (!headed)
        printf("\n%-40s %16s %16s %16s %16s %7s %7s\n", ring_size_name(entry->size),
               "saturated       ", "hungry       ", "rtt       ", "paced p50       ", "p90", "p99");
      headed = true;
      print_row(report, entries, count, entry);
    }
  }
  puts("\nns for a message; a round trip; from the due time of a paced message to its receipt.\n"
       "Medians of the repetitions. x: times what the signal bus takes in the same place.");
}
