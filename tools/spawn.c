#include "tools/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <numaif.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum spawn_step { STEP_PARENT, STEP_PIN, STEP_NUMA, STEP_EXEC };

/* What the child writes to its pipe when it fails; nothing when its program runs. */
struct spawn_report {
  int step;
  int error;
};

int bus_spawner_init(struct bus_spawner *spawner, const char *directory)
{
  spawner->directory = directory;
  sigprocmask(SIG_SETMASK, NULL, &spawner->mask);
  /* Above the standard descriptors, also when they are closed: dup2 onto itself would leave it
   * close-on-exec. */
  int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  spawner->null_fd = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (fd >= 0)
    close(fd);
  if (spawner->null_fd < 0)
    return bus_error_set_errno("/dev/null: opening");
  if (setenv("SIGNAL_BUS", directory, 1) != 0)
    return bus_error_set_errno("setting SIGNAL_BUS");
  return BUS_OK;
}

void bus_spawner_close(struct bus_spawner *spawner)
{
  if (spawner->null_fd > 0)
    close(spawner->null_fd);
  spawner->null_fd = -1;
}

static int prefer_node(int node)
{
  unsigned long nodes[1024 / (8 * sizeof(unsigned long))] = {0};
  unsigned long bits = 8 * sizeof(unsigned long);
  nodes[(unsigned long)node / bits] = 1ul << ((unsigned long)node % bits);
  return set_mempolicy(MPOL_PREFERRED, nodes, 1024) == 0 ? 0 : -1;
}

/* Pins the process and prefers the memory of its node. Returns the step that failed, with errno,
 * else -1. */
static int place_process(const struct bus_config_member *member)
{
  if (member->core >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)member->core, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
      return STEP_PIN;
  }
  if (member->numa_node >= 0 && prefer_node(member->numa_node) != 0)
    return STEP_NUMA;
  return -1;
}

/* In the child: everything before exec. Returns the step that failed, with errno, else -1. */
static int prepare_child(const struct bus_spawner *spawner, const struct bus_config_member *member,
                         pid_t supervisor)
{
  /* A group of its own: Ctrl-C in the terminal reaches the supervisor alone, which then stops the
   * members in order. */
  setpgid(0, 0);
  /* The supervisor may have died between fork and prctl. */
  if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != supervisor)
    return STEP_PARENT;
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  signal(SIGHUP, SIG_DFL);
  dup2(spawner->null_fd, STDIN_FILENO);
  sigprocmask(SIG_SETMASK, &spawner->mask, NULL);
  return place_process(member);
}

static _Noreturn void run_child(const struct bus_spawner *spawner,
                                const struct bus_config_member *member,
                                const struct bus_config_words *words, pid_t supervisor, int report)
{
  struct spawn_report failure = {.step = prepare_child(spawner, member, supervisor)};
  if (failure.step < 0) {
    execvp(words->argv[0], words->argv);
    failure.step = STEP_EXEC;
  }
  failure.error = errno;
  ssize_t written = write(report, &failure, sizeof failure);
  _exit(written == (ssize_t)sizeof failure ? 127 : 126);
}

static int explain(const struct spawn_report *report, const struct bus_config_member *member,
                   const struct bus_config_words *words)
{
  errno = report->error;
  switch (report->step) {
  case STEP_PIN:
    return bus_error_set_errno("core=%d: cannot be pinned there (does the core exist, does this "
                               "process's cpuset hold it?)",
                               member->core);
  case STEP_NUMA:
    return bus_error_set_errno("numa_node=%d: memory there is refused (see: numactl --hardware)",
                               member->numa_node);
  case STEP_EXEC:
    return bus_error_set_errno("cannot run '%.256s' (check command= in line %u, and PATH)",
                               words->argv[0], member->line);
  default:
    return bus_error_set_errno("tying the child to its supervisor");
  }
}

/* Waits until the child runs its program (its end of the pipe closes) or says why not. */
static bool read_report(int fd, struct spawn_report *report)
{
  ssize_t got;
  do {
    got = read(fd, report, sizeof *report);
  } while (got < 0 && errno == EINTR);
  return got == (ssize_t)sizeof *report;
}

static int fork_child(const struct bus_spawner *spawner, const struct bus_config_member *member,
                      const struct bus_config_words *words, pid_t *pid)
{
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0)
    return bus_error_set_errno("pipe");
  pid_t supervisor = getpid();
  *pid = fork();
  if (*pid == 0)
    run_child(spawner, member, words, supervisor, ends[1]);
  close(ends[1]);
  int error = BUS_OK;
  struct spawn_report report;
  if (*pid < 0) {
    *pid = 0;
    error = bus_error_set_errno("fork");
  } else if (read_report(ends[0], &report)) {
    error = explain(&report, member, words);
    waitpid(*pid, NULL, 0); /* it has reported, and ends */
    *pid = 0;
  }
  close(ends[0]);
  return error;
}

int bus_spawn(const struct bus_spawner *spawner, const struct bus_config_member *member, pid_t *pid)
{
  *pid = 0;
  struct bus_config_words *words = malloc(sizeof *words);
  if (!words)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  int error = bus_config_split(member, spawner->directory, words);
  if (!error)
    error = fork_child(spawner, member, words, pid);
  free(words);
  return error;
}

/* Does not return when it works. */
static int exec_member(const struct bus_spawner *spawner, const struct bus_config_member *member,
                       struct bus_config_words *words)
{
  int error = bus_config_split(member, spawner->directory, words);
  if (error)
    return error;
  dup2(spawner->null_fd, STDIN_FILENO);
  struct spawn_report failure = {.step = place_process(member)};
  if (failure.step < 0) {
    execvp(words->argv[0], words->argv);
    failure.step = STEP_EXEC;
  }
  failure.error = errno;
  return explain(&failure, member, words);
}

int bus_spawn_exec(const char *directory, const struct bus_config_member *member)
{
  struct bus_spawner spawner;
  int error = bus_spawner_init(&spawner, directory);
  if (error)
    return error;
  struct bus_config_words *words = malloc(sizeof *words);
  error = words ? exec_member(&spawner, member, words)
                : bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  free(words);
  bus_spawner_close(&spawner);
  return error;
}
