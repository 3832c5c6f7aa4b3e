/* record_rings.h: which rings a recorder follows, and the reading of them. The recorder's business
 * alone; all of it in the poller's thread. */
#ifndef SIGNALBUS_RECORD_RINGS_H
#define SIGNALBUS_RECORD_RINGS_H

#include "consumers/record_member.h"

BUS_BEGIN_DECLARATIONS

/* No ring is followed yet. */
void bus_rings_init(struct bus_recorder *recorder);

/* Reads records from every ring into the staging, up to some hundred of each. Returns how many. */
int bus_rings_poll(struct bus_recorder *recorder, uint64_t now_ns);

/* Attaches what is new, lets go of what is gone and read to its end. Allocates. Returns BUS_OK, or
 * BUS_ERROR_INVALID with a message when a ring holds back for another member. */
int bus_rings_scan(struct bus_recorder *recorder, uint64_t now_ns);

/* Hands the writer what each stream's META blocks say. Allocates. */
void bus_rings_describe(struct bus_recorder *recorder);

/* Lets go of everything. */
void bus_rings_close(struct bus_recorder *recorder);

BUS_END_DECLARATIONS

#endif
