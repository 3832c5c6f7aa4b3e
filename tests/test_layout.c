#include "shm/error.h"
#include "shm/layout.h"

#include <criterion/criterion.h>
#include <string.h>

static struct bus_member_header header;
static struct bus_entry entries[2];

static void make_valid(void)
{
  memset(&header, 0, sizeof header);
  memset(entries, 0, sizeof entries);
  header.magic = BUS_MAGIC;
  header.abi_version = BUS_ABI_VERSION;
  header.header_size = BUS_HEADER_BYTES;
  header.entry_size = BUS_ENTRY_BYTES;
  header.entry_offset = BUS_HEADER_BYTES;
  header.entry_count = 2;
  header.file_size = 1 << 20;
  strcpy(header.name, "feed");
  strcpy(header.kind, "test");
  strcpy(entries[0].name, "features");
  strcpy(entries[0].peer, "infer");
  entries[0].type = BUS_OBJECT_RING;
  entries[0].record_type = BUS_RECORD_FEATURE;
  entries[0].record_size = 128;
  entries[0].policy = BUS_POLICY_WAIT;
  entries[0].depth = 1024;
  entries[0].offset = 4096;
  entries[0].size = bus_layout_object_bytes(&entries[0]);
  strcpy(entries[1].name, "messages");
  entries[1].type = BUS_OBJECT_COUNTER;
  entries[1].depth = 1;
  entries[1].offset = 4096 + entries[0].size;
  entries[1].size = 8;
  header.layout_hash = bus_layout_hash(&header, entries);
}

static int check(void)
{
  return bus_layout_check(&header, entries, header.file_size);
}

Test(layout, accepts_what_is_right)
{
  make_valid();
  cr_assert_eq(check(), BUS_OK, "%s", bus_error_message());
}

Test(layout, refuses_each_kind_of_damage)
{
  make_valid();
  header.magic = 0;
  cr_assert_eq(check(), BUS_ERROR_NOT_READY);
  make_valid();
  header.magic ^= 1;
  cr_assert_eq(check(), BUS_ERROR_CORRUPT);
  make_valid();
  header.abi_version = 7;
  cr_assert_eq(check(), BUS_ERROR_VERSION);
  cr_assert_not_null(strstr(bus_error_message(), "version 7"));
  cr_assert_not_null(strstr(bus_error_message(), "speaks 3"));
  make_valid();
  cr_assert_eq(bus_layout_check(&header, entries, header.file_size - 1), BUS_ERROR_CORRUPT);
}

/* Every single-bit flip of what the hash covers must be found; so must those of the hash itself. */
Test(layout, finds_every_bit_flip_in_the_directory)
{
  make_valid();
  for (size_t bit = 0; bit < sizeof entries * 8; bit++) {
    ((unsigned char *)entries)[bit / 8] ^= (unsigned char)(1u << bit % 8);
    cr_assert_neq(check(), BUS_OK, "bit %zu", bit);
    ((unsigned char *)entries)[bit / 8] ^= (unsigned char)(1u << bit % 8);
  }
  for (size_t bit = 0; bit < 64; bit++) {
    header.layout_hash ^= (uint64_t)1 << bit;
    cr_assert_eq(check(), BUS_ERROR_CORRUPT);
    header.layout_hash ^= (uint64_t)1 << bit;
  }
  cr_assert_eq(check(), BUS_OK);
}

/* A forger can make the hash right: then the ranges must hold by themselves. */
Test(layout, a_right_hash_does_not_help_wrong_ranges)
{
  struct {
    uint64_t depth, offset, size;
  } bad[] = {{1000, 4096, 0},
             {2, 4096, 0},
             {UINT64_MAX, 4096, 0},
             {1024, 4097, 0},
             {1024, 1 << 20, 0},
             {1024, 64, 0},
             {1024, UINT64_MAX - 63, 0},
             {1024, 4096, 64},
             {(uint64_t)1 << 40, 4096, 0}};
  for (size_t i = 0; i < BUS_COUNT_OF(bad); i++) {
    make_valid();
    entries[0].depth = bad[i].depth;
    entries[0].offset = bad[i].offset;
    entries[0].size = bad[i].size ? bad[i].size : bus_layout_object_bytes(&entries[0]);
    header.layout_hash = bus_layout_hash(&header, entries);
    cr_assert_eq(check(), BUS_ERROR_CORRUPT, "case %zu", i);
  }
  make_valid();
  entries[1].offset = 4096 + 512; /* inside the ring */
  header.layout_hash = bus_layout_hash(&header, entries);
  cr_assert_eq(check(), BUS_ERROR_CORRUPT);
  make_valid();
  memset(entries[0].name, 'x', sizeof entries[0].name); /* not terminated */
  header.layout_hash = bus_layout_hash(&header, entries);
  cr_assert_eq(check(), BUS_ERROR_CORRUPT);
}

Test(layout, names)
{
  cr_assert(bus_layout_name_is_valid("feed-1.a_B"));
  cr_assert_not(bus_layout_name_is_valid(""));
  cr_assert_not(bus_layout_name_is_valid(NULL));
  cr_assert_not(bus_layout_name_is_valid(".hidden"));
  cr_assert_not(bus_layout_name_is_valid("a/b"));
  cr_assert_not(bus_layout_name_is_valid("a b"));
  cr_assert(bus_layout_name_is_valid("1234567890123456789012345678901"));
  cr_assert_not(bus_layout_name_is_valid("12345678901234567890123456789012"));
}
