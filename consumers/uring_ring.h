/* uring_ring.h: an io_uring that can connect, send and receive, and nothing else: set up for one
 * thread, with buffers for what is received, and restricted for good before its first use, so that
 * a program that was taken over gets no more from it than it had. */
#ifndef SIGNALBUS_URING_RING_H
#define SIGNALBUS_URING_RING_H

#include "shm/error.h"

#include <liburing.h>

BUS_BEGIN_DECLARATIONS

#define BUS_URING_BUFFER_GROUP 0
#define BUS_URING_BUFFER_BYTES 8192u

struct bus_uring {
  struct io_uring ring;
  struct io_uring_buf_ring *buffer_ring; /* which buffers the kernel may fill */
  char *buffers;                         /* buffer_count of BUS_URING_BUFFER_BYTES */
  size_t buffers_map_bytes;              /* of both: one map, the ring first */
  uint32_t buffer_count;
  /* Sockets are named by places in the ring's own table, and no operation takes a file descriptor.
   * Not on kernels before 6.13, where a socket that is taken out stays open until all operations
   * that began before have ended, and those of other connections may take hours. */
  bool registered_files;
};

/* For `connections_max` (1..65536) sockets, used by the calling thread. `registered_files`: use
 * them where this kernel makes them good. Tries what it needs on a pair of sockets. Errors, with a
 * message: BUS_ERROR_DENIED, BUS_ERROR_UNSUPPORTED, BUS_ERROR_NO_SPACE, BUS_ERROR_IO; after one
 * there is nothing to exit. */
BUS_EXPORT int bus_uring_init(struct bus_uring *uring, uint32_t connections_max,
                              bool registered_files);
BUS_EXPORT void bus_uring_exit(struct bus_uring *uring);

/* Makes `fd` the socket of `place` (0..connections_max-1), or empties the place (-1), which closes
 * a socket that nobody else holds. Only with registered_files. BUS_OK, or an error with a message.
 */
BUS_EXPORT int bus_uring_set_file(struct bus_uring *uring, uint32_t place, int fd);

/* An empty entry of the submission queue; `count` (1 or 2) in a row go to the kernel together.
 * NULL: the kernel takes no more now, try again after bus_uring_enter. */
BUS_EXPORT struct io_uring_sqe *bus_uring_sqe(struct bus_uring *uring, uint32_t count);

/* Fills an entry, but for its user_data. `file`: a place, or a file descriptor where there are no
 * registered files. */
BUS_EXPORT void bus_uring_receive(const struct bus_uring *uring, struct io_uring_sqe *sqe,
                                  int file);
BUS_EXPORT void bus_uring_send(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file,
                               const void *bytes, size_t size);
BUS_EXPORT void bus_uring_connect(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file,
                                  const struct sockaddr *address, socklen_t address_bytes);
BUS_EXPORT void bus_uring_link_timeout(const struct bus_uring *uring, struct io_uring_sqe *sqe,
                                       struct __kernel_timespec *timeout);
BUS_EXPORT void bus_uring_cancel(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file);

/* Submits what is queued and has completions made; waits `wait_ns` at most for the first. With
 * nothing queued, nothing to make and no wait it makes no system call. Returns BUS_OK, or an error
 * with a message when the ring is broken. */
BUS_EXPORT int bus_uring_enter(struct bus_uring *uring, uint64_t wait_ns);

/* A buffer that a completion names, and its return to the kernel. */
BUS_EXPORT const char *bus_uring_buffer(const struct bus_uring *uring, uint32_t id);
BUS_EXPORT void bus_uring_give_buffer(struct bus_uring *uring, uint32_t id);

BUS_END_DECLARATIONS

#endif
