/* page.h: the page of `metrics`, tools/web/index.html, as it was when the program was built. */
#ifndef SIGNALBUS_WEB_PAGE_H
#define SIGNALBUS_WEB_PAGE_H

#include <stddef.h>

extern const unsigned char metrics_page[];
extern const size_t metrics_page_bytes;

#endif
