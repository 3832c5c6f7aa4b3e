#include "rig.h"

#include <string.h>
#include <unistd.h>

#define AUTHOR_BEFORE 1u
#define AUTHOR_AFTER  2u

struct rig_spec rig_spec = {.record_size = 64, .policy = BUS_POLICY_WAIT, .depth = 8};

int rig_producer_new(struct bus_member **member)
{
  struct bus_object_spec ring = {.type = BUS_OBJECT_RING,
                                 .name = "r",
                                 .peer = rig_spec.policy == BUS_POLICY_OVERWRITE ? NULL : "c",
                                 .record_type = BUS_RECORD_RAW,
                                 .record_size = rig_spec.record_size,
                                 .policy = rig_spec.policy,
                                 .depth = rig_spec.depth};
  struct bus_member_config config = {.directory = lab_directory,
                                     .name = "p",
                                     .kind = "fault",
                                     .objects = &ring,
                                     .object_count = 1,
                                     .numa_node = -1,
                                     .core = -1,
                                     .small_pages = true};
  return bus_member_new(&config, member);
}

int rig_consumer_new(struct bus_member **member)
{
  struct bus_object_spec position = {.type = BUS_OBJECT_POSITION, .name = "r", .peer = "p"};
  struct bus_member_config config = {.directory = lab_directory,
                                     .name = "c",
                                     .kind = "fault",
                                     .objects = &position,
                                     .object_count = 1,
                                     .numa_node = -1,
                                     .core = -1,
                                     .small_pages = true};
  return bus_member_new(&config, member);
}

void rig_producer_open(struct rig_producer *side)
{
  memset(side, 0, sizeof *side);
  LAB_CHECK(rig_producer_new(&side->member) == BUS_OK, "producer: %s", bus_error_message());
  side->entry = bus_member_entry(side->member, BUS_OBJECT_RING, "r");
  side->ring = bus_member_object(side->member, BUS_OBJECT_RING, "r");
  bus_producer_init(&side->producer, side->ring, side->entry,
                    bus_member_header(side->member)->instance);
  LAB_CHECK(bus_backlink_init(&side->backlink, lab_directory, "p", side->entry, &side->producer) ==
                BUS_OK,
            "back link: %s", bus_error_message());
  bus_backlink_maintain(&side->backlink);
  bus_member_run(side->member);
}

void rig_consumer_open(struct rig_consumer *side)
{
  memset(side, 0, sizeof *side);
  LAB_CHECK(rig_consumer_new(&side->member) == BUS_OK, "consumer: %s", bus_error_message());
  side->position = bus_member_position(side->member, "p", "r");
  LAB_CHECK(bus_subscription_init(&side->subscription, lab_directory, "p", "r", BUS_RECORD_RAW,
                                  rig_spec.record_size, side->member) == BUS_OK,
            "subscription: %s", bus_error_message());
  bus_subscription_maintain(&side->subscription, 0);
  bus_member_run(side->member);
}

void rig_join(struct rig_producer *p, struct rig_consumer *c)
{
  bus_backlink_maintain(&p->backlink);
  LAB_CHECK(p->backlink.neighbour, "the producer cannot attach: %s", bus_error_message());
  bus_subscription_maintain(&c->subscription, 0);
  LAB_CHECK(c->subscription.neighbour, "the consumer cannot attach: %s", bus_error_message());
}

void rig_pair_open(struct rig_producer *p, struct rig_consumer *c)
{
  rig_producer_open(p);
  rig_consumer_open(c);
  rig_join(p, c);
}

void rig_producer_abandon(struct rig_producer *side)
{
  bus_neighbour_detach(side->backlink.neighbour);
  bus_member_leave(side->member, BUS_STATE_RUN);
}

void rig_consumer_abandon(struct rig_consumer *side)
{
  bus_neighbour_detach(side->subscription.neighbour);
  bus_member_leave(side->member, BUS_STATE_RUN);
}

void rig_producer_close(struct rig_producer *side)
{
  bus_backlink_close(&side->backlink);
  bus_member_leave(side->member, BUS_STATE_HALT);
}

void rig_consumer_close(struct rig_consumer *side)
{
  bus_subscription_close(&side->subscription);
  bus_member_leave(side->member, BUS_STATE_HALT);
}

bool rig_consume(struct bus_consumer *consumer, uint32_t record_size)
{
  const void *record = op_poll(consumer);
  if (!record)
    return false;
  LAB_CHECK(record_is_whole(record, consumer->next, record_size),
            "the consumer got a torn or foreign record at position %llu",
            (unsigned long long)consumer->next);
  BUS_STORE_RELEASE(&lab_control->read, consumer->next + 1);
  op_release(consumer);
  return true;
}

struct rig_truth rig_truth_now(void)
{
  return (struct rig_truth){
      .begun = lab_control->begun, .committed = lab_control->committed, .read = lab_control->read};
}

/* Both sides have just restarted: what they know must fit what happened. */
static void check_resumed(const struct bus_producer *producer, const struct bus_consumer *consumer,
                          const struct bus_position *position, struct rig_truth truth,
                          uint64_t lag_max)
{
  LAB_CHECK(producer->next >= truth.committed,
            "committed record lost: %llu were committed, the successor goes on at %llu",
            (unsigned long long)truth.committed, (unsigned long long)producer->next);
  LAB_CHECK(producer->next <= truth.begun || producer->next == truth.committed,
            "a record that was never written counts: %llu begun, the successor goes on at %llu",
            (unsigned long long)truth.begun, (unsigned long long)producer->next);
  LAB_CHECK(consumer->next <= truth.read,
            "unread record skipped: %llu were read, the consumer goes on at %llu",
            (unsigned long long)truth.read, (unsigned long long)consumer->next);
  LAB_CHECK(truth.read - consumer->next <= lag_max,
            "the consumer sees %llu records again, more than %llu",
            (unsigned long long)(truth.read - consumer->next), (unsigned long long)lag_max);
  LAB_CHECK(position->lost == 0, "%llu records counted as lost",
            (unsigned long long)position->lost);
}

/* With no consumer connected, all that no producer has accepted as consumed counts as unread. */
static void check_alone(const struct bus_producer *producer, struct rig_truth truth)
{
  struct bus_producer alone = *producer;
  uint64_t room = producer->next < producer->depth ? producer->depth - producer->next : 0;
  for (uint64_t i = 0; i < room; i++, alone.next++)
    LAB_CHECK(op_reserve(&alone), "no room before there is a consumer");
  while (op_reserve(&alone)) {
    LAB_CHECK(alone.next - truth.read < producer->depth,
              "unread records are overwritten before there is a consumer");
    alone.next++;
  }
}

static void read_and_check(struct bus_consumer *consumer, const struct bus_entry *entry,
                           uint64_t head)
{
  const void *record = op_poll(consumer);
  LAB_CHECK(record, "record %llu has gone", (unsigned long long)consumer->next);
  LAB_CHECK(record_is_whole(record, consumer->next, entry->record_size),
            "record %llu is torn or foreign", (unsigned long long)consumer->next);
  uint64_t author = consumer->next < head ? AUTHOR_BEFORE : AUTHOR_AFTER;
  LAB_CHECK(record_author(record) == author, "record %llu was written twice",
            (unsigned long long)consumer->next);
  op_release(consumer);
}

/* An observer that starts now reads what is there; at most the oldest record is beyond it. */
static void check_observer(const struct bus_entry *entry, const void *ring, uint64_t head)
{
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  struct bus_observer observer;
  bus_observer_init(&observer, ring, entry, true);
  uint64_t oldest = head > entry->depth ? head - entry->depth : 0;
  LAB_CHECK(observer.next - oldest <= 1, "the observer starts at %llu, the oldest is %llu",
            (unsigned long long)observer.next, (unsigned long long)oldest);
  while (observer.next != head) {
    LAB_CHECK(op_observe(&observer, record) == 1, "the observer lost record %llu of a ring at rest",
              (unsigned long long)observer.next);
    LAB_CHECK(record_is_whole(record, observer.next - 1, entry->record_size),
              "the observer got a torn record %llu", (unsigned long long)observer.next - 1);
  }
  LAB_CHECK(op_observe(&observer, record) == 0 && observer.lost == 0,
            "the observer found something behind the newest record");
}

/* Fills the ring, then three laps, each record read once and in order. */
static void run_laps(struct bus_producer *producer, struct bus_consumer *consumer,
                     const struct bus_entry *entry)
{
  const uint64_t head = producer->next;
  uint64_t room = entry->depth - (head - consumer->next);
  for (uint64_t i = 0; i < room; i++)
    LAB_CHECK(op_publish(producer, AUTHOR_AFTER), "ring full with room for %llu",
              (unsigned long long)(room - i));
  LAB_CHECK(!op_publish(producer, AUTHOR_AFTER), "the producer overwrites unread records");
  for (uint64_t i = 0; i < 3 * entry->depth; i++) {
    read_and_check(consumer, entry, head);
    if (consumer->published == consumer->next)
      while (producer->next - consumer->next < entry->depth)
        LAB_CHECK(op_publish(producer, AUTHOR_AFTER), "no room after the position was published");
  }
  while (consumer->next != producer->next)
    read_and_check(consumer, entry, head);
  LAB_CHECK(!op_poll(consumer), "a record that nobody wrote");
}

static unsigned char *image(unsigned which)
{
  static _Alignas(4096) unsigned char images[2][RIG_IMAGE_BYTES];
  return images[which];
}

void rig_check_images(const struct bus_entry *entry, uint64_t instance, const void *ring,
                      const void *position, struct rig_truth truth)
{
  struct bus_producer producer;
  struct bus_consumer consumer;
  unsigned char *memory = image(0);
  struct bus_position *place = (struct bus_position *)(void *)image(1);
  LAB_CHECK(entry->size <= RIG_IMAGE_BYTES, "ring too large for the laboratory");
  memcpy(memory, ring, (size_t)entry->size);
  memcpy(place, position, sizeof *place);
  struct lab_control before = *lab_control;
  bus_producer_init(&producer, memory, entry, instance);
  check_alone(&producer, truth);
  bus_producer_connect(&producer, place, RIG_CONSUMER_INSTANCE);
  LAB_CHECK(bus_consumer_may_join(memory, instance, place, RIG_CONSUMER_INSTANCE),
            "the consumer may not join a producer that has connected its file");
  bus_consumer_init(&consumer, memory, entry, instance, place, 0);
  check_resumed(&producer, &consumer, place, truth, rig_lag_max(entry->depth));
  check_observer(entry, memory, producer.next);
  run_laps(&producer, &consumer, entry);
  LAB_CHECK(place->lost == 0 && producer.header->positions_rejected == 0,
            "losses or impossible positions counted where there were none");
  *lab_control = before;
}

void rig_check_restart(struct rig_truth truth, uint64_t lag_max)
{
  struct rig_producer p;
  struct rig_consumer c;
  struct lab_control before = *lab_control;
  rig_pair_open(&p, &c);
  check_resumed(&p.producer, &c.subscription.consumer, c.position, truth, lag_max);
  check_observer(p.entry, p.ring, p.producer.next);
  run_laps(&p.producer, &c.subscription.consumer, p.entry);
  rig_producer_close(&p);
  rig_consumer_close(&c);
  *lab_control = before;
}
