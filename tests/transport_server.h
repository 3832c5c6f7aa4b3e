/* transport_server.h: a server for tests of transports: threads of the test program, one for each
 * connection, that behave as told, in the clear or over TLS. */
#ifndef SIGNALBUS_TESTS_TRANSPORT_SERVER_H
#define SIGNALBUS_TESTS_TRANSPORT_SERVER_H

#include "consumers/transport.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef BUS_WITH_TLS
#include <openssl/ssl.h>
#else
typedef void SSL_CTX;
typedef void SSL;
#endif

struct conversation {
  int fd;
  SSL *ssl; /* NULL: in the clear */
  struct server *server;
};

struct server {
  int listener;
  SSL_CTX *tls;
  void (*behave)(struct conversation *conversation);
  struct bus_transport_peer peer; /* to reach it; two seconds to connect */
  pthread_t thread;
  pthread_t *conversations; /* of the accepting thread, until it has ended */
  uint32_t conversation_count;
  uint32_t ended_count;
};

static ssize_t hear(struct conversation *conversation, void *bytes, size_t size)
{
#ifdef BUS_WITH_TLS
  if (conversation->ssl)
    return SSL_read(conversation->ssl, bytes, (int)size);
#endif
  return recv(conversation->fd, bytes, size, 0);
}

/* False: the peer is gone. */
static bool say(struct conversation *conversation, const void *bytes, size_t size)
{
#ifdef BUS_WITH_TLS
  if (conversation->ssl)
    return size == 0 || SSL_write(conversation->ssl, bytes, (int)size) == (int)size;
#endif
  const char *from = bytes;
  while (size > 0) {
    const ssize_t sent = send(conversation->fd, from, size, MSG_NOSIGNAL);
    if (sent <= 0)
      return false;
    from += sent;
    size -= (size_t)sent;
  }
  return true;
}

/* Ends the server's direction in order. */
static void finish(struct conversation *conversation)
{
#ifdef BUS_WITH_TLS
  if (conversation->ssl)
    SSL_shutdown(conversation->ssl);
#endif
  shutdown(conversation->fd, SHUT_WR);
}

/* Reads until the peer is gone. */
static void outlast(struct conversation *conversation)
{
  char bytes[4096];
  while (hear(conversation, bytes, sizeof bytes) > 0) {
  }
}

static void echo(struct conversation *conversation)
{
  char bytes[20000];
  ssize_t size;
  while ((size = hear(conversation, bytes, sizeof bytes)) > 0 &&
         say(conversation, bytes, (size_t)size)) {
  }
}

static void *converse(void *argument)
{
  struct conversation *conversation = argument;
  struct server *server = conversation->server;
  bool ready = true;
#ifdef BUS_WITH_TLS
  if (server->tls) {
    conversation->ssl = SSL_new(server->tls);
    SSL_set_fd(conversation->ssl, conversation->fd);
    ready = SSL_accept(conversation->ssl) == 1;
  }
#endif
  if (ready)
    server->behave(conversation);
#ifdef BUS_WITH_TLS
  SSL_free(conversation->ssl);
#endif
  close(conversation->fd);
  free(conversation);
  __atomic_add_fetch(&server->ended_count, 1, __ATOMIC_RELEASE);
  return NULL;
}

static void *accept_all(void *argument)
{
  struct server *server = argument;
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, (size_t)512 << 10);
  int fd;
  while ((fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
    const int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct conversation *conversation = calloc(1, sizeof *conversation);
    *conversation = (struct conversation){.fd = fd, .server = server};
    const uint32_t at = server->conversation_count++;
    server->conversations =
        realloc(server->conversations, server->conversation_count * sizeof(pthread_t));
    if (!server->conversations ||
        pthread_create(&server->conversations[at], &attributes, converse, conversation) != 0)
      abort();
  }
  pthread_attr_destroy(&attributes);
  return NULL;
}

/* Listens on a free port of this machine; `receive_bytes`: of the sockets' buffers, 0: as they are.
 */
static int listen_somewhere(struct bus_transport_peer *peer, int backlog, int receive_bytes)
{
  const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (receive_bytes) {
    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &receive_bytes, sizeof receive_bytes);
    setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &receive_bytes, sizeof receive_bytes);
  }
  memset(peer, 0, sizeof *peer);
  struct sockaddr_in *address = (struct sockaddr_in *)&peer->address;
  address->sin_family = AF_INET;
  address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  peer->address_bytes = sizeof *address;
  peer->connect_timeout_ns = 20000000000u;
  strcpy(peer->server_name, "127.0.0.1");
  cr_assert_eq(bind(listener, (struct sockaddr *)address, sizeof *address), 0);
  cr_assert_eq(listen(listener, backlog), 0);
  cr_assert_eq(getsockname(listener, (struct sockaddr *)address, &peer->address_bytes), 0);
  return listener;
}

static struct server *server_start(void (*behave)(struct conversation *), SSL_CTX *tls,
                                   int receive_bytes)
{
  struct server *server = calloc(1, sizeof *server);
  server->behave = behave;
  server->tls = tls;
  server->listener = listen_somewhere(&server->peer, 4096, receive_bytes);
  cr_assert_eq(pthread_create(&server->thread, NULL, accept_all, server), 0);
  return server;
}

/* True when so many conversations have been. */
static bool server_has_ended(struct server *server, uint32_t count)
{
  return __atomic_load_n(&server->ended_count, __ATOMIC_ACQUIRE) == count;
}

/* Ends when all conversations have: close their other ends first. */
static void server_stop(struct server *server)
{
  shutdown(server->listener, SHUT_RDWR);
  pthread_join(server->thread, NULL);
  close(server->listener);
  for (uint32_t i = 0; i < server->conversation_count; i++)
    pthread_join(server->conversations[i], NULL);
  free(server->conversations);
  free(server);
}

#endif
