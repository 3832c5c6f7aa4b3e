#include "consumers/bridge_backend.h"

#include "consumers/bridge_random.h"

#include <stdio.h>
#include <string.h>

void bus_bridge_backend_init(struct bus_bridge_backend *backend,
                             const struct bus_bridge_backend_config *config, uint64_t random_seed,
                             uint64_t now_ns)
{
  memset(backend, 0, sizeof *backend);
  backend->config = config;
  backend->open_ns = config->open_ns;
  backend->random = random_seed;
  backend->life_ns = now_ns;
}

bool bus_bridge_backend_up(const struct bus_bridge_backend *backend)
{
  return backend->breaker == BUS_BRIDGE_BREAKER_CLOSED;
}

bool bus_bridge_backend_has_room(const struct bus_bridge_backend *backend, bool urgent,
                                 struct bus_bridge_work work, uint64_t now_ns)
{
  const struct bus_bridge_backend_config *config = backend->config;
  const uint32_t slots = config->concurrency - (urgent ? 0 : config->urgent_reserve);
  if (!bus_bridge_backend_up(backend) || backend->paused_until_ns > now_ns ||
      backend->in_flight >= slots)
    return false;
  const uint64_t tokens = work.prompt_tokens + work.answer_tokens;
  return config->tokens_in_flight_max == 0 || backend->in_flight == 0 ||
         backend->tokens_in_flight + tokens <= config->tokens_in_flight_max;
}

void bus_bridge_backend_take(struct bus_bridge_backend *backend, struct bus_bridge_work work,
                             uint64_t end_ns)
{
  backend->in_flight++;
  backend->tokens_in_flight += work.prompt_tokens + work.answer_tokens;
  backend->ends_sum_ns += end_ns;
}

void bus_bridge_backend_give(struct bus_bridge_backend *backend, struct bus_bridge_work work,
                             uint64_t end_ns)
{
  backend->in_flight--;
  backend->tokens_in_flight -= work.prompt_tokens + work.answer_tokens;
  backend->ends_sum_ns -= end_ns;
}

void bus_bridge_backend_pause(struct bus_bridge_backend *backend, uint64_t until_ns)
{
  if (until_ns > backend->paused_until_ns)
    backend->paused_until_ns = until_ns;
}

bool bus_bridge_backend_succeeded(struct bus_bridge_backend *backend, uint64_t now_ns)
{
  const bool closed = !bus_bridge_backend_up(backend);
  backend->breaker = BUS_BRIDGE_BREAKER_CLOSED;
  backend->failures = 0;
  backend->open_ns = backend->config->open_ns;
  backend->life_ns = now_ns;
  return closed;
}

static void open_breaker(struct bus_bridge_backend *backend, uint64_t now_ns)
{
  const uint64_t quarter = backend->open_ns / 4;
  const uint64_t jitter = bus_bridge_random(&backend->random) % (2 * quarter + 1);
  const uint64_t longest = backend->config->open_ns_max;
  backend->breaker = BUS_BRIDGE_BREAKER_OPEN;
  backend->open_until_ns = now_ns + backend->open_ns - quarter + jitter;
  backend->open_ns = backend->open_ns < longest / 2 ? backend->open_ns * 2 : longest;
}

bool bus_bridge_backend_failed(struct bus_bridge_backend *backend, uint64_t now_ns, bool canary,
                               const char *reason)
{
  snprintf(backend->reason, sizeof backend->reason, "%s", reason);
  if (backend->failures < UINT32_MAX)
    backend->failures++;
  /* What was under way when it opened says nothing about the canary. */
  const bool opens = backend->breaker == BUS_BRIDGE_BREAKER_CLOSED
                         ? backend->failures >= backend->config->failures_to_open
                         : backend->breaker == BUS_BRIDGE_BREAKER_CANARY && canary;
  if (opens)
    open_breaker(backend, now_ns);
  return opens;
}

uint64_t bus_bridge_backend_canary_ns(const struct bus_bridge_backend *backend)
{
  if (backend->breaker == BUS_BRIDGE_BREAKER_CANARY)
    return UINT64_MAX;
  const uint64_t interval = backend->config->canary_interval_ns;
  if (backend->breaker == BUS_BRIDGE_BREAKER_CLOSED && interval == 0)
    return UINT64_MAX;
  const uint64_t due = backend->breaker == BUS_BRIDGE_BREAKER_OPEN ? backend->open_until_ns
                                                                   : backend->life_ns + interval;
  return due > backend->paused_until_ns ? due : backend->paused_until_ns;
}

void bus_bridge_backend_canary(struct bus_bridge_backend *backend, uint64_t now_ns)
{
  if (backend->breaker == BUS_BRIDGE_BREAKER_OPEN)
    backend->breaker = BUS_BRIDGE_BREAKER_CANARY;
  backend->life_ns = now_ns; /* the next one an interval later, however this one ends */
}

uint64_t bus_bridge_backend_work_ns(const struct bus_bridge_backend *backend,
                                    struct bus_bridge_work work)
{
  const struct bus_bridge_backend_config *config = backend->config;
  if (!(config->prefill_tokens_per_s > 0) || !(config->decode_tokens_per_s > 0))
    return 0;
  const double seconds = (double)work.prompt_tokens / config->prefill_tokens_per_s +
                         (double)work.answer_tokens / config->decode_tokens_per_s;
  return seconds < 1e9 ? (uint64_t)(seconds * 1e9) : (uint64_t)1e18;
}

/* a/b < c/d without division, for weights. */
static int compare_shares(uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
  return a * d < c * b ? -1 : a * d > c * b;
}

uint32_t bus_bridge_backend_choose(const struct bus_bridge_backend *backends,
                                   const struct bus_bridge_class_config *class_config,
                                   const struct bus_bridge_share *share, bool urgent,
                                   struct bus_bridge_work work, uint32_t without, uint64_t now_ns)
{
  uint32_t best = BUS_BRIDGE_NONE;
  for (uint32_t i = 0; i < class_config->backend_count; i++) {
    const uint32_t index = class_config->backends[i].backend;
    if ((without >> index & 1) ||
        !bus_bridge_backend_has_room(&backends[index], urgent, work, now_ns))
      continue;
    if (best == BUS_BRIDGE_NONE) {
      best = i;
      continue;
    }
    const struct bus_bridge_backend *other = &backends[class_config->backends[best].backend];
    const int order = compare_shares(backends[index].in_flight, class_config->backends[i].weight,
                                     other->in_flight, class_config->backends[best].weight);
    if (order < 0 || (order == 0 && share->pass[i] < share->pass[best]))
      best = i;
  }
  return best;
}

void bus_bridge_share_note(struct bus_bridge_share *share,
                           const struct bus_bridge_class_config *class_config, uint32_t place)
{
  /* One that was away does not get all the work that it missed: it goes on from where the others
   * are. */
  uint64_t *pass = &share->pass[place];
  if (*pass < share->last_pass)
    *pass = share->last_pass;
  share->last_pass = *pass;
  *pass += ((uint64_t)1 << 32) / class_config->backends[place].weight;
}

/* How long until a request that nobody is before gets a slot: at once, or when what is in flight
 * is through on average. */
static uint64_t slot_ns(const struct bus_bridge_backend *backend, bool urgent,
                        struct bus_bridge_work work, uint64_t now_ns)
{
  if (bus_bridge_backend_has_room(backend, urgent, work, now_ns))
    return 0;
  const int64_t left_ns = (int64_t)(backend->ends_sum_ns - backend->in_flight * now_ns);
  uint64_t wait_ns = left_ns > 0 ? (uint64_t)left_ns / backend->config->concurrency : 0;
  if (backend->paused_until_ns > now_ns && backend->paused_until_ns - now_ns > wait_ns)
    wait_ns = backend->paused_until_ns - now_ns;
  return wait_ns;
}

uint64_t bus_bridge_backend_done_ns(const struct bus_bridge_backend *backends,
                                    const struct bus_bridge_class_config *class_config,
                                    struct bus_bridge_work ahead, bool urgent,
                                    struct bus_bridge_work work, uint64_t now_ns)
{
  /* Together the servers work off what is ahead at this many ns of work a ns. */
  double speed = 0;
  uint64_t slot = UINT64_MAX, own = UINT64_MAX;
  for (uint32_t i = 0; i < class_config->backend_count; i++) {
    const struct bus_bridge_backend *backend = &backends[class_config->backends[i].backend];
    if (!bus_bridge_backend_up(backend))
      continue;
    const uint64_t work_ns = bus_bridge_backend_work_ns(backend, work);
    const uint64_t ahead_ns = bus_bridge_backend_work_ns(backend, ahead);
    if (!(backend->config->prefill_tokens_per_s > 0) || !(backend->config->decode_tokens_per_s > 0))
      return 0;
    const uint64_t wait_ns = slot_ns(backend, urgent, work, now_ns);
    slot = wait_ns < slot ? wait_ns : slot;
    own = work_ns < own ? work_ns : own;
    speed += ahead_ns ? (double)backend->config->concurrency / (double)ahead_ns : 0;
  }
  if (own == UINT64_MAX)
    return 0;
  const uint64_t queue_ns = speed > 0 ? (uint64_t)(1 / speed) : 0;
  return now_ns + slot + queue_ns + own;
}
