#include "consumers/transport.h"
#include "consumers/uring_ring.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* From here on the system call `number` fails with `error` in this process. An emulator has no
 * filters. */
static void refuse(uint32_t number, uint32_t error)
{
  struct sock_filter filter[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  struct sock_fprog program = {.len = BUS_COUNT_OF(filter), .filter = filter};
  cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
  if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
    cr_skip_test("no filter of system calls here: %s", strerror(errno));
}

static void set_up(struct bus_uring *uring, bool registered_files)
{
  const int error = bus_uring_init(uring, 4, registered_files);
  if (error == BUS_ERROR_DENIED || error == BUS_ERROR_UNSUPPORTED)
    cr_skip_test("%s", bus_error_message());
  cr_assert_eq(error, BUS_OK, "%s", bus_error_message());
}

/* The result of the one operation that was queued. */
static int result_of(struct bus_uring *uring)
{
  for (int i = 0; i < 100; i++) {
    struct io_uring_cqe *cqe;
    if (io_uring_peek_cqe(&uring->ring, &cqe) == 0) {
      const int result = cqe->res;
      io_uring_cqe_seen(&uring->ring, cqe);
      return result;
    }
    cr_assert_eq(bus_uring_enter(uring, 1000000000), BUS_OK);
  }
  cr_assert_fail("no completion");
  return 0;
}

static void is_refused(struct bus_uring *uring, const char *what)
{
  cr_assert_eq(result_of(uring), -EACCES, "%s was let through", what);
}

static void does_sockets_alone(bool registered_files)
{
  struct bus_uring uring;
  set_up(&uring, registered_files);
  struct io_uring_sqe *sqe = bus_uring_sqe(&uring, 1);
  io_uring_prep_nop(sqe);
  sqe->flags |= registered_files ? IOSQE_FIXED_FILE : 0;
  is_refused(&uring, "NOP");
  sqe = bus_uring_sqe(&uring, 1);
  io_uring_prep_openat(sqe, AT_FDCWD, "/etc/passwd", O_RDONLY, 0);
  is_refused(&uring, "OPENAT");
  char bytes[16];
  sqe = bus_uring_sqe(&uring, 1);
  io_uring_prep_read(sqe, 0, bytes, sizeof bytes, 0);
  sqe->flags |= registered_files ? IOSQE_FIXED_FILE : 0;
  is_refused(&uring, "READ");
  sqe = bus_uring_sqe(&uring, 1);
  io_uring_prep_socket(sqe, AF_INET, SOCK_STREAM, 0, 0);
  is_refused(&uring, "SOCKET");
  sqe = bus_uring_sqe(&uring, 1);
  bus_uring_receive(&uring, sqe, 0);
  sqe->flags |= IOSQE_ASYNC;
  is_refused(&uring, "a flag");
  /* What is let through answers for itself: nothing is there to cancel. */
  sqe = bus_uring_sqe(&uring, 1);
  bus_uring_cancel(&uring, sqe, registered_files ? 3 : STDIN_FILENO);
  const int result = result_of(&uring);
  cr_assert(result != -EACCES && result <= 0, "%s", strerror(-result));
  /* Nor can it be widened. */
  int event = -1;
  cr_assert_eq(
      syscall(SYS_io_uring_register, uring.ring.ring_fd, IORING_REGISTER_EVENTFD, &event, 1), -1);
  cr_assert_eq(errno, EACCES);
  cr_assert_eq(
      syscall(SYS_io_uring_register, uring.ring.ring_fd, IORING_REGISTER_PERSONALITY, NULL, 0), -1);
  cr_assert_eq(errno, EACCES);
  bus_uring_exit(&uring);
}

Test(uring_ring, with_registered_files_does_sockets_alone)
{
  does_sockets_alone(true);
}

Test(uring_ring, with_plain_files_does_sockets_alone)
{
  does_sockets_alone(false);
}

/* A descriptor that was never put in the table cannot be sent to, whatever it is. */
Test(uring_ring, with_registered_files_takes_no_descriptor)
{
  struct bus_uring uring;
  set_up(&uring, true);
  if (!uring.registered_files)
    cr_skip_test("registered files are not good in this kernel");
  int pair[2];
  cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
  struct io_uring_sqe *sqe = bus_uring_sqe(&uring, 1);
  bus_uring_send(&uring, sqe, pair[0], "x", 1);
  sqe->flags &= (uint8_t)~IOSQE_FIXED_FILE;
  is_refused(&uring, "a file descriptor");
  close(pair[0]);
  close(pair[1]);
  bus_uring_exit(&uring);
}

Test(uring_ring, an_idle_enter_makes_no_system_call)
{
  struct bus_uring uring;
  set_up(&uring, true);
  refuse(SYS_io_uring_enter, EIO);
  for (int i = 0; i < 1000; i++)
    cr_assert_eq(bus_uring_enter(&uring, 0), BUS_OK);
  /* The refusal is in force: a wait does call. */
  cr_assert_eq(bus_uring_enter(&uring, 1), BUS_ERROR_IO);
}

static void falls_back(uint32_t error, int code, const char *says)
{
  refuse(SYS_io_uring_setup, error);
  struct bus_transport *transport;
  cr_assert_eq(bus_transport_uring_new(4, &transport), code, "%s", bus_error_message());
  cr_assert_null(transport);
  cr_assert(strstr(bus_error_message(), says), "%s", bus_error_message());
  char reason[256];
  cr_assert_eq(bus_transport_new("io_uring", 4, &transport, reason, sizeof reason), code);
  cr_assert_eq(bus_transport_new("auto", 4, &transport, reason, sizeof reason), BUS_OK);
  cr_assert_str_eq(transport->operations->name, "epoll");
  cr_assert(strstr(reason, says), "%s", reason);
  transport->operations->destroy(transport);
}

Test(uring_ring, a_refusal_leads_to_epoll)
{
  falls_back(EPERM, BUS_ERROR_DENIED, "kernel.io_uring_disabled");
}

Test(uring_ring, a_kernel_without_leads_to_epoll)
{
  falls_back(ENOSYS, BUS_ERROR_UNSUPPORTED, "without io_uring");
}

Test(uring_ring, an_old_kernel_leads_to_epoll)
{
  falls_back(EINVAL, BUS_ERROR_UNSUPPORTED, "too old");
}

Test(uring_ring, registration_refused_leads_to_epoll)
{
  refuse(SYS_io_uring_register, EPERM);
  struct bus_transport *transport;
  char reason[256];
  cr_assert_eq(bus_transport_new("auto", 4, &transport, reason, sizeof reason), BUS_OK);
  cr_assert_str_eq(transport->operations->name, "epoll");
  cr_assert_neq(reason[0], '\0');
  transport->operations->destroy(transport);
}

Test(uring_ring, kinds_have_names)
{
  struct bus_transport *transport;
  char reason[256] = "x";
  cr_assert_eq(bus_transport_new("epoll", 4, &transport, reason, sizeof reason), BUS_OK);
  cr_assert_str_eq(transport->operations->name, "epoll");
  cr_assert_str_eq(reason, "");
  transport->operations->destroy(transport);
  cr_assert_eq(bus_transport_new("kqueue", 4, &transport, reason, sizeof reason),
               BUS_ERROR_INVALID);
  cr_assert(strstr(bus_error_message(), "\"kqueue\""));
  cr_assert_eq(bus_transport_new("auto", 0, &transport, reason, sizeof reason), BUS_ERROR_INVALID);
  cr_assert_eq(bus_transport_new("epoll", 65537, &transport, reason, sizeof reason),
               BUS_ERROR_INVALID);
}

/* Filters of older containers do not know epoll_pwait2. */
Test(uring_ring, epoll_waits_in_an_old_container)
{
  struct bus_transport *transport;
  cr_assert_eq(bus_transport_epoll_new(4, &transport), BUS_OK);
  refuse(SYS_epoll_pwait2, ENOSYS);
  struct bus_transport_event event;
  cr_assert_eq(transport->operations->poll(transport, &event, 1, 1000000), 0);
  cr_assert_eq(transport->operations->poll(transport, &event, 1, 1), 0);
  transport->operations->destroy(transport);
}
