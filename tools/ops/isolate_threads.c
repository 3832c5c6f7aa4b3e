/* The stages that take threads off the CPUs one by one. */
#include "tools/ops/isolate_plan.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static int add_thread(struct ops_isolation *run, const struct ops_thread *thread, const char *stage,
                      enum ops_change_failure failure)
{
  struct ops_change change = {.kind = OPS_CHANGE_AFFINITY,
                              .format = OPS_VALUE_LIST,
                              .failure = failure,
                              .pid = thread->pid,
                              .tid = thread->tid,
                              .start_ticks = thread->start_ticks};
  struct ops_cpu_list found = ops_cpu_list_and(&thread->cpus, &run->online);
  struct ops_cpu_list wanted = ops_cpu_list_minus(&found, &run->cpus);
  if (ops_cpu_list_count(&wanted) == 0)
    wanted = run->house;
  snprintf(change.stage, sizeof change.stage, "%s", stage);
  snprintf(change.label, sizeof change.label, "%s", thread->name);
  ops_cpu_list_format(&found, change.found, sizeof change.found);
  ops_cpu_list_format(&wanted, change.wanted, sizeof change.wanted);
  int error = ops_path_join(change.path, run->system->proc_root, "%d/task/%d/status", thread->pid,
                            thread->tid);
  return error != BUS_OK ? error : ops_plan_add(run, &change);
}

/* A program that was pinned to the CPUs loses them when its cpuset does, and not every kernel gives
 * them back: its affinity is changed first, and restored last. */
static int take_user_thread(void *user, const struct ops_thread *thread)
{
  struct ops_isolation *run = user;
  struct ops_cpu_list rest = ops_cpu_list_minus(&run->online, &thread->cpus);
  if (thread->kernel || thread->fixed || !ops_cpu_list_intersects(&thread->cpus, &run->cpus) ||
      thread->pid == getpid())
    return 0;
  bool everywhere = ops_cpu_list_count(&rest) == 0;
  if (everywhere && run->mode != OPS_MODE_AFFINITY)
    return 0;
  /* On the CPUs and nowhere else: a program that an earlier call put there. */
  rest = ops_cpu_list_minus(&thread->cpus, &run->cpus);
  if (run->journal.complete && ops_cpu_list_count(&rest) == 0)
    return 0;
  return add_thread(run, thread, "threads", OPS_FAILURE_WARNS);
}

int ops_plan_threads(struct ops_isolation *run)
{
  return ops_thread_visit(run->system, take_user_thread, run);
}

static int take_kernel_thread(void *user, const struct ops_thread *thread)
{
  struct ops_isolation *run = user;
  struct ops_cpu_list rest = ops_cpu_list_minus(&thread->cpus, &run->cpus);
  if (!thread->kernel || thread->fixed || !ops_cpu_list_intersects(&thread->cpus, &run->cpus))
    return 0;
  if (ops_cpu_list_count(&rest) == 0) {
    ops_plan_note(run, "kernel thread %s (%d) belongs to CPUs %s and stays", thread->name,
                  thread->tid, run->cpus_text);
    return 0;
  }
  return add_thread(run, thread, "kthreads", OPS_FAILURE_WARNS);
}

int ops_plan_kthreads(struct ops_isolation *run)
{
  /* A partition takes the kernel's threads off its CPUs and does not put them back when it goes:
   * they are always written down, and moved, before it is made. */
  if (!run->options.kthreads_move && run->mode != OPS_MODE_PARTITION)
    return BUS_OK;
  if (!run->options.kthreads_move && !run->journal_exists)
    ops_plan_note(run, "--kthreads keep: a cgroup v2 partition moves kernel threads all the same");
  return ops_thread_visit(run->system, take_kernel_thread, run);
}
