/* lab.h: what every experiment of the fault laboratory shares: verdict, seed, workers, directory.
 *
 * Each experiment runs in a process of its own, with a watchdog. It and all the workers that it
 * forks report into one block of shared memory; the first failed check is the verdict. */
#ifndef FAULTLAB_LAB_H
#define FAULTLAB_LAB_H

#include "shm/signalbus.h"

#include <stdio.h>
#include <sys/types.h>

#define LAB_PATH_BYTES  192
#define LAB_EXIT_FAILED 99
#define LAB_COPY        ".copy"

/* Shared with the workers, no part of the bus: what really happened, to compare the bus with. */
struct lab_control {
  uint64_t inside;    /* 1 while the operation under test runs */
  uint64_t begun;     /* records that the producer began to write */
  uint64_t committed; /* records whose commit has returned */
  uint64_t refused;   /* reserves that found the ring full */
  uint64_t read;      /* records that the consumer has read whole */
  uint64_t observed;  /* records that the observer has read whole */
  uint64_t lost;      /* records that the observer was told to be lost */
  uint64_t seen_attaches;
  uint64_t stop; /* workers: finish */
  uint64_t ready;
  uint64_t restarts;
  uint64_t phase[4];
  uint64_t value[16]; /* an experiment's own */
};

struct lab_verdict {
  uint32_t failed; /* 1 once a check has failed; the message is its */
  uint32_t skipped;
  char message[1024];
  char counts[512];
};

struct lab_experiment {
  const char *name;
  const char *summary;
  bool traces; /* needs ptrace */
  unsigned watchdog_s;
  void (*run)(void);
};

extern struct lab_control *lab_control;
extern struct lab_verdict *lab_verdict;
extern uint64_t lab_seed;
extern uint64_t lab_kills; /* --kills: how many kills the storm makes */
extern char lab_directory[LAB_PATH_BYTES];

/* The next number of the experiment's own stream; the same seed gives the same stream. */
uint64_t lab_random(void);
/* 0..limit-1. */
uint64_t lab_random_below(uint64_t limit);
void lab_random_seed(uint64_t seed);

/* Records the verdict "failed" and ends this process. */
_Noreturn void lab_fail(const char *file, int line, const char *format, ...) BUS_PRINTF(3, 4);

#define LAB_CHECK(condition, ...)                                                                  \
  do {                                                                                             \
    if (BUS_UNLIKELY(!(condition)))                                                                \
      lab_fail(__FILE__, __LINE__, __VA_ARGS__);                                                   \
  } while (0)

/* What the TAP line says behind the name; appended to. */
void lab_count(const char *format, ...) BUS_PRINTF(1, 2);

/* A child that runs `body` and dies with this process. */
pid_t lab_fork(void (*body)(void));
/* SIGKILLs one child and reaps it. */
void lab_kill(pid_t pid);
/* Waits until the child ends; fails the experiment unless it exits with 0. */
void lab_join(pid_t pid, const char *what);
/* Fails the experiment when the child has ended. */
void lab_must_live(pid_t pid, const char *what);

/* Empties the bus directory of this experiment (made when it is not there). */
void lab_clean(void);
/* Removes it, with the directory LAB_COPY that a failed experiment may have left in it. */
void lab_remove(void);
const char *lab_path(const char *name);

/* Keeps this process and its children on one CPU: a tracer and its tracee take turns anyway. */
void lab_pin(void);
void lab_sleep_us(uint64_t us);

#endif
