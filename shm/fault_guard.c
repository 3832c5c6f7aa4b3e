#include "fault_guard.h"

#include "error.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>

#define GUARDS_MAX 1024

struct guard {
  uintptr_t base; /* 0: free; stored last, so the handler never sees half a guard */
  size_t size;
  uint32_t *hit;
};

static struct guard guards[GUARDS_MAX];
static pthread_mutex_t guards_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct sigaction previous_action;
static bool installed;

static void pass_on(int number, siginfo_t *information, void *context)
{
  if (previous_action.sa_flags & SA_SIGINFO) {
    previous_action.sa_sigaction(number, information, context);
  } else if (previous_action.sa_handler != SIG_DFL && previous_action.sa_handler != SIG_IGN) {
    previous_action.sa_handler(number);
  } else {
    /* The default: the fault repeats when this handler returns, and kills. */
    signal(SIGBUS, SIG_DFL);
  }
}

static void on_sigbus(int number, siginfo_t *information, void *context)
{
  uintptr_t address = (uintptr_t)information->si_addr;
  for (size_t i = 0; i < GUARDS_MAX; i++) {
    uintptr_t base = BUS_LOAD_ACQUIRE(&guards[i].base);
    if (base == 0 || address < base || address - base >= guards[i].size)
      continue;
    void *zeros = mmap((void *)base, guards[i].size, PROT_READ,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (zeros == MAP_FAILED)
      break;
    BUS_STORE_RELEASE(guards[i].hit, 1u);
    return;
  }
  pass_on(number, information, context);
}

static int install(void)
{
  struct sigaction action = {0};
  action.sa_sigaction = on_sigbus;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGBUS, &action, &previous_action) != 0)
    return bus_error_set_errno("installing the SIGBUS handler");
  installed = true;
  return BUS_OK;
}

int bus_fault_guard_add(void *base, size_t size, uint32_t *hit)
{
  pthread_mutex_lock(&guards_mutex);
  int error = installed ? BUS_OK : install();
  size_t slot = 0;
  while (!error && slot < GUARDS_MAX && guards[slot].base != 0)
    slot++;
  if (!error && slot == GUARDS_MAX)
    error = bus_error_set(BUS_ERROR_NO_SPACE, "more than %d neighbours mapped at once", GUARDS_MAX);
  if (!error) {
    guards[slot].size = size;
    guards[slot].hit = hit;
    BUS_STORE_RELEASE(&guards[slot].base, (uintptr_t)base);
  }
  pthread_mutex_unlock(&guards_mutex);
  return error;
}

void bus_fault_guard_remove(void *base)
{
  pthread_mutex_lock(&guards_mutex);
  for (size_t i = 0; i < GUARDS_MAX; i++)
    if (guards[i].base == (uintptr_t)base)
      BUS_STORE_RELEASE(&guards[i].base, (uintptr_t)0);
  pthread_mutex_unlock(&guards_mutex);
}
