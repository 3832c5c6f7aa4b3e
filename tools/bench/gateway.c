#include "tools/bench/gateway.h"

#include "tools/bench/bench_process.h"
#include "tools/bench/llm_double.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READY_SECONDS 60u

/* A program to become, in a child. */
struct launch {
  const char *program;
  char *const *arguments;
  const char *log;
};

static int become(void *context)
{
  const struct launch *launch = context;
  alarm(0); /* gateways outlive the repetition that they are started in */
  int log = open(launch->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (log >= 0) {
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
  }
  execvp(launch->program, launch->arguments);
  return bus_error_set_errno("%s", launch->program);
}

/* Found by execvp, without starting it. */
static bool is_program(const char *program)
{
  if (strchr(program, '/'))
    return access(program, X_OK) == 0;
  const char *path = getenv("PATH");
  char list[4096], candidate[4400];
  snprintf(list, sizeof list, "%s:/usr/sbin:/sbin", path ? path : "/usr/bin:/bin");
  for (char *rest = list, *part; (part = strsep(&rest, ":")) != NULL;) {
    snprintf(candidate, sizeof candidate, "%s/%s", part, program);
    if (access(candidate, X_OK) == 0)
      return true;
  }
  return false;
}

static int write_file(const char *path, const char *text)
{
  FILE *file = fopen(path, "w");
  bool written = file && fputs(text, file) >= 0;
  if (file && fclose(file) != 0)
    written = false;
  return written ? BUS_OK : bus_error_set_errno("%s", path);
}

/* A port that was free a moment ago. */
static int free_port(uint16_t *port)
{
  int listener = llm_double_listen(port);
  if (listener >= 0)
    close(listener);
  return listener < 0 ? listener : BUS_OK;
}

static bool port_answers(uint16_t port)
{
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  int probe = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  bool answers =
      probe >= 0 && connect(probe, (const struct sockaddr *)&address, sizeof address) == 0;
  if (probe >= 0)
    close(probe);
  return answers;
}

static int start(const struct gateway_place *place, const struct launch *launch,
                 struct gateway *gateway)
{
  pid_t child = bench_fork(place->core, place->parent_core, become, (void *)(uintptr_t)launch);
  if (child < 0)
    return (int)child;
  gateway->pid = child;
  return BUS_OK;
}

static int wait_for_port(struct gateway *gateway, const char *what, const char *log)
{
  for (uint32_t waited_ms = 0; waited_ms < READY_SECONDS * 1000u && !bench_stopped();
       waited_ms += 20) {
    if (port_answers(gateway->port))
      return BUS_OK;
    if (!bench_child_is_running(&gateway->pid))
      return bus_error_set(BUS_ERROR_IO, "%s ended at once; see %s", what, log);
    usleep(20000);
  }
  gateway_stop(gateway);
  return bench_stopped()
             ? bench_stop_error()
             : bus_error_set(BUS_ERROR_IO, "%s does not listen after %u s", what, READY_SECONDS);
}

static const char nginx_format[] =
    "daemon off;\nmaster_process off;\nworker_processes 1;\npid %s/nginx.pid;\n"
    "error_log stderr error;\nevents { worker_connections 1024; }\n"
    "http {\n  access_log off;\n  keepalive_requests 100000000;\n"
    "  client_body_temp_path %s/body;\n  proxy_temp_path %s/proxy;\n"
    "  fastcgi_temp_path %s/fastcgi;\n  uwsgi_temp_path %s/uwsgi;\n  scgi_temp_path %s/scgi;\n"
    "  upstream server_behind { server 127.0.0.1:%u; keepalive 256;\n"
    "    keepalive_requests 100000000; }\n"
    "  server {\n    listen 127.0.0.1:%u reuseport;\n    location / {\n"
    "      proxy_pass http://server_behind;\n      proxy_http_version 1.1;\n"
    "      proxy_set_header Connection \"\";\n      proxy_buffering off;\n"
    "      proxy_request_buffering off;\n    }\n  }\n}\n";

int gateway_start_nginx(const struct gateway_place *place, const char *program,
                        struct gateway *gateway)
{
  char configuration[512], log[512], prefix[512], text[4096];
  const char *at = place->directory;
  if (!is_program(program))
    return bus_error_set(BUS_ERROR_ABSENT, "no program '%s'", program);
  int error = free_port(&gateway->port);
  snprintf(configuration, sizeof configuration, "%.400s/nginx.conf", at);
  snprintf(log, sizeof log, "%.400s/nginx.log", at);
  snprintf(prefix, sizeof prefix, "%.400s", at);
  snprintf(text, sizeof text, nginx_format, at, at, at, at, at, at, place->server_port,
           gateway->port);
  if (!error)
    error = write_file(configuration, text);
  char *const arguments[] = {(char *)(uintptr_t)program, "-p", prefix, "-c", configuration, NULL};
  const struct launch launch = {program, arguments, log};
  if (!error)
    error = start(place, &launch, gateway);
  return error ? error : wait_for_port(gateway, "nginx", log);
}

static const char litellm_format[] =
    "model_list:\n  - model_name: double\n    litellm_params:\n      model: openai/double\n"
    "      api_base: http://127.0.0.1:%u/v1\n      api_key: none\n"
    "litellm_settings:\n  telemetry: false\n";

int gateway_start_litellm(const struct gateway_place *place, const char *program,
                          struct gateway *gateway)
{
  char configuration[512], log[512], text[1024], port[16];
  if (!is_program(program))
    return bus_error_set(BUS_ERROR_ABSENT, "no program '%s'", program);
  int error = free_port(&gateway->port);
  snprintf(configuration, sizeof configuration, "%.400s/litellm.yaml", place->directory);
  snprintf(log, sizeof log, "%.400s/litellm.log", place->directory);
  snprintf(text, sizeof text, litellm_format, place->server_port);
  snprintf(port, sizeof port, "%u", gateway->port);
  if (!error)
    error = write_file(configuration, text);
  setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True", 1); /* else it asks the network for prices */
  setenv("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true", 1); /* loopback only */
  char *const arguments[] = {(char *)(uintptr_t)program,
                             "--config",
                             configuration,
                             "--host",
                             "127.0.0.1",
                             "--port",
                             port,
                             "--num_workers",
                             "1",
                             NULL};
  const struct launch launch = {program, arguments, log};
  if (!error)
    error = start(place, &launch, gateway);
  return error ? error : wait_for_port(gateway, "LiteLLM", log);
}

static const char bridge_format[] =
    "[bridge]\nclients = bench\nrequests_max = 1024\n\n"
    "[backend double]\nurl = http://127.0.0.1:%u/v1\nconcurrency = 256\nidle_ms = 60000\n\n"
    "[class fast]\nbackends = double\nqueue_max = 512\n";

int gateway_start_bridge(const struct gateway_place *place, const char *program,
                         const char *transport, const char *idle, struct gateway *gateway)
{
  char configuration[512], log[512], core[16], text[1024], bus[512];
  if (!is_program(program))
    return bus_error_set(BUS_ERROR_ABSENT, "no program '%s': build it, or name it with --bridge",
                         program);
  snprintf(configuration, sizeof configuration, "%.400s/bridge.ini", place->directory);
  snprintf(log, sizeof log, "%.400s/bridge.log", place->directory);
  snprintf(bus, sizeof bus, "%.400s", place->directory);
  snprintf(text, sizeof text, bridge_format, place->server_port);
  snprintf(core, sizeof core, "%d", place->core);
  int error = write_file(configuration, text);
  char *const arguments[] = {(char *)(uintptr_t)program,
                             "--config",
                             configuration,
                             "--bus",
                             bus,
                             "--name",
                             "bridge",
                             "--core",
                             core,
                             "--transport",
                             (char *)(uintptr_t)transport,
                             "--idle",
                             (char *)(uintptr_t)idle,
                             NULL};
  const struct launch launch = {program, arguments, log};
  return error ? error : start(place, &launch, gateway);
}

void gateway_stop(struct gateway *gateway)
{
  bench_reap(&gateway->pid, true);
}

void gateway_clean(const struct gateway_place *place)
{
  static const char *const names[] = {"nginx.conf", "nginx.log",    "nginx.pid",  "body",
                                      "proxy",      "fastcgi",      "uwsgi",      "scgi",
                                      "bridge.ini", "litellm.yaml", "bridge.log", "litellm.log"};
  for (size_t i = 0; i < BUS_COUNT_OF(names); i++) {
    char path[512];
    snprintf(path, sizeof path, "%.400s/%s", place->directory, names[i]);
    if (unlink(path) != 0 && errno == EISDIR)
      rmdir(path);
  }
}
