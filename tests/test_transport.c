/* All kinds of transport do the same: each test runs on every one. */
#include "consumers/transport_uring.h"
#include "shm/clock.h"
#include "tests/transport_kinds.h"
#include "tests/transport_server.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

#define WAIT_NS     20000000u
#define PATIENCE_NS 60000000000u
#define HANDLES     4096

/* One stream as the test sees it; bytes number `i` of it is pattern(number, i), either way. */
struct stream {
  uint32_t handle;
  uint32_t number;
  bool open; /* by the caller, not yet closed */
  bool connected, closed, failed;
  int error;
  size_t sent, received;
  size_t wrong; /* bytes that are not what they should be */
  char reason[256];
};

static struct bus_transport *transport;
static struct stream streams[HANDLES];
static uint32_t stream_count;
static uint32_t strange; /* events of streams that are not open, or out of order */
static uint32_t poll_events_max = 64;

static char pattern(uint32_t number, size_t i)
{
  const uint64_t mixed = (i + number * (uint64_t)1000003) * 0x9E3779B97F4A7C15u;
  return (char)(mixed >> 56);
}

static struct stream *stream_open(const struct bus_transport_peer *peer)
{
  const int handle = transport->operations->open(transport, peer);
  cr_assert(handle >= 0, "%s", bus_error_message());
  for (uint32_t i = 0; i < stream_count; i++)
    cr_assert(!streams[i].open || streams[i].handle != (uint32_t)handle);
  uint32_t at = 0;
  while (at < stream_count && streams[at].open)
    at++;
  cr_assert(at < HANDLES);
  stream_count += at == stream_count;
  static uint32_t number;
  streams[at] = (struct stream){.handle = (uint32_t)handle, .number = number++, .open = true};
  return &streams[at];
}

static void stream_send(struct stream *stream, size_t size)
{
  char *bytes = malloc(size);
  for (size_t i = 0; i < size; i++)
    bytes[i] = pattern(stream->number, stream->sent + i);
  cr_assert_eq(transport->operations->send(transport, stream->handle, bytes, size), BUS_OK);
  memset(bytes, 0x55, size); /* they were copied */
  free(bytes);
  stream->sent += size;
}

static void stream_close(struct stream *stream)
{
  transport->operations->close(transport, stream->handle);
  stream->open = false;
}

static void stream_take(struct stream *stream, const struct bus_transport_event *event)
{
  strange += stream->closed || stream->failed;
  switch (event->type) {
  case BUS_TRANSPORT_CONNECTED:
    strange += stream->connected;
    stream->connected = true;
    break;
  case BUS_TRANSPORT_DATA:
    strange += !stream->connected || event->size == 0;
    for (size_t i = 0; i < event->size; i++)
      stream->wrong +=
          ((const char *)event->data)[i] != pattern(stream->number, stream->received + i);
    stream->received += event->size;
    break;
  case BUS_TRANSPORT_CLOSED:
    stream->closed = true;
    break;
  case BUS_TRANSPORT_FAILED:
    stream->failed = true;
    stream->error = event->error;
    snprintf(stream->reason, sizeof stream->reason, "%s",
             bus_transport_reason(transport, stream->handle));
    strange += event->error <= 0;
    break;
  default:
    strange++;
  }
}

/* One poll; events go to their streams. */
static void pump_for(uint64_t wait_ns)
{
  struct bus_transport_event events[256];
  const int count = transport->operations->poll(transport, events, poll_events_max, wait_ns);
  cr_assert(count >= 0 && count <= (int)poll_events_max, "%s", bus_error_message());
  for (int i = 0; i < count; i++) {
    uint32_t at = 0;
    while (at < stream_count && !(streams[at].open && streams[at].handle == events[i].connection))
      at++;
    if (at < stream_count)
      stream_take(&streams[at], &events[i]);
    else
      strange++;
  }
}

/* Polls until `condition`; a test that waits for what never comes ends with a message. */
#define PUMP_UNTIL(condition)                                                                      \
  do {                                                                                             \
    const uint64_t give_up_ns = bus_clock_monotonic_ns() + PATIENCE_NS;                            \
    while (!(condition)) {                                                                         \
      cr_assert(bus_clock_monotonic_ns() < give_up_ns, "never: " #condition);                      \
      pump_for(WAIT_NS);                                                                           \
    }                                                                                              \
  } while (0)

static uint32_t count_files(void)
{
  DIR *directory = opendir("/proc/self/fd");
  uint32_t count = 0;
  while (readdir(directory))
    count++;
  closedir(directory);
  return count;
}

static void begin(const struct kind *kind, uint32_t connections_max)
{
  signal(SIGPIPE, SIG_IGN); /* of the server's side */
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  if (kind_make(kind, connections_max, &transport))
    cr_assert_fail("%s", bus_error_message());
}

static void finish_test(void)
{
  for (uint32_t i = 0; i < stream_count; i++)
    cr_assert_eq(streams[i].wrong, 0, "stream %u: %zu wrong bytes", i, streams[i].wrong);
  cr_assert_eq(strange, 0, "%u events that may not be", strange);
  transport->operations->destroy(transport);
}

static struct server *serve(const struct kind *kind, void (*behave)(struct conversation *),
                            int buffer_bytes)
{
  struct server *server = server_start(behave, kind_server_tls(kind), buffer_bytes);
  server->peer.tls = kind_client_tls(kind);
  return server;
}

static void echoes_what_is_sent(const struct kind *kind)
{
  const uint32_t files = count_files();
  begin(kind, 1);
  struct server *server = serve(kind, echo, 0);
  struct stream *stream = stream_open(&server->peer);
  PUMP_UNTIL(stream->connected);
  for (int i = 1; i <= 100; i++) {
    stream_send(stream, (size_t)i * 7);
    PUMP_UNTIL(stream->received == stream->sent);
  }
  stream_close(stream);
  PUMP_UNTIL(server_has_ended(server, 1)); /* which shows that a close takes no destroy */
  finish_test();
  server_stop(server);
  kind_end(kind);
  cr_assert_eq(count_files(), files, "%u files before, %u after", files, count_files());
}

static void drip(struct conversation *conversation)
{
  uint32_t number;
  if (hear(conversation, &number, sizeof number) != sizeof number)
    return;
  for (size_t i = 0; i < 200; i++) {
    const char byte = pattern(number, i);
    if (!say(conversation, &byte, 1))
      return;
  }
  finish(conversation);
  outlast(conversation);
}

static void tell_number(struct stream *stream)
{
  cr_assert_eq(transport->operations->send(transport, stream->handle, &stream->number,
                                           sizeof stream->number),
               BUS_OK);
}

static void takes_single_bytes_and_the_end(const struct kind *kind)
{
  begin(kind, 4);
  poll_events_max = 1;
  struct server *server = serve(kind, drip, 0);
  struct stream *stream = stream_open(&server->peer);
  PUMP_UNTIL(stream->connected);
  tell_number(stream);
  PUMP_UNTIL(stream->closed || stream->failed);
  cr_assert(stream->closed);
  cr_assert_eq(stream->received, 200);
  /* The server has ended its direction alone: what is sent now is nobody's concern. */
  cr_assert_eq(transport->operations->send(transport, stream->handle, "x", 1), BUS_OK);
  pump_for(0);
  finish_test();
  server_stop(server);
}

static void reset_connection(struct conversation *conversation)
{
  uint32_t number;
  if (hear(conversation, &number, sizeof number) != sizeof number)
    return;
  char bytes[500];
  for (size_t i = 0; i < sizeof bytes; i++)
    bytes[i] = pattern(number, i);
  say(conversation, bytes, sizeof bytes);
  const struct linger linger = {.l_onoff = 1, .l_linger = 0};
  setsockopt(conversation->fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
#ifdef BUS_WITH_TLS
  if (conversation->ssl)
    SSL_set_quiet_shutdown(conversation->ssl, 1);
#endif
}

static void a_reset_comes_behind_the_data(const struct kind *kind)
{
  begin(kind, 50);
  struct server *server = serve(kind, reset_connection, 0);
  for (int i = 0; i < 50; i++)
    stream_open(&server->peer);
  for (int i = 0; i < 50; i++) {
    struct stream *stream = &streams[i];
    PUMP_UNTIL(stream->connected);
    tell_number(stream);
  }
  for (int i = 0; i < 50; i++) {
    struct stream *stream = &streams[i];
    /* Sending into it must not hide what had come. */
    while (!stream->failed && !stream->closed) {
      transport->operations->send(transport, stream->handle, "more", 4);
      pump_for(0);
    }
    cr_assert(stream->failed);
    cr_assert(stream->error == ECONNRESET || stream->error == EPIPE, "%s", strerror(stream->error));
    cr_assert_eq(stream->received, 500);
  }
  finish_test();
  server_stop(server);
}

static void a_refused_connection_fails(const struct kind *kind)
{
  begin(kind, 4);
  struct bus_transport_peer peer;
  close(listen_somewhere(&peer, 1, 0));
  peer.tls = kind_client_tls(kind);
  struct stream *stream = stream_open(&peer);
  PUMP_UNTIL(stream->failed);
  cr_assert_eq(stream->error, ECONNREFUSED);
  cr_assert_not(stream->connected);
  stream_close(stream);
  /* Nor does an address that is none do harm. */
  peer.address_bytes = 3;
  stream = stream_open(&peer);
  PUMP_UNTIL(stream->failed);
  cr_assert_eq(stream->error, EINVAL);
  finish_test();
}

/* A listener whose queue is full drops what comes, as a network does that loses it. */
static void a_silent_server_times_out(const struct kind *kind)
{
  begin(kind, 4);
  struct bus_transport_peer peer;
  const int listener = listen_somewhere(&peer, 0, 0);
  int fillers[4];
  for (int i = 0; i < 4; i++) {
    fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    (void)!connect(fillers[i], (struct sockaddr *)&peer.address, peer.address_bytes);
  }
  peer.tls = kind_client_tls(kind);
  peer.connect_timeout_ns = 50000000;
  const uint64_t begin_ns = bus_clock_monotonic_ns();
  struct stream *quick = stream_open(&peer);
  struct bus_transport_peer patient = peer;
  patient.connect_timeout_ns = 100000000;
  struct stream *slow = stream_open(&patient);
  struct bus_transport_peer endless = peer;
  endless.connect_timeout_ns = 0;
  struct stream *endlessly = stream_open(&endless);
  PUMP_UNTIL(quick->failed);
  cr_assert(bus_clock_monotonic_ns() - begin_ns >= 50000000);
  PUMP_UNTIL(slow->failed);
  cr_assert(bus_clock_monotonic_ns() - begin_ns >= 100000000);
  cr_assert_eq(quick->error, ETIMEDOUT);
  cr_assert_eq(slow->error, ETIMEDOUT);
  cr_assert_not(endlessly->failed);
  stream_close(endlessly);
  finish_test();
  for (int i = 0; i < 4; i++)
    close(fillers[i]);
  close(listener);
}

static void hundreds_at_a_time(const struct kind *kind)
{
  /* A handshake takes milliseconds of the one thread here, under an emulator tens of them. */
  const uint32_t many = kind_client_tls(kind) ? 200 : 1000;
  begin(kind, many);
  poll_events_max = 256;
  struct server *server = serve(kind, echo, 0);
  for (uint32_t i = 0; i < many; i++)
    stream_open(&server->peer);
  cr_assert_eq(transport->operations->open(transport, &server->peer), BUS_ERROR_NO_SPACE);
  uint32_t done = 0;
  for (uint32_t i = 0; i < many; i++) {
    PUMP_UNTIL(streams[i].connected || streams[i].failed);
    cr_assert(streams[i].connected, "%u: %s", i, strerror(streams[i].error));
  }
  for (uint32_t round = 0; round < 3; round++) {
    for (uint32_t i = 0; i < many; i++)
      stream_send(&streams[i], 100 + i * 3);
    for (uint32_t i = 0; i < many; i++)
      PUMP_UNTIL(streams[i].received == streams[i].sent);
  }
  for (uint32_t i = 0; i < many; i++)
    done += !streams[i].failed && !streams[i].closed;
  cr_assert_eq(done, many);
  for (uint32_t i = 0; i < many; i++)
    stream_close(&streams[i]);
  /* All of it again at once, although the closed ones may still be known to the kernel. */
  for (uint32_t i = 0; i < many; i++)
    stream_open(&server->peer);
  for (uint32_t i = 0; i < many; i++)
    PUMP_UNTIL(streams[i].connected);
  finish_test();
  server_stop(server);
}

static void eight_mebibytes_each_way(const struct kind *kind)
{
  begin(kind, 2);
  struct server *server = serve(kind, echo, 4096); /* so that no send is whole */
  struct stream *stream = stream_open(&server->peer);
  struct stream *other = stream_open(&server->peer);
  PUMP_UNTIL(stream->connected && other->connected);
  stream_send(stream, (size_t)8 << 20);
  for (int i = 0; i < 100; i++) {
    stream_send(other, 1000);
    pump_for(0);
  }
  stream_send(stream, 12345);
  PUMP_UNTIL(stream->received == stream->sent && other->received == other->sent);
  finish_test();
  server_stop(server);
}

/* Until the peer closes, and without taking what it sends. */
static void never_read(struct conversation *conversation)
{
  struct pollfd pollfd = {.fd = conversation->fd, .events = POLLRDHUP};
  while (poll(&pollfd, 1, -1) == 1 && !(pollfd.revents & (POLLRDHUP | POLLHUP | POLLERR))) {
  }
}

static void what_is_not_taken_is_bounded(const struct kind *kind)
{
  begin(kind, 2);
  struct server *server = serve(kind, never_read, 0);
  struct stream *stream = stream_open(&server->peer);
  PUMP_UNTIL(stream->connected);
  char *bytes = calloc(1, (size_t)1 << 20);
  uint32_t taken = 0;
  while (transport->operations->send(transport, stream->handle, bytes, (size_t)1 << 20) == BUS_OK) {
    pump_for(0);
    cr_assert(++taken < 200);
  }
  cr_assert(taken >= 60, "%u", taken);
  free(bytes);
  stream_close(stream);
  finish_test();
  server_stop(server);
}

static uint64_t random_state;

static uint32_t random_below(uint32_t limit)
{
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(random_state >> 33) % limit;
}

/* Closes at any point of a connection's life, and its handle is not heard of again. */
static void close_at_any_time(const struct kind *kind)
{
  begin(kind, 8);
  random_state = 7;
  struct server *servers[] = {serve(kind, echo, 0), serve(kind, never_read, 4096),
                              serve(kind, drip, 0), serve(kind, reset_connection, 0)};
  for (int round = 0; round < 1500; round++) {
    struct stream *stream = stream_open(&servers[random_below(4)]->peer);
    for (uint32_t steps = random_below(6); steps > 0; steps--) {
      if (stream->connected && random_below(2))
        tell_number(stream);
      if (stream->connected && !stream->failed && random_below(4) == 0)
        transport->operations->send(transport, stream->handle, servers, 20);
      pump_for(random_below(2) * 1000000);
      stream->wrong = 0; /* what comes is another test's concern */
    }
    const uint32_t handle = stream->handle;
    stream_close(stream);
    transport->operations->close(transport, handle); /* twice is no harm */
    if (random_below(3) == 0)
      pump_for(0);
  }
  struct stream *stream = stream_open(&servers[0]->peer);
  PUMP_UNTIL(stream->connected);
  stream_send(stream, 1000);
  PUMP_UNTIL(stream->received == 1000);
  for (int i = 0; i < 6; i++)
    stream_open(&servers[i % 3]->peer);
  finish_test(); /* destroyed with connections in all states */
  for (size_t i = 0; i < BUS_COUNT_OF(servers); i++)
    server_stop(servers[i]);
}

/* Gives 1000 bytes back and ends the stream. */
static void echo_some(struct conversation *conversation)
{
  char bytes[1000];
  size_t left = sizeof bytes;
  while (left > 0) {
    const ssize_t size = hear(conversation, bytes, left);
    if (size <= 0 || !say(conversation, bytes, (size_t)size))
      return;
    left -= (size_t)size;
  }
  finish(conversation);
  outlast(conversation);
}

/* Random opens, sends and closes beside a model of what must come. */
static void random_model(const struct kind *kind)
{
  begin(kind, 40);
  struct server *whole = serve(kind, echo, 0);
  struct server *some = serve(kind, echo_some, 0);
  for (uint64_t seed = 1; seed <= 5; seed++) {
    random_state = seed;
    bool is_whole[HANDLES] = {false};
    for (int step = 0; step < 3000; step++) {
      const uint32_t at = stream_count ? random_below(stream_count) : 0;
      struct stream *stream = &streams[at];
      poll_events_max = 1 + random_below(64);
      switch (random_below(8)) {
      case 0:
        if (stream_count < 40 || !stream->open) {
          const bool choice = random_below(2);
          is_whole[stream_open(choice ? &whole->peer : &some->peer) - streams] = choice;
        }
        break;
      case 1:
        if (stream->open && random_below(6) == 0) {
          cr_assert(stream->received <= stream->sent);
          stream_close(stream);
        }
        break;
      case 2:
      case 3:
      case 4:
        if (stream->open && stream->connected)
          stream_send(stream, 1 + random_below(random_below(8) ? 300 : 100000));
        break;
      default:
        pump_for(random_below(3) ? 0 : 100000);
      }
      cr_assert_eq(stream->wrong, 0);
    }
    poll_events_max = 64;
    for (uint32_t i = 0; i < stream_count; i++) {
      struct stream *stream = &streams[i];
      if (!stream->open)
        continue;
      PUMP_UNTIL(stream->connected);
      if (is_whole[i]) {
        PUMP_UNTIL(stream->received == stream->sent);
        cr_assert(!stream->closed && !stream->failed);
      } else {
        if (stream->sent < 1000)
          stream_send(stream, 1000 - stream->sent);
        PUMP_UNTIL(stream->closed);
        cr_assert_eq(stream->received, 1000);
      }
    }
    for (uint32_t i = 0; i < stream_count; i++)
      if (streams[i].open)
        stream_close(&streams[i]);
  }
  finish_test();
  server_stop(whole);
  server_stop(some);
}

#ifdef BUS_WITH_TLS

static void hello(struct conversation *conversation)
{
  say(conversation, "x", 1);
  finish(conversation);
  outlast(conversation);
}

/* What becomes of a connection to a server of this certificate. */
static struct stream *meet(const struct kind *kind, const struct certificate_spec *spec,
                           const char *name)
{
  SSL_CTX *tls = make_server_tls(spec);
  struct server *server = server_start(hello, tls, 0);
  server->peer.tls = kind_client_tls(kind);
  strcpy(server->peer.server_name, name);
  struct stream *stream = stream_open(&server->peer);
  PUMP_UNTIL(stream->failed || stream->closed);
  stream->wrong = 0;
  stream_close(stream);
  PUMP_UNTIL(server_has_ended(server, 1));
  server_stop(server);
  SSL_CTX_free(tls);
  return stream;
}

static void is_distrusted(const struct stream *stream, const char *says)
{
  cr_assert(stream->failed && !stream->connected, "expected: %s", says);
  cr_assert_eq(stream->received, 0);
  cr_assert_eq(stream->error, EPROTO);
  cr_assert(strstr(stream->reason, says), "%s", stream->reason);
}

static void a_server_proves_its_name(const struct kind *kind)
{
  begin(kind, 2);
  make_trust();
  struct certificate_spec spec = {"IP:127.0.0.1,DNS:localhost", -DAY_S, DAY_S, authority,
                                  authority_key};
  cr_assert(meet(kind, &spec, "localhost")->closed);
  cr_assert(meet(kind, &spec, "127.0.0.1")->closed);
  is_distrusted(meet(kind, &spec, "elsewhere"), "ostname mismatch");
  is_distrusted(meet(kind, &spec, "127.0.0.2"), "IP address mismatch");
  spec.names = "DNS:*.example.com";
  cr_assert(meet(kind, &spec, "llm.example.com")->closed);
  is_distrusted(meet(kind, &spec, "a.llm.example.com"), "ostname mismatch");
  is_distrusted(meet(kind, &spec, "example.com"), "ostname mismatch");
  finish_test();
}

static void what_vouches_is_checked(const struct kind *kind)
{
  begin(kind, 2);
  make_trust();
  struct certificate_spec spec = {"DNS:localhost", -2 * DAY_S, -DAY_S, authority, authority_key};
  is_distrusted(meet(kind, &spec, "localhost"), "expired");
  spec.from_s = DAY_S;
  spec.to_s = 2 * DAY_S;
  is_distrusted(meet(kind, &spec, "localhost"), "not yet valid");
  spec = (struct certificate_spec){"DNS:localhost", -DAY_S, DAY_S, NULL, NULL};
  is_distrusted(meet(kind, &spec, "localhost"), "self-signed");
  /* An authority of the same name with another key. */
  EVP_PKEY *key = EVP_EC_gen("P-256");
  spec.issuer = authority;
  spec.issuer_key = key;
  is_distrusted(meet(kind, &spec, "localhost"), "refused");
  EVP_PKEY_free(key);
  finish_test();
}

/* Ends in order below TLS, which did not say so: somebody on the way may have cut it. */
static void cut(struct conversation *conversation)
{
  uint32_t number;
  if (hear(conversation, &number, sizeof number) != sizeof number)
    return;
  const char byte = pattern(number, 0);
  say(conversation, &byte, 1);
  shutdown(conversation->fd, SHUT_WR);
  char bytes[100];
  while (recv(conversation->fd, bytes, sizeof bytes, 0) > 0) {
  }
}

static void a_cut_stream_fails(const struct kind *kind)
{
  begin(kind, 2);
  struct server *server = serve(kind, cut, 0);
  struct stream *stream = stream_open(&server->peer);
  PUMP_UNTIL(stream->connected);
  tell_number(stream);
  PUMP_UNTIL(stream->failed || stream->closed);
  cr_assert(stream->failed);
  cr_assert_eq(stream->received, 1);
  cr_assert_eq(stream->error, EPROTO);
  cr_assert(strstr(stream->reason, "close_notify"), "%s", stream->reason);
  finish_test();
  server_stop(server);
}

static void never_speaks(struct conversation *conversation)
{
  outlast(conversation);
}

static void speaks_http(struct conversation *conversation)
{
  static const char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
  say(conversation, text, sizeof text - 1);
  outlast(conversation);
}

/* Servers without TLS where TLS is expected. */
static void no_tls_is_no_connection(const struct kind *kind)
{
  begin(kind, 2);
  struct server *silent = server_start(never_speaks, NULL, 0);
  silent->peer.tls = kind_client_tls(kind);
  silent->peer.connect_timeout_ns = 50000000;
  struct stream *stream = stream_open(&silent->peer);
  PUMP_UNTIL(stream->failed);
  cr_assert_eq(stream->error, ETIMEDOUT);
  cr_assert(strstr(stream->reason, "too long"), "%s", stream->reason);
  stream_close(stream);
  struct server *plain = server_start(speaks_http, NULL, 0);
  plain->peer.tls = kind_client_tls(kind);
  stream = stream_open(&plain->peer);
  PUMP_UNTIL(stream->failed);
  cr_assert_eq(stream->error, EPROTO);
  cr_assert(strstr(stream->reason, "TLS with 127.0.0.1"), "%s", stream->reason);
  stream_close(stream);
  /* Through the same transport, in the clear. */
  struct server *clear = server_start(echo, NULL, 0);
  stream = stream_open(&clear->peer);
  PUMP_UNTIL(stream->connected);
  stream_send(stream, 10000);
  PUMP_UNTIL(stream->received == 10000);
  stream_close(stream);
  plain->peer.server_name[0] = '\0';
  cr_assert_eq(transport->operations->open(transport, &plain->peer), BUS_ERROR_INVALID);
  finish_test();
  server_stop(silent);
  server_stop(plain);
  server_stop(clear);
}

ON_TLS_KINDS(a_server_proves_its_name)
ON_TLS_KINDS(what_vouches_is_checked)
ON_TLS_KINDS(a_cut_stream_fails)
ON_TLS_KINDS(no_tls_is_no_connection)

/* What would be sent in the clear by mistake is not sent. */
static void secrets_are_not_sent_in_the_clear(const struct kind *kind)
{
  begin(kind, 2);
  const struct kind with_tls = {EPOLL, true};
  struct bus_transport_peer peer;
  close(listen_somewhere(&peer, 1, 0));
  peer.tls = kind_client_tls(&with_tls);
  cr_assert_eq(transport->operations->open(transport, &peer), BUS_ERROR_UNSUPPORTED);
  cr_assert(strstr(bus_error_message(), "TLS"));
  finish_test();
}
ON_PLAIN_KINDS(secrets_are_not_sent_in_the_clear)

Test(transport_tls, authorities_are_read)
{
  struct bus_tls_client *client;
  cr_assert_eq(bus_tls_client_new("/nonexistent/ca.pem", &client), BUS_ERROR_ABSENT);
  cr_assert_null(client);
  cr_assert(strstr(bus_error_message(), "/nonexistent/ca.pem"));
  cr_assert_eq(bus_tls_client_new("/proc/self/status", &client), BUS_ERROR_FORMAT);
  cr_assert(strstr(bus_error_message(), "PEM"));
  cr_assert_eq(bus_tls_client_new(NULL, &client), BUS_OK, "%s", bus_error_message());
  bus_tls_client_free(client);
  bus_tls_client_free(NULL);
}

#else

Test(transport_tls, is_refused_where_it_was_not_built)
{
  struct bus_tls_client *client;
  cr_assert_eq(bus_tls_client_new(NULL, &client), BUS_ERROR_UNSUPPORTED);
  cr_assert(strstr(bus_error_message(), "libssl-dev"));
}

#endif

ON_ALL_KINDS(echoes_what_is_sent)
ON_ALL_KINDS(takes_single_bytes_and_the_end)
ON_ALL_KINDS(a_reset_comes_behind_the_data)
ON_ALL_KINDS(a_refused_connection_fails)
ON_ALL_KINDS(a_silent_server_times_out)
ON_ALL_KINDS(hundreds_at_a_time)
ON_ALL_KINDS(eight_mebibytes_each_way)
ON_ALL_KINDS(what_is_not_taken_is_bounded)
ON_ALL_KINDS(close_at_any_time)
ON_ALL_KINDS(random_model)
