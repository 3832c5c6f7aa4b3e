#include "error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define MESSAGE_BYTES 1024

static _Thread_local char thread_message[MESSAGE_BYTES];

const char *bus_error_name(int code)
{
  static const char *const names[] = {
      "ok",      "invalid",  "absent", "not ready", "version", "dead owner", "denied",     "busy",
      "corrupt", "no space", "io",     "again",     "overrun", "format",     "unsupported"};
  unsigned index = code <= 0 ? 0u - (unsigned)code : BUS_COUNT_OF(names);
  return index < BUS_COUNT_OF(names) ? names[index] : "unknown";
}

int bus_error_set(int code, const char *format, ...)
{
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(thread_message, sizeof thread_message, format, arguments);
  va_end(arguments);
  return code;
}

static int code_from_errno(int error)
{
  switch (error) {
  case ENOENT:
  case ENOTDIR:
    return BUS_ERROR_ABSENT;
  case EACCES:
  case EPERM:
  case EROFS:
    return BUS_ERROR_DENIED;
  case ENOSPC:
  case ENOMEM:
  case EDQUOT:
  case EMFILE:
  case ENFILE:
    return BUS_ERROR_NO_SPACE;
  case EAGAIN:
    return BUS_ERROR_AGAIN;
  default:
    return BUS_ERROR_IO;
  }
}

/* Puts ": text" behind the message, cut where it ends. */
static void append(const char *text)
{
  size_t used = strlen(thread_message);
  const char *const parts[] = {": ", text};
  for (size_t i = 0; i < BUS_COUNT_OF(parts); i++)
    for (const char *from = parts[i]; *from && used + 1 < sizeof thread_message; from++)
      thread_message[used++] = *from;
  thread_message[used] = '\0';
}

int bus_error_set_errno(const char *format, ...)
{
  int error = errno;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(thread_message, sizeof thread_message, format, arguments);
  va_end(arguments);
  append(strerror(error));
  return code_from_errno(error);
}

int bus_error_context(int code, const char *format, ...)
{
  char inner[MESSAGE_BYTES];
  memcpy(inner, thread_message, sizeof inner);
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(thread_message, sizeof thread_message, format, arguments);
  va_end(arguments);
  append(inner);
  return code;
}

const char *bus_error_message(void)
{
  return thread_message;
}

void bus_error_clear(void)
{
  thread_message[0] = '\0';
}
