#include "shm/ring.h"

#include <criterion/criterion.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define INSTANCE 77u
#define CONSUMER 88u /* instance of the consumer's file */

struct ring_case {
  struct bus_entry entry;
  void *memory;
  struct bus_producer producer;
  struct bus_position position;
};

static void ring_open(struct ring_case *ring, uint64_t depth, uint32_t record_size, uint32_t policy,
                      uint64_t start)
{
  memset(ring, 0, sizeof *ring);
  ring->entry.type = BUS_OBJECT_RING;
  ring->entry.record_size = record_size;
  ring->entry.depth = depth;
  ring->entry.policy = policy;
  size_t bytes = (size_t)bus_layout_object_bytes(&ring->entry);
  cr_assert_gt(bytes, 0);
  ring->memory = aligned_alloc(128, BUS_ALIGN_UP(bytes, (size_t)128));
  memset(ring->memory, 0, bytes);
  bus_ring_format(ring->memory, &ring->entry, start);
  bus_producer_init(&ring->producer, ring->memory, &ring->entry, INSTANCE);
}

static bool write_one(struct ring_case *ring, uint64_t value)
{
  uint64_t *slot = bus_producer_reserve(&ring->producer);
  if (!slot)
    return false;
  for (uint32_t i = 0; i < ring->entry.record_size / 8 - 1; i++)
    slot[i] = value + i;
  bus_producer_commit(&ring->producer);
  return true;
}

static void check_record(const struct ring_case *ring, const void *record, uint64_t value)
{
  const uint64_t *words = record;
  for (uint32_t i = 0; i < ring->entry.record_size / 8 - 1; i++)
    cr_assert_eq(words[i], value + i);
}

static const uint64_t starts[] = {0, 5, (uint64_t)0 - 3, (uint64_t)0 - 1000,
                                  ((uint64_t)1 << 63) - 9};

Test(ring, passes_records_in_order_and_fills_up)
{
  for (size_t s = 0; s < BUS_COUNT_OF(starts); s++) {
    struct ring_case ring;
    struct bus_consumer consumer;
    ring_open(&ring, 8, 64, BUS_POLICY_WAIT, starts[s]);
    bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
    bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
    cr_assert_null(bus_consumer_poll(&consumer));
    for (uint64_t i = 0; i < 8; i++)
      cr_assert(write_one(&ring, 100 + i));
    cr_assert_not(write_one(&ring, 999));
    cr_assert_eq(ring.producer.header->waits, 1);
    for (uint64_t i = 0; i < 8; i++) {
      const void *record = bus_consumer_poll(&consumer);
      cr_assert_not_null(record);
      check_record(&ring, record, 100 + i);
      bus_consumer_release(&consumer);
    }
    cr_assert_null(bus_consumer_poll(&consumer));
    cr_assert(write_one(&ring, 1));
    cr_assert_eq(ring.position.lost, 0);
    free(ring.memory);
  }
}

Test(ring, drops_newest_or_overwrites_by_policy)
{
  struct ring_case ring;
  ring_open(&ring, 4, 64, BUS_POLICY_DROP_NEWEST, 0);
  for (uint64_t i = 0; i < 6; i++)
    write_one(&ring, i);
  cr_assert_eq(ring.producer.header->dropped, 2);
  cr_assert_eq(bus_ring_head(ring.memory, &ring.entry), 4);
  free(ring.memory);
  ring_open(&ring, 4, 64, BUS_POLICY_OVERWRITE, 0);
  for (uint64_t i = 0; i < 1000; i++)
    cr_assert(write_one(&ring, i));
  cr_assert_eq(bus_ring_head(ring.memory, &ring.entry), 1000);
  free(ring.memory);
}

Test(ring, a_successor_continues_after_the_newest_commit)
{
  for (size_t s = 0; s < BUS_COUNT_OF(starts); s++) {
    for (uint64_t written = 0; written < 20; written++) {
      struct ring_case ring;
      struct bus_consumer consumer;
      ring_open(&ring, 8, 64, BUS_POLICY_WAIT, starts[s]);
      bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
      bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
      uint64_t value = 0;
      for (uint64_t i = 0; i < written; i++) {
        cr_assert(write_one(&ring, i));
        if (i >= 4) { /* leave four unread */
          check_record(&ring, bus_consumer_poll(&consumer), value++);
          bus_consumer_release(&consumer);
        }
      }
      /* Killed with a slot half filled. */
      uint64_t *slot = bus_producer_reserve(&ring.producer);
      cr_assert_not_null(slot);
      slot[0] = 0xdead;
      struct bus_producer successor;
      bus_producer_init(&successor, ring.memory, &ring.entry, INSTANCE);
      cr_assert_eq(successor.next, starts[s] + written);
      bus_producer_connect(&successor, &ring.position, CONSUMER);
      ring.producer = successor;
      cr_assert(write_one(&ring, written));
      while (value <= written) {
        check_record(&ring, bus_consumer_poll(&consumer), value++);
        bus_consumer_release(&consumer);
      }
      cr_assert_null(bus_consumer_poll(&consumer));
      free(ring.memory);
    }
  }
}

Test(ring, without_a_consumer_nothing_unread_is_overwritten)
{
  struct ring_case ring;
  ring_open(&ring, 4, 64, BUS_POLICY_WAIT, 0);
  for (uint64_t i = 0; i < 4; i++)
    cr_assert(write_one(&ring, i));
  cr_assert_not(write_one(&ring, 4));
  struct bus_producer successor;
  bus_producer_init(&successor, ring.memory, &ring.entry, INSTANCE);
  ring.producer = successor;
  cr_assert_not(write_one(&ring, 4));
  free(ring.memory);
}

Test(ring, impossible_positions_are_counted_and_ignored)
{
  struct ring_case ring;
  ring_open(&ring, 4, 64, BUS_POLICY_WAIT, 0);
  for (uint64_t i = 0; i < 4; i++)
    cr_assert(write_one(&ring, i));
  const uint64_t impossible[] = {5, 1000, UINT64_MAX, (uint64_t)1 << 63};
  ring.position.ring_instance = INSTANCE;
  for (size_t i = 0; i < BUS_COUNT_OF(impossible); i++) {
    ring.position.position = impossible[i];
    bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
    cr_assert_not(write_one(&ring, 4));
  }
  cr_assert_geq(ring.producer.header->positions_rejected, BUS_COUNT_OF(impossible));
  ring.position.position = 2;
  ring.position.ring_instance = INSTANCE + 1; /* counts in another file */
  cr_assert_not(write_one(&ring, 4));
  ring.position.ring_instance = INSTANCE;
  cr_assert(write_one(&ring, 4));
  cr_assert(write_one(&ring, 5));
  cr_assert_not(write_one(&ring, 6));
  ring.position.position = 1; /* backwards */
  cr_assert_not(write_one(&ring, 6));
  free(ring.memory);
}

Test(ring, a_consumer_resumes_and_counts_what_it_missed)
{
  struct ring_case ring;
  struct bus_consumer consumer;
  ring_open(&ring, 8, 64, BUS_POLICY_OVERWRITE, 0);
  for (uint64_t i = 0; i < 6; i++)
    write_one(&ring, i);
  bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 11);
  cr_assert_eq(consumer.next, 0);
  cr_assert_eq(ring.position.output_floor, 11);
  for (int i = 0; i < 3; i++) {
    cr_assert_not_null(bus_consumer_poll(&consumer));
    bus_consumer_release(&consumer);
  }
  bus_consumer_publish(&consumer);
  bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 99);
  cr_assert_eq(consumer.next, 3);
  cr_assert_eq(ring.position.output_floor, 11, "a resumed position keeps its floor");
  for (uint64_t i = 6; i < 20; i++)
    write_one(&ring, i);
  bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
  cr_assert_eq(consumer.next, 12);
  cr_assert_eq(ring.position.lost, 9);
  /* Lapped while it runs. */
  for (uint64_t i = 20; i < 40; i++)
    write_one(&ring, i);
  cr_assert_null(bus_consumer_poll(&consumer));
  cr_assert_eq(consumer.next, 36);
  cr_assert_eq(ring.position.lost, 9 + 24);
  check_record(&ring, bus_consumer_poll(&consumer), 36);
  /* Another instance of the ring: starts afresh. */
  bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE + 1, &ring.position, 5);
  cr_assert_eq(consumer.next, 32);
  cr_assert_eq(ring.position.output_floor, 5);
  free(ring.memory);
}

Test(ring, connecting_a_full_ring_drops_nothing)
{
  struct ring_case ring;
  ring_open(&ring, 4, 64, BUS_POLICY_DROP_NEWEST, 0);
  for (uint64_t i = 0; i < 4; i++)
    cr_assert(write_one(&ring, i));
  bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
  cr_assert_eq(ring.producer.header->dropped, 0);
  cr_assert_not(write_one(&ring, 4));
  cr_assert_eq(ring.producer.header->dropped, 1);
  ring.position.position = 1;
  ring.position.ring_instance = INSTANCE;
  bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
  cr_assert(write_one(&ring, 4));
  cr_assert_eq(ring.producer.header->dropped, 1);
  free(ring.memory);
}

/* Killed between any two stores of a skip, its successor counts the lost records once. */
Test(ring, lost_records_are_counted_once_over_kills)
{
  enum { STORES = 5 };
  for (int done = 0; done <= STORES; done++) {
    struct ring_case ring;
    struct bus_consumer consumer;
    ring_open(&ring, 8, 64, BUS_POLICY_OVERWRITE, 0);
    ring.position = (struct bus_position){.position = 3, .ring_instance = INSTANCE, .lost = 2};
    ring.position.skip_to = 3; /* of the skip that lost these two */
    ring.position.skip_lost = 2;
    for (uint64_t i = 0; i < 20; i++)
      write_one(&ring, i);
    /* What skip_lost stores, in its order, on the way from 3 to 12. */
    uint64_t *words[STORES] = {&ring.position.skip_to, &ring.position.skip_lost,
                               &ring.position.skip_to, &ring.position.position,
                               &ring.position.lost};
    const uint64_t values[STORES] = {2, 11, 12, 12, 11};
    for (int i = 0; i < done; i++)
      *words[i] = values[i];
    bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
    cr_assert_eq(consumer.next, 12);
    cr_assert_eq(ring.position.lost, 11, "after %d stores", done);
    bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
    cr_assert_eq(ring.position.lost, 11);
    free(ring.memory);
  }
}

/* A producer that is killed in the middle of a record leaves the oldest slot half overwritten,
 * under the stamp that it had: neither a consumer's new file nor the successor may go by it. */
Test(ring, a_fresh_join_leaves_out_what_a_killed_producer_was_overwriting)
{
  for (size_t s = 0; s < BUS_COUNT_OF(starts); s++) {
    for (int successor = 0; successor < 2; successor++) {
      struct ring_case ring;
      struct bus_consumer consumer;
      struct bus_position fresh = {0};
      ring_open(&ring, 4, 64, BUS_POLICY_WAIT, starts[s]);
      for (uint64_t i = 0; i < 4; i++)
        cr_assert(write_one(&ring, i));
      ring.position.position = starts[s] + 1;
      ring.position.ring_instance = INSTANCE;
      bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
      uint64_t *slot = bus_producer_reserve(&ring.producer);
      cr_assert_not_null(slot);
      slot[0] = 4711; /* killed here */
      if (successor) {
        bus_producer_init(&ring.producer, ring.memory, &ring.entry, INSTANCE);
        bus_producer_connect(&ring.producer, &fresh, CONSUMER + 1);
      }
      bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &fresh, 0);
      for (uint64_t i = 1; i < 4; i++) {
        check_record(&ring, bus_consumer_poll(&consumer), i);
        bus_consumer_release(&consumer);
      }
      cr_assert_null(bus_consumer_poll(&consumer));
      free(ring.memory);
    }
  }
}

/* A skip that was cut short is finished also when another instance of the ring follows. */
Test(ring, a_skip_is_finished_before_a_fresh_join)
{
  struct ring_case ring;
  struct bus_consumer consumer;
  ring_open(&ring, 8, 64, BUS_POLICY_OVERWRITE, 0);
  ring.position = (struct bus_position){.position = 12, .ring_instance = INSTANCE - 1, .lost = 2};
  ring.position.skip_to = 12;
  ring.position.skip_lost = 11; /* killed before `lost` */
  bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
  cr_assert_eq(consumer.next, 0);
  cr_assert_eq(ring.position.lost, 11);
  free(ring.memory);
}

Test(ring, observers_see_whole_records_and_count_overruns)
{
  for (size_t s = 0; s < BUS_COUNT_OF(starts); s++) {
    struct ring_case ring;
    struct bus_observer observer;
    uint64_t record[16];
    ring_open(&ring, 8, 128, BUS_POLICY_OVERWRITE, starts[s]);
    bus_observer_init(&observer, ring.memory, &ring.entry, true);
    cr_assert_eq(bus_observer_poll(&observer, record), 0);
    for (uint64_t i = 0; i < 7; i++)
      write_one(&ring, i);
    for (uint64_t i = 0; i < 7; i++) {
      cr_assert_eq(bus_observer_poll(&observer, record), 1);
      check_record(&ring, record, i);
      cr_assert_eq(record[15], starts[s] + i + 1);
    }
    cr_assert_eq(bus_observer_poll(&observer, record), 0);
    for (uint64_t i = 7; i < 30; i++)
      write_one(&ring, i);
    cr_assert_eq(bus_observer_poll(&observer, record), BUS_ERROR_OVERRUN);
    cr_assert_eq(observer.lost, 19);
    uint64_t value = 26;
    while (bus_observer_poll(&observer, record) == 1)
      check_record(&ring, record, value++);
    cr_assert_eq(value, 30);
    free(ring.memory);
  }
}

/* The producer has begun to overwrite the very slot: its own stamp still looks right. */
Test(ring, an_overwrite_that_has_begun_is_seen_through_the_neighbour_slot)
{
  struct ring_case ring;
  struct bus_observer observer;
  uint64_t record[8];
  ring_open(&ring, 4, 64, BUS_POLICY_OVERWRITE, 0);
  for (uint64_t i = 0; i < 3; i++)
    write_one(&ring, i);
  bus_observer_init(&observer, ring.memory, &ring.entry, true);
  cr_assert_eq(bus_observer_poll(&observer, record), 1); /* at record 1 now */
  write_one(&ring, 3);
  write_one(&ring, 4);
  uint64_t *slot = bus_producer_reserve(&ring.producer); /* record 5 goes where record 1 is */
  slot[0] = 0xdead;
  cr_assert_eq(bus_observer_poll(&observer, record), BUS_ERROR_OVERRUN);
  free(ring.memory);
}

/* The destination's second half cannot be written at first: the handler, called in the middle of
 * the copy, does to the ring what cutting its file does. */
static struct ring_case cut_ring;
static unsigned char *cut_destination;

static void cut_under_the_copy(int number)
{
  (void)number;
  memset(cut_ring.memory, 0, (size_t)bus_layout_object_bytes(&cut_ring.entry));
  mprotect(cut_destination, 2 * 4096, PROT_READ | PROT_WRITE);
}

Test(ring, a_file_cut_under_an_observers_copy_is_not_taken_for_a_record)
{
  for (uint64_t position = 0; position < 3; position++) {
    struct bus_observer observer;
    ring_open(&cut_ring, 8, 64, BUS_POLICY_OVERWRITE, 0);
    for (uint64_t i = 0; i <= position; i++)
      cr_assert(write_one(&cut_ring, 100 + i));
    bus_observer_init(&observer, cut_ring.memory, &cut_ring.entry, true);
    observer.next = position;
    cut_destination =
        mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(cut_destination, MAP_FAILED);
    cr_assert_eq(mprotect(cut_destination + 4096, 4096, PROT_NONE), 0);
    signal(SIGSEGV, cut_under_the_copy);
    cr_assert_eq(bus_observer_poll(&observer, cut_destination + 4096 - 32), BUS_ERROR_OVERRUN,
                 "record %llu", (unsigned long long)position);
    cr_assert_eq(observer.lost, 1);
    munmap(cut_destination, 2 * 4096);
    free(cut_ring.memory);
  }
}

Test(ring, a_new_observer_of_a_full_ring_starts_with_a_record_it_may_read)
{
  struct ring_case ring;
  struct bus_observer observer;
  uint64_t record[8];
  ring_open(&ring, 4, 64, BUS_POLICY_OVERWRITE, 0);
  for (uint64_t i = 0; i < 9; i++)
    write_one(&ring, i);
  bus_observer_init(&observer, ring.memory, &ring.entry, true);
  for (uint64_t i = 6; i < 9; i++) {
    cr_assert_eq(bus_observer_poll(&observer, record), 1);
    check_record(&ring, record, i);
  }
  bus_observer_init(&observer, ring.memory, &ring.entry, false);
  cr_assert_eq(bus_observer_poll(&observer, record), 0);
  free(ring.memory);
}

/* Random operations against a plain queue, across the wrap of the position. */
Test(ring, agrees_with_a_reference_queue)
{
  uint64_t random = 12345;
  for (int round = 0; round < 200; round++) {
    struct ring_case ring;
    struct bus_consumer consumer;
    uint64_t depth = (uint64_t)4 << round % 5;
    ring_open(&ring, depth, 64, BUS_POLICY_WAIT, (uint64_t)0 - (uint64_t)(round * 3));
    bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
    bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
    uint64_t written = 0, read = 0, released = 0;
    for (int step = 0; step < 2000; step++) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      switch ((random >> 33) % 8) {
      case 0: /* the producer is replaced */
        bus_producer_init(&ring.producer, ring.memory, &ring.entry, INSTANCE);
        bus_producer_connect(&ring.producer, &ring.position, CONSUMER);
        break;
      case 1: /* the consumer is replaced: it goes back to what it published */
        released = ring.position.position - (uint64_t)0 + (uint64_t)(round * 3);
        bus_consumer_init(&consumer, ring.memory, &ring.entry, INSTANCE, &ring.position, 0);
        read = released;
        break;
      case 2:
      case 3:
      case 4:
        if (write_one(&ring, written))
          written++;
        else
          cr_assert_gt(written - read + consumer.publish_every, depth);
        break;
      default: {
        const void *record = bus_consumer_poll(&consumer);
        cr_assert_eq(record != NULL, read < written);
        if (record) {
          check_record(&ring, record, read++);
          bus_consumer_release(&consumer);
        }
      }
      }
      cr_assert_leq(written - read, depth);
      cr_assert_eq(bus_ring_head(ring.memory, &ring.entry), written - (uint64_t)(round * 3));
    }
    cr_assert_eq(ring.position.lost, 0);
    free(ring.memory);
  }
}
