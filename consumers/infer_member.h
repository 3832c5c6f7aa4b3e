/* infer_member.h: the inference member: feature rings in, signal ring and boards out.
 *
 * Rings are polled in turn, at most a fair share of the batch from each; the batch goes to the
 * engine when it is full or its oldest tick has waited long enough; its signals are committed in
 * order, the boards updated, and only then are the features released. So when the member is killed,
 * the newest signals say exactly which features are done: its successor continues behind them. No
 * tick is lost and none answered twice. */
#ifndef SIGNALBUS_INFER_MEMBER_H
#define SIGNALBUS_INFER_MEMBER_H

#include "kernels/engine.h"
#include "shm/options.h"

BUS_BEGIN_DECLARATIONS

#define BUS_INFER_SOURCES_MAX 64u
#define BUS_INFER_RING        "signals"

struct bus_infer_config {
  struct bus_member_options options;
  const char *feeds[BUS_INFER_SOURCES_MAX]; /* names of the members whose "features" are read */
  uint32_t feed_count;                      /* 1..BUS_INFER_SOURCES_MAX */
  const char *model_path;
  const char *engine_kind; /* see bus_engine_open */
  uint32_t batch_max;      /* 1..BUS_ENGINE_BATCH_MAX */
  uint64_t batch_wait_ns;  /* how long the oldest tick may wait for others; 0: not at all */
  uint64_t ring_depth;     /* signals, a power of two, more than batch_max */
  uint32_t symbols_max;    /* for each feed, 1..65535: boards and symbol tables */
  const char *consumer;    /* reliable consumer of the signals; NULL: observers only */
};

struct bus_infer;

/* Loads the model, opens the engine and creates (or takes over) the member. Returns BUS_OK, or with
 * a message an error of bus_model_load, bus_engine_open or bus_member_new. One thread creates, runs
 * and deletes it. */
int bus_infer_new(const struct bus_infer_config *config, struct bus_infer **result);

/* Runs until a signal asks to stop. BUS_OK or a negative error (the engine failed). */
int bus_infer_run(struct bus_infer *infer);

/* One line for the log: engine, model, feeds. Valid as long as the member. */
const char *bus_infer_describe(const struct bus_infer *infer);

/* Leaves the bus and frees. NULL is allowed. */
void bus_infer_delete(struct bus_infer *infer);

BUS_END_DECLARATIONS

#endif
