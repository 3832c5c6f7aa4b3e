/* Any bytes as a configuration. What is accepted must obey the limits of the header, and each
 * command must split into words that begin and end inside the text. */
#include "tools/bus_config.h"

#include "shm/layout.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(bool condition)
{
  if (!condition)
    abort();
}

static void check_words(const struct bus_config_words *words)
{
  demand(words->count >= 1 && words->count <= BUS_CONFIG_WORDS_MAX);
  for (uint32_t i = 0; i < words->count; i++) {
    const char *word = words->argv[i];
    demand(word >= words->text && word < words->text + sizeof words->text);
    demand(memchr(word, 0, (size_t)(words->text + sizeof words->text - word)) != NULL);
  }
  demand(words->argv[words->count] == NULL && words->argv[0][0]);
}

static void check_member(const struct bus_config_member *member)
{
  static struct bus_config_words words;
  demand(bus_layout_name_is_valid(member->name) && strcmp(member->name, "busctl") != 0);
  demand(memchr(member->command, 0, sizeof member->command) != NULL && member->command[0]);
  demand(member->core >= -1 && member->core <= 1023);
  demand(member->numa_node >= -1 && member->numa_node <= 1023);
  demand(member->restart >= 0 && member->restart <= BUS_RESTART_NEVER);
  demand(member->essential >= 0 && member->essential <= BUS_ESSENTIAL_ON_FAILURE);
  demand(member->restart_backoff_ms >= 1);
  demand(member->restart_backoff_ms <= member->restart_backoff_ms_max);
  demand(member->start_timeout_ms >= 1 && member->stop_timeout_ms >= 1);
  /* The directory that was checked with is the shortest: a long one may be refused, not overrun. */
  static char directory[256];
  memset(directory, 'd', sizeof directory - 1);
  if (bus_config_split(member, directory, &words) == BUS_OK)
    check_words(&words);
  demand(bus_config_split(member, "/", &words) == BUS_OK);
  check_words(&words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static struct bus_config config;
  /* A copy of its own size: reading beyond it is seen. */
  char *text = malloc(size ? size : 1);
  demand(text != NULL);
  if (size)
    memcpy(text, data, size);
  if (bus_config_parse(text, size, "fuzz.ini", &config) == BUS_OK) {
    demand(config.member_count >= 1 && config.member_count <= BUS_CONFIG_MEMBERS_MAX);
    for (uint32_t i = 0; i < config.member_count; i++)
      check_member(&config.members[i]);
  } else {
    demand(!strncmp(bus_error_message(), "fuzz.ini:", 9));
  }
  free(text);
  return 0;
}
