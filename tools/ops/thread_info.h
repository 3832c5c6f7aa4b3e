/* thread_info.h: what /proc says about one thread, and on which CPUs it may run.
 *
 * A thread is named by pid, tid and the time it started, because numbers come again. */
#ifndef SIGNALBUS_OPS_THREAD_INFO_H
#define SIGNALBUS_OPS_THREAD_INFO_H

#include "tools/ops/cpu_list.h"
#include "tools/ops/system_files.h"

#include <sys/types.h>

struct ops_thread {
  pid_t pid, tid;
  uint64_t start_ticks;     /* since boot, in clock ticks */
  char name[32];            /* printable ASCII; others became '?' */
  bool kernel;              /* a kernel thread */
  bool fixed;               /* the kernel does not let its CPUs be changed */
  struct ops_cpu_list cpus; /* that it may run on */
};

/* Reads thread `tid` of process `pid`. Returns BUS_OK, or BUS_ERROR_ABSENT when it has ended,
 * BUS_ERROR_FORMAT when /proc holds what no kernel writes, or as ops_file_read. */
int ops_thread_read(const struct ops_system *system, pid_t pid, pid_t tid,
                    struct ops_thread *thread);

/* Sets the CPUs that it may run on (under an injected root: rewrites them in its status file).
 * Returns BUS_OK or a negative error that names the thread. */
int ops_thread_set_cpus(struct ops_system *system, const struct ops_thread *thread,
                        const struct ops_cpu_list *cpus);

/* Takes the CPUs that are not online out of thread->cpus: which of those a thread may use the
 * kernel forgets when its affinity is set. */
void ops_thread_limit(const struct ops_system *system, struct ops_thread *thread);

/* Calls visit for each thread there is, kernel threads too, in the order of pids, until it returns
 * non-zero; threads that end meanwhile are left out. Returns what visit returned last, or a
 * negative error when /proc cannot be listed. */
int ops_thread_visit(const struct ops_system *system,
                     int (*visit)(void *user, const struct ops_thread *thread), void *user);

#endif
