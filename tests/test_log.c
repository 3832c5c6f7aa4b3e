#include "shm/log.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Standard error becomes a pipe; whoever reads *end gets what is written. */
static void redirect(int *end)
{
  int ends[2];
  cr_assert_eq(pipe(ends), 0);
  cr_assert_eq(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
  close(ends[1]);
  *end = ends[0];
}

static void set_stream(int fd, int inode_off)
{
  struct stat status;
  char text[64];
  cr_assert_eq(fstat(fd, &status), 0);
  snprintf(text, sizeof text, "%llu:%llu", (unsigned long long)status.st_dev,
           (unsigned long long)status.st_ino + (unsigned)inode_off);
  setenv("JOURNAL_STREAM", text, 1);
}

static const char *take(int end)
{
  static char text[4096];
  ssize_t got = read(end, text, sizeof text - 1);
  text[got > 0 ? got : 0] = '\0';
  return text;
}

Test(log, has_a_priority_only_under_the_journal)
{
  int end;
  redirect(&end);
  unsetenv("JOURNAL_STREAM");
  bus_log(BUS_LOG_WARNING, "a: %d", 1);
  cr_assert_str_eq(take(end), "a: 1\n");
  set_stream(STDERR_FILENO, 0);
  cr_assert(bus_log_goes_to_journal());
  bus_log(BUS_LOG_WARNING, "b: %d", 2);
  cr_assert_str_eq(take(end), "<4>b: 2\n");
  bus_log(BUS_LOG_ERROR, "two\n<0>lines");
  cr_assert_str_eq(take(end), "<3>two <0>lines\n");
  set_stream(STDERR_FILENO, 1); /* redirected since the journal set it */
  cr_assert_not(bus_log_goes_to_journal());
  bus_log(BUS_LOG_INFO, "c");
  cr_assert_str_eq(take(end), "c\n");
}

Test(log, does_not_believe_a_damaged_variable)
{
  static const char *const wrong[] = {"", ":", "1", "1:", "a:b", "1:2:3", "1:2 ", "-1:-1"};
  for (size_t i = 0; i < BUS_COUNT_OF(wrong); i++) {
    setenv("JOURNAL_STREAM", wrong[i], 1);
    cr_assert_not(bus_log_goes_to_journal(), "%s", wrong[i]);
  }
}

Test(log, cuts_long_lines)
{
  int end;
  char text[4000];
  redirect(&end);
  memset(text, 'x', sizeof text);
  bus_log(BUS_LOG_INFO, "%.*s", (int)sizeof text, text);
  const char *line = take(end);
  cr_assert_eq(strlen(line), 2048);
  cr_assert_eq(line[2047], '\n');
  cr_assert_eq(line[2046], 'x');
}
