/* Writes a test capture: make_capture DIRECTORY [FEATURES [BLOCK_SIZE [SEGMENT_BYTES [GAP_AT [SCORE
 * [OTHER_LATENCIES]]]]]] */
#include "tests/replay_fixture.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
  if (argc < 2)
    return 2;
  struct replay_fixture fixture = {
      .directory = argv[1],
      .features = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : 1000,
      .block_size = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 0,
      .segment_bytes = argc > 4 ? strtoull(argv[4], NULL, 10) : 0,
      .gap_at = argc > 5 ? (uint32_t)strtoul(argv[5], NULL, 10) : 0,
      .score = argc > 6 ? strtof(argv[6], NULL) : 0.25f,
      .other_latencies = argc > 7};
  if (replay_fixture_write(&fixture) == BUS_OK)
    return 0;
  fprintf(stderr, "%s\n", bus_error_message());
  return 1;
}
