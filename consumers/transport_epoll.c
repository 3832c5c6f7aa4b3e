#include "consumers/byte_buffer.h"
#include "consumers/transport_parts.h"

#include "shm/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

/* A poll gives at most so many DATA events, each in a buffer of its own. */
#define RECEIVE_BUFFERS      64u
#define RECEIVE_BUFFER_BYTES 16384u

/* A connection that has sent more at a time gives that memory back. */
#define KEPT_OUTPUT_BYTES 65536u

enum state { UNUSED = 0, CONNECTING, CONNECTED, ENDED };

struct connection {
  int fd;
  enum state state;
  bool watches_output;
  int error;                     /* why the open failed or sending broke; 0: neither */
  struct bus_byte_buffer output; /* not sent: what is behind the first output_sent bytes */
  size_t output_sent;
};

struct epoll_transport {
  struct bus_transport transport;
  int epoll_fd;
  bool without_pwait2;
  struct bus_transport_slots slots;
  struct bus_transport_timers timers; /* of connecting; and, due at once, those with an error */
  struct connection *connections;
  char receive_buffers[RECEIVE_BUFFERS][RECEIVE_BUFFER_BYTES];
};

static struct epoll_transport *epoll_of(struct bus_transport *transport)
{
  return (struct epoll_transport *)(void *)((char *)transport -
                                            offsetof(struct epoll_transport, transport));
}

static int watch(const struct epoll_transport *self, uint32_t index, int operation, uint32_t events)
{
  struct epoll_event event = {.events = events, .data = {.u32 = index}};
  return epoll_ctl(self->epoll_fd, operation, self->connections[index].fd, &event);
}

/* The connection FAILs with `error` at the next poll. */
static void fail_soon(struct epoll_transport *self, uint32_t index, int error)
{
  self->connections[index].error = error;
  bus_transport_timers_set(&self->timers, index, 0);
}

static int open_connection(struct bus_transport *transport, const struct bus_transport_peer *peer)
{
  struct epoll_transport *self = epoll_of(transport);
  const int handle = bus_transport_slots_take(&self->slots);
  if (handle < 0)
    return handle;
  const uint32_t index = (uint32_t)bus_transport_slots_find(&self->slots, (uint32_t)handle);
  struct connection *connection = &self->connections[index];
  int result = connection->fd = bus_transport_socket(peer, SOCK_NONBLOCK);
  if (result >= 0 && watch(self, index, EPOLL_CTL_ADD, EPOLLOUT) != 0) {
    result = bus_error_set_errno("watching a socket");
    close(connection->fd);
  }
  if (result < 0) {
    bus_transport_slots_retire(&self->slots, index);
    bus_transport_slots_give(&self->slots, index);
    return result;
  }
  connection->state = CONNECTING;
  connection->watches_output = true;
  connection->error = 0;
  const struct sockaddr *address = (const struct sockaddr *)&peer->address;
  if (connect(connection->fd, address, peer->address_bytes) != 0 && errno != EINPROGRESS)
    fail_soon(self, index, errno);
  else if (peer->connect_timeout_ns > 0)
    bus_transport_timers_set(&self->timers, index, bus_transport_due_ns(peer->connect_timeout_ns));
  return handle;
}

static void drop_output(struct connection *connection)
{
  if (connection->output.capacity > KEPT_OUTPUT_BYTES)
    bus_byte_buffer_free(&connection->output);
  bus_byte_buffer_clear(&connection->output);
  connection->output_sent = 0;
}

static void watch_output(struct epoll_transport *self, uint32_t index, bool wanted)
{
  struct connection *connection = &self->connections[index];
  if (connection->watches_output == wanted)
    return;
  connection->watches_output = wanted;
  if (watch(self, index, EPOLL_CTL_MOD, EPOLLIN | (wanted ? (uint32_t)EPOLLOUT : 0u)) != 0)
    fail_soon(self, index, errno);
}

/* Sends what the socket takes of `size` bytes and returns how many that were. */
static size_t send_some(struct epoll_transport *self, uint32_t index, const char *bytes,
                        size_t size)
{
  struct connection *connection = &self->connections[index];
  size_t sent = 0;
  while (sent < size && !connection->error) {
    const ssize_t result =
        send(connection->fd, bytes + sent, size - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (result >= 0) {
      sent += (size_t)result;
    } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
      break;
    } else if (errno == ECONNRESET || errno == EPIPE) {
      /* The peer is gone, but what it sent before it went is still to be received; the end of that
       * is where the connection fails. */
      connection->error = errno;
    } else if (errno != EINTR) {
      fail_soon(self, index, errno);
    }
  }
  return sent;
}

static void send_output(struct epoll_transport *self, uint32_t index)
{
  struct connection *connection = &self->connections[index];
  struct bus_byte_buffer *output = &connection->output;
  connection->output_sent += send_some(self, index, output->bytes + connection->output_sent,
                                       output->size - connection->output_sent);
  if (connection->error || connection->output_sent == output->size)
    drop_output(connection);
  watch_output(self, index, output->size > 0);
}

static int send_bytes(struct bus_transport *transport, uint32_t handle, const void *bytes,
                      size_t size)
{
  struct epoll_transport *self = epoll_of(transport);
  const int index = bus_transport_slots_find(&self->slots, handle);
  if (index < 0)
    return BUS_OK;
  struct connection *connection = &self->connections[index];
  if (connection->state != CONNECTED || connection->error)
    return BUS_OK;
  struct bus_byte_buffer *output = &connection->output;
  /* Taking the sent part out costs a move of the rest: only when that is the smaller part. */
  if (connection->output_sent > output->size / 2) {
    bus_byte_buffer_consume(output, connection->output_sent);
    connection->output_sent = 0;
  }
  const size_t waiting = output->size - connection->output_sent;
  if (size > BUS_TRANSPORT_UNSENT_BYTES_MAX - waiting)
    return BUS_ERROR_NO_SPACE;
  /* Queued before it is sent: where there is no memory for the rest, nothing may have gone out. */
  if (bus_byte_buffer_append(output, bytes, size, SIZE_MAX / 2))
    return BUS_ERROR_NO_SPACE;
  if (waiting == 0)
    send_output(self, (uint32_t)index);
  return BUS_OK;
}

static void close_connection(struct bus_transport *transport, uint32_t handle)
{
  struct epoll_transport *self = epoll_of(transport);
  const int found = bus_transport_slots_find(&self->slots, handle);
  if (found < 0)
    return;
  const uint32_t index = (uint32_t)found;
  struct connection *connection = &self->connections[index];
  bus_transport_timers_clear(&self->timers, index);
  close(connection->fd); /* which ends its watch too */
  drop_output(connection);
  connection->state = UNUSED;
  bus_transport_slots_retire(&self->slots, index);
  bus_transport_slots_give(&self->slots, index);
}

/* The last event of a connection: nothing of it is watched any more. */
static struct bus_transport_event end(struct epoll_transport *self, uint32_t index, int error)
{
  struct connection *connection = &self->connections[index];
  bus_transport_timers_clear(&self->timers, index);
  watch(self, index, EPOLL_CTL_DEL, 0);
  connection->state = ENDED;
  drop_output(connection);
  return (struct bus_transport_event){
      .type = error ? BUS_TRANSPORT_FAILED : BUS_TRANSPORT_CLOSED,
      .connection = bus_transport_slots_handle(&self->slots, index),
      .error = error,
  };
}

static struct bus_transport_event finish_connect(struct epoll_transport *self, uint32_t index)
{
  struct connection *connection = &self->connections[index];
  int error = 0;
  socklen_t error_bytes = sizeof error;
  if (getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &error_bytes) != 0)
    error = errno;
  if (error || connection->error)
    return end(self, index, connection->error ? connection->error : error);
  connection->state = CONNECTED;
  bus_transport_timers_clear(&self->timers, index);
  watch_output(self, index, false);
  return (struct bus_transport_event){
      .type = BUS_TRANSPORT_CONNECTED,
      .connection = bus_transport_slots_handle(&self->slots, index),
  };
}

/* An event without a type: there was nothing. */
static struct bus_transport_event receive(struct epoll_transport *self, uint32_t index, char *bytes)
{
  const struct connection *connection = &self->connections[index];
  ssize_t size;
  do
    size = recv(connection->fd, bytes, RECEIVE_BUFFER_BYTES, MSG_DONTWAIT);
  while (size < 0 && errno == EINTR);
  if (size > 0)
    return (struct bus_transport_event){
        .type = BUS_TRANSPORT_DATA,
        .connection = bus_transport_slots_handle(&self->slots, index),
        .data = bytes,
        .size = (size_t)size,
    };
  if (size == 0)
    return end(self, index, connection->error);
  if (errno == EAGAIN || errno == EWOULDBLOCK)
    return (struct bus_transport_event){0};
  return end(self, index, errno);
}

static struct bus_transport_event take_event(struct epoll_transport *self, uint32_t index,
                                             uint32_t ready, char *bytes)
{
  if (self->connections[index].state == CONNECTING)
    return finish_connect(self, index);
  if (ready & EPOLLOUT)
    send_output(self, index);
  if (ready & ~(uint32_t)EPOLLOUT)
    return receive(self, index, bytes);
  return (struct bus_transport_event){0};
}

static uint32_t take_due(struct epoll_transport *self, struct bus_transport_event *events,
                         uint32_t count)
{
  if (self->timers.count == 0)
    return 0;
  const uint64_t now_ns = bus_clock_monotonic_ns();
  uint32_t taken = 0;
  while (taken < count) {
    const int index = bus_transport_timers_take(&self->timers, now_ns);
    if (index < 0)
      break;
    const int error = self->connections[index].error;
    events[taken++] = end(self, (uint32_t)index, error ? error : ETIMEDOUT);
  }
  return taken;
}

static int wait_for_sockets(struct epoll_transport *self, struct epoll_event *ready, int count,
                            uint64_t wait_ns)
{
  int result = -1;
  if (!self->without_pwait2) {
    const struct timespec wait = {.tv_sec = (time_t)(wait_ns / 1000000000u),
                                  .tv_nsec = (long)(wait_ns % 1000000000u)};
    result = epoll_pwait2(self->epoll_fd, ready, count, &wait, NULL);
    /* Filters of containers that are older than the call refuse it. */
    self->without_pwait2 = result < 0 && (errno == ENOSYS || errno == EPERM);
  }
  if (self->without_pwait2) {
    /* Up to a whole millisecond, so that a short wait does not become a loop without one. */
    const uint64_t wait_ms = wait_ns / 1000000u + (wait_ns % 1000000u != 0);
    result = epoll_wait(self->epoll_fd, ready, count, wait_ms < INT32_MAX ? (int)wait_ms : -1);
  }
  if (result < 0 && errno == EINTR)
    return 0;
  return result < 0 ? bus_error_set_errno("waiting for sockets by epoll") : result;
}

static int poll_events(struct bus_transport *transport, struct bus_transport_event *events,
                       uint32_t count, uint64_t wait_ns)
{
  struct epoll_transport *self = epoll_of(transport);
  uint32_t taken = take_due(self, events, count);
  if (taken == count || (self->slots.open_count == 0 && wait_ns == 0))
    return (int)taken;
  struct epoll_event ready[RECEIVE_BUFFERS];
  const uint32_t room = count - taken;
  const int ready_count =
      wait_for_sockets(self, ready, (int)(room < RECEIVE_BUFFERS ? room : RECEIVE_BUFFERS),
                       taken ? 0 : bus_transport_timers_wait_ns(&self->timers, wait_ns));
  if (ready_count < 0)
    return ready_count;
  for (int i = 0; i < ready_count; i++) {
    events[taken] = take_event(self, ready[i].data.u32, ready[i].events, self->receive_buffers[i]);
    taken += events[taken].type != 0;
  }
  if (taken == 0)
    taken = take_due(self, events, count);
  return (int)taken;
}

static void destroy(struct bus_transport *transport)
{
  struct epoll_transport *self = epoll_of(transport);
  for (uint32_t i = 0; self->connections && i < self->slots.capacity; i++) {
    if (self->connections[i].state != UNUSED)
      close(self->connections[i].fd);
    bus_byte_buffer_free(&self->connections[i].output);
  }
  if (self->epoll_fd >= 0)
    close(self->epoll_fd);
  bus_transport_slots_free(&self->slots);
  bus_transport_timers_free(&self->timers);
  free(self->connections);
  free(self);
}

int bus_transport_epoll_new(uint32_t connections_max, struct bus_transport **transport)
{
  static const struct bus_transport_operations operations = {
      .name = "epoll",
      .open = open_connection,
      .send = send_bytes,
      .close = close_connection,
      .poll = poll_events,
      .destroy = destroy,
  };
  *transport = NULL;
  struct epoll_transport *self = calloc(1, sizeof *self);
  if (!self)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  self->transport.operations = &operations;
  self->epoll_fd = -1;
  int error = bus_transport_slots_init(&self->slots, connections_max, 0);
  if (!error)
    error = bus_transport_timers_init(&self->timers, connections_max);
  if (!error) {
    self->connections = calloc(connections_max, sizeof *self->connections);
    self->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!self->connections || self->epoll_fd < 0)
      error = self->connections ? bus_error_set_errno("epoll_create1")
                                : bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  if (error) {
    destroy(&self->transport);
    return error;
  }
  *transport = &self->transport;
  return BUS_OK;
}
