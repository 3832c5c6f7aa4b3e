#include "consumers/bridge_config.h"

#include "consumers/bridge_endpoint.h"
#include "consumers/ini_line.h"
#include "consumers/nearest_word.h"
#include "shm/layout.h"
#include "shm/options.h"

#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES_MAX 190u /* libinih cuts at 200 */
#define LIST_BYTES     1024u
#define DAY_MS         86400000
#define NS_PER_MS      1000000u
#define SECTION_KINDS  3u

enum section_kind { SECTION_BRIDGE, SECTION_BACKEND, SECTION_CLASS, SECTION_NONE };

enum key_kind {
  KEY_COUNT,  /* uint32_t */
  KEY_MS,     /* uint64_t, ns */
  KEY_RATE,   /* double, per second */
  KEY_TEXT,   /* char[most + 1] */
  KEY_FLAVOR, /* uint32_t */
  KEY_URL,
  KEY_LIST /* kept as text until the names in it are known */
};

struct key {
  const char *name;
  enum key_kind kind;
  size_t offset; /* in the section's struct */
  int64_t least; /* KEY_COUNT, KEY_MS, KEY_RATE */
  int64_t most;
  const char *fallback; /* NULL: none */
};

#define BRIDGE(name, kind, field, least, most, fallback)                                           \
  {                                                                                                \
    name, kind, offsetof(struct bus_bridge_config, field), least, most, fallback                   \
  }
#define BACKEND(name, kind, field, least, most, fallback)                                          \
  {                                                                                                \
    name, kind, offsetof(struct bus_bridge_backend_config, field), least, most, fallback           \
  }
#define BACKEND_TEXT(name, field)                                                                  \
  {                                                                                                \
    name, KEY_TEXT, offsetof(struct bus_bridge_backend_config, field), 0,                          \
        sizeof((struct bus_bridge_backend_config *)NULL)->field - 1, NULL                          \
  }
#define CLASS(name, kind, field, least, most, fallback)                                            \
  {                                                                                                \
    name, kind, offsetof(struct bus_bridge_class_config, field), least, most, fallback             \
  }

static const struct key bridge_keys[] = {
    {"clients", KEY_LIST, 0, 0, 0, NULL},
    BRIDGE("requests_max", KEY_COUNT, requests_max, 2, 65536, "256"),
    BRIDGE("request_bytes_max", KEY_COUNT, request_bytes_max, 64, BUS_RECORD_BYTES_MAX - 256,
           "65536"),
    BRIDGE("answer_bytes_max", KEY_COUNT, answer_bytes_max, 64, 16 << 20, "1048576"),
    BRIDGE("record_bytes", KEY_COUNT, record_bytes, 192, BUS_RECORD_BYTES_MAX, "16384"),
    BRIDGE("reply_depth", KEY_COUNT, reply_depth, 4, 1 << 20, "512"),
};

static const struct key backend_keys[] = {
    {"url", KEY_URL, 0, 0, 0, NULL},
    BACKEND("flavor", KEY_FLAVOR, flavor, 0, 0, "openai"),
    BACKEND_TEXT("model", model),
    BACKEND_TEXT("api_key_file", api_key_file),
    BACKEND_TEXT("api_key_env", api_key_env),
    BACKEND_TEXT("ca_file", ca_file),
    BACKEND("concurrency", KEY_COUNT, concurrency, 1, 4096, "16"),
    BACKEND("urgent_reserve", KEY_COUNT, urgent_reserve, 0, 4095, "0"),
    BACKEND("tokens_in_flight_max", KEY_COUNT, tokens_in_flight_max, 0, 1000000000, "0"),
    BACKEND("prefill_tokens_per_s", KEY_RATE, prefill_tokens_per_s, 0, 10000000, "0"),
    BACKEND("decode_tokens_per_s", KEY_RATE, decode_tokens_per_s, 0, 10000000, "0"),
    BACKEND("connect_ms", KEY_MS, peer.connect_timeout_ns, 1, 600000, "2000"),
    BACKEND("first_token_ms", KEY_MS, first_token_timeout_ns, 0, DAY_MS, "30000"),
    BACKEND("token_ms", KEY_MS, token_timeout_ns, 0, DAY_MS, "10000"),
    BACKEND("total_ms", KEY_MS, total_timeout_ns, 0, DAY_MS, "0"),
    BACKEND("idle_ms", KEY_MS, idle_ns, 0, DAY_MS, "4000"),
    BACKEND("failures_to_open", KEY_COUNT, failures_to_open, 1, 1000000, "3"),
    BACKEND("open_ms", KEY_MS, open_ns, 1, DAY_MS, "1000"),
    BACKEND("open_ms_max", KEY_MS, open_ns_max, 1, DAY_MS, "30000"),
    BACKEND("canary_ms", KEY_MS, canary_interval_ns, 0, DAY_MS, "0"),
};

static const struct key class_keys[] = {
    {"backends", KEY_LIST, 0, 0, 0, NULL},
    CLASS("queue_max", KEY_COUNT, queue_max, 0, 65536, "256"),
    CLASS("tokens_max", KEY_COUNT, tokens_max, 0, 10000000, "1024"),
    CLASS("retries_max", KEY_COUNT, retries_max, 0, 100, "1"),
    CLASS("hedge_after_ms", KEY_MS, hedge_after_ns, 0, DAY_MS, "0"),
    CLASS("hedge_percent", KEY_COUNT, hedge_percent, 0, 100, "5"),
};

/* What is known of the kinds of servers beyond the fallbacks above. vLLM and llama-server end an
 * idle connection after 5 s: one that was idle for 4 s may be about to be reset. mlx_lm.server
 * closes each, prefills a long prompt for minutes, and may live on without its generating thread:
 * only a token proves that it still works. */
static const struct {
  uint32_t flavor;
  const char *key;
  const char *value;
} flavor_fallbacks[] = {
    {BUS_LLM_FLAVOR_MLX, "concurrency", "2"},         {BUS_LLM_FLAVOR_MLX, "idle_ms", "0"},
    {BUS_LLM_FLAVOR_MLX, "first_token_ms", "180000"}, {BUS_LLM_FLAVOR_MLX, "canary_ms", "60000"},
    {BUS_LLM_FLAVOR_VLLM, "concurrency", "64"},       {BUS_LLM_FLAVOR_LLAMA, "concurrency", "4"},
    {BUS_LLM_FLAVOR_OLLAMA, "concurrency", "4"},
};

static const struct section {
  const char *name;
  const struct key *keys;
  size_t key_count;
} sections[SECTION_KINDS] = {
    [SECTION_BRIDGE] = {"bridge", bridge_keys, BUS_COUNT_OF(bridge_keys)},
    [SECTION_BACKEND] = {"backend", backend_keys, BUS_COUNT_OF(backend_keys)},
    [SECTION_CLASS] = {"class", class_keys, BUS_COUNT_OF(class_keys)},
};

struct parser {
  const char *at; /* the rest of the text */
  const char *end;
  struct bus_bridge_config *config;
  enum section_kind kind; /* of the current section */
  char section[64];       /* as it is written */
  void *base;             /* its struct */
  uint32_t line;          /* that libinih is working on */
  uint32_t section_line;
  uint32_t seen; /* keys of this section, a bit for each */
  bool indented; /* the line begins with a blank */
  bool bridge_seen;
  char clients[LIST_BYTES];
  char backends[BUS_BRIDGE_CLASSES_MAX][LIST_BYTES]; /* of each class */
  uint32_t clients_line;
  uint32_t class_lines[BUS_BRIDGE_CLASSES_MAX]; /* of the list; else of the section */
  int error;                                    /* the first one; everything after it is skipped */
  uint32_t error_line;
};

/* ---- errors ---- */

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
  parser->error = bus_error_set(BUS_ERROR_FORMAT, "line %u: %s", line, text);
  parser->error_line = line;
  return 0;
}

static int fail_unknown_key(struct parser *parser, const char *name)
{
  const struct section *section = &sections[parser->kind];
  struct bus_nearest_word nearest = {0};
  for (size_t i = 0; i < section->key_count; i++)
    bus_nearest_word_try(&nearest, name, section->keys[i].name);
  for (uint32_t kind = 0; kind < SECTION_KINDS; kind++)
    for (size_t i = 0; i < sections[kind].key_count; i++)
      if (!strcmp(sections[kind].keys[i].name, name))
        return fail_at(parser, parser->line, "'%s' belongs into a [%s] section, not into [%s]",
                       name, sections[kind].name, parser->section);
  return fail_at(parser, parser->line,
                 "unknown key '%s' in [%s]; the nearest is '%s' (bus-bridge(1) has all)", name,
                 parser->section, nearest.word);
}

/* ---- values ---- */

/* "12", "6.9": libc's strtod would also take "inf", hexadecimals and a locale's comma. */
static int set_rate(struct parser *parser, const struct key *key, const char *value, double *rate)
{
  size_t whole = strspn(value, "0123456789");
  size_t fraction = value[whole] == '.' ? strspn(value + whole + 1, "0123456789") + 1 : 0;
  double number = whole && whole < 12 && !value[whole + fraction] ? strtod(value, NULL) : -1;
  if (number < (double)key->least || number > (double)key->most)
    return fail_at(parser, parser->line, "%s=%s: give tokens per second, such as 6.9, 0..%lld",
                   key->name, value, (long long)key->most);
  *rate = number;
  return 1;
}

static int set_text(struct parser *parser, const struct key *key, const char *value, char *text)
{
  if (strlen(value) > (size_t)key->most)
    return fail_at(parser, parser->line, "%s= is longer than %lld characters", key->name,
                   (long long)key->most);
  strcpy(text, value);
  return 1;
}

static int add_to_list(struct parser *parser, const struct key *key, const char *value)
{
  bool is_class = parser->kind == SECTION_CLASS;
  uint32_t class_index = is_class ? parser->config->class_count - 1 : 0;
  char *list = is_class ? parser->backends[class_index] : parser->clients;
  size_t length = strlen(list), more = strlen(value);
  if (length + more + 2 > LIST_BYTES)
    return fail_at(parser, parser->line, "%s= is longer than %u bytes", key->name, LIST_BYTES - 2);
  if (!length)
    *(is_class ? &parser->class_lines[class_index] : &parser->clients_line) = parser->line;
  else
    list[length++] = ',';
  memcpy(list + length, value, more + 1);
  return 1;
}

static int set_value(struct parser *parser, const struct key *key, const char *value)
{
  void *at = (char *)parser->base + key->offset;
  int64_t number = 0;
  switch (key->kind) {
  case KEY_COUNT:
  case KEY_MS:
    if (bus_parse_integer(value, key->least, key->most, key->name, &number) != BUS_OK)
      return fail_at(parser, parser->line, "%s", bus_error_message());
    if (key->kind == KEY_COUNT)
      *(uint32_t *)at = (uint32_t)number;
    else
      *(uint64_t *)at = (uint64_t)number * NS_PER_MS;
    return 1;
  case KEY_RATE:
    return set_rate(parser, key, value, at);
  case KEY_TEXT:
    return set_text(parser, key, value, at);
  case KEY_FLAVOR:
    number = bus_llm_flavor_parse(value);
    if (number < 0)
      return fail_at(parser, parser->line, "flavor=: %s", bus_error_message());
    *(uint32_t *)at = (uint32_t)number;
    return 1;
  case KEY_URL:
    if (bus_bridge_url_parse(value, parser->base) != BUS_OK)
      return fail_at(parser, parser->line, "%s", bus_error_message());
    return 1;
  case KEY_LIST:
    return add_to_list(parser, key, value);
  }
  return 0;
}

static int take_key(struct parser *parser, const char *name, const char *value)
{
  const struct section *section = &sections[parser->kind];
  for (size_t i = 0; i < section->key_count; i++) {
    const struct key *key = &section->keys[i];
    if (strcmp(key->name, name))
      continue;
    bool again = parser->seen & (1u << i);
    if (again && !(parser->indented && key->kind == KEY_LIST))
      return fail_at(parser, parser->line, "%s= is given twice in [%s]%s", name, parser->section,
                     parser->indented ? " (an indented line continues the one before)" : "");
    if (!*value)
      return fail_at(parser, parser->line, "%s= has no value", name);
    parser->seen |= 1u << i;
    return set_value(parser, key, value);
  }
  return fail_unknown_key(parser, name);
}

/* ---- sections ---- */

static bool was_given(const struct parser *parser, const char *name)
{
  const struct section *section = &sections[parser->kind];
  for (size_t i = 0; i < section->key_count; i++)
    if (!strcmp(section->keys[i].name, name))
      return parser->seen & (1u << i);
  return false;
}

static void set_fallbacks(struct parser *parser)
{
  const struct section *section = &sections[parser->kind];
  for (size_t i = 0; i < section->key_count; i++) {
    const struct key *key = &section->keys[i];
    const char *value = key->fallback;
    const struct bus_bridge_backend_config *backend = parser->base;
    for (size_t j = 0; parser->kind == SECTION_BACKEND && j < BUS_COUNT_OF(flavor_fallbacks); j++)
      if (flavor_fallbacks[j].flavor == backend->flavor &&
          !strcmp(flavor_fallbacks[j].key, key->name))
        value = flavor_fallbacks[j].value;
    if (value && !(parser->seen & (1u << i)))
      set_value(parser, key, value);
  }
}

static int check_backend(struct parser *parser, const struct bus_bridge_backend_config *backend)
{
  uint32_t line = parser->section_line;
  if (!was_given(parser, "url"))
    return fail_at(parser, line, "[%s] has no url=", parser->section);
  if (backend->flavor == BUS_LLM_FLAVOR_MLX && backend->model[0])
    return fail_at(parser, line,
                   "[%s]: mlx_lm.server would unload its model and load the one of model=; start "
                   "it with that model and leave model= out",
                   parser->section);
  if (backend->api_key_file[0] && backend->api_key_env[0])
    return fail_at(parser, line, "[%s]: give api_key_file= or api_key_env=, not both",
                   parser->section);
  if (backend->ca_file[0] && !backend->tls)
    return fail_at(parser, line, "[%s]: ca_file= is of use with an https url only",
                   parser->section);
  if (backend->urgent_reserve >= backend->concurrency)
    return fail_at(parser, line,
                   "[%s]: urgent_reserve=%u leaves nothing of concurrency=%u for other requests",
                   parser->section, backend->urgent_reserve, backend->concurrency);
  if (backend->open_ns > backend->open_ns_max)
    return fail_at(parser, line, "[%s]: open_ms=%llu is more than open_ms_max=%llu",
                   parser->section, (unsigned long long)(backend->open_ns / NS_PER_MS),
                   (unsigned long long)(backend->open_ns_max / NS_PER_MS));
  return 1;
}

static int check_bridge(struct parser *parser, const struct bus_bridge_config *config)
{
  uint32_t line = parser->section_line;
  if (config->record_bytes % 64)
    return fail_at(parser, line, "record_bytes=%u is no multiple of 64", config->record_bytes);
  if (config->reply_depth & (config->reply_depth - 1))
    return fail_at(parser, line, "reply_depth=%u is no power of two", config->reply_depth);
  uint32_t bytes_max = config->request_bytes_max > config->answer_bytes_max
                           ? config->request_bytes_max
                           : config->answer_bytes_max;
  if (bus_llm_slots(bytes_max, config->record_bytes) > BUS_LLM_FRAGMENTS_MAX)
    return fail_at(parser, line,
                   "a text of %u bytes takes more than %u slots of record_bytes=%u; make those "
                   "larger",
                   bytes_max, BUS_LLM_FRAGMENTS_MAX, config->record_bytes);
  return 1;
}

/* At the end of each section: what it left out, and whether it adds up. */
static void finish_section(struct parser *parser)
{
  if (parser->kind == SECTION_NONE || parser->error)
    return;
  set_fallbacks(parser);
  if (parser->kind == SECTION_BACKEND)
    check_backend(parser, parser->base);
  else if (parser->kind == SECTION_BRIDGE)
    check_bridge(parser, parser->config);
}

static bool is_valid_name(const char *name)
{
  size_t length = strlen(name);
  return length >= 1 && length <= BUS_BRIDGE_NAME_MAX &&
         !name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")];
}

static int begin_backend(struct parser *parser, const char *name)
{
  struct bus_bridge_config *config = parser->config;
  if (!strcmp(name, "class"))
    return fail_at(parser, parser->line,
                   "[backend class]: choose another name: the counters of "
                   "classes begin with it");
  for (uint32_t i = 0; i < config->backend_count; i++)
    if (!strcmp(config->backends[i].name, name))
      return fail_at(parser, parser->line, "a second [backend %s]", name);
  if (config->backend_count == BUS_BRIDGE_BACKENDS_MAX)
    return fail_at(parser, parser->line, "[backend %s]: more than %u servers", name,
                   BUS_BRIDGE_BACKENDS_MAX);
  parser->base = &config->backends[config->backend_count];
  strcpy(config->backends[config->backend_count].name, name);
  strcpy(config->backends[config->backend_count++].authorization, "Bearer none");
  return 1;
}

static int begin_class(struct parser *parser, const char *name)
{
  struct bus_bridge_config *config = parser->config;
  for (uint32_t i = 0; i < config->class_count; i++)
    if (!strcmp(config->classes[i].name, name))
      return fail_at(parser, parser->line, "a second [class %s]", name);
  if (config->class_count == BUS_BRIDGE_CLASSES_MAX)
    return fail_at(parser, parser->line, "[class %s]: more than %u classes", name,
                   BUS_BRIDGE_CLASSES_MAX);
  parser->class_lines[config->class_count] = parser->line;
  parser->base = &config->classes[config->class_count];
  strcpy(config->classes[config->class_count++].name, name);
  return 1;
}

static int begin_bridge(struct parser *parser)
{
  if (parser->bridge_seen)
    return fail_at(parser, parser->line, "a second [bridge]");
  parser->bridge_seen = true;
  parser->base = parser->config;
  return 1;
}

/* `heading`: what stands between [ and ]. */
static int begin_section(struct parser *parser, char *heading)
{
  finish_section(parser);
  if (parser->error)
    return 0;
  snprintf(parser->section, sizeof parser->section, "%s", heading);
  parser->seen = 0;
  parser->kind = SECTION_NONE;
  size_t length = strcspn(heading, " \t");
  char *name = heading + length + strspn(heading + length, " \t");
  for (uint32_t kind = 0; kind < SECTION_KINDS; kind++)
    if (strlen(sections[kind].name) == length && !strncmp(sections[kind].name, heading, length))
      parser->kind = kind;
  if (parser->kind == SECTION_NONE || (parser->kind == SECTION_BRIDGE && *name))
    return fail_at(parser, parser->line,
                   "[%s]: a section is [bridge], [backend NAME] or [class NAME]", parser->section);
  if (parser->kind == SECTION_BRIDGE)
    return begin_bridge(parser);
  if (!is_valid_name(name))
    return fail_at(parser, parser->line, "[%s]: the name of a %s is 1..%u of A-Za-z0-9_-",
                   parser->section, sections[parser->kind].name, BUS_BRIDGE_NAME_MAX);
  return parser->kind == SECTION_BACKEND ? begin_backend(parser, name) : begin_class(parser, name);
}

/* ---- lines ---- */

/* libinih tells of a section only when its first key comes, and one without keys is fine here. */
static void note_line(struct parser *parser, const char *line)
{
  parser->indented = line[0] == ' ' || line[0] == '\t';
  const char *start = line + strspn(line, " \t");
  if (*start != '[')
    return;
  const char *end = strchr(start, ']');
  char heading[64];
  if (parser->indented)
    fail_at(parser, parser->line, "a section begins at the left margin");
  else if (!end)
    fail_at(parser, parser->line, "a section begins with [name]; the ] is missing");
  else if (!strchr("\n;#", end[1 + strspn(end + 1, " \t")]))
    fail_at(parser, parser->line, "nothing but a comment may follow the ] of a [section]");
  else if ((size_t)(end - start) > sizeof heading)
    fail_at(parser, parser->line, "a section is [bridge], [backend NAME] or [class NAME]");
  else {
    snprintf(heading, sizeof heading, "%.*s", (int)(end - start - 1), start + 1);
    parser->section_line = begin_section(parser, heading) ? parser->line : parser->section_line;
  }
}

/* libinih's fgets: one line. Its handler is called before the next line is read. */
static char *next_line(char *buffer, int size, void *stream)
{
  struct parser *parser = stream;
  if (parser->error || parser->at == parser->end)
    return NULL;
  parser->line++;
  int error = bus_ini_line_take(&parser->at, parser->end, buffer, (size_t)size, LINE_BYTES_MAX);
  if (error == BUS_ERROR_NO_SPACE)
    fail_at(parser, parser->line, "longer than %u bytes; a list goes on in an indented line",
            LINE_BYTES_MAX);
  else if (error)
    fail_at(parser, parser->line, "holds a control character; use plain text");
  else
    note_line(parser, buffer);
  return parser->error ? NULL : buffer;
}

static int handle_key(void *user, const char *section, const char *name, const char *value)
{
  struct parser *parser = user;
  (void)section; /* libinih cuts long ones */
  if (parser->error || !name || !value)
    return parser->error == 0;
  if (parser->kind == SECTION_NONE)
    return fail_at(parser, parser->line,
                   "'%s' stands before the first section; begin with [bridge]", name);
  return take_key(parser, name, value);
}

/* ---- lists: when every name is known ---- */

/* The next word of a list in which commas and blanks separate, cut out; NULL at its end. */
static char *next_word(char **at)
{
  *at += strspn(*at, ", \t");
  char *word = *at;
  size_t length = strcspn(word, ", \t");
  *at = word + length + (word[length] != 0);
  word[length] = 0;
  return length ? word : NULL;
}

static int take_clients(struct parser *parser)
{
  struct bus_bridge_config *config = parser->config;
  char *at = parser->clients;
  for (char *name; (name = next_word(&at)) != NULL;) {
    if (!bus_layout_name_is_valid(name) || strlen(name) > BUS_LLM_CLIENT_NAME_MAX)
      return fail_at(parser, parser->clients_line,
                     "clients=: '%s': a member's name is 1..%u of A-Za-z0-9._-", name,
                     BUS_LLM_CLIENT_NAME_MAX);
    for (uint32_t i = 0; i < config->client_count; i++)
      if (!strcmp(config->clients[i], name))
        return fail_at(parser, parser->clients_line, "clients=: '%s' is named twice", name);
    if (config->client_count == BUS_BRIDGE_CLIENTS_MAX)
      return fail_at(parser, parser->clients_line, "clients=: more than %u",
                     BUS_BRIDGE_CLIENTS_MAX);
    strcpy(config->clients[config->client_count++], name);
  }
  return 1;
}

/* "mac:3" -> index and weight. */
static int take_route(struct parser *parser, struct bus_bridge_class_config *class, uint32_t line,
                      char *word)
{
  const struct bus_bridge_config *config = parser->config;
  char *colon = strchr(word, ':');
  int64_t weight = 1;
  if (colon)
    *colon = 0;
  if (colon && bus_parse_integer(colon + 1, 1, 1000, "weight", &weight) != BUS_OK)
    return fail_at(parser, line, "backends=: of '%s': %s", word, bus_error_message());
  uint32_t backend = 0;
  while (backend < config->backend_count && strcmp(config->backends[backend].name, word) != 0)
    backend++;
  if (backend == config->backend_count)
    return fail_at(parser, line, "backends=: there is no [backend %s]", word);
  for (uint32_t i = 0; i < class->backend_count; i++)
    if (class->backends[i].backend == backend)
      return fail_at(parser, line, "backends=: '%s' is named twice", word);
  class->backends[class->backend_count].backend = backend;
  class->backends[class->backend_count++].weight = (uint32_t)weight;
  return 1;
}

static void finish_class(struct parser *parser, uint32_t index)
{
  struct bus_bridge_class_config *class = &parser->config->classes[index];
  char *at = parser->backends[index];
  for (char *word; !parser->error && (word = next_word(&at)) != NULL;)
    take_route(parser, class, parser->class_lines[index], word);
  for (uint32_t i = 0;
       !parser->error && !parser->backends[index][0] && i < parser->config->backend_count; i++) {
    class->backends[i].backend = i;
    class->backends[i].weight = 1;
    class->backend_count++;
  }
  if (!parser->error && class->backend_count == 0)
    fail_at(parser, parser->class_lines[index], "[class %s]: backends= names no server",
            class->name);
  if (!parser->error && class->hedge_after_ns && class->backend_count < 2)
    fail_at(parser, parser->class_lines[index],
            "[class %s]: hedge_after_ms= needs a second server in backends=", class->name);
}

static void finish(struct parser *parser)
{
  struct bus_bridge_config *config = parser->config;
  uint32_t last_line = parser->line ? parser->line : 1;
  finish_section(parser);
  if (!parser->error)
    take_clients(parser);
  if (!parser->error && config->client_count == 0)
    fail_at(parser, last_line,
            "no clients: [bridge] needs clients= with the names of the members that ask");
  if (!parser->error && config->backend_count == 0)
    fail_at(parser, last_line, "no server: add [backend NAME] with url=");
  if (!parser->error && config->class_count == 0)
    fail_at(parser, last_line, "no class: add [class NAME], by which requests are routed");
  for (uint32_t i = 0; i < config->class_count && !parser->error; i++)
    finish_class(parser, i);
}

int bus_bridge_config_parse(const char *text, size_t size, struct bus_bridge_config *config)
{
  memset(config, 0, sizeof *config);
  if (size > BUS_BRIDGE_CONFIG_BYTES_MAX)
    return bus_error_set(BUS_ERROR_FORMAT, "line 1: the file has more than %u bytes",
                         BUS_BRIDGE_CONFIG_BYTES_MAX);
  struct parser *parser = calloc(1, sizeof *parser);
  if (!parser)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  *parser = (struct parser){.at = text, .end = text + size, .config = config, .kind = SECTION_NONE};
  int wrong_line = ini_parse_stream(next_line, parser, handle_key, parser);
  if (!parser->error && wrong_line < 0)
    parser->error = bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  if (wrong_line > 0 && (uint32_t)wrong_line < parser->error_line)
    parser->error = BUS_OK; /* libinih went on after a line of its own dislike */
  if (wrong_line > 0)
    fail_at(parser, (uint32_t)wrong_line, "neither [section] nor key=value nor a comment");
  if (!parser->error)
    finish(parser);
  int error = parser->error;
  free(parser);
  return error;
}
