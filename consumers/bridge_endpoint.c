#include "consumers/bridge_endpoint.h"

#include "shm/options.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_BYTES_MAX 1000u

/* ---- URLs ---- */

static void set_address(struct bus_bridge_backend_config *backend, const struct sockaddr *address,
                        socklen_t size)
{
  memset(&backend->peer.address, 0, sizeof backend->peer.address);
  memcpy(&backend->peer.address, address, size);
  backend->peer.address_bytes = size;
}

/* A numeric address needs nobody to be asked for it. Returns false when `host` is a name. */
static bool set_numeric_address(struct bus_bridge_backend_config *backend, const char *host)
{
  struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons(backend->port)};
  struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = htons(backend->port)};
  backend->peer.address_bytes = 0;
  if (inet_pton(AF_INET, host, &v4.sin_addr) == 1)
    set_address(backend, (const struct sockaddr *)&v4, sizeof v4);
  else if (inet_pton(AF_INET6, host, &v6.sin6_addr) == 1)
    set_address(backend, (const struct sockaddr *)&v6, sizeof v6);
  return backend->peer.address_bytes > 0;
}

static int parse_port(const char *text, struct bus_bridge_backend_config *backend)
{
  int64_t port;
  if (bus_parse_integer(text, 1, 65535, "port", &port) != BUS_OK)
    return bus_error_set(BUS_ERROR_FORMAT, "url: after the host's : belongs a port, 1..65535");
  backend->port = (uint16_t)port;
  return BUS_OK;
}

/* "HOST" or "HOST:PORT" or "[V6]:PORT". */
static int parse_authority(char *text, struct bus_bridge_backend_config *backend)
{
  char *host = text, *after = text + strcspn(text, ":");
  bool bracketed = text[0] == '[';
  if (bracketed) {
    host = text + 1;
    after = strchr(host, ']');
    if (!after)
      return bus_error_set(BUS_ERROR_FORMAT, "url: the ] of the IPv6 address is missing");
    *after++ = 0;
  }
  if (*after && *after != ':')
    return bus_error_set(BUS_ERROR_FORMAT, "url: after ] belongs :PORT or /PATH");
  int error = *after ? parse_port(after + 1, backend) : BUS_OK;
  if (error)
    return error;
  *after = 0;
  bool numeric = set_numeric_address(backend, host);
  size_t length = strlen(host);
  if (bracketed && backend->peer.address.ss_family != AF_INET6)
    return bus_error_set(BUS_ERROR_FORMAT, "url: between [ and ] belongs an IPv6 address");
  if (!length || length >= sizeof backend->peer.server_name ||
      (!numeric && host[strspn(host, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                     "0123456789.-_")]))
    return bus_error_set(BUS_ERROR_FORMAT,
                         "url: the host is a name or an address, up to %zu "
                         "characters, without user or password",
                         sizeof backend->peer.server_name - 1);
  strcpy(backend->peer.server_name, host);
  char port[8] = "";
  if (backend->port != (backend->tls ? 443 : 80))
    snprintf(port, sizeof port, ":%u", backend->port);
  snprintf(backend->host, sizeof backend->host, bracketed ? "[%s]%s" : "%s%s", host, port);
  return BUS_OK;
}

static int parse_path(const char *text, struct bus_bridge_backend_config *backend)
{
  size_t length = strlen(text);
  if (!length) {
    strcpy(backend->path, "/v1");
    return BUS_OK;
  }
  while (length > 0 && text[length - 1] == '/')
    length--;
  for (size_t i = 0; i < length; i++)
    if (text[i] <= ' ' || text[i] > '~' || text[i] == '?' || text[i] == '#')
      return bus_error_set(BUS_ERROR_FORMAT,
                           "url: the path is printable ASCII without blank, ? and #");
  if (length >= sizeof backend->path)
    return bus_error_set(BUS_ERROR_FORMAT, "url: the path is longer than %zu characters",
                         sizeof backend->path - 1);
  memcpy(backend->path, text, length);
  backend->path[length] = 0;
  return BUS_OK;
}

int bus_bridge_url_parse(const char *url, struct bus_bridge_backend_config *backend)
{
  const char *rest;
  if (!strncmp(url, "http://", 7))
    rest = url + 7;
  else if (!strncmp(url, "https://", 8))
    rest = url + 8;
  else
    return bus_error_set(BUS_ERROR_FORMAT, "url: give http://HOST:PORT/v1 or https://HOST/v1");
  backend->tls = rest == url + 8;
  backend->port = backend->tls ? 443 : 80;
  size_t length = strcspn(rest, "/?#");
  char authority[300];
  if (length >= sizeof authority)
    return bus_error_set(BUS_ERROR_FORMAT, "url: host and port are too long");
  memcpy(authority, rest, length);
  authority[length] = 0;
  int error = parse_authority(authority, backend);
  return error ? error : parse_path(rest + length, backend);
}

int bus_bridge_host_resolve(struct bus_bridge_backend_config *backend)
{
  if (backend->peer.address_bytes)
    return BUS_OK;
  struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  struct addrinfo *found = NULL;
  char port[8];
  snprintf(port, sizeof port, "%u", backend->port);
  int error = getaddrinfo(backend->peer.server_name, port, &hints, &found);
  if (error)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "[backend %s]: the host %s is not found: %s; give its address, or put it "
                         "into /etc/hosts",
                         backend->name, backend->peer.server_name, gai_strerror(error));
  set_address(backend, found->ai_addr, found->ai_addrlen);
  freeaddrinfo(found);
  return BUS_OK;
}

/* ---- keys ---- */

static int set_key(struct bus_bridge_backend_config *backend, const char *key, size_t length,
                   const char *from)
{
  if (length < 1 || length > KEY_BYTES_MAX)
    return bus_error_set(BUS_ERROR_INVALID, "[backend %s]: %s holds %s; a key has 1..%u characters",
                         backend->name, from, length ? "too much for a key" : "no key",
                         KEY_BYTES_MAX);
  for (size_t i = 0; i < length; i++)
    if (key[i] <= ' ' || key[i] > '~')
      return bus_error_set(BUS_ERROR_INVALID,
                           "[backend %s]: %s holds a blank, line end or other byte that no key "
                           "has, at %zu; put the key alone there",
                           backend->name, from, i);
  snprintf(backend->authorization, sizeof backend->authorization, "Bearer %.*s", (int)length, key);
  return BUS_OK;
}

/* Whom the open file `fd` lets in. */
static int check_key_file(const struct bus_bridge_backend_config *backend, int fd)
{
  struct stat status;
  const char *path = backend->api_key_file;
  if (fstat(fd, &status) != 0)
    return bus_error_set_errno("[backend %s]: %s", backend->name, path);
  if (!S_ISREG(status.st_mode))
    return bus_error_set(BUS_ERROR_INVALID, "[backend %s]: api_key_file %s is not a regular file",
                         backend->name, path);
  if (status.st_mode & (S_IRWXO | S_IWGRP))
    return bus_error_set(BUS_ERROR_DENIED,
                         "[backend %s]: the key in %s is open to others (mode %04o): chmod o=,g-w "
                         "%s, and take a new key if others were here",
                         backend->name, path, (unsigned)status.st_mode & 07777u, path);
  if (status.st_uid != 0 && status.st_uid != geteuid())
    return bus_error_set(BUS_ERROR_DENIED,
                         "[backend %s]: %s belongs to user %u, who could change the key: it must "
                         "belong to root or to this user, %u",
                         backend->name, path, (unsigned)status.st_uid, (unsigned)geteuid());
  return BUS_OK;
}

static int read_key_file(struct bus_bridge_backend_config *backend)
{
  char key[KEY_BYTES_MAX + 3]; /* one more than is allowed, and a line's end */
  int fd = open(backend->api_key_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (fd < 0)
    return bus_error_set_errno("[backend %s]: opening api_key_file %s", backend->name,
                               backend->api_key_file);
  int error = check_key_file(backend, fd);
  size_t length = 0;
  for (ssize_t got = 1; !error && got > 0 && length < sizeof key;) {
    got = read(fd, key + length, sizeof key - length);
    if (got < 0)
      error = bus_error_set_errno("[backend %s]: reading %s", backend->name, backend->api_key_file);
    else
      length += (size_t)got;
  }
  close(fd);
  while (length > 0 && (key[length - 1] == '\n' || key[length - 1] == '\r'))
    length--;
  if (!error)
    error = set_key(backend, key, length, backend->api_key_file);
  explicit_bzero(key, sizeof key);
  return error;
}

int bus_bridge_key_read(struct bus_bridge_backend_config *backend)
{
  strcpy(backend->authorization, "Bearer none");
  if (backend->api_key_file[0])
    return read_key_file(backend);
  if (!backend->api_key_env[0])
    return BUS_OK;
  const char *key = getenv(backend->api_key_env);
  if (!key)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "[backend %s]: the environment has no %s; set it, or use api_key_file",
                         backend->name, backend->api_key_env);
  return set_key(backend, key, strlen(key), backend->api_key_env);
}

bool bus_bridge_key_is_exposed(const struct bus_bridge_backend_config *backend)
{
  if (backend->tls || !(backend->api_key_file[0] || backend->api_key_env[0]))
    return false;
  const struct sockaddr_in *v4 = (const void *)&backend->peer.address;
  const struct sockaddr_in6 *v6 = (const void *)&backend->peer.address;
  if (backend->peer.address.ss_family == AF_INET)
    return ntohl(v4->sin_addr.s_addr) >> 24 != 127;
  return backend->peer.address.ss_family != AF_INET6 || !IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}
