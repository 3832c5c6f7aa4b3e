/* nearest_word.h: which of the words that exist somebody meant who wrote one that does not. */
#ifndef SIGNALBUS_NEAREST_WORD_H
#define SIGNALBUS_NEAREST_WORD_H

#include "shm/base.h"

#include <string.h>

BUS_BEGIN_DECLARATIONS

/* All zero: nothing tried yet. */
struct bus_nearest_word {
  const char *word; /* the best so far; the first of equals */
  uint32_t edits;   /* letters to insert, delete or replace; a missing end is one */
};

/* Compares `written` with `known`, which is kept. Only their first 63 characters count. Pure. */
static inline void bus_nearest_word_try(struct bus_nearest_word *nearest, const char *written,
                                        const char *known)
{
  uint32_t row[64]; /* edits from what is written so far to each beginning of `known` */
  uint32_t width = 0;
  for (row[0] = 0; known[width] && width < 63; width++)
    row[width + 1] = width + 1;
  for (uint32_t i = 0; written[i] && i < 63; i++) {
    uint32_t diagonal = row[0];
    row[0] = i + 1;
    for (uint32_t j = 1; j <= width; j++) {
      uint32_t replaced = diagonal + (written[i] != known[j - 1]);
      uint32_t shifted = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
      diagonal = row[j];
      row[j] = replaced < shifted ? replaced : shifted;
    }
  }
  /* Who leaves out an ending, such as a unit, means the word more surely than the letters say. */
  if (width > 0 && row[width] > 1 && written[0] && !strncmp(known, written, strlen(written)))
    row[width] = 1;
  if (!nearest->word || row[width] < nearest->edits) {
    nearest->word = known;
    nearest->edits = row[width];
  }
}

BUS_END_DECLARATIONS

#endif
