#include "shm/error.h"
#include "shm/mapping.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_file(char *path, size_t size)
{
  snprintf(path, size, "/dev/shm/signalbus-mapping-%d", (int)getpid());
  int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0600);
  cr_assert_geq(fd, 0);
  return fd;
}

Test(mapping, is_aligned_says_its_backing_and_is_shared)
{
  char path[128];
  int fd = open_file(path, sizeof path);
  struct bus_mapping owner, reader;
  uint64_t size = bus_mapping_file_bytes(fd, 3u << 20);
  cr_assert_eq(size, 4u << 20);
  cr_assert_eq(bus_mapping_open_owner(&owner, fd, path, size, true, -1, true), BUS_OK, "%s",
               bus_error_message());
  cr_assert_eq((uintptr_t)owner.base % BUS_HUGE_PAGE_BYTES, 0);
  cr_assert(owner.backing >= BUS_BACKING_SMALL_PAGES && owner.backing <= BUS_BACKING_HUGETLB);
  cr_assert_eq(owner.backing == BUS_BACKING_SMALL_PAGES, owner.huge_bytes == 0);
  cr_assert_leq(owner.huge_bytes, size);
  owner.base[size - 1] = 42;
  int reader_fd = open(path, O_RDONLY);
  cr_assert_eq(bus_mapping_open_neighbour(&reader, reader_fd, path, size), BUS_OK);
  cr_assert_eq(reader.base[size - 1], 42);
  bus_mapping_close(&reader);
  bus_mapping_close(&reader); /* twice is safe */
  bus_mapping_close(&owner);
  unlink(path);
}

Test(mapping, reads_zeros_after_truncation)
{
  char path[128];
  int fd = open_file(path, sizeof path);
  struct bus_mapping owner, reader;
  cr_assert_eq(bus_mapping_open_owner(&owner, fd, path, 65536, true, -1, true), BUS_OK);
  memset(owner.base, 1, 65536);
  cr_assert_eq(bus_mapping_open_neighbour(&reader, fd, path, 65536), BUS_OK);
  cr_assert_eq(ftruncate(fd, 0), 0);
  cr_assert_eq(((volatile unsigned char *)reader.base)[5000], 0);
  cr_assert_eq(reader.truncated, 1);
  bus_mapping_close(&reader);
  unlink(path);
}

Test(mapping, refuses_a_node_that_is_not_there)
{
  char path[128];
  int fd = open_file(path, sizeof path);
  struct bus_mapping owner;
  cr_assert_neq(bus_mapping_open_owner(&owner, fd, path, 65536, true, 1000, true), BUS_OK);
  cr_assert_not_null(strstr(bus_error_message(), "node 1000"));
  unlink(path);
}
