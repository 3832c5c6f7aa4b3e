/* criterion.h: the part of Criterion's interface that this project's unit tests use, for runs under
 * an emulator. Criterion itself starts each test by re-executing the program image, which a
 * user-mode emulator cannot follow; here a test is a fork. Prints TAP. Only for the arm64 build. */
#ifndef TESTS_ARM64_CRITERION_H
#define TESTS_ARM64_CRITERION_H

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define EMULATED_EXIT_SKIPPED 77
#define EMULATED_SLOWDOWN     20 /* a test's time-out is meant for a native run */
#define EMULATED_TIMEOUT_S    60

struct emulated_options {
  int unused; /* so that an initialiser list is never empty */
  void (*init)(void);
  void (*fini)(void);
  double timeout;
  int signal;
  int exit_code;
};

struct emulated_test {
  const char *suite;
  const char *name;  /* NULL: the options of a whole suite */
  void (*run)(void); /* NULL: likewise */
  struct emulated_options options;
  struct emulated_test *next;
};

static struct emulated_test *emulated_first, **emulated_last = &emulated_first;
static bool emulated_failed;

static inline void emulated_register(struct emulated_test *test)
{
  *emulated_last = test;
  emulated_last = &test->next;
}

#define EMULATED_REGISTER(id, ...)                                                                 \
  static struct emulated_test id = {__VA_ARGS__};                                                  \
  __attribute__((constructor)) static void id##_register(void)                                     \
  {                                                                                                \
    emulated_register(&id);                                                                        \
  }

#define TestSuite(suite, ...)                                                                      \
  EMULATED_REGISTER(emulated_suite_##suite, #suite, NULL, NULL, {0, ##__VA_ARGS__}, NULL)

#define Test(suite, name, ...)                                                                     \
  static void suite##_##name##_run(void);                                                          \
  EMULATED_REGISTER(emulated_##suite##_##name, #suite, #name, suite##_##name##_run,                \
                    {0, ##__VA_ARGS__}, NULL)                                                      \
  static void suite##_##name##_run(void)

/* Prints why; returns whether the test must end now. */
__attribute__((format(printf, 5, 6))) static inline void
emulated_fail(const char *file, int line, bool end, const char *condition, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  printf("# %s:%d: %s:", file, line, condition);
  vprintf(format, arguments);
  putchar('\n');
  va_end(arguments);
  emulated_failed = true;
  if (end) {
    fflush(stdout);
    _exit(1);
  }
}

#define EMULATED_CHECK(end, condition, text, ...)                                                  \
  do {                                                                                             \
    if (!(condition))                                                                              \
      emulated_fail(__FILE__, __LINE__, end, text, " " __VA_ARGS__);                               \
  } while (0)

#define cr_assert(condition, ...) EMULATED_CHECK(true, condition, #condition, __VA_ARGS__)
#define cr_expect(condition, ...) EMULATED_CHECK(false, condition, #condition, __VA_ARGS__)
#define cr_assert_fail(...)       EMULATED_CHECK(true, false, "fail", __VA_ARGS__)
#define cr_assert_not(condition, ...)                                                              \
  EMULATED_CHECK(true, !(condition), "not " #condition, __VA_ARGS__)
#define cr_expect_not(condition, ...)                                                              \
  EMULATED_CHECK(false, !(condition), "not " #condition, __VA_ARGS__)
#define EMULATED_COMPARE(end, a, operator, b, ...)                                                 \
  EMULATED_CHECK(end, (a) operator(b), #a " " #operator" " #b, __VA_ARGS__)
#define cr_assert_eq(a, b, ...)      EMULATED_COMPARE(true, a, ==, b, __VA_ARGS__)
#define cr_expect_eq(a, b, ...)      EMULATED_COMPARE(false, a, ==, b, __VA_ARGS__)
#define cr_assert_neq(a, b, ...)     EMULATED_COMPARE(true, a, !=, b, __VA_ARGS__)
#define cr_expect_neq(a, b, ...)     EMULATED_COMPARE(false, a, !=, b, __VA_ARGS__)
#define cr_assert_lt(a, b, ...)      EMULATED_COMPARE(true, a, <, b, __VA_ARGS__)
#define cr_expect_lt(a, b, ...)      EMULATED_COMPARE(false, a, <, b, __VA_ARGS__)
#define cr_assert_leq(a, b, ...)     EMULATED_COMPARE(true, a, <=, b, __VA_ARGS__)
#define cr_expect_leq(a, b, ...)     EMULATED_COMPARE(false, a, <=, b, __VA_ARGS__)
#define cr_assert_gt(a, b, ...)      EMULATED_COMPARE(true, a, >, b, __VA_ARGS__)
#define cr_expect_gt(a, b, ...)      EMULATED_COMPARE(false, a, >, b, __VA_ARGS__)
#define cr_assert_geq(a, b, ...)     EMULATED_COMPARE(true, a, >=, b, __VA_ARGS__)
#define cr_expect_geq(a, b, ...)     EMULATED_COMPARE(false, a, >=, b, __VA_ARGS__)
#define cr_assert_null(a, ...)       EMULATED_COMPARE(true, a, ==, NULL, __VA_ARGS__)
#define cr_expect_null(a, ...)       EMULATED_COMPARE(false, a, ==, NULL, __VA_ARGS__)
#define cr_assert_not_null(a, ...)   EMULATED_COMPARE(true, a, !=, NULL, __VA_ARGS__)
#define cr_expect_not_null(a, ...)   EMULATED_COMPARE(false, a, !=, NULL, __VA_ARGS__)
#define cr_assert_str_eq(a, b, ...)  EMULATED_CHECK(true, !strcmp(a, b), #a " == " #b, __VA_ARGS__)
#define cr_expect_str_eq(a, b, ...)  EMULATED_CHECK(false, !strcmp(a, b), #a " == " #b, __VA_ARGS__)
#define cr_assert_str_neq(a, b, ...) EMULATED_CHECK(true, strcmp(a, b), #a " != " #b, __VA_ARGS__)
#define cr_expect_str_neq(a, b, ...) EMULATED_CHECK(false, strcmp(a, b), #a " != " #b, __VA_ARGS__)
#define EMULATED_NEAR(end, a, b, e, ...)                                                           \
  EMULATED_CHECK(end, fabs((double)(a) - (double)(b)) <= (double)(e), #a " == " #b " +- " #e,      \
                 __VA_ARGS__)
#define cr_assert_float_eq(a, b, e, ...) EMULATED_NEAR(true, a, b, e, __VA_ARGS__)
#define cr_expect_float_eq(a, b, e, ...) EMULATED_NEAR(false, a, b, e, __VA_ARGS__)
#define cr_assert_arr_eq(a, b, bytes, ...)                                                         \
  EMULATED_CHECK(true, !memcmp(a, b, bytes), #a " == " #b, __VA_ARGS__)
#define cr_expect_arr_eq(a, b, bytes, ...)                                                         \
  EMULATED_CHECK(false, !memcmp(a, b, bytes), #a " == " #b, __VA_ARGS__)
#define cr_log_info(...) (printf("# " __VA_ARGS__), putchar('\n'))
#define cr_skip          cr_skip_test
#define cr_skip_test(...)                                                                          \
  do {                                                                                             \
    cr_log_info(__VA_ARGS__);                                                                      \
    fflush(stdout);                                                                                \
    _exit(EMULATED_EXIT_SKIPPED);                                                                  \
  } while (0)

static inline const struct emulated_options *emulated_suite(const char *suite)
{
  static const struct emulated_options none;
  for (struct emulated_test *test = emulated_first; test; test = test->next)
    if (!test->run && !strcmp(test->suite, suite))
      return &test->options;
  return &none;
}

static inline void emulated_child(const struct emulated_test *test)
{
  const struct emulated_options *suite = emulated_suite(test->suite), *own = &test->options;
  double timeout_s = own->timeout > 0 ? own->timeout : suite->timeout;
  alarm((unsigned)(EMULATED_SLOWDOWN * (timeout_s > 0 ? timeout_s : EMULATED_TIMEOUT_S)));
  if (suite->init)
    suite->init();
  if (own->init)
    own->init();
  test->run();
  if (own->fini)
    own->fini();
  if (suite->fini)
    suite->fini();
  exit(emulated_failed ? 1 : 0);
}

int main(void)
{
  int count = 0, failed = 0;
  for (struct emulated_test *test = emulated_first; test; test = test->next) {
    if (!test->run)
      continue;
    int status = 0;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
      emulated_child(test);
    if (child < 0 || waitpid(child, &status, 0) != child)
      return 1;
    bool skipped = WIFEXITED(status) && WEXITSTATUS(status) == EMULATED_EXIT_SKIPPED;
    bool good = test->options.signal
                    ? WIFSIGNALED(status) && WTERMSIG(status) == test->options.signal
                    : WIFEXITED(status) && WEXITSTATUS(status) == test->options.exit_code;
    failed += !good && !skipped;
    printf("%s %d - %s::%s%s\n", good || skipped ? "ok" : "not ok", ++count, test->suite,
           test->name, skipped ? " # SKIP" : "");
    if (WIFSIGNALED(status) && !good)
      printf("# %s::%s: %s\n", test->suite, test->name, strsignal(WTERMSIG(status)));
  }
  printf("1..%d\n", count);
  return failed ? 1 : 0;
}

#endif
