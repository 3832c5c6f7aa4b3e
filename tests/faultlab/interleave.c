/* interleave.c: two processes, and what the one does between any two instructions of the other. */
#include "experiments.h"
#include "rig.h"
#include "trace.h"

#include <string.h>
#include <unistd.h>

#define PAIR_OPERATIONS 20u
#define STATES_MAX      1024u
#define STATE_BYTES     1536u

/* Where a traced process tells the tracer its result: lab_control->value[]. */
enum { VALUE_LAG, VALUE_NEXT, VALUE_STATUS, VALUE_WHOLE, VALUE_RESULT_NEXT, VALUE_LOST };

static void start_afresh(void)
{
  lab_clean();
  memset(lab_control, 0, sizeof *lab_control);
}

static void begin(void)
{
  trace_ready();
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
}

static void end(void)
{
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
}

/* ---- both die ---- */

struct state {
  unsigned char bytes[STATE_BYTES]; /* of the ring, or of the position */
  struct rig_truth truth;
  uint64_t published;
  uint64_t points; /* instructions after which it was like this */
};

static struct state producer_states[STATES_MAX], consumer_states[STATES_MAX];

/* The consumer's place is made up, so that the producer never waits: its file is the same. */
static void pair_producer(void)
{
  struct rig_producer p;
  struct bus_position position = {0};
  rig_producer_open(&p);
  position.ring_instance = bus_member_header(p.member)->instance;
  bus_producer_connect(&p.producer, &position, RIG_CONSUMER_INSTANCE);
  for (uint64_t i = 0; i < PAIR_OPERATIONS; i++) {
    position.position = i;
    begin();
    op_publish(&p.producer, 1);
    end();
  }
  trace_ready();
}

static void pair_consumer(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  rig_pair_open(&p, &c);
  for (uint64_t i = 0; i < PAIR_OPERATIONS; i++) {
    if (i % 4 != 3) {
      op_publish(&p.producer, 1);
      op_publish(&p.producer, 1);
    }
    begin();
    rig_consume(&c.subscription.consumer, rig_spec.record_size);
    end();
  }
  trace_ready();
}

static void keep_state(struct state *states, size_t *count, const void *bytes, size_t size)
{
  struct state *last = *count ? &states[*count - 1] : NULL;
  struct rig_truth truth = rig_truth_now();
  if (last && !memcmp(last->bytes, bytes, size) && !memcmp(&last->truth, &truth, sizeof truth)) {
    last->points++;
    return;
  }
  LAB_CHECK(*count < STATES_MAX && size <= STATE_BYTES, "more states than the laboratory keeps");
  struct state *state = &states[(*count)++];
  memcpy(state->bytes, bytes, size);
  state->truth = truth;
  state->points = 1;
}

/* Steps through all operations of `body`, keeping each new state of that object. */
static size_t collect(void (*body)(void), const char *member, uint32_t type, struct state *states,
                      struct bus_entry *entry, uint64_t *instance)
{
  size_t count = 0;
  struct bus_neighbour *neighbour;
  start_afresh();
  pid_t pid = trace_fork(body);
  LAB_CHECK(bus_neighbour_attach(lab_directory, member, true, &neighbour) == BUS_OK, "%s",
            bus_error_message());
  const struct bus_entry *found = bus_neighbour_find(neighbour, type, "r");
  const void *memory = bus_neighbour_object(neighbour, found);
  *entry = *found;
  *instance = bus_neighbour_header(neighbour)->instance;
  for (uint64_t i = 0; i < PAIR_OPERATIONS; i++) {
    trace_to_operation(pid);
    do {
      keep_state(states, &count, memory, (size_t)found->size);
      LAB_CHECK(trace_step(pid), "the operation did not end");
    } while (BUS_LOAD_ACQUIRE(&lab_control->inside));
    LAB_CHECK(trace_run(pid), "the operations ended early");
  }
  bus_neighbour_detach(neighbour);
  lab_kill(pid);
  return count;
}

/* The consumer can have got there while the producer was here, and the other way round. */
static bool can_meet(const struct state *producer, const struct state *consumer, uint64_t depth)
{
  uint64_t published = ((const struct bus_position *)(const void *)consumer->bytes)->position;
  uint64_t accepted = ((const struct bus_ring_header *)(const void *)producer->bytes)->consumed;
  return consumer->truth.read <= producer->truth.committed && accepted <= published &&
         producer->truth.begun <= published + depth;
}

void pairs_publish_consume(void)
{
  struct bus_entry ring, position;
  uint64_t instance, other, pairs = 0, points = 0;
  lab_pin();
  for (uint32_t size = 64; size <= 128; size += 64) {
    rig_spec.record_size = size;
    size_t producers =
        collect(pair_producer, "p", BUS_OBJECT_RING, producer_states, &ring, &instance);
    size_t consumers =
        collect(pair_consumer, "c", BUS_OBJECT_POSITION, consumer_states, &position, &other);
    for (size_t i = 0; i < producers; i++)
      for (size_t j = 0; j < consumers; j++) {
        struct state *p = &producer_states[i], *c = &consumer_states[j];
        if (!can_meet(p, c, ring.depth))
          continue;
        struct bus_position place;
        memcpy(&place, c->bytes, sizeof place);
        place.ring_instance = instance; /* the two traces had files of their own */
        struct rig_truth truth = p->truth;
        truth.read = c->truth.read;
        rig_check_images(&ring, instance, p->bytes, &place, truth);
        pairs++;
        points += p->points * c->points;
      }
  }
  lab_count("%llu pairs of instructions, %llu pairs of distinct states", (unsigned long long)points,
            (unsigned long long)pairs);
}

/* ---- an observer, and a producer that goes on meanwhile ---- */

/* The producer rests: two overruns at most, then whole records up to the newest. */
static void settle(struct bus_observer *observer, void *record)
{
  uint64_t overruns = 0, read = 0, start = observer->next - observer->lost;
  int status;
  while ((status = op_observe(observer, record)) != 0) {
    if (status == BUS_ERROR_OVERRUN)
      LAB_CHECK(++overruns <= 2, "overruns without end");
    else
      LAB_CHECK(record_is_whole(record, observer->next - 1, rig_spec.record_size),
                "the observer accepted a torn record");
    read += status == 1;
  }
  LAB_CHECK(observer->next == lab_control->committed &&
                start + read + observer->lost == observer->next,
            "%llu read and %llu lost do not add up to %llu", (unsigned long long)read,
            (unsigned long long)observer->lost, (unsigned long long)(observer->next - start));
}

static void stepped_observer(void)
{
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  struct bus_subscription watch;
  uint64_t *value = lab_control->value;
  LAB_CHECK(bus_subscription_init(&watch, lab_directory, "p", "r", BUS_RECORD_RAW,
                                  rig_spec.record_size, NULL) == BUS_OK &&
                bus_subscription_maintain(&watch, 0) == 1,
            "%s", bus_error_message());
  for (;;) {
    trace_ready();
    watch.observer.next = value[VALUE_NEXT];
    watch.observer.lost = 0;
    BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
    int status = op_observe(&watch.observer, record);
    BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
    value[VALUE_STATUS] = (uint64_t)(int64_t)status;
    value[VALUE_WHOLE] = record_is_whole(record, value[VALUE_NEXT], rig_spec.record_size);
    value[VALUE_RESULT_NEXT] = watch.observer.next;
    value[VALUE_LOST] = watch.observer.lost;
    settle(&watch.observer, record);
  }
}

static void check_observed(const struct bus_producer *producer, uint64_t advance, uint64_t lag)
{
  const uint64_t *value = lab_control->value;
  int64_t status = (int64_t)value[VALUE_STATUS];
  if (status == 1) {
    LAB_CHECK(value[VALUE_WHOLE], "the observer accepted a torn record");
    LAB_CHECK(value[VALUE_RESULT_NEXT] == value[VALUE_NEXT] + 1 && value[VALUE_LOST] == 0,
              "the observer miscounts");
    return;
  }
  LAB_CHECK(status == BUS_ERROR_OVERRUN, "the observer returned %lld", (long long)status);
  LAB_CHECK(lag + advance >= producer->depth, "an overrun where nothing was overwritten");
  LAB_CHECK(value[VALUE_LOST] > 0 &&
                value[VALUE_LOST] == value[VALUE_RESULT_NEXT] - value[VALUE_NEXT],
            "an overrun was not counted: lost %llu, from %llu to %llu",
            (unsigned long long)value[VALUE_LOST], (unsigned long long)value[VALUE_NEXT],
            (unsigned long long)value[VALUE_RESULT_NEXT]);
}

/* After `point` instructions the producer commits `advance` records and writes `words` of the next.
 * False when the operation was over before. */
static bool observe_against(pid_t pid, struct rig_producer *p, uint64_t point, uint64_t lag,
                            uint64_t advance, uint64_t words)
{
  while (p->producer.next < 2 * rig_spec.depth)
    op_publish(&p->producer, 1);
  op_publish(&p->producer, 1); /* completes what the last round left half written */
  lab_control->value[VALUE_NEXT] = p->producer.next - lag;
  trace_to_operation(pid);
  for (uint64_t i = 0; i < point; i++) {
    LAB_CHECK(trace_step(pid), "the operation did not end");
    if (!BUS_LOAD_ACQUIRE(&lab_control->inside))
      break;
  }
  bool inside = BUS_LOAD_ACQUIRE(&lab_control->inside);
  for (uint64_t i = 0; inside && i < advance; i++)
    op_publish(&p->producer, 1);
  if (inside && words)
    record_fill_some(op_reserve(&p->producer), p->producer.next, 1, words);
  LAB_CHECK(trace_run(pid), "the observer ended");
  check_observed(&p->producer, inside ? advance : 0, lag);
  return inside;
}

void interleave_observe(void)
{
  static const uint64_t lags[] = {1, 7, 8};
  static const uint64_t words[] = {0, 6};
  uint64_t rounds = 0, points = 0;
  struct rig_producer p;
  lab_pin();
  rig_spec.policy = BUS_POLICY_OVERWRITE;
  rig_producer_open(&p);
  pid_t pid = trace_fork(stepped_observer);
  for (size_t l = 0; l < BUS_COUNT_OF(lags); l++) {
    uint64_t lap = rig_spec.depth - lags[l]; /* so many more, and its slot is the next to go */
    uint64_t advances[] = {lap ? lap - 1 : 2, lap, 2 * rig_spec.depth};
    for (size_t a = 0; a < BUS_COUNT_OF(advances); a++)
      for (size_t w = 0; w < BUS_COUNT_OF(words); w++)
        for (uint64_t point = 0; observe_against(pid, &p, point, lags[l], advances[a], words[w]);
             rounds++, point++)
          points = point > points ? point : points;
  }
  lab_kill(pid);
  lab_count("%llu rounds over %llu instructions", (unsigned long long)rounds,
            (unsigned long long)points + 1);
}

/* ---- a producer, and a consumer that makes room meanwhile ---- */

static void stepped_producer(void)
{
  struct rig_producer p;
  rig_producer_open(&p);
  LAB_CHECK(p.backlink.neighbour, "%s", bus_error_message());
  for (;;) {
    while (lab_control->value[VALUE_LAG] > p.producer.next - lab_control->read)
      op_publish(&p.producer, 1);
    lab_control->value[VALUE_NEXT] = p.producer.next;
    trace_ready();
    BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
    bool done = op_publish(&p.producer, 1);
    BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
    lab_control->value[VALUE_STATUS] = done;
  }
}

void interleave_publish(void)
{
  uint64_t rounds = 0;
  struct rig_consumer c;
  lab_pin();
  rig_consumer_open(&c);
  lab_control->value[VALUE_LAG] = 0;
  pid_t pid = trace_fork(stepped_producer);
  LAB_CHECK(bus_subscription_maintain(&c.subscription, 0) == 1, "%s", bus_error_message());
  struct bus_consumer *consumer = &c.subscription.consumer;
  for (uint64_t lag = 0; lag <= rig_spec.depth; lag++) {
    bool inside = true;
    for (uint64_t point = 0; inside; point++, rounds++) {
      lab_control->value[VALUE_LAG] = lag;
      LAB_CHECK(trace_run(pid), "the producer ended");
      uint64_t fill = lab_control->value[VALUE_NEXT] - lab_control->read;
      trace_to_operation(pid);
      for (uint64_t i = 0; i < point && (inside = lab_control->inside != 0); i++)
        LAB_CHECK(trace_step(pid), "the operation did not end");
      while (rig_consume(consumer, rig_spec.record_size))
        continue;
      LAB_CHECK(trace_run(pid), "the producer ended");
      LAB_CHECK(lab_control->value[VALUE_STATUS] || fill >= rig_spec.depth,
                "refused with %llu of %llu in the ring", (unsigned long long)fill,
                (unsigned long long)rig_spec.depth);
      while (rig_consume(consumer, rig_spec.record_size))
        continue;
      LAB_CHECK(consumer->next == lab_control->committed, "%llu committed, %llu read",
                (unsigned long long)lab_control->committed, (unsigned long long)consumer->next);
    }
  }
  lab_kill(pid);
  lab_count("%llu rounds", (unsigned long long)rounds);
}

/* ---- a reader, and a file that is cut meanwhile ---- */

static void cut_observer(void)
{
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  struct bus_subscription watch;
  LAB_CHECK(bus_subscription_init(&watch, lab_directory, "p", "r", BUS_RECORD_RAW,
                                  rig_spec.record_size, NULL) == BUS_OK &&
                bus_subscription_maintain(&watch, 0) == 1,
            "%s", bus_error_message());
  watch.observer.next = lab_control->value[VALUE_NEXT];
  begin();
  int status = op_observe(&watch.observer, record);
  end();
  LAB_CHECK(status != 1 ||
                record_is_whole(record, lab_control->value[VALUE_NEXT], rig_spec.record_size),
            "the observer accepted record %llu of a truncated file, and it is torn",
            (unsigned long long)lab_control->value[VALUE_NEXT]);
  LAB_CHECK(bus_neighbour_status(watch.neighbour, UINT64_MAX) == BUS_NEIGHBOUR_GONE,
            "the truncated file is not marked");
}

/* A record read in place may turn into zeros, but then the file is marked already. */
static void cut_consumer(void)
{
  struct rig_consumer c;
  rig_consumer_open(&c);
  struct bus_consumer *consumer = &c.subscription.consumer;
  while (consumer->next != lab_control->value[VALUE_NEXT])
    rig_consume(consumer, rig_spec.record_size);
  begin();
  const void *record = op_poll(consumer);
  bool whole = record && record_is_whole(record, consumer->next, rig_spec.record_size);
  bool gone = bus_neighbour_status(c.subscription.neighbour, UINT64_MAX) == BUS_NEIGHBOUR_GONE;
  end();
  LAB_CHECK(!record || whole || gone, "a torn record of a file that is not marked");
  if (record && whole)
    op_release(consumer);
  LAB_CHECK(bus_subscription_maintain(&c.subscription, 0) < 0 && !c.subscription.neighbour,
            "the truncated file is still attached");
}

static bool cut_at(void (*body)(void), uint64_t next, uint64_t point, off_t size)
{
  struct rig_producer p;
  start_afresh();
  rig_producer_open(&p);
  for (uint64_t i = 0; i <= next; i++)
    op_publish(&p.producer, 1);
  rig_producer_abandon(&p);
  lab_control->value[VALUE_NEXT] = next;
  pid_t pid = trace_fork(body);
  trace_to_operation(pid);
  for (uint64_t i = 0; i < point && BUS_LOAD_ACQUIRE(&lab_control->inside); i++)
    LAB_CHECK(trace_step(pid), "the operation did not end");
  bool inside = BUS_LOAD_ACQUIRE(&lab_control->inside);
  LAB_CHECK(truncate(lab_path("p"), size) == 0, "truncate: %m");
  LAB_CHECK(!trace_run(pid), "the reader did not end");
  return inside;
}

void truncate_instruction(void)
{
  static void (*const bodies[])(void) = {cut_observer, cut_consumer};
  static const off_t ends[] = {0, 4096};
  uint64_t rounds = 0;
  lab_pin();
  for (size_t b = 0; b < BUS_COUNT_OF(bodies); b++)
    for (size_t e = 0; e < BUS_COUNT_OF(ends); e++)
      for (uint64_t next = 0; next < 4; next += 3)
        for (uint64_t point = 0; point < 400 && cut_at(bodies[b], next, point, ends[e]); point++)
          rounds++;
  lab_count("%llu truncations", (unsigned long long)rounds);
}
