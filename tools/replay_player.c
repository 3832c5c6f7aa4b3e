#include "tools/replay_player.h"

#include "shm/board.h"
#include "tools/replay_pacer.h"
#include "tools/replay_retained.h"
#include "tools/replay_steps.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define RECORDS_PER_CYCLE 256
#define GAPS_SHOWN        20u
#define WAIT_SHOWN_NS     1000000000u /* a consumer that is away as long is named */
#define PROGRESS_EVERY_NS 200000000u
#define STEP_WAIT_MS      5
#define NO_CHANNEL        UINT32_MAX

struct replay_player {
  struct replay_player_config config;
  uint32_t *channels; /* [stream count]: of a stream, or NO_CHANNEL */
  uint32_t channel_count;
  struct replay_bus *bus;
  struct bus_capture_merge *merge;
  struct bus_loop loop;
  struct replay_pacer pacer;
  struct bus_capture_event event; /* read, not yet published, when `holding` */
  bool holding;
  bool ready; /* ... its words are in the slot already */
  bool pass_has_begun;
  bool at_end;
  uint64_t due_ns;
  uint64_t shift_ns;
  uint32_t waiting_for;   /* channel whose consumer is waited for, or NO_CHANNEL */
  uint64_t away_since_ns; /* that consumer is not alive; 0: it is */
  bool away_shown;
  struct replay_steps steps;
  uint64_t begin_ns;
  uint64_t first_time_ns; /* of the records to play, for the progress */
  uint64_t last_time_ns;
  uint64_t progress_ns; /* when it was shown last */
  uint64_t progress_records;
  bool progress_shown;
  struct replay_player_result result;
};

/* ---- messages ---- */

static void clear_progress(struct replay_player *player)
{
  if (player->progress_shown)
    fputs("\r\033[K", stderr);
  player->progress_shown = false;
}

static const char *stream_name(const struct replay_player *player, uint32_t stream)
{
  return bus_capture_stream(player->config.capture, stream)->name;
}

/* How far it is, 0..1. */
static double progress(const struct replay_player *player)
{
  uint64_t done = 0, total = 0;
  if (player->config.pace == REPLAY_PACE_SPEED) {
    total = player->last_time_ns - player->first_time_ns;
    done = player->holding ? player->event.time_ns - player->first_time_ns : 0;
  } else {
    bus_capture_merge_progress(player->merge, &done, &total);
  }
  if (total == 0 || done > total)
    return done > 0 ? 1 : 0;
  return (double)done / (double)total;
}

static void show_progress(struct replay_player *player)
{
  const uint64_t now_ns = player->loop.now_ns;
  if (now_ns - player->progress_ns < PROGRESS_EVERY_NS || !player->pass_has_begun)
    return;
  const double part = progress(player);
  const double seconds = (double)(now_ns - player->begin_ns) / 1e9;
  double rate = (double)(player->result.records - player->progress_records) * 1e9 /
                (double)(now_ns - player->progress_ns);
  double left_s = 0;
  if (player->config.pace == REPLAY_PACE_SPEED)
    left_s = (double)(player->last_time_ns - player->first_time_ns) * (1 - part) / 1e9 /
             player->config.speed;
  else if (part > 0)
    left_s = seconds / part * (1 - part);
  char bar[21] = "....................";
  memset(bar, '#', (size_t)(part * 20));
  fprintf(stderr, "\r\033[K[%s] %5.1f %%  ETA %" PRIu64 ":%02" PRIu64 "  %.0f records/s", bar,
          part * 100, (uint64_t)left_s / 60, (uint64_t)left_s % 60, rate);
  if (player->config.pace == REPLAY_PACE_SPEED) {
    struct replay_player_result now;
    replay_player_result(player, &now);
    fprintf(stderr, "  late p50 %" PRIu64 " ns, p99 %" PRIu64 " ns",
            bus_histogram_quantile(&now.lateness_ns, 0.5),
            bus_histogram_quantile(&now.lateness_ns, 0.99));
  }
  if (player->config.passes != 1)
    fprintf(stderr, "  pass %" PRIu64, player->result.passes + 1);
  player->progress_shown = true;
  player->progress_ns = now_ns;
  player->progress_records = player->result.records;
}

static void announce_gap(struct replay_player *player, const struct bus_capture_event *event)
{
  const struct bus_capture_stream *stream =
      bus_capture_stream(player->config.capture, event->stream);
  if (*bus_capture_meta_text(stream->meta, "filtered"))
    return; /* left out on purpose */
  uint64_t missing = event->last - event->position + 1;
  player->result.gaps++;
  player->result.gap_records += missing;
  bus_counter_add(replay_bus_counter(player->bus, player->channels[event->stream], "gap_records"),
                  missing);
  if (player->result.gaps > GAPS_SHOWN)
    return;
  clear_progress(player);
  fprintf(stderr,
          "bus-replay: %s: the capture lacks records %" PRIu64 "..%" PRIu64 " (%" PRIu64 ")%s\n",
          stream_name(player, event->stream), event->position, event->last, missing,
          player->result.gaps == GAPS_SHOWN ? "; further gaps are only counted" : "");
}

static void announce_damage(struct replay_player *player, const struct bus_capture_event *event)
{
  if (player->result.damages++ < GAPS_SHOWN) {
    clear_progress(player);
    fprintf(stderr, "bus-replay: %s: a damaged block is left out (bus-replay verify names it)\n",
            stream_name(player, event->stream));
  }
}

static void announce_instance(struct replay_player *player, const struct bus_capture_event *event)
{
  clear_progress(player);
  fprintf(stderr,
          "bus-replay: %s: its member was replaced here when it was recorded; positions go on\n",
          stream_name(player, event->stream));
}

/* ---- reading ---- */

/* Reads up to the next record; 1, 0 at the end of the last pass, or a negative error. */
static int next_record(struct replay_player *player)
{
  for (;;) {
    int status = bus_capture_merge_next(player->merge, &player->event);
    if (status < 0)
      return status;
    if (status == 0) {
      bus_capture_merge_close(player->merge);
      player->merge = NULL;
      player->result.passes++;
      if (player->result.passes == player->config.passes || !player->pass_has_begun)
        return 0;
      player->pass_has_begun = false;
      status =
          bus_capture_merge_open(player->config.capture, &player->config.range, &player->merge);
      if (status < 0)
        return status;
      continue;
    }
    if (player->event.kind == BUS_CAPTURE_EVENT_RECORD)
      return 1;
    /* Further passes would only repeat them. */
    if (player->result.passes > 0)
      continue;
    if (player->event.kind == BUS_CAPTURE_EVENT_GAP)
      announce_gap(player, &player->event);
    else if (player->event.kind == BUS_CAPTURE_EVENT_DAMAGE)
      announce_damage(player, &player->event);
    else if (player->event.kind == BUS_CAPTURE_EVENT_INSTANCE)
      announce_instance(player, &player->event);
  }
}

static void begin_pass(struct replay_player *player)
{
  const uint64_t time_ns = player->event.time_ns;
  uint64_t now_ns = bus_clock_now_ns(&player->loop.clock);
  if (player->result.records == 0)
    player->begin_ns = player->progress_ns = now_ns;
  player->pass_has_begun = true;
  player->shift_ns = now_ns - time_ns; /* wraps: captures of machines that run longer go back */
  player->first_time_ns = time_ns;
  replay_pacer_start(&player->pacer, time_ns);
}

/* ---- publishing ---- */

static void wait_for(struct replay_player *player, uint32_t channel)
{
  if (player->waiting_for != channel)
    player->away_since_ns = 0;
  player->waiting_for = channel;
}

/* Fills the slot of the record that is held; false when its ring is full. */
static bool fill_slot(struct replay_player *player)
{
  const uint32_t channel = player->channels[player->event.stream];
  const struct bus_capture_stream *stream =
      bus_capture_stream(player->config.capture, player->event.stream);
  bus_word *slot = bus_producer_reserve(replay_bus_producer(player->bus, channel));
  if (!slot) {
    wait_for(player, channel);
    return false;
  }
  const bus_word *from = player->event.record;
  for (uint32_t i = 0; i < stream->record_size / sizeof *slot - 1; i++)
    slot[i] = from[i];
  if (player->config.shift_to_now)
    bus_capture_record_shift(stream->record_type, stream->record_size, player->shift_ns, slot);
  player->ready = true;
  player->waiting_for = NO_CHANNEL;
  return true;
}

static void publish(struct replay_player *player)
{
  const uint32_t channel = player->channels[player->event.stream];
  struct bus_producer *producer = replay_bus_producer(player->bus, channel);
  const unsigned char *slot =
      producer->slots + (producer->next & producer->mask) * producer->record_size;
  if (player->config.pace == REPLAY_PACE_SPEED)
    replay_pacer_release(&player->pacer, player->due_ns, producer,
                         replay_bus_lateness(player->bus, channel));
  else
    bus_producer_commit(producer);
  replay_bus_show(player->bus, channel, slot);
  player->result.records++;
  player->holding = player->ready = false;
}

/* ---- one record at a time ---- */

static void print_step(const struct replay_player *player)
{
  printf("%s %" PRIu64 " %+.9f s\n", stream_name(player, player->event.stream),
         player->event.position, (double)(player->event.time_ns - player->first_time_ns) / 1e9);
  fflush(stdout);
}

/* ---- the loop ---- */

/* A channel whose reliable consumer has not taken everything, or NO_CHANNEL. */
static uint32_t find_unread(struct replay_player *player)
{
  for (uint32_t i = 0; i < player->channel_count; i++)
    if (replay_bus_unread(player->bus, i) > 0)
      return i;
  return NO_CHANNEL;
}

/* Whether the record that is held may go now: 1, 0, or BUS_ERROR_AGAIN at the end of all. */
static int may_go(struct replay_player *player, struct bus_loop *loop)
{
  uint32_t unread;
  switch (player->config.pace) {
  case REPLAY_PACE_SPEED:
    player->due_ns = replay_pacer_due_ns(&player->pacer, player->event.time_ns);
    return replay_pacer_wait(&player->pacer, player->due_ns, loop->next_housekeeping_ns);
  case REPLAY_PACE_STEP:
    if (!replay_steps_wait(&player->steps, STEP_WAIT_MS)) {
      player->result.interrupted = true;
      return BUS_ERROR_AGAIN;
    }
    if (player->steps.credit == 0)
      return 0;
    player->steps.credit--;
    print_step(player);
    return 1;
  case REPLAY_PACE_LOCKSTEP:
    unread = find_unread(player);
    if (unread != NO_CHANNEL)
      wait_for(player, unread);
    return unread == NO_CHANNEL;
  case REPLAY_PACE_MAX:
    break;
  }
  return 1;
}

/* Everything is out: ends when the consumers have it. */
static int drain(struct replay_player *player)
{
  uint32_t unread = find_unread(player);
  if (unread == NO_CHANNEL)
    return BUS_ERROR_AGAIN;
  wait_for(player, unread);
  return 0;
}

static int work(void *context, struct bus_loop *loop)
{
  struct replay_player *player = context;
  for (int records = 0; records < RECORDS_PER_CYCLE; records++) {
    if (player->at_end)
      return drain(player);
    if (!player->holding) {
      int status = next_record(player);
      if (status < 0)
        return status;
      if (status == 0) {
        player->at_end = true;
        continue;
      }
      player->holding = true;
      if (!player->pass_has_begun)
        begin_pass(player);
    }
    if (!player->ready && !fill_slot(player))
      return records; /* full: the record waits, housekeeping goes on */
    int go = may_go(player, loop);
    if (go < 0)
      return go;
    if (!go) /* a pause while nobody is waited for: it was waited long enough */
      return player->waiting_for == NO_CHANNEL ? 1 : records;
    player->waiting_for = NO_CHANNEL;
    publish(player);
    if (player->config.pace != REPLAY_PACE_MAX)
      return 1;
  }
  return RECORDS_PER_CYCLE;
}

/* The consumer that is waited for: named when it is away, given up after the limit. */
static int check_consumer(struct replay_player *player, uint64_t now_ns)
{
  if (player->waiting_for == NO_CHANNEL) {
    player->away_since_ns = 0;
    player->away_shown = false;
    return BUS_OK;
  }
  enum replay_consumer consumer = replay_bus_consumer(player->bus, player->waiting_for);
  if (consumer == REPLAY_CONSUMER_ALIVE || consumer == REPLAY_CONSUMER_NONE) {
    player->away_since_ns = 0;
    return BUS_OK;
  }
  if (player->away_since_ns == 0)
    player->away_since_ns = now_ns;
  const char *peer = replay_bus_peer(player->bus, player->waiting_for);
  const char *how = consumer == REPLAY_CONSUMER_DEAD ? "is dead" : "is not on the bus";
  uint64_t away_ns = now_ns - player->away_since_ns;
  uint64_t limit_ns = player->config.consumer_timeout_ns;
  if (limit_ns && away_ns >= limit_ns) {
    player->result.lost_consumer = true;
    return bus_error_set(
        BUS_ERROR_DEAD_OWNER,
        "consumer '%s' %s, and did not come within %.1f s; %" PRIu64 " records were not taken",
        peer, how, (double)limit_ns / 1e9, replay_bus_unread(player->bus, player->waiting_for));
  }
  if (away_ns >= WAIT_SHOWN_NS && !player->away_shown) {
    player->away_shown = true;
    clear_progress(player);
    fprintf(stderr,
            "bus-replay: waiting for consumer '%s', which %s: start it, or play with --consumer "
            "none\n",
            peer, how);
  }
  return BUS_OK;
}

static int housekeeping(void *context, struct bus_loop *loop)
{
  struct replay_player *player = context;
  replay_bus_keep_house(player->bus, loop->now_ns);
  if (player->channel_count > 0 && player->config.pace == REPLAY_PACE_SPEED) {
    bus_counter_set(replay_bus_counter(player->bus, 0, "slips"), player->pacer.slips);
    bus_counter_set(replay_bus_counter(player->bus, 0, "slipped_ns"), player->pacer.slipped_ns);
  }
  if (player->config.show_progress && player->merge)
    show_progress(player);
  return check_consumer(player, loop->now_ns);
}

/* ---- set-up ---- */

/* Position of the first record of a stream in the range, whatever filters say; where the stream
 * ends when there is none. */
static int find_first(const struct replay_player_config *config, uint32_t stream, uint64_t *first)
{
  const uint32_t count = bus_capture_stream_count(config->capture);
  bool *only = calloc(count, sizeof *only);
  if (!only)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  only[stream] = true;
  struct bus_capture_range range = config->range;
  range.streams = only;
  range.wants = NULL;
  struct bus_capture_merge *merge;
  struct bus_capture_event event;
  int status = bus_capture_merge_open(config->capture, &range, &merge);
  *first = bus_capture_stream(config->capture, stream)->last + 1;
  if (status == BUS_OK) {
    while ((status = bus_capture_merge_next(merge, &event)) == 1)
      if (event.kind == BUS_CAPTURE_EVENT_RECORD) {
        *first = event.position;
        break;
      }
    bus_capture_merge_close(merge);
  }
  free(only);
  return status < 0 ? status : BUS_OK;
}

/* Names of the members whose features a signals ring answers, as META lists them. */
static void list_inputs(const struct bus_capture_stream *stream, struct replay_channel *channel)
{
  const json_t *inputs = json_object_get(stream->meta, "inputs");
  if (stream->record_type != BUS_RECORD_SIGNAL || !json_is_array(inputs))
    return;
  for (size_t i = 0; i < json_array_size(inputs) && i < REPLAY_INPUTS_MAX; i++) {
    const char *member = bus_capture_meta_text(json_array_get(inputs, i), "member");
    if (!bus_layout_name_is_valid(member))
      return;
    channel->inputs[channel->input_count++] = member;
  }
}

/* As META has it: by name, or by number. */
static uint32_t read_policy(const json_t *meta)
{
  const char *name = bus_capture_meta_text(meta, "policy");
  for (uint32_t policy = BUS_POLICY_WAIT; policy <= BUS_POLICY_OVERWRITE; policy++)
    if (!strcmp(name, bus_policy_name(policy)))
      return policy;
  return (uint32_t)bus_capture_meta_u64(meta, "policy", BUS_POLICY_OVERWRITE);
}

static int describe_channel(struct replay_player *player, uint32_t index,
                            struct replay_channel *channel)
{
  const struct replay_player_config *config = &player->config;
  const struct bus_capture_stream *stream = bus_capture_stream(config->capture, index);
  if (!stream->member[0])
    return bus_error_set(BUS_ERROR_CORRUPT,
                         "%s: no block that describes it is whole; leave it out with --stream",
                         stream->name);
  *channel = (struct replay_channel){
      .member = config->members[index],
      .ring = stream->ring,
      .peer = config->no_consumer ? NULL : bus_capture_meta_text(stream->meta, "peer"),
      .record_type = stream->record_type,
      .record_size = stream->record_size,
      .policy = read_policy(stream->meta),
      .depth = bus_capture_meta_u64(stream->meta, "depth", 0)};
  list_inputs(stream, channel);
  return find_first(config, index, &channel->first);
}

static int open_bus(struct replay_player *player, struct replay_channel *channels)
{
  const uint32_t count = bus_capture_stream_count(player->config.capture);
  for (uint32_t i = 0; i < count; i++) {
    player->channels[i] = NO_CHANNEL;
    if (!player->config.range.streams[i])
      continue;
    player->channels[i] = player->channel_count;
    int error = describe_channel(player, i, &channels[player->channel_count++]);
    if (error)
      return error;
  }
  if (player->channel_count == 0)
    return bus_error_set(BUS_ERROR_ABSENT, "%s: no stream of it is wanted",
                         bus_capture_path(player->config.capture));
  return replay_bus_open(&player->config.bus, channels, player->channel_count, &player->bus);
}

static int make_bus(struct replay_player *player)
{
  const uint32_t count = bus_capture_stream_count(player->config.capture);
  struct replay_channel *channels = calloc(count + 1, sizeof *channels);
  player->channels = calloc(count + 1, sizeof *player->channels);
  if (!channels || !player->channels) {
    free(channels);
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  }
  int error = open_bus(player, channels);
  free(channels);
  return error;
}

/* A symbol table too long for ours, or one with a name twice, is shown as far as it goes: records
 * name symbols by number. */
static void copy_symbols(struct replay_player *player, uint32_t channel, uint32_t input,
                         const struct bus_capture_stream *stream)
{
  struct bus_symbol symbol;
  for (uint32_t row = 0; bus_capture_symbol(stream, row, &symbol) == BUS_OK; row++)
    if (replay_bus_add_symbol(player->bus, channel, input, &symbol) != BUS_OK)
      return;
}

static int show_retained(struct replay_player *player)
{
  struct bus_capture *capture = player->config.capture;
  for (uint32_t i = 0; i < bus_capture_stream_count(capture); i++) {
    const struct bus_capture_stream *stream = bus_capture_stream(capture, i);
    const uint32_t channel = player->channels[i];
    if (channel == NO_CHANNEL)
      continue;
    if (stream->record_type == BUS_RECORD_FEATURE)
      copy_symbols(player, channel, 0, stream);
    if (stream->record_type != BUS_RECORD_SIGNAL)
      continue;
    for (uint32_t input = 0; input < REPLAY_INPUTS_MAX; input++) {
      int features = bus_capture_input(capture, stream, input);
      if (features >= 0)
        copy_symbols(player, channel, input, bus_capture_stream(capture, (uint32_t)features));
      else if (input == 0)
        copy_symbols(player, channel, 0, stream);
    }
    int64_t shown = replay_retained_show(capture, i, &player->config.range, player->bus, channel);
    if (shown < 0)
      return (int)shown;
    player->result.retained += (uint64_t)shown;
  }
  return BUS_OK;
}

static void clock_sleep_until(void *context, uint64_t deadline_ns)
{
  (void)context;
  const struct timespec deadline = {(time_t)(deadline_ns / 1000000000u),
                                    (long)(deadline_ns % 1000000000u)};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, NULL);
}

static int set_up(struct replay_player *player)
{
  const struct replay_player_config *config = &player->config;
  int64_t offset_ns;
  int error = make_bus(player);
  if (!error)
    error = bus_loop_init(&player->loop, NULL, config->bus.options.idle, config->bus.options.core,
                          config->bus.options.numa_node);
  if (!error)
    error = show_retained(player);
  if (!error)
    error = bus_capture_merge_open(config->capture, &config->range, &player->merge);
  const struct replay_pacer_clock clock = {.bus = &player->loop.clock,
                                           .sleep_until = clock_sleep_until};
  replay_pacer_init(&player->pacer, &clock, config->speed);
  bus_capture_times(config->capture, &player->first_time_ns, &player->last_time_ns, &offset_ns);
  if (config->range.until_ns < player->last_time_ns)
    player->last_time_ns = config->range.until_ns;
  return error;
}

int replay_player_new(const struct replay_player_config *config, struct replay_player **result)
{
  *result = NULL;
  struct replay_player *player = calloc(1, sizeof *player);
  if (!player)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  player->config = *config;
  player->waiting_for = NO_CHANNEL;
  player->steps.file = STDIN_FILENO;
  int error = set_up(player);
  if (error) {
    replay_player_delete(player);
    return error;
  }
  *result = player;
  return BUS_OK;
}

int replay_player_run(struct replay_player *player)
{
  static const struct bus_loop_operations operations = {work, housekeeping, NULL};
  replay_bus_run(player->bus);
  int error = bus_loop_run(&player->loop, &operations, player);
  clear_progress(player);
  player->result.interrupted |= bus_loop_stop_requested();
  if (player->begin_ns)
    player->result.elapsed_ns = bus_clock_now_ns(&player->loop.clock) - player->begin_ns;
  housekeeping(player, &player->loop);
  if (player->result.lost_consumer)
    return BUS_OK;
  return error;
}

void replay_player_result(const struct replay_player *player, struct replay_player_result *result)
{
  *result = player->result;
  result->slips = player->pacer.slips;
  result->slipped_ns = player->pacer.slipped_ns;
  replay_bus_add_lateness(player->bus, &result->lateness_ns);
}

void replay_player_delete(struct replay_player *player)
{
  if (!player)
    return;
  bus_capture_merge_close(player->merge);
  replay_bus_close(player->bus, BUS_STATE_HALT);
  free(player->channels);
  free(player);
}
