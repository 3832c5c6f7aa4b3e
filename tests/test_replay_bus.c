#include "bus_fixture.h"

#include "tools/replay_bus.h"

#include "shm/board.h"
#include "shm/subscription.h"
#include "shm/symbols.h"

#include <sys/wait.h>

TestSuite(replay_bus, .init = fixture_create, .fini = fixture_remove, .timeout = 60);

static const struct bus_object_spec consumer_objects[] = {
    {.type = BUS_OBJECT_POSITION, .name = "features", .peer = "feed"}};

static struct replay_channel channels[] = {
    {.member = "feed",
     .ring = "features",
     .peer = "infer",
     .record_type = BUS_RECORD_FEATURE,
     .record_size = sizeof(struct bus_feature),
     .policy = BUS_POLICY_WAIT,
     .depth = 8,
     .first = 1000},
    {.member = "feed",
     .ring = "notes",
     .record_type = BUS_RECORD_RAW,
     .record_size = 64,
     .policy = BUS_POLICY_OVERWRITE,
     .depth = 16,
     .first = 5},
    {.member = "old-infer",
     .ring = "signals",
     .record_type = BUS_RECORD_SIGNAL,
     .record_size = sizeof(struct bus_signal),
     .policy = BUS_POLICY_OVERWRITE,
     .depth = 16,
     .first = 0,
     .inputs = {"feed"},
     .input_count = 1},
};

static struct replay_bus *open_bus(void)
{
  struct replay_bus_config config = {.source = "a test"};
  bus_member_options_init(&config.options, "");
  config.options.directory = fixture_directory;
  struct replay_bus *bus;
  cr_assert_eq(replay_bus_open(&config, channels, BUS_COUNT_OF(channels), &bus), BUS_OK, "%s",
               bus_error_message());
  return bus;
}

static void put(struct replay_bus *bus, uint32_t channel, uint64_t value)
{
  uint64_t *slot = bus_producer_reserve(replay_bus_producer(bus, channel));
  cr_assert(slot);
  slot[0] = value;
  bus_producer_commit(replay_bus_producer(bus, channel));
}

Test(replay_bus, rings_are_those_of_the_capture)
{
  struct replay_bus *bus = open_bus();
  replay_bus_run(bus);
  struct bus_neighbour *feed;
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", false, &feed), BUS_OK, "%s",
               bus_error_message());
  const struct bus_entry *ring = bus_neighbour_find(feed, BUS_OBJECT_RING, "features");
  cr_assert_eq(ring->depth, 8);
  cr_assert_eq(ring->policy, BUS_POLICY_WAIT);
  cr_assert_str_eq(ring->peer, "infer");
  cr_assert_eq(bus_ring_head(bus_neighbour_object(feed, ring), ring), 1000);
  ring = bus_neighbour_find(feed, BUS_OBJECT_RING, "notes");
  cr_assert_eq(ring->policy, BUS_POLICY_OVERWRITE);
  cr_assert_eq(bus_ring_head(bus_neighbour_object(feed, ring), ring), 5);
  bus_neighbour_detach(feed);
  replay_bus_close(bus, BUS_STATE_HALT);
}

Test(replay_bus, a_consumer_gets_every_record_at_its_position)
{
  struct replay_bus *bus = open_bus();
  struct bus_member *infer =
      fixture_member("infer", consumer_objects, BUS_COUNT_OF(consumer_objects), 0);
  bus_member_run(infer);
  replay_bus_run(bus);
  cr_assert_eq(replay_bus_consumer(bus, 0), REPLAY_CONSUMER_ALIVE);
  cr_assert_eq(replay_bus_consumer(bus, 1), REPLAY_CONSUMER_NONE);
  struct bus_subscription subscription;
  cr_assert_eq(bus_subscription_init(&subscription, fixture_directory, "feed", "features",
                                     BUS_RECORD_FEATURE, sizeof(struct bus_feature), infer),
               BUS_OK);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 1, "%s", bus_error_message());
  for (uint64_t i = 0; i < 8; i++)
    put(bus, 0, i);
  cr_assert_null(bus_producer_reserve(replay_bus_producer(bus, 0)), "full");
  cr_assert_eq(replay_bus_unread(bus, 0), 8);
  for (uint64_t i = 0; i < 8; i++) {
    const uint64_t *record = bus_consumer_poll(&subscription.consumer);
    cr_assert(record);
    cr_assert_eq(record[0], i);
    cr_assert_eq(record[15], 1000 + i + 1);
    bus_consumer_release(&subscription.consumer);
  }
  cr_assert_null(bus_consumer_poll(&subscription.consumer));
  cr_assert_eq(replay_bus_unread(bus, 0), 0);
  replay_bus_keep_house(bus, 1);
  cr_assert_eq(*replay_bus_counter(bus, 0, "records"), 8);
  bus_subscription_close(&subscription);
  bus_member_leave(infer, BUS_STATE_HALT);
  replay_bus_keep_house(bus, 2);
  cr_assert_eq(replay_bus_consumer(bus, 0), REPLAY_CONSUMER_DEAD);
  cr_assert_eq(bus_member_delete(fixture_directory, "infer"), BUS_OK);
  replay_bus_keep_house(bus, 3);
  cr_assert_eq(replay_bus_consumer(bus, 0), REPLAY_CONSUMER_ABSENT);
  replay_bus_close(bus, BUS_STATE_HALT);
}

Test(replay_bus, symbols_and_boards_are_there)
{
  struct replay_bus *bus = open_bus();
  const struct bus_symbol symbol = {.name = "BTCUSDT", .price_exponent = -2};
  for (uint32_t i = 0; i < BUS_COUNT_OF(channels); i++)
    for (int twice = 0; twice < 2; twice++)
      cr_assert_eq(replay_bus_add_symbol(bus, i, 0, &symbol), BUS_OK);
  struct bus_signal signal = {.timestamp_ns = 77, .symbol = 3};
  replay_bus_show(bus, 2, &signal);
  signal.source = 1;
  replay_bus_show(bus, 2, &signal);
  signal = (struct bus_signal){.symbol = 65535};
  replay_bus_show(bus, 2, &signal);
  replay_bus_run(bus);
  for (uint32_t i = 0; i < 2; i++) {
    struct bus_neighbour *member;
    cr_assert_eq(bus_neighbour_attach(fixture_directory, i ? "old-infer" : "feed", false, &member),
                 BUS_OK);
    const struct bus_entry *table =
        bus_neighbour_find(member, BUS_OBJECT_SYMBOLS, i ? "feed" : "symbols");
    struct bus_symbol read;
    cr_assert_eq(bus_symbols_count(bus_neighbour_object(member, table), table), 1);
    cr_assert_eq(bus_symbols_get(bus_neighbour_object(member, table), table, 0, &read), BUS_OK);
    cr_assert_str_eq(read.name, "BTCUSDT");
    const struct bus_entry *board = bus_neighbour_find(member, BUS_OBJECT_BOARD, "feed");
    cr_assert_eq(board != NULL, i == 1);
    if (board) {
      const struct bus_signal *slots = bus_neighbour_object(member, board);
      cr_assert_eq(bus_board_read(&slots[3], &signal), 1);
      cr_assert_eq(signal.timestamp_ns, 77);
      cr_assert_eq(bus_board_read(&slots[2], &signal), 0);
    }
    bus_neighbour_detach(member);
  }
  replay_bus_close(bus, BUS_STATE_HALT);
}

Test(replay_bus, drop_newest_waits)
{
  channels[0].policy = BUS_POLICY_DROP_NEWEST;
  struct replay_bus *bus = open_bus();
  for (uint64_t i = 0; i < 8; i++)
    put(bus, 0, i);
  cr_assert_null(bus_producer_reserve(replay_bus_producer(bus, 0)));
  cr_assert_eq(replay_bus_producer(bus, 0)->header->dropped, 0);
  replay_bus_close(bus, BUS_STATE_HALT);
}

Test(replay_bus, a_ring_without_its_consumer_overwrites)
{
  channels[0].peer = NULL;
  struct replay_bus *bus = open_bus();
  for (uint64_t i = 0; i < 100; i++)
    put(bus, 0, i);
  cr_assert_eq(replay_bus_unread(bus, 0), 0);
  replay_bus_close(bus, BUS_STATE_HALT);
}

Test(replay_bus, a_living_member_keeps_its_name)
{
  struct bus_member *feed = fixture_member("feed", consumer_objects, 1, 0);
  struct replay_bus_config config = {.source = "a test"};
  bus_member_options_init(&config.options, "");
  config.options.directory = fixture_directory;
  pid_t child = fork(); /* a process does not refuse itself */
  if (child == 0) {
    struct replay_bus *bus;
    int error = replay_bus_open(&config, channels, BUS_COUNT_OF(channels), &bus);
    _exit(error == BUS_ERROR_BUSY && strstr(bus_error_message(), "--as feed=NAME") ? 0 : 1);
  }
  int status;
  cr_assert_eq(waitpid(child, &status, 0), child);
  cr_assert_eq(status, 0);
  bus_member_leave(feed, BUS_STATE_HALT);
}

Test(replay_bus, hostile_sizes_are_refused)
{
  static const struct {
    uint64_t depth;
    uint32_t record_size;
  } cases[] = {{7, 128}, {0, 128}, {(uint64_t)1 << 40, 128}, {8, 100}, {8, 0}, {2, 64}};
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++) {
    struct replay_channel channel = channels[0];
    channel.depth = cases[i].depth;
    channel.record_size = cases[i].record_size;
    struct replay_bus_config config = {.source = "a test"};
    bus_member_options_init(&config.options, "");
    config.options.directory = fixture_directory;
    struct replay_bus *bus;
    cr_assert_lt(replay_bus_open(&config, &channel, 1, &bus), 0, "case %zu", i);
    cr_assert_null(bus);
    cr_assert_neq(bus_error_message()[0], '\0');
  }
}
