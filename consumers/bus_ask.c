/* bus-ask: asks a language model through the bridge and prints the answer as it comes. Also the
 * shortest whole example of a client of the bridge. */
#include "shm/llm_client.h"
#include "shm/loop.h"
#include "shm/options.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMPT_BYTES_MAX (8u << 20)
#define SLICE_NS         50000000u
#define HINT_AFTER_NS    1000000000u
#define CANCEL_WAIT_NS   2000000000u

static const char help[] =
    "bus-ask: asks a language model through the bridge\n"
    "\n"
    "usage: bus-ask [options] [PROMPT | -]\n"
    "\n"
    "Without PROMPT, or with -, the prompt is what standard input holds.\n"
    "\n"
    "  --class NAME        class of work, as the bridge's configuration has it (default default)\n"
    "  --deadline MS       the answer is wanted by then (default 60000)\n"
    "  --max-tokens N      limit of the answer (default: the class's)\n"
    "  --temperature T     0 or more (default: the server's)\n"
    "  --messages          the prompt is a JSON array of {\"role\", \"content\"}\n"
    "  --completion        go on with the prompt instead of answering it\n"
    "  --embedding         the prompt's embedding, a number for each line\n"
    "  --idempotent        may be asked twice: retried, hedged, asked again after a restart\n"
    "  --urgent            before all that is not urgent\n"
    "  --no-stream         print the answer when it is whole\n"
    "  --reasoning         the model's reasoning, where it comes, to standard error\n"
    "  --json              one JSON object instead: status, text, tokens, times\n"
    "member\n"
    "  --bus DIR           the bus (default $SIGNAL_BUS, else /dev/shm/signals)\n"
    "  --name NAME         this member's name, which the bridge must know (default ask)\n"
    "  --bridge NAME       the bridge's member (default bridge)\n"
    "  --record-bytes N    size of the slots, as the bridge has it (default 16384)\n"
    "other\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 the whole answer, 1 failed, 2 usage, 3 the answer is cut, 4 rejected for now,\n"
    "5 the request is refused, 6 the server or the bridge failed, 7 too late, 8 cancelled (^C)\n";

struct program {
  const char *directory;
  const char *name;
  struct bus_llm_client_options client_options;
  struct bus_llm_ask ask;
  uint64_t deadline_ns; /* from now */
  bool no_stream, reasoning, json;

  struct bus_llm_client *client;
  uint64_t id;
  char *shown; /* the answer as far as it was printed */
  uint32_t shown_bytes;
  uint8_t attempt; /* that it is of */
};

enum {
  OPTION_CLASS = 1,
  OPTION_DEADLINE,
  OPTION_MAX_TOKENS,
  OPTION_TEMPERATURE,
  OPTION_MESSAGES,
  OPTION_COMPLETION,
  OPTION_EMBEDDING,
  OPTION_IDEMPOTENT,
  OPTION_URGENT,
  OPTION_NO_STREAM,
  OPTION_REASONING,
  OPTION_JSON,
  OPTION_BUS,
  OPTION_NAME,
  OPTION_BRIDGE,
  OPTION_RECORD_BYTES,
  OPTION_HELP,
  OPTION_VERSION
};

static const struct option options[] = {
    {"class", required_argument, NULL, OPTION_CLASS},
    {"deadline", required_argument, NULL, OPTION_DEADLINE},
    {"max-tokens", required_argument, NULL, OPTION_MAX_TOKENS},
    {"temperature", required_argument, NULL, OPTION_TEMPERATURE},
    {"messages", no_argument, NULL, OPTION_MESSAGES},
    {"completion", no_argument, NULL, OPTION_COMPLETION},
    {"embedding", no_argument, NULL, OPTION_EMBEDDING},
    {"idempotent", no_argument, NULL, OPTION_IDEMPOTENT},
    {"urgent", no_argument, NULL, OPTION_URGENT},
    {"no-stream", no_argument, NULL, OPTION_NO_STREAM},
    {"reasoning", no_argument, NULL, OPTION_REASONING},
    {"json", no_argument, NULL, OPTION_JSON},
    {"bus", required_argument, NULL, OPTION_BUS},
    {"name", required_argument, NULL, OPTION_NAME},
    {"bridge", required_argument, NULL, OPTION_BRIDGE},
    {"record-bytes", required_argument, NULL, OPTION_RECORD_BYTES},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {NULL, 0, NULL, 0}};

/* ---- the command line ---- */

static int take_number(struct program *program, int option, const char *value)
{
  int64_t number = 0;
  int error;
  char *end;
  switch (option) {
  case OPTION_DEADLINE:
    error = bus_parse_integer(value, 1, 86400000, "--deadline", &number);
    program->deadline_ns = (uint64_t)number * 1000000u;
    return error;
  case OPTION_MAX_TOKENS:
    error = bus_parse_integer(value, 1, 1 << 20, "--max-tokens", &number);
    program->ask.tokens_max = (uint32_t)number;
    return error;
  case OPTION_RECORD_BYTES:
    error = bus_parse_integer(value, 192, BUS_RECORD_BYTES_MAX, "--record-bytes", &number);
    program->client_options.record_bytes = (uint32_t)number;
    return error;
  default:
    program->ask.temperature = strtof(value, &end);
    program->ask.has_temperature = true;
    if (end == value || *end || !(program->ask.temperature >= 0.0f))
      return bus_error_set(BUS_ERROR_INVALID, "--temperature '%s': a number, 0 or more", value);
    return BUS_OK;
  }
}

static int take_option(struct program *program, int option, const char *value)
{
  switch (option) {
  case OPTION_CLASS:
    program->ask.class_name = value;
    return BUS_OK;
  case OPTION_MESSAGES:
    program->ask.flags |= BUS_LLM_MESSAGES;
    return BUS_OK;
  case OPTION_COMPLETION:
    program->ask.kind = BUS_LLM_COMPLETION;
    return BUS_OK;
  case OPTION_EMBEDDING:
    program->ask.kind = BUS_LLM_EMBEDDING;
    return BUS_OK;
  case OPTION_IDEMPOTENT:
    program->ask.flags |= BUS_LLM_IDEMPOTENT;
    return BUS_OK;
  case OPTION_URGENT:
    program->ask.flags |= BUS_LLM_URGENT;
    return BUS_OK;
  case OPTION_NO_STREAM:
    program->no_stream = true;
    return BUS_OK;
  case OPTION_REASONING:
    program->reasoning = true;
    return BUS_OK;
  case OPTION_JSON:
    program->json = true;
    return BUS_OK;
  case OPTION_BUS:
    program->directory = value;
    return BUS_OK;
  case OPTION_NAME:
    program->name = value;
    return BUS_OK;
  case OPTION_BRIDGE:
    program->client_options.bridge = value;
    return BUS_OK;
  case OPTION_DEADLINE:
  case OPTION_MAX_TOKENS:
  case OPTION_TEMPERATURE:
  case OPTION_RECORD_BYTES:
    return take_number(program, option, value);
  default: /* getopt has said why */
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

/* All of standard input, as the prompt. */
static int read_prompt(struct program *program)
{
  char *text = malloc(PROMPT_BYTES_MAX);
  if (!text)
    return bus_error_set(BUS_ERROR_NO_SPACE, "no memory for the prompt");
  size_t size = fread(text, 1, PROMPT_BYTES_MAX, stdin);
  program->ask.text = text; /* until the end of the process */
  program->ask.text_bytes = (uint32_t)size;
  if (ferror(stdin))
    return bus_error_set_errno("standard input");
  if (size == PROMPT_BYTES_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "standard input has more than %u bytes",
                         PROMPT_BYTES_MAX - 1);
  return BUS_OK;
}

/* BUS_OK, 1 when there is no more to do, or a negative error. */
static int parse(struct program *program, int argc, char **argv)
{
  int option, error = BUS_OK;
  while (!error && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == OPTION_HELP || option == OPTION_VERSION) {
      fputs(option == OPTION_HELP ? help : "bus-ask (signal-bus) " BUS_VERSION "\n", stdout);
      return 1;
    }
    error = take_option(program, option, optarg);
  }
  if (error)
    return error;
  if (argc - optind > 1)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s': quote the prompt",
                         argv[optind + 1]);
  if (program->ask.kind == BUS_LLM_EMBEDDING)
    program->no_stream = true;
  if (!program->json && (!program->no_stream || program->reasoning))
    program->ask.flags |= BUS_LLM_PARTIALS;
  if (optind == argc || !strcmp(argv[optind], "-"))
    return read_prompt(program);
  program->ask.text = argv[optind];
  program->ask.text_bytes = (uint32_t)strlen(argv[optind]);
  return BUS_OK;
}

/* ---- the answer ---- */

static void show(struct program *program, const char *text, uint32_t bytes)
{
  char *more = realloc(program->shown, (size_t)program->shown_bytes + bytes + 1);
  if (more) {
    memcpy(more + program->shown_bytes, text, bytes);
    program->shown = more;
    program->shown_bytes += bytes;
  }
  fwrite(text, 1, bytes, stdout);
  fflush(stdout);
}

/* A piece that goes on where the printed text ends. After a piece that was left out, or of another
 * attempt, nothing does: the final reply brings what is missing. */
static void show_piece(struct program *program, const struct bus_llm_client_reply *reply)
{
  const struct bus_llm_reply *header = &reply->header;
  if (header->flags & BUS_LLM_REASONING) {
    if (program->reasoning)
      fwrite(reply->text, 1, header->text_bytes, stderr);
    return;
  }
  if (program->no_stream || header->text_offset != program->shown_bytes)
    return;
  if (program->shown_bytes == 0)
    program->attempt = header->attempt;
  if (header->attempt == program->attempt)
    show(program, reply->text, header->text_bytes);
}

static void show_embedding(const struct bus_llm_client_reply *reply)
{
  for (uint32_t i = 0; i + sizeof(float) <= reply->header.text_bytes; i += sizeof(float)) {
    float value;
    memcpy(&value, reply->text + i, sizeof value);
    printf("%.9g\n", (double)value);
  }
}

/* What the pieces have not brought; all of it where they were of an attempt that failed. */
static void show_rest(struct program *program, const struct bus_llm_client_reply *reply)
{
  const uint32_t bytes = reply->header.text_bytes;
  if (program->shown_bytes > bytes ||
      (program->shown_bytes > 0 && memcmp(program->shown, reply->text, program->shown_bytes))) {
    putchar('\n');
    fflush(stdout);
    fprintf(stderr, "bus-ask: that was an attempt that failed; the answer:\n");
    program->shown_bytes = 0;
  }
  fwrite(reply->text + program->shown_bytes, 1, bytes - program->shown_bytes, stdout);
  if (bytes > 0 && reply->text[bytes - 1] != '\n')
    putchar('\n');
}

static json_t *json_text(const char *text, uint32_t bytes)
{
  json_t *value = json_stringn(text, bytes);
  if (value)
    return value;
  char *ascii = malloc((size_t)bytes + 1); /* no UTF-8: not what a server of texts should send */
  if (!ascii)
    return json_null();
  for (uint32_t i = 0; i < bytes; i++)
    ascii[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
  value = json_stringn(ascii, bytes);
  free(ascii);
  return value;
}

static json_t *json_embedding(const struct bus_llm_client_reply *reply)
{
  json_t *values = json_array();
  for (uint32_t i = 0; i + sizeof(float) <= reply->header.text_bytes; i += sizeof(float)) {
    float value;
    memcpy(&value, reply->text + i, sizeof value);
    json_array_append_new(values, json_real((double)value));
  }
  return values;
}

/* ms from the submission to a moment of the bridge's; null: it never came. */
static json_t *json_ms(const struct bus_llm_client_reply *reply, uint64_t ns)
{
  return ns == 0 ? json_null() : json_real((double)(int64_t)(ns - reply->submitted_ns) * 1e-6);
}

static void print_json(const struct program *program, const struct bus_llm_client_reply *reply)
{
  const struct bus_llm_reply *header = &reply->header;
  json_t *object = json_pack(
      "{s:s, s:o, s:s, s:i, s:i, s:I, s:I, s:I, s:b, s:b, s:o, s:o, s:o, s:o}", "status",
      bus_llm_status_name(header->status), "backend",
      json_text(header->backend, (uint32_t)strlen(header->backend)), "class",
      program->ask.class_name, "http_status", (int)header->http_status, "attempts",
      (int)header->attempt, "prompt_tokens", (json_int_t)header->prompt_tokens, "completion_tokens",
      (json_int_t)header->completion_tokens, "retry_after_ms", (json_int_t)header->retry_after_ms,
      "cut", (header->flags & BUS_LLM_CUT) != 0, "hedged", (header->flags & BUS_LLM_HEDGED) != 0,
      "accepted_ms", json_ms(reply, header->accepted_ns), "sent_ms",
      json_ms(reply, header->sent_ns), "first_ms", json_ms(reply, header->first_ns), "done_ms",
      json_ms(reply, header->done_ns));
  if (program->ask.kind == BUS_LLM_EMBEDDING)
    json_object_set_new(object, "embedding", json_embedding(reply));
  else
    json_object_set_new(object, "text", json_text(reply->text, header->text_bytes));
  json_dumpf(object, stdout, JSON_REAL_PRECISION(9));
  putchar('\n');
  json_decref(object);
}

static int exit_status(uint32_t status)
{
  static const int statuses[] = {
      [BUS_LLM_OK] = 0,           [BUS_LLM_LENGTH] = 3,         [BUS_LLM_TRUNCATED] = 3,
      [BUS_LLM_BACKEND_DOWN] = 4, [BUS_LLM_REJECTED_QUEUE] = 4, [BUS_LLM_REJECTED_DEADLINE] = 4,
      [BUS_LLM_BAD_REQUEST] = 5,  [BUS_LLM_UPSTREAM_4XX] = 5,   [BUS_LLM_UPSTREAM_5XX] = 6,
      [BUS_LLM_EXPIRED] = 7,      [BUS_LLM_BRIDGE_RESTART] = 6, [BUS_LLM_LOCAL_TIMEOUT] = 7,
      [BUS_LLM_CANCELLED] = 8,    [BUS_LLM_PENDING] = 1};
  return status < BUS_COUNT_OF(statuses) ? statuses[status] : 1;
}

static void show_final(struct program *program, const struct bus_llm_client_reply *reply)
{
  const struct bus_llm_reply *header = &reply->header;
  /* Where the server refused, the text is what it said about that. */
  bool is_answer = header->status == BUS_LLM_OK || exit_status(header->status) == 3 ||
                   header->status == BUS_LLM_EXPIRED || header->status == BUS_LLM_CANCELLED;
  if (program->json)
    print_json(program, reply);
  else if (program->ask.kind == BUS_LLM_EMBEDDING && is_answer)
    show_embedding(reply);
  else if (is_answer)
    show_rest(program, reply);
  fflush(stdout);
  if (header->status == BUS_LLM_OK)
    return;
  fprintf(stderr, "bus-ask: %s", bus_llm_status_name(header->status));
  if (header->backend[0])
    fprintf(stderr, " by %s", header->backend);
  if (header->http_status)
    fprintf(stderr, ", HTTP %u", header->http_status);
  if (header->retry_after_ms)
    fprintf(stderr, ", again in %" PRIu32 " ms", header->retry_after_ms);
  if (!is_answer && reply->text[0])
    fprintf(stderr, ": %s", reply->text);
  fputc('\n', stderr);
}

/* ---- the run ---- */

/* Takes the request back and waits a moment for the last word; 1 when there is one. */
static int cancel(struct program *program, struct bus_llm_client_reply *reply)
{
  const uint64_t begin_ns = bus_clock_monotonic_ns();
  bus_llm_client_cancel(program->client, program->id);
  while (bus_clock_monotonic_ns() - begin_ns < CANCEL_WAIT_NS) {
    bus_llm_client_maintain(program->client);
    while (bus_llm_client_poll(program->client, bus_clock_monotonic_ns(), reply))
      if (reply->header.kind == BUS_LLM_FINAL)
        return 1;
    usleep(1000);
  }
  return 0;
}

/* Until the final reply, which it returns the exit status of. */
static int converse(struct program *program)
{
  const uint64_t begin_ns = bus_clock_monotonic_ns();
  struct bus_llm_client_reply reply;
  bool hinted = false;
  for (;;) {
    if (bus_llm_client_wait(program->client, SLICE_NS, &reply)) {
      if (reply.header.kind == BUS_LLM_FINAL)
        break;
      show_piece(program, &reply);
    } else if (bus_loop_stop_requested()) {
      if (cancel(program, &reply))
        break;
      fprintf(stderr, "bus-ask: cancelled\n");
      return 8;
    } else if (!hinted && bus_clock_monotonic_ns() - begin_ns > HINT_AFTER_NS) {
      hinted = true;
      if (bus_llm_client_maintain(program->client) != BUS_OK)
        fprintf(stderr, "bus-ask: waiting for the bridge: %s (does its configuration list '%s'?)\n",
                bus_error_message(), program->name);
    }
  }
  show_final(program, &reply);
  return exit_status(reply.header.status);
}

static int run(struct program *program)
{
  int error = bus_llm_client_open(program->directory, program->name, &program->client_options,
                                  &program->client);
  if (!error) {
    uint64_t now_ns = bus_clock_monotonic_ns();
    program->ask.deadline_ns = now_ns + program->deadline_ns;
    error = bus_llm_client_submit(program->client, &program->ask, now_ns, &program->id);
    if (error == BUS_ERROR_AGAIN) /* what a predecessor asked for fills the ring */
      bus_error_set(error, "earlier requests of '%s' wait for the bridge; start it, or use --name",
                    program->name);
  }
  if (error)
    fprintf(stderr, "bus-ask: %s\n", bus_error_message());
  int status = error == BUS_ERROR_INVALID ? 2 : error ? 1 : converse(program);
  bus_llm_client_delete(program->client);
  free(program->shown);
  return status;
}

int main(int argc, char **argv)
{
  static struct program program = {.name = "ask",
                                   .deadline_ns = 60000000000u,
                                   .ask = {.kind = BUS_LLM_CHAT, .class_name = "default"}};
  int parsed = parse(&program, argc, argv);
  if (parsed != 0) {
    if (parsed < 0)
      fprintf(stderr, "bus-ask: %s\n", bus_error_message());
    return parsed < 0 ? 2 : 0;
  }
  bus_loop_handle_signals();
  return run(&program);
}
