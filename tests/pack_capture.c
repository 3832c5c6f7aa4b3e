/* Makes a capture of what bus-feed and bus-trader wrote with --output: pack_capture DIRECTORY
 * FEATURES [SIGNALS]. Both files are records as they stood in the rings. */
#include "tools/replay_output.h"

#include <stdio.h>
#include <string.h>

static int describe(struct replay_output *output, const char *member, const char *ring,
                    const char *peer, const char *type_name, uint32_t type, uint32_t size,
                    uint32_t depth)
{
  const struct bus_capture_shape shape = {
      .record_type = type, .record_size = size, .block_size = 65536};
  char name[BUS_CAPTURE_STREAM_BYTES];
  snprintf(name, sizeof name, "%s.%s", member, ring);
  int stream = replay_output_stream(output, name, &shape);
  if (stream < 0)
    return stream;
  json_t *inputs = type == BUS_RECORD_SIGNAL
                       ? json_pack("[{s:s, s:s}]", "member", "feed", "ring", "features")
                       : json_array();
  json_t *meta = json_pack(
      "{s:s, s:i, s:s, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:s, s:[{s:s,s:i,s:i,s:i}], s:o}",
      "format", "signal-bus capture", "version", BUS_CAPTURE_VERSION, "member", member, "ring",
      ring, "kind", "test", "record_type", type_name, "record_size", (int)size, "depth", (int)depth,
      "policy", *peer ? "wait" : "overwrite", "peer", peer, "instance", "77", "symbols", "name",
      "BTCUSDT", "price_exponent", -8, "size_exponent", -8, "tick_size", 1, "inputs", inputs);
  int error = replay_output_meta(output, stream, meta);
  json_decref(meta);
  return error ? error : stream;
}

static int pack(struct replay_output *output, int stream, const char *path, size_t size)
{
  _Alignas(64) unsigned char record[128];
  FILE *file = fopen(path, "r");
  if (stream < 0 || !file)
    return stream < 0 ? stream : bus_error_set_errno("%s", path);
  int error = BUS_OK;
  while (!error && fread(record, size, 1, file) == 1)
    error = replay_output_record(output, stream, record, 0);
  fclose(file);
  return error;
}

int main(int argc, char **argv)
{
  struct replay_output *output;
  if (argc < 3)
    return 2;
  int error = replay_output_open(argv[1], REPLAY_OUTPUT_SEGMENT_BYTES, &output);
  if (!error) {
    int features = describe(output, "feed", "features", "infer", "feature", BUS_RECORD_FEATURE,
                            sizeof(struct bus_feature), 256);
    error = pack(output, features, argv[2], sizeof(struct bus_feature));
    if (!error && argc > 3) {
      int signals = describe(output, "infer", "signals", "", "signal", BUS_RECORD_SIGNAL,
                             sizeof(struct bus_signal), 131072);
      error = pack(output, signals, argv[3], sizeof(struct bus_signal));
    }
    int closed = replay_output_close(output);
    error = error ? error : closed;
  }
  if (error)
    fprintf(stderr, "pack_capture: %s\n", bus_error_message());
  return error ? 1 : 0;
}
