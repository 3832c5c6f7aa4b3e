/* busctl.h: what the verbs of signal-busctl share. Internal to that program; one thread. */
#ifndef SIGNALBUS_BUSCTL_H
#define SIGNALBUS_BUSCTL_H

#include "shm/error.h"
#include "shm/neighbour.h"

#include <getopt.h>
#include <stdio.h>
#include <sys/types.h>

enum busctl_exit {
  BUSCTL_OK = 0,
  BUSCTL_FAILED = 1,
  BUSCTL_USAGE = 2,
  BUSCTL_PARTLY = 3 /* done, but something there is not in order; it was named */
};

/* The heartbeat's age from which a living member is shown as stalled. */
#define BUSCTL_STALL_NS  1000000000u
#define BUSCTL_FILES_MAX 4096u

/* One verb: argv[0] is the verb. Returns an enum busctl_exit. */
int busctl_create(int argc, char **argv);
int busctl_destroy(int argc, char **argv);
int busctl_info(int argc, char **argv);
int busctl_top(int argc, char **argv);
int busctl_metrics(int argc, char **argv);
int busctl_up(int argc, char **argv);
int busctl_run(int argc, char **argv);
int busctl_down(int argc, char **argv);
int busctl_isolate(int argc, char **argv);
int busctl_release(int argc, char **argv);
int busctl_doctor(int argc, char **argv);
int busctl_hugepages(int argc, char **argv);

/* ---- busctl_common.c ---- */

/* getopt_long's codes of the options that every verb has. */
enum busctl_option { BUSCTL_OPTION_BUS = 'b', BUSCTL_OPTION_HELP = 'h', BUSCTL_OPTION_OWN = 256 };

#define BUSCTL_COMMON_OPTIONS                                                                      \
  {"bus", required_argument, NULL, BUSCTL_OPTION_BUS},                                             \
      {"help", no_argument, NULL, BUSCTL_OPTION_HELP},                                             \
  {                                                                                                \
    NULL, 0, NULL, 0                                                                               \
  }

/* The reading of a verb's command line: the verb fills in the first six (the rest is 0), takes its
 * own options from busctl_line_next until that returns 0, and returns line.status if line.ended. */
struct busctl_line {
  int argc;
  char **argv;
  const char *verb;
  const char *help;
  const struct option *options; /* the verb's own, codes from BUSCTL_OPTION_OWN on, and
                                   BUSCTL_COMMON_OPTIONS */
  int operands_max;             /* how many words may stand beside the options */
  const char *directory;        /* of --bus; NULL: not given */
  const char *operand;          /* the first of them, valid after the last option; NULL: none */
  bool ended; /* the verb returns `status` at once: help was asked for, or refused */
  int status;
};

/* The next of the verb's own options, its value in optarg; 0 when there is none or the line has
 * ended. */
int busctl_line_next(struct busctl_line *line);

/* Ends the line with bus_error_message as an error of usage. */
void busctl_line_refuse(struct busctl_line *line);

/* Prints "signal-busctl VERB: text" on stderr; returns BUSCTL_USAGE. */
int busctl_usage_error(const char *verb, const char *format, ...) BUS_PRINTF(2, 3);

/* Prints the calling thread's bus_error_message for `verb` on stderr, sanitised; returns
 * BUSCTL_FAILED. */
int busctl_fail(const char *verb);

/* Copies at most `from_size` bytes (up to a NUL) of text that nobody vouches for: control
 * characters and what is not UTF-8 become '?', so that the result can go to a terminal and into
 * JSON. `to` gets at most size-1 bytes and a NUL; size >= 1. Returns `to`. */
char *busctl_sanitise(char *to, size_t size, const char *from, size_t from_size);

/* Makes the bus directory, or checks the one that is there. `mode` 0: 0750 when it is made, left
 * alone when it is there; `group` NULL: as it comes. *made tells which. Returns BUS_OK or a
 * negative error with a message that names path, owner, mode and the next step. */
int busctl_make_directory(const char *directory, mode_t mode, const char *group, bool *made);

/* ---- busctl_scan.c: everything that lies in the bus directory ---- */

struct busctl_file {
  char name[256];                  /* as in the directory: sanitise before printing */
  struct bus_neighbour *neighbour; /* NULL: not a member's, or not readable */
  enum bus_neighbour_status status;
  struct bus_member_header live; /* when neighbour != NULL; names in it are terminated */
  int error;                     /* neighbour == NULL: why, negative enum bus_error */
  char reason[512];              /* the same in words, sanitised */
  uint64_t file_bytes;
};

struct busctl_scan {
  char directory[256];
  struct busctl_file *files; /* sorted by name */
  size_t count;
};

/* Lists the directory (NULL: bus_directory_default()) and attaches to everything in it, dead or
 * alive. Errors as bus_directory_visit, and BUS_ERROR_INVALID (not a directory, name too long),
 * BUS_ERROR_NO_SPACE (more than BUSCTL_FILES_MAX files). */
int busctl_scan_open(struct busctl_scan *scan, const char *directory);

/* Looks again; members that are still there stay attached. Errors as above, `scan` is then empty.
 */
int busctl_scan_refresh(struct busctl_scan *scan);
void busctl_scan_close(struct busctl_scan *scan);

/* The attached member of that name, or NULL. */
const struct busctl_file *busctl_scan_member(const struct busctl_scan *scan, const char *name);

/* True when a process holds the file. */
bool busctl_file_lives(const struct busctl_file *file);

/* Prints a line for each member that a process holds; returns how many. */
size_t busctl_print_living(const struct busctl_scan *scan, FILE *out);

/* Figures of a neighbour's ring. */
struct busctl_ring {
  uint64_t head;      /* position after the newest record */
  uint64_t committed; /* records so far */
  uint64_t dropped;
  uint64_t waits;
  uint64_t positions_rejected;
  uint64_t lag;           /* valid when lag_known */
  uint64_t depth;         /* of the directory: records */
  uint64_t newest_age_ns; /* since what the newest record is about; valid when age_known */
  bool lag_known;
  bool age_known; /* features and signals carry a time */
};

/* Reads the figures of ring `entry` of `file`. `exact` takes the head from the stamps, which reads
 * a line of every slot and so gets in the producer's way for a moment; else from what the producer
 * reports every few milliseconds. The lag comes from the consumer's file in the same scan. */
void busctl_read_ring(const struct busctl_scan *scan, const struct busctl_file *file,
                      const struct bus_entry *entry, bool exact, struct busctl_ring *ring);

#endif
