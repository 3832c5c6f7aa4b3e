/* hostile.c: files with lies in them. Whatever a neighbour's file says, the reader neither dies nor
 * hangs: it is refused with its path, or harmless, or counted. */
#include "experiments.h"
#include "rig.h"

#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORDS         11u
#define SCRIBBLE_ROUNDS 300000u
#define TAKEOVER_ROUNDS 4000u
#define LIVE_ATTACHES   5000u

static const uint64_t odd_values[] = {0,           1,          2,
                                      3,           4,          5,
                                      7,           8,          9,
                                      12,          15,         16,
                                      63,          64,         65,
                                      127,         128,        129,
                                      192,         255,        256,
                                      511,         512,        513,
                                      640,         4095,       4096,
                                      4097,        8192,       65535,
                                      65536,       1u << 20,   (1u << 20) + 64,
                                      1u << 30,    1u << 31,   0x7fffffffu,
                                      0xffffffffu, 1ull << 32, 1ull << 40,
                                      1ull << 62,  1ull << 63, (1ull << 63) - 1,
                                      0ull - 64,   0ull - 2,   0ull - 1};

/* A dead pair's files as they should be. */
struct image {
  size_t size;
  unsigned char bytes[RIG_IMAGE_BYTES];
};
static struct image p_image, c_image;

static void load(struct image *image, const char *name)
{
  int fd = open(lab_path(name), O_RDONLY | O_CLOEXEC);
  ssize_t got = fd < 0 ? -1 : read(fd, image->bytes, sizeof image->bytes);
  LAB_CHECK(got > 0, "%s: %m", lab_path(name));
  image->size = (size_t)got;
  close(fd);
}

static void store(const struct image *image, const char *name, size_t size)
{
  int fd = open(lab_path(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0640);
  size_t bytes = size < image->size ? size : image->size;
  LAB_CHECK(fd >= 0 && write(fd, image->bytes, bytes) == (ssize_t)bytes &&
                ftruncate(fd, (off_t)size) == 0,
            "%s: %m", lab_path(name));
  close(fd);
}

static void make_images(void)
{
  struct rig_producer p;
  struct rig_consumer c;
  rig_pair_open(&p, &c);
  for (unsigned i = 0; i < RECORDS; i++) {
    LAB_CHECK(op_publish(&p.producer, 1), "cannot write");
    if (i < RECORDS - 3)
      rig_consume(&c.subscription.consumer, rig_spec.record_size);
  }
  bus_consumer_publish(&c.subscription.consumer);
  rig_producer_abandon(&p);
  rig_consumer_abandon(&c);
  load(&p_image, "p");
  load(&c_image, "c");
}

static uint64_t refused, accepted;

static void check_refusal(int error)
{
  LAB_CHECK(error < 0 && strstr(bus_error_message(), lab_path("p")),
            "error %d without its path: %s", error, bus_error_message());
  refused++;
}

/* Reads through a ring that may say anything: bounded, inside the map, nothing accepted whose stamp
 * is not its own. */
static void read_through(const struct bus_entry *entry, const void *memory)
{
  static _Alignas(64) unsigned char record[BUS_RECORD_BYTES_MAX];
  static struct bus_position position;
  struct bus_observer observer;
  struct bus_consumer consumer;
  if (entry->record_size > sizeof record)
    return;
  bus_observer_init(&observer, memory, entry, true);
  for (unsigned i = 0; i < 40; i++) {
    uint64_t next = observer.next;
    int status = op_observe(&observer, record);
    LAB_CHECK(status == 0 || status == 1 || status == BUS_ERROR_OVERRUN, "status %d", status);
    LAB_CHECK(status != 1 || *(uint64_t *)(record + entry->record_size - 8) == next + 1,
              "a record with another's stamp");
  }
  bus_consumer_init(&consumer, memory, entry, 4711, &position, 0);
  for (unsigned i = 0; i < 40; i++)
    if (op_poll(&consumer))
      op_release(&consumer);
}

/* Attaches to whatever "p" is now. True when it was let in. */
static bool try_attach(void)
{
  struct bus_neighbour *neighbour;
  struct stat status;
  int error = bus_neighbour_attach(lab_directory, "p", true, &neighbour);
  if (error) {
    check_refusal(error);
    return false;
  }
  accepted++;
  LAB_CHECK(stat(lab_path("p"), &status) == 0, "stat: %m");
  const struct bus_entry *entry;
  for (uint32_t i = 0; (entry = bus_neighbour_entry(neighbour, i)) != NULL; i++) {
    LAB_CHECK(entry->offset <= (uint64_t)status.st_size &&
                  entry->size <= (uint64_t)status.st_size - entry->offset,
              "an object outside the file was let in");
    if (entry->type == BUS_OBJECT_RING)
      read_through(entry, bus_neighbour_object(neighbour, entry));
  }
  bus_neighbour_detach(neighbour);
  return true;
}

/* Restarts the owner of whatever "p" is now. */
static bool try_restart(void)
{
  struct bus_member *member;
  int error = rig_producer_new(&member);
  if (error) {
    check_refusal(error);
    return false;
  }
  accepted++;
  bool successor = bus_member_is_successor(member);
  struct bus_producer producer;
  const struct bus_entry *entry = bus_member_entry(member, BUS_OBJECT_RING, "r");
  bus_producer_init(&producer, bus_member_object(member, BUS_OBJECT_RING, "r"), entry,
                    bus_member_header(member)->instance);
  for (unsigned i = 0; i < 2 * rig_spec.depth; i++)
    op_publish(&producer, 2);
  bus_member_leave(member, BUS_STATE_RUN);
  return successor;
}

void wrong_size(void)
{
  uint64_t sizes = 0;
  make_images();
  for (size_t size = 0; size <= 3 * p_image.size; size++) {
    bool near_page = (size + 2) % 4096 <= 4;
    if (size > 700 && !near_page)
      continue;
    sizes++;
    store(&p_image, "p", size);
    LAB_CHECK(try_attach() == (size == p_image.size), "a file of %zu bytes", size);
    LAB_CHECK(try_restart() == (size == p_image.size), "a file of %zu bytes was continued", size);
    unlink(lab_path("p"));
  }
  lab_count("%llu sizes, %llu refusals", (unsigned long long)sizes, (unsigned long long)refused);
}

/* Bytes that the layout hash covers. */
static bool is_hashed(size_t offset)
{
  return (offset >= offsetof(struct bus_member_header, abi_version) &&
          offset < offsetof(struct bus_member_header, header_size)) ||
         (offset >= offsetof(struct bus_member_header, file_size) &&
          offset < offsetof(struct bus_member_header, boot_id)) ||
         (offset >= offsetof(struct bus_member_header, identity) &&
          offset < offsetof(struct bus_member_header, created_realtime_ns)) ||
         (offset >= BUS_HEADER_BYTES && offset < BUS_HEADER_BYTES + BUS_ENTRY_BYTES);
}

static void repair_hash(struct image *image)
{
  struct bus_member_header header;
  memcpy(&header, image->bytes, sizeof header);
  if (header.entry_count > 1)
    return;
  struct bus_entry entry;
  memcpy(&entry, image->bytes + BUS_HEADER_BYTES, sizeof entry);
  header.layout_hash = bus_layout_hash(&header, &entry);
  memcpy(image->bytes, &header, sizeof header);
}

static void try_field(size_t offset, size_t width, uint64_t value)
{
  static struct image image;
  for (unsigned repaired = 0; repaired < 2; repaired++) {
    image = p_image;
    memcpy(image.bytes + offset, &value, width);
    if (!memcmp(image.bytes, p_image.bytes, image.size))
      return;
    if (repaired)
      repair_hash(&image);
    store(&image, "p", image.size);
    bool attached = try_attach();
    LAB_CHECK(!attached || repaired || !is_hashed(offset),
              "offset %zu = %llu was let in with a stale hash", offset, (unsigned long long)value);
    LAB_CHECK(!attached || offset >= offsetof(struct bus_member_header, layout_hash),
              "offset %zu = %llu: magic, version or size was let in", offset,
              (unsigned long long)value);
    try_restart();
    unlink(lab_path("p"));
  }
}

/* Every word of header, directory entry, ring header and position, as 32 and as 64 bits. */
void wrong_field(void)
{
  uint64_t values = 0;
  make_images();
  uint64_t ring =
      ((const struct bus_entry *)(const void *)(p_image.bytes + BUS_HEADER_BYTES))->offset;
  for (size_t offset = 0; offset < ring + BUS_RING_HEADER_BYTES; offset += 4) {
    if (offset == BUS_HEADER_BYTES + BUS_ENTRY_BYTES)
      offset = ring;
    for (size_t i = 0; i < BUS_COUNT_OF(odd_values); i++, values++)
      try_field(offset, offset % 8 || odd_values[i] <= UINT32_MAX ? 4 : 8, odd_values[i]);
    uint32_t now;
    memcpy(&now, p_image.bytes + offset, sizeof now);
    for (unsigned bit = 0; bit < 32; bit += 5, values++)
      try_field(offset, 4, now ^ 1u << bit);
  }
  lab_count("%llu values, %llu refusals, %llu harmless", (unsigned long long)values,
            (unsigned long long)refused, (unsigned long long)accepted);
}

/* ---- scribbling ---- */

struct scribbler {
  uint64_t *words;
  size_t count;
};

static struct scribbler scribbler_open(const char *name)
{
  struct stat status;
  int fd = open(lab_path(name), O_RDWR | O_CLOEXEC);
  LAB_CHECK(fd >= 0 && fstat(fd, &status) == 0, "%s: %m", lab_path(name));
  size_t size = (size_t)status.st_size;
  void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  LAB_CHECK(map != MAP_FAILED, "mmap: %m");
  close(fd);
  return (struct scribbler){.words = map, .count = size / 8};
}

static void scribbler_close(struct scribbler *scribbler)
{
  munmap(scribbler->words, scribbler->count * 8);
}

/* A plausible lie as often as noise. */
static uint64_t lie(uint64_t truth)
{
  switch (lab_random_below(5)) {
  case 0:
    return odd_values[lab_random_below(BUS_COUNT_OF(odd_values))];
  case 1:
    return truth + lab_random_below(33) - 16;
  case 2:
    return truth ^ 1ull << lab_random_below(64);
  case 3:
    return truth + (lab_random_below(2) ? 1ull << 63 : rig_spec.depth);
  default:
    return lab_random();
  }
}

/* Objects begin at 4096; what is between directory and objects is empty. */
static void scribble(const struct scribbler *scribbler)
{
  size_t words = lab_random_below(3) ? scribbler->count - 512 : 80;
  size_t at = (scribbler->count - 512 == words ? 512 : 0) + lab_random_below(words);
  BUS_STORE_RELAXED(&scribbler->words[at], lie(scribbler->words[at]));
}

/* What the producer must make of a position, word for word (P3). */
static void publish_against(struct rig_producer *p, const struct bus_position *position)
{
  struct bus_producer before = p->producer;
  uint64_t rejected = p->producer.header->positions_rejected;
  bool asks = before.next == before.limit;
  bool counts = asks && position->ring_instance == before.instance;
  bool possible = position->position - before.consumed <= before.next - before.consumed;
  bool room = !asks || (counts && possible && position->position + before.depth != before.next);
  LAB_CHECK(op_publish(&p->producer, 1) == room, "position %llu of %llu..%llu: %s",
            (unsigned long long)position->position, (unsigned long long)before.consumed,
            (unsigned long long)before.next, room ? "refused" : "believed");
  LAB_CHECK(p->producer.header->positions_rejected == rejected + (counts && !possible),
            "an impossible position was not counted");
  LAB_CHECK(p->producer.next - p->producer.consumed <= before.depth, "unread records overwritten");
}

/* One life of a pair under scribbling; the producer's ring header is its own memory, so it is
 * scribbled over only in the reader's turn. */
static void scribble_life(unsigned rounds)
{
  static _Alignas(64) unsigned char record[RIG_RECORD_BYTES_MAX];
  struct rig_producer p;
  struct rig_consumer c;
  struct bus_subscription watch;
  lab_clean();
  rig_pair_open(&p, &c);
  bus_subscription_init(&watch, lab_directory, "p", "r", BUS_RECORD_RAW, rig_spec.record_size,
                        NULL);
  LAB_CHECK(bus_subscription_maintain(&watch, 0) == 1, "%s", bus_error_message());
  struct scribbler over_p = scribbler_open("p"), over_c = scribbler_open("c");
  const unsigned char *slots = c.subscription.consumer.slots;
  bool reader = lab_random_below(2);
  for (unsigned i = 0; i < rounds; i++) {
    if (reader)
      scribble(&over_p);
    else if (lab_random_below(4) == 0)
      c.position->position = lie(c.position->position);
    else
      scribble(&over_c);
    publish_against(&p, c.position);
    uint64_t next = watch.observer.next;
    int status = op_observe(&watch.observer, record);
    LAB_CHECK(status != 1 || ((uint64_t *)(void *)record)[rig_spec.record_size / 8 - 1] == next + 1,
              "a record with another's stamp");
    const unsigned char *polled = op_poll(&c.subscription.consumer);
    LAB_CHECK(!polled || (polled >= slots && polled < slots + p.entry->size), "outside the ring");
    if (polled && reader)
      op_release(&c.subscription.consumer);
  }
  scribbler_close(&over_p);
  scribbler_close(&over_c);
  bus_subscription_close(&watch);
  rig_producer_close(&p);
  rig_consumer_close(&c);
}

void scribble_attached(void)
{
  uint64_t rounds = 0;
  while (rounds < SCRIBBLE_ROUNDS) {
    unsigned life = 1 + (unsigned)lab_random_below(300);
    scribble_life(life);
    rounds += life;
  }
  lab_count("%llu words", (unsigned long long)rounds);
}

/* A stamp that cannot belong to its slot is not the newest record. */
static uint64_t check_impossible_stamps(void)
{
  uint64_t count = 0;
  const uint64_t depth = rig_spec.depth;
  for (uint64_t slot = 0; slot < depth; slot++)
    for (uint64_t ahead = 1; ahead < 4 * depth; ahead++, count++) {
      uint64_t stamp = RECORDS + ahead;
      if (((stamp - 1) & (depth - 1)) == slot || slot == ((RECORDS - 1) & (depth - 1)))
        continue;
      static struct image image;
      image = p_image;
      const struct bus_entry *entry = (const void *)(image.bytes + BUS_HEADER_BYTES);
      memcpy(image.bytes + entry->offset + BUS_RING_HEADER_BYTES + (slot + 1) * entry->record_size -
                 8,
             &stamp, sizeof stamp);
      LAB_CHECK(bus_ring_head(image.bytes + entry->offset, entry) == RECORDS,
                "stamp %llu in slot %llu counts as the newest", (unsigned long long)stamp,
                (unsigned long long)slot);
    }
  return count;
}

void scribble_takeover(void)
{
  make_images();
  uint64_t stamps = check_impossible_stamps(), words = 0;
  for (unsigned i = 0; i < TAKEOVER_ROUNDS; i++) {
    store(&p_image, "p", p_image.size);
    store(&c_image, "c", c_image.size);
    struct scribbler over_p = scribbler_open("p"), over_c = scribbler_open("c");
    for (uint64_t n = 1 + lab_random_below(8); n > 0; n--, words++)
      scribble(lab_random_below(3) ? &over_p : &over_c);
    scribbler_close(&over_p);
    scribbler_close(&over_c);
    try_attach();
    try_restart();
    struct bus_member *member;
    int error = rig_consumer_new(&member);
    LAB_CHECK(error == BUS_OK || strstr(bus_error_message(), lab_path("c")),
              "error %d without its path: %s", error, bus_error_message());
    if (!error)
      bus_member_leave(member, BUS_STATE_RUN);
    unlink(lab_path("p"));
    unlink(lab_path("c"));
  }
  lab_count("%llu words in %u restarts, %llu impossible stamps", (unsigned long long)words,
            TAKEOVER_ROUNDS, (unsigned long long)stamps);
}

/* Attaches, reads and detaches for ever. */
static void live_reader(void)
{
  while (!BUS_LOAD_ACQUIRE(&lab_control->stop)) {
    lab_control->value[0] += try_attach();
    BUS_STORE_RELEASE(&lab_control->observed, lab_control->observed + 1);
  }
}

void scribble_live(void)
{
  make_images();
  struct scribbler over_p = scribbler_open("p");
  pid_t pid = lab_fork(live_reader);
  uint64_t words = 0;
  while (BUS_LOAD_ACQUIRE(&lab_control->observed) < LIVE_ATTACHES) {
    scribble(&over_p);
    if (++words % 8 == 0) /* whole again for a moment, so that some are let in */
      memcpy(over_p.words, p_image.bytes, p_image.size);
    if (words % 65536 == 0)
      lab_must_live(pid, "the reader");
  }
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)1);
  lab_join(pid, "the reader");
  scribbler_close(&over_p);
  lab_count("%llu words under %llu attaches, %llu of them let in", (unsigned long long)words,
            (unsigned long long)lab_control->observed, (unsigned long long)lab_control->value[0]);
}
