#include "consumers/capture_format.h"
#include "shm/llm_record.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES 4096u

static const struct bus_capture_shape shapes[] = {
    {BUS_RECORD_RAW, 64, BLOCK_BYTES, 0, 0},
    {BUS_RECORD_RAW, 192, BLOCK_BYTES, 0, 3},
    {BUS_RECORD_RAW, 1u << 20, 2u << 20, 0, 1},
    {BUS_RECORD_FEATURE, 128, BLOCK_BYTES, 0, 5},
    {BUS_RECORD_FEATURE, 256, BLOCK_BYTES, 0, 5}, /* not the size that the type has: bytes */
    {BUS_RECORD_SIGNAL, 64, 1u << 20, 0, 1234567},
    {BUS_RECORD_GAP, 64, 16u << 20, 0, (uint64_t)1 << 32},
    {BUS_RECORD_LLM_REQUEST, 192, BLOCK_BYTES, 0, 3},
    {BUS_RECORD_LLM_REQUEST, 128, BLOCK_BYTES, 0, 3}, /* no room for text: bytes */
    {BUS_RECORD_LLM_REPLY, 16384, 1u << 20, 0, 3},
    {BUS_RECORD_LLM_REPLY, 1u << 20, 2u << 20, 0, 3},
    {77, 4032, BLOCK_BYTES, 0, 2},
};

Test(capture_format, a_header_gives_back_its_shape)
{
  char header[BUS_CAPTURE_FILE_HEADER_BYTES];
  for (size_t i = 0; i < BUS_COUNT_OF(shapes); i++) {
    struct bus_capture_shape parsed;
    cr_assert_eq(bus_capture_header_build(&shapes[i], header), BUS_OK, "%s", bus_error_message());
    cr_assert_eq(bus_capture_header_parse(header, &parsed), BUS_OK, "%s", bus_error_message());
    cr_assert(!memcmp(&parsed, &shapes[i], sizeof parsed), "shape %zu", i);
    cr_assert_eq(header[sizeof header - 1], '\n');
  }
}

Test(capture_format, impossible_shapes_are_refused)
{
  static const struct bus_capture_shape bad[] = {
      {BUS_RECORD_RAW, 0, BLOCK_BYTES, 0, 1},
      {BUS_RECORD_RAW, 65, BLOCK_BYTES, 0, 1},
      {BUS_RECORD_RAW, 4096, BLOCK_BYTES, 0, 1}, /* no room for a record */
      {BUS_RECORD_RAW, 64, 4095, 0, 1},
      {BUS_RECORD_RAW, 64, 6144, 0, 1},
      {BUS_RECORD_RAW, 64, 32u << 20, 0, 1},
      {BUS_RECORD_RAW, 64, BLOCK_BYTES, 0, ((uint64_t)1 << 32) + 1},
  };
  char header[BUS_CAPTURE_FILE_HEADER_BYTES];
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++)
    cr_assert_eq(bus_capture_header_build(&bad[i], header), BUS_ERROR_INVALID, "shape %zu", i);
}

/* A flipped bit may turn a header into the header of another shape (blocks 5 and 7): then its size
 * is not the file's. */
Test(capture_format, every_flipped_header_bit_is_found)
{
  char header[BUS_CAPTURE_FILE_HEADER_BYTES];
  for (size_t i = 0; i < BUS_COUNT_OF(shapes); i++) {
    struct bus_capture_shape parsed;
    bus_capture_header_build(&shapes[i], header);
    for (size_t bit = 0; bit < sizeof header * 8; bit++) {
      header[bit / 8] ^= (char)(1 << bit % 8);
      if (bus_capture_header_parse(header, &parsed) == BUS_OK)
        cr_assert(bus_capture_file_bytes(&parsed) != bus_capture_file_bytes(&shapes[i]) ||
                      parsed.record_type != shapes[i].record_type,
                  "shape %zu, bit %zu", i, bit);
      header[bit / 8] ^= (char)(1 << bit % 8);
    }
  }
}

static void fill_data(void *block, const struct bus_capture_shape *shape, uint64_t first,
                      uint32_t count)
{
  struct bus_capture_block header = {
      .kind = BUS_CAPTURE_DATA, .count = count, .number = 3, .stream = 0xabcd};
  memset(block, 0xee, shape->block_size);
  memcpy(block, &header, sizeof header);
  for (uint32_t i = 0; i < count; i++) {
    unsigned char *record =
        (unsigned char *)block + BUS_CAPTURE_BLOCK_HEADER_BYTES + (size_t)i * shape->record_size;
    memset(record, (int)i, shape->record_size);
    uint64_t stamp = first + i + 1;
    memcpy(record + shape->record_size - sizeof stamp, &stamp, sizeof stamp);
  }
}

Test(capture_format, a_sealed_block_passes_and_says_what_it_holds)
{
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  const struct bus_capture_shape shape = {BUS_RECORD_SIGNAL, 64, BLOCK_BYTES, 0, 9};
  fill_data(block, &shape, 1000, 63);
  bus_capture_block_seal(block, &shape);
  cr_assert_eq(bus_capture_block_check(block, &shape, 0xabcd, 3), BUS_OK, "%s",
               bus_error_message());
  struct bus_capture_block header;
  memcpy(&header, block, sizeof header);
  cr_assert_eq(header.first, 1000);
  cr_assert_eq(header.last, 1062);
  cr_assert_eq(header.first_time_ns, 0, "record 0 is all zero");
  cr_assert_eq(
      header.last_time_ns,
      bus_capture_record_time(BUS_RECORD_SIGNAL, 64, bus_capture_block_record(block, 64, 62)));
  cr_assert_eq(bus_capture_block_check(block, &shape, 0xabcd, 4), BUS_ERROR_CORRUPT);
  cr_assert_eq(bus_capture_block_check(block, &shape, 0xabce, 3), BUS_ERROR_CORRUPT);
}

Test(capture_format, every_flipped_bit_of_a_block_is_found)
{
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  for (int kind = BUS_CAPTURE_DATA; kind <= BUS_CAPTURE_META; kind++) {
    const struct bus_capture_shape shape = {BUS_RECORD_FEATURE, 128, BLOCK_BYTES, 0, 9};
    fill_data(block, &shape, 77, 20);
    if (kind == BUS_CAPTURE_META) {
      struct bus_capture_block header = {
          .kind = BUS_CAPTURE_META, .count = 1111, .number = 3, .stream = 0xabcd};
      memcpy(block, &header, sizeof header);
    }
    bus_capture_block_seal(block, &shape);
    cr_assert_eq(bus_capture_block_check(block, &shape, 0xabcd, 3), BUS_OK);
    for (size_t bit = 0; bit < sizeof block * 8; bit++) {
      block[bit / 8] ^= (unsigned char)(1 << bit % 8);
      cr_assert_eq(bus_capture_block_check(block, &shape, 0xabcd, 3), BUS_ERROR_CORRUPT, "bit %zu",
                   bit);
      block[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
  }
}

Test(capture_format, an_unwritten_block_is_absent_and_a_begun_one_is_damaged)
{
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  const struct bus_capture_shape shape = {BUS_RECORD_RAW, 64, BLOCK_BYTES, 0, 9};
  cr_assert_eq(bus_capture_block_check(block, &shape, 1, 0), BUS_ERROR_ABSENT);
  block[BLOCK_BYTES - 1] = 1;
  cr_assert_eq(bus_capture_block_check(block, &shape, 1, 0), BUS_ERROR_CORRUPT);
}

/* What has a right CRC and is still nonsense was written by a faulty recorder, or by a stranger. */
Test(capture_format, contradictions_under_a_right_crc_are_found)
{
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  const struct bus_capture_shape shape = {BUS_RECORD_RAW, 64, BLOCK_BYTES, 0, 9};
  for (int fault = 0; fault < 5; fault++) {
    fill_data(block, &shape, 500, 10);
    struct bus_capture_block header;
    memcpy(&header, block, sizeof header);
    header.lost = fault == 4 ? 1 : 0;
    memcpy(block, &header, sizeof header);
    uint64_t stamp = fault == 0   ? 504 /* twice the same */
                     : fault == 1 ? 503 /* backwards */
                     : fault == 2 ? 600 /* a jump that nothing in `lost` explains */
                                  : 505;
    memcpy(block + 64 + 4 * 64 + 56, &stamp, sizeof stamp);
    if (fault == 4) { /* the same jump at the end, of two positions where one is lost */
      stamp = 512;
      memcpy(block + 64 + 9 * 64 + 56, &stamp, sizeof stamp);
    }
    bus_capture_block_seal(block, &shape);
    if (fault == 3) {
      memcpy(&header, block, sizeof header);
      header.first = 499;
      memcpy(block, &header, sizeof header);
      header.crc32c = bus_crc32c(0, block + 8, 56 + 640);
      memcpy(block, &header, sizeof header);
    }
    cr_assert_eq(bus_capture_block_check(block, &shape, 0xabcd, 3), BUS_ERROR_CORRUPT, "fault %d",
                 fault);
  }
}

Test(capture_format, positions_may_wrap_inside_a_block)
{
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  const struct bus_capture_shape shape = {BUS_RECORD_RAW, 64, BLOCK_BYTES, 0, 9};
  fill_data(block, &shape, UINT64_MAX - 3, 10);
  bus_capture_block_seal(block, &shape);
  cr_assert_eq(bus_capture_block_check(block, &shape, 0xabcd, 3), BUS_OK, "%s",
               bus_error_message());
}

Test(capture_format, a_record_has_the_time_of_its_type)
{
  struct bus_feature feature = {.timestamp_ns = 100};
  struct bus_signal signal = {.timestamp_ns = 200, .queue_ns = 30, .inference_ns = 4};
  struct bus_gap gap = {.time_ns = 300};
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_FEATURE, sizeof feature, &feature), 100);
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_SIGNAL, sizeof signal, &signal), 234);
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_GAP, sizeof gap, &gap), 300);
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_RAW, sizeof signal, &signal), 0);
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_SIGNAL, sizeof feature, &feature), 0);
}

Test(capture_format, the_canonical_form_leaves_out_what_a_replay_may_change)
{
  struct bus_signal signal, other;
  unsigned char a[56], b[56];
  memset(&signal, 0x11, sizeof signal);
  other = signal;
  other.queue_ns = other.inference_ns = 5;
  other.batch = 9;
  other.engine = BUS_ENGINE_AVX512;
  other.flags ^= BUS_SIGNAL_BATCHED;
  other.stamp = 3;
  cr_assert_eq(bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &signal, 0, a), 56);
  bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &other, 0, b);
  cr_assert(!memcmp(a, b, sizeof a));
  bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &other, BUS_CAPTURE_EXACT, b);
  cr_assert(memcmp(a, b, sizeof a) != 0);
  other.target_price++;
  bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &other, 0, b);
  cr_assert(memcmp(a, b, sizeof a) != 0);
  other = signal;
  other.timestamp_ns++;
  bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &other, 0, b);
  cr_assert(memcmp(a, b, sizeof a) != 0);
  bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &signal, BUS_CAPTURE_NO_TIME, a);
  bus_capture_canonical(BUS_RECORD_SIGNAL, 64, &other, BUS_CAPTURE_NO_TIME, b);
  cr_assert(!memcmp(a, b, sizeof a));
}

/* A message in a slot of 192 bytes, its text and what an earlier lap left behind it. */
static void make_message(unsigned char *slot, const void *header, char text, char left_over)
{
  memset(slot, left_over, 192);
  memset(slot + BUS_LLM_HEADER_BYTES, text, 7);
  memcpy(slot, header, BUS_LLM_HEADER_BYTES);
}

Test(capture_format, messages_have_times_and_text)
{
  unsigned char slot[192], other[192], a[184], b[184];
  struct bus_llm_request request = {.submitted_ns = 100, .deadline_ns = 900, .fragment_bytes = 7};
  struct bus_llm_reply reply = {
      .accepted_ns = 200, .sent_ns = 0, .first_ns = 300, .done_ns = 400, .fragment_bytes = 7};
  make_message(slot, &request, 'x', 'l');
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_LLM_REQUEST, 192, slot), 100);
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_LLM_REQUEST, 128, slot), 0);
  cr_assert_eq(bus_capture_text_bytes(BUS_RECORD_LLM_REQUEST, 192, slot), 7);
  cr_assert_eq(bus_capture_text_bytes(BUS_RECORD_RAW, 192, slot), 0);
  make_message(slot, &reply, 'x', 'l');
  cr_assert_eq(bus_capture_record_time(BUS_RECORD_LLM_REPLY, 192, slot), 400);
  make_message(other, &reply, 'x', 'm');
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, slot, 0, a);
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, other, 0, b);
  cr_assert(!memcmp(a, b, sizeof a)); /* what is left over does not count */
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, slot, BUS_CAPTURE_EXACT, a);
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, other, BUS_CAPTURE_EXACT, b);
  cr_assert(memcmp(a, b, sizeof a) != 0);
  make_message(other, &reply, 'y', 'l');
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, other, 0, b);
  cr_assert(memcmp(a, b, sizeof a) != 0); /* the text does */
  make_message(other, &reply, 'x', 'l');
  bus_capture_record_shift(BUS_RECORD_LLM_REPLY, 192, 1000, other);
  memcpy(&reply, other, sizeof reply);
  cr_assert_eq(reply.accepted_ns, 1200);
  cr_assert_eq(reply.sent_ns, 0); /* never stays never */
  cr_assert_eq(reply.first_ns, 1300);
  cr_assert_eq(reply.done_ns, 1400);
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, slot, BUS_CAPTURE_NO_TIME, a);
  bus_capture_canonical(BUS_RECORD_LLM_REPLY, 192, other, BUS_CAPTURE_NO_TIME, b);
  cr_assert(!memcmp(a, b, sizeof a));
  make_message(slot, &request, 'x', 'l');
  bus_capture_record_shift(BUS_RECORD_LLM_REQUEST, 192, (uint64_t)0 - 50, slot);
  memcpy(&request, slot, sizeof request);
  cr_assert_eq(request.submitted_ns, 50);
  cr_assert_eq(request.deadline_ns, 850);
}

Test(capture_format, names_of_segments_are_read_as_they_are_written)
{
  static const struct bus_capture_file_name names[] = {
      {"feed.features", 0, false},
      {"a.b.c-d_e.f", 999999, true},
      {"infer.signals", 1000000, false},
      {"infer.signals", UINT32_MAX, true},
      {"1234567890123456789012345678901.1234567890123456789012345678901", 7, false}};
  char text[BUS_CAPTURE_FILE_NAME_BYTES];
  for (size_t i = 0; i < BUS_COUNT_OF(names); i++) {
    struct bus_capture_file_name parsed;
    bus_capture_file_name_build(&names[i], text);
    cr_assert(bus_capture_file_name_parse(text, &parsed), "%s", text);
    cr_assert_str_eq(parsed.stream, names[i].stream);
    cr_assert_eq(parsed.segment, names[i].segment);
    cr_assert_eq(parsed.compressed, names[i].compressed);
  }
  static const char *const bad[] = {"",
                                    ".npy",
                                    "feed.npy",
                                    "feed.features.npy",
                                    "feed.features.00001.npy",
                                    "feed.features.0000001.npy",
                                    "feed.features.99999999999.npy",
                                    "feed.features.000001.zst",
                                    "feed.features.000001.npy.part",
                                    "feed.000001.npy",
                                    ".f.eatures.000001.npy",
                                    "a/b.c.000001.npy"};
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    struct bus_capture_file_name parsed;
    cr_assert(!bus_capture_file_name_parse(bad[i], &parsed), "%s", bad[i]);
  }
}

/* numpy itself opens what is built, with the fields that the records have. */
Test(capture_format, numpy_opens_it)
{
  const char *python = "/usr/bin/python3"; /* the system's, unless the path's has numpy */
  if (system("python3 -c 'import numpy' 2>/dev/null") == 0)
    python = "python3";
  else if (system("/usr/bin/python3 -c 'import numpy' 2>/dev/null") != 0)
    cr_skip_test("needs python3-numpy");
  static const char program[] =
      " -c \"\n"
      "import sys, numpy\n"
      "a = numpy.load(sys.argv[1], mmap_mode='r')\n"
      "assert a.shape == (2,), a.shape\n"
      "assert a.dtype.itemsize == int(sys.argv[2]), a.dtype\n"
      "r = a['records']\n"
      "assert r.dtype.itemsize == int(sys.argv[3]), r.dtype\n"
      "assert a['magic'].tolist() == [0x314b4253, 0], a['magic']\n"
      "assert r['stamp'][0][:5].tolist() == [41, 42, 43, 44, 45], r['stamp'][0]\n"
      "if sys.argv[4] == '2': assert r['direction'][0][3] == 3 and r['score'].shape[-1] == 3\n"
      "if sys.argv[4] == '4': assert r['class_name'].dtype == 'S24' and r['text'].dtype == 'V56'\n"
      "if sys.argv[4] == '5': assert r['done_ns'].dtype == '<u8' and r['text'].dtype == 'V120'\n"
      "if sys.argv[4] == '1': assert r['x'].shape[-1] == 16 and r['flags'][0][4] == 4\n"
      "\" ";
  static const struct bus_capture_shape opened[] = {
      {BUS_RECORD_RAW, 192, BLOCK_BYTES, 0, 2},
      {BUS_RECORD_FEATURE, 128, BLOCK_BYTES, 0, 2},
      {BUS_RECORD_SIGNAL, 64, BLOCK_BYTES, 0, 2},
      {BUS_RECORD_GAP, 64, BLOCK_BYTES, 0, 2},
      {BUS_RECORD_LLM_REQUEST, 192, BLOCK_BYTES, 0, 2},
      {BUS_RECORD_LLM_REPLY, 256, BLOCK_BYTES, 0, 2},
      {99, 64, BLOCK_BYTES, 0, 2}};
  static _Alignas(64) unsigned char block[BLOCK_BYTES];
  char path[] = "/tmp/test_capture_format.XXXXXX", header[BUS_CAPTURE_FILE_HEADER_BYTES];
  int fd = mkstemp(path);
  cr_assert_geq(fd, 0);
  for (size_t i = 0; i < BUS_COUNT_OF(opened); i++) {
    const struct bus_capture_shape *shape = &opened[i];
    cr_assert_eq(bus_capture_header_build(shape, header), BUS_OK);
    fill_data(block, shape, 40, 6);
    bus_capture_block_seal(block, shape);
    cr_assert_eq(ftruncate(fd, (off_t)bus_capture_file_bytes(shape)), 0);
    cr_assert_eq(pwrite(fd, header, sizeof header, 0), (ssize_t)sizeof header);
    cr_assert_eq(pwrite(fd, block, sizeof block, sizeof header), (ssize_t)sizeof block);
    char command[2048];
    snprintf(command, sizeof command, "%s%s %s %u %u %u", python, program, path, shape->block_size,
             shape->record_size, shape->record_type);
    cr_assert_eq(system(command), 0, "shape %zu", i);
  }
  close(fd);
  unlink(path);
}
