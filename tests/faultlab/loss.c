/* loss.c: a consumer that is lapped, attached or away, counts what it missed to the record, once,
 * wherever it is killed. A subscription does not join a ring that overwrites; this one goes round
 * it, as a program in another language may. */
#include "experiments.h"
#include "rig.h"
#include "trace.h"

#include <string.h>
#include <sys/mman.h>

#define ROUNDS 60000u

struct reader {
  struct bus_member *member;
  struct bus_neighbour *p;
  const struct bus_entry *entry;
  struct bus_position *position;
  struct bus_consumer consumer;
};

/* All but the joining. */
static void reader_attach(struct reader *reader)
{
  LAB_CHECK(rig_consumer_new(&reader->member) == BUS_OK, "%s", bus_error_message());
  LAB_CHECK(bus_neighbour_attach(lab_directory, "p", true, &reader->p) == BUS_OK, "%s",
            bus_error_message());
  reader->entry = bus_neighbour_find(reader->p, BUS_OBJECT_RING, "r");
  reader->position = bus_member_position(reader->member, "p", "r");
}

static void reader_join(struct reader *reader)
{
  bus_consumer_init(&reader->consumer, bus_neighbour_object(reader->p, reader->entry),
                    reader->entry, bus_neighbour_header(reader->p)->instance, reader->position, 0);
}

static void reader_leave(struct reader *reader)
{
  bus_neighbour_detach(reader->p);
  bus_member_leave(reader->member, BUS_STATE_HALT);
}

/* ---- lapped again and again ---- */

/* How many it read; each move of its place is a record read or one counted as lost. */
static uint64_t read_some(struct bus_consumer *consumer, uint64_t count)
{
  uint64_t read = 0;
  for (uint64_t i = 0; i < count; i++) {
    uint64_t lost = consumer->position->lost, next = consumer->next;
    const void *record = op_poll(consumer);
    LAB_CHECK(consumer->position->lost - lost == consumer->next - next,
              "the consumer went from %llu to %llu and counted %llu lost", (unsigned long long)next,
              (unsigned long long)consumer->next,
              (unsigned long long)(consumer->position->lost - lost));
    if (!record)
      continue;
    LAB_CHECK(record_is_whole(record, consumer->next, rig_spec.record_size), "torn");
    read++;
    op_release(consumer);
  }
  return read;
}

/* The ordinary way in is shut, with a word on what to do. */
static void check_refused(void)
{
  struct rig_consumer c;
  rig_consumer_open(&c);
  LAB_CHECK(!c.subscription.neighbour && c.subscription.last_error == BUS_ERROR_INVALID,
            "a ring that overwrites lets a reliable consumer in");
  rig_consumer_close(&c);
}

void lost_is_counted(void)
{
  struct rig_producer p;
  struct reader c;
  uint64_t away = 0, read = 0;
  rig_spec.policy = BUS_POLICY_OVERWRITE;
  rig_producer_open(&p);
  check_refused();
  reader_attach(&c);
  reader_join(&c);
  for (unsigned i = 0; i < ROUNDS; i++) {
    uint64_t written = lab_random_below(lab_random_below(4) ? 6 : 30);
    for (uint64_t n = 0; n < written; n++)
      LAB_CHECK(op_publish(&p.producer, 1), "a ring that overwrites is full");
    if (lab_random_below(16)) {
      read += read_some(&c.consumer, lab_random_below(12));
      continue;
    }
    /* Away for a while; what it has read is published, as on every orderly end. */
    bus_consumer_publish(&c.consumer);
    reader_leave(&c);
    for (uint64_t n = lab_random_below(20); n > 0; n--)
      op_publish(&p.producer, 1);
    reader_attach(&c);
    reader_join(&c);
    away++;
  }
  LAB_CHECK(read + c.position->lost == c.consumer.next,
            "%llu read and %llu lost do not add up to %llu", (unsigned long long)read,
            (unsigned long long)c.position->lost, (unsigned long long)c.consumer.next);
  LAB_CHECK(c.position->lost > ROUNDS, "the experiment lost next to nothing");
  lab_count("%llu records, %llu read, %llu lost, %llu restarts",
            (unsigned long long)c.consumer.next, (unsigned long long)read,
            (unsigned long long)c.position->lost, (unsigned long long)away);
  reader_leave(&c);
  rig_producer_close(&p);
}

/* ---- killed at every instruction of a skip ---- */

/* FRESH: the first skip of this file; AGAIN: it has skipped before and read since; AT_ONCE: it
 * stands where its last skip went. */
enum history { FRESH, AGAIN, AT_ONCE, HISTORIES };
enum { VALUE_AWAY, VALUE_HISTORY, VALUE_BEYOND, VALUE_NEXT, VALUE_LOST };

static void write_some(struct bus_producer *producer, uint64_t count)
{
  while (count-- > 0)
    op_publish(producer, 1);
}

static void skipper(void)
{
  struct rig_producer p;
  struct reader c;
  uint64_t *value = lab_control->value;
  rig_producer_open(&p);
  reader_attach(&c);
  reader_join(&c);
  write_some(&p.producer, 5);
  read_some(&c.consumer, 5);
  if (value[VALUE_HISTORY] != FRESH) {
    write_some(&p.producer, 2 * rig_spec.depth);
    read_some(&c.consumer, 1 + (value[VALUE_HISTORY] == AGAIN ? 2 : 0));
  }
  bus_consumer_publish(&c.consumer);
  value[VALUE_NEXT] = c.consumer.next;
  value[VALUE_LOST] = c.position->lost;
  uint64_t unread = p.producer.next - c.consumer.next;
  write_some(&p.producer, rig_spec.depth - unread + value[VALUE_BEYOND]);
  trace_ready();
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
  if (value[VALUE_AWAY])
    reader_join(&c);
  else
    op_poll(&c.consumer);
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
  trace_ready();
}

/* The successor's successor: it too is killed at every instruction. */
static void second(void)
{
  struct reader c;
  reader_attach(&c);
  trace_ready();
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
  reader_join(&c);
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
  trace_ready();
}

/* Both files as they are now, in private copies. */
struct world {
  struct bus_neighbour *p, *c;
  const struct bus_entry *entry;
  const struct bus_position *position;
};

static void world_open(struct world *world)
{
  LAB_CHECK(bus_neighbour_attach(lab_directory, "p", true, &world->p) == BUS_OK &&
                bus_neighbour_attach(lab_directory, "c", true, &world->c) == BUS_OK,
            "%s", bus_error_message());
  world->entry = bus_neighbour_find(world->p, BUS_OBJECT_RING, "r");
  world->position =
      bus_neighbour_object(world->c, bus_neighbour_find(world->c, BUS_OBJECT_POSITION, "r"));
}

static void world_close(struct world *world)
{
  bus_neighbour_detach(world->p);
  bus_neighbour_detach(world->c);
}

/* Whoever goes on with this position has lost exactly what lies between where its predecessor stood
 * and where it goes on, and again after another lap. */
static void check_account(const struct world *world)
{
  static _Alignas(4096) unsigned char ring[RIG_IMAGE_BYTES];
  const uint64_t instance = bus_neighbour_header(world->p)->instance;
  const uint64_t *value = lab_control->value;
  struct lab_control before = *lab_control;
  struct bus_position place = *world->position;
  struct bus_consumer consumer;
  struct bus_producer producer;
  memcpy(ring, bus_neighbour_object(world->p, world->entry), (size_t)world->entry->size);
  bus_consumer_init(&consumer, ring, world->entry, instance, &place, 0);
  LAB_CHECK(place.lost - value[VALUE_LOST] == consumer.next - value[VALUE_NEXT],
            "killed in a skip from %llu: the successor goes on at %llu and counts %llu lost",
            (unsigned long long)value[VALUE_NEXT], (unsigned long long)consumer.next,
            (unsigned long long)(place.lost - value[VALUE_LOST]));
  bus_producer_init(&producer, ring, world->entry, instance);
  uint64_t read = 0;
  for (unsigned lap = 0; lap < 2; lap++) {
    read += read_some(&consumer, 2 * rig_spec.depth);
    write_some(&producer, 2 * rig_spec.depth + 3);
  }
  LAB_CHECK(place.lost - value[VALUE_LOST] + read == consumer.next - value[VALUE_NEXT],
            "%llu lost and %llu read do not add up",
            (unsigned long long)(place.lost - value[VALUE_LOST]), (unsigned long long)read);
  /* With another file of the producer's, what was skipped stays counted. */
  place = *world->position;
  uint64_t skipped = place.ring_instance == instance ? place.position - value[VALUE_NEXT] : 0;
  bus_consumer_init(&consumer, ring, world->entry, instance + 1, &place, 0);
  LAB_CHECK(place.lost - value[VALUE_LOST] == skipped,
            "killed in a skip of %llu, then the ring was made anew: %llu are counted",
            (unsigned long long)skipped, (unsigned long long)(place.lost - value[VALUE_LOST]));
  *lab_control = before;
}

/* Its successor is at work on the real files; what it leaves at each instruction is recovered. */
static uint64_t kill_successor(const struct world *world)
{
  uint64_t points = 0;
  pid_t pid = trace_fork(second);
  trace_to_operation(pid);
  do {
    check_account(world);
    points++;
    LAB_CHECK(trace_step(pid), "the operation did not end");
  } while (BUS_LOAD_ACQUIRE(&lab_control->inside));
  lab_kill(pid);
  check_account(world);
  return points;
}

/* False when the skip was over before `point`. A state that was met an instruction before has had
 * its second death. */
static bool kill_skip_at(uint64_t point, struct bus_position *last, uint64_t *second_deaths)
{
  uint64_t *value = lab_control->value;
  struct lab_control chosen = {0};
  struct world world;
  memcpy(chosen.value, value, sizeof chosen.value);
  lab_clean();
  *lab_control = chosen;
  pid_t pid = trace_fork(skipper);
  trace_to_operation(pid);
  for (uint64_t i = 0; i < point && BUS_LOAD_ACQUIRE(&lab_control->inside); i++)
    LAB_CHECK(trace_step(pid), "the operation did not end");
  bool inside = BUS_LOAD_ACQUIRE(&lab_control->inside);
  lab_kill(pid);
  world_open(&world);
  check_account(&world);
  struct bus_position now = *world.position;
  now.ring_instance = 1; /* each world has files of its own */
  if (memcmp(&now, last, sizeof now) != 0)
    *second_deaths += kill_successor(&world);
  *last = now;
  world_close(&world);
  return inside;
}

void kill_skip(void)
{
  static const uint64_t beyond[] = {1, 20};
  uint64_t kills = 0, second_deaths = 0, *value = lab_control->value;
  lab_pin();
  rig_spec.policy = BUS_POLICY_OVERWRITE;
  for (value[VALUE_AWAY] = 0; value[VALUE_AWAY] < 2; value[VALUE_AWAY]++)
    for (value[VALUE_HISTORY] = 0; value[VALUE_HISTORY] < HISTORIES; value[VALUE_HISTORY]++)
      for (size_t i = 0; i < BUS_COUNT_OF(beyond); i++) {
        struct bus_position last = {0};
        value[VALUE_BEYOND] = beyond[i];
        for (uint64_t point = 0; kill_skip_at(point, &last, &second_deaths); point++)
          kills++;
      }
  lab_count("%llu kills in a skip, one at each instruction, and %llu second ones in its recovery",
            (unsigned long long)kills, (unsigned long long)second_deaths);
}
