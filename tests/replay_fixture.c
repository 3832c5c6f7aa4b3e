#include "tests/replay_fixture.h"

#include <stdio.h>

struct writer {
  const struct replay_fixture *fixture;
  struct replay_output *output;
  int features;
  int signals;
  int gaps;
  int raw;
};

void replay_fixture_feature(uint32_t index, uint64_t position, struct bus_feature *feature)
{
  memset(feature, 0, sizeof *feature);
  feature->timestamp_ns = REPLAY_FIXTURE_BEGIN_NS + index * REPLAY_FIXTURE_STEP_NS;
  feature->bid_price = 6000000 + index;
  feature->ask_price = 6000010 + index;
  feature->bid_size = 1500 + index;
  feature->ask_size = 2500;
  feature->exchange_delay_us = -5;
  feature->update = index;
  feature->symbol = (uint16_t)(index % 2);
  feature->trigger = BUS_TRIGGER_DEPTH;
  feature->flags = BUS_FEATURE_VALID;
  for (int i = 0; i < BUS_FEATURE_INPUTS; i++)
    feature->x[i] = (float)index + 0.125f * (float)i;
  feature->stamp = position + 1;
}

static int describe(struct writer *writer, const char *member, const char *ring,
                    const char *type_name, uint32_t type, uint32_t size)
{
  char name[BUS_CAPTURE_STREAM_BYTES];
  struct bus_capture_shape shape = {.record_type = type,
                                    .record_size = size,
                                    .block_size = writer->fixture->block_size
                                                      ? writer->fixture->block_size
                                                      : BUS_CAPTURE_BLOCK_BYTES_MIN};
  snprintf(name, sizeof name, "%s.%s", member, ring);
  int stream = replay_output_stream(writer->output, name, &shape);
  if (stream < 0)
    return stream;
  json_t *meta = json_pack(
      "{s:s, s:i, s:s, s:s, s:s, s:s, s:i, s:i, s:s, s:s, s:s, s:[{s:s,s:i,s:i,s:i},"
      "{s:s,s:i,s:i,s:i}], s:[{s:s,s:s}]}",
      "format", "signal-bus capture", "version", 1, "member", member, "ring", ring, "kind", "test",
      "record_type", type_name, "record_size", (int)size, "depth", 1024, "policy", "wait",
      "instance", "18000000000000000001", "realtime_offset_ns", "1700000000000000000", "symbols",
      "name", "BTCUSDT", "price_exponent", -2, "size_exponent", -3, "tick_size", 1, "name",
      "ETHUSDT", "price_exponent", -3, "size_exponent", -1, "tick_size", 1, "inputs", "member",
      "feed", "ring", "features");
  int error = replay_output_meta(writer->output, stream, meta);
  json_decref(meta);
  return error ? error : stream;
}

static int write_others(struct writer *writer, uint32_t index, const struct bus_feature *feature)
{
  const struct replay_fixture *fixture = writer->fixture;
  uint64_t position = index / 10;
  struct bus_gap gap = {.time_ns = feature->timestamp_ns + 500,
                        .first = feature->stamp,
                        .last = feature->stamp + 9,
                        .instance = 1,
                        .stream = bus_capture_stream_id("feed.features"),
                        .cause = BUS_GAP_OVERRUN,
                        .stamp = position + 1};
  uint64_t raw[8] = {index, 1, 2, 3, 4, 5, 6, position + 1};
  struct bus_signal signal = {.timestamp_ns = feature->timestamp_ns,
                              .feature_position = feature->stamp - 1,
                              .target_price = feature->ask_price,
                              .score = {0.25f, 0.5f, fixture->score},
                              .queue_ns = fixture->other_latencies ? 9000 : 1000,
                              .inference_ns = 500,
                              .batch = fixture->other_latencies ? 7 : 1,
                              .symbol = feature->symbol,
                              .direction = 1,
                              .confidence = 55,
                              .engine =
                                  fixture->other_latencies ? BUS_ENGINE_AVX2 : BUS_ENGINE_SCALAR,
                              .flags = BUS_SIGNAL_VALID,
                              .stamp = feature->stamp};
  int error = replay_output_record(writer->output, writer->signals, &signal, 0);
  if (!error && index % 10 == 0)
    error = replay_output_record(writer->output, writer->gaps, &gap, 0);
  if (!error && index % 10 == 0)
    error = replay_output_record(writer->output, writer->raw, raw, feature->timestamp_ns + 700);
  return error;
}

static int write_records(struct writer *writer)
{
  const struct replay_fixture *fixture = writer->fixture;
  int error = BUS_OK;
  for (uint32_t i = 0; i < fixture->features && !error; i++) {
    struct bus_feature feature;
    if (fixture->gap_at && i >= fixture->gap_at && i < fixture->gap_at + 10)
      continue;
    replay_fixture_feature(i, fixture->first + i, &feature);
    error = replay_output_record(writer->output, writer->features, &feature, 0);
    if (!error)
      error = write_others(writer, i, &feature);
  }
  return error;
}

int replay_fixture_write(const struct replay_fixture *fixture)
{
  struct writer writer = {.fixture = fixture};
  int error = replay_output_open(fixture->directory,
                                 fixture->segment_bytes ? fixture->segment_bytes : UINT64_MAX,
                                 &writer.output);
  if (error)
    return error;
  writer.features = describe(&writer, "feed", "features", "feature", BUS_RECORD_FEATURE,
                             sizeof(struct bus_feature));
  writer.signals =
      describe(&writer, "infer", "signals", "signal", BUS_RECORD_SIGNAL, sizeof(struct bus_signal));
  writer.gaps = describe(&writer, "record", "gaps", "gap", BUS_RECORD_GAP, sizeof(struct bus_gap));
  writer.raw = describe(&writer, "raw", "data", "raw", BUS_RECORD_RAW, 64);
  if (writer.features < 0 || writer.signals < 0 || writer.gaps < 0 || writer.raw < 0)
    error = BUS_ERROR_INVALID;
  if (!error)
    error = write_records(&writer);
  if (!error)
    return replay_output_close(writer.output);
  replay_output_abandon(writer.output);
  return error;
}
