/* isolate_change.h: one change to the machine that can be taken back.
 *
 * What was found and what is wanted are texts, compared by what they mean ("0-1" and "0,1" are the
 * same list): a change is undone only while the machine still shows what was wanted. */
#ifndef SIGNALBUS_OPS_ISOLATE_CHANGE_H
#define SIGNALBUS_OPS_ISOLATE_CHANGE_H

#include "tools/ops/thread_info.h"

#define OPS_VALUE_BYTES OPS_CPU_LIST_BYTES

enum ops_change_kind {
  OPS_CHANGE_WRITE,     /* a value in the file `path` */
  OPS_CHANGE_DIRECTORY, /* the cgroup `path`: "absent" or "made" */
  OPS_CHANGE_AFFINITY,  /* the CPUs of the thread pid, tid, start_ticks */
  OPS_CHANGE_MOVE       /* every user process of cgroup `found` to cgroup `wanted` (= path) */
};

enum ops_value_format {
  OPS_VALUE_TEXT,
  OPS_VALUE_LIST,   /* of CPUs */
  OPS_VALUE_MASK,   /* of CPUs */
  OPS_VALUE_CHOICE, /* the word in [brackets] */
  OPS_VALUE_TOKEN   /* one word of several, there or not: written as +word or -word */
};

enum ops_change_failure { OPS_FAILURE_FATAL, OPS_FAILURE_WARNS, OPS_FAILURE_NOTED };

enum ops_change_state {
  OPS_CHANGE_PLANNED,
  OPS_CHANGE_ALREADY, /* as wanted, without us */
  OPS_CHANGE_DONE,
  OPS_CHANGE_PENDING, /* taken by the kernel, in effect later; see the remark */
  OPS_CHANGE_FAILED,
  OPS_CHANGE_GONE,     /* the thread or file does not exist any more */
  OPS_CHANGE_RESTORED, /* shows what was found */
  OPS_CHANGE_DRIFTED   /* somebody else changed it since: left alone */
};

struct ops_change {
  enum ops_change_kind kind;
  enum ops_value_format format;
  enum ops_change_failure failure; /* what it means when it cannot be made */
  enum ops_change_state state;
  bool fresh; /* in a cgroup that the same plan makes: it goes with it */
  char stage[16];
  char path[OPS_PATH_BYTES];
  char label[64]; /* whose it is, for people: a thread's name, an interrupt's handler */
  pid_t pid, tid;
  uint64_t start_ticks;
  char found[OPS_VALUE_BYTES];
  char wanted[OPS_VALUE_BYTES];
  char advice[256]; /* what to do when it cannot be made */
  char remark[512]; /* why it is not simply done */
};

/* Static English names; ops_change_kind_parse and ops_value_format_parse return -1 for others. */
const char *ops_change_kind_name(enum ops_change_kind kind);
const char *ops_value_format_name(enum ops_value_format format);
const char *ops_change_state_name(enum ops_change_state state);
int ops_change_kind_parse(const char *name);
int ops_value_format_parse(const char *name);

/* Reads what the machine shows now, in the form of found and wanted, into value[OPS_VALUE_BYTES].
 * Not for OPS_CHANGE_MOVE. Returns BUS_OK, BUS_ERROR_ABSENT (no such file; the thread has ended or
 * its number is another's) or a negative error. */
int ops_change_read(struct ops_system *system, const struct ops_change *change, char *value);

/* True when both texts mean the same value of this change. */
bool ops_change_same(const struct ops_change *change, const char *a, const char *b);

/* Makes the machine show `value` (found or wanted). Success does not mean that it does: read back.
 * Errors as of ops_system_write. */
int ops_change_set(struct ops_system *system, const struct ops_change *change, const char *value);

/* The user processes in cgroup directory `path`, counted; kernel threads are left out. `first`
 * (may be NULL) gets a process to name. Negative errors as ops_file_read. */
int ops_cgroup_count(const struct ops_system *system, const char *path, struct ops_thread *first);

#endif
