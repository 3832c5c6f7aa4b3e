/* bus_fixture.h: a bus directory of a test's own, gone when the test ends. */
#ifndef TESTS_BUS_FIXTURE_H
#define TESTS_BUS_FIXTURE_H

#include "shm/signalbus.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Criterion runs each test in a process of its own, so one directory for each process will do. */
static char fixture_directory[256];

static inline void fixture_create(void)
{
  snprintf(fixture_directory, sizeof fixture_directory, "/dev/shm/signalbus-test-%d",
           (int)getpid());
  cr_assert_eq(mkdir(fixture_directory, 0750), 0, "cannot create %s", fixture_directory);
}

static inline const char *fixture_path(const char *name)
{
  static char path[512];
  snprintf(path, sizeof path, "%s/%s", fixture_directory, name);
  return path;
}

static inline void fixture_remove(void)
{
  DIR *directory = opendir(fixture_directory);
  for (struct dirent *entry; directory && (entry = readdir(directory)) != NULL;)
    if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
      unlink(fixture_path(entry->d_name));
  if (directory)
    closedir(directory);
  rmdir(fixture_directory);
}

/* A member with these objects in the fixture's bus; the test fails when that fails. */
static inline struct bus_member *fixture_member(const char *name,
                                                const struct bus_object_spec *objects,
                                                uint32_t object_count, uint64_t start_position)
{
  struct bus_member_config config = {.directory = fixture_directory,
                                     .name = name,
                                     .kind = "test",
                                     .objects = objects,
                                     .object_count = object_count,
                                     .numa_node = -1,
                                     .core = -1,
                                     .start_position = start_position};
  struct bus_member *member;
  cr_assert_eq(bus_member_new(&config, &member), BUS_OK, "%s", bus_error_message());
  return member;
}

#endif
