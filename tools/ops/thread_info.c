#include "tools/ops/thread_info.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the flags in /proc/PID/stat; part of the kernel's ABI since ps shows them. */
#define FLAG_KERNEL_THREAD  0x00200000u
#define FLAG_NO_SETAFFINITY 0x04000000u

#define STAT_BYTES          1024
#define STATUS_BYTES        8192

static const char cpus_key[] = "\nCpus_allowed_list:";

/* "PID (name) S 1 2 ..": the name may hold anything, so the last ')' ends it. */
static int parse_stat(const char *path, char *text, struct ops_thread *thread)
{
  char *open = strchr(text, '('), *close = strrchr(text, ')');
  unsigned flags;
  if (!open || !close || close < open ||
      sscanf(close + 1,
             " %*c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %" SCNu64,
             &flags, &thread->start_ticks) != 2)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: not what a kernel writes", path);
  *close = '\0';
  snprintf(thread->name, sizeof thread->name, "%.31s", open + 1);
  for (char *at = thread->name; *at; at++)
    if (*at < 0x20 || *at > 0x7e)
      *at = '?';
  thread->kernel = flags & FLAG_KERNEL_THREAD;
  thread->fixed = flags & FLAG_NO_SETAFFINITY;
  return BUS_OK;
}

static int parse_status(const char *path, const char *text, struct ops_thread *thread)
{
  char list[OPS_CPU_LIST_BYTES];
  const char *at = strstr(text, cpus_key);
  if (!at)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: no Cpus_allowed_list", path);
  at += sizeof cpus_key - 1;
  size_t length = strcspn(at, "\n");
  if (length >= sizeof list)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: Cpus_allowed_list is too long", path);
  memcpy(list, at, length);
  list[length] = '\0';
  return ops_cpu_list_parse(&thread->cpus, list, path);
}

/* An ended thread's files are gone, or say ESRCH when they were open. */
static int read_text(const char *path, char *text, size_t size)
{
  errno = 0;
  int length = ops_file_read(path, text, size);
  if (length < 0 && !ops_file_exists(path))
    return bus_error_set(BUS_ERROR_ABSENT, "%s: the thread has ended", path);
  return length < 0 ? length : BUS_OK;
}

int ops_thread_read(const struct ops_system *system, pid_t pid, pid_t tid,
                    struct ops_thread *thread)
{
  char path[OPS_PATH_BYTES], stat_text[STAT_BYTES], status_text[STATUS_BYTES];
  int error;
  *thread = (struct ops_thread){.pid = pid, .tid = tid};
  if ((error = ops_path_join(path, system->proc_root, "%d/task/%d/stat", pid, tid)) != BUS_OK ||
      (error = read_text(path, stat_text, sizeof stat_text)) != BUS_OK ||
      (error = parse_stat(path, stat_text, thread)) != BUS_OK)
    return error;
  if ((error = ops_path_join(path, system->proc_root, "%d/task/%d/status", pid, tid)) != BUS_OK ||
      (error = read_text(path, status_text, sizeof status_text)) != BUS_OK)
    return error;
  return parse_status(path, status_text, thread);
}

/* Puts `list` in place of the one in a status file that a test made. */
static int rewrite_status(const char *path, const char *list)
{
  char text[STATUS_BYTES];
  int length = ops_file_read(path, text, sizeof text);
  char *key = length < 0 ? NULL : strstr(text, cpus_key);
  if (!key)
    return length < 0 ? length : bus_error_set(BUS_ERROR_FORMAT, "%s: no Cpus_allowed_list", path);
  char *rest = strchr(key + 1, '\n');
  FILE *file = fopen(path, "we");
  if (!file)
    return bus_error_set_errno("%s: cannot be opened to write", path);
  fprintf(file, "%.*s%s\t%s%s\n", (int)(key - text), text, cpus_key, list, rest ? rest : "");
  return fclose(file) == 0 ? BUS_OK : bus_error_set_errno("%s: cannot be written", path);
}

static int set_affinity(pid_t tid, const struct ops_cpu_list *cpus)
{
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu = ops_cpu_list_next(cpus, 0); cpu >= 0; cpu = ops_cpu_list_next(cpus, cpu + 1))
    CPU_SET((size_t)cpu, &set);
  return sched_setaffinity(tid, sizeof set, &set) == 0 ? 0 : errno;
}

int ops_thread_set_cpus(struct ops_system *system, const struct ops_thread *thread,
                        const struct ops_cpu_list *cpus)
{
  char path[OPS_PATH_BYTES], list[OPS_CPU_LIST_BYTES];
  int error = ops_path_join(path, system->proc_root, "%d/task/%d/status", thread->pid, thread->tid);
  if (error != BUS_OK)
    return error;
  ops_cpu_list_format(cpus, list, sizeof list);
  int refused = system->before_change ? system->before_change(system->user, path, list) : 0;
  if (!refused && system->injected && (error = rewrite_status(path, list)) != BUS_OK)
    return error;
  if (!refused && !system->injected)
    refused = set_affinity(thread->tid, cpus);
  if (refused) {
    errno = refused;
    return bus_error_set_errno("%s (thread %d of process %d): cannot be put on CPUs '%s'",
                               thread->name, thread->tid, thread->pid, list);
  }
  if (system->after_change)
    system->after_change(system->user, path, list);
  return BUS_OK;
}

void ops_thread_limit(const struct ops_system *system, struct ops_thread *thread)
{
  char path[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list online;
  if (ops_path_join(path, system->sys_root, "devices/system/cpu/online") == BUS_OK &&
      ops_file_read(path, text, sizeof text) > 0 &&
      ops_cpu_list_parse(&online, text, path) == BUS_OK &&
      ops_cpu_list_intersects(&online, &thread->cpus))
    thread->cpus = ops_cpu_list_and(&online, &thread->cpus);
}

static int parse_id(const char *name, pid_t *id)
{
  char *end;
  errno = 0;
  long number = strtol(name, &end, 10);
  *id = (pid_t)number;
  return *name >= '1' && *name <= '9' && !*end && !errno && number <= INT32_MAX;
}

static int visit_process(const struct ops_system *system, pid_t pid,
                         int (*visit)(void *user, const struct ops_thread *thread), void *user)
{
  char path[OPS_PATH_BYTES];
  struct ops_names tasks;
  struct ops_thread thread;
  int status = 0;
  pid_t tid;
  if (ops_path_join(path, system->proc_root, "%d/task", pid) != BUS_OK ||
      ops_directory_list(path, &tasks) != BUS_OK)
    return 0;
  for (size_t i = 0; i < tasks.count && status == 0; i++)
    if (parse_id(tasks.names[i], &tid) && ops_thread_read(system, pid, tid, &thread) == BUS_OK)
      status = visit(user, &thread);
  ops_names_free(&tasks);
  return status;
}

int ops_thread_visit(const struct ops_system *system,
                     int (*visit)(void *user, const struct ops_thread *thread), void *user)
{
  struct ops_names processes;
  pid_t pid;
  int status = ops_directory_list(system->proc_root, &processes);
  for (size_t i = 0; i < processes.count && status == 0; i++)
    if (parse_id(processes.names[i], &pid))
      status = visit_process(system, pid, visit, user);
  ops_names_free(&processes);
  return status;
}
