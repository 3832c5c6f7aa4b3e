#include "tools/top_screen.h"

#include "shm/error.h"

#include <langinfo.h>
#include <locale.h>
#include <ncurses.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static SCREEN *screen;
static chtype styles[TOP_STYLES];

static void set_styles(bool colours)
{
  static const short foreground[TOP_STYLES] = {[TOP_GOOD] = COLOR_GREEN,
                                               [TOP_WARN] = COLOR_YELLOW,
                                               [TOP_BAD] = COLOR_RED,
                                               [TOP_BAR] = COLOR_CYAN};
  static const chtype attributes[TOP_STYLES] = {
      [TOP_TITLE] = A_BOLD, [TOP_WARN] = A_BOLD, [TOP_BAD] = A_BOLD | A_REVERSE};
  memcpy(styles, attributes, sizeof styles);
  if (!colours)
    return;
  start_color();
  use_default_colors();
  for (int i = 0; i < TOP_STYLES; i++)
    if (foreground[i]) {
      init_pair((short)i, foreground[i], -1);
      styles[i] = (chtype)COLOR_PAIR(i) | (attributes[i] & ~A_REVERSE);
    }
  styles[TOP_TITLE] = A_BOLD;
  styles[TOP_DIM] = A_DIM;
}

int top_screen_open(void)
{
  const char *terminal = getenv("TERM");
  setlocale(LC_CTYPE, ""); /* not more: numbers keep their point */
  screen = newterm(NULL, stdout, stdin);
  if (!screen)
    return bus_error_set(BUS_ERROR_UNSUPPORTED,
                         "the terminal '%s' is not known; set TERM, or take --once or --json",
                         terminal ? terminal : "");
  set_escdelay(25);
  cbreak();
  noecho();
  nonl();
  curs_set(0);
  keypad(stdscr, TRUE);
  nodelay(stdscr, TRUE);
  const char *refused = getenv("NO_COLOR");
  set_styles(has_colors() && !(refused && refused[0]));
  return BUS_OK;
}

void top_screen_close(void)
{
  endwin();
  delscreen(screen);
  screen = NULL;
}

int top_screen_rows(void)
{
  return getmaxy(stdscr);
}

int top_screen_columns(void)
{
  return getmaxx(stdscr);
}

bool top_screen_has_blocks(void)
{
  return !strcmp(nl_langinfo(CODESET), "UTF-8");
}

int top_screen_body_rows(void)
{
  int rows = top_screen_rows();
  return rows >= 3 ? rows - 2 : rows;
}

static void show_text(int row, chtype style, const char *text)
{
  int columns = top_screen_columns();
  attrset((attr_t)style);
  mvaddnstr(row, 0, text, (int)top_text_bytes(text, (size_t)columns));
  if (style & A_REVERSE)
    for (int column = getcurx(stdscr); column < columns && getcury(stdscr) == row; column++)
      addch(' ');
  attrset(A_NORMAL);
}

static void show_line(int row, const struct top_line *line)
{
  size_t end = top_text_bytes(line->text, (size_t)top_screen_columns());
  move(row, 0);
  for (uint32_t i = 0; i < line->span_count && line->spans[i].from < end; i++) {
    size_t to = line->spans[i].to < end ? line->spans[i].to : end;
    attrset((attr_t)styles[line->spans[i].style]);
    addnstr(line->text + line->spans[i].from, (int)(to - line->spans[i].from));
  }
  attrset(A_NORMAL);
}

void top_screen_show(const struct top_page *page, size_t first, const char *head, const char *foot)
{
  int rows = top_screen_rows(), top = rows >= 3, body = top_screen_body_rows();
  erase();
  if (top) {
    show_text(0, A_BOLD, head);
    show_text(rows - 1, A_REVERSE, foot);
  }
  for (int row = 0; row < body && first + (size_t)row < page->count; row++)
    show_line(top + row, &page->lines[first + (size_t)row]);
  refresh();
}

static enum top_key read_key(void)
{
  int key = getch();
  switch (key) {
  case ERR:
    return TOP_KEY_NONE;
  case 'q':
  case 'Q':
    return TOP_KEY_QUIT;
  case KEY_UP:
  case 'k':
    return TOP_KEY_UP;
  case KEY_DOWN:
  case 'j':
    return TOP_KEY_DOWN;
  case KEY_PPAGE:
    return TOP_KEY_PAGE_UP;
  case KEY_NPAGE:
    return TOP_KEY_PAGE_DOWN;
  case KEY_HOME:
    return TOP_KEY_HOME;
  case KEY_END:
    return TOP_KEY_END;
  case 's':
    return TOP_KEY_SORT;
  case 't':
    return TOP_KEY_SPAN;
  case 'p':
  case ' ':
    return TOP_KEY_PAUSE;
  case 'h':
  case '?':
    return TOP_KEY_HELP;
  case KEY_RESIZE:
    return TOP_KEY_RESIZE;
  default:
    return TOP_KEY_OTHER;
  }
}

enum top_key top_screen_key(int wait_ms)
{
  enum top_key key = read_key(); /* what came with an earlier one */
  if (key != TOP_KEY_NONE)
    return key;
  bool typed = isatty(STDIN_FILENO);
  struct pollfd input = {.fd = typed ? STDIN_FILENO : -1, .events = POLLIN};
  int ready = poll(&input, 1, wait_ms);
  key = read_key();
  if (key == TOP_KEY_NONE && ready > 0 && input.revents & (POLLHUP | POLLERR))
    return TOP_KEY_QUIT;
  return key;
}
