/* Damage of every kind, at every place: all of it is found, and all that is whole is kept. */
#include "consumers/capture_check.h"

#include "tests/bus_fixture.h"
#include "tests/replay_fixture.h"

#include <fcntl.h>

#define PAYLOAD_FLIPS 100000u

static struct bus_capture_checked check(const char *path, uint64_t *damages)
{
  struct bus_capture *capture;
  struct bus_capture_checked checked = {0};
  *damages = 1;
  int error = bus_capture_open(path, &capture);
  cr_assert_eq(error, BUS_OK, "%s", bus_error_message());
  cr_assert_eq(bus_capture_check(capture, NULL, &checked), BUS_OK, "%s", bus_error_message());
  *damages = bus_capture_damage_count(capture);
  if (*damages) {
    const struct bus_capture_damage *damage = bus_capture_damage(capture, 0);
    cr_assert_neq(damage->path, NULL);
    cr_assert_gt(strlen(damage->what), 0);
  }
  bus_capture_close(capture);
  return checked;
}

struct file {
  char path[512];
  int file;
  unsigned char *bytes;
  size_t size;
};

/* The segment of the signals of a small capture; the others are removed. */
static struct file make_file(uint32_t features)
{
  struct replay_fixture fixture = {.directory = fixture_directory, .features = features};
  struct file file;
  struct stat status;
  cr_assert_eq(replay_fixture_write(&fixture), BUS_OK, "%s", bus_error_message());
  unlink(fixture_path("feed.features.000000.npy"));
  unlink(fixture_path("record.gaps.000000.npy"));
  unlink(fixture_path("raw.data.000000.npy"));
  snprintf(file.path, sizeof file.path, "%s", fixture_path("infer.signals.000000.npy"));
  file.file = open(file.path, O_RDWR | O_CLOEXEC);
  cr_assert(file.file >= 0 && fstat(file.file, &status) == 0);
  file.size = (size_t)status.st_size;
  file.bytes = malloc(file.size);
  cr_assert(file.bytes && pread(file.file, file.bytes, file.size, 0) == (ssize_t)file.size);
  return file;
}

static void close_file(struct file *file)
{
  close(file->file);
  free(file->bytes);
}

static void write_byte(const struct file *file, size_t at, unsigned char byte)
{
  cr_assert_eq(pwrite(file->file, &byte, 1, (off_t)at), 1);
}

Test(capture_check, an_undamaged_capture_is_whole, .init = fixture_create, .fini = fixture_remove)
{
  uint64_t damages;
  struct replay_fixture fixture = {
      .directory = fixture_directory, .features = 500, .segment_bytes = 5 * 4096};
  cr_assert_eq(replay_fixture_write(&fixture), BUS_OK);
  struct bus_capture_checked checked = check(fixture_directory, &damages);
  cr_assert_eq(damages, 0);
  cr_assert_eq(checked.records, 1100);
  cr_assert_eq(checked.lost, 0);
}

Test(capture_check, finds_a_truncation_at_every_byte, .init = fixture_create,
     .fini = fixture_remove, .timeout = 250)
{
  struct file file = make_file(130); /* META and three blocks */
  uint64_t damages;
  cr_assert_eq(file.size, 5 * 4096);
  for (size_t size = 0; size < file.size; size++) {
    cr_assert_eq(pwrite(file.file, file.bytes, file.size, 0), (ssize_t)file.size);
    cr_assert_eq(ftruncate(file.file, (off_t)size), 0);
    struct bus_capture_checked checked = check(fixture_directory, &damages);
    cr_assert_gt(damages, 0, "cut at %zu: not found", size);
    size_t whole = size < 4096 ? 0 : (size - 4096) / 4096;
    cr_assert_eq(checked.blocks, whole, "cut at %zu: %zu blocks, not %zu", size,
                 (size_t)checked.blocks, whole);
  }
  close_file(&file);
}

Test(capture_check, finds_every_flipped_bit_of_headers, .init = fixture_create,
     .fini = fixture_remove, .timeout = 250)
{
  struct file file = make_file(130);
  uint64_t damages;
  for (size_t at = 0; at < file.size; at++) {
    if (at >= 4096 && at % 4096 >= BUS_CAPTURE_BLOCK_HEADER_BYTES)
      continue;
    for (int bit = 0; bit < 8; bit++) {
      write_byte(&file, at, file.bytes[at] ^ (unsigned char)(1 << bit));
      struct bus_capture_checked checked = check(fixture_directory, &damages);
      cr_assert_gt(damages, 0, "byte %zu, bit %d: not found", at, bit);
      /* Not even a lost file header costs a block. */
      cr_assert_eq(checked.blocks, at < 4096 ? 4 : 3, "byte %zu, bit %d: %zu blocks", at, bit,
                   (size_t)checked.blocks);
    }
    write_byte(&file, at, file.bytes[at]);
  }
  check(fixture_directory, &damages);
  cr_assert_eq(damages, 0);
  close_file(&file);
}

Test(capture_check, finds_100000_flipped_bits_of_payload, .init = fixture_create,
     .fini = fixture_remove, .timeout = 250)
{
  struct file file = make_file(130);
  uint64_t state = 1, damages;
  for (uint32_t i = 0; i < PAYLOAD_FLIPS; i++) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    size_t at = 4096 + (size_t)(state >> 33) % (file.size - 4096);
    unsigned char bit = (unsigned char)(1u << (state >> 30 & 7));
    write_byte(&file, at, file.bytes[at] ^ bit);
    struct bus_capture_checked checked = check(fixture_directory, &damages);
    cr_assert_gt(damages, 0, "byte %zu, bit %u: not found", at, bit);
    cr_assert_eq(checked.blocks, 3);
    write_byte(&file, at, file.bytes[at]);
  }
  close_file(&file);
}

/* Both the file's header and its first block: another segment of the stream still says the shape.
 */
Test(capture_check, a_neighbour_lends_its_shape, .init = fixture_create, .fini = fixture_remove)
{
  struct replay_fixture fixture = {
      .directory = fixture_directory, .features = 500, .segment_bytes = 5 * 4096};
  char zeros[8192] = {1};
  uint64_t damages;
  cr_assert_eq(replay_fixture_write(&fixture), BUS_OK);
  uint64_t whole = check(fixture_directory, &damages).blocks;
  int file = open(fixture_path("feed.features.000001.npy"), O_RDWR | O_CLOEXEC);
  cr_assert_eq(pwrite(file, zeros, sizeof zeros, 0), (ssize_t)sizeof zeros);
  close(file);
  struct bus_capture_checked checked = check(fixture_directory, &damages);
  cr_assert_eq(damages, 2);
  cr_assert_eq(checked.blocks, whole - 1);
}

Test(capture_check, a_missing_segment_is_damage, .init = fixture_create, .fini = fixture_remove)
{
  struct replay_fixture fixture = {
      .directory = fixture_directory, .features = 500, .segment_bytes = 5 * 4096};
  uint64_t damages;
  cr_assert_eq(replay_fixture_write(&fixture), BUS_OK);
  unlink(fixture_path("feed.features.000001.npy"));
  check(fixture_directory, &damages);
  cr_assert_geq(damages, 1);
}

/* A segment that its recorder did not close: room for more blocks behind the last one. */
Test(capture_check, an_unfinished_segment_is_no_damage, .init = fixture_create,
     .fini = fixture_remove)
{
  struct file file = make_file(130);
  struct bus_capture_shape shape;
  unsigned char header[4096];
  uint64_t damages;
  cr_assert_eq(bus_capture_header_parse(file.bytes, &shape), BUS_OK);
  shape.blocks = 100;
  cr_assert_eq(bus_capture_header_build(&shape, header), BUS_OK);
  cr_assert_eq(pwrite(file.file, header, sizeof header, 0), 4096);
  cr_assert_eq(ftruncate(file.file, 101 * 4096), 0);
  struct bus_capture_checked checked = check(fixture_directory, &damages);
  cr_assert_eq(damages, 0);
  cr_assert_eq(checked.unfinished, 1);
  cr_assert_eq(checked.blocks, 4);
  /* ... but something in that room is. */
  write_byte(&file, 77 * 4096 + 100, 1);
  check(fixture_directory, &damages);
  cr_assert_eq(damages, 1);
  write_byte(&file, 77 * 4096 + 100, 0);
  write_byte(&file, 77 * 4096 + 1, 1);
  check(fixture_directory, &damages);
  cr_assert_eq(damages, 2); /* the hole, and the block behind it */
  close_file(&file);
}

/* Blocks that are whole by themselves, but not beside each other. */
Test(capture_check, finds_what_blocks_contradict_each_other_in, .init = fixture_create,
     .fini = fixture_remove)
{
  static _Alignas(4096) unsigned char block[4096];
  struct file file = make_file(200); /* META and four blocks */
  struct bus_capture_shape shape;
  struct bus_capture_block header;
  uint64_t damages;
  cr_assert_eq(bus_capture_header_parse(file.bytes, &shape), BUS_OK);
  for (uint32_t number = 2; number < 5; number++) {
    off_t at = 4096 + (off_t)number * 4096;
    memcpy(block, file.bytes + at, sizeof block);
    memcpy(&header, block, sizeof header);
    header.lost++;
    memcpy(block, &header, sizeof header);
    bus_capture_block_seal(block, &shape);
    cr_assert_eq(pwrite(file.file, block, sizeof block, at), 4096);
    cr_assert_eq(check(fixture_directory, &damages).blocks_bad, 0);
    cr_assert_eq(damages, 1, "lost in block %u", number);
    /* The block before it once more, in its place. */
    memcpy(block, file.bytes + at - 4096, sizeof block);
    memcpy(&header, block, sizeof header);
    header.number++;
    memcpy(block, &header, sizeof header);
    bus_capture_block_seal(block, &shape);
    cr_assert_eq(pwrite(file.file, block, sizeof block, at), 4096);
    cr_assert_eq(check(fixture_directory, &damages).blocks_bad, 0);
    cr_assert_geq(damages, 1, "repeated before block %u", number);
    cr_assert_eq(pwrite(file.file, file.bytes + at, 4096, at), 4096);
  }
  close_file(&file);
}
