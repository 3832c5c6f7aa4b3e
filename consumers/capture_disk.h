/* capture_disk.h: what the recorder's writer asks of the operating system.
 *
 * A table of functions, so that tests can refuse, shorten and delay. The real one opens with
 * O_DIRECT where the file system takes it, and queues writes with io_uring where the kernel lets
 * it, else writes them at once with pwrite. One thread uses a disk. */
#ifndef SIGNALBUS_CAPTURE_DISK_H
#define SIGNALBUS_CAPTURE_DISK_H

#include "shm/error.h"

BUS_BEGIN_DECLARATIONS

#define BUS_DISK_ALIGNMENT 4096u /* of buffers, sizes and offsets */
#define BUS_DISK_QUEUE     64u   /* writes under way */

struct bus_disk_completion {
  uint64_t tag;
  int64_t result; /* bytes written, or -errno */
};

struct bus_disk {
  /* Each returns 0 (open: a descriptor), or -errno. */
  int (*open)(struct bus_disk *disk, const char *path, int flags); /* O_RDWR is added */
  int (*resize)(struct bus_disk *disk, int fd, uint64_t bytes);
  int (*allocate)(struct bus_disk *disk, int fd, uint64_t offset, uint64_t bytes);
  /* Queues a write; -EAGAIN: the queue is full, reap first. The buffer is the disk's until its
   * completion is reaped. */
  int (*submit)(struct bus_disk *disk, int fd, const void *buffer, uint32_t bytes, uint64_t offset,
                uint64_t tag);
  /* Up to `most` completions, waiting up to `wait_ns` for the first while writes are under way. */
  uint32_t (*reap)(struct bus_disk *disk, struct bus_disk_completion *completions, uint32_t most,
                   uint64_t wait_ns);
  void (*close)(struct bus_disk *disk);
  bool buffered; /* the last open was without O_DIRECT: it was refused */
  bool queued;   /* io_uring is in use */
};

/* The machine's own; `want_queue` false: pwrite even where io_uring works. Returns BUS_OK or
 * BUS_ERROR_NO_SPACE with a message; the caller closes it. */
int bus_disk_new(bool want_queue, struct bus_disk **disk);

BUS_END_DECLARATIONS

#endif
