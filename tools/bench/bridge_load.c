#include "tools/bench/bridge_load.h"

#include "shm/llm_client.h"
#include "shm/neighbour.h"
#include "tools/bench/bench_process.h"
#include "tools/bench/http_load.h"
#include "tools/bench/llm_double.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define OUTSTANDING_MAX 256u
#define READY_NS        10000000000u
#define DEADLINE_NS     10000000000u
#define MAINTAIN_NS     10000000u
#define ANSWER_BYTES    4096u

struct bridge_load {
  struct bus_llm_client *client;
  struct bus_neighbour *bridge;
  uint64_t maintained_ns;
};

static int attach(struct bridge_load *load, const char *directory)
{
  const uint64_t end_ns = bench_now_ns() + READY_NS;
  int error = BUS_ERROR_NOT_READY;
  while (error && bench_now_ns() < end_ns && !bench_stopped()) {
    error = bus_llm_client_maintain(load->client);
    if (!error)
      error = bus_neighbour_attach(directory, "bridge", false, &load->bridge);
    if (error)
      usleep(1000);
  }
  return error ? bus_error_context(error, "waiting for bus-bridge") : BUS_OK;
}

int bridge_load_new(const char *directory, struct bridge_load **result)
{
  const struct bus_llm_client_options options = {.outstanding_max = OUTSTANDING_MAX,
                                                 .request_depth = 2 * OUTSTANDING_MAX,
                                                 .answer_bytes_max = ANSWER_BYTES};
  struct bridge_load *load = calloc(1, sizeof *load);
  *result = load;
  if (!load)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  int error = bus_llm_client_open(directory, "bench", &options, &load->client);
  return error ? error : attach(load, directory);
}

void bridge_load_delete(struct bridge_load *load)
{
  if (!load)
    return;
  bus_neighbour_detach(load->bridge);
  bus_llm_client_delete(load->client);
  free(load);
}

static int ask(struct bridge_load *load)
{
  const uint64_t now_ns = bench_now_ns();
  uint64_t id;
  const struct bus_llm_ask ask = {.kind = BUS_LLM_CHAT,
                                  .flags = BUS_LLM_IDEMPOTENT,
                                  .class_name = "fast",
                                  .text = LOAD_PROMPT,
                                  .text_bytes = (uint32_t)strlen(LOAD_PROMPT),
                                  .tokens_max = LOAD_TOKENS_MAX,
                                  .deadline_ns = now_ns + DEADLINE_NS};
  return bus_llm_client_submit(load->client, &ask, now_ns, &id);
}

static int check(const struct bus_llm_client_reply *reply)
{
  if (reply->header.status == BUS_LLM_OK && reply->header.text_bytes == strlen(LLM_DOUBLE_TEXT) &&
      memcmp(reply->text, LLM_DOUBLE_TEXT, strlen(LLM_DOUBLE_TEXT)) == 0)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_FORMAT, "the bridge answered %s, %u bytes: %.100s",
                       bus_llm_status_name(reply->header.status), reply->header.text_bytes,
                       reply->text ? reply->text : "");
}

int bridge_load_run(struct bridge_load *load, uint32_t outstanding, uint64_t requests,
                    uint64_t interval_ns, struct bus_histogram *latency_ns, uint64_t *took_ns)
{
  struct bus_llm_client_reply reply;
  const uint64_t start_ns = bench_now_ns();
  uint64_t begun = 0, done = 0;
  int error = BUS_OK;
  while (!error && done < requests && !bench_stopped()) {
    while (begun < requests && begun - done < outstanding && (error = ask(load)) == BUS_OK)
      begun++;
    error = error == BUS_ERROR_AGAIN ? BUS_OK : error;
    const uint64_t now_ns = bench_now_ns();
    if (now_ns - load->maintained_ns > MAINTAIN_NS) {
      load->maintained_ns = now_ns;
      bus_llm_client_maintain(load->client);
    }
    if (error || !bus_llm_client_poll(load->client, now_ns, &reply)) {
      sched_yield(); /* the server may have this core */
      continue;
    }
    if (reply.header.kind != BUS_LLM_FINAL)
      continue;
    bus_histogram_record(latency_ns, bench_now_ns() - reply.submitted_ns);
    error = check(&reply);
    done++;
    if (interval_ns) {
      const struct timespec pause = {0, (long)interval_ns};
      nanosleep(&pause, NULL);
    }
  }
  *took_ns = bench_now_ns() - start_ns;
  return error ? error : bench_stop_error();
}

int bridge_load_read(struct bridge_load *load, const char *name, struct bus_histogram *copy)
{
  const struct bus_entry *entry = bus_neighbour_find(load->bridge, BUS_OBJECT_HISTOGRAM, name);
  memset(copy, 0, sizeof *copy);
  if (entry)
    bus_histogram_copy(copy, bus_neighbour_object(load->bridge, entry));
  return entry ? BUS_OK : bus_error_set(BUS_ERROR_ABSENT, "bus-bridge has no histogram '%s'", name);
}
