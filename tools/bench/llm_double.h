/* llm_double.h: a language-model server without a model, as fast as one process can be: what a
 * gateway's own time is measured against. It answers every POST with the same short event stream
 * (Content-Length, keep-alive), nothing else; it is not a test double: it checks nothing. */
#ifndef TOOLS_BENCH_LLM_DOUBLE_H
#define TOOLS_BENCH_LLM_DOUBLE_H

#include <stdint.h>

/* The text of every answer. */
#define LLM_DOUBLE_TEXT "buy"

/* Listens on 127.0.0.1, any port. Returns the socket and fills *port, or a negative error with a
 * message. */
int llm_double_listen(uint16_t *port);

/* Serves `listener` on this thread until bench_stopped(). Waits in epoll. Returns BUS_OK or a
 * negative error with a message. */
int llm_double_serve(int listener);

#endif
