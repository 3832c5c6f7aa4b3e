/* doctor.h: what of this machine is in the way of a bus, and the command that puts it right.
 *
 * Every check reads; none changes anything. Remedies are built from numbers and fixed text only,
 * never from what a file of the system says, because people paste them into a root shell. One
 * thread at a time. */
#ifndef SIGNALBUS_OPS_DOCTOR_H
#define SIGNALBUS_OPS_DOCTOR_H

#include "tools/ops/cpu_list.h"
#include "tools/ops/system_files.h"

#include <sys/types.h>

#define OPS_DOCTOR_CHECKS_MAX   64
#define OPS_DOCTOR_FOUND_BYTES  320
#define OPS_DOCTOR_REMEDY_BYTES 1024

enum ops_doctor_status {
  OPS_DOCTOR_PASS,
  OPS_DOCTOR_WARN, /* costs latency, or will bite under load */
  OPS_DOCTOR_FAIL, /* does not work as set up, or loses the bus */
  OPS_DOCTOR_SKIP  /* does not apply here, or cannot be seen */
};

enum ops_doctor_remedy {
  OPS_REMEDY_NONE,
  OPS_REMEDY_COMMAND,  /* sh runs it, as root; holds until the next boot unless it says otherwise */
  OPS_REMEDY_SHELL,    /* sh runs it, in the shell that starts the members */
  OPS_REMEDY_REBOOT,   /* sh runs it, as root; in force after a reboot */
  OPS_REMEDY_BOOT,     /* words for the kernel command line; in force after a reboot */
  OPS_REMEDY_ELSEWHERE /* a sentence: in the firmware, the host or the container's settings */
};

struct ops_doctor_check {
  const char *key; /* stable, static */
  enum ops_doctor_status status;
  char found[OPS_DOCTOR_FOUND_BYTES]; /* may quote files of the system: sanitise before printing */
  const char *why;                    /* one line, static */
  enum ops_doctor_remedy remedy_kind;
  char remedy[OPS_DOCTOR_REMEDY_BYTES]; /* "" for OPS_REMEDY_NONE */
};

/* What the caller knows of the bus. */
struct ops_doctor_bus {
  char directory[256];
  bool exists;
  int64_t file_system; /* f_type of statfs */
  uid_t owner;
  uint32_t files; /* members', and what was left half made */
  uint32_t members;
  uint32_t members_small; /* of them, not wholly in huge pages */
  uint64_t file_bytes;
  uint64_t huge_bytes;
};

struct ops_doctor {
  const struct ops_system *system;
  struct ops_doctor_bus bus;
  struct ops_cpu_list online;
  struct ops_cpu_list cpus;      /* that members shall have for themselves; may be empty */
  struct ops_cpu_list house;     /* the other online ones */
  struct ops_cpu_list partition; /* what valid partitions and isolcpus have taken out */
  char invalid[256];             /* state of an invalid partition, "" when there is none */
  struct ops_cpu_list invalid_cpus;
  bool partitioned;          /* there is a cgroup v2 partition, valid or not */
  int node;                  /* of the first of `cpus`, else the first node */
  int (*try_io_uring)(void); /* 0 or the errno of io_uring_setup; NULL: not tried */
  struct ops_doctor_check checks[OPS_DOCTOR_CHECKS_MAX];
  int count;
};

/* Looks at the CPUs and partitions. `cpus` NULL or empty: those that the partitions have. Returns
 * BUS_OK; BUS_ERROR_INVALID (one of them is not online, or no other is left); errors of
 * ops_file_read. `system` must outlive the doctor. */
int ops_doctor_init(struct ops_doctor *doctor, const struct ops_system *system,
                    const struct ops_doctor_bus *bus, const struct ops_cpu_list *cpus);

/* Makes all checks. Does not fail: what cannot be seen is skipped, with the reason. */
void ops_doctor_run(struct ops_doctor *doctor);

/* How many checks have that status. */
int ops_doctor_count(const struct ops_doctor *doctor, enum ops_doctor_status status);

/* The check of that key, or NULL. */
const struct ops_doctor_check *ops_doctor_find(const struct ops_doctor *doctor, const char *key);

/* "pass", "warn", ..; "none", "command", "shell", "reboot", "boot", "elsewhere". Static. */
const char *ops_doctor_status_name(enum ops_doctor_status status);
const char *ops_doctor_remedy_name(enum ops_doctor_remedy kind);

/* The words of sh that mean `text`, quoted. False when they do not fit. */
bool ops_doctor_quote(char *to, size_t size, const char *text);

/* ---- for the checks themselves, doctor_*.c ---- */

/* A new check that passes, with nothing found yet. Never NULL. */
struct ops_doctor_check *ops_doctor_add(struct ops_doctor *doctor, const char *key,
                                        const char *why);
void ops_doctor_found(struct ops_doctor_check *check, enum ops_doctor_status status,
                      const char *format, ...) BUS_PRINTF(3, 4);
void ops_doctor_remedy(struct ops_doctor_check *check, enum ops_doctor_remedy kind,
                       const char *format, ...) BUS_PRINTF(3, 4);

/* Skips the check because of `error`, with the calling thread's message. */
void ops_doctor_unreadable(struct ops_doctor_check *check, int error);

/* Skips it because no CPUs are named; true when it did. */
bool ops_doctor_needs_cpus(const struct ops_doctor *doctor, struct ops_doctor_check *check);

/* A check of the kernel's mask of CPUs in "root/name", which must have none of the named CPUs; the
 * remedy writes the others to "shown/name" (`shown`: what the root is called on a machine). */
void ops_doctor_check_mask(struct ops_doctor *doctor, const char *key, const char *why,
                           const char *root, const char *shown, const char *name);

/* Reads "root/name"; as ops_file_read. */
int ops_doctor_read(char *text, size_t size, const char *root, const char *format, ...)
    BUS_PRINTF(4, 5);

/* Reads a list of CPUs in a file. BUS_OK or a negative error. */
int ops_doctor_read_cpus(struct ops_cpu_list *list, const char *root, const char *format, ...)
    BUS_PRINTF(3, 4);

/* True when a process of that name runs; names longer than 15 bytes are cut by the kernel. */
bool ops_doctor_runs(const struct ops_doctor *doctor, const char *name);

/* The value of word `key`= on the kernel command line; false when it is not there. */
bool ops_doctor_boot_value(const struct ops_doctor *doctor, const char *key, char *value,
                           size_t size);

/* The innermost cgroup that has `cpu` in a set of its own. */
struct ops_doctor_group {
  char path[OPS_PATH_BYTES]; /* "" when there is none */
  bool isolated;             /* no load balancing there, or so from the boot on */
};

void ops_doctor_find_group(const struct ops_system *system, int cpu,
                           struct ops_doctor_group *group);

void ops_doctor_find_partitions(struct ops_doctor *doctor);
void ops_doctor_check_kernel(struct ops_doctor *doctor);
void ops_doctor_check_boot(struct ops_doctor *doctor);
void ops_doctor_check_isolation(struct ops_doctor *doctor);
void ops_doctor_check_irqs(struct ops_doctor *doctor);
void ops_doctor_check_settings(struct ops_doctor *doctor);
void ops_doctor_check_power(struct ops_doctor *doctor);
void ops_doctor_check_memory(struct ops_doctor *doctor);
void ops_doctor_check_bus(struct ops_doctor *doctor);
void ops_doctor_check_gpu(struct ops_doctor *doctor);

#endif
