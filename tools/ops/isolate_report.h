/* isolate_report.h: what isolate and release did, for people and for scripts. */
#ifndef SIGNALBUS_OPS_ISOLATE_REPORT_H
#define SIGNALBUS_OPS_ISOLATE_REPORT_H

#include "tools/ops/isolate_plan.h"

#include <stdio.h>

/* `verb` is "isolate" or "release", `code` what it returned. Every change is a line with what was
 * found and what is written in its place. Message and values are printed as printable ASCII. */
void ops_report_text(const struct ops_isolation *run, const char *verb, int code, FILE *out);

/* One JSON object: verb, name, cpus, housekeeping, mode, dry_run, exit, error, changes, remarks,
 * kernel_command_line. Returns BUS_OK or BUS_ERROR_NO_SPACE, BUS_ERROR_IO. */
int ops_report_json(const struct ops_isolation *run, const char *verb, int code, FILE *out);

#endif
