#include "tools/metrics_server.h"

#include "shm/error.h"
#include "shm/options.h"
#include "tools/web/page.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CONNECTIONS_MAX      32u
#define CONNECTION_TIMEOUT_S 10u
#define CONNECTION_BYTES     (32u * 1024)

struct metrics_server {
  struct MHD_Daemon *daemon;
  bool loopback;
  void (*provide)(void *context, struct metrics_answers *answers);
  void *context;
};

/* ---- addresses ---- */

static bool is_loopback(const struct sockaddr *address)
{
  if (address->sa_family == AF_INET)
    return ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24 == 127;
  return address->sa_family == AF_INET6 &&
         IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static void name_address(struct metrics_address *address)
{
  char host[INET6_ADDRSTRLEN], port[8];
  if (getnameinfo((struct sockaddr *)&address->socket, address->size, host, sizeof host, port,
                  sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    return;
  snprintf(address->text, sizeof address->text,
           address->socket.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* Splits "[::1]:9480", "127.0.0.1:9480" or "9480"; the host goes to `host`. Returns the port's
 * text, NULL when it is none of them. */
static const char *split_address(const char *text, char *host, size_t size)
{
  const char *colon = strrchr(text, ':');
  if (!colon) {
    snprintf(host, size, "127.0.0.1");
    return text;
  }
  size_t length = (size_t)(colon - text);
  bool bracketed = length >= 2 && text[0] == '[' && colon[-1] == ']';
  text += bracketed;
  length -= bracketed ? 2 : 0;
  if (length == 0 || length >= size || (!bracketed && memchr(text, ':', length)))
    return NULL;
  memcpy(host, text, length);
  host[length] = '\0';
  if (!strcmp(host, "localhost"))
    strcpy(host, "127.0.0.1");
  return colon + 1;
}

/* In digits only: a name, and "*", which getaddrinfo takes for every address, is nobody's wish. */
static bool fill_address(struct metrics_address *address, const char *host, uint16_t port)
{
  struct sockaddr_in *four = (struct sockaddr_in *)(void *)&address->socket;
  struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)&address->socket;
  memset(address, 0, sizeof *address);
  if (inet_pton(AF_INET, host, &four->sin_addr) == 1) {
    four->sin_family = AF_INET;
    four->sin_port = htons(port);
    address->size = sizeof *four;
  } else if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
    six->sin6_family = AF_INET6;
    six->sin6_port = htons(port);
    address->size = sizeof *six;
  }
  address->loopback = is_loopback((struct sockaddr *)&address->socket);
  return address->size > 0;
}

int metrics_address_parse(const char *text, struct metrics_address *address)
{
  char host[64];
  int64_t number = 0;
  const char *port = split_address(text, host, sizeof host);
  if (port && bus_parse_integer(port, 0, 65535, "--listen's port", &number) != BUS_OK)
    return BUS_ERROR_INVALID;
  if (!port || !fill_address(address, host, (uint16_t)number))
    return bus_error_set(
        BUS_ERROR_INVALID,
        "--listen %s: give ADDRESS:PORT, the address in digits: 127.0.0.1:9480 for "
        "this machine, 0.0.0.0:9480 for everybody who can reach it",
        text);
  name_address(address);
  return BUS_OK;
}

/* ---- requests ---- */

/* A page of somebody else's, open in a browser here, can name this server by a name of its own;
 * what a browser asks for in good faith is this machine by address or as localhost. */
static bool host_is_ours(const char *host)
{
  if (!host || !strncmp(host, "localhost:", 10) || !strcmp(host, "localhost"))
    return true;
  return host[0] == '[' || strspn(host, "0123456789.:") == strlen(host);
}

static enum MHD_Result send_text(struct MHD_Connection *connection, unsigned status,
                                 const char *type, const void *text, size_t bytes, bool lasting)
{
  static const char policy[] =
      "default-src 'none'; style-src 'unsafe-inline'; script-src "
      "'unsafe-inline'; connect-src 'self'; img-src data:; base-uri 'none'; "
      "form-action 'none'; frame-ancestors 'none'";
  struct MHD_Response *response = MHD_create_response_from_buffer(
      bytes, (void *)(uintptr_t)text, lasting ? MHD_RESPMEM_PERSISTENT : MHD_RESPMEM_MUST_COPY);
  if (!response)
    return MHD_NO;
  MHD_add_response_header(response, "Content-Type", type);
  MHD_add_response_header(response, "Cache-Control", "no-store");
  MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
  MHD_add_response_header(response, "Content-Security-Policy", policy);
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
    MHD_add_response_header(response, "Allow", "GET, HEAD");
  enum MHD_Result result = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return result;
}

static enum MHD_Result refuse(struct MHD_Connection *connection, unsigned status, const char *text)
{
  return send_text(connection, status, "text/plain; charset=utf-8", text, strlen(text), true);
}

static enum MHD_Result answer(void *context, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **request)
{
  static char seen;
  struct metrics_server *server = context;
  struct metrics_answers answers;
  (void)version;
  (void)upload;
  if (!*request) { /* the headers alone: the body, which is thrown away, comes first */
    *request = &seen;
    return MHD_YES;
  }
  if (*upload_bytes) {
    *upload_bytes = 0;
    return MHD_YES;
  }
  if (strcmp(method, "GET") && strcmp(method, "HEAD"))
    return refuse(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD\n");
  if (server->loopback &&
      !host_is_ours(MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Host")))
    return refuse(connection, MHD_HTTP_FORBIDDEN, "ask for this machine by its address\n");
  if (!strcmp(path, "/"))
    return send_text(connection, MHD_HTTP_OK, "text/html; charset=utf-8", metrics_page,
                     metrics_page_bytes, true);
  server->provide(server->context, &answers);
  unsigned status = answers.healthy ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE;
  if (!strcmp(path, "/metrics"))
    return send_text(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8",
                     answers.metrics, strlen(answers.metrics), false);
  if (!strcmp(path, "/api/snapshot.json"))
    return send_text(connection, status, "application/json", answers.snapshot,
                     strlen(answers.snapshot), false);
  if (!strcmp(path, "/healthz"))
    return send_text(connection, status, "text/plain; charset=utf-8", answers.health,
                     strlen(answers.health), false);
  return refuse(connection, MHD_HTTP_NOT_FOUND, "/ /metrics /api/snapshot.json /healthz\n");
}

/* ---- the server ---- */

static int open_socket(struct metrics_address *address)
{
  const int yes = 1;
  int fd = socket(address->socket.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0)
    return bus_error_set_errno("%s: opening a socket", address->text);
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (bind(fd, (struct sockaddr *)&address->socket, address->size) == 0 && listen(fd, 64) == 0 &&
      getsockname(fd, (struct sockaddr *)&address->socket, &address->size) == 0) {
    name_address(address);
    return fd;
  }
  int error =
      errno == EADDRINUSE
          ? bus_error_set(BUS_ERROR_BUSY,
                          "%s: another program listens there; choose "
                          "another --listen",
                          address->text)
          : bus_error_set_errno("%s: cannot listen there (choose another --listen)", address->text);
  close(fd);
  return error;
}

int metrics_server_open(struct metrics_server **server, struct metrics_address *address,
                        void (*provide)(void *context, struct metrics_answers *answers),
                        void *context)
{
  int fd = open_socket(address);
  if (fd < 0)
    return fd;
  struct metrics_server *made = calloc(1, sizeof *made);
  if (made) {
    *made = (struct metrics_server){
        .loopback = address->loopback, .provide = provide, .context = context};
    made->daemon = MHD_start_daemon(MHD_USE_EPOLL, 0, NULL, NULL, answer, made,
                                    MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT,
                                    CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT,
                                    CONNECTION_TIMEOUT_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                                    (size_t)CONNECTION_BYTES, MHD_OPTION_END);
  }
  if (made && made->daemon) {
    *server = made;
    return BUS_OK;
  }
  free(made);
  close(fd);
  return bus_error_set(BUS_ERROR_IO, "%s: the HTTP server cannot be started", address->text);
}

void metrics_server_close(struct metrics_server *server)
{
  MHD_stop_daemon(server->daemon);
  free(server);
}

int metrics_server_run(struct metrics_server *server, int wait_ms)
{
  if (MHD_run_wait(server->daemon, wait_ms) == MHD_YES)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_IO, "the HTTP server failed");
}
