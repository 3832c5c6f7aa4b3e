#include "tools/bridge_view.h"

#include <string.h>

#define CLASS_PREFIX "class."

/* A figure of a server or class: which pointer of its struct, and the end of its object's name. */
struct figure {
  size_t offset;
  uint32_t type;
  const char *name;
};

#define COUNTER(of, field)                                                                         \
  {                                                                                                \
    offsetof(struct of, field), BUS_OBJECT_COUNTER, #field                                         \
  }
#define HISTOGRAM(of, field)                                                                       \
  {                                                                                                \
    offsetof(struct of, field), BUS_OBJECT_HISTOGRAM, #field                                       \
  }

/* The first is the one that a server or class is found by. */
static const struct figure server_figures[] = {
    COUNTER(bridge_server, breaker),   COUNTER(bridge_server, in_flight),
    COUNTER(bridge_server, succeeded), COUNTER(bridge_server, failed),
    COUNTER(bridge_server, timed_out), COUNTER(bridge_server, abandoned),
    COUNTER(bridge_server, tokens),    HISTOGRAM(bridge_server, first_token_ns),
};
static const struct figure class_figures[] = {
    COUNTER(bridge_class, waiting),    COUNTER(bridge_class, accepted),
    COUNTER(bridge_class, rejected),   HISTOGRAM(bridge_class, queue_ns),
    HISTOGRAM(bridge_class, total_ns),
};

/* Of the item's name what stands before its last dot; 0 when what stands behind is not `end`. */
static size_t name_before(const struct busctl_item *item, const char *end)
{
  const char *dot = strrchr(item->name, '.');
  return dot && !strcmp(dot + 1, end) ? (size_t)(dot - item->name) : 0;
}

static const struct busctl_item *find(const struct busctl_sample *sample,
                                      const struct busctl_item *first, const struct figure *figure)
{
  size_t length = (size_t)(strrchr(first->name, '.') - first->name);
  for (size_t i = 0; i < sample->item_count; i++) {
    const struct busctl_item *item = &sample->items[i];
    if (item->member == first->member && item->type == figure->type &&
        name_before(item, figure->name) == length && !strncmp(item->name, first->name, length))
      return item;
  }
  return NULL;
}

/* Fills the pointers of `group` from the figures of the server or class that `first` belongs to. */
static bool fill(const struct busctl_sample *sample, const struct busctl_item *first,
                 const struct figure *figures, size_t count, void *group)
{
  for (size_t i = 0; i < count; i++) {
    const struct busctl_item *item = find(sample, first, &figures[i]);
    if (!item)
      return false;
    *(const struct busctl_item **)(void *)((char *)group + figures[i].offset) = item;
  }
  return true;
}

/* The length of the name of the server or class that the item is the first figure of; 0: of none.
 */
static size_t begins(const struct busctl_sample *sample, const struct busctl_item *item,
                     const struct figure *figure, bool class)
{
  size_t length = item->type == figure->type ? name_before(item, figure->name) : 0;
  bool classed = !strncmp(item->name, CLASS_PREFIX, sizeof CLASS_PREFIX - 1);
  if (strcmp(sample->members[item->member].kind, "bridge") != 0 || classed != class)
    return 0;
  size_t prefix = class ? sizeof CLASS_PREFIX - 1 : 0;
  return length > prefix ? length - prefix : 0;
}

bool bridge_next_server(const struct busctl_sample *sample, size_t *at,
                        struct bridge_server *server)
{
  while (*at < sample->item_count) {
    const struct busctl_item *item = &sample->items[(*at)++];
    size_t length = begins(sample, item, server_figures, false);
    memset(server, 0, sizeof *server);
    memcpy(server->name, item->name, length);
    server->member = &sample->members[item->member];
    if (length && fill(sample, item, server_figures, BUS_COUNT_OF(server_figures), server))
      return true;
  }
  return false;
}

bool bridge_next_class(const struct busctl_sample *sample, size_t *at, struct bridge_class *class)
{
  while (*at < sample->item_count) {
    const struct busctl_item *item = &sample->items[(*at)++];
    size_t length = begins(sample, item, class_figures, true);
    memset(class, 0, sizeof *class);
    memcpy(class->name, item->name + sizeof CLASS_PREFIX - 1, length);
    class->member = &sample->members[item->member];
    if (length && fill(sample, item, class_figures, BUS_COUNT_OF(class_figures), class))
      return true;
  }
  return false;
}

const char *bridge_breaker_name(uint64_t breaker)
{
  static const char *const names[] = {"closed", "open", "canary"};
  return breaker < BUS_COUNT_OF(names) ? names[breaker] : "?";
}
