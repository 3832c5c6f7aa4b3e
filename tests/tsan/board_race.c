/* One writer and two readers of a board.
 *
 * Mutants: 1 the reader copies the struct; 2 the writer stores the struct; 3 the final stamp is
 * stored relaxed. */
#include "race.h"

#define WRITES  40000u
#define SYMBOLS 2u
#define READERS 2

static _Alignas(64) struct bus_signal board[SYMBOLS];
static uint64_t witness[SYMBOLS][WRITES + 1]; /* plain: ordered by B2 and B3 only */
static uint32_t finished;

static void write_slot(struct bus_signal *slot, const struct bus_signal *signal)
{
#if MUTANT == 2
  uint64_t stamp = slot->stamp + 2;
  struct bus_signal next = *signal;
  BUS_STORE_RELAXED(&slot->stamp, stamp - 1);
  BUS_FENCE_RELEASE();
  memcpy(slot, &next, offsetof(struct bus_signal, stamp));
  BUS_STORE_RELEASE(&slot->stamp, stamp);
#elif MUTANT == 3
  bus_word *to = (bus_word *)slot;
  const bus_word *from = (const bus_word *)signal;
  uint64_t stamp = to[7] + 2;
  BUS_STORE_RELAXED(&to[7], stamp - 1);
  BUS_FENCE_RELEASE();
  for (int i = 0; i < 7; i++)
    BUS_STORE_RELAXED(&to[i], from[i]);
  BUS_STORE_RELAXED(&to[7], stamp);
#else
  bus_board_write(slot, signal);
#endif
}

static int read_slot(const struct bus_signal *slot, struct bus_signal *signal)
{
#if MUTANT == 1
  uint64_t stamp = BUS_LOAD_ACQUIRE(&slot->stamp);
  if (stamp == 0)
    return 0;
  memcpy(signal, slot, offsetof(struct bus_signal, stamp));
  signal->stamp = stamp;
  BUS_FENCE_ACQUIRE();
  return !(stamp & 1) && BUS_LOAD_RELAXED(&slot->stamp) == stamp ? 1 : BUS_ERROR_AGAIN;
#else
  return bus_board_read(slot, signal);
#endif
}

static void fill(struct bus_signal *signal, uint64_t number)
{
  uint64_t words[8] = {0};
  for (unsigned i = 0; i < 7; i++)
    words[i] = race_word(number, i);
  memcpy(signal, words, sizeof words);
}

static void *write_all(void *context)
{
  (void)context;
  for (uint64_t number = 1; number <= WRITES; number++)
    for (unsigned symbol = 0; symbol < SYMBOLS; symbol++) {
      struct bus_signal signal;
      fill(&signal, number);
      witness[symbol][number] = number;
      write_slot(&board[symbol], &signal);
    }
  BUS_STORE_RELAXED(&finished, 1u);
  return NULL;
}

static void *read_all(void *context)
{
  uint64_t *reads = context;
  uint64_t newest[SYMBOLS] = {0};
  for (bool last = false; !last;) {
    last = BUS_LOAD_RELAXED(&finished);
    for (unsigned symbol = 0; symbol < SYMBOLS; symbol++) {
      struct bus_signal signal, wanted;
      if (read_slot(&board[symbol], &signal) != 1)
        continue;
      uint64_t number = signal.stamp / 2;
      RACE_CHECK(number >= newest[symbol] && number <= WRITES);
      RACE_CHECK(witness[symbol][number] == number);
      fill(&wanted, number);
      wanted.stamp = signal.stamp;
      RACE_CHECK(memcmp(&wanted, &signal, sizeof signal) == 0);
      newest[symbol] = number;
      ++*reads;
    }
    sched_yield();
  }
  return NULL;
}

int main(void)
{
  pthread_t threads[1 + READERS];
  uint64_t reads[READERS] = {0};
  for (int i = 0; i < READERS; i++)
    race_start(&threads[i], read_all, &reads[i]);
  race_start(&threads[READERS], write_all, NULL);
  race_join(threads, 1 + READERS);
  struct bus_signal signal;
  RACE_CHECK(bus_board_read(&board[0], &signal) == 1 && signal.stamp == 2 * (uint64_t)WRITES);
  RACE_CHECK(reads[0] > 0 && reads[1] > 0);
  printf("%u writes, %llu and %llu reads\n", WRITES * SYMBOLS, (unsigned long long)reads[0],
         (unsigned long long)reads[1]);
  return 0;
}
