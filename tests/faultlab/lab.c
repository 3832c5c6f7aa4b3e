#include "lab.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct lab_control *lab_control;
struct lab_verdict *lab_verdict;
uint64_t lab_seed = 1;
uint64_t lab_kills = 100000;
char lab_directory[LAB_PATH_BYTES];
static uint64_t random_state;

/* SplitMix64 (Steele, Lea and Flood). */
uint64_t lab_random(void)
{
  uint64_t z = random_state += 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

uint64_t lab_random_below(uint64_t limit)
{
  return lab_random() % limit;
}

void lab_random_seed(uint64_t seed)
{
  random_state = seed;
}

void lab_fail(const char *file, int line, const char *format, ...)
{
  uint32_t first = 0;
  if (__atomic_compare_exchange_n(&lab_verdict->failed, &first, 1, false, __ATOMIC_ACQ_REL,
                                  __ATOMIC_RELAXED)) {
    const char *base = strrchr(file, '/');
    int used = snprintf(lab_verdict->message, sizeof lab_verdict->message,
                        "%s:%d: ", base ? base + 1 : file, line);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(lab_verdict->message + used, sizeof lab_verdict->message - (size_t)used, format,
              arguments);
    va_end(arguments);
  }
  _exit(LAB_EXIT_FAILED);
}

void lab_count(const char *format, ...)
{
  size_t used = strlen(lab_verdict->counts);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(lab_verdict->counts + used, sizeof lab_verdict->counts - used, format, arguments);
  va_end(arguments);
}

pid_t lab_fork(void (*body)(void))
{
  pid_t parent = getpid();
  pid_t pid = fork();
  LAB_CHECK(pid >= 0, "fork: %s", strerror(errno));
  if (pid > 0)
    return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent)
    _exit(LAB_EXIT_FAILED);
  body();
  _exit(0);
}

void lab_kill(pid_t pid)
{
  int status;
  kill(pid, SIGKILL);
  LAB_CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
  LAB_CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
            "a worker ended by itself before it was killed: status %#x", (unsigned)status);
}

void lab_join(pid_t pid, const char *what)
{
  int status;
  LAB_CHECK(waitpid(pid, &status, 0) == pid, "waitpid: %s", strerror(errno));
  LAB_CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s ended with status %#x", what,
            (unsigned)status);
}

void lab_must_live(pid_t pid, const char *what)
{
  int status;
  LAB_CHECK(waitpid(pid, &status, WNOHANG) == 0, "%s died: status %#x", what, (unsigned)status);
}

const char *lab_path(const char *name)
{
  static char paths[4][LAB_PATH_BYTES + 260];
  static unsigned turn;
  char *path = paths[turn++ % BUS_COUNT_OF(paths)];
  snprintf(path, sizeof paths[0], "%s/%s", lab_directory, name);
  return path;
}

static void empty(const char *path)
{
  DIR *directory = opendir(path);
  for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL;)
    unlinkat(dirfd(directory), entry->d_name, 0); /* fails on directories, which may stay */
  if (directory)
    closedir(directory);
}

void lab_clean(void)
{
  if (mkdir(lab_directory, 0750) != 0)
    empty(lab_directory);
}

void lab_remove(void)
{
  const char *copy = lab_path(LAB_COPY);
  empty(copy);
  rmdir(copy);
  empty(lab_directory);
  rmdir(lab_directory);
}

void lab_pin(void)
{
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET((unsigned)sched_getcpu(), &set);
  sched_setaffinity(0, sizeof set, &set); /* only for speed */
}

void lab_sleep_us(uint64_t us)
{
  struct timespec pause = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};
  nanosleep(&pause, NULL);
}
