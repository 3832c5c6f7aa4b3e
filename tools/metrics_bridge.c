#include "tools/metrics_bridge.h"

#include "tools/bridge_view.h"

#include <inttypes.h>

/* A family of metrics, each a figure of a server or class. */
struct family {
  const char *name;
  const char *type;
  const char *help;
  size_t offsets[4]; /* of the items in the struct; 0 ends them */
  const char *outcomes[4];
};

static const struct family server_families[] = {
    {"signalbus_llm_server_breaker",
     "gauge",
     "0: requests go to the server. 1: it failed, and is left alone. 2: it is tried.",
     {offsetof(struct bridge_server, breaker)},
     {NULL}},
    {"signalbus_llm_server_in_flight_requests",
     "gauge",
     "Requests that the server is working on.",
     {offsetof(struct bridge_server, in_flight)},
     {NULL}},
    {"signalbus_llm_server_tokens_total",
     "counter",
     "Tokens of the server's answers.",
     {offsetof(struct bridge_server, tokens)},
     {NULL}},
    {"signalbus_llm_server_attempts_total",
     "counter",
     "Attempts on the server that have ended; timed_out ones are among the failed.",
     {offsetof(struct bridge_server, succeeded), offsetof(struct bridge_server, failed),
      offsetof(struct bridge_server, timed_out), offsetof(struct bridge_server, abandoned)},
     {"succeeded", "failed", "timed_out", "abandoned"}},
};

static const struct family class_families[] = {
    {"signalbus_llm_class_waiting_requests",
     "gauge",
     "Requests of the class that wait for a server.",
     {offsetof(struct bridge_class, waiting)},
     {NULL}},
    {"signalbus_llm_class_requests_total",
     "counter",
     "Requests of the class that were let in, or not.",
     {offsetof(struct bridge_class, accepted), offsetof(struct bridge_class, rejected)},
     {"accepted", "rejected"}},
};

/* Names of members, servers and classes have no character that a label must escape. */
static void write_group(FILE *file, const struct family *family, const char *label,
                        const char *member, const char *name, const void *group)
{
  for (size_t i = 0; i < BUS_COUNT_OF(family->offsets) && family->offsets[i]; i++) {
    const struct busctl_item *const *item =
        (const void *)((const char *)group + family->offsets[i]);
    fprintf(file, "%s{member=\"%s\",%s=\"%s\"", family->name, member, label, name);
    if (family->outcomes[i])
      fprintf(file, ",outcome=\"%s\"", family->outcomes[i]);
    fprintf(file, "} %" PRIu64 "\n", (*item)->counter);
  }
}

static void begin(FILE *file, const struct family *family)
{
  fprintf(file, "# HELP %s %s\n# TYPE %s %s\n", family->name, family->help, family->name,
          family->type);
}

void metrics_bridge_write(FILE *file, const struct busctl_sample *sample)
{
  struct bridge_server server;
  struct bridge_class class;
  size_t at = 0;
  if (!bridge_next_server(sample, &at, &server))
    return;
  for (size_t i = 0; i < BUS_COUNT_OF(server_families); i++) {
    begin(file, &server_families[i]);
    for (at = 0; bridge_next_server(sample, &at, &server);)
      write_group(file, &server_families[i], "server", server.member->name, server.name, &server);
  }
  for (size_t i = 0; i < BUS_COUNT_OF(class_families); i++) {
    begin(file, &class_families[i]);
    for (at = 0; bridge_next_class(sample, &at, &class);)
      write_group(file, &class_families[i], "class", class.member->name, class.name, &class);
  }
}
