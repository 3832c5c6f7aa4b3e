#include "workers.h"

#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#define AUTHORS        65536u
#define BURST          32u
#define OUTPUTS_DEPTH  1024u
#define PRODUCER_STOPS 1u
#define ALL_STOP       2u

static uint64_t *authors; /* by position */

void workers_share(void)
{
  authors = mmap(NULL, AUTHORS * sizeof *authors, PROT_READ | PROT_WRITE,
                 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  LAB_CHECK(authors != MAP_FAILED, "mmap: %m");
}

static void set_phase(enum worker_id id, enum worker_phase phase)
{
  BUS_STORE_RELEASE(&lab_control->phase[id], (uint64_t)phase);
}

pid_t worker_start(enum worker_id id, void (*body)(void))
{
  set_phase(id, PHASE_FORKED);
  return lab_fork(body);
}

void worker_await(enum worker_id id, enum worker_phase phase)
{
  while (worker_read(&lab_control->phase[id]) < (uint64_t)phase)
    lab_sleep_us(50);
}

/* There is more to run here than there are cores. */
static void rest(void)
{
  lab_sleep_us(10);
}

static bool told(uint64_t stop)
{
  return worker_read(&lab_control->stop) >= stop;
}

/* Something that counts on: `now` was done at least up to `done`, at most up to `begun`. */
static void check_continued(const char *what, uint64_t now, uint64_t done, uint64_t begun)
{
  LAB_CHECK(now >= done, "%s: %llu were committed, the successor goes on at %llu", what,
            (unsigned long long)done, (unsigned long long)now);
  LAB_CHECK(now <= begun || now == done, "%s: only %llu were begun, the successor goes on at %llu",
            what, (unsigned long long)begun, (unsigned long long)now);
}

void worker_producer(void)
{
  struct rig_producer p;
  set_phase(WORKER_PRODUCER, PHASE_STARTING);
  uint64_t author = ++lab_control->restarts;
  rig_producer_open(&p);
  check_continued("record lost or repeated", p.producer.next, lab_control->committed,
                  lab_control->begun);
  set_phase(WORKER_PRODUCER, PHASE_RUNNING);
  while (!told(PRODUCER_STOPS)) {
    bool room = true;
    for (unsigned i = 0; i < BURST && room; i++)
      room = op_publish(&p.producer, author);
    bus_member_heartbeat(p.member, bus_clock_monotonic_ns());
    bus_backlink_maintain(&p.backlink);
    if (!room)
      rest();
  }
  bus_producer_report(&p.producer);
  rig_producer_close(&p);
}

/* Notes or compares the author of a position; true when it was seen before. */
static bool seen_before(const void *record, uint64_t position)
{
  uint64_t *seen = &authors[position % AUTHORS];
  if (position >= lab_control->read) {
    *seen = record_author(record);
    BUS_STORE_RELEASE(&lab_control->read, position + 1);
    return false;
  }
  if (lab_control->read - position < AUTHORS)
    LAB_CHECK(*seen == record_author(record), "record %llu was published twice",
              (unsigned long long)position);
  return true;
}

static const void *next_record(struct bus_consumer *consumer)
{
  const void *record = op_poll(consumer);
  if (!record)
    return NULL;
  LAB_CHECK(record_is_whole(record, consumer->next, rig_spec.record_size),
            "record %llu is torn or foreign", (unsigned long long)consumer->next);
  lab_control->value[VALUE_AGAIN] += seen_before(record, consumer->next);
  return record;
}

static void check_resumed(const struct bus_consumer *consumer, uint64_t done)
{
  LAB_CHECK(consumer->next <= done, "records %llu to %llu were skipped", (unsigned long long)done,
            (unsigned long long)consumer->next);
  LAB_CHECK(done - consumer->next <= consumer->publish_every,
            "the consumer sees %llu records again, more than %llu",
            (unsigned long long)(done - consumer->next),
            (unsigned long long)consumer->publish_every);
}

/* A record that is read in place stays as it is until it is released. */
static bool consume_twice(struct bus_consumer *consumer)
{
  const void *record = next_record(consumer);
  if (!record)
    return false;
  if (consumer->next % 16 == 0)
    sched_yield(); /* the producer goes on meanwhile */
  LAB_CHECK(record_is_whole(record, consumer->next, rig_spec.record_size),
            "record %llu was overwritten while it was read", (unsigned long long)consumer->next);
  op_release(consumer);
  return true;
}

void worker_consumer(void)
{
  struct rig_consumer c;
  set_phase(WORKER_CONSUMER, PHASE_STARTING);
  rig_consumer_open(&c);
  while (!c.subscription.neighbour && bus_subscription_maintain(&c.subscription, 0) < 0)
    rest();
  struct bus_consumer *consumer = &c.subscription.consumer;
  check_resumed(consumer, lab_control->read);
  set_phase(WORKER_CONSUMER, PHASE_RUNNING);
  /* Told first, then looked: nothing is written any more after the look. */
  for (bool some = true, last = false; some || !last;) {
    last = told(ALL_STOP);
    some = false;
    for (unsigned i = 0; i < BURST && consume_twice(consumer); i++)
      some = true;
    bus_member_heartbeat(c.member, bus_clock_monotonic_ns());
    LAB_CHECK(bus_subscription_maintain(&c.subscription, 0) == 0, "the producer's file has gone");
    if (!some)
      rest();
  }
  LAB_CHECK(c.position->lost == 0, "%llu records lost", (unsigned long long)c.position->lost);
  rig_consumer_close(&c);
}

/* ---- the relay: its output carries the input's position, which makes it exactly-once ---- */

struct relay {
  struct rig_consumer in;
  struct bus_producer out;
};

static void relay_open(struct relay *relay)
{
  struct bus_object_spec objects[] = {{.type = BUS_OBJECT_POSITION, .name = "r", .peer = "p"},
                                      {.type = BUS_OBJECT_RING,
                                       .name = "out",
                                       .record_type = BUS_RECORD_RAW,
                                       .record_size = rig_spec.record_size,
                                       .policy = BUS_POLICY_OVERWRITE,
                                       .depth = OUTPUTS_DEPTH}};
  struct bus_member_config config = {.directory = lab_directory,
                                     .name = "c",
                                     .kind = "fault",
                                     .objects = objects,
                                     .object_count = BUS_COUNT_OF(objects),
                                     .numa_node = -1,
                                     .core = -1,
                                     .small_pages = true};
  struct rig_consumer *in = &relay->in;
  memset(relay, 0, sizeof *relay);
  LAB_CHECK(bus_member_new(&config, &in->member) == BUS_OK, "relay: %s", bus_error_message());
  in->position = bus_member_position(in->member, "p", "r");
  bus_producer_init(&relay->out, bus_member_object(in->member, BUS_OBJECT_RING, "out"),
                    bus_member_entry(in->member, BUS_OBJECT_RING, "out"),
                    bus_member_header(in->member)->instance);
  check_continued("output lost or repeated", relay->out.next, lab_control->value[VALUE_EMITTED],
                  lab_control->value[VALUE_EMIT_BEGUN]);
  bus_subscription_init(&in->subscription, lab_directory, "p", "r", BUS_RECORD_RAW,
                        rig_spec.record_size, in->member);
  bus_member_run(in->member);
}

static void relay_emit(struct relay *relay, const void *record, uint64_t position)
{
  void *slot = op_reserve(&relay->out);
  LAB_CHECK(slot && position == relay->out.next, "output %llu would be of record %llu",
            (unsigned long long)relay->out.next, (unsigned long long)position);
  BUS_STORE_RELEASE(&lab_control->value[VALUE_EMIT_BEGUN], position + 1);
  record_fill(slot, position, record_author(record), rig_spec.record_size);
  op_commit(&relay->out);
  BUS_STORE_RELEASE(&lab_control->value[VALUE_EMITTED], position + 1);
}

static bool relay_one(struct relay *relay)
{
  struct bus_consumer *consumer = &relay->in.subscription.consumer;
  const void *record = next_record(consumer);
  if (record && consumer->next >= relay->out.next)
    relay_emit(relay, record, consumer->next);
  if (record)
    op_release(consumer);
  return record != NULL;
}

void worker_relay(void)
{
  static struct relay relay;
  set_phase(WORKER_CONSUMER, PHASE_STARTING);
  relay_open(&relay);
  struct bus_subscription *subscription = &relay.in.subscription;
  while (bus_subscription_maintain(subscription, 0) < 0)
    rest();
  check_resumed(&subscription->consumer, relay.out.next);
  set_phase(WORKER_CONSUMER, PHASE_RUNNING);
  /* Told first, then looked: nothing is written any more after the look. */
  for (bool some = true, last = false; some || !last;) {
    last = told(ALL_STOP);
    some = false;
    for (unsigned i = 0; i < BURST && relay_one(&relay); i++)
      some = true;
    bus_member_heartbeat(relay.in.member, bus_clock_monotonic_ns());
    bus_subscription_maintain(subscription, 0);
    if (!some)
      rest();
  }
  LAB_CHECK(relay.in.position->lost == 0, "%llu records lost",
            (unsigned long long)relay.in.position->lost);
  rig_consumer_close(&relay.in);
}

/* ---- observers ---- */

static bool observe_some(struct bus_subscription *watch)
{
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  struct bus_observer *observer = &watch->observer;
  bool some = false;
  int attached = bus_subscription_maintain(watch, 0);
  if (attached < 0)
    return false;
  if (attached == 1)
    lab_control->value[VALUE_OBSERVED_FROM] = observer->next;
  for (unsigned i = 0; i < BURST; i++) {
    struct bus_observer before = *observer;
    int status = op_observe(observer, record);
    if (status == 0)
      return some;
    some = true;
    if (status == 1)
      LAB_CHECK(observer->next == before.next + 1 && observer->lost == before.lost &&
                    record_is_whole(record, before.next, rig_spec.record_size),
                "the observer got a torn, foreign or repeated record at %llu",
                (unsigned long long)before.next);
    else
      LAB_CHECK(observer->next > before.next &&
                    observer->lost - before.lost == observer->next - before.next,
                "the observer went from %llu to %llu and counted %llu lost",
                (unsigned long long)before.next, (unsigned long long)observer->next,
                (unsigned long long)(observer->lost - before.lost));
    lab_control->observed += status == 1;
    lab_control->lost += observer->lost - before.lost;
    lab_control->value[VALUE_OVERRUNS] += status != 1;
  }
  return some;
}

static void observe(const char *const (*rings)[2], size_t count)
{
  static struct bus_subscription watches[2];
  set_phase(WORKER_OBSERVER, PHASE_STARTING);
  for (size_t i = 0; i < count; i++) {
    bus_subscription_init(&watches[i], lab_directory, rings[i][0], rings[i][1], BUS_RECORD_RAW,
                          rig_spec.record_size, NULL);
    watches[i].from_oldest = true;
  }
  set_phase(WORKER_OBSERVER, PHASE_RUNNING);
  /* Told first, then looked: nothing is written any more after the look. */
  for (bool some = true, last = false; some || !last;) {
    last = told(ALL_STOP);
    some = false;
    for (size_t i = 0; i < count; i++)
      some |= observe_some(&watches[i]);
    if (!some)
      rest();
  }
}

void worker_observer(void)
{
  static const char *const rings[][2] = {{"p", "r"}};
  observe(rings, 1);
}

void worker_observer_of_both(void)
{
  static const char *const rings[][2] = {{"p", "r"}, {"c", "out"}};
  observe(rings, 2);
}
