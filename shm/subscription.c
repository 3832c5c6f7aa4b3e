#include "subscription.h"

#include <string.h>

/* A stalled member keeps its place on the bus, so the limit does not matter here. */
#define ANY_AGE_NS UINT64_MAX

static int keep_name(char *to, size_t size, const char *from, const char *what)
{
  if (!from || strlen(from) >= size)
    return bus_error_set(BUS_ERROR_INVALID, "%s '%s': 1..%zu characters", what, from ? from : "",
                         size - 1);
  strcpy(to, from);
  return BUS_OK;
}

int bus_subscription_init(struct bus_subscription *subscription, const char *directory,
                          const char *member, const char *ring, uint32_t record_type,
                          uint32_t record_size, const struct bus_member *self)
{
  memset(subscription, 0, sizeof *subscription);
  int error = keep_name(subscription->directory, sizeof subscription->directory,
                        directory ? directory : bus_directory_default(), "bus directory");
  if (!error)
    error = keep_name(subscription->member, sizeof subscription->member, member, "member");
  if (!error)
    error = keep_name(subscription->ring, sizeof subscription->ring, ring, "ring");
  subscription->record_type = record_type;
  subscription->record_size = record_size;
  subscription->last_error = BUS_ERROR_ABSENT;
  if (error || !self)
    return error;
  strcpy(subscription->own_name, bus_member_header(self)->name);
  subscription->own_instance = bus_member_header(self)->instance;
  subscription->position = bus_member_position(self, member, ring);
  if (!subscription->position)
    return bus_error_set(BUS_ERROR_INVALID, "%s: has no position for ring '%s' of '%s'",
                         bus_member_path(self), ring, member);
  return BUS_OK;
}

/* Whether a reliable consumer may read this ring in place. */
static int check_hold(const struct bus_subscription *subscription,
                      const struct bus_neighbour *neighbour, const struct bus_entry *entry)
{
  if (entry->policy == BUS_POLICY_OVERWRITE || strcmp(entry->peer, subscription->own_name) != 0)
    return bus_error_set(BUS_ERROR_INVALID,
                         "ring '%s' of '%s' holds back for %s, not for '%s': start '%s' with "
                         "--consumer %s, or observe the ring",
                         subscription->ring, subscription->member,
                         entry->policy == BUS_POLICY_OVERWRITE || !entry->peer[0] ? "nobody"
                                                                                  : entry->peer,
                         subscription->own_name, subscription->member, subscription->own_name);
  if (bus_consumer_may_join(bus_neighbour_object(neighbour, entry),
                            bus_neighbour_header(neighbour)->instance, subscription->position,
                            subscription->own_instance) ||
      bus_neighbour_status(neighbour, ANY_AGE_NS) == BUS_NEIGHBOUR_DEAD)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_NOT_READY, "'%s' has not connected this file of '%s' yet",
                       subscription->member, subscription->own_name);
}

static int join(struct bus_subscription *subscription, struct bus_neighbour *neighbour,
                uint64_t output_floor)
{
  const struct bus_entry *entry =
      bus_neighbour_find(neighbour, BUS_OBJECT_RING, subscription->ring);
  if (!entry)
    return bus_error_set(BUS_ERROR_ABSENT, "member '%s' has no ring '%s'; see: signal-busctl info",
                         subscription->member, subscription->ring);
  if (entry->record_type != subscription->record_type ||
      entry->record_size != subscription->record_size)
    return bus_error_set(
        BUS_ERROR_VERSION, "ring '%s' of '%s' carries %s records of %u bytes, wanted are %s of %u",
        subscription->ring, subscription->member, bus_record_type_name(entry->record_type),
        entry->record_size, bus_record_type_name(subscription->record_type),
        subscription->record_size);
  const void *memory = bus_neighbour_object(neighbour, entry);
  uint64_t instance = bus_neighbour_header(neighbour)->instance;
  if (subscription->position) {
    int error = check_hold(subscription, neighbour, entry);
    if (error)
      return error;
    bus_consumer_init(&subscription->consumer, memory, entry, instance, subscription->position,
                      output_floor);
  } else
    bus_observer_init(&subscription->observer, memory, entry, subscription->from_oldest);
  return BUS_OK;
}

int bus_subscription_maintain(struct bus_subscription *subscription, uint64_t output_floor)
{
  if (subscription->neighbour) {
    if (bus_neighbour_status(subscription->neighbour, ANY_AGE_NS) != BUS_NEIGHBOUR_GONE)
      return 0;
    subscription->lost_before += subscription->observer.lost;
    subscription->from_oldest = true; /* a replaced ring: everything in it is new */
    bus_neighbour_detach(subscription->neighbour);
    subscription->neighbour = NULL;
  }
  struct bus_neighbour *neighbour;
  int error = bus_neighbour_attach(subscription->directory, subscription->member, true, &neighbour);
  if (!error) {
    error = join(subscription, neighbour, output_floor);
    if (error)
      bus_neighbour_detach(neighbour);
  }
  subscription->last_error = error;
  if (error)
    return error;
  subscription->neighbour = neighbour;
  subscription->attaches++;
  return 1;
}

void bus_subscription_close(struct bus_subscription *subscription)
{
  if (subscription->neighbour && subscription->position)
    bus_consumer_publish(&subscription->consumer);
  bus_neighbour_detach(subscription->neighbour);
  subscription->neighbour = NULL;
}

int bus_backlink_init(struct bus_backlink *backlink, const char *directory, const char *member,
                      const struct bus_entry *entry, struct bus_producer *producer)
{
  memset(backlink, 0, sizeof *backlink);
  backlink->producer = producer;
  int error = keep_name(backlink->directory, sizeof backlink->directory,
                        directory ? directory : bus_directory_default(), "bus directory");
  if (!error)
    error = keep_name(backlink->producer_name, sizeof backlink->producer_name, member, "member");
  strcpy(backlink->consumer, entry->peer);
  strcpy(backlink->ring, entry->name);
  return error;
}

static const struct bus_entry *find_position(const struct bus_backlink *backlink,
                                             const struct bus_neighbour *neighbour)
{
  const struct bus_entry *entry;
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++) {
    if (entry->type == BUS_OBJECT_POSITION && !strcmp(entry->peer, backlink->producer_name) &&
        !strcmp(entry->name, backlink->ring))
      return entry;
  }
  return NULL;
}

int bus_backlink_maintain(struct bus_backlink *backlink)
{
  if (!backlink->consumer[0])
    return 0;
  if (backlink->neighbour) {
    if (bus_neighbour_status(backlink->neighbour, ANY_AGE_NS) != BUS_NEIGHBOUR_GONE)
      return 0;
    bus_backlink_close(backlink);
  }
  struct bus_neighbour *neighbour;
  int error = bus_neighbour_attach(backlink->directory, backlink->consumer, true, &neighbour);
  if (!error) {
    const struct bus_entry *entry = find_position(backlink, neighbour);
    if (entry) {
      bus_producer_connect(backlink->producer, bus_neighbour_object(neighbour, entry),
                           bus_neighbour_header(neighbour)->instance);
      backlink->neighbour = neighbour;
    } else {
      bus_neighbour_detach(neighbour);
      error = bus_error_set(BUS_ERROR_ABSENT, "member '%s' does not read ring '%s' of '%s'",
                            backlink->consumer, backlink->ring, backlink->producer_name);
    }
  }
  backlink->last_error = error;
  return error ? error : 1;
}

void bus_backlink_close(struct bus_backlink *backlink)
{
  if (!backlink->neighbour)
    return;
  bus_producer_connect(backlink->producer, NULL, 0);
  bus_neighbour_detach(backlink->neighbour);
  backlink->neighbour = NULL;
}
