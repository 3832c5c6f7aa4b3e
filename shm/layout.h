/* layout.h: what a member's file looks like, byte by byte. This is the ABI, with record.h; both are
 * listed for other languages in shm/ABI.md.
 *
 *   0                 struct bus_member_header, 512 bytes
 *   512               struct bus_entry [entry_count], the directory of everything else
 *   4096-aligned      the objects: rings, positions, counters, histograms, boards, symbols, texts
 *
 * The owner writes; everyone else maps the file read-only and treats it as hostile: header and
 * directory are copied once, checked with bus_layout_check, and only the copy is used. */
#ifndef SIGNALBUS_LAYOUT_H
#define SIGNALBUS_LAYOUT_H

#include "record.h"

BUS_BEGIN_DECLARATIONS

#define BUS_MAGIC             0x3130535542474953ull /* "SIGBUS01" in a hex dump */
#define BUS_ABI_VERSION       3u
#define BUS_HEADER_BYTES      512u
#define BUS_ENTRY_BYTES       128u
#define BUS_ENTRIES_MAX       512u
#define BUS_FILE_BYTES_MAX    ((uint64_t)1 << 40)
#define BUS_RING_DEPTH_MAX    ((uint64_t)1 << 30)
#define BUS_RING_HEADER_BYTES 256u
#define BUS_RECORD_BYTES_MAX  (1u << 20)
/* Staging: its owner's notes, then the blocks; both start on whole pages, for O_DIRECT. */
#define BUS_STAGING_HEADER_BYTES ((uint64_t)128 << 10)
#define BUS_STAGING_ALIGNMENT    ((uint64_t)4096)

enum bus_member_state {
  BUS_STATE_BOOT = 1, /* being set up or resumed */
  BUS_STATE_RUN = 2,
  BUS_STATE_HALT = 3, /* left in order */
  BUS_STATE_FAIL = 4  /* gave up; the member's log says why */
};

/* What the file's memory turned out to be made of. */
enum bus_backing {
  BUS_BACKING_SMALL_PAGES = 1,      /* 4 KiB pages of tmpfs */
  BUS_BACKING_TRANSPARENT_HUGE = 2, /* tmpfs, collapsed into 2 MiB pages */
  BUS_BACKING_HUGETLB = 3           /* hugetlbfs */
};

enum bus_object_type {
  BUS_OBJECT_RING = 1,      /* see ring.h */
  BUS_OBJECT_POSITION = 2,  /* a reliable consumer's read position in a neighbour's ring */
  BUS_OBJECT_COUNTER = 3,   /* one u64 */
  BUS_OBJECT_HISTOGRAM = 4, /* see histogram.h */
  BUS_OBJECT_BOARD = 5,     /* latest record for each symbol, see board.h */
  BUS_OBJECT_SYMBOLS = 6,   /* struct bus_symbol table, see symbols.h */
  BUS_OBJECT_TEXT = 7,      /* NUL-terminated UTF-8, for people */
  BUS_OBJECT_STAGING = 8,   /* a recorder's blocks on their way to disk; its own business */
  BUS_OBJECT_TABLE = 9      /* elements that the owner keeps for its successor; its own business */
};

/* What a producer does when its reliable consumer is `depth` records behind. */
enum bus_policy {
  BUS_POLICY_WAIT = 1,        /* reserve fails, the producer tries again: nothing is lost */
  BUS_POLICY_DROP_NEWEST = 2, /* reserve fails, the record is counted as dropped */
  BUS_POLICY_OVERWRITE = 3    /* nobody holds the producer back; readers are observers */
};

struct bus_member_header {
  uint64_t magic; /* stored last, with release; zeroed first when the file is deleted */
  uint32_t abi_version;
  uint32_t header_size; /* BUS_HEADER_BYTES */
  uint64_t file_size;
  uint64_t layout_hash; /* bus_layout_hash of the fields below and the directory */
  char name[BUS_NAME_BYTES];
  char kind[16];
  char boot_id[40]; /* /proc/sys/kernel/random/boot_id */
  uint32_t entry_count;
  uint32_t entry_size;   /* BUS_ENTRY_BYTES */
  uint64_t entry_offset; /* BUS_HEADER_BYTES */
  uint64_t instance;     /* identifies this file's life: kept by a takeover, new with a new file */
  uint64_t identity;     /* what the member works on; a takeover needs the same */
  uint64_t created_realtime_ns;
  uint32_t pid; /* for people; liveness is the lock on the file */
  uint32_t backing;
  uint64_t process_start_ticks; /* field 22 of /proc/PID/stat */
  uint64_t epoch;               /* 1, +1 each time a process takes the member over */
  int32_t numa_node;            /* -1: not placed */
  int32_t core;                 /* -1: not pinned */
  uint64_t huge_bytes;          /* how much of the file is in huge pages */
  uint8_t reserved0[56];
  /* The owner's live line. */
  uint32_t state; /* enum bus_member_state */
  uint32_t reserved1;
  uint64_t heartbeat_ns;      /* bus clock */
  int64_t realtime_offset_ns; /* CLOCK_REALTIME - bus clock */
  uint8_t reserved2[232];
};

struct bus_entry {
  char name[BUS_NAME_BYTES]; /* unique within type and peer; position: the ring's name */
  char peer[BUS_NAME_BYTES]; /* ring: the reliable consumer; position: the producer; else "" */
  char unit[16];             /* counter, histogram: "ns", "messages", ...; else "" */
  uint32_t type;             /* enum bus_object_type */
  uint32_t record_type;      /* ring, board: enum bus_record_type; else 0 */
  uint32_t record_size;      /* bytes for each element */
  uint32_t policy;           /* ring: enum bus_policy; else 0 */
  uint64_t depth;            /* elements */
  uint64_t offset;           /* from the start of the file */
  uint64_t size;             /* bytes, bus_layout_object_bytes of this entry */
  uint64_t reserved0;
};

/* A reliable consumer's position, in the consumer's file. */
struct bus_position {
  uint64_t position;      /* everything before it has been consumed */
  uint64_t ring_instance; /* the producer file's instance that `position` counts in; 0: none yet */
  uint64_t lost;          /* records that were overwritten before they were read */
  uint64_t
      output_floor;   /* the consumer's own: where its output stood when it joined the instance */
  uint64_t waiting;   /* 1 while the consumer may be asleep, see doorbell.h */
  uint64_t skip_to;   /* where the last skip of lost records went ... */
  uint64_t skip_lost; /* ... and what `lost` is after it: finishes a skip that was cut short */
  uint8_t reserved0[72];
};

/* Header of a ring; the slots follow at once. */
struct bus_ring_header {
  uint64_t depth;
  uint32_t record_size;
  uint32_t record_type;
  uint64_t first; /* position of the first record ever written to it */
  uint8_t reserved0[104];
  /* The producer's line; written lazily, for people. */
  uint64_t sequence;           /* records committed */
  uint64_t dropped;            /* records refused by DROP_NEWEST */
  uint64_t waits;              /* times that the ring was found full */
  uint64_t positions_rejected; /* impossible consumer positions, ignored */
  uint32_t bell;               /* 0: this producer never rings; else odd, see doorbell.h */
  uint32_t reserved1;
  uint64_t consumer_instance; /* of the file whose position holds this producer back; 0: none */
  uint64_t consumed;          /* the producer has accepted everything before it as consumed */
  uint8_t reserved2[72];
};

#define BUS_HEADER_OFFSET(field, offset) BUS_ASSERT_OFFSET(bus_member_header, field, offset)
BUS_HEADER_OFFSET(magic, 0);
BUS_HEADER_OFFSET(abi_version, 8);
BUS_HEADER_OFFSET(header_size, 12);
BUS_HEADER_OFFSET(file_size, 16);
BUS_HEADER_OFFSET(layout_hash, 24);
BUS_HEADER_OFFSET(name, 32);
BUS_HEADER_OFFSET(kind, 64);
BUS_HEADER_OFFSET(boot_id, 80);
BUS_HEADER_OFFSET(entry_count, 120);
BUS_HEADER_OFFSET(entry_size, 124);
BUS_HEADER_OFFSET(entry_offset, 128);
BUS_HEADER_OFFSET(instance, 136);
BUS_HEADER_OFFSET(identity, 144);
BUS_HEADER_OFFSET(created_realtime_ns, 152);
BUS_HEADER_OFFSET(pid, 160);
BUS_HEADER_OFFSET(backing, 164);
BUS_HEADER_OFFSET(process_start_ticks, 168);
BUS_HEADER_OFFSET(epoch, 176);
BUS_HEADER_OFFSET(numa_node, 184);
BUS_HEADER_OFFSET(core, 188);
BUS_HEADER_OFFSET(huge_bytes, 192);
BUS_HEADER_OFFSET(reserved0, 200);
BUS_HEADER_OFFSET(state, 256);
BUS_HEADER_OFFSET(heartbeat_ns, 264);
BUS_HEADER_OFFSET(realtime_offset_ns, 272);
BUS_STATIC_ASSERT(sizeof(struct bus_member_header) == BUS_HEADER_BYTES,
                  "the directory follows at 512");

BUS_ASSERT_OFFSET(bus_entry, name, 0);
BUS_ASSERT_OFFSET(bus_entry, peer, 32);
BUS_ASSERT_OFFSET(bus_entry, unit, 64);
BUS_ASSERT_OFFSET(bus_entry, type, 80);
BUS_ASSERT_OFFSET(bus_entry, record_type, 84);
BUS_ASSERT_OFFSET(bus_entry, record_size, 88);
BUS_ASSERT_OFFSET(bus_entry, policy, 92);
BUS_ASSERT_OFFSET(bus_entry, depth, 96);
BUS_ASSERT_OFFSET(bus_entry, offset, 104);
BUS_ASSERT_OFFSET(bus_entry, size, 112);
BUS_ASSERT_OFFSET(bus_entry, reserved0, 120);
BUS_STATIC_ASSERT(sizeof(struct bus_entry) == BUS_ENTRY_BYTES, "bus_entry is two lines");

BUS_ASSERT_OFFSET(bus_position, position, 0);
BUS_ASSERT_OFFSET(bus_position, ring_instance, 8);
BUS_ASSERT_OFFSET(bus_position, lost, 16);
BUS_ASSERT_OFFSET(bus_position, output_floor, 24);
BUS_ASSERT_OFFSET(bus_position, waiting, 32);
BUS_ASSERT_OFFSET(bus_position, skip_to, 40);
BUS_ASSERT_OFFSET(bus_position, skip_lost, 48);
BUS_STATIC_ASSERT(sizeof(struct bus_position) == 128, "bus_position has two lines of its own");

BUS_ASSERT_OFFSET(bus_ring_header, depth, 0);
BUS_ASSERT_OFFSET(bus_ring_header, record_size, 8);
BUS_ASSERT_OFFSET(bus_ring_header, record_type, 12);
BUS_ASSERT_OFFSET(bus_ring_header, first, 16);
BUS_ASSERT_OFFSET(bus_ring_header, sequence, 128);
BUS_ASSERT_OFFSET(bus_ring_header, dropped, 136);
BUS_ASSERT_OFFSET(bus_ring_header, waits, 144);
BUS_ASSERT_OFFSET(bus_ring_header, positions_rejected, 152);
BUS_ASSERT_OFFSET(bus_ring_header, bell, 160);
BUS_ASSERT_OFFSET(bus_ring_header, consumer_instance, 168);
BUS_ASSERT_OFFSET(bus_ring_header, consumed, 176);
BUS_STATIC_ASSERT(sizeof(struct bus_ring_header) == BUS_RING_HEADER_BYTES, "slots follow at 256");

/* Bytes that an object of this type, record_size and depth takes, 0 when the parameters are out of
 * range: ring record_size 64..1 MiB, a multiple of 64; boards hold signals of 64; ring depth a
 * power of two, 4..2^30, and a policy of the enum; board depth 1..65536; symbols 1..65535; text
 * depth (bytes) 1..65536; table record_size as a ring's, depth 1..65536; staging record_size 4
 * KiB..16 MiB, a multiple of 4 KiB, and depth 4..1024; position, counter and histogram depth 1.
 * Pure. */
BUS_EXPORT uint64_t bus_layout_object_bytes(const struct bus_entry *entry);

/* What the offset of an object of this type is a multiple of, bytes. Pure. */
BUS_EXPORT uint64_t bus_layout_object_alignment(uint32_t type);

/* FNV-1a (64 bit; constants by Fowler, Noll and Vo) over abi_version, file_size, name, kind,
 * identity and the `header->entry_count` entries. It finds damage, not forgery. Pure. */
BUS_EXPORT uint64_t bus_layout_hash(const struct bus_member_header *header,
                                    const struct bus_entry *entries);

/* FNV-1a of `size` bytes, going on from `hash` (start with 0xcbf29ce484222325). Pure. */
BUS_EXPORT uint64_t bus_layout_hash_bytes(uint64_t hash, const void *bytes, size_t size);

/* Checks private copies of a header and `header->entry_count` entries against the real size of the
 * file: versions, sizes, names terminated, every object inside the file, aligned and of the right
 * size, no two overlapping, hash equal. `entries` may be NULL to check the header alone. Returns
 * BUS_OK, BUS_ERROR_NOT_READY (no magic), BUS_ERROR_VERSION or BUS_ERROR_CORRUPT, with a message
 * that lacks the path: the caller adds it. Pure. */
BUS_EXPORT int bus_layout_check(const struct bus_member_header *header,
                                const struct bus_entry *entries, uint64_t file_size);

/* True when `name` is 1..31 characters from [A-Za-z0-9._-] and does not begin with a dot. Pure. */
BUS_EXPORT bool bus_layout_name_is_valid(const char *name);

/* English names for the enums above, "?" when unknown (any value is allowed). Static. Pure. */
BUS_EXPORT const char *bus_state_name(uint32_t state);
BUS_EXPORT const char *bus_backing_name(uint32_t backing);
BUS_EXPORT const char *bus_object_type_name(uint32_t type);
BUS_EXPORT const char *bus_record_type_name(uint32_t type);
BUS_EXPORT const char *bus_policy_name(uint32_t policy);

BUS_END_DECLARATIONS

#endif
