#include "consumers/bridge_member.h"

#include "tests/bus_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#define RECORD_BYTES 1024u

static struct bus_bridge_config config;
static struct bus_bridge_options options;

/* Listens on a port of its own; the number goes into the configuration. */
static int listen_somewhere(uint16_t *port)
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  socklen_t size = sizeof address;
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  cr_assert_geq(fd, 0);
  cr_assert_eq(bind(fd, (const struct sockaddr *)&address, sizeof address), 0);
  cr_assert_eq(listen(fd, 16), 0);
  cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &size), 0);
  *port = ntohs(address.sin_port);
  return fd;
}

static void configure(const char *clients, uint16_t port, const char *more)
{
  char text[1024];
  snprintf(text, sizeof text,
           "[bridge]\nclients = %s\nrecord_bytes = %u\nreply_depth = 64\nrequests_max = 8\n"
           "request_bytes_max = 4096\nanswer_bytes_max = 8192\n"
           "[backend mac]\nurl = http://127.0.0.1:%u/v1\nflavor = mlx\ncanary_ms = 0\n"
           "[class fast]\nretries_max = 0\n%s",
           clients, RECORD_BYTES, port, more);
  cr_assert_eq(bus_bridge_config_parse(text, strlen(text), &config), BUS_OK, "%s",
               bus_error_message());
  bus_member_options_init(&options.member, "bridge");
  options.member.directory = fixture_directory;
  options.member.small_pages = true;
  options.config = &config;
  options.transport = "epoll";
}

static struct bus_bridge *bridge_new(void)
{
  struct bus_bridge *bridge;
  cr_assert_eq(bus_bridge_new(&options, &bridge), BUS_OK, "%s", bus_error_message());
  return bridge;
}

/* What everybody sees of the bridge's file. */
static struct bus_neighbour *look(void)
{
  struct bus_neighbour *neighbour;
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "bridge", true, &neighbour), BUS_OK, "%s",
               bus_error_message());
  return neighbour;
}

Test(bridge_member, has_an_object_for_everything, .init = fixture_create, .fini = fixture_remove)
{
  configure("trader, a.client.of.23.letters", 9, "");
  struct bus_bridge *bridge = bridge_new();
  struct bus_neighbour *file = look();
  static const struct {
    uint32_t type;
    const char *name;
  } objects[] = {{BUS_OBJECT_TABLE, "requests"},
                 {BUS_OBJECT_TEXT, "bridge"},
                 {BUS_OBJECT_RING, "replies.trader"},
                 {BUS_OBJECT_RING, "replies.a.client.of.23.letters"},
                 {BUS_OBJECT_POSITION, "llm.requests"},
                 {BUS_OBJECT_COUNTER, "final_ok"},
                 {BUS_OBJECT_COUNTER, "final_bridge_restart"},
                 {BUS_OBJECT_COUNTER, "mac.in_flight"},
                 {BUS_OBJECT_COUNTER, "class.fast.waiting"},
                 {BUS_OBJECT_COUNTER, "clients_attached"},
                 {BUS_OBJECT_HISTOGRAM, "mac.first_token_ns"},
                 {BUS_OBJECT_HISTOGRAM, "class.fast.total_ns"},
                 {BUS_OBJECT_HISTOGRAM, "in_ns"}};
  for (size_t i = 0; i < BUS_COUNT_OF(objects); i++)
    cr_assert_not_null(bus_neighbour_find(file, objects[i].type, objects[i].name), "%s",
                       objects[i].name);
  const struct bus_entry *ring = bus_neighbour_find(file, BUS_OBJECT_RING, "replies.trader");
  cr_assert_str_eq(ring->peer, "trader");
  cr_assert_eq(ring->policy, BUS_POLICY_WAIT);
  cr_assert_eq(ring->record_size, RECORD_BYTES);
  cr_assert_not_null(strstr(bus_bridge_describe(bridge), "transport epoll\nserver mac: http://"));
  bus_neighbour_detach(file);
  bus_bridge_delete(bridge);
}

/* The longest names, and as many objects as there can be. */
Test(bridge_member, holds_the_largest_configuration, .init = fixture_create, .fini = fixture_remove)
{
  static char text[16384] = "[bridge]\nrequest_bytes_max = 1024\nrecord_bytes = 16384\n"
                            "reply_depth = 4\nrequests_max = 2\nclients =";
  for (unsigned i = 0; i < BUS_BRIDGE_CLIENTS_MAX; i++)
    sprintf(text + strlen(text), " client.of.23.letter-%02u,\n ", i);
  strcat(text, "\n");
  for (unsigned i = 0; i < BUS_BRIDGE_BACKENDS_MAX; i++)
    sprintf(text + strlen(text), "[backend server16letter%02u]\nurl = http://127.0.0.1:9\n", i);
  for (unsigned i = 0; i < BUS_BRIDGE_CLASSES_MAX; i++)
    sprintf(text + strlen(text), "[class of16letters-_-%02u]\n", i);
  configure("x", 9, "");
  cr_assert_eq(bus_bridge_config_parse(text, strlen(text), &config), BUS_OK, "%s",
               bus_error_message());
  struct bus_bridge *bridge = bridge_new();
  struct bus_neighbour *file = look();
  cr_assert_not_null(
      bus_neighbour_find(file, BUS_OBJECT_HISTOGRAM, "server16letter15.first_token_ns"));
  cr_assert_not_null(
      bus_neighbour_find(file, BUS_OBJECT_COUNTER, "class.of16letters-_-15.accepted"));
  bus_neighbour_detach(file);
  bus_bridge_delete(bridge);
}

Test(bridge_member, is_continued_by_the_same_configuration_only, .init = fixture_create,
     .fini = fixture_remove)
{
  configure("trader, analyst", 9, "");
  bus_bridge_delete(bridge_new());
  struct bus_neighbour *file = look();
  uint64_t instance = bus_neighbour_header(file)->instance;
  bus_neighbour_detach(file);
  static const struct {
    const char *clients;
    const char *more;
    bool continued;
  } successors[] = {{"trader, analyst", "", true},
                    {"trader, analyst", "queue_max = 9\n", true},
                    {"analyst, trader", "", false},
                    {"analyst, trader", "", true},
                    {"analyst, trader", "[class slow]\n", false},
                    {"analyst", "", false}};
  for (size_t i = 0; i < BUS_COUNT_OF(successors); i++) {
    configure(successors[i].clients, 9, successors[i].more);
    bus_bridge_delete(bridge_new());
    file = look();
    uint64_t next = bus_neighbour_header(file)->instance;
    cr_assert_eq(next == instance, successors[i].continued, "successor %zu", i);
    instance = next;
    bus_neighbour_detach(file);
  }
}

Test(bridge_member, refuses_with_a_reason, .init = fixture_create, .fini = fixture_remove)
{
  struct bus_bridge *bridge;
  configure("trader", 9, "");
  options.transport = "pigeon";
  cr_assert_eq(bus_bridge_new(&options, &bridge), BUS_ERROR_INVALID);
  cr_assert_null(bridge);
  options.transport = "epoll";
  options.member.directory = "/no/such/bus";
  cr_assert_eq(bus_bridge_new(&options, &bridge), BUS_ERROR_ABSENT);
  options.member.directory = fixture_directory;
  struct bus_bridge *first = bridge_new();
  cr_assert_eq(bus_bridge_new(&options, &bridge), BUS_ERROR_BUSY);
  bus_bridge_delete(first);
}

Test(bridge_member, keeps_keys_out_of_its_file_and_its_words, .init = fixture_create,
     .fini = fixture_remove)
{
  configure("trader", 9, "");
  strcpy(config.backends[0].authorization, "Bearer sk-secret-of-the-test");
  strcpy(config.backends[0].api_key_file, "/etc/keys/mac");
  struct bus_bridge *bridge = bridge_new();
  cr_assert_null(strstr(bus_bridge_describe(bridge), "sk-secret"));
  cr_assert_not_null(strstr(bus_bridge_describe(bridge), "key from /etc/keys/mac"));
  FILE *file = fopen(fixture_path("bridge"), "rb");
  cr_assert_not_null(file);
  static char bytes[1 << 20];
  size_t got, kept = 0;
  while ((got = fread(bytes + kept, 1, sizeof bytes - kept, file)) > 0) {
    cr_assert_null(memmem(bytes, kept + got, "sk-secret", 9));
    kept = got < 16 ? got : 16; /* the needle may lie across two reads */
    memmove(bytes, bytes + got - kept, kept);
  }
  fclose(file);
  bus_bridge_delete(bridge);
}

/* ---- with a client and a server ---- */

struct client {
  struct bus_member *member;
  struct bus_producer requests;
  struct bus_backlink backlink;
  struct bus_subscription replies;
};

static void client_open(struct client *client, const char *name)
{
  const struct bus_object_spec objects[] = {
      {.type = BUS_OBJECT_RING,
       .name = BUS_LLM_REQUEST_RING,
       .peer = "bridge",
       .record_type = BUS_RECORD_LLM_REQUEST,
       .record_size = RECORD_BYTES,
       .policy = BUS_POLICY_WAIT,
       .depth = 16},
      {.type = BUS_OBJECT_POSITION, .name = "replies.trader", .peer = "bridge"}};
  client->member = fixture_member(name, objects, BUS_COUNT_OF(objects), 0);
  const struct bus_entry *entry =
      bus_member_entry(client->member, BUS_OBJECT_RING, BUS_LLM_REQUEST_RING);
  bus_producer_init(&client->requests,
                    bus_member_object(client->member, BUS_OBJECT_RING, BUS_LLM_REQUEST_RING), entry,
                    bus_member_header(client->member)->instance);
  cr_assert_eq(
      bus_backlink_init(&client->backlink, fixture_directory, name, entry, &client->requests),
      BUS_OK);
  cr_assert_eq(bus_subscription_init(&client->replies, fixture_directory, "bridge",
                                     "replies.trader", BUS_RECORD_LLM_REPLY, RECORD_BYTES,
                                     client->member),
               BUS_OK);
  bus_member_run(client->member);
}

static void client_ask(struct client *client, uint64_t id, uint8_t flags, const char *text)
{
  struct bus_llm_request *request = bus_producer_reserve(&client->requests);
  cr_assert_not_null(request);
  *request = (struct bus_llm_request){0};
  request->id = id;
  request->submitted_ns = bus_clock_monotonic_ns();
  request->deadline_ns = request->submitted_ns + 60000000000u;
  request->text_bytes = request->fragment_bytes = (uint32_t)strlen(text);
  request->fragments = 1;
  request->reply_slots = 1;
  request->kind = BUS_LLM_CHAT;
  request->flags = flags;
  request->temperature = -1;
  strcpy(request->class_name, "fast");
  memcpy(request + 1, text, strlen(text));
  bus_producer_commit(&client->requests);
}

/* Waits for the next reply; there is no end to the wait but the test's. */
static const struct bus_llm_reply *client_hear(struct client *client)
{
  for (;;) {
    bus_member_heartbeat(client->member, bus_clock_monotonic_ns());
    bus_backlink_maintain(&client->backlink);
    const struct bus_llm_reply *reply = NULL;
    if (bus_subscription_maintain(&client->replies, 0) >= 0)
      reply = bus_consumer_poll(&client->replies.consumer);
    if (reply)
      return reply;
    sched_yield();
  }
}

static void client_close(struct client *client)
{
  bus_subscription_close(&client->replies);
  bus_backlink_close(&client->backlink);
  bus_member_leave(client->member, BUS_STATE_HALT);
}

static void *run_bridge(void *bridge)
{
  cr_expect_eq(bus_bridge_run(bridge), BUS_OK, "%s", bus_error_message());
  return NULL;
}

static const char answer[] =
    "HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    ": keepalive 1/2\n\n"
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"up\"},"
    "\"finish_reason\":null}]}\n\n"
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},"
    "\"finish_reason\":\"stop\"}]}\n\n"
    "data: [DONE]\n\n";

/* Answers every connection's request with `answer`, as mlx_lm.server does: and closes. */
static void *serve(void *listener)
{
  for (;;) {
    int fd = accept(*(int *)listener, NULL, NULL);
    if (fd < 0)
      return NULL;
    char request[4096];
    size_t length = 0;
    ssize_t got = 1;
    while (got > 0 && !memmem(request, length, "up or down?", 11)) {
      got = recv(fd, request + length, sizeof request - length, 0);
      length += got > 0 ? (size_t)got : 0;
    }
    if (got > 0 && send(fd, answer, sizeof answer - 1, MSG_NOSIGNAL) < 0)
      perror("send");
    close(fd);
  }
}

static void asks_and_hears(uint32_t idle)
{
  uint16_t port;
  int listener = listen_somewhere(&port);
  pthread_t server, runner;
  struct client client;
  pthread_create(&server, NULL, serve, &listener);
  configure("trader", port, "");
  options.member.idle = idle;
  client_open(&client, "trader");
  client_ask(&client, 7, 0, "up or down?");
  struct bus_bridge *bridge = bridge_new();
  pthread_create(&runner, NULL, run_bridge, bridge);
  for (uint64_t id = 7; id < 10; id++) {
    const struct bus_llm_reply *reply = client_hear(&client);
    cr_assert_eq(reply->id, id);
    cr_assert_eq(reply->kind, BUS_LLM_FINAL);
    cr_assert_eq(reply->status, BUS_LLM_OK, "status %u", reply->status);
    cr_assert_str_eq(reply->backend, "mac");
    cr_assert_eq(reply->text_bytes, 2);
    cr_assert_eq(memcmp(reply + 1, "up", 2), 0);
    bus_consumer_release(&client.replies.consumer);
    client_ask(&client, id + 1, 0, "up or down?");
  }
  bus_loop_request_stop();
  pthread_join(runner, NULL);
  struct bus_neighbour *file = look();
  const struct bus_entry *entry = bus_neighbour_find(file, BUS_OBJECT_COUNTER, "mac.succeeded");
  cr_assert_geq(*(const uint64_t *)bus_neighbour_object(file, entry), 3);
  entry = bus_neighbour_find(file, BUS_OBJECT_TEXT, "bridge");
  cr_assert_not_null(strstr(bus_neighbour_object(file, entry), "closed, "));
  bus_neighbour_detach(file);
  bus_bridge_delete(bridge);
  shutdown(listener, SHUT_RDWR);
  pthread_join(server, NULL);
  close(listener);
  client_close(&client);
}

Test(bridge_member, brings_answers_spinning, .init = fixture_create, .fini = fixture_remove)
{
  asks_and_hears(BUS_IDLE_SPIN);
}

Test(bridge_member, brings_answers_backing_off, .init = fixture_create, .fini = fixture_remove)
{
  asks_and_hears(BUS_IDLE_BACKOFF);
}

Test(bridge_member, brings_answers_sleeping, .init = fixture_create, .fini = fixture_remove)
{
  asks_and_hears(BUS_IDLE_SLEEP);
}

Test(bridge_member, brings_answers_at_the_doorbell, .init = fixture_create, .fini = fixture_remove)
{
  asks_and_hears(BUS_IDLE_DOORBELL);
}

Test(bridge_member, says_when_no_server_can_be_reached, .init = fixture_create,
     .fini = fixture_remove)
{
  uint16_t port;
  close(listen_somewhere(&port)); /* nobody listens there now */
  pthread_t runner;
  struct client client;
  configure("trader", port, "");
  client_open(&client, "trader");
  struct bus_bridge *bridge = bridge_new();
  pthread_create(&runner, NULL, run_bridge, bridge);
  client_ask(&client, 1, 0, "up or down?");
  const struct bus_llm_reply *reply = client_hear(&client);
  cr_assert_eq(reply->id, 1);
  cr_assert_eq(reply->kind, BUS_LLM_FINAL);
  cr_assert_eq(reply->status, BUS_LLM_BACKEND_DOWN, "status %u", reply->status);
  bus_loop_request_stop();
  pthread_join(runner, NULL);
  bus_bridge_delete(bridge);
  client_close(&client);
}

/* A bridge in a process of its own. */
static pid_t fork_bridge(void)
{
  pid_t pid = fork();
  cr_assert_geq(pid, 0);
  if (pid == 0) {
    struct bus_bridge *bridge;
    int error = bus_bridge_new(&options, &bridge);
    if (!error)
      error = bus_bridge_run(bridge);
    _exit(error ? 1 : 0);
  }
  return pid;
}

/* Takes a question in and leaves it at that: returns the connection. */
static int hear_the_question(struct client *client, int listener)
{
  struct pollfd poller = {listener, POLLIN, 0};
  while (poll(&poller, 1, 1) == 0) {
    bus_member_heartbeat(client->member, bus_clock_monotonic_ns());
    bus_backlink_maintain(&client->backlink);
  }
  char request[4096];
  size_t length = 0;
  int fd = accept(listener, NULL, NULL);
  cr_assert_geq(fd, 0);
  while (!memmem(request, length, "up or down?", 11)) {
    ssize_t got = recv(fd, request + length, sizeof request - length, 0);
    cr_assert_gt(got, 0);
    length += (size_t)got;
  }
  return fd;
}

static void is_killed_and_followed(uint8_t flags, uint32_t status)
{
  uint16_t port;
  int listener = listen_somewhere(&port);
  pthread_t server, runner;
  struct client client;
  configure("trader", port, "");
  client_open(&client, "trader");
  client_ask(&client, 5, flags, "up or down?");
  pid_t pid = fork_bridge();
  int unanswered = hear_the_question(&client, listener);
  kill(pid, SIGKILL);
  cr_assert_eq(waitpid(pid, NULL, 0), pid);
  close(unanswered);
  pthread_create(&server, NULL, serve, &listener);
  client_ask(&client, 6, 0, "up or down?");
  struct bus_bridge *bridge = bridge_new();
  pthread_create(&runner, NULL, run_bridge, bridge);
  uint32_t answers[2] = {0};
  while (!answers[0] || !answers[1]) {
    const struct bus_llm_reply *reply = client_hear(&client);
    cr_assert(reply->id == 5 || reply->id == 6);
    cr_assert_eq(reply->status, reply->id == 5 ? status : BUS_LLM_OK, "request %d: status %u",
                 (int)reply->id, reply->status);
    cr_assert_eq(reply->epoch, 2);
    answers[reply->id - 5]++;
    bus_consumer_release(&client.replies.consumer);
  }
  bus_loop_request_stop();
  pthread_join(runner, NULL);
  cr_assert_null(bus_consumer_poll(&client.replies.consumer), "a request was answered twice");
  bus_bridge_delete(bridge);
  shutdown(listener, SHUT_RDWR);
  pthread_join(server, NULL);
  close(listener);
  client_close(&client);
}

Test(bridge_member, tells_after_a_kill_what_it_cannot_ask_again, .init = fixture_create,
     .fini = fixture_remove)
{
  is_killed_and_followed(0, BUS_LLM_BRIDGE_RESTART);
}

Test(bridge_member, asks_again_after_a_kill_where_that_does_no_harm, .init = fixture_create,
     .fini = fixture_remove)
{
  is_killed_and_followed(BUS_LLM_IDEMPOTENT, BUS_LLM_OK);
}
