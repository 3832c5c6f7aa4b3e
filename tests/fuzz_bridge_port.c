/* The bytes of a request ring and of an in-flight table are hostile input: whatever they hold, the
 * port stays inside of its memory, what it claims passes the table's own check, and each slot is
 * either taken or counted. */
#include "consumers/bridge_port.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RECORD_BYTES 192u
#define DEPTH        8u
#define TABLE_COUNT  2u
#define ENTRY_BYTES  384u
#define RING_BYTES   (BUS_RING_HEADER_BYTES + DEPTH * RECORD_BYTES)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static _Alignas(128) char table_memory[TABLE_COUNT * ENTRY_BYTES];
static _Alignas(128) char request_ring[RING_BYTES], reply_ring[RING_BYTES];
static const struct bus_entry ring_entry = {.type = BUS_OBJECT_RING,
                                            .record_size = RECORD_BYTES,
                                            .depth = DEPTH,
                                            .policy = BUS_POLICY_WAIT};
static const struct bus_bridge_table table = {table_memory, TABLE_COUNT, ENTRY_BYTES};

static void require(bool condition, const char *what)
{
  if (condition)
    return;
  fprintf(stderr, "fuzz_bridge_port: %s\n", what);
  abort();
}

/* Takes the next `bytes` of the input, zeros behind its end. */
static void input(void *to, size_t bytes, const uint8_t **data, size_t *size)
{
  const size_t there = bytes < *size ? bytes : *size;
  memset(to, 0, bytes);
  if (there)
    memcpy(to, *data, there);
  *data += there;
  *size -= there;
}

static void answer(struct bus_bridge_port *port, struct bus_bridge_entry *entry, uint32_t bytes)
{
  static const char text[2048];
  const struct bus_llm_reply reply = {.status = BUS_LLM_OK};
  if (entry->state == BUS_BRIDGE_FREE)
    return;
  bus_bridge_entry_set(entry, BUS_BRIDGE_DONE);
  if (bus_bridge_port_final(port, entry, &reply, text, bytes) == BUS_ERROR_AGAIN)
    bus_bridge_port_drop(port, entry);
  require(entry->state == BUS_BRIDGE_FREE, "an answered entry is not free");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct bus_producer client, replies;
  struct bus_consumer requests;
  struct bus_position position, reply_position;
  struct bus_llm_request request;
  uint32_t damaged;
  bool valid;
  memset(reply_ring, 0, sizeof reply_ring);
  memset(request_ring, 0, sizeof request_ring);
  memset(&reply_position, 0, sizeof reply_position);
  input(table_memory, sizeof table_memory, &data, &size);
  input(&position, sizeof position, &data, &size);
  bus_ring_format(reply_ring, &ring_entry, 0);
  bus_ring_format(request_ring, &ring_entry, 0);
  bus_producer_init(&client, request_ring, &ring_entry, 7);
  bus_producer_init(&replies, reply_ring, &ring_entry, 5);
  for (uint32_t i = 0; i < DEPTH; i++) {
    input(bus_producer_reserve(&client), RECORD_BYTES - 8, &data, &size);
    bus_producer_commit(&client);
  }
  struct bus_bridge_port port = {
      .client = "c", .position = &position, .instance = 7, .replies = &replies};
  bus_bridge_table_check(&table, &damaged);
  for (uint32_t i = 0; i < TABLE_COUNT; i++)
    bus_bridge_port_recover(&port, bus_bridge_table_at(&table, i));
  for (uint32_t i = 0; i < TABLE_COUNT; i++)
    answer(&port, bus_bridge_table_at(&table, i), (uint32_t)(size % 2048));
  require(port.reserved_slots == 0, "room stays reserved");
  bus_consumer_init(&requests, request_ring, &ring_entry, 7, &position, 0);
  port.requests = &requests;
  const uint64_t start = requests.next;
  uint64_t taken = 0;
  for (uint32_t i = 0; i < 3 * DEPTH; i++) {
    struct bus_bridge_entry *entry = bus_bridge_table_at(&table, 0);
    const uint32_t found = bus_bridge_port_take(&port, &table, entry, 1, &request, &valid);
    if (found == BUS_BRIDGE_INTAKE_CANCEL) {
      bus_bridge_port_cancel_done(&port);
      taken++;
    } else if (found == BUS_BRIDGE_INTAKE_REQUEST) {
      taken += request.fragments;
      bus_bridge_table_check(&table, &damaged);
      require(damaged == 0, "a claimed entry is damaged");
      bus_bridge_port_drop(&port, entry);
    }
  }
  require(requests.next - start == taken + port.invalid, "a slot is neither taken nor counted");
  return 0;
}
