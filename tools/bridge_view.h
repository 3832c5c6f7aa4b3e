/* bridge_view.h: the servers and classes of the bridges on a bus, found in a sample by the names of
 * their counters: "SERVER.breaker", "class.CLASS.waiting" (consumers/bridge_meters.h). Internal to
 * signal-busctl; one thread. */
#ifndef SIGNALBUS_BRIDGE_VIEW_H
#define SIGNALBUS_BRIDGE_VIEW_H

#include "tools/busctl_sample.h"

/* The items are the sample's; none is NULL. */
struct bridge_server {
  const struct busctl_member *member;
  char name[BUS_NAME_BYTES];
  const struct busctl_item *breaker; /* 0 closed, 1 open, 2 trying a canary */
  const struct busctl_item *in_flight;
  const struct busctl_item *succeeded;
  const struct busctl_item *failed;
  const struct busctl_item *timed_out;
  const struct busctl_item *abandoned;
  const struct busctl_item *tokens;
  const struct busctl_item *first_token_ns;
};

struct bridge_class {
  const struct busctl_member *member;
  char name[BUS_NAME_BYTES];
  const struct busctl_item *waiting;
  const struct busctl_item *accepted;
  const struct busctl_item *rejected;
  const struct busctl_item *queue_ns;
  const struct busctl_item *total_ns;
};

/* The next server (class) at or behind item *at, in the order of the files; moves *at behind it.
 * Begin with 0. Returns false when there is no more. One that lacks a figure is left out. */
bool bridge_next_server(const struct busctl_sample *sample, size_t *at,
                        struct bridge_server *server);
bool bridge_next_class(const struct busctl_sample *sample, size_t *at, struct bridge_class *class);

/* "closed", "open", "canary"; "?" for what is none. Static. */
const char *bridge_breaker_name(uint64_t breaker);

#endif
