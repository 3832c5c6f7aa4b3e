#include "bus_fixture.h"

#include "shm/error.h"
#include "shm/ring.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

TestSuite(member, .init = fixture_create, .fini = fixture_remove, .timeout = 60);

static const struct bus_object_spec objects[] = {
    {.type = BUS_OBJECT_RING,
     .name = "features",
     .peer = "infer",
     .record_type = BUS_RECORD_FEATURE,
     .record_size = 128,
     .policy = BUS_POLICY_WAIT,
     .depth = 1024},
    {.type = BUS_OBJECT_COUNTER, .name = "messages", .unit = "messages"},
    {.type = BUS_OBJECT_COUNTER, .name = "gaps", .unit = "gaps"},
    {.type = BUS_OBJECT_HISTOGRAM, .name = "decode_ns", .unit = "ns"},
    {.type = BUS_OBJECT_POSITION, .name = "signals", .peer = "other"},
    {.type = BUS_OBJECT_TEXT, .name = "source", .depth = 64},
};

static struct bus_member_config make_config(void)
{
  return (struct bus_member_config){.directory = fixture_directory,
                                    .name = "feed",
                                    .kind = "feed",
                                    .objects = objects,
                                    .object_count = BUS_COUNT_OF(objects),
                                    .numa_node = -1,
                                    .core = -1};
}

Test(member, creates_a_file_that_says_everything)
{
  struct bus_member *member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  const struct bus_member_header *header = bus_member_header(member);
  cr_assert_eq(header->magic, BUS_MAGIC);
  cr_assert_eq(header->epoch, 1);
  cr_assert_eq(header->pid, (uint32_t)getpid());
  cr_assert_eq(header->state, BUS_STATE_BOOT);
  cr_assert_neq(header->backing, 0);
  cr_assert_neq(header->process_start_ticks, 0);
  cr_assert_eq(header->process_start_ticks, bus_process_start_ticks(getpid()));
  cr_assert_eq(bus_process_start_ticks(INT32_MAX), 0);
  cr_assert_not(bus_member_is_successor(member));
  struct stat status;
  cr_assert_eq(stat(bus_member_path(member), &status), 0);
  cr_assert_eq(status.st_mode & 07777, 0640);
  cr_assert_eq((uint64_t)status.st_size, header->file_size);
  bus_member_run(member);
  cr_assert_eq(header->state, BUS_STATE_RUN);
  uint64_t *gaps = bus_member_object(member, BUS_OBJECT_COUNTER, "gaps");
  bus_counter_add(gaps, 3);
  cr_assert_eq(*gaps, 3);
  cr_assert_null(bus_member_object(member, BUS_OBJECT_COUNTER, "none"));
  cr_assert_not_null(bus_member_position(member, "other", "signals"));
  cr_assert_null(bus_member_position(member, "feed", "signals"));
  bus_member_set_text(member, "source", "%s",
                      "a text that is far longer than the sixty-four bytes it was given room for");
  cr_assert_eq(strlen(bus_member_object(member, BUS_OBJECT_TEXT, "source")), 63);
  bus_member_leave(member, BUS_STATE_HALT);
}

Test(member, each_ring_begins_where_it_is_told)
{
  struct bus_object_spec rings[] = {objects[0], objects[0]};
  rings[0].start_position = 123456789012;
  rings[1].name = "others";
  struct bus_member *member = fixture_member("feed", rings, BUS_COUNT_OF(rings), 7);
  const struct bus_ring_header *first = bus_member_object(member, BUS_OBJECT_RING, "features");
  const struct bus_ring_header *second = bus_member_object(member, BUS_OBJECT_RING, "others");
  cr_assert_eq(first->first, 123456789012 + 7);
  cr_assert_eq(second->first, 7);
  cr_assert_eq(bus_ring_head(first, bus_member_entry(member, BUS_OBJECT_RING, "features")),
               first->first);
  bus_member_leave(member, BUS_STATE_HALT);
}

Test(member, refuses_bad_parameters)
{
  struct bus_member *member;
  struct bus_member_config config = make_config();
  cr_assert_gt(bus_member_footprint(&config), 1024 * 128);
  config.name = "../feed";
  cr_assert_eq(bus_member_footprint(&config), 0);
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_INVALID);
  cr_assert_null(member);
  struct bus_object_spec bad[] = {objects[0], objects[0]};
  config = make_config();
  config.objects = bad;
  config.object_count = 2; /* the same name twice */
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_INVALID);
  config.object_count = 1;
  bad[0].depth = 1000; /* not a power of two */
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_INVALID);
  bad[0].depth = 1024;
  bad[0].record_size = 100;
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_INVALID);
}

Test(member, says_what_is_wrong_with_the_directory)
{
  struct bus_member *member;
  struct bus_member_config config = make_config();
  config.directory = "/dev/shm/signalbus-no-such-bus";
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_ABSENT);
  cr_assert_not_null(strstr(bus_error_message(), "signal-busctl create"));
  config.directory = "/dev/null";
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_INVALID, "%s", bus_error_message());
}

Test(member, leaves_foreign_files_alone)
{
  struct bus_member *member;
  struct bus_member_config config = make_config();
  FILE *file = fopen(fixture_path("feed"), "w");
  for (int i = 0; i < 1000; i++)
    fputs("somebody's notes ", file);
  fclose(file);
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_CORRUPT);
  cr_assert_not_null(strstr(bus_error_message(), "foreign"));
  cr_assert_eq(bus_member_delete(fixture_directory, "feed"), BUS_ERROR_CORRUPT);
  cr_assert_eq(access(fixture_path("feed"), F_OK), 0);
  unlink(fixture_path("feed"));
  cr_assert_eq(symlink("/etc/passwd", fixture_path("feed")), 0);
  cr_assert_lt(bus_member_new(&config, &member), 0);
  unlink(fixture_path("feed"));
  cr_assert_eq(mkfifo(fixture_path("feed"), 0600), 0);
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_CORRUPT);
}

Test(member, is_owned_by_one_process)
{
  struct bus_member *member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  pid_t child = fork();
  if (child == 0) {
    struct bus_member *second;
    struct bus_member_config config = make_config();
    int error = bus_member_new(&config, &second);
    char pid[32];
    snprintf(pid, sizeof pid, "process %d", (int)getppid());
    bool good = error == BUS_ERROR_BUSY && strstr(bus_error_message(), pid) &&
                bus_member_delete(fixture_directory, "feed") == BUS_ERROR_BUSY;
    _exit(good ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  cr_assert_eq(status, 0);
  bus_member_leave(member, BUS_STATE_HALT);
}

/* Runs a member in a child that is killed once it runs. */
static void run_and_kill(const struct bus_member_config *config)
{
  int ready[2];
  cr_assert_eq(pipe(ready), 0);
  pid_t child = fork();
  if (child == 0) {
    struct bus_member *member;
    if (bus_member_new(config, &member) != BUS_OK)
      _exit(1);
    bus_counter_add(bus_member_object(member, BUS_OBJECT_COUNTER, "messages"), 5);
    bus_member_run(member);
    if (write(ready[1], "x", 1) != 1)
      _exit(1);
    pause();
  }
  char byte;
  close(ready[1]);
  cr_assert_eq(read(ready[0], &byte, 1), 1);
  close(ready[0]);
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
}

Test(member, a_killed_member_is_taken_over)
{
  struct bus_member_config config = make_config();
  struct bus_member *member;
  config.takeover = BUS_TAKEOVER_AFTER_CRASH;
  run_and_kill(&config);
  run_and_kill(&config);
  cr_assert_eq(bus_member_new(&config, &member), BUS_OK, "%s", bus_error_message());
  cr_assert(bus_member_is_successor(member));
  cr_assert_eq(bus_member_header(member)->epoch, 3);
  uint64_t instance = bus_member_header(member)->instance;
  cr_assert_eq(*(uint64_t *)bus_member_object(member, BUS_OBJECT_COUNTER, "messages"), 10);
  bus_member_leave(member, BUS_STATE_HALT);
  /* Left in order: AFTER_CRASH starts anew, ALWAYS continues. */
  cr_assert_eq(bus_member_new(&config, &member), BUS_OK);
  cr_assert_not(bus_member_is_successor(member));
  cr_assert_eq(bus_member_header(member)->epoch, 4);
  cr_assert_neq(bus_member_header(member)->instance, instance);
  cr_assert_eq(*(uint64_t *)bus_member_object(member, BUS_OBJECT_COUNTER, "messages"), 0);
  bus_member_leave(member, BUS_STATE_HALT);
  config.takeover = BUS_TAKEOVER_ALWAYS;
  cr_assert_eq(bus_member_new(&config, &member), BUS_OK);
  cr_assert(bus_member_is_successor(member));
  bus_member_leave(member, BUS_STATE_HALT);
  /* Another identity, or another layout, is another file. */
  config.identity = 99;
  cr_assert_eq(bus_member_new(&config, &member), BUS_OK);
  cr_assert_not(bus_member_is_successor(member));
  bus_member_leave(member, BUS_STATE_HALT);
  config.object_count--;
  cr_assert_eq(bus_member_new(&config, &member), BUS_OK);
  cr_assert_not(bus_member_is_successor(member));
  cr_assert_eq(bus_member_header(member)->epoch, 7);
  bus_member_leave(member, BUS_STATE_HALT);
}

Test(member, a_half_made_file_is_made_anew)
{
  const uint64_t sizes[] = {0, 4096, 2u << 20};
  for (size_t i = 0; i < BUS_COUNT_OF(sizes); i++) {
    int fd = open(fixture_path("feed"), O_RDWR | O_CREAT, 0600);
    cr_assert_eq(ftruncate(fd, (off_t)sizes[i]), 0);
    close(fd);
    struct bus_member *member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
    cr_assert_not(bus_member_is_successor(member));
    bus_member_leave(member, BUS_STATE_HALT);
    cr_assert_eq(bus_member_delete(fixture_directory, "feed"), BUS_OK);
    cr_assert_neq(access(fixture_path("feed"), F_OK), 0);
  }
  cr_assert_eq(bus_member_delete(fixture_directory, "feed"), BUS_ERROR_ABSENT);
}

Test(member, a_damaged_file_is_not_taken_over)
{
  struct bus_member *member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  bus_member_leave(member, BUS_STATE_RUN);
  int fd = open(fixture_path("feed"), O_RDWR);
  uint64_t depth = 1 << 20;
  cr_assert_eq(pwrite(fd, &depth, 8, BUS_HEADER_BYTES + offsetof(struct bus_entry, depth)), 8);
  close(fd);
  member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  cr_assert_not(bus_member_is_successor(member));
  bus_member_leave(member, BUS_STATE_HALT);
}

Test(member, says_how_much_space_is_missing)
{
  struct bus_object_spec huge = objects[0];
  struct bus_member_config config = make_config();
  struct bus_member *member;
  huge.depth = (uint64_t)1 << 30; /* 128 GiB */
  config.objects = &huge;
  config.object_count = 1;
  cr_assert_eq(bus_member_new(&config, &member), BUS_ERROR_NO_SPACE, "%s", bus_error_message());
  cr_assert_not_null(strstr(bus_error_message(), "KiB free"));
  cr_assert_neq(access(fixture_path("feed"), F_OK), 0, "a failed creation leaves nothing behind");
}
