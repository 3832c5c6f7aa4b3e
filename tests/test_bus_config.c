#include "tools/bus_config.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bus_config config; /* 140 KiB */
static struct bus_config_words words;

static int parse(const char *text)
{
  return bus_config_parse(text, strlen(text), "t.ini", &config);
}

/* Refused, with this at the start of the message. */
static void refused(const char *text, const char *message)
{
  cr_assert_eq(parse(text), BUS_ERROR_FORMAT, "accepted: %s", text);
  cr_assert_eq(strncmp(bus_error_message(), message, strlen(message)), 0, "said '%s', not '%s..'",
               bus_error_message(), message);
}

Test(bus_config, reads_every_key)
{
  cr_assert_eq(parse("; a bus\n"
                     "[bus]\n"
                     "directory = /dev/shm/x\n"
                     "create = no\n"
                     "\n"
                     "[feed]\r\n"
                     "command = bus-feed --bus %{bus}   ; a comment\r\n"
                     "    --symbols 4\r\n"
                     "# between\n"
                     "\t--speed 2\n"
                     "core=3\n"
                     "numa_node = 1\n"
                     "restart: always\n"
                     "restart_backoff_ms = 7\n"
                     "restart_backoff_ms_max = 70\n"
                     "start_wait = none\n"
                     "start_timeout_ms = 50\n"
                     "stop_timeout_ms = 60\n"
                     "essential = on-failure\n"
                     "[infer] ; the next\n"
                     "  command = x"),
               BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(config.directory, "/dev/shm/x");
  cr_assert_eq(config.create, 0);
  cr_assert_eq(config.member_count, 2);
  const struct bus_config_member *feed = &config.members[0], *infer = &config.members[1];
  cr_assert_str_eq(feed->name, "feed");
  cr_assert_str_eq(feed->command, "bus-feed --bus %{bus} --symbols 4 --speed 2");
  cr_assert_eq(feed->line, 6);
  cr_assert_eq(feed->core, 3);
  cr_assert_eq(feed->numa_node, 1);
  cr_assert_eq(feed->restart, BUS_RESTART_ALWAYS);
  cr_assert_eq(feed->restart_backoff_ms, 7);
  cr_assert_eq(feed->restart_backoff_ms_max, 70);
  cr_assert_eq(feed->start_wait, BUS_START_WAIT_NONE);
  cr_assert_eq(feed->start_timeout_ms, 50);
  cr_assert_eq(feed->stop_timeout_ms, 60);
  cr_assert_eq(feed->essential, BUS_ESSENTIAL_ON_FAILURE);
  cr_assert_str_eq(infer->name, "infer");
  cr_assert_eq(infer->core, -1);
  cr_assert_eq(infer->numa_node, -1);
  cr_assert_eq(infer->restart, BUS_RESTART_ON_FAILURE);
  cr_assert_eq(infer->start_wait, BUS_START_WAIT_RUNNING);
  cr_assert_eq(infer->essential, BUS_ESSENTIAL_NO);
}

Test(bus_config, a_bus_section_is_not_needed)
{
  cr_assert_eq(parse("[a]\ncommand=b\n"), BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(config.directory, "");
  cr_assert_eq(config.create, 1);
}

Test(bus_config, names_file_and_line_of_the_first_mistake)
{
  static const char *const cases[][2] = {
      {"", "t.ini:1: no member"},
      {"[bus]\ndirectory=/x\n", "t.ini:2: no member"},
      {"core = 1\n", "t.ini:1: 'core' stands before the first section"},
      {"[a]\ncommand=b\ncore = 1x\n", "t.ini:3: core '1x': use a whole number from -1 to 1023"},
      {"[a]\ncommand=b\ncore = 1024\n", "t.ini:3: core '1024'"},
      {"[a]\ncommand=b\ncore =\n", "t.ini:3: core= has no value"},
      {"[a]\ncommand=b\n\nkore = 1\n", "t.ini:4: unknown key 'kore' in [a]; known: command, core,"},
      {"[bus]\ncore=1\n", "t.ini:2: unknown key 'core' in [bus]; known: directory, create"},
      {"[bus]\ndirectory=x\n", "t.ini:2: directory=x: give an absolute path"},
      {"[a]\ncommand=b\n[bus]\ncreate=maybe\n", "t.ini:4: create=maybe: give no|yes"},
      {"[a]\ncommand=b\nrestart=ofte\n", "t.ini:3: restart=ofte: give on-failure|always|never"},
      {"[a]\ncommand=b\nrestart=alway\n", "t.ini:3: restart=alway"},
      {"[a]\ncommand=b\ncore=1\ncore=2\n", "t.ini:4: core= is given twice in [a]"},
      {"[a]\ncommand=b\ncommand=c\n", "t.ini:3: command= is given twice in [a]"},
      {"[a]\ncommand=b\ncore=1\n  2\n", "t.ini:4: core= is given twice in [a] (an indented"},
      {"[a]\ncommand=b\n  core = 2\n", "t.ini:3: an indented line continues command=; begin core"},
      {"[a]\ncommand=b\n  [c]\n", "t.ini:3: an indented line continues command=; begin [c]"},
      {" [a]\n command=b\n [c]\n command=d\n", "t.ini:2: 'command' stands before"},
      {"[a]\n command = b\n core = 2\n",
       "t.ini:3: an indented line continues command=; begin core"},
      {"[a]\n  command = b\n  [c]\n  command = d\n", "t.ini:3: an indented line continues"},
      {"[a]\n  command = b\n  command = c\n", "t.ini:3: an indented line continues"},
      {"[a]\ncore=1\n[b]\ncommand=c\n", "t.ini:1: [a] has no command="},
      {"[a]\n[b]\ncommand=c\n", "t.ini:1: the section is empty"},
      {"[b]\ncommand=c\n[a]\n", "t.ini:3: the section is empty"},
      {"[a]\ncommand=b\n[c]\ncommand=d\n[a]\ncommand=e\n", "t.ini:5: [a] is already in line 1"},
      {"[bus]\ncreate=no\n[a]\ncommand=b\n[bus]\ncreate=no\n", "t.ini:5: a second [bus]"},
      {"[a b]\ncommand=c\n", "t.ini:1: [a b]: a section is [bus] or a member's name"},
      {"[a23456789012345678901bc]\ncommand=c\n", "t.ini:1: [a2345678901234567890"},
      {"[busctl]\ncommand=c\n", "t.ini:1: [busctl] is the supervisor's own name"},
      {"[a\ncommand=c\n", "t.ini:1: a section begins with [name]; the ] is missing"},
      {"[a] core=1\ncommand=c\n", "t.ini:1: nothing but a comment may follow the ]"},
      {"[a]\ncommand=b\nnonsense\n", "t.ini:3: neither [section] nor key=value nor a comment"},
      {"[a]\nnonsense\ncommand=b\ncore=x\n", "t.ini:2: neither"},
      {"[a]\ncommand=b \x01\n", "t.ini:2: holds a control character"},
      {"[a]\ncommand=b 'c\n", "t.ini:1: [a]: command=: a ' is not closed"},
      {"[a]\ncommand=b %{cpu}\n",
       "t.ini:1: [a]: command=: '%{cpu}': only %{bus}, %{name}, %{core}"},
      {"[a]\ncommand=''\n", "t.ini:1: [a]: command= names no program"},
      {"[a]\ncommand=b\nrestart_backoff_ms=9\nrestart_backoff_ms_max=8\n",
       "t.ini:1: [a] restart_backoff_ms=9 is more than restart_backoff_ms_max=8"},
  };
  for (size_t i = 0; i < BUS_COUNT_OF(cases); i++)
    refused(cases[i][0], cases[i][1]);
  cr_assert_eq(bus_config_parse("[a]\ncommand=b\0\n", 15, "t.ini", &config), BUS_ERROR_FORMAT);
}

Test(bus_config, limits_are_refused_one_beyond_and_accepted_at)
{
  char text[2 * BUS_CONFIG_FILE_BYTES];
  size_t length = 0;
  for (unsigned i = 0; i < BUS_CONFIG_MEMBERS_MAX; i++)
    length += (size_t)snprintf(text + length, sizeof text - length, "[m%u]\ncommand=x\n", i);
  cr_assert_eq(parse(text), BUS_OK, "%s", bus_error_message());
  cr_assert_eq(config.member_count, BUS_CONFIG_MEMBERS_MAX);
  strcpy(text + length, "[more]\ncommand=x\n");
  refused(text, "t.ini:129: [more]: more than 64 members");

  strcpy(text, "[a]\ncommand=x\n");
  length = strlen(text);
  memset(text + length, ' ', 5000); /* indented lines, up to the longest command */
  for (unsigned i = 0; i < 20; i++)
    snprintf(text + strlen(text) - (i ? 0 : 5000), 200, " %0160d\n", 1);
  refused(text, "t.ini:15: command= is longer than 2047 bytes");

  snprintf(text, sizeof text, "[a]\ncommand=x\n;%0*d\n", (int)BUS_CONFIG_LINE_BYTES - 1, 0);
  cr_assert_eq(parse(text), BUS_OK, "%s", bus_error_message());
  snprintf(text, sizeof text, "[a]\ncommand=x\n;%0*d\n", (int)BUS_CONFIG_LINE_BYTES, 0);
  refused(text, "t.ini:3: longer than 190 bytes; go on in an indented line");

  memset(text, '\n', sizeof text);
  memcpy(text, "[a]\ncommand=x\n", 14);
  cr_assert_eq(bus_config_parse(text, BUS_CONFIG_FILE_BYTES, "t.ini", &config), BUS_OK);
  cr_assert_eq(bus_config_parse(text, BUS_CONFIG_FILE_BYTES + 1, "t.ini", &config),
               BUS_ERROR_FORMAT);
}

static int split(const char *command)
{
  static struct bus_config_member member = {.name = "feed", .core = 2, .numa_node = -1};
  snprintf(member.command, sizeof member.command, "%s", command);
  return bus_config_split(&member, "/dev/shm/a b", &words);
}

Test(bus_config, splits_a_command_as_a_shell_would)
{
  cr_assert_eq(
      split("  a 'b c'\t\"d \\\"e\\\\\" f\\ g h''i '' %{bus}/%{name} '%{core}' %{numa_node} %x"),
      BUS_OK, "%s", bus_error_message());
  static const char *const want[] = {"a", "b c", "d \"e\\", "f g", "hi", "", "/dev/shm/a b/feed",
                                     "2", "-1",  "%x"};
  cr_assert_eq(words.count, BUS_COUNT_OF(want));
  for (size_t i = 0; i < BUS_COUNT_OF(want); i++)
    cr_assert_str_eq(words.argv[i], want[i]);
  cr_assert_null(words.argv[words.count]);
}

Test(bus_config, refuses_commands_that_cannot_be_split)
{
  char many[2 * BUS_CONFIG_WORDS_MAX + 3];
  cr_assert_eq(split(""), BUS_ERROR_FORMAT);
  cr_assert_eq(split("a \"b"), BUS_ERROR_FORMAT);
  cr_assert_eq(split("a '%{'"), BUS_ERROR_FORMAT);
  for (size_t i = 0; i < BUS_CONFIG_WORDS_MAX; i++)
    memcpy(many + 2 * i, "a ", 3);
  cr_assert_eq(split(many), BUS_OK);
  strcat(many, "a");
  cr_assert_eq(split(many), BUS_ERROR_FORMAT);
  /* What is put in for a mark can make it too long. */
  static struct bus_config_member member = {.name = "feed", .core = 2};
  static char directory[300];
  memset(directory, 'd', sizeof directory - 1);
  for (size_t i = 0; i < 40; i++)
    strcat(member.command, "%{bus}");
  cr_assert_eq(bus_config_split(&member, directory, &words), BUS_ERROR_FORMAT);
}

Test(bus_config, reads_a_file_and_says_why_not)
{
  char path[] = "/tmp/bus-config-XXXXXX";
  int fd = mkstemp(path);
  cr_assert_geq(fd, 0);
  cr_assert_eq(dprintf(fd, "[a]\ncommand=b\n"), 14);
  cr_assert_eq(bus_config_read(path, &config), BUS_OK, "%s", bus_error_message());
  cr_assert_str_eq(config.members[0].command, "b");
  cr_assert_eq(dprintf(fd, "x\n"), 2);
  cr_assert_eq(bus_config_read(path, &config), BUS_ERROR_FORMAT);
  cr_assert_not_null(strstr(bus_error_message(), "/tmp/bus-config-"));
  cr_assert_not_null(strstr(bus_error_message(), ":3: neither"));
  close(fd);
  unlink(path);
  cr_assert_eq(bus_config_read(path, &config), BUS_ERROR_ABSENT);
  cr_assert_eq(bus_config_read("/tmp", &config), BUS_ERROR_IO);
}
