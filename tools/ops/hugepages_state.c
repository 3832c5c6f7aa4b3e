/* The state file of the reserved pages:
 *
 *   boot <boot id>
 *   node <number> found <pages> set <pages>
 *
 * Rewritten whole and synced before each change: after a crash in between, `found` is right and
 * `set` is at worst a number that was never reached, which release reports as drift. */
#include "tools/ops/hugepages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_BYTES 64
#define TEXT_BYTES (OPS_NODES_MAX * 80 + 128)

static int read_boot_id(const struct ops_system *system, char boot_id[BOOT_BYTES])
{
  char path[OPS_PATH_BYTES];
  int error = ops_path_join(path, system->proc_root, "sys/kernel/random/boot_id");
  if (error)
    return error;
  int length = ops_file_read(path, boot_id, BOOT_BYTES);
  if (length >= 0 && (length == 0 || strpbrk(boot_id, " \t\n")))
    return bus_error_set(BUS_ERROR_FORMAT, "%s: is no boot id", path);
  return length < 0 ? length : BUS_OK;
}

static int put(struct ops_hugepages_state *state, int node, int64_t found, int64_t set)
{
  int at = 0;
  while (at < state->count && state->taken[at].node != node)
    at++;
  if (found == set) { /* nothing is taken from this node */
    if (at < state->count)
      state->taken[at] = state->taken[--state->count];
    return BUS_OK;
  }
  if (at == OPS_NODES_MAX)
    return bus_error_set(BUS_ERROR_NO_SPACE, "more than %d nodes hold reserved pages",
                         OPS_NODES_MAX);
  state->taken[at] = (struct ops_hugepages_taken){node, found, set};
  state->count += at == state->count;
  return BUS_OK;
}

static int parse_line(struct ops_hugepages_state *state, const char *line)
{
  int node, end = 0;
  int64_t found, set;
  if (sscanf(line, "node %4d found %10" SCNd64 " set %10" SCNd64 "%n", &node, &found, &set, &end) !=
          3 ||
      (line[end] != '\n' && line[end]) || node < 0 || found < 0 || set < 0 ||
      found > OPS_HUGEPAGES_MAX || set > OPS_HUGEPAGES_MAX)
    return bus_error_set(BUS_ERROR_FORMAT, "'%.*s' is no entry", (int)strcspn(line, "\n"), line);
  return put(state, node, found, set);
}

int ops_hugepages_state_parse(struct ops_hugepages_state *state, const char *text,
                              const char *boot_id)
{
  state->count = 0;
  if (!*text)
    return BUS_OK;
  size_t length = strcspn(text, "\n");
  if (strncmp(text, "boot ", 5) != 0 || length < 6)
    return bus_error_set(BUS_ERROR_FORMAT, "does not begin with a boot id");
  if (length - 5 != strlen(boot_id) || strncmp(text + 5, boot_id, length - 5) != 0)
    return BUS_OK;
  int error = BUS_OK;
  for (const char *line = text + length; *line && !error; line += strcspn(line, "\n")) {
    line += strspn(line, "\n"); /* blank lines are what is left of a longer text */
    if (*line)
      error = parse_line(state, line);
  }
  if (error)
    state->count = 0;
  return error;
}

static int state_path(const struct ops_system *system, char *path)
{
  return ops_path_join(path, system->run_root, "hugepages");
}

static int open_locked(const struct ops_system *system, struct ops_hugepages_state *state)
{
  char path[OPS_PATH_BYTES];
  int error = state_path(system, path);
  if (error)
    return error;
  if (mkdir(system->run_root, 0755) != 0 && errno != EEXIST)
    return bus_error_set_errno("%s: cannot be made (run it as root)", system->run_root);
  state->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (state->fd < 0)
    return bus_error_set_errno("%s: cannot be opened (run it as root)", path);
  if (flock(state->fd, LOCK_EX | LOCK_NB) == 0)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_BUSY, "%s: another `signal-busctl hugepages` is at work; wait",
                       path);
}

static int read_state(const struct ops_system *system, struct ops_hugepages_state *state)
{
  char path[OPS_PATH_BYTES], text[TEXT_BYTES], boot_id[BOOT_BYTES];
  int error = read_boot_id(system, boot_id);
  if (!error)
    error = state_path(system, path);
  if (error)
    return error;
  int length = ops_file_read(path, text, sizeof text);
  error = length < 0 ? length : ops_hugepages_state_parse(state, text, boot_id);
  if (error == BUS_ERROR_FORMAT)
    bus_error_context(error, "%s (damaged: see `hugepages show`, then remove the file)", path);
  return error;
}

int ops_hugepages_state_read(const struct ops_system *system, struct ops_hugepages_state *state)
{
  *state = (struct ops_hugepages_state){.fd = -1};
  int error = read_state(system, state);
  return error == BUS_ERROR_ABSENT ? BUS_OK : error;
}

int ops_hugepages_state_open(const struct ops_system *system, struct ops_hugepages_state *state)
{
  *state = (struct ops_hugepages_state){.fd = -1};
  int error = open_locked(system, state);
  if (!error)
    error = read_state(system, state);
  if (error)
    ops_hugepages_state_close(state);
  return error;
}

int ops_hugepages_state_put(const struct ops_system *system, struct ops_hugepages_state *state,
                            int node, int64_t found, int64_t set)
{
  char text[TEXT_BYTES], boot_id[BOOT_BYTES];
  int error = read_boot_id(system, boot_id);
  if (!error)
    error = put(state, node, found, set);
  if (error)
    return error;
  memset(text, '\n', sizeof text);
  size_t length = (size_t)snprintf(text, sizeof text, "boot %s\n", boot_id);
  for (int i = 0; i < state->count; i++)
    length += (size_t)snprintf(text + length, sizeof text - length,
                               "node %d found %" PRId64 " set %" PRId64 "\n", state->taken[i].node,
                               state->taken[i].found, state->taken[i].set);
  text[length] = '\n'; /* snprintf's NUL */
  /* One write, as long as the old text: a kill leaves the old one or the new one. */
  struct stat status;
  if (fstat(state->fd, &status) != 0)
    return bus_error_set_errno("%s/hugepages: cannot be looked at", system->run_root);
  if (status.st_size > (off_t)length)
    length = (size_t)status.st_size < sizeof text ? (size_t)status.st_size : sizeof text - 1;
  if (pwrite(state->fd, text, length, 0) != (ssize_t)length || fsync(state->fd) != 0)
    return bus_error_set_errno("%s/hugepages: cannot be written", system->run_root);
  return BUS_OK;
}

const struct ops_hugepages_taken *ops_hugepages_state_find(const struct ops_hugepages_state *state,
                                                           int node)
{
  for (int i = 0; i < state->count; i++)
    if (state->taken[i].node == node)
      return &state->taken[i];
  return NULL;
}

void ops_hugepages_state_close(struct ops_hugepages_state *state)
{
  if (state->fd >= 0)
    close(state->fd); /* and so unlocks it */
  state->fd = -1;
}
