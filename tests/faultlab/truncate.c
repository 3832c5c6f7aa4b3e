/* truncate.c: another process of the same user cuts a member's file while neighbours read it. They
 * live, notice, and attach again when the owner has restarted. */
#include "experiments.h"
#include "rig.h"

#include <string.h>
#include <unistd.h>

#define CUTS_RANDOM 400u
#define PAGE        4096

enum { VALUE_ATTACHES, VALUE_ATTACHED, VALUE_GONE, VALUE_ZEROED };

/* Consumes and observes for ever. A record that is torn is one of a file that is marked. */
static void reader(void)
{
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  uint64_t *value = lab_control->value;
  struct rig_consumer c;
  struct bus_subscription watch;
  rig_consumer_open(&c);
  bus_subscription_init(&watch, lab_directory, "p", "r", BUS_RECORD_RAW, rig_spec.record_size,
                        NULL);
  watch.from_oldest = true;
  struct bus_subscription *in = &c.subscription;
  while (!BUS_LOAD_ACQUIRE(&lab_control->stop)) {
    bool was = in->neighbour != NULL;
    int status = bus_subscription_maintain(in, 0);
    value[VALUE_GONE] += was && (status != 0);
    bus_subscription_maintain(&watch, 0);
    for (unsigned i = 0; i < 16 && watch.neighbour; i++) {
      uint64_t next = watch.observer.next;
      if (op_observe(&watch.observer, record) == 1)
        LAB_CHECK(record_is_whole(record, next, rig_spec.record_size),
                  "the observer accepted a torn record %llu", (unsigned long long)next);
    }
    const void *polled = in->neighbour ? op_poll(&in->consumer) : NULL;
    if (polled && record_is_whole(polled, in->consumer.next, rig_spec.record_size)) {
      op_release(&in->consumer);
      BUS_STORE_RELEASE(&lab_control->read, lab_control->read + 1);
    } else if (polled) {
      LAB_CHECK(bus_neighbour_status(in->neighbour, UINT64_MAX) == BUS_NEIGHBOUR_GONE,
                "a torn record of a file that is not marked");
      value[VALUE_ZEROED]++;
    }
    BUS_STORE_RELEASE(&value[VALUE_ATTACHES], in->attaches);
    BUS_STORE_RELEASE(&value[VALUE_ATTACHED], (uint64_t)(in->neighbour != NULL));
  }
}

/* The owner would die of a write to its own cut file; so it is a process that can be killed. */
static uint64_t owner_records;

static void owner(void)
{
  struct rig_producer p;
  rig_producer_open(&p);
  for (uint64_t i = 0; i < owner_records; i++) {
    bus_backlink_maintain(&p.backlink);
    op_publish(&p.producer, 1);
  }
  BUS_STORE_RELEASE(&lab_control->ready, (uint64_t)1);
  for (;;) { /* the reader joins only when its file is connected */
    bus_backlink_maintain(&p.backlink);
    lab_sleep_us(20);
  }
}

static pid_t owner_start(uint64_t records)
{
  owner_records = records;
  BUS_STORE_RELEASE(&lab_control->ready, (uint64_t)0);
  pid_t pid = lab_fork(owner);
  while (!BUS_LOAD_ACQUIRE(&lab_control->ready)) {
    lab_must_live(pid, "the owner");
    lab_sleep_us(20);
  }
  return pid;
}

static void await_change(const uint64_t *value, uint64_t old, pid_t pid)
{
  while (BUS_LOAD_ACQUIRE(value) == old) {
    lab_must_live(pid, "the reader");
    lab_sleep_us(20);
  }
}

/* A stump shorter than a header is not taken for a member's file; all else is made anew. */
static void check_restart(off_t size)
{
  struct bus_member *member;
  int error = rig_producer_new(&member);
  if (size > 0 && size < (off_t)BUS_HEADER_BYTES) {
    LAB_CHECK(error == BUS_ERROR_CORRUPT && strstr(bus_error_message(), lab_path("p")),
              "a stump was taken over: %s", error ? bus_error_message() : "no error");
    LAB_CHECK(unlink(lab_path("p")) == 0, "unlink: %m");
    error = rig_producer_new(&member);
  }
  LAB_CHECK(error == BUS_OK, "the owner cannot restart: %s", bus_error_message());
  LAB_CHECK(!bus_member_is_successor(member), "a cut file was continued");
  bus_member_leave(member, BUS_STATE_RUN);
}

/* The reader must see the cut, and read on when the owner has restarted. */
static void cut_and_restart(pid_t pid, off_t size, uint64_t records)
{
  const uint64_t *value = lab_control->value;
  uint64_t gone = BUS_LOAD_ACQUIRE(&value[VALUE_GONE]);
  pid_t owner_pid = owner_start(records);
  while (!BUS_LOAD_ACQUIRE(&value[VALUE_ATTACHED])) {
    lab_must_live(pid, "the reader");
    lab_sleep_us(20);
  }
  lab_sleep_us(lab_random_below(100));
  LAB_CHECK(truncate(lab_path("p"), size) == 0, "truncate: %m");
  await_change(&value[VALUE_GONE], gone, pid);
  lab_kill(owner_pid);
  check_restart(size);
  uint64_t read = BUS_LOAD_ACQUIRE(&lab_control->read);
  owner_pid = owner_start(3);
  await_change(&lab_control->read, read, pid);
  lab_kill(owner_pid);
}

static void cut_all(void (*cuts)(pid_t, uint64_t *))
{
  uint64_t count = 0;
  rig_spec = (struct rig_spec){.record_size = 1024, .policy = BUS_POLICY_WAIT, .depth = 16};
  pid_t pid = lab_fork(reader);
  cuts(pid, &count);
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)1);
  lab_join(pid, "the reader");
  LAB_CHECK(lab_control->value[VALUE_GONE] >= count, "%llu cuts, %llu of them noticed",
            (unsigned long long)count, (unsigned long long)lab_control->value[VALUE_GONE]);
  lab_count("%llu cuts, all noticed, %llu times attached, %llu records read, %llu records zeroed "
            "in place",
            (unsigned long long)count, (unsigned long long)lab_control->value[VALUE_ATTACHES],
            (unsigned long long)lab_control->read,
            (unsigned long long)lab_control->value[VALUE_ZEROED]);
}

static void cut_boundaries(pid_t pid, uint64_t *count)
{
  for (off_t page = 0; page <= 6 * PAGE; page += PAGE)
    for (int near = -1; near <= 1; near++)
      for (uint64_t records = 0; records <= 16; records += 8)
        if (page + near >= 0 && page + near < 6 * PAGE) {
          cut_and_restart(pid, page + near, records);
          ++*count;
        }
}

static void cut_random(pid_t pid, uint64_t *count)
{
  for (; *count < CUTS_RANDOM; ++*count)
    cut_and_restart(pid, (off_t)lab_random_below(6 * PAGE), lab_random_below(20));
}

void truncate_boundary(void)
{
  cut_all(cut_boundaries);
}

void truncate_random(void)
{
  cut_all(cut_random);
}
