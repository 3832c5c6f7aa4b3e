#include "tools/ops/hugepages.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define NODES "sys/devices/system/node"
#define PAGES "hugepages/hugepages-2048kB"

/* A machine of files; `give` is what its node 0 can give before its memory is compacted. */
static char root[64];
static struct ops_system machine;
static int64_t give, give_compacted;
static int writes, compactions;

static void put(const char *name, const char *text)
{
  char path[256];
  snprintf(path, sizeof path, "%s/%s", root, name);
  for (char *at = path + 1; (at = strchr(at, '/')); at++) {
    *at = '\0';
    mkdir(path, 0755);
    *at = '/';
  }
  FILE *file = fopen(path, "w");
  cr_assert(file, "%s", path);
  fputs(text, file);
  fclose(file);
}

static int64_t get(const char *name)
{
  char path[256];
  int64_t value = -1;
  snprintf(path, sizeof path, "%s/%s", root, name);
  cr_assert_eq(ops_file_read_integer(path, &value), BUS_OK, "%s", bus_error_message());
  return value;
}

static void put_number(const char *name, int64_t value)
{
  char text[32];
  snprintf(text, sizeof text, "%" PRId64 "\n", value);
  put(name, text);
}

/* As the kernel: takes any number, gives what it has; below what is in use, the rest is surplus. */
static void answer(void *user, const char *path, const char *value)
{
  (void)user;
  if (strstr(path, "/compact")) {
    compactions++;
    give = give_compacted;
  }
  if (!strstr(path, "node0/") || !strstr(path, "/nr_hugepages"))
    return;
  writes++;
  int64_t asked = strtoll(value, NULL, 10);
  int64_t used = get(NODES "/node0/" PAGES "/used");
  int64_t persistent = asked < give ? asked : give;
  int64_t total = persistent > used ? persistent : used;
  put_number(NODES "/node0/" PAGES "/nr_hugepages", total);
  put_number(NODES "/node0/" PAGES "/free_hugepages", total - used);
  put_number(NODES "/node0/" PAGES "/surplus_hugepages", total - persistent);
}

static void set_up(void)
{
  strcpy(root, "/dev/shm/signalbus-hugepages-XXXXXX");
  cr_assert(mkdtemp(root));
  cr_assert_eq(ops_system_init(&machine, root), BUS_OK);
  machine.after_change = answer;
  give = give_compacted = 1000;
  writes = compactions = 0;
  for (int node = 0; node < 2; node++) {
    static const char *const files[] = {"nr_hugepages", "free_hugepages", "surplus_hugepages",
                                        "used"};
    for (size_t i = 0; i < 4; i++) {
      char name[128];
      snprintf(name, sizeof name, NODES "/node%d/" PAGES "/%s", node, files[i]);
      put(name, "0\n");
    }
  }
  put(NODES "/node0/compact", "");
  put(NODES "/possible", "0-1\n");
  put("sys/kernel/mm/" PAGES "/resv_hugepages", "3\n");
  put("proc/sys/kernel/random/boot_id", "b0\n");
  put("run/none", "");
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *place)
{
  (void)status, (void)type, (void)place;
  return remove(path);
}

static void tear_down(void)
{
  nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

TestSuite(hugepages, .init = set_up, .fini = tear_down);

Test(hugepages, reads_each_node)
{
  struct ops_hugepages pages;
  put(NODES "/node1/" PAGES "/nr_hugepages", "9\n");
  put(NODES "/node1/" PAGES "/free_hugepages", "5\n");
  put(NODES "/node1/" PAGES "/surplus_hugepages", "2\n");
  put(NODES "/node2/no_memory", "");
  cr_assert_eq(ops_hugepages_read(&machine, &pages), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(pages.count, 2);
  cr_assert_eq(pages.promised, 3);
  const struct ops_hugepages_node *node = ops_hugepages_find(&pages, 1);
  cr_assert(node && node->total == 9 && node->free == 5 && node->surplus == 2);
  cr_assert_eq(ops_hugepages_persistent(node), 7);
  cr_assert_null(ops_hugepages_find(&pages, 2));
}

Test(hugepages, refuses_what_is_no_count)
{
  struct ops_hugepages pages;
  static const char *const texts[] = {"", "x", "-1", "9223372036854775807", "1 2"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    put(NODES "/node0/" PAGES "/nr_hugepages", texts[i]);
    cr_assert_lt(ops_hugepages_read(&machine, &pages), 0, "took '%s'", texts[i]);
    cr_assert(strstr(bus_error_message(), "node0/" PAGES), "%s", bus_error_message());
  }
}

Test(hugepages, a_kernel_without_them_is_named)
{
  struct ops_hugepages pages;
  struct ops_system none;
  put("none/sys/devices/system/node/node0/meminfo", "");
  char path[128];
  snprintf(path, sizeof path, "%s/none", root);
  cr_assert_eq(ops_system_init(&none, path), BUS_OK);
  cr_assert_eq(ops_hugepages_read(&none, &pages), BUS_ERROR_UNSUPPORTED);
}

Test(hugepages, resizes_in_one_write_where_there_is_memory)
{
  int64_t reached;
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 32, 5, &reached), BUS_OK);
  cr_assert(reached == 32 && writes == 1 && compactions == 0);
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 0, 5, &reached), BUS_OK);
  cr_assert(reached == 0 && get(NODES "/node0/" PAGES "/nr_hugepages") == 0);
}

Test(hugepages, compacts_and_tries_again_when_short)
{
  int64_t reached;
  give = 20;
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 32, 5, &reached), BUS_OK, "%s",
               bus_error_message());
  cr_assert(reached == 32 && writes == 2 && compactions == 1);
}

Test(hugepages, says_how_short_it_stayed)
{
  int64_t reached;
  give = give_compacted = 20;
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 32, 3, &reached), BUS_ERROR_NO_SPACE);
  cr_assert(reached == 20 && writes == 3 && compactions == 2);
  cr_assert(strstr(bus_error_message(), "node 0: 20 of 32 huge pages after 3 tries"), "%s",
            bus_error_message());
}

Test(hugepages, compacts_the_whole_machine_where_a_node_cannot)
{
  char path[128];
  int64_t reached;
  snprintf(path, sizeof path, "%s/" NODES "/node0/compact", root);
  unlink(path);
  put("proc/sys/vm/compact_memory", "");
  give = 20;
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 32, 2, &reached), BUS_OK);
  cr_assert_eq(compactions, 1);
}

Test(hugepages, lowered_below_what_is_in_use_the_rest_is_surplus)
{
  int64_t reached;
  struct ops_hugepages pages;
  put_number(NODES "/node0/" PAGES "/used", 6);
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 8, 1, &reached), BUS_OK);
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 2, 1, &reached), BUS_OK);
  cr_assert_eq(reached, 2);
  cr_assert_eq(ops_hugepages_read(&machine, &pages), BUS_OK);
  cr_assert_eq(pages.nodes[0].surplus, 4);
}

static int deny(void *user, const char *path, const char *value)
{
  (void)user, (void)path, (void)value;
  return EACCES;
}

Test(hugepages, a_refusal_leaves_the_number_found)
{
  int64_t reached;
  put_number(NODES "/node0/" PAGES "/nr_hugepages", 4);
  machine.before_change = deny;
  cr_assert_eq(ops_hugepages_resize(&machine, 0, 32, 5, &reached), BUS_ERROR_DENIED);
  cr_assert_eq(reached, 4);
}

Test(hugepages, the_state_survives_its_process)
{
  struct ops_hugepages_state state, other;
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(ops_hugepages_state_put(&machine, &state, 0, 1, 32), BUS_OK);
  cr_assert_eq(ops_hugepages_state_put(&machine, &state, 1, 0, 123456), BUS_OK);
  cr_assert_eq(ops_hugepages_state_open(&machine, &other), BUS_ERROR_BUSY);
  ops_hugepages_state_close(&state);
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK);
  const struct ops_hugepages_taken *taken = ops_hugepages_state_find(&state, 0);
  cr_assert(taken && taken->found == 1 && taken->set == 32);
  cr_assert_eq(ops_hugepages_state_put(&machine, &state, 1, 0, 0), BUS_OK);
  ops_hugepages_state_close(&state);
  /* The shorter text has replaced the longer one. */
  cr_assert_eq(ops_hugepages_state_read(&machine, &state), BUS_OK, "%s", bus_error_message());
  cr_assert(state.count == 1 && ops_hugepages_state_find(&state, 1) == NULL);
}

Test(hugepages, the_state_of_another_boot_is_none)
{
  struct ops_hugepages_state state;
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK);
  cr_assert_eq(ops_hugepages_state_put(&machine, &state, 0, 1, 32), BUS_OK);
  ops_hugepages_state_close(&state);
  put("proc/sys/kernel/random/boot_id", "b1\n");
  cr_assert_eq(ops_hugepages_state_read(&machine, &state), BUS_OK);
  cr_assert_eq(state.count, 0);
}

Test(hugepages, a_damaged_state_is_refused)
{
  static const char *const texts[] = {"x",
                                      "boot \n",
                                      "boot b0\nnode 0",
                                      "boot b0\nnode 0 found 1 set",
                                      "boot b0\nnode -1 found 1 set 2\n",
                                      "boot b0\nnode 0 found -1 set 2\n",
                                      "boot b0\nnode 0 found 1 set 2x\n",
                                      "boot b0\nnode 0 found 1 set 99999999\n"};
  for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
    struct ops_hugepages_state state;
    put("run/signal-bus/hugepages", texts[i]);
    cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_ERROR_FORMAT, "took '%s'",
                 texts[i]);
    cr_assert(strstr(bus_error_message(), "/run/signal-bus/hugepages"), "%s", bus_error_message());
    cr_assert(state.fd == -1 && state.count == 0);
  }
}

Test(hugepages, more_nodes_than_there_is_room_for_are_refused)
{
  char text[8192] = "boot b0\n";
  struct ops_hugepages_state state;
  for (int node = 0; node <= OPS_NODES_MAX; node++)
    sprintf(text + strlen(text), "node %d found 0 set 1\n", node);
  cr_assert_eq(ops_hugepages_state_parse(&state, text, "b0"), BUS_ERROR_NO_SPACE);
}

static struct ops_hugepages_node node0(void)
{
  struct ops_hugepages pages;
  cr_assert_eq(ops_hugepages_read(&machine, &pages), BUS_OK);
  return pages.nodes[0];
}

Test(hugepages, a_short_reservation_is_undone)
{
  struct ops_hugepages_state state;
  int64_t reached;
  give = give_compacted = 20;
  put_number(NODES "/node0/" PAGES "/nr_hugepages", 4);
  struct ops_hugepages_node node = node0();
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK);
  cr_assert_eq(ops_hugepages_reserve(&machine, &state, &node, 32, 3, false, &reached),
               BUS_ERROR_NO_SPACE);
  cr_assert(strstr(bus_error_message(), "20 of 32") && strstr(bus_error_message(), "the 4 found"),
            "%s", bus_error_message());
  cr_assert(get(NODES "/node0/" PAGES "/nr_hugepages") == 4 && state.count == 0);
  ops_hugepages_state_close(&state);
}

Test(hugepages, a_short_reservation_is_kept_where_that_is_allowed)
{
  struct ops_hugepages_state state;
  int64_t reached, before, after, in_use;
  give = give_compacted = 20;
  put_number(NODES "/node0/" PAGES "/nr_hugepages", 4);
  struct ops_hugepages_node node = node0();
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK);
  cr_assert_eq(ops_hugepages_reserve(&machine, &state, &node, 32, 3, true, &reached), BUS_OK);
  cr_assert(reached == 20 && strstr(bus_error_message(), "20 of 32"));
  cr_assert_eq(ops_hugepages_release(&machine, &state, 0, &before, &after, &in_use), BUS_OK, "%s",
               bus_error_message());
  cr_assert(before == 20 && after == 4 && in_use == 0 && state.count == 0);
  ops_hugepages_state_close(&state);
}

Test(hugepages, what_is_noted_comes_before_each_change)
{
  struct ops_hugepages_state state, seen;
  int64_t reached, before, after, in_use;
  struct ops_hugepages_node node = node0();
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK);
  machine.before_change = deny; /* as a kill would: nothing is written */
  cr_assert_lt(ops_hugepages_reserve(&machine, &state, &node, 32, 1, false, &reached), 0);
  cr_assert_eq(ops_hugepages_state_read(&machine, &seen), BUS_OK);
  const struct ops_hugepages_taken *taken = ops_hugepages_state_find(&seen, 0);
  cr_assert(taken && taken->found == 0 && taken->set == 32);
  machine.before_change = NULL;
  cr_assert_eq(ops_hugepages_release(&machine, &state, 0, &before, &after, &in_use), BUS_OK);
  cr_assert(before == 0 && after == 0 && writes == 0);
  ops_hugepages_state_close(&state);
}

Test(hugepages, pages_in_use_stay_when_they_are_released)
{
  struct ops_hugepages_state state;
  int64_t reached, before, after, in_use;
  struct ops_hugepages_node node = node0();
  cr_assert_eq(ops_hugepages_state_open(&machine, &state), BUS_OK);
  cr_assert_eq(ops_hugepages_reserve(&machine, &state, &node, 8, 1, false, &reached), BUS_OK);
  put_number(NODES "/node0/" PAGES "/used", 6);
  cr_assert_eq(ops_hugepages_release(&machine, &state, 0, &before, &after, &in_use), BUS_OK);
  cr_assert(before == 8 && after == 0 && in_use == 6);
  ops_hugepages_state_close(&state);
}
