#include "bus_fixture.h"

#include "shm/error.h"
#include "shm/notify.h"

#include <stddef.h>
#include <sys/socket.h>
#include <sys/un.h>

TestSuite(notify, .init = fixture_create, .fini = fixture_remove, .timeout = 60);

/* The manager's end, at a path or, with '@' first, in the abstract namespace; and in the
 * environment. */
static int listen_at(const char *text)
{
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  memcpy(address.sun_path, text, strlen(text));
  socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(text));
  if (text[0] == '@')
    address.sun_path[0] = '\0';
  else
    bytes++;
  int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
  cr_assert_eq(bind(fd, (struct sockaddr *)&address, bytes), 0);
  setenv("NOTIFY_SOCKET", text, 1);
  return fd;
}

/* The next message, "" when there is none. */
static const char *take(int fd)
{
  static char text[1024];
  ssize_t got = recv(fd, text, sizeof text - 1, 0);
  text[got > 0 ? got : 0] = '\0';
  return text;
}

Test(notify, is_silent_without_a_manager)
{
  unsetenv("NOTIFY_SOCKET");
  cr_assert_eq(bus_notify_open(), BUS_OK);
  cr_assert_not(bus_notify_is_open());
  bus_notify_status("x");
  bus_notify_ready();
  bus_notify_alive(1);
  bus_notify_stopping();
}

Test(notify, speaks_to_both_kinds_of_address)
{
  char name[64];
  snprintf(name, sizeof name, "@signalbus-test-%d", (int)getpid());
  const char *const addresses[] = {fixture_path("socket"), name};
  for (size_t i = 0; i < BUS_COUNT_OF(addresses); i++) {
    int fd = listen_at(addresses[i]);
    cr_assert_eq(bus_notify_open(), BUS_OK, "%s", bus_error_message());
    cr_assert(bus_notify_is_open());
    cr_assert_null(getenv("NOTIFY_SOCKET"));
    bus_notify_status("one\ntwo %d", 3);
    cr_assert_str_eq(take(fd), "", "a status does not come before ready");
    bus_notify_ready();
    bus_notify_ready();
    cr_assert_str_eq(take(fd), "READY=1\nSTATUS=one two 3\n");
    cr_assert_str_eq(take(fd), "");
    bus_notify_alive(1000000000);
    cr_assert_str_eq(take(fd), "", "no watchdog was asked for");
    bus_notify_stopping();
    bus_notify_stopping();
    cr_assert_str_eq(take(fd), "STOPPING=1\n");
    cr_assert_str_eq(take(fd), "");
    bus_notify_close();
    close(fd);
  }
}

Test(notify, shows_life_four_times_within_the_watchdogs_time)
{
  char pid[32];
  int fd = listen_at(fixture_path("socket"));
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  setenv("WATCHDOG_USEC", "4000000", 1);
  setenv("WATCHDOG_PID", pid, 1);
  cr_assert_eq(bus_notify_open(), BUS_OK);
  cr_assert_null(getenv("WATCHDOG_USEC"));
  cr_assert_null(getenv("WATCHDOG_PID"));
  cr_assert_eq(bus_notify_interval_ns(), 1000000000u);
  uint64_t messages = 0;
  for (uint64_t now_ns = 5; now_ns < 10000000000u; now_ns += 10000000) {
    bus_notify_alive(now_ns);
    for (const char *text; *(text = take(fd)); messages++)
      cr_assert_str_eq(text, "WATCHDOG=1\n");
  }
  cr_assert_eq(messages, 10);
}

Test(notify, leaves_another_process_its_watchdog)
{
  static const char *const wrong[][2] = {{"1000", "1"},
                                         {"0", NULL},
                                         {"-5", NULL},
                                         {"", NULL},
                                         {"1x", NULL},
                                         {"1000", ""},
                                         {"1000", "0x"},
                                         {"99999999999999999999", NULL},
                                         {"18446744073709551615", NULL}};
  for (size_t i = 0; i < BUS_COUNT_OF(wrong); i++) {
    int fd = listen_at(fixture_path("socket"));
    setenv("WATCHDOG_USEC", wrong[i][0], 1);
    if (wrong[i][1])
      setenv("WATCHDOG_PID", wrong[i][1], 1);
    cr_assert_eq(bus_notify_open(), BUS_OK);
    cr_assert_eq(bus_notify_interval_ns(), 0, "%s", wrong[i][0]);
    close(fd);
    unlink(fixture_path("socket"));
  }
}

Test(notify, refuses_addresses_that_it_does_not_know)
{
  char long_path[200];
  memset(long_path, 'x', sizeof long_path);
  long_path[0] = '/';
  long_path[sizeof long_path - 1] = '\0';
  const char *const wrong[] = {"", "/", "@", "relative", "vsock:2:1234", long_path};
  for (size_t i = 0; i < BUS_COUNT_OF(wrong); i++) {
    setenv("NOTIFY_SOCKET", wrong[i], 1);
    cr_assert_eq(bus_notify_open(), BUS_ERROR_INVALID, "%s", wrong[i]);
    cr_assert_not(bus_notify_is_open());
    cr_assert(strstr(bus_error_message(), "NOTIFY_SOCKET"));
    bus_notify_ready();
  }
}

/* A manager that does not read, is not there, or comes back: nothing waits, nothing is lost. */
Test(notify, says_later_what_it_could_not_say)
{
  int fd = listen_at(fixture_path("socket"));
  cr_assert_eq(bus_notify_open(), BUS_OK);
  bus_notify_ready();
  for (int i = 0; i < 100000; i++)
    bus_notify_status("%d", i); /* far more than the socket holds */
  int taken = 0;
  while (*take(fd))
    taken++;
  cr_assert_lt(taken, 100000);
  bus_notify_alive(1);
  cr_assert_str_eq(take(fd), "STATUS=99999\n");
  close(fd);
  unlink(fixture_path("socket"));
  bus_notify_status("alone");
  bus_notify_alive(2);
  fd = listen_at(fixture_path("socket"));
  bus_notify_alive(3);
  cr_assert_str_eq(take(fd), "STATUS=alone\n");
  bus_notify_alive(4);
  cr_assert_str_eq(take(fd), "");
  close(fd);
}

Test(notify, stands_in_for_a_program_that_is_silent)
{
  int fd = listen_at(fixture_path("socket"));
  setenv("WATCHDOG_USEC", "4000000", 1);
  cr_assert_eq(bus_notify_open(), BUS_OK);
  bus_notify_ready_without_watchdog();
  cr_assert_str_eq(take(fd), "READY=1\nWATCHDOG_USEC=0\n");
  bus_notify_alive(1);
  cr_assert_str_eq(take(fd), "");
  close(fd);
}
