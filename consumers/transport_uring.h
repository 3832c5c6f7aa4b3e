/* transport_uring.h: the transport over io_uring with its choices open, for tests; everybody else
 * calls bus_transport_uring_new. */
#ifndef SIGNALBUS_TRANSPORT_URING_H
#define SIGNALBUS_TRANSPORT_URING_H

#include "consumers/transport.h"

BUS_BEGIN_DECLARATIONS

/* As bus_transport_uring_new. `registered_files` false: as on kernels that are not good at them,
 * see uring_ring.h. */
BUS_EXPORT int bus_transport_uring_new_with(uint32_t connections_max, bool registered_files,
                                            struct bus_transport **transport);

BUS_END_DECLARATIONS

#endif
