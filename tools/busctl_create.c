#include "tools/busctl.h"

#include "shm/mapping.h"
#include "shm/member.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

static const char help[] =
    "Usage: signal-busctl create [--bus DIR] [--mode MODE] [--group GROUP]\n"
    "\n"
    "Makes the bus directory (its parent must exist). Doing it again changes nothing but what\n"
    "--mode and --group say.\n"
    "\n"
    "  --bus DIR      the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --mode MODE    octal, default 0750 for a new directory\n"
    "  --group GROUP  name or number: its members can read the bus\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 usage, 3 done, but files lie there that are no members'.\n";

/* What a member's file there would be made of. Found out by making one, without a name: the answer
 * hangs on the mount, the kernel's version and configuration, and free memory. */
static void print_backing(const char *directory)
{
  struct bus_mapping mapping = {0};
  int fd = open(directory, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd < 0) {
    printf("  memory: not known, this user cannot make files there (%s)\n", strerror(errno));
    return;
  }
  uint64_t size = bus_mapping_file_bytes(fd, BUS_HUGE_PAGE_BYTES);
  if (bus_mapping_open_owner(&mapping, fd, directory, size, true, -1, true) == BUS_OK)
    printf("  memory: a file of %" PRIu64 " KiB gets %s, %" PRIu64 " KiB of it huge\n", size / 1024,
           bus_backing_name(mapping.backing), mapping.huge_bytes / 1024);
  else
    printf("  memory: none for a member of %" PRIu64 " KiB: %s\n", size / 1024,
           bus_error_message());
  bus_mapping_close(&mapping);
  close(fd);
}

static void print_space(const char *directory)
{
  struct statfs fs;
  if (statfs(directory, &fs) != 0)
    return;
  bool memory =
      (unsigned long)fs.f_type == HUGETLBFS_MAGIC || (unsigned long)fs.f_type == TMPFS_MAGIC;
  if (!memory)
    puts("  file system: on disk, which writes pages back: fit for tests; use /dev/shm or "
         "hugetlbfs");
  if (fs.f_blocks == 0)
    puts("  space: not limited by the file system");
  else
    printf("  space: %" PRIu64 " KiB free\n",
           (uint64_t)fs.f_bavail * ((uint64_t)fs.f_bsize / 1024));
}

static void print_owner(const char *directory)
{
  struct stat status;
  if (stat(directory, &status) == 0)
    printf("  owner: uid %u, gid %u, mode %04o\n", status.st_uid, status.st_gid,
           status.st_mode & 07777u);
}

/* Names what lies there and is no member's; returns how many. */
static int list_foreign(const struct busctl_scan *scan)
{
  int foreign = 0;
  for (size_t i = 0; i < scan->count; i++) {
    const struct busctl_file *file = &scan->files[i];
    char name[256];
    if (file->neighbour || file->error == BUS_ERROR_NOT_READY)
      continue;
    if (foreign++ == 0)
      fprintf(stderr, "signal-busctl create: warning: not members' files, move them away:\n");
    busctl_sanitise(name, sizeof name, file->name, sizeof file->name);
    fprintf(stderr, "  %s: %s\n", name, file->reason);
  }
  return foreign;
}

/* The directory may be there already, with things in it that are not ours: then its mode and group
 * are somebody else's business. */
static int create(const char *directory, mode_t mode, const char *group)
{
  struct busctl_scan scan;
  struct stat status;
  bool made = false;
  int foreign = 0;
  if (stat(directory, &status) == 0 && S_ISDIR(status.st_mode)) {
    if (busctl_scan_open(&scan, directory) != BUS_OK)
      return busctl_fail("create");
    foreign = list_foreign(&scan);
    busctl_scan_close(&scan);
  }
  if (!foreign && busctl_make_directory(directory, mode, group, &made) != BUS_OK)
    return busctl_fail("create");
  if (foreign)
    printf("bus %s: already there, with foreign files: left as it is\n", directory);
  else
    printf("bus %s: %s\n", directory, made ? "created" : "already there");
  print_owner(directory);
  print_backing(directory);
  print_space(directory);
  if (!foreign)
    printf("  next: signal-busctl up CONF --bus %s\n", directory);
  return foreign ? BUSCTL_PARTLY : BUSCTL_OK;
}

static int parse_mode(const char *text, mode_t *mode)
{
  char *rest;
  unsigned long value = strtoul(text, &rest, 8);
  *mode = (mode_t)value;
  /* The owner must get in, or the next step fails. */
  if (*text >= '0' && *text <= '7' && !*rest && value <= 02777 && (value & 0700) == 0700)
    return BUS_OK;
  return bus_error_set(BUS_ERROR_INVALID,
                       "--mode %s: give octal digits, 0700..2777, with all bits of the owner",
                       text);
}

int busctl_create(int argc, char **argv)
{
  enum { MODE = BUSCTL_OPTION_OWN, GROUP };
  static const struct option options[] = {{"mode", required_argument, NULL, MODE},
                                          {"group", required_argument, NULL, GROUP},
                                          BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {
      .argc = argc, .argv = argv, .verb = "create", .help = help, .options = options};
  const char *group = NULL;
  mode_t mode = 0;
  for (int option; (option = busctl_line_next(&line)) != 0;) {
    if (option == GROUP)
      group = optarg;
    else if (parse_mode(optarg, &mode) != BUS_OK)
      busctl_line_refuse(&line);
  }
  if (line.ended)
    return line.status;
  return create(line.directory ? line.directory : bus_directory_default(), mode, group);
}
