#include "tests/capture_fixture.h"

static struct bus_disk *machine;
static struct bus_disk disk;
static struct bus_writer writer;
static uint64_t counted[8];
static struct bus_histogram write_ns;
static uint64_t now_ns = 1;

/* What goes wrong: the call of that number, and how. */
static struct fault {
  int submit_at;   /* counts writes, 1..; 0: never */
  int submit_more; /* so many more after it */
  int64_t result;  /* -errno, or the bytes that are written in place of all */
  int allocate_at;
  int allocate_more;
  int open_at;
  int open_more;
  int error; /* of allocate and open */
} fault;
static int submits, allocates, opens;
static struct {
  uint64_t tag;
  int64_t result;
} forced[64];
static uint32_t forced_count;

static bool strikes(int call, int at, int more)
{
  return at > 0 && call >= at && call <= at + more;
}

static int faulty_open(struct bus_disk *self, const char *path, int flags)
{
  if (strikes(++opens, fault.open_at, fault.open_more))
    return -fault.error;
  int fd = machine->open(machine, path, flags);
  self->buffered = machine->buffered;
  return fd;
}

static int faulty_resize(struct bus_disk *self, int fd, uint64_t bytes)
{
  (void)self;
  return machine->resize(machine, fd, bytes);
}

static int faulty_allocate(struct bus_disk *self, int fd, uint64_t offset, uint64_t bytes)
{
  (void)self;
  if (strikes(++allocates, fault.allocate_at, fault.allocate_more))
    return -fault.error;
  return machine->allocate(machine, fd, offset, bytes);
}

static int faulty_submit(struct bus_disk *self, int fd, const void *buffer, uint32_t bytes,
                         uint64_t offset, uint64_t tag)
{
  (void)self;
  if (!strikes(++submits, fault.submit_at, fault.submit_more))
    return machine->submit(machine, fd, buffer, bytes, offset, tag);
  int64_t part = fault.result < (int64_t)bytes ? fault.result : (int64_t)bytes;
  if (part > 0)
    cr_assert_eq(pwrite(fd, buffer, (size_t)part & ~(size_t)4095, (off_t)offset),
                 (ssize_t)((size_t)part & ~(size_t)4095));
  forced[forced_count].tag = tag;
  forced[forced_count++].result = part;
  return 0;
}

static uint32_t faulty_reap(struct bus_disk *self, struct bus_disk_completion *completions,
                            uint32_t most, uint64_t wait_ns)
{
  (void)self;
  if (forced_count == 0)
    return machine->reap(machine, completions, most, wait_ns);
  forced_count--;
  completions[0] =
      (struct bus_disk_completion){forced[forced_count].tag, forced[forced_count].result};
  return 1;
}

static void start(bool queue, uint64_t segment_bytes, uint64_t flush_ns)
{
  cr_assert_eq(bus_disk_new(queue, &machine), BUS_OK);
  disk = (struct bus_disk){.open = faulty_open,
                           .resize = faulty_resize,
                           .allocate = faulty_allocate,
                           .submit = faulty_submit,
                           .reap = faulty_reap};
  const struct bus_writer_config config = {.directory = fixture_output,
                                           .staging = &fixture_staging,
                                           .disk = &disk,
                                           .segment_bytes = segment_bytes,
                                           .flush_ns = flush_ns};
  const struct bus_writer_counters counters = {&counted[0], &counted[1], &counted[2],
                                               &counted[3], &counted[4], &counted[5],
                                               &counted[6], &counted[7], &write_ns};
  cr_assert_eq(bus_writer_init(&writer, &config, &counters), BUS_OK);
}

static void set_up(void)
{
  fixture_output_create("/tmp");
  fixture_staging_create(FIXTURE_BLOCK_BYTES, FIXTURE_BLOCKS);
  fault = (struct fault){0};
}

static void tear_down(void)
{
  bus_writer_close(&writer);
  if (machine)
    machine->close(machine);
  fixture_output_remove();
  free(fixture_memory);
}

TestSuite(capture_writer, .init = set_up, .fini = tear_down);

/* Steps until nothing is left to write; the number of refusals on the way. */
static int step_until_idle(int limit)
{
  int refusals = 0;
  for (int i = 0; i < limit && (!bus_writer_is_idle(&writer) || writer.failure); i++) {
    int done = bus_writer_step(&writer, now_ns, 1000000);
    if (done < 0) {
      refusals++;
      now_ns += 2000000000u; /* the next attempt */
    }
  }
  return refusals;
}

/* Puts `count` records from `position` on through the writer, as the poller would. */
static int put(struct bus_staging_filler *filler, uint64_t position, uint64_t count)
{
  int refusals = 0;
  for (uint64_t end = position + count; position < end;)
    if (fixture_put(filler, position))
      position++;
    else if (bus_writer_step(&writer, now_ns, 1000000) < 0) {
      refusals++;
      now_ns += 2000000000u;
    }
  return refusals;
}

static void end_and_expect(struct bus_staging_filler *filler, uint64_t records, uint64_t lost)
{
  struct fixture_capture capture;
  bus_staging_filler_finish(filler);
  step_until_idle(100000);
  cr_assert(bus_writer_is_idle(&writer));
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.records, records, "%llu", (unsigned long long)capture.records);
  cr_assert_eq(capture.lost, lost, "%llu", (unsigned long long)capture.lost);
  cr_assert_eq(counted[0], records);
  cr_assert_eq(counted[4], lost);
}

Test(capture_writer, what_is_staged_is_in_the_files)
{
  struct bus_staging_filler filler;
  start(true, 1u << 20, 0);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  put(&filler, 0, 10000);
  end_and_expect(&filler, 10000, 0);
}

Test(capture_writer, without_a_queue_it_is_the_same)
{
  struct bus_staging_filler filler;
  start(false, 40000, 0);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  put(&filler, 0, 10000);
  end_and_expect(&filler, 10000, 0);
  cr_assert_gt(counted[3], 15, "segments of nine blocks");
}

Test(capture_writer, missing_positions_are_counted_where_they_are)
{
  struct bus_staging_filler filler;
  struct fixture_capture capture;
  start(true, 40000, 0);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 7));
  put(&filler, 10, 30);    /* 7, 8, 9 are missing before the first */
  put(&filler, 50, 100);   /* 10 within a block */
  put(&filler, 1000, 500); /* 850 between two or within one */
  end_and_expect(&filler, 630, 3 + 10 + 850);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.next, 1500);
}

Test(capture_writer, each_single_failed_write_loses_nothing)
{
  static const int64_t results[] = {-EIO, -ENOSPC, -EINTR, 0, 1, 4095};
  struct bus_staging_filler filler;
  start(true, 40000, 0);
  uint32_t stream = fixture_stream("a", 1, 0);
  bus_staging_filler_init(&filler, &fixture_staging, stream);
  uint64_t position = 0;
  for (size_t i = 0; i < BUS_COUNT_OF(results); i++)
    for (int at = 1; at < 40; at++) {
      submits = 0;
      fault = (struct fault){.submit_at = 1 + at % 4, .result = results[i]};
      put(&filler, position, 200);
      position += 200;
    }
  fault = (struct fault){0};
  end_and_expect(&filler, position, 0);
  cr_assert_gt(counted[6], 50, "the faults did strike: %llu", (unsigned long long)counted[6]);
}

Test(capture_writer, short_writes_of_large_blocks_are_completed)
{
  struct bus_staging_filler filler;
  fixture_staging_create(65536, 8);
  start(true, 1u << 20, 0);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  fault = (struct fault){.submit_at = 3, .submit_more = 6, .result = 10000};
  put(&filler, 0, 1023 * 4);
  step_until_idle(1000);
  cr_assert_eq(counted[0], 1023 * 4);
  cr_assert_eq(counted[3], 0, "no segment had to be given up");
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  char path[512];
  snprintf(path, sizeof path, "%s/a.ring.000000.npy", fixture_output);
  int fd = open(path, O_RDONLY);
  static _Alignas(64) unsigned char block[65536];
  const struct bus_capture_shape shape = {BUS_RECORD_RAW, 64, 65536, 0, 5};
  for (uint32_t i = 0; i < 5; i++) {
    cr_assert_eq(pread(fd, block, sizeof block, 4096 + (off_t)i * 65536), (ssize_t)sizeof block);
    cr_assert_eq(bus_capture_block_check(block, &shape, bus_capture_stream_id("a.ring"), i), BUS_OK,
                 "%s", bus_error_message());
  }
  close(fd);
}

Test(capture_writer, a_full_disk_is_reported_and_tried_again)
{
  struct bus_staging_filler filler;
  struct fixture_capture capture;
  start(true, 40000, 1);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  put(&filler, 0, 1000);
  step_until_idle(1000);
  uint64_t before = counted[0];
  allocates = 0;
  fault = (struct fault){.allocate_at = 1, .allocate_more = 1000000, .error = ENOSPC};
  for (uint64_t position = 1000; position < 2000 && fixture_put(&filler, position); position++)
    continue;
  int done = 0;
  for (int i = 0; i < 1000 && done >= 0; i++)
    done = bus_writer_step(&writer, now_ns, 1000);
  now_ns += 10;
  cr_assert_eq(done, BUS_ERROR_NO_SPACE);
  cr_assert_not_null(strstr(bus_error_message(), "No space"));
  cr_assert_geq(bus_writer_step(&writer, now_ns, 1000), 0, "not tried again at once");
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.records, counted[0], "what is there is closed and whole");
  cr_assert_geq(counted[0], before);
  fault = (struct fault){0};
  now_ns += 2000000000u;
  step_until_idle(1000);
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.next, capture.records, "no position is missing");
  cr_assert_gt(capture.records, before);
}

Test(capture_writer, a_disk_that_fails_for_good_is_given_up)
{
  struct bus_staging_filler filler;
  start(true, 40000, 0);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  fault = (struct fault){.open_at = 1, .open_more = 1000, .error = EIO};
  for (uint64_t position = 0; position < 100; position++)
    fixture_put(&filler, position);
  int done = 0;
  for (int i = 0; i < 100 && done >= 0; i++)
    done = bus_writer_step(&writer, now_ns, 1000);
  cr_assert_eq(done, BUS_ERROR_IO);
  cr_assert_eq(opens, BUS_WRITER_ATTEMPTS);
}

Test(capture_writer, a_flushed_block_is_written_again_in_its_place)
{
  struct bus_staging_filler filler;
  struct fixture_capture capture;
  start(true, 40000, 1);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  for (uint64_t position = 0; position < 500; position++) {
    cr_assert(fixture_put(&filler, position));
    if (position % 3 == 0)
      bus_writer_step(&writer, now_ns += 10, 0);
    while (position % 63 == 62 && !bus_writer_is_idle(&writer))
      bus_writer_step(&writer, now_ns += 10, 1000);
  }
  cr_assert_gt(counted[5], 100, "flushes");
  end_and_expect(&filler, 500, 0);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.blocks - capture.metas, 8, "as many blocks as without flushes");
}

/* The process is gone at any step: its successor has the shared memory, and the files. */
Test(capture_writer, a_successor_goes_on_at_any_point)
{
  struct bus_staging_filler filler;
  struct fixture_capture capture;
  uint32_t stream = fixture_stream("a", 1, 0);
  uint64_t position = 0, random = 99;
  start(true, 40000, 1);
  bus_staging_filler_init(&filler, &fixture_staging, stream);
  for (int life = 0; life < 300; life++) {
    random = random * 6364136223846793005u + 1442695040888963407u;
    int steps = (int)(random >> 60);
    for (int i = 0; i < (int)(random >> 40 & 255); i++)
      position += fixture_put(&filler, position);
    for (int i = 0; i < steps; i++)
      bus_writer_step(&writer, now_ns += 10, 0);
    /* Dies: descriptors are closed, what the kernel has it may still write. */
    for (uint32_t i = 0; i < BUS_STAGING_STREAMS_MAX; i++)
      if (writer.streams[i].fd >= 0)
        close(writer.streams[i].fd);
    machine->close(machine);
    bus_writer_close(&writer);
    bus_staging_recover(&fixture_staging);
    cr_assert_eq(bus_staging_stream_next(&fixture_staging, stream), position);
    start(life % 2, 40000, 1);
    bus_staging_filler_init(&filler, &fixture_staging, stream);
  }
  bus_staging_filler_finish(&filler);
  step_until_idle(10000);
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.records, position);
  cr_assert_eq(capture.next, position);
  cr_assert_eq(capture.lost, 0);
}

Test(capture_writer, a_replaced_member_goes_on_in_new_segments)
{
  struct bus_staging_filler first, second;
  start(true, 1u << 20, 0);
  uint32_t old = fixture_stream("a", 1, 0);
  bus_staging_filler_init(&first, &fixture_staging, old);
  put(&first, 0, 100);
  bus_staging_filler_finish(&first);
  fixture_staging.streams[old].ended = 1;
  uint32_t new = fixture_stream("a", 2, 0);
  bus_staging_filler_init(&second, &fixture_staging, new);
  for (uint64_t position = 0; position < 100; position++)
    cr_assert(fixture_put(&second, position));
  bus_staging_filler_finish(&second);
  step_until_idle(1000);
  cr_assert_eq(fixture_staging.streams[old].used, 0, "its place is free");
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  char path[512];
  for (int i = 0; i < 2; i++) {
    snprintf(path, sizeof path, "%s/a.ring.%06d.npy", fixture_output, i);
    struct stat status;
    cr_assert_eq(stat(path, &status), 0);
    cr_assert_eq(status.st_size, 4096 + 3 * 4096);
  }
}

/* A description that changes behind the only block; `failing` writes from then on fail. */
static void learn_late(int failing, uint32_t metas)
{
  static const char before[] = "{\"symbols\": []}", after[] = "{\"symbols\": [1]}";
  struct bus_staging_filler filler;
  struct fixture_capture capture;
  start(true, 1u << 20, 0);
  uint32_t stream = fixture_stream("a", 1, 0);
  bus_staging_filler_init(&filler, &fixture_staging, stream);
  bus_writer_set_meta(&writer, stream, before, strlen(before));
  put(&filler, 0, 63);
  step_until_idle(100);
  cr_assert_eq(counted[0], 63);
  bus_writer_set_meta(&writer, stream, after, strlen(after));
  submits = 0;
  fault = (struct fault){.submit_at = failing, .result = -EIO};
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  fixture_read("a.ring", &capture);
  cr_assert_eq(capture.records, 63);
  cr_assert_eq(capture.metas, metas, "%u", capture.metas);
}

Test(capture_writer, what_was_learnt_after_the_last_block_is_written_at_the_end)
{
  learn_late(0, 2);
}

Test(capture_writer, a_description_that_the_disk_refuses_at_the_end_harms_nothing)
{
  learn_late(1, 1);
}

Test(capture_writer, a_last_header_that_the_disk_refuses_once_is_written_again)
{
  learn_late(2, 2);
}

Test(capture_writer, existing_segments_are_left_alone)
{
  struct bus_staging_filler filler;
  char path[512];
  struct stat status;
  snprintf(path, sizeof path, "%s/a.ring.000041.npy.zst", fixture_output);
  close(open(path, O_CREAT | O_WRONLY, 0600));
  start(true, 1u << 20, 0);
  bus_staging_filler_init(&filler, &fixture_staging, fixture_stream("a", 1, 0));
  put(&filler, 0, 63);
  step_until_idle(100);
  cr_assert_eq(bus_writer_finish(&writer), BUS_OK);
  snprintf(path, sizeof path, "%s/a.ring.000042.npy", fixture_output);
  cr_assert_eq(stat(path, &status), 0);
}
