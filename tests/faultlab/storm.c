/* storm.c: producer, relay and observer are killed at random moments and forked again, while the
 * stream goes on through them. */
#include "experiments.h"
#include "workers.h"

#include <signal.h>
#include <sys/prctl.h>

#define WORKERS 3u

static void (*const bodies[WORKERS])(void) = {worker_producer, worker_relay,
                                              worker_observer_of_both};
static const char *const names[WORKERS] = {"producer", "relay", "observer"};

/* The storm must not stop the stream: something comes through between any two looks. */
static void check_progress(uint64_t *last)
{
  uint64_t now = worker_read(&lab_control->value[VALUE_EMITTED]);
  LAB_CHECK(now > *last, "nothing came through any more at %llu", (unsigned long long)now);
  *last = now;
}

static void finish(pid_t *pids)
{
  worker_await(WORKER_PRODUCER, PHASE_RUNNING);
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)1);
  lab_join(pids[WORKER_PRODUCER], names[WORKER_PRODUCER]);
  while (worker_read(&lab_control->value[VALUE_EMITTED]) != lab_control->committed) {
    lab_must_live(pids[WORKER_CONSUMER], names[WORKER_CONSUMER]);
    lab_sleep_us(100);
  }
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)2);
  lab_join(pids[WORKER_CONSUMER], names[WORKER_CONSUMER]);
  lab_join(pids[WORKER_OBSERVER], names[WORKER_OBSERVER]);
  struct rig_producer p;
  rig_producer_open(&p);
  LAB_CHECK(p.producer.next == lab_control->committed && p.producer.header->dropped == 0 &&
                p.producer.header->positions_rejected == 0,
            "the producer counts %llu dropped and %llu impossible positions",
            (unsigned long long)p.producer.header->dropped,
            (unsigned long long)p.producer.header->positions_rejected);
  rig_producer_close(&p);
}

/* Who dies together: one of them, or two, or all. */
static const unsigned victims[] = {1, 2, 4, 1, 2, 3, 3, 5, 6, 7};

static uint64_t kill_some(pid_t *pids, unsigned which, uint64_t *kills, uint64_t *phases)
{
  uint64_t count = 0;
  for (unsigned i = 0; i < WORKERS; i++)
    if (which & 1u << i) {
      lab_must_live(pids[i], names[i]);
      phases[worker_read(&lab_control->phase[i])]++;
      kill(pids[i], SIGKILL);
    }
  for (unsigned i = 0; i < WORKERS; i++)
    if (which & 1u << i) {
      lab_kill(pids[i]);
      pids[i] = worker_start((enum worker_id)i, bodies[i]);
      kills[i]++;
      count++;
    }
  return count;
}

void kill_storm(void)
{
  uint64_t kills[WORKERS] = {0}, phases[3] = {0}, emitted = 0, done = 0, look = 10000;
  pid_t pids[WORKERS];
  rig_spec = (struct rig_spec){.record_size = 64, .policy = BUS_POLICY_WAIT, .depth = 64};
  workers_share();
  prctl(PR_SET_TIMERSLACK, 1ul);
  for (unsigned i = 0; i < WORKERS; i++)
    pids[i] = worker_start((enum worker_id)i, bodies[i]);
  uint64_t start_ns = bus_clock_monotonic_ns();
  while (done < lab_kills) {
    lab_sleep_us(lab_random_below(lab_random_below(4) ? 150 : 700));
    done += kill_some(pids, victims[lab_random_below(BUS_COUNT_OF(victims))], kills, phases);
    if (done >= look) {
      check_progress(&emitted);
      look += 10000;
    }
  }
  uint64_t elapsed_ns = bus_clock_monotonic_ns() - start_ns;
  finish(pids);
  lab_count("%llu kills (%llu producer, %llu relay, %llu observer; %llu while starting, %llu while "
            "running), %llu/s; %llu records and outputs, %llu seen again, %llu observed, %llu "
            "overrun",
            (unsigned long long)done, (unsigned long long)kills[0], (unsigned long long)kills[1],
            (unsigned long long)kills[2],
            (unsigned long long)(phases[PHASE_FORKED] + phases[PHASE_STARTING]),
            (unsigned long long)phases[PHASE_RUNNING],
            (unsigned long long)(done * 1000000000u / (elapsed_ns + 1)),
            (unsigned long long)lab_control->committed,
            (unsigned long long)lab_control->value[VALUE_AGAIN],
            (unsigned long long)lab_control->observed, (unsigned long long)lab_control->lost);
}
