#include "tools/supervisor.h"

#include "shm/clock.h"
#include "shm/log.h"
#include "shm/member.h"
#include "shm/neighbour.h"
#include "shm/notify.h"
#include "tools/spawn.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS     UINT64_C(1000000)
#define BEAT_NS       (100 * NS_PER_MS)
#define READY_POLL_NS (10 * NS_PER_MS)
#define NEVER_NS      UINT64_MAX

enum child_state { CHILD_IDLE, CHILD_ALIVE, CHILD_BACKOFF, CHILD_ENDED };

enum phase { PHASE_STARTING, PHASE_RUNNING, PHASE_STOPPING };

struct child {
  const struct bus_config_member *config;
  enum child_state state;
  pid_t pid;               /* CHILD_ALIVE */
  uint64_t began_ns;       /* of the first start */
  uint64_t started_ns;     /* of the latest */
  uint64_t restart_due_ns; /* CHILD_BACKOFF */
  uint64_t backoff_ms;     /* before the next restart */
  uint64_t restarts;
  uint64_t kill_due_ns; /* after SIGTERM; 0: not being stopped */
  bool killed;
  bool failed; /* its latest end was not in order */
  uint64_t *starts_counter;
  uint64_t *restarts_counter;
};

struct supervisor {
  const struct bus_supervisor_options *options;
  struct bus_member *member;
  uint64_t *failures_counter;
  uint64_t *kills_counter;
  struct bus_spawner spawner;
  enum phase phase;
  uint32_t next; /* PHASE_STARTING: the child to start or to wait for */
  uint32_t count;
  uint32_t signals;        /* that asked for the stop */
  char start_failure[192]; /* "": none */
  uint64_t began_ns;
  int signal_fd;
  struct child children[BUS_CONFIG_MEMBERS_MAX];
};

static void say(struct supervisor *supervisor, const char *name, const char *format, ...)
    BUS_PRINTF(3, 4);

static void say(struct supervisor *supervisor, const char *name, const char *format, ...)
{
  struct timespec now;
  struct tm utc;
  char date[32], text[768];
  clock_gettime(CLOCK_REALTIME, &now);
  gmtime_r(&now.tv_sec, &utc);
  strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  /* The journal has a clock of its own. */
  if (supervisor->options->log == stderr && bus_log_goes_to_journal()) {
    bus_log(BUS_LOG_NOTICE, "%s: %s", name, text);
    return;
  }
  fprintf(supervisor->options->log, "%s.%03ldZ %s: %s\n", date, now.tv_nsec / 1000000, name, text);
  fflush(supervisor->options->log);
}

/* What the child does now, for people: in the supervisor's own file, and for a service manager. */
static void show(struct supervisor *supervisor, const struct child *child, const char *text)
{
  char name[BUS_NAME_BYTES];
  snprintf(name, sizeof name, BUS_SUPERVISOR_TEXT_PREFIX "%s", child->config->name);
  bus_member_set_text(supervisor->member, name, "%s", text);
  bus_notify_status("%s: %s", child->config->name, text);
}

/* ---- the supervisor's own member file ---- */

enum { COUNTER_FAILURES, COUNTER_KILLS, TEXT_CONFIG, OBJECTS_OWN };
enum { COUNTER_STARTS, COUNTER_RESTARTS, TEXT_STATE, OBJECTS_PER_CHILD };

struct objects {
  struct bus_object_spec specs[OBJECTS_OWN + OBJECTS_PER_CHILD * BUS_CONFIG_MEMBERS_MAX];
  char names[OBJECTS_OWN + OBJECTS_PER_CHILD * BUS_CONFIG_MEMBERS_MAX][BUS_NAME_BYTES];
};

static void add_object(struct objects *objects, uint32_t index, uint32_t type, const char *prefix,
                       const char *member)
{
  snprintf(objects->names[index], BUS_NAME_BYTES, "%s%s", prefix, member);
  objects->specs[index] =
      (struct bus_object_spec){.type = type,
                               .name = objects->names[index],
                               .unit = type == BUS_OBJECT_COUNTER ? "times" : NULL,
                               .depth = type == BUS_OBJECT_TEXT ? BUS_SUPERVISOR_TEXT_BYTES : 0};
}

static int create_member(struct supervisor *supervisor, const struct objects *objects)
{
  struct bus_member_config config = {.directory = supervisor->options->directory,
                                     .name = BUS_SUPERVISOR_MEMBER,
                                     .kind = BUS_SUPERVISOR_KIND,
                                     .objects = objects->specs,
                                     .object_count =
                                         OBJECTS_OWN + OBJECTS_PER_CHILD * supervisor->count,
                                     .takeover = BUS_TAKEOVER_NEVER,
                                     .numa_node = -1,
                                     .core = -1,
                                     .small_pages = true};
  return bus_member_new(&config, &supervisor->member);
}

static int join_bus(struct supervisor *supervisor)
{
  static struct objects objects; /* one thread */
  add_object(&objects, COUNTER_FAILURES, BUS_OBJECT_COUNTER, "failed_exits", "");
  add_object(&objects, COUNTER_KILLS, BUS_OBJECT_COUNTER, "kills", "");
  add_object(&objects, TEXT_CONFIG, BUS_OBJECT_TEXT, "config", "");
  objects.specs[TEXT_CONFIG].depth = 1024; /* a path */
  for (uint32_t i = 0; i < supervisor->count; i++) {
    uint32_t first = OBJECTS_OWN + OBJECTS_PER_CHILD * i;
    const char *name = supervisor->children[i].config->name;
    add_object(&objects, first + COUNTER_STARTS, BUS_OBJECT_COUNTER, "starts.", name);
    add_object(&objects, first + COUNTER_RESTARTS, BUS_OBJECT_COUNTER, "restarts.", name);
    add_object(&objects, first + TEXT_STATE, BUS_OBJECT_TEXT, BUS_SUPERVISOR_TEXT_PREFIX, name);
  }
  int error = create_member(supervisor, &objects);
  if (error)
    return error;
  struct bus_member *member = supervisor->member;
  const char(*names)[BUS_NAME_BYTES] = objects.names;
  supervisor->failures_counter =
      bus_member_object(member, BUS_OBJECT_COUNTER, names[COUNTER_FAILURES]);
  supervisor->kills_counter = bus_member_object(member, BUS_OBJECT_COUNTER, names[COUNTER_KILLS]);
  bus_member_set_text(member, names[TEXT_CONFIG], "%s", supervisor->options->config_file);
  for (uint32_t i = 0; i < supervisor->count; i++) {
    struct child *child = &supervisor->children[i];
    names = &objects.names[OBJECTS_OWN + OBJECTS_PER_CHILD * i];
    child->starts_counter = bus_member_object(member, BUS_OBJECT_COUNTER, names[COUNTER_STARTS]);
    child->restarts_counter =
        bus_member_object(member, BUS_OBJECT_COUNTER, names[COUNTER_RESTARTS]);
    show(supervisor, child, "not started yet");
  }
  return BUS_OK;
}

/* ---- one child ---- */

/* True when the child's file is in state RUN, and by the child (or a process that it started): the
 * file may still show the RUN of a predecessor that was killed. Its owner writes the state first
 * and the heartbeat next, so a heartbeat of our time makes a state read after it the new one. */
static bool is_ready(const struct supervisor *supervisor, const struct child *child)
{
  struct bus_neighbour *neighbour;
  struct bus_member_header first, second;
  if (bus_neighbour_attach(supervisor->options->directory, child->config->name, false,
                           &neighbour) != BUS_OK)
    return false;
  bus_neighbour_live(neighbour, &first);
  BUS_FENCE_ACQUIRE();
  bus_neighbour_live(neighbour, &second);
  bus_neighbour_detach(neighbour);
  return first.heartbeat_ns >= child->started_ns && second.state == BUS_STATE_RUN;
}

static void schedule_restart(struct child *child, uint64_t now_ns, uint64_t ran_ns, char *next,
                             size_t next_size)
{
  uint64_t most_ms = (uint64_t)child->config->restart_backoff_ms_max;
  if (ran_ns >= BUS_SUPERVISOR_SETTLED_NS)
    child->backoff_ms = (uint64_t)child->config->restart_backoff_ms;
  child->state = CHILD_BACKOFF;
  child->restart_due_ns = now_ns + child->backoff_ms * NS_PER_MS;
  snprintf(next, next_size, ", restart %" PRIu64 " in %" PRIu64 " ms", child->restarts + 1,
           child->backoff_ms);
  child->backoff_ms = child->backoff_ms * 2 < most_ms ? child->backoff_ms * 2 : most_ms;
}

/* A program that cannot be run at its first start is a mistake in the configuration: the child is
 * CHILD_ENDED. Later it may be in the middle of being replaced: tried again. */
static void start_child(struct supervisor *supervisor, struct child *child)
{
  const struct bus_config_member *config = child->config;
  bool again = child->state == CHILD_BACKOFF;
  char next[64] = "";
  child->started_ns = bus_clock_monotonic_ns();
  child->kill_due_ns = 0;
  child->killed = false;
  if (again) {
    child->restarts++;
    bus_counter_add(child->restarts_counter, 1);
  } else {
    child->began_ns = child->started_ns;
    child->backoff_ms = (uint64_t)config->restart_backoff_ms;
  }
  bus_counter_add(child->starts_counter, 1);
  if (bus_spawn(&supervisor->spawner, config, &child->pid) != BUS_OK) {
    child->failed = true;
    child->state = CHILD_ENDED;
    bus_counter_add(supervisor->failures_counter, 1);
    if (again)
      schedule_restart(child, child->started_ns, 0, next, sizeof next);
    say(supervisor, config->name, "%s%s", bus_error_message(), next);
    show(supervisor, child, again ? next + 2 : "could not be started");
    return;
  }
  child->state = CHILD_ALIVE;
  show(supervisor, child, "running");
  if (again)
    say(supervisor, config->name, "restarted, pid %d (restart %" PRIu64 ")", (int)child->pid,
        child->restarts);
  else
    say(supervisor, config->name, "started, pid %d", (int)child->pid);
}

/* Signals the child's whole process group. */
static void signal_child(const struct child *child, int number)
{
  if (kill(-child->pid, number) != 0)
    kill(child->pid, number);
}

static void kill_child(struct supervisor *supervisor, struct child *child)
{
  child->killed = true;
  bus_counter_add(supervisor->kills_counter, 1);
  signal_child(child, SIGKILL);
}

static void begin_stop(struct supervisor *supervisor, const char *reason)
{
  if (supervisor->phase == PHASE_STOPPING)
    return;
  say(supervisor, BUS_SUPERVISOR_MEMBER, "stopping: %s", reason);
  bus_notify_stopping();
  supervisor->phase = PHASE_STOPPING;
  for (uint32_t i = 0; i < supervisor->count; i++) {
    struct child *child = &supervisor->children[i];
    if (child->state == CHILD_BACKOFF)
      show(supervisor, child, "ended; not started again, because the bus stops");
    if (child->state != CHILD_ALIVE)
      child->state = CHILD_ENDED;
  }
}

static void fail_start(struct supervisor *supervisor, const struct child *child, const char *reason)
{
  snprintf(supervisor->start_failure, sizeof supervisor->start_failure, "%s %s",
           child->config->name, reason);
  begin_stop(supervisor, supervisor->start_failure);
}

/* Alive and not ready: most often the command and the section do not name the same member. */
static void fail_timeout(struct supervisor *supervisor, const struct child *child,
                         const char *limit)
{
  char reason[96];
  if (child->state == CHILD_ALIVE)
    say(supervisor, child->config->name,
        "runs, but %s/%s is not in state run: its command must use that bus (--bus %%{bus} or "
        "$SIGNAL_BUS) and name (--name %%{name}); for a program that is no member: start_wait=none",
        supervisor->options->directory, child->config->name);
  snprintf(reason, sizeof reason, "was not ready within %s", limit);
  fail_start(supervisor, child, reason);
}

/* ---- how a child ended ---- */

static void say_exit(struct supervisor *supervisor, const struct child *child,
                     const siginfo_t *info, uint64_t ran_ns, const char *next)
{
  char how[96], text[BUS_SUPERVISOR_TEXT_BYTES];
  if (info->si_code == CLD_EXITED)
    snprintf(how, sizeof how, "exited with status %d", info->si_status);
  else
    snprintf(how, sizeof how, "killed by signal %d (%s)%s", info->si_status,
             strsignal(info->si_status), info->si_code == CLD_DUMPED ? ", core dumped" : "");
  say(supervisor, child->config->name, "%s after %.3f s%s", how, (double)ran_ns / 1e9, next);
  /* A restart comes first: whoever reads it needs to know that alone. */
  snprintf(text, sizeof text, "%s%s%s", *next ? next + 2 : "", *next ? "; " : "", how);
  show(supervisor, child, text);
}

static void handle_exit(struct supervisor *supervisor, struct child *child, const siginfo_t *info)
{
  uint64_t now_ns = bus_clock_monotonic_ns(), ran_ns = now_ns - child->started_ns;
  bool stopping = supervisor->phase == PHASE_STOPPING;
  bool stopped = child->kill_due_ns && info->si_code == CLD_KILLED && info->si_status == SIGTERM;
  char next[64] = "";
  int32_t restart = child->config->restart;
  child->pid = 0;
  child->state = CHILD_ENDED;
  child->failed = !stopped && !(info->si_code == CLD_EXITED && info->si_status == 0);
  if (child->failed)
    bus_counter_add(supervisor->failures_counter, 1);
  bool again = !stopping && (restart == BUS_RESTART_ALWAYS ||
                             (restart == BUS_RESTART_ON_FAILURE && child->failed));
  if (again)
    schedule_restart(child, now_ns, ran_ns, next, sizeof next);
  say_exit(supervisor, child, info, ran_ns, next);
  int32_t essential = child->config->essential;
  if (!stopping && !again &&
      (essential == BUS_ESSENTIAL_YES ||
       (essential == BUS_ESSENTIAL_ON_FAILURE && child->failed))) {
    char reason[96];
    snprintf(reason, sizeof reason, "%s is essential and %s", child->config->name,
             child->failed ? "has failed" : "is done");
    begin_stop(supervisor, reason);
  }
}

static void reap(struct supervisor *supervisor)
{
  for (uint32_t i = 0; i < supervisor->count; i++) {
    struct child *child = &supervisor->children[i];
    siginfo_t info = {0};
    if (child->state != CHILD_ALIVE ||
        waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
        info.si_pid == 0)
      continue;
    /* What it leaves behind in its group would hold its file's lock or its sockets. As long as it
     * has not been waited for, its number belongs to nobody else. */
    kill(-child->pid, SIGKILL);
    waitid(P_PID, (id_t)child->pid, &info, WEXITED);
    handle_exit(supervisor, child, &info);
  }
}

/* ---- the phases ---- */

/* Starts what is next, or waits for it. Returns when the next step is due. */
static uint64_t step_starting(struct supervisor *supervisor)
{
  while (supervisor->phase == PHASE_STARTING && supervisor->next < supervisor->count) {
    struct child *child = &supervisor->children[supervisor->next];
    char limit[48];
    if (child->state == CHILD_IDLE) {
      start_child(supervisor, child);
      if (child->state == CHILD_ENDED)
        fail_start(supervisor, child, "could not be started");
      continue;
    }
    uint64_t now_ns = bus_clock_monotonic_ns(); /* never before the child's own began_ns */
    bool waits = child->config->start_wait == BUS_START_WAIT_RUNNING;
    if (child->state == CHILD_ENDED && child->failed && waits) {
      fail_start(supervisor, child, "ended before it was ready");
    } else if (!waits || child->state == CHILD_ENDED ||
               (child->state == CHILD_ALIVE && is_ready(supervisor, child))) {
      supervisor->next++;
    } else if (now_ns - child->began_ns > (uint64_t)child->config->start_timeout_ms * NS_PER_MS) {
      snprintf(limit, sizeof limit, "start_timeout_ms=%d", child->config->start_timeout_ms);
      fail_timeout(supervisor, child, limit);
    } else {
      return now_ns + READY_POLL_NS;
    }
  }
  if (supervisor->phase == PHASE_STARTING) {
    supervisor->phase = PHASE_RUNNING;
    bus_member_run(supervisor->member);
    say(supervisor, BUS_SUPERVISOR_MEMBER, "all %u members started", supervisor->count);
    bus_notify_status("all %u members started", supervisor->count);
    bus_notify_ready();
  }
  return NEVER_NS;
}

static void check_start_limit(struct supervisor *supervisor, uint64_t now_ns)
{
  uint64_t limit_ns = (uint64_t)supervisor->options->start_timeout_s * 1000 * NS_PER_MS;
  if (supervisor->phase == PHASE_STARTING && limit_ns && now_ns - supervisor->began_ns > limit_ns)
    fail_timeout(supervisor, &supervisor->children[supervisor->next], "the time for all");
}

static uint64_t step_restarts(struct supervisor *supervisor, uint64_t now_ns)
{
  uint64_t due_ns = NEVER_NS;
  for (uint32_t i = 0; i < supervisor->count; i++) {
    struct child *child = &supervisor->children[i];
    if (child->state != CHILD_BACKOFF)
      continue;
    if (child->restart_due_ns <= now_ns)
      start_child(supervisor, child);
    else if (child->restart_due_ns < due_ns)
      due_ns = child->restart_due_ns;
  }
  return due_ns;
}

/* Stops the last one that still lives; the one before it when that has ended. */
static uint64_t step_stopping(struct supervisor *supervisor, uint64_t now_ns)
{
  for (uint32_t i = supervisor->count; i-- > 0;) {
    struct child *child = &supervisor->children[i];
    if (child->state != CHILD_ALIVE)
      continue;
    if (!child->kill_due_ns && !child->killed) {
      say(supervisor, child->config->name, "stopping, pid %d", (int)child->pid);
      show(supervisor, child, "stopping");
      child->kill_due_ns = now_ns + (uint64_t)child->config->stop_timeout_ms * NS_PER_MS;
      signal_child(child, SIGTERM);
    } else if (!child->killed && now_ns >= child->kill_due_ns) {
      say(supervisor, child->config->name, "did not stop within %d ms; killing pid %d",
          child->config->stop_timeout_ms, (int)child->pid);
      kill_child(supervisor, child);
    }
    return child->killed ? NEVER_NS : child->kill_due_ns;
  }
  return NEVER_NS;
}

static void take_signals(struct supervisor *supervisor)
{
  struct signalfd_siginfo info;
  while (read(supervisor->signal_fd, &info, sizeof info) == (ssize_t)sizeof info) {
    if (info.ssi_signo == SIGCHLD)
      continue;
    supervisor->signals++;
    if (supervisor->signals == 1) { /* the first one only stops, also when that is under way */
      if (supervisor->phase == PHASE_STOPPING)
        say(supervisor, BUS_SUPERVISOR_MEMBER, "%s: already stopping; once more kills all at once",
            strsignal((int)info.ssi_signo));
      begin_stop(supervisor, strsignal((int)info.ssi_signo));
      continue;
    }
    say(supervisor, BUS_SUPERVISOR_MEMBER, "%s again: killing all at once",
        strsignal((int)info.ssi_signo));
    for (uint32_t i = supervisor->count; i-- > 0;)
      if (supervisor->children[i].state == CHILD_ALIVE)
        kill_child(supervisor, &supervisor->children[i]);
  }
}

static bool is_over(const struct supervisor *supervisor)
{
  if (supervisor->phase == PHASE_STARTING)
    return false;
  for (uint32_t i = 0; i < supervisor->count; i++)
    if (supervisor->children[i].state == CHILD_ALIVE ||
        supervisor->children[i].state == CHILD_BACKOFF)
      return false;
  return true;
}

static void supervise(struct supervisor *supervisor)
{
  uint64_t watchdog_ns = bus_notify_interval_ns();
  uint64_t beat_ns = watchdog_ns && watchdog_ns < BEAT_NS ? watchdog_ns : BEAT_NS;
  while (!is_over(supervisor)) {
    uint64_t now_ns = bus_clock_monotonic_ns(), due_ns = now_ns + beat_ns;
    bus_member_heartbeat(supervisor->member, now_ns);
    bus_notify_alive(now_ns);
    uint64_t steps_ns[3] = {NEVER_NS, NEVER_NS, NEVER_NS};
    check_start_limit(supervisor, now_ns);
    if (supervisor->phase == PHASE_STARTING)
      steps_ns[0] = step_starting(supervisor);
    if (supervisor->phase != PHASE_STOPPING)
      steps_ns[1] = step_restarts(supervisor, now_ns);
    if (supervisor->phase == PHASE_STOPPING)
      steps_ns[2] = step_stopping(supervisor, now_ns);
    for (size_t i = 0; i < BUS_COUNT_OF(steps_ns); i++)
      if (steps_ns[i] < due_ns)
        due_ns = steps_ns[i];
    struct pollfd events = {.fd = supervisor->signal_fd, .events = POLLIN};
    /* Rounded up: a wait that ends just before its time would spin. */
    uint64_t wait_ns = due_ns > now_ns ? due_ns - now_ns : 0;
    poll(&events, 1, (int)((wait_ns + NS_PER_MS - 1) / NS_PER_MS));
    take_signals(supervisor);
    reap(supervisor);
  }
}

static int set_up_signals(struct supervisor *supervisor)
{
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGHUP);
  /* Inherited as ignored, it would make the kernel reap the children before they are seen. */
  signal(SIGCHLD, SIG_DFL);
  if (sigprocmask(SIG_BLOCK, &set, NULL) != 0)
    return bus_error_set_errno("blocking signals");
  supervisor->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  return supervisor->signal_fd < 0 ? bus_error_set_errno("signalfd") : BUS_OK;
}

static int judge(const struct supervisor *supervisor)
{
  uint32_t failed = 0;
  const char *name = "";
  if (supervisor->start_failure[0])
    return bus_error_set(BUS_ERROR_IO, "%s; see the lines above", supervisor->start_failure);
  for (uint32_t i = 0; i < supervisor->count; i++) {
    if (supervisor->children[i].failed && failed++ == 0)
      name = supervisor->children[i].config->name;
  }
  if (failed)
    return bus_error_set(BUS_ERROR_IO, "%u of %u members did not end in order, %s among them",
                         failed, supervisor->count, name);
  return BUS_OK;
}

int bus_supervisor_run(const struct bus_config *config,
                       const struct bus_supervisor_options *options)
{
  struct supervisor *supervisor = calloc(1, sizeof *supervisor);
  if (!supervisor)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  supervisor->options = options;
  supervisor->count = config->member_count;
  supervisor->signal_fd = -1;
  supervisor->began_ns = bus_clock_monotonic_ns();
  for (uint32_t i = 0; i < config->member_count; i++)
    supervisor->children[i].config = &config->members[i];
  int error = bus_spawner_init(&supervisor->spawner, options->directory);
  if (!error)
    error = join_bus(supervisor);
  if (!error)
    error = set_up_signals(supervisor);
  if (!error) {
    supervise(supervisor);
    error = judge(supervisor);
  }
  bus_notify_stopping();
  bus_member_leave(supervisor->member, error ? BUS_STATE_FAIL : BUS_STATE_HALT);
  if (supervisor->signal_fd >= 0)
    close(supervisor->signal_fd);
  bus_spawner_close(&supervisor->spawner);
  free(supervisor);
  return error;
}
