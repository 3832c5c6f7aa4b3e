/* replay_player.h: plays the records of a capture into the rings of a replay bus: at their recorded
 * pace or faster, one by one, or each when the one before was consumed.
 *
 * Records of all channels go out in one order, the capture's. A ring that is full holds all of them
 * up. Positions are the capture's as far as it has no gaps: a ring cannot leave positions out, so
 * behind a gap, or with records left out by a filter, they close up. */
#ifndef TOOLS_REPLAY_PLAYER_H
#define TOOLS_REPLAY_PLAYER_H

#include "consumers/capture_merge.h"
#include "shm/histogram.h"
#include "tools/replay_bus.h"

enum replay_pace {
  REPLAY_PACE_SPEED = 1,    /* by record times, divided by `speed` */
  REPLAY_PACE_MAX = 2,      /* as fast as it goes */
  REPLAY_PACE_STEP = 3,     /* by lines on standard input: empty or a number of records */
  REPLAY_PACE_LOCKSTEP = 4, /* when reliable consumers have taken the record before */
};

struct replay_player_config {
  struct replay_bus_config bus;
  struct bus_capture *capture;
  struct bus_capture_range range; /* `streams` is not NULL */
  const char *const *members;     /* [stream count]: each one's member on this bus */
  enum replay_pace pace;
  double speed;                 /* > 0 */
  uint64_t passes;              /* how often it is played; 0: without end */
  uint64_t consumer_timeout_ns; /* how long a consumer may be away while it is waited for; 0: for
                                   ever */
  bool no_consumer;             /* wait for nobody: every ring overwrites */
  bool shift_to_now;            /* timestamps become those of now, each pass by one constant */
  bool show_progress;           /* on stderr, which is a terminal */
};

struct replay_player_result {
  uint64_t records;
  uint64_t passes;      /* whole ones */
  uint64_t gaps;        /* places where the capture lacks positions ... */
  uint64_t gap_records; /* ... and how many */
  uint64_t damages;     /* blocks that could not be used */
  uint64_t slips;       /* times that the schedule moved because of lateness ... */
  uint64_t slipped_ns;  /* ... and how far in all */
  uint64_t elapsed_ns;  /* from the first record to the end */
  uint64_t retained;    /* signals shown on boards before the first record */
  bool lost_consumer;   /* ended because one did not come back; the message says which */
  bool interrupted;     /* by a signal, or in step mode by the end of the input */
  struct bus_histogram lateness_ns; /* of all members; empty unless paced by speed */
};

struct replay_player;

/* Makes the bus members, shows retained state (symbol tables, the latest signals before the range)
 * and opens the capture's records. Returns BUS_OK or a negative error with a message: those of
 * replay_bus_open and bus_capture_merge_open, BUS_ERROR_ABSENT when no stream is wanted. What the
 * config points to must stay. One thread for all of this. */
int replay_player_new(const struct replay_player_config *config, struct replay_player **result);

/* Plays to the end, or until a signal asks to stop. BUS_OK or a negative error with a message. */
int replay_player_run(struct replay_player *player);

/* What came out of it; callable after replay_player_run. */
void replay_player_result(const struct replay_player *player, struct replay_player_result *result);

/* Leaves the bus and frees. NULL is allowed. */
void replay_player_delete(struct replay_player *player);

#endif
