#include "tools/ops/isolate_command.h"

#include "shm/options.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool executable(const char *path)
{
  struct stat status;
  return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

static int find_program(struct ops_command *command, const char *name)
{
  const char *path = getenv("PATH");
  if (strchr(name, '/')) {
    if ((size_t)snprintf(command->path, sizeof command->path, "%s", name) < sizeof command->path &&
        executable(name))
      return BUS_OK;
    return bus_error_set(BUS_ERROR_ABSENT, "%.300s: no such program, or not executable", name);
  }
  for (const char *at = path ? path : "/usr/bin:/bin"; *at; at += *at == ':') {
    size_t length = strcspn(at, ":");
    if (length > 0 &&
        (size_t)snprintf(command->path, sizeof command->path, "%.*s/%s", (int)length, at, name) <
            sizeof command->path &&
        executable(command->path))
      return BUS_OK;
    at += length;
  }
  return bus_error_set(BUS_ERROR_ABSENT, "%.300s: no such program in PATH", name);
}

static void take_entry(struct ops_command *command, const struct passwd *entry)
{
  command->uid = entry->pw_uid;
  command->gid = entry->pw_gid;
  snprintf(command->user, sizeof command->user, "%s", entry->pw_name);
  snprintf(command->home, sizeof command->home, "%s", entry->pw_dir);
}

static int find_user(struct ops_command *command, const char *user)
{
  const char *sudo_uid = getenv("SUDO_UID"), *sudo_gid = getenv("SUDO_GID");
  int64_t uid, gid;
  if (user) {
    const struct passwd *entry = getpwnam(user);
    if (!entry)
      return bus_error_set(BUS_ERROR_ABSENT, "--user %.60s: no such user; see: getent passwd",
                           user);
    take_entry(command, entry);
    command->drops = true;
    return BUS_OK;
  }
  if (!sudo_uid || !sudo_gid)
    return BUS_OK;
  if (bus_parse_integer(sudo_uid, 0, UINT32_MAX - 1, "SUDO_UID", &uid) != BUS_OK ||
      bus_parse_integer(sudo_gid, 0, UINT32_MAX - 1, "SUDO_GID", &gid) != BUS_OK)
    return BUS_ERROR_INVALID;
  const struct passwd *entry = getpwuid((uid_t)uid);
  if (entry)
    take_entry(command, entry);
  command->uid = (uid_t)uid;
  command->gid = (gid_t)gid;
  command->drops = uid != 0;
  return BUS_OK;
}

int ops_command_init(struct ops_command *command, char **argv, const char *user)
{
  *command = (struct ops_command){.argv = argv};
  int error = find_program(command, argv[0]);
  return error != BUS_OK ? error : find_user(command, user);
}

static int join(struct ops_isolation *run)
{
  char path[OPS_PATH_BYTES], id[16];
  struct ops_thread self = {.pid = getpid(), .tid = getpid(), .name = "this program"};
  if (run->cgroup[0]) {
    int error = ops_path_join(path, run->cgroup, "cgroup.procs");
    snprintf(id, sizeof id, "%d", getpid());
    if (error != BUS_OK || (error = ops_system_write(run->system, path, id)) != BUS_OK)
      return error;
  }
  return run->system->injected ? BUS_OK : ops_thread_set_cpus(run->system, &self, &run->cpus);
}

/* The request lasts while the descriptor is open: it is left to the program, which need not know.
 */
static int hold_latency(const struct ops_isolation *run)
{
  char path[OPS_PATH_BYTES];
  int32_t latency_us = 0;
  int error = ops_path_join(path, run->system->dev_root, "cpu_dma_latency");
  if (error != BUS_OK)
    return error;
  int fd = open(path, O_WRONLY); /* stays open across exec */
  if (fd < 0 || write(fd, &latency_us, sizeof latency_us) != sizeof latency_us) {
    error = bus_error_set_errno("%s: cannot be held at 0 us", path);
    if (fd >= 0)
      close(fd);
    return error;
  }
  return BUS_OK;
}

static int drop_root(const struct ops_command *command)
{
  if (!command->drops)
    return BUS_OK;
  int groups =
      command->user[0] ? initgroups(command->user, command->gid) : setgroups(1, &command->gid);
  if (groups != 0 || setresgid(command->gid, command->gid, command->gid) != 0 ||
      setresuid(command->uid, command->uid, command->uid) != 0)
    return bus_error_set_errno("cannot become uid %u, gid %u", command->uid, command->gid);
  if (command->uid != 0 && setuid(0) == 0)
    return bus_error_set(BUS_ERROR_DENIED, "uid %u can become root again; not started",
                         command->uid);
  if (command->user[0]) {
    setenv("USER", command->user, 1);
    setenv("LOGNAME", command->user, 1);
    setenv("HOME", command->home, 1);
  }
  return BUS_OK;
}

int ops_command_exec(struct ops_isolation *run, const struct ops_command *command)
{
  int error;
  if ((error = join(run)) != BUS_OK ||
      (command->hold_latency && (error = hold_latency(run)) != BUS_OK) ||
      (error = drop_root(command)) != BUS_OK)
    return error;
  execv(command->path, command->argv);
  return bus_error_set_errno("%.300s: cannot be started", command->path);
}
