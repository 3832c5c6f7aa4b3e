/* Any bytes as the bridge's configuration. What is accepted must obey the limits of the header. */
#include "consumers/bridge_config.h"

#include "shm/layout.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool condition)
{
  if (!condition)
    abort();
}

static bool ends(const char *text, size_t size)
{
  return memchr(text, 0, size) != NULL;
}

static void check_backend(const struct bus_bridge_backend_config *backend)
{
  demand(strlen(backend->name) >= 1 && strlen(backend->name) <= BUS_BRIDGE_NAME_MAX);
  demand(ends(backend->host, sizeof backend->host) && backend->host[0]);
  demand(ends(backend->peer.server_name, sizeof backend->peer.server_name));
  demand(ends(backend->path, sizeof backend->path));
  demand(!backend->path[0] || backend->path[0] == '/');
  demand(ends(backend->model, sizeof backend->model));
  demand(ends(backend->ca_file, sizeof backend->ca_file));
  demand(!strcmp(backend->authorization, "Bearer none"));
  demand(backend->port >= 1 && backend->flavor <= BUS_LLM_FLAVOR_OLLAMA);
  demand(backend->urgent_reserve < backend->concurrency);
  demand(backend->prefill_tokens_per_s >= 0 && backend->decode_tokens_per_s >= 0);
  demand(backend->peer.connect_timeout_ns > 0 && backend->failures_to_open >= 1);
  demand(backend->open_ns >= 1 && backend->open_ns <= backend->open_ns_max);
  for (const char *at = backend->host; *at; at++)
    demand(*at > ' ' && *at <= '~');
  for (const char *at = backend->path; *at; at++)
    demand(*at > ' ' && *at <= '~');
}

static void check_class(const struct bus_bridge_config *config,
                        const struct bus_bridge_class_config *class)
{
  demand(strlen(class->name) >= 1 && strlen(class->name) <= BUS_BRIDGE_NAME_MAX);
  demand(class->backend_count >= 1 && class->backend_count <= config->backend_count);
  for (uint32_t i = 0; i < class->backend_count; i++)
    demand(class->backends[i].backend < config->backend_count && class->backends[i].weight >= 1);
  demand(class->hedge_percent <= 100);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static struct bus_bridge_config config;
  /* A copy of its own size: reading beyond it is seen. */
  char *text = malloc(size ? size : 1);
  demand(text != NULL);
  if (size)
    memcpy(text, data, size);
  if (bus_bridge_config_parse(text, size, &config) == BUS_OK) {
    demand(config.client_count >= 1 && config.client_count <= BUS_BRIDGE_CLIENTS_MAX);
    demand(config.backend_count >= 1 && config.backend_count <= BUS_BRIDGE_BACKENDS_MAX);
    demand(config.class_count >= 1 && config.class_count <= BUS_BRIDGE_CLASSES_MAX);
    demand(config.record_bytes >= 192 && config.record_bytes % 64 == 0);
    demand((config.reply_depth & (config.reply_depth - 1)) == 0 && config.reply_depth >= 4);
    demand(config.requests_max >= 2 && config.request_bytes_max && config.answer_bytes_max);
    for (uint32_t i = 0; i < config.client_count; i++)
      demand(bus_layout_name_is_valid(config.clients[i]));
    for (uint32_t i = 0; i < config.backend_count; i++)
      check_backend(&config.backends[i]);
    for (uint32_t i = 0; i < config.class_count; i++)
      check_class(&config, &config.classes[i]);
  } else {
    demand(!strncmp(bus_error_message(), "line ", 5));
  }
  free(text);
  return 0;
}
