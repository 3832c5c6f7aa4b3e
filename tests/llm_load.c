/* llm_load: members that ask language models through the bridge, many at a time, and check that
 * each question ends in exactly one answer, in time, and in its own.
 *
 * usage: llm_load --bus DIR [options]; see `usage` below.
 *
 * Where the prompt has {n}, the number of the request stands; with --echo the answer must begin
 * with that number and a blank. Prints one JSON object and ends with status 0 when every request
 * ended in one final reply by its deadline + grace, and no text was wrong. */
#include "shm/clock.h"
#include "shm/error.h"
#include "shm/llm_client.h"
#include "shm/loop.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CLIENTS_MAX  32u
#define NS_PER_MS    ((uint64_t)1000000)
#define SLACK_NS     (2000 * NS_PER_MS) /* of this program's own turns, beside a loaded machine's */
#define MAINTAIN_NS  (10 * NS_PER_MS)
#define PROMPT_BYTES (1u << 20)

static const char usage[] =
    "usage: llm_load --bus DIR [--client NAME] [--clients N] [--requests N] [--outstanding K]\n"
    "  --class NAME      --kind chat|completion|embedding      --prompt TEXT\n"
    "  --deadline-ms N   --grace-ms N   --answer-bytes N   --record-bytes N   --tokens N\n"
    "  --cancel-ms N     take each request back after so long\n"
    "  --partials --idempotent --urgent --echo\n"
    "  --prompt-bytes N  lengthen each prompt by blanks\n"
    "With --clients N above 1 the members are NAME0, NAME1, ..\n";

struct request {
  uint64_t id;
  uint64_t submitted_ns;
  uint64_t deadline_ns;
  uint64_t partial_bytes; /* of the attempt so far */
  uint32_t finals;
  uint8_t attempt;
  bool cancelled;
};

struct load {
  const char *bus, *client, *class_name, *prompt;
  uint32_t clients, requests, outstanding, tokens, prompt_bytes;
  uint64_t deadline_ns, cancel_ns;
  uint8_t kind, flags;
  bool echo;
  struct bus_llm_client_options options;
  struct bus_llm_client *open[CLIENTS_MAX];
  char names[CLIENTS_MAX][BUS_LLM_CLIENT_NAME_MAX + 1];
  struct request *table;
  uint64_t *latency_ns;
  char *text;
  uint32_t submitted, finals, twice, unknown, late, text_wrong, partials, partials_lost,
      first_after, hedged, cut;
  uint32_t statuses[BUS_LLM_STATUS_COUNT];
  uint64_t late_ns_max, text_bytes, retry_after_ms_max;
  uint32_t http_status_max, attempt_max;
  uint32_t cancel_next; /* the first that may still have to be taken back */
};

static uint64_t number(const char *text)
{
  char *end;
  errno = 0;
  uint64_t value = strtoull(text, &end, 10);
  if (errno || *end || end == text) {
    fprintf(stderr, "llm_load: '%s' is no number\n", text);
    exit(2);
  }
  return value;
}

static uint8_t kind_of(const char *text)
{
  static const char *const kinds[] = {"", "chat", "completion", "embedding"};
  for (size_t i = 1; i < BUS_COUNT_OF(kinds); i++) {
    if (!strcmp(kinds[i], text))
      return (uint8_t)i;
  }
  fprintf(stderr, "llm_load: no kind '%s'\n", text);
  exit(2);
}

static void parse(struct load *load, int argc, char **argv)
{
  static const struct option options[] = {
      {"bus", 1, NULL, 'b'},          {"client", 1, NULL, 'n'},
      {"clients", 1, NULL, 'm'},      {"requests", 1, NULL, 'r'},
      {"outstanding", 1, NULL, 'k'},  {"class", 1, NULL, 'c'},
      {"kind", 1, NULL, 'K'},         {"prompt", 1, NULL, 'p'},
      {"deadline-ms", 1, NULL, 'd'},  {"grace-ms", 1, NULL, 'g'},
      {"answer-bytes", 1, NULL, 'a'}, {"record-bytes", 1, NULL, 'R'},
      {"tokens", 1, NULL, 't'},       {"cancel-ms", 1, NULL, 'C'},
      {"partials", 0, NULL, 'P'},     {"idempotent", 0, NULL, 'I'},
      {"urgent", 0, NULL, 'U'},       {"echo", 0, NULL, 'e'},
      {"prompt-bytes", 1, NULL, 'B'}, {NULL, 0, NULL, 0}};
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    switch (option) {
    case 'b':
      load->bus = optarg;
      break;
    case 'n':
      load->client = optarg;
      break;
    case 'm':
      load->clients = (uint32_t)number(optarg);
      break;
    case 'r':
      load->requests = (uint32_t)number(optarg);
      break;
    case 'k':
      load->outstanding = (uint32_t)number(optarg);
      break;
    case 'c':
      load->class_name = optarg;
      break;
    case 'K':
      load->kind = kind_of(optarg);
      break;
    case 'p':
      load->prompt = optarg;
      break;
    case 'd':
      load->deadline_ns = number(optarg) * NS_PER_MS;
      break;
    case 'g':
      load->options.grace_ns = number(optarg) * NS_PER_MS;
      break;
    case 'a':
      load->options.answer_bytes_max = (uint32_t)number(optarg);
      break;
    case 'R':
      load->options.record_bytes = (uint32_t)number(optarg);
      break;
    case 't':
      load->tokens = (uint32_t)number(optarg);
      break;
    case 'C':
      load->cancel_ns = number(optarg) * NS_PER_MS;
      break;
    case 'B':
      load->prompt_bytes = (uint32_t)number(optarg);
      break;
    case 'P':
      load->flags |= BUS_LLM_PARTIALS;
      break;
    case 'I':
      load->flags |= BUS_LLM_IDEMPOTENT;
      break;
    case 'U':
      load->flags |= BUS_LLM_URGENT;
      break;
    case 'e':
      load->echo = true;
      break;
    default:
      fputs(usage, stderr);
      exit(2);
    }
  }
  if (!load->bus || optind != argc || load->clients < 1 || load->clients > CLIENTS_MAX ||
      load->prompt_bytes > PROMPT_BYTES / 2 || strlen(load->prompt) > PROMPT_BYTES / 4) {
    fputs(usage, stderr);
    exit(2);
  }
}

static void open_clients(struct load *load)
{
  load->options.outstanding_max = load->outstanding;
  for (uint32_t i = 0; i < load->clients; i++) {
    if (load->clients == 1)
      snprintf(load->names[i], sizeof load->names[i], "%s", load->client);
    else
      snprintf(load->names[i], sizeof load->names[i], "%s%" PRIu32, load->client, i);
    if (bus_llm_client_open(load->bus, load->names[i], &load->options, &load->open[i])) {
      fprintf(stderr, "llm_load: %s\n", bus_error_message());
      exit(1);
    }
  }
}

/* Writes the prompt of request `sequence`; returns its length. */
static uint32_t write_prompt(struct load *load, uint32_t sequence)
{
  size_t length = 0;
  for (const char *at = load->prompt; *at;) {
    if (!strncmp(at, "{n}", 3)) {
      length += (size_t)snprintf(load->text + length, 16, "%" PRIu32, sequence);
      at += 3;
    } else {
      load->text[length++] = *at++;
    }
  }
  memset(load->text + length, ' ', load->prompt_bytes);
  return (uint32_t)length + load->prompt_bytes;
}

static bool submit_one(struct load *load, uint32_t client)
{
  uint64_t now_ns = bus_clock_monotonic_ns();
  struct request *request = &load->table[load->submitted];
  struct bus_llm_ask ask = {.kind = load->kind,
                            .flags = load->flags,
                            .class_name = load->class_name,
                            .text = load->text,
                            .text_bytes = write_prompt(load, load->submitted),
                            .tokens_max = load->tokens,
                            .deadline_ns = now_ns + load->deadline_ns,
                            .context = load->submitted};
  int error = bus_llm_client_submit(load->open[client], &ask, now_ns, &request->id);
  if (error == BUS_ERROR_AGAIN)
    return false;
  if (error) {
    fprintf(stderr, "llm_load: %s\n", bus_error_message());
    exit(1);
  }
  request->submitted_ns = now_ns;
  request->deadline_ns = ask.deadline_ns;
  load->submitted++;
  return true;
}

static bool text_is_right(const struct bus_llm_client_reply *reply)
{
  char expected[16];
  uint32_t length = (uint32_t)snprintf(expected, sizeof expected, "%" PRIu64 " ", reply->context);
  if (reply->header.text_bytes < length)
    length = reply->header.text_bytes;
  return !memcmp(reply->text, expected, length);
}

static void take_partial(struct load *load, struct request *request,
                         const struct bus_llm_client_reply *reply)
{
  load->partials++;
  load->first_after += request->finals > 0;
  if (reply->header.flags & BUS_LLM_REASONING)
    return;
  if (reply->header.attempt != request->attempt) {
    request->attempt = reply->header.attempt;
    request->partial_bytes = 0;
  }
  /* What came before may have been left out, but nothing comes again. */
  load->text_wrong += reply->header.text_offset < request->partial_bytes;
  request->partial_bytes = (uint64_t)reply->header.text_offset + reply->header.text_bytes;
}

static void take(struct load *load, const struct bus_llm_client_reply *reply)
{
  uint64_t now_ns = bus_clock_monotonic_ns();
  if (reply->context >= load->submitted || load->table[reply->context].id != reply->header.id) {
    load->unknown++;
    return;
  }
  struct request *request = &load->table[reply->context];
  if (reply->header.kind == BUS_LLM_PARTIAL) {
    take_partial(load, request, reply);
    return;
  }
  if (request->finals++) {
    load->twice++;
    return;
  }
  uint64_t last_ns = request->deadline_ns + load->options.grace_ns;
  if (now_ns > last_ns && now_ns - last_ns > load->late_ns_max)
    load->late_ns_max = now_ns - last_ns;
  load->late += now_ns > last_ns + SLACK_NS;
  load->latency_ns[load->finals++] = now_ns - request->submitted_ns;
  load->text_bytes += reply->header.text_bytes;
  load->partials_lost += (reply->header.flags & BUS_LLM_LOST) != 0;
  if (reply->header.http_status > load->http_status_max)
    load->http_status_max = reply->header.http_status;
  if (reply->header.retry_after_ms > load->retry_after_ms_max)
    load->retry_after_ms_max = reply->header.retry_after_ms;
  if (reply->header.attempt > load->attempt_max)
    load->attempt_max = reply->header.attempt;
  load->hedged += (reply->header.flags & BUS_LLM_HEDGED) != 0;
  load->cut += (reply->header.flags & BUS_LLM_CUT) != 0;
  load->statuses[reply->header.status]++; /* checked by the library */
  /* Other statuses have the reason as their text, or none. */
  static const uint32_t answered = 1u << BUS_LLM_OK | 1u << BUS_LLM_LENGTH | 1u << BUS_LLM_EXPIRED |
                                   1u << BUS_LLM_CANCELLED | 1u << BUS_LLM_TRUNCATED;
  if (load->echo && answered >> reply->header.status & 1)
    load->text_wrong += !text_is_right(reply);
}

/* Takes back, in order, what is old enough. */
static void cancel_old(struct load *load)
{
  uint64_t now_ns = bus_clock_monotonic_ns();
  for (; load->cancel_next < load->submitted; load->cancel_next++) {
    struct request *request = &load->table[load->cancel_next];
    if (now_ns - request->submitted_ns < load->cancel_ns)
      return;
    for (uint32_t i = 0; !request->finals && i < load->clients; i++) {
      int error = bus_llm_client_cancel(load->open[i], request->id);
      if (error == BUS_ERROR_AGAIN)
        return;
      if (error == BUS_OK)
        break;
    }
  }
}

static void run(struct load *load)
{
  uint64_t maintained_ns = 0;
  while (load->finals < load->requests && !bus_loop_stop_requested()) {
    uint64_t now_ns = bus_clock_monotonic_ns();
    bool maintain = now_ns - maintained_ns > MAINTAIN_NS, busy = false;
    if (maintain)
      maintained_ns = now_ns;
    for (uint32_t i = 0; i < load->clients; i++) {
      struct bus_llm_client_reply reply;
      if (maintain)
        (void)bus_llm_client_maintain(load->open[i]);
      while (load->submitted < load->requests &&
             bus_llm_client_outstanding(load->open[i]) < load->outstanding && submit_one(load, i))
        busy = true;
      while (bus_llm_client_poll(load->open[i], bus_clock_monotonic_ns(), &reply) == 1) {
        take(load, &reply);
        busy = true;
      }
    }
    if (load->cancel_ns)
      cancel_old(load);
    if (!busy)
      nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
  }
}

static int compare(const void *a, const void *b)
{
  uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;
  return left < right ? -1 : left > right;
}

static uint64_t percentile_us(const struct load *load, double part)
{
  return load->finals ? load->latency_ns[(size_t)((load->finals - 1) * part)] / 1000 : 0;
}

static void print(struct load *load, uint64_t elapsed_ns)
{
  qsort(load->latency_ns, load->finals, sizeof *load->latency_ns, compare);
  printf("{\"submitted\": %" PRIu32 ", \"finals\": %" PRIu32 ", \"twice\": %" PRIu32
         ", \"unknown\": %" PRIu32 ", \"late\": %" PRIu32 ", \"late_ms_max\": %" PRIu64
         ", \"text_wrong\": %" PRIu32 ", \"text_bytes\": %" PRIu64 ", \"partials\": %" PRIu32
         ", \"partials_after\": %" PRIu32 ", \"partials_lost\": %" PRIu32 ", \"hedged\": %" PRIu32
         ", \"cut\": %" PRIu32 ", \"http_status\": %" PRIu32 ", \"retry_after_ms\": %" PRIu64
         ", \"attempt\": %" PRIu32 ", \"statuses\": {",
         load->submitted, load->finals, load->twice, load->unknown, load->late,
         load->late_ns_max / NS_PER_MS, load->text_wrong, load->text_bytes, load->partials,
         load->first_after, load->partials_lost, load->hedged, load->cut, load->http_status_max,
         load->retry_after_ms_max, load->attempt_max);
  const char *separator = "";
  for (uint32_t i = 0; i < BUS_LLM_STATUS_COUNT; i++) {
    if (!load->statuses[i])
      continue;
    printf("%s\"%s\": %" PRIu32, separator, bus_llm_status_name(i), load->statuses[i]);
    separator = ", ";
  }
  printf("}, \"elapsed_ms\": %" PRIu64 ", \"latency_us\": {\"p50\": %" PRIu64 ", \"p99\": %" PRIu64
         ", \"max\": %" PRIu64 "}}\n",
         elapsed_ns / NS_PER_MS, percentile_us(load, 0.5), percentile_us(load, 0.99),
         percentile_us(load, 1.0));
}

int main(int argc, char **argv)
{
  struct load load = {.client = "load",
                      .class_name = "default",
                      .prompt = "@",
                      .clients = 1,
                      .requests = 1,
                      .outstanding = 16,
                      .deadline_ns = 30000 * NS_PER_MS,
                      .kind = BUS_LLM_CHAT,
                      .options.grace_ns = 2000 * NS_PER_MS};
  parse(&load, argc, argv);
  load.table = calloc(load.requests + 1u, sizeof *load.table);
  load.latency_ns = calloc(load.requests + 1u, sizeof *load.latency_ns);
  load.text = malloc(2 * PROMPT_BYTES);
  if (!load.table || !load.latency_ns || !load.text) {
    fputs("llm_load: out of memory\n", stderr);
    exit(1);
  }
  bus_loop_handle_signals();
  open_clients(&load);
  uint64_t began_ns = bus_clock_monotonic_ns();
  run(&load);
  print(&load, bus_clock_monotonic_ns() - began_ns);
  for (uint32_t i = 0; i < load.clients; i++)
    bus_llm_client_delete(load.open[i]);
  bool failed = load.finals < load.requests || load.twice || load.unknown || load.late ||
                load.text_wrong || load.first_after;
  free(load.table);
  free(load.latency_ns);
  free(load.text);
  return failed;
}
