#include "tools/ops/isolate.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Restores one change; false when it has to be tried again. */
static bool undo_change(struct ops_isolation *run, struct ops_change *change)
{
  char now[OPS_VALUE_BYTES];
  int error = BUS_OK;
  if (change->kind != OPS_CHANGE_MOVE) {
    error = ops_change_read(run->system, change, now);
    if (error == BUS_ERROR_ABSENT) {
      change->state = OPS_CHANGE_GONE;
      return true;
    }
    if (error == BUS_OK && ops_change_same(change, now, change->found)) {
      change->state = OPS_CHANGE_RESTORED;
      return true;
    }
    if (error == BUS_OK && !ops_change_same(change, now, change->wanted)) {
      change->state = OPS_CHANGE_DRIFTED;
      snprintf(change->remark, sizeof change->remark,
               "drifted, left alone: '%.100s' was found, '%.100s' written, now it is '%.100s'",
               change->found, change->wanted, now);
      ops_plan_warn(run, "%s%s%s: %s", change->path, change->label[0] ? " " : "", change->label,
                    change->remark);
      return true;
    }
  } else if (!ops_file_exists(change->path)) { /* killed before, or released up to here */
    change->state = OPS_CHANGE_GONE;
    return true;
  }
  if (run->options.dry_run)
    return true;
  if (error == BUS_OK)
    error = ops_change_set(run->system, change, change->found);
  if (error != BUS_OK && change->kind == OPS_CHANGE_AFFINITY &&
      ops_change_read(run->system, change, now) == BUS_ERROR_ABSENT) {
    change->state = OPS_CHANGE_GONE;
    return true;
  }
  if (error != BUS_OK && change->format == OPS_VALUE_TOKEN) { /* cgroups made since want it, too */
    change->state = OPS_CHANGE_DRIFTED;
    ops_plan_warn(run, "%s: '%s' stays, others use it now: %.300s", change->path, change->wanted,
                  bus_error_message());
    return true;
  }
  change->state = error == BUS_OK ? OPS_CHANGE_RESTORED : OPS_CHANGE_FAILED;
  if (error != BUS_OK)
    snprintf(change->remark, sizeof change->remark, "%.511s", bus_error_message());
  return error == BUS_OK;
}

/* Read back last, when nothing that stands in the way is left: a workqueue mask, for one, shows no
 * CPU that a partition holds. */
static bool check_restored(struct ops_isolation *run, struct ops_change *change)
{
  char now[OPS_VALUE_BYTES];
  if (change->state != OPS_CHANGE_RESTORED || change->kind == OPS_CHANGE_MOVE ||
      ops_change_read(run->system, change, now) != BUS_OK ||
      ops_change_same(change, now, change->found))
    return true;
  /* Of two changes of one file, the earlier is what counts in the end. */
  for (const struct ops_change *other = run->changes; other < change; other++)
    if (other->kind == change->kind && !strcmp(other->path, change->path))
      return true;
  change->state = OPS_CHANGE_FAILED;
  snprintf(change->remark, sizeof change->remark, "the kernel took '%.200s' and shows '%.200s'",
           change->found, now);
  return false;
}

size_t ops_isolation_undo(struct ops_isolation *run, size_t first)
{
  size_t left = 0;
  for (size_t i = run->count; i-- > first;)
    left += !undo_change(run, &run->changes[i]);
  for (size_t i = run->count; !run->options.dry_run && i-- > first;) {
    struct ops_change *change = &run->changes[i];
    if (change->kind == OPS_CHANGE_MOVE && change->state == OPS_CHANGE_FAILED &&
        !ops_file_exists(change->path)) { /* the cgroup could go: nobody is in it after all */
      change->state = OPS_CHANGE_RESTORED;
      left--;
    }
    left += !check_restored(run, change);
  }
  for (size_t i = first; i < run->count; i++)
    if (run->changes[i].state == OPS_CHANGE_FAILED)
      ops_plan_warn(run, "%s %s: not restored: %s", run->changes[i].path, run->changes[i].label,
                    run->changes[i].remark);
  return left;
}

/* ---- release ---- */

/* Isolations that were made later stand on what this one changed. */
static int check_order(struct ops_isolation *run)
{
  struct ops_names files;
  int error = BUS_OK;
  if (ops_directory_list(run->system->run_root, &files) != BUS_OK)
    return BUS_OK;
  for (size_t i = 0; i < files.count && error == BUS_OK; i++) {
    struct ops_journal other;
    char name[OPS_ISOLATION_NAME_BYTES];
    if (sscanf(files.names[i], "isolate-%32[^/]", name) != 1)
      continue;
    char *end = strstr(name, ".journal");
    if (!end)
      continue;
    *end = '\0';
    if (!ops_isolation_name_valid(name) || !strcmp(name, run->options.name) ||
        ops_journal_read(run->system, name, &other) != BUS_OK)
      continue;
    if (!strcmp(other.boot_id, run->journal.boot_id) && other.made_ns > run->journal.made_ns)
      error =
          ops_plan_refuse(run, OPS_EXIT_CONFLICT,
                          "isolation '%s' was made later, on top of '%s': signal-busctl release "
                          "--name %s first",
                          name, run->options.name, name);
    ops_journal_close(&other);
  }
  ops_names_free(&files);
  return error;
}

/* Programs that still run in the isolation would be left without CPUs. */
static int check_empty(struct ops_isolation *run)
{
  struct ops_thread process;
  int count = run->journal.cgroup[0] && ops_file_exists(run->journal.cgroup)
                  ? ops_cgroup_count(run->system, run->journal.cgroup, &process)
                  : 0;
  if (count <= 0)
    return BUS_OK;
  return ops_plan_refuse(run, OPS_EXIT_CONFLICT,
                         "%d processes run in isolation '%s', the first is %s, pid %d: stop them "
                         "first (all are in %s/cgroup.procs)",
                         count, run->options.name, process.name, process.pid, run->journal.cgroup);
}

static int finish(struct ops_isolation *run, size_t left)
{
  if (run->options.dry_run)
    return OPS_EXIT_OK;
  if (left > 0) {
    bus_error_set(BUS_ERROR_IO,
                  "%zu changes could not be restored and stay in %s; when the reason is gone, run "
                  "it again",
                  left, run->journal.path);
    return OPS_EXIT_INCOMPLETE;
  }
  if (ops_journal_remove(&run->journal) != BUS_OK)
    return OPS_EXIT_FAILED;
  return run->warning_count > 0 ? OPS_EXIT_WARNINGS : OPS_EXIT_OK;
}

static int release(struct ops_isolation *run)
{
  char boot_id[OPS_BOOT_ID_BYTES];
  int error = ops_journal_read(run->system, run->options.name, &run->journal);
  if (error == BUS_ERROR_ABSENT) {
    ops_plan_note(run, "no isolation '%s': nothing to release", run->options.name);
    return run->options.dry_run || ops_journal_remove(&run->journal) == BUS_OK ? OPS_EXIT_OK
                                                                               : OPS_EXIT_FAILED;
  }
  if (error == BUS_OK)
    error = ops_boot_id_read(run->system, boot_id);
  if (error != BUS_OK)
    return error == BUS_ERROR_DENIED ? OPS_EXIT_PERMISSION : OPS_EXIT_FAILED;
  run->journal_exists = true;
  run->cpus = run->journal.cpus;
  ops_cpu_list_format(&run->cpus, run->cpus_text, sizeof run->cpus_text);
  snprintf(run->cgroup, sizeof run->cgroup, "%s", run->journal.cgroup);
  if (strcmp(boot_id, run->journal.boot_id) != 0) {
    ops_plan_note(run, "isolation '%s' is from before the last reboot, which undid it",
                  run->options.name);
    return finish(run, 0);
  }
  if (check_order(run) != BUS_OK || check_empty(run) != BUS_OK)
    return run->exit;
  run->changes = run->journal.changes; /* from here on the run's to free */
  run->count = run->capacity = run->journal.count;
  run->journal.changes = NULL;
  run->journal.count = 0;
  return finish(run, ops_isolation_undo(run, 0));
}

int ops_release(struct ops_isolation *run)
{
  int lock = -1;
  if (!run->options.dry_run) {
    if (geteuid() != 0 && !run->system->injected) {
      bus_error_set(BUS_ERROR_DENIED, "releasing CPUs needs root: run it with sudo, or see what it "
                                      "would do with --dry-run");
      return OPS_EXIT_PERMISSION;
    }
    lock = ops_journal_lock(run->system);
    if (lock < 0)
      return lock == BUS_ERROR_BUSY     ? OPS_EXIT_CONFLICT
             : lock == BUS_ERROR_DENIED ? OPS_EXIT_PERMISSION
                                        : OPS_EXIT_FAILED;
  }
  int code = release(run);
  if (lock >= 0)
    close(lock);
  return code;
}
