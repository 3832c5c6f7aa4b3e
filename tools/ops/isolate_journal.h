/* isolate_journal.h: what an isolation changed, on disk before it is changed.
 *
 * RUN/isolate-NAME.journal, mode 0600, JSON lines: a header, then one line for each change, synced
 * before the change is made. A line that was cut short by a crash belongs to a change that was not
 * made. The directory of the journals has one lock, which isolate and release hold all the time. */
#ifndef SIGNALBUS_OPS_ISOLATE_JOURNAL_H
#define SIGNALBUS_OPS_ISOLATE_JOURNAL_H

#include "tools/ops/isolate_change.h"

#define OPS_ISOLATION_NAME_BYTES 33
#define OPS_BOOT_ID_BYTES        64

struct ops_journal {
  char name[OPS_ISOLATION_NAME_BYTES];
  char path[OPS_PATH_BYTES];
  char boot_id[OPS_BOOT_ID_BYTES];
  char cgroup[OPS_PATH_BYTES]; /* that programs join; "" when only affinity confines them */
  struct ops_cpu_list cpus;
  bool complete;   /* all was changed that was asked for, at least once: programs may run there */
  int64_t made_ns; /* CLOCK_REALTIME; isolations are released in reverse order */
  struct ops_change *changes;
  size_t count;
  int fd;       /* to append with; -1 when it was only read */
  int64_t size; /* bytes of whole lines */
};

/* Letters, digits, '_', '-' and '.' (not first), 1 to 32; "house" is taken. */
bool ops_isolation_name_valid(const char *name);

int ops_boot_id_read(const struct ops_system *system, char *boot_id);

/* Makes RUN where it is missing and takes its lock. Returns a descriptor to close, or a negative
 * error: BUS_ERROR_BUSY when another isolate or release works, BUS_ERROR_DENIED when others
 * may write to the directory. */
int ops_journal_lock(const struct ops_system *system);

/* Reads the journal of `name`; free with ops_journal_close. Returns BUS_OK, BUS_ERROR_ABSENT when
 * there is none (or one whose first line was cut short: nothing was changed then),
 * BUS_ERROR_DENIED, or BUS_ERROR_FORMAT with path and line when it was damaged. */
int ops_journal_read(const struct ops_system *system, const char *name,
                     struct ops_journal *journal);

/* Makes the journal file from name, boot_id, cgroup, cpus and made_ns, synced, ready to append. */
int ops_journal_create(const struct ops_system *system, struct ops_journal *journal);

/* Opens one that was read, to append to it; cuts off what a crash left behind its last line. */
int ops_journal_open(struct ops_journal *journal);

/* Adds the change, on disk and in memory. When this returns BUS_OK, the change may be made. */
int ops_journal_append(struct ops_journal *journal, const struct ops_change *change);

/* Marks it complete, once. */
int ops_journal_complete(struct ops_journal *journal);

/* Forgets every change but the first `count`, which reached to byte `size`. */
int ops_journal_truncate(struct ops_journal *journal, size_t count, int64_t size);

/* Deletes the file. */
int ops_journal_remove(struct ops_journal *journal);
void ops_journal_close(struct ops_journal *journal);

#endif
