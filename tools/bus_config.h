/* bus_config.h: the INI file that describes a whole bus: which members, in which order, how they
 * are started and what happens when they end.
 *
 *   [bus]
 *   directory = /dev/shm/signals
 *
 *   [feed]                                  ; the section's name is the member's name
 *   command = bus-feed --source binance
 *       --symbols btcusdt,ethusdt           ; an indented line continues the value
 *   core    = 2
 *
 * Read once, before anything starts; every refusal carries FILE:LINE and what would be accepted. */
#ifndef SIGNALBUS_BUS_CONFIG_H
#define SIGNALBUS_BUS_CONFIG_H

#include "shm/error.h"

#define BUS_CONFIG_MEMBERS_MAX   64u
#define BUS_CONFIG_FILE_BYTES    (256u << 10)
#define BUS_CONFIG_LINE_BYTES    190u  /* longest line, its end excluded: libinih cuts at 200 */
#define BUS_CONFIG_COMMAND_BYTES 2048u /* with continuation lines; the NUL included */
#define BUS_CONFIG_WORDS_MAX     128u
/* The supervisor counts each member's restarts under "restarts.NAME", itself a bus name. */
#define BUS_CONFIG_NAME_BYTES 23u

enum bus_restart { BUS_RESTART_ON_FAILURE = 0, BUS_RESTART_ALWAYS = 1, BUS_RESTART_NEVER = 2 };

enum bus_start_wait {
  BUS_START_WAIT_RUNNING = 0, /* until the member's file is in state RUN */
  BUS_START_WAIT_NONE = 1
};

/* Whether the bus stops when the member has ended for good. */
enum bus_essential {
  BUS_ESSENTIAL_NO = 0,
  BUS_ESSENTIAL_YES = 1,
  BUS_ESSENTIAL_ON_FAILURE = 2 /* not when it was done */
};

struct bus_config_member {
  char name[BUS_CONFIG_NAME_BYTES];
  char command[BUS_CONFIG_COMMAND_BYTES]; /* as written; see bus_config_split */
  uint32_t line;                          /* of its [section] */
  int32_t core;                           /* 0..1023; -1: not pinned */
  int32_t numa_node;                      /* 0..1023; -1: anywhere */
  int32_t restart;                        /* enum bus_restart */
  int32_t restart_backoff_ms;             /* 1..3600000, before the first restart; then doubles */
  int32_t restart_backoff_ms_max;         /* 1..3600000 */
  int32_t start_wait;                     /* enum bus_start_wait */
  int32_t start_timeout_ms;               /* 1..3600000 */
  int32_t stop_timeout_ms;                /* 1..3600000, from SIGTERM to SIGKILL */
  int32_t essential;                      /* enum bus_essential */
};

struct bus_config {
  char directory[256]; /* "": not given */
  int32_t create;      /* 1: make the directory when it is missing */
  uint32_t member_count;
  struct bus_config_member members[BUS_CONFIG_MEMBERS_MAX]; /* in file order */
};

/* A command cut into words; argv points into `text` and ends with NULL. */
struct bus_config_words {
  uint32_t count;
  char *argv[BUS_CONFIG_WORDS_MAX + 1];
  char text[8192];
};

/* Parses `length` bytes at `text`; `file` is the name that messages carry. Fills `*config` (about
 * 140 KiB: not for the stack). Any thread. Returns BUS_OK, or BUS_ERROR_FORMAT with a message
 * "FILE:LINE: .." about the first mistake; `*config` is then undefined. */
int bus_config_parse(const char *text, size_t length, const char *file, struct bus_config *config);

/* Reads and parses the file at `path`, at most BUS_CONFIG_FILE_BYTES. Errors: as above, and
 * BUS_ERROR_ABSENT, BUS_ERROR_DENIED, BUS_ERROR_IO, BUS_ERROR_NO_SPACE. */
int bus_config_read(const char *path, struct bus_config *config);

/* Cuts the member's command into words, as a shell would and without one: blanks separate, '..'
 * keeps all, ".." keeps all but \" and \\, \x is x. %{bus}, %{name}, %{core} and %{numa_node} are
 * replaced in every word, quoted or not, by `directory` and the member's own; blanks in them do not
 * separate. Returns BUS_OK, or BUS_ERROR_FORMAT with a message that lacks FILE:LINE. Any thread. */
int bus_config_split(const struct bus_config_member *member, const char *directory,
                     struct bus_config_words *words);

#endif
