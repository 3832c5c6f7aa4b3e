#include "consumers/bridge_table.h"

#include <math.h>
#include <string.h>

bool bus_bridge_request_is_valid(const struct bus_llm_request *request)
{
  return request->kind >= BUS_LLM_CHAT && request->kind <= BUS_LLM_EMBEDDING &&
         memchr(request->class_name, 0, sizeof request->class_name) &&
         isfinite(request->temperature);
}

/* What the port makes of a request, whatever the client wrote. */
static bool request_can_be(const struct bus_bridge_entry *entry)
{
  const struct bus_llm_request *request = &entry->request;
  if (request->id == 0 || request->fragments < 1 || request->fragments > BUS_LLM_FRAGMENTS_MAX ||
      request->reply_slots < 1 || !memchr(request->class_name, 0, sizeof request->class_name))
    return false;
  return entry->refused ||
         (entry->text_bytes == request->text_bytes && bus_bridge_request_is_valid(request));
}

static bool entry_can_be(const struct bus_bridge_entry *entry, uint32_t text_max)
{
  if (entry->state > BUS_BRIDGE_PUBLISHED || entry->cancelled > 1 || entry->sent > 1 ||
      entry->refused > 1 || entry->text_bytes > text_max || entry->client_instance == 0 ||
      entry->client[0] == 0 || !memchr(entry->client, 0, sizeof entry->client))
    return false;
  const bool published =
      entry->state == BUS_BRIDGE_PUBLISHING || entry->state == BUS_BRIDGE_PUBLISHED;
  if (published &&
      (entry->reply_slots_used < 1 || entry->reply_slots_used > entry->request.reply_slots))
    return false;
  return request_can_be(entry);
}

void bus_bridge_table_check(const struct bus_bridge_table *table, uint32_t *damaged)
{
  *damaged = 0;
  for (uint32_t i = 0; i < table->count; i++) {
    struct bus_bridge_entry *entry = bus_bridge_table_at(table, i);
    if (entry->state == BUS_BRIDGE_FREE || entry_can_be(entry, bus_bridge_table_text_max(table)))
      continue;
    bus_bridge_entry_set(entry, BUS_BRIDGE_FREE);
    ++*damaged;
  }
}
