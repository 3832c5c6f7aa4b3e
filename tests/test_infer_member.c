#include "bus_fixture.h"
#include "model_builder.h"

#include "consumers/infer_member.h"
#include "shm/error.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

TestSuite(infer_member, .init = fixture_create, .fini = fixture_remove, .timeout = 120);

#define FEED_DEPTH 256

struct feed {
  struct bus_member *member;
  struct bus_producer producer;
  struct bus_backlink backlink;
};

static void feed_start(struct feed *feed, const char *name)
{
  const struct bus_object_spec objects[] = {
      {.type = BUS_OBJECT_RING,
       .name = "features",
       .peer = "infer",
       .record_type = BUS_RECORD_FEATURE,
       .record_size = 128,
       .policy = BUS_POLICY_WAIT,
       .depth = FEED_DEPTH},
      {.type = BUS_OBJECT_SYMBOLS, .name = "symbols", .depth = 8}};
  feed->member = fixture_member(name, objects, 2, 0);
  const struct bus_entry *entry = bus_member_entry(feed->member, BUS_OBJECT_RING, "features");
  bus_producer_init(&feed->producer, bus_member_object(feed->member, BUS_OBJECT_RING, "features"),
                    entry, bus_member_header(feed->member)->instance);
  bus_backlink_init(&feed->backlink, fixture_directory, name, entry, &feed->producer);
  struct bus_symbol symbol = {.name = "SYM", .price_exponent = -2};
  bus_symbols_add(bus_member_object(feed->member, BUS_OBJECT_SYMBOLS, "symbols"),
                  bus_member_entry(feed->member, BUS_OBJECT_SYMBOLS, "symbols"), &symbol);
}

/* The consumer joins when this is done. */
static void feed_connect(struct feed *feed)
{
  if (!feed->backlink.neighbour)
    bus_backlink_maintain(&feed->backlink);
}

static bool feed_write(struct feed *feed, uint64_t value)
{
  struct bus_feature *feature = bus_producer_reserve(&feed->producer);
  feed_connect(feed);
  if (!feature) {
    bus_backlink_maintain(&feed->backlink);
    return false;
  }
  memset(feature, 0, offsetof(struct bus_feature, stamp));
  feature->timestamp_ns = value;
  feature->bid_price = (int64_t)value;
  feature->ask_price = (int64_t)value + 2;
  feature->flags = BUS_FEATURE_VALID;
  feature->symbol = (uint16_t)(value % 3);
  for (int i = 0; i < BUS_FEATURE_INPUTS; i++)
    feature->x[i] = (float)((value * 7 + (uint64_t)i * 13) % 101) / 50.0f - 1.0f;
  bus_producer_commit(&feed->producer);
  return true;
}

static const char *write_model(void)
{
  static char path[512];
  const struct model_shape shape = {.inputs = 16,
                                    .layers = 2,
                                    .width = {8, 3},
                                    .activation = {BUS_ACTIVATION_RELU, BUS_ACTIVATION_NONE}};
  size_t size;
  uint8_t *bytes = model_build(&shape, 3, 1.0f, &size);
  snprintf(path, sizeof path, "%s/.model", fixture_directory);
  FILE *file = fopen(path, "wb");
  cr_assert_eq(fwrite(bytes, 1, size, file), size);
  fclose(file);
  free(bytes);
  return path;
}

static struct bus_infer_config make_config(const char *model)
{
  struct bus_infer_config config = {.feeds = {"feed-a", "feed-b"},
                                    .feed_count = 2,
                                    .model_path = model,
                                    .engine_kind = "auto",
                                    .batch_max = 7,
                                    .ring_depth = 65536,
                                    .symbols_max = 4};
  bus_member_options_init(&config.options, "infer");
  config.options.directory = fixture_directory;
  return config;
}

static pid_t spawn_infer(const struct bus_infer_config *config)
{
  pid_t child = fork();
  if (child == 0) {
    struct bus_infer *infer;
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* a failed test leaves nobody behind */
    bus_loop_handle_signals();
    int error = bus_infer_new(config, &infer);
    if (error)
      _exit(1);
    error = bus_infer_run(infer);
    bus_infer_delete(infer);
    _exit(error ? 1 : 0);
  }
  return child;
}

/* Killed again and again at random moments: each feature of both feeds gets exactly one signal, in
 * order, and the signals are the same bits as from a run in peace. */
Test(infer_member, answers_every_feature_once_over_kills)
{
  enum { FEATURES = 6000 };
  struct feed feeds[2];
  struct bus_infer_config config = make_config(write_model());
  feed_start(&feeds[0], "feed-a");
  feed_start(&feeds[1], "feed-b");
  struct bus_subscription signals;
  bus_subscription_init(&signals, fixture_directory, "infer", "signals", BUS_RECORD_SIGNAL, 64,
                        NULL);
  signals.from_oldest = true;
  uint64_t written[2] = {0}, answered[2] = {0}, random = 99;
  int kills = 0;
  pid_t child = spawn_infer(&config);
  for (uint64_t step = 0; answered[0] < FEATURES || answered[1] < FEATURES; step++) {
    feed_connect(&feeds[0]);
    feed_connect(&feeds[1]);
    random = random * 6364136223846793005u + 1442695040888963407u;
    for (int f = 0; f < 2; f++)
      if (written[f] < FEATURES && feed_write(&feeds[f], written[f] + 1))
        written[f]++;
    if (step % 64 == 0)
      bus_subscription_maintain(&signals, 0);
    struct bus_signal signal;
    int status = signals.neighbour ? bus_observer_poll(&signals.observer, &signal) : 0;
    cr_assert_neq(status, BUS_ERROR_OVERRUN);
    if (status == 1) {
      cr_assert_lt(signal.source, 2);
      cr_assert_eq(signal.feature_position, answered[signal.source], "source %u", signal.source);
      cr_assert_eq(signal.timestamp_ns, ++answered[signal.source]);
      float sum = signal.score[0] + signal.score[1] + signal.score[2];
      cr_assert(sum > 0.999f && sum < 1.001f);
    }
    if ((random >> 33) % 400 == 0 && kills < 60) {
      kill(child, SIGKILL);
      waitpid(child, NULL, 0);
      kills++;
      child = spawn_infer(&config);
      usleep(1000 + (random >> 40) % 30000);
    }
  }
  cr_assert_gt(kills, 5);
  kill(child, SIGTERM);
  int status;
  waitpid(child, &status, 0);
  cr_assert_eq(status, 0);
  /* The boards are whole, and name the newest signal of each symbol. */
  const struct bus_entry *board = bus_neighbour_find(signals.neighbour, BUS_OBJECT_BOARD, "feed-b");
  const struct bus_signal *slots = bus_neighbour_object(signals.neighbour, board);
  for (uint32_t symbol = 0; symbol < 3; symbol++) {
    struct bus_signal signal;
    cr_assert_eq(bus_board_read(&slots[symbol], &signal), 1);
    cr_assert_eq(signal.symbol, symbol);
    cr_assert_gt(signal.feature_position, FEATURES - 4);
  }
  struct bus_member_header live;
  bus_neighbour_live(signals.neighbour, &live);
  /* Some were killed before they had taken over. */
  cr_assert(live.epoch > 1 && live.epoch <= (uint64_t)kills + 1);
  cr_assert_eq(live.state, BUS_STATE_HALT);
  bus_subscription_close(&signals);
  for (int f = 0; f < 2; f++) {
    bus_backlink_close(&feeds[f].backlink);
    bus_member_leave(feeds[f].member, BUS_STATE_HALT);
  }
}

/* What a killed bus-infer may leave behind, made by hand in its file. */
struct remains {
  int fd;
  uint64_t signals; /* offset of the ring's first slot */
  uint64_t board;
  uint64_t symbols;
  struct bus_subscription subscription;
};

static void put(const struct remains *remains, uint64_t offset, uint64_t value)
{
  cr_assert_eq(pwrite(remains->fd, &value, sizeof value, (off_t)offset), (ssize_t)sizeof value);
}

static uint64_t get(const struct remains *remains, uint64_t offset)
{
  uint64_t value = 0;
  cr_assert_eq(pread(remains->fd, &value, sizeof value, (off_t)offset), (ssize_t)sizeof value);
  return value;
}

/* Lets bus-infer answer `count` features of feed-a and kills it. */
static void leave_remains(struct remains *remains, struct feed *feed,
                          const struct bus_infer_config *config, uint64_t count)
{
  struct bus_signal signal;
  uint64_t written = 0, answered = 0;
  bus_subscription_init(&remains->subscription, fixture_directory, "infer", "signals",
                        BUS_RECORD_SIGNAL, 64, NULL);
  remains->subscription.from_oldest = true; /* the first signal may be there before */
  pid_t child = spawn_infer(config);
  while (answered < count) {
    if (written == answered && written < count)
      written += feed_write(feed, written + 1);
    feed_connect(feed);
    bus_subscription_maintain(&remains->subscription, 0);
    const struct bus_observer *observer = &remains->subscription.observer;
    if (remains->subscription.neighbour &&
        bus_observer_poll(&remains->subscription.observer, &signal) == 1)
      answered = observer->next;
  }
  kill(child, SIGKILL);
  waitpid(child, NULL, 0);
  struct bus_neighbour *neighbour = remains->subscription.neighbour;
  remains->signals =
      bus_neighbour_find(neighbour, BUS_OBJECT_RING, "signals")->offset + BUS_RING_HEADER_BYTES;
  remains->board = bus_neighbour_find(neighbour, BUS_OBJECT_BOARD, "feed-a")->offset;
  remains->symbols = bus_neighbour_find(neighbour, BUS_OBJECT_SYMBOLS, "feed-a")->offset;
  remains->fd = open(fixture_path("infer"), O_RDWR | O_CLOEXEC);
  cr_assert_geq(remains->fd, 0);
}

/* Killed while it filled the slot of the ring's oldest signal: the stamp is still the old one, the
 * feature's position already the new one. That feature has no signal yet. */
Test(infer_member, a_half_written_signal_answers_nothing)
{
  enum { DEPTH = 8, ANSWERED = 12 };
  struct feed feed;
  struct remains remains = {0};
  struct bus_infer_config config = make_config(write_model());
  config.feed_count = 1;
  config.ring_depth = DEPTH;
  feed_start(&feed, "feed-a");
  leave_remains(&remains, &feed, &config, ANSWERED);
  uint64_t slot = remains.signals + ANSWERED % DEPTH * 64;
  cr_assert_eq(get(&remains, slot + 56), ANSWERED - DEPTH + 1);
  put(&remains, slot + offsetof(struct bus_signal, feature_position), ANSWERED);
  cr_assert(feed_write(&feed, ANSWERED + 1));
  cr_assert(feed_write(&feed, ANSWERED + 2));
  pid_t child = spawn_infer(&config);
  struct bus_signal signal;
  int status;
  while ((status = bus_observer_poll(&remains.subscription.observer, &signal)) == 0)
    ;
  cr_assert_eq(status, 1);
  cr_assert_eq(signal.feature_position, ANSWERED);
  kill(child, SIGTERM);
  waitpid(child, NULL, 0);
  close(remains.fd);
  bus_subscription_close(&remains.subscription);
  bus_backlink_close(&feed.backlink);
  bus_member_leave(feed.member, BUS_STATE_HALT);
}

/* Killed while it showed a signal on the board: the successor shows the newest one. */
Test(infer_member, a_half_written_board_gets_the_newest_signal)
{
  enum { DEPTH = 16, ANSWERED = 24, SYMBOL = 1 };
  struct feed feed;
  struct remains remains = {0};
  struct bus_infer_config config = make_config(write_model());
  config.feed_count = 1;
  config.ring_depth = DEPTH;
  feed_start(&feed, "feed-a");
  leave_remains(&remains, &feed, &config, ANSWERED);
  uint64_t slot = remains.board + SYMBOL * 64;
  uint64_t newest = ANSWERED - 1;
  while ((newest + 1) % 3 != SYMBOL)
    newest--;
  put(&remains, slot + 56, get(&remains, slot + 56) | 1);
  put(&remains, slot + offsetof(struct bus_signal, feature_position), 0xdead);
  struct bus_infer *infer;
  cr_assert_eq(bus_infer_new(&config, &infer), BUS_OK, "%s", bus_error_message());
  bus_infer_delete(infer);
  cr_assert_eq(get(&remains, slot + 56) & 1, 0);
  cr_assert_eq(get(&remains, slot + offsetof(struct bus_signal, feature_position)), newest);
  close(remains.fd);
  bus_subscription_close(&remains.subscription);
  bus_backlink_close(&feed.backlink);
  bus_member_leave(feed.member, BUS_STATE_HALT);
}

/* Killed after it had joined a new instance of its feed, before it had cleared what it shows of the
 * old one: the successor does. */
Test(infer_member, tables_of_an_earlier_feed_are_cleared_in_the_end)
{
  enum { ANSWERED = 5 };
  struct feed feed;
  struct remains remains = {0};
  struct bus_infer_config config = make_config(write_model());
  config.feed_count = 1;
  feed_start(&feed, "feed-a");
  leave_remains(&remains, &feed, &config, ANSWERED);
  struct bus_symbol earlier = {.name = "EARLIER"};
  cr_assert_eq(get(&remains, remains.symbols + 8), bus_member_header(feed.member)->instance);
  cr_assert_eq(pwrite(remains.fd, &earlier, sizeof earlier, (off_t)remains.symbols + 64),
               (ssize_t)sizeof earlier);
  put(&remains, remains.symbols + 8, bus_member_header(feed.member)->instance - 1);
  pid_t child = spawn_infer(&config);
  char name[8] = "";
  while (strncmp(name, "SYM", sizeof name) != 0) {
    uint64_t word = get(&remains, remains.symbols + 64);
    memcpy(name, &word, sizeof name);
    feed_connect(&feed);
  }
  cr_assert_eq(get(&remains, remains.symbols + 8), bus_member_header(feed.member)->instance);
  for (uint64_t symbol = 0; symbol < 3; symbol++)
    cr_assert_eq(get(&remains, remains.board + symbol * 64 + offsetof(struct bus_signal, flags)) &
                     BUS_SIGNAL_VALID,
                 0);
  kill(child, SIGTERM);
  waitpid(child, NULL, 0);
  close(remains.fd);
  bus_subscription_close(&remains.subscription);
  bus_backlink_close(&feed.backlink);
  bus_member_leave(feed.member, BUS_STATE_HALT);
}

Test(infer_member, refuses_what_it_cannot_serve)
{
  struct bus_infer *infer;
  struct bus_infer_config config = make_config("/no/such.model");
  cr_assert_eq(bus_infer_new(&config, &infer), BUS_ERROR_ABSENT);
  cr_assert_not_null(strstr(bus_error_message(), "/no/such.model"));
  config = make_config(write_model());
  config.engine_kind = "cuda";
  cr_assert_lt(bus_infer_new(&config, &infer), 0);
  config = make_config(write_model());
  config.feed_count = 0;
  cr_assert_eq(bus_infer_new(&config, &infer), BUS_ERROR_INVALID);
  config = make_config(write_model());
  config.batch_max = 65;
  cr_assert_eq(bus_infer_new(&config, &infer), BUS_ERROR_INVALID);
  config = make_config(write_model());
  config.batch_max = 8;
  config.ring_depth = 8;
  cr_assert_eq(bus_infer_new(&config, &infer), BUS_ERROR_INVALID);
  cr_assert_not_null(strstr(bus_error_message(), "batch of 8"));
}
