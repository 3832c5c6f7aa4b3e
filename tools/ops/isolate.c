#include "tools/ops/isolate.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- one change ---- */

/* An interrupt goes to its new CPU when it fires next. */
static void look_at_effect(struct ops_isolation *run, struct ops_change *change)
{
  char path[OPS_PATH_BYTES], text[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list cpus;
  char *name = strstr(change->path, "/smp_affinity_list");
  if (strcmp(change->stage, "irqs") != 0 || !name)
    return;
  snprintf(path, sizeof path, "%.*s/effective_affinity_list", (int)(name - change->path),
           change->path);
  if (ops_file_read(path, text, sizeof text) < 0 ||
      ops_cpu_list_parse(&cpus, text, path) != BUS_OK ||
      !ops_cpu_list_intersects(&cpus, &run->cpus))
    return;
  change->state = OPS_CHANGE_PENDING;
  snprintf(change->remark, sizeof change->remark,
           "pending: still on CPU %.100s, until it fires next", text);
}

/* Makes the change and reads back what the kernel made of it. */
static int set_and_check(struct ops_isolation *run, struct ops_change *change)
{
  char value[OPS_VALUE_BYTES];
  int error = ops_change_set(run->system, change, change->wanted);
  if (error != BUS_OK || change->kind == OPS_CHANGE_MOVE)
    return error;
  error = ops_change_read(run->system, change, value);
  if (error != BUS_OK)
    return error;
  if (ops_change_same(change, value, change->wanted)) {
    change->state = OPS_CHANGE_DONE;
    look_at_effect(run, change);
    return BUS_OK;
  }
  /* Neither what was found nor ours: release would take it for somebody else's. */
  if (!change->fresh)
    ops_change_set(run->system, change, change->found);
  return bus_error_set(BUS_ERROR_IO, "%s: the kernel took '%.200s' and shows '%.300s'",
                       change->path, change->wanted, value);
}

/* A change that could not be made: fatal, or said. */
static int take_failure(struct ops_isolation *run, struct ops_change *change, int error)
{
  char value[OPS_VALUE_BYTES];
  char *reason = strdup(bus_error_message());
  const char *why = reason ? reason : "out of memory";
  change->state = OPS_CHANGE_FAILED;
  snprintf(change->remark, sizeof change->remark, "%s", why);
  if (change->kind == OPS_CHANGE_AFFINITY &&
      ops_change_read(run->system, change, value) == BUS_ERROR_ABSENT) {
    change->state = OPS_CHANGE_GONE;
    error = BUS_OK;
  } else if (change->failure == OPS_FAILURE_FATAL ||
             (change->failure == OPS_FAILURE_WARNS && run->options.strict)) {
    bus_error_set(error, "%s", why);
  } else if (change->failure == OPS_FAILURE_WARNS) {
    ops_plan_warn(run, "%.500s%s%s", why, change->advice[0] ? ": " : "", change->advice);
    error = BUS_OK;
  } else {
    ops_plan_note(run, "%s", why);
    error = BUS_OK;
  }
  free(reason);
  return error;
}

static int apply_change(struct ops_isolation *run, struct ops_change *change)
{
  int error = BUS_OK;
  if (change->kind != OPS_CHANGE_MOVE && !change->fresh) {
    /* Found is what is there now: an earlier change may have moved it along. */
    error = ops_change_read(run->system, change, change->found);
    if (error != BUS_OK)
      return take_failure(run, change, error);
    if (ops_change_same(change, change->found, change->wanted)) {
      change->state = OPS_CHANGE_ALREADY;
      return BUS_OK;
    }
  }
  if (!change->fresh && (error = ops_journal_append(&run->journal, change)) != BUS_OK) {
    change->state = OPS_CHANGE_FAILED;
    return error;
  }
  error = set_and_check(run, change);
  if (error != BUS_OK)
    return take_failure(run, change, error);
  if (change->state == OPS_CHANGE_PLANNED)
    change->state = OPS_CHANGE_DONE;
  return BUS_OK;
}

/* ---- all of them ---- */

/* A partition can become invalid by what another process did meanwhile. */
static int check_again(struct ops_isolation *run)
{
  char value[OPS_VALUE_BYTES];
  for (size_t i = 0; i < run->count; i++) {
    const struct ops_change *change = &run->changes[i];
    if (strcmp(change->stage, "cpuset") != 0 || change->kind != OPS_CHANGE_WRITE ||
        change->state != OPS_CHANGE_DONE)
      continue;
    int error = ops_change_read(run->system, change, value);
    if (error != BUS_OK)
      return error;
    if (!ops_change_same(change, value, change->wanted))
      return bus_error_set(BUS_ERROR_BUSY,
                           "%s: '%.200s' was written, and in the end it shows '%.300s'",
                           change->path, change->wanted, value);
  }
  return BUS_OK;
}

static void hold_signals(sigset_t *held, sigset_t *before)
{
  static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
  sigemptyset(held);
  for (size_t i = 0; i < BUS_COUNT_OF(signals); i++)
    sigaddset(held, signals[i]);
  sigprocmask(SIG_BLOCK, held, before);
}

static int check_signals(const sigset_t *held)
{
  sigset_t pending;
  sigpending(&pending);
  for (int number = 1; number < NSIG; number++)
    if (sigismember(held, number) == 1 && sigismember(&pending, number) == 1)
      return bus_error_set(BUS_ERROR_IO, "stopped by signal %d (%s)", number, strsignal(number));
  return BUS_OK;
}

static int apply_all(struct ops_isolation *run)
{
  sigset_t held, before;
  int error = BUS_OK;
  hold_signals(&held, &before);
  for (size_t i = 0; error == BUS_OK && i < run->count; i++) {
    error = check_signals(&held);
    if (error == BUS_OK)
      error = apply_change(run, &run->changes[i]);
  }
  if (error == BUS_OK)
    error = check_again(run);
  if (error == BUS_OK)
    error = ops_journal_complete(&run->journal);
  /* What is pending is for the caller, once the rollback is through. */
  if (error == BUS_OK)
    sigprocmask(SIG_SETMASK, &before, NULL);
  return error;
}

/* Takes back what this call did; `first` and `size` are where the journal ended before it. */
static int roll_back(struct ops_isolation *run, size_t first, int64_t size)
{
  char *reason = strdup(bus_error_message());
  const char *why = reason ? reason : "out of memory";
  struct ops_isolation undo = *run;
  undo.changes = run->journal.changes;
  undo.count = run->journal.count;
  size_t left = ops_isolation_undo(&undo, first);
  run->remarks = undo.remarks;
  run->remark_count = undo.remark_count;
  run->warning_count = undo.warning_count;
  if (left > 0)
    bus_error_set(
        BUS_ERROR_IO,
        "%s. Rolled back, but %zu changes could not be restored; they are named above and "
        "stay in %s: signal-busctl release --name %s tries again",
        why, left, run->journal.path, run->options.name);
  else if ((first > 0 ? ops_journal_truncate(&run->journal, first, size)
                      : ops_journal_remove(&run->journal)) != BUS_OK)
    left = 1;
  else
    bus_error_set(BUS_ERROR_IO, "%s. Everything that was changed is restored", why);
  for (size_t i = 0; left == 0 && i < run->count; i++)
    if (run->changes[i].state == OPS_CHANGE_DONE || run->changes[i].state == OPS_CHANGE_PENDING)
      run->changes[i].state = OPS_CHANGE_RESTORED;
  free(reason);
  return left > 0 ? OPS_EXIT_INCOMPLETE : OPS_EXIT_FAILED;
}

static int start_journal(struct ops_isolation *run)
{
  struct timespec now;
  if (run->journal_exists)
    return ops_journal_open(&run->journal);
  clock_gettime(CLOCK_REALTIME, &now);
  run->journal.made_ns = now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
  if (run->journal.made_ns <= run->latest_other_ns) /* the clock was set back */
    run->journal.made_ns = run->latest_other_ns + 1;
  return ops_journal_create(run->system, &run->journal);
}

static int apply(struct ops_isolation *run)
{
  bool existed = run->journal_exists;
  size_t first = run->journal.count;
  int64_t size = run->journal.size;
  sigset_t before;
  sigprocmask(SIG_BLOCK, NULL, &before);
  if (start_journal(run) != BUS_OK)
    return OPS_EXIT_FAILED;
  int code = OPS_EXIT_OK;
  if (apply_all(run) != BUS_OK) {
    code = roll_back(run, existed ? first : 0, size);
    sigprocmask(SIG_SETMASK, &before, NULL);
  }
  return code != OPS_EXIT_OK ? code : run->warning_count ? OPS_EXIT_WARNINGS : OPS_EXIT_OK;
}

/* The exit code for a refusal that set none. */
static int refused(const struct ops_isolation *run, int error)
{
  if (run->exit != OPS_EXIT_OK)
    return run->exit;
  return error == BUS_ERROR_BUSY     ? OPS_EXIT_CONFLICT
         : error == BUS_ERROR_DENIED ? OPS_EXIT_PERMISSION
                                     : OPS_EXIT_FAILED;
}

static int plan_and_apply(struct ops_isolation *run)
{
  int error = ops_plan_prepare(run);
  if (error == BUS_OK)
    error = ops_plan_make(run);
  if (error != BUS_OK)
    return refused(run, error);
  if (run->options.dry_run)
    return OPS_EXIT_OK;
  if (run->options.strict && run->warning_count > 0) {
    bus_error_set(BUS_ERROR_UNSUPPORTED, "--strict: nothing was changed, because of the warnings");
    return OPS_EXIT_FAILED;
  }
  return apply(run);
}

int ops_isolate(struct ops_isolation *run)
{
  int lock = -1;
  if (!run->options.dry_run) {
    if (geteuid() != 0 && !run->system->injected) {
      bus_error_set(BUS_ERROR_DENIED, "isolating CPUs needs root: run it with sudo, or see what it "
                                      "would do with --dry-run");
      return OPS_EXIT_PERMISSION;
    }
    lock = ops_journal_lock(run->system);
    if (lock < 0)
      return refused(run, lock);
  }
  int code = plan_and_apply(run);
  if (lock >= 0)
    close(lock);
  return code;
}
