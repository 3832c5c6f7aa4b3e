#include "options.h"

#include "error.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

int bus_parse_integer(const char *text, int64_t minimum, int64_t maximum, const char *what,
                      int64_t *value)
{
  char *end;
  errno = 0;
  long long parsed = strtoll(text, &end, 10);
  if (errno || end == text || *end || parsed < minimum || parsed > maximum)
    return bus_error_set(BUS_ERROR_INVALID,
                         "%s '%s': use a whole number from %" PRId64 " to %" PRId64, what, text,
                         minimum, maximum);
  *value = parsed;
  return BUS_OK;
}

void bus_member_options_init(struct bus_member_options *options, const char *name)
{
  memset(options, 0, sizeof *options);
  options->directory = bus_directory_default();
  options->name = name;
  options->core = -1;
  options->numa_node = -1;
  options->idle = BUS_IDLE_BACKOFF;
  options->mode = 0640;
}

static int take_mode(struct bus_member_options *options, const char *value)
{
  char *end;
  unsigned long mode = strtoul(value, &end, 8);
  if (end == value || *end || mode > 0777 || mode & 022)
    return bus_error_set(
        BUS_ERROR_INVALID,
        "mode '%s': use octal, without write permission for group and others (0640)", value);
  options->mode = (mode_t)mode;
  return BUS_OK;
}

int bus_member_options_take(struct bus_member_options *options, int option, const char *value)
{
  int64_t number = 0;
  int error = BUS_OK;
  switch (option) {
  case BUS_OPTION_BUS:
    options->directory = value;
    break;
  case BUS_OPTION_NAME:
    options->name = value;
    break;
  case BUS_OPTION_CORE:
    error = bus_parse_integer(value, -1, 1023, "core", &number);
    options->core = (int)number;
    break;
  case BUS_OPTION_NUMA_NODE:
    error = bus_parse_integer(value, -1, 1023, "NUMA node", &number);
    options->numa_node = (int)number;
    break;
  case BUS_OPTION_IDLE:
    error = bus_idle_parse(value);
    if (error > 0) {
      options->idle = (uint32_t)error;
      error = BUS_OK;
    }
    break;
  case BUS_OPTION_MODE:
    error = take_mode(options, value);
    break;
  case BUS_OPTION_SMALL_PAGES:
    options->small_pages = true;
    break;
  default:
    return 0;
  }
  return error ? error : 1;
}
