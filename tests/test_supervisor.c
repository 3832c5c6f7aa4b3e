#include "tools/supervisor.h"
#include "tests/bus_fixture.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#define TEST_S 60 /* for all that a test waits for, however slow the machine */

/* ---- the members: this program again ---- */

/* The reading end of a pipe whose writing end only the test holds: it is at its end when the test
 * is gone, however it went. Members inherit it. */
#define LIFELINE_FD 200

static bool is_test_gone(int wait_ms)
{
  struct pollfd lifeline = {.fd = LIFELINE_FD};
  return poll(&lifeline, 1, wait_ms) != 0;
}

/* Leaves a process in its group, and ends. */
static int be_parent(void)
{
  pid_t left = fork();
  if (left == 0)
    _exit(is_test_gone(-1));
  printf("left %d behind\n", (int)left);
  fflush(stdout);
  return left > 0 ? 0 : 1;
}

/* As a bus member NAME: "run" until SIGTERM, "deaf" to it, or for ever in state "boot". */
static int be_member(const char *name, const char *how)
{
  struct bus_member_config config = {
      .name = name, .kind = "test", .small_pages = true, .core = -1, .numa_node = -1};
  struct bus_object_spec text = {.type = BUS_OBJECT_TEXT, .name = "t", .depth = 1};
  struct bus_member *member;
  config.objects = &text;
  config.object_count = 1;
  bus_loop_handle_signals();
  if (!strcmp(how, "deaf"))
    signal(SIGTERM, SIG_IGN);
  if (bus_member_new(&config, &member) != BUS_OK) {
    fprintf(stderr, "%s\n", bus_error_message());
    return 1;
  }
  if (strcmp(how, "boot") != 0)
    bus_member_run(member);
  while (!bus_loop_stop_requested() && !is_test_gone(1))
    bus_member_heartbeat(member, bus_clock_monotonic_ns());
  bus_member_leave(member, BUS_STATE_HALT);
  return 0;
}

/* Before main, which is Criterion's. */
__attribute__((constructor)) static void begin(int argc, char **argv)
{
  if (argc == 4 && !strcmp(argv[1], "member"))
    _exit(!strcmp(argv[3], "parent") ? be_parent() : be_member(argv[2], argv[3]));
}

#define MEMBER(how) "command = /proc/self/exe member %{name} " how "\n"

/* ---- the supervisor, in a process of its own ---- */

static struct bus_config config;
static char log_path[300];
static char log_text[1 << 16];
static size_t log_begin; /* of the latest supervisor's lines */
static int lifeline_fd;  /* the writing end */
static time_t end_s;     /* of the test's time, CLOCK_MONOTONIC */

static bool is_time_left(void)
{
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  usleep(1000);
  return now.tv_sec < end_s;
}

static const char *read_log(void)
{
  FILE *file = fopen(log_path, "re");
  size_t length = file ? fread(log_text, 1, sizeof log_text - 1, file) : 0;
  if (file)
    fclose(file);
  log_text[length] = '\0';
  return log_text;
}

#define UNTIL(condition)                                                                           \
  while (!(condition))                                                                             \
  cr_assert(is_time_left(), "never: " #condition ", in:\n%s", read_log())

/* Dies with the test, and holds nothing of the test's: what Criterion reads from would otherwise
 * stay open as long as a child lives. Its own output and its members' go to the log. */
static void detach_from_test(pid_t test)
{
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != test ||
      close_range(3, LIFELINE_FD - 1, 0) != 0 || close_range(LIFELINE_FD + 1, ~0u, 0) != 0)
    _exit(126);
  int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
  int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  if (dup2(null, STDIN_FILENO) < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0)
    _exit(126);
}

static pid_t start(const char *ini, int start_timeout_s)
{
  cr_assert_eq(bus_config_parse(ini, strlen(ini), "t.ini", &config), BUS_OK, "%s",
               bus_error_message());
  struct bus_supervisor_options options = {.directory = fixture_directory,
                                           .config_file = "t.ini",
                                           .start_timeout_s = start_timeout_s,
                                           .log = stderr};
  log_begin = strlen(read_log());
  pid_t test = getpid(), pid = fork();
  cr_assert_geq(pid, 0);
  if (pid == 0) {
    detach_from_test(test);
    int error = bus_supervisor_run(&config, &options);
    fprintf(stderr, "result %d: %s\n", error, error ? bus_error_message() : "");
    _exit(error ? -error : 0);
  }
  return pid;
}

/* Fails at once when the supervisor has ended without it. */
static void wait_for_log(const char *text)
{
  while (!strstr(read_log() + log_begin, text))
    cr_assert(is_time_left() && !strstr(log_text + log_begin, "\nresult "), "no '%s' in:\n%s", text,
              log_text);
}

/* These, in this order. */
static void expect_log(const char *const *texts, size_t count)
{
  const char *at = read_log();
  for (size_t i = 0; i < count; i++) {
    at = strstr(at, texts[i]);
    cr_assert_not_null(at, "'%s' is missing or too early in:\n%s", texts[i], log_text);
    at += strlen(texts[i]);
  }
}

#define EXPECT_LOG(...)                                                                            \
  expect_log((const char *const[]){__VA_ARGS__},                                                   \
             sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *))

static unsigned count_in_log(const char *text)
{
  unsigned count = 0;
  for (const char *at = read_log(); (at = strstr(at, text)) != NULL; at += strlen(text))
    count++;
  return count;
}

static void reject_log(const char *text)
{
  cr_assert_null(strstr(read_log(), text), "'%s' in:\n%s", text, log_text);
}

/* The supervisor's enum bus_error. */
static int finish(pid_t pid)
{
  int status;
  UNTIL(waitpid(pid, &status, WNOHANG) == pid);
  cr_assert(WIFEXITED(status), "status %x:\n%s", (unsigned)status, read_log());
  return -WEXITSTATUS(status);
}

static int stop(pid_t pid)
{
  cr_assert_eq(kill(pid, SIGTERM), 0);
  return finish(pid);
}

static struct bus_member_header look(const char *name)
{
  struct bus_neighbour *neighbour;
  struct bus_member_header live = {0};
  if (bus_neighbour_attach(fixture_directory, name, true, &neighbour) == BUS_OK) {
    bus_neighbour_live(neighbour, &live);
    bus_neighbour_detach(neighbour);
  }
  return live;
}

static bool is_held(const char *name)
{
  struct bus_neighbour *neighbour;
  if (bus_neighbour_attach(fixture_directory, name, false, &neighbour) != BUS_OK)
    return false;
  bus_neighbour_detach(neighbour);
  return true;
}

static uint64_t counter(const char *name)
{
  struct bus_neighbour *neighbour;
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "busctl", true, &neighbour), BUS_OK);
  const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_COUNTER, name);
  cr_assert_not_null(entry, "no counter %s", name);
  uint64_t value = BUS_LOAD_RELAXED((const uint64_t *)bus_neighbour_object(neighbour, entry));
  bus_neighbour_detach(neighbour);
  return value;
}

static const char *supervisor_text(const char *name)
{
  static char text[BUS_SUPERVISOR_TEXT_BYTES];
  struct bus_neighbour *neighbour;
  cr_assert_eq(bus_neighbour_attach(fixture_directory, "busctl", true, &neighbour), BUS_OK);
  const struct bus_entry *entry = bus_neighbour_find(neighbour, BUS_OBJECT_TEXT, name);
  cr_assert_not_null(entry, "no text %s", name);
  snprintf(text, sizeof text, "%s", (const char *)bus_neighbour_object(neighbour, entry));
  bus_neighbour_detach(neighbour);
  return text;
}

static void set_up(void)
{
  int ends[2];
  struct timespec now;
  fixture_create();
  snprintf(log_path, sizeof log_path, "%s.log", fixture_directory);
  clock_gettime(CLOCK_MONOTONIC, &now);
  end_s = now.tv_sec + TEST_S;
  /* What a supervisor leaves behind becomes this process's child. */
  cr_assert_eq(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
  cr_assert_eq(dup2(ends[0], LIFELINE_FD), LIFELINE_FD);
  close(ends[0]);
  lifeline_fd = ends[1];
}

static void kill_children(void)
{
  char path[64];
  snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
  FILE *file = fopen(path, "re");
  for (int pid; file && fscanf(file, "%d", &pid) == 1;)
    kill(pid, SIGKILL);
  if (file)
    fclose(file);
}

/* Runs after a failed assertion too. A child's children come to this process when it has died. */
static void clean_up(void)
{
  for (end_s += TEST_S; waitpid(-1, NULL, WNOHANG) >= 0 && is_time_left();)
    kill_children();
  close(lifeline_fd);
  unlink(log_path);
  fixture_remove();
}

TestSuite(supervisor, .init = set_up, .fini = clean_up, .timeout = 5.0 * TEST_S);

/* ---- start and stop ---- */

Test(supervisor, starts_in_order_and_stops_in_reverse)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\n" MEMBER("run") "[c]\n" MEMBER("run"), 0);
  wait_for_log("all 3 members started");
  cr_assert_eq(look("busctl").state, BUS_STATE_RUN);
  cr_assert_str_eq(supervisor_text("state.b"), "running");
  cr_assert_eq(stop(pid), BUS_OK, "%s", read_log());
  EXPECT_LOG("a: started", "b: started", "c: started", "busctl: all 3", "busctl: stopping",
             "c: stopping", "c: exited with status 0", "b: stopping", "b: exited with status 0",
             "a: stopping", "a: exited with status 0", "result 0");
  for (const char *name = "abc"; *name; name++) {
    const char text[] = {*name, '\0'};
    cr_assert_eq(look(text).state, BUS_STATE_HALT);
  }
  cr_assert_eq(look("busctl").state, BUS_STATE_HALT);
  cr_assert_eq(counter("starts.b"), 1);
  cr_assert_eq(counter("restarts.b"), 0);
  cr_assert_eq(counter("kills"), 0);
}

Test(supervisor, ends_by_itself_when_all_have)
{
  cr_assert_eq(finish(start("[a]\ncommand = true\nstart_wait = none\n[b]\ncommand = true\n", 0)),
               BUS_OK, "%s", read_log());
  cr_assert_str_eq(supervisor_text("state.a"), "exited with status 0");
}

Test(supervisor, gives_up_the_start_when_a_member_is_not_ready_in_time)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\n" MEMBER("boot") "start_timeout_ms = 300\n"
                                                                 "[c]\n" MEMBER("run"),
                    0);
  cr_assert_eq(finish(pid), BUS_ERROR_IO);
  EXPECT_LOG("b: runs, but", "/b is not in state run: its command must use that bus",
             "stopping: b was not ready within start_timeout_ms=300", "b: stopping", "a: stopping",
             "result -10: b was not ready within start_timeout_ms=300");
  reject_log("c: started");
  cr_assert_not(is_held("a"));
  cr_assert_not(is_held("b"));
}

Test(supervisor, gives_up_when_all_together_take_too_long)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\n" MEMBER("boot") "start_timeout_ms = 3600000\n", 1);
  cr_assert_eq(finish(pid), BUS_ERROR_IO);
  EXPECT_LOG("stopping: b was not ready within the time for all", "b: stopping", "a: stopping");
}

Test(supervisor, names_the_member_that_cannot_be_run)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\ncore = -1\ncommand = /nowhere/bus-nothing\n", 0);
  cr_assert_eq(finish(pid), BUS_ERROR_IO);
  EXPECT_LOG("b: cannot run '/nowhere/bus-nothing' (check command= in line 3, and PATH): No such",
             "stopping: b could not be started", "a: stopping",
             "result -10: b could not be started");
}

Test(supervisor, names_a_core_that_does_not_exist)
{
  pid_t pid = start("[a]\ncommand = true\ncore = 1023\n", 0);
  cr_assert_eq(finish(pid), BUS_ERROR_IO);
  EXPECT_LOG("a: core=1023: cannot be pinned there", "result -10: a could not be started");
}

Test(supervisor, pins_its_members)
{
  cpu_set_t set;
  int core = 0;
  cr_assert_eq(sched_getaffinity(0, sizeof set, &set), 0);
  while (!CPU_ISSET((size_t)core, &set))
    core++;
  char ini[300];
  snprintf(ini, sizeof ini,
           "[a]\ncommand = sh -c 'test \"$(nproc)\" = 1 && test $SIGNAL_BUS = "
           "%%{bus}'\nrestart = never\nstart_wait = none\ncore = %d\n",
           core);
  cr_assert_eq(finish(start(ini, 0)), BUS_OK, "%s", read_log());
}

Test(supervisor, a_second_one_is_refused_and_harms_nothing)
{
  pid_t pid = start("[a]\n" MEMBER("run"), 0);
  wait_for_log("all 1 members started");
  pid_t second = start("[b]\n" MEMBER("run"), 0);
  UNTIL(strstr(read_log(), "b: started") || strstr(log_text, "result "));
  reject_log("b: started");
  cr_assert_eq(finish(second), BUS_ERROR_BUSY);
  char holder[32];
  snprintf(holder, sizeof holder, "%d", (int)pid);
  EXPECT_LOG("result -7: ", holder);
  cr_assert(is_held("a"));
  cr_assert(is_held("busctl"));
  cr_assert_eq(stop(pid), BUS_OK);
}

/* ---- what dies ---- */

Test(supervisor, restarts_a_member_that_was_killed)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\n" MEMBER("run") "restart_backoff_ms = 1\n", 0);
  wait_for_log("all 2 members started");
  for (uint64_t epoch = 1; epoch <= 3; epoch++) {
    struct bus_member_header live = look("b");
    cr_assert_eq(live.epoch, epoch);
    cr_assert_eq(live.state, BUS_STATE_RUN);
    cr_assert_eq(kill((pid_t)live.pid, SIGKILL), 0);
    UNTIL(look("b").epoch > epoch && look("b").state == BUS_STATE_RUN);
  }
  UNTIL(count_in_log(": restarted, pid") == 3);
  EXPECT_LOG("b: killed by signal 9 (Killed)", "restart 1 in 1 ms", "b: restarted", "(restart 1)",
             "restart 2 in 2 ms", "(restart 2)", "restart 3 in 4 ms", "(restart 3)");
  cr_assert_eq(look("a").epoch, 1);
  cr_assert_eq(counter("restarts.b"), 3);
  cr_assert_eq(counter("starts.b"), 4);
  cr_assert_eq(counter("failed_exits"), 3);
  cr_assert_str_eq(supervisor_text("state.b"), "running");
  cr_assert_eq(stop(pid), BUS_OK, "its last end was in order:\n%s", read_log());
}

Test(supervisor, the_backoff_doubles_up_to_its_limit)
{
  pid_t pid = start("[a]\ncommand = sh -c 'exit 7'\nstart_wait = none\nrestart_backoff_ms = 1\n"
                    "restart_backoff_ms_max = 4\n",
                    0);
  UNTIL(count_in_log("exited with status 7") >= 5);
  EXPECT_LOG("exited with status 7", "restart 1 in 1 ms", "restart 2 in 2 ms", "restart 3 in 4 ms",
             "restart 4 in 4 ms", "restart 5 in 4 ms");
  cr_assert_eq(stop(pid), BUS_ERROR_IO);
  EXPECT_LOG("result -10: 1 of 1 members did not end in order, a among them");
}

Test(supervisor, while_it_waits_its_text_says_restart)
{
  pid_t pid = start("[a]\ncommand = false\nstart_wait = none\nrestart_backoff_ms = 3600000\n"
                    "restart_backoff_ms_max = 3600000\n",
                    0);
  wait_for_log("restart 1 in");
  UNTIL(!strcmp(supervisor_text("state.a"), "restart 1 in 3600000 ms; exited with status 1"));
  cr_assert_eq(stop(pid), BUS_ERROR_IO);
  cr_assert_str_eq(supervisor_text("state.a"), "ended; not started again, because the bus stops");
}

Test(supervisor, restart_never_and_on_failure_leave_what_has_ended)
{
  pid_t pid = start("[a]\ncommand = false\nstart_wait = none\nrestart = never\n"
                    "[b]\ncommand = true\nstart_wait = none\nrestart = on-failure\n",
                    0);
  cr_assert_eq(finish(pid), BUS_ERROR_IO);
  reject_log("restart 1");
  EXPECT_LOG("result -10: 1 of 2 members did not end in order, a among them");
}

Test(supervisor, an_essential_member_ends_the_bus)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\ncommand = true\nessential = yes\n", 0);
  cr_assert_eq(finish(pid), BUS_OK, "%s", read_log());
  EXPECT_LOG("b: exited with status 0", "stopping: b is essential and is done", "a: stopping");
}

Test(supervisor, essential_on_failure_ends_it_only_then)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\ncommand = true\nessential = on-failure\n", 0);
  wait_for_log("b: exited with status 0");
  wait_for_log("all 2 members started");
  cr_assert(is_held("a"));
  cr_assert_eq(stop(pid), BUS_OK);
  pid = start("[a]\n" MEMBER("run") "[b]\ncommand = sh -c 'exit 3'\nessential = on-failure\n"
                                    "restart = never\nstart_wait = none\n",
              0);
  cr_assert_eq(finish(pid), BUS_ERROR_IO);
  EXPECT_LOG("stopping: b is essential and has failed", "a: stopping");
}

/* The first deadly signal decides what a process died of: this one only when the supervisor sent
 * none. */
Test(supervisor, what_a_member_left_in_its_group_dies_with_it)
{
  int left, status;
  cr_assert_eq(finish(start("[a]\nrestart = never\nstart_wait = none\n" MEMBER("parent"), 0)),
               BUS_OK, "%s", read_log());
  const char *line = strstr(read_log(), "left ");
  cr_assert_not_null(line, "%s", log_text);
  cr_assert_eq(sscanf(line, "left %d behind", &left), 1);
  kill(left, SIGUSR1);
  UNTIL(waitpid(left, &status, WNOHANG) == left);
  cr_assert(WIFSIGNALED(status));
  cr_assert_eq(WTERMSIG(status), SIGKILL, "it lived on");
}

/* ---- what does not stop ---- */

Test(supervisor, kills_what_does_not_stop_in_time)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\n" MEMBER("deaf") "stop_timeout_ms = 50\n", 0);
  wait_for_log("all 2 members started");
  cr_assert_eq(stop(pid), BUS_ERROR_IO);
  EXPECT_LOG("b: stopping", "b: did not stop within 50 ms; killing", "b: killed by signal 9",
             "a: stopping", "a: exited with status 0", "result -10: 1 of 2");
  cr_assert_eq(counter("kills"), 1);
  cr_assert_not(is_held("b"));
}

Test(supervisor, a_second_signal_kills_all_at_once)
{
  pid_t pid = start("[a]\n" MEMBER("deaf") "stop_timeout_ms = 3600000\n"
                                           "[b]\n" MEMBER("deaf") "stop_timeout_ms = 3600000\n",
                    0);
  wait_for_log("all 2 members started");
  kill(pid, SIGINT);
  wait_for_log(": stopping, pid");
  reject_log("a: stopping");
  cr_assert_eq(stop(pid), BUS_ERROR_IO);
  EXPECT_LOG("stopping: Interrupt", "Terminated again: killing all at once", "result -10: 2 of 2");
  reject_log("a: stopping");
  cr_assert_eq(counter("kills"), 2);
}

Test(supervisor, the_first_signal_of_a_stop_under_way_kills_nothing)
{
  pid_t pid = start("[a]\n" MEMBER("deaf") "stop_timeout_ms = 3600000\n"
                                           "[b]\ncommand = true\nessential = yes\n",
                    0);
  wait_for_log("a: stopping");
  kill(pid, SIGTERM);
  wait_for_log("Terminated: already stopping");
  cr_assert(is_held("a"));
  reject_log("killing");
  cr_assert_eq(stop(pid), BUS_ERROR_IO);
  EXPECT_LOG("already stopping", "Terminated again: killing all at once", "a: killed by signal 9");
}

Test(supervisor, its_members_end_when_it_is_killed)
{
  pid_t pid = start("[a]\n" MEMBER("run") "[b]\n" MEMBER("run"), 0);
  wait_for_log("all 2 members started");
  cr_assert_eq(kill(pid, SIGKILL), 0);
  UNTIL(waitpid(pid, NULL, WNOHANG) == pid);
  UNTIL(!is_held("a") && !is_held("b"));
  cr_assert_eq(look("a").state, BUS_STATE_HALT);
  /* And a new one takes the bus over. */
  pid = start("[a]\n" MEMBER("run"), 0);
  wait_for_log("all 1 members started");
  cr_assert_eq(look("a").epoch, 2);
  cr_assert_eq(stop(pid), BUS_OK);
}
