#include "notify.h"

#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define STATUS_BYTES 256

/* What the process has to say, until it has been said. */
enum { SAY_READY = 1, SAY_STATUS = 2, SAY_STOPPING = 4, SAY_NO_WATCHDOG = 8 };

static struct notifier {
  int fd_plus_1; /* 0: silent */
  struct sockaddr_un address;
  socklen_t address_bytes;
  uint64_t interval_ns; /* between two signs of life; 0: none are wanted */
  uint64_t next_ns;     /* when the next one is due */
  uint32_t pending;
  bool ready;
  bool stopping;
  char status[STATUS_BYTES];
} notifier;

/* The address of $NOTIFY_SOCKET. */
static int parse_address(const char *text)
{
  struct sockaddr_un *address = &notifier.address;
  size_t length = strlen(text);
  if ((text[0] != '/' && text[0] != '@') || length < 2)
    return bus_error_set(BUS_ERROR_INVALID,
                         "NOTIFY_SOCKET '%.64s': only an absolute path or @NAME is known", text);
  if (length >= sizeof address->sun_path)
    return bus_error_set(BUS_ERROR_INVALID, "NOTIFY_SOCKET: longer than %zu bytes",
                         sizeof address->sun_path - 1);
  memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  memcpy(address->sun_path, text, length + 1);
  notifier.address_bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length + 1);
  if (text[0] == '@') { /* the abstract namespace: a NUL in front, none behind */
    address->sun_path[0] = '\0';
    notifier.address_bytes--;
  }
  return BUS_OK;
}

static bool parse_number(const char *text, uint64_t *number)
{
  char *end;
  errno = 0;
  unsigned long long parsed = text && *text >= '0' && *text <= '9' ? strtoull(text, &end, 10) : 0;
  *number = parsed;
  return parsed != 0 && errno == 0 && !*end;
}

/* The watchdog may be meant for another process than this one. */
static uint64_t parse_interval_ns(const char *usec, const char *pid)
{
  uint64_t number, owner;
  if (!parse_number(usec, &number) || number > UINT64_MAX / 1000)
    return 0;
  if (pid && !(parse_number(pid, &owner) && owner == (uint64_t)getpid()))
    return 0;
  return number * 1000 / 4 > 0 ? number * 1000 / 4 : 1;
}

int bus_notify_open(void)
{
  bus_notify_close();
  const char *path = getenv("NOTIFY_SOCKET");
  int error = path ? parse_address(path) : BUS_OK;
  if (path && !error) {
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
      error = bus_error_set_errno("the socket to the service manager");
    notifier.fd_plus_1 = fd + 1;
    notifier.interval_ns = parse_interval_ns(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"));
  }
  unsetenv("NOTIFY_SOCKET");
  unsetenv("WATCHDOG_USEC");
  unsetenv("WATCHDOG_PID");
  return error;
}

void bus_notify_close(void)
{
  if (notifier.fd_plus_1)
    close(notifier.fd_plus_1 - 1);
  memset(&notifier, 0, sizeof notifier);
}

bool bus_notify_is_open(void)
{
  return notifier.fd_plus_1 != 0;
}

uint64_t bus_notify_interval_ns(void)
{
  return notifier.interval_ns;
}

/* To the address, not over a connection: the manager may be executed anew and listen again. */
static bool send_text(const char *text, size_t length)
{
  ssize_t sent;
  do {
    sent = sendto(notifier.fd_plus_1 - 1, text, length, MSG_NOSIGNAL | MSG_DONTWAIT,
                  (const struct sockaddr *)&notifier.address, notifier.address_bytes);
  } while (sent < 0 && errno == EINTR);
  return sent == (ssize_t)length;
}

/* Everything that is pending, in one message. */
static void flush(bool alive)
{
  char text[STATUS_BYTES + 64];
  if (!notifier.fd_plus_1)
    return;
  const char *status = notifier.pending & SAY_STATUS ? notifier.status : NULL;
  int length = snprintf(
      text, sizeof text, "%s%s%s%s%s%s%s", notifier.pending & SAY_READY ? "READY=1\n" : "",
      notifier.pending & SAY_STOPPING ? "STOPPING=1\n" : "",
      notifier.pending & SAY_NO_WATCHDOG ? "WATCHDOG_USEC=0\n" : "", status ? "STATUS=" : "",
      status ? status : "", status ? "\n" : "", alive ? "WATCHDOG=1\n" : "");
  if (length > 0 && send_text(text, (size_t)length))
    notifier.pending = 0;
}

void bus_notify_ready(void)
{
  if (notifier.ready)
    return;
  notifier.ready = true;
  notifier.pending |= SAY_READY;
  flush(false);
}

void bus_notify_ready_without_watchdog(void)
{
  notifier.interval_ns = 0;
  notifier.pending |= SAY_NO_WATCHDOG;
  bus_notify_ready();
}

void bus_notify_alive(uint64_t now_ns)
{
  bool due = notifier.interval_ns && (int64_t)(now_ns - notifier.next_ns) >= 0;
  if (due)
    notifier.next_ns = now_ns + notifier.interval_ns;
  if (due || (notifier.pending && notifier.ready))
    flush(due);
}

void bus_notify_status(const char *format, ...)
{
  va_list arguments;
  if (!notifier.fd_plus_1)
    return;
  va_start(arguments, format);
  vsnprintf(notifier.status, sizeof notifier.status, format, arguments);
  va_end(arguments);
  for (char *at = notifier.status; *at; at++)
    if ((unsigned char)*at < ' ' || *at == 0x7f)
      *at = ' ';
  notifier.pending |= SAY_STATUS;
  if (notifier.ready)
    flush(false);
}

void bus_notify_stopping(void)
{
  if (notifier.stopping)
    return;
  notifier.stopping = true;
  notifier.pending |= SAY_STOPPING;
  flush(false);
}
