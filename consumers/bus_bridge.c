/* bus-bridge: questions of the bus's members to language models, and their answers. */
#include "consumers/bridge_member.h"
#include "consumers/bridge_probe.h"
#include "consumers/bridge_transport.h"
#include "shm/log.h"
#include "shm/notify.h"

#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

static const char help[] =
    "bus-bridge: carries questions of members to language models, and brings the answers back\n"
    "\n"
    "usage: bus-bridge [--config FILE] [options]\n"
    "       bus-bridge [--config FILE] --check [--probe]\n"
    "\n"
    "  --config FILE       servers, classes, clients (default " BUS_DEFAULT_BRIDGE_CONFIG ")\n"
    "  --transport KIND    auto (default: io_uring where the kernel allows it), io_uring, epoll\n"
    "  --check             read the configuration, key files and host names, print what comes of\n"
    "                      it, and end; no keys are printed\n"
    "  --probe             with --check: ask each server for one token and time it\n"
    "member\n" BUS_MEMBER_OPTIONS_HELP "other\n"
    "  --help, --version\n"
    "\n"
    "exit status: 0 stopped, or --check found nothing wrong; 1 failed, or a server did not answer\n"
    "the probe; 2 usage\n";

enum {
  OPTION_CONFIG = 1,
  OPTION_TRANSPORT,
  OPTION_CHECK,
  OPTION_PROBE,
  OPTION_HELP,
  OPTION_VERSION
};

static const struct option options[] = {BUS_MEMBER_OPTIONS,
                                        {"config", required_argument, NULL, OPTION_CONFIG},
                                        {"transport", required_argument, NULL, OPTION_TRANSPORT},
                                        {"check", no_argument, NULL, OPTION_CHECK},
                                        {"probe", no_argument, NULL, OPTION_PROBE},
                                        {"help", no_argument, NULL, OPTION_HELP},
                                        {"version", no_argument, NULL, OPTION_VERSION},
                                        {NULL, 0, NULL, 0}};

struct program {
  struct bus_bridge_options bridge;
  const char *config_path;
  bool check;
  bool probe;
};

static int take_option(struct program *program, int option, const char *value)
{
  switch (option) {
  case OPTION_CONFIG:
    program->config_path = value;
    return BUS_OK;
  case OPTION_TRANSPORT:
    program->bridge.transport = value;
    return BUS_OK;
  case OPTION_CHECK:
    program->check = true;
    return BUS_OK;
  case OPTION_PROBE:
    program->probe = true;
    return BUS_OK;
  default:
    return bus_error_set(BUS_ERROR_INVALID, "see --help");
  }
}

/* 0: go on; 1: done (help, version); negative: wrong usage. */
static int parse(struct program *program, int argc, char **argv)
{
  int option;
  while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
    if (option == OPTION_HELP || option == OPTION_VERSION) {
      fputs(option == OPTION_HELP ? help : "bus-bridge (signal-bus) " BUS_VERSION "\n", stdout);
      return 1;
    }
    int taken = bus_member_options_take(&program->bridge.member, option, optarg);
    if (taken == 0)
      taken = take_option(program, option, optarg);
    if (taken < 0)
      return taken;
  }
  if (optind < argc)
    return bus_error_set(BUS_ERROR_INVALID, "unexpected argument '%s'; see --help", argv[optind]);
  if (program->probe && !program->check)
    return bus_error_set(BUS_ERROR_INVALID, "--probe goes with --check");
  return 0;
}

/* ---- --check ---- */

static double ms(uint64_t duration_ns)
{
  return (double)duration_ns / 1e6;
}

static int probe_server(struct bus_transport *transport,
                        const struct bus_bridge_backend_config *backend, bool *answered)
{
  struct bus_bridge_probe probe;
  int error = bus_bridge_probe(transport, backend, &probe);
  *answered = !error && probe.answered;
  if (error)
    return error;
  if (probe.answered)
    printf("probe %s: answered '%s': connected in %.2f ms, first token %.2f ms later, whole after "
           "%.2f ms\n",
           backend->name, probe.text, ms(probe.connect_ns), ms(probe.first_token_ns),
           ms(probe.total_ns));
  else
    printf("probe %s: FAILED after %.2f ms: %s\n", backend->name, ms(probe.total_ns), probe.reason);
  fflush(stdout);
  return BUS_OK;
}

static int probe_all(const struct program *program, struct bus_bridge_config *config)
{
  struct bus_bridge_transport transport;
  uint32_t failed = 0;
  int error = bus_bridge_transport_open(&transport, program->bridge.transport,
                                        config->backend_count, config);
  if (error)
    return error;
  char text[512];
  bus_bridge_transport_print(&transport, text, sizeof text);
  fputs(text, stdout);
  for (uint32_t i = 0; i < config->backend_count && !error; i++) {
    bool answered;
    error = probe_server(transport.transport, &config->backends[i], &answered);
    failed += !answered;
  }
  bus_bridge_transport_close(&transport);
  if (!error && failed)
    error = bus_error_set(BUS_ERROR_ABSENT, "%u of %u servers did not answer", failed,
                          config->backend_count);
  return error;
}

static int check(const struct program *program, struct bus_bridge_config *config)
{
  static char text[16384];
  bus_bridge_config_print(config, text, sizeof text);
  fputs(text, stdout);
  return program->probe ? probe_all(program, config) : BUS_OK;
}

/* ---- the member ---- */

/* A dump of a process that holds keys would hold them too. */
static void forbid_core_dumps(const struct bus_bridge_config *config)
{
  for (uint32_t i = 0; i < config->backend_count; i++)
    if (config->backends[i].api_key_file[0] || config->backends[i].api_key_env[0])
      prctl(PR_SET_DUMPABLE, 0);
}

/* A line of the log for each line of the description. */
static void log_description(const char *text)
{
  while (*text) {
    size_t length = strcspn(text, "\n");
    bus_log(BUS_LOG_INFO, "bus-bridge: %.*s", (int)length, text);
    text += length + (text[length] != 0);
  }
}

static int serve(const struct program *program)
{
  bus_loop_handle_signals();
  if (bus_notify_open() != BUS_OK)
    bus_log(BUS_LOG_WARNING, "bus-bridge: %s", bus_error_message());
  struct bus_bridge *bridge;
  int error = bus_bridge_new(&program->bridge, &bridge);
  if (error)
    return error;
  log_description(bus_bridge_describe(bridge));
  error = bus_bridge_run(bridge);
  bus_bridge_delete(bridge);
  return error;
}

int main(int argc, char **argv)
{
  struct program program = {.config_path = BUS_DEFAULT_BRIDGE_CONFIG, .bridge.transport = "auto"};
  bus_member_options_init(&program.bridge.member, "bridge");
  int parsed = parse(&program, argc, argv);
  if (parsed != 0) {
    if (parsed < 0)
      bus_log(BUS_LOG_ERROR, "bus-bridge: %s", bus_error_message());
    return parsed < 0 ? 2 : 0;
  }
  static struct bus_bridge_config config; /* it is large */
  int error = bus_bridge_config_read(program.config_path, &config);
  program.bridge.config = &config;
  forbid_core_dumps(&config);
  if (!error)
    error = program.check ? check(&program, &config) : serve(&program);
  if (error)
    bus_log(BUS_LOG_ERROR, "bus-bridge: %s", bus_error_message());
  explicit_bzero(&config, sizeof config); /* it holds keys */
  return error ? 1 : 0;
}
