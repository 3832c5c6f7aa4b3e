#include "tools/ops/cpu_list.h"

#include <stdio.h>
#include <string.h>

#define WORDS (OPS_CPUS_MAX / 64)

static bool is_space(char character)
{
  return character == ' ' || character == '\t' || character == '\n';
}

static const char *skip_space(const char *at)
{
  while (is_space(*at))
    at++;
  return at;
}

static int digit_value(char digit, unsigned base)
{
  int value = digit >= '0' && digit <= '9'   ? digit - '0'
              : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
              : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                             : -1;
  return value < (int)base ? value : -1;
}

/* At most `digits_max` digits of a number that fits; NULL when there is none or there are more. */
static const char *read_number(const char *at, unsigned base, int digits_max, uint32_t *number)
{
  uint64_t value = 0;
  int digits = 0;
  for (int digit; (digit = digit_value(*at, base)) >= 0; at++) {
    if (++digits > digits_max)
      return NULL;
    value = value * base + (unsigned)digit;
  }
  *number = (uint32_t)value;
  return digits ? at : NULL;
}

static int refuse_format(struct ops_cpu_list *list, const char *what, const char *text,
                         const char *example)
{
  *list = (struct ops_cpu_list){0};
  return bus_error_set(BUS_ERROR_FORMAT, "%s: '%.200s' is not %s", what, text, example);
}

static int refuse_range(struct ops_cpu_list *list, const char *what, uint32_t first, uint32_t last)
{
  *list = (struct ops_cpu_list){0};
  if (last < first)
    return bus_error_set(BUS_ERROR_INVALID, "%s: the range %u-%u runs backwards", what, first,
                         last);
  return bus_error_set(BUS_ERROR_INVALID, "%s: CPU %u is above the highest possible, %d", what,
                       last, OPS_CPUS_MAX - 1);
}

int ops_cpu_list_parse(struct ops_cpu_list *list, const char *text, const char *what)
{
  static const char example[] = "a list of CPUs like 2-5,8";
  *list = (struct ops_cpu_list){0};
  const char *at = skip_space(text);
  if (*at == '\0')
    return BUS_OK;
  for (;;) {
    uint32_t first, last;
    at = read_number(at, 10, 9, &first);
    if (!at)
      return refuse_format(list, what, text, example);
    last = first;
    if (*at == '-' && (at = read_number(at + 1, 10, 9, &last)) == NULL)
      return refuse_format(list, what, text, example);
    if (last < first || last >= OPS_CPUS_MAX)
      return refuse_range(list, what, first, last);
    for (uint32_t cpu = first; cpu <= last; cpu++)
      ops_cpu_list_add(list, (int)cpu);
    if (*at != ',')
      break;
    at++;
  }
  return *skip_space(at) == '\0' ? BUS_OK : refuse_format(list, what, text, example);
}

int ops_cpu_list_parse_mask(struct ops_cpu_list *list, const char *text, const char *what)
{
  static const char example[] = "a mask of CPUs like ff,00000003";
  *list = (struct ops_cpu_list){0};
  for (const char *at = skip_space(text);; at++) {
    uint32_t word;
    at = read_number(at, 16, 8, &word);
    if (!at)
      return refuse_format(list, what, text, example);
    if (list->words[WORDS - 1] >> 32 != 0) {
      *list = (struct ops_cpu_list){0};
      return bus_error_set(BUS_ERROR_INVALID, "%s: the mask names a CPU above %d", what,
                           OPS_CPUS_MAX - 1);
    }
    for (int i = WORDS - 1; i > 0; i--)
      list->words[i] = list->words[i] << 32 | list->words[i - 1] >> 32;
    list->words[0] = list->words[0] << 32 | word;
    if (*at != ',')
      return *skip_space(at) == '\0' ? BUS_OK : refuse_format(list, what, text, example);
  }
}

char *ops_cpu_list_format(const struct ops_cpu_list *list, char *text, size_t size)
{
  size_t length = 0;
  text[0] = '\0';
  for (int first = ops_cpu_list_next(list, 0), last; first >= 0;
       first = ops_cpu_list_next(list, last + 1)) {
    char entry[32];
    for (last = first; ops_cpu_list_has(list, last + 1);)
      last++;
    const char *comma = length ? "," : "";
    int bytes = last == first ? snprintf(entry, sizeof entry, "%s%d", comma, first)
                              : snprintf(entry, sizeof entry, "%s%d-%d", comma, first, last);
    if (length + (size_t)bytes >= size)
      break;
    memcpy(text + length, entry, (size_t)bytes + 1);
    length += (size_t)bytes;
  }
  return text;
}

char *ops_cpu_list_format_mask(const struct ops_cpu_list *list, char *text, size_t size)
{
  size_t length = 0;
  int top = 0;
  for (int i = 0; i < WORDS * 2; i++)
    if ((uint32_t)(list->words[i / 2] >> (i % 2 * 32)) != 0)
      top = i;
  text[0] = '\0';
  for (int i = top; i >= 0 && length + 10 <= size; i--)
    length += (size_t)snprintf(text + length, size - length, "%s%08x", length ? "," : "",
                               (uint32_t)(list->words[i / 2] >> (i % 2 * 32)));
  return text;
}

void ops_cpu_list_add(struct ops_cpu_list *list, int cpu)
{
  if (cpu >= 0 && cpu < OPS_CPUS_MAX)
    list->words[cpu / 64] |= UINT64_C(1) << cpu % 64;
}

bool ops_cpu_list_has(const struct ops_cpu_list *list, int cpu)
{
  return cpu >= 0 && cpu < OPS_CPUS_MAX && (list->words[cpu / 64] >> cpu % 64 & 1) != 0;
}

int ops_cpu_list_count(const struct ops_cpu_list *list)
{
  int count = 0;
  for (int i = 0; i < WORDS; i++)
    count += __builtin_popcountll(list->words[i]);
  return count;
}

int ops_cpu_list_next(const struct ops_cpu_list *list, int from)
{
  for (int cpu = from < 0 ? 0 : from; cpu < OPS_CPUS_MAX; cpu++)
    if (ops_cpu_list_has(list, cpu))
      return cpu;
  return -1;
}

struct ops_cpu_list ops_cpu_list_or(const struct ops_cpu_list *a, const struct ops_cpu_list *b)
{
  struct ops_cpu_list result;
  for (int i = 0; i < WORDS; i++)
    result.words[i] = a->words[i] | b->words[i];
  return result;
}

struct ops_cpu_list ops_cpu_list_and(const struct ops_cpu_list *a, const struct ops_cpu_list *b)
{
  struct ops_cpu_list result;
  for (int i = 0; i < WORDS; i++)
    result.words[i] = a->words[i] & b->words[i];
  return result;
}

struct ops_cpu_list ops_cpu_list_minus(const struct ops_cpu_list *a, const struct ops_cpu_list *b)
{
  struct ops_cpu_list result;
  for (int i = 0; i < WORDS; i++)
    result.words[i] = a->words[i] & ~b->words[i];
  return result;
}

bool ops_cpu_list_equal(const struct ops_cpu_list *a, const struct ops_cpu_list *b)
{
  return memcmp(a->words, b->words, sizeof a->words) == 0;
}

bool ops_cpu_list_intersects(const struct ops_cpu_list *a, const struct ops_cpu_list *b)
{
  struct ops_cpu_list both = ops_cpu_list_and(a, b);
  return ops_cpu_list_count(&both) > 0;
}
