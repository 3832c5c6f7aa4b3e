#include "tools/replay_steps.h"

#include "shm/error.h"
#include "shm/options.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* False when the line says to end. */
static bool take_line(struct replay_steps *steps)
{
  int64_t records = 1;
  steps->line[steps->line_length] = '\0';
  steps->line_length = 0;
  if (!strcmp(steps->line, "q"))
    return false;
  if (steps->line[0] &&
      bus_parse_integer(steps->line, 1, INT64_MAX, "records", &records) != BUS_OK) {
    fprintf(stderr, "bus-replay: %s; use Enter, a number of records, or q\n", bus_error_message());
    return true;
  }
  steps->credit += (uint64_t)records;
  return true;
}

bool replay_steps_wait(struct replay_steps *steps, int timeout_ms)
{
  struct pollfd input = {.fd = steps->file, .events = POLLIN};
  char byte;
  while (steps->credit == 0 && poll(&input, 1, timeout_ms) > 0) {
    ssize_t got = read(steps->file, &byte, 1);
    if (got < 0)
      return errno == EINTR || errno == EAGAIN;
    if (got == 0 || (byte == '\n' && !take_line(steps)))
      return false;
    if (byte != '\n' && steps->line_length < sizeof steps->line - 1)
      steps->line[steps->line_length++] = byte;
  }
  return true;
}
