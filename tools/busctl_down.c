#include "tools/busctl.h"

#include "shm/clock.h"
#include "shm/member.h"
#include "shm/options.h"
#include "tools/supervisor.h"

#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl down [--bus DIR] [--timeout SEC]\n"
    "\n"
    "Asks the supervisor that `up` runs to stop the bus, and waits until it has. Kills nothing.\n"
    "\n"
    "  --bus DIR      the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --timeout SEC  how long to wait, 1..86400; default 60\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0 stopped, 1 no supervisor, refused or still running, 2 usage.\n";

#define NS_PER_S 1000000000u

/* A descriptor of the supervisor's process, so that the signal reaches it and nobody who got its
 * pid since; the start time tells that the pid is still the one that signed the file. */
static int open_supervisor(const struct busctl_file *file)
{
  pid_t pid = (pid_t)file->live.pid;
  if (pid <= 1)
    return bus_error_set(BUS_ERROR_CORRUPT, "the supervisor's file names pid %d; not signalled",
                         (int)pid);
  int fd = (int)syscall(SYS_pidfd_open, pid, 0);
  if (fd < 0)
    return bus_error_set_errno("the supervisor's pid %d (of another container?)", (int)pid);
  if (bus_process_start_ticks(pid) == file->live.process_start_ticks)
    return fd;
  close(fd);
  return bus_error_set(BUS_ERROR_CORRUPT,
                       "pid %d is not the process that the supervisor's file names (another "
                       "container's?); not signalled",
                       (int)pid);
}

/* Until the process has ended; says each second what still lives. */
static int wait_for_end(struct busctl_scan *scan, int fd, unsigned pid, int64_t timeout_s)
{
  uint64_t end_ns = bus_clock_monotonic_ns() + (uint64_t)timeout_s * NS_PER_S;
  struct pollfd event = {.fd = fd, .events = POLLIN};
  while (poll(&event, 1, 1000) == 0) {
    if (busctl_scan_refresh(scan) != BUS_OK)
      return busctl_fail("down");
    puts("waiting for:");
    busctl_print_living(scan, stdout);
    fflush(stdout);
    if (bus_clock_monotonic_ns() >= end_ns) {
      fprintf(stderr,
              "signal-busctl down: still running after %" PRId64 " s; a second signal to the "
              "supervisor, pid %u, kills the members at once\n",
              timeout_s, pid);
      return BUSCTL_FAILED;
    }
  }
  printf("bus %s: down\n", scan->directory);
  return BUSCTL_OK;
}

static int down(struct busctl_scan *scan, int64_t timeout_s)
{
  const struct busctl_file *file = busctl_scan_member(scan, BUS_SUPERVISOR_MEMBER);
  if (!file || !busctl_file_lives(file) || strcmp(file->live.kind, BUS_SUPERVISOR_KIND)) {
    fprintf(stderr, "signal-busctl down: %s: no supervisor runs this bus; living members:\n",
            scan->directory);
    if (busctl_print_living(scan, stderr) == 0)
      fputs("  none\n", stderr);
    return BUSCTL_FAILED;
  }
  int fd = open_supervisor(file);
  if (fd < 0)
    return busctl_fail("down");
  int status;
  if (syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) == 0) {
    unsigned pid = file->live.pid; /* the wait reads the scan anew */
    printf("supervisor, pid %u: asked to stop\n", pid);
    fflush(stdout);
    status = wait_for_end(scan, fd, pid, timeout_s);
  } else {
    bus_error_set_errno("signalling the supervisor, pid %u (run it as the same user)",
                        file->live.pid);
    status = busctl_fail("down");
  }
  close(fd);
  return status;
}

int busctl_down(int argc, char **argv)
{
  static const struct option options[] = {{"timeout", required_argument, NULL, BUSCTL_OPTION_OWN},
                                          BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {
      .argc = argc, .argv = argv, .verb = "down", .help = help, .options = options};
  int64_t timeout_s = 60;
  while (busctl_line_next(&line))
    if (bus_parse_integer(optarg, 1, 86400, "--timeout", &timeout_s) != BUS_OK)
      busctl_line_refuse(&line);
  if (line.ended)
    return line.status;
  struct busctl_scan scan;
  if (busctl_scan_open(&scan, line.directory) != BUS_OK)
    return busctl_fail("down");
  int status = down(&scan, timeout_s);
  busctl_scan_close(&scan);
  return status;
}
