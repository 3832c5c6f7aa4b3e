#include "log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES 2048

bool bus_log_goes_to_journal(void)
{
  const char *stream = getenv("JOURNAL_STREAM");
  struct stat status;
  unsigned long long device, inode;
  char rest;
  return stream && sscanf(stream, "%llu:%llu%c", &device, &inode, &rest) == 2 &&
         fstat(STDERR_FILENO, &status) == 0 && status.st_dev == device && status.st_ino == inode;
}

void bus_log(enum bus_log_priority priority, const char *format, ...)
{
  char line[LINE_BYTES + 8];
  size_t start = 0;
  bool journal = bus_log_goes_to_journal();
  if (journal)
    start = (size_t)snprintf(line, sizeof line, "<%u>", (unsigned)priority % 8);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line + start, LINE_BYTES, format, arguments);
  va_end(arguments);
  for (char *at = line; journal && *at; at++)
    if (*at == '\n')
      *at = ' ';
  size_t length = strlen(line);
  line[length++] = '\n';
  for (size_t done = 0; done < length;) {
    ssize_t written = write(STDERR_FILENO, line + done, length - done);
    if (written < 0 && errno != EINTR)
      return;
    if (written > 0)
      done += (size_t)written;
  }
}
