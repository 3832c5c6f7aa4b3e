#include "tools/busctl_view_json.h"

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
  busctl_json_set(object, "histograms", histograms);
  busctl_json_set(object, "counters_changed", counters);
  return object;
}
