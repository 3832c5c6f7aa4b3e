/* isolate.h: takes CPUs away from everybody else, and gives them back as they were found.
 *
 * One thread, as root. Every change is in a synced journal before it is made, is read back after,
 * and is taken back when a later one fails; release takes back what was made, in reverse order,
 * where nobody else has changed it since. A process that is killed at any instant leaves a journal
 * that release can work off. */
#ifndef SIGNALBUS_OPS_ISOLATE_H
#define SIGNALBUS_OPS_ISOLATE_H

#include "tools/ops/isolate_plan.h"

/* Does what `run->options` ask, or with dry_run only plans it. `run` comes from ops_isolation_init;
 * afterwards run->changes tell what was done to each, run->remarks what else there is to say.
 * Signals that stop a program are held back while changes are made, and roll them back. Returns an
 * enum ops_exit; when it is neither OK nor WARNINGS, bus_error_message() says why. */
int ops_isolate(struct ops_isolation *run);

/* Takes back what the isolation run->options.name (of all options only this and dry_run count) has
 * changed. A second call after one that was interrupted or incomplete does the rest. */
int ops_release(struct ops_isolation *run);

/* ---- between isolate.c and isolate_release.c ---- */

/* Restores run->changes (of the journal) from the last to `first`, and sets their states. Returns
 * how many could not be restored; their remarks tell why. */
size_t ops_isolation_undo(struct ops_isolation *run, size_t first);

#endif
