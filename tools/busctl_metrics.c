#include "tools/busctl_view_json.h"
#include "tools/metrics_server.h"
#include "tools/metrics_text.h"

#include "shm/clock.h"
#include "shm/options.h"

#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: signal-busctl metrics [--bus DIR] [--listen ADDRESS:PORT] [--interval-ms MS]\n"
    "\n"
    "Serves the figures of the bus over HTTP: /metrics for Prometheus, / is a page with live\n"
    "charts, /api/snapshot.json is what top --json prints, /healthz. Maps everything read-only.\n"
    "\n"
    "  --bus DIR              the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --listen ADDRESS:PORT  where; default 127.0.0.1:9480, which only this machine reaches.\n"
    "                         There is no password. Port 0: any that is free\n"
    "  --interval-ms MS       between two looks at the bus, 100..60000; default 1000\n"
    "  --help                 this text\n"
    "\n"
    "Goes on while the bus is gone, and says so. Ends on SIGINT or SIGTERM.\n"
    "Exit status: 0 ended, 1 failed, 2 usage.\n";

#define NS_PER_MS 1000000u

struct metrics {
  char directory[256];
  char shown[256]; /* the same, sanitised */
  struct busctl_scan scan;
  bool open;  /* the scan */
  bool known; /* the bus could be read last time */
  struct busctl_sample before;
  struct busctl_sample now;
  char health[1200];
  /* Made from them when somebody asks, once. */
  char *text;
  char *snapshot;
};

static void forget_answers(struct metrics *metrics)
{
  free(metrics->text);
  free(metrics->snapshot);
  metrics->text = metrics->snapshot = NULL;
}

static int read_bus(struct metrics *metrics, struct busctl_sample *sample)
{
  int error = metrics->open ? busctl_scan_refresh(&metrics->scan)
                            : busctl_scan_open(&metrics->scan, metrics->directory);
  metrics->open = metrics->open || !error;
  return error ? error : busctl_sample_take(sample, &metrics->scan);
}

static void judge(struct metrics *metrics)
{
  size_t members = 0, alive = 0;
  for (size_t i = 0; i < metrics->now.member_count; i++) {
    members += metrics->now.members[i].attached;
    alive +=
        metrics->now.members[i].attached && metrics->now.members[i].status == BUS_NEIGHBOUR_ALIVE;
  }
  snprintf(metrics->health, sizeof metrics->health, "ok: %zu members, %zu alive\n", members, alive);
}

/* Looks at the bus again. Says on standard error when that begins to fail, and when it goes again.
 */
static void look(struct metrics *metrics)
{
  struct busctl_sample next = {0};
  char reason[1024];
  bool was_known = metrics->known;
  int error = read_bus(metrics, &next);
  forget_answers(metrics);
  metrics->known = !error;
  if (error) {
    busctl_sanitise(reason, sizeof reason, bus_error_message(), sizeof reason);
    snprintf(metrics->health, sizeof metrics->health, "failed: %s\n", reason);
    if (was_known || metrics->now.taken_ns == 0)
      fprintf(stderr, "signal-busctl metrics: %s\n", reason);
    metrics->now.taken_ns = bus_clock_monotonic_ns();
    return;
  }
  if (!was_known && metrics->now.taken_ns) {
    fprintf(stderr, "signal-busctl metrics: %s: can be read again\n", metrics->shown);
    busctl_sample_free(&metrics->now);
  }
  busctl_sample_free(&metrics->before);
  metrics->before = metrics->now;
  metrics->now = next;
  judge(metrics);
}

static char *make_text(const struct metrics *metrics)
{
  char *text = NULL;
  size_t bytes = 0;
  FILE *file = open_memstream(&text, &bytes);
  if (!file)
    return NULL;
  metrics_text_write(file, metrics->shown, metrics->known ? &metrics->now : NULL,
                     bus_clock_monotonic_ns() - metrics->now.taken_ns);
  if (fclose(file) == 0)
    return text;
  free(text);
  return NULL;
}

static char *make_snapshot(const struct metrics *metrics)
{
  struct busctl_view view;
  json_t *object = NULL;
  if (!metrics->known) {
    object = json_object();
    busctl_json_string(object, "error", metrics->health, sizeof metrics->health);
  } else if (busctl_view_make(&view, &metrics->now,
                              metrics->before.taken_ns ? &metrics->before : &metrics->now) ==
             BUS_OK) {
    object = busctl_view_json(&view);
    busctl_view_free(&view);
  }
  char *text = json_dumps(object, JSON_COMPACT);
  json_decref(object);
  return text;
}

static void provide(void *context, struct metrics_answers *answers)
{
  struct metrics *metrics = context;
  if (!metrics->text)
    metrics->text = make_text(metrics);
  if (!metrics->snapshot)
    metrics->snapshot = make_snapshot(metrics);
  answers->metrics = metrics->text ? metrics->text : "";
  answers->snapshot = metrics->snapshot ? metrics->snapshot : "";
  answers->health = metrics->health;
  answers->healthy = metrics->known;
}

static int serve(struct metrics *metrics, struct metrics_server *server, int64_t interval_ms)
{
  int error = BUS_OK;
  while (!error && !bus_loop_stop_requested()) {
    uint64_t now_ns = bus_clock_monotonic_ns();
    uint64_t due_ns = metrics->now.taken_ns + (uint64_t)interval_ms * NS_PER_MS;
    if (now_ns >= due_ns) {
      look(metrics);
      continue;
    }
    /* A short wait: a signal may come just before it. */
    uint64_t rest_ms = (due_ns - now_ns) / NS_PER_MS + 1;
    error = metrics_server_run(server, rest_ms < 100 ? (int)rest_ms : 100);
  }
  return error;
}

static int metrics_main(const char *directory, struct metrics_address *address, int64_t interval_ms)
{
  struct metrics metrics = {0};
  struct metrics_server *server;
  if (!directory)
    directory = bus_directory_default();
  if (strlen(directory) >= sizeof metrics.directory) {
    bus_error_set(BUS_ERROR_INVALID, "the bus directory's name is longer than %zu bytes",
                  sizeof metrics.directory - 1);
    return busctl_fail("metrics");
  }
  strcpy(metrics.directory, directory);
  busctl_sanitise(metrics.shown, sizeof metrics.shown, directory, strlen(directory));
  bus_loop_handle_signals();
  signal(SIGPIPE, SIG_IGN);
  if (metrics_server_open(&server, address, provide, &metrics) != BUS_OK)
    return busctl_fail("metrics");
  if (!address->loopback)
    fprintf(stderr,
            "signal-busctl metrics: whoever reaches %s can read the figures of the bus; there is "
            "no password\n",
            address->text);
  look(&metrics);
  printf("bus %s: http://%s/ and http://%s/metrics\n", metrics.shown, address->text, address->text);
  fflush(stdout);
  int status = serve(&metrics, server, interval_ms) == BUS_OK ? BUSCTL_OK : busctl_fail("metrics");
  metrics_server_close(server);
  forget_answers(&metrics);
  busctl_sample_free(&metrics.before);
  busctl_sample_free(&metrics.now);
  if (metrics.open)
    busctl_scan_close(&metrics.scan);
  return status;
}

int busctl_metrics(int argc, char **argv)
{
  enum { LISTEN = BUSCTL_OPTION_OWN, INTERVAL };
  static const struct option options[] = {{"listen", required_argument, NULL, LISTEN},
                                          {"interval-ms", required_argument, NULL, INTERVAL},
                                          BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {
      .argc = argc, .argv = argv, .verb = "metrics", .help = help, .options = options};
  struct metrics_address address;
  int64_t interval_ms = 1000;
  metrics_address_parse("127.0.0.1:9480", &address);
  for (int option; (option = busctl_line_next(&line)) != 0;) {
    int error = option == LISTEN
                    ? metrics_address_parse(optarg, &address)
                    : bus_parse_integer(optarg, 100, 60000, "--interval-ms", &interval_ms);
    if (error)
      busctl_line_refuse(&line);
  }
  return line.ended ? line.status : metrics_main(line.directory, &address, interval_ms);
}
