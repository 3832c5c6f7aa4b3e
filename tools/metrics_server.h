/* metrics_server.h: the HTTP server of `metrics`, by libmicrohttpd: answers from what it is given,
 * reads nothing itself. One thread. Internal to signal-busctl. */
#ifndef SIGNALBUS_METRICS_SERVER_H
#define SIGNALBUS_METRICS_SERVER_H

#include "shm/base.h"

#include <sys/socket.h>

/* What is answered now. Lent, NUL-terminated, until they are replaced. */
struct metrics_answers {
  const char *metrics;  /* /metrics: text */
  const char *snapshot; /* /api/snapshot.json */
  const char *health;   /* /healthz: text */
  bool healthy;         /* false: snapshot and health go out as 503 */
};

struct metrics_address {
  struct sockaddr_storage socket;
  socklen_t size;
  bool loopback;
  char text[64]; /* "127.0.0.1:9480", with the port that it has */
};

struct metrics_server;

/* Parses "ADDRESS:PORT" (the address in digits, IPv6 in brackets, or localhost) or "PORT" of
 * 127.0.0.1; port 0: any that is free. Returns BUS_OK or BUS_ERROR_INVALID with a message. */
int metrics_address_parse(const char *text, struct metrics_address *address);

/* Listens; completes address->text. `provide` is called for each request, on the thread that runs
 * the server. Errors, with a message: BUS_ERROR_BUSY (the port is taken), BUS_ERROR_DENIED,
 * BUS_ERROR_IO. */
int metrics_server_open(struct metrics_server **server, struct metrics_address *address,
                        void (*provide)(void *context, struct metrics_answers *answers),
                        void *context);
void metrics_server_close(struct metrics_server *server);

/* Serves for about `wait_ms`, or until a signal comes. */
int metrics_server_run(struct metrics_server *server, int wait_ms);

#endif
