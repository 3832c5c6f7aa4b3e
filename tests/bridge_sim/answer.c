/* answer.c: answers of OpenAI-compatible servers, byte by byte: events, framing, pieces, faults. */
#include "tests/bridge_sim/sim.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BYTES_MAX  49152u
#define MARKS_MAX  1024u
#define TOKENS_MAX 48u

/* Bytes, and when each of them is there. */
struct timed {
  char bytes[BYTES_MAX];
  size_t size;
  uint32_t mark_count;
  struct {
    size_t end;
    uint64_t at_ns;
  } marks[MARKS_MAX];
};

struct plan {
  struct sim_world *world;
  struct sim_attempt *attempt;
  const struct sim_request *request; /* NULL: a canary */
  uint8_t kind;
  bool mlx;
  bool crlf;
  uint64_t at_ns;       /* of what is added next */
  uint64_t interval_ns; /* between tokens, at most */
  struct timed body;
  size_t done; /* of the body: there the answer is whole */
  struct timed wire;
  char text[4096];
  uint32_t text_bytes;
};

static struct plan plan_memory; /* too large for a stack; one thread */

static void mark(struct timed *timed, uint64_t at_ns)
{
  if (timed->mark_count && timed->marks[timed->mark_count - 1].at_ns == at_ns) {
    timed->marks[timed->mark_count - 1].end = timed->size;
    return;
  }
  if (timed->mark_count < MARKS_MAX)
    timed->mark_count++;
  timed->marks[timed->mark_count - 1].end = timed->size;
  timed->marks[timed->mark_count - 1].at_ns = at_ns;
}

static void add(struct timed *timed, uint64_t at_ns, const char *bytes, size_t size)
{
  size = size < BYTES_MAX - timed->size ? size : BYTES_MAX - timed->size;
  memcpy(timed->bytes + timed->size, bytes, size);
  timed->size += size;
  mark(timed, at_ns);
}

static void print(struct timed *timed, uint64_t at_ns, const char *format, ...) BUS_PRINTF(3, 4);
static void print(struct timed *timed, uint64_t at_ns, const char *format, ...)
{
  char line[2048];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  add(timed, at_ns, line, (size_t)length);
}

static uint64_t draw(struct plan *plan, uint64_t low, uint64_t high)
{
  return sim_random_between(&plan->world->random, low, high);
}

static bool chance(struct plan *plan, uint32_t percent)
{
  return sim_random_chance(&plan->world->random, percent);
}

static void event(struct plan *plan, const char *data)
{
  print(&plan->body, plan->at_ns, plan->crlf ? "data: %s\r\n\r\n" : "data: %s\n\n", data);
}

/* A token, as text and as it stands in JSON. */
static void draw_token(struct plan *plan, char *text, char *json)
{
  static const struct {
    const char *text, *json;
  } odd[] = {{"\n", "\\n"},
             {"\"", "\\\""},
             {"\\", "\\\\"},
             {"\xc3\xa9", "\xc3\xa9"},
             {"\xc3\xa9", "\\u00e9"},
             {"\xf0\x9f\x98\x80", "\\ud83d\\ude00"},
             {"\xe2\x82\xac", "\xe2\x82\xac"},
             {"\t", "\\t"}};
  uint64_t letters = draw(plan, 0, chance(plan, 10) ? 60 : 8);
  for (uint64_t i = 0; i < letters; i++)
    text[i] = json[i] = (char)('a' + draw(plan, 0, 25));
  text[letters] = json[letters] = '\0';
  if (letters == 0 || chance(plan, 20)) {
    uint64_t which = draw(plan, 0, BUS_COUNT_OF(odd) - 1);
    strcpy(text + letters, odd[which].text);
    strcpy(json + letters, odd[which].json);
  }
}

static void delta(struct plan *plan, const char *field, const char *json)
{
  char data[512];
  if (plan->kind == BUS_LLM_COMPLETION)
    snprintf(data, sizeof data,
             "{\"object\":\"text_completion\",\"choices\":[{\"index\":0,\"text\":\"%s\","
             "\"finish_reason\":null}]}",
             json);
  else
    snprintf(data, sizeof data,
             "{\"object\":\"chat.completion.chunk\",\"choices\":[{\"index\":0,\"delta\":"
             "{\"role\":\"assistant\",\"%s\":\"%s\"},\"finish_reason\":null}]}",
             field, json);
  event(plan, data);
}

static void think(struct plan *plan)
{
  char text[128], json[128];
  char whole[1024];
  uint32_t bytes = 0;
  const char *field = plan->mlx ? "reasoning" : "reasoning_content";
  for (uint64_t count = draw(plan, 1, 4); count; count--) {
    draw_token(plan, text, json);
    delta(plan, field, json);
    memcpy(whole + bytes, text, strlen(text));
    bytes += (uint32_t)strlen(text);
    plan->at_ns += draw(plan, 0, plan->interval_ns);
  }
  char *kept = sim_world_allocate(plan->world, bytes);
  memcpy(kept, whole, bytes);
  plan->attempt->reasoning = kept;
  plan->attempt->reasoning_bytes = bytes;
}

static void speak(struct plan *plan)
{
  uint32_t tokens = (uint32_t)draw(plan, 1, chance(plan, 10) ? TOKENS_MAX : 10);
  const uint32_t limit = plan->attempt->tokens_max;
  if (limit && tokens >= limit) {
    tokens = limit;
    plan->attempt->length = true;
  }
  char text[128], json[160];
  for (uint32_t i = 0; i < tokens; i++) {
    draw_token(plan, text, json);
    if (i == 0) { /* no two answers begin alike */
      snprintf(text, sizeof text, "%u:", (uint32_t)(plan->attempt - plan->world->attempts));
      snprintf(json, sizeof json, "%s", text);
    }
    delta(plan, "content", json);
    memcpy(plan->text + plan->text_bytes, text, strlen(text));
    plan->text_bytes += (uint32_t)strlen(text);
    if (chance(plan, 15))
      print(&plan->body, plan->at_ns, ": keepalive %u/%u\n\n", i, tokens);
    plan->at_ns += draw(plan, 0, plan->interval_ns);
  }
}

static void finish(struct plan *plan)
{
  const char *reason = plan->attempt->length ? "length" : "stop";
  char data[256];
  if (plan->attempt->fault == SIM_FAULT_STREAM_ERROR) {
    event(plan, "{\"error\":{\"message\":\"stream trouble\",\"code\":500}}");
  } else if (plan->attempt->fault == SIM_FAULT_BROKEN_EVENT) {
    event(plan, "{\"choices\":[{\"delta\":{\"content\":");
  } else if (plan->attempt->fault != SIM_FAULT_NO_FINISH) {
    if (plan->kind == BUS_LLM_COMPLETION)
      snprintf(data, sizeof data, "{\"choices\":[{\"text\":\"\",\"finish_reason\":\"%s\"}]}",
               reason);
    else
      snprintf(data, sizeof data, "{\"choices\":[{\"delta\":{},\"finish_reason\":\"%s\"}]}",
               reason);
    event(plan, data);
  }
  if (chance(plan, 60))
    event(plan, "{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}");
  if (plan->attempt->fault != SIM_FAULT_NO_DONE)
    event(plan, "[DONE]");
}

static void make_stream(struct plan *plan)
{
  if (plan->kind == BUS_LLM_CHAT && plan->request && chance(plan, 20))
    think(plan);
  speak(plan);
  finish(plan);
  plan->done = plan->body.size - (plan->crlf ? 4 : 2); /* right behind "[DONE]" */
}

static void make_embedding(struct plan *plan)
{
  uint64_t count = draw(plan, 1, 24);
  char number[32];
  print(&plan->body, plan->at_ns, "{\"object\":\"list\",\"data\":[{\"index\":0,\"embedding\":[");
  for (uint64_t i = 0; i < count; i++) {
    float value = (float)(int64_t)draw(plan, 0, 4096) / 64.0f - 32.0f;
    if (i == 0) /* no two answers begin alike */
      value = (float)(plan->attempt - plan->world->attempts);
    snprintf(number, sizeof number, "%s%.6f", i ? "," : "", (double)value);
    print(&plan->body, plan->at_ns, "%s", number);
    memcpy(plan->text + plan->text_bytes, &value, sizeof value);
    plan->text_bytes += sizeof value;
  }
  print(&plan->body, plan->at_ns, "]}],\"usage\":{\"prompt_tokens\":5}}");
  plan->done = plan->body.size;
}

static void make_error(struct plan *plan, uint32_t status)
{
  plan->attempt->status = (uint16_t)status;
  char *text = plan->attempt->error_text;
  snprintf(text, sizeof plan->attempt->error_text, "trouble %u", status);
  if (plan->mlx || chance(plan, 30))
    print(&plan->body, plan->at_ns, "{\"error\":\"%s\"}", text);
  else
    print(&plan->body, plan->at_ns, "{\"error\":{\"message\":\"%s\",\"type\":\"x\",\"code\":%u}}",
          text, status);
}

static void head(struct plan *plan, uint32_t framing, bool keeps, bool old)
{
  const struct sim_attempt *attempt = plan->attempt;
  uint64_t at_ns = plan->body.mark_count ? plan->body.marks[0].at_ns : plan->at_ns;
  print(&plan->wire, at_ns, "HTTP/1.%d %u %s\r\nServer: x\r\n", old ? 0 : 1, attempt->status,
        attempt->status == 200 ? "OK" : "Trouble");
  print(&plan->wire, at_ns, "Content-Type: %s\r\n",
        attempt->status == 200 && plan->kind != BUS_LLM_EMBEDDING ? "text/event-stream"
                                                                  : "application/json");
  if (attempt->status == 429 || (attempt->status == 503 && chance(plan, 70)))
    print(&plan->wire, at_ns, "Retry-After: %u\r\n", (uint32_t)draw(plan, 0, 1));
  if (framing == SIM_FRAMING_LENGTH)
    print(&plan->wire, at_ns, "content-length: %zu\r\n", plan->body.size);
  else if (framing == SIM_FRAMING_CHUNKED)
    print(&plan->wire, at_ns, "Transfer-Encoding: chunked\r\n");
  if (!old)
    print(&plan->wire, at_ns, "Connection: %s\r\n", keeps ? "keep-alive" : "close");
  print(&plan->wire, at_ns, "\r\n");
}

/* When byte `offset` of `timed` is there; `hint` is kept between calls with rising offsets. */
static uint64_t time_of(const struct timed *timed, size_t offset, uint32_t *hint)
{
  while (*hint + 1 < timed->mark_count && timed->marks[*hint].end <= offset)
    ++*hint;
  return timed->mark_count ? timed->marks[*hint].at_ns : 0;
}

/* Puts the body into its frame. */
static void frame(struct plan *plan, uint32_t framing)
{
  uint32_t hint = 0;
  size_t largest = chance(plan, 50) ? 40 : 600;
  for (size_t offset = 0; offset < plan->body.size;) {
    size_t size = (size_t)draw(plan, 1, largest);
    size = size < plan->body.size - offset ? size : plan->body.size - offset;
    uint64_t at_ns = time_of(&plan->body, offset + size - 1, &hint);
    if (framing == SIM_FRAMING_CHUNKED)
      print(&plan->wire, at_ns, "%zx\r\n", size);
    if (offset < plan->done && offset + size >= plan->done)
      plan->attempt->done_offset = (uint32_t)(plan->wire.size + plan->done - offset);
    add(&plan->wire, at_ns, plan->body.bytes + offset, size);
    if (framing == SIM_FRAMING_CHUNKED)
      print(&plan->wire, at_ns, "\r\n");
    offset += size;
  }
  if (framing == SIM_FRAMING_CHUNKED)
    print(&plan->wire, plan->at_ns, "0\r\n\r\n");
}

static void make_body(struct plan *plan)
{
  switch (plan->attempt->fault) {
  case SIM_FAULT_429:
    make_error(plan, 429);
    return;
  case SIM_FAULT_503:
    make_error(plan, 503);
    return;
  case SIM_FAULT_500:
    make_error(plan, 500);
    return;
  case SIM_FAULT_400:
    make_error(plan, chance(plan, 50) ? 400 : 404);
    return;
  default:
    plan->attempt->status = 200;
  }
  if (plan->kind == BUS_LLM_EMBEDDING)
    make_embedding(plan);
  else
    make_stream(plan);
}

/* How much of the wire's bytes comes, by the fault. */
static size_t cut_by_fault(struct plan *plan)
{
  const size_t size = plan->wire.size;
  switch (plan->attempt->fault) {
  case SIM_FAULT_RESET:
  case SIM_FAULT_CUT:
  case SIM_FAULT_STALL:
    /* Before the end of what makes it whole. */
    return (size_t)draw(plan, plan->attempt->fault == SIM_FAULT_RESET ? 0 : 1,
                        plan->attempt->done_offset - 1);
  case SIM_FAULT_ZERO_BYTES:
    return 0;
  case SIM_FAULT_GARBAGE:
    for (size_t i = 0; i < size; i++)
      plan->wire.bytes[i] = (char)draw(plan, i ? 0 : 1, i ? 255 : 31);
    return size;
  default:
    return size;
  }
}

static void hand_over(struct plan *plan, struct sim_connection *connection, size_t size)
{
  struct sim_world *world = plan->world;
  char *kept = sim_world_allocate(world, size + 1);
  memcpy(kept, plan->wire.bytes, size);
  plan->attempt->response = kept;
  plan->attempt->response_bytes = (uint32_t)size;
  uint32_t hint = 0;
  const uint64_t latency_ns = world->servers[connection->backend].latency_ns;
  uint64_t style = draw(plan, 0, 9);
  size_t largest = style < 1 ? 3 : style < 6 ? 200 : 2000;
  for (size_t offset = 0; offset < size;) {
    size_t piece = (size_t)draw(plan, 1, largest);
    piece = piece < size - offset ? piece : size - offset;
    uint64_t at_ns = time_of(&plan->wire, offset, &hint);
    /* No further than what is there at the same moment. */
    if (plan->wire.marks[hint].end > offset && plan->wire.marks[hint].end < offset + piece)
      piece = plan->wire.marks[hint].end - offset;
    sim_network_deliver(world, connection, at_ns + latency_ns, kept + offset, piece);
    offset += piece;
  }
}

/* What becomes of the connection behind the answer. */
static void end(struct plan *plan, struct sim_connection *connection, bool keeps)
{
  struct sim_world *world = plan->world;
  uint64_t at_ns = plan->at_ns + world->servers[connection->backend].latency_ns;
  switch (plan->attempt->fault) {
  case SIM_FAULT_RESET:
    sim_network_end(world, connection, at_ns, ECONNRESET);
    return;
  case SIM_FAULT_CUT:
  case SIM_FAULT_ZERO_BYTES:
  case SIM_FAULT_GARBAGE:
  case SIM_FAULT_NO_DONE:
    sim_network_end(world, connection, at_ns, 0);
    return;
  case SIM_FAULT_STALL:
    return;
  default:
    break;
  }
  if (!keeps) {
    sim_network_end(world, connection, at_ns, 0);
    return;
  }
  /* Well-behaved servers are patient for some seconds. */
  const uint64_t least_ms = world->healed || world->faultless ? 1200 : 1;
  struct sim_event *patience = sim_world_schedule(
      world, &world->agenda, at_ns + draw(plan, least_ms, least_ms + 400) * SIM_MS,
      SIM_EVENT_SERVER_CLOSES, 0);
  patience->connection =
      (connection->generation << 6) | (uint32_t)(connection - world->connections);
  patience->uses = connection->requests;
}

void sim_answer_make(struct sim_world *world, struct sim_connection *connection,
                     struct sim_attempt *attempt)
{
  struct plan *plan = &plan_memory;
  plan->world = world;
  plan->attempt = attempt;
  plan->request = attempt->request == SIM_NONE ? NULL : &world->requests[attempt->request];
  plan->kind = attempt->kind;
  plan->mlx = world->config.backends[connection->backend].flavor == BUS_LLM_FLAVOR_MLX;
  plan->body.size = plan->wire.size = plan->done = 0;
  plan->body.mark_count = plan->wire.mark_count = 0;
  plan->text_bytes = 0;
  plan->crlf = chance(plan, 20);
  const bool calm = world->healed || world->faultless;
  plan->interval_ns = (calm || chance(plan, 80) ? 6 : 40) * SIM_MS;
  plan->at_ns = world->now_ns + draw(plan, 1, calm || chance(plan, 70) ? 10 : 60) * SIM_MS;
  if (attempt->fault == SIM_FAULT_SLOW_FIRST)
    plan->at_ns += draw(plan, 200, 3000) * SIM_MS;
  make_body(plan);
  const bool old = plan->mlx;
  uint32_t framing = old ? SIM_FRAMING_CLOSE : (uint32_t)draw(plan, 0, 2);
  const bool keeps =
      framing != SIM_FRAMING_CLOSE && world->servers[connection->backend].keeps_alive;
  head(plan, framing, keeps, old);
  frame(plan, framing);
  char *text = sim_world_allocate(world, plan->text_bytes + 1);
  memcpy(text, plan->text, plan->text_bytes);
  attempt->text = text;
  attempt->text_bytes = plan->text_bytes;
  attempt->good = attempt->fault == SIM_FAULT_NONE || attempt->fault == SIM_FAULT_SLOW_FIRST;
  /* Faults of a stream do not touch an embedding: it is one piece of JSON. */
  if (plan->kind == BUS_LLM_EMBEDDING && attempt->fault >= SIM_FAULT_STREAM_ERROR)
    attempt->good = true;
  if (plan->kind == BUS_LLM_EMBEDDING && attempt->fault == SIM_FAULT_BROKEN_EVENT)
    attempt->good = true;
  attempt->whole = attempt->fault == SIM_FAULT_NONE || attempt->fault > SIM_FAULT_GARBAGE;
  if (attempt->fault == SIM_FAULT_STALL || attempt->fault == SIM_FAULT_NO_DONE)
    attempt->whole = false;
  size_t size = cut_by_fault(plan);
  hand_over(plan, connection, size);
  end(plan, connection, keeps);
}
