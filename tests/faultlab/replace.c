/* replace.c: the consumer's file is deleted and made anew while its producer lives. The new
 * consumer reads in place only when the producer goes by its file, and goes on where the producer
 * counts. */
#include "experiments.h"
#include "trace.h"
#include "workers.h"

#include <signal.h>
#include <unistd.h>

#define REPLACEMENTS 2000u

enum act { PUBLISH, CONNECT, SWITCH };
enum { VALUE_ACT, VALUE_FILL, VALUE_ATTEMPTS, VALUE_JOINS };

/* ---- join attempted after every instruction of publish and connect ---- */

/* From the old file to the new one without letting go between, as bus_producer_connect allows. The
 * old one is returned, still mapped. */
static struct bus_neighbour *switch_files(struct rig_producer *p)
{
  struct bus_neighbour *old = p->backlink.neighbour;
  struct bus_neighbour *neighbour;
  LAB_CHECK(bus_neighbour_attach(lab_directory, "c", true, &neighbour) == BUS_OK, "%s",
            bus_error_message());
  const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_POSITION, "r");
  bus_producer_connect(&p->producer, bus_neighbour_object(neighbour, entry),
                       bus_neighbour_header(neighbour)->instance);
  p->backlink.neighbour = neighbour;
  return old;
}

/* Each turn: up to so many records in all, then the act under test, then all that there is room
 * for; then it waits to be told to do its housekeeping. */
static void stepped_producer(void)
{
  struct rig_producer p;
  rig_producer_open(&p);
  trace_ready();
  LAB_CHECK(bus_backlink_maintain(&p.backlink) == 1, "%s", bus_error_message());
  for (;;) {
    trace_ready();
    while (p.producer.next < lab_control->value[VALUE_FILL])
      LAB_CHECK(op_publish(&p.producer, 1), "no room for record %llu",
                (unsigned long long)p.producer.next);
    struct bus_neighbour *old = NULL;
    trace_ready();
    BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
    if (lab_control->value[VALUE_ACT] == PUBLISH)
      op_publish(&p.producer, 1);
    else if (lab_control->value[VALUE_ACT] == CONNECT)
      bus_backlink_maintain(&p.backlink);
    else
      old = switch_files(&p);
    BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
    bus_neighbour_detach(old);
    while (op_publish(&p.producer, 1))
      continue;
    trace_ready();
    bus_backlink_maintain(&p.backlink);
    while (op_publish(&p.producer, 1))
      continue;
  }
}

static bool try_join(struct rig_consumer *c, const struct bus_ring_header *ring)
{
  lab_control->value[VALUE_ATTEMPTS]++;
  int status = bus_subscription_maintain(&c->subscription, 0);
  LAB_CHECK(status == 1 || status == BUS_ERROR_NOT_READY, "%s", bus_error_message());
  bool connected = ring->consumer_instance == bus_member_header(c->member)->instance;
  LAB_CHECK((status == 1) == connected, "the consumer %s while the producer goes by %s file",
            status == 1 ? "joins" : "is refused", connected ? "its" : "another");
  lab_control->value[VALUE_JOINS] += status == 1;
  return status == 1;
}

/* Nothing that the old file's consumer had released comes again, nothing that it had not is passed
 * over, and the record held in place stays. */
static const void *take_first(struct rig_consumer *c)
{
  struct bus_consumer *consumer = &c->subscription.consumer;
  LAB_CHECK(consumer->next == lab_control->read,
            "the new consumer goes on at %llu, the producer had accepted %llu as consumed",
            (unsigned long long)consumer->next, (unsigned long long)lab_control->read);
  return op_poll(consumer);
}

static void read_on(struct rig_consumer *c, const void *held)
{
  struct bus_consumer *consumer = &c->subscription.consumer;
  LAB_CHECK(!held || record_is_whole(held, consumer->next, rig_spec.record_size),
            "record %llu was overwritten while the new consumer held it in place",
            (unsigned long long)consumer->next);
  LAB_CHECK(lab_control->committed == lab_control->read + rig_spec.depth,
            "the producer stands at %llu, the consumer at %llu, and the ring holds %llu",
            (unsigned long long)lab_control->committed, (unsigned long long)lab_control->read,
            (unsigned long long)rig_spec.depth);
  while (consumer->next != lab_control->committed)
    LAB_CHECK(rig_consume(consumer, rig_spec.record_size), "record %llu has gone",
              (unsigned long long)consumer->next);
  bus_consumer_publish(consumer);
  LAB_CHECK(c->position->lost == 0, "records counted as lost");
}

static void replace(struct rig_consumer *c)
{
  rig_consumer_close(c);
  LAB_CHECK(bus_member_delete(lab_directory, "c") == BUS_OK, "%s", bus_error_message());
  rig_consumer_open(c);
}

/* With `fill` unread records the consumer's file is replaced, and `act` begins. From its
 * instruction `from` on (CONNECT, SWITCH: counted from where the producer goes by the new file) a
 * join is attempted after each, until one succeeds. False when the act was over before. */
static bool replace_round(pid_t pid, struct rig_consumer *c, const struct bus_ring_header *ring,
                          enum act act, uint64_t fill, uint64_t from)
{
  lab_control->value[VALUE_ACT] = act;
  lab_control->value[VALUE_FILL] = lab_control->read + fill;
  LAB_CHECK(trace_run(pid), "the producer ended");
  replace(c);
  trace_to_operation(pid);
  const void *held = NULL;
  bool reached = false;
  for (uint64_t point = 0; lab_control->inside;) {
    bool counts =
        act == PUBLISH || ring->consumer_instance == bus_member_header(c->member)->instance;
    bool attempt = (act != PUBLISH && from == 0) || (counts && point >= from);
    reached |= attempt;
    if (attempt && !c->subscription.neighbour && try_join(c, ring))
      held = take_first(c);
    if (attempt && act == PUBLISH)
      break; /* one join at this point, then the producer runs */
    point += counts;
    if (c->subscription.neighbour)
      break;
    LAB_CHECK(trace_step(pid), "the operation did not end");
  }
  LAB_CHECK(trace_run(pid), "the producer ended");
  if (act == PUBLISH && !c->subscription.neighbour) {
    LAB_CHECK(!try_join(c, ring), "joined before the producer has done its housekeeping");
    LAB_CHECK(trace_run(pid), "the producer ended"); /* its housekeeping; ready for the next turn */
    LAB_CHECK(try_join(c, ring), "refused by a producer that has connected the file");
    held = take_first(c);
    read_on(c, held);
    return reached;
  }
  if (!c->subscription.neighbour && try_join(c, ring))
    held = take_first(c);
  LAB_CHECK(c->subscription.neighbour, "refused by a producer that has connected the file");
  LAB_CHECK(trace_run(pid), "the producer ended");
  read_on(c, held);
  return reached;
}

static void replace_stepped(void)
{
  static const uint64_t fills[] = {0, 1, 5, 8};
  uint64_t rounds = 0;
  struct rig_consumer c;
  lab_pin();
  struct bus_neighbour *view;
  lab_control->value[VALUE_FILL] = 0;
  pid_t pid = trace_fork(stepped_producer); /* first: a fork would share the consumer's lock */
  rig_consumer_open(&c);
  LAB_CHECK(trace_run(pid), "the producer ended");
  LAB_CHECK(bus_neighbour_attach(lab_directory, "p", true, &view) == BUS_OK, "%s",
            bus_error_message());
  const struct bus_ring_header *ring =
      bus_neighbour_object(view, bus_neighbour_find(view, BUS_OBJECT_RING, "r"));
  LAB_CHECK(try_join(&c, ring), "the first consumer is refused");
  for (unsigned act = PUBLISH; act <= SWITCH; act++)
    for (size_t i = 0; i < BUS_COUNT_OF(fills); i++)
      for (uint64_t from = 0; replace_round(pid, &c, ring, (enum act)act, fills[i], from); from++)
        rounds++;
  lab_kill(pid);
  rig_consumer_close(&c);
  bus_neighbour_detach(view);
  lab_count("; %llu rounds, %llu joins attempted, %llu of them let in", (unsigned long long)rounds,
            (unsigned long long)lab_control->value[VALUE_ATTEMPTS],
            (unsigned long long)lab_control->value[VALUE_JOINS]);
}

/* ---- at random moments, the producer at full speed ---- */

static void remove_file(void)
{
  if (lab_random_below(2))
    unlink(lab_path("c")); /* by hand; it may not be there yet */
  else {
    int error = bus_member_delete(lab_directory, "c");
    LAB_CHECK(error == BUS_OK || error == BUS_ERROR_ABSENT, "%s", bus_error_message());
  }
}

static void replace_random(void)
{
  uint64_t starting = 0, again = 0, progress = 0;
  workers_share();
  pid_t p = worker_start(WORKER_PRODUCER, worker_producer);
  pid_t c = worker_start(WORKER_CONSUMER, worker_consumer);
  worker_await(WORKER_PRODUCER, PHASE_RUNNING);
  for (unsigned i = 0; i < REPLACEMENTS; i++) {
    lab_sleep_us(lab_random_below(lab_random_below(4) ? 1500 : 4000));
    lab_must_live(p, "the producer");
    lab_must_live(c, "the consumer");
    starting += worker_read(&lab_control->phase[WORKER_CONSUMER]) != PHASE_RUNNING;
    lab_kill(c);
    if (lab_random_below(8)) /* else its successor takes it over */
      remove_file();
    c = worker_start(WORKER_CONSUMER, worker_consumer);
    if (i % 500 == 499) {
      worker_await(WORKER_CONSUMER, PHASE_RUNNING);
      LAB_CHECK(worker_read(&lab_control->read) > progress, "nothing comes through any more");
      progress = worker_read(&lab_control->read);
    }
  }
  worker_await(WORKER_CONSUMER, PHASE_RUNNING);
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)1);
  lab_join(p, "the producer");
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)2);
  lab_join(c, "the consumer");
  LAB_CHECK(lab_control->read == lab_control->committed, "%llu committed, %llu read",
            (unsigned long long)lab_control->committed, (unsigned long long)lab_control->read);
  again = lab_control->value[VALUE_AGAIN];
  struct rig_producer end;
  rig_producer_open(&end);
  LAB_CHECK(end.producer.header->positions_rejected == 0, "impossible positions were counted");
  rig_producer_close(&end);
  lab_count("%u replaced at random, %llu of them before they ran, %llu records, %llu seen again",
            REPLACEMENTS, (unsigned long long)starting, (unsigned long long)lab_control->committed,
            (unsigned long long)again);
}

void replace_consumer(void)
{
  struct rig_spec stepped = rig_spec;
  rig_spec.depth = 64;
  replace_random();
  lab_clean();
  *lab_control = (struct lab_control){0};
  rig_spec = stepped;
  replace_stepped(); /* it stays on one CPU */
}
