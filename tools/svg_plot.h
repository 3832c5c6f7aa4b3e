/* svg_plot.h: the plots of the tools, as SVG: percentiles of histograms, and values over time.
 *
 * A picture is a column of panels of SVG_PLOT_WIDTH x SVG_PLOT_HEIGHT, each with its legend at the
 * right. Texts are UTF-8 without control characters; markup in them is escaped. */
#ifndef TOOLS_SVG_PLOT_H
#define TOOLS_SVG_PLOT_H

#include "shm/histogram.h"

#define SVG_PLOT_WIDTH   1200
#define SVG_PLOT_HEIGHT  560
#define SVG_PLOT_COLOURS 8 /* that stay apart for colour-blind readers */

struct svg_plot {
  FILE *file;
  const char *path;
  uint32_t panels; /* written so far */
};

/* Of the next two, `colour` and `dash` are any numbers: they are taken modulo what there is, and
 * dash 0 is a whole line. */
struct svg_curve {
  const char *label;
  uint32_t colour;
  uint32_t dash;
  const struct bus_histogram *histogram; /* of ns; private, and not empty */
};

struct svg_series {
  const char *label;
  uint32_t colour;
  uint32_t dash;
  const double *values; /* >= 0; one for each of `count` equal parts of the time */
};

/* Creates the file and writes its title and `note` (NULL: none) over the first of `panels` panels.
 * Returns BUS_OK, or an error of bus_error_set_errno with the path. One thread. */
int svg_plot_open(struct svg_plot *plot, const char *path, uint32_t panels, const char *title,
                  const char *note);

/* A panel of percentiles: x is 1/(1-p) and y the latency, both on log scales, so that each decade
 * of rarity has the same width and a tail is seen as a tail. */
void svg_plot_percentiles(struct svg_plot *plot, const struct svg_curve *curves, uint32_t count);

/* A panel of values over `seconds` > 0 of time, in `parts` >= 1 parts, from 0 up. */
void svg_plot_series(struct svg_plot *plot, const char *y_title, double seconds, uint32_t parts,
                     const struct svg_series *series, uint32_t count);

/* Ends the file. Returns BUS_OK, or the error that any of the writing met. */
int svg_plot_close(struct svg_plot *plot);

#endif
