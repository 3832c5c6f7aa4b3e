#include "tools/metrics_text.h"

#include "tools/metrics_bridge.h"

#include <inttypes.h>
#include <string.h>

#define NS_PER_S 1000000000u

/* ---- the parts of a line ---- */

static void begin_family(FILE *file, const char *name, const char *type, const char *help)
{
  fprintf(file, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* `{key="value"` or, with first false, `,key="value"`; sanitised text has no line ends. */
static void write_label(FILE *file, bool first, const char *key, const char *value)
{
  fprintf(file, "%c%s=\"", first ? '{' : ',', key);
  for (; *value; value++) {
    if (*value == '\\' || *value == '"')
      fputc('\\', file);
    fputc(*value, file);
  }
  fputc('"', file);
}

static void write_integer_label(FILE *file, const char *key, int64_t value)
{
  char text[32];
  snprintf(text, sizeof text, "%" PRId64, value);
  write_label(file, false, key, text);
}

static void write_seconds(FILE *file, uint64_t duration_ns)
{
  fprintf(file, "%" PRIu64 ".%09" PRIu64, duration_ns / NS_PER_S, duration_ns % NS_PER_S);
}

/* ---- members ---- */

static void write_member_info(FILE *file, const struct busctl_sample *sample)
{
  begin_family(file, "signalbus_member_info", "gauge",
               "Always 1; what the member is, as labels. core and numa_node are -1 where not set.");
  for (size_t i = 0; i < sample->member_count; i++) {
    const struct busctl_member *member = &sample->members[i];
    if (!member->attached)
      continue;
    fputs("signalbus_member_info", file);
    write_label(file, true, "member", member->name);
    write_label(file, false, "kind", member->kind);
    write_label(file, false, "backing", bus_backing_name(member->backing));
    write_integer_label(file, "core", member->core);
    write_integer_label(file, "numa_node", member->numa_node);
    write_integer_label(file, "epoch",
                        member->epoch < INT64_MAX ? (int64_t)member->epoch : INT64_MAX);
    fputs("} 1\n", file);
  }
}

static void write_states(FILE *file, const struct busctl_sample *sample)
{
  begin_family(file, "signalbus_member_status", "gauge",
               "1 for the status that the member has: a process holds its file and beats (alive), "
               "does not beat (stalled), none holds it (dead), the file is gone.");
  for (size_t i = 0; i < sample->member_count; i++)
    for (unsigned status = BUS_NEIGHBOUR_ALIVE;
         sample->members[i].attached && status <= BUS_NEIGHBOUR_GONE; status++) {
      fputs("signalbus_member_status", file);
      write_label(file, true, "member", sample->members[i].name);
      write_label(file, false, "status", bus_neighbour_status_name(status));
      fprintf(file, "} %d\n", sample->members[i].status == status);
    }
  begin_family(
      file, "signalbus_member_state", "gauge",
      "1 for the state that the member has declared: boot, run, halt (left in order), fail.");
  for (size_t i = 0; i < sample->member_count; i++)
    for (unsigned state = BUS_STATE_BOOT; sample->members[i].attached && state <= BUS_STATE_FAIL;
         state++) {
      fputs("signalbus_member_state", file);
      write_label(file, true, "member", sample->members[i].name);
      write_label(file, false, "state", bus_state_name(state));
      fprintf(file, "} %d\n", sample->members[i].state == state);
    }
}

static uint64_t member_up(const struct busctl_member *member)
{
  return member->status == BUS_NEIGHBOUR_ALIVE;
}

static uint64_t member_heartbeat(const struct busctl_member *member)
{
  return member->heartbeat_age_ns;
}

static uint64_t member_epoch(const struct busctl_member *member)
{
  return member->epoch;
}

static uint64_t member_file(const struct busctl_member *member)
{
  return member->file_bytes;
}

static uint64_t member_huge(const struct busctl_member *member)
{
  return member->huge_bytes;
}

static void write_members(FILE *file, const struct busctl_sample *sample)
{
  static const struct {
    const char *name;
    const char *help;
    uint64_t (*of)(const struct busctl_member *);
    bool seconds;
  } families[] = {
      {"signalbus_member_up", "1 when the member is alive, else 0.", member_up, false},
      {"signalbus_member_heartbeat_age_seconds", "Since the member's last heartbeat.",
       member_heartbeat, true},
      {"signalbus_member_epoch", "Rises by 1 with each process that takes the member over.",
       member_epoch, false},
      {"signalbus_member_file_bytes", "Size of the member's file.", member_file, false},
      {"signalbus_member_huge_bytes", "How much of the file is in huge pages.", member_huge, false},
  };
  for (size_t i = 0; i < BUS_COUNT_OF(families); i++) {
    begin_family(file, families[i].name, "gauge", families[i].help);
    for (size_t j = 0; j < sample->member_count; j++) {
      if (!sample->members[j].attached)
        continue;
      uint64_t value = families[i].of(&sample->members[j]);
      fputs(families[i].name, file);
      write_label(file, true, "member", sample->members[j].name);
      fputs("} ", file);
      if (families[i].seconds)
        write_seconds(file, value);
      else
        fprintf(file, "%" PRIu64, value);
      fputc('\n', file);
    }
  }
}

/* ---- rings and positions ---- */

/* Whether an earlier object of the member would make the same series. */
static bool is_repeated(const struct busctl_sample *sample, const struct busctl_item *item)
{
  bool peers = item->type == BUS_OBJECT_RING || item->type == BUS_OBJECT_POSITION;
  for (const struct busctl_item *other = item;
       other-- > sample->items && other->member == item->member;)
    if (other->type == item->type && !strcmp(other->name, item->name) &&
        (!peers || !strcmp(other->peer, item->peer)))
      return true;
  return false;
}

enum ring_figure { RECORDS, DROPPED, WAITS, REJECTED, DEPTH, LAG, AGE };

/* Returns false when it is not known. */
static bool ring_figure(const struct busctl_ring *ring, enum ring_figure figure, uint64_t *value)
{
  const uint64_t values[] = {[RECORDS] = ring->committed, [DROPPED] = ring->dropped,
                             [WAITS] = ring->waits,       [REJECTED] = ring->positions_rejected,
                             [DEPTH] = ring->depth,       [LAG] = ring->lag,
                             [AGE] = ring->newest_age_ns};
  *value = values[figure];
  return figure == LAG ? ring->lag_known : figure != AGE || ring->age_known;
}

static void write_rings(FILE *file, const struct busctl_sample *sample)
{
  static const struct {
    const char *name;
    const char *type;
    const char *help;
  } families[] = {
      [RECORDS] = {"signalbus_ring_records_total", "counter", "Records that were committed."},
      [DROPPED] = {"signalbus_ring_dropped_records_total", "counter",
                   "Records that were refused because the ring was full."},
      [WAITS] = {"signalbus_ring_waits_total", "counter",
                 "Times that the producer found the ring full."},
      [REJECTED] = {"signalbus_ring_rejected_positions_total", "counter",
                    "Impossible positions of the reader that were ignored."},
      [DEPTH] = {"signalbus_ring_depth_records", "gauge", "Records that the ring holds."},
      [LAG] = {"signalbus_ring_lag_records", "gauge",
               "Records that the reliable reader has not read yet; absent where there is none."},
      [AGE] = {"signalbus_ring_newest_age_seconds", "gauge",
               "Age of what the newest record is about; absent where records have no time."}};
  for (unsigned i = 0; i < BUS_COUNT_OF(families); i++) {
    begin_family(file, families[i].name, families[i].type, families[i].help);
    for (size_t j = 0; j < sample->item_count; j++) {
      const struct busctl_item *item = &sample->items[j];
      uint64_t value;
      if (item->type != BUS_OBJECT_RING || !ring_figure(&item->ring, i, &value) ||
          is_repeated(sample, item))
        continue;
      fputs(families[i].name, file);
      write_label(file, true, "member", sample->members[item->member].name);
      write_label(file, false, "ring", item->name);
      write_label(file, false, "consumer", item->peer);
      fputs("} ", file);
      if (i == AGE)
        write_seconds(file, value);
      else
        fprintf(file, "%" PRIu64, value);
      fputc('\n', file);
    }
  }
}

static void write_positions(FILE *file, const struct busctl_sample *sample)
{
  static const char name[] = "signalbus_position_lost_records_total";
  begin_family(file, name, "counter",
               "Records that were overwritten before this reliable reader had read them.");
  for (size_t i = 0; i < sample->item_count; i++) {
    const struct busctl_item *item = &sample->items[i];
    if (item->type != BUS_OBJECT_POSITION || is_repeated(sample, item))
      continue;
    fputs(name, file);
    write_label(file, true, "member", sample->members[item->member].name);
    write_label(file, false, "producer", item->peer);
    write_label(file, false, "ring", item->name);
    fprintf(file, "} %" PRIu64 "\n", item->lost);
  }
}

/* ---- counters and histograms, by their unit ---- */

enum unit { SECONDS, BYTES, OTHER };

static enum unit unit_of(const struct busctl_item *item)
{
  return !strcmp(item->unit, "ns") ? SECONDS : !strcmp(item->unit, "bytes") ? BYTES : OTHER;
}

static void write_item_labels(FILE *file, const struct busctl_sample *sample,
                              const struct busctl_item *item)
{
  write_label(file, true, "member", sample->members[item->member].name);
  write_label(file, false, "name", item->name);
  if (unit_of(item) == OTHER)
    write_label(file, false, "unit", item->unit);
}

static void write_value(FILE *file, enum unit unit, uint64_t value)
{
  if (unit == SECONDS)
    write_seconds(file, value);
  else
    fprintf(file, "%" PRIu64, value);
}

enum sort { RATE, LEVEL, MAXIMUM };

static enum sort sort_of(const struct busctl_item *item)
{
  return busctl_item_is_maximum(item)                           ? MAXIMUM
         : busctl_item_is_level(item) && unit_of(item) == OTHER ? LEVEL
                                                                : RATE;
}

static void write_counters(FILE *file, const struct busctl_sample *sample)
{
  static const struct {
    const char *name;
    const char *help;
    enum unit unit;
    enum sort sort;
  } families[] = {
      {"signalbus_member_events_total", "A member's counter.", OTHER, RATE},
      {"signalbus_member_bytes_total", "A member's counter of bytes.", BYTES, RATE},
      {"signalbus_member_seconds_total", "A member's counter of time.", SECONDS, RATE},
      {"signalbus_member_level", "How much there is now.", OTHER, LEVEL},
      {"signalbus_member_maximum", "The largest that the member has seen.", OTHER, MAXIMUM},
      {"signalbus_member_maximum_bytes", "The largest that the member has seen.", BYTES, MAXIMUM},
      {"signalbus_member_maximum_seconds", "The longest that the member has seen.", SECONDS,
       MAXIMUM},
  };
  for (size_t i = 0; i < BUS_COUNT_OF(families); i++) {
    begin_family(file, families[i].name, families[i].sort == RATE ? "counter" : "gauge",
                 families[i].help);
    for (size_t j = 0; j < sample->item_count; j++) {
      const struct busctl_item *item = &sample->items[j];
      if (item->type != BUS_OBJECT_COUNTER || unit_of(item) != families[i].unit ||
          sort_of(item) != families[i].sort || is_repeated(sample, item))
        continue;
      fputs(families[i].name, file);
      write_item_labels(file, sample, item);
      fputs("} ", file);
      write_value(file, families[i].unit, item->counter);
      fputc('\n', file);
    }
  }
}

/* Two to the octave, from 64 to 2^36: each ends where a bucket of the member's histogram does, so
 * that the counts are exact. */
#define FIRST_OCTAVE 6u
#define LAST_OCTAVE  36u

static uint64_t add_saturated(uint64_t a, uint64_t b)
{
  return a + b < a ? UINT64_MAX : a + b;
}

static void write_histogram(FILE *file, const char *name, const struct busctl_sample *sample,
                            const struct busctl_item *item, enum unit unit)
{
  const struct bus_histogram *histogram = item->histogram;
  uint64_t count = 0; /* of a hostile file it could wrap, and fall */
  uint32_t bucket = 0;
  for (unsigned half = 2 * FIRST_OCTAVE; half <= 2 * LAST_OCTAVE; half++) {
    uint64_t octave = (uint64_t)1 << (half / 2);
    uint64_t high = (half % 2 ? octave + octave / 2 : octave) - 1;
    for (; bus_histogram_bucket_high(bucket) <= high; bucket++)
      count = add_saturated(count, histogram->buckets[bucket]);
    fprintf(file, "%s_bucket", name);
    write_item_labels(file, sample, item);
    fputs(",le=\"", file);
    write_value(file, unit, high);
    fprintf(file, "\"} %" PRIu64 "\n", count);
  }
  for (; bucket < BUS_HISTOGRAM_BUCKETS; bucket++)
    count = add_saturated(count, histogram->buckets[bucket]);
  fprintf(file, "%s_bucket", name);
  write_item_labels(file, sample, item);
  fprintf(file, ",le=\"+Inf\"} %" PRIu64 "\n%s_sum", count, name);
  write_item_labels(file, sample, item);
  fputs("} ", file);
  write_value(file, unit, histogram->sum);
  fprintf(file, "\n%s_count", name);
  write_item_labels(file, sample, item);
  fprintf(file, "} %" PRIu64 "\n", count);
}

static void write_histograms(FILE *file, const struct busctl_sample *sample)
{
  static const struct {
    const char *name;
    const char *help;
  } families[] = {[SECONDS] = {"signalbus_latency_seconds", "A member's histogram of a time."},
                  [BYTES] = {"signalbus_size_bytes", "A member's histogram of a size."},
                  [OTHER] = {"signalbus_distribution", "A member's histogram of something else."}};
  for (unsigned unit = 0; unit < BUS_COUNT_OF(families); unit++) {
    begin_family(file, families[unit].name, "histogram", families[unit].help);
    for (size_t i = 0; i < sample->item_count; i++) {
      const struct busctl_item *item = &sample->items[i];
      if (item->type == BUS_OBJECT_HISTOGRAM && unit_of(item) == unit && !is_repeated(sample, item))
        write_histogram(file, families[unit].name, sample, item, unit);
    }
  }
}

static void write_bus(FILE *file, const char *directory, const struct busctl_sample *sample,
                      uint64_t age_ns)
{
  begin_family(file, "signalbus_info", "gauge", "Always 1; the release and the bus, as labels.");
  fputs("signalbus_info", file);
  write_label(file, true, "version", BUS_VERSION);
  write_label(file, false, "directory", directory);
  fputs("} 1\n", file);
  begin_family(file, "signalbus_up", "gauge", "1 when the bus directory can be read, else 0.");
  fprintf(file, "signalbus_up %d\n", sample != NULL);
  if (!sample)
    return;
  size_t foreign = 0;
  for (size_t i = 0; i < sample->member_count; i++)
    foreign += !sample->members[i].attached;
  begin_family(file, "signalbus_foreign_files", "gauge",
               "Files in the bus directory that are no members' or cannot be read.");
  fprintf(file, "signalbus_foreign_files %zu\n", foreign);
  begin_family(file, "signalbus_sample_age_seconds", "gauge", "Since these figures were read.");
  fputs("signalbus_sample_age_seconds ", file);
  write_seconds(file, age_ns);
  fputc('\n', file);
  begin_family(file, "signalbus_sample_duration_seconds", "gauge", "That it took to read the bus.");
  fputs("signalbus_sample_duration_seconds ", file);
  write_seconds(file, sample->lasted_ns);
  fputc('\n', file);
}

void metrics_text_write(FILE *file, const char *directory, const struct busctl_sample *sample,
                        uint64_t age_ns)
{
  write_bus(file, directory, sample, age_ns);
  if (!sample)
    return;
  write_member_info(file, sample);
  write_states(file, sample);
  write_members(file, sample);
  write_rings(file, sample);
  write_positions(file, sample);
  write_counters(file, sample);
  metrics_bridge_write(file, sample);
  write_histograms(file, sample);
}
