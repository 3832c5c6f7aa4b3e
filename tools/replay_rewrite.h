/* replay_rewrite.h: writes events of captures to a new one: what recover, cut and merge share. */
#ifndef SIGNALBUS_REPLAY_REWRITE_H
#define SIGNALBUS_REPLAY_REWRITE_H

#include "consumers/capture_merge.h"
#include "tools/replay_output.h"

/* What describes records of `segment` as well as can be told when its own META is lost: that of
 * another segment, else what the file's name and header say. A new object. */
json_t *replay_description(const struct bus_capture_stream *stream,
                           const struct bus_capture_segment *segment);

/* The shape for all of the stream's records: with the largest blocks that its segments have. */
struct bus_capture_shape replay_shape(const struct bus_capture_stream *stream);

/* Writes the records of one stream; descriptions and segments come when a record needs them. */
struct replay_rewriter {
  struct replay_output *output;
  const struct bus_capture_stream *stream; /* whose records come next */
  int to;                                  /* in the output; -1: none yet */
  json_t *meta;                            /* to be written before the next record; NULL: none */
  bool rotate;                             /* a new instance begins */
  const char *filtered;                    /* what was left out, for the description; NULL: none */
};

void replay_rewriter_init(struct replay_rewriter *rewriter, struct replay_output *output,
                          const struct bus_capture_stream *stream, const char *filtered);
void replay_rewriter_free(struct replay_rewriter *rewriter);

/* Takes an event of the stream. BUS_OK or a negative error with a message. */
int replay_rewriter_take(struct replay_rewriter *rewriter, const struct bus_capture_event *event);

#endif
