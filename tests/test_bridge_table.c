#include "consumers/bridge_table.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#define ENTRY_BYTES 320u

static _Alignas(64) char memory[2 * ENTRY_BYTES];
static const struct bus_bridge_table table = {memory, 2, ENTRY_BYTES};

static struct bus_bridge_entry *good_entry(void)
{
  struct bus_bridge_entry *entry = bus_bridge_table_at(&table, 1);
  memset(memory, 0, sizeof memory);
  strcpy(entry->client, "trader");
  entry->client_instance = 7;
  entry->text_bytes = entry->request.text_bytes = 64;
  entry->request.id = 1;
  entry->request.kind = BUS_LLM_EMBEDDING;
  entry->request.fragments = 1;
  entry->request.reply_slots = 2;
  entry->reply_slots_used = 2;
  entry->state = BUS_BRIDGE_PUBLISHING;
  return entry;
}

static bool survives(const struct bus_bridge_entry *entry)
{
  uint32_t damaged = 99;
  bus_bridge_table_check(&table, &damaged);
  cr_assert_eq(damaged, entry->state == BUS_BRIDGE_FREE);
  return damaged == 0;
}

Test(bridge_table, keeps_what_a_bridge_leaves)
{
  struct bus_bridge_entry *entry = good_entry();
  for (uint32_t state = BUS_BRIDGE_CLAIMED; state <= BUS_BRIDGE_PUBLISHED; state++) {
    entry->state = state;
    cr_assert(survives(entry), "state %u", state);
  }
  entry->refused = 1;
  entry->text_bytes = 0;
  entry->request.kind = 200;
  cr_assert(survives(entry));
}

#define DAMAGED(change)                                                                            \
  do {                                                                                             \
    struct bus_bridge_entry *entry = good_entry();                                                 \
    change;                                                                                        \
    cr_assert_not(survives(entry), #change);                                                       \
  } while (0)

Test(bridge_table, frees_what_cannot_be)
{
  DAMAGED(entry->state = 6);
  DAMAGED(entry->cancelled = 2);
  DAMAGED(entry->sent = 2);
  DAMAGED(entry->refused = 2);
  DAMAGED(memset(entry->client, 'x', sizeof entry->client));
  DAMAGED(entry->client[0] = 0);
  DAMAGED(entry->client_instance = 0);
  DAMAGED(entry->text_bytes = entry->request.text_bytes = ENTRY_BYTES - 255);
  DAMAGED(entry->text_bytes = 63);
  DAMAGED(entry->request.id = 0);
  DAMAGED(entry->request.kind = BUS_LLM_CANCEL);
  DAMAGED(entry->request.kind = 0);
  DAMAGED(entry->request.fragments = 0);
  DAMAGED(entry->request.fragments = BUS_LLM_FRAGMENTS_MAX + 1);
  DAMAGED(entry->request.reply_slots = 0);
  DAMAGED(entry->request.temperature = NAN);
  DAMAGED(memset(entry->request.class_name, 'x', BUS_LLM_NAME_BYTES));
  DAMAGED(entry->reply_slots_used = 0);
  DAMAGED(entry->reply_slots_used = 3);
}
