/* top_screen.h: the terminal, by ncurses: shows a page, gives keys. One at a time in a process, one
 * thread. Internal to signal-busctl. */
#ifndef SIGNALBUS_TOP_SCREEN_H
#define SIGNALBUS_TOP_SCREEN_H

#include "tools/top_page.h"

enum top_key {
  TOP_KEY_NONE = 0, /* none within the time */
  TOP_KEY_QUIT,
  TOP_KEY_UP,
  TOP_KEY_DOWN,
  TOP_KEY_PAGE_UP,
  TOP_KEY_PAGE_DOWN,
  TOP_KEY_HOME,
  TOP_KEY_END,
  TOP_KEY_SORT,
  TOP_KEY_SPAN,
  TOP_KEY_PAUSE,
  TOP_KEY_HELP,
  TOP_KEY_RESIZE,
  TOP_KEY_OTHER
};

/* Takes the terminal of standard output over. Colours where it has them and $NO_COLOR is not set.
 * Returns BUS_OK, or BUS_ERROR_UNSUPPORTED with a message when $TERM names no terminal that can be
 * addressed. */
int top_screen_open(void);

/* Gives it back as it was. */
void top_screen_close(void);

/* Its size now, characters. */
int top_screen_rows(void);
int top_screen_columns(void);

/* True when it shows Unicode's block elements. */
bool top_screen_has_blocks(void);

/* Lines for the page between the head and the foot. */
int top_screen_body_rows(void);

/* Shows the page from its line `first` on, below `head` and above `foot` where there are at least
 * three rows; cut to the size. */
void top_screen_show(const struct top_page *page, size_t first, const char *head, const char *foot);

/* Waits at most `wait_ms` for a key; TOP_KEY_NONE also when a signal came. TOP_KEY_QUIT when the
 * terminal has gone. */
enum top_key top_screen_key(int wait_ms);

#endif
