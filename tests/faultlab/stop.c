/* stop.c: SIGSTOP is not death. A stopped member keeps its lock: it is reported as stalled, nobody
 * can take its file over, the others go on or wait as their policy says, and after SIGCONT nothing
 * is missing. */
#include "experiments.h"
#include "workers.h"

#include <signal.h>
#include <sys/wait.h>

#define STOPS    60u
#define STALL_NS 2000000u

static void stop_worker(pid_t pid)
{
  int status;
  kill(pid, SIGSTOP);
  LAB_CHECK(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status),
            "a worker ended instead of stopping: status %#x", (unsigned)status);
}

/* Stalled, and not to be had. */
static void check_not_stolen(const char *name, int (*take)(struct bus_member **))
{
  struct bus_neighbour *neighbour;
  struct bus_member *member;
  LAB_CHECK(bus_neighbour_attach(lab_directory, name, false, &neighbour) == BUS_OK,
            "a stopped member counts as dead: %s", bus_error_message());
  enum bus_neighbour_status status;
  while ((status = bus_neighbour_status(neighbour, STALL_NS)) != BUS_NEIGHBOUR_STALLED) {
    LAB_CHECK(status == BUS_NEIGHBOUR_ALIVE, "a stopped member counts as %s",
              bus_neighbour_status_name(status));
    lab_sleep_us(500);
  }
  bus_neighbour_detach(neighbour);
  LAB_CHECK(take(&member) == BUS_ERROR_BUSY, "a stopped member's file was taken over");
  LAB_CHECK(bus_member_delete(lab_directory, name) == BUS_ERROR_BUSY,
            "a stopped member's file was deleted");
}

static void await_beyond(const uint64_t *value, uint64_t mark, pid_t pid, const char *what)
{
  while (worker_read(value) <= mark) {
    lab_must_live(pid, what);
    lab_sleep_us(50);
  }
}

static void begin(uint32_t policy, uint64_t depth, pid_t *p, pid_t *reader, enum worker_id id,
                  void (*body)(void))
{
  rig_spec = (struct rig_spec){.record_size = 64, .policy = policy, .depth = depth};
  workers_share();
  *p = worker_start(WORKER_PRODUCER, worker_producer);
  *reader = worker_start(id, body);
  worker_await(WORKER_PRODUCER, PHASE_RUNNING);
  worker_await(id, PHASE_RUNNING);
}

static void end(pid_t p, pid_t reader)
{
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)1);
  lab_join(p, "the producer");
  BUS_STORE_RELEASE(&lab_control->stop, (uint64_t)2);
  lab_join(reader, "the reader");
}

static uint64_t ring_dropped(void)
{
  struct rig_producer p;
  rig_producer_open(&p);
  uint64_t dropped = p.producer.header->dropped;
  LAB_CHECK(p.producer.header->positions_rejected == 0, "impossible positions were counted");
  rig_producer_close(&p);
  return dropped;
}

static void random_pause(void)
{
  lab_sleep_us(lab_random_below(3000));
}

static void stop_the_consumer(uint32_t policy)
{
  pid_t p, c;
  begin(policy, 64, &p, &c, WORKER_CONSUMER, worker_consumer);
  for (unsigned i = 0; i < STOPS; i++) {
    random_pause();
    stop_worker(c);
    /* The ring fills up, then each attempt is refused. */
    await_beyond(&lab_control->refused, worker_read(&lab_control->refused) + 2, p, "the producer");
    uint64_t full = worker_read(&lab_control->committed);
    check_not_stolen("c", rig_consumer_new);
    LAB_CHECK(worker_read(&lab_control->committed) == full,
              "the producer overwrites what a stopped consumer has not read");
    LAB_CHECK(full - lab_control->read <= rig_spec.depth, "more unread than the ring holds");
    kill(c, SIGCONT);
    await_beyond(&lab_control->read, full, c, "the consumer");
  }
  end(p, c);
  LAB_CHECK(lab_control->read == lab_control->committed, "%llu committed, %llu read",
            (unsigned long long)lab_control->committed, (unsigned long long)lab_control->read);
  uint64_t dropped = ring_dropped();
  LAB_CHECK(dropped == (policy == BUS_POLICY_DROP_NEWEST ? lab_control->refused : 0),
            "%llu refused, %llu counted as dropped", (unsigned long long)lab_control->refused,
            (unsigned long long)dropped);
  lab_count("%u stops, %llu records, %llu dropped", STOPS,
            (unsigned long long)lab_control->committed, (unsigned long long)dropped);
}

void stop_consumer_wait(void)
{
  stop_the_consumer(BUS_POLICY_WAIT);
}

void stop_consumer_drop(void)
{
  stop_the_consumer(BUS_POLICY_DROP_NEWEST);
}

void stop_observer_overwrite(void)
{
  pid_t p, o;
  begin(BUS_POLICY_OVERWRITE, 64, &p, &o, WORKER_OBSERVER, worker_observer);
  for (unsigned i = 0; i < STOPS; i++) {
    random_pause();
    stop_worker(o);
    /* Nobody holds the producer back: several laps. */
    await_beyond(&lab_control->committed, worker_read(&lab_control->committed) + 500, p,
                 "the producer");
    uint64_t observed = lab_control->observed;
    kill(o, SIGCONT);
    await_beyond(&lab_control->observed, observed, o, "the observer");
  }
  end(p, o);
  uint64_t since = lab_control->committed - lab_control->value[VALUE_OBSERVED_FROM];
  LAB_CHECK(lab_control->observed + lab_control->lost == since,
            "%llu observed and %llu lost are not the %llu committed",
            (unsigned long long)lab_control->observed, (unsigned long long)lab_control->lost,
            (unsigned long long)since);
  LAB_CHECK(lab_control->value[VALUE_OVERRUNS] >= STOPS, "laps went unnoticed");
  lab_count("%u stops, %llu records, %llu lost, all counted", STOPS,
            (unsigned long long)lab_control->committed, (unsigned long long)lab_control->lost);
}

void stop_producer(void)
{
  pid_t p, c;
  begin(BUS_POLICY_WAIT, 64, &p, &c, WORKER_CONSUMER, worker_consumer);
  for (unsigned i = 0; i < STOPS; i++) {
    random_pause();
    stop_worker(p);
    uint64_t committed = worker_read(&lab_control->committed);
    if (committed)
      await_beyond(&lab_control->read, committed - 1, c, "the consumer");
    check_not_stolen("p", rig_producer_new);
    LAB_CHECK(lab_control->read <= lab_control->begun, "records that nobody wrote");
    kill(p, SIGCONT);
    await_beyond(&lab_control->read, committed + 1, c, "the consumer");
  }
  end(p, c);
  LAB_CHECK(lab_control->read == lab_control->committed, "%llu committed, %llu read",
            (unsigned long long)lab_control->committed, (unsigned long long)lab_control->read);
  lab_count("%u stops, %llu records", STOPS, (unsigned long long)lab_control->committed);
}
