/* replay_select.h: the options that choose a part of a capture; every verb of bus-replay has them.
 *
 *   static const struct option options[] = {REPLAY_SELECT_OPTIONS, {"own", ..}, {NULL, 0, NULL,
 * 0}}; while ((option = getopt_long(..)) != -1) if ((taken = replay_select_take(&select, option,
 * optarg)) == 0) switch (option) { the verb's own }
 *   ...
 *   replay_select_resolve(&select, capture, &selection);
 *   bus_capture_merge_open(capture, &selection.range, &merge); */
#ifndef SIGNALBUS_REPLAY_SELECT_H
#define SIGNALBUS_REPLAY_SELECT_H

#include "consumers/capture_merge.h"

#define REPLAY_SELECT_NAMES_MAX 64u

enum {
  REPLAY_OPTION_FROM = 0x2000,
  REPLAY_OPTION_UNTIL,
  REPLAY_OPTION_STREAM,
  REPLAY_OPTION_SYMBOL
};

#define REPLAY_SELECT_OPTIONS                                                                      \
  {"from", required_argument, NULL, REPLAY_OPTION_FROM},                                           \
      {"until", required_argument, NULL, REPLAY_OPTION_UNTIL},                                     \
      {"stream", required_argument, NULL, REPLAY_OPTION_STREAM},                                   \
  {                                                                                                \
    "symbol", required_argument, NULL, REPLAY_OPTION_SYMBOL                                        \
  }

#define REPLAY_SELECT_HELP                                                                         \
  "  --from POINT      records from there on: seq:N (position), +5s, +1.5m after the begin,\n"     \
  "                    -5s before the end, 2026-11-24T18:00:00.5Z, or ns of the bus clock\n"       \
  "  --until POINT     records before it (so --until X and --from X split in two)\n"               \
  "  --stream NAME     member.ring, or a member or ring that there is once; repeatable\n"          \
  "  --symbol NAME     of features and signals only those; repeatable\n"

/* What was asked for; {0} asks for everything. */
struct replay_select {
  const char *from;
  const char *until;
  const char *streams[REPLAY_SELECT_NAMES_MAX];
  size_t stream_count;
  const char *symbols[REPLAY_SELECT_NAMES_MAX];
  size_t symbol_count;
};

/* What that is in one capture. */
struct replay_selection {
  struct bus_capture_range range;
  bool *streams;
  uint8_t **symbols; /* [streams]: of a feature stream, [65536] whether a symbol is wanted */
  /* [streams]: of a signal stream, [65536] which feature stream an input is, -1 for none */
  int32_t **inputs;
  uint32_t stream_count;
  bool everything; /* nothing was asked to be left out */
};

/* Takes one option. Returns 1 when it was one of the above, 0 when not, BUS_ERROR_INVALID with a
 * message. Values are kept, not copied. */
int replay_select_take(struct replay_select *select, int option, const char *value);

/* BUS_OK, or BUS_ERROR_INVALID, BUS_ERROR_ABSENT (no such stream or symbol), BUS_ERROR_NO_SPACE
 * with a message. */
int replay_select_resolve(const struct replay_select *select, const struct bus_capture *capture,
                          struct replay_selection *selection);
void replay_selection_free(struct replay_selection *selection);

/* Parses "1.5s", "10ms", "2m", "250us", "7ns", "1h" (no unit: seconds) into ns. False when it is
 * none. */
bool replay_parse_duration(const char *text, uint64_t *ns);

#endif
