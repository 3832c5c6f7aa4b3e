/* loss.c: a consumer that is lapped, attached or away, counts what it missed to the record. */
#include "experiments.h"
#include "rig.h"

#include <string.h>

#define ROUNDS 60000u

struct account {
  uint64_t read; /* for the first time */
  uint64_t next; /* where the consumer's reading stands */
};

static void read_some(struct rig_consumer *c, struct account *account, uint64_t count)
{
  struct bus_consumer *consumer = &c->subscription.consumer;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t lost = c->position->lost, next = consumer->next;
    const void *record = op_poll(consumer);
    LAB_CHECK(c->position->lost - lost == consumer->next - next,
              "the consumer went from %llu to %llu and counted %llu lost", (unsigned long long)next,
              (unsigned long long)consumer->next, (unsigned long long)(c->position->lost - lost));
    if (!record)
      continue;
    LAB_CHECK(record_is_whole(record, consumer->next, rig_spec.record_size), "torn");
    account->read++;
    op_release(consumer);
  }
}

void lost_is_counted(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  struct account account = {0};
  rig_spec.policy = BUS_POLICY_OVERWRITE;
  rig_producer_open(&p);
  rig_consumer_open(&c);
  uint64_t away = 0;
  for (unsigned i = 0; i < ROUNDS; i++) {
    uint64_t written = lab_random_below(lab_random_below(4) ? 6 : 30);
    for (uint64_t n = 0; n < written; n++)
      LAB_CHECK(op_publish(&p.producer, 1), "a ring that overwrites is full");
    if (lab_random_below(16)) {
      read_some(&c, &account, lab_random_below(12));
      continue;
    }
    /* Away for a while; what it has read is published, as on every orderly end. */
    rig_consumer_close(&c);
    for (uint64_t n = lab_random_below(20); n > 0; n--)
      op_publish(&p.producer, 1);
    rig_consumer_open(&c);
    away++;
  }
  LAB_CHECK(account.read + c.position->lost == c.subscription.consumer.next,
            "%llu read and %llu lost do not add up to %llu", (unsigned long long)account.read,
            (unsigned long long)c.position->lost, (unsigned long long)c.subscription.consumer.next);
  LAB_CHECK(c.position->lost > ROUNDS, "the experiment lost next to nothing");
  lab_count("%llu records, %llu read, %llu lost, %llu restarts",
            (unsigned long long)c.subscription.consumer.next, (unsigned long long)account.read,
            (unsigned long long)c.position->lost, (unsigned long long)away);
  rig_consumer_close(&c);
  rig_producer_close(&p);
}
