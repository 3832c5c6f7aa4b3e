#include "consumers/transport_uring.h"

#include "consumers/byte_buffer.h"
#include "consumers/transport_parts.h"
#include "consumers/uring_ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A connection that has sent more at a time gives that memory back. */
#define KEPT_OUTPUT_BYTES 65536u

/* Of one send operation; a longer rest follows when it is done. */
#define SEND_BYTES_MAX     ((size_t)16 << 20)

#define DESTROY_ROUNDS_MAX 500
#define DESTROY_WAIT_NS    10000000u

enum state {
  UNUSED = 0,
  CONNECTING,
  CONNECTED,
  ENDED,  /* told by CLOSED or FAILED, not yet closed by the caller */
  CLOSING /* closed by the caller, operations still under way */
};

/* An operation in user_data, above the index of its connection. */
enum operation { CONNECT = 1, TIMEOUT, RECEIVE, SEND, CANCEL };

#define WANTS(operation) (1u << (operation))

struct connection {
  enum state state;
  int file;           /* a place in the ring's table, or a file descriptor */
  uint32_t wants;     /* operations to submit at the next poll, WANTS() each */
  uint32_t under_way; /* operations whose last completion has not come: until then what they point
                         to, and the connection's index, stay as they are */
  bool is_queued;     /* in the list of those that want something */
  bool sends;         /* a SEND is under way */
  int error;          /* why sending broke, told when the peer's last bytes are taken */
  struct bus_byte_buffer sending; /* the kernel's while `sends` */
  size_t sent;                    /* of `sending` */
  struct bus_byte_buffer waiting; /* behind it */
  struct __kernel_timespec connect_timeout;
  struct sockaddr_storage address;
  socklen_t address_bytes;
};

struct uring_transport {
  struct bus_transport transport;
  struct bus_uring uring;
  struct bus_transport_slots slots;
  struct connection *connections;
  uint32_t *queue; /* indices of connections that want something */
  uint32_t queue_count;
  uint32_t *lent; /* buffers that the last poll gave to the caller */
  uint32_t lent_count;
};

static struct uring_transport *uring_of(struct bus_transport *transport)
{
  return (struct uring_transport *)(void *)((char *)transport -
                                            offsetof(struct uring_transport, transport));
}

static void want(struct uring_transport *self, uint32_t index, enum operation operation)
{
  struct connection *connection = &self->connections[index];
  connection->wants |= WANTS(operation);
  if (!connection->is_queued) {
    connection->is_queued = true;
    self->queue[self->queue_count++] = index;
  }
}

static int open_connection(struct bus_transport *transport, const struct bus_transport_peer *peer)
{
  struct uring_transport *self = uring_of(transport);
  const int handle = bus_transport_slots_take(&self->slots);
  if (handle < 0)
    return handle;
  const uint32_t index = (uint32_t)bus_transport_slots_find(&self->slots, (uint32_t)handle);
  struct connection *connection = &self->connections[index];
  const int fd = bus_transport_socket(peer, 0);
  int result = fd;
  connection->file = fd;
  if (fd >= 0 && self->uring.registered_files) {
    connection->file = (int)index;
    result = bus_uring_set_file(&self->uring, index, fd);
    close(fd); /* the table holds the socket now, or nobody does */
  }
  if (result < 0) {
    bus_transport_slots_retire(&self->slots, index);
    bus_transport_slots_give(&self->slots, index);
    return result;
  }
  connection->state = CONNECTING;
  connection->error = 0;
  connection->address = peer->address;
  connection->address_bytes = peer->address_bytes;
  connection->connect_timeout =
      (struct __kernel_timespec){.tv_sec = (long long)(peer->connect_timeout_ns / 1000000000u),
                                 .tv_nsec = (long long)(peer->connect_timeout_ns % 1000000000u)};
  want(self, index, CONNECT);
  return handle;
}

static int send_bytes(struct bus_transport *transport, uint32_t handle, const void *bytes,
                      size_t size)
{
  struct uring_transport *self = uring_of(transport);
  const int index = bus_transport_slots_find(&self->slots, handle);
  if (index < 0)
    return BUS_OK;
  struct connection *connection = &self->connections[index];
  if (connection->state != CONNECTED || connection->error)
    return BUS_OK;
  const size_t unsent = connection->sending.size - connection->sent;
  if (unsent > BUS_TRANSPORT_UNSENT_BYTES_MAX ||
      bus_byte_buffer_append(&connection->waiting, bytes, size,
                             BUS_TRANSPORT_UNSENT_BYTES_MAX - unsent))
    return BUS_ERROR_NO_SPACE;
  if (!connection->sends)
    want(self, (uint32_t)index, SEND);
  return BUS_OK;
}

static void empty(struct bus_byte_buffer *buffer)
{
  if (buffer->capacity > KEPT_OUTPUT_BYTES)
    bus_byte_buffer_free(buffer);
  bus_byte_buffer_clear(buffer);
}

/* Forgets what is not sent, but for what the kernel is reading. */
static void drop_output(struct connection *connection)
{
  empty(&connection->waiting);
  if (!connection->sends) {
    empty(&connection->sending);
    connection->sent = 0;
  }
}

/* Nothing of the connection is under way any more: its socket closes, its index is free. */
static void release(struct uring_transport *self, uint32_t index)
{
  struct connection *connection = &self->connections[index];
  if (self->uring.registered_files)
    (void)bus_uring_set_file(&self->uring, index, -1);
  else
    close(connection->file);
  drop_output(connection);
  connection->state = UNUSED;
  connection->wants = 0;
  bus_transport_slots_give(&self->slots, index);
}

static void close_connection(struct bus_transport *transport, uint32_t handle)
{
  struct uring_transport *self = uring_of(transport);
  const int found = bus_transport_slots_find(&self->slots, handle);
  if (found < 0)
    return;
  const uint32_t index = (uint32_t)found;
  struct connection *connection = &self->connections[index];
  connection->state = CLOSING;
  connection->wants = 0;
  bus_transport_slots_retire(&self->slots, index);
  if (connection->under_way == 0)
    release(self, index);
  else
    want(self, index, CANCEL);
}

static void mark(struct uring_transport *self, uint32_t index, struct io_uring_sqe *sqe,
                 enum operation operation)
{
  sqe->user_data = (uint64_t)operation << 32 | index;
  self->connections[index].under_way++;
  self->connections[index].wants &= ~WANTS(operation);
}

static bool issue_connect(struct uring_transport *self, uint32_t index)
{
  struct connection *connection = &self->connections[index];
  const bool limited = connection->connect_timeout.tv_sec || connection->connect_timeout.tv_nsec;
  struct io_uring_sqe *sqe = bus_uring_sqe(&self->uring, limited ? 2 : 1);
  if (!sqe)
    return false;
  bus_uring_connect(&self->uring, sqe, connection->file,
                    (const struct sockaddr *)&connection->address, connection->address_bytes);
  mark(self, index, sqe, CONNECT);
  if (limited) {
    sqe->flags |= IOSQE_IO_LINK;
    sqe = bus_uring_sqe(&self->uring, 1);
    bus_uring_link_timeout(&self->uring, sqe, &connection->connect_timeout);
    mark(self, index, sqe, TIMEOUT);
  }
  return true;
}

static bool issue_send(struct uring_transport *self, uint32_t index)
{
  struct connection *connection = &self->connections[index];
  struct bus_byte_buffer *sending = &connection->sending;
  if (connection->sent == sending->size) {
    const struct bus_byte_buffer sent = *sending;
    *sending = connection->waiting;
    connection->waiting = sent;
    empty(&connection->waiting);
    connection->sent = 0;
  }
  const size_t size = sending->size - connection->sent;
  struct io_uring_sqe *sqe = bus_uring_sqe(&self->uring, 1);
  if (!sqe)
    return false;
  bus_uring_send(&self->uring, sqe, connection->file, sending->bytes + connection->sent,
                 size < SEND_BYTES_MAX ? size : SEND_BYTES_MAX);
  mark(self, index, sqe, SEND);
  connection->sends = true;
  return true;
}

static bool issue_receive(struct uring_transport *self, uint32_t index)
{
  struct io_uring_sqe *sqe = bus_uring_sqe(&self->uring, 1);
  if (!sqe)
    return false;
  bus_uring_receive(&self->uring, sqe, self->connections[index].file);
  mark(self, index, sqe, RECEIVE);
  return true;
}

static bool issue_cancel(struct uring_transport *self, uint32_t index)
{
  struct io_uring_sqe *sqe = bus_uring_sqe(&self->uring, 1);
  if (!sqe)
    return false;
  bus_uring_cancel(&self->uring, sqe, self->connections[index].file);
  mark(self, index, sqe, CANCEL);
  return true;
}

/* Queues all that is wanted for the kernel; what it has no room for now is wanted at the next poll
 * still. */
static void issue_wanted(struct uring_transport *self)
{
  uint32_t kept = 0;
  for (uint32_t i = 0; i < self->queue_count; i++) {
    const uint32_t index = self->queue[i];
    struct connection *connection = &self->connections[index];
    const uint32_t wants = connection->wants;
    const bool all = (!(wants & WANTS(CONNECT)) || issue_connect(self, index)) &&
                     (!(wants & WANTS(RECEIVE)) || issue_receive(self, index)) &&
                     (!(wants & WANTS(SEND)) || issue_send(self, index)) &&
                     (!(wants & WANTS(CANCEL)) || issue_cancel(self, index));
    connection->is_queued = !all;
    if (!all)
      self->queue[kept++] = index;
  }
  self->queue_count = kept;
}

static struct bus_transport_event event_of(const struct uring_transport *self, uint32_t index,
                                           enum bus_transport_event_type type)
{
  return (struct bus_transport_event){
      .type = type, .connection = bus_transport_slots_handle(&self->slots, index)};
}

/* The last event of a connection. */
static struct bus_transport_event end(struct uring_transport *self, uint32_t index, int error)
{
  struct connection *connection = &self->connections[index];
  struct bus_transport_event event =
      event_of(self, index, error ? BUS_TRANSPORT_FAILED : BUS_TRANSPORT_CLOSED);
  event.error = error;
  connection->state = ENDED;
  connection->wants = 0;
  drop_output(connection);
  return event;
}

static struct bus_transport_event take_connect(struct uring_transport *self, uint32_t index,
                                               int result)
{
  struct connection *connection = &self->connections[index];
  if (connection->state != CONNECTING)
    return (struct bus_transport_event){0};
  if (result < 0) /* cancelled it is by its time-out alone */
    return end(self, index, result == -ECANCELED ? ETIMEDOUT : -result);
  connection->state = CONNECTED;
  want(self, index, RECEIVE);
  return event_of(self, index, BUS_TRANSPORT_CONNECTED);
}

static struct bus_transport_event take_send(struct uring_transport *self, uint32_t index,
                                            int result)
{
  struct connection *connection = &self->connections[index];
  connection->sends = false;
  if (connection->state != CONNECTED) {
    drop_output(connection);
    return (struct bus_transport_event){0};
  }
  if (result > 0)
    connection->sent += (size_t)result;
  else if (result == -ECONNRESET || result == -EPIPE)
    /* The peer is gone, but what it sent before it went is still to be received; the end of that
     * is where the connection fails. */
    connection->error = -result;
  else if (result != 0 && result != -EINTR && result != -EAGAIN)
    return end(self, index, -result);
  if (connection->error)
    drop_output(connection);
  else if (connection->sent < connection->sending.size || connection->waiting.size > 0)
    want(self, index, SEND);
  else
    drop_output(connection);
  return (struct bus_transport_event){0};
}

static struct bus_transport_event take_received(struct uring_transport *self, uint32_t index,
                                                const struct io_uring_cqe *cqe)
{
  struct connection *connection = &self->connections[index];
  const bool has_buffer = cqe->flags & IORING_CQE_F_BUFFER;
  const uint32_t buffer = cqe->flags >> IORING_CQE_BUFFER_SHIFT;
  const bool is_data = has_buffer && cqe->res > 0 && connection->state == CONNECTED;
  if (has_buffer && !is_data)
    bus_uring_give_buffer(&self->uring, buffer);
  if (connection->state != CONNECTED)
    return (struct bus_transport_event){0};
  /* Out of buffers: what the caller has now comes back at the next poll, before this. */
  const bool again =
      cqe->res > 0 || cqe->res == -ENOBUFS || cqe->res == -EINTR || cqe->res == -EAGAIN;
  if (!again)
    return end(self, index, cqe->res == 0 ? connection->error : -cqe->res);
  if (!(cqe->flags & IORING_CQE_F_MORE))
    want(self, index, RECEIVE);
  if (!is_data)
    return (struct bus_transport_event){0};
  self->lent[self->lent_count++] = buffer;
  struct bus_transport_event event = event_of(self, index, BUS_TRANSPORT_DATA);
  event.data = bus_uring_buffer(&self->uring, buffer);
  event.size = (size_t)cqe->res;
  return event;
}

/* After each completion of a closing connection. `completions_follow`: it was that of a
 * cancellation that found something; asking again before that has come would only burden the
 * kernel. In all other cases what is left may have been where a cancellation does not find it. */
static void go_on_closing(struct uring_transport *self, uint32_t index, bool completions_follow)
{
  if (self->connections[index].under_way == 0)
    release(self, index);
  else if (!completions_follow)
    want(self, index, CANCEL);
}

/* What a completion means to the caller; an event without a type: nothing. */
static struct bus_transport_event take_completion(struct uring_transport *self,
                                                  const struct io_uring_cqe *cqe)
{
  const uint32_t index = (uint32_t)cqe->user_data;
  const enum operation operation = (enum operation)(cqe->user_data >> 32);
  struct connection *connection = &self->connections[index];
  connection->under_way -= !(cqe->flags & IORING_CQE_F_MORE);
  struct bus_transport_event event = {0};
  switch (operation) {
  case CONNECT:
    event = take_connect(self, index, cqe->res);
    break;
  case RECEIVE:
    event = take_received(self, index, cqe);
    break;
  case SEND:
    event = take_send(self, index, cqe->res);
    break;
  case TIMEOUT:
  case CANCEL:
    break;
  }
  if (connection->state == CLOSING)
    go_on_closing(self, index, operation == CANCEL && cqe->res > 0);
  return event;
}

static int poll_events(struct bus_transport *transport, struct bus_transport_event *events,
                       uint32_t count, uint64_t wait_ns)
{
  struct uring_transport *self = uring_of(transport);
  while (self->lent_count > 0)
    bus_uring_give_buffer(&self->uring, self->lent[--self->lent_count]);
  issue_wanted(self);
  const int error = bus_uring_enter(&self->uring, wait_ns);
  if (error)
    return error;
  uint32_t taken = 0;
  struct io_uring_cqe *cqe;
  while (taken < count && io_uring_cq_ready(&self->uring.ring) > 0 &&
         io_uring_peek_cqe(&self->uring.ring, &cqe) == 0) {
    events[taken] = take_completion(self, cqe);
    io_uring_cqe_seen(&self->uring.ring, cqe);
    taken += events[taken].type != 0;
  }
  return (int)taken;
}

static void close_all(struct uring_transport *self)
{
  for (uint32_t i = 0; i < self->slots.capacity; i++)
    if (self->connections[i].state != UNUSED && self->connections[i].state != CLOSING)
      close_connection(&self->transport, bus_transport_slots_handle(&self->slots, i));
  struct bus_transport_event event;
  for (int round = 0; round < DESTROY_ROUNDS_MAX; round++) {
    if (self->slots.free_count == self->slots.capacity ||
        poll_events(&self->transport, &event, 1, DESTROY_WAIT_NS) < 0)
      break;
  }
}

static void free_all(struct uring_transport *self)
{
  for (uint32_t i = 0; self->connections && i < self->slots.capacity; i++) {
    bus_byte_buffer_free(&self->connections[i].sending);
    bus_byte_buffer_free(&self->connections[i].waiting);
  }
  bus_transport_slots_free(&self->slots);
  free(self->connections);
  free(self->queue);
  free(self->lent);
  free(self);
}

static void destroy(struct bus_transport *transport)
{
  struct uring_transport *self = uring_of(transport);
  close_all(self);
  bus_uring_exit(&self->uring);
  free_all(self);
}

int bus_transport_uring_new_with(uint32_t connections_max, bool registered_files,
                                 struct bus_transport **transport)
{
  static const struct bus_transport_operations operations = {
      .name = "io_uring",
      .open = open_connection,
      .send = send_bytes,
      .close = close_connection,
      .poll = poll_events,
      .destroy = destroy,
  };
  *transport = NULL;
  struct uring_transport *self = calloc(1, sizeof *self);
  if (!self)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  self->transport.operations = &operations;
  /* An index is free only when the kernel is done with it, which a caller that closes one and opens
   * the next need not know. */
  int error = bus_transport_slots_init(&self->slots, connections_max, connections_max);
  const uint32_t capacity = self->slots.capacity;
  if (!error)
    error = bus_uring_init(&self->uring, capacity, registered_files);
  if (error) {
    free_all(self);
    return error;
  }
  self->connections = calloc(capacity, sizeof *self->connections);
  self->queue = calloc(capacity, sizeof *self->queue);
  self->lent = calloc(self->uring.buffer_count, sizeof *self->lent);
  if (!self->connections || !self->queue || !self->lent) {
    bus_uring_exit(&self->uring);
    free_all(self);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory for %u connections", connections_max);
  }
  *transport = &self->transport;
  return BUS_OK;
}

int bus_transport_uring_new(uint32_t connections_max, struct bus_transport **transport)
{
  return bus_transport_uring_new_with(connections_max, true, transport);
}
