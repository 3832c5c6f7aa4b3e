#include "tools/ops/system_files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The roots and their prefix must leave room for what is joined to them. */
#define PREFIX_BYTES_MAX 200

int ops_system_init(struct ops_system *system, const char *root_prefix)
{
  *system = (struct ops_system){0};
  const char *prefix = root_prefix ? root_prefix : secure_getenv(OPS_SYSTEM_ROOT_VARIABLE);
  if (!prefix)
    prefix = "";
  if (strlen(prefix) > PREFIX_BYTES_MAX || (prefix[0] && prefix[0] != '/'))
    return bus_error_set(BUS_ERROR_INVALID,
                         "the root '%.60s' must be an absolute path of at most %d bytes "
                         "(" OPS_SYSTEM_ROOT_VARIABLE " is for tests; unset it)",
                         prefix, PREFIX_BYTES_MAX);
  snprintf(system->proc_root, OPS_PATH_BYTES, "%s/proc", prefix);
  snprintf(system->sys_root, OPS_PATH_BYTES, "%s/sys", prefix);
  snprintf(system->cgroup_root, OPS_PATH_BYTES, "%s/sys/fs/cgroup", prefix);
  snprintf(system->dev_root, OPS_PATH_BYTES, "%s/dev", prefix);
  snprintf(system->run_root, OPS_PATH_BYTES, "%s/run/signal-bus", prefix);
  system->injected = prefix[0] != '\0';
  return BUS_OK;
}

int ops_path_join(char *path, const char *root, const char *format, ...)
{
  va_list arguments;
  int root_bytes = snprintf(path, OPS_PATH_BYTES, "%s/", root);
  if (root_bytes < OPS_PATH_BYTES) {
    va_start(arguments, format);
    int name_bytes =
        vsnprintf(path + root_bytes, OPS_PATH_BYTES - (size_t)root_bytes, format, arguments);
    va_end(arguments);
    if (name_bytes >= 0 && name_bytes < OPS_PATH_BYTES - root_bytes)
      return BUS_OK;
  }
  path[0] = '\0';
  return bus_error_set(BUS_ERROR_INVALID, "%.200s/..: the path is longer than %d bytes", root,
                       OPS_PATH_BYTES - 1);
}

/* Reads until the end or until the buffer is full; returns the bytes, or -1 with errno. */
static ssize_t read_all(int fd, char *text, size_t size)
{
  size_t length = 0;
  while (length < size) {
    ssize_t bytes = read(fd, text + length, size - length);
    if (bytes < 0 && errno == EINTR)
      continue;
    if (bytes < 0)
      return -1;
    if (bytes == 0)
      break;
    length += (size_t)bytes;
  }
  return (ssize_t)length;
}

int ops_file_read(const char *path, char *text, size_t size)
{
  text[0] = '\0';
  /* O_NONBLOCK: a pipe put in a file's place must not hold us. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0)
    return bus_error_set_errno("%s: cannot be opened", path);
  ssize_t length = read_all(fd, text, size);
  int error = errno;
  close(fd);
  if (length < 0) {
    text[0] = '\0';
    errno = error;
    return bus_error_set_errno("%s: cannot be read", path);
  }
  if ((size_t)length >= size) {
    text[0] = '\0';
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: longer than the %zu bytes expected", path,
                         size - 1);
  }
  text[length] = '\0';
  if (strlen(text) != (size_t)length) {
    text[0] = '\0';
    return bus_error_set(BUS_ERROR_FORMAT, "%s: holds a NUL byte, which no text has", path);
  }
  while (length > 0 && strchr(" \t\r\n", text[length - 1]))
    text[--length] = '\0';
  return (int)length;
}

int ops_file_read_integer(const char *path, int64_t *value)
{
  char text[64], *end;
  int length = ops_file_read(path, text, sizeof text);
  *value = 0;
  if (length < 0)
    return length;
  errno = 0;
  intmax_t number = strtoimax(text, &end, 10);
  if (length == 0 || *end || errno)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: '%s' is not an integer", path, text);
  *value = number;
  return BUS_OK;
}

bool ops_file_exists(const char *path)
{
  struct stat status;
  return stat(path, &status) == 0;
}

/* What to do about errno `error` of a change. */
static const char *next_step(int error)
{
  switch (error) {
  case EACCES:
  case EPERM:
    return geteuid() != 0 ? "run it as root, with sudo"
                          : "the kernel keeps this one for itself, or a container forbids it";
  case EROFS:
    return "mounted read-only, as in a container: run it on the host";
  case ENOENT:
    return "this kernel does not have it";
  case EBUSY:
    return "something else holds it: see what uses it, then try again";
  case EINVAL:
    return "the kernel does not take this value here";
  case ENOSPC:
    return "a cpuset would be left without a CPU or memory node";
  case EEXIST:
    return "made by somebody else: choose another name";
  case ENOTEMPTY:
    return "it is not empty";
  default:
    return "see dmesg";
  }
}

static int refuse(const char *path, const char *doing, const char *value, int error)
{
  errno = error;
  if (!value)
    return bus_error_set_errno("%s: %s (%s)", path, doing, next_step(error));
  return bus_error_set_errno("%s: %s '%.200s' (%s)", path, doing, value, next_step(error));
}

static int before_change(struct ops_system *system, const char *path, const char *value)
{
  return system->before_change ? system->before_change(system->user, path, value) : 0;
}

static int finish_change(struct ops_system *system, const char *path, const char *value)
{
  if (system->after_change)
    system->after_change(system->user, path, value);
  return BUS_OK;
}

int ops_system_write(struct ops_system *system, const char *path, const char *value)
{
  char text[4096];
  int length = snprintf(text, sizeof text, "%s\n", value);
  if (length < 0 || (size_t)length >= sizeof text)
    return bus_error_set(BUS_ERROR_INVALID, "%s: the value '%.60s..' is too long", path, value);
  int error = before_change(system, path, value);
  if (error)
    return refuse(path, "cannot write", value, error);
  int fd = open(path, O_WRONLY | O_TRUNC | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  if (fd < 0)
    return refuse(path, "cannot be opened to write", value, errno);
  ssize_t written = write(fd, text, (size_t)length);
  error = written < 0 ? errno : written != length ? EIO : 0;
  if (close(fd) != 0 && !error)
    error = errno;
  if (error)
    return refuse(path, "cannot write", value, error);
  return finish_change(system, path, value);
}

int ops_system_make_directory(struct ops_system *system, const char *path)
{
  int error = before_change(system, path, NULL);
  if (error || mkdir(path, 0755) != 0)
    return refuse(path, "cannot be made", NULL, error ? error : errno);
  return finish_change(system, path, NULL);
}

int ops_system_remove_directory(struct ops_system *system, const char *path)
{
  int error = before_change(system, path, NULL);
  if (error || rmdir(path) != 0)
    return refuse(path, "cannot be removed", NULL, error ? error : errno);
  return finish_change(system, path, NULL);
}

static int is_name(const struct dirent *entry)
{
  return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

int ops_directory_list(const char *path, struct ops_names *names)
{
  struct dirent **entries;
  *names = (struct ops_names){0};
  int count = scandir(path, &entries, is_name, versionsort);
  if (count < 0)
    return bus_error_set_errno("%s: cannot be listed", path);
  bool complete = true;
  names->names = calloc((size_t)count + 1, sizeof *names->names);
  for (int i = 0; i < count; i++) {
    char *name = names->names ? strdup(entries[i]->d_name) : NULL;
    if (name)
      names->names[names->count++] = name;
    complete = complete && name;
    free(entries[i]);
  }
  free(entries);
  if (complete && names->names)
    return BUS_OK;
  ops_names_free(names);
  return bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", path);
}

void ops_names_free(struct ops_names *names)
{
  for (size_t i = 0; names->names && i < names->count; i++)
    free(names->names[i]);
  free(names->names);
  *names = (struct ops_names){0};
}
