/* replay_infer.h: proves that the signals of a capture are what a model says about its features,
 * bit for bit, by making each of them again. */
#ifndef TOOLS_REPLAY_INFER_H
#define TOOLS_REPLAY_INFER_H

#include "consumers/capture_check.h"
#include "consumers/capture_merge.h"

#include <stdio.h>

/* The first signal that is not as computed. */
struct replay_infer_difference {
  char stream[BUS_CAPTURE_STREAM_BYTES];
  char symbol[20]; /* its name, or its number */
  uint64_t position;
  uint64_t feature_position;
  char field[24]; /* of struct bus_signal */
  char recorded[32];
  char computed[32];
};

struct replay_infer_result {
  uint64_t signals;                     /* compared */
  uint64_t different;                   /* of these */
  uint64_t unfounded;                   /* signals whose feature is not in the capture */
  uint64_t unanswered;                  /* features before the last signal that none answers */
  uint16_t model;                       /* its id */
  char engine[160];                     /* what ran it */
  struct replay_infer_difference first; /* valid when different > 0 */
};

/* Makes every signal of `capture` again: of the features that META and the signals name, by
 * `engine`
 * ("auto", "scalar", "avx2", "avx512") with the model at `model_path`, and compares canonical forms
 * (capture_format.h). `watcher` NULL: nobody watches.
 *
 * Returns BUS_OK when all could be compared, whether or not they are equal. Else a negative error
 * with a message: those of bus_model_load and bus_engine_open, BUS_ERROR_ABSENT (no signals, or
 * their features were not recorded), BUS_ERROR_INVALID (signals of another model: both ids are
 * named), BUS_ERROR_UNSUPPORTED (the model reads other inputs), BUS_ERROR_IO. Damaged blocks are in
 * the capture's damages; what they held counts as not there. */
int replay_infer_check(struct bus_capture *capture, const char *model_path, const char *engine_kind,
                       const struct bus_capture_watcher *watcher,
                       struct replay_infer_result *result);

/* The result for people, some lines on `out`, and as a new JSON object (NULL: out of memory). */
void replay_infer_print(const struct replay_infer_result *result, FILE *out);
json_t *replay_infer_json(const struct replay_infer_result *result);

#endif
