/* The bytes of a reply ring are hostile input: whatever a bridge writes there, the client stays
 * inside of its memory, hands out only replies to what it asked, whole, and at most one final for
 * each. Every input begins with nothing outstanding, and ends so. */
#include "shm/error.h"
#include "shm/llm_client.h"
#include "shm/subscription.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RECORD_BYTES 192u /* 56 bytes of text */
#define REPLY_DEPTH  16u
#define ANSWER_BYTES 224u
#define REQUESTS     3u
#define DEADLINE_NS  1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char directory[64];
static struct bus_llm_client *client;
static struct bus_member *bridge; /* both to the end of the process */
static struct bus_producer replies;
static struct bus_backlink backlink;
static struct bus_subscription requests;
static uint64_t now_ns = 1;

static void require(bool condition, const char *what)
{
  if (condition)
    return;
  fprintf(stderr, "fuzz_llm_client: %s (%s)\n", what, bus_error_message());
  abort();
}

static void clean_up(void)
{
  static const char *const names[] = {"ask", "bridge"};
  for (size_t i = 0; i < BUS_COUNT_OF(names); i++) {
    char path[128];
    snprintf(path, sizeof path, "%s/%s", directory, names[i]);
    unlink(path);
  }
  rmdir(directory);
}

static void start_bridge(void)
{
  static const struct bus_object_spec objects[] = {
      {.type = BUS_OBJECT_RING,
       .name = "replies.ask",
       .peer = "ask",
       .record_type = BUS_RECORD_LLM_REPLY,
       .record_size = RECORD_BYTES,
       .policy = BUS_POLICY_WAIT,
       .depth = REPLY_DEPTH},
      {.type = BUS_OBJECT_POSITION, .name = BUS_LLM_REQUEST_RING, .peer = "ask"}};
  const struct bus_member_config config = {.directory = directory,
                                           .name = "bridge",
                                           .kind = "test",
                                           .objects = objects,
                                           .object_count = BUS_COUNT_OF(objects),
                                           .small_pages = true,
                                           .numa_node = -1,
                                           .core = -1};
  require(bus_member_new(&config, &bridge) == BUS_OK, "no bridge");
  const struct bus_entry *entry = bus_member_entry(bridge, BUS_OBJECT_RING, "replies.ask");
  bus_producer_init(&replies, bus_member_object(bridge, BUS_OBJECT_RING, "replies.ask"), entry,
                    bus_member_header(bridge)->instance);
  require(bus_backlink_init(&backlink, directory, "bridge", entry, &replies) == BUS_OK,
          "no backlink");
  require(bus_subscription_init(&requests, directory, "ask", BUS_LLM_REQUEST_RING,
                                BUS_RECORD_LLM_REQUEST, RECORD_BYTES, bridge) == BUS_OK,
          "no subscription");
  bus_member_run(bridge);
}

static void start(void)
{
  const struct bus_llm_client_options options = {.record_bytes = RECORD_BYTES,
                                                 .request_depth = 8,
                                                 .outstanding_max = REQUESTS,
                                                 .answer_bytes_max = ANSWER_BYTES,
                                                 .grace_ns = 1};
  strcpy(directory, "/dev/shm/fuzz-llm-client.XXXXXX");
  require(mkdtemp(directory) != NULL, "no directory");
  atexit(clean_up);
  start_bridge();
  require(bus_llm_client_open(directory, "ask", &options, &client) == BUS_OK, "no client");
  for (int i = 0; i < 4; i++) {
    bus_llm_client_maintain(client);
    bus_backlink_maintain(&backlink);
    bus_subscription_maintain(&requests, 0);
  }
  require(bus_llm_client_maintain(client) == BUS_OK && requests.neighbour, "they do not meet");
}

static void submit(uint64_t ids[REQUESTS])
{
  for (uint32_t i = 0; i < REQUESTS; i++) {
    const struct bus_llm_ask ask = {.kind = BUS_LLM_CHAT,
                                    .class_name = "fuzz",
                                    .text = "?",
                                    .text_bytes = 1,
                                    .context = i,
                                    .deadline_ns = now_ns + DEADLINE_NS};
    require(bus_llm_client_submit(client, &ask, now_ns, &ids[i]) == BUS_OK, "no credit");
    require(bus_consumer_poll(&requests.consumer) != NULL, "nothing was sent");
    bus_consumer_release(&requests.consumer);
  }
  bus_consumer_publish(&requests.consumer);
}

/* Takes what there is; `ended`: who has had a final. A poll looks at one ring of slots at most: the
 * one behind it sees that no more is there, and says so to the bridge. */
static void take_all(const uint64_t ids[REQUESTS], bool ended[REQUESTS])
{
  struct bus_llm_client_reply reply;
  for (int idle = 0; idle < 2;) {
    if (!bus_llm_client_poll(client, now_ns, &reply)) {
      idle++;
      continue;
    }
    require(reply.context < REQUESTS && reply.header.id == ids[reply.context], "not asked");
    require(!ended[reply.context], "a reply behind the final one");
    require(reply.header.text_bytes <= ANSWER_BYTES, "longer than there is room");
    require(reply.text[reply.header.text_bytes] == '\0', "no end of the text");
    require(memchr(reply.header.backend, '\0', sizeof reply.header.backend) != NULL, "no name");
    ended[reply.context] = reply.header.kind == BUS_LLM_FINAL;
  }
}

static unsigned char *reserve(void)
{
  unsigned char *slot = bus_producer_reserve(&replies);
  require(slot != NULL, "the client keeps what it has read");
  memset(slot, 0, RECORD_BYTES - 8);
  return slot;
}

/* A slot as it comes: a byte that says whose id it gets (or its own), then what stands in it. */
static size_t write_raw(const uint64_t ids[REQUESTS], const uint8_t *data, size_t size)
{
  unsigned char *slot = reserve();
  const size_t bytes = size - 1 < RECORD_BYTES - 8 ? size - 1 : RECORD_BYTES - 8;
  memcpy(slot, data + 1, bytes);
  if (data[0] < 0x60)
    memcpy(slot, &ids[data[0] % REQUESTS], sizeof ids[0]);
  bus_producer_commit(&replies);
  return 1 + bytes;
}

/* The next fragment of a message as a bridge would write it, but for one byte of its header:
 * {whose, bytes of text and of the message in fragments, which byte is wrong, by how much}. */
static size_t write_fragment(const uint64_t ids[REQUESTS], const uint8_t *data,
                             struct bus_llm_reply *message)
{
  unsigned char *slot = reserve();
  if (data[0] & 0x40 || message->fragment == message->fragments)
    *message = (struct bus_llm_reply){.id = ids[data[0] % REQUESTS],
                                      .kind = BUS_LLM_FINAL,
                                      .status = BUS_LLM_OK,
                                      .text_bytes = data[1],
                                      .fragments = (uint16_t)(1 + data[1] / 56)};
  message->fragment_bytes = data[0] & 0x20 ? data[1] % 57 : 56;
  memcpy(slot, message, sizeof *message);
  if (data[2] < sizeof *message)
    slot[data[2]] ^= data[3];
  bus_producer_commit(&replies);
  message->fragment++;
  message->text_offset += message->fragment_bytes;
  return 4;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  uint64_t ids[REQUESTS];
  bool ended[REQUESTS] = {false};
  struct bus_llm_reply message = {0};
  if (!client)
    start();
  submit(ids);
  for (uint32_t slots = 1; size > 0; slots++) {
    const size_t taken = data[0] & 0x80 && size >= 4 ? write_fragment(ids, data, &message)
                                                     : write_raw(ids, data, size);
    data += taken;
    size -= taken;
    if (slots % REPLY_DEPTH == 0)
      take_all(ids, ended);
  }
  take_all(ids, ended);
  now_ns += DEADLINE_NS + 1;
  take_all(ids, ended);
  for (uint32_t i = 0; i < REQUESTS; i++)
    require(ended[i], "no final reply");
  require(bus_llm_client_outstanding(client) == 0, "something is left");
  return 0;
}
