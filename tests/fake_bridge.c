/* A bridge without servers, for the tests of its clients: it answers by the request's class.
 *
 * usage: fake_bridge BUS CLIENT [RECORD_BYTES]
 *
 *   echo       the prompt, in pieces of 5 bytes and in a final reply
 *   restart    pieces of a first attempt, then of a second one, and its final reply: the prompt
 *   lossy      of the pieces only the first, then the final reply
 *   silent     nothing, but for a cancel: CANCELLED
 *   embed      1, 2.5 and -3
 *   status-N   a final reply of that status
 *
 * Prints "ready" when its file is there; ends when standard input does. */
#include "shm/loop.h"
#include "shm/signalbus.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TEXT_MAX (1u << 20)

static struct bus_member *member;
static struct bus_producer producer;
static struct bus_backlink backlink;
static struct bus_subscription requests;
static uint32_t record_bytes = BUS_LLM_RECORD_BYTES;

static void die(const char *what)
{
  fprintf(stderr, "fake_bridge: %s: %s\n", what, bus_error_message());
  exit(1);
}

static void start(const char *directory, const char *client)
{
  static char ring[BUS_NAME_BYTES];
  snprintf(ring, sizeof ring, "replies.%.23s", client);
  const struct bus_object_spec objects[] = {
      {.type = BUS_OBJECT_RING,
       .name = ring,
       .peer = client,
       .record_type = BUS_RECORD_LLM_REPLY,
       .record_size = record_bytes,
       .policy = BUS_POLICY_WAIT,
       .depth = 64},
      {.type = BUS_OBJECT_POSITION, .name = BUS_LLM_REQUEST_RING, .peer = client}};
  const struct bus_member_config config = {.directory = directory,
                                           .name = "bridge",
                                           .kind = "bridge",
                                           .objects = objects,
                                           .object_count = 2,
                                           .small_pages = true,
                                           .numa_node = -1,
                                           .core = -1};
  if (bus_member_new(&config, &member))
    die("member");
  const struct bus_entry *entry = bus_member_entry(member, BUS_OBJECT_RING, ring);
  bus_producer_init(&producer, bus_member_object(member, BUS_OBJECT_RING, ring), entry,
                    bus_member_header(member)->instance);
  if (bus_backlink_init(&backlink, directory, "bridge", entry, &producer) ||
      bus_subscription_init(&requests, directory, client, BUS_LLM_REQUEST_RING,
                            BUS_RECORD_LLM_REQUEST, record_bytes, member))
    die("rings");
  bus_member_run(member);
  puts("ready");
  fflush(stdout);
}

static void put(struct bus_llm_reply *reply, const char *text, uint32_t bytes)
{
  const uint32_t room = bus_llm_slot_text_bytes(record_bytes);
  const uint32_t offset = reply->kind == BUS_LLM_FINAL ? 0 : reply->text_offset;
  reply->text_bytes = bytes;
  reply->fragments = (uint16_t)bus_llm_slots(bytes, record_bytes);
  for (uint32_t i = 0; i < reply->fragments; i++) {
    char *slot;
    while (!(slot = bus_producer_reserve(&producer)))
      bus_backlink_maintain(&backlink);
    uint32_t rest = bytes - i * room;
    reply->fragment = (uint16_t)i;
    reply->fragment_bytes = rest < room ? rest : room;
    reply->text_offset = offset + i * room;
    memcpy(slot, reply, sizeof *reply);
    memcpy(slot + BUS_LLM_HEADER_BYTES, text + (size_t)i * room, reply->fragment_bytes);
    bus_producer_commit(&producer);
  }
}

static void put_pieces(struct bus_llm_reply *reply, const char *text, uint32_t bytes)
{
  reply->kind = BUS_LLM_PARTIAL;
  reply->status = BUS_LLM_PENDING;
  for (uint32_t at = 0; at < bytes; at += 5) {
    reply->text_offset = at;
    put(reply, text + at, bytes - at < 5 ? bytes - at : 5);
  }
}

static void put_final(struct bus_llm_reply *reply, uint8_t status, const char *text, uint32_t bytes)
{
  reply->kind = BUS_LLM_FINAL;
  reply->status = status;
  put(reply, text, bytes);
}

static void answer(const struct bus_llm_request *request, const char *text)
{
  static const float vector[] = {1.0f, 2.5f, -3.0f};
  const uint64_t now_ns = bus_clock_monotonic_ns();
  struct bus_llm_reply reply = {.id = request->id,
                                .accepted_ns = now_ns,
                                .sent_ns = now_ns,
                                .first_ns = now_ns,
                                .done_ns = now_ns,
                                .prompt_tokens = 3,
                                .completion_tokens = 5,
                                .attempt = 1,
                                .backend = "fake"};
  const char *class_name = request->class_name;
  const uint32_t bytes = request->text_bytes;
  bool pieces = request->flags & BUS_LLM_PARTIALS;
  if (request->kind == BUS_LLM_CANCEL) {
    put_final(&reply, BUS_LLM_CANCELLED, "", 0);
  } else if (!strcmp(class_name, "embed")) {
    put_final(&reply, BUS_LLM_OK, (const char *)vector, sizeof vector);
  } else if (!strncmp(class_name, "status-", 7)) {
    reply.http_status = 418;
    reply.retry_after_ms = 1500;
    put_final(&reply, (uint8_t)atoi(class_name + 7), "because", 7);
  } else if (!strcmp(class_name, "restart")) {
    put_pieces(&reply, "this one fails", 14);
    reply.attempt = 2;
    put_pieces(&reply, text, bytes);
    put_final(&reply, BUS_LLM_OK, text, bytes);
  } else if (!strcmp(class_name, "lossy")) {
    put_pieces(&reply, text, bytes < 5 ? bytes : 5);
    reply.flags = BUS_LLM_LOST;
    put_final(&reply, BUS_LLM_OK, text, bytes);
  } else if (strcmp(class_name, "silent") != 0) {
    if (pieces)
      put_pieces(&reply, text, bytes);
    put_final(&reply, BUS_LLM_OK, text, bytes);
  }
}

static void take_requests(void)
{
  static char text[TEXT_MAX];
  static struct bus_llm_request first;
  const struct bus_llm_request *slot;
  while (requests.neighbour && (slot = bus_consumer_poll(&requests.consumer)) != NULL) {
    if (slot->fragment == 0)
      first = *slot;
    memcpy(text + slot->text_offset, slot + 1, slot->fragment_bytes);
    bool whole = slot->fragment + 1 == slot->fragments;
    bus_consumer_release(&requests.consumer);
    if (whole)
      answer(&first, text);
  }
}

int main(int argc, char **argv)
{
  if (argc != 3 && argc != 4) {
    fprintf(stderr, "usage: fake_bridge BUS CLIENT [RECORD_BYTES]\n");
    return 2;
  }
  if (argc == 4)
    record_bytes = (uint32_t)atoi(argv[3]);
  start(argv[1], argv[2]);
  struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
  while (poll(&input, 1, 1) == 0) {
    bus_backlink_maintain(&backlink);
    bus_subscription_maintain(&requests, 0);
    bus_member_heartbeat(member, bus_clock_monotonic_ns());
    take_requests();
  }
  bus_backlink_close(&backlink);
  bus_subscription_close(&requests);
  bus_member_leave(member, BUS_STATE_HALT);
  return 0;
}
