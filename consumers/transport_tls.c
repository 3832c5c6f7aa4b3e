#include "consumers/transport_tls.h"

#include "consumers/transport_parts.h"

#include "shm/clock.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INDEX_MASK 0xffffu

/* A poll gives at most so many DATA events of TLS connections; a record has 16 KiB at most. */
#define PLAIN_BUFFERS      64u
#define PLAIN_BUFFER_BYTES 16384u

struct bus_tls_client {
  SSL_CTX *context;
};

enum state { CONNECTING = 0, HANDSHAKING, CONNECTED, ENDED };

struct session {
  struct session *previous, *next; /* in the list of those that may have an event */
  bool is_listed;
  uint32_t handle;
  enum state state;
  SSL *ssl;
  BIO *in, *out;                  /* the SSL's */
  struct bus_transport_peer peer; /* without TLS, for the transport below */
  bool inner_ended;               /* the stream below has; what it gave before is not all read */
  int inner_error;
  int error; /* it is to FAIL with; reason says why */
  char reason[768];
};

struct tls_transport {
  struct bus_transport transport;
  struct bus_transport *inner;
  struct session *sessions[INDEX_MASK + 1]; /* by the index of the handle below */
  struct session *first, *last;             /* the list */
  struct bus_transport_timers timers;       /* from open to the end of the handshake */
  uint32_t plain_used;
  char plain[PLAIN_BUFFERS][PLAIN_BUFFER_BYTES];
};

static struct tls_transport *tls_of(struct bus_transport *transport)
{
  return (struct tls_transport *)(void *)((char *)transport -
                                          offsetof(struct tls_transport, transport));
}

static struct session *find(const struct tls_transport *self, uint32_t handle)
{
  struct session *session = self->sessions[handle & INDEX_MASK];
  return session && session->handle == handle ? session : NULL;
}

static void list(struct tls_transport *self, struct session *session)
{
  if (session->is_listed)
    return;
  session->is_listed = true;
  session->previous = self->last;
  session->next = NULL;
  *(self->last ? &self->last->next : &self->first) = session;
  self->last = session;
}

static void unlist(struct tls_transport *self, struct session *session)
{
  if (!session->is_listed)
    return;
  session->is_listed = false;
  *(session->previous ? &session->previous->next : &self->first) = session->next;
  *(session->next ? &session->next->previous : &self->last) = session->previous;
}

/* The first failure is the one that counts. */
static void fail(struct tls_transport *self, struct session *session, int error, const char *reason)
{
  if (session->error || session->state == ENDED)
    return;
  session->error = error;
  snprintf(session->reason, sizeof session->reason, "TLS with %s: %s", session->peer.server_name,
           reason);
  list(self, session);
}

static void fail_by_library(struct tls_transport *self, struct session *session)
{
  const long verdict = SSL_get_verify_result(session->ssl);
  const char *text = ERR_reason_error_string(ERR_peek_last_error());
  char reason[384];
  if (verdict != X509_V_OK)
    snprintf(reason, sizeof reason, "its certificate is refused: %s",
             X509_verify_cert_error_string(verdict));
  else
    snprintf(reason, sizeof reason, "%s", text ? text : "what it sends is no TLS");
  fail(self, session, EPROTO, reason);
}

/* Gives what the library has to say to the transport below. */
static int flush(struct tls_transport *self, struct session *session)
{
  char *bytes = NULL;
  const long size = BIO_get_mem_data(session->out, &bytes);
  if (size <= 0)
    return BUS_OK;
  const int error =
      self->inner->operations->send(self->inner, session->handle, bytes, (size_t)size);
  (void)BIO_reset(session->out);
  if (error)
    fail(self, session, ENOBUFS, "no room for what is to be sent");
  return error;
}

static void free_session(struct session *session)
{
  SSL_free(session->ssl); /* with the BIOs */
  free(session);
}

static bool demand_name(SSL *ssl, const char *name)
{
  unsigned char address[sizeof(struct in6_addr)];
  if (inet_pton(AF_INET, name, address) == 1 || inet_pton(AF_INET6, name, address) == 1)
    return X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1;
  SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

static struct session *new_session(const struct bus_transport_peer *peer)
{
  struct session *session = calloc(1, sizeof *session);
  if (!session)
    return NULL;
  session->peer = *peer;
  session->peer.tls = NULL;
  session->ssl = SSL_new(peer->tls->context);
  BIO *in = BIO_new(BIO_s_mem());
  BIO *out = BIO_new(BIO_s_mem());
  if (!session->ssl || !in || !out || !demand_name(session->ssl, peer->server_name)) {
    BIO_free(in);
    BIO_free(out);
    free_session(session);
    return NULL;
  }
  SSL_set_bio(session->ssl, in, out);
  SSL_set_connect_state(session->ssl);
  session->in = in;
  session->out = out;
  return session;
}

static int open_connection(struct bus_transport *transport, const struct bus_transport_peer *peer)
{
  struct tls_transport *self = tls_of(transport);
  if (!peer->tls)
    return self->inner->operations->open(self->inner, peer);
  if (peer->server_name[0] == '\0')
    return bus_error_set(BUS_ERROR_INVALID,
                         "a TLS peer without server_name: nothing would say whose certificate it "
                         "must be");
  struct session *session = new_session(peer);
  if (!session)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for TLS with %s, or the name is none",
                         peer->server_name);
  const int handle = self->inner->operations->open(self->inner, &session->peer);
  if (handle < 0) {
    free_session(session);
    return handle;
  }
  session->handle = (uint32_t)handle;
  const uint32_t index = session->handle & INDEX_MASK;
  self->sessions[index] = session;
  if (peer->connect_timeout_ns > 0)
    bus_transport_timers_set(&self->timers, index, bus_transport_due_ns(peer->connect_timeout_ns));
  return handle;
}

static int send_bytes(struct bus_transport *transport, uint32_t handle, const void *bytes,
                      size_t size)
{
  struct tls_transport *self = tls_of(transport);
  struct session *session = find(self, handle);
  if (!session)
    return self->inner->operations->send(self->inner, handle, bytes, size);
  if (session->state != CONNECTED || session->error || size == 0)
    return BUS_OK;
  size_t written;
  ERR_clear_error();
  if (SSL_write_ex(session->ssl, bytes, size, &written) != 1)
    fail_by_library(self, session);
  return flush(self, session);
}

static void drop_session(struct tls_transport *self, struct session *session)
{
  const uint32_t index = session->handle & INDEX_MASK;
  bus_transport_timers_clear(&self->timers, index);
  unlist(self, session);
  self->sessions[index] = NULL;
  free_session(session);
}

static void close_connection(struct bus_transport *transport, uint32_t handle)
{
  struct tls_transport *self = tls_of(transport);
  struct session *session = find(self, handle);
  if (session)
    drop_session(self, session);
  self->inner->operations->close(self->inner, handle);
}

static struct bus_transport_event end(struct tls_transport *self, struct session *session)
{
  session->state = ENDED;
  bus_transport_timers_clear(&self->timers, session->handle & INDEX_MASK);
  return (struct bus_transport_event){
      .type = session->error ? BUS_TRANSPORT_FAILED : BUS_TRANSPORT_CLOSED,
      .connection = session->handle,
      .error = session->error,
  };
}

/* The library can do no more: for want of bytes, or for good. True: the connection has ended. */
static bool is_over(struct tls_transport *self, struct session *session, int result)
{
  switch (SSL_get_error(session->ssl, result)) {
  case SSL_ERROR_ZERO_RETURN:
    if (session->state == HANDSHAKING)
      fail(self, session, EPROTO, "ended by the peer during the handshake");
    return true;
  case SSL_ERROR_WANT_READ:
    if (session->inner_ended && session->inner_error)
      fail(self, session, session->inner_error, "the connection below broke");
    else if (session->inner_ended)
      fail(self, session, EPROTO,
           session->state == HANDSHAKING
               ? "the stream ended during the handshake"
               : "the stream ended without close_notify, it may have been cut");
    return session->inner_ended;
  default:
    fail_by_library(self, session);
    return true;
  }
}

static struct bus_transport_event shake_hands(struct tls_transport *self, struct session *session)
{
  ERR_clear_error();
  const int result = SSL_do_handshake(session->ssl);
  /* Also when it failed: the peer is to see the alert. */
  if (flush(self, session) || (result != 1 && is_over(self, session, result)))
    return end(self, session);
  if (result != 1)
    return (struct bus_transport_event){0};
  session->state = CONNECTED;
  bus_transport_timers_clear(&self->timers, session->handle & INDEX_MASK);
  return (struct bus_transport_event){.type = BUS_TRANSPORT_CONNECTED,
                                      .connection = session->handle};
}

static struct bus_transport_event decrypt(struct tls_transport *self, struct session *session)
{
  char *plain = self->plain[self->plain_used];
  size_t size = 0;
  ERR_clear_error();
  const int result = SSL_read_ex(session->ssl, plain, PLAIN_BUFFER_BYTES, &size);
  if (flush(self, session) || (result != 1 && is_over(self, session, result)))
    return end(self, session);
  if (result != 1)
    return (struct bus_transport_event){0};
  self->plain_used++;
  return (struct bus_transport_event){
      .type = BUS_TRANSPORT_DATA, .connection = session->handle, .data = plain, .size = size};
}

/* An event without a type: none for now. */
static struct bus_transport_event next_event(struct tls_transport *self, struct session *session)
{
  if (session->state == ENDED)
    return (struct bus_transport_event){0};
  if (session->error)
    return end(self, session);
  if (session->state == HANDSHAKING)
    return shake_hands(self, session);
  if (session->state == CONNECTED)
    return decrypt(self, session);
  return (struct bus_transport_event){0};
}

/* One event of each listed session in turn, as long as there is room for them. */
static uint32_t take_listed(struct tls_transport *self, struct bus_transport_event *events,
                            uint32_t count)
{
  uint32_t taken = 0;
  while (taken < count && self->first && self->plain_used < PLAIN_BUFFERS) {
    struct session *session = self->first;
    unlist(self, session);
    events[taken] = next_event(self, session);
    if (events[taken].type) {
      taken++;
      list(self, session);
    }
  }
  return taken;
}

/* What the transport below says of a TLS connection. */
static void feed(struct tls_transport *self, struct session *session,
                 const struct bus_transport_event *event)
{
  switch (event->type) {
  case BUS_TRANSPORT_CONNECTED:
    if (session->state == CONNECTING)
      session->state = HANDSHAKING;
    break;
  case BUS_TRANSPORT_DATA:
    if (session->state == ENDED)
      return;
    if (BIO_write(session->in, event->data, (int)event->size) != (int)event->size)
      fail(self, session, ENOMEM, "out of memory");
    break;
  default:
    session->inner_ended = true;
    session->inner_error = event->error;
    if (session->state == CONNECTING)
      fail(self, session, event->error, strerror(event->error));
  }
  list(self, session);
}

static void fail_due(struct tls_transport *self)
{
  if (self->timers.count == 0)
    return;
  const uint64_t now_ns = bus_clock_monotonic_ns();
  int index;
  while ((index = bus_transport_timers_take(&self->timers, now_ns)) >= 0)
    fail(self, self->sessions[index], ETIMEDOUT, "connecting and the handshake took too long");
}

static int poll_events(struct bus_transport *transport, struct bus_transport_event *events,
                       uint32_t count, uint64_t wait_ns)
{
  struct tls_transport *self = tls_of(transport);
  self->plain_used = 0;
  fail_due(self);
  uint32_t taken = take_listed(self, events, count);
  if (taken == count)
    return (int)taken;
  const int below = self->inner->operations->poll(
      self->inner, events + taken, count - taken,
      taken || self->first ? 0 : bus_transport_timers_wait_ns(&self->timers, wait_ns));
  if (below < 0)
    return below;
  const struct bus_transport_event *from = events + taken;
  for (int i = 0; i < below; i++) {
    struct session *session = find(self, from[i].connection);
    if (session)
      feed(self, session, &from[i]);
    else
      events[taken++] = from[i];
  }
  return (int)(taken + take_listed(self, events + taken, count - taken));
}

static void destroy(struct bus_transport *transport)
{
  struct tls_transport *self = tls_of(transport);
  for (uint32_t i = 0; i <= INDEX_MASK; i++)
    if (self->sessions[i])
      drop_session(self, self->sessions[i]);
  self->inner->operations->destroy(self->inner);
  bus_transport_timers_free(&self->timers);
  free(self);
}

static const char *reason_of(const struct bus_transport *transport, uint32_t handle)
{
  const struct tls_transport *self =
      (const struct tls_transport *)(const void *)((const char *)transport -
                                                   offsetof(struct tls_transport, transport));
  const struct session *session = find(self, handle);
  return session ? session->reason : bus_transport_reason(self->inner, handle);
}

int bus_transport_tls_new(struct bus_transport *inner, struct bus_transport **transport)
{
  static const struct bus_transport_operations operations = {
      .name = "tls",
      .open = open_connection,
      .send = send_bytes,
      .close = close_connection,
      .poll = poll_events,
      .destroy = destroy,
      .reason = reason_of,
  };
  *transport = NULL;
  struct tls_transport *self = calloc(1, sizeof *self);
  if (!self)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  const int error = bus_transport_timers_init(&self->timers, INDEX_MASK + 1);
  if (error) {
    free(self);
    return error;
  }
  self->transport.operations = &operations;
  self->inner = inner;
  *transport = &self->transport;
  return BUS_OK;
}

static int load_authorities(SSL_CTX *context, const char *path)
{
  if (!path) {
    if (SSL_CTX_set_default_verify_paths(context) != 1)
      return bus_error_set(BUS_ERROR_FORMAT, "the system's certificate authorities cannot be read: "
                                             "install ca-certificates, or name a file of them");
    return BUS_OK;
  }
  if (access(path, R_OK) != 0)
    return bus_error_set_errno("certificate authorities %s", path);
  if (SSL_CTX_load_verify_file(context, path) != 1)
    return bus_error_set(BUS_ERROR_FORMAT,
                         "%s has no certificates of authorities: it must be PEM, as "
                         "/etc/ssl/certs/ca-certificates.crt is",
                         path);
  return BUS_OK;
}

int bus_tls_client_new(const char *authorities_path, struct bus_tls_client **client)
{
  *client = NULL;
  ERR_clear_error();
  struct bus_tls_client *made = calloc(1, sizeof *made);
  if (made)
    made->context = SSL_CTX_new(TLS_client_method());
  if (!made || !made->context) {
    free(made);
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for TLS");
  }
  SSL_CTX_set_verify(made->context, SSL_VERIFY_PEER, NULL);
  SSL_CTX_set_min_proto_version(made->context, TLS1_2_VERSION);
  /* Without renegotiation a write never waits for a read. */
  SSL_CTX_set_options(made->context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(made->context, SSL_MODE_RELEASE_BUFFERS);
  const int error = load_authorities(made->context, authorities_path);
  if (error) {
    bus_tls_client_free(made);
    return error;
  }
  *client = made;
  return BUS_OK;
}

void bus_tls_client_free(struct bus_tls_client *client)
{
  if (!client)
    return;
  SSL_CTX_free(client->context);
  free(client);
}
