/* hot.c: publish, consume and observe, killed at every instruction.
 *
 * Snapshot: the traced process goes through the operation instruction by instruction; after each
 * one the tracer recovers everything from copies of the ring and the position. Kill: the same with
 * a real SIGKILL after instruction k and two new members on the real files. */
#include "experiments.h"
#include "rig.h"
#include "trace.h"

#include <string.h>
#include <unistd.h>

#define OPERATIONS 20u /* more than two laps of the ring */

static const uint32_t sizes[] = {64, 128, 192, 1024};

static bool copying;
static uint64_t lead; /* operations done before the one that is watched */

static bool publish_one(struct bus_producer *producer)
{
  return copying ? op_publish_copy(producer, 1) : op_publish(producer, 1);
}

/* The tracer's own view of both files, to take snapshots from. */
struct view {
  struct bus_neighbour *p, *c;
  const struct bus_entry *ring_entry;
  const void *ring, *position;
  uint64_t instance;
};

static void view_open(struct view *view)
{
  LAB_CHECK(bus_neighbour_attach(lab_directory, "p", true, &view->p) == BUS_OK, "%s",
            bus_error_message());
  LAB_CHECK(bus_neighbour_attach(lab_directory, "c", true, &view->c) == BUS_OK, "%s",
            bus_error_message());
  view->ring_entry = bus_neighbour_find(view->p, BUS_OBJECT_RING, "r");
  view->ring = bus_neighbour_object(view->p, view->ring_entry);
  view->position =
      bus_neighbour_object(view->c, bus_neighbour_find(view->c, BUS_OBJECT_POSITION, "r"));
  view->instance = bus_neighbour_header(view->p)->instance;
}

static void view_close(struct view *view)
{
  bus_neighbour_detach(view->p);
  bus_neighbour_detach(view->c);
}

/* Both sides are in one process, so that each finds what the other has done; one is watched. */
static void publisher(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  rig_pair_open(&p, &c);
  for (uint64_t i = 0; i < lead; i++) {
    publish_one(&p.producer);
    if (i % 3 != 0) /* lags behind, so that some find the ring full */
      rig_consume(&c.subscription.consumer, rig_spec.record_size);
  }
  trace_ready();
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
  publish_one(&p.producer);
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
  trace_ready();
}

static void consumer(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  rig_pair_open(&p, &c);
  for (uint64_t i = 0; i < lead; i++) {
    if (i % 5 != 4) /* every fifth poll finds nothing: the position is published then */
      publish_one(&p.producer);
    rig_consume(&c.subscription.consumer, rig_spec.record_size);
  }
  if (lead % 5 != 4)
    publish_one(&p.producer);
  trace_ready();
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
  rig_consume(&c.subscription.consumer, rig_spec.record_size);
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
  trace_ready();
}

static void observer(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  struct bus_subscription watch;
  rig_pair_open(&p, &c);
  LAB_CHECK(bus_subscription_init(&watch, lab_directory, "p", "r", BUS_RECORD_RAW,
                                  rig_spec.record_size, NULL) == BUS_OK &&
                bus_subscription_maintain(&watch, 0) == 1,
            "%s", bus_error_message());
  for (uint64_t i = 0; i < lead; i++) {
    op_publish(&p.producer, 1);
    rig_consume(&c.subscription.consumer, rig_spec.record_size);
    if (lead % 4 != 3) /* else it is lapped */
      op_observe(&watch.observer, record);
  }
  if (lead % 2)
    op_publish(&p.producer, 1);
  trace_ready();
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)1);
  op_observe(&watch.observer, record);
  BUS_STORE_RELEASE(&lab_control->inside, (uint64_t)0);
  trace_ready();
}

static void start_afresh(void)
{
  lab_clean();
  memset(lab_control, 0, sizeof *lab_control);
}

/* A real kill loses nothing that is in shared memory: what a snapshot shows is what a successor
 * finds. */
static uint64_t snapshot_one(void (*body)(void))
{
  struct view view;
  uint64_t points = 0;
  start_afresh();
  pid_t pid = trace_fork(body);
  view_open(&view);
  trace_to_operation(pid);
  do {
    rig_check_images(view.ring_entry, view.instance, view.ring, view.position, rig_truth_now());
    points++;
    LAB_CHECK(trace_step(pid), "the operation did not end");
  } while (BUS_LOAD_ACQUIRE(&lab_control->inside));
  view_close(&view);
  lab_kill(pid);
  return points;
}

static uint64_t kill_one(void (*body)(void))
{
  for (uint64_t point = 0;; point++) {
    start_afresh();
    pid_t pid = trace_fork(body);
    trace_to_operation(pid);
    for (uint64_t i = 0; i < point && BUS_LOAD_ACQUIRE(&lab_control->inside); i++)
      LAB_CHECK(trace_step(pid), "the operation did not end");
    bool inside = BUS_LOAD_ACQUIRE(&lab_control->inside);
    lab_kill(pid);
    rig_check_restart(rig_truth_now(), rig_lag_max(rig_spec.depth));
    if (!inside)
      return point;
  }
}

static void over_publish(uint64_t (*method)(void (*)(void)), const char *unit, uint64_t step)
{
  uint64_t points = 0, operations = 0;
  lab_pin();
  for (unsigned copies = 0; copies < 2; copies++) {
    copying = copies;
    for (size_t s = 0; s < BUS_COUNT_OF(sizes); s++) {
      rig_spec.record_size = sizes[s];
      if (step > 1 && (copies || sizes[s] > 128)) /* real kills: long copies add no new store */
        continue;
      for (lead = 0; lead<OPERATIONS; lead += sizes[s]> 512 ? 7 : step, operations++)
        points += method(publisher);
    }
  }
  lab_count("%llu %s in %llu operations", (unsigned long long)points, unit,
            (unsigned long long)operations);
}

void snapshot_publish(void)
{
  over_publish(snapshot_one, "instructions", 1);
}

void kill_publish(void)
{
  over_publish(kill_one, "kills, one at each instruction,", 4);
}

static void over_read(uint64_t (*method)(void (*)(void)), void (*body)(void), const char *unit,
                      uint64_t step)
{
  uint64_t points = 0, operations = 0;
  lab_pin();
  for (size_t s = 0; s < (step > 1 ? 2u : BUS_COUNT_OF(sizes)); s++) {
    rig_spec.record_size = sizes[s];
    for (lead = 0; lead<OPERATIONS; lead += sizes[s]> 512 ? 7 : step, operations++)
      points += method(body);
  }
  lab_count("%llu %s in %llu operations", (unsigned long long)points, unit,
            (unsigned long long)operations);
}

void snapshot_consume(void)
{
  over_read(snapshot_one, consumer, "instructions", 1);
}

void kill_consume(void)
{
  over_read(kill_one, consumer, "kills, one at each instruction,", 4);
}

void kill_observe(void)
{
  over_read(kill_one, observer, "kills, one at each instruction,", 3);
}
