#include "tools/bench/bench_process.h"
#include "tools/bench/ring_loops.h"

#include <criterion/criterion.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS    8u
#define MESSAGES 16u

static uint64_t table[(MESSAGES + RING_BATCH_MAX) * WORDS];
static int cores[2] = {-1, -1};

static void set_up(void)
{
  cpu_set_t set;
  cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
  if (CPU_COUNT(&set) < 2)
    cr_skip("one core only");
  bench_process_init();
  cr_assert_eq(bench_clock_init(), BUS_OK);
  cr_assert_eq(bench_choose_cores(cores, 2), BUS_OK, "%s", bus_error_message());
  for (uint64_t i = 0; i < BUS_COUNT_OF(table); i++)
    table[i] = (i + 1) % WORDS ? i * 0x9e3779b97f4a7c15u : i / WORDS % MESSAGES + 1;
  for (uint64_t i = MESSAGES * WORDS; i < BUS_COUNT_OF(table); i++)
    table[i] = table[i - MESSAGES * WORDS];
}

TestSuite(ring_trial, .init = set_up, .timeout = 60);

static struct ring_trial *new_trial(const struct ring_contestant *contestant,
                                    enum ring_workload workload, bool between_threads)
{
  struct ring_trial *trial = ring_trial_new();
  cr_assert(trial, "%s", bus_error_message());
  trial->contestant = contestant;
  trial->workload = workload;
  trial->size = RING_SIZE_64;
  trial->depth = 64;
  trial->rings = 1;
  trial->between_threads = between_threads;
  trial->cores[0] = cores[0];
  trial->cores[1] = cores[1];
  trial->source = (struct ring_source){.table = table,
                                       .mask = MESSAGES - 1,
                                       .warm = 64,
                                       .all = 64 + RING_RUNS * 64,
                                       .work_steps = 10,
                                       .interval_ns = 200,
                                       .pauses = true,
                                       .run = 64};
  return trial;
}

static void make_bus_directory(struct ring_trial *trial)
{
  static const char *const members[] = {"leader", "follower"};
  trial->directory = bench_directory_make("/dev/shm", members, 2);
  cr_assert(trial->directory, "%s", bus_error_message());
}

static void play_all(const struct ring_contestant *contestant, bool between_threads, uint32_t rings)
{
  for (int workload = 0; workload < RING_WORKLOADS; workload++) {
    if (rings > 1 && workload == RING_ROUND_TRIP)
      continue;
    struct ring_trial *trial = new_trial(contestant, (enum ring_workload)workload, between_threads);
    trial->rings = rings;
    make_bus_directory(trial);
    cr_assert_eq(ring_trial_play(trial), BUS_OK, "workload %d: %s", workload, bus_error_message());
    cr_assert(trial->finished);
    if (workload == RING_PACED)
      cr_assert_eq(trial->latency_ns.count, RING_RUNS * 64);
    else
      cr_assert_gt(trial->ns_per_message, 0);
    cr_assert_eq(rmdir(trial->directory), 0, "members were left behind");
  }
}

Test(ring_trial, the_bus_carries_all_workloads_between_processes)
{
  play_all(&ring_bus, false, 1);
}

Test(ring_trial, the_bus_carries_all_workloads_between_threads)
{
  play_all(&ring_bus, true, 1);
}

Test(ring_trial, several_rings_are_polled)
{
  play_all(&ring_bus_many, false, 1);
  play_all(&ring_bus_many, false, 16);
}

Test(ring_trial, bare_lines_carry_all_workloads)
{
  play_all(&ring_lines, false, 1);
}

/* ---- rings that lie: one word behind a lock is enough of a ring ---- */

enum fault { NONE, WRONG_WORD, WRONG_ORDER };

struct liar {
  uint64_t filled; /* messages sent */
  uint64_t taken;
  uint64_t message[WORDS];
};

static uint64_t liar_bytes(enum ring_size size, uint64_t depth)
{
  (void)size, (void)depth;
  return sizeof(struct liar);
}

static int liar_new(void *memory, enum ring_size size, uint64_t depth)
{
  (void)size, (void)depth;
  memset(memory, 0, sizeof(struct liar));
  return BUS_OK;
}

static BUS_ALWAYS_INLINE uint64_t liar_push(struct liar *liar, const uint64_t *message,
                                            uint64_t number, enum fault fault)
{
  if (BUS_LOAD_ACQUIRE(&liar->taken) != number)
    return 0;
  memcpy(liar->message, message, sizeof liar->message);
  if (number == 1000 && fault == WRONG_WORD)
    liar->message[3] ^= 1;
  if (number == 1000 && fault == WRONG_ORDER)
    liar->message[WORDS - 1]++;
  BUS_STORE_RELEASE(&liar->filled, number + 1);
  return 1;
}

static BUS_ALWAYS_INLINE uint64_t liar_pop(void *rx, struct ring_check *check)
{
  struct liar *liar = rx;
  if (BUS_LOAD_ACQUIRE(&liar->filled) != check->next + 1)
    return 0;
  ring_check_message(check, liar->message, WORDS, ring_table_last(check));
  BUS_STORE_RELEASE(&liar->taken, ++check->next);
  return 1;
}

#define DEFINE_LIAR(liar_name, fault)                                                              \
  static BUS_ALWAYS_INLINE uint64_t liar_name##_push(void *tx, const uint64_t *messages,           \
                                                     uint64_t number, uint64_t count)              \
  {                                                                                                \
    (void)count;                                                                                   \
    return liar_push(tx, messages, number, fault);                                                 \
  }                                                                                                \
  static const struct ring_ops liar_name##_ops = {WORDS, 1, liar_name##_push, liar_pop};           \
  RING_DEFINE_CODE(liar_name##_code, liar_name##_ops)                                              \
  static const struct ring_contestant liar_name = {.name = #liar_name,                             \
                                                   .between_processes = true,                      \
                                                   .channel_bytes = liar_bytes,                    \
                                                   .channel_new = liar_new,                        \
                                                   .code = {NULL, &liar_name##_code, NULL, NULL}};

DEFINE_LIAR(honest, NONE)
DEFINE_LIAR(flips_a_bit, WRONG_WORD)
DEFINE_LIAR(mixes_up_the_order, WRONG_ORDER)

Test(ring_trial, an_honest_ring_passes)
{
  play_all(&honest, false, 1);
  play_all(&honest, true, 1);
}

static void expect_refusal(const struct ring_contestant *contestant, const char *word)
{
  for (int workload = 0; workload < RING_WORKLOADS; workload++) {
    struct ring_trial *trial = new_trial(contestant, (enum ring_workload)workload, true);
    cr_assert_lt(ring_trial_play(trial), 0, "workload %d passed", workload);
    cr_assert(strstr(bus_error_message(), word), "%s", bus_error_message());
    trial = new_trial(contestant, (enum ring_workload)workload, false);
    cr_assert_lt(ring_trial_play(trial), 0, "workload %d passed between processes", workload);
  }
}

Test(ring_trial, one_flipped_bit_fails_the_trial)
{
  expect_refusal(&flips_a_bit, "contents not those");
}

Test(ring_trial, one_wrong_number_fails_the_trial)
{
  expect_refusal(&mixes_up_the_order, "1 of them out of order");
}

static int dies(struct ring_side *side)
{
  (void)side;
  _exit(3);
}

Test(ring_trial, a_follower_that_dies_ends_the_trial)
{
  struct ring_code code = honest_code;
  struct ring_contestant mortal = honest;
  code.follow[RING_SATURATED] = dies;
  mortal.code[RING_SIZE_64] = &code;
  struct ring_trial *trial = new_trial(&mortal, RING_SATURATED, false);
  cr_assert_lt(ring_trial_play(trial), 0);
  cr_assert(strstr(bus_error_message(), "ended too early"), "%s", bus_error_message());
}
