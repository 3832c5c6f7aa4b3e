/* cpu_list.h: a set of CPUs, in the two ways that the kernel writes one.
 *
 * Lists ("0-3,8") are what people type and cpusets hold; masks ("ff,00000003", words of 32 bits,
 * the highest first) are what the IRQ and workqueue files hold. Plain values without pointers; any
 * thread. */
#ifndef SIGNALBUS_OPS_CPU_LIST_H
#define SIGNALBUS_OPS_CPU_LIST_H

#include "shm/error.h"

#include <stddef.h>

#define OPS_CPUS_MAX 1024
/* Room for any formatted set: the longest is every other CPU as a list. */
#define OPS_CPU_LIST_BYTES 2560

struct ops_cpu_list {
  uint64_t words[OPS_CPUS_MAX / 64];
};

/* Parses a list of numbers and ranges, ascending or not, with white space at its ends only; "" is
 * the empty set. `what` is what the text is, for the message: an option or a path. Returns BUS_OK
 * or BUS_ERROR_FORMAT (malformed), BUS_ERROR_INVALID (a CPU above 1023, a range that runs
 * backwards); *list is then empty. */
int ops_cpu_list_parse(struct ops_cpu_list *list, const char *text, const char *what);

/* The same for a mask of hexadecimal words: 1 to 8 digits each, separated by commas. */
int ops_cpu_list_parse_mask(struct ops_cpu_list *list, const char *text, const char *what);

/* Writes the shortest list ("" for the empty set); size >= OPS_CPU_LIST_BYTES always suffices, less
 * is cut at an entry. Returns `text`. */
char *ops_cpu_list_format(const struct ops_cpu_list *list, char *text, size_t size);

/* Writes the mask in words of 8 digits, as many as the highest CPU needs ("00000000" for the empty
 * set); size >= OPS_CPU_LIST_BYTES. Returns `text`. */
char *ops_cpu_list_format_mask(const struct ops_cpu_list *list, char *text, size_t size);

/* `cpu` is in 0..1023; others are in no set, and adding them does nothing. */
void ops_cpu_list_add(struct ops_cpu_list *list, int cpu);
bool ops_cpu_list_has(const struct ops_cpu_list *list, int cpu);

int ops_cpu_list_count(const struct ops_cpu_list *list);

/* The first CPU of the set that is >= from, or -1: for (cpu = next(l, 0); cpu >= 0; cpu = next(l,
 * cpu + 1)). */
int ops_cpu_list_next(const struct ops_cpu_list *list, int from);

struct ops_cpu_list ops_cpu_list_or(const struct ops_cpu_list *a, const struct ops_cpu_list *b);
struct ops_cpu_list ops_cpu_list_and(const struct ops_cpu_list *a, const struct ops_cpu_list *b);
/* What is in `a` and not in `b`. */
struct ops_cpu_list ops_cpu_list_minus(const struct ops_cpu_list *a, const struct ops_cpu_list *b);
bool ops_cpu_list_equal(const struct ops_cpu_list *a, const struct ops_cpu_list *b);
bool ops_cpu_list_intersects(const struct ops_cpu_list *a, const struct ops_cpu_list *b);

#endif
