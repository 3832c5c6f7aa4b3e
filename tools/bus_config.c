#include "tools/bus_config.h"

#include "consumers/ini_line.h"
#include "shm/layout.h"
#include "shm/options.h"

#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MS_MAX   3600000
#define CORE_MAX 1023

struct parser {
  const char *at; /* the rest of the text */
  const char *end;
  const char *file;
  struct bus_config *config;
  struct bus_config_member *member; /* of the current section; NULL: [bus] or none yet */
  char section[64];                 /* the current one */
  uint32_t line;                    /* number of the line that libinih is working on */
  uint32_t section_line;            /* of a section that has had no key yet; 0: none */
  uint32_t seen;                    /* keys of this section, a bit for each */
  bool indented;                    /* the line begins with a blank */
  bool bus_seen;
  int error; /* the first one; everything after it is skipped */
  uint32_t error_line;
};

enum key_kind { KEY_INTEGER, KEY_CHOICE, KEY_COMMAND, KEY_DIRECTORY };

struct key {
  const char *name;
  enum key_kind kind;
  size_t offset; /* of an int32_t in the section's struct; KEY_INTEGER, KEY_CHOICE */
  int32_t least; /* KEY_INTEGER */
  int32_t most;
  const char *choices; /* KEY_CHOICE: "a|b"; the value is the index */
};

#define MEMBER_INTEGER(field, least, most)                                                         \
  {                                                                                                \
#field, KEY_INTEGER, offsetof(struct bus_config_member, field), least, most, NULL              \
  }
#define MEMBER_CHOICE(field, choices)                                                              \
  {                                                                                                \
#field, KEY_CHOICE, offsetof(struct bus_config_member, field), 0, 0, choices                   \
  }

static const struct key member_keys[] = {
    {"command", KEY_COMMAND, 0, 0, 0, NULL},
    MEMBER_INTEGER(core, -1, CORE_MAX),
    MEMBER_INTEGER(numa_node, -1, CORE_MAX),
    MEMBER_CHOICE(restart, "on-failure|always|never"),
    MEMBER_INTEGER(restart_backoff_ms, 1, MS_MAX),
    MEMBER_INTEGER(restart_backoff_ms_max, 1, MS_MAX),
    MEMBER_CHOICE(start_wait, "running|none"),
    MEMBER_INTEGER(start_timeout_ms, 1, MS_MAX),
    MEMBER_INTEGER(stop_timeout_ms, 1, MS_MAX),
    MEMBER_CHOICE(essential, "no|yes|on-failure"),
};

static const struct key bus_keys[] = {
    {"directory", KEY_DIRECTORY, 0, 0, 0, NULL},
    {"create", KEY_CHOICE, offsetof(struct bus_config, create), 0, 0, "no|yes"},
};

static int fail_at(struct parser *parser, uint32_t line, const char *format, ...) BUS_PRINTF(3, 4);

/* Keeps the first error; returns 0, which tells libinih of it. */
static int fail_at(struct parser *parser, uint32_t line, const char *format, ...)
{
  if (parser->error)
    return 0;
  char text[768];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  parser->error = bus_error_set(BUS_ERROR_FORMAT, "%s:%u: %s", parser->file, line, text);
  parser->error_line = line;
  return 0;
}

/* What the line tells beyond what libinih passes on: its number, an indent, a section's start. */
static void note_line(struct parser *parser, const char *line)
{
  parser->indented = line[0] == ' ' || line[0] == '\t';
  if (line[0] != '[')
    return;
  if (parser->section_line)
    fail_at(parser, parser->section_line, "the section is empty; a member needs command=");
  parser->section_line = parser->line;
  const char *end = strchr(line, ']');
  if (!end)
    fail_at(parser, parser->line, "a section begins with [name]; the ] is missing");
  else if (!strchr("\n;#", end[1 + strspn(end + 1, " \t")]))
    fail_at(parser, parser->line, "nothing but a comment may follow the ] of a [section]");
}

/* libinih's fgets: one line. Its handler is called before the next line is read, so that the
 * number of lines handed out is the number of the line that the handler sees. */
static char *next_line(char *buffer, int size, void *stream)
{
  struct parser *parser = stream;
  if (parser->error || parser->at == parser->end)
    return NULL;
  parser->line++;
  int error =
      bus_ini_line_take(&parser->at, parser->end, buffer, (size_t)size, BUS_CONFIG_LINE_BYTES);
  if (error == BUS_ERROR_NO_SPACE)
    fail_at(parser, parser->line, "longer than %u bytes; go on in an indented line",
            BUS_CONFIG_LINE_BYTES);
  else if (error)
    fail_at(parser, parser->line, "holds a control character; use plain text");
  else
    note_line(parser, buffer);
  return parser->error ? NULL : buffer;
}

static struct bus_config_member *find_member(struct bus_config *config, const char *name)
{
  for (uint32_t i = 0; i < config->member_count; i++)
    if (!strcmp(config->members[i].name, name))
      return &config->members[i];
  return NULL;
}

static void set_member_defaults(struct bus_config_member *member, const char *name, uint32_t line)
{
  memset(member, 0, sizeof *member);
  snprintf(member->name, sizeof member->name, "%s", name);
  member->line = line;
  member->core = -1;
  member->numa_node = -1;
  member->restart_backoff_ms = 100;
  member->restart_backoff_ms_max = 5000;
  member->start_timeout_ms = 10000;
  member->stop_timeout_ms = 3000;
}

/* Whether the section that is being left has what it needs. */
static bool finish_section(struct parser *parser)
{
  const struct bus_config_member *member = parser->member;
  if (!member)
    return true;
  if (!member->command[0])
    return fail_at(parser, member->line, "[%s] has no command=", member->name);
  if (member->restart_backoff_ms > member->restart_backoff_ms_max)
    return fail_at(parser, member->line,
                   "[%s] restart_backoff_ms=%d is more than restart_backoff_ms_max=%d",
                   member->name, member->restart_backoff_ms, member->restart_backoff_ms_max);
  return true;
}

static int begin_member(struct parser *parser, const char *name)
{
  struct bus_config *config = parser->config;
  if (!bus_layout_name_is_valid(name) || strlen(name) >= BUS_CONFIG_NAME_BYTES)
    return fail_at(parser, parser->section_line,
                   "[%s]: a section is [bus] or a member's name, 1..%u of A-Za-z0-9._-", name,
                   BUS_CONFIG_NAME_BYTES - 1);
  if (!strcmp(name, "busctl"))
    return fail_at(parser, parser->section_line,
                   "[busctl] is the supervisor's own name; choose another");
  const struct bus_config_member *other = find_member(config, name);
  if (other)
    return fail_at(parser, parser->section_line, "[%s] is already in line %u", name, other->line);
  if (config->member_count == BUS_CONFIG_MEMBERS_MAX)
    return fail_at(parser, parser->section_line, "[%s]: more than %u members", name,
                   BUS_CONFIG_MEMBERS_MAX);
  parser->member = &config->members[config->member_count++];
  set_member_defaults(parser->member, name, parser->section_line);
  return 1;
}

/* At the first key of a section. */
static int begin_section(struct parser *parser, const char *name)
{
  if (!finish_section(parser))
    return 0;
  parser->seen = 0;
  parser->member = NULL;
  snprintf(parser->section, sizeof parser->section, "%s", name);
  if (strcmp(name, "bus"))
    return begin_member(parser, name);
  if (parser->bus_seen)
    return fail_at(parser, parser->section_line, "a second [bus]");
  parser->bus_seen = true;
  return 1;
}

static int set_integer(struct parser *parser, const struct key *key, const char *value, void *base)
{
  int64_t number;
  if (bus_parse_integer(value, key->least, key->most, key->name, &number) != BUS_OK)
    return fail_at(parser, parser->line, "%s", bus_error_message());
  *(int32_t *)(void *)((char *)base + key->offset) = (int32_t)number;
  return 1;
}

static int set_choice(struct parser *parser, const struct key *key, const char *value, void *base)
{
  size_t length = strlen(value);
  int32_t index = 0;
  for (const char *at = key->choices; at; index++) {
    size_t choice = strcspn(at, "|");
    if (choice == length && !strncmp(at, value, length)) {
      *(int32_t *)(void *)((char *)base + key->offset) = index;
      return 1;
    }
    at = at[choice] ? at + choice + 1 : NULL;
  }
  return fail_at(parser, parser->line, "%s=%s: give %s", key->name, value, key->choices);
}

/* A line that goes on with a command, but reads like a key or section of its own: when a whole
 * section is indented, libinih takes all lines after its first for a continuation. */
static const char *find_indented_key(const char *value)
{
  if (value[0] == '[' && value[strlen(value) - 1] == ']')
    return value;
  size_t length = strcspn(value, " \t=:");
  const char *after = value + length + strspn(value + length, " \t");
  for (size_t i = 0; *after == '=' && i < BUS_COUNT_OF(member_keys); i++)
    if (strlen(member_keys[i].name) == length && !strncmp(member_keys[i].name, value, length))
      return member_keys[i].name;
  return NULL;
}

/* A quote that this line leaves open may be closed by the next: commands are checked at the end. */
static int set_command(struct parser *parser, struct bus_config_member *member, const char *value,
                       bool goes_on)
{
  char *command = member->command;
  const char *key = goes_on ? find_indented_key(value) : NULL;
  if (key)
    return fail_at(parser, parser->line,
                   "an indented line continues command=; begin %s at the left margin", key);
  size_t length = strlen(command), more = strlen(value);
  if (length + more + 2 > sizeof member->command)
    return fail_at(parser, parser->line, "command= is longer than %zu bytes",
                   sizeof member->command - 1);
  if (length > 0)
    command[length++] = ' ';
  memcpy(command + length, value, more + 1);
  return 1;
}

static int set_directory(struct parser *parser, const char *value)
{
  if (value[0] != '/' || strlen(value) >= sizeof parser->config->directory)
    return fail_at(parser, parser->line, "directory=%s: give an absolute path of up to %zu bytes",
                   value, sizeof parser->config->directory - 1);
  strcpy(parser->config->directory, value);
  return 1;
}

static int fail_unknown_key(struct parser *parser, const struct key *keys, size_t count,
                            const char *name)
{
  char known[256] = "";
  size_t length = 0;
  for (size_t i = 0; i < count; i++)
    length += (size_t)snprintf(known + length, sizeof known - length, "%s%s", i ? ", " : "",
                               keys[i].name);
  return fail_at(parser, parser->line, "unknown key '%s' in [%s]; known: %s", name, parser->section,
                 known);
}

/* `base`: the section's struct, which the keys' offsets count in. */
static int set_key(struct parser *parser, const struct key *keys, size_t count, void *base,
                   const char *name, const char *value)
{
  for (size_t i = 0; i < count; i++) {
    if (strcmp(keys[i].name, name))
      continue;
    bool again = parser->seen & (1u << i);
    if (again && !(parser->indented && keys[i].kind == KEY_COMMAND))
      return fail_at(parser, parser->line, "%s= is given twice in [%s]%s", name, parser->section,
                     parser->indented ? " (an indented line continues the one before)" : "");
    if (!*value)
      return fail_at(parser, parser->line, "%s= has no value", name);
    parser->seen |= 1u << i;
    switch (keys[i].kind) {
    case KEY_INTEGER:
      return set_integer(parser, &keys[i], value, base);
    case KEY_CHOICE:
      return set_choice(parser, &keys[i], value, base);
    case KEY_COMMAND:
      return set_command(parser, base, value, again);
    case KEY_DIRECTORY:
      return set_directory(parser, value);
    }
  }
  return fail_unknown_key(parser, keys, count, name);
}

static int handle_key(void *user, const char *section, const char *name, const char *value)
{
  struct parser *parser = user;
  if (parser->error || !name || !value)
    return parser->error == 0;
  if (parser->section_line) {
    int going_on = begin_section(parser, section);
    parser->section_line = 0;
    if (!going_on)
      return 0;
  }
  if (parser->member)
    return set_key(parser, member_keys, BUS_COUNT_OF(member_keys), parser->member, name, value);
  if (parser->bus_seen)
    return set_key(parser, bus_keys, BUS_COUNT_OF(bus_keys), parser->config, name, value);
  return fail_at(parser, parser->line,
                 "'%s' stands before the first section; begin with [bus] or "
                 "a member's [name]",
                 name);
}

/* Commands once more, as a whole: quotes closed, substitutions known. */
static void check_commands(struct parser *parser)
{
  struct bus_config_words *words = malloc(sizeof *words);
  if (!words) {
    parser->error = bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", parser->file);
    return;
  }
  for (uint32_t i = 0; i < parser->config->member_count && !parser->error; i++) {
    const struct bus_config_member *member = &parser->config->members[i];
    int error = bus_config_split(member, "/", words);
    if (error)
      parser->error =
          bus_error_context(error, "%s:%u: [%s]", parser->file, member->line, member->name);
  }
  free(words);
}

int bus_config_parse(const char *text, size_t length, const char *file, struct bus_config *config)
{
  struct parser parser = {.at = text, .end = text + length, .file = file, .config = config};
  memset(config, 0, sizeof *config);
  config->create = 1;
  if (length > BUS_CONFIG_FILE_BYTES)
    return bus_error_set(BUS_ERROR_FORMAT, "%s: more than %u bytes", file, BUS_CONFIG_FILE_BYTES);
  int wrong_line = ini_parse_stream(next_line, &parser, handle_key, &parser);
  if (!parser.error && wrong_line < 0)
    parser.error = bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", file);
  if (wrong_line > 0 && (uint32_t)wrong_line < parser.error_line)
    parser.error = BUS_OK; /* libinih went on after a line of its own dislike */
  if (wrong_line > 0)
    fail_at(&parser, (uint32_t)wrong_line, "neither [section] nor key=value nor a comment");
  if (parser.section_line)
    fail_at(&parser, parser.section_line, "the section is empty; a member needs command=");
  if (!parser.error)
    finish_section(&parser);
  if (!parser.error && config->member_count == 0)
    fail_at(&parser, parser.line ? parser.line : 1,
            "no member: add a section [name] with command=");
  if (!parser.error)
    check_commands(&parser);
  return parser.error;
}

int bus_config_read(const char *path, struct bus_config *config)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return bus_error_set_errno("%s: opening the configuration", path);
  char *text = malloc(BUS_CONFIG_FILE_BYTES + 1);
  size_t length = 0;
  ssize_t got = text ? 1 : 0;
  while (got > 0 && length <= BUS_CONFIG_FILE_BYTES) {
    got = read(fd, text + length, BUS_CONFIG_FILE_BYTES + 1 - length);
    if (got > 0)
      length += (size_t)got;
  }
  int error = BUS_OK;
  if (!text)
    error = bus_error_set(BUS_ERROR_NO_SPACE, "%s: out of memory", path);
  else if (got < 0)
    error = bus_error_set_errno("%s: reading the configuration", path);
  else
    error = bus_config_parse(text, length, path, config);
  free(text);
  close(fd);
  return error;
}

struct splitter {
  const struct bus_config_member *member;
  const char *directory;
  const char *at;
  struct bus_config_words *words;
  size_t used; /* of words->text */
};

static int put(struct splitter *splitter, const char *text, size_t length)
{
  if (splitter->used + length + 1 > sizeof splitter->words->text)
    return bus_error_set(BUS_ERROR_FORMAT, "command= grows beyond %zu bytes",
                         sizeof splitter->words->text);
  memcpy(splitter->words->text + splitter->used, text, length);
  splitter->used += length;
  return BUS_OK;
}

/* At "%{": puts what it stands for and moves on. */
static int substitute(struct splitter *splitter)
{
  const char *at = splitter->at;
  char core[16], numa_node[16];
  snprintf(core, sizeof core, "%d", splitter->member->core);
  snprintf(numa_node, sizeof numa_node, "%d", splitter->member->numa_node);
  const struct {
    const char *mark;
    const char *value;
  } known[] = {{"%{bus}", splitter->directory},
               {"%{name}", splitter->member->name},
               {"%{core}", core},
               {"%{numa_node}", numa_node}};
  for (size_t i = 0; i < BUS_COUNT_OF(known); i++) {
    size_t length = strlen(known[i].mark);
    if (strncmp(at, known[i].mark, length))
      continue;
    splitter->at += length;
    return put(splitter, known[i].value, strlen(known[i].value));
  }
  return bus_error_set(
      BUS_ERROR_FORMAT,
      "command=: '%.16s': only %%{bus}, %%{name}, %%{core} and %%{numa_node} are replaced", at);
}

/* One word, from its first character to the blank after it. */
static int split_word(struct splitter *splitter)
{
  char quote = 0;
  int error = BUS_OK;
  for (; *splitter->at && !error;) {
    char c = *splitter->at;
    if (c == '%' && splitter->at[1] == '{') {
      error = substitute(splitter);
      continue;
    }
    if (!quote && (c == ' ' || c == '\t'))
      break;
    splitter->at++;
    if (quote ? c == quote : c == '\'' || c == '"') {
      quote = quote ? 0 : c;
      continue;
    }
    char next = *splitter->at;
    if (c == '\\' && next && (!quote || (quote == '"' && (next == '"' || next == '\\')))) {
      c = next;
      splitter->at++;
    }
    error = put(splitter, &c, 1);
  }
  if (!error && quote)
    error = bus_error_set(BUS_ERROR_FORMAT,
                          "command=: a %c is not closed (\" ;\" begins a comment, also in quotes)",
                          quote);
  return error ? error : put(splitter, "", 1);
}

int bus_config_split(const struct bus_config_member *member, const char *directory,
                     struct bus_config_words *words)
{
  struct splitter splitter = {member, directory, member->command, words, 0};
  words->count = 0;
  for (;;) {
    splitter.at += strspn(splitter.at, " \t");
    if (!*splitter.at)
      break;
    if (words->count == BUS_CONFIG_WORDS_MAX)
      return bus_error_set(BUS_ERROR_FORMAT, "command= has more than %u words",
                           BUS_CONFIG_WORDS_MAX);
    words->argv[words->count] = words->text + splitter.used;
    int error = split_word(&splitter);
    if (error)
      return error;
    words->count++;
  }
  words->argv[words->count] = NULL;
  if (words->count == 0 || !words->argv[0][0])
    return bus_error_set(BUS_ERROR_FORMAT, "command= names no program");
  return BUS_OK;
}
