#include "tools/bench/llm_double.h"

#include "tools/bench/bench_process.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 4096
#define REQUEST_MAX     65536
#define EVENTS          64

static const char body[] =
    "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":"
    "{\"role\":\"assistant\",\"content\":\"" LLM_DOUBLE_TEXT "\"},\"finish_reason\":null}]}\n\n"
    "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":"
    "{},\"finish_reason\":\"stop\"}]}\n\n"
    "data: {\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[],\"usage\":"
    "{\"prompt_tokens\":4,\"completion_tokens\":1,\"total_tokens\":5}}\n\n"
    "data: [DONE]\n\n";

/* A connection's request so far. */
struct peer {
  size_t size;
  char bytes[REQUEST_MAX];
};

struct server {
  int epoll;
  struct peer *peers[CONNECTIONS_MAX]; /* by descriptor */
  char answer[2048];
  size_t answer_bytes;
};

int llm_double_listen(uint16_t *port)
{
  struct sockaddr_in address = {.sin_family = AF_INET};
  socklen_t size = sizeof address;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) != 0 ||
      listen(listener, 1024) != 0 || getsockname(listener, (struct sockaddr *)&address, &size) != 0)
    return bus_error_set_errno("listening on 127.0.0.1");
  *port = ntohs(address.sin_port);
  return listener;
}

static void watch(struct server *server, int descriptor)
{
  struct epoll_event event = {.events = EPOLLIN, .data.fd = descriptor};
  epoll_ctl(server->epoll, EPOLL_CTL_ADD, descriptor, &event);
}

static void accept_all(struct server *server, int listener)
{
  int descriptor;
  while ((descriptor = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
    int one = 1;
    struct peer *peer = descriptor < CONNECTIONS_MAX ? malloc(sizeof *peer) : NULL;
    if (!peer) {
      close(descriptor);
      continue;
    }
    peer->size = 0;
    server->peers[descriptor] = peer;
    setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(server, descriptor);
  }
}

static void hang_up(struct server *server, int descriptor)
{
  free(server->peers[descriptor]);
  server->peers[descriptor] = NULL;
  close(descriptor);
}

/* Size of the request at the front of `peer`, 0 when it is not all there, -1 when it is none. */
static long request_size(const struct peer *peer)
{
  const char *end = memmem(peer->bytes, peer->size, "\r\n\r\n", 4);
  if (!end)
    return peer->size == REQUEST_MAX ? -1 : 0;
  const size_t head = (size_t)(end - peer->bytes) + 4;
  for (const char *line = peer->bytes; line < end;) {
    if (strncasecmp(line, "content-length:", 15) == 0) {
      size_t length = strtoul(line + 15, NULL, 10);
      if (length > REQUEST_MAX - head)
        return -1;
      return head + length <= peer->size ? (long)(head + length) : 0;
    }
    line = (const char *)memchr(line, '\n', (size_t)(end + 2 - line)) + 1;
  }
  return (long)head; /* a GET */
}

static void serve_peer(struct server *server, int descriptor)
{
  struct peer *peer = server->peers[descriptor];
  ssize_t got = recv(descriptor, peer->bytes + peer->size, REQUEST_MAX - peer->size, 0);
  if (got <= 0) {
    if (got == 0 || (errno != EAGAIN && errno != EINTR))
      hang_up(server, descriptor);
    return;
  }
  peer->size += (size_t)got;
  long size;
  while ((size = request_size(peer)) > 0) {
    if (send(descriptor, server->answer, server->answer_bytes, MSG_NOSIGNAL) !=
        (ssize_t)server->answer_bytes) {
      size = -1; /* nobody who measures lets two kilobytes stand in the way */
      break;
    }
    peer->size -= (size_t)size;
    memmove(peer->bytes, peer->bytes + size, peer->size);
  }
  if (size < 0)
    hang_up(server, descriptor);
}

int llm_double_serve(int listener)
{
  struct epoll_event events[EVENTS];
  struct server *server = calloc(1, sizeof *server);
  if (!server)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  server->answer_bytes = (size_t)snprintf(
      server->answer, sizeof server->answer,
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %zu\r\n\r\n%s",
      sizeof body - 1, body);
  server->epoll = epoll_create1(EPOLL_CLOEXEC);
  watch(server, listener);
  while (!bench_stopped()) {
    int count = epoll_wait(server->epoll, events, EVENTS, 100);
    for (int i = 0; i < count; i++)
      if (events[i].data.fd == listener)
        accept_all(server, listener);
      else
        serve_peer(server, events[i].data.fd);
  }
  for (int i = 0; i < CONNECTIONS_MAX; i++)
    if (server->peers[i])
      hang_up(server, i);
  close(server->epoll);
  free(server);
  return BUS_OK;
}
