/* What two looks at a bus say about the time between. */
#include "tests/bus_fixture.h"
#include "tools/busctl_sample.h"

#include "shm/clock.h"

TestSuite(busctl_sample, .init = fixture_create, .fini = fixture_remove);

#define DEPTH 16u

static const struct bus_object_spec objects[] = {
    {.type = BUS_OBJECT_RING,
     .name = "features",
     .peer = "reader",
     .record_type = BUS_RECORD_FEATURE,
     .record_size = 128,
     .policy = BUS_POLICY_DROP_NEWEST,
     .depth = DEPTH},
    {.type = BUS_OBJECT_HISTOGRAM, .name = "wait_ns", .unit = "ns"},
    {.type = BUS_OBJECT_COUNTER, .name = "messages", .unit = "messages"},
    {.type = BUS_OBJECT_COUNTER, .name = "wait_ns_max", .unit = "ns"},
};

static const struct bus_object_spec reader_objects[] = {
    {.type = BUS_OBJECT_POSITION, .name = "features", .peer = "feed"}};

/* A feed with its producer, and a reader that the producer goes by. */
struct bench {
  struct bus_member *feed;
  struct bus_member *reader;
  struct bus_producer producer;
  struct bus_position *position;
  uint64_t *messages;
  uint64_t *maximum;
  struct bus_histogram *histogram;
  struct busctl_scan scan;
  struct busctl_sample before;
  struct busctl_sample now;
  struct busctl_view view;
};

static void open_bench(struct bench *bench)
{
  memset(bench, 0, sizeof *bench);
  struct bus_member *feed = bench->feed = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  bench->reader = fixture_member("reader", reader_objects, 1, 0);
  uint64_t instance = bus_member_header(feed)->instance;
  bus_producer_init(&bench->producer, bus_member_object(feed, BUS_OBJECT_RING, "features"),
                    bus_member_entry(feed, BUS_OBJECT_RING, "features"), instance);
  bench->position = bus_member_position(bench->reader, "feed", "features");
  bench->position->ring_instance = instance;
  bus_producer_connect(&bench->producer, bench->position,
                       bus_member_header(bench->reader)->instance);
  bench->messages = bus_member_object(feed, BUS_OBJECT_COUNTER, "messages");
  bench->maximum = bus_member_object(feed, BUS_OBJECT_COUNTER, "wait_ns_max");
  bench->histogram = bus_member_object(feed, BUS_OBJECT_HISTOGRAM, "wait_ns");
  bus_member_run(feed);
  bus_member_run(bench->reader);
  cr_assert_eq(busctl_scan_open(&bench->scan, fixture_directory), BUS_OK, "%s",
               bus_error_message());
}

static void close_bench(struct bench *bench)
{
  busctl_view_free(&bench->view);
  busctl_sample_free(&bench->before);
  busctl_sample_free(&bench->now);
  busctl_scan_close(&bench->scan);
  bus_member_leave(bench->feed, BUS_STATE_HALT);
  bus_member_leave(bench->reader, BUS_STATE_HALT);
}

static void publish(struct bench *bench, unsigned count, uint64_t time_ns)
{
  struct bus_feature feature = {.timestamp_ns = time_ns};
  for (unsigned i = 0; i < count; i++)
    bus_producer_publish(&bench->producer, &feature);
  bus_producer_report(&bench->producer);
}

static void take(struct bench *bench, struct busctl_sample *sample)
{
  cr_assert_eq(busctl_scan_refresh(&bench->scan), BUS_OK);
  cr_assert_eq(busctl_sample_take(sample, &bench->scan), BUS_OK);
}

/* As if exactly two seconds lay between. */
static void compare(struct bench *bench)
{
  bench->now.taken_ns = bench->before.taken_ns + 2000000000u;
  cr_assert_eq(busctl_view_make(&bench->view, &bench->now, &bench->before), BUS_OK);
}

static const struct busctl_change *find(const struct bench *bench, uint32_t type, const char *name)
{
  for (size_t i = 0; i < bench->now.item_count; i++)
    if (bench->view.changes[i].item->type == type &&
        !strcmp(bench->view.changes[i].item->name, name))
      return &bench->view.changes[i];
  cr_assert(false, "no %s", name);
  return NULL;
}

Test(busctl_sample, rates_of_rings_and_counters)
{
  struct bench bench;
  open_bench(&bench);
  publish(&bench, 6, bus_clock_monotonic_ns());
  bus_counter_set(bench.messages, 100);
  bus_counter_set(bench.maximum, 5);
  take(&bench, &bench.before);
  publish(&bench, 13, bus_clock_monotonic_ns()); /* 10 fit */
  BUS_STORE_RELEASE(&bench.position->position, 4);
  bus_counter_set(bench.messages, 150);
  bus_counter_set(bench.maximum, 7);
  take(&bench, &bench.now);
  compare(&bench);
  const struct busctl_change *ring = find(&bench, BUS_OBJECT_RING, "features");
  cr_expect_eq(ring->item->ring.committed, 16);
  cr_expect_eq(ring->item->ring.depth, DEPTH);
  cr_expect(ring->item->ring.lag_known && ring->item->ring.lag == 12);
  cr_expect_eq(ring->ring.records_per_s, 5.0);
  cr_expect_eq(ring->item->ring.dropped, 3);
  cr_expect_eq(ring->ring.dropped_per_s, 1.5);
  cr_expect(ring->changed);
  cr_expect_eq(find(&bench, BUS_OBJECT_COUNTER, "messages")->counter_per_s, 25.0);
  const struct busctl_change *maximum = find(&bench, BUS_OBJECT_COUNTER, "wait_ns_max");
  cr_expect(busctl_item_is_maximum(maximum->item) && maximum->changed);
  cr_expect_eq(maximum->counter_per_s, 0);
  close_bench(&bench);
}

Test(busctl_sample, the_interval_of_a_histogram_holds_only_what_came_in_it)
{
  struct bench bench;
  open_bench(&bench);
  for (int i = 0; i < 1000; i++)
    bus_histogram_record(bench.histogram, 1000000);
  take(&bench, &bench.before);
  for (int i = 0; i < 99; i++)
    bus_histogram_record(bench.histogram, 100);
  bus_histogram_record(bench.histogram, 5000);
  take(&bench, &bench.now);
  compare(&bench);
  const struct busctl_change *change = find(&bench, BUS_OBJECT_HISTOGRAM, "wait_ns");
  cr_expect_eq(change->item->histogram->count, 1100);
  cr_expect_eq(change->interval->count, 100);
  cr_expect_eq(bus_histogram_quantile(change->interval, 0.5), 100);
  cr_expect_eq(bus_histogram_quantile(change->interval, 0.99), 100);
  uint64_t slowest = bus_histogram_quantile(change->interval, 1);
  cr_expect(slowest >= 5000 && slowest < 5000 + 5000 / 64 + 1, "%llu", (unsigned long long)slowest);
  cr_expect_eq(bus_histogram_quantile(change->item->histogram, 0.5), 1000000);
  close_bench(&bench);
}

Test(busctl_sample, what_is_new_counts_from_nothing_and_what_fell_was_reset)
{
  struct bench bench;
  open_bench(&bench);
  bus_counter_set(bench.messages, 1000);
  take(&bench, &bench.before);
  bus_counter_set(bench.messages, 10);
  struct bus_member *late = fixture_member("late", objects, BUS_COUNT_OF(objects), 0);
  bus_counter_set(bus_member_object(late, BUS_OBJECT_COUNTER, "messages"), 40);
  take(&bench, &bench.now);
  compare(&bench);
  cr_expect_eq(find(&bench, BUS_OBJECT_COUNTER, "messages")->counter_per_s, 5.0);
  double late_per_s = 0;
  for (size_t i = 0; i < bench.now.item_count; i++)
    if (!strcmp(bench.view.changes[i].member->name, "late") &&
        !strcmp(bench.view.changes[i].item->name, "messages"))
      late_per_s = bench.view.changes[i].counter_per_s;
  cr_expect_eq(late_per_s, 20.0);
  bus_member_leave(late, BUS_STATE_HALT);
  close_bench(&bench);
}

Test(busctl_sample, the_newest_record_has_an_age)
{
  struct bench bench;
  open_bench(&bench);
  take(&bench, &bench.before);
  compare(&bench);
  busctl_view_free(&bench.view);
  uint64_t time_ns = bus_clock_monotonic_ns() - 3000000000u;
  publish(&bench, 3, time_ns);
  take(&bench, &bench.now);
  compare(&bench);
  const struct busctl_ring *ring = &find(&bench, BUS_OBJECT_RING, "features")->item->ring;
  cr_expect(ring->age_known && ring->newest_age_ns >= 3000000000u);
  /* Of another clock: not an age. */
  busctl_view_free(&bench.view);
  busctl_sample_free(&bench.now);
  publish(&bench, 1, UINT64_MAX / 2);
  take(&bench, &bench.now);
  compare(&bench);
  ring = &find(&bench, BUS_OBJECT_RING, "features")->item->ring;
  cr_expect_not(ring->age_known);
  cr_expect_eq(ring->newest_age_ns, 0);
  close_bench(&bench);
}

Test(busctl_sample, files_of_others_and_the_dead_are_shown)
{
  struct bench bench;
  open_bench(&bench);
  FILE *file = fopen(fixture_path("notes\033.txt"), "w");
  fputs("x", file);
  fclose(file);
  bus_member_leave(bench.reader, BUS_STATE_FAIL);
  take(&bench, &bench.now);
  cr_assert_eq(bench.now.member_count, 3);
  cr_expect(bench.now.members[0].attached && bench.now.members[0].status == BUS_NEIGHBOUR_ALIVE);
  cr_expect_eq(bench.now.members[0].epoch, 1);
  cr_expect_str_eq(bench.now.members[1].name, "notes?.txt");
  cr_expect_not(bench.now.members[1].attached);
  cr_expect(strlen(bench.now.members[1].reason) > 0);
  cr_expect_eq(bench.now.members[2].status, BUS_NEIGHBOUR_DEAD);
  cr_expect_eq(bench.now.members[2].state, BUS_STATE_FAIL);
  /* A sample outlives its scan and its members' files. */
  busctl_scan_close(&bench.scan);
  unlink(fixture_path("feed"));
  cr_expect_str_eq(bench.now.members[0].name, "feed");
  cr_assert_eq(busctl_view_make(&bench.view, &bench.now, &bench.now), BUS_OK);
  cr_expect_eq(find(&bench, BUS_OBJECT_RING, "features")->ring.records_per_s, 0);
  busctl_view_free(&bench.view);
  busctl_sample_free(&bench.now);
  bus_member_leave(bench.feed, BUS_STATE_HALT);
}

/* Questions to language models have an age since they were asked, answers since they were given. */
Test(busctl_sample, questions_and_answers_have_an_age)
{
  static const struct bus_object_spec rings[] = {{.type = BUS_OBJECT_RING,
                                                  .name = "asked",
                                                  .record_type = BUS_RECORD_LLM_REQUEST,
                                                  .record_size = 192,
                                                  .policy = BUS_POLICY_OVERWRITE,
                                                  .depth = DEPTH},
                                                 {.type = BUS_OBJECT_RING,
                                                  .name = "answered",
                                                  .record_type = BUS_RECORD_LLM_REPLY,
                                                  .record_size = 192,
                                                  .policy = BUS_POLICY_OVERWRITE,
                                                  .depth = DEPTH}};
  struct bench bench;
  open_bench(&bench);
  struct bus_member *asker = fixture_member("asker", rings, BUS_COUNT_OF(rings), 0);
  bus_member_run(asker);
  take(&bench, &bench.before);
  const uint64_t time_ns = bus_clock_monotonic_ns() - 3000000000u;
  for (size_t i = 0; i < BUS_COUNT_OF(rings); i++) {
    struct bus_producer producer;
    bus_producer_init(&producer, bus_member_object(asker, BUS_OBJECT_RING, rings[i].name),
                      bus_member_entry(asker, BUS_OBJECT_RING, rings[i].name),
                      bus_member_header(asker)->instance);
    void *slot = bus_producer_reserve(&producer);
    if (i == 0)
      *(struct bus_llm_request *)slot = (struct bus_llm_request){.submitted_ns = time_ns};
    else
      *(struct bus_llm_reply *)slot = (struct bus_llm_reply){.done_ns = time_ns};
    bus_producer_commit(&producer);
    bus_producer_report(&producer);
  }
  take(&bench, &bench.now);
  compare(&bench);
  for (size_t i = 0; i < BUS_COUNT_OF(rings); i++) {
    const struct busctl_ring *ring = &find(&bench, BUS_OBJECT_RING, rings[i].name)->item->ring;
    cr_expect(ring->age_known && ring->newest_age_ns >= 3000000000u, "%s", rings[i].name);
  }
  bus_member_leave(asker, BUS_STATE_HALT);
  close_bench(&bench);
}
