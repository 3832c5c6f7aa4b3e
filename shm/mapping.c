#include "mapping.h"

#include "error.h"
#include "fault_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <numa.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/statfs.h>
#include <unistd.h>

/* Younger than Debian 12's libc headers. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define SMALL_PAGE_BYTES ((size_t)4096)

static bool is_hugetlbfs(int fd, uint64_t *page_bytes)
{
  struct statfs fs;
  if (fstatfs(fd, &fs) != 0 || (unsigned long)fs.f_type != HUGETLBFS_MAGIC)
    return false;
  *page_bytes = (uint64_t)fs.f_bsize;
  return true;
}

uint64_t bus_mapping_file_bytes(int fd, uint64_t bytes)
{
  uint64_t page_bytes = bytes >= BUS_HUGE_PAGE_BYTES / 2 ? BUS_HUGE_PAGE_BYTES : SMALL_PAGE_BYTES;
  is_hugetlbfs(fd, &page_bytes);
  return BUS_ALIGN_UP(bytes, page_bytes);
}

/* Maps at a 2 MiB boundary: reserves address space with room to spare, then places the file in it.
 */
static int map_aligned(struct bus_mapping *mapping, int fd, const char *path, uint64_t size,
                       int protection)
{
  size_t room = size + BUS_HUGE_PAGE_BYTES;
  unsigned char *hole =
      mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (hole == MAP_FAILED)
    return bus_error_set_errno("%s: reserving %zu bytes of address space", path, room);
  unsigned char *base = (unsigned char *)BUS_ALIGN_UP((uintptr_t)hole, BUS_HUGE_PAGE_BYTES);
  void *mapped = mmap(base, size, protection, MAP_SHARED | MAP_FIXED, fd, 0);
  if (mapped == MAP_FAILED) {
    int error = bus_error_set_errno("%s: mapping %llu bytes", path, (unsigned long long)size);
    munmap(hole, room);
    return error;
  }
  if (base > hole)
    munmap(hole, (size_t)(base - hole));
  unsigned char *end = base + BUS_ALIGN_UP(size, SMALL_PAGE_BYTES);
  if (end < hole + room)
    munmap(end, (size_t)(hole + room - end));
  mapping->base = base;
  mapping->size = size;
  mapping->truncated = 0;
  return BUS_OK;
}

/* Adds up the huge bytes of the smaps entries from `base` on; the kernel tells no other way: the
 * return value of MADV_COLLAPSE is 0 even where it did nothing. */
static uint64_t smaps_huge_bytes(const unsigned char *base, size_t size)
{
  FILE *smaps = fopen("/proc/self/smaps", "re");
  if (!smaps)
    return 0;
  char line[512];
  uint64_t huge_kib = 0;
  bool inside = false;
  while (fgets(line, sizeof line, smaps)) {
    unsigned long from, to, kib;
    if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
      inside =
          from >= (uintptr_t)base && to <= (uintptr_t)base + BUS_ALIGN_UP(size, SMALL_PAGE_BYTES);
    else if (inside && (sscanf(line, "ShmemPmdMapped: %lu", &kib) == 1 ||
                        sscanf(line, "Shared_Hugetlb: %lu", &kib) == 1 ||
                        sscanf(line, "Private_Hugetlb: %lu", &kib) == 1))
      huge_kib += kib;
  }
  fclose(smaps);
  return huge_kib * 1024;
}

static void note_backing(struct bus_mapping *mapping, int fd)
{
  uint64_t page_bytes;
  /* Reading smaps takes longer than all the rest of a restart; a smaller file is in no huge page.
   */
  mapping->huge_bytes =
      mapping->size < BUS_HUGE_PAGE_BYTES ? 0 : smaps_huge_bytes(mapping->base, mapping->size);
  if (is_hugetlbfs(fd, &page_bytes))
    mapping->backing = BUS_BACKING_HUGETLB;
  else
    mapping->backing = mapping->huge_bytes ? BUS_BACKING_TRANSPARENT_HUGE : BUS_BACKING_SMALL_PAGES;
}

static int place(const struct bus_mapping *mapping, const char *path, int numa_node)
{
  if (numa_node < 0)
    return BUS_OK;
  if (numa_available() < 0 || numa_node > numa_max_node())
    return bus_error_set(BUS_ERROR_INVALID, "%s: this machine has no NUMA node %d", path,
                         numa_node);
  unsigned long nodes[1024 / (8 * sizeof(unsigned long))] = {0};
  unsigned long bits = 8 * sizeof(unsigned long);
  nodes[(unsigned long)numa_node / bits] = 1ul << ((unsigned long)numa_node % bits);
  if (mbind(mapping->base, mapping->size, MPOL_BIND, nodes, 1024, 0) != 0)
    return bus_error_set_errno("%s: placing it on NUMA node %d", path, numa_node);
  return BUS_OK;
}

static int report_no_space(int fd, const char *path, uint64_t size)
{
  struct statfs fs;
  uint64_t page_bytes = 0;
  unsigned long long free_bytes = 0;
  if (fstatfs(fd, &fs) == 0)
    free_bytes = (unsigned long long)fs.f_bavail * (unsigned long long)fs.f_bsize;
  bool huge = is_hugetlbfs(fd, &page_bytes);
  return bus_error_set(BUS_ERROR_NO_SPACE,
                       "%s: needs %llu KiB, its file system has %llu KiB free; %s", path,
                       (unsigned long long)size / 1024, free_bytes / 1024,
                       huge ? "reserve more huge pages (hugepages.conf)"
                            : "enlarge it (mount -o remount,size=..) or use smaller rings");
}

/* Every page, now. The node must have been chosen before (place): fallocate follows it. */
static int allocate_pages(const struct bus_mapping *mapping, int fd, const char *path)
{
  if (fallocate(fd, 0, 0, (off_t)mapping->size) != 0) {
    if (errno == ENOSPC || errno == ENOMEM)
      return report_no_space(fd, path, mapping->size);
    if (errno != EOPNOTSUPP)
      return bus_error_set_errno("%s: allocating %zu bytes", path, mapping->size);
  }
  if (madvise(mapping->base, mapping->size, MADV_POPULATE_WRITE) != 0) {
    if (errno == EFAULT || errno == ENOMEM || errno == EHWPOISON)
      return report_no_space(fd, path, mapping->size);
    if (errno != EINVAL) /* EINVAL: a kernel before 5.14; the pages are allocated, not yet mapped */
      return bus_error_set_errno("%s: populating %zu bytes", path, mapping->size);
  }
  return BUS_OK;
}

int bus_mapping_open_owner(struct bus_mapping *mapping, int fd, const char *path, uint64_t size,
                           bool allocate, int numa_node, bool huge_pages)
{
  memset(mapping, 0, sizeof *mapping);
  if (allocate && ftruncate(fd, (off_t)size) != 0)
    return bus_error_set_errno("%s: setting its size to %llu", path, (unsigned long long)size);
  int error = map_aligned(mapping, fd, path, size, PROT_READ | PROT_WRITE);
  if (!error && allocate) {
    error = place(mapping, path, numa_node);
    if (!error)
      error = allocate_pages(mapping, fd, path);
  }
  if (error) {
    bus_mapping_close(mapping);
    return error;
  }
  if (huge_pages && size >= BUS_HUGE_PAGE_BYTES)
    madvise(mapping->base, mapping->size, MADV_COLLAPSE);
  note_backing(mapping, fd);
  return BUS_OK;
}

int bus_mapping_open_neighbour(struct bus_mapping *mapping, int fd, const char *path, uint64_t size)
{
  memset(mapping, 0, sizeof *mapping);
  int error = map_aligned(mapping, fd, path, size, PROT_READ);
  if (error)
    return error;
  error = bus_fault_guard_add(mapping->base, mapping->size, &mapping->truncated);
  if (error) {
    munmap(mapping->base, mapping->size);
    mapping->base = NULL;
    return bus_error_context(error, "%s", path);
  }
  madvise(mapping->base, mapping->size, MADV_POPULATE_READ); /* an optimisation; may be refused */
  return BUS_OK;
}

void bus_mapping_close(struct bus_mapping *mapping)
{
  if (!mapping->base)
    return;
  bus_fault_guard_remove(mapping->base);
  munmap(mapping->base, mapping->size);
  mapping->base = NULL;
}
