#include "trace.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#define SYSTEM_CALL_STOP (SIGTRAP | 0x80)

extern const char __executable_start, etext; /* the linker's */

const char *trace_refused(void)
{
  static char reason[128];
  int status;
  pid_t pid = fork();
  if (pid == 0) {
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
      _exit(errno & 0x7f);
    raise(SIGSTOP);
    _exit(0);
  }
  if (pid < 0 || waitpid(pid, &status, 0) != pid)
    return "fork failed";
  if (WIFEXITED(status)) {
    snprintf(reason, sizeof reason, "PTRACE_TRACEME: %s", strerror(WEXITSTATUS(status)));
    return reason;
  }
  bool stepped = ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == 0 && waitpid(pid, &status, 0) == pid;
  if (!stepped)
    snprintf(reason, sizeof reason, "PTRACE_SINGLESTEP: %s", strerror(errno));
  kill(pid, SIGKILL);
  waitpid(pid, &status, 0);
  return stepped ? NULL : reason;
}

static void (*traced_body)(void);

static void traced(void)
{
  LAB_CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0, "PTRACE_TRACEME: %s", strerror(errno));
  traced_body();
}

void trace_ready(void)
{
  raise(SIGSTOP);
}

/* Moves the child on, with a signal or 0; its next stop's signal, 0 when it has ended in order. */
static int move_on_with(pid_t pid, int how, int signal)
{
  int status;
  LAB_CHECK(ptrace(how, pid, NULL, (uintptr_t)signal) == 0, "ptrace(%d): %s", how, strerror(errno));
  LAB_CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
  if (WIFSTOPPED(status))
    return WSTOPSIG(status);
  LAB_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the traced process ended: status %#x",
            (unsigned)status);
  return 0;
}

static int move_on(pid_t pid, int how)
{
  return move_on_with(pid, how, 0);
}

pid_t trace_fork(void (*body)(void))
{
  int status;
  lab_control->inside = 0;
  traced_body = body;
  pid_t pid = lab_fork(traced);
  LAB_CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP,
            "the traced process did not get ready: status %#x", (unsigned)status);
  ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  return pid;
}

bool trace_step(pid_t pid)
{
  int stop = move_on(pid, PTRACE_SINGLESTEP);
  LAB_CHECK(stop == SIGTRAP || stop == SIGSTOP || stop == 0, "the traced process got signal %d",
            stop);
  return stop == SIGTRAP;
}

void trace_to_operation(pid_t pid)
{
  while (!BUS_LOAD_ACQUIRE(&lab_control->inside))
    LAB_CHECK(trace_step(pid), "the operation never began");
}

bool trace_run(pid_t pid)
{
  int stop = move_on(pid, PTRACE_CONT);
  while (stop == SIGBUS) /* its file was cut: that is for its own handler */
    stop = move_on_with(pid, PTRACE_CONT, SIGBUS);
  LAB_CHECK(stop == SIGSTOP || stop == 0, "the traced process got signal %d", stop);
  return stop == SIGSTOP;
}

bool trace_to_system_call(pid_t pid)
{
  int stop = move_on(pid, PTRACE_SYSCALL);
  LAB_CHECK(stop == SYSTEM_CALL_STOP || stop == SIGSTOP || stop == 0,
            "the traced process got signal %d", stop);
  return stop == SYSTEM_CALL_STOP;
}

uint64_t trace_address(pid_t pid)
{
  return (uint64_t)ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), NULL);
}

bool trace_to_address(pid_t pid, uint64_t address, uint64_t hit)
{
  void *at = (void *)(uintptr_t)address;
  long word = ptrace(PTRACE_PEEKTEXT, pid, at, NULL);
  long trap = (word & ~0xffL) | 0xcc;
  for (uint64_t hits = 1;; hits++) {
    LAB_CHECK(ptrace(PTRACE_POKETEXT, pid, at, trap) == 0, "breakpoint: %s", strerror(errno));
    int stop = move_on(pid, PTRACE_CONT);
    if (stop == 0 || stop == SIGSTOP)
      return false;
    LAB_CHECK(stop == SIGTRAP, "the traced process got signal %d", stop);
    ptrace(PTRACE_POKETEXT, pid, at, word);
    ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, rip), address);
    if (hits == hit)
      return true;
    if (!trace_step(pid))
      return false;
  }
}

bool trace_is_own(uint64_t address)
{
  return address >= (uintptr_t)&__executable_start && address < (uintptr_t)&etext;
}
