#include "tools/busctl.h"

#include "shm/member.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl destroy [--bus DIR] [--force]\n"
    "\n"
    "Deletes the files of all members, then the bus directory when it is empty. Refuses while a\n"
    "member is alive. Files that are no members' are left alone and named; an empty file counts\n"
    "as a member's whose creation was cut short.\n"
    "\n"
    "  --bus DIR   the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --force     delete the files of dead members even while others are alive\n"
    "  --help      this text\n"
    "\n"
    "Exit status: 0 all gone, 1 failed or refused, 2 usage, 3 something was left and named.\n";

/* Returns whether the file is gone. */
static bool delete_file(const struct busctl_scan *scan, const struct busctl_file *file)
{
  char name[256], reason[1024];
  bool ours =
      file->neighbour || file->error == BUS_ERROR_NOT_READY || file->error == BUS_ERROR_VERSION;
  int error = ours ? bus_member_delete(scan->directory, file->name) : file->error;
  if (error == BUS_OK || error == BUS_ERROR_ABSENT)
    return true;
  busctl_sanitise(name, sizeof name, file->name, sizeof file->name);
  busctl_sanitise(reason, sizeof reason, ours ? bus_error_message() : file->reason, sizeof reason);
  fprintf(stderr, "signal-busctl destroy: left alone: %s: %s\n", name, reason);
  return false;
}

static int destroy(const char *directory, bool force)
{
  struct busctl_scan scan;
  size_t deleted = 0;
  if (busctl_scan_open(&scan, directory) != BUS_OK)
    return busctl_fail("destroy");
  size_t count = scan.count;
  size_t living = busctl_print_living(&scan, stderr);
  if (living && !force) {
    fprintf(stderr,
            "signal-busctl destroy: %s: %zu members are alive (above); stop them first: "
            "signal-busctl down --bus %s\n",
            directory, living, directory);
    busctl_scan_close(&scan);
    return BUSCTL_FAILED;
  }
  for (size_t i = 0; i < scan.count; i++)
    deleted += delete_file(&scan, &scan.files[i]);
  busctl_scan_close(&scan);
  if (deleted < count) {
    printf("bus %s: %zu files deleted, %zu left\n", directory, deleted, count - deleted);
    return BUSCTL_PARTLY;
  }
  if (rmdir(directory) == 0) {
    printf("bus %s: %zu files deleted, directory removed\n", directory, deleted);
    return BUSCTL_OK;
  }
  /* A mount point of hugetlbfs stays, empty. */
  fprintf(stderr, "signal-busctl destroy: %s: empty, but not removed: %s (%s)\n", directory,
          strerror(errno),
          errno == EBUSY ? "a mount point: umount it" : "remove it as its parent's owner");
  return BUSCTL_PARTLY;
}

int busctl_destroy(int argc, char **argv)
{
  static const struct option options[] = {{"force", no_argument, NULL, BUSCTL_OPTION_OWN},
                                          BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {
      .argc = argc, .argv = argv, .verb = "destroy", .help = help, .options = options};
  bool force = false;
  while (busctl_line_next(&line))
    force = true;
  if (line.ended)
    return line.status;
  return destroy(line.directory ? line.directory : bus_directory_default(), force);
}
