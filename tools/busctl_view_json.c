#include "tools/busctl_view_json.h"

#include "tools/bridge_view.h"

static void set_text(json_t *object, const char *key, const char *text)
{
  busctl_json_string(object, key, text, 256);
}

static void set_known(json_t *object, const char *key, bool known, uint64_t value)
{
  if (known)
    busctl_json_number(object, key, value);
  else
    busctl_json_set(object, key, json_null());
}

static json_t *begin(const struct busctl_change *change)
{
  json_t *object = json_object();
  set_text(object, "member", change->member->name);
  set_text(object, "name", change->item->name);
  return object;
}

static json_t *show_member(const struct busctl_member *member)
{
  json_t *object = json_object();
  set_text(object, "name", member->name);
  if (!member->attached) {
    set_text(object, "status", bus_error_name(member->error));
    set_text(object, "reason", member->reason);
    return object;
  }
  set_text(object, "kind", member->kind);
  set_text(object, "status", bus_neighbour_status_name(member->status));
  set_text(object, "state", bus_state_name(member->state));
  busctl_json_number(object, "pid", member->pid);
  busctl_json_number(object, "epoch", member->epoch);
  busctl_json_number(object, "heartbeat_age_ns", member->heartbeat_age_ns);
  busctl_json_signed(object, "core", member->core);
  busctl_json_signed(object, "numa_node", member->numa_node);
  set_text(object, "backing", bus_backing_name(member->backing));
  busctl_json_number(object, "huge_kib", member->huge_bytes / 1024);
  busctl_json_number(object, "file_bytes", member->file_bytes);
  return object;
}

static json_t *show_ring(const struct busctl_change *change)
{
  const struct busctl_ring *ring = &change->item->ring;
  json_t *object = begin(change);
  set_text(object, "consumer", change->item->peer);
  busctl_json_number(object, "depth_records", ring->depth);
  busctl_json_number(object, "committed_records", ring->committed);
  busctl_json_set(object, "rate_records_per_s", json_real(change->ring.records_per_s));
  set_known(object, "newest_age_ns", ring->age_known, ring->newest_age_ns);
  set_known(object, "lag_records", ring->lag_known, ring->lag);
  busctl_json_set(object, "lag_percent",
                  ring->lag_known ? json_real(100.0 * (double)ring->lag / (double)ring->depth)
                                  : json_null());
  busctl_json_number(object, "dropped_records", ring->dropped);
  busctl_json_set(object, "dropped_records_per_s", json_real(change->ring.dropped_per_s));
  busctl_json_number(object, "waits", ring->waits);
  busctl_json_set(object, "waits_per_s", json_real(change->ring.waits_per_s));
  return object;
}

static json_t *show_position(const struct busctl_change *change)
{
  json_t *object = json_object();
  set_text(object, "member", change->member->name);
  set_text(object, "producer", change->item->peer);
  set_text(object, "ring", change->item->name);
  busctl_json_number(object, "lost_records", change->item->lost);
  busctl_json_set(object, "lost_records_per_s", json_real(change->lost_per_s));
  return object;
}

static json_t *show_histogram(const struct busctl_change *change)
{
  json_t *object = begin(change);
  set_text(object, "unit", change->item->unit);
  busctl_json_set(object, "since_start",
                  busctl_describe_quantiles(json_object(), change->item->histogram));
  busctl_json_set(object, "interval", busctl_describe_quantiles(json_object(), change->interval));
  return object;
}

static json_t *show_counter(const struct busctl_change *change)
{
  json_t *object = begin(change);
  set_text(object, "unit", change->item->unit);
  busctl_json_number(object, "value", change->item->counter);
  busctl_json_set(object, "change_per_s",
                  busctl_item_has_rate(change->item) ? json_real(change->counter_per_s)
                                                     : json_null());
  return object;
}

static const struct busctl_change *change_of(const struct busctl_view *view,
                                             const struct busctl_item *item)
{
  return &view->changes[item - view->now->items];
}

static void set_rate(json_t *object, const char *key, const struct busctl_view *view,
                     const struct busctl_item *item)
{
  busctl_json_set(object, key, json_real(change_of(view, item)->counter_per_s));
}

static void set_interval(json_t *object, const char *key, const struct busctl_view *view,
                         const struct busctl_item *item)
{
  busctl_json_set(object, key,
                  busctl_describe_quantiles(json_object(), change_of(view, item)->interval));
}

static json_t *show_servers(const struct busctl_view *view)
{
  json_t *array = json_array();
  struct bridge_server server;
  for (size_t at = 0; bridge_next_server(view->now, &at, &server);) {
    json_t *object = json_object();
    set_text(object, "member", server.member->name);
    set_text(object, "name", server.name);
    set_text(object, "breaker", bridge_breaker_name(server.breaker->counter));
    busctl_json_number(object, "in_flight", server.in_flight->counter);
    busctl_json_number(object, "failed", server.failed->counter);
    set_rate(object, "answers_per_s", view, server.succeeded);
    set_rate(object, "tokens_per_s", view, server.tokens);
    set_rate(object, "failed_per_s", view, server.failed);
    set_interval(object, "first_token_ns", view, server.first_token_ns);
    busctl_json_append(array, object);
  }
  return array;
}

static json_t *show_classes(const struct busctl_view *view)
{
  json_t *array = json_array();
  struct bridge_class class;
  for (size_t at = 0; bridge_next_class(view->now, &at, &class);) {
    json_t *object = json_object();
    set_text(object, "member", class.member->name);
    set_text(object, "name", class.name);
    busctl_json_number(object, "waiting", class.waiting->counter);
    set_rate(object, "accepted_per_s", view, class.accepted);
    set_rate(object, "rejected_per_s", view, class.rejected);
    set_interval(object, "queue_ns", view, class.queue_ns);
    set_interval(object, "total_ns", view, class.total_ns);
    busctl_json_append(array, object);
  }
  return array;
}

json_t *busctl_view_json(const struct busctl_view *view)
{
  json_t *object = json_object(), *members = json_array(), *rings = json_array(),
         *positions = json_array(), *histograms = json_array(), *counters = json_array();
  for (size_t i = 0; i < view->now->member_count; i++)
    busctl_json_append(members, show_member(&view->now->members[i]));
  for (size_t i = 0; i < view->now->item_count; i++) {
    const struct busctl_change *change = &view->changes[i];
    if (change->item->type == BUS_OBJECT_RING)
      busctl_json_append(rings, show_ring(change));
    else if (change->item->type == BUS_OBJECT_POSITION)
      busctl_json_append(positions, show_position(change));
    else if (change->item->type == BUS_OBJECT_HISTOGRAM)
      busctl_json_append(histograms, show_histogram(change));
    else if (change->changed)
      busctl_json_append(counters, show_counter(change));
  }
  set_text(object, "directory", view->now->directory);
  busctl_json_number(object, "interval_ns", view->interval_ns);
  busctl_json_set(object, "members", members);
  busctl_json_set(object, "rings", rings);
  busctl_json_set(object, "positions", positions);
  busctl_json_set(object, "servers", show_servers(view));
  busctl_json_set(object, "classes", show_classes(view));
  busctl_json_set(object, "histograms", histograms);
  busctl_json_set(object, "counters_changed", counters);
  return object;
}
