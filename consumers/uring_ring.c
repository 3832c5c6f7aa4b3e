#include "consumers/uring_ring.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SUBMISSIONS_MIN 64u
#define SUBMISSIONS_MAX 1024u
#define COMPLETIONS_MAX 65536u
#define BUFFERS_MIN     16u
#define BUFFERS_MAX     1024u

#define PROBE_WAIT_NS   1000000000u
#define PROBE_STEPS_MAX 16

static uint32_t power_of_two(uint64_t wanted, uint32_t least, uint32_t most)
{
  uint32_t value = least;
  while (value < wanted && value < most)
    value *= 2;
  return value;
}

/* liburing 2.3 has these two in its header but does not export them from its shared library. */
static int register_raw(const struct bus_uring *uring, unsigned operation, const void *argument,
                        unsigned count)
{
  return (int)syscall(SYS_io_uring_register, uring->ring.ring_fd, operation, argument, count);
}

static int restrict_ring(const struct bus_uring *uring)
{
  struct io_uring_restriction restrictions[] = {
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_CONNECT},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_LINK_TIMEOUT},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_RECV},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_SEND},
      {.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_ASYNC_CANCEL},
      {.opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED,
       .sqe_flags = IOSQE_FIXED_FILE | IOSQE_IO_LINK | IOSQE_BUFFER_SELECT},
      {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_UNREGISTER_RING_FDS},
      {.opcode = IORING_RESTRICTION_REGISTER_OP, .register_op = IORING_REGISTER_FILES_UPDATE},
      {.opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED, .sqe_flags = IOSQE_FIXED_FILE},
  };
  /* The last two are for registered files. */
  const uint32_t count = (uint32_t)BUS_COUNT_OF(restrictions) - (uring->registered_files ? 0 : 2);
  if (register_raw(uring, IORING_REGISTER_RESTRICTIONS, restrictions, count) != 0)
    return bus_error_set_errno("io_uring: restricting the ring to sockets");
  if (register_raw(uring, IORING_REGISTER_ENABLE_RINGS, NULL, 0) != 0)
    return bus_error_set_errno("io_uring: enabling the ring");
  return BUS_OK;
}

static int set_up_error(int error)
{
  errno = error;
  switch (error) {
  case EPERM:
  case EACCES:
    return bus_error_set(BUS_ERROR_DENIED,
                         "io_uring is refused here: see the sysctls kernel.io_uring_disabled and "
                         "kernel.io_uring_group, and the seccomp profile of a container");
  case ENOSYS:
    return bus_error_set(BUS_ERROR_UNSUPPORTED, "this kernel is built without io_uring");
  case EINVAL:
    return bus_error_set(BUS_ERROR_UNSUPPORTED,
                         "io_uring of this kernel is too old: 6.1 is the first that serves");
  default:
    return bus_error_set_errno("setting up an io_uring");
  }
}

static int set_up_ring(struct bus_uring *uring, uint32_t connections_max)
{
  /* DEFER_TASKRUN: completions are made when this thread asks for them and never interrupt it;
   * TASKRUN_FLAG: a word in memory says whether there are any, so that asking is free. */
  struct io_uring_params params = {
      .flags = IORING_SETUP_R_DISABLED | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
               IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_CQSIZE,
      .cq_entries =
          power_of_two((uint64_t)connections_max * 4, 4 * SUBMISSIONS_MIN, COMPLETIONS_MAX),
  };
  const uint32_t submissions =
      power_of_two((uint64_t)connections_max * 2, SUBMISSIONS_MIN, SUBMISSIONS_MAX);
  const int result = io_uring_queue_init_params(submissions, &uring->ring, &params);
  return result < 0 ? set_up_error(-result) : BUS_OK;
}

static int set_up_files(struct bus_uring *uring, uint32_t connections_max)
{
  const uint32_t places = connections_max < 2 ? 2 : connections_max; /* the probe needs two */
  const int result = io_uring_register_files_sparse(&uring->ring, places);
  if (result == -EMFILE)
    return bus_error_set(BUS_ERROR_NO_SPACE,
                         "%u connections are more than this process may have files: raise its "
                         "RLIMIT_NOFILE (LimitNOFILE= of a unit, ulimit -n)",
                         connections_max);
  if (result < 0) {
    errno = -result;
    return bus_error_set_errno("io_uring: a table of %u files", connections_max);
  }
  return BUS_OK;
}

static int set_up_buffers(struct bus_uring *uring, uint32_t connections_max)
{
  const uint32_t count = power_of_two(connections_max, BUFFERS_MIN, BUFFERS_MAX);
  const size_t ring_bytes = BUS_ALIGN_UP(count * sizeof(struct io_uring_buf), (size_t)65536);
  const size_t bytes = ring_bytes + (size_t)count * BUS_URING_BUFFER_BYTES;
  void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED)
    return bus_error_set_errno("%zu bytes to receive into", bytes);
  uring->buffer_ring = map;
  uring->buffers = (char *)map + ring_bytes;
  uring->buffers_map_bytes = bytes;
  uring->buffer_count = count;
  struct io_uring_buf_reg registration = {
      .ring_addr = (uint64_t)(uintptr_t)map, .ring_entries = count, .bgid = BUS_URING_BUFFER_GROUP};
  const int result = io_uring_register_buf_ring(&uring->ring, &registration, 0);
  if (result < 0) {
    errno = -result;
    return bus_error_set_errno("io_uring: a ring of %u buffers", count);
  }
  io_uring_buf_ring_init(uring->buffer_ring);
  for (uint32_t i = 0; i < count; i++)
    bus_uring_give_buffer(uring, i);
  return BUS_OK;
}

/* The next completion, copied, within the probe's patience. */
static bool next_completion(struct bus_uring *uring, struct io_uring_cqe *completion)
{
  for (int step = 0; step < PROBE_STEPS_MAX; step++) {
    struct io_uring_cqe *cqe;
    if (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
      memcpy(completion, cqe, sizeof *completion);
      io_uring_cqe_seen(&uring->ring, cqe);
      return true;
    }
    if (bus_uring_enter(uring, PROBE_WAIT_NS))
      return false;
  }
  return false;
}

/* What is sent to `far` comes from a receive on `file` that stays armed. */
static bool probe_receive(struct bus_uring *uring, int file, int far)
{
  struct io_uring_cqe completion;
  struct io_uring_sqe *sqe = bus_uring_sqe(uring, 1);
  if (!sqe)
    return false;
  bus_uring_receive(uring, sqe, file);
  sqe->user_data = 1;
  if (bus_uring_enter(uring, 0) || send(far, "x", 1, MSG_NOSIGNAL) != 1 ||
      !next_completion(uring, &completion))
    return false;
  if (completion.flags & IORING_CQE_F_BUFFER)
    bus_uring_give_buffer(uring, completion.flags >> IORING_CQE_BUFFER_SHIFT);
  return completion.res == 1 && completion.flags & IORING_CQE_F_BUFFER &&
         completion.flags & IORING_CQE_F_MORE;
}

/* The armed receive on `file` ends when it is cancelled. */
static bool probe_cancel(struct bus_uring *uring, int file)
{
  struct io_uring_sqe *sqe = bus_uring_sqe(uring, 1);
  if (!sqe)
    return false;
  bus_uring_cancel(uring, sqe, file);
  sqe->user_data = 2;
  bool cancelled = false, ended = false;
  for (int i = 0; i < 2; i++) {
    struct io_uring_cqe completion;
    if (!next_completion(uring, &completion))
      return false;
    cancelled |= completion.user_data == 2 && completion.res >= 0;
    ended |= completion.user_data == 1 && completion.res == -ECANCELED;
  }
  return cancelled && ended;
}

/* A socket that is taken out of the table while another one is received from closes at once. */
static bool probe_removal(struct bus_uring *uring)
{
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return false;
  bool closed = bus_uring_set_file(uring, 1, pair[0]) == BUS_OK;
  close(pair[0]);
  closed = closed && bus_uring_set_file(uring, 1, -1) == BUS_OK;
  struct pollfd far = {.fd = pair[1], .events = POLLIN};
  closed = closed && poll(&far, 1, 0) == 1 && far.revents & POLLHUP;
  close(pair[1]);
  return closed;
}

/* Versions of kernels say little about what a vendor's kernel does: it is tried. */
static bool probe(struct bus_uring *uring)
{
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
    return false;
  int file = pair[0];
  bool good = true;
  if (uring->registered_files) {
    file = 0;
    good = bus_uring_set_file(uring, 0, pair[0]) == BUS_OK;
  }
  good = good && probe_receive(uring, file, pair[1]);
  good = good && (!uring->registered_files || probe_removal(uring));
  good = good && probe_cancel(uring, file);
  good = good && (!uring->registered_files || bus_uring_set_file(uring, 0, -1) == BUS_OK);
  close(pair[0]);
  close(pair[1]);
  return good;
}

static int try_init(struct bus_uring *uring, uint32_t connections_max, bool registered_files)
{
  memset(uring, 0, sizeof *uring);
  uring->registered_files = registered_files;
  int error = set_up_ring(uring, connections_max);
  if (error)
    return error;
  if (registered_files)
    error = set_up_files(uring, connections_max);
  if (!error)
    error = set_up_buffers(uring, connections_max);
  if (!error) {
    /* Saves looking the ring up at each call; without it all works too. */
    (void)io_uring_register_ring_fd(&uring->ring);
    error = restrict_ring(uring);
  }
  if (!error && !probe(uring))
    error = bus_error_set(BUS_ERROR_UNSUPPORTED,
                          "io_uring of this kernel does not receive into provided buffers as that "
                          "of 6.1 and later does");
  if (error)
    bus_uring_exit(uring);
  return error;
}

int bus_uring_init(struct bus_uring *uring, uint32_t connections_max, bool registered_files)
{
  if (registered_files) {
    const int error = try_init(uring, connections_max, true);
    if (error != BUS_ERROR_UNSUPPORTED)
      return error;
  }
  return try_init(uring, connections_max, false);
}

void bus_uring_exit(struct bus_uring *uring)
{
  io_uring_queue_exit(&uring->ring);
  if (uring->buffer_ring)
    munmap(uring->buffer_ring, uring->buffers_map_bytes);
  memset(uring, 0, sizeof *uring);
}

int bus_uring_set_file(struct bus_uring *uring, uint32_t place, int fd)
{
  const int result = io_uring_register_files_update(&uring->ring, place, &fd, 1);
  if (result == 1)
    return BUS_OK;
  errno = result < 0 ? -result : EIO;
  return bus_error_set_errno("io_uring: setting file %u of the table", place);
}

struct io_uring_sqe *bus_uring_sqe(struct bus_uring *uring, uint32_t count)
{
  if (io_uring_sq_space_left(&uring->ring) < count) {
    io_uring_submit(&uring->ring); /* a failure shows in the room that there is after it */
    if (io_uring_sq_space_left(&uring->ring) < count)
      return NULL;
  }
  return io_uring_get_sqe(&uring->ring);
}

/* The ring's restriction asks for the flag on all operations, on those without a file too. */
static void name_file(const struct bus_uring *uring, struct io_uring_sqe *sqe)
{
  if (uring->registered_files)
    sqe->flags |= IOSQE_FIXED_FILE;
}

void bus_uring_receive(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file)
{
  io_uring_prep_recv_multishot(sqe, file, NULL, 0, 0);
  sqe->flags |= IOSQE_BUFFER_SELECT;
  sqe->buf_group = BUS_URING_BUFFER_GROUP;
  name_file(uring, sqe);
}

void bus_uring_send(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file,
                    const void *bytes, size_t size)
{
  io_uring_prep_send(sqe, file, bytes, size, MSG_NOSIGNAL | MSG_WAITALL);
  name_file(uring, sqe);
}

void bus_uring_connect(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file,
                       const struct sockaddr *address, socklen_t address_bytes)
{
  io_uring_prep_connect(sqe, file, address, address_bytes);
  name_file(uring, sqe);
}

void bus_uring_link_timeout(const struct bus_uring *uring, struct io_uring_sqe *sqe,
                            struct __kernel_timespec *timeout)
{
  io_uring_prep_link_timeout(sqe, timeout, 0);
  name_file(uring, sqe);
}

void bus_uring_cancel(const struct bus_uring *uring, struct io_uring_sqe *sqe, int file)
{
  const unsigned fixed = uring->registered_files ? IORING_ASYNC_CANCEL_FD_FIXED : 0;
  io_uring_prep_cancel_fd(sqe, file, IORING_ASYNC_CANCEL_ALL | fixed);
  name_file(uring, sqe);
}

int bus_uring_enter(struct bus_uring *uring, uint64_t wait_ns)
{
  struct io_uring *ring = &uring->ring;
  const bool queued = io_uring_sq_ready(ring) > 0;
  int result = 0;
  if (wait_ns > 0 && io_uring_cq_ready(ring) == 0) {
    struct __kernel_timespec wait = {.tv_sec = (long long)(wait_ns / 1000000000u),
                                     .tv_nsec = (long long)(wait_ns % 1000000000u)};
    struct io_uring_cqe *cqe;
    result = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &wait, NULL);
  } else if (queued) {
    result = io_uring_submit_and_get_events(ring);
  } else if (BUS_LOAD_RELAXED(ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) {
    result = io_uring_get_events(ring);
  }
  /* Memory or room for completions may be short for a while; what was not submitted stays. */
  if (result >= 0 || result == -ETIME || result == -EINTR || result == -EAGAIN || result == -EBUSY)
    return BUS_OK;
  errno = -result;
  return bus_error_set_errno("entering the io_uring");
}

const char *bus_uring_buffer(const struct bus_uring *uring, uint32_t id)
{
  return uring->buffers + (size_t)id * BUS_URING_BUFFER_BYTES;
}

void bus_uring_give_buffer(struct bus_uring *uring, uint32_t id)
{
  io_uring_buf_ring_add(uring->buffer_ring, uring->buffers + (size_t)id * BUS_URING_BUFFER_BYTES,
                        BUS_URING_BUFFER_BYTES, (unsigned short)id,
                        io_uring_buf_ring_mask(uring->buffer_count), 0);
  io_uring_buf_ring_advance(uring->buffer_ring, 1);
}
