/* system_files.h: reading and writing the kernel's small files (/proc, /sys, cgroups) under roots
 * that a test can replace.
 *
 * Everything in tools/ops that looks at the machine or changes it goes through here, so that each
 * refusal of the kernel can be put before it. Whatever such a file holds is hostile input: bounded,
 * terminated, never trusted. One thread at a time for one struct ops_system. */
#ifndef SIGNALBUS_OPS_SYSTEM_FILES_H
#define SIGNALBUS_OPS_SYSTEM_FILES_H

#include "shm/error.h"

#include <stddef.h>

#define OPS_PATH_BYTES 512

/* The environment variable that puts a directory before every root: for tests only. */
#define OPS_SYSTEM_ROOT_VARIABLE "SIGNAL_BUS_SYSTEM_ROOT"

struct ops_system {
  char proc_root[OPS_PATH_BYTES];   /* PREFIX/proc */
  char sys_root[OPS_PATH_BYTES];    /* PREFIX/sys */
  char cgroup_root[OPS_PATH_BYTES]; /* PREFIX/sys/fs/cgroup */
  char dev_root[OPS_PATH_BYTES];    /* PREFIX/dev */
  char run_root[OPS_PATH_BYTES];    /* PREFIX/run/signal-bus: files of our own */
  bool injected;                    /* PREFIX is not empty: nothing of this machine may change */

  /* For tests; NULL otherwise. before_change is called with each change that is about to happen
   * (`value` NULL: a directory is made or removed) and returns 0, or the errno that the change
   * shall fail with; after_change when it is done, so that a test can answer as a kernel would. */
  int (*before_change)(void *user, const char *path, const char *value);
  void (*after_change)(void *user, const char *path, const char *value);
  void *user;
};

/* Sets the roots. `root_prefix` NULL: the value of SIGNAL_BUS_SYSTEM_ROOT, else none. Returns
 * BUS_OK or BUS_ERROR_INVALID (too long, not absolute). */
int ops_system_init(struct ops_system *system, const char *root_prefix);

/* Writes "root/name" into path[OPS_PATH_BYTES], where name is formatted. Returns BUS_OK or
 * BUS_ERROR_INVALID (longer than the buffer; path is then ""). */
int ops_path_join(char *path, const char *root, const char *format, ...) BUS_PRINTF(3, 4);

/* Reads at most size-1 bytes, terminates them and takes white space off the end. Returns the length
 * (>= 0), or a negative error that names the path: BUS_ERROR_ABSENT, BUS_ERROR_DENIED,
 * BUS_ERROR_IO, BUS_ERROR_NO_SPACE (the file is longer), BUS_ERROR_FORMAT (a NUL byte in it); text
 * is then "". */
int ops_file_read(const char *path, char *text, size_t size);

/* Reads one decimal integer, alone in its file. Errors as above, and BUS_ERROR_FORMAT. */
int ops_file_read_integer(const char *path, int64_t *value);

/* True when something is there, readable or not. */
bool ops_file_exists(const char *path);

/* Writes value and a newline with one write(2); never makes a file. Returns BUS_OK or a negative
 * error whose message names path, value, what the kernel said and what to do. Success says only
 * that the kernel took the text: read back what it made of it. */
int ops_system_write(struct ops_system *system, const char *path, const char *value);

/* mkdir (mode 0755) and rmdir with the same hooks and messages. */
int ops_system_make_directory(struct ops_system *system, const char *path);
int ops_system_remove_directory(struct ops_system *system, const char *path);

struct ops_names {
  char **names;
  size_t count;
};

/* The names in a directory without "." and "..", numbers in them in the order of their values
 * (cpu2 before cpu10). Free with ops_names_free. Returns BUS_OK or a negative error that names the
 * path; *names is then empty. */
int ops_directory_list(const char *path, struct ops_names *names);
void ops_names_free(struct ops_names *names);

#endif
