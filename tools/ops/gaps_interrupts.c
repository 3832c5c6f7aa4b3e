/* Who took the core: the kernel's own counts. */
#include "tools/ops/gaps.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INTERRUPTS_BYTES (8 << 20)
#define SCHEDSTAT_BYTES  (4 << 20)

/* The place of "CPU<cpu>" in the heading, from 0, or -1. Offline CPUs have no column. */
static int find_column(char *heading, int cpu)
{
  char *rest = NULL;
  int column = 0;
  for (char *word = strtok_r(heading, " \t", &rest); word; word = strtok_r(NULL, " \t", &rest)) {
    int number, end = 0;
    if (sscanf(word, "CPU%5d%n", &number, &end) == 1 && !word[end] && number == cpu)
      return column;
    column++;
  }
  return -1;
}

/* "  24:   1   0  IO-APIC  5-edge  name": false when the line has no such column. */
static bool parse_row(struct ops_interrupt *row, char *line, int column, int columns)
{
  char *colon = strchr(line, ':'), *at;
  line += strspn(line, " ");
  if (!colon || colon == line || (size_t)(colon - line) >= sizeof row->name)
    return false;
  snprintf(row->name, sizeof row->name, "%.*s", (int)(colon - line), line);
  at = colon + 1;
  int found = 0;
  for (; found < columns; found++) {
    char *end;
    at += strspn(at, " \t");
    if (*at < '0' || *at > '9')
      break;
    uint64_t value = strtoull(at, &end, 10);
    if (found == column)
      row->count = value;
    at = end;
  }
  at += strspn(at, " \t");
  snprintf(row->label, sizeof row->label, "%s", at);
  return found > column;
}

int ops_interrupts_parse(struct ops_interrupts *interrupts, char *text, int cpu)
{
  char *rest = NULL, *line = strtok_r(text, "\n", &rest);
  int columns = 0;
  interrupts->count = 0;
  for (const char *at = line; at && (at = strstr(at, "CPU")) != NULL; at += 3)
    columns++;
  int column = line ? find_column(line, cpu) : -1;
  if (column < 0)
    return bus_error_set(BUS_ERROR_FORMAT, "/proc/interrupts has no column of CPU %d", cpu);
  while ((line = strtok_r(NULL, "\n", &rest)) && interrupts->count < OPS_INTERRUPTS_MAX)
    interrupts->count += parse_row(&interrupts->rows[interrupts->count], line, column, columns);
  return BUS_OK;
}

/* Reads a file that may be large on a large machine; the caller frees *text. */
static int read_large(const char *root, const char *name, size_t size, char **text)
{
  char path[OPS_PATH_BYTES];
  int error = ops_path_join(path, root, "%s", name);
  *text = error ? NULL : malloc(size);
  if (!*text)
    return error ? error : bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", path);
  int length = ops_file_read(path, *text, size);
  return length < 0 ? length : BUS_OK;
}

int ops_interrupts_read(const struct ops_system *system, int cpu, struct ops_interrupts *interrupts)
{
  char *text;
  interrupts->count = 0;
  int error = read_large(system->proc_root, "interrupts", INTERRUPTS_BYTES, &text);
  if (!error)
    error = ops_interrupts_parse(interrupts, text, cpu);
  free(text);
  return error;
}

static int compare(const void *left, const void *right)
{
  const struct ops_interrupt *a = left, *b = right;
  return a->count != b->count ? (a->count < b->count ? 1 : -1) : strcmp(a->name, b->name);
}

void ops_interrupts_since(struct ops_interrupts *after, const struct ops_interrupts *before)
{
  int kept = 0;
  for (int i = 0; i < after->count; i++) {
    struct ops_interrupt row = after->rows[i];
    for (int j = 0; j < before->count; j++)
      if (!strcmp(before->rows[j].name, row.name)) {
        row.count -= before->rows[j].count <= row.count ? before->rows[j].count : row.count;
        break;
      }
    if (row.count)
      after->rows[kept++] = row;
  }
  after->count = kept;
  qsort(after->rows, (size_t)kept, sizeof after->rows[0], compare);
}

int ops_schedules_read(const struct ops_system *system, int cpu, uint64_t *count)
{
  char *text, *rest = NULL;
  int error = read_large(system->proc_root, "schedstat", SCHEDSTAT_BYTES, &text);
  bool found = false;
  if (!error)
    for (char *line = strtok_r(text, "\n", &rest); line && !found;
         line = strtok_r(NULL, "\n", &rest)) {
      int number;
      found = sscanf(line, "cpu%5d %*u %*u %" SCNu64, &number, count) == 2 && number == cpu;
    }
  free(text);
  if (!error && !found)
    error = bus_error_set(BUS_ERROR_FORMAT, "/proc/schedstat has no line of CPU %d", cpu);
  return error;
}
