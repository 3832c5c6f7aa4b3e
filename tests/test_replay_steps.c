#include "tools/replay_steps.h"

#include <criterion/criterion.h>
#include <string.h>
#include <unistd.h>

static int ends[2];
static struct replay_steps steps;

static void set_up(void)
{
  cr_assert_eq(pipe(ends), 0);
  steps = (struct replay_steps){.file = ends[0]};
}

static void say(const char *text)
{
  cr_assert_eq(write(ends[1], text, strlen(text)), (ssize_t)strlen(text));
}

TestSuite(replay_steps, .init = set_up);

Test(replay_steps, lines_give_credit_one_at_a_time)
{
  say("\n12\n");
  cr_assert(replay_steps_wait(&steps, 1000));
  cr_assert_eq(steps.credit, 1);
  cr_assert(replay_steps_wait(&steps, 1000), "nothing is read while there is credit");
  cr_assert_eq(steps.credit, 1);
  steps.credit = 0;
  cr_assert(replay_steps_wait(&steps, 1000));
  cr_assert_eq(steps.credit, 12);
}

Test(replay_steps, a_line_may_come_in_pieces_and_a_pause_ends_nothing)
{
  say("1");
  cr_assert(replay_steps_wait(&steps, 1));
  cr_assert_eq(steps.credit, 0);
  say("7\n");
  cr_assert(replay_steps_wait(&steps, 1000));
  cr_assert_eq(steps.credit, 17);
}

Test(replay_steps, nonsense_is_refused_and_gives_nothing)
{
  static const char *const lines[] = {"0\n", "-1\n", "x\n", "99999999999999999999\n", "1 2\n"};
  char longest[2000];
  for (size_t i = 0; i < BUS_COUNT_OF(lines); i++) {
    say(lines[i]);
    cr_assert(replay_steps_wait(&steps, 1));
    cr_assert_eq(steps.credit, 0, "line %zu", i);
  }
  memset(longest, '7', sizeof longest);
  longest[sizeof longest - 1] = '\0';
  say(longest);
  say("\n\n");
  cr_assert(replay_steps_wait(&steps, 1));
  cr_assert_eq(steps.credit, 1, "only the empty line behind it counts");
}

Test(replay_steps, q_and_the_end_of_the_file_end_it)
{
  say("q\n5\n");
  cr_assert_not(replay_steps_wait(&steps, 1000));
  say("3\n");
  close(ends[1]);
  steps.credit = 0;
  cr_assert(replay_steps_wait(&steps, 1000));
  cr_assert_eq(steps.credit, 5);
  steps.credit = 0;
  cr_assert(replay_steps_wait(&steps, 1000));
  cr_assert_eq(steps.credit, 3);
  steps.credit = 0;
  cr_assert_not(replay_steps_wait(&steps, 1000));
}
