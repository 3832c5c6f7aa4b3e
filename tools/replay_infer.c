#include "tools/replay_infer.h"

#include "consumers/decision.h"
#include "kernels/engine.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define INPUTS_MAX     64u
#define SIGNAL_BYTES   sizeof(struct bus_signal)
#define PROGRESS_EVERY 65536u

/* A stream of features, read as far as its signals go. */
struct source {
  struct bus_capture_merge *merge; /* NULL: not opened, or not recorded */
  bool *streams;                   /* its own, of the merge's range */
  struct bus_capture_event event;
  bool holding;   /* `event` is a record that nobody asked for yet */
  bool at_border; /* `event` says that positions start anew */
  bool at_end;
  bool answered;          /* some signal named it ... */
  uint64_t last_position; /* ... and the last one this feature */
};

/* One signals stream under proof. */
struct proof {
  struct bus_capture *capture;
  const struct bus_capture_stream *stream;
  struct bus_engine *engine;
  struct source sources[INPUTS_MAX];
  struct bus_signal signals[BUS_ENGINE_BATCH_MAX];
  struct bus_tick ticks[BUS_ENGINE_BATCH_MAX];
  float rows[BUS_ENGINE_BATCH_MAX][BUS_FEATURE_INPUTS];
  uint32_t count; /* in the batch */
  struct replay_infer_result *result;
};

/* ---- reading ---- */

static int open_stream(struct bus_capture *capture, uint32_t stream, bool **streams,
                       struct bus_capture_merge **merge)
{
  struct bus_capture_range range = BUS_CAPTURE_RANGE_ALL;
  *streams = calloc(bus_capture_stream_count(capture), sizeof **streams);
  if (!*streams)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  (*streams)[stream] = true;
  range.streams = *streams;
  return bus_capture_merge_open(capture, &range, merge);
}

/* Moves a source on by one record or border; 1, 0 at its end, or a negative error. */
static int advance(struct source *source)
{
  source->holding = source->at_border = false;
  while (!source->at_end) {
    int status = bus_capture_merge_next(source->merge, &source->event);
    if (status < 0)
      return status;
    source->at_end = status == 0;
    source->holding = status == 1 && source->event.kind == BUS_CAPTURE_EVENT_RECORD;
    source->at_border = status == 1 && source->event.kind == BUS_CAPTURE_EVENT_INSTANCE;
    if (source->holding || source->at_border)
      return 1;
  }
  return 0;
}

/* Goes to the feature that a signal answers; 1, 0 when it is not in the capture, or a negative
 * error. A position that goes back is one of the ring that replaced the last. */
static int find_feature(struct proof *proof, struct source *source, const struct bus_signal *signal)
{
  const uint64_t position = signal->feature_position;
  int status = 1;
  if (source->answered && position <= source->last_position)
    while (status > 0 && !source->at_border)
      status = advance(source);
  else if (source->at_border && signal->timestamp_ns < source->event.time_ns)
    return 0; /* of the ring that ends here */
  if (status > 0 && !source->holding)
    status = advance(source);
  while (status > 0 && source->holding && source->event.position < position) {
    proof->result->unanswered++;
    status = advance(source);
  }
  if (status < 0)
    return status;
  source->answered = true;
  source->last_position = position;
  return source->holding && source->event.position == position;
}

static int open_sources(struct proof *proof)
{
  uint32_t opened = 0;
  for (uint32_t i = 0; i < INPUTS_MAX; i++) {
    struct source *source = &proof->sources[i];
    int stream = bus_capture_input(proof->capture, proof->stream, i);
    if (stream < 0)
      continue;
    const struct bus_capture_stream *features =
        bus_capture_stream(proof->capture, (uint32_t)stream);
    if (features->record_type != BUS_RECORD_FEATURE ||
        features->record_size != sizeof(struct bus_feature))
      continue;
    int error = open_stream(proof->capture, (uint32_t)stream, &source->streams, &source->merge);
    if (error)
      return error;
    opened++;
  }
  if (opened == 0)
    return bus_error_set(BUS_ERROR_ABSENT,
                         "%s: the features that its signals answer were not recorded",
                         proof->stream->name);
  return BUS_OK;
}

/* ---- comparing ---- */

static const struct {
  const char *name;
  size_t offset;
  size_t size;
} fields[] = {
#define FIELD(field)                                                                               \
  {                                                                                                \
#field, offsetof(struct bus_signal, field), sizeof((struct bus_signal){0}.field)               \
  }
    FIELD(timestamp_ns), FIELD(feature_position), FIELD(target_price), FIELD(score[0]),
    FIELD(score[1]),     FIELD(score[2]),         FIELD(source),       FIELD(symbol),
    FIELD(model),        FIELD(direction),        FIELD(confidence),   FIELD(flags),
#undef FIELD
};

static void write_value(char *text, size_t size, size_t field, const unsigned char *at)
{
  uint64_t value = 0;
  float score;
  if (fields[field].offset >= offsetof(struct bus_signal, score) &&
      fields[field].offset < offsetof(struct bus_signal, queue_ns)) {
    uint32_t bits;
    memcpy(&score, at, sizeof score);
    memcpy(&bits, at, sizeof bits);
    snprintf(text, size, "%.9g (%08" PRIx32 ")", (double)score, bits);
    return;
  }
  memcpy(&value, at, fields[field].size);
  if (!strcmp(fields[field].name, "direction"))
    snprintf(text, size, "%d", (int)(int8_t)value);
  else if (!strcmp(fields[field].name, "target_price"))
    snprintf(text, size, "%" PRId64, (int64_t)value);
  else if (!strcmp(fields[field].name, "model"))
    snprintf(text, size, "%04" PRIx64, value);
  else
    snprintf(text, size, "%" PRIu64, value);
}

/* Name of the signal's symbol, from its feature stream's table. */
static void write_symbol(const struct proof *proof, const struct bus_signal *signal, char *text,
                         size_t size)
{
  struct bus_symbol symbol;
  int stream = bus_capture_input(proof->capture, proof->stream, signal->source);
  if (stream >= 0 && bus_capture_symbol(bus_capture_stream(proof->capture, (uint32_t)stream),
                                        signal->symbol, &symbol) == BUS_OK)
    snprintf(text, size, "%s", symbol.name);
  else
    snprintf(text, size, "%u", signal->symbol);
}

static void describe_difference(struct proof *proof, const struct bus_signal *recorded,
                                const unsigned char *was, const unsigned char *is)
{
  struct replay_infer_difference *first = &proof->result->first;
  snprintf(first->stream, sizeof first->stream, "%s", proof->stream->name);
  write_symbol(proof, recorded, first->symbol, sizeof first->symbol);
  first->position = recorded->stamp - 1;
  first->feature_position = recorded->feature_position;
  for (size_t i = 0; i < BUS_COUNT_OF(fields); i++) {
    size_t at = fields[i].offset;
    if (!memcmp(was + at, is + at, fields[i].size))
      continue;
    snprintf(first->field, sizeof first->field, "%s", fields[i].name);
    write_value(first->recorded, sizeof first->recorded, i, was + at);
    write_value(first->computed, sizeof first->computed, i, is + at);
    return;
  }
}

static void compare(struct proof *proof, uint32_t index, const float score[3])
{
  const struct bus_signal *recorded = &proof->signals[index];
  struct bus_signal computed;
  unsigned char was[SIGNAL_BYTES] = {0}, is[SIGNAL_BYTES] = {0};
  memset(&computed, 0, sizeof computed);
  bus_decision_fill(&computed, &proof->ticks[index], score);
  computed.model = proof->engine->model_id;
  size_t size = bus_capture_canonical(BUS_RECORD_SIGNAL, SIGNAL_BYTES, recorded, 0, was);
  bus_capture_canonical(BUS_RECORD_SIGNAL, SIGNAL_BYTES, &computed, 0, is);
  proof->result->signals++;
  if (!memcmp(was, is, size))
    return;
  if (proof->result->different++ == 0)
    describe_difference(proof, recorded, was, is);
}

static int compare_batch(struct proof *proof)
{
  struct bus_engine_result scores = {0};
  if (proof->count == 0)
    return BUS_OK;
  int status =
      bus_engine_submit(proof->engine, proof->rows[0], BUS_FEATURE_INPUTS, proof->count, 0);
  while (status == BUS_OK && (status = bus_engine_poll(proof->engine, &scores)) == 0)
    ;
  if (status < 0)
    return bus_error_set(status, "the engine failed");
  for (uint32_t i = 0; i < proof->count && scores.scores; i++)
    compare(proof, i, scores.scores[i]);
  proof->count = 0;
  return BUS_OK;
}

static int take_signal(struct proof *proof, const struct bus_signal *signal)
{
  if (signal->model != proof->engine->model_id)
    return bus_error_set(BUS_ERROR_INVALID,
                         "%s: the signal at position %" PRIu64
                         " was made by model %04x, this one is %04x: give the model that was used, "
                         "or cut the capture where it changed",
                         proof->stream->name, signal->stamp - 1, signal->model,
                         proof->engine->model_id);
  struct source *source = signal->source < INPUTS_MAX ? &proof->sources[signal->source] : NULL;
  int status = source && source->merge ? find_feature(proof, source, signal) : 0;
  if (status < 0)
    return status;
  if (status == 0) {
    proof->result->unfounded++;
    return BUS_OK;
  }
  struct bus_feature feature;
  memcpy(&feature, source->event.record, sizeof feature);
  source->holding = false;
  proof->signals[proof->count] = *signal;
  proof->ticks[proof->count] = (struct bus_tick){.timestamp_ns = feature.timestamp_ns,
                                                 .position = signal->feature_position,
                                                 .bid_price = feature.bid_price,
                                                 .ask_price = feature.ask_price,
                                                 .symbol = feature.symbol,
                                                 .source = signal->source,
                                                 .flags = feature.flags};
  memcpy(proof->rows[proof->count], feature.x, sizeof feature.x);
  proof->count++;
  return proof->count == BUS_ENGINE_BATCH_MAX ? compare_batch(proof) : BUS_OK;
}

static int prove_stream(struct proof *proof, uint32_t index,
                        const struct bus_capture_watcher *watcher)
{
  struct bus_capture_merge *merge = NULL;
  struct bus_capture_event event;
  bool *streams = NULL;
  uint64_t events = 0, done, total;
  int status = open_sources(proof);
  if (status == BUS_OK)
    status = open_stream(proof->capture, index, &streams, &merge);
  while (status == BUS_OK && (status = bus_capture_merge_next(merge, &event)) == 1) {
    status = BUS_OK;
    if (event.kind == BUS_CAPTURE_EVENT_RECORD) {
      struct bus_signal signal;
      memcpy(&signal, event.record, sizeof signal);
      status = take_signal(proof, &signal);
    }
    if (watcher && ++events % PROGRESS_EVERY == 0) {
      bus_capture_merge_progress(merge, &done, &total);
      watcher->show(watcher->context, done, total);
    }
  }
  if (status == BUS_OK)
    status = compare_batch(proof);
  bus_capture_merge_close(merge);
  free(streams);
  for (uint32_t i = 0; i < INPUTS_MAX; i++) {
    bus_capture_merge_close(proof->sources[i].merge);
    free(proof->sources[i].streams);
  }
  return status;
}

static int prove(struct bus_capture *capture, struct bus_engine *engine,
                 const struct bus_capture_watcher *watcher, struct replay_infer_result *result)
{
  bool any = false;
  struct proof *proof = malloc(sizeof *proof);
  if (!proof)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  int error = BUS_OK;
  for (uint32_t i = 0; i < bus_capture_stream_count(capture) && !error; i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(capture, i);
    if (stream->record_type != BUS_RECORD_SIGNAL || stream->record_size != SIGNAL_BYTES ||
        stream->records == 0)
      continue;
    any = true;
    memset(proof, 0, sizeof *proof);
    proof->capture = capture;
    proof->stream = stream;
    proof->engine = engine;
    proof->result = result;
    error = prove_stream(proof, i, watcher);
  }
  free(proof);
  if (!error && !any)
    error = bus_error_set(BUS_ERROR_ABSENT, "%s: no signals in it", bus_capture_path(capture));
  return error;
}

int replay_infer_check(struct bus_capture *capture, const char *model_path, const char *engine_kind,
                       const struct bus_capture_watcher *watcher,
                       struct replay_infer_result *result)
{
  const struct bus_engine_config config = {.batch_max = BUS_ENGINE_BATCH_MAX};
  struct bus_model *model;
  struct bus_engine *engine = NULL;
  memset(result, 0, sizeof *result);
  int error = bus_model_load(model_path, &model);
  if (error)
    return error;
  if (model->inputs != BUS_FEATURE_INPUTS)
    error = bus_error_set(BUS_ERROR_UNSUPPORTED, "%s: reads %u inputs, a feature record has %d",
                          model_path, model->inputs, BUS_FEATURE_INPUTS);
  if (!error)
    error = bus_engine_open(engine_kind, model, &config, &engine);
  if (!error) {
    result->model = engine->model_id;
    snprintf(result->engine, sizeof result->engine, "%s", engine->describe);
    error = prove(capture, engine, watcher, result);
  }
  bus_engine_close(engine);
  bus_model_free(model);
  return error;
}

void replay_infer_print(const struct replay_infer_result *result, FILE *out)
{
  const struct replay_infer_difference *first = &result->first;
  fprintf(out, "model %04x, engine %s\n", result->model, result->engine);
  fprintf(out,
          "%" PRIu64 " signals computed again: %" PRIu64 " equal bit for bit, %" PRIu64
          " different\n",
          result->signals, result->signals - result->different, result->different);
  if (result->unfounded)
    fprintf(out, "%" PRIu64 " signals not proved: their features are not in the capture\n",
            result->unfounded);
  if (result->unanswered)
    fprintf(out, "%" PRIu64 " features without a signal\n", result->unanswered);
  if (result->different)
    fprintf(out,
            "first: %s position %" PRIu64 ", symbol %s, feature %" PRIu64
            ": %s recorded %s, computed %s\n",
            first->stream, first->position, first->symbol, first->feature_position, first->field,
            first->recorded, first->computed);
}

json_t *replay_infer_json(const struct replay_infer_result *result)
{
  const struct replay_infer_difference *first = &result->first;
  json_t *difference = NULL;
  if (result->different)
    difference = json_pack("{s:s, s:I, s:s, s:I, s:s, s:s, s:s}", "stream", first->stream,
                           "position", (json_int_t)first->position, "symbol", first->symbol,
                           "feature_position", (json_int_t)first->feature_position, "field",
                           first->field, "recorded", first->recorded, "computed", first->computed);
  return json_pack("{s:i, s:s, s:I, s:I, s:I, s:I, s:o?}", "model", (int)result->model, "engine",
                   result->engine, "signals", (json_int_t)result->signals, "different",
                   (json_int_t)result->different, "unfounded", (json_int_t)result->unfounded,
                   "unanswered", (json_int_t)result->unanswered, "first_difference", difference);
}
