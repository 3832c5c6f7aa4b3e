/* top_page.h: lines of styled text in tables that fit a width, for the terminal view or a file.
 * What draws makes a page; what shows it (a screen, a file) cuts and scrolls it. Internal to
 * signal-busctl; one thread. */
#ifndef SIGNALBUS_TOP_PAGE_H
#define SIGNALBUS_TOP_PAGE_H

#include "shm/base.h"

#include <stdio.h>

enum top_style {
  TOP_PLAIN = 0,
  TOP_TITLE, /* of a table */
  TOP_GOOD,
  TOP_WARN,
  TOP_BAD,
  TOP_DIM,
  TOP_BAR,
  TOP_STYLES
};

#define TOP_LINE_BYTES  512u
#define TOP_SPANS_MAX   24u
#define TOP_COLUMNS_MAX 16u

struct top_line {
  char text[TOP_LINE_BYTES]; /* UTF-8, well-formed; no control characters */
  struct {
    uint16_t from; /* bytes */
    uint16_t to;
    uint8_t style; /* enum top_style */
  } spans[TOP_SPANS_MAX];
  uint32_t span_count;
  uint32_t bytes;
  uint32_t columns; /* that `text` takes on a terminal */
};

/* A column of a table. Where a table is wider than the page, columns are left out, the highest
 * `rank` first. */
struct top_column {
  const char *title;
  int width; /* negative: at the left edge, else at the right */
  int rank;  /* 0: never left out */
};

struct top_page {
  int width; /* of a terminal, columns; 0: as wide as it gets */
  struct top_line *lines;
  size_t count;
  size_t room;
  bool failed; /* out of memory: lines are missing */
  /* The table that is being drawn. */
  const struct top_column *table;
  size_t table_columns;
  size_t cell;    /* the next one */
  uint32_t shown; /* bit i: column i */
};

void top_page_free(struct top_page *page);

/* Forgets the lines, keeps the memory. */
void top_page_clear(struct top_page *page, int width);

/* A line of text, one style. */
void top_page_line(struct top_page *page, enum top_style style, const char *format, ...)
    BUS_PRINTF(3, 4);

/* The same, broken at blanks where it is wider than the page. */
void top_page_paragraph(struct top_page *page, const char *text);

/* Begins a table of at most TOP_COLUMNS_MAX columns with its line of titles; `columns` is lent
 * until the next. */
void top_page_table(struct top_page *page, const struct top_column *columns, size_t count);

/* A row of it, then its cells from left to right; the text of a cell of a column that is left out
 * goes nowhere; a text that is too long is cut, a figure (or the last) stands out. */
void top_page_row(struct top_page *page);
void top_page_cell(struct top_page *page, enum top_style style, const char *format, ...)
    BUS_PRINTF(3, 4);

/* Writes all lines as text. */
void top_page_print(const struct top_page *page, FILE *file);

/* Bytes of the first `columns` columns of well-formed UTF-8. Pure. */
size_t top_text_bytes(const char *text, size_t columns);

/* A duration in 3 to 4 digits, "12.3us"; returns `text`. */
char *top_duration(char *text, size_t size, uint64_t duration_ns);

#endif
