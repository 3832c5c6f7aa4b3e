#include "consumers/transport_parts.h"

#include "shm/clock.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INDEX_BITS 16u
#define INDEX_MASK ((1u << INDEX_BITS) - 1u)
#define OPEN       (1u << 31) /* never in a handle: the caller's are 0..2^31-1 */
#define NOWHERE    UINT32_MAX

/* A host that does not answer is given up after 60 s of silence. Answers have deadlines of their
 * own; this is for connections that are kept for the next request. */
#define KEEPALIVE_IDLE_S     30
#define KEEPALIVE_INTERVAL_S 10
#define KEEPALIVE_PROBES     3

int bus_transport_slots_init(struct bus_transport_slots *slots, uint32_t open_max, uint32_t spare)
{
  if (open_max == 0 || open_max > BUS_TRANSPORT_CONNECTIONS_MAX)
    return bus_error_set(BUS_ERROR_INVALID,
                         "a transport for %u connections: give a number from 1 to %u", open_max,
                         BUS_TRANSPORT_CONNECTIONS_MAX);
  const uint32_t spare_max = BUS_TRANSPORT_CONNECTIONS_MAX - open_max;
  const uint32_t capacity = open_max + (spare < spare_max ? spare : spare_max);
  *slots = (struct bus_transport_slots){
      .open_max = open_max,
      .capacity = capacity,
      .free_count = capacity,
      .free_queue = malloc(capacity * sizeof *slots->free_queue),
      .handles = malloc(capacity * sizeof *slots->handles),
  };
  if (!slots->free_queue || !slots->handles) {
    bus_transport_slots_free(slots);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory for %u connections", capacity);
  }
  for (uint32_t i = 0; i < capacity; i++)
    slots->free_queue[i] = slots->handles[i] = i;
  return BUS_OK;
}

void bus_transport_slots_free(struct bus_transport_slots *slots)
{
  free(slots->free_queue);
  free(slots->handles);
  memset(slots, 0, sizeof *slots);
}

int bus_transport_slots_take(struct bus_transport_slots *slots)
{
  if (slots->open_count == slots->open_max || slots->free_count == 0)
    return bus_error_set(BUS_ERROR_NO_SPACE,
                         "of %u connections %u are in use and %u being closed: close some, poll, "
                         "or configure more",
                         slots->open_max, slots->open_count,
                         slots->capacity - slots->free_count - slots->open_count);
  const uint32_t index = slots->free_queue[slots->free_first];
  slots->free_first = (slots->free_first + 1) % slots->capacity;
  slots->free_count--;
  slots->open_count++;
  const uint32_t handle = slots->handles[index];
  slots->handles[index] = handle | OPEN;
  return (int)handle;
}

int bus_transport_slots_find(const struct bus_transport_slots *slots, uint32_t handle)
{
  const uint32_t index = handle & INDEX_MASK;
  if (handle & OPEN || index >= slots->capacity || slots->handles[index] != (handle | OPEN))
    return -1;
  return (int)index;
}

uint32_t bus_transport_slots_handle(const struct bus_transport_slots *slots, uint32_t index)
{
  return slots->handles[index] & ~OPEN;
}

void bus_transport_slots_retire(struct bus_transport_slots *slots, uint32_t index)
{
  const uint32_t handle = slots->handles[index] & ~OPEN;
  slots->handles[index] = (handle + (1u << INDEX_BITS)) & ~OPEN;
  slots->open_count--;
}

void bus_transport_slots_give(struct bus_transport_slots *slots, uint32_t index)
{
  const uint32_t last = (slots->free_first + slots->free_count) % slots->capacity;
  slots->free_queue[last] = index;
  slots->free_count++;
}

int bus_transport_timers_init(struct bus_transport_timers *timers, uint32_t capacity)
{
  *timers = (struct bus_transport_timers){
      .capacity = capacity,
      .earliest_ns = UINT64_MAX,
      .indices = malloc(capacity * sizeof *timers->indices),
      .places = malloc(capacity * sizeof *timers->places),
      .due_ns = malloc(capacity * sizeof *timers->due_ns),
  };
  if (!timers->indices || !timers->places || !timers->due_ns) {
    bus_transport_timers_free(timers);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory for %u connections", capacity);
  }
  for (uint32_t i = 0; i < capacity; i++)
    timers->places[i] = NOWHERE;
  return BUS_OK;
}

void bus_transport_timers_free(struct bus_transport_timers *timers)
{
  free(timers->indices);
  free(timers->places);
  free(timers->due_ns);
  memset(timers, 0, sizeof *timers);
}

void bus_transport_timers_set(struct bus_transport_timers *timers, uint32_t index, uint64_t due_ns)
{
  if (timers->places[index] == NOWHERE) {
    timers->places[index] = timers->count;
    timers->indices[timers->count++] = index;
  }
  timers->due_ns[index] = due_ns;
  if (due_ns < timers->earliest_ns)
    timers->earliest_ns = due_ns;
}

void bus_transport_timers_clear(struct bus_transport_timers *timers, uint32_t index)
{
  const uint32_t place = timers->places[index];
  if (place == NOWHERE)
    return;
  const uint32_t last = timers->indices[--timers->count];
  timers->indices[place] = last;
  timers->places[last] = place;
  timers->places[index] = NOWHERE;
  if (timers->count == 0)
    timers->earliest_ns = UINT64_MAX;
}

int bus_transport_timers_take(struct bus_transport_timers *timers, uint64_t now_ns)
{
  if (now_ns < timers->earliest_ns)
    return -1;
  uint64_t earliest_ns = UINT64_MAX;
  for (uint32_t i = 0; i < timers->count; i++) {
    const uint32_t index = timers->indices[i];
    if (timers->due_ns[index] <= now_ns) {
      bus_transport_timers_clear(timers, index);
      return (int)index;
    }
    if (timers->due_ns[index] < earliest_ns)
      earliest_ns = timers->due_ns[index];
  }
  timers->earliest_ns = earliest_ns;
  return -1;
}

uint64_t bus_transport_timers_wait_ns(const struct bus_transport_timers *timers, uint64_t wait_ns)
{
  if (wait_ns == 0 || timers->count == 0)
    return wait_ns;
  const uint64_t now_ns = bus_clock_monotonic_ns();
  const uint64_t left_ns = timers->earliest_ns > now_ns ? timers->earliest_ns - now_ns : 0;
  return left_ns < wait_ns ? left_ns : wait_ns;
}

uint64_t bus_transport_due_ns(uint64_t timeout_ns)
{
  const uint64_t now_ns = bus_clock_monotonic_ns();
  return timeout_ns < UINT64_MAX - now_ns ? now_ns + timeout_ns : UINT64_MAX;
}

static void set_option(int fd, int level, int name, int value)
{
  /* A kernel that refuses one of these still makes a connection that works. */
  (void)setsockopt(fd, level, name, &value, sizeof value);
}

int bus_transport_socket(const struct bus_transport_peer *peer, int flags)
{
  if (peer->tls)
    return bus_error_set(BUS_ERROR_UNSUPPORTED,
                         "%s is to be reached by TLS, and this transport sends in the clear: wrap "
                         "it with bus_transport_tls_new",
                         peer->server_name);
  const int family = peer->address.ss_family;
  const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
  if (fd < 0)
    return bus_error_set_errno("socket of address family %d", family);
  if (family == AF_INET || family == AF_INET6) {
    /* To close is to abort: a server sees at its next write that nobody wants the answer, where it
     * would take another one to find that out of an orderly end, and nothing lingers behind a
     * server that does not read. */
    const struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_PROBES);
  }
  return fd;
}
