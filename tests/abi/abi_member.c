/* A member with one object of each type, driven over stdin, which says on stdout what it holds and
 * what the C library makes of it: what a reader of another language is compared with.
 *
 * usage: abi_member DIRECTORY NAME START_POSITION
 *
 * Prints facts, one a line, then "ready". Commands: "publish N", "symbol NAME", "attach NAME",
 * "leave"; each is answered by one line. Ends with the input. */
#include "shm/signalbus.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH        256u
#define BOARD_DEPTH  8u
#define COUNTER      0xfedcba9876543210u
#define POSITION     42u
#define COMMAND_SIZE 128

static const struct bus_object_spec objects[] = {
    {.type = BUS_OBJECT_COUNTER, .name = "messages", .unit = "messages"},
    {.type = BUS_OBJECT_COUNTER, .name = "large", .unit = "ns"},
    {.type = BUS_OBJECT_RING,
     .name = "features",
     .record_type = BUS_RECORD_FEATURE,
     .record_size = sizeof(struct bus_feature),
     .policy = BUS_POLICY_OVERWRITE,
     .depth = DEPTH},
    {.type = BUS_OBJECT_HISTOGRAM, .name = "delay", .unit = "ns"},
    {.type = BUS_OBJECT_HISTOGRAM, .name = "empty", .unit = "us"},
    {.type = BUS_OBJECT_BOARD,
     .name = "board",
     .record_type = BUS_RECORD_SIGNAL,
     .record_size = sizeof(struct bus_signal),
     .depth = BOARD_DEPTH},
    {.type = BUS_OBJECT_POSITION, .name = "signals", .peer = "infer"},
    {.type = BUS_OBJECT_SYMBOLS, .name = "symbols", .depth = 5},
    {.type = BUS_OBJECT_TEXT, .name = "about", .depth = 61},
};

struct abi_member {
  struct bus_member *member;
  struct bus_producer producer;
  const char *directory;
};

static _Noreturn void fail(const char *what)
{
  fprintf(stderr, "abi_member: %s: %s\n", what, bus_error_message());
  exit(1);
}

static void *object(const struct abi_member *self, uint32_t type, const char *name)
{
  void *memory = bus_member_object(self->member, type, name);
  if (!memory)
    fail(name);
  return memory;
}

/* Every field follows from the position, so that a reader can tell a wrong one. */
static void fill_feature(struct bus_feature *feature, uint64_t position)
{
  feature->timestamp_ns = 1700000000000000000u + position;
  feature->bid_price = (int64_t)(position * 3);
  feature->ask_price = -(int64_t)(position * 5);
  feature->bid_size = INT64_MIN + (int64_t)(position & 0xffff);
  feature->ask_size = INT64_MAX - (int64_t)(position & 0xffff);
  feature->exchange_delay_us = -(int32_t)(position & 0x7fffffff);
  feature->book_imbalance = (int32_t)(position & 0x3fffffff);
  feature->update = (uint32_t)(position * 7);
  feature->symbol = (uint16_t)position;
  feature->trigger = (uint8_t)(position % 5);
  feature->flags = (uint8_t)(position % 64);
  for (uint32_t i = 0; i < BUS_FEATURE_INPUTS; i++)
    feature->x[i] = (float)(position & 0xfffff) * 0.5f + (float)i;
}

static void publish(struct abi_member *self, uint64_t count)
{
  for (uint64_t i = 0; i < count; i++) {
    struct bus_feature *slot = bus_producer_reserve(&self->producer);
    fill_feature(slot, self->producer.next);
    bus_producer_commit(&self->producer);
  }
  bus_producer_report(&self->producer);
}

static int add_symbol(const struct abi_member *self, const char *name, int exponent, int64_t tick)
{
  struct bus_symbol symbol = {.price_exponent = (int8_t)exponent,
                              .size_exponent = (int8_t)(exponent - 1),
                              .tick_size = tick};
  snprintf(symbol.name, sizeof symbol.name, "%.19s", name);
  return bus_symbols_add(object(self, BUS_OBJECT_SYMBOLS, "symbols"),
                         bus_member_entry(self->member, BUS_OBJECT_SYMBOLS, "symbols"), &symbol);
}

static void fill_objects(const struct abi_member *self)
{
  struct bus_histogram *histogram = object(self, BUS_OBJECT_HISTOGRAM, "delay");
  struct bus_signal *board = object(self, BUS_OBJECT_BOARD, "board");
  struct bus_position *position = object(self, BUS_OBJECT_POSITION, "signals");
  bus_counter_add(object(self, BUS_OBJECT_COUNTER, "messages"), 12345);
  bus_counter_set(object(self, BUS_OBJECT_COUNTER, "large"), COUNTER);
  for (uint64_t i = 0, value = 1; i < 5000; i++, value = value * 6364136223846793005u + 1)
    bus_histogram_record(histogram, value >> (20 + i % 40)); /* all magnitudes, to 2^44 */
  for (uint16_t i = 0; i < BOARD_DEPTH - 1; i++) {
    struct bus_signal signal = {.timestamp_ns = 1000u + i,
                                .feature_position = (uint64_t)i << 40,
                                .target_price = -i,
                                .score = {0.25f, 0.5f, (float)i},
                                .queue_ns = UINT32_MAX - i,
                                .inference_ns = i,
                                .batch = 2,
                                .source = 3,
                                .symbol = i,
                                .model = 0xabcd,
                                .direction = (int8_t)(i % 3 - 1),
                                .confidence = (uint8_t)(i * 10),
                                .engine = BUS_ENGINE_AVX2,
                                .flags = BUS_SIGNAL_VALID};
    for (uint16_t times = 0; times <= i; times++)
      bus_board_write(&board[i], &signal);
  }
  position->position = POSITION;
  position->ring_instance = 77;
  position->lost = 3;
  position->output_floor = 5;
  bus_member_set_text(self->member, "about", "%s", "\xc2\xb5s are not ms");
  if (add_symbol(self, "BTCUSDT", -2, 1) != 0 ||
      add_symbol(self, "NINETEENCHARACTERS1", 0, -9) != 1)
    fail("symbols");
}

static void print_facts(const struct abi_member *self)
{
  const struct bus_member_header *header = bus_member_header(self->member);
  const struct bus_histogram *histogram = object(self, BUS_OBJECT_HISTOGRAM, "delay");
  const struct bus_signal *board = object(self, BUS_OBJECT_BOARD, "board");
  struct bus_histogram copy;
  bus_histogram_copy(&copy, histogram);
  printf("header instance %" PRIu64 "\nheader epoch %" PRIu64 "\nheader pid %u\n"
         "header file_size %" PRIu64 "\nheader layout_hash %" PRIu64 "\nheader state %u\n",
         header->instance, header->epoch, header->pid, header->file_size, header->layout_hash,
         header->state);
  for (uint32_t i = 0; i < BUS_COUNT_OF(objects); i++) {
    const struct bus_entry *entry =
        bus_member_entry(self->member, objects[i].type, objects[i].name);
    printf("entry %s %s %u %u %u %u %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", entry->name,
           entry->peer[0] ? entry->peer : "-", entry->type, entry->record_type, entry->record_size,
           entry->policy, entry->depth, entry->offset, entry->size);
  }
  printf("histogram count %" PRIu64 "\nhistogram sum %" PRIu64 "\nhistogram minimum %" PRIu64
         "\nhistogram maximum %" PRIu64 "\n",
         copy.count, copy.sum, copy.minimum, copy.maximum);
  for (int permille = 0; permille <= 1000; permille += 25)
    printf("quantile %d %" PRIu64 "\n", permille, bus_histogram_quantile(&copy, permille / 1000.0));
  for (uint32_t i = 0; i < BOARD_DEPTH; i++) {
    struct bus_signal signal;
    printf("board %u ", i);
    if (bus_board_read(&board[i], &signal) == 1)
      for (size_t at = 0; at < sizeof signal; at++)
        printf("%02x", ((const unsigned char *)&signal)[at]);
    else
      putchar('-');
    putchar('\n');
  }
}

static void attach(const struct abi_member *self, const char *name)
{
  struct bus_neighbour *neighbour;
  int error = bus_neighbour_attach(self->directory, name, true, &neighbour);
  bus_neighbour_detach(neighbour);
  printf("attach %s\n", bus_error_name(error));
}

static bool obey(struct abi_member *self, const char *command)
{
  char word[COMMAND_SIZE];
  uint64_t number;
  if (sscanf(command, "publish %" SCNu64, &number) == 1) {
    publish(self, number);
    printf("published %" PRIu64 "\n", self->producer.next);
  } else if (sscanf(command, "symbol %127s", word) == 1) {
    printf("symbol %d\n", add_symbol(self, word, -4, 10));
  } else if (sscanf(command, "attach %127s", word) == 1) {
    attach(self, word);
  } else if (!strcmp(command, "leave\n")) {
    bus_member_leave(self->member, BUS_STATE_HALT);
    self->member = NULL;
    puts("left");
  } else {
    return false;
  }
  fflush(stdout);
  return true;
}

int main(int argc, char **argv)
{
  struct abi_member self = {0};
  char command[COMMAND_SIZE];
  if (argc != 4) {
    fprintf(stderr, "usage: abi_member DIRECTORY NAME START_POSITION\n");
    return 2;
  }
  const struct bus_member_config config = {.directory = self.directory = argv[1],
                                           .name = argv[2],
                                           .kind = "test",
                                           .objects = objects,
                                           .object_count = BUS_COUNT_OF(objects),
                                           .identity = 99,
                                           .numa_node = -1,
                                           .core = -1,
                                           .start_position = strtoull(argv[3], NULL, 10)};
  if (bus_member_new(&config, &self.member) != BUS_OK)
    fail("creating the member");
  bus_producer_init(&self.producer, object(&self, BUS_OBJECT_RING, "features"),
                    bus_member_entry(self.member, BUS_OBJECT_RING, "features"),
                    bus_member_header(self.member)->instance);
  fill_objects(&self);
  bus_member_run(self.member);
  print_facts(&self);
  puts("ready");
  fflush(stdout);
  while (fgets(command, sizeof command, stdin))
    if (!obey(&self, command)) {
      fprintf(stderr, "abi_member: unknown command: %s", command);
      return 2;
    }
  bus_member_leave(self.member, BUS_STATE_HALT);
  return 0;
}
