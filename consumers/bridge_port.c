#include "consumers/bridge_port.h"

#include <string.h>

static void changed(const struct bus_bridge_port *port)
{
  if (port->transition)
    port->transition(port->transition_context);
}

static void set_state(const struct bus_bridge_port *port, struct bus_bridge_entry *entry,
                      uint32_t state)
{
  bus_bridge_entry_set(entry, state);
  changed(port);
}

static void give_back_room(struct bus_bridge_port *port, const struct bus_bridge_entry *entry)
{
  const uint64_t slots = entry->request.reply_slots;
  port->reserved_slots -= slots < port->reserved_slots ? slots : port->reserved_slots;
}

/* Slots that may be written now. The client's position is asked only where the last answer is not
 * enough: it costs the transfer of a line, and a ring found full is counted as a wait. */
static bool has_room(struct bus_producer *replies, uint64_t slots)
{
  if (replies->limit - replies->next >= slots)
    return true;
  bus_producer_refresh(replies);
  return replies->limit - replies->next >= slots;
}

/* ---- requests in ---- */

/* Word by word, so that the compiler cannot read a field of hostile memory again later. */
static void copy_header(struct bus_llm_request *request, const void *slot)
{
  const bus_word *from = slot;
  bus_word *to = (bus_word *)(void *)request;
  for (size_t i = 0; i < sizeof *request / sizeof *to; i++)
    to[i] = BUS_LOAD_RELAXED(&from[i]);
}

/* Gives `slots` back that the client wrote, at once: what was made of them is in the table. */
static void release(struct bus_bridge_port *port, uint64_t slots)
{
  bus_consumer_release_batch(port->requests, slots);
  port->gathered = 0;
  changed(port);
}

static void skip(struct bus_bridge_port *port, uint64_t slots)
{
  port->invalid += slots;
  release(port, slots);
}

/* Does a message that fits in the ring begin with this fragment? */
static bool can_begin(const struct bus_consumer *requests, const struct bus_llm_request *fragment)
{
  if (fragment->id == 0 || fragment->fragment != 0 || fragment->text_offset != 0 ||
      fragment->fragments < 1 || fragment->fragments > BUS_LLM_FRAGMENTS_MAX ||
      fragment->fragments > requests->depth ||
      fragment->fragment_bytes > bus_llm_slot_text_bytes((uint32_t)requests->record_size))
    return false;
  if (fragment->fragments == 1)
    return fragment->fragment_bytes == fragment->text_bytes;
  return fragment->kind != BUS_LLM_CANCEL && fragment->fragment_bytes > 0 &&
         fragment->fragment_bytes < fragment->text_bytes;
}

/* Is this fragment number `index` of the message that begins with `first`, `offset` bytes of whose
 * text came before? */
static bool can_follow(const struct bus_consumer *requests, const struct bus_llm_request *first,
                       uint32_t index, uint32_t offset, const struct bus_llm_request *fragment)
{
  const bool last = index + 1u == first->fragments;
  const uint32_t rest = first->text_bytes - offset;
  return fragment->id == first->id && fragment->fragment == index &&
         fragment->fragments == first->fragments && fragment->text_bytes == first->text_bytes &&
         fragment->text_offset == offset &&
         fragment->fragment_bytes <= bus_llm_slot_text_bytes((uint32_t)requests->record_size) &&
         (last ? fragment->fragment_bytes == rest
               : fragment->fragment_bytes > 0 && fragment->fragment_bytes < rest);
}

/* Looks at one more fragment, which must be there. False: the message can never be whole. */
static bool gather_one(struct bus_bridge_port *port, const void *slot)
{
  struct bus_llm_request fragment;
  copy_header(&fragment, slot);
  if (port->gathered == 0) {
    if (!can_begin(port->requests, &fragment))
      return false;
    port->first = fragment;
    port->gathered_bytes = 0;
  } else if (!can_follow(port->requests, &port->first, port->gathered, port->gathered_bytes,
                         &fragment)) {
    return false;
  }
  port->gathered++;
  port->gathered_bytes += fragment.fragment_bytes;
  return true;
}

/* Gathers the next whole message in `first`, nothing of it taken; skips what makes none. What was
 * checked once is not looked at again while the rest is waited for. A ring's worth of skipping is
 * all that one call does for a client that writes nonsense as fast as it is read. */
static bool gather(struct bus_bridge_port *port)
{
  struct bus_consumer *requests = port->requests;
  for (uint64_t i = 0; i < requests->depth; i++) {
    if (!bus_consumer_poll(requests)) /* also notices a ring that was overwritten */
      return false;
    if (port->gather_position != requests->next || port->gather_instance != port->instance)
      port->gathered = 0;
    port->gather_position = requests->next;
    port->gather_instance = port->instance;
    bool broken = false;
    while (!broken && (port->gathered == 0 || port->gathered < port->first.fragments)) {
      const void *slot = bus_consumer_peek(requests, port->gathered);
      if (!slot)
        return false;
      broken = !gather_one(port, slot);
    }
    if (!broken)
      return true;
    /* The fragment that does not belong may begin the next message: a client that died in the
     * middle has a successor that goes on. */
    skip(port, port->gathered ? port->gathered : 1);
  }
  return false;
}

/* Copies the text of the gathered message. The client may have changed its slots since they were
 * checked: they are checked again, and only what this second look says is used. */
static bool copy_text(const struct bus_bridge_port *port, struct bus_bridge_entry *entry)
{
  uint32_t offset = 0;
  for (uint32_t i = 0; i < port->first.fragments; i++) {
    struct bus_llm_request fragment;
    const char *slot = bus_consumer_peek(port->requests, i);
    if (!slot)
      return false;
    copy_header(&fragment, slot);
    if (!can_follow(port->requests, &port->first, i, offset, &fragment))
      return false;
    memcpy(entry->text + offset, slot + BUS_LLM_HEADER_BYTES, fragment.fragment_bytes);
    offset += fragment.fragment_bytes;
  }
  return true;
}

/* Fills the entry, still FREE, with the gathered message. False: its text is not what it was. */
static bool fill_entry(const struct bus_bridge_port *port, const struct bus_bridge_table *table,
                       struct bus_bridge_entry *entry, uint16_t reply_slots, uint64_t now_ns)
{
  const struct bus_llm_request *first = &port->first;
  const bool fits = first->text_bytes <= bus_bridge_table_text_max(table);
  if (fits && !copy_text(port, entry))
    return false;
  memcpy(entry->client, port->client, sizeof entry->client);
  entry->client_instance = port->instance;
  entry->request_end = port->requests->next + first->fragments;
  entry->accepted_ns = now_ns;
  entry->cancelled = entry->sent = entry->attempts = 0;
  entry->reply_position = 0;
  entry->reply_slots_used = 0;
  entry->text_bytes = fits ? first->text_bytes : 0;
  entry->refused = !fits || !bus_bridge_request_is_valid(first);
  entry->request = *first;
  entry->request.reply_slots = reply_slots;
  entry->request.class_name[sizeof entry->request.class_name - 1] = 0;
  return true;
}

static uint16_t reply_slots_within(const struct bus_bridge_port *port, uint16_t wanted)
{
  const uint64_t half = port->replies->depth / 2;
  const uint64_t most = half < BUS_LLM_FRAGMENTS_MAX ? half : BUS_LLM_FRAGMENTS_MAX;
  return wanted < 1 ? 1 : wanted < most ? wanted : (uint16_t)most;
}

uint32_t bus_bridge_port_take(struct bus_bridge_port *port, const struct bus_bridge_table *table,
                              struct bus_bridge_entry *entry, uint64_t now_ns,
                              struct bus_llm_request *request, bool *valid)
{
  *valid = false;
  if (!port->requests || !gather(port))
    return BUS_BRIDGE_INTAKE_NONE;
  if (port->first.kind == BUS_LLM_CANCEL) {
    *request = port->first;
    return BUS_BRIDGE_INTAKE_CANCEL;
  }
  const uint16_t reply_slots = reply_slots_within(port, port->first.reply_slots);
  if (!entry || !has_room(port->replies, port->reserved_slots + reply_slots))
    return BUS_BRIDGE_INTAKE_NONE;
  if (!fill_entry(port, table, entry, reply_slots, now_ns)) {
    skip(port, port->first.fragments);
    return BUS_BRIDGE_INTAKE_NONE;
  }
  port->reserved_slots += reply_slots;
  set_state(port, entry, BUS_BRIDGE_CLAIMED);
  release(port, entry->request.fragments);
  *request = entry->request;
  *valid = !entry->refused;
  return BUS_BRIDGE_INTAKE_REQUEST;
}

void bus_bridge_port_cancel_done(struct bus_bridge_port *port)
{
  if (port->requests && port->gathered == 1 && port->first.kind == BUS_LLM_CANCEL &&
      port->gather_position == port->requests->next && port->gather_instance == port->instance)
    release(port, 1);
}

/* ---- replies out ---- */

/* `text` may be NULL where it has no bytes, but no offset may be added to that. */
static const char *text_or_empty(const char *text)
{
  return text ? text : "";
}

/* How much of `text` goes in `room` bytes without cutting a character of UTF-8 in two. What is no
 * UTF-8 there fills the room. */
static uint32_t whole_characters(const char *text, uint32_t text_bytes, uint32_t room)
{
  if (text_bytes <= room)
    return text_bytes;
  for (uint32_t end = room; end > 0 && room - end < 4; end--) {
    if (((unsigned char)text[end] & 0xC0u) != 0x80u)
      return end;
  }
  return room;
}

/* Commits one slot, for which there is room; `reply` has all fields of this fragment. */
static void publish(struct bus_bridge_port *port, const struct bus_llm_reply *reply,
                    const char *text)
{
  char *slot = bus_producer_reserve(port->replies);
  memcpy(slot, reply, sizeof *reply);
  if (reply->fragment_bytes)
    memcpy(slot + BUS_LLM_HEADER_BYTES, text, reply->fragment_bytes);
  bus_producer_commit(port->replies);
  changed(port);
}

int bus_bridge_port_partial(struct bus_bridge_port *port, const struct bus_llm_reply *reply,
                            const char *text, uint32_t text_bytes)
{
  const uint32_t room = bus_llm_slot_text_bytes((uint32_t)port->replies->record_size);
  uint64_t slots = 0;
  uint32_t done = 0;
  text = text_or_empty(text);
  do {
    done += whole_characters(text + done, text_bytes - done, room);
    slots++;
  } while (done < text_bytes);
  if (!has_room(port->replies, slots + port->reserved_slots + port->replies->depth / 8))
    return BUS_ERROR_AGAIN;
  struct bus_llm_reply piece = *reply;
  piece.kind = BUS_LLM_PARTIAL;
  piece.fragment = 0;
  piece.fragments = 1;
  done = 0;
  do {
    piece.text_offset = reply->text_offset + done;
    piece.text_bytes = piece.fragment_bytes =
        whole_characters(text + done, text_bytes - done, room);
    publish(port, &piece, text + done);
    done += piece.fragment_bytes;
  } while (done < text_bytes);
  return BUS_OK;
}

int bus_bridge_port_final(struct bus_bridge_port *port, struct bus_bridge_entry *entry,
                          const struct bus_llm_reply *reply, const char *text, uint32_t text_bytes)
{
  const uint32_t record_size = (uint32_t)port->replies->record_size;
  const uint32_t room = bus_llm_slot_text_bytes(record_size);
  struct bus_llm_reply fragment = *reply;
  text = text_or_empty(text);
  fragment.id = entry->request.id;
  fragment.kind = BUS_LLM_FINAL;
  fragment.text_bytes = text_bytes;
  if (bus_llm_slots(text_bytes, record_size) > entry->request.reply_slots) {
    fragment.text_bytes = whole_characters(text, text_bytes, room * entry->request.reply_slots);
    fragment.flags |= BUS_LLM_CUT;
    if (fragment.status == BUS_LLM_OK)
      fragment.status = BUS_LLM_LENGTH;
  }
  const uint32_t slots = bus_llm_slots(fragment.text_bytes, record_size);
  if (!has_room(port->replies, slots))
    return BUS_ERROR_AGAIN;
  entry->reply_position = port->replies->next;
  entry->reply_slots_used = slots;
  set_state(port, entry, BUS_BRIDGE_PUBLISHING);
  fragment.fragments = (uint16_t)slots;
  for (uint32_t i = 0; i < slots; i++) {
    fragment.fragment = (uint16_t)i;
    fragment.text_offset = i * room;
    const uint32_t rest = fragment.text_bytes - fragment.text_offset;
    fragment.fragment_bytes = rest < room ? rest : room;
    publish(port, &fragment, text + fragment.text_offset);
  }
  set_state(port, entry, BUS_BRIDGE_PUBLISHED);
  set_state(port, entry, BUS_BRIDGE_FREE);
  give_back_room(port, entry);
  return BUS_OK;
}

/* ---- after a kill, and after a client is gone ---- */

/* The predecessor may have been killed between claiming this request and moving its position past
 * it. There is at most one such request, and the position was at its first fragment. */
static void move_past(struct bus_bridge_port *port, const struct bus_bridge_entry *entry)
{
  struct bus_position *position = port->position;
  if (position->ring_instance != entry->client_instance ||
      entry->request_end - position->position != entry->request.fragments)
    return;
  if (port->requests && port->instance == entry->client_instance) {
    port->requests->next = entry->request_end;
    bus_consumer_publish(port->requests);
  } else {
    BUS_STORE_RELEASE(&position->position, entry->request_end);
  }
  changed(port);
}

bool bus_bridge_port_recover(struct bus_bridge_port *port, struct bus_bridge_entry *entry)
{
  if (entry->state == BUS_BRIDGE_FREE)
    return false;
  move_past(port, entry);
  const bool whole = entry->state == BUS_BRIDGE_PUBLISHED ||
                     (entry->state == BUS_BRIDGE_PUBLISHING &&
                      port->replies->next == entry->reply_position + entry->reply_slots_used);
  if (whole) {
    set_state(port, entry, BUS_BRIDGE_FREE);
    return true;
  }
  if (entry->state == BUS_BRIDGE_PUBLISHING)
    set_state(port, entry, BUS_BRIDGE_DISPATCHED);
  entry->request.reply_slots = reply_slots_within(port, entry->request.reply_slots);
  port->reserved_slots += entry->request.reply_slots;
  return false;
}

void bus_bridge_port_drop(struct bus_bridge_port *port, struct bus_bridge_entry *entry)
{
  if (entry->state == BUS_BRIDGE_FREE)
    return;
  set_state(port, entry, BUS_BRIDGE_FREE);
  give_back_room(port, entry);
}
