#include "consumers/capture_disk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_MODE 0640

struct machine {
  struct bus_disk disk;
  struct io_uring ring;
  uint32_t under_way;
  uint32_t done_count; /* of writes that were made at once */
  struct bus_disk_completion done[BUS_DISK_QUEUE];
};

static struct machine *machine_of(struct bus_disk *disk)
{
  return (struct machine *)(void *)((char *)disk - offsetof(struct machine, disk));
}

static int open_file(struct bus_disk *disk, const char *path, int flags)
{
  flags |= O_RDWR | O_CLOEXEC | O_NOFOLLOW;
  int fd = open(path, flags | O_DIRECT, FILE_MODE);
  disk->buffered = fd < 0 && errno == EINVAL;
  if (disk->buffered) {
    /* tmpfs and some network file systems know no O_DIRECT; the refused open may have created it.
     */
    fd = open(path, flags & ~O_EXCL, FILE_MODE);
  }
  return fd < 0 ? -errno : fd;
}

static int resize_file(struct bus_disk *disk, int fd, uint64_t bytes)
{
  (void)disk;
  return ftruncate(fd, (off_t)bytes) == 0 ? 0 : -errno;
}

static int allocate_file(struct bus_disk *disk, int fd, uint64_t offset, uint64_t bytes)
{
  (void)disk;
  int result;
  do
    result = fallocate(fd, 0, (off_t)offset, (off_t)bytes);
  while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : -errno;
}

static int submit_queued(struct bus_disk *disk, int fd, const void *buffer, uint32_t bytes,
                         uint64_t offset, uint64_t tag)
{
  struct machine *machine = machine_of(disk);
  struct io_uring_sqe *sqe =
      machine->under_way < BUS_DISK_QUEUE ? io_uring_get_sqe(&machine->ring) : NULL;
  if (!sqe)
    return -EAGAIN;
  io_uring_prep_write(sqe, fd, buffer, bytes, offset);
  sqe->user_data = tag;
  machine->under_way++;
  int submitted;
  do
    submitted = io_uring_submit(&machine->ring);
  while (submitted == -EINTR || submitted == -EAGAIN);
  return submitted < 0 ? submitted : 0;
}

static uint32_t reap_queued(struct bus_disk *disk, struct bus_disk_completion *completions,
                            uint32_t most, uint64_t wait_ns)
{
  struct machine *machine = machine_of(disk);
  struct io_uring_cqe *cqe;
  uint32_t count = 0;
  if (machine->under_way > 0 && wait_ns > 0 && io_uring_peek_cqe(&machine->ring, &cqe) != 0) {
    struct __kernel_timespec timeout = {.tv_sec = (long long)(wait_ns / 1000000000u),
                                        .tv_nsec = (long long)(wait_ns % 1000000000u)};
    io_uring_wait_cqe_timeout(&machine->ring, &cqe, &timeout);
  }
  while (count < most && io_uring_peek_cqe(&machine->ring, &cqe) == 0) {
    completions[count++] = (struct bus_disk_completion){cqe->user_data, cqe->res};
    io_uring_cqe_seen(&machine->ring, cqe);
    machine->under_way--;
  }
  return count;
}

static int submit_at_once(struct bus_disk *disk, int fd, const void *buffer, uint32_t bytes,
                          uint64_t offset, uint64_t tag)
{
  struct machine *machine = machine_of(disk);
  if (machine->done_count == BUS_DISK_QUEUE)
    return -EAGAIN;
  ssize_t written;
  do
    written = pwrite(fd, buffer, bytes, (off_t)offset);
  while (written < 0 && errno == EINTR);
  machine->done[machine->done_count++] =
      (struct bus_disk_completion){tag, written < 0 ? -errno : written};
  return 0;
}

static uint32_t reap_at_once(struct bus_disk *disk, struct bus_disk_completion *completions,
                             uint32_t most, uint64_t wait_ns)
{
  struct machine *machine = machine_of(disk);
  (void)wait_ns;
  uint32_t count = machine->done_count < most ? machine->done_count : most;
  memcpy(completions, machine->done, count * sizeof *completions);
  machine->done_count -= count;
  memmove(machine->done, machine->done + count, machine->done_count * sizeof *completions);
  return count;
}

static void close_disk(struct bus_disk *disk)
{
  struct machine *machine = machine_of(disk);
  if (disk->queued)
    io_uring_queue_exit(&machine->ring);
  free(machine);
}

int bus_disk_new(bool want_queue, struct bus_disk **disk)
{
  struct machine *machine = calloc(1, sizeof *machine);
  *disk = NULL;
  if (!machine)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  machine->disk = (struct bus_disk){.open = open_file,
                                    .resize = resize_file,
                                    .allocate = allocate_file,
                                    .submit = submit_at_once,
                                    .reap = reap_at_once,
                                    .close = close_disk};
  /* Containers and hardened kernels refuse io_uring: then without. */
  if (want_queue && io_uring_queue_init(BUS_DISK_QUEUE, &machine->ring, 0) == 0) {
    machine->disk.queued = true;
    machine->disk.submit = submit_queued;
    machine->disk.reap = reap_queued;
  }
  *disk = &machine->disk;
  return BUS_OK;
}
