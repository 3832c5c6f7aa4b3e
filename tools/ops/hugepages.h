/* hugepages.h: 2 MiB pages of each NUMA node: how many there are, getting more, giving them back,
 * and the hugetlbfs that hands them out.
 *
 * The kernel takes a number that it cannot reach and reports success, so whoever asks reads back.
 * One thread at a time. */
#ifndef SIGNALBUS_OPS_HUGEPAGES_H
#define SIGNALBUS_OPS_HUGEPAGES_H

#include "tools/ops/system_files.h"

#include <sys/types.h>

#define OPS_NODES_MAX           64
#define OPS_HUGEPAGES_MAX       (1 << 20) /* 2 TiB: more is a slip of the finger */
#define OPS_HUGEPAGES_TRIES_MAX 100

struct ops_hugepages_node {
  int node;
  int64_t total;   /* persistent and surplus pages */
  int64_t free;    /* of them, not in use; some may be promised to a mount or a map */
  int64_t surplus; /* of them, in use beyond what is asked for: gone when they are freed */
};

struct ops_hugepages {
  struct ops_hugepages_node nodes[OPS_NODES_MAX]; /* by rising number */
  int count;
  int64_t promised; /* of all nodes: free, but reserved for a mount or a map; -1: not known */
};

/* Reads all nodes that have memory. BUS_OK; BUS_ERROR_UNSUPPORTED (no 2 MiB pages in this kernel);
 * errors of ops_file_read. */
int ops_hugepages_read(const struct ops_system *system, struct ops_hugepages *pages);

/* The node of that number, or NULL. */
const struct ops_hugepages_node *ops_hugepages_find(const struct ops_hugepages *pages, int node);

/* Persistent pages, which is what a reservation sets: without the surplus. */
int64_t ops_hugepages_persistent(const struct ops_hugepages_node *node);

/* Sets the persistent pages of `node` to `pages` (0..OPS_HUGEPAGES_MAX), reads back, and while
 * there are fewer compacts the node's memory and writes again, `tries` times in all (1..100).
 * Lowered below what is in use, the rest becomes surplus. *reached: its persistent pages then, also
 * on errors when they are known, else -1. BUS_OK;
 * BUS_ERROR_NO_SPACE (short: the message names both numbers and the next step); errors of
 * ops_system_write and ops_file_read. */
int ops_hugepages_resize(struct ops_system *system, int node, int64_t pages, int tries,
                         int64_t *reached);

/* ---- what was taken, so that it can be given back ---- */

struct ops_hugepages_taken {
  int node;
  int64_t found; /* what the node had before us */
  int64_t set;   /* what it had after us; another number now is somebody else's */
};

/* The state file, run_root/hugepages: locked from open to close, written before each change. */
struct ops_hugepages_state {
  struct ops_hugepages_taken taken[OPS_NODES_MAX];
  int count;
  int fd; /* holds the lock; -1: closed */
};

/* Parses the state file's text, of the boot `boot_id`; another boot's is no error and gives an
 * empty state, since the pages went with it. BUS_OK or BUS_ERROR_FORMAT. */
int ops_hugepages_state_parse(struct ops_hugepages_state *state, const char *text,
                              const char *boot_id);

/* Opens, locks and reads; makes directory and file when they are missing. `state` is closed on
 * errors: BUS_ERROR_BUSY (another one is at it), BUS_ERROR_FORMAT, or the system's. */
int ops_hugepages_state_open(const struct ops_system *system, struct ops_hugepages_state *state);

/* Reads without the lock, for showing; empty when there is no file. */
int ops_hugepages_state_read(const struct ops_system *system, struct ops_hugepages_state *state);

/* Notes node's numbers, or forgets it when found == set, and syncs the file. BUS_OK or an error;
 * then nothing may be changed. */
int ops_hugepages_state_put(const struct ops_system *system, struct ops_hugepages_state *state,
                            int node, int64_t found, int64_t set);

const struct ops_hugepages_taken *ops_hugepages_state_find(const struct ops_hugepages_state *state,
                                                           int node);

/* Safe on a closed one. */
void ops_hugepages_state_close(struct ops_hugepages_state *state);

/* Brings `node`, as just read, to at least `pages` persistent pages, noted in `state` first. Short
 * even so: with `allow_short` that is BUS_OK with a message, else it is undone. *reached: what it
 * has then. BUS_OK or an error; the message says what is left when it could not be undone. */
int ops_hugepages_reserve(struct ops_system *system, struct ops_hugepages_state *state,
                          const struct ops_hugepages_node *node, int64_t pages, int tries,
                          bool allow_short, int64_t *reached);

/* Puts `node` back to what was read, and its note to that of `at_first`, after a failure whose
 * message is kept, with the outcome added. */
void ops_hugepages_undo(struct ops_system *system, struct ops_hugepages_state *state,
                        const struct ops_hugepages_node *node,
                        const struct ops_hugepages_state *at_first);

/* Puts `node`, of which `state` has a note, back to the number found, unless somebody else has
 * changed it since, and forgets the note. *before, *after: its persistent pages; *in_use: pages
 * beyond that, which the kernel takes when they are freed. BUS_OK or an error; then the note stays.
 */
int ops_hugepages_release(struct ops_system *system, struct ops_hugepages_state *state, int node,
                          int64_t *before, int64_t *after, int64_t *in_use);

/* ---- the mount ---- */

struct ops_hugepages_mount {
  uint64_t size_bytes;     /* the most; whole pages; 0: no limit */
  uint64_t min_size_bytes; /* reserved at the mount; whole pages */
  uid_t uid;
  gid_t gid;
  mode_t mode; /* 0..01777: the file system drops set-id bits */
};

/* Mounts a hugetlbfs of 2 MiB pages on `directory`, which is there, and reads back what it became.
 * BUS_OK; BUS_ERROR_NO_SPACE (min_size could not be reserved: says how many pages are free),
 * BUS_ERROR_INVALID (came out otherwise; it is unmounted again), or the system's error. */
int ops_hugepages_mount(const struct ops_system *system, const char *directory,
                        const struct ops_hugepages_mount *mount);

/* 1 when a hugetlbfs is mounted on exactly that directory, 0 when not, or a negative error. */
int ops_hugepages_is_mounted(const char *directory);

#endif
