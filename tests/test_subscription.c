#include "bus_fixture.h"

#include "shm/error.h"

TestSuite(subscription, .init = fixture_create, .fini = fixture_remove, .timeout = 60);

static const struct bus_object_spec ring_spec[] = {{.type = BUS_OBJECT_RING,
                                                    .name = "features",
                                                    .peer = "infer",
                                                    .record_type = BUS_RECORD_FEATURE,
                                                    .record_size = 128,
                                                    .policy = BUS_POLICY_WAIT,
                                                    .depth = 8}};
static const struct bus_object_spec position_spec[] = {
    {.type = BUS_OBJECT_POSITION, .name = "features", .peer = "feed"}};

struct feed {
  struct bus_member *member;
  struct bus_producer producer;
  struct bus_backlink backlink;
};

static void feed_start(struct feed *feed)
{
  feed->member = fixture_member("feed", ring_spec, 1, 0);
  const struct bus_entry *entry = bus_member_entry(feed->member, BUS_OBJECT_RING, "features");
  bus_producer_init(&feed->producer, bus_member_object(feed->member, BUS_OBJECT_RING, "features"),
                    entry, bus_member_header(feed->member)->instance);
  cr_assert_eq(
      bus_backlink_init(&feed->backlink, fixture_directory, "feed", entry, &feed->producer),
      BUS_OK);
}

static void feed_stop(struct feed *feed, uint32_t state)
{
  bus_backlink_close(&feed->backlink);
  bus_member_leave(feed->member, state);
}

static bool feed_write(struct feed *feed, uint32_t value)
{
  struct bus_feature *feature = bus_producer_reserve(&feed->producer);
  if (!feature)
    return false;
  feature->update = value;
  bus_producer_commit(&feed->producer);
  return true;
}

static void expect(struct bus_subscription *subscription, uint32_t from, uint32_t to)
{
  for (uint32_t value = from; value < to; value++) {
    const struct bus_feature *feature = bus_consumer_poll(&subscription->consumer);
    cr_assert_not_null(feature, "record %u", value);
    cr_assert_eq(feature->update, value);
    bus_consumer_release(&subscription->consumer);
  }
  cr_assert_null(bus_consumer_poll(&subscription->consumer));
}

Test(subscription, joins_in_any_order_and_over_restarts)
{
  struct feed feed;
  struct bus_subscription subscription;
  struct bus_member *infer = fixture_member("infer", position_spec, 1, 0);
  struct bus_position *position = bus_member_position(infer, "feed", "features");
  cr_assert_eq(bus_subscription_init(&subscription, fixture_directory, "feed", "features",
                                     BUS_RECORD_FEATURE, 128, infer),
               BUS_OK);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_ABSENT);

  feed_start(&feed);
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), 1, "%s", bus_error_message());
  for (uint32_t i = 0; i < 8; i++)
    cr_assert(feed_write(&feed, i));
  cr_assert_not(feed_write(&feed, 8), "full: the consumer has not read yet");
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 1);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 0);
  expect(&subscription, 0, 8);
  cr_assert(feed_write(&feed, 8));
  expect(&subscription, 8, 9);

  /* The feed dies and is taken over: the same file, nothing to do for the reader. */
  feed_stop(&feed, BUS_STATE_RUN);
  feed_start(&feed);
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), 1);
  cr_assert_eq(feed.producer.next, 9);
  cr_assert(feed_write(&feed, 9));
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 0);
  expect(&subscription, 9, 10);

  /* The feed's file is replaced: the reader joins the new one from its start. */
  feed_stop(&feed, BUS_STATE_HALT);
  cr_assert_eq(bus_member_delete(fixture_directory, "feed"), BUS_OK);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_ABSENT);
  feed_start(&feed);
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), 1);
  cr_assert(feed_write(&feed, 50));
  cr_assert_eq(bus_subscription_maintain(&subscription, 33), 1);
  cr_assert_eq(position->output_floor, 33);
  expect(&subscription, 50, 51);

  /* The consumer's file goes: the producer keeps what was not read, and joins the successor. */
  bus_subscription_close(&subscription);
  bus_member_leave(infer, BUS_STATE_HALT);
  cr_assert_eq(bus_member_delete(fixture_directory, "infer"), BUS_OK);
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), BUS_ERROR_ABSENT);
  for (uint32_t i = 51; i < 51 + 8; i++)
    cr_assert(feed_write(&feed, i));
  cr_assert_not(feed_write(&feed, 59));
  feed_stop(&feed, BUS_STATE_HALT);
}

/* A consumer whose file was replaced while its producer lives: until the producer has connected the
 * new file it goes by the old one, and overwrites what lies before the old position. */
Test(subscription, a_replaced_consumer_waits_for_its_producer)
{
  struct feed feed;
  struct bus_subscription subscription;
  struct bus_member *infer = fixture_member("infer", position_spec, 1, 0);
  bus_subscription_init(&subscription, fixture_directory, "feed", "features", BUS_RECORD_FEATURE,
                        128, infer);
  feed_start(&feed);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_NOT_READY);
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), 1);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 1);
  for (uint32_t i = 0; i < 8; i++)
    cr_assert(feed_write(&feed, i));
  expect(&subscription, 0, 8);
  cr_assert(feed_write(&feed, 8)); /* the producer knows of position 8 now */

  bus_subscription_close(&subscription);
  bus_member_leave(infer, BUS_STATE_HALT);
  cr_assert_eq(bus_member_delete(fixture_directory, "infer"), BUS_OK);
  infer = fixture_member("infer", position_spec, 1, 0);
  bus_subscription_init(&subscription, fixture_directory, "feed", "features", BUS_RECORD_FEATURE,
                        128, infer);
  uint64_t *slot =
      bus_producer_reserve(&feed.producer); /* where record 1 still is, its stamp too */
  slot[0] = 0xdead;
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_NOT_READY);
  cr_assert_not_null(strstr(bus_error_message(), "not connected"));
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), 1);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 1);
  expect(&subscription, 8, 9);
  cr_assert(feed_write(&feed, 9));
  expect(&subscription, 9, 10);

  /* A dead producer overwrites nothing: what it had not accepted as consumed is read. */
  cr_assert(feed_write(&feed, 10));
  bus_subscription_close(&subscription);
  bus_member_leave(infer, BUS_STATE_HALT);
  cr_assert_eq(bus_member_delete(fixture_directory, "infer"), BUS_OK);
  feed_stop(&feed, BUS_STATE_RUN);
  infer = fixture_member("infer", position_spec, 1, 0);
  bus_subscription_init(&subscription, fixture_directory, "feed", "features", BUS_RECORD_FEATURE,
                        128, infer);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 1, "%s", bus_error_message());
  expect(&subscription, 10, 11);
  bus_subscription_close(&subscription);
  bus_member_leave(infer, BUS_STATE_HALT);
}

Test(subscription, refuses_a_ring_that_does_not_hold_back_for_it)
{
  static const struct bus_object_spec others[] = {
      {.type = BUS_OBJECT_POSITION, .name = "features", .peer = "feed"}};
  struct feed feed;
  struct bus_subscription subscription;
  struct bus_member *other = fixture_member("other", others, 1, 0);
  feed_start(&feed);
  bus_subscription_init(&subscription, fixture_directory, "feed", "features", BUS_RECORD_FEATURE,
                        128, other);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "for infer, not for 'other'"), "%s",
                     bus_error_message());
  cr_assert_eq(bus_subscription_init(&subscription, fixture_directory, "feed", "none",
                                     BUS_RECORD_FEATURE, 128, other),
               BUS_ERROR_INVALID);
  feed_stop(&feed, BUS_STATE_HALT);
  bus_member_leave(other, BUS_STATE_HALT);
}

Test(subscription, refuses_another_record_type)
{
  struct feed feed;
  struct bus_subscription subscription;
  feed_start(&feed);
  cr_assert_eq(bus_subscription_init(&subscription, fixture_directory, "feed", "features",
                                     BUS_RECORD_SIGNAL, 64, NULL),
               BUS_OK);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_VERSION);
  cr_assert_not_null(strstr(bus_error_message(), "feature"));
  bus_subscription_init(&subscription, fixture_directory, "feed", "nothing", BUS_RECORD_FEATURE,
                        128, NULL);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), BUS_ERROR_ABSENT);
  cr_assert_eq(bus_backlink_maintain(&feed.backlink), BUS_ERROR_ABSENT);
  feed_stop(&feed, BUS_STATE_HALT);
}

Test(subscription, an_observer_holds_nobody_back)
{
  struct feed feed;
  struct bus_subscription subscription;
  struct bus_feature feature;
  struct bus_member *infer = fixture_member("infer", position_spec, 1, 0);
  struct bus_position *position = bus_member_position(infer, "feed", "features");
  feed_start(&feed);
  bus_backlink_maintain(&feed.backlink);
  bus_subscription_init(&subscription, fixture_directory, "feed", "features", BUS_RECORD_FEATURE,
                        128, NULL);
  cr_assert_eq(bus_subscription_maintain(&subscription, 0), 1);
  position->ring_instance = bus_member_header(feed.member)->instance;
  for (uint32_t i = 0; i < 40; i++) {
    position->position = i;
    cr_assert(feed_write(&feed, i));
  }
  cr_assert_eq(bus_observer_poll(&subscription.observer, &feature), BUS_ERROR_OVERRUN);
  cr_assert_eq(subscription.observer.lost, 36);
  cr_assert_eq(bus_observer_poll(&subscription.observer, &feature), 1);
  cr_assert_eq(feature.update, 36);
  bus_subscription_close(&subscription);
  feed_stop(&feed, BUS_STATE_HALT);
  bus_member_leave(infer, BUS_STATE_HALT);
}
