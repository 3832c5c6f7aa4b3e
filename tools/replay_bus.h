/* replay_bus.h: the rings that a capture is played into: one member file for each recorded member,
 * with its rings, symbol tables and boards, all owned by this process.
 *
 * Whoever attaches sees what it saw when the capture was made: same ring names, sizes, depths,
 * consumers and positions. The member's kind is "replay", and its text "source" says of what. */
#ifndef TOOLS_REPLAY_BUS_H
#define TOOLS_REPLAY_BUS_H

#include "shm/member.h"
#include "shm/options.h"
#include "shm/ring.h"

#include <stdio.h>

/* Rows of a symbol table and slots of a board, as bus-feed makes them. */
#define REPLAY_SYMBOLS_MAX 1024u

/* Boards that one signals ring fills: bus-infer reads no more feeds. */
#define REPLAY_INPUTS_MAX 64u

/* One ring to publish. Everything is copied by replay_bus_open. */
struct replay_channel {
  const char *member; /* its name on this bus */
  const char *ring;
  const char *peer; /* the reliable consumer; NULL or "": none */
  uint32_t record_type;
  uint32_t record_size;
  uint32_t policy; /* enum bus_policy; without a peer always OVERWRITE */
  uint64_t depth;
  uint64_t first;                        /* position of the first record */
  const char *inputs[REPLAY_INPUTS_MAX]; /* signals: the member that `source` i stands for */
  uint32_t input_count;                  /* 0: the ring has no boards */
};

struct replay_bus_config {
  struct bus_member_options options; /* its name is not used */
  const char *source;                /* for people: what is played */
};

struct replay_bus;

/* Why a channel takes no record now. */
enum replay_consumer {
  REPLAY_CONSUMER_NONE = 0,   /* the ring has none */
  REPLAY_CONSUMER_ALIVE = 1,  /* attached, or stalled: it will come */
  REPLAY_CONSUMER_ABSENT = 2, /* no such member, or it does not read this ring */
  REPLAY_CONSUMER_DEAD = 3    /* its file is there, nobody owns it */
};

/* Creates the members of `count` (1..BUS_ENTRIES_MAX / 4) channels, in state BOOT; files that dead
 * processes left under these names are replaced. Errors as bus_member_new: BUS_ERROR_BUSY names the
 * live process that has a name. All of this by one thread. */
int replay_bus_open(const struct replay_bus_config *config, const struct replay_channel *channels,
                    uint32_t count, struct replay_bus **result);

/* Adds a row to the symbol table that belongs to `channel`: of a features ring its member's, of a
 * signals ring the one of that input. Rows already there stay, and a channel without such a table
 * needs none. Returns BUS_OK or the error of bus_symbols_add. */
int replay_bus_add_symbol(struct replay_bus *bus, uint32_t channel, uint32_t input,
                          const struct bus_symbol *symbol);

/* State RUN: what must be there first (symbols, boards) is. */
void replay_bus_run(struct replay_bus *bus);

/* Producer of a channel. Rings that dropped what their consumer was too slow for wait instead: what
 * was committed when the capture was made was not dropped. */
struct bus_producer *replay_bus_producer(struct replay_bus *bus, uint32_t channel);

/* Shows a signal that was just committed, or is to be retained, on its board; others than signals,
 * and sources and symbols without a place, are left out. */
void replay_bus_show(struct replay_bus *bus, uint32_t channel, const void *record);

/* Heartbeats, ties to consumers, counters. Every 10 ms or so, and while waiting for room. */
void replay_bus_keep_house(struct replay_bus *bus, uint64_t now_ns);

/* How the reliable consumer of a channel is. System calls. */
enum replay_consumer replay_bus_consumer(const struct replay_bus *bus, uint32_t channel);

/* Name of that consumer, "" when there is none. */
const char *replay_bus_peer(const struct replay_bus *bus, uint32_t channel);

/* Records of a channel that its reliable consumer has yet to take; 0 without one. */
uint64_t replay_bus_unread(struct replay_bus *bus, uint32_t channel);

/* Histogram "lateness_ns" and counter of the member that `channel` belongs to: NULL when there is
 * no counter of that name. Counters: "records", "gap_records", "slips", "slipped_ns". */
struct bus_histogram *replay_bus_lateness(struct replay_bus *bus, uint32_t channel);
uint64_t *replay_bus_counter(struct replay_bus *bus, uint32_t channel, const char *name);

/* Adds the lateness of all members to a private histogram. */
void replay_bus_add_lateness(const struct replay_bus *bus, struct bus_histogram *to);

/* Leaves with BUS_STATE_HALT or BUS_STATE_FAIL and frees. NULL is allowed. */
void replay_bus_close(struct replay_bus *bus, uint32_t state);

#endif
