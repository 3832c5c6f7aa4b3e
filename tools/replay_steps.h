/* replay_steps.h: an operator who lets records go one by one: lines on a file, empty for one
 * record, a number for as many, q to end. */
#ifndef TOOLS_REPLAY_STEPS_H
#define TOOLS_REPLAY_STEPS_H

#include "shm/base.h"

struct replay_steps {
  int file;
  uint64_t credit; /* records that may go; the caller takes them away */
  char line[256];  /* read so far */
  size_t line_length;
};

/* Unless there is credit, waits for lines, `timeout_ms` at most or until a signal. False when no
 * more come: q, the end of the file, or an error of it. Wrong lines are named on stderr. One
 * thread. */
bool replay_steps_wait(struct replay_steps *steps, int timeout_ms);

#endif
