/* Any bytes as /proc/interrupts: refused, or rows that are terminated and in range. */
#include "tools/ops/gaps.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  static struct ops_interrupts now, before;
  if (size < 2)
    return 0;
  char *text = malloc(size), *again = malloc(size);
  if (!text || !again)
    abort();
  memcpy(text, data + 1, size - 1);
  text[size - 1] = '\0';
  memcpy(again, text, size);
  int cpu = data[0] % 4;
  int error = ops_interrupts_parse(&now, text, cpu);
  if (now.count < 0 || now.count > OPS_INTERRUPTS_MAX || (error && now.count))
    abort();
  for (int i = 0; i < now.count; i++)
    if (strlen(now.rows[i].name) >= sizeof now.rows[i].name ||
        strlen(now.rows[i].label) >= sizeof now.rows[i].label || !now.rows[i].name[0])
      abort();
  if (!error && ops_interrupts_parse(&before, again, cpu) == BUS_OK)
    ops_interrupts_since(&now, &before);
  free(text);
  free(again);
  return 0;
}
