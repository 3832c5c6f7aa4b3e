#include "consumers/retry_after.h"

#include <stdio.h>
#include <string.h>

#define NS_PER_S 1000000000u

/* Days from 1970-01-01 to a date of the Gregorian calendar, `month` 1..12. */
static int64_t days_from_date(int64_t year, unsigned month, unsigned day)
{
  /* Years begin in March: the leap day is then the last, and 153 days are five months. */
  year -= month <= 2;
  const int64_t era = year / 400;
  const unsigned year_of_era = (unsigned)(year - era * 400);
  const unsigned day_of_year = (153 * (month > 2 ? month - 3 : month + 9) + 2) / 5 + day - 1;
  return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year -
         719468;
}

static unsigned month_of(const char *name)
{
  static const char names[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
  for (unsigned month = 0; month < 12; month++)
    if (!strncmp(names + (size_t)month * 3, name, 3))
      return month + 1;
  return 0;
}

/* Seconds since 1970, or -1. */
static int64_t parse_date(const char *value, uint64_t wall_ns)
{
  char name[4];
  unsigned year, day, hour, minute, second;
  int end = 0;
  bool read = sscanf(value, "%*3[A-Za-z], %2u %3[A-Za-z] %4u %2u:%2u:%2u GMT%n", &day, name, &year,
                     &hour, &minute, &second, &end) == 6 &&
              end;
  if (!read) {
    read = sscanf(value, "%*9[A-Za-z], %2u-%3[A-Za-z]-%2u %2u:%2u:%2u GMT%n", &day, name, &year,
                  &hour, &minute, &second, &end) == 6 &&
           end;
    if (read) { /* two digits: of this century, unless that is more than fifty years ahead */
      const unsigned today = 1970 + (unsigned)(wall_ns / NS_PER_S / 31556952);
      year += today / 100 * 100;
      year -= year > today + 50 ? 100 : 0;
    }
  }
  if (!read)
    read = sscanf(value, "%*3[A-Za-z] %3[A-Za-z] %2u %2u:%2u:%2u %4u%n", name, &day, &hour, &minute,
                  &second, &year, &end) == 6 &&
           end;
  const unsigned month = read ? month_of(name) : 0;
  if (!month || value[end] || year < 1970 || day < 1 || day > 31 || hour > 23 || minute > 59 ||
      second > 60)
    return -1;
  return days_from_date(year, month, day) * 86400 + hour * 3600 + minute * 60 + second;
}

uint32_t bus_retry_after_ms(const char *value, uint64_t wall_ns)
{
  uint64_t ms = 0, scale = 100;
  const char *at = value;
  if (*at < '0' || *at > '9') {
    const int64_t date_s = parse_date(value, wall_ns);
    const uint64_t wall_ms = wall_ns / (NS_PER_S / 1000);
    if (date_s < 0 || (uint64_t)date_s * 1000 <= wall_ms)
      return 0;
    ms = (uint64_t)date_s * 1000 - wall_ms;
    return ms < BUS_RETRY_AFTER_MS_MAX ? (uint32_t)ms : BUS_RETRY_AFTER_MS_MAX;
  }
  for (; *at >= '0' && *at <= '9'; at++)
    ms = ms < BUS_RETRY_AFTER_MS_MAX ? ms * 10 + (uint64_t)(*at - '0') * 1000 : ms;
  if (*at == '.')
    for (at++; *at >= '0' && *at <= '9'; at++, scale /= 10)
      ms += (uint64_t)(*at - '0') * scale;
  while (*at == ' ' || *at == '\t')
    at++;
  if (*at)
    return 0;
  return ms < BUS_RETRY_AFTER_MS_MAX ? (uint32_t)ms : BUS_RETRY_AFTER_MS_MAX;
}
