#include "tools/busctl_describe.h"
#include "tools/ops/cpu_list.h"
#include "tools/ops/hugepages.h"

#include "shm/options.h"

#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <pwd.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGES_DEFAULT 32
#define TRIES_DEFAULT 5

static const char help[] =
    "Usage: signal-busctl hugepages show [--json]\n"
    "       signal-busctl hugepages reserve [--pages N] [--node LIST] [--tries N] [--allow-short]\n"
    "       signal-busctl hugepages release [--node LIST]\n"
    "       signal-busctl hugepages mount [--bus DIR] [--size BYTES] [--min-size BYTES]\n"
    "                                     [--owner USER] [--group GROUP] [--mode MODE]\n"
    "       signal-busctl hugepages umount [--bus DIR]\n"
    "\n"
    "Huge pages of 2 MiB for the bus: reserve them on a NUMA node, give back what was taken, put\n"
    "the bus directory on them.\n"
    "\n"
    "  --pages N        that many on each node named; default 32 (64 MiB); never fewer than there\n"
    "                   are already\n"
    "  --node LIST      nodes, as 0 or 0-1; default: the only one; release: all that were taken\n"
    "  --tries N        writes, with compaction between them; default 5\n"
    "  --allow-short    keep what came, and exit with 3; else a short reservation is undone\n"
    "  --size BYTES     the most that members can take, with K, M or G; default 64M\n"
    "  --min-size BYTES reserved at the mount; default 32M, at most --size\n"
    "  --owner USER     name or number of who may make files there; default: who runs this\n"
    "  --group GROUP    name or number of who may read them; default: who runs this\n"
    "  --mode MODE      octal, default 0750; 0770 where members run as several users of the group\n"
    "  --bus DIR        the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --json           one JSON object\n"
    "  --help           this text\n"
    "\n"
    "Exit status: 0 done, 1 failed, 2 usage, 3 done, but not whole: it says what is left.\n";

enum {
  OPTION_PAGES = BUSCTL_OPTION_OWN,
  OPTION_NODE,
  OPTION_TRIES,
  OPTION_ALLOW_SHORT,
  OPTION_SIZE,
  OPTION_MIN_SIZE,
  OPTION_OWNER,
  OPTION_GROUP,
  OPTION_MODE,
  OPTION_JSON
};

struct hugepages_options {
  const char *directory;
  int64_t pages, tries;
  struct ops_cpu_list nodes; /* the same notation as CPUs have */
  bool allow_short, json, min_size_given;
  struct ops_hugepages_mount mount;
};

static int fail(void)
{
  return busctl_fail("hugepages");
}

/* ---- show ---- */

static json_t *describe(const struct ops_system *system, const struct ops_hugepages *pages)
{
  struct ops_hugepages_state state;
  json_t *object = json_object(), *nodes = json_array();
  bool known = ops_hugepages_state_read(system, &state) == BUS_OK;
  busctl_json_number(object, "page_bytes", BUS_HUGE_PAGE_BYTES);
  if (pages->promised >= 0)
    busctl_json_signed(object, "promised", pages->promised);
  else
    busctl_json_set(object, "promised", json_null());
  for (int i = 0; i < pages->count; i++) {
    const struct ops_hugepages_node *node = &pages->nodes[i];
    const struct ops_hugepages_taken *taken = ops_hugepages_state_find(&state, node->node);
    json_t *entry = json_object();
    busctl_json_signed(entry, "node", node->node);
    busctl_json_signed(entry, "total", node->total);
    busctl_json_signed(entry, "free", node->free);
    busctl_json_signed(entry, "surplus", node->surplus);
    if (known)
      busctl_json_signed(entry, "reserved_here", taken ? taken->set - taken->found : 0);
    else
      busctl_json_set(entry, "reserved_here", json_null());
    busctl_json_append(nodes, entry);
  }
  busctl_json_set(object, "nodes", nodes);
  return object;
}

static int show(struct ops_system *system, struct hugepages_options *options)
{
  struct ops_hugepages pages;
  size_t index;
  json_t *node;
  if (ops_hugepages_read(system, &pages) != BUS_OK)
    return fail();
  json_t *object = describe(system, &pages);
  int status = BUSCTL_OK;
  if (options->json) {
    status = busctl_json_print(object);
  } else {
    puts("node      total       free    surplus  reserved with this program");
    json_array_foreach(json_object_get(object, "nodes"), index, node)
    {
      printf("%4" PRId64 " %10" PRId64 " %10" PRId64 " %10" PRId64 "  ",
             busctl_json_integer(node, "node"), busctl_json_integer(node, "total"),
             busctl_json_integer(node, "free"), busctl_json_integer(node, "surplus"));
      if (json_is_null(json_object_get(node, "reserved_here")))
        puts("not known to this user");
      else
        printf("%" PRId64 "\n", busctl_json_integer(node, "reserved_here"));
    }
    if (pages.promised > 0)
      printf("of the free ones, %" PRId64 " are promised to mounts and maps\n", pages.promised);
  }
  json_decref(object);
  return status;
}

/* ---- reserve and release ---- */

/* Returns an enum busctl_exit; BUSCTL_FAILED with a message, and everything of this node undone. */
static int reserve_node(struct ops_system *system, struct ops_hugepages_state *state,
                        const struct hugepages_options *options,
                        const struct ops_hugepages_node *node)
{
  int64_t now = ops_hugepages_persistent(node), reached;
  int error = ops_hugepages_reserve(system, state, node, options->pages, (int)options->tries,
                                    options->allow_short, &reached);
  if (error)
    return BUSCTL_FAILED;
  if (reached == now)
    printf("node %d: has %" PRId64 " huge pages already, %" PRId64 " free\n", node->node, now,
           node->free);
  else
    printf("node %d: %" PRId64 " huge pages, were %" PRId64 "\n", node->node, reached, now);
  if (reached >= options->pages)
    return BUSCTL_OK;
  fprintf(stderr, "signal-busctl hugepages: %s\n", bus_error_message());
  return BUSCTL_PARTLY;
}

/* The nodes named; or the only one. An enum busctl_exit. */
static int choose_nodes(const struct ops_hugepages *pages, struct hugepages_options *options)
{
  char list[OPS_CPU_LIST_BYTES];
  struct ops_cpu_list have = {0};
  for (int i = 0; i < pages->count; i++)
    ops_cpu_list_add(&have, pages->nodes[i].node);
  ops_cpu_list_format(&have, list, sizeof list);
  struct ops_cpu_list absent = ops_cpu_list_minus(&options->nodes, &have);
  if (ops_cpu_list_count(&absent) > 0)
    return busctl_usage_error("hugepages", "--node: there is no node %d with huge pages, only %s",
                              ops_cpu_list_next(&absent, 0), list);
  if (ops_cpu_list_count(&options->nodes) > 0)
    return BUSCTL_OK;
  if (pages->count > 1)
    return busctl_usage_error("hugepages",
                              "this machine has the nodes %s: name with --node those of the "
                              "members' cores",
                              list);
  options->nodes = have;
  return BUSCTL_OK;
}

static int reserve_all(struct ops_system *system, struct ops_hugepages_state *state,
                       const struct hugepages_options *options, const struct ops_hugepages *pages)
{
  const struct ops_hugepages_state at_first = *state;
  int status = BUSCTL_OK;
  for (int i = 0; i < pages->count && status != BUSCTL_FAILED; i++) {
    if (!ops_cpu_list_has(&options->nodes, pages->nodes[i].node))
      continue;
    int done = reserve_node(system, state, options, &pages->nodes[i]);
    status = done != BUSCTL_OK ? done : status;
    /* All or nothing: the nodes before this one go back to what they had. */
    for (int j = 0; done == BUSCTL_FAILED && j < i; j++)
      if (ops_cpu_list_has(&options->nodes, pages->nodes[j].node))
        ops_hugepages_undo(system, state, &pages->nodes[j], &at_first);
  }
  return status == BUSCTL_FAILED ? fail() : status;
}

static int reserve(struct ops_system *system, struct hugepages_options *options)
{
  struct ops_hugepages pages;
  struct ops_hugepages_state state;
  if (ops_hugepages_read(system, &pages) != BUS_OK)
    return fail();
  int status = choose_nodes(&pages, options);
  if (status != BUSCTL_OK)
    return status;
  if (ops_hugepages_state_open(system, &state) != BUS_OK)
    return fail();
  status = ops_hugepages_read(system, &pages) == BUS_OK /* again: now nobody else changes them */
               ? reserve_all(system, &state, options, &pages)
               : fail();
  ops_hugepages_state_close(&state);
  return status;
}

static int release_node(struct ops_system *system, struct ops_hugepages_state *state,
                        struct ops_hugepages_taken taken)
{
  int64_t before, after, in_use;
  if (ops_hugepages_release(system, state, taken.node, &before, &after, &in_use) != BUS_OK)
    return fail();
  if (after != taken.found) {
    printf("node %d: left alone at %" PRId64 ": drifted from the %" PRId64 " that were set\n",
           taken.node, after, taken.set);
    return BUSCTL_PARTLY;
  }
  printf("node %d: %" PRId64 " huge pages, were %" PRId64 "\n", taken.node, after, before);
  if (in_use == 0)
    return BUSCTL_OK;
  printf("node %d: %" PRId64 " more are in use; the kernel takes them when they are freed\n",
         taken.node, in_use);
  return BUSCTL_PARTLY;
}

static int release(struct ops_system *system, struct hugepages_options *options)
{
  struct ops_hugepages_state state;
  bool all = ops_cpu_list_count(&options->nodes) == 0;
  int status = BUSCTL_OK, released = 0;
  if (ops_hugepages_state_open(system, &state) != BUS_OK)
    return fail();
  const struct ops_hugepages_state at_first = state;
  for (int i = 0; i < at_first.count && status != BUSCTL_FAILED; i++) {
    if (!all && !ops_cpu_list_has(&options->nodes, at_first.taken[i].node))
      continue;
    int done = release_node(system, &state, at_first.taken[i]);
    status = done != BUSCTL_OK ? done : status;
    released++;
  }
  ops_hugepages_state_close(&state);
  if (!released)
    puts("nothing to release: no huge pages were reserved with this program since boot");
  return status;
}

/* ---- mount and umount ---- */

/* Files in the way would be hidden by the mount. */
static int check_empty(const char *directory)
{
  struct ops_names names;
  char name[256];
  if (ops_directory_list(directory, &names) != BUS_OK)
    return BUS_ERROR_IO;
  int error = BUS_OK;
  if (names.count) {
    busctl_sanitise(name, sizeof name, names.names[0], strlen(names.names[0]));
    error = bus_error_set(BUS_ERROR_BUSY,
                          "%s: holds %zu files, as %s: a mount would hide them; stop the members "
                          "and run: signal-busctl destroy --bus %s",
                          directory, names.count, name, directory);
  }
  ops_names_free(&names);
  return error;
}

static int mount_bus(struct ops_system *system, struct hugepages_options *options)
{
  const struct ops_hugepages_mount *mount = &options->mount;
  bool made = false;
  if (!options->min_size_given && options->mount.min_size_bytes > mount->size_bytes)
    options->mount.min_size_bytes = mount->size_bytes;
  if (mount->min_size_bytes > mount->size_bytes)
    return busctl_usage_error("hugepages", "--min-size is more than --size");
  if (busctl_make_directory(options->directory, 0, NULL, &made) != BUS_OK)
    return fail();
  int mounted = ops_hugepages_is_mounted(options->directory);
  if (mounted < 0)
    return fail();
  if (mounted) {
    printf("%s: a hugetlbfs already; other options: umount first\n", options->directory);
    return BUSCTL_OK;
  }
  if (check_empty(options->directory) != BUS_OK ||
      ops_hugepages_mount(system, options->directory, mount) != BUS_OK) {
    int status = fail();
    if (made)
      (void)rmdir(options->directory);
    return status;
  }
  printf("%s: hugetlbfs of at most %" PRIu64 " huge pages, %" PRIu64 " of them reserved\n",
         options->directory, mount->size_bytes / BUS_HUGE_PAGE_BYTES,
         mount->min_size_bytes / BUS_HUGE_PAGE_BYTES);
  return BUSCTL_OK;
}

static int umount_bus(struct ops_system *system, struct hugepages_options *options)
{
  struct busctl_scan scan;
  (void)system;
  int mounted = ops_hugepages_is_mounted(options->directory);
  if (mounted < 0)
    return fail();
  if (!mounted) {
    printf("%s: no hugetlbfs is mounted there\n", options->directory);
    return BUSCTL_OK;
  }
  if (busctl_scan_open(&scan, options->directory) != BUS_OK)
    return fail();
  size_t living = busctl_print_living(&scan, stderr);
  busctl_scan_close(&scan);
  if (living)
    bus_error_set(BUS_ERROR_BUSY, "%s: %zu members live there; next: signal-busctl down --bus %s",
                  options->directory, living, options->directory);
  else if (umount2(options->directory, UMOUNT_NOFOLLOW) == 0) {
    printf("%s: unmounted; its files are gone\n", options->directory);
    return BUSCTL_OK;
  } else
    bus_error_set_errno("%s: cannot be unmounted (see: fuser -vm %s)", options->directory,
                        options->directory);
  return fail();
}

/* ---- the command line ---- */

static bool parse_size(const char *text, uint64_t *bytes)
{
  char *rest;
  if (*text < '0' || *text > '9')
    return false;
  errno = 0;
  unsigned long long value = strtoull(text, &rest, 10);
  int shift = *rest == 'K' ? 10 : *rest == 'M' ? 20 : *rest == 'G' ? 30 : 0;
  rest += shift != 0;
  if (errno || *rest || value > ((uint64_t)OPS_HUGEPAGES_MAX * BUS_HUGE_PAGE_BYTES) >> shift)
    return false;
  *bytes = (uint64_t)value << shift;
  return *bytes % BUS_HUGE_PAGE_BYTES == 0;
}

static bool parse_id(const char *text, bool group, uint32_t *id)
{
  const struct group *found_group = group ? getgrnam(text) : NULL;
  const struct passwd *found_user = group ? NULL : getpwnam(text);
  int64_t number;
  if (found_group || found_user) {
    *id = found_group ? found_group->gr_gid : found_user->pw_uid;
    return true;
  }
  if (bus_parse_integer(text, 0, INT32_MAX - 1, "number", &number) != BUS_OK)
    return false;
  *id = (uint32_t)number;
  return true;
}

static int take_mount_option(struct hugepages_options *options, int option, const char *value)
{
  char *rest;
  switch (option) {
  case OPTION_SIZE:
    if (!parse_size(value, &options->mount.size_bytes) || options->mount.size_bytes == 0)
      return busctl_usage_error("hugepages", "--size %s: give whole pages of 2M, as 64M", value);
    return BUSCTL_OK;
  case OPTION_MIN_SIZE:
    options->min_size_given = true;
    if (!parse_size(value, &options->mount.min_size_bytes))
      return busctl_usage_error("hugepages", "--min-size %s: give whole pages of 2M, or 0", value);
    return BUSCTL_OK;
  case OPTION_OWNER:
    if (!parse_id(value, false, &options->mount.uid))
      return busctl_usage_error("hugepages", "--owner %s: no such user; see: getent passwd", value);
    return BUSCTL_OK;
  case OPTION_GROUP:
    if (!parse_id(value, true, &options->mount.gid))
      return busctl_usage_error("hugepages", "--group %s: no such group; see: getent group", value);
    return BUSCTL_OK;
  default: {
    unsigned long mode = strtoul(value, &rest, 8);
    options->mount.mode = (mode_t)mode;
    if (*value < '0' || *value > '7' || *rest || mode > 01777 || (mode & 0700) != 0700)
      return busctl_usage_error("hugepages",
                                "--mode %s: give octal digits, 0700..1777, with all bits of the "
                                "owner; a hugetlbfs drops set-id bits",
                                value);
    return BUSCTL_OK;
  }
  }
}

static int take_option(struct hugepages_options *options, int option, const char *value)
{
  switch (option) {
  case OPTION_PAGES:
    if (bus_parse_integer(value, 1, OPS_HUGEPAGES_MAX, "--pages", &options->pages) != BUS_OK)
      return busctl_usage_error("hugepages", "%s", bus_error_message());
    return BUSCTL_OK;
  case OPTION_TRIES:
    if (bus_parse_integer(value, 1, OPS_HUGEPAGES_TRIES_MAX, "--tries", &options->tries) != BUS_OK)
      return busctl_usage_error("hugepages", "%s", bus_error_message());
    return BUSCTL_OK;
  case OPTION_NODE:
    if (ops_cpu_list_parse(&options->nodes, value, "--node") != BUS_OK ||
        ops_cpu_list_count(&options->nodes) == 0)
      return busctl_usage_error("hugepages", "--node %s: give nodes, as 0 or 0-1", value);
    return BUSCTL_OK;
  case OPTION_ALLOW_SHORT:
    options->allow_short = true;
    return BUSCTL_OK;
  case OPTION_JSON:
    options->json = true;
    return BUSCTL_OK;
  case BUSCTL_OPTION_BUS:
    options->directory = value;
    return BUSCTL_OK;
  default:
    return take_mount_option(options, option, value);
  }
}

static const struct {
  const char *name;
  int (*run)(struct ops_system *system, struct hugepages_options *options);
  int takes[8]; /* options of getopt_long, 0 ends them */
} actions[] = {
    {"show", show, {OPTION_JSON}},
    {"reserve", reserve, {OPTION_PAGES, OPTION_NODE, OPTION_TRIES, OPTION_ALLOW_SHORT}},
    {"release", release, {OPTION_NODE}},
    {"mount",
     mount_bus,
     {'b', OPTION_SIZE, OPTION_MIN_SIZE, OPTION_OWNER, OPTION_GROUP, OPTION_MODE}},
    {"umount", umount_bus, {'b'}},
};

static int run_action(const char *name, const bool given[], struct hugepages_options *options,
                      const struct option *known)
{
  struct ops_system system;
  size_t at = 0;
  while (at < BUS_COUNT_OF(actions) && strcmp(actions[at].name, name) != 0)
    at++;
  if (at == BUS_COUNT_OF(actions))
    return busctl_usage_error("hugepages", "'%.40s': say show, reserve, release, mount or umount",
                              name);
  for (size_t i = 0; known[i].name; i++) {
    bool takes = !given[i];
    for (const int *option = actions[at].takes; *option; option++)
      takes = takes || *option == known[i].val;
    if (!takes)
      return busctl_usage_error("hugepages", "%s takes no --%s", name, known[i].name);
  }
  if (ops_system_init(&system, NULL) != BUS_OK)
    return fail();
  return actions[at].run(&system, options);
}

int busctl_hugepages(int argc, char **argv)
{
  static const struct option known[] = {{"pages", required_argument, NULL, OPTION_PAGES},
                                        {"node", required_argument, NULL, OPTION_NODE},
                                        {"tries", required_argument, NULL, OPTION_TRIES},
                                        {"allow-short", no_argument, NULL, OPTION_ALLOW_SHORT},
                                        {"size", required_argument, NULL, OPTION_SIZE},
                                        {"min-size", required_argument, NULL, OPTION_MIN_SIZE},
                                        {"owner", required_argument, NULL, OPTION_OWNER},
                                        {"group", required_argument, NULL, OPTION_GROUP},
                                        {"mode", required_argument, NULL, OPTION_MODE},
                                        {"json", no_argument, NULL, OPTION_JSON},
                                        BUSCTL_COMMON_OPTIONS};
  struct hugepages_options options = {
      .directory = bus_directory_default(),
      .pages = PAGES_DEFAULT,
      .tries = TRIES_DEFAULT,
      .mount = {(uint64_t)64 << 20, (uint64_t)32 << 20, geteuid(), getegid(), 0750}};
  bool given[BUS_COUNT_OF(known)] = {false};
  int option;
  while ((option = getopt_long(argc, argv, "b:h", known, NULL)) != -1) {
    if (option == BUSCTL_OPTION_HELP) {
      fputs(help, stdout);
      return BUSCTL_OK;
    }
    if (option == '?')
      return BUSCTL_USAGE;
    for (size_t i = 0; known[i].name; i++)
      given[i] = given[i] || known[i].val == option;
    int status = take_option(&options, option, optarg);
    if (status != BUSCTL_OK)
      return status;
  }
  if (optind >= argc)
    return busctl_usage_error("hugepages", "say show, reserve, release, mount or umount");
  if (optind + 1 < argc)
    return busctl_usage_error("hugepages", "'%s' is one argument too many", argv[optind + 1]);
  return run_action(argv[optind], given, &options, known);
}
