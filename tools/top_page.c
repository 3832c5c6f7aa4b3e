#include "tools/top_page.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void top_page_free(struct top_page *page)
{
  free(page->lines);
  memset(page, 0, sizeof *page);
}

void top_page_clear(struct top_page *page, int width)
{
  page->width = width;
  page->count = 0;
  page->failed = false;
  page->table = NULL;
}

static bool is_first_byte(char byte)
{
  return ((unsigned char)byte & 0xc0) != 0x80;
}

static size_t columns_of(const char *text)
{
  size_t columns = 0;
  for (; *text; text++)
    columns += is_first_byte(*text);
  return columns;
}

size_t top_text_bytes(const char *text, size_t columns)
{
  size_t bytes = 0;
  for (size_t column = 0; text[bytes]; bytes++)
    if (is_first_byte(text[bytes]) && column++ == columns)
      break;
  return bytes;
}

static struct top_line *new_line(struct top_page *page)
{
  if (page->count == page->room) {
    size_t room = page->room ? 2 * page->room : 64;
    struct top_line *lines = realloc(page->lines, room * sizeof *lines);
    page->failed |= !lines;
    if (!lines)
      return NULL;
    page->lines = lines;
    page->room = room;
  }
  struct top_line *line = &page->lines[page->count++];
  line->text[0] = '\0';
  line->span_count = line->bytes = line->columns = 0;
  return line;
}

/* Appends as much of `text` as there is room for. */
static void append(struct top_line *line, enum top_style style, const char *text, size_t bytes)
{
  size_t room = TOP_LINE_BYTES - 1 - line->bytes;
  if (bytes > room)
    for (bytes = room; bytes > 0 && !is_first_byte(text[bytes]);)
      bytes--;
  memcpy(line->text + line->bytes, text, bytes);
  if (bytes > 0 && line->span_count < TOP_SPANS_MAX) {
    line->spans[line->span_count].from = (uint16_t)line->bytes;
    line->spans[line->span_count].to = (uint16_t)(line->bytes + bytes);
    line->spans[line->span_count++].style = (uint8_t)style;
  }
  line->bytes += (uint32_t)bytes;
  line->text[line->bytes] = '\0';
  line->columns = (uint32_t)columns_of(line->text);
}

static void pad(struct top_line *line, size_t columns)
{
  static const char blanks[] = "                                                                ";
  for (size_t some; columns > 0; columns -= some) {
    some = columns < sizeof blanks - 1 ? columns : sizeof blanks - 1;
    append(line, TOP_PLAIN, blanks, some);
  }
}

void top_page_line(struct top_page *page, enum top_style style, const char *format, ...)
{
  char text[TOP_LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  struct top_line *line = new_line(page);
  if (line)
    append(line, style, text, strlen(text));
}

void top_page_paragraph(struct top_page *page, const char *text)
{
  do {
    size_t bytes = page->width > 0 ? top_text_bytes(text, (size_t)page->width) : strlen(text);
    size_t end = bytes;
    while (text[bytes] && end > 0 && text[end] != ' ')
      end--;
    end = end > 0 ? end : bytes;
    top_page_line(page, TOP_PLAIN, "%.*s", (int)end, text);
    text += end + strspn(text + end, " ");
  } while (*text);
}

static int width_of(const struct top_column *column)
{
  return abs(column->width);
}

/* Leaves out columns until the rest fits. */
static void choose_columns(struct top_page *page)
{
  page->shown = (1u << page->table_columns) - 1;
  for (;;) {
    int width = -1, worst = 0;
    size_t out = 0;
    for (size_t i = 0; i < page->table_columns; i++) {
      if (!(page->shown >> i & 1))
        continue;
      width += width_of(&page->table[i]) + 1;
      if (page->table[i].rank > worst) {
        worst = page->table[i].rank;
        out = i;
      }
    }
    if (page->width == 0 || width <= page->width || worst == 0)
      return;
    page->shown &= ~(1u << out);
  }
}

void top_page_table(struct top_page *page, const struct top_column *columns, size_t count)
{
  page->table = columns;
  page->table_columns = count < TOP_COLUMNS_MAX ? count : TOP_COLUMNS_MAX;
  choose_columns(page);
  top_page_row(page);
  for (size_t i = 0; i < page->table_columns; i++)
    top_page_cell(page, TOP_TITLE, "%s", columns[i].title);
}

void top_page_row(struct top_page *page)
{
  new_line(page);
  page->cell = 0;
}

void top_page_cell(struct top_page *page, enum top_style style, const char *format, ...)
{
  char text[TOP_LINE_BYTES];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  size_t cell = page->cell++;
  if (page->failed || cell >= page->table_columns || !(page->shown >> cell & 1))
    return;
  struct top_line *line = &page->lines[page->count - 1];
  const struct top_column *column = &page->table[cell];
  size_t width = (size_t)width_of(column);
  bool last = page->shown >> (cell + 1) == 0;
  /* Half a number would be another one. */
  bool whole = last || column->width > 0;
  size_t bytes = whole ? strlen(text) : top_text_bytes(text, width);
  text[bytes] = '\0';
  size_t columns = columns_of(text), blank = columns < width ? width - columns : 0;
  if (line->bytes > 0)
    pad(line, 1);
  if (column->width > 0)
    pad(line, blank);
  append(line, style, text, bytes);
  if (column->width < 0 && !last)
    pad(line, blank);
}

void top_page_print(const struct top_page *page, FILE *file)
{
  for (size_t i = 0; i < page->count; i++) {
    const struct top_line *line = &page->lines[i];
    size_t bytes = line->bytes;
    while (bytes > 0 && line->text[bytes - 1] == ' ')
      bytes--;
    fprintf(file, "%.*s\n", (int)bytes, line->text);
  }
}

char *top_duration(char *text, size_t size, uint64_t duration_ns)
{
  static const char *const units[] = {"ns", "us", "ms", "s"};
  double value = (double)duration_ns;
  size_t unit = 0;
  for (; value >= 999.5 && unit < BUS_COUNT_OF(units) - 1; unit++)
    value /= 1000;
  int digits = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  snprintf(text, size, "%.*f%s", digits, value, units[unit]);
  return text;
}
