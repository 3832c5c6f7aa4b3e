#include "consumers/infer_member.h"

#include "consumers/decision.h"
#include "shm/board.h"
#include "shm/doorbell.h"
#include "shm/error.h"
#include "shm/log.h"
#include "shm/subscription.h"
#include "shm/symbols.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FEATURE_RING "features"
#define OBJECTS_MAX  (3 * BUS_INFER_SOURCES_MAX + 20)

/* One feature ring and what belongs to it. */
struct input {
  struct bus_subscription subscription;
  struct bus_signal *board;
  void *symbols;
  const struct bus_entry *symbols_entry;
  uint32_t taken; /* records of the present batch */
  bool attached;  /* the consumer may be polled */
  int refusal;    /* last one that was logged: a negative enum bus_error; 0: none */
};

struct bus_infer {
  struct bus_infer_config config;
  struct bus_member *member;
  struct bus_model *model;
  struct bus_engine *engine;
  struct bus_loop loop;
  struct bus_producer producer;
  struct bus_backlink backlink;
  struct input inputs[BUS_INFER_SOURCES_MAX];
  uint32_t first_input; /* whose turn it is */
  uint64_t batches;
  struct bus_histogram *queue_ns;
  struct bus_histogram *inference_ns;
  uint64_t *signals_counter;
  uint64_t *batches_counter;
  uint64_t *features_lost;
  uint64_t *features_invalid;
  uint64_t *features_resumed;
  uint64_t *feeds_attached;
  struct bus_tick ticks[BUS_ENGINE_BATCH_MAX];
  float rows[BUS_ENGINE_BATCH_MAX][BUS_FEATURE_INPUTS];
  char describe[512];
  int result;
};

/* ---- hot path ---- */

static void take_tick(struct bus_infer *infer, uint32_t at, uint32_t source, uint64_t position,
                      const struct bus_feature *feature)
{
  struct bus_tick *tick = &infer->ticks[at];
  tick->timestamp_ns = feature->timestamp_ns;
  tick->position = position;
  tick->bid_price = feature->bid_price;
  tick->ask_price = feature->ask_price;
  tick->symbol = feature->symbol;
  tick->source = (uint16_t)source;
  tick->flags = feature->flags;
  memcpy(infer->rows[at], feature->x, sizeof infer->rows[at]);
}

/* Asks for the first line of the next feature while its stamp, in the second, is still awaited:
 * else that line's transfer from the producer's core begins only when the stamp has arrived, and
 * the inference waits for it. */
static BUS_ALWAYS_INLINE void prefetch_next(const struct bus_consumer *consumer)
{
  __builtin_prefetch(consumer->slots + (consumer->next & consumer->mask) * consumer->record_size);
}

/* Looks into every ring, one record each in turn, until the batch is full or all are empty. Takes
 * nothing: a batch that still waits is gathered again, which keeps its order fair. */
static uint32_t gather(struct bus_infer *infer)
{
  uint32_t count = 0, misses = 0;
  const uint32_t sources = infer->config.feed_count;
  for (uint32_t i = 0; i < sources; i++)
    infer->inputs[i].taken = 0;
  for (uint32_t source = infer->first_input; count < infer->config.batch_max && misses < sources;
       source = source + 1 == sources ? 0 : source + 1) {
    struct input *input = &infer->inputs[source];
    struct bus_consumer *consumer = &input->subscription.consumer;
    const struct bus_feature *feature = NULL;
    if (input->attached)
      feature =
          input->taken ? bus_consumer_peek(consumer, input->taken) : bus_consumer_poll(consumer);
    if (!feature) {
      if (input->attached && !input->taken)
        prefetch_next(consumer);
      misses++;
      continue;
    }
    misses = 0;
    take_tick(infer, count++, source, consumer->next + input->taken, feature);
    input->taken++;
  }
  return count;
}

static bool must_wait(const struct bus_infer *infer, uint32_t count, uint64_t now_ns)
{
  if (infer->config.batch_wait_ns == 0 || count == infer->config.batch_max)
    return false;
  int64_t age_ns = (int64_t)(now_ns - infer->ticks[0].timestamp_ns);
  return age_ns >= 0 && age_ns < (int64_t)infer->config.batch_wait_ns; /* replays may be ahead */
}

/* Commits one signal and shows it on its board. */
static void publish(struct bus_infer *infer, const struct bus_tick *tick, const float score[3],
                    uint32_t queue_ns, uint32_t inference_ns, uint32_t batch)
{
  struct bus_signal *signal = bus_producer_reserve(&infer->producer);
  bus_decision_fill(signal, tick, score);
  signal->queue_ns = queue_ns;
  signal->inference_ns = inference_ns;
  signal->batch = (uint16_t)batch;
  signal->model = infer->engine->model_id;
  signal->engine = (uint8_t)infer->engine->id;
  if (batch > 1)
    signal->flags |= BUS_SIGNAL_BATCHED;
  bus_producer_commit(&infer->producer);
  if (tick->symbol < infer->config.symbols_max)
    bus_board_write(&infer->inputs[tick->source].board[tick->symbol], signal);
  bus_histogram_record(infer->queue_ns, queue_ns);
  if (!(signal->flags & BUS_SIGNAL_VALID))
    bus_counter_add(infer->features_invalid, 1);
}

static int infer_batch(struct bus_infer *infer, uint32_t count)
{
  struct bus_engine_result result;
  uint64_t start_ns = bus_clock_now_ns(&infer->loop.clock);
  int status =
      bus_engine_submit(infer->engine, infer->rows[0], BUS_FEATURE_INPUTS, count, infer->batches++);
  if (status != BUS_OK)
    return status;
  while ((status = bus_engine_poll(infer->engine, &result)) == 0)
    bus_cpu_relax();
  if (status < 0)
    return status;
  uint64_t end_ns = bus_clock_now_ns(&infer->loop.clock);
  uint32_t inference_ns = bus_decision_elapsed_ns(start_ns, end_ns);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t queue_ns = bus_decision_elapsed_ns(infer->ticks[i].timestamp_ns, start_ns);
    publish(infer, &infer->ticks[i], result.scores[i], queue_ns, inference_ns, count);
  }
  bus_histogram_record(infer->inference_ns, inference_ns);
  return BUS_OK;
}

/* Room for a whole batch of signals: with observers only there always is. */
static bool has_room(struct bus_infer *infer, uint32_t count)
{
  struct bus_producer *producer = &infer->producer;
  if (producer->limit - producer->next >= count)
    return true;
  bus_producer_refresh(producer);
  return producer->limit - producer->next >= count;
}

static int work(void *context, struct bus_loop *loop)
{
  struct bus_infer *infer = context;
  uint32_t count = gather(infer);
  if (count == 0 || must_wait(infer, count, loop->now_ns) || !has_room(infer, count))
    return 0;
  int error = infer_batch(infer, count);
  if (error)
    return error;
  for (uint32_t i = 0; i < infer->config.feed_count; i++)
    if (infer->inputs[i].taken)
      bus_consumer_release_batch(&infer->inputs[i].subscription.consumer, infer->inputs[i].taken);
  infer->first_input =
      infer->first_input + 1 == infer->config.feed_count ? 0 : infer->first_input + 1;
  return (int)count;
}

static void sleep_at_the_bells(void *context, uint64_t timeout_ns)
{
  struct bus_infer *infer = context;
  struct bus_consumer *consumers[BUS_INFER_SOURCES_MAX];
  uint32_t count = 0;
  for (uint32_t i = 0; i < infer->config.feed_count; i++)
    if (infer->inputs[i].attached)
      consumers[count++] = &infer->inputs[i].subscription.consumer;
  if (!bus_doorbell_wait(consumers, count, timeout_ns))
    sched_yield(); /* records are there that must wait: for their batch, or for room */
}

/* ---- housekeeping ---- */

static void copy_symbols(struct input *input)
{
  const struct bus_entry *entry =
      bus_neighbour_find(input->subscription.neighbour, BUS_OBJECT_SYMBOLS, NULL);
  if (!entry)
    return;
  const void *memory = bus_neighbour_object(input->subscription.neighbour, entry);
  struct bus_symbol symbol;
  for (uint32_t i = bus_symbols_count(input->symbols, input->symbols_entry);
       bus_symbols_get(memory, entry, i, &symbol) == BUS_OK; i++)
    if (bus_symbols_add(input->symbols, input->symbols_entry, &symbol) != (int)i)
      break; /* full, or a name twice: the feed's own table stays the truth */
}

/* Moves a resumed input behind the features that the signals in the own ring already answer: the
 * position is published after the signals, so a kill in between leaves it short. The ring's oldest
 * slot is left out: a predecessor killed while it filled that slot for the next signal leaves the
 * old stamp over new words, which would pass for an answer that nobody got. A batch is smaller than
 * the ring, so what matters is in the rest. */
static void skip_answered(struct bus_infer *infer, uint32_t source)
{
  struct bus_consumer *consumer = &infer->inputs[source].subscription.consumer;
  const unsigned char *slots = infer->producer.slots;
  uint64_t head = infer->producer.next;
  uint64_t span = head - consumer->position->output_floor;
  if (span >= infer->producer.depth)
    span = infer->producer.depth - 1;
  uint64_t skipped = 0;
  for (uint64_t position = head - span; position != head; position++) {
    const struct bus_signal *signal =
        (const void *)(slots + (position & infer->producer.mask) * sizeof *signal);
    int64_t ahead = (int64_t)(signal->feature_position - consumer->next);
    if (signal->stamp != position + 1 || signal->source != source || ahead < 0 ||
        ahead >= (int64_t)consumer->depth)
      continue;
    skipped += (uint64_t)ahead + 1;
    consumer->next += (uint64_t)ahead + 1;
  }
  bus_consumer_publish(consumer);
  bus_counter_add(infer->features_resumed, skipped);
}

/* A new instance of the feed counts from its start: what is shown of the old one no longer holds.
 * The table says last which instance it is for, so that a successor finishes what a kill cut short.
 */
static void clear_tables(struct bus_infer *infer, struct input *input, uint64_t instance)
{
  struct bus_signal empty = {0};
  for (uint32_t i = 0; i < infer->config.symbols_max; i++)
    if (input->board[i].stamp)
      bus_board_write(&input->board[i], &empty);
  bus_symbols_clear(input->symbols, instance);
}

/* Says once why a feed that is there cannot be read; waiting for one that is not is no news. */
static void log_refusal(struct bus_infer *infer, struct input *input, int status)
{
  bool refused = status < 0 && status != BUS_ERROR_ABSENT && status != BUS_ERROR_NOT_READY;
  if (refused && status != input->refusal)
    bus_log(BUS_LOG_WARNING, "bus-infer: %s: %s", infer->config.options.name, bus_error_message());
  input->refusal = refused ? status : 0;
}

static void maintain_input(struct bus_infer *infer, uint32_t source)
{
  struct input *input = &infer->inputs[source];
  struct bus_position *position = input->subscription.position;
  uint64_t instance_before = position->ring_instance;
  int status = bus_subscription_maintain(&input->subscription, infer->producer.next);
  input->attached = status >= 0;
  log_refusal(infer, input, status);
  if (status == 1 && position->ring_instance == instance_before)
    skip_answered(infer, source);
  if (status == 1 && bus_symbols_generation(input->symbols) != position->ring_instance)
    clear_tables(infer, input, position->ring_instance);
  if (input->attached)
    copy_symbols(input);
}

static int housekeeping(void *context, struct bus_loop *loop)
{
  struct bus_infer *infer = context;
  uint64_t lost = 0, attached = 0;
  (void)loop;
  for (uint32_t i = 0; i < infer->config.feed_count; i++) {
    maintain_input(infer, i);
    lost += infer->inputs[i].subscription.position->lost;
    attached += infer->inputs[i].attached;
  }
  bus_backlink_maintain(&infer->backlink);
  bus_producer_report(&infer->producer);
  bus_counter_set(infer->signals_counter, infer->producer.next);
  bus_counter_set(infer->batches_counter, infer->batches);
  bus_counter_set(infer->features_lost, lost);
  bus_counter_set(infer->feeds_attached, attached);
  return BUS_OK;
}

/* ---- set-up ---- */

static uint32_t list_objects(const struct bus_infer_config *config, struct bus_object_spec *objects)
{
  const struct bus_object_spec own[] = {
      {.type = BUS_OBJECT_RING,
       .name = BUS_INFER_RING,
       .peer = config->consumer,
       .record_type = BUS_RECORD_SIGNAL,
       .record_size = sizeof(struct bus_signal),
       .policy = config->consumer ? BUS_POLICY_WAIT : BUS_POLICY_OVERWRITE,
       .depth = config->ring_depth},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "queue_ns", .unit = "ns"},
      {.type = BUS_OBJECT_HISTOGRAM, .name = "inference_ns", .unit = "ns"},
      {.type = BUS_OBJECT_TEXT, .name = "engine", .depth = 256},
      {.type = BUS_OBJECT_TEXT, .name = "model", .depth = 1024},
      BUS_LOOP_OBJECTS,
      {.type = BUS_OBJECT_COUNTER, .name = "signals", .unit = "signals"},
      {.type = BUS_OBJECT_COUNTER, .name = "batches", .unit = "batches"},
      {.type = BUS_OBJECT_COUNTER, .name = "features_lost", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "features_invalid", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "features_resumed", .unit = "records"},
      {.type = BUS_OBJECT_COUNTER, .name = "feeds_attached", .unit = "feeds"},
  };
  uint32_t count = 0;
  for (; count < BUS_COUNT_OF(own); count++)
    objects[count] = own[count];
  for (uint32_t i = 0; i < config->feed_count; i++) {
    const char *feed = config->feeds[i];
    objects[count++] =
        (struct bus_object_spec){.type = BUS_OBJECT_POSITION, .name = FEATURE_RING, .peer = feed};
    objects[count++] = (struct bus_object_spec){.type = BUS_OBJECT_BOARD,
                                                .name = feed,
                                                .record_type = BUS_RECORD_SIGNAL,
                                                .record_size = sizeof(struct bus_signal),
                                                .depth = config->symbols_max};
    objects[count++] = (struct bus_object_spec){
        .type = BUS_OBJECT_SYMBOLS, .name = feed, .depth = config->symbols_max};
  }
  return count;
}

static int join_bus(struct bus_infer *infer)
{
  const struct bus_infer_config *config = &infer->config;
  struct bus_object_spec objects[OBJECTS_MAX];
  struct bus_member_config file = {.directory = config->options.directory,
                                   .name = config->options.name,
                                   .kind = "infer",
                                   .objects = objects,
                                   .object_count = list_objects(config, objects),
                                   .takeover = BUS_TAKEOVER_ALWAYS,
                                   .mode = config->options.mode,
                                   .numa_node = config->options.numa_node,
                                   .core = config->options.core,
                                   .small_pages = config->options.small_pages};
  return bus_member_new(&file, &infer->member);
}

static uint64_t *counter(const struct bus_infer *infer, const char *name)
{
  return bus_member_object(infer->member, BUS_OBJECT_COUNTER, name);
}

static int open_objects(struct bus_infer *infer)
{
  const struct bus_infer_config *config = &infer->config;
  struct bus_member *member = infer->member;
  infer->queue_ns = bus_member_object(member, BUS_OBJECT_HISTOGRAM, "queue_ns");
  infer->inference_ns = bus_member_object(member, BUS_OBJECT_HISTOGRAM, "inference_ns");
  infer->signals_counter = counter(infer, "signals");
  infer->batches_counter = counter(infer, "batches");
  infer->features_lost = counter(infer, "features_lost");
  infer->features_invalid = counter(infer, "features_invalid");
  infer->features_resumed = counter(infer, "features_resumed");
  infer->feeds_attached = counter(infer, "feeds_attached");
  infer->batches = *infer->batches_counter;
  const struct bus_entry *entry = bus_member_entry(member, BUS_OBJECT_RING, BUS_INFER_RING);
  bus_producer_init(&infer->producer, bus_member_object(member, BUS_OBJECT_RING, BUS_INFER_RING),
                    entry, bus_member_header(member)->instance);
  int error = bus_backlink_init(&infer->backlink, config->options.directory, config->options.name,
                                entry, &infer->producer);
  for (uint32_t i = 0; i < config->feed_count && !error; i++) {
    struct input *input = &infer->inputs[i];
    input->board = bus_member_object(member, BUS_OBJECT_BOARD, config->feeds[i]);
    input->symbols = bus_member_object(member, BUS_OBJECT_SYMBOLS, config->feeds[i]);
    input->symbols_entry = bus_member_entry(member, BUS_OBJECT_SYMBOLS, config->feeds[i]);
    error =
        bus_subscription_init(&input->subscription, config->options.directory, config->feeds[i],
                              FEATURE_RING, BUS_RECORD_FEATURE, sizeof(struct bus_feature), member);
  }
  return error;
}

/* Finishes board writes that a predecessor was killed in. The newest signal of the symbol comes
 * first and makes the slot even; the ring's oldest slot is left out as in skip_answered. */
static void repair_boards(struct bus_infer *infer)
{
  uint64_t head = infer->producer.next;
  for (uint64_t back = 1; back < infer->producer.depth; back++) {
    uint64_t position = head - back;
    const struct bus_signal *signal =
        (const void *)(infer->producer.slots + (position & infer->producer.mask) * sizeof *signal);
    if (signal->stamp == position + 1 && signal->source < infer->config.feed_count &&
        signal->symbol < infer->config.symbols_max &&
        (infer->inputs[signal->source].board[signal->symbol].stamp & 1))
      bus_board_write(&infer->inputs[signal->source].board[signal->symbol], signal);
  }
}

static int open_engine(struct bus_infer *infer)
{
  const struct bus_infer_config *config = &infer->config;
  int error = bus_model_load(config->model_path, &infer->model);
  if (error)
    return error;
  if (infer->model->inputs != BUS_FEATURE_INPUTS)
    return bus_error_set(
        BUS_ERROR_UNSUPPORTED,
        "%s: reads %u inputs, a feature record carries %d; train it on records of this version",
        config->model_path, infer->model->inputs, BUS_FEATURE_INPUTS);
  struct bus_engine_config engine = {.batch_max = config->batch_max};
  return bus_engine_open(config->engine_kind, infer->model, &engine, &infer->engine);
}

static int set_up(struct bus_infer *infer)
{
  const struct bus_infer_config *config = &infer->config;
  int error = open_engine(infer);
  if (!error)
    error = join_bus(infer);
  if (!error)
    error = open_objects(infer);
  if (!error)
    error = bus_loop_init(&infer->loop, infer->member, config->options.idle, config->options.core,
                          config->options.numa_node);
  if (error)
    return error;
  if (bus_member_is_successor(infer->member))
    repair_boards(infer);
  bus_member_set_text(infer->member, "engine", "%s", infer->engine->describe);
  bus_member_set_text(infer->member, "model", "%s, crc32 %08x\n%s", config->model_path,
                      infer->model->crc32, infer->model->provenance);
  snprintf(infer->describe, sizeof infer->describe, "model %.200s, engine %.250s",
           config->model_path, infer->engine->describe);
  return BUS_OK;
}

int bus_infer_new(const struct bus_infer_config *config, struct bus_infer **result)
{
  *result = NULL;
  if (config->feed_count < 1 || config->feed_count > BUS_INFER_SOURCES_MAX ||
      config->symbols_max < 1 || config->symbols_max > 65535)
    return bus_error_set(BUS_ERROR_INVALID, "1..%u feeds and 1..65535 symbols each",
                         BUS_INFER_SOURCES_MAX);
  if (config->ring_depth <= config->batch_max)
    return bus_error_set(BUS_ERROR_INVALID,
                         "a signals ring of %llu cannot hold a batch of %u and one more; make it "
                         "deeper",
                         (unsigned long long)config->ring_depth, config->batch_max);
  struct bus_infer *infer = calloc(1, sizeof *infer);
  if (!infer)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  infer->config = *config;
  int error = set_up(infer);
  if (error) {
    infer->result = error;
    bus_infer_delete(infer);
    return error;
  }
  *result = infer;
  return BUS_OK;
}

int bus_infer_run(struct bus_infer *infer)
{
  static const struct bus_loop_operations operations = {work, housekeeping, sleep_at_the_bells};
  bus_member_run(infer->member);
  infer->result = bus_loop_run(&infer->loop, &operations, infer);
  housekeeping(infer, &infer->loop);
  return infer->result;
}

const char *bus_infer_describe(const struct bus_infer *infer)
{
  return infer->describe;
}

void bus_infer_delete(struct bus_infer *infer)
{
  if (!infer)
    return;
  for (uint32_t i = 0; i < infer->config.feed_count; i++)
    bus_subscription_close(&infer->inputs[i].subscription);
  bus_backlink_close(&infer->backlink);
  bus_member_leave(infer->member, infer->result == BUS_OK ? BUS_STATE_HALT : BUS_STATE_FAIL);
  bus_engine_close(infer->engine);
  bus_model_free(infer->model);
  free(infer);
}
