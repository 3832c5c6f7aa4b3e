#include "bus_fixture.h"

#include "shm/error.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>

TestSuite(neighbour, .init = fixture_create, .fini = fixture_remove, .timeout = 60);

static const struct bus_object_spec objects[] = {
    {.type = BUS_OBJECT_RING,
     .name = "features",
     .record_type = BUS_RECORD_FEATURE,
     .record_size = 128,
     .policy = BUS_POLICY_OVERWRITE,
     .depth = 1024},
    {.type = BUS_OBJECT_COUNTER, .name = "messages", .unit = "messages"},
};

#define SECOND_NS 1000000000u

Test(neighbour, climbs_the_ladder)
{
  struct bus_neighbour *neighbour;
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour), BUS_ERROR_ABSENT);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "../x", true, &neighbour),
               BUS_ERROR_INVALID);
  int fd = open(fixture_path("feed"), O_RDWR | O_CREAT, 0640);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour),
               BUS_ERROR_NOT_READY);
  cr_assert_eq(ftruncate(fd, 4096), 0);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour),
               BUS_ERROR_NOT_READY);
  cr_assert_eq(ftruncate(fd, 100), 0);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour),
               BUS_ERROR_CORRUPT);
  close(fd);
  unlink(fixture_path("feed"));

  struct bus_member *member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  bus_member_run(member);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", false, &neighbour), BUS_OK, "%s",
               bus_error_message());
  cr_assert_eq(bus_neighbour_status(neighbour, SECOND_NS), BUS_NEIGHBOUR_ALIVE);
  bus_member_heartbeat(member, bus_clock_monotonic_ns() - 5ull * SECOND_NS);
  cr_assert_eq(bus_neighbour_status(neighbour, SECOND_NS), BUS_NEIGHBOUR_STALLED);
  bus_member_leave(member, BUS_STATE_HALT);
  cr_assert_eq(bus_neighbour_status(neighbour, SECOND_NS), BUS_NEIGHBOUR_DEAD);
  bus_neighbour_detach(neighbour);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", false, &neighbour),
               BUS_ERROR_DEAD_OWNER);
  cr_assert_not_null(strstr(bus_error_message(), "restart"));
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour), BUS_OK);
  cr_assert_eq(bus_member_delete(fixture_directory, "feed"), BUS_OK);
  cr_assert_eq(bus_neighbour_status(neighbour, SECOND_NS), BUS_NEIGHBOUR_GONE);
  bus_neighbour_detach(neighbour);
}

static void patch(uint64_t offset, const void *bytes, size_t size)
{
  int fd = open(fixture_path("feed"), O_RDWR);
  cr_assert_eq(pwrite(fd, bytes, size, (off_t)offset), (ssize_t)size);
  close(fd);
}

/* Reading a hole would allocate it: 64 GiB in this file, of which its owner has paid for one page.
 */
Test(neighbour, does_not_pay_for_the_holes_of_others)
{
  struct bus_neighbour *neighbour;
  struct bus_entry entry = {.name = "ring",
                            .type = BUS_OBJECT_RING,
                            .record_size = 64,
                            .policy = BUS_POLICY_WAIT,
                            .depth = 1u << 20,
                            .offset = 1024};
  entry.size = bus_layout_object_bytes(&entry);
  struct bus_member_header header = {.magic = BUS_MAGIC,
                                     .abi_version = BUS_ABI_VERSION,
                                     .header_size = BUS_HEADER_BYTES,
                                     .entry_size = BUS_ENTRY_BYTES,
                                     .entry_offset = BUS_HEADER_BYTES,
                                     .file_size = entry.offset + entry.size,
                                     .name = "feed",
                                     .kind = "test",
                                     .entry_count = 1};
  header.layout_hash = bus_layout_hash(&header, &entry);
  cr_assert_eq(bus_layout_check(&header, &entry, header.file_size), BUS_OK);
  int fd = open(fixture_path("feed"), O_RDWR | O_CREAT, 0640);
  cr_assert_eq(pwrite(fd, &header, sizeof header, 0), sizeof header);
  cr_assert_eq(pwrite(fd, &entry, sizeof entry, BUS_HEADER_BYTES), sizeof entry);
  cr_assert_eq(ftruncate(fd, (off_t)header.file_size), 0);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour),
               BUS_ERROR_NOT_READY);
  cr_assert_not_null(strstr(bus_error_message(), "allocated"));
  struct stat status;
  cr_assert_eq(fstat(fd, &status), 0);
  cr_assert_leq(status.st_blocks * 512, 4096);
  close(fd);
}

Test(neighbour, prints_both_versions)
{
  struct bus_neighbour *neighbour;
  bus_member_leave(fixture_member("feed", objects, BUS_COUNT_OF(objects), 0), BUS_STATE_HALT);
  uint32_t version = BUS_ABI_VERSION + 1;
  patch(offsetof(struct bus_member_header, abi_version), &version, sizeof version);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour),
               BUS_ERROR_VERSION);
  cr_assert_not_null(strstr(bus_error_message(), "version 4"));
}

Test(neighbour, does_not_trust_files_that_others_may_write)
{
  struct bus_neighbour *neighbour;
  bus_member_leave(fixture_member("feed", objects, BUS_COUNT_OF(objects), 0), BUS_STATE_HALT);
  cr_assert_eq(chmod(fixture_path("feed"), 0666), 0);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour), BUS_ERROR_DENIED);
  cr_assert_not_null(strstr(bus_error_message(), "mode 0666"));
  cr_assert_eq(chmod(fixture_path("feed"), 0640), 0);
  if (geteuid() != 0)
    cr_skip_test("only root can give a file away");
  cr_assert_eq(chown(fixture_path("feed"), 4242, 4242), 0);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour), BUS_ERROR_DENIED);
  cr_assert_not_null(strstr(bus_error_message(), "uid 4242"));
}

Test(neighbour, says_why_it_may_not_read)
{
  if (geteuid() != 0)
    cr_skip_test("needs root, to become nobody");
  bus_member_leave(fixture_member("feed", objects, BUS_COUNT_OF(objects), 0), BUS_STATE_HALT);
  chmod(fixture_directory, 0755);
  pid_t child = fork();
  if (child == 0) {
    struct bus_neighbour *neighbour;
    struct bus_member *member;
    struct bus_member_config config = {
        .directory = fixture_directory, .name = "other", .kind = "x", .numa_node = -1, .core = -1};
    if (setgid(65534) != 0 || setuid(65534) != 0)
      _exit(9);
    bool good =
        bus_neighbour_attach(fixture_directory, "feed", true, &neighbour) == BUS_ERROR_DENIED &&
        strstr(bus_error_message(), "mode 0640") &&
        bus_member_new(&config, &member) == BUS_ERROR_DENIED &&
        strstr(bus_error_message(), "uid 65534");
    _exit(good ? 0 : 1);
  }
  int status;
  waitpid(child, &status, 0);
  cr_assert_eq(status, 0);
}

Test(neighbour, survives_truncation)
{
  struct bus_neighbour *neighbour;
  struct bus_member *member = fixture_member("feed", objects, BUS_COUNT_OF(objects), 0);
  bus_member_leave(member, BUS_STATE_RUN);
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "feed", true, &neighbour), BUS_OK);
  const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_RING, "features");
  struct bus_observer observer;
  struct bus_feature feature;
  bus_observer_init(&observer, bus_neighbour_object(neighbour, entry), entry, true);
  cr_assert_eq(truncate(fixture_path("feed"), 4096), 0);
  cr_assert_leq(bus_observer_poll(&observer, &feature), 0);
  cr_assert_eq(bus_neighbour_status(neighbour, SECOND_NS), BUS_NEIGHBOUR_GONE);
  bus_neighbour_detach(neighbour);
}

/* Random damage anywhere in the first pages: attach may fail, reading must never. */
Test(neighbour, survives_scribbling)
{
  uint64_t random = 7;
  for (int round = 0; round < 300; round++) {
    bus_member_leave(fixture_member("feed", objects, BUS_COUNT_OF(objects), 0), BUS_STATE_RUN);
    for (int i = 0; i < 1 + round % 8; i++) {
      random = random * 6364136223846793005u + 1442695040888963407u;
      uint64_t garbage = random;
      patch((random >> 40) % (4096 + 256 + 1024 * 128 - 8), &garbage, 1 + (random >> 61));
    }
    struct bus_neighbour *neighbour;
    if (bus_neighbour_attach(fixture_directory, "feed", true, &neighbour) == BUS_OK) {
      const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_RING, NULL);
      struct bus_observer observer;
      struct bus_consumer consumer;
      struct bus_position position = {0};
      struct bus_feature feature;
      const void *memory = bus_neighbour_object(neighbour, entry);
      bus_observer_init(&observer, memory, entry, true);
      bus_consumer_init(&consumer, memory, entry, 1, &position, 0);
      for (int i = 0; i < 3000; i++) {
        bus_observer_poll(&observer, &feature);
        if (bus_consumer_poll(&consumer))
          bus_consumer_release(&consumer);
      }
      bus_neighbour_detach(neighbour);
    }
    unlink(fixture_path("feed"));
  }
}

static int count_name(const char *name, void *context)
{
  (void)name;
  ++*(int *)context;
  return 0;
}

Test(neighbour, lists_the_directory)
{
  int count = 0;
  bus_member_leave(fixture_member("a", objects, 1, 0), BUS_STATE_HALT);
  bus_member_leave(fixture_member("b", objects, 1, 0), BUS_STATE_HALT);
  cr_assert_eq(bus_directory_visit(fixture_directory, count_name, &count), BUS_OK);
  cr_assert_eq(count, 2);
  cr_assert_eq(bus_directory_visit("/dev/shm/signalbus-none", count_name, &count),
               BUS_ERROR_ABSENT);
}
