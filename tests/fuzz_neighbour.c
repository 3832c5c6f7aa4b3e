/* Any bytes as a neighbour's file: attached by the library itself, then everything in it is used as
 * programs and tools use it. Under AddressSanitizer all of the map but the object in use is
 * poisoned, so a read outside an object is seen even where it stays inside the file. */
#include "shm/signalbus.h"

#include <fcntl.h>
#include <sanitizer/asan_interface.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);

#define NAME              "m"
#define POLLS             48
#define BOARD_SLOTS_MAX   8u
#define INPUT_BYTES_MAX   (48u << 10) /* two histograms and something around them */
#define INPUT_BYTES_MAX_S "-max_len=49152"
#define REQUIRE(condition)                                                                         \
  do {                                                                                             \
    if (!(condition))                                                                              \
      __builtin_trap();                                                                            \
  } while (0)

/* reserved0 of the header steers the fuzzer: byte 0 odd: the file is cut short while it is
 * attached, to 64 times the number in bytes 2 and 3. */
#define CUT_FLAG_AT  offsetof(struct bus_member_header, reserved0)
#define CUT_BYTES_AT (CUT_FLAG_AT + 2)

static char directory[64];
static char path[96];
static int file = -1;
static volatile uint64_t sink; /* what is read is used, or the compiler would not read it */

/* ---- mutation: most inputs must get behind the checks ---- */

static uint32_t below(uint64_t *state, uint32_t limit)
{
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((*state >> 32) * limit >> 32);
}

static void choose_dimensions(struct bus_entry *entry, uint64_t *state)
{
  entry->type = 1 + below(state, 7);
  entry->depth = 1;
  switch (entry->type) {
  case BUS_OBJECT_RING:
    entry->record_type = below(state, 3);
    entry->record_size = 64 * (1 + below(state, 3));
    entry->policy = 1 + below(state, 3);
    entry->depth = (uint64_t)4 << below(state, 5);
    break;
  case BUS_OBJECT_BOARD:
    entry->record_type = BUS_RECORD_SIGNAL;
    entry->record_size = 64 * (1 + below(state, 2));
    entry->depth = 1 + below(state, 6);
    break;
  case BUS_OBJECT_SYMBOLS:
    entry->depth = 1 + below(state, 9);
    break;
  case BUS_OBJECT_TEXT:
    entry->depth = 1 + below(state, 100);
    break;
  default:
    break;
  }
  entry->size = bus_layout_object_bytes(entry);
}

static void fill_object(uint8_t *memory, const struct bus_entry *entry, uint64_t *state)
{
  static const uint64_t starts[] = {0, 1, 1000, (uint64_t)0 - 3, ((uint64_t)1 << 63) - 2};
  memset(memory, 0, (size_t)entry->size);
  if (entry->type == BUS_OBJECT_RING) {
    struct bus_entry overwrite = *entry;
    struct bus_producer producer;
    overwrite.policy = BUS_POLICY_OVERWRITE;
    bus_ring_format(memory, entry, starts[below(state, BUS_COUNT_OF(starts))]);
    bus_producer_init(&producer, memory, &overwrite, 1);
    for (uint32_t i = below(state, 100); i > 0; i--) {
      bus_producer_reserve(&producer);
      bus_producer_commit(&producer);
    }
  } else {
    for (uint32_t i = below(state, 8); i > 0; i--)
      memory[below(state, (uint32_t)entry->size)] = (uint8_t)below(state, 256);
  }
}

/* A member file that is right in every way; returns its size. */
static size_t build(uint8_t *data, size_t size_max, uint64_t *state)
{
  uint32_t wanted = 1 + below(state, 8), count = 0;
  uint64_t end = BUS_HEADER_BYTES + (uint64_t)wanted * BUS_ENTRY_BYTES;
  if (end > size_max)
    return 0;
  memset(data, 0, (size_t)end);
  for (uint32_t i = 0; i < wanted; i++) {
    struct bus_entry entry = {.name = {(char)('a' + count)}};
    choose_dimensions(&entry, state);
    entry.offset = BUS_ALIGN_UP(end, (uint64_t)64);
    if (entry.offset + entry.size > size_max)
      continue;
    memset(data + end, 0, (size_t)(entry.offset - end));
    fill_object(data + entry.offset, &entry, state);
    memcpy(data + BUS_HEADER_BYTES + count++ * BUS_ENTRY_BYTES, &entry, sizeof entry);
    end = entry.offset + entry.size;
  }
  memcpy(data + offsetof(struct bus_member_header, entry_count), &count, sizeof count);
  return (size_t)end;
}

/* Makes sizes and offsets agree again; entries that no longer fit go. */
static uint32_t repair(struct bus_entry *entries, uint32_t count, uint64_t size)
{
  uint64_t end = BUS_HEADER_BYTES + (uint64_t)count * BUS_ENTRY_BYTES;
  for (uint32_t i = 0; i < count; i++) {
    struct bus_entry *entry = &entries[i];
    uint64_t bytes = bus_layout_object_bytes(entry);
    if (entry->offset < end || entry->offset % 64)
      entry->offset = BUS_ALIGN_UP(end, (uint64_t)64);
    if (bytes == 0 || entry->offset > size || bytes > size - entry->offset)
      return i;
    entry->size = bytes;
    end = entry->offset + bytes;
    entry->name[sizeof entry->name - 1] = entry->peer[sizeof entry->peer - 1] = '\0';
    entry->unit[sizeof entry->unit - 1] = '\0';
    if (!bus_layout_name_is_valid(entry->name))
      memcpy(entry->name, "x", 2);
    if (entry->peer[0] && !bus_layout_name_is_valid(entry->peer))
      entry->peer[0] = '\0';
  }
  return count;
}

/* Magic, versions, sizes, names and hash, as the checks want them. */
static void seal(uint8_t *data, size_t size, bool repaired)
{
  struct bus_member_header header;
  static struct bus_entry entries[BUS_ENTRIES_MAX];
  memcpy(&header, data, sizeof header);
  header.magic = BUS_MAGIC;
  header.abi_version = BUS_ABI_VERSION;
  header.header_size = BUS_HEADER_BYTES;
  header.entry_size = BUS_ENTRY_BYTES;
  header.entry_offset = BUS_HEADER_BYTES;
  header.file_size = size;
  memcpy(header.name, NAME, sizeof NAME);
  header.kind[sizeof header.kind - 1] = header.boot_id[sizeof header.boot_id - 1] = '\0';
  uint32_t most = (uint32_t)((size - BUS_HEADER_BYTES) / BUS_ENTRY_BYTES);
  if (header.entry_count > most)
    header.entry_count = most < BUS_ENTRIES_MAX ? most : BUS_ENTRIES_MAX;
  size_t bytes = header.entry_count * sizeof entries[0];
  memcpy(entries, data + BUS_HEADER_BYTES, bytes);
  if (repaired)
    header.entry_count = repair(entries, header.entry_count, size);
  header.layout_hash = bus_layout_hash(&header, entries);
  memcpy(data + BUS_HEADER_BYTES, entries, bytes);
  memcpy(data, &header, sizeof header);
}

/* Mutates one part in place: the header, the directory, an object, or eight bytes somewhere. */
static void mutate_part(uint8_t *data, size_t size, uint64_t *state)
{
  struct bus_entry entry;
  uint32_t count;
  size_t at = 0, length = BUS_HEADER_BYTES;
  memcpy(&count, data + offsetof(struct bus_member_header, entry_count), sizeof count);
  uint32_t part = below(state, 8);
  if (part > 0 && part < 7 && count > 0 &&
      BUS_HEADER_BYTES + (uint64_t)count * BUS_ENTRY_BYTES <= size) {
    at = BUS_HEADER_BYTES + below(state, count) * BUS_ENTRY_BYTES;
    length = BUS_ENTRY_BYTES;
    memcpy(&entry, data + at, sizeof entry);
    if (part > 2 && entry.offset < size && entry.size > 0 && entry.size <= size - entry.offset) {
      at = (size_t)entry.offset;
      length = (size_t)entry.size;
    }
  } else if (part >= 7) {
    at = below(state, (uint32_t)(size / 8)) * 8;
    length = 8;
  }
  if (at + length <= size)
    LLVMFuzzerMutate(data + at, length, length);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned int seed)
{
  uint64_t state = seed;
  if (size_max < 4 * BUS_HEADER_BYTES)
    return LLVMFuzzerMutate(data, size, size_max);
  if (size < BUS_HEADER_BYTES || below(&state, 16) == 0)
    size = build(data, size_max, &state);
  else if (below(&state, 4) == 0)
    size = LLVMFuzzerMutate(data, size, size_max);
  if (size < BUS_HEADER_BYTES)
    return size;
  for (uint32_t i = below(&state, 4); i > 0; i--)
    mutate_part(data, size, &state);
  data[CUT_FLAG_AT] = below(&state, 16) == 0;
  if (below(&state, 8) != 0)
    seal(data, size, below(&state, 2) != 0);
  return size;
}

/* ---- use ---- */

static void sum(const void *bytes, size_t size)
{
  uint64_t total = 0;
  for (size_t i = 0; i < size; i++)
    total += ((const unsigned char *)bytes)[i];
  sink += total;
}

static void observe(const void *memory, const struct bus_entry *entry, bool from_oldest)
{
  struct bus_observer observer;
  void *record = malloc(entry->record_size);
  bus_observer_init(&observer, memory, entry, from_oldest);
  for (int i = 0; i < POLLS; i++) {
    uint64_t next = observer.next, lost = observer.lost;
    int status = bus_observer_poll(&observer, record);
    if (status == 0)
      break;
    REQUIRE(status == 1 || status == BUS_ERROR_OVERRUN);
    REQUIRE(observer.next - next == (status == 1 ? 1 : observer.lost - lost));
    REQUIRE(observer.next != next);
    if (status == 1)
      sum(record, entry->record_size);
  }
  free(record);
}

static void consume(const void *memory, const struct bus_entry *entry, uint64_t instance)
{
  struct bus_consumer consumer;
  struct bus_position position = {.position = entry->reserved0, .ring_instance = instance & 1};
  bus_consumer_init(&consumer, memory, entry, instance, &position, 0);
  for (int i = 0; i < POLLS; i++) {
    const void *record = i % 3 ? bus_consumer_poll(&consumer)
                               : bus_consumer_peek(&consumer, (uint64_t)i % entry->depth);
    if (record)
      sum(record, entry->record_size);
    if (record && i % 3)
      bus_consumer_release(&consumer);
  }
  bus_consumer_release_batch(&consumer, 1);
  /* A second time, from what the first left. */
  bus_consumer_init(&consumer, memory, entry, instance, &position, 0);
  REQUIRE(position.ring_instance == instance && position.position == consumer.next);
}

/* The producer's own ring, held back by a neighbour's position. */
static _Alignas(128) unsigned char own_ring[BUS_RING_HEADER_BYTES + 8 * 64];
static struct bus_entry own_ring_entry = {.type = BUS_OBJECT_RING,
                                          .peer = NAME,
                                          .record_size = 64,
                                          .depth = 8,
                                          .policy = BUS_POLICY_WAIT};

static void start_producer(struct bus_producer *producer, uint64_t instance)
{
  memset(own_ring, 0, sizeof own_ring);
  bus_ring_format(own_ring, &own_ring_entry, 0);
  bus_producer_init(producer, own_ring, &own_ring_entry, instance);
}

static void publish_some(struct bus_producer *producer)
{
  static const uint64_t record[8];
  for (int i = 0; i < 20; i++) {
    bus_producer_publish(producer, record);
    REQUIRE(producer->next - producer->consumed <= own_ring_entry.depth);
  }
}

static void produce(const struct bus_position *position, uint64_t instance)
{
  struct bus_producer producer;
  start_producer(&producer, instance);
  bus_producer_connect(&producer, position, 88);
  publish_some(&producer);
  bus_producer_connect(&producer, NULL, 0);
}

/* The same by name. */
static void link_back(const struct bus_entry *entry, uint64_t instance)
{
  struct bus_backlink backlink;
  struct bus_producer producer;
  start_producer(&producer, instance);
  memcpy(own_ring_entry.name, entry->name, sizeof own_ring_entry.name);
  REQUIRE(bus_backlink_init(&backlink, directory, entry->peer, &own_ring_entry, &producer) ==
          BUS_OK);
  REQUIRE(bus_backlink_maintain(&backlink) == 1 && bus_backlink_maintain(&backlink) == 0);
  publish_some(&producer);
  bus_backlink_close(&backlink);
}

static void read_histogram(const struct bus_histogram *shared)
{
  static struct bus_histogram copy, total;
  static FILE *nowhere;
  if (!nowhere)
    nowhere = fopen("/dev/null", "w");
  bus_histogram_copy(&copy, shared);
  uint64_t median = bus_histogram_quantile(&copy, 0.5);
  REQUIRE(bus_histogram_quantile(&copy, 0) <= copy.maximum && median <= copy.maximum);
  REQUIRE(bus_histogram_quantile(&copy, 1) <= copy.maximum);
  bus_histogram_add(&total, &copy);
  bus_histogram_write_hgrm(&copy, nowhere, 1000);
  sink += median;
}

static void read_board(const unsigned char *memory, const struct bus_entry *entry)
{
  struct bus_signal signal;
  for (uint64_t i = 0; i < entry->depth && i < BOARD_SLOTS_MAX; i++)
    if (bus_board_read((const void *)(memory + i * entry->record_size), &signal) == 1)
      sum(&signal, sizeof signal);
}

static void read_symbols(const void *memory, const struct bus_entry *entry)
{
  static _Alignas(64) unsigned char own[64 + 16 * sizeof(struct bus_symbol)];
  static const struct bus_entry own_entry = {.type = BUS_OBJECT_SYMBOLS, .depth = 16};
  struct bus_symbol symbol;
  uint32_t count = bus_symbols_count(memory, entry);
  REQUIRE(count <= entry->depth);
  bus_symbols_clear(own, 1);
  for (uint32_t i = 0; bus_symbols_get(memory, entry, i, &symbol) == BUS_OK; i++) {
    REQUIRE(memchr(symbol.name, '\0', sizeof symbol.name));
    bus_symbols_add(own, &own_entry, &symbol);
  }
  REQUIRE(bus_symbols_get(memory, entry, UINT32_MAX, &symbol) == BUS_ERROR_ABSENT);
}

static void use_object(const void *memory, const struct bus_entry *entry, uint64_t instance)
{
  sink += (uint64_t)bus_object_type_name(entry->type)[0] + bus_policy_name(entry->policy)[0] +
          bus_record_type_name(entry->record_type)[0];
  switch (entry->type) {
  case BUS_OBJECT_RING:
    sink += bus_ring_head(memory, entry);
    observe(memory, entry, true);
    observe(memory, entry, false);
    consume(memory, entry, instance);
    break;
  case BUS_OBJECT_POSITION:
    produce(memory, instance);
    break;
  case BUS_OBJECT_COUNTER:
    sink += BUS_LOAD_RELAXED((const bus_word *)memory);
    break;
  case BUS_OBJECT_HISTOGRAM:
    read_histogram(memory);
    break;
  case BUS_OBJECT_BOARD:
    read_board(memory, entry);
    break;
  case BUS_OBJECT_SYMBOLS:
    read_symbols(memory, entry);
    break;
  case BUS_OBJECT_TEXT:
    sum(memory, strnlen(memory, (size_t)entry->depth));
    break;
  default:
    __builtin_trap(); /* the checks let no other type pass */
  }
}

/* By name, as members do it. */
static void subscribe(const struct bus_entry *entry)
{
  struct bus_subscription subscription;
  struct bus_position position = {0};
  void *record = malloc(entry->record_size);
  for (int kind = 0; kind < 2; kind++) {
    REQUIRE(bus_subscription_init(&subscription, directory, NAME, entry->name, entry->record_type,
                                  entry->record_size, NULL) == BUS_OK);
    if (kind) { /* what a member of that name would have set */
      subscription.position = &position;
      memcpy(subscription.own_name, entry->peer, sizeof subscription.own_name);
      subscription.own_instance = entry->reserved0;
    }
    if (bus_subscription_maintain(&subscription, 0) >= 0) {
      REQUIRE(bus_subscription_maintain(&subscription, 0) == 0);
      if (kind)
        bus_consumer_poll(&subscription.consumer);
      else
        bus_observer_poll(&subscription.observer, record);
    }
    bus_subscription_close(&subscription);
  }
  free(record);
}

static void use_everything(struct bus_neighbour *neighbour, const uint8_t *data)
{
  const struct bus_member_header *header = bus_neighbour_header(neighbour);
  const struct bus_entry start = {0}, *entry;
  const unsigned char *base = bus_neighbour_object(neighbour, &start);
  struct bus_member_header live;
  uint16_t cut;
  memcpy(&cut, data + CUT_BYTES_AT, sizeof cut);
  bool is_cut = data[CUT_FLAG_AT] & 1 && cut * 64u < header->file_size;
  if (is_cut)
    REQUIRE(ftruncate(file, cut * 64) == 0);
  bus_neighbour_live(neighbour, &live);
  sink += (uint64_t)bus_state_name(live.state)[0] + bus_backing_name(live.backing)[0];
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++) {
    const void *memory = bus_neighbour_object(neighbour, entry);
    REQUIRE((const unsigned char *)memory >= base && entry->size <= header->file_size);
    ASAN_POISON_MEMORY_REGION(base, header->file_size);
    ASAN_UNPOISON_MEMORY_REGION(memory, entry->size);
    use_object(memory, entry, header->instance);
    ASAN_UNPOISON_MEMORY_REGION(base, header->file_size);
  }
  enum bus_neighbour_status status = bus_neighbour_status(neighbour, 1);
  REQUIRE(status == (is_cut ? BUS_NEIGHBOUR_GONE : BUS_NEIGHBOUR_DEAD));
  if (!is_cut && (entry = bus_neighbour_find(neighbour, BUS_OBJECT_RING, NULL)) != NULL)
    subscribe(entry);
  if (!is_cut && (entry = bus_neighbour_find(neighbour, BUS_OBJECT_POSITION, NULL)) != NULL)
    link_back(entry, header->instance);
}

static void remove_directory(void)
{
  unlink(path);
  rmdir(directory);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
  /* The 4096 bytes that libFuzzer would take would leave no room for a histogram. */
  static char length[] = INPUT_BYTES_MAX_S;
  bool given = false;
  for (int i = 1; i < *argc; i++)
    given |= !strncmp((*argv)[i], "-max_len=", 9);
  char **arguments = calloc((size_t)*argc + 2, sizeof *arguments);
  REQUIRE(arguments);
  memcpy(arguments, *argv, (size_t)*argc * sizeof *arguments);
  if (!given)
    arguments[(*argc)++] = length;
  *argv = arguments;
  snprintf(directory, sizeof directory, "/dev/shm/signalbus-fuzz-%d", (int)getpid());
  snprintf(path, sizeof path, "%s/" NAME, directory);
  REQUIRE(mkdir(directory, 0700) == 0);
  atexit(remove_directory);
  file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  REQUIRE(file >= 0);
  return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct bus_neighbour *neighbour;
  if (size > INPUT_BYTES_MAX)
    return -1;
  REQUIRE(ftruncate(file, 0) == 0 && pwrite(file, data, size, 0) == (ssize_t)size);
  int error = bus_neighbour_attach(directory, NAME, true, &neighbour);
  REQUIRE((error == BUS_OK) == (neighbour != NULL));
  if (error) {
    REQUIRE(error == BUS_ERROR_CORRUPT || error == BUS_ERROR_NOT_READY ||
            error == BUS_ERROR_VERSION);
    return 0;
  }
  REQUIRE(size >= BUS_HEADER_BYTES);
  use_everything(neighbour, data);
  bus_neighbour_detach(neighbour);
  return 0;
}
