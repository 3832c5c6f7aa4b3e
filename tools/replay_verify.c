#include "tools/replay.h"

#include "consumers/capture_check.h"
#include "shm/clock.h"
#include "tools/replay_infer.h"

#include <inttypes.h>

static const char help[] =
    "Usage: bus-replay verify [--json] [--infer MODEL [--engine KIND]] CAPTURE\n"
    "\n"
    "Reads all of a capture and checks every byte: headers, CRCs, positions, what each block says\n"
    "is lost, and that nothing stands where nothing was written. Names each damaged place.\n"
    "\n"
    "With --infer it also makes each signal again from the recorded features and proves that it "
    "is\n"
    "what the model says, bit for bit; the first that differs is named.\n"
    "\n"
    "  --infer MODEL  the model file that the signals were made with\n"
    "  --engine KIND  what runs it: auto (default), scalar, avx2, avx512\n"
    "  --json         one JSON object\n"
    "  --help         this text\n"
    "\n"
    "Exit status: 0 whole and proved, 1 failed, or a signal differs, 2 usage, 3 undamaged, but\n"
    "positions, or the features of signals, are missing, 4 damaged.\n";

enum { OPTION_JSON = REPLAY_OPTION_OWN, OPTION_INFER, OPTION_ENGINE };

static int print(const struct bus_capture *capture, const struct bus_capture_checked *verified,
                 const struct replay_infer_result *proof, uint64_t taken_ns, bool as_json)
{
  double seconds = (double)taken_ns / 1e9;
  uint64_t damages = bus_capture_damage_count(capture);
  if (!as_json) {
    printf("%" PRIu64 " records in %" PRIu64 " blocks, %" PRIu64 " positions lost, %" PRIu64
           " unfinished segments, %" PRIu64 " damaged places\n",
           verified->records, verified->blocks, verified->lost, verified->unfinished, damages);
    printf("%.1f MB in %.3f s: %.1f million records/s\n", (double)verified->bytes / 1e6, seconds,
           seconds > 0 ? (double)verified->records / 1e6 / seconds : 0.0);
    if (proof)
      replay_infer_print(proof, stdout);
    return REPLAY_OK;
  }
  json_t *object = json_object();
  if (proof)
    replay_json_set(object, "infer", replay_infer_json(proof));
  replay_json_set(object, "capture", replay_json_text(bus_capture_path(capture)));
  replay_json_set(object, "records", replay_json_u64(verified->records));
  replay_json_set(object, "blocks", replay_json_u64(verified->blocks));
  replay_json_set(object, "blocks_damaged", replay_json_u64(verified->blocks_bad));
  replay_json_set(object, "lost", replay_json_u64(verified->lost));
  replay_json_set(object, "segments_unfinished", replay_json_u64(verified->unfinished));
  replay_json_set(object, "bytes", replay_json_u64(verified->bytes));
  replay_json_set(object, "taken_ns", replay_json_u64(taken_ns));
  replay_json_set(object, "damage_count", replay_json_u64(damages));
  replay_json_set(object, "damage", replay_json_damages(capture));
  return replay_json_print("verify", object);
}

static void show_progress(void *progress, uint64_t done, uint64_t total)
{
  replay_progress_show(progress, done, total);
}

/* Checks all of it, then makes its signals again. */
static int verify(struct bus_capture *capture, const char *model, const char *engine, bool as_json)
{
  struct bus_capture_checked verified = {0};
  struct replay_infer_result proof;
  struct replay_progress progress;
  const struct bus_capture_watcher watcher = {show_progress, &progress};
  uint64_t begun_ns = bus_clock_monotonic_ns();
  replay_progress_begin(&progress, "verify");
  int error = bus_capture_check(capture, &watcher, &verified);
  replay_progress_end(&progress);
  uint64_t taken_ns = bus_clock_monotonic_ns() - begun_ns;
  if (!error && model) {
    replay_progress_begin(&progress, "infer");
    error = replay_infer_check(capture, model, engine, &watcher, &proof);
    replay_progress_end(&progress);
  }
  int status = error ? replay_fail("verify")
                     : print(capture, &verified, model ? &proof : NULL, taken_ns, as_json);
  if (verified.lost)
    status = replay_worse(status, REPLAY_GAPS);
  if (!error && model && proof.unfounded)
    status = replay_worse(status, REPLAY_GAPS);
  if (!error && model && proof.different)
    status = replay_worse(status, REPLAY_FAILED);
  return status;
}

int replay_verify(int argc, char **argv)
{
  static const struct option options[] = {{"json", no_argument, NULL, OPTION_JSON},
                                          {"infer", required_argument, NULL, OPTION_INFER},
                                          {"engine", required_argument, NULL, OPTION_ENGINE},
                                          {"help", no_argument, NULL, REPLAY_OPTION_HELP},
                                          {NULL, 0, NULL, 0}};
  struct bus_capture *capture;
  const char *model = NULL, *engine = NULL;
  bool as_json = false;
  struct replay_line line = {"verify", help, argc, argv, options, NULL, false, 0};
  for (int option; (option = replay_line_next(&line)) != 0;) {
    if (option == OPTION_INFER)
      model = optarg;
    else if (option == OPTION_ENGINE)
      engine = optarg;
    else
      as_json = true;
  }
  if (line.ended)
    return line.status;
  if (argc - optind != 1)
    return replay_usage_error("verify", "give one capture");
  if (engine && !model)
    return replay_usage_error("verify", "--engine belongs to --infer MODEL");
  int status = replay_open("verify", argv[optind], &capture);
  if (status)
    return status;
  status = verify(capture, model, engine ? engine : "auto", as_json);
  return replay_close("verify", capture, status);
}
