#include "consumers/bridge_meters.h"

#include <stdio.h>
#include <string.h>

/* A meter: where its pointer stands in its struct, and how its object is called. */
struct meter {
  size_t offset;
  const char *name;
  const char *unit;
  uint32_t type; /* enum bus_object_type */
};

#define COUNTER(type, field, unit)                                                                 \
  {                                                                                                \
    offsetof(struct type, field), #field, unit, BUS_OBJECT_COUNTER                                 \
  }
#define HISTOGRAM(type, field, unit)                                                               \
  {                                                                                                \
    offsetof(struct type, field), #field, unit, BUS_OBJECT_HISTOGRAM                               \
  }

static const struct meter backend_meters[] = {
    COUNTER(bus_bridge_backend_meters, sent, "attempts"),
    COUNTER(bus_bridge_backend_meters, succeeded, "attempts"),
    COUNTER(bus_bridge_backend_meters, failed, "attempts"),
    COUNTER(bus_bridge_backend_meters, timed_out, "attempts"),
    COUNTER(bus_bridge_backend_meters, abandoned, "attempts"),
    COUNTER(bus_bridge_backend_meters, tokens, "tokens"),
    COUNTER(bus_bridge_backend_meters, in_flight, "requests"),
    COUNTER(bus_bridge_backend_meters, breaker, "state"),
    COUNTER(bus_bridge_backend_meters, opened, "times"),
    COUNTER(bus_bridge_backend_meters, reconnects, "connections"),
    HISTOGRAM(bus_bridge_backend_meters, connect_ns, "ns"),
    HISTOGRAM(bus_bridge_backend_meters, first_token_ns, "ns"),
    HISTOGRAM(bus_bridge_backend_meters, attempt_ns, "ns"),
    HISTOGRAM(bus_bridge_backend_meters, tokens_per_s, "tokens/s"),
};

static const struct meter class_meters[] = {
    COUNTER(bus_bridge_class_meters, accepted, "requests"),
    COUNTER(bus_bridge_class_meters, rejected, "requests"),
    COUNTER(bus_bridge_class_meters, waiting, "requests"),
    HISTOGRAM(bus_bridge_class_meters, queue_ns, "ns"),
    HISTOGRAM(bus_bridge_class_meters, total_ns, "ns"),
};

#define FINAL(status, name)                                                                        \
  {                                                                                                \
    offsetof(struct bus_bridge_meters, finals) + (status) * sizeof(uint64_t *), name, "replies",   \
        BUS_OBJECT_COUNTER                                                                         \
  }

static const struct meter bridge_meters[] = {
    FINAL(BUS_LLM_OK, "final_ok"),
    FINAL(BUS_LLM_LENGTH, "final_length"),
    FINAL(BUS_LLM_REJECTED_QUEUE, "final_rejected_queue"),
    FINAL(BUS_LLM_REJECTED_DEADLINE, "final_rejected_deadline"),
    FINAL(BUS_LLM_EXPIRED, "final_expired"),
    FINAL(BUS_LLM_CANCELLED, "final_cancelled"),
    FINAL(BUS_LLM_BACKEND_DOWN, "final_backend_down"),
    FINAL(BUS_LLM_UPSTREAM_4XX, "final_upstream_4xx"),
    FINAL(BUS_LLM_UPSTREAM_5XX, "final_upstream_5xx"),
    FINAL(BUS_LLM_TRUNCATED, "final_truncated"),
    FINAL(BUS_LLM_BAD_REQUEST, "final_bad_request"),
    FINAL(BUS_LLM_BRIDGE_RESTART, "final_bridge_restart"),
    COUNTER(bus_bridge_meters, partials, "replies"),
    COUNTER(bus_bridge_meters, partials_lost, "replies"),
    COUNTER(bus_bridge_meters, retries, "attempts"),
    COUNTER(bus_bridge_meters, hedges, "attempts"),
    COUNTER(bus_bridge_meters, requests_invalid, "fragments"),
    COUNTER(bus_bridge_meters, cancels_late, "cancels"),
    COUNTER(bus_bridge_meters, recovered, "requests"),
    COUNTER(bus_bridge_meters, orphaned, "requests"),
    COUNTER(bus_bridge_meters, in_flight, "requests"),
    HISTOGRAM(bus_bridge_meters, in_ns, "ns"),
    HISTOGRAM(bus_bridge_meters, out_ns, "ns"),
};

BUS_STATIC_ASSERT(BUS_COUNT_OF(backend_meters) * BUS_BRIDGE_BACKENDS_MAX +
                          BUS_COUNT_OF(class_meters) * BUS_BRIDGE_CLASSES_MAX +
                          BUS_COUNT_OF(bridge_meters) ==
                      BUS_BRIDGE_METERS_MAX,
                  "room for every meter");

/* What is done with each meter: `base` is its struct, `name` its object's name. */
typedef void meter_function(void *context, const struct meter *meter, void *base, const char *name);

static void visit(const struct meter *meters, size_t count, const char *prefix, void *base,
                  meter_function *function, void *context)
{
  for (size_t i = 0; i < count; i++) {
    char name[64];
    snprintf(name, sizeof name, "%s%s", prefix, meters[i].name);
    function(context, &meters[i], base, name);
  }
}

static void visit_all(const struct bus_bridge_config *config, struct bus_bridge_meters *meters,
                      meter_function *function, void *context)
{
  char prefix[BUS_LLM_NAME_BYTES + 8];
  visit(bridge_meters, BUS_COUNT_OF(bridge_meters), "", meters, function, context);
  for (uint32_t i = 0; i < config->backend_count; i++) {
    snprintf(prefix, sizeof prefix, "%s.", config->backends[i].name);
    visit(backend_meters, BUS_COUNT_OF(backend_meters), prefix, &meters->backends[i], function,
          context);
  }
  for (uint32_t i = 0; i < config->class_count; i++) {
    snprintf(prefix, sizeof prefix, "class.%s.", config->classes[i].name);
    visit(class_meters, BUS_COUNT_OF(class_meters), prefix, &meters->classes[i], function, context);
  }
}

struct listing {
  struct bus_object_spec *objects;
  struct bus_bridge_meter_name *names;
  uint32_t count;
};

static void list_one(void *context, const struct meter *meter, void *base, const char *name)
{
  struct listing *listing = context;
  (void)base;
  char *kept = listing->names[listing->count].text;
  size_t length = strnlen(name, sizeof listing->names->text - 1);
  memcpy(kept, name, length);
  kept[length] = 0;
  listing->objects[listing->count++] =
      (struct bus_object_spec){.type = meter->type, .name = kept, .unit = meter->unit};
}

uint32_t bus_bridge_meters_list(const struct bus_bridge_config *config,
                                struct bus_object_spec *objects,
                                struct bus_bridge_meter_name *names)
{
  static struct bus_bridge_meters nowhere; /* its fields' places are computed, never used */
  struct listing listing = {objects, names, 0};
  visit_all(config, &nowhere, list_one, &listing);
  return listing.count;
}

static void find_one(void *context, const struct meter *meter, void *base, const char *name)
{
  void *object = bus_member_object(context, meter->type, name);
  memcpy((char *)base + meter->offset, &object, sizeof object);
}

void bus_bridge_meters_find(const struct bus_bridge_config *config, struct bus_member *member,
                            struct bus_bridge_meters *meters)
{
  memset(meters, 0, sizeof *meters);
  visit_all(config, meters, find_one, member);
}
