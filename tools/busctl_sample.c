#include "tools/busctl_sample.h"

#include "shm/clock.h"

#include <stdlib.h>
#include <string.h>

static void copy_member(struct busctl_member *member, const struct busctl_file *file)
{
  const struct bus_member_header *live = &file->live;
  uint64_t now_ns = bus_clock_monotonic_ns();
  busctl_sanitise(member->name, sizeof member->name, file->name, sizeof file->name);
  member->file_bytes = file->file_bytes;
  member->core = member->numa_node = -1;
  member->attached = file->neighbour != NULL;
  if (!member->attached) {
    member->error = file->error;
    busctl_sanitise(member->reason, sizeof member->reason, file->reason, sizeof file->reason);
    return;
  }
  busctl_sanitise(member->kind, sizeof member->kind, live->kind, sizeof live->kind);
  member->status = file->status;
  member->state = live->state;
  member->pid = live->pid;
  member->epoch = live->epoch;
  member->heartbeat_age_ns = now_ns > live->heartbeat_ns ? now_ns - live->heartbeat_ns : 0;
  member->core = live->core;
  member->numa_node = live->numa_node;
  member->backing = live->backing;
  member->huge_bytes = live->huge_bytes;
}

/* Returns 1 when it was read, 0 when nobody counts that type, BUS_ERROR_NO_SPACE. */
static int copy_item(struct busctl_item *item, const struct busctl_scan *scan,
                     const struct busctl_file *file, const struct bus_entry *entry)
{
  const void *memory = bus_neighbour_object(file->neighbour, entry);
  memset(item, 0, sizeof *item);
  item->type = entry->type;
  item->instance = bus_neighbour_header(file->neighbour)->instance;
  busctl_sanitise(item->name, sizeof item->name, entry->name, sizeof entry->name);
  busctl_sanitise(item->peer, sizeof item->peer, entry->peer, sizeof entry->peer);
  busctl_sanitise(item->unit, sizeof item->unit, entry->unit, sizeof entry->unit);
  switch (entry->type) {
  case BUS_OBJECT_RING:
    busctl_read_ring(scan, file, entry, false, &item->ring);
    return 1;
  case BUS_OBJECT_POSITION:
    item->lost = BUS_LOAD_RELAXED(&((const struct bus_position *)memory)->lost);
    return 1;
  case BUS_OBJECT_COUNTER:
    item->counter = BUS_LOAD_RELAXED((const uint64_t *)memory);
    return 1;
  case BUS_OBJECT_HISTOGRAM:
    item->histogram = malloc(sizeof *item->histogram);
    if (!item->histogram)
      return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
    bus_histogram_copy(item->histogram, memory);
    return 1;
  default:
    return 0;
  }
}

static int copy_items(struct busctl_sample *sample, const struct busctl_scan *scan)
{
  for (size_t i = 0; i < scan->count; i++) {
    const struct busctl_file *file = &scan->files[i];
    const struct bus_entry *entry;
    for (uint32_t j = 0; file->neighbour && (entry = bus_neighbour_entry(file->neighbour, j));
         j++) {
      struct busctl_item *item = &sample->items[sample->item_count];
      int copied = copy_item(item, scan, file, entry);
      if (copied < 0)
        return copied;
      item->member = (uint32_t)i;
      sample->item_count += (size_t)copied;
    }
  }
  return BUS_OK;
}

int busctl_sample_take(struct busctl_sample *sample, const struct busctl_scan *scan)
{
  size_t room = 1;
  for (size_t i = 0; i < scan->count; i++)
    if (scan->files[i].neighbour)
      room += bus_neighbour_header(scan->files[i].neighbour)->entry_count;
  memset(sample, 0, sizeof *sample);
  busctl_sanitise(sample->directory, sizeof sample->directory, scan->directory,
                  sizeof scan->directory);
  sample->taken_ns = bus_clock_monotonic_ns();
  sample->members = calloc(scan->count + 1, sizeof *sample->members);
  sample->items = calloc(room, sizeof *sample->items);
  if (!sample->members || !sample->items) {
    free(sample->members);
    free(sample->items);
    memset(sample, 0, sizeof *sample);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  sample->member_count = scan->count;
  for (size_t i = 0; i < scan->count; i++)
    copy_member(&sample->members[i], &scan->files[i]);
  int error = copy_items(sample, scan);
  if (error)
    busctl_sample_free(sample);
  sample->lasted_ns = bus_clock_monotonic_ns() - sample->taken_ns;
  return error;
}

void busctl_sample_free(struct busctl_sample *sample)
{
  for (size_t i = 0; i < sample->item_count; i++)
    if (sample->items[i].type == BUS_OBJECT_HISTOGRAM)
      free(sample->items[i].histogram);
  free(sample->items);
  free(sample->members);
  memset(sample, 0, sizeof *sample);
}

/* The same object in the sample before, or NULL. Directories keep their order, so the search begins
 * where the last one ended. */
static const struct busctl_item *find_before(const struct busctl_view *view,
                                             const struct busctl_item *item, size_t *hint)
{
  const struct busctl_sample *before = view->before;
  for (size_t tries = 0; tries < before->item_count; tries++) {
    const struct busctl_item *other = &before->items[(*hint + tries) % before->item_count];
    if (other->instance != item->instance || other->type != item->type ||
        strcmp(other->name, item->name) || strcmp(other->peer, item->peer) ||
        strcmp(before->members[other->member].name, view->now->members[item->member].name))
      continue;
    *hint = (*hint + tries + 1) % before->item_count;
    return other;
  }
  return NULL;
}

static uint64_t rise(uint64_t now, uint64_t before)
{
  return now >= before ? now - before : now;
}

bool busctl_item_is_maximum(const struct busctl_item *item)
{
  size_t length = strlen(item->name);
  return length >= 4 && !strcmp(item->name + length - 4, "_max");
}

bool busctl_item_is_level(const struct busctl_item *item)
{
  static const char *const names[] = {"in_flight", "breaker", "waiting"};
  const char *dot = strrchr(item->name, '.');
  const char *last = dot ? dot + 1 : item->name;
  for (size_t i = 0; i < BUS_COUNT_OF(names); i++)
    if (!strcmp(last, names[i]))
      return true;
  return false;
}

bool busctl_item_has_rate(const struct busctl_item *item)
{
  return !busctl_item_is_maximum(item) && !busctl_item_is_level(item);
}

static double per_second(const struct busctl_view *view, uint64_t count)
{
  return view->interval_ns ? (double)count * 1e9 / (double)view->interval_ns : 0;
}

static void subtract(struct bus_histogram *to, const struct bus_histogram *now,
                     const struct bus_histogram *before)
{
  for (uint32_t i = 0; i < BUS_HISTOGRAM_BUCKETS; i++) {
    to->buckets[i] = rise(now->buckets[i], before ? before->buckets[i] : 0);
    to->count += to->buckets[i];
    if (to->buckets[i])
      to->maximum = bus_histogram_bucket_high(i);
  }
  if (to->maximum > now->maximum)
    to->maximum = now->maximum;
}

static void compare(const struct busctl_view *view, struct busctl_change *change,
                    const struct busctl_item *old, struct bus_histogram *interval)
{
  const struct busctl_item *item = change->item;
  switch (item->type) {
  case BUS_OBJECT_RING: {
    const struct busctl_ring *now = &item->ring, *before = old ? &old->ring : now;
    change->changed = now->committed != before->committed;
    change->ring.records_per_s = per_second(view, rise(now->committed, before->committed));
    change->ring.dropped_per_s = per_second(view, rise(now->dropped, before->dropped));
    change->ring.waits_per_s = per_second(view, rise(now->waits, before->waits));
    break;
  }
  case BUS_OBJECT_POSITION:
    change->changed = old && item->lost != old->lost;
    change->lost_per_s = old ? per_second(view, rise(item->lost, old->lost)) : 0;
    break;
  case BUS_OBJECT_COUNTER:
    change->changed = !old || item->counter != old->counter;
    if (busctl_item_has_rate(item))
      change->counter_per_s = per_second(view, rise(item->counter, old ? old->counter : 0));
    break;
  default:
    subtract(interval, item->histogram, old ? old->histogram : NULL);
    change->interval = interval;
    change->changed = interval->count != 0;
  }
}

int busctl_view_make(struct busctl_view *view, const struct busctl_sample *now,
                     const struct busctl_sample *before)
{
  size_t histograms = 0, hint = 0;
  for (size_t i = 0; i < now->item_count; i++)
    histograms += now->items[i].type == BUS_OBJECT_HISTOGRAM;
  *view = (struct busctl_view){
      .now = now, .before = before, .interval_ns = now->taken_ns - before->taken_ns};
  view->changes = calloc(now->item_count + 1, sizeof *view->changes);
  view->intervals = calloc(histograms + 1, sizeof *view->intervals);
  if (!view->changes || !view->intervals) {
    busctl_view_free(view);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  struct bus_histogram *interval = view->intervals;
  for (size_t i = 0; i < now->item_count; i++) {
    struct busctl_change *change = &view->changes[i];
    change->item = &now->items[i];
    change->member = &now->members[change->item->member];
    compare(view, change, find_before(view, change->item, &hint), interval);
    interval += change->item->type == BUS_OBJECT_HISTOGRAM;
  }
  return BUS_OK;
}

void busctl_view_free(struct busctl_view *view)
{
  free(view->changes);
  free(view->intervals);
  memset(view, 0, sizeof *view);
}
