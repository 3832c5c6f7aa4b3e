/* base.h: the few macros and types that every other header needs.
 *
 * Usable from C17 and C++17, with gcc and clang. */
#ifndef SIGNALBUS_BASE_H
#define SIGNALBUS_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Transfer unit between cores. Objects that different processes write are kept two lines apart,
 * because x86 prefetchers fetch lines in pairs. */
#define BUS_CACHE_LINE_BYTES    64u
#define BUS_FALSE_SHARING_BYTES 128u
#define BUS_HUGE_PAGE_BYTES     ((size_t)2 << 20)

/* Longest member, ring, counter or symbol name, the terminating NUL included. */
#define BUS_NAME_BYTES                  32u

#define BUS_LIKELY(condition)           __builtin_expect(!!(condition), 1)
#define BUS_UNLIKELY(condition)         __builtin_expect(!!(condition), 0)
#define BUS_ALWAYS_INLINE               inline __attribute__((always_inline))
#define BUS_PRINTF(string_index, first) __attribute__((format(printf, string_index, first)))
#define BUS_EXPORT                      __attribute__((visibility("default")))
#define BUS_COUNT_OF(array)             (sizeof(array) / sizeof((array)[0]))

/* `alignment` must be a power of two. */
#define BUS_ALIGN_UP(value, alignment)                                                             \
  (((value) + (alignment)-1) & ~((__typeof__(value))(alignment)-1))

#ifdef __cplusplus
#define BUS_STATIC_ASSERT      static_assert
#define BUS_BEGIN_DECLARATIONS extern "C" {
#define BUS_END_DECLARATIONS   }
#else
#define BUS_STATIC_ASSERT _Static_assert
#define BUS_BEGIN_DECLARATIONS
#define BUS_END_DECLARATIONS
#endif

/* A 64-bit word of shared memory. It may alias the record structs, so that the same slot can be
 * filled through a struct by its owner and copied word by word by an observer. */
typedef uint64_t __attribute__((may_alias)) bus_word;

/* The atomics used on shared memory. The compiler builtins are used instead of <stdatomic.h> so
 * that the headers serve C++ as well and so that a slot stays a plain struct to its user. */
#define BUS_LOAD_RELAXED(address)         __atomic_load_n((address), __ATOMIC_RELAXED)
#define BUS_LOAD_ACQUIRE(address)         __atomic_load_n((address), __ATOMIC_ACQUIRE)
#define BUS_STORE_RELAXED(address, value) __atomic_store_n((address), (value), __ATOMIC_RELAXED)
#define BUS_STORE_RELEASE(address, value) __atomic_store_n((address), (value), __ATOMIC_RELEASE)
#define BUS_FENCE_ACQUIRE()               __atomic_thread_fence(__ATOMIC_ACQUIRE)
#define BUS_FENCE_RELEASE()               __atomic_thread_fence(__ATOMIC_RELEASE)

/* Tells the core that this is a spin loop. Costs 20 to 140 cycles on x86. Orders nothing. Any
 * thread. */
static BUS_ALWAYS_INLINE void bus_cpu_relax(void)
{
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb" ::: "memory");
#endif
}

/* Asks for the line at `address` in a writable state, without waiting for it. A hint: any address
 * is allowed. The builtin emits PREFETCHT0 unless the compiler is told that the CPU has PREFETCHW;
 * every x86-64 CPU either has it or executes it as a NOP. */
static BUS_ALWAYS_INLINE void bus_prefetch_for_write(const void *address)
{
#if defined(__x86_64__)
  __asm__ volatile("prefetchw %0" ::"m"(*(const char *)address));
#else
  __builtin_prefetch(address, 1, 3);
#endif
}

#endif
