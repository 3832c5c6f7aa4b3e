#include "tools/busctl_describe.h"

#include <inttypes.h>
#include <string.h>

static const char help[] =
    "Usage: signal-busctl info [--bus DIR] [--json] [MEMBER]\n"
    "\n"
    "Shows every file of the bus, or MEMBER's with all its symbols and signals: who owns it,\n"
    "whether that process lives, and what the file holds.\n"
    "\n"
    "  --bus DIR  the bus; default $SIGNAL_BUS, else /dev/shm/signals\n"
    "  --json     one JSON object\n"
    "  --help     this text\n"
    "\n"
    "Status: alive; stalled (no heartbeat for 1 s); dead (no process holds it); gone (deleted).\n"
    "A member that is not alive is shown with its last epoch and what to do next.\n"
    "Exit status: 0 ok, 1 failed, 2 usage, 3 files lie there that are no member's or are broken.\n";

/* Rows of long tables that are shown when the whole bus is. */
#define ROWS_MAX 8u

static void print_place(const char *label, int64_t number)
{
  if (number < 0)
    printf(", %s -", label);
  else
    printf(", %s %" PRId64, label, number);
}

static void print_member(const json_t *member)
{
  printf("%s (%s): %s, state %s, pid %" PRId64 ", epoch %" PRId64 ", heartbeat %.1f ms ago\n",
         busctl_json_text(member, "name"), busctl_json_text(member, "kind"),
         busctl_json_text(member, "status"), busctl_json_text(member, "state"),
         busctl_json_integer(member, "pid"), busctl_json_integer(member, "epoch"),
         (double)busctl_json_integer(member, "heartbeat_age_ns") / 1e6);
  printf("  file %" PRId64 " KiB, %s, %" PRId64 " KiB of it huge",
         busctl_json_integer(member, "file_bytes") / 1024, busctl_json_text(member, "backing"),
         busctl_json_integer(member, "huge_kib"));
  print_place("core", busctl_json_integer(member, "core"));
  print_place("NUMA node", busctl_json_integer(member, "numa_node"));
  putchar('\n');
  if (*busctl_json_text(member, "next_step"))
    printf("  next: %s\n", busctl_json_text(member, "next_step"));
}

static void print_ring(const json_t *ring)
{
  int64_t depth = busctl_json_integer(ring, "depth_records"),
          lag = busctl_json_integer(ring, "lag_records");
  printf("  ring %s: %s, %" PRId64 " B x %" PRId64 ", %s; head %" PRId64,
         busctl_json_text(ring, "name"), busctl_json_text(ring, "record_type"),
         busctl_json_integer(ring, "record_bytes"), depth, busctl_json_text(ring, "policy"),
         busctl_json_integer(ring, "head_position"));
  if (!*busctl_json_text(ring, "consumer"))
    printf(", no reliable consumer");
  else if (json_is_null(json_object_get(ring, "lag_records")))
    printf(", consumer %s not joined", busctl_json_text(ring, "consumer"));
  else
    printf(", consumer %s lags %" PRId64 " (%.1f %%)", busctl_json_text(ring, "consumer"), lag,
           100.0 * (double)lag / (double)depth);
  printf(", dropped %" PRId64 ", waits %" PRId64, busctl_json_integer(ring, "dropped_records"),
         busctl_json_integer(ring, "waits"));
  if (busctl_json_integer(ring, "positions_rejected"))
    printf(", impossible positions %" PRId64, busctl_json_integer(ring, "positions_rejected"));
  putchar('\n');
}

static void print_position(const json_t *position)
{
  printf("  reads %s of %s: ", busctl_json_text(position, "ring"),
         busctl_json_text(position, "producer"));
  if (json_is_true(json_object_get(position, "joined")))
    printf("position %" PRId64 ", lost %" PRId64 "\n", busctl_json_integer(position, "position"),
           busctl_json_integer(position, "lost_records"));
  else
    puts("not joined");
}

static void print_counter(const json_t *counter)
{
  printf("  counter %s: %" PRId64 " %s\n", busctl_json_text(counter, "name"),
         busctl_json_integer(counter, "value"), busctl_json_text(counter, "unit"));
}

static void print_histogram(const json_t *histogram)
{
  printf("  histogram %s [%s]: p50 %" PRId64 ", p90 %" PRId64 ", p99 %" PRId64 ", p99.9 %" PRId64
         ", max %" PRId64 ", count %" PRId64 "\n",
         busctl_json_text(histogram, "name"), busctl_json_text(histogram, "unit"),
         busctl_json_integer(histogram, "p50"), busctl_json_integer(histogram, "p90"),
         busctl_json_integer(histogram, "p99"), busctl_json_integer(histogram, "p99_9"),
         busctl_json_integer(histogram, "maximum"), busctl_json_integer(histogram, "count"));
}

static void print_signal(const json_t *signal)
{
  printf("    symbol %" PRId64 ": direction %+" PRId64 ", confidence %" PRId64
         " %%, target %" PRId64 ", age %.3f ms%s\n",
         busctl_json_integer(signal, "symbol"), busctl_json_integer(signal, "direction"),
         busctl_json_integer(signal, "confidence_percent"),
         busctl_json_integer(signal, "target_price"),
         (double)busctl_json_integer(signal, "age_ns") / 1e6,
         json_is_true(json_object_get(signal, "valid")) ? "" : ", not valid");
}

static void print_symbol(const json_t *symbol)
{
  printf("  symbol %" PRId64 " of %s: %s, price 10^%" PRId64 ", size 10^%" PRId64 ", tick %" PRId64
         "\n",
         busctl_json_integer(symbol, "symbol"), busctl_json_text(symbol, "table"),
         busctl_json_text(symbol, "name"), busctl_json_integer(symbol, "price_exponent"),
         busctl_json_integer(symbol, "size_exponent"), busctl_json_integer(symbol, "tick_size"));
}

static void print_text(const json_t *text)
{
  printf("  text %s: %s\n", busctl_json_text(text, "name"), busctl_json_text(text, "text"));
}

static void print_rows(const json_t *rows, size_t most, void (*print)(const json_t *))
{
  size_t count = json_array_size(rows);
  for (size_t i = 0; i < count && i < most; i++)
    print(json_array_get(rows, i));
  if (count > most)
    printf("    and %zu more\n", count - most);
}

static void print_objects(const json_t *member, size_t rows_max)
{
  print_rows(json_object_get(member, "rings"), SIZE_MAX, print_ring);
  print_rows(json_object_get(member, "positions"), SIZE_MAX, print_position);
  print_rows(json_object_get(member, "counters"), SIZE_MAX, print_counter);
  print_rows(json_object_get(member, "histograms"), SIZE_MAX, print_histogram);
  size_t index;
  json_t *board;
  json_array_foreach(json_object_get(member, "boards"), index, board)
  {
    const json_t *signals = json_object_get(board, "signals");
    printf("  board %s: %zu of %" PRId64 " symbols have a signal\n",
           busctl_json_text(board, "name"), json_array_size(signals),
           busctl_json_integer(board, "slots"));
    print_rows(signals, rows_max, print_signal);
  }
  print_rows(json_object_get(member, "symbols"), rows_max, print_symbol);
  print_rows(json_object_get(member, "texts"), SIZE_MAX, print_text);
}

static void print_bus(const json_t *bus, size_t rows_max)
{
  const json_t *members = json_object_get(bus, "members");
  const json_t *problems = json_object_get(bus, "problems");
  size_t index;
  json_t *item;
  printf("bus %s: %zu members\n", busctl_json_text(bus, "directory"), json_array_size(members));
  json_array_foreach(members, index, item)
  {
    print_member(item);
    print_objects(item, rows_max);
  }
  json_array_foreach(problems, index, item)
  {
    printf("not a member: %s: %s\n", busctl_json_text(item, "file"),
           busctl_json_text(item, "reason"));
  }
}

static int info(const char *directory, const char *member, bool as_json)
{
  struct busctl_scan scan;
  if (busctl_scan_open(&scan, directory) != BUS_OK)
    return busctl_fail("info");
  json_t *bus = busctl_describe_bus(&scan, member);
  size_t problems = json_array_size(json_object_get(bus, "problems"));
  int status = BUSCTL_OK;
  if (member && problems + json_array_size(json_object_get(bus, "members")) == 0) {
    bus_error_set(BUS_ERROR_ABSENT, "%s: no member '%s'", scan.directory, member);
    status = busctl_fail("info");
  } else if (as_json) {
    status = busctl_json_print(bus);
  } else {
    print_bus(bus, member ? SIZE_MAX : ROWS_MAX);
  }
  if (status == BUSCTL_OK && problems)
    status = BUSCTL_PARTLY;
  json_decref(bus);
  busctl_scan_close(&scan);
  return status;
}

int busctl_info(int argc, char **argv)
{
  static const struct option options[] = {{"json", no_argument, NULL, BUSCTL_OPTION_OWN},
                                          BUSCTL_COMMON_OPTIONS};
  struct busctl_line line = {.argc = argc,
                             .argv = argv,
                             .verb = "info",
                             .help = help,
                             .options = options,
                             .operands_max = 1};
  bool as_json = false;
  while (busctl_line_next(&line))
    as_json = true;
  return line.ended ? line.status : info(line.directory, line.operand, as_json);
}
