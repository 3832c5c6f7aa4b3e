#include "tools/bench/bench_process.h"

#include "shm/loop.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* After the first alarm the loops have this long to notice. */
#define GRACE_SECONDS 5u

struct bus_clock bench_clock;

static volatile sig_atomic_t timed_out;
static volatile pid_t last_child;
static pid_t owner; /* of the directory: children must not remove it */
static char directory_path[200];
static char member_paths[BENCH_MEMBERS_MAX][256];
static uint32_t member_path_count;

/* Only async-signal-safe calls: used by the alarm too. */
void bench_directory_clear(void)
{
  for (uint32_t i = 0; i < member_path_count; i++)
    unlink(member_paths[i]);
}

static void remove_directory(void)
{
  if (!directory_path[0] || getpid() != owner)
    return;
  bench_directory_clear();
  rmdir(directory_path);
}

static void on_alarm(int number)
{
  (void)number;
  if (timed_out) {
    if (last_child > 0)
      kill(last_child, SIGKILL);
    remove_directory();
    _exit(1);
  }
  timed_out = 1;
  bus_loop_request_stop();
  alarm(GRACE_SECONDS);
}

void bench_process_init(void)
{
  bus_loop_handle_signals();
  struct sigaction action = {0};
  action.sa_handler = on_alarm;
  sigemptyset(&action.sa_mask);
  sigaction(SIGALRM, &action, NULL);
}

bool bench_stopped(void)
{
  return bus_loop_stop_requested();
}

int bench_stop_error(void)
{
  if (!bench_stopped())
    return BUS_OK;
  if (timed_out)
    return bus_error_set(BUS_ERROR_IO,
                         "a repetition took longer than %u s; use a smaller --count, or cores that "
                         "nobody else keeps busy",
                         BENCH_TRIAL_SECONDS);
  return bus_error_set(BUS_ERROR_AGAIN, "stopped by a signal");
}

void bench_trial_begin(void)
{
  alarm(BENCH_TRIAL_SECONDS);
}

int bench_choose_cores(int cores[2], int needed)
{
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0)
    return bus_error_set_errno("asking for the cores that this process may use");
  for (int i = 0; i < needed; i++) {
    for (int core = 0; core < CPU_SETSIZE && cores[i] < 0; core++)
      if (CPU_ISSET(core, &allowed) && core != cores[1 - i])
        cores[i] = core;
    if (cores[i] < 0)
      return bus_error_set(BUS_ERROR_INVALID, "this benchmark needs %d cores of its own", needed);
    if (cores[i] >= CPU_SETSIZE || !CPU_ISSET(cores[i], &allowed))
      return bus_error_set(BUS_ERROR_INVALID, "core %d: this process may not use it", cores[i]);
  }
  if (needed == 2 && cores[0] == cores[1])
    return bus_error_set(BUS_ERROR_INVALID, "two processes that spin need two different cores");
  return BUS_OK;
}

/* An abstract socket name: the kernel frees it however the process ends, and nobody needs the right
 * to write any file. The descriptor stays open on purpose, in children too. */
int bench_wait_turn(void)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "\0signal-bus/bus-bench"};
  int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (descriptor < 0)
    return bus_error_set_errno("socket");
  bool told = false;
  while (bind(descriptor, (const struct sockaddr *)&address, sizeof address) != 0) {
    int error = errno == EADDRINUSE ? bench_stop_error() : bus_error_set_errno("bind");
    if (error) {
      close(descriptor);
      return error;
    }
    if (!told)
      fputs("bus-bench: waiting for another bus-bench to end\n", stderr);
    told = true;
    struct timespec pause = {0, 50000000};
    nanosleep(&pause, NULL);
  }
  return BUS_OK;
}

int bench_go_fifo(void)
{
  struct sched_param priority = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO, &priority) != 0)
    return bus_error_set_errno("SCHED_FIFO");
  return BUS_OK;
}

pid_t bench_fork(int child_core, int parent_core, int (*run)(void *context), void *context)
{
  /* The child starts on its own core: on the parent's it might never get to run. */
  int error = bus_pin_thread(child_core);
  if (error)
    return error;
  pid_t parent = getpid();
  fflush(NULL);
  pid_t child = fork();
  if (child < 0) {
    bus_error_set_errno("fork");
    bus_pin_thread(parent_core);
    return BUS_ERROR_NO_SPACE;
  }
  if (child == 0) {
    signal(SIGALRM, SIG_DFL);
    alarm(BENCH_TRIAL_SECONDS + GRACE_SECONDS);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent)
      _exit(1);
    error = run(context);
    if (error && !bench_stopped())
      fprintf(stderr, "bus-bench: core %d: %s\n", child_core, bus_error_message());
    _exit(error ? 1 : 0);
  }
  last_child = child;
  error = bus_pin_thread(parent_core);
  if (error)
    bench_reap(&child, true);
  return error ? error : child;
}

bool bench_child_is_running(pid_t *child)
{
  if (*child <= 0)
    return false;
  pid_t done = waitpid(*child, NULL, WNOHANG);
  if (done == 0 || (done < 0 && errno == EINTR))
    return true;
  *child = last_child = 0;
  return false;
}

void bench_reap(pid_t *child, bool terminate)
{
  if (terminate && *child > 0)
    kill(*child, SIGTERM);
  for (int waited_ms = 0; bench_child_is_running(child); waited_ms++) {
    if (waited_ms == 2000)
      kill(*child, SIGKILL);
    struct timespec pause = {0, 1000000};
    nanosleep(&pause, NULL);
  }
}

const char *bench_directory_make(const char *parent, const char *const *members, uint32_t count)
{
  if (count > BENCH_MEMBERS_MAX || strlen(parent) > 150) {
    bus_error_set(BUS_ERROR_INVALID, "%.150s: at most 150 characters, and %d members", parent,
                  BENCH_MEMBERS_MAX);
    return NULL;
  }
  owner = getpid();
  snprintf(directory_path, sizeof directory_path, "%.150s/bus-bench.%d", parent, (int)owner);
  if (mkdir(directory_path, 0700) != 0) {
    bus_error_set_errno("%s: creating the bus directory", directory_path);
    directory_path[0] = '\0';
    return NULL;
  }
  for (uint32_t i = 0; i < count; i++)
    snprintf(member_paths[i], sizeof member_paths[i], "%s/%s", directory_path, members[i]);
  member_path_count = count;
  atexit(remove_directory);
  return directory_path;
}

int bench_clock_init(void)
{
  return bus_clock_init(&bench_clock, 100);
}

void bench_breathe(void)
{
  struct timespec pause = {0, 100000000};
  nanosleep(&pause, NULL);
}

void bench_progress(const char *name, uint32_t done, uint32_t all)
{
  if (!isatty(STDERR_FILENO))
    return;
  fprintf(stderr, "\rbus-bench %s: %u of %u repetitions", name, done, all);
  if (done == all)
    fputs("\r\033[K", stderr);
}
