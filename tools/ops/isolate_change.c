#include "tools/ops/isolate_change.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PROCESSES_BYTES (1u << 20)
/* Processes that fork while they are moved leave children behind: move those too, but not forever.
 */
#define MOVE_PASSES_MAX 100
/* One that is just starting or ending cannot be moved for a moment. */
#define MOVE_PASSES_IDLE_MAX 20

static const char *const kind_names[] = {"write", "directory", "affinity", "move"};
static const char *const format_names[] = {"text", "list", "mask", "choice", "token"};
static const char *const state_names[] = {"planned", "already", "done",     "pending",
                                          "failed",  "gone",    "restored", "drifted"};

const char *ops_change_kind_name(enum ops_change_kind kind)
{
  return kind_names[kind];
}

const char *ops_value_format_name(enum ops_value_format format)
{
  return format_names[format];
}

const char *ops_change_state_name(enum ops_change_state state)
{
  return state_names[state];
}

int ops_change_kind_parse(const char *name)
{
  for (size_t i = 0; i < BUS_COUNT_OF(kind_names); i++)
    if (!strcmp(name, kind_names[i]))
      return (int)i;
  return -1;
}

int ops_value_format_parse(const char *name)
{
  for (size_t i = 0; i < BUS_COUNT_OF(format_names); i++)
    if (!strcmp(name, format_names[i]))
      return (int)i;
  return -1;
}

/* "always [madvise] never" is "madvise". */
static void keep_choice(char *value)
{
  char *open = strchr(value, '['), *close = open ? strchr(open, ']') : NULL;
  if (!close)
    return;
  size_t length = (size_t)(close - open) - 1;
  memmove(value, open + 1, length);
  value[length] = '\0';
}

/* "cpu cpuset memory" is "cpuset", "cpu" is "". */
static void keep_token(char *value, const char *token)
{
  size_t length = strlen(token);
  for (const char *at = value; (at = strstr(at, token)); at += length)
    if ((at == value || at[-1] == ' ') && (at[length] == ' ' || !at[length])) {
      memmove(value, at, length);
      value[length] = '\0';
      return;
    }
  value[0] = '\0';
}

static int read_affinity(struct ops_system *system, const struct ops_change *change, char *value)
{
  struct ops_thread thread;
  int error = ops_thread_read(system, change->pid, change->tid, &thread);
  if (error != BUS_OK)
    return error;
  if (thread.start_ticks != change->start_ticks)
    return bus_error_set(BUS_ERROR_ABSENT, "thread %d is not the one it was", change->tid);
  ops_thread_limit(system, &thread);
  ops_cpu_list_format(&thread.cpus, value, OPS_VALUE_BYTES);
  return BUS_OK;
}

int ops_change_read(struct ops_system *system, const struct ops_change *change, char *value)
{
  value[0] = '\0';
  if (change->kind == OPS_CHANGE_AFFINITY)
    return read_affinity(system, change, value);
  if (change->kind == OPS_CHANGE_DIRECTORY) {
    strcpy(value, ops_file_exists(change->path) ? "made" : "absent");
    return BUS_OK;
  }
  int length = ops_file_read(change->path, value, OPS_VALUE_BYTES);
  if (length < 0)
    return length;
  if (change->format == OPS_VALUE_CHOICE)
    keep_choice(value);
  if (change->format == OPS_VALUE_TOKEN)
    keep_token(value, change->wanted);
  return BUS_OK;
}

bool ops_change_same(const struct ops_change *change, const char *a, const char *b)
{
  struct ops_cpu_list first, second;
  if (!strcmp(a, b))
    return true;
  if (change->format == OPS_VALUE_LIST || change->kind == OPS_CHANGE_AFFINITY)
    return ops_cpu_list_parse(&first, a, "") == BUS_OK &&
           ops_cpu_list_parse(&second, b, "") == BUS_OK && ops_cpu_list_equal(&first, &second);
  if (change->format == OPS_VALUE_MASK)
    return ops_cpu_list_parse_mask(&first, a, "") == BUS_OK &&
           ops_cpu_list_parse_mask(&second, b, "") == BUS_OK && ops_cpu_list_equal(&first, &second);
  return false;
}

static int set_affinity(struct ops_system *system, const struct ops_change *change,
                        const char *value)
{
  struct ops_cpu_list cpus;
  struct ops_thread thread = {.pid = change->pid, .tid = change->tid};
  snprintf(thread.name, sizeof thread.name, "%.31s", change->label);
  int error = ops_cpu_list_parse(&cpus, value, change->label);
  return error != BUS_OK ? error : ops_thread_set_cpus(system, &thread, &cpus);
}

/* A process that is just ending keeps its cgroup busy for a moment. */
static int remove_directory(struct ops_system *system, const char *path)
{
  int error = BUS_OK;
  for (int i = 0; i < 50; i++) {
    error = ops_system_remove_directory(system, path);
    if (error == BUS_OK || system->injected)
      break;
    nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
  }
  return error;
}

/* The processes of a cgroup as text, to be freed; NULL with a message. */
static char *read_processes(const char *cgroup)
{
  char path[OPS_PATH_BYTES];
  char *text = malloc(PROCESSES_BYTES);
  if (!text) {
    bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    return NULL;
  }
  if (ops_path_join(path, cgroup, "cgroup.procs") != BUS_OK ||
      ops_file_read(path, text, PROCESSES_BYTES) < 0) {
    free(text);
    return NULL;
  }
  return text;
}

/* The next process in `*at` that is there and not the kernel's, false at the end. */
static bool next_process(const struct ops_system *system, char **at, struct ops_thread *process)
{
  for (char *end;; *at = end) {
    pid_t pid = (pid_t)strtol(*at, &end, 10);
    if (end == *at)
      return false;
    if (pid > 0 && ops_thread_read(system, pid, pid, process) == BUS_OK && !process->kernel) {
      *at = end;
      return true;
    }
  }
}

int ops_cgroup_count(const struct ops_system *system, const char *path, struct ops_thread *first)
{
  struct ops_thread process;
  char *text = read_processes(path), *at = text;
  int count = 0;
  if (!text)
    return ops_file_exists(path) ? BUS_ERROR_IO : BUS_ERROR_ABSENT;
  for (; next_process(system, &at, &process); count++)
    if (count == 0 && first)
      *first = process;
  free(text);
  return count;
}

/* One pass; *moved counts, *stuck those that are still there and cannot be moved. */
static int move_pass(struct ops_system *system, const char *from, const char *procs, int *moved,
                     int *stuck)
{
  struct ops_thread process, again;
  char id[16], *text = read_processes(from), *at = text;
  *moved = *stuck = 0;
  if (!text)
    return BUS_ERROR_IO;
  while (next_process(system, &at, &process)) {
    snprintf(id, sizeof id, "%d", process.pid);
    if (ops_system_write(system, procs, id) == BUS_OK)
      ++*moved;
    else if (ops_thread_read(system, process.pid, process.pid, &again) == BUS_OK)
      ++*stuck;
  }
  free(text);
  return BUS_OK;
}

static int move(struct ops_system *system, const char *from, const char *to)
{
  char procs[OPS_PATH_BYTES];
  struct ops_thread process;
  int moved = 1, stuck = 0, idle = 0;
  int error = ops_path_join(procs, to, "cgroup.procs");
  for (int pass = 0; error == BUS_OK && moved + stuck > 0 && pass < MOVE_PASSES_MAX &&
                     idle < MOVE_PASSES_IDLE_MAX;
       pass++) {
    error = move_pass(system, from, procs, &moved, &stuck);
    idle = moved ? 0 : idle + 1;
    if (stuck > 0 && !system->injected)
      nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  }
  if (error != BUS_OK || (stuck == 0 && moved == 0))
    return error;
  int left = ops_cgroup_count(system, from, &process);
  if (left <= 0)
    return left;
  char *reason = strdup(bus_error_message());
  error = bus_error_set(BUS_ERROR_BUSY, "%d processes stay in %s, the first is %s, pid %d: %.300s",
                        left, from, process.name, process.pid, reason ? reason : "");
  free(reason);
  return error;
}

int ops_change_set(struct ops_system *system, const struct ops_change *change, const char *value)
{
  char token[OPS_VALUE_BYTES + 1];
  switch (change->kind) {
  case OPS_CHANGE_DIRECTORY:
    return strcmp(value, "made") ? remove_directory(system, change->path)
                                 : ops_system_make_directory(system, change->path);
  case OPS_CHANGE_AFFINITY:
    return set_affinity(system, change, value);
  case OPS_CHANGE_MOVE:
    return move(system, strcmp(value, change->wanted) ? change->wanted : change->found, value);
  case OPS_CHANGE_WRITE:
    break;
  }
  if (change->format != OPS_VALUE_TOKEN)
    return ops_system_write(system, change->path, value);
  snprintf(token, sizeof token, "%c%s", *value ? '+' : '-', change->wanted);
  return ops_system_write(system, change->path, token);
}
