#include "tools/busctl.h"

#include "shm/log.h"
#include "shm/options.h"

#include <errno.h>
#include <grp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int busctl_usage_error(const char *verb, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  fprintf(stderr, "signal-busctl %s: ", verb);
  vfprintf(stderr, format, arguments);
  fprintf(stderr, " (see: signal-busctl %s --help)\n", verb);
  va_end(arguments);
  return BUSCTL_USAGE;
}

static int end_line(struct busctl_line *line, int status)
{
  line->ended = true;
  line->status = status;
  return 0;
}

int busctl_line_next(struct busctl_line *line)
{
  while (!line->ended) {
    int option = getopt_long(line->argc, line->argv, "b:h", line->options, NULL);
    if (option >= BUSCTL_OPTION_OWN)
      return option;
    switch (option) {
    case BUSCTL_OPTION_BUS:
      line->directory = optarg;
      break;
    case BUSCTL_OPTION_HELP:
      fputs(line->help, stdout);
      return end_line(line, BUSCTL_OK);
    case -1:
      line->operand = optind < line->argc ? line->argv[optind] : NULL;
      if (line->argc - optind > line->operands_max)
        end_line(line, busctl_usage_error(line->verb, "'%s' is one argument too many",
                                          line->argv[optind + line->operands_max]));
      return 0;
    default: /* getopt has said what is wrong */
      return end_line(line, BUSCTL_USAGE);
    }
  }
  return 0;
}

void busctl_line_refuse(struct busctl_line *line)
{
  end_line(line, busctl_usage_error(line->verb, "%s", bus_error_message()));
}

int busctl_fail(const char *verb)
{
  char text[1024];
  busctl_sanitise(text, sizeof text, bus_error_message(), sizeof text);
  bus_log(BUS_LOG_ERROR, "signal-busctl %s: %s", verb, text);
  return BUSCTL_FAILED;
}

/* Bytes of the well-formed, printable character at `at`, 0 when there is none. */
static size_t character_bytes(const unsigned char *at, size_t size)
{
  if (at[0] < 0x80)
    return at[0] >= 0x20 && at[0] != 0x7f;
  size_t bytes = at[0] >= 0xc2 && at[0] < 0xe0   ? 2
                 : at[0] >= 0xe0 && at[0] < 0xf0 ? 3
                 : at[0] >= 0xf0 && at[0] < 0xf5 ? 4
                                                 : 0;
  if (bytes == 0 || bytes > size)
    return 0;
  uint32_t code = at[0] & (0x7fu >> bytes);
  for (size_t i = 1; i < bytes; i++) {
    if ((at[i] & 0xc0) != 0x80)
      return 0;
    code = code << 6 | (at[i] & 0x3fu);
  }
  static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
  bool wrong = code < least[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000);
  /* C1 controls, and the marks that turn the direction of the text on a terminal. */
  bool control = (code >= 0x80 && code < 0xa0) || (code >= 0x200b && code <= 0x200f) ||
                 (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
  return wrong || control ? 0 : bytes;
}

char *busctl_sanitise(char *to, size_t size, const char *from, size_t from_size)
{
  const unsigned char *at = (const unsigned char *)from;
  size_t length = 0;
  for (size_t i = 0; i < from_size && at[i] && length + 1 < size;) {
    size_t bytes = character_bytes(at + i, from_size - i);
    if (length + bytes + 1 > size)
      break;
    if (bytes == 0)
      to[length++] = '?';
    memcpy(to + length, at + i, bytes);
    length += bytes;
    i += bytes ? bytes : 1;
  }
  to[length] = '\0';
  return to;
}

/* The directory that holds `directory`, however many slashes it ends with. */
static void find_parent(char *parent, size_t size, const char *directory)
{
  snprintf(parent, size, "%s", directory);
  size_t length = strlen(parent);
  while (length > 1 && parent[length - 1] == '/')
    parent[--length] = '\0';
  char *slash = strrchr(parent, '/');
  if (!slash)
    strcpy(parent, ".");
  else
    slash[slash == parent] = '\0';
}

/* errno `error` of `doing` it in words, with the owner and mode of what refuses: the directory, or
 * its parent when it is not there. */
static int explain_refusal(const char *directory, const char *doing, int error)
{
  char parent[256];
  struct stat status;
  find_parent(parent, sizeof parent, directory);
  if (error == ENOENT)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "%s: %s: its parent %s does not exist; make that first, or choose another "
                         "--bus",
                         directory, doing, parent);
  const char *refuses = stat(directory, &status) == 0 ? directory : parent;
  bool known = stat(refuses, &status) == 0;
  errno = error;
  if (error == ENOSPC || error == EROFS)
    return bus_error_set_errno("%s: %s (%s; choose another --bus)", directory, doing,
                               error == EROFS ? "mount it writable"
                                              : "free space on that file system");
  if (!known)
    return bus_error_set_errno("%s: %s (choose another --bus)", directory, doing);
  return bus_error_set_errno("%s: %s as uid %u; %s belongs to uid %u, gid %u, mode %04o: run it as "
                             "that user, or choose another --bus",
                             directory, doing, geteuid(), refuses, status.st_uid, status.st_gid,
                             status.st_mode & 07777u);
}

static int find_group(const char *name, gid_t *gid)
{
  int64_t number;
  const struct group *group = getgrnam(name);
  if (group) {
    *gid = group->gr_gid;
    return BUS_OK;
  }
  if (bus_parse_integer(name, 0, INT32_MAX - 1, "--group", &number) != BUS_OK)
    return bus_error_set(BUS_ERROR_INVALID, "--group %s: no such group; see: getent group", name);
  *gid = (gid_t)number;
  return BUS_OK;
}

int busctl_make_directory(const char *directory, mode_t mode, const char *group, bool *made)
{
  struct stat status;
  gid_t gid = (gid_t)-1;
  if (group && find_group(group, &gid) != BUS_OK)
    return BUS_ERROR_INVALID;
  *made = mkdir(directory, mode ? mode : 0750) == 0;
  if (!*made && errno != EEXIST)
    return explain_refusal(directory, "cannot be made", errno);
  if (stat(directory, &status) != 0)
    return explain_refusal(directory, "cannot be looked at", errno);
  if (!S_ISDIR(status.st_mode))
    return bus_error_set(
        BUS_ERROR_INVALID,
        "%s: exists and is not a directory (owner uid %u, mode %04o); move it away "
        "or choose another --bus",
        directory, status.st_uid, status.st_mode & 07777u);
  if (group && chown(directory, (uid_t)-1, gid) != 0)
    return explain_refusal(directory, "its group cannot be set", errno);
  /* Again, because the umask took bits away from mkdir's mode and chown may. */
  if ((mode || *made) && chmod(directory, mode ? mode : 0750) != 0)
    return explain_refusal(directory, "its mode cannot be set", errno);
  return BUS_OK;
}
