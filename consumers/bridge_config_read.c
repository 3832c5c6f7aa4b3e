/* What a configuration is read from: its file, the key files, the names of hosts. */
#include "consumers/bridge_endpoint.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int read_text(const char *path, char *text, size_t *length)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return bus_error_set_errno("%s: opening the configuration", path);
  ssize_t got = 1;
  while (got > 0 && *length <= BUS_BRIDGE_CONFIG_BYTES_MAX) {
    got = read(fd, text + *length, BUS_BRIDGE_CONFIG_BYTES_MAX + 1 - *length);
    if (got > 0)
      *length += (size_t)got;
  }
  int error = got < 0 ? bus_error_set_errno("%s: reading the configuration", path) : BUS_OK;
  close(fd);
  return error;
}

int bus_bridge_config_read(const char *path, struct bus_bridge_config *config)
{
  char *text = malloc(BUS_BRIDGE_CONFIG_BYTES_MAX + 1);
  if (!text)
    return bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", path);
  size_t length = 0;
  int error = read_text(path, text, &length);
  if (error) {
    free(text);
    return error;
  }
  error = bus_bridge_config_parse(text, length, config);
  free(text);
  for (uint32_t i = 0; !error && i < config->backend_count; i++) {
    error = bus_bridge_key_read(&config->backends[i]);
    if (!error)
      error = bus_bridge_host_resolve(&config->backends[i]);
  }
  return error ? bus_error_context(error, "%s", path) : BUS_OK;
}
