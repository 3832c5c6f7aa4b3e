#include "consumers/capture_cold.h"

#include "shm/member.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#define QUEUE      64u
#define PATH_BYTES 512u

struct bus_cold {
  pthread_t thread;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  struct bus_cold_counters counters;
  int level;
  bool stop;
  uint32_t first, count;
  char paths[QUEUE][PATH_BYTES];
};

struct job {
  FILE *from;
  FILE *to;
  ZSTD_CCtx *context;
  void *plain;
  void *packed;
  size_t packed_bytes;
  uint64_t written;
};

static int add_frame(struct job *job, size_t bytes)
{
  size_t packed = ZSTD_compress2(job->context, job->packed, job->packed_bytes, job->plain, bytes);
  if (ZSTD_isError(packed))
    return bus_error_set(BUS_ERROR_IO, "compressing: %s", ZSTD_getErrorName(packed));
  if (fwrite(job->packed, 1, packed, job->to) != packed)
    return bus_error_set_errno("writing");
  job->written += packed;
  return BUS_OK;
}

static int add_frames(struct job *job)
{
  struct bus_capture_shape shape;
  if (fread(job->plain, 1, BUS_CAPTURE_FILE_HEADER_BYTES, job->from) !=
      BUS_CAPTURE_FILE_HEADER_BYTES)
    return bus_error_set(BUS_ERROR_CORRUPT, "too short");
  int error = bus_capture_header_parse(job->plain, &shape);
  if (!error)
    error = add_frame(job, BUS_CAPTURE_FILE_HEADER_BYTES);
  for (uint64_t i = 0; !error && i < shape.blocks; i++) {
    if (fread(job->plain, 1, shape.block_size, job->from) != shape.block_size)
      return bus_error_set(BUS_ERROR_CORRUPT, "shorter than its header says");
    error = add_frame(job, shape.block_size);
  }
  if (!error && fgetc(job->from) != EOF)
    error = bus_error_set(BUS_ERROR_CORRUPT, "longer than its header says");
  return error;
}

static int compress_open(struct job *job, int level)
{
  job->plain = malloc(BUS_CAPTURE_BLOCK_BYTES_MAX);
  job->packed_bytes = ZSTD_compressBound(BUS_CAPTURE_BLOCK_BYTES_MAX);
  job->packed = malloc(job->packed_bytes);
  job->context = ZSTD_createCCtx();
  if (!job->plain || !job->packed || !job->context)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  ZSTD_CCtx_setParameter(job->context, ZSTD_c_compressionLevel, level);
  ZSTD_CCtx_setParameter(job->context, ZSTD_c_checksumFlag, 1);
  int error = add_frames(job);
  if (!error && (fflush(job->to) != 0 || fdatasync(fileno(job->to)) != 0))
    error = bus_error_set_errno("writing");
  /* Neither is read again soon. */
  posix_fadvise(fileno(job->from), 0, 0, POSIX_FADV_DONTNEED);
  posix_fadvise(fileno(job->to), 0, 0, POSIX_FADV_DONTNEED);
  return error;
}

int bus_cold_compress(const char *path, int level, uint64_t *bytes)
{
  char part[PATH_BYTES + 16], whole[PATH_BYTES + 16];
  struct job job = {0};
  snprintf(whole, sizeof whole, "%.511s.zst", path);
  snprintf(part, sizeof part, "%.511s.zst.part", path);
  job.from = fopen(path, "rbe");
  if (!job.from)
    return bus_error_set_errno("%s: opening", path);
  job.to = fopen(part, "wbe");
  int error = job.to ? compress_open(&job, level) : bus_error_set_errno("%s: creating", part);
  if (job.to && fclose(job.to) != 0 && !error)
    error = bus_error_set_errno("writing");
  fclose(job.from);
  ZSTD_freeCCtx(job.context);
  free(job.plain);
  free(job.packed);
  if (!error && (rename(part, whole) != 0 || unlink(path) != 0))
    error = bus_error_set_errno("%s: replacing", path);
  if (error && job.to)
    unlink(part);
  *bytes = job.written;
  return error ? bus_error_context(error, "%s", path) : BUS_OK;
}

static void *run(void *argument)
{
  struct bus_cold *cold = argument;
  char path[PATH_BYTES];
  const struct sched_param none = {0};
  sched_setscheduler(0, SCHED_IDLE, &none); /* this thread alone */
  pthread_mutex_lock(&cold->lock);
  for (;;) {
    while (cold->count == 0 && !cold->stop)
      pthread_cond_wait(&cold->changed, &cold->lock);
    if (cold->count == 0)
      break;
    memcpy(path, cold->paths[cold->first], sizeof path);
    cold->first = (cold->first + 1) % QUEUE;
    cold->count--;
    pthread_mutex_unlock(&cold->lock);
    uint64_t bytes = 0;
    int error = bus_cold_compress(path, cold->level, &bytes);
    if (error)
      fprintf(stderr, "bus-record: not compressed: %s\n", bus_error_message());
    pthread_mutex_lock(&cold->lock);
    bus_counter_add(error ? cold->counters.failed : cold->counters.compressed, 1);
    bus_counter_add(cold->counters.bytes, error ? 0 : bytes);
  }
  pthread_mutex_unlock(&cold->lock);
  return NULL;
}

int bus_cold_new(int level, const struct bus_cold_counters *counters, struct bus_cold **cold)
{
  struct bus_cold *made = calloc(1, sizeof *made);
  *cold = NULL;
  if (!made)
    return bus_error_set(BUS_ERROR_NO_SPACE, "out of memory");
  made->level = level;
  made->counters = *counters;
  pthread_mutex_init(&made->lock, NULL);
  pthread_cond_init(&made->changed, NULL);
  if (pthread_create(&made->thread, NULL, run, made) != 0) {
    free(made);
    return bus_error_set_errno("starting the compressing thread");
  }
  *cold = made;
  return BUS_OK;
}

void bus_cold_add(struct bus_cold *cold, const char *path)
{
  pthread_mutex_lock(&cold->lock);
  if (cold->count < QUEUE) {
    snprintf(cold->paths[(cold->first + cold->count++) % QUEUE], PATH_BYTES, "%s", path);
    pthread_cond_signal(&cold->changed);
  } else {
    bus_counter_add(cold->counters.failed, 1);
  }
  pthread_mutex_unlock(&cold->lock);
}

void bus_cold_close(struct bus_cold *cold)
{
  if (!cold)
    return;
  pthread_mutex_lock(&cold->lock);
  cold->stop = true;
  pthread_cond_signal(&cold->changed);
  pthread_mutex_unlock(&cold->lock);
  /* Somebody waits now: no more lowest priority. */
  const struct sched_param none = {0};
  pthread_setschedparam(cold->thread, SCHED_OTHER, &none);
  pthread_join(cold->thread, NULL);
  pthread_mutex_destroy(&cold->lock);
  pthread_cond_destroy(&cold->changed);
  free(cold);
}
