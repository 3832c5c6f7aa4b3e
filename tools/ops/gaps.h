/* gaps.h: how long something else had a core: a process that does nothing but read the clock there
 * notes each gap between two readings.
 *
 * What takes the core shows as a gap, whoever it is: interrupts, kernel threads, other processes,
 * the firmware, the hypervisor. */
#ifndef SIGNALBUS_OPS_GAPS_H
#define SIGNALBUS_OPS_GAPS_H

#include "tools/ops/system_files.h"

#define OPS_GAPS_BUCKETS      48
#define OPS_GAPS_WORST        16
#define OPS_GAPS_THRESHOLD_NS 1000u /* from which the time counts as taken away */
#define OPS_INTERRUPTS_MAX    1024

struct ops_gap {
  uint64_t at_ns; /* after the start */
  uint64_t ns;
};

/* Written by the process that measures while others may look: each word whole. */
struct ops_gaps {
  uint64_t elapsed_ns;
  uint64_t paused_ns; /* of them, asleep: nothing was measured */
  uint64_t readings;
  uint64_t count; /* gaps of OPS_GAPS_THRESHOLD_NS and more; their sum and longest: */
  uint64_t stolen_ns;
  uint64_t ns_max;
  uint64_t count_1ms; /* of 1 ms and more */
  uint64_t
      buckets[OPS_GAPS_BUCKETS]; /* bucket b: 2^b to 2^(b+1)-1 ns between readings; 0: also 0 */
  struct ops_gap worst[OPS_GAPS_WORST]; /* longest first */
  uint32_t worst_count;
  uint32_t stop;                 /* set by whoever waits: end now */
  uint64_t switches_involuntary; /* of the process that measured */
  bool real_time;                /* it ran with SCHED_FIFO 1 */
  bool joined;                   /* it went into the cgroup that has the CPU */
};

/* Counts one gap. */
void ops_gaps_record(struct ops_gaps *gaps, uint64_t at_ns, uint64_t ns);

/* Measures CPU `cpu` for `duration_ns` in a process of its own, pinned. With `real_time` it has
 * SCHED_FIFO 1 where that is allowed and cannot starve the machine; it then pauses for as long as
 * the kernel's throttling would stop it, which is no gap. Joins the cgroup that has the CPU for
 * itself when it may not run there otherwise. `watch` (NULL: none) is called some times a second,
 * and ends the measurement by returning non-zero. *gaps: what was measured. BUS_OK or an error with
 * a message; BUS_ERROR_DENIED names the cgroup. */
int ops_gaps_measure(const struct ops_system *system, int cpu, uint64_t duration_ns, bool real_time,
                     int (*watch)(const struct ops_gaps *gaps, void *context), void *context,
                     struct ops_gaps *gaps);

struct ops_interrupt {
  char name[16];  /* number or short name, the first column */
  char label[96]; /* the rest of the line; both may hold anything printable */
  uint64_t count;
};

struct ops_interrupts {
  struct ops_interrupt rows[OPS_INTERRUPTS_MAX];
  int count;
};

/* Takes column `cpu` of the text of /proc/interrupts. BUS_OK or BUS_ERROR_FORMAT (no such column);
 * lines that are not understood are left out. Changes `text`. */
int ops_interrupts_parse(struct ops_interrupts *interrupts, char *text, int cpu);

/* The same from the file; errors also as ops_file_read. */
int ops_interrupts_read(const struct ops_system *system, int cpu,
                        struct ops_interrupts *interrupts);

/* Leaves in `after` what came since `before`, the most frequent first. */
void ops_interrupts_since(struct ops_interrupts *after, const struct ops_interrupts *before);

/* How often the scheduler of `cpu` has run, of /proc/schedstat; BUS_OK or an error: many kernels do
 * not count it. */
int ops_schedules_read(const struct ops_system *system, int cpu, uint64_t *count);

#endif
