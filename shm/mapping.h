/* mapping.h: maps a bus file, in the largest pages that the machine gives, and says which it got.
 *
 * The order tried: hugetlbfs when the file lives on one; else tmpfs collapsed into 2 MiB pages
 * (MADV_COLLAPSE, which needs 2 MiB-aligned maps in every process); else 4 KiB pages. */
#ifndef SIGNALBUS_MAPPING_H
#define SIGNALBUS_MAPPING_H

#include "layout.h"

BUS_BEGIN_DECLARATIONS

struct bus_mapping {
  unsigned char *base; /* 2 MiB aligned */
  size_t size;         /* bytes of the file; the map is rounded up to whole pages */
  uint32_t backing;    /* enum bus_backing, what was achieved */
  uint32_t truncated;  /* set when a neighbour cut the file short: the rest reads as zeros */
  uint64_t huge_bytes; /* how much is in huge pages */
};

/* Size that a file of `bytes` must have on the file system of `fd`: whole huge pages on hugetlbfs
 * and from 1 MiB up, else whole 4 KiB pages. */
BUS_EXPORT uint64_t bus_mapping_file_bytes(int fd, uint64_t bytes);

/* Maps `size` bytes of `fd` read-write, for the file's owner. With `allocate`, sets the file's
 * size, places it on `numa_node` (-1: anywhere), allocates every page now (so that no later touch
 * can fail) and collapses it into huge pages where `huge_pages` is set. Returns BUS_OK or a
 * negative error: BUS_ERROR_NO_SPACE names the file system's free space. `path` is for messages. */
BUS_EXPORT int bus_mapping_open_owner(struct bus_mapping *mapping, int fd, const char *path,
                                      uint64_t size, bool allocate, int numa_node, bool huge_pages);

/* Maps `size` bytes of `fd` read-only, for a neighbour, and faults every page in. Guards the map:
 * if the file is later truncated under it, the lost pages read as zeros and `truncated` is set,
 * instead of the process dying of SIGBUS. `mapping` must stay where it is until bus_mapping_close.
 */
BUS_EXPORT int bus_mapping_open_neighbour(struct bus_mapping *mapping, int fd, const char *path,
                                          uint64_t size);

/* Unmaps. Safe on a zeroed or closed mapping. */
BUS_EXPORT void bus_mapping_close(struct bus_mapping *mapping);

BUS_END_DECLARATIONS

#endif
