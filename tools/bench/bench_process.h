/* bench_process.h: pinned processes that end whatever happens, and a bus of their own.
 *
 * Two spinning real-time processes on one core never give way to each other, and one that waits for
 * a dead peer waits for ever. So: children are forked on their own core, die with the parent, and
 * everybody has an alarm. */
#ifndef TOOLS_BENCH_PROCESS_H
#define TOOLS_BENCH_PROCESS_H

#include "shm/clock.h"
#include "tools/bench/bench.h"

#include <sys/types.h>

/* Longest that one repetition may take before everything is given up. */
#define BENCH_TRIAL_SECONDS 120u

/* Most files in a temporary bus. */
#define BENCH_MEMBERS_MAX 4

/* Handles SIGINT, SIGTERM and SIGALRM: the stop flag is raised; bench_stopped() tells. */
void bench_process_init(void);

/* True when a signal asked to stop, or the repetition has taken too long. */
bool bench_stopped(void);

/* BUS_OK, or an error with a message when bench_stopped(). */
int bench_stop_error(void);

/* (Re)starts the clock of BENCH_TRIAL_SECONDS. */
void bench_trial_begin(void);

/* Fills in `needed` (1 or 2) cores that were not chosen: the first that this process may use.
 * BUS_ERROR_INVALID when they are too few or equal. */
int bench_choose_cores(int cores[2], int needed);

/* Waits until no other bus-bench measures on this machine, and keeps others waiting from then on
 * until this process has ended. Two of them would spoil each other's figures; spinning in real time
 * they could even wait for each other for ever, each with one of two cores. BUS_OK, or an error
 * when stopped. */
int bench_wait_turn(void);

/* SCHED_FIFO 1 for this process and its children. Returns BUS_OK or BUS_ERROR_DENIED with a
 * message. */
int bench_go_fifo(void);

/* Forks a child that runs `run` pinned to `child_core` and exits with 0 when it returned BUS_OK;
 * the caller goes on, pinned to `parent_core`. Returns the pid or a negative error. The child's own
 * error message goes to stderr. */
pid_t bench_fork(int child_core, int parent_core, int (*run)(void *context), void *context);

/* True while the child runs; false also when it was reaped by this call. */
bool bench_child_is_running(pid_t *child);

/* Ends a child with SIGTERM (when `terminate`), with SIGKILL when it does not obey within 2 s. */
void bench_reap(pid_t *child, bool terminate);

/* Makes `parent`/bus-bench.<pid> for members of these names (BENCH_MEMBERS_MAX at most, static).
 * It is removed at exit, on a signal too. Returns its path, NULL with a message. */
const char *bench_directory_make(const char *parent, const char *const *members, uint32_t count);

/* Removes the members' files; the directory stays for the next repetition. */
void bench_directory_clear(void);

/* The clock of the benchmark's processes: made once, before any fork, so that all of them are on
 * one time line to the nanosecond. */
int bench_clock_init(void);
extern struct bus_clock bench_clock;

static BUS_ALWAYS_INLINE uint64_t bench_now_ns(void)
{
  return bus_clock_now_ns(&bench_clock);
}

/* Gives the machine to others for a while: what starved during a measurement must not have to take
 * its share in the middle of the next one. Linux gives starving tasks 50 ms of each second of a
 * core that SCHED_FIFO keeps busy: a repetition should take well below a second. */
void bench_breathe(void);

/* "name: done of all" on stderr when that is a terminal. */
void bench_progress(const char *name, uint32_t done, uint32_t all);

#endif
