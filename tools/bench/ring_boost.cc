/* boost::lockfree::spsc_queue in shared memory: all it needs is taken from the channel, which both
 * processes have at the same address. The consumer reads in place. */
#include "tools/bench/ring_loops.h"

#include <boost/lockfree/spsc_queue.hpp>
#include <new>

namespace
{

constexpr uint64_t buffer_offset = 1024; /* of the messages: the queue object comes first */

template <uint64_t words> struct alignas(words < 8 ? 8 : 64) message {
  uint64_t word[words];
};

/* Hands out the one place there is. */
template <typename T> struct channel_allocator {
  using value_type = T;
  using size_type = std::size_t;
  using pointer = T *;
  template <typename U> struct rebind {
    using other = channel_allocator<U>;
  };
  void *place = nullptr;
  explicit channel_allocator(void *where) : place(where)
  {
  }
  template <typename U> channel_allocator(const channel_allocator<U> &other) : place(other.place)
  {
  }
  T *allocate(std::size_t)
  {
    return static_cast<T *>(place);
  }
  void deallocate(T *, std::size_t)
  {
  }
};

template <uint64_t words>
using queue =
    boost::lockfree::spsc_queue<message<words>,
                                boost::lockfree::allocator<channel_allocator<message<words>>>>;

template <uint64_t words>
BUS_ALWAYS_INLINE uint64_t push(void *tx, const uint64_t *messages, uint64_t, uint64_t)
{
  return static_cast<queue<words> *>(tx)->push(*reinterpret_cast<const message<words> *>(messages));
}

template <uint64_t words> BUS_ALWAYS_INLINE uint64_t pop(void *rx, ring_check *check)
{
  uint64_t taken = static_cast<queue<words> *>(rx)->consume_one([check](message<words> &place) {
    ring_check_message(check, &place, words, ring_table_last(check));
  });
  check->next += taken;
  return taken;
}

template <uint64_t words> void make(void *memory, uint64_t depth)
{
  static_assert(sizeof(queue<words>) <= buffer_offset, "the messages follow the queue");
  void *place = static_cast<char *>(memory) + buffer_offset;
  new (memory) queue<words>(depth - 1, channel_allocator<message<words>>(place));
}

constexpr ring_ops ops_1 = {1, 1, push<1>, pop<1>};
constexpr ring_ops ops_8 = {8, 1, push<8>, pop<8>};
constexpr ring_ops ops_16 = {16, 1, push<16>, pop<16>};
constexpr ring_ops ops_2048 = {2048, 1, push<2048>, pop<2048>};
RING_DEFINE_CODE(code_1, ops_1)
RING_DEFINE_CODE(code_8, ops_8)
RING_DEFINE_CODE(code_16, ops_16)
RING_DEFINE_CODE(code_2048, ops_2048)

uint64_t channel_bytes(ring_size size, uint64_t depth)
{
  return buffer_offset + depth * ring_size_bytes(size);
}

int channel_new(void *memory, ring_size size, uint64_t depth)
{
  switch (size) {
  case RING_SIZE_8:
    make<1>(memory, depth);
    break;
  case RING_SIZE_64:
    make<8>(memory, depth);
    break;
  case RING_SIZE_128:
    make<16>(memory, depth);
    break;
  default:
    make<2048>(memory, depth);
  }
  return BUS_OK;
}

} // namespace

const ring_contestant ring_boost = {"boost spsc_queue",
                                    true,
                                    false,
                                    channel_bytes,
                                    channel_new,
                                    nullptr,
                                    nullptr,
                                    nullptr,
                                    {&code_1, &code_8, &code_16, &code_2048}};
