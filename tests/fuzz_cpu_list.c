/* Any text: parsed or refused, and what was parsed survives being written and parsed again. */
#include "tools/ops/cpu_list.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void check_again(const struct ops_cpu_list *list)
{
  struct ops_cpu_list again;
  char text[OPS_CPU_LIST_BYTES];
  ops_cpu_list_format(list, text, sizeof text);
  if (ops_cpu_list_parse(&again, text, "list") != BUS_OK || !ops_cpu_list_equal(list, &again))
    abort();
  ops_cpu_list_format_mask(list, text, sizeof text);
  if (ops_cpu_list_parse_mask(&again, text, "mask") != BUS_OK || !ops_cpu_list_equal(list, &again))
    abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ops_cpu_list list;
  char *text = malloc(size + 1);
  memcpy(text, data, size);
  text[size] = '\0';
  if (ops_cpu_list_parse(&list, text, "list") == BUS_OK)
    check_again(&list);
  if (ops_cpu_list_parse_mask(&list, text, "mask") == BUS_OK)
    check_again(&list);
  free(text);
  return 0;
}
