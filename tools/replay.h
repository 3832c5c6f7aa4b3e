/* replay.h: what the verbs of bus-replay share. Internal to that program; one thread. */
#ifndef SIGNALBUS_REPLAY_H
#define SIGNALBUS_REPLAY_H

#include "consumers/capture_merge.h"
#include "tools/replay_select.h"

#include <getopt.h>
#include <stdio.h>

/* A verb's exit status. The worst that happened counts: FAILED, CORRUPT, LOST, GAPS. */
enum replay_exit {
  REPLAY_OK = 0,
  REPLAY_FAILED = 1,
  REPLAY_USAGE = 2,
  REPLAY_GAPS = 3,    /* done; positions are missing in the data. diff: they differ */
  REPLAY_CORRUPT = 4, /* damage was found and named; what is whole was used */
  REPLAY_LOST = 5     /* play: a consumer went away or lost records */
};

/* One verb: argv[0] is the verb. Returns an enum replay_exit. */
int replay_info(int argc, char **argv);
int replay_play(int argc, char **argv);
int replay_stats(int argc, char **argv);
int replay_verify(int argc, char **argv);
int replay_recover(int argc, char **argv);
int replay_cut(int argc, char **argv);
int replay_merge(int argc, char **argv);
int replay_diff(int argc, char **argv);
int replay_hash(int argc, char **argv);
int replay_export(int argc, char **argv);

/* ---- replay_common.c ---- */

enum { REPLAY_OPTION_HELP = 'h', REPLAY_OPTION_OWN = 256 };

/* Prints "bus-replay VERB: text" on stderr; returns REPLAY_USAGE. */
int replay_usage_error(const char *verb, const char *format, ...) BUS_PRINTF(2, 3);

/* A verb's command line while it is read. */
struct replay_line {
  const char *verb;
  const char *help;
  int argc;
  char **argv;
  const struct option *options; /* with REPLAY_OPTION_HELP; the verb's own from REPLAY_OPTION_OWN */
  struct replay_select *select; /* takes REPLAY_SELECT_OPTIONS; NULL: the verb has none of them */
  bool ended;                   /* help was given, or something is wrong and was said */
  int status;                   /* when ended */
};

/* The next of the verb's own options, its value in optarg; 0 at the end: operands begin at optind,
 * unless the line has ended. */
int replay_line_next(struct replay_line *line);

/* Prints the calling thread's bus_error_message for `verb` on stderr, sanitised; returns
 * REPLAY_FAILED. */
int replay_fail(const char *verb);

/* Opens the capture, or says for `verb` why not. Returns REPLAY_OK or REPLAY_FAILED. */
int replay_open(const char *verb, const char *path, struct bus_capture **capture);

/* Names the damage that was found in `capture` on stderr and closes it. Returns `status`, or
 * REPLAY_CORRUPT when there is damage and `status` is not worse. */
int replay_close(const char *verb, struct bus_capture *capture, int status);

/* The worse of two statuses. */
int replay_worse(int a, int b);

/* Sets object[key]; running out of memory ends the program. `value` may be NULL for a failed
 * allocation. */
void replay_json_set(json_t *object, const char *key, json_t *value);

/* A number that may be above 2^53: as JSON integer up to there, else as a string. */
json_t *replay_json_u64(uint64_t value);

/* Text of which nobody knows what it holds: control characters become '?'. */
json_t *replay_json_text(const char *text);

/* Writes `object` indented, with a newline, and lets go of it. Returns REPLAY_OK or REPLAY_FAILED
 * (standard output, named). */
int replay_json_print(const char *verb, json_t *object);

/* The damage in `capture`: [{"path", "block", "offset_bytes", "what"}], a new array. */
json_t *replay_json_damages(const struct bus_capture *capture);

/* "2026-11-24T18:00:00.123456789Z" of the bus clock's time_ns; `text` takes 40 bytes. Returns it.
 */
char *replay_time_text(char *text, uint64_t time_ns, int64_t realtime_offset_ns);

/* ---- a progress bar on stderr, when that is a terminal ---- */

struct replay_progress {
  const char *what;
  uint64_t begun_ns; /* 0: not shown */
  uint64_t shown_ns;
};

void replay_progress_begin(struct replay_progress *progress, const char *what);

/* At most ten times a second; `total` 0: unknown. Cheap enough for each block, not for each record.
 */
void replay_progress_show(struct replay_progress *progress, uint64_t done, uint64_t total);
void replay_progress_end(struct replay_progress *progress);

#endif
