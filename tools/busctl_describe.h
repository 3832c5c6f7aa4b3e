/* busctl_describe.h: a member's file as JSON; what `info` prints is made from it, so that the text
 * and the JSON never differ. Strings are sanitised; numbers above 2^63-1 are cut to it. Internal to
 * signal-busctl. */
#ifndef SIGNALBUS_BUSCTL_DESCRIBE_H
#define SIGNALBUS_BUSCTL_DESCRIBE_H

#include "shm/histogram.h"
#include "tools/busctl.h"

#include <jansson.h>

/* Adds `value`, which may be NULL for a failed allocation; running out of memory ends the program.
 */
void busctl_json_set(json_t *object, const char *key, json_t *value);
void busctl_json_append(json_t *array, json_t *value);

/* The same with a string, an integer. */
void busctl_json_string(json_t *object, const char *key, const char *value, size_t size);
void busctl_json_number(json_t *object, const char *key, uint64_t value);
void busctl_json_signed(json_t *object, const char *key, int64_t value);

/* The string ("" if none) and integer (0 if none) at `key`. */
const char *busctl_json_text(const json_t *object, const char *key);
int64_t busctl_json_integer(const json_t *object, const char *key);

/* Adds count and quantiles to `object` and returns it. */
json_t *busctl_describe_quantiles(json_t *object, const struct bus_histogram *histogram);

/* Everything about an attached member: a new object, the caller's. */
json_t *busctl_describe_member(const struct busctl_scan *scan, const struct busctl_file *file);

/* The whole bus, or the member `only` (NULL: all): {"directory", "members": [..], "problems":
 * [..]}. */
json_t *busctl_describe_bus(const struct busctl_scan *scan, const char *only);

/* Writes `object` indented, with a newline. Returns an enum busctl_exit. */
int busctl_json_print(const json_t *object);

#endif
