/* isolate_plan.h: what isolating a set of CPUs means on this machine, as a list of changes.
 *
 * A stage looks at the machine and adds the changes it needs, or says why it cannot. Nothing here
 * changes anything. */
#ifndef SIGNALBUS_OPS_ISOLATE_PLAN_H
#define SIGNALBUS_OPS_ISOLATE_PLAN_H

#include "tools/ops/isolate_journal.h"

/* Exit codes of isolate and release. */
enum ops_exit {
  OPS_EXIT_OK = 0,
  OPS_EXIT_FAILED = 1, /* and everything that was changed is restored */
  OPS_EXIT_USAGE = 2,
  OPS_EXIT_WARNINGS = 3,
  OPS_EXIT_PERMISSION = 4,
  OPS_EXIT_CONFLICT = 5,
  OPS_EXIT_UNSUPPORTED = 6,
  OPS_EXIT_INCOMPLETE = 7 /* failed, and not everything could be restored; it was named */
};

enum ops_siblings { OPS_SIBLINGS_UNSAID, OPS_SIBLINGS_INCLUDE, OPS_SIBLINGS_IGNORE };

struct ops_isolate_options {
  char name[OPS_ISOLATION_NAME_BYTES];
  struct ops_cpu_list cpus;
  bool irqs_move;
  bool kthreads_move;
  bool workqueues;
  bool settings; /* --sysctl */
  enum ops_siblings siblings;
  bool cpu_dma_latency;
  bool strict;
  bool dry_run;
  bool has_command;
};

/* What keeps other programs off the CPUs, the best that there is. */
enum ops_isolate_mode {
  OPS_MODE_PARTITION, /* cgroup v2: an isolated partition */
  OPS_MODE_CPUSET,    /* cgroup v1: exclusive cpuset, everybody else in another */
  OPS_MODE_AFFINITY   /* neither: the affinity of each thread, as of now */
};

enum ops_remark_level { OPS_REMARK_NOTE, OPS_REMARK_WARNING };

struct ops_remark {
  enum ops_remark_level level;
  char text[768];
};

struct ops_isolation {
  struct ops_system *system;
  struct ops_isolate_options options;
  enum ops_isolate_mode mode;
  struct ops_cpu_list online;
  struct ops_cpu_list others; /* what other isolations hold */
  struct ops_cpu_list cpus;   /* asked for, with siblings */
  struct ops_cpu_list house;  /* online, in no isolation */
  char cpus_text[OPS_CPU_LIST_BYTES];
  char house_text[OPS_CPU_LIST_BYTES];
  char cgroup_parent[OPS_PATH_BYTES]; /* of the cpuset hierarchy; "" in OPS_MODE_AFFINITY */
  char cgroup[OPS_PATH_BYTES];        /* ours; "" in OPS_MODE_AFFINITY */
  char cgroup_house[OPS_PATH_BYTES];  /* OPS_MODE_CPUSET: everybody else's */
  struct ops_journal journal;         /* journal.fd < 0: none yet */
  bool journal_exists;
  char latest_other[OPS_ISOLATION_NAME_BYTES]; /* the isolation made last, of the others */
  int64_t latest_other_ns;
  char kernel_command_line[OPS_CPU_LIST_BYTES * 4]; /* what only that can do; "" nothing */

  struct ops_change *changes;
  size_t count, capacity;
  struct ops_remark *remarks;
  size_t remark_count;
  size_t warning_count;
  int exit; /* enum ops_exit, when a stage or check has refused */
};

/* Starts `run`; ops_isolation_free in any case. */
void ops_isolation_init(struct ops_isolation *run, struct ops_system *system);
void ops_isolation_free(struct ops_isolation *run);

/* Adds a copy of `change`; its texts must be terminated. Returns BUS_OK or BUS_ERROR_NO_SPACE. */
int ops_plan_add(struct ops_isolation *run, const struct ops_change *change);

/* Reads what `change->path` holds into change->found and adds the change, unless it is already as
 * wanted (then nothing is added). A file that is not there, or that cannot be read, is an error. */
int ops_plan_write(struct ops_isolation *run, struct ops_change *change);

void ops_plan_note(struct ops_isolation *run, const char *format, ...) BUS_PRINTF(2, 3);
void ops_plan_warn(struct ops_isolation *run, const char *format, ...) BUS_PRINTF(2, 3);

/* Sets run->exit and leaves a message; returns a negative error to return. */
int ops_plan_refuse(struct ops_isolation *run, enum ops_exit code, const char *format, ...)
    BUS_PRINTF(3, 4);

/* Looks at CPUs, journals, cgroups, and refuses what must not be: CPU 0, CPUs that are not online
 * or another isolation's, the last housekeeping CPU. `run->options` is what is asked. Returns
 * BUS_OK or a negative error, and run->exit then tells the exit code. */
int ops_plan_prepare(struct ops_isolation *run);

/* The stages, in the order in which they are applied. Each returns BUS_OK or a negative error as
 * ops_plan_prepare. */
int ops_plan_threads(struct ops_isolation *run);
int ops_plan_kthreads(struct ops_isolation *run);
int ops_plan_cpuset(struct ops_isolation *run);
int ops_plan_irqs(struct ops_isolation *run);
int ops_plan_workqueues(struct ops_isolation *run);
int ops_plan_settings(struct ops_isolation *run);
int ops_plan_latency(struct ops_isolation *run);

/* All of them, and what only the kernel command line can do. */
int ops_plan_make(struct ops_isolation *run);

const char *ops_isolate_mode_name(enum ops_isolate_mode mode);

#endif
