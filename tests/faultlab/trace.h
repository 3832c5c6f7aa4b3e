/* trace.h: runs a child one instruction at a time, with ptrace. */
#ifndef FAULTLAB_TRACE_H
#define FAULTLAB_TRACE_H

#include "lab.h"

/* NULL when this machine lets a parent trace its child, else why not. */
const char *trace_refused(void);

/* Forks a child that is traced and runs `body` up to its trace_ready(). */
pid_t trace_fork(void (*body)(void));

/* In the child: stops here until the tracer moves it on. */
void trace_ready(void);

/* One instruction; false when the child stopped at the next trace_ready() or ended. */
bool trace_step(pid_t pid);

/* Steps until the operation has begun (lab_control->inside). */
void trace_to_operation(pid_t pid);

/* Lets it run to its next trace_ready(); false when it ended with exit status 0. Any other end
 * fails the experiment. */
bool trace_run(pid_t pid);

/* To the next entry or return of a system call; false as in trace_run. */
bool trace_to_system_call(pid_t pid);

/* The address of the next instruction. */
uint64_t trace_address(pid_t pid);

/* Runs until the instruction at `address` is about to run for the `hit`-th time; false when that
 * does not happen. */
bool trace_to_address(pid_t pid, uint64_t address, uint64_t hit);

/* True for an address in this program's own text, which holds the library but not libc. */
bool trace_is_own(uint64_t address);

#endif
