/* Any bytes as the state file of the reserved huge pages: refused, or entries in range. */
#include "tools/ops/hugepages.h"

#include <stdlib.h>
#include <string.h>

#define BOOT "b0"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
  struct ops_hugepages_state state = {.fd = -1};
  char *text = malloc(size + sizeof "boot " BOOT "\n");
  if (!text)
    return 0;
  /* Half of the inputs get past the first line. */
  size_t start = size && data[0] & 1 ? strlen(strcpy(text, "boot " BOOT "\n")) : 0;
  memcpy(text + start, data, size);
  text[start + size] = '\0';
  int error = ops_hugepages_state_parse(&state, text, BOOT);
  if (state.count < 0 || state.count > OPS_NODES_MAX || (error && state.count))
    abort();
  for (int i = 0; i < state.count; i++) {
    const struct ops_hugepages_taken *taken = &state.taken[i];
    if (taken->found < 0 || taken->set < 0 || taken->found == taken->set || taken->node < 0 ||
        ops_hugepages_state_find(&state, taken->node) != taken)
      abort();
  }
  free(text);
  return 0;
}
