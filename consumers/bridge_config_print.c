#include "consumers/bridge_endpoint.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS 1000000u

struct printer {
  char *text;
  size_t size;
  size_t length; /* of what was printed, cut or not */
};

static void print(struct printer *printer, const char *format, ...) BUS_PRINTF(2, 3);

static void print(struct printer *printer, const char *format, ...)
{
  size_t at = printer->length < printer->size ? printer->length : printer->size;
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(printer->text + at, printer->size - at, format, arguments);
  va_end(arguments);
  printer->length += length > 0 ? (size_t)length : 0;
}

/* A limit in ms; 0 means that there is none. */
static void print_limit(struct printer *printer, const char *name, uint64_t limit_ns)
{
  if (limit_ns)
    print(printer, ", %s %" PRIu64 " ms", name, limit_ns / NS_PER_MS);
}

static void print_backend(struct printer *printer, const struct bus_bridge_backend_config *backend)
{
  print(printer, "server %s: http%s://%s%s, %s", backend->name, backend->tls ? "s" : "",
        backend->host, backend->path, bus_llm_flavor_name(backend->flavor));
  if (backend->model[0])
    print(printer, ", model %s", backend->model);
  print(printer, ", %u at a time", backend->concurrency);
  if (backend->urgent_reserve)
    print(printer, " (%u for urgent ones)", backend->urgent_reserve);
  if (backend->tokens_in_flight_max)
    print(printer, ", %u tokens in flight", backend->tokens_in_flight_max);
  if (backend->prefill_tokens_per_s > 0 || backend->decode_tokens_per_s > 0)
    print(printer, ", prefill %g and decode %g tokens/s", backend->prefill_tokens_per_s,
          backend->decode_tokens_per_s);
  print_limit(printer, "connect", backend->peer.connect_timeout_ns);
  print_limit(printer, "first token", backend->first_token_timeout_ns);
  print_limit(printer, "token", backend->token_timeout_ns);
  print_limit(printer, "total", backend->total_timeout_ns);
  print_limit(printer, "idle", backend->idle_ns);
  print_limit(printer, "canary every", backend->canary_interval_ns);
  if (backend->api_key_file[0])
    print(printer, ", key from %s", backend->api_key_file);
  else if (backend->api_key_env[0])
    print(printer, ", key from $%s", backend->api_key_env);
  else
    print(printer, ", no key");
  if (bus_bridge_key_is_exposed(backend))
    print(printer, " (CROSSES THE NETWORK UNENCRYPTED)");
  print(printer, "\n");
}

static void print_class(struct printer *printer, const struct bus_bridge_config *config,
                        const struct bus_bridge_class_config *class)
{
  uint32_t weights = 0;
  print(printer, "class %s:", class->name);
  for (uint32_t i = 0; i < class->backend_count; i++)
    weights += class->backends[i].weight;
  for (uint32_t i = 0; i < class->backend_count; i++)
    print(printer, "%s %s %.0f %%", i ? "," : "", config->backends[class->backends[i].backend].name,
          100.0 * class->backends[i].weight / weights);
  print(printer, "; queue %u", class->queue_max);
  if (class->tokens_max)
    print(printer, ", %u tokens at most", class->tokens_max);
  print(printer, ", %u retr%s", class->retries_max, class->retries_max == 1 ? "y" : "ies");
  if (class->hedge_after_ns)
    print(printer, ", a second server after %" PRIu64 " ms for at most %u %%",
          class->hedge_after_ns / NS_PER_MS, class->hedge_percent);
  print(printer, "\n");
}

void bus_bridge_config_print(const struct bus_bridge_config *config, char *text, size_t size)
{
  struct printer printer = {text, size, 0};
  if (size)
    text[0] = 0;
  for (uint32_t i = 0; i < config->backend_count; i++)
    print_backend(&printer, &config->backends[i]);
  for (uint32_t i = 0; i < config->class_count; i++)
    print_class(&printer, config, &config->classes[i]);
  print(&printer, "clients:");
  for (uint32_t i = 0; i < config->client_count; i++)
    print(&printer, "%s %s", i ? "," : "", config->clients[i]);
  print(&printer, "; %u requests at a time, of up to %u bytes, answers of up to %u bytes\n",
        config->requests_max, config->request_bytes_max, config->answer_bytes_max);
}
