/* moodycamel::ReaderWriterQueue. It allocates its blocks with malloc, so it lives in one process
 * and is run between threads. The consumer reads in place. */
#include "tools/bench/ring_loops.h"

#include <new>
#include <readerwriterqueue/readerwriterqueue.h>

namespace
{

template <uint64_t words> struct alignas(words < 8 ? 8 : 64) message {
  uint64_t word[words];
};

template <uint64_t words> using queue = moodycamel::ReaderWriterQueue<message<words>>;

template <uint64_t words>
BUS_ALWAYS_INLINE uint64_t push(void *tx, const uint64_t *messages, uint64_t, uint64_t)
{
  return static_cast<queue<words> *>(tx)->try_enqueue(
      *reinterpret_cast<const message<words> *>(messages));
}

template <uint64_t words> BUS_ALWAYS_INLINE uint64_t pop(void *rx, ring_check *check)
{
  queue<words> *from = static_cast<queue<words> *>(rx);
  const message<words> *place = from->peek();
  if (!place)
    return 0;
  ring_check_message(check, place, words, ring_table_last(check));
  from->pop();
  check->next++;
  return 1;
}

constexpr ring_ops ops_1 = {1, 1, push<1>, pop<1>};
constexpr ring_ops ops_8 = {8, 1, push<8>, pop<8>};
constexpr ring_ops ops_16 = {16, 1, push<16>, pop<16>};
constexpr ring_ops ops_2048 = {2048, 1, push<2048>, pop<2048>};
RING_DEFINE_CODE(code_1, ops_1)
RING_DEFINE_CODE(code_8, ops_8)
RING_DEFINE_CODE(code_16, ops_16)
RING_DEFINE_CODE(code_2048, ops_2048)

/* Calls `act` with the queue type of `size`. */
template <typename Act> void with_queue(ring_size size, void *memory, Act act)
{
  switch (size) {
  case RING_SIZE_8:
    act(static_cast<queue<1> *>(memory));
    break;
  case RING_SIZE_64:
    act(static_cast<queue<8> *>(memory));
    break;
  case RING_SIZE_128:
    act(static_cast<queue<16> *>(memory));
    break;
  default:
    act(static_cast<queue<2048> *>(memory));
  }
}

uint64_t channel_bytes(ring_size, uint64_t)
{
  return 4096;
}

template <typename Queue> void make(Queue *place, uint64_t depth)
{
  static_assert(sizeof(Queue) <= 4096, "the blocks are elsewhere");
  new (place) Queue(depth);
}

int channel_new(void *memory, ring_size size, uint64_t depth)
{
  try {
    with_queue(size, memory, [depth](auto *place) { make(place, depth); });
  } catch (const std::bad_alloc &) {
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  return BUS_OK;
}

template <typename Queue> void destroy(Queue *place)
{
  place->~Queue();
}

void channel_delete(void *memory, ring_size size)
{
  with_queue(size, memory, [](auto *place) { destroy(place); });
}

} // namespace

const ring_contestant ring_readerwriter = {"ReaderWriterQueue",
                                           false,
                                           false,
                                           channel_bytes,
                                           channel_new,
                                           channel_delete,
                                           nullptr,
                                           nullptr,
                                           {&code_1, &code_8, &code_16, &code_2048}};
